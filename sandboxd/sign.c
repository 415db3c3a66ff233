/*
 * sign.c - no state.
 */
#include "sandboxd/sign.h"

#include <stdio.h>
#include <string.h>

#include "lib/sha256.h"

static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";

char *sign_expires(uint64_t seconds, char out[SIGN_EXPIRES_MAX])
{
	char reversed[SIGN_EXPIRES_MAX];
	size_t n = 0;

	do
		reversed[n++] = digits[seconds % 36];
	while ((seconds /= 36) > 0);
	for (size_t i = 0; i < n; i++)
		out[i] = reversed[n - 1 - i];
	out[n] = '\0';
	return out;
}

int sign_expires_parse(const char *text, uint64_t *ret_seconds)
{
	uint64_t n = 0;

	if (!*text || strlen(text) >= SIGN_EXPIRES_MAX || (text[0] == '0' && text[1]))
		return -EINVAL;
	for (; *text; text++) {
		const char *digit = strchr(digits, *text);
		if (!digit || __builtin_mul_overflow(n, 36, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(digit - digits), &n))
			return -EINVAL;
	}
	*ret_seconds = n;
	return 0;
}

static void add_sized(struct sha256 *s, const char *text)
{
	size_t n = strlen(text);
	const uint8_t size[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};

	sha256_add(s, size, sizeof(size));
	sha256_add(s, text, n);
}

char *sign_route(const char *key, const char *sandbox, unsigned port, const char *expires,
		 char out[SIGNATURE_MAX])
{
	char text[256], hex[SHA256_HEX_MAX];
	struct sha256 s;

	(void)snprintf(text, sizeof(text), "v1\nshort\n%.128s\n%u\n%.16s\n", sandbox, port, expires);
	sha256_init(&s);
	add_sized(&s, key);
	add_sized(&s, text);
	(void)snprintf(out, SIGNATURE_MAX, "%.8s%c", sha256_end_hex(&s, hex), SIGN_KEY_ID);
	return out;
}
