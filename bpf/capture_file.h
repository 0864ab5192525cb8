/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Reads the records of a capture file: classic pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng), each in
 * both byte orders.
 *
 * The reader is pushed: the caller gives it the bytes that it has, from where the last call stopped, and reader_next says
 * what comes first in them. A record is consumed by reader_skip, so that a caller may leave a packet where it is, do
 * something else first (drain a tick) and come back to it. Nothing here allocates but the list of interfaces.
 *
 * Every length is checked against the bytes at hand before it is used. The first contradiction ends the reading:
 * READ_DAMAGED, with the offset and a sentence.
 */
#ifndef CAPTURE_FILE_H
#define CAPTURE_FILE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vnotch.h"

#define READ_MORE 0	/* nothing whole is left: `need` bytes must follow `offset` */
#define READ_PACKET 1	/* `packet` is the next record */
#define READ_INTERFACE 2	/* `interfaces[described]` was described just now and is consumed */
#define READ_DAMAGED 3	/* `message`, `damaged_at` */

/* tcpdump's and Wireshark's own bound on a captured packet. */
#define MAX_CAPTURED (256 * 1024)
/* Bound on a block that has to be seen whole. Others are passed over at any length. */
#define MAX_BLOCK (16 * 1024 * 1024)
/* Far above any frame, GSO included: what says more on the wire is not a length. */
#define MAX_WIRE (16 * 1024 * 1024)
#define MAX_NAME 128

#define LINKTYPE_ETHERNET 1
#define LINKTYPE_RAW_12 12
#define LINKTYPE_RAW 101
#define LINKTYPE_LINUX_SLL 113
#define LINKTYPE_IPV4 228
#define LINKTYPE_IPV6 229
#define LINKTYPE_LINUX_SLL2 276

/* What a packet says about its own direction (pcapng epb_flags bits 0-1), seen from the captured interface. */
#define FLAG_UNKNOWN 0
#define FLAG_INBOUND 1
#define FLAG_OUTBOUND 2

#define BLOCK_SECTION 0x0A0D0D0Au
#define BLOCK_INTERFACE 1u
#define BLOCK_PACKET_OLD 2u
#define BLOCK_PACKET_SIMPLE 3u
#define BLOCK_PACKET 6u

struct captured_interface {
	u32 link;
	u32 snaplen;
	u32 section;	/* counted from 0 */
	u32 index;	/* within its section */
	s64 offset_s;	/* if_tsoffset */
	u8 resolution;	/* if_tsresol as in the file */
	u8 has_policy;	/* set by the caller, with `slot` */
	u16 slot;
	u32 name_length;
	char name[MAX_NAME];
};

struct captured_packet {
	const u8 *data;
	u32 length;
	u32 wire_length;
	u64 ns;
	u32 interface;
	u8 flag;	/* FLAG_* */
	u8 timed;	/* false: a simple packet block, which has no time; `ns` is the previous packet's */
};

struct reader {
	u64 offset;	/* bytes consumed since the beginning of the file */
	u64 need;
	u64 damaged_at;
	u64 blocks_skipped;
	char message[160];
	u32 described;
	u32 interface_count;	/* of this section */
	u32 interface_room;
	u32 section;
	struct captured_interface *interfaces;

	u8 format;	/* 0 not known yet, FORMAT_* */
	u8 swapped;
	u64 unit_ns;	/* classic: of the fraction */
	u64 skip_left;	/* bytes of a block that is being passed over, before its trailing length */
	u32 skip_length;	/* the trailing length to expect; 0: no block is being passed over */
	u64 last_ns;
	u64 record;	/* bytes of the record in `packet`, for reader_skip */
	struct captured_packet packet;
};

#define FORMAT_CLASSIC 1
#define FORMAT_NG 2

static int damaged(struct reader *reader, u64 at, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int damaged(struct reader *reader, u64 at, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reader->message, sizeof(reader->message), format, arguments);
	va_end(arguments);
	reader->damaged_at = at;
	return READ_DAMAGED;
}

static inline u16 file_u16(const struct reader *reader, const u8 *at)
{
	u16 value;

	memcpy(&value, at, sizeof(value));
	return reader->swapped ? __builtin_bswap16(value) : value;
}

