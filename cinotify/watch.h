/* Watch a tree: keep a watch on each directory, turn what the kernel says into frames. */
#ifndef WATCH_H
#define WATCH_H

#include "frame.h"
#include "scan.h"
#include "tree.h"

#include <stdbool.h>
#include <stdint.h>

enum { MOVES_MAX = 16, NAME_SIZE_MAX = 255 };

/* The first half of a rename, until its second half is read. */
struct move {
	uint32_t cookie;
	bool is_directory;
	struct node *parent; /* lives: nothing is reaped while a move waits */
	char name[NAME_SIZE_MAX + 1];
	size_t name_size;
};

struct watcher {
	int inotify;
	int above; /* the watch on the root's parent, which alone tells that the root was removed */
	struct tree tree;
	struct scanner scanner;
	struct frames frames; /* to be written by whoever drives the watcher */
	struct frames beats;  /* held back until all that happened before them is told */

	struct move moves[MOVES_MAX];
	size_t moves_size;
	int64_t moves_until; /* when the newest is given up, in CLOCK_MONOTONIC's nanoseconds */

	const struct node *put_off; /* the visit that waits for what is queued; only compared */

	uint32_t spell;      /* counts the times when no visit was pending */
	uint32_t generation; /* of the full scan that runs or ran last, from 1 */
	bool scanning;
	bool again;          /* another full scan must follow */
	bool limit_told;     /* in this generation */
	bool gone_told;
	uint64_t directories, entries, locals; /* of the running full scan */
};

/* Begin to watch the directory `root`, which the watcher then owns. 0 or -errno. */
int watcher_init(struct watcher *w, int root, struct scan_options options);

/* Close and release everything. */
void watcher_free(struct watcher *w);

/* Ask for a full scan; while one runs, for another after it. */
void watcher_rescan(struct watcher *w);

/* Read and handle one batch of events. Does not block. 0 or -errno. */
int watcher_read(struct watcher *w);

/* Take a rename whose second half has not come in time for a move out of the tree. */
int watcher_give_up_moves(struct watcher *w);

/* Do a slice of the work that does not depend on new events, some milliseconds. 0 or -errno. */
int watcher_work(struct watcher *w);

/* How long to wait for events before working again, in milliseconds; -1: for ever. */
int watcher_timeout(const struct watcher *w);

#endif
