/*
 * json.c - JSON in by jansson, out by a writer that appends to a buffer. No state.
 */
#include "proto/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "lib/utf8.h"
#include "proto/json_escape.h"

#define INVALID_BODY "INVALID_REQUEST_BODY"

/* ---- in ------------------------------------------------------------------ */

/* What jansson takes for each, by the sign that it begins with: at the least, as malloc has it. */
#define ARRAY_COST  128
#define OBJECT_COST 256
#define MEMBER_COST 96 /* the name of one */
#define VALUE_COST  48

static int check_memory(size_t memory, size_t max, struct err *err)
{
	return memory <= max
		       ? 0
		       : err_set(err, ERR_TOO_LARGE, INVALID_BODY, E2BIG,
				 "the JSON holds too many values: parsed they would take more than %zu MB",
				 max >> 20);
}

/*
 * jansson's own depth limit (2048) is fixed at its build, so ours is looked at before it recurses. And it
 * makes forty bytes of one: how much is known before it does.
 */
static int check_shape(const char *s, size_t n, size_t memory_max, struct err *err)
{
	unsigned depth = 0, line = 1;
	size_t line_start = 0, memory = 0;
	bool in_string = false;

	for (size_t i = 0; i < n; i++) {
		char c = s[i];

		if (c == '\n') {
			line++;
			line_start = i + 1;
		}
		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == ',') {
			memory += VALUE_COST;
		} else if (c == ':') {
			memory += MEMBER_COST;
		} else if (c == '[' || c == '{') {
			memory += c == '[' ? ARRAY_COST : OBJECT_COST;
			if (++depth > JSON_DEPTH_MAX)
				return err_set(
					err, ERR_INVALID, INVALID_BODY, EINVAL,
					"the JSON is nested deeper than %d levels at line %u column %zu",
					JSON_DEPTH_MAX, line, i - line_start + 1);
		} else if ((c == ']' || c == '}') && depth > 0) {
			depth--;
		}
	}
	return check_memory(memory, memory_max, err);
}

static int parse(const void *data, size_t n, size_t flags, size_t memory_max, json_t **ret, struct err *err)
{
	json_error_t e;
	json_t *json;
	int r = check_shape(data, n, memory_max, err);

	if (r < 0)
		return r;
	json = json_loadb(data, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | flags, &e);
	if (!json)
		return err_set(err, ERR_INVALID, INVALID_BODY, EINVAL,
			       "malformed JSON at line %d column %d: %s", e.line, e.column, e.text);
	*ret = json;
	return 0;
}

/* Without JSON_ALLOW_NUL a \u0000 is an error: strings are C strings from here on. */
int json_parse(const void *data, size_t n, json_t **ret, struct err *err)
{
	return parse(data, n, 0, JSON_MEMORY_MAX, ret, err);
}

int json_parse_nul(const void *data, size_t n, json_t **ret, struct err *err)
{
	return parse(data, n, JSON_ALLOW_NUL, JSON_MEMORY_MAX, ret, err);
}

int json_parse_large(const void *data, size_t n, json_t **ret, struct err *err)
{
	return parse(data, n, 0, JSON_LARGE_MAX, ret, err);
}

static const char *type_name(const json_t *json)
{
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a number with a fraction";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		break;
	}
	return "null";
}

static int wrong_type(const char *field, const char *wanted, const json_t *got, struct err *err)
{
	return err_set(err, ERR_INVALID, INVALID_BODY, EINVAL, "field '%s' must be %s, not %s", field, wanted,
		       type_name(got));
}

int json_need_obj(json_t *root, enum json_need need, struct err *err)
{
	if (!root && need == JSON_REQUIRED)
		return err_set(err, ERR_INVALID, INVALID_BODY, EINVAL, "the request body is empty");
	if (root && !json_is_object(root))
		return err_set(err, ERR_INVALID, INVALID_BODY, EINVAL,
			       "the request body must be an object, not %s", type_name(root));
	return 0;
}

/* 1 and *ret, 0 when absent or null, -EINVAL. */
static int get(json_t *obj, const char *field, enum json_need need, json_t **ret, struct err *err)
{
	json_t *value;
	int r = json_need_obj(obj, JSON_OPTIONAL, err);

	if (r < 0)
		return r;
	value = json_object_get(obj, field);
	if (value && !json_is_null(value)) {
		*ret = value;
		return 1;
	}
	if (need == JSON_OPTIONAL)
		return 0;
	return err_set(err, ERR_INVALID, INVALID_BODY, EINVAL, "field '%s' is missing", field);
}

int json_get_str(json_t *obj, const char *field, enum json_need need, const char **ret, struct err *err)
{
	json_t *value;
	int r = get(obj, field, need, &value, err);

	if (r <= 0)
		return r;
	if (!json_is_string(value))
		return wrong_type(field, "a string", value, err);
	*ret = json_string_value(value);
	return 1;
}

int json_get_int(json_t *obj, const char *field, enum json_need need, int64_t min, int64_t max, int64_t *ret,
		 struct err *err)
{
	json_t *value;
	int r = get(obj, field, need, &value, err);
	int64_t n;

	if (r <= 0)
		return r;
	if (!json_is_integer(value))
		return wrong_type(field, "an integer", value, err);
	n = json_integer_value(value);
	if (n < min || n > max)
		return err_set(err, ERR_INVALID, INVALID_BODY, EINVAL,
			       "field '%s' must be from %" PRId64 " to %" PRId64 ", not %" PRId64, field, min,
			       max, n);
	*ret = n;
	return 1;
}