static inline u32 file_u32(const struct reader *reader, const u8 *at)
{
	u32 value;

	memcpy(&value, at, sizeof(value));
	return reader->swapped ? __builtin_bswap32(value) : value;
}

static inline u64 file_u64(const struct reader *reader, const u8 *at)
{
	u64 value;

	memcpy(&value, at, sizeof(value));
	return reader->swapped ? __builtin_bswap64(value) : value;
}

static int more(struct reader *reader, u64 need)
{
	reader->need = need;
	return READ_MORE;
}

static int link_supported(u32 link)
{
	switch (link) {
	case LINKTYPE_ETHERNET:
	case LINKTYPE_RAW_12:
	case LINKTYPE_RAW:
	case LINKTYPE_LINUX_SLL:
	case LINKTYPE_IPV4:
	case LINKTYPE_IPV6:
	case LINKTYPE_LINUX_SLL2:
		return 1;
	}
	return 0;
}

static struct captured_interface *add_interface(struct reader *reader)
{
	struct captured_interface *interface;

	if (reader->interface_count == reader->interface_room) {
		u32 room = reader->interface_room ? reader->interface_room * 2 : 8;
		struct captured_interface *grown = realloc(reader->interfaces, room * sizeof(*grown));

		if (!grown)
			return NULL;
		reader->interfaces = grown;
		reader->interface_room = room;
	}
	reader->described = reader->interface_count++;
	interface = &reader->interfaces[reader->described];
	memset(interface, 0, sizeof(*interface));
	interface->index = reader->described;
	interface->section = reader->section;
	return interface;
}

/* What both formats have in common: the packet in `reader->packet` is the record's, if its lengths can be. */
static inline int packet_found(struct reader *reader, u64 lengths_at)
{
	struct captured_packet *packet = &reader->packet;

	if (packet->wire_length > MAX_WIRE)
		return damaged(reader, lengths_at, "a packet of %u bytes on the wire", packet->wire_length);
	/* Some writers leave the length on the wire at 0 or at the length before they added a header. */
	if (packet->wire_length < packet->length)
		packet->wire_length = packet->length;
	return READ_PACKET;
}

/* Classic pcap ------------------------------------------------------------------------------------------------------- */

static int classic_header(struct reader *reader, const u8 *data, u64 length)
{
	struct captured_interface *interface;
	u32 link;

	if (length < 24)
		return more(reader, 24);
	if (file_u16(reader, data + 4) != 2)
		return damaged(reader, 4, "pcap version %u.%u, 2.4 is read", file_u16(reader, data + 4),
			       file_u16(reader, data + 6));
	/* The high bits of the field say how long a frame check sequence is; we count IP bytes and do not need it. */
	link = file_u32(reader, data + 20) & 0xffff;
	if (!link_supported(link))
		return damaged(reader, 20, "link type %u is not read", link);
	interface = add_interface(reader);
	if (!interface)
		return damaged(reader, 0, "no memory for an interface");
	interface->link = link;
	interface->snaplen = file_u32(reader, data + 16);
	reader->offset += 24;
	return READ_INTERFACE;
}

static inline int classic_next(struct reader *reader, const u8 *data, u64 length)
{
	struct captured_packet *packet = &reader->packet;
	u32 captured;

	if (length < 16)
		return more(reader, 16);
	captured = file_u32(reader, data + 8);
	if (captured > MAX_CAPTURED)
		return damaged(reader, reader->offset + 8, "a packet of %u captured bytes, at most %u are possible", captured,
			       MAX_CAPTURED);
	if (length - 16 < captured)
		return more(reader, 16 + (u64)captured);
	packet->data = data + 16;
	packet->length = captured;
	packet->wire_length = file_u32(reader, data + 12);
	packet->ns = file_u32(reader, data) * 1000000000ull + file_u32(reader, data + 4) * reader->unit_ns;
	packet->interface = 0;
	packet->flag = FLAG_UNKNOWN;
	packet->timed = 1;
	reader->record = 16 + (u64)captured;
	return packet_found(reader, reader->offset + 12);
}

/* pcapng ------------------------------------------------------------------------------------------------------------- */

