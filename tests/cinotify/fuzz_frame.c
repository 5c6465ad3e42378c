/*
 * Fuzz the encoder and the printer: whatever is said can be read back, whatever is read is safe.
 *
 * The input is a script of calls with their arguments. Each call is remembered as it should be
 * read back, a decoder that shares no code with frame.c reads the frames, and both must agree;
 * events that the encoder joined are joined here too. Then the printer gets the frames, and after
 * that the input itself as if it were frames.
 *
 * With libFuzzer: -fsanitize=fuzzer -DLIBFUZZER. Without, main() makes inputs from a seed, the
 * same ones each time: fuzz_frame SEED ROUNDS.
 */
#include "../../cinotify/frame.h"
#include "../../cinotify/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLS_MAX = 512, INPUT_MAX = 4096 };

#define REQUIRE(what)                                                                    \
	do {                                                                             \
		if (!(what)) {                                                           \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                         \
		}                                                                        \
	} while (0)

struct call {
	char type;
	uint64_t number[3];
	uint8_t digest[DIGEST_SIZE];
	struct bytes path, new;
};

struct input {
	const uint8_t *data;
	size_t size;
};

static uint64_t take(struct input *in, unsigned size) {
	uint64_t v = 0;
	for (; size > 0 && in->size > 0; size--, in->size--)
		v = v << 8 | *in->data++;
	return v;
}

static struct bytes take_bytes(struct input *in) {
	size_t size = (size_t) take(in, 1);
	if (size >= 250)
		size = (size_t) take(in, 2);
	if (size > in->size)
		size = in->size;
	struct bytes b = { (const char *) in->data, size };
	in->data += size;
	in->size -= size;
	return b;
}

static bool same(struct bytes a, const uint8_t *data, size_t size) {
	return a.size == size && (size == 0 || memcmp(a.data, data, size) == 0);
}

static uint64_t little(const uint8_t *p, unsigned size) {
	uint64_t v = 0;
	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t) p[i] << 8 * i;
	return v;
}

/* May the union of two masks stand for one after the other? Said in other words than frame.c. */
static bool may_join(uint64_t first, uint64_t second) {
	if (first == second)
		return true;
	for (unsigned bit = 0; bit < 32; bit++) {
		bool one = first >> bit & 1, two = second >> bit & 1;
		if (bit == 7 ? one != two : bit > 3 && (one || two))
			return false;
	}
	if (second & EVENT_CREATED)
		return false;
	return !((first & EVENT_CLOSED) && (second & EVENT_MODIFIED));
}

static void say(struct frames *f, const struct call *c) {
	switch (c->type) {
	case 'D':
		frame_directory(f, c->number[0] != 0, c->digest, (uint32_t) c->number[1], c->path);
		break;
	case 'S':
		frame_scanned(f, (uint32_t) c->number[0], c->number[1], c->number[2], c->number[1]);
		break;
	case 'E':
		frame_event(f, (uint32_t) c->number[0], c->path);
		break;
	case 'M':
		frame_move(f, c->number[0] != 0, c->path, c->new);
		break;
	case 'X':
		frame_unreadable(f, (int32_t) (uint32_t) c->number[0], c->path);
		break;
	default:
		frame_notice(f, c->type, c->path);
	}
}

