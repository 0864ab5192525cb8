/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The native build: capture files instead of an interface. The same parser and the same judgement as on the wire
 * (parse.h, judge.h) between a reader of files (capture_file.h) and a flow table (flow_table.h); capture/pcap.py drives it.
 *
 * The driver pushes bytes (capture_read) and acts on what comes back: more bytes are needed, an interface was described
 * and wants its slot, the next packet belongs to a later tick or the table is full and wants to be drained. No packet is
 * lost to a bound: a full table is drained early, in the same tick.
 *
 * Time is the packets'. Ticks begin at multiples of their length since the epoch and only move forward: a packet that is
 * older than the current tick is counted in it, with its own time, and as late.
 */
#include "capture_file.h"
#include "connection_table.h"
#include "flow_table.h"
#include "judge.h"

#define EXPORT __attribute__((visibility("default")))

/* The version of this file's border with capture/native.py. */
#define CAPTURE_ABI 3

/* What capture_read returns beside READ_MORE, READ_INTERFACE and READ_DAMAGED. */
#define CAPTURE_TICK 4	/* drain, if a tick is open, then capture_begin_tick */
#define CAPTURE_FULL 5	/* drain */
#define CAPTURE_DRAINED 6	/* capture_end: all is counted and the file was whole */

/* An ENI's own addresses, for captures that do not say which way a packet went. */
struct local_network {
	union address address;
	union address mask;
	u8 v6;
	u8 pad[7];
};

struct slot_policy {
	struct eni eni;
	struct local_network *local;
	u32 local_count;
};

/* Fragments under way: a set-associative table of a fixed size, so that finding room looks at one set alone. */
#define FRAGMENT_SETS 4096
#define FRAGMENT_WAYS 4
#define FRAGMENT_LIFE_NS 30000000000ull	/* the kernel build's user space removes them after the same 30 s */

struct fragment_entry {
	struct fragment_key key;
	struct fragment_value value;	/* ns 0: free */
};

struct capture {
	struct reader reader;
	struct flow_table table;
	struct connection_table connections;
	const u64 *words;	/* compiled rules and policies: the driver's, which outlive the capture; NULL: none */
	const u64 *rules_of;
	const struct pkt *packet;	/* that is being judged */
	u64 tick_ns;
	u64 tick_start_ns;
	u64 tick_end_ns;	/* 0: no tick is open */
	u8 inside;
	u64 packets;
	u64 bytes;
	u64 malformed;
	u64 late;
	u64 untimed;
	u64 cut;
	u64 fragments_full;
	struct counter seen[MAX_SLOTS][2];
	struct slot_policy policies[MAX_SLOTS];
	struct fragment_entry fragments[FRAGMENT_SETS][FRAGMENT_WAYS];
};

/* What the driver reads; it mirrors this struct. */
struct capture_report {
	u64 offset;
	u64 need;
	u64 damaged_at;
	u64 blocks_skipped;
	u64 packets;
	u64 bytes;
	u64 malformed;
	u64 late;
	u64 untimed;
	u64 cut;
	u64 fragments_full;
	u64 connections_full;
	u64 tick_start_ns;
	u64 tick_open;
	const struct flow *flows;
	u64 flow_count;
	u32 link;
	u32 snaplen;
	u32 section;
	u32 index;
	u32 name_length;
	char name[MAX_NAME];
	char message[160];
};

static __always_inline int pkt_load(const struct pkt *p, u32 off, void *to, u32 len)
{
	if (off > p->cap_len || len > p->cap_len - off)
		return -1;
	memcpy(to, (const u8 *)p->data + off, len);
	return 0;
}

static struct fragment_entry *fragment_set(struct capture *capture, const struct fragment_key *key)
{
	u64 word[5], hash;

	memcpy(word, key, sizeof(word));
	hash = flow_mix(word[0] ^ word[4] ^ capture->table.seed, word[2] ^ 0xe7037ed1a0b428dbull);
	hash ^= flow_mix(word[1] ^ capture->table.seed, word[3] ^ 0x589965cc75374cc3ull);
	return capture->fragments[(hash ^ hash >> 32) % FRAGMENT_SETS];
}

/* Captures may step back in time a little; an entry from the future of `now` is a young one. */
static int fragment_old(const struct fragment_entry *entry, u64 now)
{
	return now > entry->value.ns && now - entry->value.ns > FRAGMENT_LIFE_NS;
}

static __always_inline struct fragment_value *fragment_find(void *tables, const struct fragment_key *key, u64 now)
{
	struct fragment_entry *set = fragment_set(tables, key);
	int i;

	for (i = 0; i < FRAGMENT_WAYS; i++)
		if (set[i].value.ns && !memcmp(&set[i].key, key, sizeof(*key)))
			return fragment_old(&set[i], now) ? NULL : &set[i].value;
	return NULL;
}