/* if_tsresol: 10^-n, or 2^-n when the highest bit is set. False: the time does not fit into 1970 to 2262. */
static int file_time(const struct captured_interface *interface, u32 high, u32 low, u64 *ns)
{
	u64 units = (u64)high << 32 | low;
	u32 power = interface->resolution & 0x7f;
	__int128 time;

	if (interface->resolution & 0x80) {
		time = (__int128)(((unsigned __int128)units * 1000000000ull) >> power);
	} else if (power <= 9) {
		u64 scale = 1;

		for (; power < 9; power++)
			scale *= 10;
		time = (__int128)units * scale;
	} else {
		for (; power > 9 && units; power--)
			units /= 10;
		time = units;
	}
	time += (__int128)interface->offset_s * 1000000000;
	if (time < 0 || time > 0x7fffffffffffffffll)
		return 0;
	*ns = (u64)time;
	return 1;
}

/* Steps through the options of a block. 1: an option, 0: the end, -1: a length that passes the block's end. */
static int next_option(const struct reader *reader, const u8 **at, const u8 *end, u16 *code, const u8 **value, u16 *length)
{
	u64 padded;

	if (end - *at < 4)
		return *at == end ? 0 : -1;
	*code = file_u16(reader, *at);
	*length = file_u16(reader, *at + 2);
	if (*code == 0)
		return 0;
	padded = ((u64)*length + 3) & ~3ull;
	if ((u64)(end - *at) - 4 < padded)
		return -1;
	*value = *at + 4;
	*at += 4 + padded;
	return 1;
}

static int section_block(struct reader *reader, const u8 *data, u64 length)
{
	u32 size;

	if (length < 12)
		return more(reader, 12);
	/* The byte order mark speaks for this section alone, its own length included. */
	if (!memcmp(data + 8, "\x1a\x2b\x3c\x4d", 4))
		reader->swapped = __BYTE_ORDER__ != __ORDER_BIG_ENDIAN__;
	else if (!memcmp(data + 8, "\x4d\x3c\x2b\x1a", 4))
		reader->swapped = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
	else
		return damaged(reader, reader->offset + 8, "a section header without a byte order mark");
	size = file_u32(reader, data + 4);
	if (size < 28 || size % 4 || size > MAX_BLOCK)
		return damaged(reader, reader->offset + 4, "a section header of %u bytes", size);
	if (length < size)
		return more(reader, size);
	if (file_u32(reader, data + size - 4) != size)
		return damaged(reader, reader->offset + size - 4, "a block of %u bytes whose trailing length says %u", size,
			       file_u32(reader, data + size - 4));
	if (file_u16(reader, data + 12) != 1)
		return damaged(reader, reader->offset + 12, "pcapng version %u.%u, 1.0 is read", file_u16(reader, data + 12),
			       file_u16(reader, data + 14));
	if (reader->offset)
		reader->section++;
	reader->interface_count = 0;
	reader->offset += size;
	return READ_PACKET; /* not a packet: the caller goes on with the next block */
}

static int interface_block(struct reader *reader, const u8 *data, u32 size)
{
	const u8 *option = data + 16, *end = data + size - 4, *value;
	struct captured_interface *interface;
	u32 link = file_u16(reader, data + 8);
	u16 code, length;
	int step;

	if (!link_supported(link))
		return damaged(reader, reader->offset + 8, "interface %u has link type %u, which is not read",
			       reader->interface_count, link);
	if (reader->interface_count == MAX_SLOTS)
		return damaged(reader, reader->offset, "more than %u interfaces in a section", MAX_SLOTS);
	interface = add_interface(reader);
	if (!interface)
		return damaged(reader, reader->offset, "no memory for an interface");
	interface->link = link;
	interface->snaplen = file_u32(reader, data + 12);
	interface->resolution = 6;
	while ((step = next_option(reader, &option, end, &code, &value, &length)) == 1) {
		if (code == 2) { /* if_name */
			interface->name_length = length < MAX_NAME ? length : MAX_NAME;
			memcpy(interface->name, value, interface->name_length);
		} else if (code == 9 && length == 1) { /* if_tsresol */
			interface->resolution = value[0];
		} else if (code == 14 && length == 8) { /* if_tsoffset */
			interface->offset_s = (s64)file_u64(reader, value);
		} else if (code == 9 || code == 14) {
			step = -1;
			break;
		}
	}
	if (step < 0) {
		reader->interface_count--;
		return damaged(reader, reader->offset + (u64)(option - data), "an interface option passes its block's end");
	}
	reader->offset += size;
	return READ_INTERFACE;
}

