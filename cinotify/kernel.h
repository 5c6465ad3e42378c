/* What the kernel speaks and not every C library has a word for (musl before 1.2.5). */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct kernel_timestamp {
	int64_t sec;
	uint32_t nsec;
	int32_t reserved;
};

struct kernel_statx {
	uint32_t mask, blksize;
	uint64_t attributes;
	uint32_t nlink, uid, gid;
	uint16_t mode, spare0;
	uint64_t ino, size, blocks, attributes_mask;
	struct kernel_timestamp atime, btime, ctime, mtime;
	uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
	uint64_t spare1[14];
};
_Static_assert(sizeof(struct kernel_statx) == 256, "struct statx has 256 bytes");

struct kernel_dirent {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

#ifndef KERNEL_ATTR_MOUNT_ROOT /* a test makes it 0, which is what kernels before 5.8 know */
#define KERNEL_ATTR_MOUNT_ROOT 0x2000
#endif

enum {
	KERNEL_STATX_BASIC = 0x7ff,
	KERNEL_AT_NO_AUTOMOUNT = 0x800,
	KERNEL_AT_EMPTY_PATH = 0x1000,
	KERNEL_AT_SYMLINK_NOFOLLOW = 0x100,
};

static inline int kernel_statx(int fd, const char *name, int flags, struct kernel_statx *ret) {
	return (int) syscall(SYS_statx, fd, name, flags | KERNEL_AT_NO_AUTOMOUNT,
			     KERNEL_STATX_BASIC, ret);
}

static inline long kernel_getdents(int fd, void *buffer, size_t size) {
	return syscall(SYS_getdents64, fd, buffer, size);
}

#endif
