/* Frames: what cinotify tells its reader, as bytes. See frame.c. */
#ifndef FRAME_H
#define FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DIGEST_SIZE = 16 };

enum {
	EVENT_CREATED = 1,
	EVENT_MODIFIED = 2,
	EVENT_CLOSED = 4, /* after writing */
	EVENT_ATTRIBUTES = 8,
	EVENT_DELETED = 16,
	EVENT_MOVED_IN = 32,
	EVENT_MOVED_OUT = 64,
	EVENT_DIRECTORY = 128, /* it happened to a directory */
};

/* Some bytes that belong to somebody else: a path, a name. */
struct bytes {
	const char *data;
	size_t size;
};

/* A growing run of frames. Memory that cannot be had is noticed once, by `failed`. */
struct frames {
	uint8_t *data;
	size_t size;
	size_t room;
	size_t last_event; /* where the last frame begins if it is an event, else NO_EVENT */
	bool failed;
};

#define NO_EVENT SIZE_MAX
#define FRAMES_EMPTY ((struct frames) { .last_event = NO_EVENT })

/* 'D': a directory was listed. `live`: it appeared while watching. */
void frame_directory(struct frames *f, bool live, const uint8_t digest[static DIGEST_SIZE],
		     uint32_t entries, struct bytes path);

/* 'S': a full scan is over. */
void frame_scanned(struct frames *f, uint32_t generation, uint64_t directories, uint64_t entries,
		   uint64_t locals);

/* 'E': something happened at a path. Joins the frame before it where nothing is lost by it. */
void frame_event(struct frames *f, uint32_t mask, struct bytes path);

/* 'M': `old` became `new`. */
void frame_move(struct frames *f, bool is_directory, struct bytes old, struct bytes new);

/* 'X': a directory cannot be read; `error` is an errno. */
void frame_unreadable(struct frames *f, int32_t error, struct bytes path);

/* 'O', 'U' (empty path), 'L', 'N' and 'B': a type and a path or name. */
void frame_notice(struct frames *f, char type, struct bytes path);

/* Append all frames of `other`. */
void frames_append(struct frames *f, const struct frames *other);

/* Forget the frames, keep the memory (unless it has become large). */
void frames_clear(struct frames *f);

/* Release the memory. */
void frames_free(struct frames *f);

#endif
