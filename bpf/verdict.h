/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The verdict: security groups with their connections, and network ACLs. The semantics are those of src/vnotch/verdict.py,
 * which is the specification; both are held against the same cases (tests/verdict).
 *
 * Rules are not walked: capture/policy.py compiles them into tables of 64-bit words, which lie in one arena. An address and
 * a service (protocol and port, or ICMP type and code) are each found by binary search among sorted intervals; each
 * interval has a class, each class a bitmap of the rules that cover it, in the order of precedence; the first bit that both
 * have is the rule. Offsets inside a block are relative to it, so that a block can lie anywhere.
 *
 *     policy   word 0: flags (POLICY_*); 1: group tables, ingress | egress << 32; 2: ACL tables, likewise; 3: the table that
 *              tells inside from outside of the subnet
 *     table    word 0: IPv4 intervals, at | count << 32; 1: IPv6, likewise; 2: services, likewise; 3: words of a bitmap;
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

/* The last of `count` intervals, `stride` words each, that begins at or before the key. */
static __always_inline u32 search_word(const u64 *words, u32 at, u32 count, u64 key)
{
	u32 base = 0, half, i;

	for (i = 0; i < SEARCH_STEPS && count > 1; i++) {
		half = count / 2;
		/* Without a branch, since a branch would be mispredicted half of the time. */
		base += half * (words[(at + base + half) & (ARENA_WORDS - 1)] <= key);
		count -= half;
	}
	return at + base;
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
	return words[search_word(words, table + (u32)where, where >> 32, high << 32 | 0xffffffff) & (ARENA_WORDS - 1)] & 0xffffff;
}

static __always_inline u64 service_word(const u64 *words, u32 table, u32 service)
{
	u64 where = words[(table + 2) & (ARENA_WORDS - 1)];

	return words[search_word(words, table + (u32)where, where >> 32, (u64)service << 32 | 0xffffffff) & (ARENA_WORDS - 1)];
}

/* MATCH_OPEN and MATCH_ALL_OPEN of a service. */
static __always_inline u64 openness(const u64 *words, u32 table, u64 word, u32 service, u32 v6)
{
	u32 proto = service >> 16, flags = words[(table + 6) & (ARENA_WORDS - 1)] >> 32, bit;
	u64 found = 0;

	if (proto != PROTO_TCP && proto != PROTO_UDP)
		return 0;
	if (word & (v6 ? SERVICE_OPEN_V6 : SERVICE_OPEN_V4))
		found |= MATCH_OPEN;
	bit = proto == PROTO_TCP ? (v6 ? TABLE_TCP_V6 : TABLE_TCP_V4) : (v6 ? TABLE_UDP_V6 : TABLE_UDP_V4);
	if (flags & bit)
		found |= MATCH_ALL_OPEN;
	return found;
}

/* The address is `high` and `low` of IPv6, or `high` alone of IPv4, in host order. */
static __always_inline u64 match_table(const u64 *words, u32 table, u64 high, u64 low, u32 service, u32 v6)
{
	u64 word = service_word(words, table, service), maps = words[(table + 4) & (ARENA_WORDS - 1)], both = 0;
	u64 result = openness(words, table, word, service, v6);
	u32 width = words[(table + 3) & (ARENA_WORDS - 1)], i;
	u32 a = table + (u32)maps + address_class(words, table, high, low, v6) * width;
	u32 b = table + (u32)(maps >> 32) + (u32)(word & 0xffff) * width;
	u32 rules = table + (u32)words[(table + 5) & (ARENA_WORDS - 1)];

	for (i = 0; i < BITMAP_WORDS && i < width; i++) {
		both = words[(a + i) & (ARENA_WORDS - 1)] & words[(b + i) & (ARENA_WORDS - 1)];
		if (both)
			break;
	}
	if (!both)
		return result | (u32)words[(table + 6) & (ARENA_WORDS - 1)];
	/* The lowest bit: six steps, since BPF has no instruction for it. */
	{
		u32 bit = 0;

		if (!(both & 0xffffffff)) { bit += 32; both >>= 32; }
		if (!(both & 0xffff)) { bit += 16; both >>= 16; }
		if (!(both & 0xff)) { bit += 8; both >>= 8; }
		if (!(both & 0xf)) { bit += 4; both >>= 4; }
		if (!(both & 3)) { bit += 2; both >>= 2; }
		bit += !(both & 1);
		word = words[(rules + i * 64 + bit) & (ARENA_WORDS - 1)];
	}
	return result | MATCH_FOUND | (word >> 32 & RULE_ALLOW ? MATCH_ALLOW : 0) | (u32)word;
}

