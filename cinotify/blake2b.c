/*
 * The digest that Python's hashlib.blake2b computes, in the words of RFC 7693.
 *
 * Invariants: no allocation, no I/O; a full block is compressed only when more follows,
 * because the last block is marked as last.
 * Not here: keys, salts, personalisation, trees; hashlib has them and psync uses none.
 */
#include "blake2b.h"

#include <string.h>

static const uint64_t initial[8] = {
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
	0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

static const uint8_t order[10][16] = {
	{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
	{ 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
	{ 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4 },
	{ 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8 },
	{ 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13 },
	{ 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9 },
	{ 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11 },
	{ 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10 },
	{ 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5 },
	{ 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0 },
};

static uint64_t load(const uint8_t *p) {
	uint64_t v = 0;
	for (unsigned i = 8; i-- > 0;)
		v = v << 8 | p[i];
	return v;
}

static inline uint64_t rotate(uint64_t v, unsigned n) {
	return v >> n | v << (64 - n);
}

static inline void mix(uint64_t *v, unsigned a, unsigned b, unsigned c, unsigned d, uint64_t x,
		       uint64_t y) {
	v[a] += v[b] + x;
	v[d] = rotate(v[d] ^ v[a], 32);
	v[c] += v[d];
	v[b] = rotate(v[b] ^ v[c], 24);
	v[a] += v[b] + y;
	v[d] = rotate(v[d] ^ v[a], 16);
	v[c] += v[d];
	v[b] = rotate(v[b] ^ v[c], 63);
}

static void compress(struct blake2b *b, const uint8_t *block, size_t size, int last) {
	uint64_t m[16], v[16];

	b->counted += size;
	for (unsigned i = 0; i < 16; i++)
		m[i] = load(block + i * 8);
	memcpy(v, b->state, sizeof(b->state));
	memcpy(v + 8, initial, sizeof(initial));
	v[12] ^= b->counted;
	if (last)
		v[14] = ~v[14];

	for (unsigned round = 0; round < 12; round++) {
		const uint8_t *s = order[round % 10];
		mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
		mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
		mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
		mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
		mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
		mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
		mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
		mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
	}
	for (unsigned i = 0; i < 8; i++)
		b->state[i] ^= v[i] ^ v[i + 8];
}

void blake2b_begin(struct blake2b *b, size_t digest_size) {
	memcpy(b->state, initial, sizeof(initial));
	b->state[0] ^= 0x01010000 ^ digest_size;
	b->counted = 0;
	b->filled = 0;
	b->digest_size = digest_size;
}

void blake2b_add(struct blake2b *b, const void *data, size_t size) {
	const uint8_t *p = data;

	while (size > 0) {
		if (b->filled == BLAKE2B_BLOCK) {
			compress(b, b->block, BLAKE2B_BLOCK, 0);
			b->filled = 0;
		}
		size_t n = BLAKE2B_BLOCK - b->filled;
		if (n > size)
			n = size;
		memcpy(b->block + b->filled, p, n);
		b->filled += n;
		p += n;
		size -= n;
	}
}

void blake2b_end(struct blake2b *b, uint8_t *ret_digest) {
	memset(b->block + b->filled, 0, BLAKE2B_BLOCK - b->filled);
	compress(b, b->block, b->filled, 1);
	for (size_t i = 0; i < b->digest_size; i++)
		ret_digest[i] = (uint8_t) (b->state[i / 8] >> (8 * (i % 8)));
}
