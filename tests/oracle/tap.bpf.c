/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A second, far simpler program that counts what passes an interface, to hold the capture against. It shares no text
 * with bpf/. Packets: the sum of gso_segs. Bytes: the kernel's own wire_len, which at an egress hook counts the headers
 * of every segment (net/core/dev.c: qdisc_pkt_len_init); at an ingress hook it is the length of the frame.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex;
	u32 ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family, remote_ip4, local_ip4;
	u32 remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*ktime_get_ns)(void) = (void *)5;
static long (*skb_load_bytes)(const void *skb, u32 off, void *to, u32 len) = (void *)26;
static void *(*ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *data, u64 flags) = (void *)132;

struct place {
	u32 ifindex;
	u32 hook;	/* 0 ingress, 1 egress */
};

struct total {
	u64 frames;	/* skbs */
	u64 packets;	/* on the wire */
	u64 bytes;	/* on the wire, with the link header of each packet */
	u64 not_copied;	/* headers that the ring buffer had no room for */
};

struct header {
	u32 ifindex;
	u32 hook;
	u64 ns;		/* CLOCK_MONOTONIC */
	u32 wire_len;	/* of the frame: a GSO frame is one */
	u32 cap_len;
	u8 data[128];
};

struct {
	__uint(type, 1);
	__uint(max_entries, 256);
	__type(key, struct place);
	__type(value, struct total);
} totals SEC(".maps");

/* Whether headers are copied. */
struct {
	__uint(type, 2);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} copying SEC(".maps");

struct {
	__uint(type, 27);
	__uint(max_entries, 1 << 23);
} headers SEC(".maps");

static inline __attribute__((always_inline)) void copy(struct __sk_buff *skb, struct place *place, struct total *total)
{
	u32 length = skb->len;
	struct header *h = ringbuf_reserve(&headers, sizeof(*h), 0);

	if (!h) {
		__sync_fetch_and_add(&total->not_copied, 1);
		return;
	}
	h->ifindex = place->ifindex;
	h->hook = place->hook;
	h->ns = ktime_get_ns();
	h->wire_len = length;
	h->cap_len = 0;
	if (length > 128)
		length = 128;
	if (length >= 1 && length <= 128 && !skb_load_bytes(skb, 0, h->data, length))
		h->cap_len = length;
	ringbuf_submit(h, 0);
}

static inline __attribute__((always_inline)) int count(struct __sk_buff *skb, u32 hook)
{
	struct place place = { .ifindex = skb->ifindex, .hook = hook };
	struct total *total = map_lookup(&totals, &place), zero = {};
	u32 key = 0, *on = map_lookup(&copying, &key);

	if (!total) {
		map_update(&totals, &place, &zero, 1);
		total = map_lookup(&totals, &place);
		if (!total)
			return -1;
	}
	__sync_fetch_and_add(&total->frames, 1);
	__sync_fetch_and_add(&total->packets, skb->gso_size && skb->gso_segs ? skb->gso_segs : 1);
	__sync_fetch_and_add(&total->bytes, skb->wire_len);
	if (on && *on)
		copy(skb, &place, total);
	return -1;
}

SEC("tc") int tap_ingress(struct __sk_buff *skb)
{
	return count(skb, 0);
}

SEC("tc") int tap_egress(struct __sk_buff *skb)
{
	return count(skb, 1);
}

char LICENSE[] SEC("license") = "GPL";
