/*
 * cinotify: watch a directory tree, and tell of every change in it, losing none.
 *
 * Scanning is the slow part of a start and events are the many part of a day, so both are done
 * here, in C, in one pass; what the events mean is decided by the reader (psync/filter.py).
 *
 *   cinotify.c   this: options, and the loop between the kernel, the work and the reader
 *   watch.c      watches and events: visits, renames, full scans
 *   scan.c       one directory: opened without following anything, listed, digested
 *   tree.c       the directories we know, by place and by watch
 *   frame.c      what we say, as bytes (the format is described there)
 *   text.c       the same as lines, for a person
 *   blake2b.c    the digest
 *   kernel.h     structures that not every C library has
 *
 * stdin: 'R' asks for a full scan; its end ends us, as does a reader that went away.
 *
 * Invariants: stdout carries frames only and only this file writes to it, one write(2) for all
 * that is known at that moment; diagnostics go to stderr and only this file makes them; nothing
 * in the tree is ever written. Functions return 0 or a negative errno, and leave their results
 * (ret_*) alone when they fail.
 * Not here: a limit on memory for unsent frames: while the reader does not read we do not either,
 * the kernel's queue is the bound, and its overflow is a full scan.
 */
#include "scan.h"
#include "text.h"
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COMMANDS_SIZE = 64 };

static const char usage[] =
	"usage: cinotify [--no-owner] [--strip-special] [--xattrs] [--prune NAME]...\n"
	"                [--text [--separator S]] --root-fd N | ROOT\n"
	"\n"
	"Watch the tree at ROOT; frames (see frame.c) or, with --text, lines go to stdout.\n"
	"Directories called NAME (or *NAME, or NAME*) are named, but not entered.\n"
	"Ends with its stdin; an 'R' there asks for a full scan.\n";

static struct {
	struct scan_options scan;
	bool text;
	const char *separator;
	int root_fd;
	const char *root;
} options = { .separator = ":", .root_fd = -1 };

static int parse_descriptor(const char *s, int *ret) {
	char *end;
	errno = 0;
	long n = strtol(s, &end, 10);
	if (errno || end == s || *end || n < 0 || n > INT_MAX)
		return -EINVAL;
	*ret = (int) n;
	return 0;
}

static int parse_options(int argc, char **argv) {
	static const struct option known[] = {
		{ "no-owner", no_argument, NULL, 'o' },
		{ "strip-special", no_argument, NULL, 's' },
		{ "xattrs", no_argument, NULL, 'x' },
		{ "prune", required_argument, NULL, 'p' },
		{ "text", no_argument, NULL, 't' },
		{ "separator", required_argument, NULL, 'S' },
		{ "root-fd", required_argument, NULL, 'r' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	options.scan.pruned = calloc((size_t) argc, sizeof(*options.scan.pruned));
	if (!options.scan.pruned)
		return -ENOMEM;
	while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		switch (option) {
		case 'o':
			options.scan.no_owner = true;
			break;
		case 's':
			options.scan.strip_special = true;
			break;
		case 'x':
			options.scan.xattrs = true;
			break;
		case 'p':
			options.scan.pruned[options.scan.pruned_size++] = optarg;
			break;
		case 't':
			options.text = true;
			break;
		case 'S':
			options.separator = optarg;
			break;
		case 'r':
			if (parse_descriptor(optarg, &options.root_fd) < 0)
				return -EINVAL;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(EXIT_SUCCESS);
		default:
			return -EINVAL;
		}
	}
	if (optind < argc)
		options.root = argv[optind++];
	return optind == argc && !options.root == (options.root_fd >= 0) ? 0 : -EINVAL;
}

/* Write all of it, waiting where a descriptor does not block. 0 or -errno. */
static int write_all(int fd, const uint8_t *data, size_t size) {
	while (size > 0) {
		ssize_t n = write(fd, data, size);
		if (n < 0 && errno == EAGAIN) {
			struct pollfd ready = { .fd = fd, .events = POLLOUT };
			poll(&ready, 1, -1);
		} else if (n < 0 && errno != EINTR)
			return -errno;
		else if (n > 0) {
			data += n;
			size -= (size_t) n;
		}
	}
	return 0;
}

static int flush(struct frames *f) {
	int r = 0;

	if (f->failed)
		return -ENOMEM;
	if (f->size == 0)
		return 0;
	if (options.text)
		r = text_print(f->data, f->size, options.separator, stdout);
	else
		r = write_all(STDOUT_FILENO, f->data, f->size);
	frames_clear(f);
	return r;
}

/* Read commands. Returns 1 to go on, 0 at their end, or -errno. */
static int obey(struct watcher *w) {
	char commands[COMMANDS_SIZE];
	ssize_t n = read(STDIN_FILENO, commands, sizeof(commands));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 1 : -errno;
	if (n > 0 && memchr(commands, 'R', (size_t) n))
		watcher_rescan(w);
	return n > 0;
}

/* Serve until stdin ends or nobody reads. 0 or -errno. */
static int serve(struct watcher *w) {
	struct pollfd fds[] = {
		{ .fd = w->inotify, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
		{ .fd = STDOUT_FILENO, .events = 0 }, /* POLLERR: the reader is gone */
	};
	int r;

	for (;;) {
		int ready = poll(fds, 3, watcher_timeout(w));
		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready > 0 && fds[2].revents & (POLLERR | POLLHUP | POLLNVAL))
			return 0;
		if (ready > 0 && fds[1].revents) {
			r = obey(w);
			if (r <= 0)
				return r;
		}
		if (ready > 0 && fds[0].revents)
			r = watcher_read(w);
		else
			r = watcher_give_up_moves(w);
		if (r == 0)
			r = watcher_work(w);
		if (r == 0)
			r = flush(&w->frames);
		if (r < 0)
			return r == -EPIPE ? 0 : r;
	}
}

int main(int argc, char **argv) {
	struct watcher watcher;
	int root, r;

	if (parse_options(argc, argv) < 0) {
		fputs(usage, stderr);
		return EXIT_FAILURE;
	}
	signal(SIGPIPE, SIG_IGN);

	root = options.root ? open(options.root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
			    : openat(options.root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0) {
		fprintf(stderr, "cinotify: cannot open the root: %s\n", strerror(errno));
		return EXIT_FAILURE;
	}
	r = watcher_init(&watcher, root, options.scan);
	if (r < 0) {
		fprintf(stderr, "cinotify: cannot watch: %s\n", strerror(-r));
		return EXIT_FAILURE;
	}
	r = serve(&watcher);
	watcher_free(&watcher);
	if (r < 0) {
		fprintf(stderr, "cinotify: %s\n", strerror(-r));
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
