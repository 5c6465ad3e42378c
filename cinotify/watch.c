/*
 * Watch a tree: a watch on every directory, and every event as a frame.
 *
 * What the kernel reports is old when it is read: the directory that was made may be elsewhere,
 * replaced, or gone. So no event about a directory is believed. It moves the node where an event
 * names both ends, and then asks for a *visit*: open what is at the place now, watch it, and see
 * from the watch descriptor (the same one for the same directory, always) which directory that
 * is. Whatever is not the one we knew is listed. A place is a name in a *known* directory: a
 * path that leads through another one (the parent was renamed, and we have not read it yet) says
 * nothing about what is below, so the parent is visited first. Visits wait in a stack of the
 * tree, so a full scan, a new subtree and a doubt are the same work, interleaved with reading,
 * and the kernel's queue does not run over while we walk. A visit that finds a directory which
 * we know at another place is put off until its rename is read, to be told as one.
 *
 * Invariants: a directory is watched before it is listed, and no watch is ever replaced, so
 * nothing falls between; a directory of a pruned name has no node, nor has what is below it: it
 * comes and goes as from outside of the tree; each node is watched, or waits for a visit, or was
 * reported as beyond the limit or unreadable; a node that loses its watch to another place is
 * visited again; a beat is told only when no visit and no half of a rename is outstanding.
 * Not here: file content, settling, echo suppression; the reader looks for itself.
 */
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#ifndef READ_SIZE /* tests make both small, so that reading and visits alternate in all ways */
#define READ_SIZE (64 * 1024)
#define SLICE_VISITS 256
#endif

enum {
	SLICE_BYTES = 64 * 1024,
	SLICE_NS = 5 * 1000 * 1000,
	MOVE_WAIT_MS = 2,
	MOVE_WAIT_NS = MOVE_WAIT_MS * 1000 * 1000,
	SLICE_REAPED = 1024,
	BEATS_SIZE_MAX = 64 * 1024,
	ROBBED_MAX = 3,
	CATCH_UP_MAX = 1024 * 1024,
	/* added to: to replace the mask of a watch (since Linux 5.19) leaves it none for an instant */
	WATCH_HOW = IN_ONLYDIR | IN_EXCL_UNLINK | IN_MASK_ADD,
	WATCH_DIRECTORY = IN_CREATE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_DELETE |
			  IN_MOVED_FROM | IN_MOVED_TO | WATCH_HOW,
	WATCH_ROOT = WATCH_DIRECTORY | IN_DELETE_SELF | IN_MOVE_SELF,
	WATCH_CONTROL = IN_CLOSE_WRITE | WATCH_HOW,
	WATCH_ABOVE = IN_DELETE | WATCH_HOW,
};

static const struct bytes nothing = { "", 0 };

static int read_batch(struct watcher *w);

static struct bytes text(const char *s) {
	return (struct bytes) { s, strlen(s) };
}

static int64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t) t.tv_sec * 1000000000 + t.tv_nsec;
}

/* --- frames about places ---------------------------------------------------------------- */

/* A place has a path, or is in limbo and then nobody is told of it; only -ENOMEM is an error. */
static int place(struct watcher *w, const struct node *n, struct bytes name, struct bytes *ret,
		 bool *ret_known) {
	int r = tree_path(&w->tree, n, name, ret);
	*ret_known = r == 0;
	return r == -ENOENT ? 0 : r;
}

static int tell_event(struct watcher *w, uint32_t mask, const struct node *n, struct bytes name) {
	struct bytes path;
	bool known;
	int r = place(w, n, name, &path, &known);
	if (known)
		frame_event(&w->frames, mask, path);
	return r;
}

static int tell(struct watcher *w, char type, const struct node *n, struct bytes name) {
	struct bytes path;
	bool known;
	int r = place(w, n, name, &path, &known);
	if (known)
		frame_notice(&w->frames, type, path);
	return r;
}

