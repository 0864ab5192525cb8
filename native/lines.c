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
#define LINES_ABI 3

#define KIND_INT32 0
#define KIND_INT64 1
#define KIND_TEXT 2

#define ABSENT (-1)
#define FIELDS_MAX 256
#define TEXT_BYTES_MAX (1u << 30)
#define MIN_SLOTS 256
#define ROWS_AT_ONCE 32

/*
 * What tells a text from others: the first bytes of it with zeros behind them, which of an IPv4 address is all, so that a
 * look at a slot is mostly one at one line of the cache. `length` is 0 where a slot is free.
 */
struct key {
	uint64_t head[2];
	uint32_t hash, length;
};

/* A text that is known, and where its bytes begin. */
struct slot {
	struct key key;
	uint32_t begin;
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
};

struct token {
	const uint8_t *at;
	uint32_t length;
	int64_t number;
};

struct parser {
	uint32_t fields;
	uint8_t kinds[FIELDS_MAX];
	uint8_t required[FIELDS_MAX];
	uint64_t seed;
	uint64_t absent[FIELDS_MAX];
	struct texts texts[FIELDS_MAX];
	struct token *tokens;	/* of ROWS_AT_ONCE rows, one behind the other */
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
	free(parser->tokens);
	free(parser);
}

/* NULL where there is no memory, or more fields than there is room for. The seed keeps others from choosing texts that
 * meet in one slot. */
