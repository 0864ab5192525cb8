/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The structs that cross the border between the kernel and user space. The native build (capture files) uses the same
 * ones. src/vnotch/capture/layout.py repeats their offsets and asserts, at import, that sizes agree.
 *
 * All numbers are host order, addresses are bytes as on the wire. An IPv4 address fills the first four bytes.
 */
#ifndef VNOTCH_H
#define VNOTCH_H

/* Raised when a struct or a map below changes, so that maps pinned by another release are recognised. */
#define LAYOUT_VERSION 6

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed int s32;
typedef signed long long s64;

/* Direction, from the ENI's point of view (flow.py: Direction). */
#define DIR_INGRESS 0
#define DIR_EGRESS 1

/* Outcome (flow.py: Outcome). */
#define OUT_ACCEPT 0
#define OUT_REJECT 1
#define OUT_EXCLUDED 2

/* Exclusion (flow.py: Exclusion). */
#define EXCL_NONE 0
#define EXCL_ARP 1
#define EXCL_NON_IP 2
#define EXCL_MALFORMED 3
#define EXCL_NEIGHBOUR_DISCOVERY 4
#define EXCL_MULTICAST 5
#define EXCL_DNS 6
#define EXCL_ACTIVATION 7
#define EXCL_METADATA 8
#define EXCL_TIME 9
#define EXCL_DHCP 10
#define EXCL_ROUTER 11
#define EXCL_FLOODED 12

struct flow_key {
	u8 src[16];
	u8 dst[16];
	u16 sport;
	u16 dport;
	u16 slot;	/* ENI slot, given out by the agent */
	u8 proto;	/* IANA number; for OUT_EXCLUDED the exclusion */
	u8 dir : 1;	/* DIR_* */
	u8 outcome : 2;	/* OUT_* */
	u8 v6 : 1;
	u8 unused : 4;
	u32 rule;	/* number of the rule that decided, 0: none */
};
_Static_assert(sizeof(struct flow_key) == 44, "flow_key");

/*
 * A moment in steps of 2^20 ns of CLOCK_MONOTONIC, which is as much as a record of seconds needs: it wraps after 52 days, a
 * flow map is drained after seconds. With it an entry of the hash is two cache lines of 64 bytes.
 */
#define MOMENT_SHIFT 20

struct flow_value {
	u64 packets;	/* as on the wire */
	u64 bytes;	/* IP total length */
	u32 first;	/* moment */
	u32 last;
	u32 tcp_flags;	/* AWS's sense */
	u32 pad;
};
_Static_assert(sizeof(struct flow_value) == 32, "flow_value");

/* A packet that found the flow map full, as it goes into the ring buffer. */
struct spill {
	struct flow_key key;
	u32 tcp_flags;
	u64 packets;
	u64 bytes;
	u64 ns;		/* CLOCK_MONOTONIC */
};
_Static_assert(sizeof(struct spill) == 72, "spill");

/* What the datapath knows of an ENI, by slot. */
#define ENI_ENFORCE 1	/* drop what is rejected; otherwise only label it */
#define ENI_ADOPT 2	/* connections from before the capture are taken over */
#define ENI_INSIDE 4	/* the device is the ENI itself, not the host's end of a link to it; at a hook the program tells it */
#define ENI_NO_LINK_HEADER 8	/* packets begin with their IP header */
#define ENI_MAC 16	/* frames to the ENI that carry another unicast address are not the ENI's: `mac` */
struct eni {
	u32 flags;
	u8 dns_v4[4];		/* VPC base + 2; zero: none */
	u8 router_v4[2][4];	/* VPC base + 1, subnet base + 1 */
	u8 router_v6[16];	/* ::1 of the subnet; zero: none */
	u8 mac[6];
	u8 pad[2];
	u64 enforce_until;	/* with ENI_ENFORCE: CLOCK_MONOTONIC from which on it only observes; 0: it enforces for good */
};
_Static_assert(sizeof(struct eni) == 48, "eni");

struct counter {
	u64 packets;
	u64 bytes;
};

/* A datagram of which fragments are under way, and what its first fragment told of it. */
#define FRAGMENT_NS 30000000000ULL	/* Linux waits as long for the rest of a datagram (ipfrag_time) */
struct fragment_key {
	u8 src[16];
	u8 dst[16];
	u32 id;
	u16 slot;
	u8 proto;	/* as the fragments carry it: IPv6 names the first header after the fragment header */
	u8 dir;
};
_Static_assert(sizeof(struct fragment_key) == 40, "fragment_key");

