/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The parser: from a packet's bytes to what a flow needs to know of it. The eBPF program and the native library for
 * capture files are both built from this text, so a capture file gives the records that the wire would have given.
 *
 * The build that includes this file defines `pkt_load`, before or after. Everything else is pure.
 *
 * What is decided here and not by a standard:
 * - Only TCP and UDP have ports. ICMP's are 0 0 on AWS; for SCTP, DCCP and UDP-Lite AWS says nothing: 0 0 as well.
 * - IPv6 extension headers are walked, so that the protocol is the one behind them. IPv4's AH and ESP are protocols.
 * - A snap length shortens what can be read and not what was sent: lengths are checked against the length on the wire,
 *   and a packet is malformed for it only when a header that is needed is not there.
 * - A first fragment too short for its TCP or UDP header is malformed (RFC 1858 calls them attacks).
 * - An "atomic" IPv6 fragment (RFC 6946: offset 0, none to follow) is a whole packet.
 */
#ifndef VNOTCH_PARSE_H
#define VNOTCH_PARSE_H

#include "vnotch.h"

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define LINK_ETHERNET 0
#define LINK_NONE 1	/* the packet begins with its IP header */
#define LINK_TYPED 2	/* the packet begins behind a link header that named its ethertype (capture files) */

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_FRAGMENT 44
#define PROTO_AH 51
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132

#define ICMP_NONE 0	/* not ICMP, or a later fragment of it */
#define ICMP_REQUEST 1
#define ICMP_REPLY 2
#define ICMP_ERROR 3
#define ICMP_OTHER 4

#define MAX_VLAN_TAGS 2		/* in the bytes; one more may be in the skb, where it needs no parsing */
#define MAX_EXTENSION_HEADERS 8

/* A packet as it comes in. */
struct pkt {
	const void *data;	/* for pkt_load alone: a struct __sk_buff or the bytes of a capture file */
	u32 cap_len;		/* bytes that pkt_load can give */
	u32 wire_len;		/* bytes as sent, with the link header; more than cap_len behind a snap length */
	u32 gso_size;		/* payload bytes per packet on the wire, if this is several (GSO, GRO); otherwise 0 */
	u16 gso_segs;		/* their number, 0: not known */
	u16 type;		/* ethertype, with LINK_TYPED */
	u8 link;		/* LINK_* */
};

/* Copies `len` bytes at `off` to `to`; returns 0, or something else if the bytes are not all there. */
static __always_inline int pkt_load(const struct pkt *p, u32 off, void *to, u32 len);

/* An address as on the wire; IPv4 fills the first four bytes, the rest is zero. */
union address {
	u8 bytes[16];
	u32 word[4];
	u64 half[2];
};

/* What is being told of fragments. */
#define FRAGMENT_NONE 0
#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2	/* has no transport header: ports are 0 0 until the table of fragments fills them in */

/* The packet that an ICMP error is about. */
struct quoted {
	union address src;
	union address dst;
	u16 sport;
	u16 dport;
	u8 proto;
	u8 icmp;		/* ICMP_NONE, ICMP_REQUEST, ICMP_REPLY */
	u8 icmp_kind;
	u8 pad;
};

/* A packet as understood. Where `exclusion` is not EXCL_NONE, packets and bytes alone are meaningful. */
struct parsed {
	union address src;
	union address dst;
	u64 bytes;		/* IP total length of all packets on the wire; without IP, what follows the link header */
	u32 packets;		/* on the wire */
	u32 fragment_id;
	u16 sport;
	u16 dport;
	u8 proto;		/* IANA number */
	u8 v6;
	u8 exclusion;		/* EXCL_ARP to EXCL_NEIGHBOUR_DISCOVERY, EXCL_FLOODED; the others are packet_exclusion's */
	u8 group;		/* the frame was sent to a multicast or broadcast MAC address */
	u8 tcp_flags;		/* AWS's sense */
	u8 opens;		/* TCP: SYN without ACK */
	u8 fragment;		/* FRAGMENT_* */
	u8 fragment_proto;	/* as struct fragment_key wants it */
	u8 tcp_raw;		/* the TCP header's flags */
	u8 icmp;		/* ICMP_* */
	u8 icmp_type;
	u8 icmp_code;
	u16 icmp_id;		/* of requests and replies */
	u8 icmp_kind;		/* of requests and replies: the request's type */
	u8 pad;
	u32 icmp_at;		/* of ICMP_ERROR: where its header begins, and where its IP packet ends */
	u32 icmp_end;
};

