/* The request head: what is a request, and every way in which it is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/headers.h"

static char text[16384];
static struct head head;

/* Parses a head given without its empty line. */
static unsigned parse(const char *lines, const char **why)
{
	size_t scanned = 0;
	ssize_t n;

	(void)snprintf(text, sizeof(text), "%s\r\n", lines);
	n = head_find((const uint8_t *)text, strlen(text), &scanned);
	assert_int_equal(n, (ssize_t)strlen(text));
	return head_parse(text, (size_t)n, &head, why);
}

static void accepted(const char *lines)
{
	const char *why = "";
	unsigned status = parse(lines, &why);

	if (status)
		fail_msg("%u %s in answer to: %s", status, why, lines);
}

static void refused(const char *lines, unsigned want)
{
	const char *why = NULL;
	unsigned status = parse(lines, &why);

	if (status != want)
		fail_msg("%u instead of %u for: %s", status, want, lines);
	assert_non_null(why);
}

#define GET "GET / HTTP/1.1\r\nHost: h\r\n"

static void test_find(void **state)
{
	static const char whole[] = "GET / HTTP/1.1\r\nHost: h\r\n\r\nrest";
	size_t n = sizeof(whole) - 5;

	(void)state;
	for (size_t cut = 0; cut < n; cut++) {
		size_t scanned = 0;

		assert_int_equal(head_find((const uint8_t *)whole, cut, &scanned), 0);
		assert_int_equal(head_find((const uint8_t *)whole, sizeof(whole) - 1, &scanned), (int)n);
	}
	for (const char *const *bad =
		     (const char *const[]){"\n", "GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nA: b\n\r\n", NULL};
	     *bad; bad++) {
		size_t scanned = 0;

		assert_int_equal(head_find((const uint8_t *)*bad, strlen(*bad), &scanned), -EINVAL);
	}
}

static void test_request_line(void **state)
{
	(void)state;
	accepted("GET /a/b%20c?x=1&y HTTP/1.1\r\nHost: h\r\n");
	assert_string_equal(head.method, "GET");
	assert_string_equal(head.target, "/a/b%20c?x=1&y");
	assert_int_equal(head.minor, 1);
	assert_true(head.keep_alive);
	assert_int_equal(head.length, -1);
	accepted("PROPFIND http://h:80/p?q HTTP/1.1\r\nHost: h\r\n");
	assert_string_equal(head.target, "/p?q");
	accepted("GET http://h HTTP/1.1\r\nHost: h\r\n");
	assert_string_equal(head.target, "/");
	accepted("GET http://h?q HTTP/1.1\r\nHost: h\r\n");
	assert_string_equal(head.target, "/?q");
	accepted("OPTIONS * HTTP/1.1\r\nHost: h\r\n");
	accepted("GET /n\xc3\xa4h HTTP/1.1\r\nHost: h\r\n");

	refused("\r\n", 400);
	refused("GET\r\n", 400);
	refused("GET /\r\n", 400);
	refused("GET  / HTTP/1.1\r\n", 400);
	refused("GET / HTTP/1.1 \r\n", 400);
	refused("GET / x HTTP/1.1\r\n", 400);
	refused(" GET / HTTP/1.1\r\n", 400);
	refused("G(T / HTTP/1.1\r\n", 400);
	refused("GET path HTTP/1.1\r\nHost: h\r\n", 400);
	refused("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n", 400);
	refused("GET /\x01 HTTP/1.1\r\n", 400);
	refused("GET /\x7f HTTP/1.1\r\n", 400);
	refused("GET / HTTP/11\r\n", 400);
	refused("GET / http/1.1\r\n", 400);
	refused("GET / HTTP/1.x\r\n", 505);
	refused("GET / HTTP/2.0\r\n", 505);
	refused("GET / HTTP/0.9\r\n", 505);
}