static int tell_unreadable(struct watcher *w, const struct node *n, int error) {
	struct bytes path;
	bool known;
	int r = place(w, n, nothing, &path, &known);
	if (known)
		frame_unreadable(&w->frames, -error, path);
	return r;
}

static void tell_gone(struct watcher *w) {
	if (!w->gone_told)
		frame_notice(&w->frames, 'U', nothing);
	w->gone_told = true;
}

/* --- visits ----------------------------------------------------------------------------- */

static void cut(struct watcher *w, struct node *n) {
	if (n->parent && n->parent != w->tree.limbo) {
		scan_forget(&w->scanner, n);
		tree_cut(&w->tree, n);
	}
}

/*
 * Watch an open directory; returns the watch or -errno. inotify wants a path: "." is one that no
 * rename bends, that is never too long, and that takes a tenth off a scan compared with
 * /proc/self/fd/N (which need not be mounted, either).
 */
static int add_watch(struct watcher *w, int fd, uint32_t mask) {
	if (fchdir(fd) < 0)
		return -errno;
	int watch = inotify_add_watch(w->inotify, ".", mask);
	return watch < 0 ? -errno : watch;
}

/* Hold no directory open: that would keep a removed one alive, and a mount busy. */
static int let_go(struct watcher *w) {
	scan_forget(&w->scanner, NULL);
	return fchdir(w->scanner.root) < 0 ? -errno : 0;
}

static uint32_t mask_of(const struct watcher *w, const struct node *n) {
	return n->control ? WATCH_CONTROL : n == w->tree.root ? WATCH_ROOT : WATCH_DIRECTORY;
}

/* Has a place lost its watch so often, without a pause, that its directory must be a twin? */
static bool is_twin(struct watcher *w, struct node *n) {
	if (n->spell != w->spell)
		n->robbed = 0;
	n->spell = w->spell;
	return !w->scanner.marks_mounts && n->robbed++ == ROBBED_MAX;
}

/*
 * A directory that stays at two places at once: a bind mount, on a kernel that does not mark the
 * root of one (before 5.8). The place that was found last is not followed.
 */
static int tell_twin(struct watcher *w, struct node *n) {
	int r = tell(w, 'N', n, nothing);
	cut(w, n);
	return r;
}

/*
 * Let a node be the directory that `watch` stands for (NO_WATCH: one that could not be watched).
 * What it was before goes to limbo with all below it, and what the directory brings along from
 * another place comes here. Returns 1 if it was another before, 0 if not, or -errno.
 */
static int identify(struct watcher *w, struct node *n, int watch) {
	if (n->watch == watch && (watch != NO_WATCH || n->known))
		return 0;

	if (n->watch != NO_WATCH || n->child) {
		struct node *stray = tree_stray(&w->tree);
		if (!stray)
			return -ENOMEM;
		tree_hand_over(&w->tree, n, stray);
	}
	if (watch == NO_WATCH)
		return 1;

	struct node *other = tree_watched(&w->tree, watch);
	if (!other) {
		int r = tree_bind(&w->tree, n, watch);
		return r < 0 ? r : 1;
	}
	if (tree_within(n, other)) { /* inside itself? */
		if (w->scanning && !w->scanner.marks_mounts)
			return tell_twin(w, n);
		watcher_rescan(w); /* our tree is stale */
		cut(w, n);
		return 0;
	}
	if (is_twin(w, other))
		return tell_twin(w, n);
	tree_hand_over(&w->tree, other, n);
	if (other->parent != w->tree.limbo)
		tree_push(&w->tree, other, WANT_CHECK);
	return 1;
}

