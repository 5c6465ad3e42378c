/*
 * The directories that cinotify knows: where they are, and which watch is theirs.
 *
 * A node is a *place* (parent and name); a watch descriptor is an *identity*: the kernel gives
 * the same one for the same directory, wherever it is. Keeping both in one tree makes the rename
 * of a directory a change of one pointer, however much is below it, and a directory that turns
 * up elsewhere can be recognised. Two hash tables, chained through the nodes, find a node by
 * place and by watch.
 *
 * Invariants: pure, no system calls; a place has one node at most, a watch one holder at most;
 * what was cut off stays in limbo, findable by watch but without a path, until it is reaped,
 * so that nobody holds a pointer to what is gone.
 * Not here: what the kernel says (watch.c), what the directories contain (scan.c).
 */
#include "tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_FIRST = 256 };

static uint32_t hash_name(struct bytes name) {
	uint32_t h = 2166136261;
	for (size_t i = 0; i < name.size; i++)
		h = (h ^ (uint8_t) name.data[i]) * 16777619;
	return h;
}

static uint64_t scatter(uint64_t v) {
	v *= 0x9e3779b97f4a7c15;
	return v ^ v >> 32;
}

static size_t name_slot(size_t size, const struct node *parent, uint32_t hash) {
	return scatter((uint64_t) (uintptr_t) parent + hash) & (size - 1);
}

static size_t watch_slot(size_t size, int watch) {
	return scatter((uint32_t) watch) & (size - 1);
}

/* --- the two tables --------------------------------------------------------------------- */

static int names_grow(struct table *t) {
	size_t size = t->size ? t->size * 2 : TABLE_FIRST;
	struct node **slots = calloc(size, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < t->size; i++)
		for (struct node *n = t->slots[i], *after; n; n = after) {
			size_t slot = name_slot(size, n->parent, n->hash);
			after = n->same_name;
			n->same_name = slots[slot];
			slots[slot] = n;
		}
	free(t->slots);
	t->slots = slots;
	t->size = size;
	return 0;
}

static int watches_grow(struct table *t) {
	size_t size = t->size ? t->size * 2 : TABLE_FIRST;
	struct node **slots = calloc(size, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < t->size; i++)
		for (struct node *n = t->slots[i], *after; n; n = after) {
			size_t slot = watch_slot(size, n->watch);
			after = n->same_watch;
			n->same_watch = slots[slot];
			slots[slot] = n;
		}
	free(t->slots);
	t->slots = slots;
	t->size = size;
	return 0;
}

static void name_enter(struct tree *t, struct node *n) {
	struct node **slot = &t->names.slots[name_slot(t->names.size, n->parent, n->hash)];
	n->same_name = *slot;
	*slot = n;
	t->names.used++;
}

static void name_leave(struct tree *t, struct node *n) {
	struct node **at = &t->names.slots[name_slot(t->names.size, n->parent, n->hash)];
	while (*at != n)
		at = &(*at)->same_name;
	*at = n->same_name;
	t->names.used--;
}

/* --- family ----------------------------------------------------------------------------- */

static void adopt(struct node *parent, struct node *n) {
	n->parent = parent;
	n->previous = NULL;
	n->next = parent->child;
	if (n->next)
		n->next->previous = n;
	parent->child = n;
}

static void leave(struct node *n) {
	if (n->previous)
		n->previous->next = n->next;
	else
		n->parent->child = n->next;
	if (n->next)
		n->next->previous = n->previous;
}

static void forget_pending(struct tree *t, struct node *n) {
	if (n->want == WANT_NOTHING)
		return;
	if (n->pending_previous)
		n->pending_previous->pending_next = n->pending_next;
	else
		t->pending = n->pending_next;
	if (n->pending_next)
		n->pending_next->pending_previous = n->pending_previous;
	n->want = WANT_NOTHING;
}

static struct node *make(struct bytes name) {
	struct node *n = calloc(1, sizeof(*n));
	char *copy = malloc(name.size + 1);
	if (!n || !copy) {
		free(n);
		free(copy);
		return NULL;
	}
	if (name.size)
		memcpy(copy, name.data, name.size);
	copy[name.size] = 0;
	n->name = copy;
	n->name_size = (uint8_t) name.size;
	n->hash = hash_name(name);
	n->watch = NO_WATCH;
	return n;
}

static void release(struct node *n) {
	if (n)
		free(n->name);
	free(n);
}

int tree_init(struct tree *t) {
	*t = (struct tree) { .root = make((struct bytes) { "", 0 }),
			     .limbo = make((struct bytes) { "", 0 }) };
	if (!t->root || !t->limbo || names_grow(&t->names) < 0 || watches_grow(&t->watches) < 0) {
		tree_free(t);
		return -ENOMEM;
	}
	return 0;
}

void tree_free(struct tree *t) {
	if (t->root && t->limbo) {
		adopt(t->limbo, t->root);
		while (t->limbo->child) {
			struct node *n = t->limbo->child;
			leave(n);
			while (n->child) {
				struct node *c = n->child;
				leave(c);
				adopt(t->limbo, c);
			}
			release(n);
		}
		t->root = NULL;
	}
	release(t->root);
	release(t->limbo);
	free(t->names.slots);
	free(t->watches.slots);
	free(t->path);
	*t = (struct tree) { 0 };
}

