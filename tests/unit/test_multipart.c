/* The multipart parser: the same parts however the bytes are cut, and a name for each thing that is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/buf.h"
#include "proto/multipart.h"

#define TYPE "multipart/form-data; boundary=XyZ"

/* What was seen, as text: "[name|filename|type]content." for each part. */
struct seen {
	struct buf text;
	int fail_in; /* 'b', 'd' or 'e' */
};

static int on_begin(void *arg, const struct multipart_part *part, struct err *err)
{
	struct seen *s = arg;

	assert_non_null(part->name);
	(void)buf_printf(&s->text, "[%s|%s|%s]", part->name, part->filename ? part->filename : "-",
			 part->content_type ? part->content_type : "-");
	return s->fail_in == 'b' ? err_set(err, ERR_STORAGE, "X", ENOSPC, "begin") : 0;
}

static int on_data(void *arg, const void *data, size_t n, struct err *err)
{
	struct seen *s = arg;

	assert_true(n > 0);
	(void)buf_append(&s->text, data, n);
	return s->fail_in == 'd' ? err_set(err, ERR_STORAGE, "X", ENOSPC, "data") : 0;
}

static int on_end(void *arg, struct err *err)
{
	struct seen *s = arg;

	(void)buf_putc(&s->text, '.');
	return s->fail_in == 'e' ? err_set(err, ERR_STORAGE, "X", ENOSPC, "end") : 0;
}

static const struct multipart_events events = {on_begin, on_data, on_end};

/* Feeds a copy of exactly the given size, so that a sanitizer sees every read beyond it. */
static int feed(struct multipart *m, const char *data, size_t n, struct err *err)
{
	char *copy = malloc(n ? n : 1);
	int r;

	assert_non_null(copy);
	memcpy(copy, data, n);
	r = multipart_feed(m, copy, n, err);
	free(copy);
	return r;
}

/* Parses body cut at `cut` (and byte by byte when step is 1). */
static int parse(const char *type, const char *body, size_t n, size_t cut, size_t step, struct seen *s,
		 struct err *err)
{
	struct multipart *m = NULL;
	int r = multipart_new(type, &events, s, &m, err);

	if (r < 0)
		return r;
	if (step) {
		for (size_t i = 0; i < n && r >= 0; i += step)
			r = feed(m, body + i, n - i < step ? n - i : step, err);
	} else {
		r = feed(m, body, cut, err);
		if (r >= 0)
			r = feed(m, body + cut, n - cut, err);
	}
	if (r >= 0)
		r = multipart_finish(m, err);
	multipart_free(m);
	return r;
}

/* In every two-way split, and in steps of 1, 2 and 3 bytes. */
static void check(const char *type, const char *body, size_t n, const char *want)
{
	for (size_t step = 0; step <= 3; step++) {
		for (size_t cut = 0; cut <= (step ? 0 : n); cut++) {
			struct seen s = {.text = BUF_INIT(1U << 20)};
			struct err err = {0};
			int r = parse(type, body, n, cut, step, &s, &err);

			if (r < 0 || strcmp(buf_cstr(&s.text), want) != 0)
				fail_msg("cut %zu step %zu: r %d (%s), seen '%s', wanted '%s'", cut, step, r,
					 err.message, buf_cstr(&s.text), want);
			buf_done(&s.text);
		}
	}
}

#define CHECK(body, want)	     check(TYPE, body, sizeof(body) - 1, want)
#define CHECK_TYPE(type, body, want) check(type, body, sizeof(body) - 1, want)

static void refused(const char *type, const char *body, int want, const char *part_of_message)
{
	for (size_t step = 0; step <= 1; step++) {
		struct seen s = {.text = BUF_INIT(1U << 20)};
		struct err err = {0};
		size_t n = strlen(body);
		int r = parse(type, body, n, n, step, &s, &err);

		buf_done(&s.text);
		if (r != want || !strstr(err.message, part_of_message))
			fail_msg("r %d, '%s' in answer to: %s", r, err.message, body);
		assert_non_null(err.code);
	}
}

#define HEAD(disposition) "--XyZ\r\nContent-Disposition: form-data; " disposition "\r\n\r\n"