static __always_inline void fragment_keep(void *tables, const struct fragment_key *key, const struct fragment_value *value)
{
	struct fragment_entry *set = fragment_set(tables, key), *room = NULL;
	struct capture *capture = tables;
	int i;

	for (i = 0; i < FRAGMENT_WAYS; i++) {
		if (set[i].value.ns && !memcmp(&set[i].key, key, sizeof(*key))) {
			room = &set[i];
			break;
		}
		if (!room && (!set[i].value.ns || fragment_old(&set[i], value->ns)))
			room = &set[i];
	}
	if (!room) {
		capture->fragments_full++;
		return;
	}
	room->key = *key;
	room->value = *value;
	room->value.ns += !value->ns;	/* 1970 began with a free entry's mark */
}

static __always_inline u64 policy_of(void *tables, u32 slot)
{
	const struct capture *capture = tables;

	return capture->rules_of ? capture->rules_of[slot] : 0;
}

static __always_inline u64 policy_word(void *tables, u32 at)
{
	return ((struct capture *)tables)->words[at & (ARENA_WORDS - 1)];
}

static __always_inline u64 policy_match(void *tables, u32 table, u64 high, u64 low, u32 service, u32 v6)
{
	return match_table(((struct capture *)tables)->words, table, high, low, service, v6);
}

static __always_inline u64 policy_open(void *tables, u32 table, u32 service, u32 v6)
{
	const u64 *words = ((struct capture *)tables)->words;

	return openness(words, table, service_word(words, table, service), service, v6);
}

static __always_inline u32 policy_inside(void *tables, u32 table, u64 high, u64 low, u32 v6)
{
	return address_class(((struct capture *)tables)->words, table, high, low, v6);
}

static __always_inline struct connection *connection_find(void *tables, const struct connection_key *key)
{
	return connection_table_find(&((struct capture *)tables)->connections, key);
}

static __always_inline int connection_add(void *tables, const struct connection_key *key, const struct connection *value)
{
	return connection_table_add(&((struct capture *)tables)->connections, key, value);
}

static __always_inline void connection_remove(void *tables, const struct connection_key *key)
{
	connection_table_remove(&((struct capture *)tables)->connections, key);
}

static __always_inline void connection_refused(void *tables)
{
	((struct capture *)tables)->connections.refused++;
}

static __always_inline int quoted_key(void *tables, const struct parsed *error, u32 slot, u32 dir, struct connection_key *key)
{
	struct quoted q;

	if (parse_quoted(((struct capture *)tables)->packet, error, &q))
		return -1;
	quoted_key_of(key, slot, dir, error->v6, &q);
	return 0;
}

static int is_local(const struct slot_policy *policy, const struct parsed *p)
{
	u32 i;

	if (p->exclusion && p->exclusion != EXCL_NEIGHBOUR_DISCOVERY)
		return 0; /* without an address */
	for (i = 0; i < policy->local_count; i++) {
		const struct local_network *network = &policy->local[i];

		if (network->v6 == p->v6 && !(((p->src.half[0] ^ network->address.half[0]) & network->mask.half[0]) |
					      ((p->src.half[1] ^ network->address.half[1]) & network->mask.half[1])))
			return 1;
	}
	return 0;
}

/* The bytes to parse, and what a cooked header says of the direction. Returns FLAG_*. */
static u8 unwrap(const struct captured_packet *captured, u32 link, struct pkt *packet, u8 *group)
{
	static const u8 direction[5] = { FLAG_INBOUND, FLAG_INBOUND, FLAG_INBOUND, FLAG_UNKNOWN, FLAG_OUTBOUND };
	u32 header = link == LINKTYPE_LINUX_SLL ? 16 : 20, type;
	const u8 *data = captured->data;

	packet->data = data;
	packet->cap_len = captured->length;
	packet->wire_len = captured->wire_length;
	packet->link = LINK_NONE;
	*group = 0;
	switch (link) {
	case LINKTYPE_ETHERNET:
		packet->link = LINK_ETHERNET;
		return FLAG_UNKNOWN;
	case LINKTYPE_IPV4:
		packet->link = LINK_TYPED;
		packet->type = 0x0800;
		return FLAG_UNKNOWN;
	case LINKTYPE_IPV6:
		packet->link = LINK_TYPED;
		packet->type = 0x86dd;
		return FLAG_UNKNOWN;
	case LINKTYPE_LINUX_SLL:
	case LINKTYPE_LINUX_SLL2:
		break;
	default:
		return FLAG_UNKNOWN;
	}
	packet->link = LINK_TYPED;
	if (captured->length < header) {
		packet->cap_len = 0; /* nothing can be loaded: malformed */
		packet->type = 0x0800;
		return FLAG_UNKNOWN;
	}
	if (link == LINKTYPE_LINUX_SLL) {
		type = be16(data);
		packet->type = be16(data + 14);
	} else {
		type = data[10];
		packet->type = be16(data);
	}
	packet->data = data + header;
	packet->cap_len -= header;
	packet->wire_len -= header;
	*group = type == 1 || type == 2;
	return type < 5 ? direction[type] : FLAG_UNKNOWN;
}

