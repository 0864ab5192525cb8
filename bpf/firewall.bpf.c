/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The host firewall's verdict: a program on the tracepoint kfree_skb, which passes every packet that the kernel drops and,
 * from Linux 5.18 on, the reason. What netfilter dropped (nftables and iptables, by whatever programs wrote the rules) and
 * what concerns a captured interface is counted here, in one of two ways:
 *
 * - A packet that came in at a captured interface was counted there as accepted, if it was not rejected or excluded. It
 *   goes into a map of drops, under the key of its flow; user space moves as much from ACCEPT to REJECT (capture/drops.py).
 * - Another packet that was on its way out at a captured interface never came to our program there. It is counted as a
 *   flow of that interface, rejected.
 *
 * Where both are so, the first holds: what the sender's side rejects does not appear at the receiver.
 *
 * Behind a bridge, VLAN or bond a packet names that one and no longer the captured interface below it. Then its MAC or IP
 * address tells the ENI (`uppers`), or the fact that there is but one interface below.
 *
 * Reads kernel memory by offsets that libbpf takes from the running kernel's BTF.
 */
#include "counting.h"

#define KERNEL __attribute__((preserve_access_index))

/* Of the kernel's structs, what is read here; where a field lies is the running kernel's to say. */
struct ns_common {
	u32 inum;
} KERNEL;

struct net {
	struct ns_common ns;
} KERNEL;

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} KERNEL;

struct dst_entry {
	struct net_device *dev;
} KERNEL;

struct skb_shared_info {
	u16 gso_size;
	u16 gso_segs;
} KERNEL;

struct sk_buff {
	struct net_device *dev;
	u8 cb[48];
	unsigned long _skb_refdst;
	unsigned long _nfct;
	u32 len;
	u16 protocol;
	u16 network_header;
	u16 mac_header;
	int skb_iif;
	u32 tail;
	u32 end;
	u8 *head;
	u8 *data;
} KERNEL;

/* In skb->cb of what came in by IPv4 and IPv6. */
struct inet_skb_parm {
	int iif;
	u16 frag_max_size;
} KERNEL;

struct inet6_skb_parm {
	int iif;
	u16 frag_max_size;
} KERNEL;

union nf_inet_addr {
	u32 all[4];
} KERNEL;

struct nf_conntrack_man {
	union nf_inet_addr u3;
	u16 u;
} KERNEL;

struct nf_conntrack_tuple {
	struct {
		union nf_inet_addr u3;
		union {
			u16 all;
		} u;
	} src;
	struct {
		union nf_inet_addr u3;
		union {
			u16 all;
		} u;
		u8 protonum;
	} dst;
} KERNEL;

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
} KERNEL;

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
} KERNEL;

enum skb_drop_reason {
	SKB_DROP_REASON_NETFILTER_DROP = 8,
};

#define DST_NOREF 1UL	/* include/linux/skbuff.h: SKB_DST_NOREF */
#define NFCT_INFO 7UL	/* include/linux/skbuff.h: ~NFCT_PTRMASK */
#define CT_RELATED 1	/* include/uapi/linux/netfilter/nf_conntrack_common.h: enum ip_conntrack_info */
#define CT_REPLY 3
#define CT_RELATED_REPLY 4
#define CT_UNTRACKED 7
#define CT_NAT_DONE 0x30	/* IPS_NAT_MASK */
#define NO_MAC_HEADER 0xffff
#define LOOPBACK 1	/* its index in every namespace: include/net/flow.h: LOOPBACK_IFINDEX */
#define NOWHERE 0xffffffff
#define ETHERNET_HEADER 14

