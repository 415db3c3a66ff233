/*
 * sha256.h - SHA-256 (FIPS 180-4), for signatures and digests of requests.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SHA256_SIZE    32
#define SHA256_HEX_MAX 65

struct sha256 {
	uint32_t h[8];
	uint64_t n; /* bytes taken */
	uint8_t block[64];
};

void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t n);
void sha256_end(struct sha256 *s, uint8_t out[SHA256_SIZE]);
/* The same as lower-case hex digits and a NUL. Returns out. */
char *sha256_end_hex(struct sha256 *s, char out[SHA256_HEX_MAX]);