/* Tell of a directory that was just listed and let its subdirectories wait for their visits. */
static int announce(struct watcher *w, struct node *n, bool live, uint32_t entries,
		    const uint8_t digest[static DIGEST_SIZE]) {
	struct bytes path;
	int r = tree_path(&w->tree, n, nothing, &path);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	frame_directory(&w->frames, live, digest, entries, path);
	n->known = true;
	if (!live) {
		n->scanned = w->generation;
		w->directories++;
		w->entries += entries;
		w->locals += w->scanner.locals;
	}

	/* pushed last name first, so that they are popped in byte order */
	for (size_t i = w->scanner.names_size; i-- > 0;) {
		const struct listed *name = &w->scanner.names[i];
		if (!name->is_directory || scan_is_pruned(&w->scanner, text(name->name)))
			continue;
		if (name->is_mount) {
			r = tell(w, 'N', n, text(name->name));
			if (r < 0)
				return r;
			continue;
		}
		struct node *child = tree_get(&w->tree, n, text(name->name));
		if (!child)
			return -ENOMEM;
		child->listed = w->generation;
		if (live || child->scanned != w->generation)
			tree_push(&w->tree, child, live ? WANT_LIVE : WANT_SCAN);
	}
	/* what else it brought along from limbo may have left it meanwhile, untold */
	for (struct node *child = live ? n->child : NULL; child; child = child->next)
		tree_push(&w->tree, child, WANT_CHECK);
	return 0;
}

static int push_control(struct watcher *w) {
	struct node *n = tree_get(&w->tree, w->tree.root, text(".psync"));
	if (!n)
		return -ENOMEM;
	n->control = true;
	n->listed = w->generation;
	tree_push(&w->tree, n, WANT_CHECK);
	return 0;
}

/* Make of an error at a node's place what it means. */
static int refuse(struct watcher *w, struct node *n, int error) {
	if (error == -ENOMEM)
		return error;
	if (scan_vanished(error) || n->control) {
		if (n == w->tree.root)
			tell_gone(w);
		cut(w, n);
		return 0;
	}
	n->known = false; /* list it as soon as it may be read again */
	return tell_unreadable(w, n, error);
}

/*
 * Open a node's directory for a look at a name in it. Returns 1, or 0 when what is at its place
 * now is not the directory that the node stands for (or cannot be opened), or -ENOMEM.
 */
static int stand_in(struct watcher *w, struct node *n) {
	int fd, r, watch;

	if (scan_is_sure(&w->scanner, n))
		return 1;
	r = scan_open(&w->scanner, n, &fd);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	if (n->watch != NO_WATCH) { /* else nothing can be told (the limit) */
		watch = add_watch(w, fd, mask_of(w, n));
		if (watch < 0)
			return watch == -ENOMEM ? watch : 0;
		if (watch != n->watch) {
			if (!tree_watched(&w->tree, watch))
				inotify_rm_watch(w->inotify, watch);
			return 0;
		}
	}
	scan_be_sure(&w->scanner);
	return 1;
}

/* Is the directory that a watch stands for at another place than a node's, as far as we know? */
static bool is_elsewhere(const struct watcher *w, const struct node *n, int watch) {
	const struct node *other = tree_watched(&w->tree, watch);
	return other && other != n && tree_within(other, w->tree.root);
}

/* Read what is queued already: a rename of which we have seen what it did is in it. */
static int catch_up(struct watcher *w) {
	int size, left = 0;

	if (ioctl(w->inotify, FIONREAD, &left) < 0)
		return -errno;
	for (left = left < CATCH_UP_MAX ? left : CATCH_UP_MAX; left > 0; left -= size) {
		size = read_batch(w);
		if (size <= 0)
			return size;
	}
	return 0;
}

