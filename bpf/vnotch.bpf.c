/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The capture: two programs on the host side of each ENI's interface. What enters there (tc ingress) has left the ENI
 * (egress in AWS's words), and the other way round. Each packet of a captured interface is counted exactly once: in a
 * flow of the active map, or as a record in the ring buffer where that map is full, or as lost where the ring is too.
 *
 * Needs kernel 5.17 or later (bpf_loop); uses nothing that Debian 12's 6.1 lacks. Maps are described at their definitions; those
 * that user space alone uses are created by it (capture/loaded.py).
 */
#include "counting.h"
#include "judge.h"

#define F_MMAPABLE (1 << 10)

#define VERDICT_NEXT (-1)	/* TCX_NEXT, and TC_ACT_UNSPEC: let the next program decide */
#define VERDICT_DROP 2		/* TCX_DROP, TC_ACT_SHOT */

/* The head of the kernel's struct __sk_buff (include/uapi/linux/bpf.h), as far as it is used. */
struct __sk_buff {
	u32 len;
	u32 pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex;
	u32 ifindex;
	u32 tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family, remote_ip4, local_ip4;
	u32 remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len;
	u32 gso_segs;
	u64 sk;
	u32 gso_size;
};
_Static_assert(__builtin_offsetof(struct __sk_buff, gso_size) == 176, "__sk_buff");

static long (*map_delete)(void *map, const void *key) = (void *)3;
static long (*skb_load_bytes)(const void *skb, u32 off, void *to, u32 len) = (void *)26;
static long (*for_each_map_elem)(void *map, void *callback, void *context, u64 flags) = (void *)164;
/* CLOCK_MONOTONIC as of the last timer tick, 1 to 10 ms ago: a quarter of what the exact clock costs. */
static u64 (*ktime_get_coarse_ns)(void) = (void *)160;

/* Set before loading, by tests alone: time is the skb's tstamp. The verifier removes what it leaves unused. */
const volatile u32 test_clock SEC(".rodata") = 0;


/* struct connection; preallocated, swept by vnotch_sweep. */
struct {
	__uint(type, MAP_HASH);
	__uint(max_entries, 65536);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

/* Compiled rules, and by slot where its policy lies | its generation << 32. User space writes both through a mapping: a
 * block is complete before the one store that puts it in force, and is used for another only after a grace period. */
struct {
	__uint(type, MAP_ARRAY);
	__uint(map_flags, F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct arena);
} rules SEC(".maps");

struct {
	__uint(type, MAP_ARRAY);
	__uint(map_flags, F_MMAPABLE);
	__uint(max_entries, MAX_SLOTS);
	__type(key, u32);
	__type(value, u64);
} policies SEC(".maps");

struct flow_map flows_0 SEC(".maps");
struct flow_map flows_1 SEC(".maps");

/* As `add`, for both hooks: they run with softirqs off, so nothing comes in between. */
static __always_inline void add_undisturbed(void *map, u32 index, const struct parsed *p)
{
	struct counter *c = map_lookup(map, &index);

	if (c) {
		c->packets += p->packets;
		c->bytes += p->bytes;
	}
}

static __always_inline int pkt_load(const struct pkt *p, u32 off, void *to, u32 len)
{
	return skb_load_bytes(p->data, off, to, len);
}

static __always_inline void fragment_keep(void *tables, const struct fragment_key *key, const struct fragment_value *value)
{
	if (map_update(&fragments, key, value, UPDATE_ANY))
		count(COUNT_FRAGMENTS_FULL);
}

/* ---- Rules. Functions that the verifier looks at once, by themselves. ----------------------------------------------- */

static __always_inline const u64 *arena_words(void)
{
	u32 zero = 0;
	struct arena *arena = map_lookup(&rules, &zero);

	return arena ? arena->words : 0;
}

__attribute__((noinline)) u64 arena_match(u32 table, u64 high, u64 low, u32 service, u32 v6)
{
	const u64 *words = arena_words();

	return words ? match_table(words, table, high, low, service, v6) : 0;
}

__attribute__((noinline)) u64 arena_open(u32 table, u32 service, u32 v6)
{
	const u64 *words = arena_words();

	return words ? openness(words, table, service_word(words, table, service), service, v6) : 0;
}

__attribute__((noinline)) u32 arena_inside(u32 table, u64 high, u64 low, u32 v6)
{
	const u64 *words = arena_words();

	return words ? address_class(words, table, high, low, v6) : 0;
}

static __always_inline u64 policy_of(void *tables, u32 slot)
{
	u64 *policy = map_lookup(&policies, &slot);

	return policy ? *(volatile u64 *)policy : 0;
}

static __always_inline u64 policy_word(void *tables, u32 at)
{
	const u64 *words = arena_words();

	return words ? words[at & (ARENA_WORDS - 1)] : 0;
}

static __always_inline u64 policy_match(void *tables, u32 table, u64 high, u64 low, u32 service, u32 v6)
{
	return arena_match(table, high, low, service, v6);
}

static __always_inline u64 policy_open(void *tables, u32 table, u32 service, u32 v6)
{
	return arena_open(table, service, v6);
}

static __always_inline u32 policy_inside(void *tables, u32 table, u64 high, u64 low, u32 v6)
{
	return arena_inside(table, high, low, v6);
}

/* `where`: slot << 1 | direction. */
static __attribute__((noinline)) int quote(struct __sk_buff *skb, const struct parsed *error, u32 where, struct connection_key *key)
{
	struct pkt packet = { .data = skb, .cap_len = skb->len, .wire_len = skb->len };
	struct quoted q;

	if (parse_quoted(&packet, error, &q))
		return -1;
	quoted_key_of(key, where >> 1, where & 1, error->v6, &q);
	return 0;
}

static __always_inline int quoted_key(void *tables, const struct parsed *error, u32 slot, u32 dir, struct connection_key *key)
{
	return quote(tables, error, slot << 1 | dir, key);
}

static __always_inline struct connection *connection_find(void *tables, const struct connection_key *key)
{
	return map_lookup(&connections, key);
}

static __always_inline int connection_add(void *tables, const struct connection_key *key, const struct connection *value)
{
	return map_update(&connections, key, value, UPDATE_ANY) != 0;
}

static __always_inline void connection_remove(void *tables, const struct connection_key *key)
{
	map_delete(&connections, key);
}

static __always_inline void connection_refused(void *tables)
{
	count(COUNT_CONNECTIONS_FULL);
}

/*
 * Out of the way of the packets that parse_plain understands; not static, so that the verifier looks at it once and by
 * itself. Returns the number of packets.
 */
__attribute__((noinline)) u32 parse_any(struct __sk_buff *skb, u32 link, struct parsed *out)
{
	struct pkt packet = {
		.data = skb, .cap_len = skb->len, .wire_len = skb->len, .gso_size = skb->gso_size, .gso_segs = skb->gso_segs,
		.link = link ? LINK_NONE : LINK_ETHERNET,
	};
	u32 packets;

	if (!out)
		return 0;
	parse_packet(&packet, out);
	packets = out->packets;
	__asm__ volatile("" : "+r"(packets));	/* the compiler must not know that it is never 0 */
	return packets;
}

/*
 * Enforcement on trial ends here, whether or not there is still a process that would end it: what is dropped may be the
 * very connection by which somebody could.
 */
static __always_inline int enforces(const struct eni *eni, u64 now)
{
	return eni->flags & ENI_ENFORCE && (!eni->enforce_until || (s64)(now - eni->enforce_until) < 0);
}

static __always_inline int capture(struct __sk_buff *skb, u32 dir)
{
	u32 slot = slot_of(skb->ifindex);
	struct pkt packet = {
		.wire_len = skb->len, .gso_size = skb->gso_size, .gso_segs = skb->gso_segs, .link = LINK_ETHERNET,
	};
	struct flow_key key = {};
	struct parsed p;
	struct eni *eni;
	u64 now;
	u8 outcome;

	eni = map_lookup(&enis, &slot);
	if (!eni) {
		count(COUNT_UNKNOWN_INTERFACE);
		return VERDICT_NEXT;
	}
	now = test_clock ? skb->tstamp : ktime_get_coarse_ns();
	if (eni->flags & ENI_NO_LINK_HEADER || parse_plain((const u8 *)(u64)skb->data, (const u8 *)(u64)skb->data_end, &packet, &p)) {
		__builtin_memset(&p, 0, sizeof(p));	/* kernels before 6.3 take no pointer to what was never written */
		if (!parse_any(skb, eni->flags & ENI_NO_LINK_HEADER, &p))
			return VERDICT_NEXT;	/* never: no frame is no packet */
	}
	if (eni->flags & ENI_MAC && dir == DIR_INGRESS) {
		const u8 *frame = (const u8 *)(u64)skb->data;

		if (frame + 6 <= (const u8 *)(u64)skb->data_end)
			mark_flooded(&p, frame, eni);
	}
	add_undisturbed(&seen, slot * 2 + dir, &p);

	outcome = judge(skb, &p, slot, dir, eni, now, &key);
	count_flow(&key, &p, now);
	return is_dropped(outcome, &key) && enforces(eni, now) ? VERDICT_DROP : VERDICT_NEXT;
}

/* Removes connections that are not live; run by user space. A hair's breadth remains: an entry that a packet reopens between
 * the look and the removal is lost with it. */
static long sweep_connection(void *map, const struct connection_key *key, struct connection *value, u64 *now)
{
	if (!is_live(key->proto, value, *now))
		map_delete(map, key);
	return 0;
}

SEC("tc") int vnotch_sweep(struct __sk_buff *skb)
{
	u64 now = test_clock ? skb->tstamp : ktime_get_coarse_ns();

	for_each_map_elem(&connections, sweep_connection, &now, 0);
	return 0;
}

/*
 * Which program hangs at which hook is the sense in which an ENI is seen: from outside, at the host's end of its link, what
 * comes in there has left the ENI; where the device is the ENI itself it is the other way round.
 */
SEC("tc") int vnotch_from_eni(struct __sk_buff *skb)
{
	return capture(skb, DIR_EGRESS);
}

SEC("tc") int vnotch_to_eni(struct __sk_buff *skb)
{
	return capture(skb, DIR_INGRESS);
}

char LICENSE[] SEC("license") = "GPL";
