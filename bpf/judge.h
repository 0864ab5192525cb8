/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From a parsed packet to the key it is counted under: later fragments share the verdict of their first, what is excluded
 * is not judged, the rest is (verdict.h). Shared by both builds, as parse.h is. What differs between them is where
 * fragments, rules and connections are kept: the build that includes this file defines the functions declared first.
 */
#ifndef VNOTCH_JUDGE_H
#define VNOTCH_JUDGE_H

#include "key.h"
#include "verdict.h"

/* Keeps what a first fragment told; counts it where there is no room. */
static __always_inline void fragment_keep(void *tables, const struct fragment_key *key, const struct fragment_value *value);

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