static void test_parts(void **state)
{
	(void)state;
	CHECK("--XyZ\r\n"
	      "Content-Disposition: form-data; name=\"metadata\"; filename=\"m.json\"\r\n"
	      "Content-Type: application/json\r\n\r\n"
	      "{\"path\":\"/a\"}\r\n"
	      "--XyZ\r\n"
	      "content-disposition:form-data;name=file;filename=\"a b.txt\"\r\n"
	      "X-Other: ignored\r\n\r\n"
	      "line 1\r\nline 2\n\r\r\n\r\n"
	      "--XyZ--\r\n",
	      "[metadata|m.json|application/json]{\"path\":\"/a\"}.[file|a b.txt|-]line 1\r\nline "
	      "2\n\r\r\n.");
	CHECK("--XyZ--", "");
	CHECK(HEAD("name=empty") "\r\n--XyZ--\r\n", "[empty|-|-].");
}

static void test_around_the_parts(void **state)
{
	(void)state;
	CHECK("preamble\r\n--Xy\r\nmore\r\n" HEAD("name=a") "1\r\n--XyZ--\r\nepilogue\r\n--XyZ\r\nis no part",
	      "[a|-|-]1.");
	CHECK("\r\n" HEAD("name=a") "1\r\n--XyZ--", "[a|-|-]1.");
	CHECK("--XyZ  \t\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--XyZ-- ", "[a|-|-]1.");
}

/* Content that all but ends the part. */
static void test_near_delimiters(void **state)
{
	(void)state;
	CHECK(HEAD("name=a") "\r\r\n\r\n-\r\n--X\r\n--Xy\r\n--xyz\r\n--XyZa\r\n--XyZ-a\r\n--\r\n--XyZ--",
	      "[a|-|-]\r\r\n\r\n-\r\n--X\r\n--Xy\r\n--xyz\r\n--XyZa\r\n--XyZ-a\r\n--.");
	CHECK(HEAD("name=a") "--XyZ\r\n--XyZ\r\nContent-Disposition: form-data; "
			     "name=b\r\n\r\n--XyZ--\r\n--XyZ--",
	      "[a|-|-]--XyZ.[b|-|-]--XyZ--.");
	CHECK_TYPE("multipart/form-data; boundary=\"----a\"",
		   "------a\r\nContent-Disposition: form-data; "
		   "name=n\r\n\r\n\r\n----\r\n----\r\n------\r\n------a--",
		   "[n|-|-]\r\n----\r\n----\r\n------.");
}

static void test_all_bytes(void **state)
{
	char body[1024], want[1024];
	size_t n, w;

	(void)state;
	n = (size_t)snprintf(body, sizeof(body), HEAD("name=a"));
	w = (size_t)snprintf(want, sizeof(want), "[a|-|-]");
	for (int i = 1; i < 256; i++)
		body[n++] = want[w++] = (char)i;
	n += (size_t)snprintf(body + n, sizeof(body) - n, "\r\n--XyZ--");
	(void)snprintf(want + w, sizeof(want) - w, ".");
	check(TYPE, body, n, want);
}

static void test_names(void **state)
{
	(void)state;
	CHECK(HEAD("name=\"a\\\"b\\\\c\"; filename=\"C:\\dir\\x.txt\"") "\r\n--XyZ--",
	      "[a\"b\\c|C:\\dir\\x.txt|-].");
	CHECK(HEAD("name=\"a;b=c\" ; filename=\"\"") "\r\n--XyZ--", "[a;b=c||-].");
	CHECK(HEAD("name=f; filename=\"plain\"; filename*=UTF-8''n%C3%A4h%20%22.txt") "\r\n--XyZ--",
	      "[f|n\xc3\xa4h \".txt|-].");
	CHECK(HEAD("name=f; filename*=utf-8'de'%e2%82%ac; filename=\"EUR\"") "\r\n--XyZ--",
	      "[f|\xe2\x82\xac|-].");
	CHECK(HEAD("name=\"n\xc3\xa4h\"") "\r\n--XyZ--", "[n\xc3\xa4h|-|-].");
	CHECK("--XyZ\r\nContent-Disposition: form-data;\r\n name=folded\r\n\r\n\r\n--XyZ--", "[folded|-|-].");
	CHECK_TYPE(
		"Multipart/Form-Data;charset=x; BOUNDARY=\"a b'()+_,-./:=?\"",
		"--a b'()+_,-./:=?\r\nContent-Disposition: form-data; name=n\r\n\r\n1\r\n--a b'()+_,-./:=?--",
		"[n|-|-]1.");
}