/* Judges the packet that the reader found and puts it into the table's batch, which has room. */
static void count_packet(struct capture *capture)
{
	const struct captured_packet *captured = &capture->reader.packet;
	const struct captured_interface *interface = &capture->reader.interfaces[captured->interface];
	const struct slot_policy *policy = &capture->policies[interface->slot];
	struct flow_update *update = flow_table_next(&capture->table);
	struct pkt packet = { 0 };
	struct parsed p;
	u8 flag, group, dir;

	flag = unwrap(captured, interface->link, &packet, &group);
	parse_packet(&packet, &p);
	p.group |= group;
	if (captured->flag != FLAG_UNKNOWN)
		flag = captured->flag;
	if (flag == FLAG_INBOUND || flag == FLAG_OUTBOUND)
		/* Into the host's side of an interface is out of the ENI. */
		dir = (flag == FLAG_INBOUND) != (capture->inside || policy->eni.flags & ENI_INSIDE) ? DIR_EGRESS : DIR_INGRESS;
	else
		dir = is_local(policy, &p) ? DIR_EGRESS : DIR_INGRESS;

	if (policy->eni.flags & ENI_MAC && dir == DIR_INGRESS && packet.link == LINK_ETHERNET && packet.cap_len >= 6)
		mark_flooded(&p, packet.data, &policy->eni);
	memset(&update->key, 0, sizeof(update->key));
	capture->packet = &packet;
	judge(capture, &p, interface->slot, dir, &policy->eni, captured->ns, &update->key);
	update->bytes = p.bytes;
	update->ns = captured->ns;
	update->tcp_flags = p.tcp_flags;
	flow_table_push(&capture->table);

	capture->packets++;
	capture->bytes += p.bytes;
	capture->seen[interface->slot][dir].packets++;
	capture->seen[interface->slot][dir].bytes += p.bytes;
	capture->late += captured->ns < capture->tick_start_ns;
	capture->untimed += !captured->timed;
	if (p.exclusion == EXCL_MALFORMED) {
		capture->malformed++;
		capture->cut += captured->length < captured->wire_length;
	}
}

EXPORT u32 capture_abi(void)
{
	return CAPTURE_ABI;
}

EXPORT void capture_sizes(u32 sizes[5])
{
	sizes[0] = sizeof(struct eni);
	sizes[1] = sizeof(struct local_network);
	sizes[2] = sizeof(struct capture_report);
	sizes[3] = sizeof(struct parsed);
	sizes[4] = sizeof(struct flow);
}

EXPORT void capture_close(struct capture *capture)
{
	u32 slot;

	if (!capture)
		return;
	for (slot = 0; slot < MAX_SLOTS; slot++)
		free(capture->policies[slot].local);
	free(capture->reader.interfaces);
	flow_table_close(&capture->table);
	connection_table_close(&capture->connections);
	free(capture);
}

/* NULL: no memory. `inside`: the capture was taken at the ENI and not on the host's side of it. */
EXPORT struct capture *capture_open(u64 tick_ns, u32 max_flows, u64 seed, u32 inside, u32 connections)
{
	struct capture *capture = calloc(1, sizeof(*capture));

	if (!capture)
		return NULL;
	capture->tick_ns = tick_ns;
	capture->inside = !!inside;
	if (flow_table_open(&capture->table, max_flows, seed) ||
	    connection_table_open(&capture->connections, connections, seed)) {
		capture_close(capture);
		return NULL;
	}
	return capture;
}

/*
 * Counts packets from `data`, whose first byte is the file's byte `offset` (capture_report), until something comes up:
 * READ_MORE, READ_INTERFACE, READ_DAMAGED, CAPTURE_TICK, CAPTURE_FULL.
 */
EXPORT u32 capture_read(struct capture *capture, const u8 *data, u64 length)
{
	struct reader *reader = &capture->reader;
	u64 start = reader->offset;

	for (;;) {
		int found;

		if (capture->table.pending == FLOW_BATCH && !flow_table_flush(&capture->table))
			return CAPTURE_FULL;
		found = reader_next(reader, data + (reader->offset - start), length - (reader->offset - start));
		if (found != READ_PACKET)
			return found;
		if (reader->packet.ns >= capture->tick_end_ns)
			return flow_table_flush(&capture->table) ? CAPTURE_TICK : CAPTURE_FULL;
		count_packet(capture);
		reader_skip(reader);
	}
}

