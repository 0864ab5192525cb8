/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The native build's connections: the part that the kernel's hash map plays at an interface. A fixed number of entries,
 * chained from buckets; what is over is swept when there is no room, and by the caller at its ticks.
 */
#ifndef CONNECTION_TABLE_H
#define CONNECTION_TABLE_H

#include <stdlib.h>
#include <string.h>

#include "flow_table.h"
#include "verdict.h"

struct connection_entry {
	struct connection_key key;
	struct connection value;
	u32 next;	/* index + 1 */
};

struct connection_table {
	struct connection_entry *entries;
	u32 *buckets;	/* index + 1; 0: empty */
	u32 mask;
	u32 room;
	u32 used;	/* entries that were ever in use */
	u32 free;	/* index + 1 of the first that is free again */
	u64 refused;
	u64 seed;
};

static int connection_table_open(struct connection_table *table, u32 room, u64 seed)
{
	u32 buckets = 16;

	while (buckets < room)
		buckets *= 2;
	table->entries = calloc(room, sizeof(*table->entries));
	table->buckets = calloc(buckets, sizeof(*table->buckets));
	table->mask = buckets - 1;
	table->room = room;
	table->seed = seed;
	return table->entries && table->buckets ? 0 : -1;
}

static void connection_table_close(struct connection_table *table)
{
	free(table->entries);
	free(table->buckets);
}

static u32 *connection_bucket(struct connection_table *table, const struct connection_key *key)
{
	u64 word[5], hash;

	memcpy(word, key, sizeof(word));
	hash = flow_mix(word[0] ^ word[4] ^ table->seed, word[2] ^ 0xe7037ed1a0b428dbull);
	hash ^= flow_mix(word[1] ^ table->seed, word[3] ^ word[4] ^ 0x589965cc75374cc3ull);
	return &table->buckets[(hash ^ hash >> 32) & table->mask];
}

static struct connection *connection_table_find(struct connection_table *table, const struct connection_key *key)
{
	u32 at = *connection_bucket(table, key);

	for (; at; at = table->entries[at - 1].next)
		if (!memcmp(&table->entries[at - 1].key, key, sizeof(*key)))
			return &table->entries[at - 1].value;
	return NULL;
}

static int connection_table_add(struct connection_table *table, const struct connection_key *key, const struct connection *value)
{
	u32 *bucket = connection_bucket(table, key), at;

	if (table->free) {
		at = table->free;
		table->free = table->entries[at - 1].next;
	} else if (table->used < table->room) {
		at = ++table->used;
	} else {
		return -1;
	}
	table->entries[at - 1] = (struct connection_entry){ .key = *key, .value = *value, .next = *bucket };
	*bucket = at;
	return 0;
}

static void connection_table_remove(struct connection_table *table, const struct connection_key *key)
{
	u32 *link = connection_bucket(table, key), at;

	for (; (at = *link); link = &table->entries[at - 1].next) {
		if (memcmp(&table->entries[at - 1].key, key, sizeof(*key)))
			continue;
		*link = table->entries[at - 1].next;
		table->entries[at - 1].next = table->free;
		table->free = at;
		return;
	}
}

/* Removes what is over. */
static void connection_table_sweep(struct connection_table *table, u64 now)
{
	u32 i, *link, at;

	for (i = 0; i <= table->mask; i++) {
		for (link = &table->buckets[i]; (at = *link);) {
			struct connection_entry *entry = &table->entries[at - 1];

			if (is_live(entry->key.proto, &entry->value, now)) {
				link = &entry->next;
				continue;
			}
			*link = entry->next;
			entry->next = table->free;
			table->free = at;
		}
	}
}

#endif