static __always_inline u16 be16(const u8 *at)
{
	return (u16)(at[0] << 8 | at[1]);
}

static __always_inline u32 be32(const u8 *at)
{
	return (u32)be16(at) << 16 | be16(at + 2);
}

/*
 * AWS's tcp-flags of one packet; a record has the OR of them. FIN 1, SYN 2, RST 4 stand for themselves, ACK (16) shows
 * only together with SYN, other flags never (VPC user guide: an entry of nothing but ACK packets has the value 0).
 */
static __always_inline u8 aws_tcp_flags(u8 flags)
{
	return (flags & 0x07) | ((flags & 0x12) == 0x12 ? 0x10 : 0);
}

/* IPv6 headers that only lead to the next: hop-by-hop, routing, fragment, AH, destination, mobility, HIP, shim6. */
static __always_inline int is_extension_header(u8 proto)
{
	return proto == 0 || proto == 43 || proto == PROTO_FRAGMENT || proto == PROTO_AH || proto == 60 || proto == 135 ||
	       proto == 139 || proto == 140;
}

/* What kind of ICMP message a type is, and of requests and replies the request's type (RFC 792, RFC 950, RFC 4443). */
static __always_inline u8 icmp_class(u8 proto, u8 type, u8 *kind)
{
	*kind = 0;
	if (proto == PROTO_ICMPV6) {
		if (type >= 1 && type <= 4)
			return ICMP_ERROR;
		if (type != 128 && type != 129)
			return ICMP_OTHER;
		*kind = 128;
		return type == 128 ? ICMP_REQUEST : ICMP_REPLY;
	}
	switch (type) {
	case 3: case 4: case 5: case 11: case 12:
		return ICMP_ERROR;
	case 8: case 13: case 15: case 17:
		*kind = type;
		return ICMP_REQUEST;
	case 0:
		*kind = 8;
		return ICMP_REPLY;
	case 14: case 16: case 18:
		*kind = type - 1;
		return ICMP_REPLY;
	}
	return ICMP_OTHER;
}

/*
 * The packet that an ICMP error quotes, if it was sent by the one whom the error goes to. Returns 0, or -1 where it tells too
 * little: quoted fragments but the first, quoted IPv6 extension headers, what is cut before its ports.
 */
static __always_inline int parse_quoted(const struct pkt *p, const struct parsed *error, struct quoted *q)
{
	u32 l4 = error->icmp_at + 8, end = error->icmp_end;
	u8 h[12];

	__builtin_memset(q, 0, sizeof(*q));
	if (error->v6) {
		if (l4 + 40 > end || pkt_load(p, l4, h, 8) || h[0] >> 4 != 6 || pkt_load(p, l4 + 8, q, 32))
			return -1;
		q->proto = h[6];
		if (is_extension_header(q->proto))
			return -1;
		l4 += 40;
	} else {
		if (l4 + 20 > end || pkt_load(p, l4, h, 12) || h[0] >> 4 != 4 || (h[0] & 0x0f) < 5 || be16(h + 6) & 0x1fff)
			return -1;
		if (pkt_load(p, l4 + 12, &q->src, 4) || pkt_load(p, l4 + 16, &q->dst, 4))
			return -1;
		q->proto = h[9];
		l4 += (h[0] & 0x0f) * 4;
	}
	if (q->src.half[0] != error->dst.half[0] || q->src.half[1] != error->dst.half[1])
		return -1;
	if (q->proto == PROTO_TCP || q->proto == PROTO_UDP) {
		if (l4 + 4 > end || pkt_load(p, l4, h, 4))
			return -1;
		q->sport = be16(h);
		q->dport = be16(h + 2);
	} else if (q->proto == PROTO_ICMP || q->proto == PROTO_ICMPV6) {
		if (l4 + 6 > end || pkt_load(p, l4, h, 6))
			return -1;
		q->icmp = icmp_class(q->proto, h[0], &q->icmp_kind);
		if (q->icmp != ICMP_REQUEST && q->icmp != ICMP_REPLY)
			return -1;
		q->sport = be16(h + 4);
	}
	return 0;
}

