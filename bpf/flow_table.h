/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The native build's flow table: the part that the kernel's hash map plays at an interface.
 *
 * Flows lie densely in the order in which they were first seen, so that draining is reading an array; beside them lies an
 * index of (hash, position) words with linear probing. Counting goes through a small batch, so that the cache misses of
 * several packets overlap: index word and flow are prefetched while the next packets are parsed.
 *
 * The table never grows over `max_flows`. A flow that finds it full is not added; the caller drains and adds it again.
 */
#ifndef FLOW_TABLE_H
#define FLOW_TABLE_H

#include <stdlib.h>
#include <string.h>

#include "vnotch.h"

#define FLOW_BATCH 16
#define FLOWS_AT_START 4096

/* Unlike the kernel's struct flow_value, with the packets' own times. */
struct flow_total {
	u64 packets;
	u64 bytes;
	u64 first_ns;	/* Unix time */
	u64 last_ns;
	u32 tcp_flags;
	u32 pad;
};
_Static_assert(sizeof(struct flow_total) == 40, "flow_total");

struct flow {
	struct flow_key key;
	u32 hash;
	struct flow_total value;
};
_Static_assert(sizeof(struct flow) == 88, "flow");

struct flow_update {
	struct flow_key key;
	u32 hash;
	u64 bytes;
	u64 ns;
	u32 tcp_flags;
};

struct flow_table {
	struct flow *flows;
	u64 *index; /* hash << 32 | position + 1; 0 is free */
	u32 count;
	u32 room;	/* of `flows` */
	u32 mask;	/* words of `index` - 1; the index has at least twice `room` words */
	u32 max_flows;
	u64 seed;
	u32 pending;
	struct flow_update batch[FLOW_BATCH];
};

static inline u64 flow_mix(u64 a, u64 b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (u64)product ^ (u64)(product >> 64);
}

/* Multiply and fold, as wyhash does; the seed is random for each capture, so that no file can aim at a bucket. */
static inline u32 flow_hash(const struct flow_key *key, u64 seed)
{
	u64 word[5];
	u32 last;
	u64 hash;

	memcpy(word, key, sizeof(word));
	memcpy(&last, (const char *)key + sizeof(word), sizeof(last));
	hash = flow_mix(word[0] ^ seed ^ 0xa0761d6478bd642full, word[2] ^ 0xe7037ed1a0b428dbull);
	hash ^= flow_mix(word[1] ^ seed ^ 0x8ebc6af09c88c6e3ull, word[3] ^ 0x589965cc75374cc3ull);
	hash = flow_mix(hash ^ word[4] ^ 0x1d8e4e27c47d124full, seed ^ last ^ 0xeb44accab455d165ull);
	return (u32)(hash ^ hash >> 32);
}

static int flow_table_open(struct flow_table *table, u32 max_flows, u64 seed)
{
	u32 room = max_flows < FLOWS_AT_START ? max_flows : FLOWS_AT_START;
	u32 words = 2 * FLOWS_AT_START;

	memset(table, 0, sizeof(*table));
	table->flows = malloc((size_t)room * sizeof(struct flow));
	table->index = calloc(words, sizeof(u64));
	if (!table->flows || !table->index)
		return -1;
	table->room = room;
	table->mask = words - 1;
	table->max_flows = max_flows;
	table->seed = seed;
	return 0;
}

static void flow_table_close(struct flow_table *table)
{
	free(table->flows);
	free(table->index);
}

static void flow_index_add(struct flow_table *table, u32 hash, u32 position)
{
	u32 at = hash & table->mask;

	while (table->index[at])
		at = (at + 1) & table->mask;
	table->index[at] = (u64)hash << 32 | (position + 1);
}

