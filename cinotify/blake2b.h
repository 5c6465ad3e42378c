/* BLAKE2b (RFC 7693), unkeyed, as much of it as a directory's digest needs. */
#ifndef BLAKE2B_H
#define BLAKE2B_H

#include <stddef.h>
#include <stdint.h>

enum { BLAKE2B_BLOCK = 128, BLAKE2B_DIGEST_MAX = 64 };

struct blake2b {
	uint64_t state[8];
	uint64_t counted; /* bytes compressed; 2^64 are enough for a directory */
	uint8_t block[BLAKE2B_BLOCK];
	size_t filled;
	size_t digest_size;
};

/* Begin a digest of `digest_size` bytes, 1 to BLAKE2B_DIGEST_MAX. */
void blake2b_begin(struct blake2b *b, size_t digest_size);

/* Add `size` bytes. */
void blake2b_add(struct blake2b *b, const void *data, size_t size);

/* Finish and write `digest_size` bytes to `ret_digest`. */
void blake2b_end(struct blake2b *b, uint8_t *ret_digest);

#endif
