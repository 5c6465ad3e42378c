/*
 * Print frames as the classic lines: EVENT[,ISDIR]:path:new path:
 *
 * For people and their scripts; psync itself reads the frames. Every byte that could be taken
 * for another (control characters, the backslash, the separator, what is no ASCII) is printed as
 * \ooo, so that a line is always one event and can be read back.
 *
 * Invariants: reads nothing beyond `size`, whatever the lengths in the frames say.
 */
#include "text.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { HEADER = 5 };

static uint64_t get(const uint8_t *p, unsigned size) {
	uint64_t v = 0;
	while (size-- > 0)
		v = v << 8 | p[size];
	return v;
}

static void print_path(const uint8_t *p, size_t size, const char *separator, FILE *out) {
	for (size_t i = 0; i < size; i++) {
		if (p[i] <= ' ' || p[i] >= 0x7f || p[i] == '\\' || strchr(separator, p[i]))
			fprintf(out, "\\%03o", p[i]);
		else
			fputc(p[i], out);
	}
}

static void print_event(uint32_t mask, FILE *out) {
	static const char *const names[] = { "CREATE",	  "MODIFY", "CLOSE_WRITE", "ATTRIB",
					     "DELETE",	  "MOVED_IN", "MOVED_OUT" };
	const char *comma = "";

	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (mask & 1u << i) {
			fprintf(out, "%s%s", comma, names[i]);
			comma = ",";
		}
	if (mask & EVENT_DIRECTORY)
		fprintf(out, "%sISDIR", comma);
}

static int print_frame(char type, const uint8_t *p, size_t size, const char *separator, FILE *out) {
	size_t old_size;

	switch (type) {
	case 'D':
		if (size < 1 + DIGEST_SIZE + 4)
			return -EINVAL;
		fprintf(out, "%s%s", p[0] ? "APPEARED" : "SCANNED", separator);
		print_path(p + 1 + DIGEST_SIZE + 4, size - 1 - DIGEST_SIZE - 4, separator, out);
		fprintf(out, "%s%" PRIu64 "%s", separator, get(p + 1 + DIGEST_SIZE, 4), separator);
		for (unsigned i = 0; i < DIGEST_SIZE; i++)
			fprintf(out, "%02x", p[1 + i]);
		break;
	case 'S':
		if (size != 4 + 8 + 8 + 8)
			return -EINVAL;
		fprintf(out, "WATCHING%s%" PRIu64 "%s%" PRIu64 "%s%" PRIu64 "%s%" PRIu64, separator,
			get(p, 4), separator, get(p + 4, 8), separator, get(p + 12, 8), separator,
			get(p + 20, 8));
		break;
	case 'E':
		if (size < 4)
			return -EINVAL;
		print_event((uint32_t) get(p, 4), out);
		fputs(separator, out);
		print_path(p + 4, size - 4, separator, out);
		fputs(separator, out);
		break;
	case 'M':
		if (size < 5 || get(p + 1, 4) > size - 5)
			return -EINVAL;
		old_size = (size_t) get(p + 1, 4);
		fprintf(out, "MOVE%s%s", p[0] ? ",ISDIR" : "", separator);
		print_path(p + 5, old_size, separator, out);
		fputs(separator, out);
		print_path(p + 5 + old_size, size - 5 - old_size, separator, out);
		break;
	case 'X':
		if (size < 4)
			return -EINVAL;
		fprintf(out, "UNREADABLE%s", separator);
		print_path(p + 4, size - 4, separator, out);
		fprintf(out, "%s%s", separator, strerror((int) get(p, 4)));
		break;
	case 'O':
	case 'U':
	case 'L':
	case 'N':
	case 'B':
		fprintf(out, "%s%s",
			type == 'O'   ? "OVERFLOW"
			: type == 'U' ? "GONE"
			: type == 'L' ? "WATCH_LIMIT"
			: type == 'N' ? "MOUNT_POINT"
				      : "BEAT",
			separator);
		print_path(p, size, separator, out);
		fputs(separator, out);
		break;
	default:
		return -EINVAL;
	}
	fprintf(out, "%s\n", type == 'E' || strchr("OULNB", type) ? "" : separator);
	return 0;
}

int text_print(const uint8_t *data, size_t size, const char *separator, FILE *out) {
	while (size > 0) {
		if (size < HEADER)
			return -EINVAL;
		uint64_t length = get(data, 4);
		if (length < 1 || length > size - 4)
			return -EINVAL;
		int r = print_frame((char) data[4], data + HEADER, (size_t) length - 1, separator, out);
		if (r < 0)
			return r;
		data += 4 + length;
		size -= 4 + (size_t) length;
	}
	return fflush(out) == 0 && !ferror(out) ? 0 : -EPIPE;
}
