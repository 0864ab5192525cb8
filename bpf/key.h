/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The key that a packet is counted under, as far as it needs no judgement of its own: that of a later fragment is its
 * first one's. Shared by all builds, as parse.h is; the build that includes this file defines `fragment_find`.
 */
#ifndef VNOTCH_KEY_H
#define VNOTCH_KEY_H

#include "parse.h"

/* What the first fragment of the datagram told, or NULL if it was not seen or is too long ago. */
static __always_inline struct fragment_value *fragment_find(void *tables, const struct fragment_key *key, u64 now);

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

#endif