static __always_inline void parse_icmp(const struct pkt *p, u32 at, u32 end, struct parsed *out)
{
	u8 h[6];

	/* One that is cut short before its code is judged as type 0, code 0. */
	if (at + 2 <= end && !pkt_load(p, at, h, 2)) {
		out->icmp_type = h[0];
		out->icmp_code = h[1];
	}
	out->icmp = icmp_class(out->proto, out->icmp_type, &out->icmp_kind);
	out->icmp_at = at;
	out->icmp_end = end;
	if ((out->icmp == ICMP_REQUEST || out->icmp == ICMP_REPLY) && at + 6 <= end && !pkt_load(p, at, h, 6))
		out->icmp_id = be16(h + 4);
}

/* The transport header at `at`; the IP packet ends at `end`. Returns its length, or -1 if it is malformed. */
static __always_inline int parse_transport(const struct pkt *p, u32 at, u32 end, struct parsed *out)
{
	u8 h[14];
	u32 length;

	if (out->proto == PROTO_TCP) {
		if (at + 20 > end || pkt_load(p, at, h, 14))
			return -1;
		length = (h[12] >> 4) * 4;
		/* The options of a first fragment may go on in the next one. */
		if (length < 20 || (out->fragment == FRAGMENT_NONE && at + length > end))
			return -1;
		out->tcp_flags = aws_tcp_flags(h[13]);
		out->tcp_raw = h[13];
		out->opens = (h[13] & 0x12) == 0x02;
	} else if (out->proto == PROTO_UDP) {
		if (at + 8 > end || pkt_load(p, at, h, 4))
			return -1;
		length = 8;
	} else if (out->proto == PROTO_ICMPV6 && out->v6) {
		if (at + 4 > end || pkt_load(p, at, h, 1))
			return -1;
		if (h[0] >= 133 && h[0] <= 137)
			out->exclusion = EXCL_NEIGHBOUR_DISCOVERY;
		parse_icmp(p, at, end, out);
		return 4;
	} else if (out->proto == PROTO_ICMP || out->proto == PROTO_ICMPV6) {
		parse_icmp(p, at, end, out);
		return 0;
	} else {
		return out->proto == PROTO_SCTP ? 12 : 0;
	}
	out->sport = be16(h);
	out->dport = be16(h + 2);
	return length;
}

/*
 * One frame can be many packets on the wire (GSO): each segment repeats the headers. `l3_len` is the frame's length from
 * its IP header on, `header_len` the length of the headers that are repeated.
 */
static __always_inline void count_segments(const struct pkt *p, u32 l3_len, u32 header_len, struct parsed *out)
{
	u32 n = 1;

	if (p->gso_size) {
		n = p->gso_segs;
		if (!n && l3_len > header_len)
			n = (l3_len - header_len + p->gso_size - 1) / p->gso_size;
		if (!n)
			n = 1;
	}
	out->packets = n;
	out->bytes = l3_len + (u64)(n - 1) * header_len;
}

static __always_inline int parse_ipv4(const struct pkt *p, u32 off, struct parsed *out)
{
	u32 there = p->wire_len - off, header, total;
	u16 fragment;
	int transport = 0;
	u8 h[20];

	if (there < 20 || pkt_load(p, off, h, 20))
		return -1;
	header = (h[0] & 0x0f) * 4;
	total = be16(h + 2);
	if (!total && p->gso_size)
		total = there;	/* BIG TCP: longer than the field can say */
	if (h[0] >> 4 != 4 || header < 20 || total < header || total > there)
		return -1;
	out->proto = out->fragment_proto = h[9];
	__builtin_memcpy(out->src.bytes, h + 12, 4);
	__builtin_memcpy(out->dst.bytes, h + 16, 4);
	fragment = be16(h + 6) & 0x3fff;
	if (fragment) {
		out->fragment = fragment & 0x1fff ? FRAGMENT_LATER : FRAGMENT_FIRST;
		out->fragment_id = be16(h + 4);
	}
	if (out->fragment != FRAGMENT_LATER)
		transport = parse_transport(p, off + header, off + total, out);
	if (transport < 0)
		return -1;
	count_segments(p, total, header + transport, out);
	return 0;
}

