/*
 * random.c - randomness straight from the kernel. Stateless, safe from any thread.
 */
#include "lib/random.h"

#include <stdio.h>
#include <sys/random.h>

static const char hex_digits[] = "0123456789abcdef";

void random_bytes(void *out, size_t n)
{
	uint8_t *p = out;

	while (n > 0) {
		ssize_t r = getrandom(p, n, 0);

		if (r < 0) {
			if (errno == EINTR)
				continue;
			static const char said[] = "no random numbers: getrandom(2) fails\n";

			(void)!write(STDERR_FILENO, said, sizeof(said) - 1);
			abort();
		}
		p += r;
		n -= (size_t)r;
	}
}

char *random_uuid(char out[RANDOM_UUID_MAX])
{
	uint8_t b[16];
	char *p = out;

	random_bytes(b, sizeof(b));
	b[6] = (b[6] & 0x0f) | 0x40; /* version 4 */
	b[8] = (b[8] & 0x3f) | 0x80; /* variant of RFC 9562 */
	for (size_t i = 0; i < sizeof(b); i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = hex_digits[b[i] >> 4];
		*p++ = hex_digits[b[i] & 15];
	}
	*p = '\0';
	return out;
}

char *random_hex(char *out, size_t n)
{
	uint8_t b[64];
	size_t i = 0;

	while (i < n) {
		size_t bytes = MIN((n - i + 1) / 2, sizeof(b));

		random_bytes(b, bytes);
		for (size_t k = 0; k < bytes * 2 && i < n; k++)
			out[i++] = hex_digits[k % 2 ? b[k / 2] & 15 : b[k / 2] >> 4];
	}
	out[n] = '\0';
	return out;
}

bool secret_equal(const char *given, const char *expected)
{
	volatile unsigned diff = 0;
	size_t k = 0;

	if (!given || !expected)
		return false;
	/* Past its end `expected` stays on its NUL: always one step per byte of `given`, without a branch. */
	for (size_t i = 0;; i++) {
		diff |= (unsigned)((unsigned char)given[i] ^ (unsigned char)expected[k]);
		if (given[i] == '\0')
			break;
		k += expected[k] != '\0';
	}
	return diff == 0;
}
