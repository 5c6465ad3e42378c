/* Open a directory of the tree without following anything, list it, digest it. See scan.c. */
#ifndef SCAN_H
#define SCAN_H

#include "frame.h"
#include "kernel.h"
#include "tree.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TRAIL_MAX = 32 };

struct scan_options {
	bool no_owner;       /* every uid and gid counts as 0 */
	bool strip_special;  /* set-id and sticky bits do not count */
	bool xattrs;         /* a directory with attributes has nobody's digest */
	const char **pruned; /* names of directories that are not entered: `x`, `*x` or `x*` */
	size_t pruned_size;
};

/* One name of the directory that was listed last. */
struct listed {
	const char *name;
	uint8_t type; /* what getdents says (DT_*) */
	bool is_directory;
	bool is_mount;
};

struct scanner {
	struct scan_options options;
	int root;
	uint32_t dev_major, dev_minor;
	bool marks_mounts; /* the kernel tells the root of a mount from other directories */

	/* the way from some ancestor down to the directory opened last, each the child of the
	   one before: in a walk, the parent is nearly always on it */
	struct node *trail[TRAIL_MAX];
	int trail_fd[TRAIL_MAX];
	bool trail_sure[TRAIL_MAX]; /* it is the directory that the node's watch stands for */
	size_t trail_size;
	struct node **climb;
	size_t climb_room;

	char *dirents;
	size_t dirents_size, dirents_room;
	struct listed *names;
	size_t names_size, names_room;
	size_t locals; /* names of `*.psync.ignore`, which are not among them */
};

/* Begin at the directory `root`, which the scanner owns from now on. 0 or -errno. */
int scanner_init(struct scanner *s, int root, struct scan_options options);

/* Close and release everything. */
void scanner_free(struct scanner *s);

/*
 * Open the directory that is at a node's place now. The descriptor belongs to the trail.
 * Returns 0 or -errno; `scan_vanished` tells "not there" from "not allowed".
 */
int scan_open(struct scanner *s, struct node *n, int *ret_fd);

/* Note that the directory opened last is the one that its node stands for. */
void scan_be_sure(struct scanner *s);

/* Is a node's own directory open, and was that noted? */
bool scan_is_sure(const struct scanner *s, const struct node *n);

/* Does this error mean that no directory is at the place any more? */
bool scan_vanished(int error);

/* Close what the trail holds of a node and all below it, or of everything (NULL). */
void scan_forget(struct scanner *s, const struct node *n);

/* Look at an open directory. 0 or -errno. */
int scan_look(int fd, struct kernel_statx *ret);

/* Is the directory the root of a mount, or on another file system than the tree? */
bool scan_is_mount(const struct scanner *s, const struct kernel_statx *st);

/* Does a name stay on its own replica? (`.psync`, `*.psync.ignore`) */
bool scan_is_ours(struct bytes name);

/* Is a directory of that name not entered, wherever it is? */
bool scan_is_pruned(const struct scanner *s, struct bytes name);

/*
 * List and digest an open directory; `s->names` then holds its names in byte order.
 * Returns 0 or -errno, and nothing is written to the results then.
 */
int scan_list(struct scanner *s, int fd, const struct kernel_statx *own,
	      uint8_t ret_digest[static DIGEST_SIZE], uint32_t *ret_entries);

#endif