/* ---- What the build that includes this file provides --------------------------------------------------------------- */

/* policy block's place | generation << 32; 0: no rules at all */
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

/* ---- Connections --------------------------------------------------------------------------------------------------- */

/* A packet with ports (or ICMP's type and code) that are known. */
static __always_inline int has_service(const struct parsed *p)
{
	if (p->proto == PROTO_TCP || p->proto == PROTO_UDP)
		return p->fragment != FRAGMENT_LATER;
	if (p->proto == (p->v6 ? PROTO_ICMPV6 : PROTO_ICMP))
		return p->icmp != ICMP_UNKNOWN;
	return 1;
}

static __always_inline u32 service_of(const struct parsed *p)
{
	u32 service = (u32)p->proto << 16;

	if (p->proto == PROTO_TCP || p->proto == PROTO_UDP)
		service |= p->dport;
	else if (p->proto == (p->v6 ? PROTO_ICMPV6 : PROTO_ICMP))
		service |= (u32)p->icmp_type << 8 | p->icmp_code;
	else
		return service;
	return has_service(p) ? service : SERVICE_PORTLESS | (service & 0xff0000);
}

static __always_inline u64 timeout_ns(u8 proto, const struct connection *c)
{
	if (proto == PROTO_TCP) {
		if (c->state == TCP_CLOSED)
			return 10 * SECOND_NS;
		if (c->state == TCP_OPENED || c->state == TCP_ANSWERED)
			return 60 * SECOND_NS;
		return c->fins ? 120 * SECOND_NS : 432000 * SECOND_NS;
	}
	if (proto == PROTO_UDP)
		return c->state == UDP_STREAM ? 180 * SECOND_NS : 30 * SECOND_NS;
	if (proto == PROTO_ICMP || proto == PROTO_ICMPV6)
		return 30 * SECOND_NS;
	return 600 * SECOND_NS;
}

static __always_inline int is_live(u8 proto, const struct connection *c, u64 now)
{
	return (s64)(now - c->last_ns) <= (s64)timeout_ns(proto, c);
}

/* `local` is the ENI's side of a packet that goes in `dir`. */
static __always_inline void connection_key_of(struct connection_key *key, u32 slot, u32 dir, const struct parsed *p)
{
	const union address *local = dir == DIR_EGRESS ? &p->src : &p->dst;
	const union address *remote = dir == DIR_EGRESS ? &p->dst : &p->src;

	__builtin_memcpy(key->local, local, 16);
	__builtin_memcpy(key->remote, remote, 16);
	key->slot = slot;
	key->proto = p->proto;
	key->v6 = p->v6;
	if (p->proto == PROTO_TCP || p->proto == PROTO_UDP) {
		key->local_port = dir == DIR_EGRESS ? p->sport : p->dport;
		key->remote_port = dir == DIR_EGRESS ? p->dport : p->sport;
	} else if (p->icmp == ICMP_REQUEST || p->icmp == ICMP_REPLY) {
		/* Who asked, what and under which number. */
		key->local_port = p->icmp_id;
		key->remote_port = (u16)p->icmp_kind << 1 | ((p->icmp == ICMP_REQUEST) == (dir == DIR_EGRESS));
	} else {
		key->local_port = key->remote_port = 0;
	}
}