/* After CAPTURE_TICK and the draining: opens the tick of the packet that comes next. */
EXPORT void capture_begin_tick(struct capture *capture)
{
	u64 ns = capture->reader.packet.ns;

	capture->tick_start_ns = ns - ns % capture->tick_ns;
	capture->tick_end_ns = capture->tick_start_ns + capture->tick_ns;
	connection_table_sweep(&capture->connections, ns);
}

/* ARENA_WORDS words of compiled rules and MAX_SLOTS policies (capture/policy.py), which stay the caller's. */
EXPORT void capture_set_rules(struct capture *capture, const u64 *words, const u64 *policies)
{
	capture->words = words;
	capture->rules_of = policies;
}

/* The flows were copied: forget them. */
EXPORT void capture_drained(struct capture *capture)
{
	flow_table_empty(&capture->table);
}

/*
 * The file has ended, with `left` bytes that capture_read did not take. CAPTURE_FULL: drain and call again;
 * READ_DAMAGED: it was cut; CAPTURE_DRAINED: it was whole. In both cases the table holds what remains.
 */
EXPORT u32 capture_end(struct capture *capture, u64 left)
{
	if (!flow_table_flush(&capture->table))
		return CAPTURE_FULL;
	return reader_end(&capture->reader, left) == READ_MORE ? CAPTURE_DRAINED : READ_DAMAGED;
}

/* Says which slot the interface described last is, and that slot's policy. 0, or -1: no memory. */
EXPORT s32 capture_set_slot(struct capture *capture, u16 slot, const struct eni *eni, const struct local_network *local,
			    u32 local_count)
{
	struct slot_policy *policy;

	if (slot >= MAX_SLOTS || !capture->reader.interface_count)
		return -1;
	policy = &capture->policies[slot];
	capture->reader.interfaces[capture->reader.described].slot = slot;
	policy->eni = *eni;
	free(policy->local);
	policy->local = NULL;
	policy->local_count = 0;
	if (local_count) {
		policy->local = malloc(local_count * sizeof(*local));
		if (!policy->local)
			return -1;
		memcpy(policy->local, local, local_count * sizeof(*local));
		policy->local_count = local_count;
	}
	return 0;
}

EXPORT void capture_look(const struct capture *capture, struct capture_report *report)
{
	const struct reader *reader = &capture->reader;

	memset(report, 0, sizeof(*report));
	report->offset = reader->offset;
	report->need = reader->need;
	report->damaged_at = reader->damaged_at;
	report->blocks_skipped = reader->blocks_skipped;
	report->packets = capture->packets;
	report->bytes = capture->bytes;
	report->malformed = capture->malformed;
	report->late = capture->late;
	report->untimed = capture->untimed;
	report->cut = capture->cut;
	report->fragments_full = capture->fragments_full;
	report->connections_full = capture->connections.refused;
	report->tick_start_ns = capture->tick_start_ns;
	report->tick_open = capture->tick_end_ns != 0;
	report->flows = capture->table.flows;
	report->flow_count = capture->table.count;
	memcpy(report->message, reader->message, sizeof(report->message));
	if (reader->interface_count) {
		const struct captured_interface *interface = &reader->interfaces[reader->described];

		report->link = interface->link;
		report->snaplen = interface->snaplen;
		report->section = interface->section;
		report->index = interface->index;
		report->name_length = interface->name_length;
		memcpy(report->name, interface->name, sizeof(report->name));
	}
}

/* MAX_SLOTS pairs of counters, by Direction. */
EXPORT const struct counter *capture_seen(const struct capture *capture)
{
	return capture->seen[0];
}

/* ---- For tests: one packet ----------------------------------------------------------------------------------------- */

/*
 * Parses one packet of a link type into `out` (its size in bytes is returned); `out->exclusion` is then that of the
 * packet at an ENI with `eni`.
 */
EXPORT u32 capture_parse(u32 link, const u8 *data, u32 length, u32 wire_length, u32 gso_size, u16 gso_segs,
			 const struct eni *eni, struct parsed *out)
{
	struct captured_packet captured = { .data = data, .length = length, .wire_length = wire_length };
	struct pkt packet = { 0 };
	u8 group;

	unwrap(&captured, link, &packet, &group);
	packet.gso_size = gso_size;
	packet.gso_segs = gso_segs;
	parse_packet(&packet, out);
	out->group |= group;
	out->exclusion = packet_exclusion(out, eni);
	return sizeof(*out);
}
