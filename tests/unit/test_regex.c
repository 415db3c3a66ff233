/* Regular expressions: what they match, what is refused, and that no pattern is slow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "execd/regex.h"
#include "lib/util.h"

static const struct {
	const char *pattern, *text;
	int begin, end; /* -1: no match */
} cases[] = {
	{"abc", "xxabcx", 2, 5},
	{"", "abc", 0, 0},
	{"a*", "baa", 0, 0},
	{"a+", "baa", 1, 3},
	{"ab|cd", "xcdab", 1, 3},
	{"a(b|c)*d", "acbcbd", 0, 6},
	{"^ab", "abab", 0, 2},
	{"ab$", "abab", 2, 4},
	{"^$", "", 0, 0},
	{"^$", "a", -1, -1},
	{"a.c", "abc", 0, 3},
	{"a.c",
	 "a\xc3\xa9"
	 "c",
	 0, 4},
	{"a..c",
	 "a\xc3\xa9"
	 "c",
	 -1, -1},
	{"[^x]y",
	 "\xe2\x82\xac"
	 "y",
	 0, 4},
	{"\xc3\xa9+", "x\xc3\xa9\xc3\xa9", 1, 5},
	{"[a-c]+", "xabcd", 1, 4},
	{"[]a]+", "x]a", 1, 3},
	{"[^]a]", "]ab", 2, 3},
	{"[a-]+", "b-a", 1, 3},
	{"[[:digit:][:upper:]]+", "abC12d", 2, 5},
	{"\\d{2,3}", "1 12345", 2, 5},
	{"\\d{2}", "1 123", 2, 4},
	{"x{2,}", "xxaxxxx", 0, 2},
	{"a{,2}", "a{,2}", 0, 5},
	{"\\w+\\s\\S", "foo bar", 0, 5},
	{"\\bfoo\\b", "xfoo foo", 5, 8},
	{"\\Bfoo", "foo xfoo", 5, 8},
	{"\\bfoo", "foo", 0, 3},
	{"foo\\b", "foo", 0, 3},
	{"fo+?", "fooo", 0, 4},
	{"(?:ab)+", "xababa", 1, 5},
	{"a\\.b", "axb a.b", 4, 7},
	{"\\x41\\t", "A\t", 0, 2},
	{"(a|ab)(c|bcd)", "abcd", 0, 4},
	{"(a*)*b", "aaab", 0, 4},
	{"x*|y", "yx", 0, 1},
	{"z|a.*q", "aaaaz", 4, 5},
};

static int search(const char *pattern, bool ignore_case, const char *text, size_t n, size_t *begin,
		  size_t *end)
{
	struct regex_run *run;
	struct regex *re;
	struct err err = {0};
	int r = regex_new(pattern, ignore_case, &re, &err);

	if (r < 0)
		fail_msg("%s: %s", pattern, err.message);
	assert_int_equal(regex_run_new(re, &run), 0);
	r = regex_search(run, text, n, begin, end);
	if (r > 0)
		assert_int_equal(regex_scan(run, text, n), 0);
	else
		assert_int_equal(regex_scan(run, text, n), n);
	regex_run_free(run);
	regex_free(re);
	return r;
}

static void test_matches(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		size_t begin = 0, end = 0;
		int r = search(cases[i].pattern, false, cases[i].text, strlen(cases[i].text), &begin, &end);

		if (r != (cases[i].begin >= 0) ||
		    (r && ((int)begin != cases[i].begin || (int)end != cases[i].end)))
			fail_msg("'%s' in '%s': %d, %zu to %zu", cases[i].pattern, cases[i].text, r, begin,
				 end);
	}
}

static void test_case(void **state)
{
	size_t begin, end;

	(void)state;
	assert_int_equal(search("hello [a-c]", true, "HeLLo B", 7, &begin, &end), 1);
	assert_int_equal(search("hello", false, "HELLO", 5, &begin, &end), 0);
	assert_int_equal(search("[^a]", true, "A", 1, &begin, &end), 0);
}

static void test_refused(void **state)
{
	static const char *const patterns[] = {
		"(",
		")",
		"a)",
		"[",
		"[a",
		"*a",
		"+",
		"a|*",
		"\\",
		"(a)\\1",
		"(?=a)",
		"(?<x>a)",
		"[z-a]",
		"[\\w-z",
		"[[:nope:]]",
		"\\q",
		"x{2,1}",
		"x{1001}",
		"((x{1000}){1000}){1000}",
		"((){1000}){1000}{1000}",
		"[\xc3\xa9]",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(patterns); i++) {
		struct err err = {0};
		struct regex *re = NULL;

		if (regex_new(patterns[i], false, &re, &err) >= 0)
			fail_msg("'%s' is taken", patterns[i]);
		assert_int_equal(err.kind, ERR_INVALID);
		assert_non_null(strstr(err.message, "pattern"));
	}
}

/* Would take longer than the universe has existed if it went back. */
static void test_patterns_made_to_be_slow(void **state)
{
	static char text[20000];
	size_t begin, end;

	(void)state;
	memset(text, 'a', sizeof(text));
	assert_int_equal(search("(a*)*(a*)*(a*)*b", false, text, sizeof(text), &begin, &end), 0);
	assert_int_equal(search("(a|aa)+$b", false, text, sizeof(text), &begin, &end), 0);
	assert_int_equal(search("(a|a|a){30}b|a.*c|a$", false, text, sizeof(text), &begin, &end), 1);
	assert_int_equal(begin, sizeof(text) - 1);
	/* More states than are kept. */
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = "ab"[(i * i + i / 7) % 2];
	assert_int_equal(search("a[ab]{14}c", false, text, sizeof(text), &begin, &end), 0);
	text[sizeof(text) - 16] = 'a';
	text[sizeof(text) - 1] = 'c';
	assert_int_equal(search("a[ab]{14}c", false, text, sizeof(text), &begin, &end), 1);
	assert_int_equal(begin, sizeof(text) - 16);
}

static void test_lines(void **state)
{
	static const char text[] = "one\ntwo\n\nthree\n";
	struct regex_run *run;
	struct regex *re;
	struct err err;

	(void)state;
	assert_int_equal(regex_new("^t.*e$", false, &re, &err), 0);
	assert_int_equal(regex_run_new(re, &run), 0);
	assert_int_equal(regex_scan(run, text, sizeof(text) - 1), 9);
	regex_run_free(run);
	regex_free(re);
	assert_int_equal(regex_new("e.t|\\n", false, &re, &err), -EINVAL);
	assert_int_equal(regex_new("e\\s*t", false, &re, &err), 0);
	assert_int_equal(regex_run_new(re, &run), 0);
	assert_int_equal(regex_scan(run, text, sizeof(text) - 1), sizeof(text) - 1);
	regex_run_free(run);
	regex_free(re);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_matches), cmocka_unit_test(test_case),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_patterns_made_to_be_slow),
		cmocka_unit_test(test_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