/* The packet that an ICMP error quotes went the other way. */
static __always_inline void quoted_key_of(struct connection_key *key, u32 slot, u32 dir, const struct parsed *p)
{
	const struct quoted *q = &p->quoted;
	const union address *local = dir == DIR_EGRESS ? &q->dst : &q->src;
	const union address *remote = dir == DIR_EGRESS ? &q->src : &q->dst;

	__builtin_memcpy(key->local, local, 16);
	__builtin_memcpy(key->remote, remote, 16);
	key->slot = slot;
	key->proto = q->proto;
	key->v6 = p->v6;
	if (q->icmp == ICMP_REQUEST || q->icmp == ICMP_REPLY) {
		key->local_port = q->sport;
		key->remote_port = q->dport << 1 | ((q->icmp == ICMP_REQUEST) == (dir == DIR_INGRESS));
	} else {
		key->local_port = dir == DIR_EGRESS ? q->dport : q->sport;
		key->remote_port = dir == DIR_EGRESS ? q->sport : q->dport;
	}
}

static __always_inline void connection_advance(struct connection *c, const struct parsed *p, u32 dir, u64 now)
{
	u32 opener = dir == c->opener;

	if (p->proto == PROTO_TCP) {
		if (c->state == TCP_CLOSED)
			return;	/* the time runs from the close */
		if (p->tcp_raw & 0x04) {
			c->state = TCP_CLOSED;
		} else {
			if (c->state == TCP_OPENED && !opener && p->tcp_raw & 0x02)
				c->state = TCP_ANSWERED;
			else if (c->state == TCP_ANSWERED && opener && p->tcp_raw & 0x10)
				c->state = TCP_ESTABLISHED;
			if (p->tcp_raw & 0x01) {
				c->fins |= opener ? 1 : 2;
				if (c->fins == 3)
					c->state = TCP_CLOSED;
			}
		}
	} else if (p->proto == PROTO_UDP) {
		/* Opened 0, answered 1, asked again 2, answered again: a stream. */
		if (c->state < UDP_STREAM && !opener == !(c->state & 1))
			c->state++;
	}
	c->last_ns = now;
}

/* ---- The decision -------------------------------------------------------------------------------------------------- */

/* What the security groups say, and what is to be done if the packet passes. */
#define THEN_NOTHING 0
#define THEN_ADVANCE 1
#define THEN_OPEN 2
#define THEN_REMOVE 3