/* A walk along IPv6's extension headers. */
struct walk {
	const struct pkt *p;
	u32 at;			/* the header to look at */
	u32 end;		/* of the IP packet */
	u32 fragment_id;
	u32 jumbo;		/* bytes of BIG TCP's option, which lives inside the host: segments leave without it */
	u8 next;		/* what the header at `at` is */
	u8 fragment;
	u8 fragment_proto;
	u8 state;
};

#define WALK_ON 0	/* the next header is one to walk over, or has not been looked at */
#define WALK_DONE 1
#define WALK_BAD 2

/* One step; returns 1 at the end of the walk. */
static long walk_extension_header(u32 index, struct walk *w)
{
	u8 h[8], proto = w->next;
	u32 length;

	if (!is_extension_header(proto)) {
		w->state = WALK_DONE;
		return 1;
	}
	if (index >= MAX_EXTENSION_HEADERS || w->at + 8 > w->end || pkt_load(w->p, w->at, h, 8)) {
		w->state = WALK_BAD;
		return 1;
	}
	w->next = h[0];
	length = proto == PROTO_AH ? (h[1] + 2) * 4 : (h[1] + 1) * 8;
	if (proto == PROTO_FRAGMENT) {
		u16 fragment = be16(h + 2) & 0xfff9;

		length = 8;
		if (fragment) {
			if (w->fragment) {	/* a fragment of a fragment */
				w->state = WALK_BAD;
				return 1;
			}
			w->fragment = fragment & 0xfff8 ? FRAGMENT_LATER : FRAGMENT_FIRST;
			w->fragment_id = be32(h + 4);
			w->fragment_proto = h[0];
			if (w->fragment == FRAGMENT_LATER) {	/* what follows is not a header */
				w->at += 8;
				w->state = WALK_DONE;
				return 1;
			}
		}
	}
	if (proto == 0 && h[2] == 0xc2 && h[3] == 4)
		w->jumbo = 8;
	w->at += length;
	if (w->at > w->end) {
		w->state = WALK_BAD;
		return 1;
	}
	return 0;
}

/* The verifier looks at bpf_loop's callback once; a loop written out costs it more than the million steps it has. */
static __always_inline void walk_extension_headers(struct walk *w)
{
#ifdef __bpf__
	long (*bpf_loop)(u32 steps, void *callback, void *context, u64 flags) = (void *)181;

	bpf_loop(MAX_EXTENSION_HEADERS + 1, walk_extension_header, w, 0);
#else
	u32 i;

	for (i = 0; i <= MAX_EXTENSION_HEADERS && !walk_extension_header(i, w); i++)
		;
#endif
}

static __always_inline int parse_ipv6(const struct pkt *p, u32 off, struct parsed *out)
{
	u32 there = p->wire_len - off, total, jumbo;
	struct walk w = { .p = p, .at = off + 40 };
	int transport = 0;
	u8 h[40];

	if (there < 40 || pkt_load(p, off, h, 40))
		return -1;
	total = 40 + be16(h + 4);
	if (total == 40 && p->gso_size)
		total = there;	/* BIG TCP: longer than the field can say */
	if (h[0] >> 4 != 6 || total > there)
		return -1;
	out->v6 = 1;
	__builtin_memcpy(out->src.bytes, h + 8, 16);
	__builtin_memcpy(out->dst.bytes, h + 24, 16);
	w.end = off + total;
	w.next = h[6];
	if (is_extension_header(w.next)) {
		walk_extension_headers(&w);
		if (w.state != WALK_DONE)
			return -1;
		out->fragment = w.fragment;
		out->fragment_id = w.fragment_id;
		out->fragment_proto = w.fragment_proto;
	}
	out->proto = w.next;
	if (out->fragment != FRAGMENT_LATER)
		transport = parse_transport(p, w.at, w.end, out);
	if (transport < 0)
		return -1;
	jumbo = p->gso_size ? w.jumbo : 0;
	count_segments(p, total - jumbo, w.at - off - jumbo + transport, out);
	return 0;
}

/*
 * The packets that nearly all are, in one look: Ethernet without a tag, IPv4 without options or IPv6 without extension
 * headers, TCP or UDP, whole. `data` to `end` are the packet's first bytes, as many as lie in memory in one piece.
 * Returns 0, or something else for parse_packet to find out, which makes the same of what is understood here.
 */
