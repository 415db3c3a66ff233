/*
 * json_escape.c - JSON string escaping. Stateless.
 *
 * Most output is plain ASCII, so bytes are copied in words and looked at on
 * the way; only a word that holds something to escape is walked byte by byte.
 */
#include "proto/json_escape.h"

#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "lib/utf8.h"

#define WORD_ONES  0x0101010101010101ULL
#define WORD_HIGHS 0x8080808080808080ULL

/* A high bit for each byte that is zero, exact up to the first one. */
static uint64_t zero_bytes(uint64_t w)
{
	return (w - WORD_ONES) & ~w & WORD_HIGHS;
}

/* Not zero when a byte is a control character, a quote, a backslash or not ASCII. */
static uint64_t special_bytes(uint64_t w)
{
	return ((w - WORD_ONES * 0x20) & WORD_HIGHS) | (w & WORD_HIGHS) | zero_bytes(w ^ (WORD_ONES * '"')) |
	       zero_bytes(w ^ (WORD_ONES * '\\'));
}

/* Copies plain bytes until one is special or they end; returns how many. Both sides have n bytes. */
static size_t copy_plain(uint8_t *out, const uint8_t *p, size_t n)
{
	size_t i = 0;

#ifdef __SSE2__
	for (; n - i >= 16; i += 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(p + i));
		/* Signed: bytes from 0x80 on are below 0x20 too. */
		__m128i bad = _mm_or_si128(_mm_cmplt_epi8(v, _mm_set1_epi8(0x20)),
					   _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')),
							_mm_cmpeq_epi8(v, _mm_set1_epi8('\\'))));
		unsigned mask = (unsigned)_mm_movemask_epi8(bad);

		_mm_storeu_si128((__m128i *)(out + i), v);
		if (mask)
			return i + (unsigned)__builtin_ctz(mask);
	}
#endif
	for (; n - i >= 8; i += 8) {
		uint64_t w;

		memcpy(&w, p + i, 8);
		if (special_bytes(w))
			break;
		memcpy(out + i, &w, 8);
	}
	for (; i < n; i++) {
		if (p[i] < 0x20 || p[i] == '"' || p[i] == '\\' || p[i] >= 0x80)
			break;
		out[i] = p[i];
	}
	return i;
}

static size_t put_u(uint8_t *out, unsigned code)
{
	static const char hex[] = "0123456789abcdef";

	out[0] = '\\';
	out[1] = 'u';
	out[2] = (uint8_t)hex[code >> 12 & 15];
	out[3] = (uint8_t)hex[code >> 8 & 15];
	out[4] = (uint8_t)hex[code >> 4 & 15];
	out[5] = (uint8_t)hex[code & 15];
	return 6;
}

static size_t put_ascii(uint8_t *out, uint8_t c)
{
	static const char letters[0x20] = {['\t'] = 't', ['\n'] = 'n', ['\r'] = 'r'};
	if (c < 0x20 && !letters[c])
		return put_u(out, c);
	out[0] = '\\';
	out[1] = c < 0x20 ? (uint8_t)letters[c] : c;
	return 2;
}

/* One sequence that is not ASCII. Moves *p beyond it. */
static size_t put_sequence(uint8_t *out, const uint8_t **p, const uint8_t *end)
{
	const uint8_t *s = *p;
	bool valid;
	size_t len = utf8_step(s, (size_t)(end - s), &valid);

	*p += len;
	if (!valid) {
		memcpy(out, "\xef\xbf\xbd", 3);
		return 3;
	}
	if (len == 2 && s[0] == 0xc2 && s[1] == 0x85)
		return put_u(out, 0x0085);
	if (len == 3 && s[0] == 0xe2 && s[1] == 0x80 && (s[2] == 0xa8 || s[2] == 0xa9))
		return put_u(out, s[2] == 0xa8 ? 0x2028 : 0x2029);
	memcpy(out, s, len);
	return len;
}

size_t json_escape(uint8_t *out, const void *data, size_t n)
{
	const uint8_t *p = data, *end = p + n;
	uint8_t *o = out;

	while (p < end) {
		size_t plain = copy_plain(o, p, (size_t)(end - p));

		o += plain;
		p += plain;
		while (p < end && *p >= 0x80)
			o += put_sequence(o, &p, end);
		if (p < end && (*p < 0x20 || *p == '"' || *p == '\\'))
			o += put_ascii(o, *p++);
	}
	return (size_t)(o - out);
}

size_t json_one_line(uint8_t *out, const void *data, size_t n)
{
	const uint8_t *p = data, *end = p + n;
	uint8_t *o = out;

	while (p < end) {
		size_t plain = copy_plain(o, p, (size_t)(end - p));

		o += plain;
		p += plain;
		while (p < end && *p >= 0x80)
			o += put_sequence(o, &p, end);
		if (p < end && *p < 0x80) {
			*o++ = *p < 0x20 ? ' ' : *p;
			p++;
		}
	}
	return (size_t)(o - out);
}