struct node *tree_find(const struct tree *t, const struct node *parent, struct bytes name) {
	uint32_t hash = hash_name(name);
	struct node *n = t->names.slots[name_slot(t->names.size, parent, hash)];

	while (n && !(n->parent == parent && n->hash == hash && n->name_size == name.size &&
		      memcmp(n->name, name.data, name.size) == 0))
		n = n->same_name;
	return n;
}

struct node *tree_get(struct tree *t, struct node *parent, struct bytes name) {
	struct node *n = tree_find(t, parent, name);
	if (n)
		return n;
	if (t->names.used >= t->names.size && names_grow(&t->names) < 0)
		return NULL;
	n = make(name);
	if (!n)
		return NULL;
	adopt(parent, n);
	name_enter(t, n);
	return n;
}

int tree_move(struct tree *t, struct node *n, struct node *parent, struct bytes name) {
	char *copy = malloc(name.size + 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, name.data, name.size);
	copy[name.size] = 0;

	name_leave(t, n);
	leave(n);
	free(n->name);
	n->name = copy;
	n->name_size = (uint8_t) name.size;
	n->hash = hash_name(name);
	adopt(parent, n);
	name_enter(t, n);
	return 0;
}

void tree_cut(struct tree *t, struct node *n) {
	forget_pending(t, n);
	name_leave(t, n);
	leave(n);
	adopt(t->limbo, n);
}

struct node *tree_stray(struct tree *t) {
	struct node *n = make((struct bytes) { "", 0 });
	if (n)
		adopt(t->limbo, n);
	return n;
}

int tree_reap(struct tree *t) {
	struct node *n = t->limbo->child;
	int watch = n->watch;

	while (n->child)
		tree_cut(t, n->child);
	tree_unbind(t, n);
	forget_pending(t, n);
	leave(n);
	release(n);
	return watch;
}

struct node *tree_watched(const struct tree *t, int watch) {
	struct node *n = t->watches.slots[watch_slot(t->watches.size, watch)];
	while (n && n->watch != watch)
		n = n->same_watch;
	return n;
}

int tree_bind(struct tree *t, struct node *n, int watch) {
	if (t->watches.used >= t->watches.size && watches_grow(&t->watches) < 0)
		return -ENOMEM;
	struct node **slot = &t->watches.slots[watch_slot(t->watches.size, watch)];
	n->watch = watch;
	n->same_watch = *slot;
	*slot = n;
	t->watches.used++;
	return 0;
}

void tree_unbind(struct tree *t, struct node *n) {
	if (n->watch == NO_WATCH)
		return;
	struct node **at = &t->watches.slots[watch_slot(t->watches.size, n->watch)];
	while (*at != n)
		at = &(*at)->same_watch;
	*at = n->same_watch;
	t->watches.used--;
	n->watch = NO_WATCH;
}

void tree_hand_over(struct tree *t, struct node *from, struct node *to) {
	int watch = from->watch;

	while (from->child) {
		struct node *c = from->child;
		name_leave(t, c);
		leave(c);
		adopt(to, c);
		name_enter(t, c);
	}
	if (watch != NO_WATCH) {
		tree_unbind(t, from);
		tree_bind(t, to, watch); /* has room: one has just been given back */
	}
}

bool tree_within(const struct node *n, const struct node *top) {
	while (n && n != top)
		n = n->parent;
	return n != NULL;
}

int tree_path(struct tree *t, const struct node *n, struct bytes name, struct bytes *ret_path) {
	size_t size = name.size;
	const struct node *up = n;

	for (; up->parent; up = up->parent)
		size += up->name_size + (size ? 1u : 0u);
	if (up != t->root)
		return -ENOENT;

	if (size > t->path_room) {
		size_t room = size * 2;
		char *path = realloc(t->path, room);
		if (!path)
			return -ENOMEM;
		t->path = path;
		t->path_room = room;
	}

	size_t at = size - name.size;
	if (name.size)
		memcpy(t->path + at, name.data, name.size);
	for (up = n; up->parent; up = up->parent) {
		if (at < size)
			t->path[--at] = '/';
		at -= up->name_size;
		memcpy(t->path + at, up->name, up->name_size);
	}
	*ret_path = (struct bytes) { t->path, size };
	return 0;
}

void tree_push(struct tree *t, struct node *n, enum want want) {
	if (n->want == WANT_NOTHING) {
		n->pending_previous = NULL;
		n->pending_next = t->pending;
		if (t->pending)
			t->pending->pending_previous = n;
		t->pending = n;
	}
	if (n->want < want)
		n->want = (uint8_t) want;
}

struct node *tree_pop(struct tree *t, enum want *ret_want) {
	struct node *n = t->pending;
	if (n) {
		*ret_want = n->want;
		forget_pending(t, n);
	}
	return n;
}

struct node *tree_skip(const struct node *top, const struct node *n) {
	while (n != top && !n->next)
		n = n->parent;
	return n == top ? NULL : n->next;
}

struct node *tree_walk(const struct node *top, const struct node *n) {
	return n->child ? n->child : tree_skip(top, n);
}
