/* The directories that cinotify knows, by place and by watch. See tree.c. */
#ifndef TREE_H
#define TREE_H

#include "frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a node waits for; a stronger wish replaces a weaker one. */
enum want {
	WANT_NOTHING,
	WANT_CHECK, /* see whether the watched directory is still the one at this place */
	WANT_SCAN,  /* list it, as part of a full scan */
	WANT_LIVE,  /* list it, because it appeared */
};

/* A place where a directory is, or was when we last knew. */
struct node {
	struct node *parent, *child, *next, *previous;
	struct node *same_name, *same_watch;   /* chains of the hash tables */
	struct node *pending_next, *pending_previous;
	char *name;
	uint32_t hash;    /* of the name */
	int watch;        /* inotify's descriptor, the directory's identity; NO_WATCH without */
	uint32_t listed;  /* last generation in which its parent's listing had it, or it appeared */
	uint32_t scanned; /* last generation whose full scan listed it */
	uint32_t spell;   /* the spell of visits that `robbed` is of */
	uint8_t name_size;
	uint8_t want;
	uint8_t robbed; /* how often another place took its watch in that spell */
	bool known;     /* the reader has its digest */
	bool control;   /* the root's `.psync`: watched, never listed */
};

#define NO_WATCH (-1)

struct table {
	struct node **slots;
	size_t size; /* a power of two */
	size_t used;
};

struct tree {
	struct node *root;
	struct node *limbo; /* parent of what was cut off and is not released yet */
	struct node *pending;
	struct table names;
	struct table watches;
	char *path; /* scratch of tree_path */
	size_t path_room;
};

/* Make a tree of a root alone. Returns 0 or -ENOMEM. */
int tree_init(struct tree *t);

/* Release everything. */
void tree_free(struct tree *t);

/* The node called `name` in `parent`, or NULL. */
struct node *tree_find(const struct tree *t, const struct node *parent, struct bytes name);

/* The same, made where missing; NULL when memory is short. */
struct node *tree_get(struct tree *t, struct node *parent, struct bytes name);

/* Put a node, and so all below it, to another place, which must be free. 0 or -ENOMEM. */
int tree_move(struct tree *t, struct node *n, struct node *parent, struct bytes name);

/* Cut a node off, with all below it: it waits in limbo, watched, to be taken or reaped. */
void tree_cut(struct tree *t, struct node *n);

/* Make a new node in limbo; NULL when memory is short. */
struct node *tree_stray(struct tree *t);

/* Release one node of limbo; its children take its place there. Returns its watch. */
int tree_reap(struct tree *t);

/* The node that holds a watch, or NULL. */
struct node *tree_watched(const struct tree *t, int watch);

/* Give a node without a watch one that nobody holds. Returns 0 or -ENOMEM. */
int tree_bind(struct tree *t, struct node *n, int watch);

/* Take a node's watch away. */
void tree_unbind(struct tree *t, struct node *n);

/* Hand the watch and the children of `from` to `to`, which has neither. */
void tree_hand_over(struct tree *t, struct node *from, struct node *to);

/* Is `n` at or below `top`? */
bool tree_within(const struct node *n, const struct node *top);

/*
 * Write the path of `name` in `n` (of `n` itself for an empty name) to `ret_path`; it lasts
 * until the next call. Returns 0, -ENOENT for what is not below the root, or -ENOMEM.
 */
int tree_path(struct tree *t, const struct node *n, struct bytes name, struct bytes *ret_path);

/* Let a node wait, before all others; one that waits already keeps its turn. */
void tree_push(struct tree *t, struct node *n, enum want want);

/* Take the next waiting node and its wish; NULL when none waits. */
struct node *tree_pop(struct tree *t, enum want *ret_want);

/* The next node of a walk over the subtree `top`, parents first; NULL at the end. */
struct node *tree_walk(const struct node *top, const struct node *n);

/* The same, without what is below `n`. */
struct node *tree_skip(const struct node *top, const struct node *n);

#endif
