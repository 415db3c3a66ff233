/* JSON: what comes in is named when it is wrong, what goes out parses again. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/json.h"

static json_t *parsed(const char *text)
{
	json_t *json = NULL;
	struct err err = {0};

	if (json_parse(text, strlen(text), &json, &err) < 0)
		fail_msg("%s: %s", text, err.message);
	return json;
}

static void refused_n(const char *text, size_t n, const char *part_of_message)
{
	json_t *json = NULL;
	struct err err = {0};

	assert_int_equal(json_parse(text, n, &json, &err), -EINVAL);
	assert_null(json);
	assert_int_equal(err.kind, ERR_INVALID);
	assert_string_equal(err.code, "INVALID_REQUEST_BODY");
	if (!strstr(err.message, part_of_message))
		fail_msg("'%s' lacks '%s'", err.message, part_of_message);
}

static void refused(const char *text, const char *part_of_message)
{
	refused_n(text, strlen(text), part_of_message);
}

static void test_parse(void **state)
{
	char deep[2 * JSON_DEPTH_MAX + 3];

	(void)state;
	json_decref(parsed("{\"a\":[1,2.5,\"x\",true,null]}"));
	json_decref(parsed("  \"text\"  "));
	json_decref(parsed("\"[[[[ \\\" {{{{\""));
	refused("", "line 1");
	refused("{\"a\":1", "line 1 column 6");
	refused("{\n \"a\": 1,\n x\n}", "line 3 column 2");
	refused("{\"a\":1,\"a\":2}", "duplicate");
	refused("{} {}", "line 1");
	refused("\"\\u0000\"", "NUL");
	refused("\"\xff\"", "0xff");
	refused_n("\"a\0b\"", 5, "line 1");

	memset(deep, '[', JSON_DEPTH_MAX);
	memset(deep + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
	deep[2 * JSON_DEPTH_MAX] = '\0';
	json_decref(parsed(deep));
	memset(deep, '[', JSON_DEPTH_MAX + 1);
	deep[JSON_DEPTH_MAX + 1] = '\0';
	refused(deep, "column 65");
}

/* `piece` n times, with commas, as an array. */
static int parse_many(const char *piece, size_t n, struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(64U << 20);
	json_t *json = NULL;

	(void)buf_putc(&text, '[');
	for (size_t i = 0; i < n; i++) {
		(void)buf_puts(&text, i ? "," : "");
		(void)buf_puts(&text, piece);
	}
	(void)buf_putc(&text, ']');
	assert_false(text.failed);
	int r = json_parse(text.data, text.len, &json, err);
	json_decref(json);
	return r;
}

/* Two bytes of text are a hundred of memory: what is small on the wire is refused before it is large here. */
static void test_many_values(void **state)
{
	static const char *const pieces[] = {"[]", "{}", "{\"a\":1}", "1"};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		assert_int_equal(parse_many(pieces[i], 100000, &err), 0);
		assert_int_equal(parse_many(pieces[i], 1500000, &err), -E2BIG);
		assert_int_equal(err.kind, ERR_TOO_LARGE);
		assert_non_null(strstr(err.message, "too many values"));
	}
	assert_int_equal(
		parse_many("\",[{:,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,\"",
			   500000, &err),
		0);
}