/* Look at what is at a node's place now; watch it, and list it where that is due. */
static int visit(struct watcher *w, struct node *n, enum want want) {
	struct kernel_statx own;
	uint8_t digest[DIGEST_SIZE];
	uint32_t entries;
	int fd, r, watch, changed;

	if (!tree_within(n, w->tree.root))
		return 0;
	if (n->parent) {
		r = stand_in(w, n->parent);
		if (r < 0)
			return r;
		if (r == 0) { /* whichever it turns out to be: its listing leads here again */
			tree_push(&w->tree, n->parent, WANT_LIVE);
			return 0;
		}
	}
	r = scan_open(&w->scanner, n, &fd);
	if (r < 0)
		goto refused;
	watch = add_watch(w, fd, mask_of(w, n));
	if (watch < 0 && watch != -ENOSPC && watch != -ENOMEM) {
		r = watch;
		goto refused;
	}
	r = scan_look(fd, &own); /* not before: what changes from here on is an event */
	if (r < 0)
		goto refused;

	if (n->parent && scan_is_mount(&w->scanner, &own)) {
		if (watch >= 0 && !tree_watched(&w->tree, watch))
			inotify_rm_watch(w->inotify, watch);
		r = n->control ? 0 : tell(w, 'N', n, nothing);
		cut(w, n);
		return r;
	}
	if (watch < 0) {
		r = w->limit_told ? 0 : tell(w, 'L', n, nothing);
		if (r < 0)
			return r;
		w->limit_told = true;
		watch = NO_WATCH;
	}
	if (n->parent && !n->control && is_elsewhere(w, n, watch) && w->put_off != n) {
		w->put_off = n;
		tree_push(&w->tree, n, want);
		return catch_up(w);
	}
	w->put_off = NULL;
	changed = identify(w, n, watch);
	if (changed < 0 || n->control || !tree_within(n, w->tree.root))
		return changed < 0 ? changed : 0;
	scan_be_sure(&w->scanner);

	if (want == WANT_CHECK) {
		const bool due = w->scanning && n->scanned != w->generation;
		if (!changed && n->known && !due)
			return 0;
		want = changed || !due ? WANT_LIVE : WANT_SCAN;
	}

	r = scan_list(&w->scanner, fd, &own, digest, &entries);
	if (r < 0)
		goto refused;
	r = announce(w, n, want == WANT_LIVE, entries, digest);
	if (r == 0 && n == w->tree.root)
		r = push_control(w);
	return r;

refused:
	return refuse(w, n, r);
}

/* --- full scans ------------------------------------------------------------------------- */

static void begin_scan(struct watcher *w) {
	w->generation++;
	w->scanning = true;
	w->again = false;
	w->limit_told = false;
	w->directories = w->entries = w->locals = 0;
	scan_forget(&w->scanner, NULL);
	tree_push(&w->tree, w->tree.root, WANT_SCAN);
}

/* Every place has been visited: cut off what no listing showed, and say that it is over. */
static void end_scan(struct watcher *w) {
	struct node *n = tree_walk(w->tree.root, w->tree.root);

	while (n) {
		struct node *stale = n->listed == w->generation ? NULL : n;

		n = stale ? tree_skip(w->tree.root, n) : tree_walk(w->tree.root, n);
		if (stale)
			cut(w, stale);
	}
	w->scanning = false;
	frame_scanned(&w->frames, w->generation, w->directories, w->entries, w->locals);
}

void watcher_rescan(struct watcher *w) {
	w->again = true;
}

/* --- events ----------------------------------------------------------------------------- */

/* Have a place visited: something happened to a directory there. */
static int doubt(struct watcher *w, struct node *parent, struct bytes name) {
	if (!tree_within(parent, w->tree.root) || scan_is_pruned(&w->scanner, name))
		return 0;
	struct node *n = tree_get(&w->tree, parent, name);
	if (!n)
		return -ENOMEM;
	n->listed = w->generation;
	tree_push(&w->tree, n, WANT_CHECK);
	return 0;
}

/* Nobody knows where it has gone: have its old place visited. */
static int forget_move(struct watcher *w, const struct move *m) {
	struct bytes name = { m->name, m->name_size };
	return m->is_directory ? doubt(w, m->parent, name) : 0;
}