static __always_inline int parse_plain(const u8 *data, const u8 *end, const struct pkt *p, struct parsed *out)
{
	const u8 *l4;
	u32 header, length, room;

	if (data + 42 > end)
		return -1;
	/* As the bytes lie in memory. */
	if (*(const u16 *)(data + 12) == 0x0008) {
		if (data[14] != 0x45 || *(const u16 *)(data + 20) & 0xff3f)
			return -1;
		header = 20;
		length = __builtin_bswap16(*(const u16 *)(data + 16));
		out->proto = data[23];
		out->v6 = 0;
		/* Stored as it will be read, by halves: a load that two stores have to serve waits until both are in the cache. */
		out->src.half[0] = *(const u32 *)(data + 26);
		out->dst.half[0] = *(const u32 *)(data + 30);
		out->src.half[1] = out->dst.half[1] = 0;
		l4 = data + 34;
	} else if (*(const u16 *)(data + 12) == 0xdd86) {
		if (data + 62 > end || data[14] >> 4 != 6)
			return -1;
		header = 40;
		length = 40 + __builtin_bswap16(*(const u16 *)(data + 18));
		out->proto = data[20];
		out->v6 = 1;
		__builtin_memcpy(out->src.bytes, data + 22, 16);
		__builtin_memcpy(out->dst.bytes, data + 38, 16);
		l4 = data + 54;
	} else {
		return -1;
	}
	/* A length of nothing behind the header is BIG TCP's, if anything. */
	if (length <= header || length > p->wire_len - 14)
		return -1;
	room = length - header;
	if (out->proto == PROTO_TCP) {
		u32 options;

		if (l4 + 20 > end || room < 20)
			return -1;
		options = (l4[12] >> 4) * 4;
		if (options < 20 || options > room)
			return -1;
		out->tcp_flags = aws_tcp_flags(l4[13]);
		out->tcp_raw = l4[13];
		out->opens = (l4[13] & 0x12) == 0x02;
		header += options;
	} else if (out->proto == PROTO_UDP) {
		if (room < 8)
			return -1;
		out->tcp_flags = out->tcp_raw = 0;
		out->opens = 0;
		header += 8;
	} else {
		return -1;
	}
	out->sport = __builtin_bswap16(*(const u16 *)l4);
	out->dport = __builtin_bswap16(*(const u16 *)(l4 + 2));
	out->group = data[0] & 1;
	out->exclusion = EXCL_NONE;
	out->fragment = FRAGMENT_NONE;
	out->icmp = ICMP_NONE;
	count_segments(p, length, header, out);
	return 0;
}

/*
 * Parses one packet. Always fills in `packets` and `bytes`; `exclusion` says whether there is more. A malformed packet
 * keeps nothing of what was read before the fault was found.
 */
static __always_inline void parse_packet(const struct pkt *p, struct parsed *out)
{
	u32 off = 0;
	u16 type = 0;
	int bad = 0, i;
	u8 h[14], group = 0;

	__builtin_memset(out, 0, sizeof(*out));
	if (p->link != LINK_NONE) {
		if (p->link == LINK_TYPED) {
			type = p->type;
		} else {
			bad = p->wire_len < 14 || pkt_load(p, 0, h, 14);
			if (!bad) {
				group = h[0] & 1;
				type = be16(h + 12);
				off = 14;
			}
		}
		for (i = 0; i < MAX_VLAN_TAGS && !bad && (type == 0x8100 || type == 0x88a8); i++) {
			bad = off + 4 > p->wire_len || pkt_load(p, off, h, 4);
			if (!bad) {
				type = be16(h + 2);
				off += 4;
			}
		}
	} else {
		bad = p->wire_len < 1 || pkt_load(p, 0, h, 1);
		if (!bad)
			type = h[0] >> 4 == 4 ? 0x0800 : h[0] >> 4 == 6 ? 0x86dd : 0;
		bad |= !type;
	}
	if (!bad) {
		if (type == 0x0800)
			bad = parse_ipv4(p, off, out);
		else if (type == 0x86dd)
			bad = parse_ipv6(p, off, out);
		else
			out->exclusion = type == 0x0806 ? EXCL_ARP : EXCL_NON_IP;
	}
	out->group = group;
	if (bad)
		out->exclusion = EXCL_MALFORMED;
	if (bad || !out->packets) {
		out->packets = p->gso_size && p->gso_segs ? p->gso_segs : 1;
		out->bytes = p->wire_len - off;
	}
}