/* Enhanced packet blocks, and the packet blocks that they replaced, which differ in the first word and the flags' code. */
static int packet_block(struct reader *reader, const u8 *data, u32 size, int old)
{
	struct captured_packet *packet = &reader->packet;
	const u8 *option, *end = data + size - 4, *value;
	u32 captured = file_u32(reader, data + 20);
	u16 code, length;
	int step;

	packet->interface = old ? file_u16(reader, data + 8) : file_u32(reader, data + 8);
	if (packet->interface >= reader->interface_count)
		return damaged(reader, reader->offset + 8, "a packet of interface %u, %u are described", packet->interface,
			       reader->interface_count);
	if (captured > MAX_CAPTURED || captured > size - 32)
		return damaged(reader, reader->offset + 20, "a packet of %u captured bytes in a block of %u", captured, size);
	if (!file_time(&reader->interfaces[packet->interface], file_u32(reader, data + 12), file_u32(reader, data + 16),
		       &packet->ns))
		return damaged(reader, reader->offset + 12, "a packet's time is not between 1970 and 2262");
	packet->data = data + 28;
	packet->length = captured;
	packet->wire_length = file_u32(reader, data + 24);
	packet->flag = FLAG_UNKNOWN;
	packet->timed = 1;
	option = packet->data + ((captured + 3) & ~3u);
	while ((step = next_option(reader, &option, end, &code, &value, &length)) == 1) {
		if (code == 2 && length == 4) /* epb_flags, pack_flags */
			packet->flag = file_u32(reader, value) & 3;
	}
	if (step < 0)
		return damaged(reader, reader->offset + (u64)(option - data), "a packet option passes its block's end");
	reader->record = size;
	return packet_found(reader, reader->offset + 24);
}

static int simple_packet_block(struct reader *reader, const u8 *data, u32 size)
{
	struct captured_packet *packet = &reader->packet;
	u32 snaplen;

	if (!reader->interface_count)
		return damaged(reader, reader->offset, "a packet of interface 0, none is described");
	packet->wire_length = file_u32(reader, data + 8);
	packet->length = packet->wire_length;
	snaplen = reader->interfaces[0].snaplen;
	if (snaplen && packet->length > snaplen)
		packet->length = snaplen;
	if (packet->length > MAX_CAPTURED || packet->length > size - 16)
		return damaged(reader, reader->offset + 8, "a packet of %u captured bytes in a block of %u", packet->length,
			       size);
	packet->data = data + 12;
	packet->interface = 0;
	packet->flag = FLAG_UNKNOWN;
	packet->timed = 0;
	packet->ns = reader->last_ns;
	reader->record = size;
	return packet_found(reader, reader->offset + 8);
}

/* A block that we have no use for: its length leads over it, however long it is. */
static int pass_over(struct reader *reader, const u8 **data, u64 *length)
{
	u64 step = reader->skip_left < *length ? reader->skip_left : *length;

	reader->skip_left -= step;
	reader->offset += step;
	*data += step;
	*length -= step;
	if (reader->skip_left)
		return more(reader, 1);
	if (*length < 4)
		return more(reader, 4);
	if (file_u32(reader, *data) != reader->skip_length)
		return damaged(reader, reader->offset, "a block of %u bytes whose trailing length says %u",
			       reader->skip_length, file_u32(reader, *data));
	reader->offset += 4;
	*data += 4;
	*length -= 4;
	reader->skip_length = 0;
	reader->blocks_skipped++;
	return READ_PACKET;
}

