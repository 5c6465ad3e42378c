/*
 * Look at a directory: open it safely, list it, and make one digest of all that matters in it.
 *
 * The digest is `directory_digest` of psync/core/entry.py, bit for bit: an equal digest spares
 * the reader every entry of the directory.
 *
 * Invariants: a directory is opened by one name relative to its parent's descriptor, never
 * through a symlink, so that no rename leads outside and no path is too long; names are digested
 * in byte order; a directory that could not be read whole has no digest at all.
 * Not here: descent (watch.c decides what is listed next), following mount points.
 */
#include "scan.h"

#include "blake2b.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
	DIRENTS_FIRST = 64 * 1024,
	DIRENTS_KEEP_MAX = 4 * 1024 * 1024,
	KIND_FILE = 1,
	KIND_DIRECTORY = 2,
	KIND_SYMLINK = 3,
};

static const char local_suffix[] = ".psync.ignore";
static const char control_name[] = ".psync";

int scanner_init(struct scanner *s, int root, struct scan_options options) {
	struct kernel_statx st;
	int r = scan_look(root, &st);
	if (r < 0)
		return r;
	*s = (struct scanner) { .options = options,
				.root = root,
				.dev_major = st.dev_major,
				.dev_minor = st.dev_minor,
				.marks_mounts = st.attributes_mask & KERNEL_ATTR_MOUNT_ROOT };
	return 0;
}

void scanner_free(struct scanner *s) {
	scan_forget(s, NULL);
	close(s->root);
	free(s->climb);
	free(s->dirents);
	free(s->names);
}

bool scan_vanished(int error) {
	return error == -ENOENT || error == -ENOTDIR || error == -ELOOP || error == -ESTALE;
}

int scan_look(int fd, struct kernel_statx *ret) {
	return kernel_statx(fd, "", KERNEL_AT_EMPTY_PATH, ret) < 0 ? -errno : 0;
}

bool scan_is_mount(const struct scanner *s, const struct kernel_statx *st) {
	return st->dev_major != s->dev_major || st->dev_minor != s->dev_minor ||
	       st->attributes & KERNEL_ATTR_MOUNT_ROOT;
}

bool scan_is_ours(struct bytes name) {
	const size_t suffix = sizeof(local_suffix) - 1;
	const size_t control = sizeof(control_name) - 1;

	if (name.size >= suffix &&
	    memcmp(name.data + name.size - suffix, local_suffix, suffix) == 0)
		return true;
	return name.size == control && memcmp(name.data, control_name, control) == 0;
}

bool scan_is_pruned(const struct scanner *s, struct bytes name) {
	for (size_t i = 0; i < s->options.pruned_size; i++) {
		const char *glob = s->options.pruned[i];
		const size_t size = strlen(glob);
		const bool before = size > 0 && glob[0] == '*';
		const bool after = !before && size > 0 && glob[size - 1] == '*';
		const size_t fixed = size - before - after;

		if (before || after ? name.size < fixed : name.size != fixed)
			continue;
		if (memcmp(name.data + (before ? name.size - fixed : 0), glob + before, fixed) == 0)
			return true;
	}
	return false;
}

/* --- the trail of open directories ------------------------------------------------------ */

static void trail_cut(struct scanner *s, size_t size) {
	while (s->trail_size > size)
		close(s->trail_fd[--s->trail_size]);
}

void scan_forget(struct scanner *s, const struct node *n) {
	if (!n) {
		trail_cut(s, 0);
		return;
	}
	for (size_t i = 0; i < s->trail_size; i++)
		if (s->trail[i] == n) {
			trail_cut(s, i);
			return;
		}
}

static void trail_append(struct scanner *s, struct node *n, int fd) {
	if (s->trail_size == TRAIL_MAX) {
		close(s->trail_fd[0]);
		s->trail_size--;
		memmove(s->trail, s->trail + 1, s->trail_size * sizeof(s->trail[0]));
		memmove(s->trail_fd, s->trail_fd + 1, s->trail_size * sizeof(s->trail_fd[0]));
		memmove(s->trail_sure, s->trail_sure + 1,
			s->trail_size * sizeof(s->trail_sure[0]));
	}
	s->trail[s->trail_size] = n;
	s->trail_sure[s->trail_size] = false;
	s->trail_fd[s->trail_size++] = fd;
}

/* How much of the trail ends at `n`; 0 when it is not on it. */
static size_t trail_upto(const struct scanner *s, const struct node *n) {
	for (size_t i = s->trail_size; i-- > 0;)
		if (s->trail[i] == n)
			return i + 1;
	return 0;
}