static void test_get(void **state)
{
	json_t *o = parsed("{\"s\":\"text\",\"i\":-7,\"b\":false,\"o\":{},\"a\":[],\"n\":null,\"r\":1.5,"
			   "\"m\":{\"k\":\"v\"},\"bad_m\":{\"k\":1},\"l\":[\"x\"],\"bad_l\":[\"x\",2]}");
	const char *s = "before";
	int64_t i = 1;
	bool b = true;
	json_t *j = NULL;
	struct err err = {0};

	(void)state;
	assert_int_equal(json_get_str(o, "s", JSON_REQUIRED, &s, &err), 1);
	assert_string_equal(s, "text");
	assert_int_equal(json_get_int(o, "i", JSON_REQUIRED, -7, 7, &i, &err), 1);
	assert_int_equal(i, -7);
	assert_int_equal(json_get_bool(o, "b", JSON_REQUIRED, &b, &err), 1);
	assert_false(b);
	assert_int_equal(json_get_obj(o, "o", JSON_REQUIRED, &j, &err), 1);
	assert_int_equal(json_get_arr(o, "a", JSON_REQUIRED, &j, &err), 1);
	assert_int_equal(json_get_str_map(o, "m", JSON_REQUIRED, &j, &err), 1);
	assert_int_equal(json_get_str_arr(o, "l", JSON_REQUIRED, &j, &err), 1);

	/* Absent and null optional fields leave the default. */
	assert_int_equal(json_get_str(o, "n", JSON_OPTIONAL, &s, &err), 0);
	assert_int_equal(json_get_str(o, "none", JSON_OPTIONAL, &s, &err), 0);
	assert_int_equal(json_get_str(NULL, "none", JSON_OPTIONAL, &s, &err), 0);
	assert_string_equal(s, "text");

#define WRONG(call, text)                                                                                    \
	do {                                                                                                 \
		memset(&err, 0, sizeof(err));                                                                \
		assert_int_equal(call, -EINVAL);                                                             \
		assert_string_equal(err.message, text);                                                      \
		assert_string_equal(err.code, "INVALID_REQUEST_BODY");                                       \
	} while (0)
	WRONG(json_get_str(o, "none", JSON_REQUIRED, &s, &err), "field 'none' is missing");
	WRONG(json_get_str(o, "n", JSON_REQUIRED, &s, &err), "field 'n' is missing");
	WRONG(json_get_str(o, "i", JSON_OPTIONAL, &s, &err), "field 'i' must be a string, not an integer");
	WRONG(json_get_int(o, "s", JSON_OPTIONAL, 0, 1, &i, &err),
	      "field 's' must be an integer, not a string");
	WRONG(json_get_int(o, "r", JSON_OPTIONAL, 0, 1, &i, &err),
	      "field 'r' must be an integer, not a number with a fraction");
	WRONG(json_get_int(o, "i", JSON_OPTIONAL, 0, 10, &i, &err), "field 'i' must be from 0 to 10, not -7");
	WRONG(json_get_bool(o, "o", JSON_OPTIONAL, &b, &err), "field 'o' must be a boolean, not an object");
	WRONG(json_get_obj(o, "a", JSON_OPTIONAL, &j, &err), "field 'a' must be an object, not an array");
	WRONG(json_get_arr(o, "b", JSON_OPTIONAL, &j, &err), "field 'b' must be an array, not a boolean");
	WRONG(json_get_str_map(o, "bad_m", JSON_OPTIONAL, &j, &err),
	      "field 'bad_m': the value of 'k' must be a string, not an integer");
	WRONG(json_get_str_arr(o, "bad_l", JSON_OPTIONAL, &j, &err),
	      "field 'bad_l': element 1 must be a string, not an integer");
	WRONG(json_need_obj(NULL, JSON_REQUIRED, &err), "the request body is empty");
	WRONG(json_need_obj(json_object_get(o, "a"), JSON_REQUIRED, &err),
	      "the request body must be an object, not an array");
	WRONG(json_get_str(json_object_get(o, "a"), "x", JSON_OPTIONAL, &s, &err),
	      "the request body must be an object, not an array");
	assert_int_equal(json_need_obj(NULL, JSON_OPTIONAL, &err), 0);
	assert_int_equal(json_need_obj(o, JSON_REQUIRED, &err), 0);
	json_decref(o);
}

static void test_write(void **state)
{
	_cleanup_buf_ struct buf b = BUF_INIT(65536);
	struct jw w = JW_INIT(&b);

	(void)state;
	jw_obj_begin(&w);
	jw_kstr(&w, "s", "a\"b\\c/\n\r\t\b\x01\x7f");
	jw_kstr(&w, "null", NULL);
	jw_kint(&w, "min", INT64_MIN);
	jw_kbool(&w, "t", true);
	jw_key(&w, "list");
	jw_arr_begin(&w);
	jw_arr_begin(&w);
	jw_arr_end(&w);
	jw_obj_begin(&w);
	jw_obj_end(&w);
	jw_int(&w, 0);
	jw_real(&w, 0.1);
	jw_real(&w, 1.0 / 3);
	jw_real(&w, NAN);
	jw_real(&w, -INFINITY);
	jw_raw(&w, "{\"raw\":1}", 9);
	jw_bool(&w, false);
	jw_arr_end(&w);
	jw_kstr(&w, "k\"", "v");
	jw_obj_end(&w);
	assert_false(b.failed);
	assert_string_equal(buf_cstr(&b),
			    "{\"s\":\"a\\\"b\\\\c/\\n\\r\\t\\u0008\\u0001\x7f\",\"null\":null,"
			    "\"min\":-9223372036854775808,\"t\":true,"
			    "\"list\":[[],{},0,0.1,0.33333333333333331,null,null,{\"raw\":1},false],"
			    "\"k\\\"\":\"v\"}");
	json_decref(parsed(buf_cstr(&b)));
}

/* Every byte in every neighbourhood comes out as JSON that can be read. */
static void test_any_bytes(void **state)
{
	(void)state;
	for (int i = 0; i < 256; i++) {
		_cleanup_buf_ struct buf b = BUF_INIT(65536);
		struct jw w = JW_INIT(&b);
		uint8_t bytes[] = {'a', (uint8_t)i, 'b', 0xe2, 0x82, (uint8_t)i, 0xc3};
		json_error_t e;
		json_t *json;

		jw_strn(&w, bytes, sizeof(bytes));
		assert_false(b.failed);
		json = json_loadb((const char *)b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
		if (!json)
			fail_msg("byte %d: %s", i, e.text);
		json_decref(json);
	}
}

static void test_writer_limits(void **state)
{
	_cleanup_buf_ struct buf small = BUF_INIT(4), b = BUF_INIT(65536);
	struct jw w = JW_INIT(&small);

	(void)state;
	jw_str(&w, "too long");
	assert_true(small.failed);

	w = JW_INIT(&b);
	for (int i = 0; i < 200; i++)
		jw_arr_begin(&w);
	assert_true(b.failed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),	    cmocka_unit_test(test_get),
		cmocka_unit_test(test_many_values), cmocka_unit_test(test_write),
		cmocka_unit_test(test_any_bytes),   cmocka_unit_test(test_writer_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
