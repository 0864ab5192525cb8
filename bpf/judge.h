/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From a parsed packet to the key it is counted under: later fragments take after their first, the static verdict, the
 * exclusion. Shared by both builds, as parse.h is. What differs between them is where fragments and allow lists are kept:
 * the build that includes this file defines the three functions declared first, before or after.
 */
#ifndef VNOTCH_JUDGE_H
#define VNOTCH_JUDGE_H

#include "parse.h"

/* What the first fragment of the datagram told, or NULL if it was not seen or is too long ago. */
static __always_inline struct fragment_value *fragment_find(void *tables, const struct fragment_key *key, u64 now);

/* Keeps what a first fragment told; counts it where there is no room. */
static __always_inline void fragment_keep(void *tables, const struct fragment_key *key, const struct fragment_value *value);

/* Whether the ENI's allow list has the port. */
static __always_inline int allow_listed(void *tables, const struct allow_key *key);

static __always_inline u8 judge_fragment(void *tables, struct parsed *p, u32 slot, u32 dir, const struct eni *eni, u64 now)
{
	struct allow_key port = { .slot = slot, .port = p->dport, .proto = p->proto };
	u8 outcome = OUT_ACCEPT;

	if (p->fragment != FRAGMENT_LATER && needs_allow_entry(p, dir, eni->flags) && !allow_listed(tables, &port))
		outcome = OUT_REJECT;
	if (p->fragment != FRAGMENT_NONE) {
		struct fragment_key key;
		struct fragment_value *known;

		__builtin_memcpy(key.src, &p->src, 16);
		__builtin_memcpy(key.dst, &p->dst, 16);
		key.id = p->fragment_id;
		key.slot = slot;
		key.proto = p->fragment_proto;
		key.dir = dir;
		if (p->fragment == FRAGMENT_FIRST) {
			struct fragment_value value = {
				.ns = now, .sport = p->sport, .dport = p->dport, .proto = p->proto, .outcome = outcome,
			};

			fragment_keep(tables, &key, &value);
		} else {
			known = fragment_find(tables, &key, now);
			if (known) {
				p->sport = known->sport;
				p->dport = known->dport;
				p->proto = known->proto;
				outcome = known->outcome;
			}
		}
	}
	return outcome;
}

/*
 * Fills in the key (zero before) under which the packet is counted, and returns its outcome, OUT_*. An excluded packet is
 * counted by its reason alone: one entry for each slot, direction and reason, so that it flips with the flows.
 */
static __always_inline u8 judge(void *tables, struct parsed *p, u32 slot, u32 dir, const struct eni *eni, u64 now,
				struct flow_key *key)
{
	u8 outcome = OUT_ACCEPT, exclusion;

	if (p->exclusion == EXCL_NONE)
		outcome = judge_fragment(tables, p, slot, dir, eni, now);
	exclusion = packet_exclusion(p, eni);
	key->slot = slot;
	key->dir = dir;
	if (exclusion) {
		key->outcome = OUT_EXCLUDED;
		key->proto = exclusion;
		p->tcp_flags = 0;
		return OUT_EXCLUDED;
	}
	__builtin_memcpy(key->src, &p->src, 16);
	__builtin_memcpy(key->dst, &p->dst, 16);
	key->sport = p->sport;
	key->dport = p->dport;
	key->proto = p->proto;
	key->outcome = outcome;
	key->v6 = p->v6;
	return outcome;
}

#endif
