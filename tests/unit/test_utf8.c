/* Every text, cut at every place, must read the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "lib/utf8.h"

#define R "\xef\xbf\xbd"

static const struct {
	const char *in, *want;
} table[] = {
	{"", ""},
	{"plain text, longer than eight bytes at a time", "plain text, longer than eight bytes at a time"},
	{"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
	/* Limits of each length. */
	{"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"},
	{"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
	{"\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80"},
	/* Continuations alone, and bytes that never occur. */
	{"\x80", R},
	{"\xbf\xbf", R R},
	{"\xfe\xff", R R},
	{"\xf5\xf8\xfc", R R R},
	{"\xf5\x80\x80\x80", R R R R},
	/* Overlong forms: not one byte of them may stand. */
	{"\xc0\x80", R R},
	{"\xc1\xbf", R R},
	{"\xe0\x80\x80", R R R},
	{"\xe0\x9f\xbf", R R R},
	{"\xf0\x80\x80\x80", R R R R},
	{"\xf0\x8f\xbf\xbf", R R R R},
	/* Surrogates, and what is past U+10FFFF. */
	{"\xed\xa0\x80", R R R},
	{"\xed\xbf\xbf", R R R},
	{"\xf4\x90\x80\x80", R R R R},
	/* Cut short by something else: one for the maximal subpart. */
	{"\xc3(", R "("},
	{"\xe2\x82(", R "("},
	{"\xe2(", R "("},
	{"\xf0\x9f\x98(", R "("},
	{"\xf0\x9f(", R "("},
	{"\xf0(", R "("},
	{"\xe2\x82\xe2\x82\xac", R "\xe2\x82\xac"},
	{"\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
	{"\xe2\x82\xc3\xa9", R "\xc3\xa9"},
	{"\xe0\xa0\xe0\x80", R R R},
	/* Cut short by the end. */
	{"a\xc3", "a" R},
	{"a\xe2\x82", "a" R},
	{"a\xf0\x9f\x98", "a" R},
	/* The example of the Unicode standard, chapter 3, tables 3-8 to 3-11. */
	{"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A"},
	{"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A"},
	{"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B"},
	{"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A"},
};

static void check(const struct buf *out, const char *in, const char *want)
{
	if (out->len != strlen(want) || (out->len && memcmp(out->data, want, out->len) != 0))
		fail_msg("'%s' became '%.*s'", in, (int)out->len, (const char *)out->data);
	assert_true(utf8_valid(out->data, out->len));
}

/* What a reader of pieces keeps of one for the next. */
struct tail {
	char bytes[4];
	size_t n;
};

/* tail NULL: it is the whole text. */
static void feed(struct buf *out, struct tail *tail, const char *data, size_t n)
{
	/* A copy of its own: to read beyond it is seen by the sanitizer. */
	size_t before = tail ? tail->n : 0, kept;
	char *copy = malloc(before + n + !(before + n));

	assert_non_null(copy);
	memcpy(copy, tail ? tail->bytes : "", before);
	memcpy(copy + before, data, n);
	kept = tail ? utf8_incomplete_tail(copy, before + n) : 0;
	assert_true(kept <= 3);
	assert_int_equal(utf8_sanitize(out, copy, before + n - kept), 0);
	if (tail) {
		memcpy(tail->bytes, copy + before + n - kept, kept);
		tail->n = kept;
	}
	free(copy);
}

static void feed_end(struct buf *out, struct tail *tail)
{
	assert_int_equal(utf8_sanitize(out, tail->bytes, tail->n), 0);
}

static void test_whole(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		_cleanup_buf_ struct buf out = BUF_INIT(1000);

		feed(&out, NULL, table[i].in, strlen(table[i].in));
		check(&out, table[i].in, table[i].want);
		assert_int_equal(utf8_valid(table[i].in, strlen(table[i].in)),
				 strcmp(table[i].in, table[i].want) == 0);
	}
}

