/*
 * psync-rsh: rsync's remote shell that is no shell. It hands rsync's two ends to the brain.
 *
 * rsync starts it as `psync-rsh HOST rsync --server ...`. It sends its arguments, each ended by
 * NUL, with stdin and stdout (SCM_RIGHTS) in one message over the socket that PSYNC_RSH_FD names,
 * and waits. The brain joins both ends to a channel of the connection it already has, and answers
 * with one byte, the exit status. So no bulk byte passes through here and no connection is made.
 *
 * Invariants: one message (SOCK_SEQPACKET or SOCK_STREAM), one byte back; when the brain is gone
 * the status is 255, which rsync and psync both take for a lost connection. stderr stays ours, so
 * that rsync's complaints stay with rsync.
 * Not here: ssh's options; rsync passes none, and the host is what the brain connected to.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EXIT_LOST = 255 };

/* Join the arguments, each with its NUL. Returns the size, or 0 without memory. */
static size_t join(int argc, char **argv, char **ret_joined) {
	size_t size = 0, at = 0;
	char *joined;

	for (int i = 1; i < argc; i++)
		size += strlen(argv[i]) + 1;
	joined = malloc(size);
	if (!joined)
		return 0;
	for (int i = 1; i < argc; i++) {
		size_t n = strlen(argv[i]) + 1;
		memcpy(joined + at, argv[i], n);
		at += n;
	}
	*ret_joined = joined;
	return size;
}

/* Send the arguments with our stdin and stdout attached to their first byte. 0 or -errno. */
static int hand_over(int socket, char *data, size_t size) {
	const int ends[2] = { STDIN_FILENO, STDOUT_FILENO };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(ends))];
	} control = { 0 };
	struct iovec part = { .iov_base = data, .iov_len = size };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = control.space,
				  .msg_controllen = sizeof(control.space) };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(ends));
	memcpy(CMSG_DATA(rights), ends, sizeof(ends));

	while (part.iov_len > 0) {
		ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		part.iov_base = (char *) part.iov_base + n;
		part.iov_len -= (size_t) n;
		message.msg_control = NULL; /* a stream may take the rest later, without them */
		message.msg_controllen = 0;
	}
	return 0;
}

/* Wait for the exit status; EXIT_LOST when the other side is gone. */
static int await_status(int socket) {
	unsigned char status;
	ssize_t n;

	do
		n = recv(socket, &status, 1, 0);
	while (n < 0 && errno == EINTR);
	return n == 1 ? status : EXIT_LOST;
}

static int parse_descriptor(const char *s) {
	char *end;
	if (!s)
		return -1;
	errno = 0;
	long n = strtol(s, &end, 10);
	return errno || end == s || *end || n < 0 || n > INT_MAX ? -1 : (int) n;
}

int main(int argc, char **argv) {
	const int socket = parse_descriptor(getenv("PSYNC_RSH_FD"));
	char *data;

	if (socket < 0 || argc < 2) {
		fputs("psync-rsh: to be started by psync's rsync, not by hand\n", stderr);
		return EXIT_LOST;
	}
	size_t size = join(argc, argv, &data);
	if (size == 0) {
		fputs("psync-rsh: no memory\n", stderr);
		return EXIT_LOST;
	}
	int r = hand_over(socket, data, size);
	free(data);
	if (r < 0) {
		fprintf(stderr, "psync-rsh: psync is gone: %s\n", strerror(-r));
		return EXIT_LOST;
	}
	/* the brain has its own copies; ours would keep the pipes open after it closed them */
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	return await_status(socket);
}
