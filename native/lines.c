/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines of flow log records -> columns: numbers as such, text as codes of the distinct texts (vnotch/line_parser.py
 * drives it; vnotch/coded.py has the form). A line is taken where it is one that the columns print as again, byte for
 * byte: the right number of values with one space between them, numbers without sign and leading zeros that fit their
 * type, text of printable ASCII, `-` where a value is absent and may be. Which texts a column can have is asked of the
 * distinct ones, by the caller.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* The version of this file's border with line_parser.py. */
#define LINES_ABI 2

#define KIND_INT32 0
#define KIND_INT64 1
#define KIND_TEXT 2

#define ABSENT (-1)
#define FIELDS_MAX 256
#define TEXT_BYTES_MAX (1u << 30)
#define MIN_SLOTS 256

/* Where a text is found: all that is needed to tell it from others in one place. `length` is 0 where it is free. */
struct slot {
	uint32_t hash, begin, length;
	int32_t code;
};

/* The distinct texts of a column: one behind the other in `bytes`, text i between ends[i - 1] and ends[i]. */
struct texts {
	uint8_t *bytes;
	uint32_t size, room;
	uint32_t *ends;
	uint32_t count, count_room;
	struct slot *slots;	/* by hash */
	uint32_t slot_count;
	struct slot last;	/* that of the row before */
};

struct parser {
	uint32_t fields;
	uint8_t kinds[FIELDS_MAX];
	uint8_t required[FIELDS_MAX];
	uint64_t seed;
	uint64_t absent[FIELDS_MAX];
	struct texts texts[FIELDS_MAX];
};

struct token {
	const uint8_t *at;
	uint32_t length;
	int64_t number;
};

EXPORT uint32_t lines_abi(void)
{
	return LINES_ABI;
}

EXPORT void lines_close(struct parser *parser)
{
	if (!parser)
		return;
	for (uint32_t f = 0; f < parser->fields; f++) {
		struct texts *texts = &parser->texts[f];
		free(texts->bytes);
		free(texts->ends);
		free(texts->slots);
	}
	free(parser);
}

/* NULL where there is no memory, or more fields than there is room for. The seed keeps others from choosing texts that
 * meet in one slot. */
EXPORT struct parser *lines_open(uint32_t fields, const uint8_t *kinds, const uint8_t *required, uint64_t seed)
{
	struct parser *parser = fields && fields <= FIELDS_MAX ? calloc(1, sizeof *parser) : NULL;

	if (!parser)
		return NULL;
	parser->fields = fields;
	parser->seed = seed;
	memcpy(parser->kinds, kinds, fields);
	memcpy(parser->required, required, fields);
	return parser;
}

/* Forgets all texts, and keeps their memory. */
EXPORT void lines_reset(struct parser *parser)
{
	for (uint32_t f = 0; f < parser->fields; f++) {
		struct texts *texts = &parser->texts[f];

		texts->size = texts->count = 0;
		texts->last.length = 0;
		parser->absent[f] = 0;
		if (texts->slot_count)
			memset(texts->slots, 0, texts->slot_count * sizeof *texts->slots);
	}
}

