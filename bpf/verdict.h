/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The verdict: security groups with their connections, and network ACLs. The semantics are those of src/vnotch/verdict.py,
 * which is the specification; both are held against the same cases (tests/verdict).
 *
 * Rules are not walked: capture/policy.py compiles them into tables of 64-bit words, which lie in one arena. An address and
 * a service (protocol and port, or ICMP type and code) are each found by binary search among sorted intervals; each
 * interval has a class, each class a bitmap of the rules that cover it, in the order of precedence; the first bit that both
 * have is the rule. A bitmap begins with a summary, a bit for each of its words that is not zero, so that of many words those
 * alone are looked at that can have it. Offsets inside a block are relative to it, so that a block can lie anywhere.
 *
 *     policy   word 0: flags (POLICY_*); 1: group tables, ingress | egress << 32; 2: ACL tables, likewise; 3: the table that
 *              tells inside from outside of the subnet
 *     table    word 0: IPv4 intervals, at | count << 32; 1: IPv6, likewise; 2: services, likewise; 3: words of a bitmap, with its summary;
 *              4: bitmaps of address classes | of service classes << 32; 5: rules; 6: number of the default | TABLE_* << 32
 *     interval IPv4: class | first address << 32; IPv6: three words, first address and class;
 *              service: class | SERVICE_* << 16 | first service << 32
 *     rule     number | RULE_ALLOW << 32
 */
#ifndef VNOTCH_VERDICT_H
#define VNOTCH_VERDICT_H

#include "parse.h"

/* What a match says: the rule's number below, these above. */
#define MATCH_FOUND (1ULL << 32)
#define MATCH_ALLOW (1ULL << 33)
#define MATCH_OPEN (1ULL << 34)	/* a rule for all addresses covers the service */
#define MATCH_ALL_OPEN (1ULL << 35)	/* a rule for all addresses covers all ports of the protocol */

#define SEARCH_STEPS 17

/* The last of `count` intervals, of one word each, that begins at or before the key, of 32 bits. */
static __always_inline u32 search_word(const u64 *words, u32 at, u32 count, u64 key)
{
	u32 half, i;

	for (i = 0; i < SEARCH_STEPS && count > 1; i++) {
		half = count / 2;
		/* Arithmetic, since BPF would make a branch of a comparison, which is mispredicted half of the time. */
		at += half & ((s64)((words[(at + half) & (ARENA_WORDS - 1)] >> 32) - key - 1) >> 63);
		count -= half;
	}
	return at;
}

static __always_inline u32 search_address(const u64 *words, u32 at, u32 count, u64 high, u64 low)
{
	u32 base = 0, half, place, i;
	u64 h, l;

	for (i = 0; i < SEARCH_STEPS && count > 1; i++) {
		half = count / 2;
		place = at + (base + half) * 3;
		h = words[place & (ARENA_WORDS - 1)];
		l = words[(place + 1) & (ARENA_WORDS - 1)];
		base += half * ((h < high) | ((h == high) & (l <= low)));
		count -= half;
	}
	return at + base * 3;
}

static __always_inline u32 address_class(const u64 *words, u32 table, u64 high, u64 low, u32 v6)
{
	u64 where = words[(table + !!v6) & (ARENA_WORDS - 1)];

	if (v6)
		return words[(search_address(words, table + (u32)where, where >> 32, high, low) + 2) & (ARENA_WORDS - 1)];
	return words[search_word(words, table + (u32)where, where >> 32, high) & (ARENA_WORDS - 1)] & 0xffffff;
}

static __always_inline u64 service_word(const u64 *words, u32 table, u32 service)
{
	u64 where = words[(table + 2) & (ARENA_WORDS - 1)];

	return words[search_word(words, table + (u32)where, where >> 32, service) & (ARENA_WORDS - 1)];
}

/* MATCH_OPEN and MATCH_ALL_OPEN of a service. */
static __always_inline u64 openness(const u64 *words, u32 table, u64 word, u32 service, u32 v6)
{
	u32 proto = service >> 16, flags = words[(table + 6) & (ARENA_WORDS - 1)] >> 32, bit;
	u64 found = 0;

	if (proto != PROTO_TCP && proto != PROTO_UDP)
		return 0;
	if (word >> 16 & (v6 ? SERVICE_OPEN_V6 : SERVICE_OPEN_V4))
		found |= MATCH_OPEN;
	bit = proto == PROTO_TCP ? (v6 ? TABLE_TCP_V6 : TABLE_TCP_V4) : (v6 ? TABLE_UDP_V6 : TABLE_UDP_V4);
	if (flags & bit)
		found |= MATCH_ALL_OPEN;
	return found;
}

