/*
 * base64.c - base64, strictly. Owns nothing.
 */
#include "lib/base64.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int base64_encode(struct buf *out, const void *data, size_t n)
{
	const uint8_t *p = data;
	if (n > SIZE_MAX / 2)
		return -ENOBUFS;
	int r = buf_reserve(out, (n + 2) / 3 * 4);
	if (r < 0)
		return r;
	uint8_t *to = buf_tail(out);
	for (size_t i = 0; i < n; i += 3) {
		size_t have = MIN(n - i, (size_t)3);
		uint32_t v = (uint32_t)p[i] << 16 | (have > 1 ? (uint32_t)p[i + 1] << 8 : 0) |
			     (have > 2 ? p[i + 2] : 0);
		*to++ = (uint8_t)digits[v >> 18];
		*to++ = (uint8_t)digits[v >> 12 & 63];
		*to++ = have > 1 ? (uint8_t)digits[v >> 6 & 63] : '=';
		*to++ = have > 2 ? (uint8_t)digits[v & 63] : '=';
	}
	out->len += (n + 2) / 3 * 4;
	return 0;
}

static int digit_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_decode(struct buf *out, const char *text, size_t n)
{
	size_t pad = n > 0 && text[n - 1] == '=' ? (n > 1 && text[n - 2] == '=' ? 2 : 1) : 0;
	if (n % 4 != 0)
		return -EINVAL;
	int r = buf_reserve(out, n / 4 * 3 + 1); /* also an empty result has memory */
	if (r < 0)
		return r;
	uint8_t *to = buf_tail(out);
	for (size_t i = 0; i < n; i += 4) {
		uint32_t v = 0;
		for (size_t k = i; k < i + 4; k++) {
			int d = k >= n - pad ? 0 : digit_value(text[k]);
			if (d < 0)
				return -EINVAL;
			v = v << 6 | (uint32_t)d;
		}
		/* The bits that stand for nothing are zero. */
		if (i + 4 == n && (v & (pad == 2 ? 0xffffU : pad == 1 ? 0xffU : 0)))
			return -EINVAL;
		*to++ = (uint8_t)(v >> 16);
		*to++ = (uint8_t)(v >> 8);
		*to++ = (uint8_t)v;
	}
	out->len += n / 4 * 3 - pad;
	return 0;
}