/* The first half of a rename turned out to be all there is. */
static int move_out(struct watcher *w, const struct move *m) {
	struct bytes name = { m->name, m->name_size };
	uint32_t directory = m->is_directory ? EVENT_DIRECTORY : 0;
	int r = tell_event(w, EVENT_MOVED_OUT | directory, m->parent, name);
	return r < 0 ? r : forget_move(w, m);
}

/* Give up all moves but the `keep` newest. */
static int give_up_moves(struct watcher *w, size_t keep) {
	size_t gone = w->moves_size > keep ? w->moves_size - keep : 0;
	int r = 0;

	for (size_t i = 0; i < gone && r == 0; i++)
		r = move_out(w, &w->moves[i]);
	w->moves_size -= gone;
	memmove(w->moves, w->moves + gone, w->moves_size * sizeof(w->moves[0]));
	return r;
}

int watcher_give_up_moves(struct watcher *w) {
	return now_ns() < w->moves_until ? 0 : give_up_moves(w, 0);
}

/* Events were lost, perhaps the other halves: the scan that follows tells what is where. */
static int forget_moves(struct watcher *w) {
	int r = 0;

	for (size_t i = 0; i < w->moves_size && r == 0; i++)
		r = forget_move(w, &w->moves[i]);
	w->moves_size = 0;
	return r;
}

static int move_begins(struct watcher *w, const struct inotify_event *e, struct node *parent,
		       struct bytes name) {
	int r = give_up_moves(w, MOVES_MAX - 1);
	if (r < 0)
		return r;
	struct move *m = &w->moves[w->moves_size++];
	*m = (struct move) { .cookie = e->cookie,
			     .is_directory = e->mask & IN_ISDIR,
			     .parent = parent,
			     .name_size = name.size };
	memcpy(m->name, name.data, name.size);
	return 0;
}

/* Take out the first half with this cookie. */
static bool move_take(struct watcher *w, uint32_t cookie, struct move *ret) {
	for (size_t i = 0; i < w->moves_size; i++)
		if (w->moves[i].cookie == cookie) {
			*ret = w->moves[i];
			w->moves_size--;
			memmove(w->moves + i, w->moves + i + 1,
				(w->moves_size - i) * sizeof(w->moves[0]));
			return true;
		}
	return false;
}

/* Tell of a rename of which both ends are known; its two paths need two buffers. */
static int tell_move(struct watcher *w, const struct move *from, const struct node *parent,
		     struct bytes name) {
	struct bytes path, old_path = { from->name, from->name_size };
	int r = tree_path(&w->tree, from->parent, old_path, &path);
	if (r < 0)
		return r;
	char *copy = strndup(path.data, path.size);
	if (!copy)
		return -ENOMEM;
	old_path = (struct bytes) { copy, path.size };
	r = tree_path(&w->tree, parent, name, &path);
	if (r == 0)
		frame_move(&w->frames, from->is_directory, old_path, path);
	free(copy);
	return r;
}

/*
 * Both halves of a directory's rename: the node goes along, and both places are visited to see
 * whether it is as the event says (it is, unless more has happened since).
 */
static int move_node(struct watcher *w, const struct move *from, struct node *parent,
		     struct bytes name) {
	struct bytes old_name = { from->name, from->name_size };
	struct node *n = tree_find(&w->tree, from->parent, old_name);
	int r;

	if (n && scan_is_pruned(&w->scanner, name))
		cut(w, n);
	else if (n && !tree_within(parent, n)) {
		struct node *replaced = tree_find(&w->tree, parent, name);
		if (replaced && replaced != n)
			cut(w, replaced);
		scan_forget(&w->scanner, n);
		r = tree_move(&w->tree, n, parent, name);
		if (r < 0)
			return r;
	}
	r = doubt(w, from->parent, old_name);
	return r < 0 ? r : doubt(w, parent, name);
}