static void test_refused(void **state)
{
	struct multipart *m;
	char long_type[200];

	(void)state;
	refused(TYPE, "", -EINVAL, "closing boundary");
	refused(TYPE, "no boundary at all", -EINVAL, "closing boundary");
	refused(TYPE, HEAD("name=a") "text\r\n--XyZ\r\n", -EINVAL, "closing boundary");
	refused(TYPE, HEAD("name=a") "text\r\n--XyZ-", -EINVAL, "closing boundary");
	refused(TYPE, "--XyZ\r\n\r\n", -EINVAL, "no name");
	refused(TYPE, "--XyZ\r\nContent-Type: text/plain\r\n\r\n", -EINVAL, "no name");
	refused(TYPE, HEAD("filename=a"), -EINVAL, "no name");
	refused(TYPE, "--XyZ\r\nContent-Disposition: attachment; name=a\r\n\r\n", -EINVAL, "not form-data");
	refused(TYPE, "--XyZ\r\nnonsense\r\n\r\n", -EINVAL, "no colon");
	refused(TYPE, HEAD("name=\"open"), -EINVAL, "cannot be parsed");
	refused(TYPE, HEAD("name=\"a\"b"), -EINVAL, "cannot be parsed");
	refused(TYPE, HEAD("name"), -EINVAL, "cannot be parsed");
	refused(TYPE, HEAD("name=a; filename*=UTF-8''%zz"), -EINVAL, "filename*");
	refused(TYPE, HEAD("name=a; filename*=UTF-8''%00"), -EINVAL, "filename*");
	refused(TYPE, HEAD("name=a; filename*=latin1''x"), -EINVAL, "filename*");
	refused(TYPE, "--XyZ\r\nContent-Disposition: form-data; name=a\n\r\n", -EINVAL, "CRLF");
	refused(TYPE, "--XyZ\r\nContent-Disposition: form-data; name=a\rb\r\n\r\n", -EINVAL,
		"control character");
	refused(TYPE, "--XyZ\r\nX: \x01\r\n\r\n", -EINVAL, "control character");
	refused(TYPE, "--XyZ x\r\n", -EINVAL, "followed by text");
	refused(TYPE, "--XyZ\rx", -EINVAL, "CRLF");

	for (const char *const *t =
		     (const char *const[]){
			     "", "text/plain", "multipart/form-data", "multipart/mixed; boundary=a",
			     "multipart/form-data; boundary=", "multipart/form-data; boundary=\"a",
			     "multipart/form-datax; boundary=a", NULL};
	     *t; t++) {
		struct err err = {0};

		assert_int_equal(multipart_new(*t, &events, NULL, &m, &err), -EINVAL);
		assert_non_null(strstr(err.message, "boundary"));
	}
	assert_int_equal(multipart_new(NULL, &events, NULL, &m, NULL), -EINVAL);
	(void)snprintf(long_type, sizeof(long_type), "multipart/form-data; boundary=%071d", 0);
	assert_int_equal(multipart_new(long_type, &events, NULL, &m, NULL), -EINVAL);
	(void)snprintf(long_type, sizeof(long_type), "multipart/form-data; boundary=%070d", 0);
	assert_int_equal(multipart_new(long_type, &events, NULL, &m, NULL), 0);
	multipart_free(m);
}

static void test_header_limit(void **state)
{
	struct seen s = {.text = BUF_INIT(1U << 20)};
	struct multipart *m;
	struct err err = {0};
	int r = 0;

	(void)state;
	assert_int_equal(multipart_new(TYPE, &events, &s, &m, NULL), 0);
	assert_int_equal(multipart_feed(m, "--XyZ\r\nX: ", 10, NULL), 0);
	for (int i = 0; i < MULTIPART_HEADER_MAX && r == 0; i++)
		r = multipart_feed(m, "x", 1, &err);
	assert_int_equal(r, -EMSGSIZE);
	assert_int_equal(err.kind, ERR_TOO_LARGE);
	multipart_free(m);
	buf_done(&s.text);
}

static void test_callback_errors(void **state)
{
	static const char body[] = HEAD("name=a") "1\r\n--XyZ--";

	(void)state;
	for (const char *where = "bde"; *where; where++) {
		struct seen s = {.text = BUF_INIT(1U << 20), .fail_in = *where};
		struct err err = {0};

		assert_int_equal(parse(TYPE, body, sizeof(body) - 1, 0, 1, &s, &err), -ENOSPC);
		assert_string_equal(err.code, "X");
		buf_done(&s.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parts),		cmocka_unit_test(test_around_the_parts),
		cmocka_unit_test(test_near_delimiters), cmocka_unit_test(test_all_bytes),
		cmocka_unit_test(test_names),		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_header_limit),	cmocka_unit_test(test_callback_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
