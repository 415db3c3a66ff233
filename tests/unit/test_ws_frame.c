/* The framing of WebSockets: every cut, every rule that a head alone can break. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "proto/ws_frame.h"

#define MASK 0x80
#define KEY  1, 2, 3, 4

static int parse(const uint8_t *data, size_t n, struct ws_head *head)
{
	uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read behind it */
	assert_non_null(exact);
	memcpy(exact, data, n);
	int r = ws_head_parse(exact, n, head);
	free(exact);
	return r;
}

static void accepts(const uint8_t *data, size_t n, enum ws_opcode opcode, bool fin, uint64_t length)
{
	struct ws_head head = {0};
	for (size_t cut = 0; cut < n; cut++)
		assert_int_equal(parse(data, cut, &head), 0);
	assert_int_equal(parse(data, n, &head), n);
	assert_int_equal(head.opcode, opcode);
	assert_int_equal(head.fin, fin);
	assert_true(head.length == length);
	assert_memory_equal(head.mask, ((uint8_t[]){KEY}), 4);
}

#define ACCEPTS(opcode, fin, length, ...)                                                                    \
	accepts((uint8_t[]){__VA_ARGS__, KEY}, sizeof((uint8_t[]){__VA_ARGS__, KEY}), opcode, fin, length)

static void test_heads(void **state)
{
	(void)state;
	ACCEPTS(WS_TEXT, true, 0, 0x81, MASK);
	ACCEPTS(WS_BINARY, false, 125, 0x02, MASK | 125);
	ACCEPTS(WS_CONTINUATION, true, 126, 0x80, MASK | 126, 0, 126);
	ACCEPTS(WS_TEXT, false, 65535, 0x01, MASK | 126, 0xff, 0xff);
	ACCEPTS(WS_BINARY, true, 65536, 0x82, MASK | 127, 0, 0, 0, 0, 0, 1, 0, 0);
	ACCEPTS(WS_BINARY, true, INT64_MAX, 0x82, MASK | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
	ACCEPTS(WS_CLOSE, true, 125, 0x88, MASK | 125);
	ACCEPTS(WS_PING, true, 0, 0x89, MASK);
	ACCEPTS(WS_PONG, true, 1, 0x8a, MASK | 1);
}

/* Refused as soon as the byte that breaks the rule is there, and not before. */
static void refuses(const uint8_t *data, size_t n)
{
	struct ws_head head;
	for (size_t cut = 0; cut < n; cut++)
		assert_int_equal(parse(data, cut, &head), 0);
	assert_int_equal(parse(data, n, &head), -EPROTO);
}

#define REFUSES(...) refuses((uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static void test_broken_heads(void **state)
{
	(void)state;
	REFUSES(0x82, 5); /* not masked */
	REFUSES(0xc1);	  /* reserved bits */
	REFUSES(0xa1);
	REFUSES(0x91);
	REFUSES(0x08); /* a control frame in fragments */
	REFUSES(0x09);
	REFUSES(0x89, MASK | 126); /* a long one */
	REFUSES(0x88, MASK | 127);
	REFUSES(0x82, MASK | 126, 0, 125); /* lengths that fit into less */
	REFUSES(0x82, MASK | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff);
	REFUSES(0x82, MASK | 127, 0x80, 0, 0, 0, 0, 0, 0, 0);
	for (unsigned opcode = 3; opcode < 16; opcode++)
		if (opcode < 8 || opcode > 10)
			refuses((uint8_t[]){(uint8_t)(0x80 | opcode)}, 1);
}

static void test_mask(void **state)
{
	static const uint8_t mask[4] = {0xa5, 0x01, 0xff, 0x80};
	uint8_t text[67], copy[sizeof(text)];
	(void)state;
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 7);
	for (size_t cut = 0; cut <= sizeof(text); cut++) {
		memcpy(copy, text, sizeof(text));
		ws_mask(copy, cut, mask, 0);
		ws_mask(copy + cut, sizeof(text) - cut, mask, cut);
		for (size_t i = 0; i < sizeof(text); i++)
			assert_int_equal(copy[i], text[i] ^ mask[i % 4]);
	}
}

static void test_write(void **state)
{
	uint8_t head[WS_SERVER_HEAD_MAX];
	(void)state;
	assert_int_equal(ws_head_write(head, WS_TEXT, 125), 2);
	assert_memory_equal(head, ((uint8_t[]){0x81, 125}), 2);
	assert_int_equal(ws_head_write(head, WS_BINARY, 126), 4);
	assert_memory_equal(head, ((uint8_t[]){0x82, 126, 0, 126}), 4);
	assert_int_equal(ws_head_write(head, WS_BINARY, 65535), 4);
	assert_memory_equal(head, ((uint8_t[]){0x82, 126, 0xff, 0xff}), 4);
	assert_int_equal(ws_head_write(head, WS_BINARY, 0x1020304), 10);
	assert_memory_equal(head, ((uint8_t[]){0x82, 127, 0, 0, 0, 0, 1, 2, 3, 4}), 10);
}

static void closes(unsigned code, unsigned refused)
{
	uint8_t payload[2] = {(uint8_t)(code >> 8), (uint8_t)code};
	unsigned seen;
	assert_int_equal(ws_close_parse(payload, 2, &seen), refused);
	assert_int_equal(seen, code);
}

static void test_close(void **state)
{
	unsigned code;
	(void)state;
	assert_int_equal(ws_close_parse((const uint8_t *)"", 0, &code), 0);
	assert_int_equal(code, WS_CODE_NO_STATUS);
	assert_int_equal(ws_close_parse((const uint8_t *)"\x03", 1, &code), WS_CODE_PROTOCOL);
	assert_int_equal(ws_close_parse((const uint8_t *)"\x03\xe8ok", 4, &code), 0);
	assert_int_equal(ws_close_parse((const uint8_t *)"\x03\xe8\xff", 3, &code), WS_CODE_NOT_UTF8);
	static const unsigned good[] = {1000, 1001, 1003, 1007, 1011, 1014, 3000, 4001, 4999};
	static const unsigned bad[] = {0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		closes(good[i], 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		closes(bad[i], WS_CODE_PROTOCOL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_heads), cmocka_unit_test(test_broken_heads),
		cmocka_unit_test(test_mask),  cmocka_unit_test(test_write),
		cmocka_unit_test(test_close),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