/* Doubles the room. False at the bound; a host that has no more memory is treated as a lower bound. */
static int flow_table_grow(struct flow_table *table)
{
	u32 room = table->room > table->max_flows / 2 ? table->max_flows : table->room * 2;
	u64 words = (u64)table->mask + 1;
	struct flow *flows;
	u64 *index;
	u32 i;

	if (table->room >= table->max_flows)
		return 0;
	while (words < 2ull * room)
		words *= 2;
	index = calloc(words, sizeof(u64));
	if (!index)
		return 0;
	flows = realloc(table->flows, (size_t)room * sizeof(struct flow));
	if (!flows) {
		free(index);
		return 0;
	}
	free(table->index);
	table->flows = flows;
	table->index = index;
	table->room = room;
	table->mask = (u32)(words - 1);
	for (i = 0; i < table->count; i++)
		flow_index_add(table, flows[i].hash, i);
	return 1;
}

static inline void flow_add(struct flow_total *value, const struct flow_update *update)
{
	value->packets += 1;
	value->bytes += update->bytes;
	value->tcp_flags |= update->tcp_flags;
	/* The packets of a capture may be out of order. */
	if (update->ns < value->first_ns)
		value->first_ns = update->ns;
	if (update->ns > value->last_ns)
		value->last_ns = update->ns;
}

/* Counts one packet. False: the flow is new and there is no room for it. */
static int flow_table_add(struct flow_table *table, const struct flow_update *update)
{
	u32 at = update->hash & table->mask;
	struct flow *flow;
	u64 word;

	for (; (word = table->index[at]); at = (at + 1) & table->mask) {
		if ((u32)(word >> 32) != update->hash)
			continue;
		flow = &table->flows[(u32)word - 1];
		if (!memcmp(&flow->key, &update->key, sizeof(flow->key))) {
			flow_add(&flow->value, update);
			return 1;
		}
	}
	if (table->count == table->room && !flow_table_grow(table))
		return 0;
	flow = &table->flows[table->count];
	flow->key = update->key;
	flow->hash = update->hash;
	flow->value = (struct flow_total){
		.packets = 1,
		.bytes = update->bytes,
		.first_ns = update->ns,
		.last_ns = update->ns,
		.tcp_flags = update->tcp_flags,
	};
	flow_index_add(table, update->hash, table->count);
	table->count++;
	return 1;
}

/* Counts the packets that wait in the batch. False: the table is full and some of them still wait; drain, and call again. */
static int flow_table_flush(struct flow_table *table)
{
	u32 i;

	for (i = 0; i < table->pending; i++) {
		u64 word = table->index[table->batch[i].hash & table->mask];

		if (word) {
			const char *flow = (const char *)&table->flows[(u32)word - 1];

			__builtin_prefetch(flow, 1);
			__builtin_prefetch(flow + 64, 1);
		}
	}
	for (i = 0; i < table->pending; i++) {
		if (!flow_table_add(table, &table->batch[i])) {
			table->pending -= i;
			memmove(table->batch, table->batch + i, table->pending * sizeof(table->batch[0]));
			return 0;
		}
	}
	table->pending = 0;
	return 1;
}

/* The update to fill in next. The batch has room: the caller flushes when flow_table_full_batch says so. */
static inline struct flow_update *flow_table_next(struct flow_table *table)
{
	return &table->batch[table->pending];
}

/* Takes the update that flow_table_next gave into the batch. */
static inline void flow_table_push(struct flow_table *table)
{
	struct flow_update *update = &table->batch[table->pending];

	update->hash = flow_hash(&update->key, table->seed);
	__builtin_prefetch(&table->index[update->hash & table->mask], 1);
	table->pending++;
}

/* Forgets the flows, not what waits in the batch; keeps the memory for the next tick. */
static void flow_table_empty(struct flow_table *table)
{
	u32 i;

	if (table->count > table->mask / 16) {
		memset(table->index, 0, ((size_t)table->mask + 1) * sizeof(u64));
	} else {
		/* A few flows in a large index: find each one's own word instead of wiping all. */
		for (i = 0; i < table->count; i++) {
			u32 at = table->flows[i].hash & table->mask;

			while ((u32)table->index[at] != i + 1)
				at = (at + 1) & table->mask;
			table->index[at] = 0;
		}
	}
	table->count = 0;
}

#endif