static void test_fields(void **state)
{
	char many[8192];
	size_t n = (size_t)snprintf(many, sizeof(many), GET);

	(void)state;
	accepted(GET "X-One:  a b\t \r\nx-two:\r\nX-ONE: second\r\n");
	assert_string_equal(head_get(&head, "x-one"), "a b");
	assert_string_equal(head_get(&head, "X-Two"), "");
	assert_null(head_get(&head, "X-Three"));
	/* Names that are a beginning of, or begin with, well known ones. */
	accepted(GET "Hos: 1\r\nHostt: 2\r\nContent: 3\r\nX-Auth: 4\r\nSec-WebSocket: 5\r\n");
	assert_string_equal(head_get(&head, "hos"), "1");
	assert_string_equal(head_get(&head, "content"), "3");
	assert_string_equal(head_get(&head, "x-auth"), "4");
	assert_string_equal(head_get(&head, "Sec-WebSocket"), "5");
	assert_string_equal(head.host, "h");

	refused(GET "no colon\r\n", 400);
	refused(GET "Name : v\r\n", 400);
	refused(GET ": v\r\n", 400);
	refused(GET "A: b\r\n folded\r\n", 400);
	refused(GET "A: b\rc\r\n", 400);
	refused(GET "A: \x01\r\n", 400);
	refused("GET / HTTP/1.1\r\n", 400);
	refused(GET "Host: other\r\n", 400);
	accepted("GET / HTTP/1.0\r\n");

	for (int i = 1; i < HEAD_FIELDS_MAX; i++)
		n += (size_t)snprintf(many + n, sizeof(many) - n, "A: b\r\n");
	accepted(many);
	(void)snprintf(many + n, sizeof(many) - n, "A: b\r\n");
	refused(many, 431);
}

/* A NUL in the text is not the end of a string that was checked. */
static void test_nul(void **state)
{
	static const char *const templates[] = {"GET / HTTP/1.1\r\nHost: h\r\nA: b#c\r\n\r\n",
						"GET /# HTTP/1.1\r\nHost: h\r\n\r\n",
						"GET / HTTP/1.1\r\nHost: h\r\nA#: b\r\n\r\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(templates); i++) {
		const char *why;
		size_t n = strlen(templates[i]);

		memcpy(text, templates[i], n + 1);
		*strchr(text, '#') = '\0';
		assert_int_equal(head_parse(text, n, &head, &why), 400);
	}
}

static void test_framing(void **state)
{
	(void)state;
	accepted(GET "Content-Length: 42\r\n");
	assert_int_equal(head.length, 42);
	accepted(GET "Content-Length: 42\r\ncontent-length: 042, 42\r\n");
	assert_int_equal(head.length, 42);
	accepted(GET "Transfer-Encoding: Chunked\r\n");
	assert_true(head.chunked);

	refused(GET "Content-Length: 1\r\nContent-Length: 2\r\n", 400);
	refused(GET "Content-Length: 1, 2\r\n", 400);
	refused(GET "Content-Length: \r\n", 400);
	refused(GET "Content-Length: -1\r\n", 400);
	refused(GET "Content-Length: +1\r\n", 400);
	refused(GET "Content-Length: 1x\r\n", 400);
	refused(GET "Content-Length: 1,\r\n", 400);
	refused(GET "Content-Length: 0x10\r\n", 400);
	refused(GET "Content-Length: 9999999999999999999\r\n", 400);
	refused(GET "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400);
	refused(GET "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400);
	refused(GET "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400);
	refused(GET "Transfer-Encoding: gzip, chunked\r\n", 501);
	refused(GET "Transfer-Encoding: gzip\r\n", 501);
	refused(GET "Transfer-Encoding: identity\r\n", 501);
	refused(GET "Transfer-Encoding:\r\n", 501);
	refused("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", 400);
}

static void test_connection(void **state)
{
	(void)state;
	accepted(GET "Connection: close\r\n");
	assert_false(head.keep_alive);
	accepted(GET "Connection: x , Close\r\n");
	assert_false(head.keep_alive);
	accepted(GET "Connection: closed, keep-alive\r\n");
	assert_true(head.keep_alive);
	accepted("GET / HTTP/1.0\r\n");
	assert_false(head.keep_alive);
	assert_int_equal(head.minor, 0);
	accepted("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n");
	assert_true(head.keep_alive);
	accepted(GET "Expect: 100-Continue\r\n");
	assert_true(head.expect_continue);
	accepted("GET / HTTP/1.0\r\nExpect: 100-continue\r\n");
	assert_false(head.expect_continue);
	refused(GET "Expect: the impossible\r\n", 417);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find),	cmocka_unit_test(test_request_line),
		cmocka_unit_test(test_fields),	cmocka_unit_test(test_nul),
		cmocka_unit_test(test_framing), cmocka_unit_test(test_connection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