int json_get_bool(json_t *obj, const char *field, enum json_need need, bool *ret, struct err *err)
{
	json_t *value;
	int r = get(obj, field, need, &value, err);

	if (r <= 0)
		return r;
	if (!json_is_boolean(value))
		return wrong_type(field, "a boolean", value, err);
	*ret = json_boolean_value(value);
	return 1;
}

int json_get_obj(json_t *obj, const char *field, enum json_need need, json_t **ret, struct err *err)
{
	json_t *value;
	int r = get(obj, field, need, &value, err);

	if (r <= 0)
		return r;
	if (!json_is_object(value))
		return wrong_type(field, "an object", value, err);
	*ret = value;
	return 1;
}

int json_get_arr(json_t *obj, const char *field, enum json_need need, json_t **ret, struct err *err)
{
	json_t *value;
	int r = get(obj, field, need, &value, err);

	if (r <= 0)
		return r;
	if (!json_is_array(value))
		return wrong_type(field, "an array", value, err);
	*ret = value;
	return 1;
}

int json_get_str_map(json_t *obj, const char *field, enum json_need need, json_t **ret, struct err *err)
{
	json_t *map, *value;
	const char *key;
	int r = json_get_obj(obj, field, need, &map, err);

	if (r <= 0)
		return r;
	json_object_foreach(map, key, value)
	{
		if (!json_is_string(value))
			return err_set(err, ERR_INVALID, INVALID_BODY, EINVAL,
				       "field '%s': the value of '%s' must be a string, not %s", field, key,
				       type_name(value));
	}
	*ret = map;
	return 1;
}

int json_get_str_arr(json_t *obj, const char *field, enum json_need need, json_t **ret, struct err *err)
{
	json_t *array, *value;
	size_t i;
	int r = json_get_arr(obj, field, need, &array, err);

	if (r <= 0)
		return r;
	json_array_foreach(array, i, value)
	{
		if (!json_is_string(value))
			return err_set(err, ERR_INVALID, INVALID_BODY, EINVAL,
				       "field '%s': element %zu must be a string, not %s", field, i,
				       type_name(value));
	}
	*ret = array;
	return 1;
}

/* ---- out ------------------------------------------------------------------ */

#define DEPTH_MAX 63

/* Before a value, or a key: the comma if something stands before it on this level. */
static void separate(struct jw *w)
{
	if (w->comma & (uint64_t)1 << w->depth)
		(void)buf_putc(w->out, ',');
	w->comma |= (uint64_t)1 << w->depth;
}

static void begin(struct jw *w, char c)
{
	separate(w);
	(void)buf_putc(w->out, c);
	if (w->depth == DEPTH_MAX) {
		w->out->failed = true;
		return;
	}
	w->depth++;
	w->comma &= ~((uint64_t)1 << w->depth);
}

static void end(struct jw *w, char c)
{
	if (w->depth > 0)
		w->depth--;
	(void)buf_putc(w->out, c);
}

void jw_obj_begin(struct jw *w)
{
	begin(w, '{');
}

void jw_obj_end(struct jw *w)
{
	end(w, '}');
}

void jw_arr_begin(struct jw *w)
{
	begin(w, '[');
}

void jw_arr_end(struct jw *w)
{
	end(w, ']');
}

/* Escaped in pieces on the stack: what does not fit in out is no more than what is written. */
static void put_string(struct buf *out, const void *s, size_t n)
{
	const uint8_t *p = s;
	uint8_t piece[512 * JSON_ESCAPE_MAX];

	(void)buf_putc(out, '"');
	while (n > 0) {
		size_t take = MIN(n, sizeof(piece) / JSON_ESCAPE_MAX);

		if (take < n)
			take -= utf8_incomplete_tail(p, take);
		(void)buf_append(out, piece, json_escape(piece, p, take));
		p += take;
		n -= take;
	}
	(void)buf_putc(out, '"');
}

void jw_key(struct jw *w, const char *key)
{
	separate(w);
	put_string(w->out, key, strlen(key));
	(void)buf_putc(w->out, ':');
	/* The value that follows is not preceded by a comma. */
	w->comma &= ~((uint64_t)1 << w->depth);
}

void jw_str(struct jw *w, const char *s)
{
	if (s)
		jw_strn(w, s, strlen(s));
	else
		jw_raw(w, "null", 4);
}

void jw_strn(struct jw *w, const void *s, size_t n)
{
	separate(w);
	put_string(w->out, s, n);
}

void jw_int(struct jw *w, int64_t v)
{
	separate(w);
	(void)buf_printf(w->out, "%" PRId64, v);
}

void jw_real(struct jw *w, double v)
{
	char text[32];
	int n;

	if (!isfinite(v)) {
		jw_raw(w, "null", 4);
		return;
	}
	/* The fewest digits that read back as the same number. */
	n = snprintf(text, sizeof(text), "%.15g", v);
	if (strtod(text, NULL) != v)
		n = snprintf(text, sizeof(text), "%.17g", v);
	jw_raw(w, text, (size_t)n);
}

void jw_bool(struct jw *w, bool v)
{
	jw_raw(w, v ? "true" : "false", v ? 4 : 5);
}

void jw_raw(struct jw *w, const void *json, size_t n)
{
	separate(w);
	(void)buf_append(w->out, json, n);
}

void jw_kraw(struct jw *w, const char *key, const char *json)
{
	if (!json)
		return;
	jw_key(w, key);
	jw_raw(w, json, strlen(json));
}

void jw_kstr(struct jw *w, const char *key, const char *s)
{
	jw_key(w, key);
	jw_str(w, s);
}

void jw_kint(struct jw *w, const char *key, int64_t v)
{
	jw_key(w, key);
	jw_int(w, v);
}

void jw_kbool(struct jw *w, const char *key, bool v)
{
	jw_key(w, key);
	jw_bool(w, v);
}
