/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the eBPF programs share: the kernel's helpers, the maps of interfaces and flows, and how a parsed packet gets into
 * them. Each object that includes this has maps of its own by it, in place of which user space gives all but the first
 * object the maps of the first (capture/loaded.py, capture/host_firewall.py).
 */
#ifndef VNOTCH_COUNTING_H
#define VNOTCH_COUNTING_H

#include "key.h"

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_ARRAY_OF_MAPS = 12, MAP_RINGBUF = 27 };

#define F_NO_PREALLOC 1	/* an entry takes its memory when it is made; without it, all do when the map is made */

#define UPDATE_ANY 0
#define UPDATE_NOEXIST 1
#define EEXIST 17

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static void *(*ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *data, u64 flags) = (void *)132;

/* ifindex -> slot. An interface index repeats across namespaces and is used again, a slot does not. */
struct {
	__uint(type, MAP_HASH);
	__uint(map_flags, F_NO_PREALLOC);
	__uint(max_entries, MAX_SLOTS);
	__type(key, u32);
	__type(value, u32);
} slots SEC(".maps");

/* The same for indexes below NEAR_INDEXES: ifindex -> slot + 1, 0: none. */
struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, NEAR_INDEXES);
	__type(key, u32);
	__type(value, u32);
} near_slots SEC(".maps");

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__type(key, u32);
	__type(value, struct eni);
} enis SEC(".maps");

/* By slot * 2 + direction: all packets that a captured interface has seen. */
struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, MAX_SLOTS * 2);
	__type(key, u32);
	__type(value, struct counter);
} seen SEC(".maps");

/* By slot * 2 + direction: those that found neither the flow map nor the ring buffer with room. */
struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, MAX_SLOTS * 2);
	__type(key, u32);
	__type(value, struct counter);
} lost SEC(".maps");

/* COUNT_* */
struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, u32);
	__type(value, u64);
} counts SEC(".maps");

/* A plain hash, since an LRU one evicts in silence; user space removes what is old. Most hosts have few fragments or none:
 * its memory is taken as it is used. */
struct {
	__uint(type, MAP_HASH);
	__uint(map_flags, F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct fragment_key);
	__type(value, struct fragment_value);
} fragments SEC(".maps");

/* Two preallocated maps that take turns; user space sets their size and puts one of them into `active`, before it
 * attaches anything. */
struct flow_map {
	__uint(type, MAP_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
};

struct {
	__uint(type, MAP_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	struct flow_map *values[];
} active SEC(".maps");

/* struct spill; user space sets the size. */
struct {
	__uint(type, MAP_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

static __always_inline void count(u32 which)
{
	u64 *n = map_lookup(&counts, &which);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* Adds to a counter of this CPU, in one instruction each: a packet that comes in may interrupt one that goes out. */
static __always_inline void add(void *map, u32 index, const struct parsed *p)
{
	struct counter *c = map_lookup(map, &index);

	if (c) {
		__sync_fetch_and_add(&c->packets, p->packets);
		__sync_fetch_and_add(&c->bytes, p->bytes);
	}
}

static __always_inline void add_to_flow(struct flow_value *v, const struct parsed *p, u32 moment)
{
	__sync_fetch_and_add(&v->packets, p->packets);
	__sync_fetch_and_add(&v->bytes, p->bytes);
	if ((s32)(moment - v->last) > 0)
		v->last = moment;	/* a race between CPUs costs the time between them */
	if (p->tcp_flags & ~v->tcp_flags)
		__sync_fetch_and_or(&v->tcp_flags, p->tcp_flags);
}

/* No room in the flow map: the packet goes to user space by itself. */
static __always_inline void spill(const struct flow_key *key, const struct parsed *p, u64 now)
{
	struct spill *s = ringbuf_reserve(&ring, sizeof(*s), 0);

	if (!s) {
		add(&lost, key->slot * 2 + key->dir, p);
		return;
	}
	s->key = *key;
	s->tcp_flags = p->tcp_flags;
	s->packets = p->packets;
	s->bytes = p->bytes;
	s->ns = now;
	ringbuf_submit(s, 0);
	count(COUNT_SPILLED);
}

/* Adds a packet to its entry of a map of flows; returns something else than 0 where the map has no room for one. */
static __always_inline int count_into(void *flows, const struct flow_key *key, const struct parsed *p, u32 moment)
{
	struct flow_value *v = map_lookup(flows, key), fresh;

	if (!v) {
		fresh.packets = p->packets;
		fresh.bytes = p->bytes;
		fresh.first = fresh.last = moment;
		fresh.tcp_flags = p->tcp_flags;
		fresh.pad = 0;
		long error = map_update(flows, key, &fresh, UPDATE_NOEXIST);
		if (!error)
			return 0;
		if (error == -EEXIST)	/* another CPU was first */
			v = map_lookup(flows, key);
		if (!v)
			return -1;
	}
	add_to_flow(v, p, moment);
	return 0;
}

static __always_inline void count_flow(const struct flow_key *key, const struct parsed *p, u64 now)
{
	u32 zero = 0;
	void *flows = map_lookup(&active, &zero);

	if (!flows || count_into(flows, key, p, now >> MOMENT_SHIFT))
		spill(key, p, now);
}

/* User space removes old entries at its next drain; until then they are passed over here. */
static __always_inline struct fragment_value *fragment_find(void *tables, const struct fragment_key *key, u64 now)
{
	struct fragment_value *known = map_lookup(&fragments, key);

	return known && (s64)(now - known->ns) <= (s64)FRAGMENT_NS ? known : 0;
}

/* MAX_SLOTS: not captured. */
static __always_inline u32 slot_of(u32 ifindex)
{
	u32 *found;

	if (ifindex < NEAR_INDEXES) {
		found = map_lookup(&near_slots, &ifindex);
		return found && *found ? *found - 1 : MAX_SLOTS;
	}
	found = map_lookup(&slots, &ifindex);
	return found ? *found : MAX_SLOTS;
}

#endif