/*
 * The place of the lowest bit that is set: how many are below it, counted by fields of 2, 4 and 8 bits, since BPF has no
 * instruction for it. Without a branch, or the verifier would walk each way through the loop round it, once for each place:
 * nearly the million steps that it has, and two seconds of every start.
 */
static __always_inline u32 lowest_bit(u64 bits)
{
	u64 below = (bits & -bits) - 1;

	__asm__ volatile("" : "+r"(below));	/* else the compiler makes a table of it, beside test_clock */
	below -= below >> 1 & 0x5555555555555555ULL;
	below = (below & 0x3333333333333333ULL) + (below >> 2 & 0x3333333333333333ULL);
	below = (below + (below >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return below * 0x0101010101010101ULL >> 56;
}

/* The address is `high` and `low` of IPv6, or `high` alone of IPv4, in host order. */
static __always_inline u64 match_table(const u64 *words, u32 table, u64 high, u64 low, u32 service, u32 v6)
{
	u64 word = service_word(words, table, service), maps = words[(table + 4) & (ARENA_WORDS - 1)], both = 0;
	u64 result = openness(words, table, word, service, v6);
	u32 width = words[(table + 3) & (ARENA_WORDS - 1)], at = 0, i;
	u32 a = table + (u32)maps + address_class(words, table, high, low, v6) * width;
	u32 b = table + (u32)(maps >> 32) + (u32)(word & 0xffff) * width;
	u32 rules = table + (u32)words[(table + 5) & (ARENA_WORDS - 1)];
	u64 summary = words[a & (ARENA_WORDS - 1)] & words[b & (ARENA_WORDS - 1)];

	for (i = 0; i < BITMAP_WORDS && summary; i++) {
		at = lowest_bit(summary);
		both = words[(a + 1 + at) & (ARENA_WORDS - 1)] & words[(b + 1 + at) & (ARENA_WORDS - 1)];
		if (both)
			break;
		summary &= summary - 1;
	}
	if (!both)
		return result | (u32)words[(table + 6) & (ARENA_WORDS - 1)];
	word = words[(rules + at * 64 + lowest_bit(both)) & (ARENA_WORDS - 1)];
	return result | MATCH_FOUND | (word >> 32 & RULE_ALLOW ? MATCH_ALLOW : 0) | (u32)word;
}

/* ---- What the build that includes this file provides --------------------------------------------------------------- */

/* The policy block's place | generation << 32; 0: no rules were given. */
static __always_inline u64 policy_of(void *tables, u32 slot);
static __always_inline u64 policy_word(void *tables, u32 at);
static __always_inline u64 policy_match(void *tables, u32 table, u64 high, u64 low, u32 service, u32 v6);
static __always_inline u64 policy_open(void *tables, u32 table, u32 service, u32 v6);
static __always_inline u32 policy_inside(void *tables, u32 table, u64 high, u64 low, u32 v6);

static __always_inline struct connection *connection_find(void *tables, const struct connection_key *key);
/* Returns 0, or something else where there is no room. */
static __always_inline int connection_add(void *tables, const struct connection_key *key, const struct connection *value);
static __always_inline void connection_remove(void *tables, const struct connection_key *key);
static __always_inline void connection_refused(void *tables);
/* Of what an ICMP error that goes in `dir` is about; returns 0, or something else where that is not known. */
static __always_inline int quoted_key(void *tables, const struct parsed *error, u32 slot, u32 dir, struct connection_key *key);

/* ---- Connections (connections.py) ---------------------------------------------------------------------------------- */

#define SECOND_NS 1000000000ULL

static __always_inline int has_ports(u8 proto)
{
	return proto == PROTO_TCP || proto == PROTO_UDP;
}

static __always_inline int is_icmp(u8 proto)
{
	return proto == PROTO_ICMP || proto == PROTO_ICMPV6;
}

/* A later fragment of a protocol that is judged by what its first fragment alone has. */
static __always_inline int lacks_ports(const struct parsed *p)
{
	return p->fragment == FRAGMENT_LATER && (has_ports(p->proto) || is_icmp(p->proto));
}

static __always_inline u32 service_of(const struct parsed *p)
{
	u32 service = (u32)p->proto << 16;

	if (lacks_ports(p))
		return SERVICE_PORTLESS | service;
	if (has_ports(p->proto))
		return service | p->dport;
	return is_icmp(p->proto) ? service | (u32)p->icmp_type << 8 | p->icmp_code : service;
}

static __always_inline u64 timeout_ns(u8 proto, u8 state)
{
	if (proto == PROTO_TCP) {
		if (state == TCP_ESTABLISHED)
			return 432000 * SECOND_NS;
		if (state == TCP_CLOSED)
			return 10 * SECOND_NS;
		return (state >= TCP_CLOSING_BY_OPENER ? 120 : 60) * SECOND_NS;
	}
	if (proto == PROTO_UDP)
		return (state == UDP_STREAM ? 180 : 30) * SECOND_NS;
	return (is_icmp(proto) ? 30 : 600) * SECOND_NS;
}

static __always_inline int is_live(u8 proto, const struct connection *c, u64 now)
{
	return (s64)(now - c->last_ns) <= (s64)timeout_ns(proto, c->state);
}

static __always_inline void copy_address(u8 *to, const union address *from)
{
	((u64 *)to)[0] = from->half[0];
	((u64 *)to)[1] = from->half[1];
}

/* For a packet that goes in `dir` and is no ICMP but a request or a reply. */
static __always_inline void connection_key_of(struct connection_key *key, u32 slot, u32 dir, const struct parsed *p)
{
	u32 out = dir == DIR_EGRESS;

	copy_address(key->local, out ? &p->src : &p->dst);
	copy_address(key->remote, out ? &p->dst : &p->src);
	key->slot = slot;
	key->proto = p->proto;
	key->v6 = p->v6;
	if (has_ports(p->proto)) {
		key->local_port = out ? p->sport : p->dport;
		key->remote_port = out ? p->dport : p->sport;
	} else if (p->icmp != ICMP_NONE) {
		key->local_port = p->icmp_id;
		key->remote_port = p->icmp_kind + ((p->icmp == ICMP_REQUEST) == out ? 256 : 0);
	} else {
		key->local_port = key->remote_port = 0;
	}
}

/* For the packet that an ICMP error that goes in `dir` quotes: it went the other way. */
static __always_inline void quoted_key_of(struct connection_key *key, u32 slot, u32 dir, u8 v6, const struct quoted *q)
{
	u32 out = dir == DIR_INGRESS;

	copy_address(key->local, out ? &q->src : &q->dst);
	copy_address(key->remote, out ? &q->dst : &q->src);
	key->slot = slot;
	key->proto = q->proto;
	key->v6 = v6;
	if (q->icmp != ICMP_NONE) {
		key->local_port = q->sport;
		key->remote_port = q->icmp_kind + ((q->icmp == ICMP_REQUEST) == out ? 256 : 0);
	} else {
		key->local_port = out ? q->sport : q->dport;
		key->remote_port = out ? q->dport : q->sport;
	}
}

static __always_inline u8 next_tcp_state(u8 state, u8 flags, u32 by_answerer)
{
	if (flags & 0x04)
		return TCP_CLOSED;
	if (flags & 0x01) {
		if (state <= TCP_ESTABLISHED)
			return by_answerer ? TCP_CLOSING_BY_ANSWERER : TCP_CLOSING_BY_OPENER;
		return by_answerer == (state == TCP_CLOSING_BY_ANSWERER) ? state : TCP_CLOSED;
	}
	if (state == TCP_OPENING && by_answerer)
		return TCP_ANSWERED;
	if (state == TCP_ANSWERED && !by_answerer && (flags & 0x12) != 0x02)
		return TCP_ESTABLISHED;
	return state;
}

static __always_inline void connection_advance(struct connection *c, const struct parsed *p, u32 dir, u64 now)
{
	u32 by_answerer = dir != c->opened_by;

	if (p->proto == PROTO_TCP) {
		if (c->state == TCP_CLOSED)
			return;	/* the time runs from the close */
		/* Nearly all packets belong to an established connection and change nothing of it. */
		if (c->state != TCP_ESTABLISHED || p->tcp_raw & 0x05)
			c->state = next_tcp_state(c->state, p->tcp_raw, by_answerer);
	} else if (p->proto == PROTO_UDP && c->state < UDP_STREAM && by_answerer == !(c->state & 1)) {
		c->state++;
	}
	if ((s64)(now - c->last_ns) > 0)
		c->last_ns = now;
}

/* ---- The decision (verdict.py) ------------------------------------------------------------------------------------- */

/* What a packet does to the table of connections if both layers let it pass. */
#define USE_NOTHING 0
#define USE_ADVANCE 1
#define USE_OPEN 2
#define USE_REMOVE 3

static __always_inline u32 by_direction(u64 pair, u32 dir)
{
	return dir == DIR_EGRESS ? (u32)(pair >> 32) : (u32)pair;
}

static __always_inline u8 decide(void *tables, const struct parsed *p, u32 slot, u32 dir, u32 eni_flags, u64 now, u64 policy,
				 u32 *rule)
{
	u32 block = (u32)policy, generation = policy >> 32, flags = policy_word(tables, block), groups_rule = 0, acl_rule = 0;
	const union address *remote = dir == DIR_EGRESS ? &p->dst : &p->src;
	u8 refused = 0, allowed = 1, use = USE_NOTHING, keyed;
	struct connection *entry = 0, *live = 0;
	struct connection_key key;
	u64 high, low = 0, found;

	if (p->v6) {
		high = __builtin_bswap64(remote->half[0]);
		low = __builtin_bswap64(remote->half[1]);
	} else {
		high = __builtin_bswap32(remote->word[0]);
	}
	if (flags & POLICY_GROUPS) {
		keyed = !lacks_ports(p) && p->icmp < ICMP_ERROR;
		if (keyed) {
			connection_key_of(&key, slot, dir, p);
			entry = connection_find(tables, &key);
			if (entry && is_live(p->proto, entry, now) &&
			    !(p->proto == PROTO_TCP && p->opens && entry->state >= TCP_ESTABLISHED))
				live = entry;
		} else if (p->icmp == ICMP_ERROR && !quoted_key(tables, p, slot, dir, &key)) {
			entry = connection_find(tables, &key);
			if (entry && is_live(key.proto, entry, now))
				groups_rule = entry->rule | RULE_TRACKED;
		}
		if (live) {
			groups_rule = live->rule | (dir == live->opened_by ? 0 : RULE_TRACKED);
			use = USE_ADVANCE;
		} else if (!groups_rule) {
			u64 pair = policy_word(tables, block + 1);

			found = policy_match(tables, by_direction(pair, dir), high, low, service_of(p), p->v6);
			groups_rule = (u32)found;
			refused = !(found & MATCH_FOUND);
			if (!refused && keyed && p->icmp != ICMP_REPLY) {
				u64 back = 0;

				use = USE_OPEN;
				if (has_ports(p->proto) && !(flags & POLICY_TRACK_ALWAYS) && found & (MATCH_OPEN | MATCH_ALL_OPEN))
					back = policy_open(tables, by_direction(pair, !dir), (u32)p->proto << 16 | p->sport, p->v6);
				if ((found & MATCH_OPEN && back & MATCH_ALL_OPEN) || (found & MATCH_ALL_OPEN && back & MATCH_OPEN)) {
					use = p->proto == PROTO_TCP && p->opens && entry ? USE_REMOVE : USE_NOTHING;
				} else if (p->proto == PROTO_TCP && !p->opens && (!(eni_flags & ENI_ADOPT) || p->tcp_raw & 0x04)) {
					refused = 1;
					groups_rule |= RULE_TRACKED;
				}
			}
		}
	}
	if (flags & POLICY_ACL) {
		u32 way = dir & 1;

		if (live && !is_icmp(p->proto) && live->acl_generation[way] == generation) {
			acl_rule = live->acl_rule[way] & ~ACL_DENIES;
			allowed = !(live->acl_rule[way] & ACL_DENIES);
		} else {
			if (!policy_inside(tables, (u32)policy_word(tables, block + 3), high, low, p->v6)) {
				found = policy_match(tables, by_direction(policy_word(tables, block + 2), dir), high, low,
						     service_of(p), p->v6);
				acl_rule = (u32)found;
				allowed = (found & MATCH_ALLOW) != 0;
			}
			if (live && !is_icmp(p->proto)) {
				live->acl_rule[way] = acl_rule | (allowed ? 0 : ACL_DENIES);
				live->acl_generation[way] = generation;
			}
		}
	}
	/* The layer that is asked first names a refusal. */
	if (refused && (allowed || dir == DIR_EGRESS)) {
		*rule = groups_rule;
		return OUT_REJECT;
	}
	if (!allowed) {
		*rule = acl_rule;
		return OUT_REJECT;
	}
	*rule = groups_rule ? groups_rule : acl_rule ? acl_rule : RULE_DEFAULT;
	if (live) {
		connection_advance(live, p, dir, now);
	} else if (use == USE_REMOVE) {
		connection_remove(tables, &key);
	} else if (use == USE_OPEN) {
		struct connection fresh = { .last_ns = now, .rule = groups_rule, .opened_by = dir };

		if (entry) {
			*entry = fresh;
		} else if (connection_add(tables, &key, &fresh)) {
			connection_refused(tables);
			*rule = RULE_TABLE_FULL;
			return OUT_REJECT;
		}
	}
	return OUT_ACCEPT;
}

#endif
