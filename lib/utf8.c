/*
 * utf8.c - from bytes to valid UTF-8. Stateless but for the caller's carry.
 */
#include "lib/utf8.h"

#include <string.h>

#define REPLACEMENT	"\xef\xbf\xbd"
#define REPLACEMENT_LEN 3

/*
 * How a sequence goes on, by its first byte (Unicode table 3-7): the length,
 * and the range of the second byte; third and fourth are always 80..BF.
 */
struct lead {
	uint8_t len, low, high;
};

static struct lead lead_of(uint8_t b)
{
	if (b < 0x80)
		return (struct lead){1, 0, 0};
	if (b < 0xc2 || b > 0xf4)
		return (struct lead){};
	if (b < 0xe0)
		return (struct lead){2, 0x80, 0xbf};
	if (b < 0xf0)
		return (struct lead){3, b == 0xe0 ? 0xa0 : 0x80, b == 0xed ? 0x9f : 0xbf};
	return (struct lead){4, b == 0xf0 ? 0x90 : 0x80, b == 0xf4 ? 0x8f : 0xbf};
}

enum verdict { WHOLE, CUT, BROKEN };

/*
 * Judges the sequence at p (n > 0 bytes are there). *ret_len is its length;
 * when cut, of all that is there; when broken, of its maximal subpart.
 */
static enum verdict judge(const uint8_t *p, size_t n, size_t *ret_len)
{
	struct lead lead = lead_of(p[0]);
	size_t i;

	for (i = 1; i < lead.len; i++) {
		if (i == n) {
			*ret_len = n;
			return CUT;
		}
		if (p[i] < (i == 1 ? lead.low : 0x80) || p[i] > (i == 1 ? lead.high : 0xbf)) {
			*ret_len = i;
			return BROKEN;
		}
	}
	*ret_len = i;
	return lead.len ? WHOLE : BROKEN;
}

/* The length of the valid text at the beginning of p. */
static size_t valid_run(const uint8_t *p, size_t n)
{
	size_t i = 0, len;

	while (i < n) {
		uint64_t eight;

		if (n - i >= sizeof(eight)) {
			memcpy(&eight, p + i, sizeof(eight));
			if (!(eight & 0x8080808080808080ULL)) {
				i += sizeof(eight);
				continue;
			}
		}
		if (judge(p + i, n - i, &len) != WHOLE)
			break;
		i += len;
	}
	return i;
}

bool utf8_valid(const void *data, size_t n)
{
	return valid_run(data, n) == n;
}

size_t utf8_step(const void *data, size_t n, bool *ret_valid)
{
	size_t len;

	*ret_valid = judge(data, n, &len) == WHOLE;
	return len;
}

size_t utf8_incomplete_tail(const void *data, size_t n)
{
	const uint8_t *end = (const uint8_t *)data + n;
	size_t len;

	for (size_t k = 1; k <= 3 && k <= n; k++) {
		uint8_t b = *(end - k);

		if (b >= 0x80 && b <= 0xbf)
			continue;
		return judge(end - k, k, &len) == CUT ? k : 0;
	}
	return 0;
}

int utf8_sanitize(struct buf *out, const void *data, size_t n)
{
	const uint8_t *p = data;
	size_t len_before = out->len;

	while (n > 0) {
		size_t run = valid_run(p, n), len;
		int r = buf_append(out, p, run);

		p += run;
		n -= run;
		if (r >= 0 && n > 0) {
			(void)judge(p, n, &len);
			r = buf_append(out, REPLACEMENT, REPLACEMENT_LEN);
			p += len;
			n -= len;
		}
		/* All or nothing, so that the caller may try again with more room. */
		if (r < 0) {
			out->len = len_before;
			return r;
		}
	}
	return 0;
}