/* Read one frame and compare; returns its whole size. */
static size_t read_back(const uint8_t *p, size_t size, const struct call *c) {
	REQUIRE(size >= 5);
	size_t length = (size_t) little(p, 4);
	REQUIRE(length >= 1 && length <= size - 4 && p[4] == (uint8_t) c->type);
	const uint8_t *body = p + 5;
	size_t rest = length - 1, old;

	switch (c->type) {
	case 'D':
		REQUIRE(rest >= 21 && body[0] == c->number[0]);
		REQUIRE(memcmp(body + 1, c->digest, DIGEST_SIZE) == 0);
		REQUIRE(little(body + 17, 4) == c->number[1] && same(c->path, body + 21, rest - 21));
		break;
	case 'S':
		REQUIRE(rest == 28 && little(body, 4) == c->number[0]);
		REQUIRE(little(body + 4, 8) == c->number[1] && little(body + 12, 8) == c->number[2]);
		REQUIRE(little(body + 20, 8) == c->number[1]);
		break;
	case 'M':
		REQUIRE(rest >= 5 && body[0] == c->number[0]);
		old = (size_t) little(body + 1, 4);
		REQUIRE(old <= rest - 5 && same(c->path, body + 5, old));
		REQUIRE(same(c->new, body + 5 + old, rest - 5 - old));
		break;
	case 'E':
	case 'X':
		REQUIRE(rest >= 4 && little(body, 4) == c->number[0]);
		REQUIRE(same(c->path, body + 4, rest - 4));
		break;
	default:
		REQUIRE(same(c->path, body, rest));
	}
	return 4 + length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static const char types[] = "DSEEEEEEMXOULNB";
	static struct call calls[CALLS_MAX];
	struct input in = { data, size };
	struct frames first = FRAMES_EMPTY, second = FRAMES_EMPTY;
	struct frames *f = &first;
	size_t said = 0;
	FILE *sink = fopen("/dev/null", "w");
	REQUIRE(sink);

	while (in.size > 0 && said < CALLS_MAX) {
		struct call *c = &calls[said];
		bool fresh = f->last_event == NO_EVENT;

		*c = (struct call) { .type = types[take(&in, 1) % (sizeof(types) - 1)] };
		if (take(&in, 1) % 8 == 0 && f == &first) { /* from here on into another buffer */
			f = &second;
			fresh = true;
		}
		c->number[0] = c->type == 'D' || c->type == 'M' ? take(&in, 1) & 1 : take(&in, 1);
		if (c->type == 'D' || c->type == 'S')
			c->number[1] = take(&in, 4);
		if (c->type == 'S')
			c->number[2] = take(&in, 8);
		for (unsigned i = 0; c->type == 'D' && i < DIGEST_SIZE; i++)
			c->digest[i] = (uint8_t) take(&in, 1);
		if (c->type != 'S')
			c->path = take_bytes(&in);
		if (c->type == 'M')
			c->new = take_bytes(&in);
		say(f, c);

		struct call *before = said > 0 ? c - 1 : NULL;
		if (!fresh && c->type == 'E' && before->type == 'E' &&
		    same(before->path, (const uint8_t *) c->path.data, c->path.size) &&
		    may_join(before->number[0], c->number[0]))
			before->number[0] |= c->number[0];
		else
			said++;
	}
	frames_append(&first, &second);
	REQUIRE(!first.failed);

	size_t at = 0;
	for (size_t i = 0; i < said; i++)
		at += read_back(first.data + at, first.size - at, &calls[i]);
	REQUIRE(at == first.size);

	REQUIRE(text_print(first.data, first.size, ":", sink) == 0);
	text_print(data, size, "", sink); /* any bytes: refused or printed, never overrun */
	for (size_t cut = 0; cut < first.size && cut < 64; cut++)
		text_print(first.data, cut, " | ", sink);

	frames_clear(&first);
	REQUIRE(first.size == 0 && first.last_event == NO_EVENT);
	frames_free(&first);
	frames_free(&second);
	fclose(sink);
	return 0;
}

#ifndef LIBFUZZER
static uint64_t state;

static uint64_t next(void) { /* splitmix64 */
	uint64_t z = state += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

int main(int argc, char **argv) {
	static uint8_t data[INPUT_MAX];

	REQUIRE(argc == 3);
	state = strtoull(argv[1], NULL, 10);
	for (unsigned long rounds = strtoul(argv[2], NULL, 10); rounds > 0; rounds--) {
		/* few values make equal paths, and so joined events, likely */
		uint8_t values = (uint8_t) (next() % 4 ? 2 + next() % 14 : 255);
		size_t size = (size_t) (next() % INPUT_MAX);
		for (size_t i = 0; i < size; i++)
			data[i] = (uint8_t) (next() % (values + 1u));
		LLVMFuzzerTestOneInput(data, size);
	}
	return 0;
}
#endif