static int ng_next(struct reader *reader, const u8 *data, u64 length)
{
	for (;;) {
		u32 type, size, least;
		u64 before;
		int step;

		if (reader->skip_length) {
			step = pass_over(reader, &data, &length);
			if (step != READ_PACKET)
				return step;
		}
		if (length < 8)
			return more(reader, 8);
		type = file_u32(reader, data);
		if (type == BLOCK_SECTION) {
			before = reader->offset;
			step = section_block(reader, data, length);
			if (step != READ_PACKET)
				return step;
			data += reader->offset - before;
			length -= reader->offset - before;
			continue;
		}
		size = file_u32(reader, data + 4);
		switch (type) {
		case BLOCK_INTERFACE:
			least = 20;
			break;
		case BLOCK_PACKET:
		case BLOCK_PACKET_OLD:
			least = 32;
			break;
		case BLOCK_PACKET_SIMPLE:
			least = 16;
			break;
		default:
			if (size < 12 || size % 4)
				return damaged(reader, reader->offset + 4, "a block of type %u and %u bytes", type, size);
			reader->skip_length = size;
			reader->skip_left = (u64)size - 12;
			reader->offset += 8;
			data += 8;
			length -= 8;
			continue;
		}
		if (size < least || size % 4 || size > MAX_BLOCK)
			return damaged(reader, reader->offset + 4, "a block of type %u and %u bytes", type, size);
		if (length < size)
			return more(reader, size);
		if (file_u32(reader, data + size - 4) != size)
			return damaged(reader, reader->offset + size - 4,
				       "a block of %u bytes whose trailing length says %u", size,
				       file_u32(reader, data + size - 4));
		if (type == BLOCK_INTERFACE)
			return interface_block(reader, data, size);
		if (type == BLOCK_PACKET_SIMPLE)
			return simple_packet_block(reader, data, size);
		return packet_block(reader, data, size, type == BLOCK_PACKET_OLD);
	}
}

/* Both --------------------------------------------------------------------------------------------------------------- */

static int detect_format(struct reader *reader, const u8 *data, u64 length)
{
	u32 magic;

	if (length < 4)
		return more(reader, 4);
	magic = (u32)data[0] << 24 | (u32)data[1] << 16 | (u32)data[2] << 8 | data[3];
	reader->format = FORMAT_CLASSIC;
	reader->unit_ns = 1000;
	switch (magic) {
	case 0xa1b23c4d:
		reader->unit_ns = 1;
		/* fallthrough */
	case 0xa1b2c3d4:
		reader->swapped = __BYTE_ORDER__ != __ORDER_BIG_ENDIAN__;
		return READ_PACKET;
	case 0x4d3cb2a1:
		reader->unit_ns = 1;
		/* fallthrough */
	case 0xd4c3b2a1:
		reader->swapped = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
		return READ_PACKET;
	case BLOCK_SECTION:
		reader->format = FORMAT_NG;
		return READ_PACKET;
	}
	reader->format = 0;
	return damaged(reader, 0, "not a capture file: it begins with %02x%02x%02x%02x, neither pcap nor pcapng", data[0],
		       data[1], data[2], data[3]);
}

/* What comes first in `data`, whose first byte is the file's byte `reader->offset`. */
static inline int reader_next(struct reader *reader, const u8 *data, u64 length)
{
	if (!reader->format) {
		int step = detect_format(reader, data, length);

		if (step != READ_PACKET)
			return step;
	}
	if (reader->format == FORMAT_NG)
		return ng_next(reader, data, length);
	if (!reader->interface_count)
		return classic_header(reader, data, length);
	return classic_next(reader, data, length);
}

/* Consumes the packet that reader_next found. */
static inline void reader_skip(struct reader *reader)
{
	reader->last_ns = reader->packet.ns;
	reader->offset += reader->record;
}

/* The file has ended, with `left` bytes after `offset`. READ_MORE: it ended where a file may end. Damage stays damage. */
static int reader_end(struct reader *reader, u64 left)
{
	if (reader->message[0])
		return READ_DAMAGED;
	if (!reader->format)
		return damaged(reader, 0, "not a capture file: it has %llu bytes", reader->offset + left);
	if (reader->format == FORMAT_CLASSIC ? !reader->interface_count : !reader->offset)
		return damaged(reader, 0, "the file ends inside its header");
	if (left || reader->skip_length)
		return damaged(reader, reader->offset, "the file ends inside a record");
	return READ_MORE;
}

#endif