EXPORT struct parser *lines_open(uint32_t fields, const uint8_t *kinds, const uint8_t *required, uint64_t seed)
{
	struct parser *parser = fields && fields <= FIELDS_MAX ? calloc(1, sizeof *parser) : NULL;

	if (!parser)
		return NULL;
	parser->tokens = calloc((size_t)fields * ROWS_AT_ONCE, sizeof *parser->tokens);
	if (!parser->tokens) {
		free(parser);
		return NULL;
	}
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

static uint64_t word_at(const uint8_t *at)
{
	uint64_t word;

	memcpy(&word, at, 8);
	return word;
}

/* Up to eight bytes, zeros behind them. Only these bytes are read, in pieces that may overlap. */
static uint64_t short_word(const uint8_t *at, uint32_t length)
{
	if (length >= 8)
		return word_at(at);
	if (length >= 4) {
		uint32_t first, last;

		memcpy(&first, at, 4);
		memcpy(&last, at + length - 4, 4);
		return first | (uint64_t)last << (length - 4) * 8;
	}
	if (!length)
		return 0;
	return at[0] | (uint64_t)at[length / 2] << length / 2 * 8 | (uint64_t)at[length - 1] << (length - 1) * 8;
}

static struct key key_of(const uint8_t *at, uint32_t length, uint64_t seed)
{
	struct key key = { .head = { short_word(at, length) }, .length = length };

	if (length >= 16)
		key.head[1] = word_at(at + 8);
	else if (length > 8)
		key.head[1] = word_at(at + length - 8) >> (16 - length) * 8;
	uint64_t hash = mixed(key.head[0] ^ seed ^ length, 0x9e3779b97f4a7c15u);

	hash = mixed(hash ^ key.head[1], seed | 1);
	if (length > 16) {
		for (uint32_t done = 16; length - done > 8; done += 8)
			hash = mixed(hash ^ word_at(at + done), 0x9e3779b97f4a7c15u);
		hash = mixed(hash ^ word_at(at + length - 8), seed | 1);
	}
	key.hash = (uint32_t)(hash ^ hash >> 32);
	return key;
}

/* Makes room for `more` texts of `length` bytes together. */
static int grown(struct texts *texts, uint64_t length, uint32_t more)
{
	if (texts->size + length > TEXT_BYTES_MAX)
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
	if (texts->count + more > texts->count_room) {
		uint32_t room = texts->count_room ? texts->count_room * 2 : MIN_SLOTS / 2;
		uint32_t *ends = realloc(texts->ends, room * sizeof *ends);

		if (!ends)
			return 0;
		texts->ends = ends;
		texts->count_room = room;
	}
	if ((texts->count + more) * 2 > texts->slot_count) {
		uint32_t slot_count = texts->slot_count ? texts->slot_count * 2 : MIN_SLOTS;
		struct slot *slots = calloc(slot_count, sizeof *slots);

		if (!slots)
			return 0;
		for (uint32_t old = 0; old < texts->slot_count; old++) {
			uint32_t place = texts->slots[old].key.hash & (slot_count - 1);

			if (!texts->slots[old].key.length)
				continue;
			while (slots[place].key.length)
				place = (place + 1) & (slot_count - 1);
			slots[place] = texts->slots[old];
		}
		free(texts->slots);
		texts->slots = slots;
		texts->slot_count = slot_count;
	}
	return 1;
}

static int is_text(const struct texts *texts, const struct slot *slot, const struct key *key, const uint8_t *at)
{
	uint64_t other = (slot->key.head[0] ^ key->head[0]) | (slot->key.head[1] ^ key->head[1]) |
			 (slot->key.length ^ key->length);

	return !other && (key->length <= 16 || !memcmp(texts->bytes + slot->begin + 16, at + 16, key->length - 16));
}

/* The code of a text, a new one where it has none. There is room for it. */
static int32_t code_of(struct texts *texts, const struct key *key, const uint8_t *at)
{
	uint32_t mask = texts->slot_count - 1, place = key->hash & mask;

	while (!is_text(texts, &texts->slots[place], key, at)) {
		if (!texts->slots[place].key.length) {
			texts->slots[place] = (struct slot){
				.key = *key, .begin = texts->size, .code = (int32_t)texts->count,
			};
			memcpy(texts->bytes + texts->size, at, key->length);
			texts->size += key->length;
			texts->ends[texts->count++] = texts->size;
			break;
		}
		place = (place + 1) & mask;
	}
	return texts->slots[place].code;
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

/*
 * The codes of one field's texts. Addresses are many, and where they are found lies anywhere: all places are asked for
 * before the first is looked at. 0 where there is no room.
 */
static int store_texts(struct parser *parser, uint32_t f, uint32_t rows, int32_t *codes)
{
	struct texts *texts = &parser->texts[f];
	const struct token *token = &parser->tokens[f];
	struct key keys[ROWS_AT_ONCE];
	uint64_t length = 0;

	for (uint32_t row = 0; row < rows; row++)
		length += token[row * parser->fields].length;
	if (!grown(texts, length, rows))
		return 0;
	for (uint32_t row = 0; row < rows; row++) {
		keys[row] = key_of(token[row * parser->fields].at, token[row * parser->fields].length, parser->seed);
		__builtin_prefetch(&texts->slots[keys[row].hash & (texts->slot_count - 1)]);
	}
	for (uint32_t row = 0; row < rows; row++) {
		codes[row] = keys[row].length ? code_of(texts, &keys[row], token[row * parser->fields].at) : ABSENT;
		parser->absent[f] += !keys[row].length;
	}
	return 1;
}

/* The parser's tokens as rows of the columns, from `begin` on; at most ROWS_AT_ONCE. 0 where there is no room. */
static int store(struct parser *parser, uint32_t rows, void *const *columns, uint64_t begin)
{
	for (uint32_t f = 0; f < parser->fields; f++) {
		const struct token *token = &parser->tokens[f];

		if (parser->kinds[f] == KIND_TEXT) {
			if (!store_texts(parser, f, rows, (int32_t *)columns[f] + begin))
				return 0;
			continue;
		}
		for (uint32_t row = 0; row < rows; row++, token += parser->fields) {
			parser->absent[f] += !token->length;
			if (parser->kinds[f] == KIND_INT64)
				((int64_t *)columns[f])[begin + row] = token->number;
			else
				((int32_t *)columns[f])[begin + row] = (int32_t)token->number;
		}
	}
	return 1;
}

/*
 * Lines that each end in a line end, the last one perhaps without. Empty ones are passed over. -> rows, at most `room`,
 * and in `taken` the bytes that they are; -1 where a line is none of the format, or there is no room for what it says.
 */
EXPORT int64_t lines_parse_block(struct parser *parser, const uint8_t *data, uint64_t size, uint64_t room,
				 void *const *columns, uint64_t *taken)
{
	const uint8_t *at = data, *all = data + size;
	uint64_t rows = 0;
	uint32_t waiting = 0;

	while (at < all && rows + waiting < room) {
		const uint8_t *end = memchr(at, '\n', (size_t)(all - at));

		if (!end)
			end = all;
		if (end > at) {
			if (!split(parser, at, end, parser->tokens + (size_t)waiting * parser->fields))
				return -1;
			if (++waiting == ROWS_AT_ONCE) {
				if (!store(parser, waiting, columns, rows))
					return -1;
				rows += waiting;
				waiting = 0;
			}
		}
		at = end < all ? end + 1 : all;
	}
	if (waiting && !store(parser, waiting, columns, rows))
		return -1;
	*taken = (uint64_t)(at - data);
	return (int64_t)(rows + waiting);
}

/*
 * Lines by their places, as Arrow has them: line i between offsets[i] and offsets[i + 1]. One row a line; taken[i] says
 * whether it is one of the format, else the row has nothing. -> how many are; -1 where there is no room for a text.
 */
EXPORT int64_t lines_parse_each(struct parser *parser, const uint8_t *data, const int32_t *offsets, uint64_t lines,
				void *const *columns, uint8_t *taken)
{
	int64_t found = 0;

	for (uint64_t begin = 0; begin < lines; begin += ROWS_AT_ONCE) {
		uint32_t rows = lines - begin < ROWS_AT_ONCE ? (uint32_t)(lines - begin) : ROWS_AT_ONCE;

		for (uint32_t row = 0; row < rows; row++) {
			const int32_t *place = offsets + begin + row;
			struct token *tokens = parser->tokens + (size_t)row * parser->fields;
			uint8_t right = (uint8_t)split(parser, data + place[0], data + place[1], tokens);

			for (uint32_t f = 0; !right && f < parser->fields; f++)
				tokens[f] = (struct token){ .at = data, .length = 0, .number = ABSENT };
			taken[begin + row] = right;
			found += right;
		}
		if (!store(parser, rows, columns, begin))
			return -1;
	}
	return found;
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

/*
 * Rows in another order, and their codes anew, by the order in which these rows first have a text: out[i] is that of row
 * order[i], ABSENT where its code is none of the `texts`. `places` has a zero for each text; `found` gets the codes that
 * the texts had before. -> how many texts these rows have.
 */
EXPORT uint32_t lines_reorder_codes(const int32_t *codes, const int64_t *order, uint64_t rows, uint32_t texts,
				    int32_t *places, int32_t *found, int32_t *out)
{
	int32_t count = 0;

	for (uint64_t i = 0; i < rows; i++) {
		uint32_t code = (uint32_t)codes[order[i]];

		if (code >= texts) {
			out[i] = ABSENT;
			continue;
		}
		if (!places[code]) {
			found[count++] = (int32_t)code;
			places[code] = count;
		}
		out[i] = places[code] - 1;
	}
	return (uint32_t)count;
}
