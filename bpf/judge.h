/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From a parsed packet to the key it is counted under: later fragments share the verdict of their first, what is excluded
 * is not judged, the rest is (verdict.h). Shared by both builds, as parse.h is. What differs between them is where
 * fragments, rules and connections are kept: the build that includes this file defines the functions declared first.
 */
#ifndef VNOTCH_JUDGE_H
#define VNOTCH_JUDGE_H

#include "verdict.h"

/* What the first fragment of the datagram told, or NULL if it was not seen or is too long ago. */
static __always_inline struct fragment_value *fragment_find(void *tables, const struct fragment_key *key, u64 now);

/* Keeps what a first fragment told; counts it where there is no room. */
static __always_inline void fragment_keep(void *tables, const struct fragment_key *key, const struct fragment_value *value);

static __always_inline void count_as_excluded(struct flow_key *key, struct parsed *p, u8 exclusion)
{
	key->outcome = OUT_EXCLUDED;
	key->proto = exclusion;
	p->tcp_flags = 0;
}

static __always_inline void count_as_flow(struct flow_key *key, const struct parsed *p, u8 outcome, u32 rule)
{
	__builtin_memcpy(key->src, &p->src, 16);
	__builtin_memcpy(key->dst, &p->dst, 16);
	key->sport = p->sport;
	key->dport = p->dport;
	key->proto = p->proto;
	key->outcome = outcome;
	key->v6 = p->v6;
	key->rule = rule;
}

/* The eBPF program's stack is small: what few packets need has a frame of its own. */
#ifdef __bpf__
#define OUT_OF_LINE static __attribute__((noinline))
#else
#define OUT_OF_LINE static
#endif

static __always_inline void fragment_key_of(struct fragment_key *key, const struct parsed *p, u32 where)
{
	__builtin_memcpy(key->src, &p->src, 16);
	__builtin_memcpy(key->dst, &p->dst, 16);
	key->id = p->fragment_id;
	key->slot = where >> 1;
	key->proto = p->fragment_proto;
	key->dir = where & 1;
}

/* A later fragment, `where` is slot << 1 | direction: returns the outcome of its first, or -1 if that is not known. */
OUT_OF_LINE int judge_later_fragment(void *tables, struct parsed *p, u32 where, u64 now, struct flow_key *key)
{
	struct fragment_value *known;
	struct fragment_key datagram;

	fragment_key_of(&datagram, p, where);
	known = fragment_find(tables, &datagram, now);
	if (!known)
		return -1;
	p->sport = known->sport;
	p->dport = known->dport;
	p->proto = known->proto;
	if (known->outcome == OUT_EXCLUDED)
		count_as_excluded(key, p, known->exclusion);
	else
		count_as_flow(key, p, known->outcome, known->rule);
	return known->outcome;
}

OUT_OF_LINE int keep_first_fragment(void *tables, const struct parsed *p, u32 where, u64 now, u64 verdict)
{
	struct fragment_key datagram;
	struct fragment_value value = {
		.ns = now, .sport = p->sport, .dport = p->dport, .proto = p->proto, .outcome = verdict,
		.exclusion = verdict >> 8, .rule = verdict >> 32,
	};

	fragment_key_of(&datagram, p, where);
	fragment_keep(tables, &datagram, &value);
	return 0;
}

/*
 * Fills in the key (zero before) under which the packet is counted, and returns its outcome, OUT_*. An excluded packet is
 * counted by its reason alone: one entry for each slot, direction and reason, so that it flips with the flows.
 */
static __always_inline u8 judge(void *tables, struct parsed *p, u32 slot, u32 dir, const struct eni *eni, u64 now,
				struct flow_key *key)
{
	u8 outcome = OUT_ACCEPT, exclusion;
	u32 rule = RULE_UNKNOWN;
	u64 policy;

	key->slot = slot;
	key->dir = dir;
	if (p->fragment == FRAGMENT_LATER && p->exclusion == EXCL_NONE) {
		int shared = judge_later_fragment(tables, p, slot << 1 | dir, now, key);

		if (shared >= 0)
			return shared;
	}
	exclusion = packet_exclusion(p, eni);
	if (exclusion) {
		outcome = OUT_EXCLUDED;
	} else {
		policy = policy_of(tables, slot);
		if (policy)
			outcome = decide(tables, p, slot, dir, eni->flags, now, policy, &rule);
	}
	if (p->fragment == FRAGMENT_FIRST && p->exclusion == EXCL_NONE)
		keep_first_fragment(tables, p, slot << 1 | dir, now, outcome | (u64)exclusion << 8 | (u64)rule << 32);
	if (exclusion)
		count_as_excluded(key, p, exclusion);
	else
		count_as_flow(key, p, outcome, rule);
	return outcome;
}

/* Whether a packet of this outcome is dropped where rules are enforced: what is rejected, and what cannot be understood. */
static __always_inline int is_dropped(u8 outcome, const struct flow_key *key)
{
	return outcome == OUT_REJECT || (outcome == OUT_EXCLUDED && key->proto == EXCL_MALFORMED);
}

#endif