void scan_be_sure(struct scanner *s) {
	if (s->trail_size > 0)
		s->trail_sure[s->trail_size - 1] = true;
}

bool scan_is_sure(const struct scanner *s, const struct node *n) {
	size_t size = trail_upto(s, n);
	return size > 0 && s->trail_sure[size - 1];
}

static int open_child(int parent, const char *name) {
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int scan_open(struct scanner *s, struct node *n, int *ret_fd) {
	size_t depth = 0, shared = 0;

	if (!n->parent) {
		/* a descriptor of its own, because listing moves its offset */
		int fd = open_child(s->root, ".");
		if (fd < 0)
			return fd;
		trail_cut(s, 0);
		trail_append(s, n, fd);
		*ret_fd = fd;
		return 0;
	}

	/* climb to an ancestor that is open; never to `n` itself, which may be another now */
	for (struct node *up = n; up->parent; up = up->parent) {
		if (depth == s->climb_room) {
			size_t room = depth ? depth * 2 : 64;
			struct node **climb = realloc(s->climb, room * sizeof(*climb));
			if (!climb)
				return -ENOMEM;
			s->climb = climb;
			s->climb_room = room;
		}
		s->climb[depth++] = up;
		shared = trail_upto(s, up->parent);
		if (shared)
			break;
	}
	trail_cut(s, shared);

	while (depth-- > 0) {
		struct node *down = s->climb[depth];
		int parent = s->trail_size ? s->trail_fd[s->trail_size - 1] : s->root;
		int fd = open_child(parent, down->name);
		if (fd < 0)
			return fd;
		trail_append(s, down, fd);
	}
	*ret_fd = s->trail_fd[s->trail_size - 1];
	return 0;
}

/* --- listing ---------------------------------------------------------------------------- */

/* Read all of a directory's raw entries into `s->dirents`. */
static int read_dirents(struct scanner *s, int fd) {
	s->dirents_size = 0;
	for (;;) {
		if (s->dirents_room - s->dirents_size < DIRENTS_FIRST / 2) {
			size_t room = s->dirents_room ? s->dirents_room * 2 : DIRENTS_FIRST;
			char *dirents = realloc(s->dirents, room);
			if (!dirents)
				return -ENOMEM;
			s->dirents = dirents;
			s->dirents_room = room;
		}
		long n = kernel_getdents(fd, s->dirents + s->dirents_size,
					 s->dirents_room - s->dirents_size);
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		s->dirents_size += (size_t) n;
	}
}

static int compare_names(const void *a, const void *b) {
	/* strcmp compares as unsigned char, which is byte order; a name holds no NUL */
	return strcmp(((const struct listed *) a)->name, ((const struct listed *) b)->name);
}

static int name_append(struct scanner *s, const char *name, uint8_t type) {
	if (s->names_size == s->names_room) {
		size_t room = s->names_room ? s->names_room * 2 : 256;
		struct listed *names = realloc(s->names, room * sizeof(*names));
		if (!names)
			return -ENOMEM;
		s->names = names;
		s->names_room = room;
	}
	s->names[s->names_size++] = (struct listed) { .name = name, .type = type };
	return 0;
}

/* Collect the names that may be replicated, in byte order, into `s->names`. */
static int collect(struct scanner *s) {
	s->names_size = s->locals = 0;
	for (size_t at = 0; at < s->dirents_size;) {
		struct kernel_dirent *d = (struct kernel_dirent *) (s->dirents + at);
		const char *name = d->name;

		at += d->reclen;
		if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0)))
			continue;
		if (d->type == DT_FIFO || d->type == DT_SOCK || d->type == DT_CHR || d->type == DT_BLK)
			continue;
		if (scan_is_ours((struct bytes) { name, strlen(name) })) {
			s->locals += strcmp(name, control_name) != 0;
			continue;
		}
		int r = name_append(s, name, d->type);
		if (r < 0)
			return r;
	}
	if (s->names_size > 0)
		qsort(s->names, s->names_size, sizeof(*s->names), compare_names);
	return 0;
}

static uint8_t *put(uint8_t *p, uint64_t value, unsigned size) {
	for (unsigned i = 0; i < size; i++)
		*p++ = (uint8_t) (value >> (8 * i));
	return p;
}

static uint64_t nanoseconds(struct kernel_timestamp t) {
	return (uint64_t) t.sec * 1000000000 + t.nsec;
}