static uint64_t mixed(uint64_t a, uint64_t b)
{
	__uint128_t product = (__uint128_t)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint32_t hash_of(const uint8_t *at, uint32_t length, uint64_t seed)
{
	uint64_t word, hash = seed ^ length;

	for (; length >= 8; length -= 8, at += 8) {
		memcpy(&word, at, 8);
		hash = mixed(hash ^ word, 0x9e3779b97f4a7c15u);
	}
	word = 0;
	memcpy(&word, at, length);
	hash = mixed(hash ^ word, seed | 1);
	return (uint32_t)(hash ^ hash >> 32);
}

static int grown(struct texts *texts, uint32_t length)
{
	if (texts->size + (uint64_t)length > TEXT_BYTES_MAX)
		return 0;
	if (texts->size + length > texts->room) {
		uint32_t room = texts->room ? texts->room * 2 : 4096;

		while (room < texts->size + length)
			room *= 2;
		uint8_t *bytes = realloc(texts->bytes, room);

		if (!bytes)
			return 0;
		texts->bytes = bytes;
		texts->room = room;
	}
	if (texts->count == texts->count_room) {
		uint32_t room = texts->count_room ? texts->count_room * 2 : MIN_SLOTS / 2;
		uint32_t *ends = realloc(texts->ends, room * sizeof *ends);

		if (!ends)
			return 0;
		texts->ends = ends;
		texts->count_room = room;
	}
	if (texts->count * 2 >= texts->slot_count) {
		uint32_t slot_count = texts->slot_count ? texts->slot_count * 2 : MIN_SLOTS;
		struct slot *slots = calloc(slot_count, sizeof *slots);

		if (!slots)
			return 0;
		for (uint32_t old = 0; old < texts->slot_count; old++) {
			uint32_t place = texts->slots[old].hash & (slot_count - 1);

			if (!texts->slots[old].length)
				continue;
			while (slots[place].length)
				place = (place + 1) & (slot_count - 1);
			slots[place] = texts->slots[old];
		}
		free(texts->slots);
		texts->slots = slots;
		texts->slot_count = slot_count;
	}
	return 1;
}

static int is_text(const struct texts *texts, const struct slot *slot, const uint8_t *at, uint32_t length)
{
	return slot->length == length && !memcmp(texts->bytes + slot->begin, at, length);
}

/* The code of a text, a new one where it has none; ABSENT where there is no room for it. */
static int32_t code_of(struct texts *texts, const uint8_t *at, uint32_t length, uint64_t seed)
{
	if (is_text(texts, &texts->last, at, length))
		return texts->last.code;
	if (!grown(texts, length))
		return ABSENT;
	uint32_t hash = hash_of(at, length, seed), mask = texts->slot_count - 1;
	struct slot *slot = &texts->slots[hash & mask];

	for (; slot->length; slot = &texts->slots[(uint32_t)(slot - texts->slots + 1) & mask])
		if (slot->hash == hash && is_text(texts, slot, at, length))
			break;
	if (!slot->length) {
		*slot = (struct slot){ .hash = hash, .begin = texts->size, .length = length, .code = (int32_t)texts->count };
		memcpy(texts->bytes + texts->size, at, length);
		texts->size += length;
		texts->ends[texts->count++] = texts->size;
	}
	texts->last = *slot;
	return slot->code;
}

#define EACH_BYTE(value) (0x0101010101010101u * (value))

/* Where the printable ASCII that begins at `at` ends. Eight bytes are looked at together: the lowest bit that is set is
 * that of the first byte below `!` or above `~`. */
static const uint8_t *text_end(const uint8_t *at, const uint8_t *end)
{
	while (end - at >= 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		uint64_t below = (word - EACH_BYTE('!')) & ~word, above = (word + EACH_BYTE(0x7f - '~')) | word;
		uint64_t other = (below | above) & EACH_BYTE(0x80);

		if (other)
			return at + __builtin_ctzll(other) / 8;
		at += 8;
	}
	while (at < end && (uint8_t)(*at - '!') <= '~' - '!')
		at++;
	return at;
}

/* Reads digits from `at` on, and moves it behind them. More than 19 of them give any number. */
static uint64_t digits(const uint8_t **from, const uint8_t *end)
{
	const uint8_t *at = *from;
	uint64_t number = 0;

	if (end - at >= 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		word ^= EACH_BYTE('0');
		uint64_t other = ((word + EACH_BYTE(0x7f - 9)) | word) & EACH_BYTE(0x80);
		unsigned count = other ? (unsigned)__builtin_ctzll(other) / 8 : 8;

		if (!count)
			return 0;
		word <<= 64 - count * 8;	/* the first digit is the lowest byte: zeros come before it */
		word = word * 10 + (word >> 8);
		number = ((word & 0x000000ff000000ff) * 0x000f424000000064 +
			  ((word >> 16) & 0x000000ff000000ff) * 0x0000271000000001) >> 32;
		at += count;
		if (count < 8) {
			*from = at;
			return number;
		}
	}
	while (at < end && (uint8_t)(*at - '0') <= 9)
		number = number * 10 + (uint64_t)(*at++ - '0');
	*from = at;
	return number;
}

/* The tokens of the line [at, end); 0 where it is none of the format. */
static int split(const struct parser *parser, const uint8_t *at, const uint8_t *end, struct token *tokens)
{
	for (uint32_t f = 0; f < parser->fields; f++) {
		const uint8_t *begin = at;
		struct token *token = &tokens[f];

		if (f) {
			if (at == end || *at != ' ')
				return 0;
			begin = ++at;
		}
		if (parser->kinds[f] == KIND_TEXT) {
			at = text_end(at, end);
		} else {
			uint64_t number = digits(&at, end);
			uint64_t count = (uint64_t)(at - begin);

			/* 19 digits fit 64 bits. */
			if (count > 19 || (count > 1 && *begin == '0') ||
			    number > (parser->kinds[f] == KIND_INT32 ? INT32_MAX : (uint64_t)INT64_MAX))
				return 0;
			token->number = (int64_t)number;
			if (!count && at < end && *at == '-')
				at++;
		}
		if (at == begin || at - begin > UINT32_MAX)
			return 0;
		token->at = begin;
		token->length = (uint32_t)(at - begin);
		if (token->length == 1 && *begin == '-') {
			if (parser->required[f])
				return 0;
			token->length = 0;
			token->number = ABSENT;
		}
	}
	return at == end;
}

/* 0 where there is no room for a text. */
static int store(struct parser *parser, const struct token *tokens, void *const *columns, uint64_t row)
{
	for (uint32_t f = 0; f < parser->fields; f++) {
		const struct token *token = &tokens[f];

		parser->absent[f] += !token->length;
		if (parser->kinds[f] == KIND_INT64) {
			((int64_t *)columns[f])[row] = token->number;
		} else if (parser->kinds[f] == KIND_INT32) {
			((int32_t *)columns[f])[row] = (int32_t)token->number;
		} else {
			int32_t code = ABSENT;

			if (token->length) {
				code = code_of(&parser->texts[f], token->at, token->length, parser->seed);
				if (code == ABSENT)
					return 0;
			}
			((int32_t *)columns[f])[row] = code;
		}
	}
	return 1;
}

/*
 * Lines that each end in a line end, the last one perhaps without. Empty ones are passed over. -> rows, at most `room`;
 * -1 where a line is none of the format, or there is no room for what it says.
 */
EXPORT int64_t lines_parse_block(struct parser *parser, const uint8_t *data, uint64_t size, uint64_t room,
				 void *const *columns)
{
	struct token tokens[FIELDS_MAX];
	const uint8_t *at = data, *all = data + size;
	uint64_t rows = 0;

	while (at < all) {
		const uint8_t *end = memchr(at, '\n', (size_t)(all - at));

		if (!end)
			end = all;
		if (end > at) {
			if (rows == room || !split(parser, at, end, tokens) || !store(parser, tokens, columns, rows))
				return -1;
			rows++;
		}
		at = end + 1;
	}
	return (int64_t)rows;
}

/*
 * Lines by their places, as Arrow has them: line i between offsets[i] and offsets[i + 1]. One row a line; taken[i] says
 * whether it is one of the format, else the row has nothing. -> how many are; -1 where there is no room for a text.
 */
EXPORT int64_t lines_parse_each(struct parser *parser, const uint8_t *data, const int32_t *offsets, uint64_t lines,
				void *const *columns, uint8_t *taken)
{
	struct token tokens[FIELDS_MAX], nothing[FIELDS_MAX];
	int64_t rows = 0;

	for (uint32_t f = 0; f < parser->fields; f++)
		nothing[f] = (struct token){ .at = data, .length = 0, .number = ABSENT };
	for (uint64_t i = 0; i < lines; i++) {
		taken[i] = (uint8_t)split(parser, data + offsets[i], data + offsets[i + 1], tokens);
		if (!store(parser, taken[i] ? tokens : nothing, columns, i))
			return -1;
		rows += taken[i];
	}
	return rows;
}

/* Rows without a value, since the texts were forgotten. */
EXPORT uint64_t lines_absent(const struct parser *parser, uint32_t field)
{
	return parser->absent[field];
}

EXPORT uint32_t lines_texts(const struct parser *parser, uint32_t field, const uint8_t **bytes, const uint32_t **ends)
{
	const struct texts *texts = &parser->texts[field];

	*bytes = texts->bytes;
	*ends = texts->ends;
	return texts->count;
}

/* The other way, without writing it: how long the lines of columns are. */

static int32_t digits_of(int64_t value)
{
	static const uint64_t powers[] = {
		1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000, 100000000000,
		1000000000000, 10000000000000, 100000000000000, 1000000000000000, 10000000000000000,
		100000000000000000, 1000000000000000000, 10000000000000000000u,
	};
	uint64_t number = (uint64_t)value | 1;	/* no even number is one below a power, so it has as many digits */
	/* 1233 / 4096 is a little above log10(2): the digits, or one too few. */
	uint32_t guess = (uint32_t)(64 - __builtin_clzll(number)) * 1233 >> 12;

	return (int32_t)(guess + (number >= powers[guess]));
}

/*
 * Adds to sizes[i] what row i takes in each column: a number its digits, a code lengths[f][code]. least[f] and greatest[f]
 * are of the numbers of a column. Numbers below zero have no line; their size is any.
 */
EXPORT void lines_measure(uint32_t fields, const uint8_t *kinds, const void *const *columns,
			  const int32_t *const *lengths, uint64_t rows, int32_t *sizes, int64_t *least, int64_t *greatest)
{
	for (uint32_t f = 0; f < fields; f++) {
		int64_t low = INT64_MAX, high = INT64_MIN;

		for (uint64_t i = 0; i < rows; i++) {
			int64_t value = kinds[f] == KIND_INT64 ? ((const int64_t *)columns[f])[i]
							       : ((const int32_t *)columns[f])[i];

			if (kinds[f] == KIND_TEXT) {
				sizes[i] += lengths[f][value];
				continue;
			}
			low = value < low ? value : low;
			high = value > high ? value : high;
			sizes[i] += digits_of(value);
		}
		least[f] = low;
		greatest[f] = high;
	}
}

/* Whether it is an IPv4 address as inet_pton(3) takes it: four numbers to 255 without leading zeros, points between. */
static int is_dotted_quad(const uint8_t *at, const uint8_t *end)
{
	for (int part = 0; part < 4; part++) {
		const uint8_t *begin = at;
		unsigned number = 0;

		while (at < end && at - begin < 3 && (uint8_t)(*at - '0') <= 9)
			number = number * 10 + (unsigned)(*at++ - '0');
		if (at == begin || number > 255 || (*begin == '0' && at - begin > 1))
			return 0;
		if (part < 3 && (at == end || *at++ != '.'))
			return 0;
	}
	return at == end;
}

/* found[i]: whether text i, between offsets[i] and offsets[i + 1], is one. */
EXPORT void lines_dotted_quads(const uint8_t *data, const int32_t *offsets, uint64_t texts, uint8_t *found)
{
	for (uint64_t i = 0; i < texts; i++)
		found[i] = (uint8_t)is_dotted_quad(data + offsets[i], data + offsets[i + 1]);
}
