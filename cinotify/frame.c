/*
 * Frames: u32 length of the rest, u8 type, body; every integer little-endian.
 *
 *   D  u8 live, digest, u32 entries, path      S  u32 generation, u64 directories, entries, locals
 *   E  u32 mask, path                          M  u8 is directory, u32 size of old, old, new
 *   X  i32 errno, path                         O U (empty)   L N path   B name
 *
 * Binary, because any separator is a legal byte of somebody's file name.
 *
 * Invariants: pure, no I/O; a frame is in the buffer whole or not at all; after `failed`
 * nothing more is added, so that one check before writing is enough.
 */
#include "frame.h"

#include <stdlib.h>
#include <string.h>

enum { HEADER = 5, KEEP_MAX = 1 << 20 };

/* Make room for a frame with `size` bytes of body and write its header; NULL on failure. */
static uint8_t *begin(struct frames *f, char type, size_t size) {
	size_t need = HEADER + size;

	if (f->failed || size > UINT32_MAX - HEADER || f->size > SIZE_MAX / 2 - need)
		goto fail;
	if (f->size + need > f->room) {
		size_t room = f->room ? f->room : 4096;
		while (room < f->size + need)
			room *= 2;
		uint8_t *data = realloc(f->data, room);
		if (!data)
			goto fail;
		f->data = data;
		f->room = room;
	}

	uint8_t *p = f->data + f->size;
	uint32_t length = (uint32_t) (1 + size);
	for (unsigned i = 0; i < 4; i++)
		*p++ = (uint8_t) (length >> (8 * i));
	*p++ = (uint8_t) type;
	f->size += need;
	f->last_event = NO_EVENT;
	return p;

fail:
	f->failed = true;
	return NULL;
}

static uint8_t *put(uint8_t *p, uint64_t value, unsigned size) {
	for (unsigned i = 0; i < size; i++)
		*p++ = (uint8_t) (value >> (8 * i));
	return p;
}

static uint8_t *put_bytes(uint8_t *p, struct bytes b) {
	if (b.size)
		memcpy(p, b.data, b.size);
	return p + b.size;
}

static uint32_t get32(const uint8_t *p) {
	return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24;
}

void frame_directory(struct frames *f, bool live, const uint8_t digest[static DIGEST_SIZE],
		     uint32_t entries, struct bytes path) {
	uint8_t *p = begin(f, 'D', 1 + DIGEST_SIZE + 4 + path.size);
	if (!p)
		return;
	*p++ = live;
	memcpy(p, digest, DIGEST_SIZE);
	p = put(p + DIGEST_SIZE, entries, 4);
	put_bytes(p, path);
}

void frame_scanned(struct frames *f, uint32_t generation, uint64_t directories, uint64_t entries,
		   uint64_t locals) {
	uint8_t *p = begin(f, 'S', 4 + 8 + 8 + 8);
	if (!p)
		return;
	p = put(p, generation, 4);
	p = put(p, directories, 8);
	p = put(p, entries, 8);
	put(p, locals, 8);
}

/*
 * May an event join the one before it? Only where the union still tells the order: whoever
 * reads "closed" in a mask may rely on no write having followed. Appearing and disappearing
 * stay frames of their own.
 */
static bool joins(uint32_t before, uint32_t mask) {
	const uint32_t content = EVENT_CREATED | EVENT_MODIFIED | EVENT_CLOSED | EVENT_ATTRIBUTES;

	if (before == mask)
		return true;
	if ((before ^ mask) & EVENT_DIRECTORY || (before | mask) & ~(content | EVENT_DIRECTORY))
		return false;
	return !(mask & EVENT_CREATED) && !(before & EVENT_CLOSED && mask & EVENT_MODIFIED);
}

void frame_event(struct frames *f, uint32_t mask, struct bytes path) {
	if (f->last_event != NO_EVENT) {
		uint8_t *last = f->data + f->last_event;
		uint32_t before = get32(last + HEADER);
		if (get32(last) == 1 + 4 + path.size && joins(before, mask) &&
		    (path.size == 0 || memcmp(last + HEADER + 4, path.data, path.size) == 0)) {
			put(last + HEADER, before | mask, 4);
			return;
		}
	}

	size_t at = f->size;
	uint8_t *p = begin(f, 'E', 4 + path.size);
	if (!p)
		return;
	put_bytes(put(p, mask, 4), path);
	f->last_event = at;
}

void frame_move(struct frames *f, bool is_directory, struct bytes old, struct bytes new) {
	uint8_t *p = begin(f, 'M', 1 + 4 + old.size + new.size);
	if (!p)
		return;
	*p++ = is_directory;
	p = put(p, old.size, 4);
	put_bytes(put_bytes(p, old), new);
}

void frame_unreadable(struct frames *f, int32_t error, struct bytes path) {
	uint8_t *p = begin(f, 'X', 4 + path.size);
	if (p)
		put_bytes(put(p, (uint32_t) error, 4), path);
}

void frame_notice(struct frames *f, char type, struct bytes path) {
	uint8_t *p = begin(f, type, path.size);
	if (p)
		put_bytes(p, path);
}

void frames_append(struct frames *f, const struct frames *other) {
	if (other->failed)
		f->failed = true;
	if (f->failed || other->size == 0)
		return;
	if (f->size + other->size > f->room) {
		size_t room = f->size + other->size;
		uint8_t *data = realloc(f->data, room);
		if (!data) {
			f->failed = true;
			return;
		}
		f->data = data;
		f->room = room;
	}
	memcpy(f->data + f->size, other->data, other->size);
	f->size += other->size;
	f->last_event = NO_EVENT;
}

void frames_clear(struct frames *f) {
	if (f->room > KEEP_MAX)
		frames_free(f);
	f->size = 0;
	f->last_event = NO_EVENT;
}

void frames_free(struct frames *f) {
	free(f->data);
	*f = (struct frames) { .last_event = NO_EVENT, .failed = f->failed };
}