struct fragment_value {
	u64 ns;		/* of the first fragment; it counts for FRAGMENT_NS */
	u16 sport;
	u16 dport;
	u8 proto;	/* the transport protocol */
	u8 outcome;	/* OUT_* of the first fragment, which the later ones share */
	u8 exclusion;	/* EXCL_* with OUT_EXCLUDED */
	u8 pad;
	u32 rule;
	u32 pad2;
};
_Static_assert(sizeof(struct fragment_value) == 24, "fragment_value");

/*
 * What lies above captured interfaces (a bridge whose ports they are, a VLAN, a bond): of a packet that is dropped there,
 * the address tells which of them it concerns. capture/uppers.py fills the map; the value is a slot with UPPER_*.
 */
#define UPPER_ITSELF 0	/* there for each such interface; the address is zero */
#define UPPER_MAC 1	/* of whoever is behind a port */
#define UPPER_V4 4	/* of an ENI that is seen from outside */
#define UPPER_V6 6
struct upper_key {
	u32 index;
	u32 kind;
	u8 address[16];
};
_Static_assert(sizeof(struct upper_key) == 24, "upper_key");

#define UPPER_SLOT 0xffff
#define UPPER_IN 0x10000	/* with UPPER_ITSELF: all that comes in over it came in at the slot */
#define UPPER_OUT 0x20000	/* with UPPER_ITSELF: all that goes out over it goes out at the slot */
#define UPPER_UNSURE 0x40000	/* the slot is one of several that it may be */

/* A connection that a security group rule let begin (connections.py). Both directions have one key. */
struct connection_key {
	u8 local[16];	/* the ENI's end */
	u8 remote[16];
	u16 local_port;	/* ICMP: the query's identifier */
	u16 remote_port;	/* ICMP: the request's type, + 256 if the request goes out */
	u16 slot;
	u8 proto;
	u8 v6;
};
_Static_assert(sizeof(struct connection_key) == 40, "connection_key");

struct connection {
	u64 last_ns;	/* of the last packet; CLOCK_MONOTONIC, the native build: Unix time */
	u32 rule;	/* number of the rule that opened it */
	u8 state;	/* TCP_*, UDP_*, or 0 */
	u8 opened_by;	/* DIR_* */
	u8 pad[2];
	/* By direction: what the network ACL said under this generation of the rules. 0: not asked. */
	u32 acl_generation[2];
	u32 acl_rule[2];	/* number, ACL_DENIES */
	u64 pad2;
};
_Static_assert(sizeof(struct connection) == 40, "connection");

#define ACL_DENIES 0x80000000u

#define TCP_OPENING 0
#define TCP_ANSWERED 1
#define TCP_ESTABLISHED 2
#define TCP_CLOSING_BY_OPENER 3
#define TCP_CLOSING_BY_ANSWERER 4
#define TCP_CLOSED 5
#define UDP_STREAM 3

/* Numbers of rules that name no rule (deciders.py). */
#define RULE_UNKNOWN 0
#define RULE_DEFAULT 1
#define RULE_TABLE_FULL 2
#define RULE_HOST_FIREWALL 3
#define RULE_TRACKED 0x80000000u	/* with a security group rule's number: by its connection */

/* Compiled rules: see verdict.h. A power of two, so that a mask keeps every access inside. */
#define ARENA_WORDS (1u << 20)
#define POLICY_GROUPS 1
#define POLICY_ACL 2
#define POLICY_TRACK_ALWAYS 4
#define TABLE_TCP_V4 1
#define TABLE_TCP_V6 2
#define TABLE_UDP_V4 4
#define TABLE_UDP_V6 8
#define SERVICE_OPEN_V4 1
#define SERVICE_OPEN_V6 2
#define SERVICE_PORTLESS 0x1000000u	/* a later fragment: the protocol alone is known */
#define RULE_ALLOW 1
#define BITMAP_WORDS 16	/* at most, of 64 rules each */

struct arena {
	u64 words[ARENA_WORDS];
};

/* Counters that belong to no ENI. */
#define COUNT_UNKNOWN_INTERFACE 0	/* packets of an interface that has no slot: passed, not captured */
#define COUNT_FRAGMENTS_FULL 1	/* first fragments that the fragment table had no room for */
#define COUNT_SPILLED 2	/* packets that went through the ring buffer */
#define COUNT_CONNECTIONS_FULL 3	/* connections that the table had no room for: rejected */
#define COUNTS 4

#define MAX_SLOTS 4096

/* Interfaces with an index below this have their slot in an array, which is faster than the hash that has them all. */
#define NEAR_INDEXES 8192

#endif