static uint16_t permissions(const struct scanner *s, const struct kernel_statx *st) {
	return st->mode & (s->options.strip_special ? 0777 : 07777);
}

static uint8_t *put_owner(const struct scanner *s, uint8_t *p, const struct kernel_statx *st) {
	p = put(p, s->options.no_owner ? 0 : st->uid, 4);
	return put(p, s->options.no_owner ? 0 : st->gid, 4);
}

static void digest_own(const struct scanner *s, struct blake2b *b, const struct kernel_statx *st) {
	uint8_t record[8 + 2 + 4 + 4];
	uint8_t *p = put(record, nanoseconds(st->mtime), 8);

	p = put(p, permissions(s, st), 2);
	put_owner(s, p, st);
	blake2b_add(b, record, sizeof(record));
}

static void digest_child(const struct scanner *s, struct blake2b *b, const char *name,
			 uint8_t kind, const struct kernel_statx *st) {
	const bool versioned = kind != KIND_DIRECTORY; /* a directory's times move with its children */
	uint8_t record[1 + 2 + 4 + 4 + 8 + 8 + 8 + 8], length[4];
	size_t size = strlen(name);

	put(length, size, 4);
	blake2b_add(b, length, sizeof(length));
	blake2b_add(b, name, size);

	uint8_t *p = put(record, kind, 1);
	p = put(p, kind == KIND_SYMLINK ? 0 : permissions(s, st), 2);
	p = put_owner(s, p, st);
	p = put(p, kind == KIND_FILE ? st->size : 0, 8);
	p = put(p, versioned ? nanoseconds(st->mtime) : 0, 8);
	p = put(p, st->ino, 8);
	put(p, versioned ? nanoseconds(st->ctime) : 0, 8);
	blake2b_add(b, record, sizeof(record));
}

static uint8_t kind_of(uint16_t mode) {
	switch (mode & S_IFMT) {
	case S_IFREG:
		return KIND_FILE;
	case S_IFDIR:
		return KIND_DIRECTORY;
	case S_IFLNK:
		return KIND_SYMLINK;
	default:
		return 0;
	}
}

/*
 * Tell whether a directory has attributes that may be replicated. They are no part of its digest,
 * and nothing else of it tells that they have changed.
 */
static bool has_attributes(int fd) {
	static const char user[] = "user.", acl[] = "system.posix_acl_";
	char names[4096];
	ssize_t size = flistxattr(fd, names, sizeof(names));

	if (size < 0)
		return errno == ERANGE;
	for (const char *name = names; name < names + size; name += strlen(name) + 1)
		if (strncmp(name, user, sizeof(user) - 1) == 0 ||
		    strncmp(name, acl, sizeof(acl) - 1) == 0)
			return true;
	return false;
}

int scan_list(struct scanner *s, int fd, const struct kernel_statx *own,
	      uint8_t ret_digest[static DIGEST_SIZE], uint32_t *ret_entries) {
	struct blake2b digest;
	uint32_t entries = 0;
	int r;

	if (s->dirents_room > DIRENTS_KEEP_MAX) { /* one giant directory shall not cost for ever */
		free(s->dirents);
		free(s->names);
		s->dirents = NULL;
		s->names = NULL;
		s->dirents_room = s->names_room = s->names_size = 0;
	}
	r = read_dirents(s, fd);
	if (r < 0)
		return r;
	r = collect(s);
	if (r < 0)
		return r;

	blake2b_begin(&digest, DIGEST_SIZE);
	digest_own(s, &digest, own);
	for (size_t i = 0; i < s->names_size; i++) {
		struct listed *name = &s->names[i];
		struct kernel_statx st;

		if (kernel_statx(fd, name->name, KERNEL_AT_SYMLINK_NOFOLLOW, &st) < 0) {
			if (scan_vanished(-errno))
				continue;
			return -errno;
		}
		uint8_t kind = kind_of(st.mode);
		if (kind == 0)
			continue;
		name->is_directory = kind == KIND_DIRECTORY;
		name->is_mount = name->is_directory && scan_is_mount(s, &st);
		if (name->is_mount)
			continue;
		digest_child(s, &digest, name->name, kind, &st);
		entries++;
	}
	blake2b_end(&digest, ret_digest);
	if (s->options.xattrs && has_attributes(fd))
		ret_digest[0] ^= 0xff; /* so it is listed */
	*ret_entries = entries;
	return 0;
}
