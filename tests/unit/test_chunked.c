/* The chunked decoder: the same content however the bytes are cut, and nothing but the grammar. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/buf.h"
#include "proto/chunked.h"

/* Decodes in two pieces, or byte by byte. Returns 1 at the end, and how much was consumed. */
static int decode(const char *body, size_t n, size_t cut, bool bytewise, struct buf *out, size_t *consumed)
{
	struct chunked c = {0};
	size_t offset = 0;
	int r = 0;

	while (offset < n && r == 0) {
		size_t limit = bytewise ? offset + 1 : offset < cut ? cut : n, used, piece_n;
		const uint8_t *piece;
		uint8_t *copy = malloc(limit - offset);

		assert_non_null(copy);
		memcpy(copy, body + offset, limit - offset);
		r = chunked_next(&c, copy, limit - offset, &used, &piece, &piece_n);
		assert_true(used > 0 && used <= limit - offset);
		if (piece_n)
			assert_int_equal(buf_append(out, piece, piece_n), 0);
		free(copy);
		offset += used;
	}
	*consumed = offset;
	return r;
}

static void check_n(const char *body, size_t n, const char *want, size_t rest)
{
	for (size_t cut = 0; cut <= n + 1; cut++) {
		_cleanup_buf_ struct buf out = BUF_INIT(1U << 20);
		size_t consumed;
		int r = decode(body, n, cut, cut > n, &out, &consumed);

		if (r != 1 || strcmp(buf_cstr(&out), want) != 0 || consumed != n - rest)
			fail_msg("cut %zu: r %d, '%s', consumed %zu", cut, r, buf_cstr(&out), consumed);
	}
}

static void test_content(void **state)
{
	(void)state;
#define CHECK(body, want, rest) check_n(body, sizeof(body) - 1, want, rest)
	CHECK("0\r\n\r\n", "", 0);
	CHECK("5\r\nhello\r\n0\r\n\r\n", "hello", 0);
	CHECK("5\r\nhello\r\n000A; name=\"v\"\r\n 0123\r\n789\r\n0000\r\n\r\n", "hello 0123\r\n789", 0);
	CHECK("a\r\n0123456789\r\nA \r\n0123456789\r\n0;last\r\nTrailer: x\r\nOther: y\r\n\r\n",
	      "01234567890123456789", 0);
	/* What follows is the next request's. */
	CHECK("1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", "x", 18);
}

static void refused(const char *body)
{
	for (size_t cut = 0; cut <= strlen(body) + 1; cut++) {
		_cleanup_buf_ struct buf out = BUF_INIT(1U << 20);
		size_t consumed;

		if (decode(body, strlen(body), cut, cut > strlen(body), &out, &consumed) != -EINVAL)
			fail_msg("accepted: %s", body);
	}
}

static void test_refused(void **state)
{
	(void)state;
	refused("\r\n");
	refused("g\r\n");
	refused("-1\r\n");
	refused("0x5\r\nhello\r\n");
	refused(" 5\r\nhello\r\n");
	refused("5\nhello\r\n");
	refused("5\r\rhello");
	refused("5\r\nhelloworld");
	refused("5\r\nhello\n0\r\n\r\n");
	refused("5;ext\nhello\r\n");
	refused("fffffffffffffffff\r\n");
	refused("0\r\nTrailer\n\r\n");
	refused("0\r\n\rx");
	refused(";5\r\n");
}

/* A peer that never comes to the point is cut off. */
static void test_limits(void **state)
{
	static const struct {
		const char *start;
		size_t max;
	} cases[] = {{"1;", CHUNK_LINE_MAX}, {"0\r\n", CHUNK_TRAILER_MAX}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct chunked c = {0};
		const uint8_t *piece;
		size_t used, piece_n, n = 0;
		int r = chunked_next(&c, (const uint8_t *)cases[i].start, strlen(cases[i].start), &used,
				     &piece, &piece_n);

		assert_int_equal(r, 0);
		while (r == 0 && n++ < cases[i].max + 1)
			r = chunked_next(&c, (const uint8_t *)"x", 1, &used, &piece, &piece_n);
		assert_int_equal(r, -EINVAL);
		assert_in_range(n, cases[i].max - 8, cases[i].max + 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_content),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