/* ---- Traffic that is never recorded ---------------------------------------------------------------------------- */

/* The addresses that AWS keeps for its own services, in both families (EC2 user guide; VPC user guide, limitations). */
static __always_inline u8 reserved_address(const union address *a, u8 v6, const struct eni *eni)
{
	u32 word;

	if (!v6) {
		const u32 *dns = (const u32 *)eni->dns_v4, *router = (const u32 *)eni->router_v4;

		word = a->word[0];
		if ((word & 0x00ffffff) == 0x00a9fea9) {	/* 169.254.169.0/24, as it lies in memory */
			switch (word >> 24) {
			case 253: return EXCL_DNS;
			case 250: case 251: return EXCL_ACTIVATION;
			case 254: return EXCL_METADATA;
			case 123: return EXCL_TIME;
			}
		}
		if (!word)
			return EXCL_NONE;
		if (word == dns[0])
			return EXCL_DNS;
		return word == router[0] || word == router[1] ? EXCL_ROUTER : EXCL_NONE;
	}
	if (a->word[1] == 0 && a->word[2] == 0) {
		word = be32(a->bytes + 12);
		if (a->word[0] == 0xc20e00fd) {		/* fd00:ec2::/32 */
			switch (word) {
			case 0x253: return EXCL_DNS;
			case 0x250: return EXCL_ACTIVATION;
			case 0x254: return EXCL_METADATA;
			case 0x123: return EXCL_TIME;
			}
		}
		if (a->word[0] == 0xc20e80fe && word == 1)	/* fe80:ec2::1 */
			return EXCL_ROUTER;
	}
	{
		const u32 *router = (const u32 *)eni->router_v6;

		if ((router[0] | router[1] | router[2] | router[3]) && a->word[0] == router[0] && a->word[1] == router[1] &&
		    a->word[2] == router[2] && a->word[3] == router[3])
			return EXCL_ROUTER;
	}
	return EXCL_NONE;
}

/* The reserved address at one end excludes the packet if the service's port is that end's. */
static __always_inline u8 service_exclusion(u8 reserved, u8 proto, u16 port)
{
	if (reserved == EXCL_DNS)
		return (proto == PROTO_UDP || proto == PROTO_TCP) && port == 53 ? EXCL_DNS : EXCL_NONE;
	if (reserved == EXCL_ACTIVATION)
		return proto == PROTO_TCP && port == 1688 ? EXCL_ACTIVATION : EXCL_NONE;
	return reserved;
}

/*
 * A switch sends a frame whose receiver it does not know to all its ports: one that comes to an ENI's port under another
 * unicast address is not the ENI's. `frame` begins with the destination.
 */
static __always_inline void mark_flooded(struct parsed *p, const u8 *frame, const struct eni *eni)
{
	if (p->exclusion || p->group)
		return;
	if (*(const u32 *)frame != *(const u32 *)eni->mac || *(const u16 *)(frame + 4) != *(const u16 *)(eni->mac + 4))
		p->exclusion = EXCL_FLOODED;
}

/*
 * Why the packet is in no record, EXCL_NONE if it is in one. Ports must be filled in where a table of fragments knows
 * them. The most particular reason is given: neighbour discovery and DHCP before multicast, which both use.
 */
static __always_inline u8 packet_exclusion(const struct parsed *p, const struct eni *eni)
{
	u8 reason;

	if (p->exclusion)
		return p->exclusion;
	if (p->proto == PROTO_UDP) {
		u16 low = p->v6 ? 546 : 67;

		if ((p->sport == low || p->sport == low + 1) && (p->dport == low || p->dport == low + 1))
			return EXCL_DHCP;
	}
	/* A subnet's broadcast address is known by its MAC address alone. */
	if (p->group || (p->v6 ? p->dst.bytes[0] == 0xff : (p->dst.bytes[0] & 0xf0) == 0xe0 || p->dst.word[0] == 0xffffffff))
		return EXCL_MULTICAST;
	reason = service_exclusion(reserved_address(&p->dst, p->v6, eni), p->proto, p->dport);
	if (reason)
		return reason;
	return service_exclusion(reserved_address(&p->src, p->v6, eni), p->proto, p->sport);
}

#endif