static void test_cut_in_three(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		const char *in = table[i].in;
		size_t n = strlen(in);

		for (size_t a = 0; a <= n; a++) {
			for (size_t b = a; b <= n; b++) {
				_cleanup_buf_ struct buf out = BUF_INIT(1000);
				struct tail tail = {};

				feed(&out, &tail, in, a);
				assert_true(utf8_valid(out.data, out.len));
				feed(&out, &tail, in + a, b - a);
				feed(&out, &tail, in + b, n - b);
				feed_end(&out, &tail);
				check(&out, in, table[i].want);
			}
		}
	}
}

static void test_byte_by_byte(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		_cleanup_buf_ struct buf out = BUF_INIT(1000);
		struct tail tail = {};

		for (const char *p = table[i].in; *p; p++)
			feed(&out, &tail, p, 1);
		feed_end(&out, &tail);
		check(&out, table[i].in, table[i].want);
	}
}

/* Bad bytes at each place of a long text, where the fast path begins and ends. */
static void test_around_the_fast_path(void **state)
{
	(void)state;
	for (size_t at = 0; at < 40; at++) {
		_cleanup_buf_ struct buf out = BUF_INIT(1000);
		char in[41], want[64];

		memset(in, 'x', sizeof(in));
		in[40] = '\0';
		in[at] = '\xff';
		memset(want, 'x', sizeof(want));
		memcpy(want + at, R, 3);
		want[42] = '\0';
		feed(&out, NULL, in, 40);
		check(&out, in, want);
	}
}

static void test_every_code_point(void **state)
{
	(void)state;
	for (uint32_t c = 0; c <= 0x10ffff; c++) {
		uint8_t b[4];
		size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
		static const uint8_t mark[] = {0, 0x00, 0xc0, 0xe0, 0xf0};
		uint32_t rest = c;

		for (size_t i = n - 1; i > 0; i--, rest >>= 6)
			b[i] = (uint8_t)(0x80 | (rest & 0x3f));
		b[0] = (uint8_t)(mark[n] | rest);
		if (utf8_valid(b, n) != (c < 0xd800 || c > 0xdfff))
			fail_msg("U+%04X", c);
		for (size_t k = 1; k < n; k++) {
			assert_false(utf8_valid(b, k));
			if (c < 0xd800 || c > 0xdfff)
				assert_int_equal(utf8_incomplete_tail(b, k), k);
		}
		assert_int_equal(utf8_incomplete_tail(b, n), 0);
	}
}

static void test_incomplete_tail(void **state)
{
	static const struct {
		const char *in;
		size_t want;
	} tails[] = {
		{"", 0},
		{"abc", 0},
		{"\xc3\xa9", 0},
		{"abc\xc3", 1},
		{"abc\xe2", 1},
		{"abc\xe2\x82", 2},
		{"\xf0\x9f\x98", 3},
		{"\xf0\x9f\x98\x80", 0},
		{"\xf0\x9f\x98\x80\xf0", 1},
		{"\x80\x80\x80", 0},
		{"\xc0", 0},
		{"\xf5\x80", 0},
		{"\xe0\x80", 0},
		{"\xed\xa0", 0},
		{"\xf4\x90\x80", 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(tails); i++)
		assert_int_equal(utf8_incomplete_tail(tails[i].in, strlen(tails[i].in)), tails[i].want);
}

static void test_no_room(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(5);

	(void)state;
	assert_int_equal(utf8_sanitize(&out, "a", 1), 0);
	/* All or nothing: with more room the same call goes through. */
	assert_int_equal(utf8_sanitize(&out, "bc\xff", 3), -ENOBUFS);
	assert_int_equal(out.len, 1);
	out.max = 6;
	out.failed = false;
	assert_int_equal(utf8_sanitize(&out, "bc\xff", 3), 0);
	check(&out, "abc\xff", "abc" R);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_cut_in_three),
		cmocka_unit_test(test_byte_by_byte),
		cmocka_unit_test(test_around_the_fast_path),
		cmocka_unit_test(test_every_code_point),
		cmocka_unit_test(test_incomplete_tail),
		cmocka_unit_test(test_no_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