static int move_ends(struct watcher *w, const struct inotify_event *e, struct node *parent,
		     struct bytes name) {
	const uint32_t directory = e->mask & IN_ISDIR ? EVENT_DIRECTORY : 0;
	struct move from;
	int r;

	if (move_take(w, e->cookie, &from)) {
		r = tell_move(w, &from, parent, name);
		if (r == 0)
			return directory ? move_node(w, &from, parent, name) : 0;
		if (r == -ENOENT)
			r = move_out(w, &from); /* one end is in limbo: each speaks for itself */
		if (r < 0)
			return r;
	}
	r = tell_event(w, EVENT_MOVED_IN | directory, parent, name);
	return r == 0 && directory ? doubt(w, parent, name) : r;
}

/* A name that stays here: of a rename only the other end matters. */
static int handle_ours(struct watcher *w, const struct inotify_event *e, struct node *parent,
		       struct bytes name) {
	struct move from;

	if (e->mask & IN_MOVED_TO && move_take(w, e->cookie, &from)) {
		int r = move_out(w, &from);
		if (r < 0)
			return r;
	}
	if (parent == w->tree.root && name.size == strlen(".psync") &&
	    e->mask & (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO))
		return push_control(w);
	return 0;
}

static int handle_name(struct watcher *w, const struct inotify_event *e, struct node *parent,
		       struct bytes name) {
	const uint32_t directory = e->mask & IN_ISDIR ? EVENT_DIRECTORY : 0;
	uint32_t mask = 0;
	int r;

	if (scan_is_ours(name))
		return handle_ours(w, e, parent, name);
	if (e->mask & IN_MOVED_FROM)
		return move_begins(w, e, parent, name);
	if (e->mask & IN_MOVED_TO)
		return move_ends(w, e, parent, name);

	if (e->mask & IN_CREATE)
		mask |= EVENT_CREATED;
	if (e->mask & IN_MODIFY)
		mask |= EVENT_MODIFIED;
	if (e->mask & IN_CLOSE_WRITE)
		mask |= EVENT_CLOSED;
	if (e->mask & IN_ATTRIB)
		mask |= EVENT_ATTRIBUTES;
	if (e->mask & IN_DELETE)
		mask |= EVENT_DELETED;
	if (mask == 0)
		return 0;
	r = tell_event(w, mask | directory, parent, name);
	if (r < 0 || !directory)
		return r;
	if (mask & EVENT_ATTRIBUTES) { /* it may have become readable */
		const struct node *n = tree_find(&w->tree, parent, name);
		if (n && n->known && n->watch != NO_WATCH)
			return 0;
	}
	return doubt(w, parent, name);
}

/* An event about a watched directory itself. */
static int handle_self(struct watcher *w, const struct inotify_event *e, struct node *n) {
	if (e->mask & IN_IGNORED) {
		tree_unbind(&w->tree, n);
		if (n != w->tree.root && tree_within(n, w->tree.root))
			tree_push(&w->tree, n, WANT_CHECK);
	}
	if (n != w->tree.root)
		return 0; /* its parent's watch tells the rest */
	if (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED))
		tell_gone(w);
	return e->mask & IN_ATTRIB ? tell_event(w, EVENT_ATTRIBUTES | EVENT_DIRECTORY, n, nothing)
				   : 0;
}

/* Something was removed beside the root: was it the root? (Our descriptor keeps its watch.) */
static void handle_above(struct watcher *w) {
	struct kernel_statx st;
	if (scan_look(w->scanner.root, &st) < 0 || st.nlink == 0)
		tell_gone(w);
}

static int handle(struct watcher *w, const struct inotify_event *e) {
	struct bytes name = { e->name, e->len ? strnlen(e->name, e->len) : 0 };

	if (e->mask & IN_Q_OVERFLOW) {
		frame_notice(&w->frames, 'O', nothing);
		watcher_rescan(w);
		return forget_moves(w);
	}
	struct node *n = tree_watched(&w->tree, e->wd);
	if (!n) {
		if (e->wd == w->above)
			handle_above(w);
		return 0; /* else what we have let go */
	}
	if (name.size == 0)
		return handle_self(w, e, n);
	if (!n->control)
		return handle_name(w, e, n, name);
	if (e->mask & IN_CLOSE_WRITE && w->beats.size < BEATS_SIZE_MAX)
		frame_notice(&w->beats, 'B', name);
	return 0;
}