static u64 (*ktime_get_ns)(void) = (void *)5;
static long (*probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;

#define READ(to, from) probe_read_kernel(&(to), sizeof(to), __builtin_preserve_access_index(&(from)))

/* Set before loading: the network namespace that is captured. */
const volatile u32 captured_netns SEC(".rodata") = 0;

/* Takes memory as it is used, since a firewall may drop nothing for days; user space sets the size. */
struct drop_map {
	__uint(type, MAP_HASH);
	__uint(map_flags, F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
};

/* What was dropped of flows. They take turns as flows_0 and flows_1 do, a grace period later. */
struct drop_map drops_0 SEC(".maps");
struct drop_map drops_1 SEC(".maps");

struct {
	__uint(type, MAP_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	struct drop_map *values[];
} active_drops SEC(".maps");

/* User space alone: what a drain had too much and the next one takes up. */
struct drop_map rest_0 SEC(".maps");
struct drop_map rest_1 SEC(".maps");

/* By slot * 2 + direction: drops of which `active_drops` has nothing; their packets stay accepted. */
struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, MAX_SLOTS * 2);
	__type(key, u32);
	__type(value, struct counter);
} untold_drops SEC(".maps");

/* A plain hash that takes memory as it is used; user space knows what it turned away. */
struct {
	__uint(type, MAP_HASH);
	__uint(map_flags, F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct upper_key);
	__type(value, u32);
} uppers SEC(".maps");

static __always_inline int pkt_load(const struct pkt *p, u32 off, void *to, u32 len)
{
	return off + len > p->cap_len || probe_read_kernel(to, len, (const u8 *)p->data + off);
}

static __always_inline u32 index_of(const struct net_device *device)
{
	int index = 0;

	if (device)
		READ(index, device->ifindex);
	return index;
}

static __always_inline int is_captured_netns(const struct net_device *device)
{
	struct net *net = 0;
	u32 inode = 0;

	READ(net, device->nd_net.net);
	READ(inode, net->ns.inum);
	return inode == captured_netns;
}

/* The longest of the fragments that the kernel made this packet of, with its IP header; 0: it is no such packet. */
static __always_inline u32 longest_fragment(const struct sk_buff *skb, u8 v6, int input)
{
	const void *cb = __builtin_preserve_access_index(&skb->cb);
	const struct inet_skb_parm *v4_parm = cb;
	const struct inet6_skb_parm *v6_parm = cb;
	u16 longest = 0;
	int iif = 0;

	if (v6)
		READ(iif, v6_parm->iif);
	else
		READ(iif, v4_parm->iif);
	if (!input || iif != input)	/* it has not come to IP: something else lies here */
		return 0;
	if (v6)
		READ(longest, v6_parm->frag_max_size);
	else
		READ(longest, v4_parm->frag_max_size);
	return longest;
}

/* A packet that was put together again counts as the fragments that came in; all but the last are of one length. */
static __always_inline void count_fragments(struct parsed *p, u32 longest, u32 header)
{
	u32 added = p->v6 ? 8 : 0, total = p->bytes, room, n;

	if (p->packets != 1 || longest >= total + added || longest <= header + added + 8)
		return;
	room = (longest - header - added) & ~7u;
	n = (total - header + room - 1) / room;
	p->packets = n;
	p->bytes = total + (n - 1) * header + n * added;
}

/* Not static, so that the verifier looks at it once and by itself, and its callers go on from one state and not from many. */
__attribute__((noinline)) int parse_memory(const struct pkt *packet, struct parsed *out)
{
	if (!packet || !out)
		return -1;
	parse_packet(packet, out);
	return out->exclusion ? -1 : 0;
}

/*
 * Understands the packet as it lies in the kernel's memory, from its IP header on. `input`: the index of the interface at
 * which it came in, where that is `eni`'s or lies above captured ones (`eni` is NULL then), or 0. Returns 0, or -1 for a
 * packet that is in no record.
 */
static __attribute__((noinline)) int read_packet(const struct sk_buff *skb, int input, const struct eni *eni, struct parsed *out)
{
	struct pkt packet;
	u16 network = 0, mac = NO_MAC_HEADER, protocol = 0;
	u32 len = 0, tail = 0, end = 0, longest;
	struct skb_shared_info *shared;
	u8 *head = 0, *data = 0, first[6] __attribute__((aligned(4))) = {};

	__builtin_memset(&packet, 0, sizeof(packet));	/* kernels before 6.3 take no pointer to what was never written */
	packet.link = LINK_TYPED;
	READ(head, skb->head);
	READ(data, skb->data);
	READ(len, skb->len);
	READ(tail, skb->tail);
	READ(end, skb->end);
	READ(network, skb->network_header);
	READ(mac, skb->mac_header);
	READ(protocol, skb->protocol);
	shared = (void *)(head + end);
	packet.data = head + network;
	packet.wire_len = len - (u32)(head + network - data);
	packet.cap_len = tail - network;
	if (packet.cap_len > packet.wire_len)
		packet.cap_len = packet.wire_len;
	packet.type = (u16)(protocol << 8 | protocol >> 8);
	READ(packet.gso_size, shared->gso_size);
	READ(packet.gso_segs, shared->gso_segs);
	if (parse_memory(&packet, out))
		return -1;
	if (input && mac != NO_MAC_HEADER && network >= mac + ETHERNET_HEADER &&
	    !probe_read_kernel(first, sizeof(first), head + mac)) {
		out->group = first[0] & 1;
		if (eni && eni->flags & ENI_MAC && eni->flags & ENI_INSIDE)
			mark_flooded(out, first, eni);
	}
	longest = longest_fragment(skb, out->v6, input);
	if (longest && !packet.gso_size && !pkt_load(&packet, 0, first, 1))
		count_fragments(out, longest, out->v6 ? 40 : (first[0] & 0x0f) * 4);
	return 0;
}

/* Where addresses were translated, those with which the packet came in, which is where it was counted. */
static __attribute__((noinline)) int undo_nat(const struct sk_buff *skb, struct parsed *p)
{
	const struct nf_conntrack_tuple *tuple;
	unsigned long tracked = 0, status = 0;
	union nf_inet_addr address = {};
	const struct nf_conn *connection;
	u16 port = 0;
	u8 protocol = 0;
	u32 info;

	if (!__builtin_preserve_type_info(*(struct nf_conn *)0, 0))
		return 0;
	READ(tracked, skb->_nfct);
	info = tracked & NFCT_INFO;
	connection = (void *)(tracked & ~NFCT_INFO);
	if (!connection || info == CT_UNTRACKED)
		return 0;
	READ(status, connection->status);
	if (!(status & CT_NAT_DONE))
		return 0;
	tuple = info >= CT_REPLY ? __builtin_preserve_access_index(&connection->tuplehash[1].tuple)
				 : __builtin_preserve_access_index(&connection->tuplehash[0].tuple);
	READ(address, tuple->dst.u3);
	__builtin_memcpy(&p->dst, &address, 16);	/* behind an IPv4 address are zeros there, too */
	if (info == CT_RELATED || info == CT_RELATED_REPLY)	/* an ICMP error, from anyone on the way */
		return 0;
	READ(protocol, tuple->dst.protonum);
	READ(address, tuple->src.u3);
	__builtin_memcpy(&p->src, &address, 16);
	if (protocol == PROTO_TCP || protocol == PROTO_UDP) {
		READ(port, tuple->src.u.all);
		p->sport = (u16)(port << 8 | port >> 8);
		READ(port, tuple->dst.u.all);
		p->dport = (u16)(port << 8 | port >> 8);
	}
	return 0;
}

/* Fills in the key (zero before) of a rejected packet; returns 0, or -1 for a packet that is in no record. */
static __attribute__((noinline)) int rejected_key(struct parsed *p, u32 where, u64 now, struct flow_key *key)
{
	u32 slot = where >> 1;
	struct eni *eni = map_lookup(&enis, &slot);
	int known = -1;

	if (!eni)
		return -1;
	key->slot = slot;
	key->dir = where & 1;
	if (p->fragment == FRAGMENT_LATER)
		known = judge_later_fragment(0, p, where, now, key);
	if (known == OUT_EXCLUDED || (known < 0 && packet_exclusion(p, eni)))
		return -1;
	count_as_flow(key, p, OUT_REJECT, RULE_HOST_FIREWALL);
	return 0;
}

static __always_inline void tell_drop(const struct flow_key *key, const struct parsed *p, u64 now)
{
	u32 zero = 0;
	void *drops = map_lookup(&active_drops, &zero);

	if (!drops || count_into(drops, key, p, now >> MOMENT_SHIFT))
		add(&untold_drops, key->slot * 2 + key->dir, p);
}

/* The direction in which packets pass an ENI when they come in at its device. */
static __always_inline u32 direction_in(const struct eni *eni)
{
	return eni->flags & ENI_INSIDE ? DIR_INGRESS : DIR_EGRESS;
}

/* The value of `uppers` for an interface that lies above captured ones; NOWHERE: there is none. */
static __attribute__((noinline)) u32 find_upper(u32 index, u32 kind, const u8 *address)
{
	struct upper_key key = { .index = index, .kind = kind };
	u32 *found;

	if (address)
		__builtin_memcpy(key.address, address, sizeof(key.address));
	found = map_lookup(&uppers, &key);
	return found ? *found : NOWHERE;
}

/* The MAC address of the frame's sender, if the frame still has the header with which it came in; `mac` is zero before. */
static __attribute__((noinline)) int senders_mac(const struct sk_buff *skb, u8 *mac)
{
	u16 network = 0, at = NO_MAC_HEADER;
	u8 *head = 0, *data = 0;

	READ(head, skb->head);
	READ(data, skb->data);
	READ(network, skb->network_header);
	READ(at, skb->mac_header);
	/* In a header that is made for the way out data begins, and in a tunnel's packet it lies behind this one. */
	if (at == NO_MAC_HEADER || network < at + ETHERNET_HEADER || data != head + network)
		return 0;
	return !probe_read_kernel(mac, 6, head + at + 6);
}

static __always_inline int has_another_mac(u32 slot, const u8 *mac)
{
	const struct eni *eni = map_lookup(&enis, &slot);

	return !eni || (eni->flags & ENI_MAC && (*(const u32 *)eni->mac != *(const u32 *)mac ||
						 *(const u16 *)(eni->mac + 4) != *(const u16 *)(mac + 4)));
}

/*
 * Below which captured interface a packet came in that the interface `upper` passed on: a value of `uppers`, or NOWHERE if
 * it cannot be told. Then the packet is left as it is, else it gets the addresses with which it came in. `itself`: the
 * upper's own value.
 */
static __attribute__((noinline)) u32 came_from(const struct sk_buff *skb, u32 upper, u32 itself, struct parsed *p)
{
	u8 mac[16] __attribute__((aligned(8))) = {};
	int has_mac = senders_mac(skb, mac);
	u32 found = NOWHERE;
	struct parsed in = *p;

	undo_nat(skb, &in);
	if (has_mac)
		found = find_upper(upper, UPPER_MAC, mac);
	if (found == NOWHERE) {
		found = find_upper(upper, in.v6 ? UPPER_V6 : UPPER_V4, (const u8 *)&in.src);
		if (found != NOWHERE && has_mac && has_another_mac(found & UPPER_SLOT, mac))
			found = NOWHERE;	/* somebody else under this address */
	}
	if (found == NOWHERE && has_mac && itself & UPPER_IN)
		found = itself;
	if (found != NOWHERE)
		*p = in;
	return found;
}

/* The same for one that was to go out at `upper`. */
static __attribute__((noinline)) u32 leads_to(u32 upper, u32 itself, const struct parsed *p)
{
	u32 found = find_upper(upper, p->v6 ? UPPER_V6 : UPPER_V4, (const u8 *)&p->dst);

	return found == NOWHERE && itself & UPPER_OUT ? itself : found;
}

SEC("raw_tp/kfree_skb") int vnotch_dropped(u64 *context)
{
	const struct sk_buff *skb = (void *)context[0];
	const struct net_device *here = 0, *next = 0;
	u32 slot, dir, came_in, out = 0, below = NOWHERE, above_in = NOWHERE, above_out = NOWHERE;
	struct flow_key key = {};
	struct parsed p = {};
	struct eni *eni;
	unsigned long dst = 0;
	int input = 0;
	u64 now;

	if ((u32)context[2] !=
	    __builtin_preserve_enum_value(*(enum skb_drop_reason *)SKB_DROP_REASON_NETFILTER_DROP, 1))
		return 0;
	READ(here, skb->dev);
	READ(dst, skb->_skb_refdst);
	dst &= ~DST_NOREF;
	if (dst)
		READ(next, ((struct dst_entry *)dst)->dev);
	if (!(here || next) || !is_captured_netns(here ? here : next))
		return 0;

	READ(input, skb->skb_iif);
	slot = input ? slot_of(input) : MAX_SLOTS;
	came_in = slot < MAX_SLOTS;
	if (!came_in) {
		/* At postrouting and on a bridge the device is the one to go out at; before, the route knows it. */
		out = index_of(here);
		if (out == (u32)input)
			out = 0;
		slot = out ? slot_of(out) : MAX_SLOTS;
		if (slot >= MAX_SLOTS && next)
			slot = slot_of(index_of(next));
		if (input)
			above_in = find_upper(input, UPPER_ITSELF, 0);
		if (slot >= MAX_SLOTS) {
			/* A reject of IPv6 at output names the loopback device meanwhile. */
			out = out && out != LOOPBACK ? out : index_of(next);
			above_out = find_upper(out, UPPER_ITSELF, 0);
		}
	}
	eni = map_lookup(&enis, &slot);
	if (!eni && above_in == NOWHERE && above_out == NOWHERE)
		return 0;
	if (read_packet(skb, came_in || above_in != NOWHERE ? input : 0, came_in ? eni : 0, &p)) {
		if (came_in && eni && p.exclusion == EXCL_MALFORMED)	/* it was understood before; its headers lie elsewhere */
			add(&untold_drops, slot * 2 + direction_in(eni), &p);
		return 0;
	}
	if (came_in) {
		undo_nat(skb, &p);
	} else {
		if (above_in != NOWHERE)
			below = came_from(skb, input, above_in, &p);
		came_in = below != NOWHERE;
		if (!came_in) {
			p.group = 0;	/* on its way out the frame goes to another address */
			below = slot < MAX_SLOTS || above_out == NOWHERE ? slot : leads_to(out, above_out, &p);
		}
		slot = below & UPPER_SLOT;
		eni = map_lookup(&enis, &slot);
	}
	if (!eni)
		return 0;
	dir = came_in ? direction_in(eni) : !direction_in(eni);
	now = ktime_get_ns();
	if (below != NOWHERE && below & UPPER_UNSURE) {
		add(&untold_drops, slot * 2 + dir, &p);
		return 0;
	}
	if (rejected_key(&p, slot << 1 | dir, now, &key))
		return 0;
	if (came_in) {
		tell_drop(&key, &p, now);
	} else {
		add(&seen, slot * 2 + dir, &p);
		count_flow(&key, &p, now);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