static __always_inline u8 decide(void *tables, const struct parsed *p, u32 slot, u32 dir, const struct eni *eni, u64 now,
				 u64 policy, u32 *rule)
{
	u32 block = (u32)policy, generation = policy >> 32, flags = policy_word(tables, block), service, other;
	u8 groups = OUT_ACCEPT, then = THEN_NOTHING, keyed = has_service(p), cached = 0, allowed = 1, syn;
	u32 groups_rule = 0, acl_rule = 0;
	const union address *remote = dir == DIR_EGRESS ? &p->dst : &p->src;
	struct connection *c = 0, *live = 0;
	struct connection_key key;
	u64 high, low = 0, found;

	if (p->v6) {
		high = (u64)be32(remote->bytes) << 32 | be32(remote->bytes + 4);
		low = (u64)be32(remote->bytes + 8) << 32 | be32(remote->bytes + 12);
	} else {
		high = be32(remote->bytes);
	}
	syn = p->proto == PROTO_TCP && (p->tcp_raw & 0x16) == 0x02;

	if (flags & POLICY_GROUPS) {
		if (keyed && p->icmp != ICMP_ERROR && p->icmp != ICMP_OTHER) {
			connection_key_of(&key, slot, dir, p);
			c = connection_find(tables, &key);
		} else if (p->icmp == ICMP_ERROR && p->quoted.proto_known) {
			struct connection *about;

			quoted_key_of(&key, slot, dir, p);
			about = connection_find(tables, &key);
			if (about && is_live(p->quoted.proto, about, now)) {
				groups_rule = about->rule + 1;
				goto acl;
			}
		}
		if (c && is_live(p->proto, c, now) && !(syn && (c->state == TCP_CLOSED || c->state == TCP_ESTABLISHED || c->fins)))
			live = c;
		if (live) {
			groups_rule = c->rule + (dir != c->opener);
			then = THEN_ADVANCE;
			goto acl;
		}
		found = policy_word(tables, block + 1);
		other = dir == DIR_EGRESS ? (u32)found : (u32)(found >> 32);
		service = service_of(p);
		found = policy_match(tables, dir == DIR_EGRESS ? (u32)(found >> 32) : (u32)found, high, low, service, p->v6);
		groups_rule = (u32)found;
		if (!(found & MATCH_FOUND)) {
			groups = OUT_REJECT;
		} else if (!keyed || p->icmp > ICMP_REQUEST) {
			/* Belongs to no connection and opens none. */
		} else {
			u8 tracked = 1;

			if (!(flags & POLICY_TRACK_ALWAYS) && (p->proto == PROTO_TCP || p->proto == PROTO_UDP)) {
				u64 back = policy_open(tables, other, (u32)p->proto << 16 | p->sport, p->v6);

				if ((found & MATCH_OPEN && back & MATCH_ALL_OPEN) || (found & MATCH_ALL_OPEN && back & MATCH_OPEN))
					tracked = 0;
			}
			if (!tracked) {
				then = syn && c ? THEN_REMOVE : THEN_NOTHING;
			} else if (p->proto == PROTO_TCP && !syn && (!(eni->flags & ENI_ADOPT) || p->tcp_raw & 0x04)) {
				groups = OUT_REJECT;
				groups_rule++;
			} else {
				then = THEN_OPEN;
			}
		}
	}
acl:
	if (flags & POLICY_ACL) {
		u8 cacheable = p->proto != PROTO_ICMP && p->proto != PROTO_ICMPV6;
		u32 way = dir & 1;

		if (live && cacheable && live->acl_generation[way] == generation) {
			acl_rule = live->acl_rule[way] & ~ACL_CACHED_DENY;
			allowed = !(live->acl_rule[way] & ACL_CACHED_DENY);
		} else {
			if (!policy_inside(tables, (u32)policy_word(tables, block + 3), high, low, p->v6)) {
				found = policy_word(tables, block + 2);
				found = policy_match(tables, dir == DIR_EGRESS ? (u32)(found >> 32) : (u32)found, high, low,
						     service_of(p), p->v6);
				acl_rule = (u32)found;
				allowed = (found & MATCH_ALLOW) != 0;
			}
			if (live && cacheable) {
				live->acl_rule[way] = acl_rule | (allowed ? 0 : ACL_CACHED_DENY);
				live->acl_generation[way] = generation;
			}
		}
		(void)cached;
	}
	if (groups == OUT_REJECT && (dir == DIR_EGRESS || allowed)) {
		*rule = groups_rule;
		return OUT_REJECT;
	}
	if (!allowed) {
		*rule = acl_rule;
		return OUT_REJECT;
	}
	*rule = flags & POLICY_GROUPS ? groups_rule : acl_rule;
	if (then == THEN_ADVANCE) {
		if (live)
			connection_advance(live, p, dir, now);
	} else if (then == THEN_REMOVE) {
		connection_remove(tables, &key);
	} else if (then == THEN_OPEN) {
		struct connection fresh = { .last_ns = now, .rule = groups_rule, .opener = dir };

		if (p->proto == PROTO_TCP)
			fresh.state = syn ? TCP_OPENED : TCP_ESTABLISHED;
		if (p->proto == PROTO_TCP && p->tcp_raw & 0x01)
			fresh.fins = 1;
		if (c) {
			*c = fresh;
		} else if (connection_add(tables, &key, &fresh)) {
			connection_refused(tables);
			*rule = RULE_TABLE_FULL;
			return OUT_REJECT;
		}
	}
	return OUT_ACCEPT;
}

#endif