/* Read and handle a batch of events; returns its size in bytes or -errno. */
static int read_batch(struct watcher *w) {
	_Alignas(struct inotify_event) char buffer[READ_SIZE];
	bool half = false;

	ssize_t size = read(w->inotify, buffer, sizeof(buffer));
	if (size < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (size_t at = 0; at < (size_t) size;) {
		const struct inotify_event *e = (const struct inotify_event *) (buffer + at);
		int r = handle(w, e);
		if (r < 0)
			return r;
		half = e->mask & IN_MOVED_FROM && w->moves_size > 0;
		at += sizeof(*e) + e->len;
	}
	/* both halves are queued together: only the very last event can still lack the other */
	w->moves_until = now_ns() + MOVE_WAIT_NS;
	int r = give_up_moves(w, half ? 1 : 0);
	return r < 0 ? r : (int) size;
}

int watcher_read(struct watcher *w) {
	int r = read_batch(w);
	return r < 0 ? r : 0;
}

/* --- work ------------------------------------------------------------------------------- */

static bool busy(const struct watcher *w) {
	return w->tree.pending || w->scanning || w->again ||
	       (!w->moves_size && (w->tree.limbo->child || w->beats.size));
}

int watcher_timeout(const struct watcher *w) {
	return busy(w) ? 0 : w->moves_size ? MOVE_WAIT_MS : -1;
}

int watcher_work(struct watcher *w) {
	const int64_t until = now_ns() + SLICE_NS;
	int r;

	if (!busy(w))
		return 0;
	if (w->again && !w->scanning)
		begin_scan(w);
	for (unsigned i = 0; i < SLICE_VISITS && w->frames.size < SLICE_BYTES; i++) {
		enum want want;
		struct node *n = tree_pop(&w->tree, &want);
		if (!n)
			break;
		r = visit(w, n, want);
		if (r < 0)
			return r;
		if (now_ns() > until)
			break;
	}
	if (w->tree.pending)
		return 0;
	w->spell++;

	r = let_go(w);
	if (r < 0)
		return r;
	if (w->scanning)
		end_scan(w);
	if (w->again || w->moves_size)
		return 0;
	frames_append(&w->frames, &w->beats);
	frames_clear(&w->beats);
	for (unsigned i = 0; i < SLICE_REAPED && w->tree.limbo->child; i++) {
		int watch = tree_reap(&w->tree);
		if (watch != NO_WATCH)
			inotify_rm_watch(w->inotify, watch); /* fails if the kernel was first */
	}
	return 0;
}

int watcher_init(struct watcher *w, int root, struct scan_options options) {
	int r, above;

	*w = (struct watcher) { .inotify = -1, .above = NO_WATCH, .again = true };
	w->frames = w->beats = FRAMES_EMPTY;
	r = scanner_init(&w->scanner, root, options);
	if (r < 0)
		return r;
	r = tree_init(&w->tree);
	if (r < 0)
		goto fail;
	w->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (w->inotify < 0) {
		r = -errno;
		goto fail;
	}
	above = openat(root, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (above >= 0) { /* if it may not be read, the reader finds out by itself */
		w->above = add_watch(w, above, WATCH_ABOVE);
		close(above);
	}
	r = let_go(w);
	if (r < 0)
		goto fail;
	return 0;

fail:
	watcher_free(w);
	return r;
}

void watcher_free(struct watcher *w) {
	if (w->inotify >= 0)
		close(w->inotify);
	tree_free(&w->tree);
	scanner_free(&w->scanner);
	frames_free(&w->frames);
	frames_free(&w->beats);
}
