/*
 * json.h - JSON in: typed access that names the field; JSON out: a writer onto a buffer.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/buf.h"
#include "lib/err.h"

/* ---- in --------------------------------------------------------------- */

#define JSON_DEPTH_MAX 64
/* Bytes that the values may take once they are parsed, as far as they can be told beforehand. */
#define JSON_MEMORY_MAX (64U << 20)
#define JSON_LARGE_MAX	(256U << 20)

/*
 * Duplicates and depth over JSON_DEPTH_MAX rejected; the message says line and column. So is what would take
 * more than JSON_MEMORY_MAX (ERR_TOO_LARGE).
 */
int json_parse(const void *data, size_t n, json_t **ret, struct err *err);
/* The same for what is only handed on: its strings may hold NULs, and are no C strings. */
int json_parse_nul(const void *data, size_t n, json_t **ret, struct err *err);
/* The same for what a kernel shows of a user's data: up to JSON_LARGE_MAX. */
int json_parse_large(const void *data, size_t n, json_t **ret, struct err *err);

enum json_need { JSON_OPTIONAL, JSON_REQUIRED };

/*
 * obj must be an object (NULL counts as empty). An absent or null optional
 * field leaves *ret as it is and returns 0; a present one returns 1. Anything
 * else is -EINVAL with a message that names the field and both types, code
 * INVALID_REQUEST_BODY. Results are borrowed from obj.
 */
int json_get_str(json_t *obj, const char *field, enum json_need need, const char **ret, struct err *err);
int json_get_int(json_t *obj, const char *field, enum json_need need, int64_t min, int64_t max, int64_t *ret,
		 struct err *err);
int json_get_bool(json_t *obj, const char *field, enum json_need need, bool *ret, struct err *err);
int json_get_obj(json_t *obj, const char *field, enum json_need need, json_t **ret, struct err *err);
int json_get_arr(json_t *obj, const char *field, enum json_need need, json_t **ret, struct err *err);
/* An object whose values are all strings. */
int json_get_str_map(json_t *obj, const char *field, enum json_need need, json_t **ret, struct err *err);
/* An array of strings. */
int json_get_str_arr(json_t *obj, const char *field, enum json_need need, json_t **ret, struct err *err);
/* The root itself: 0 when it is an object (or NULL and not required). */
int json_need_obj(json_t *root, enum json_need need, struct err *err);

/* ---- out -------------------------------------------------------------- */

/* Commas and colons are the writer's; failure shows in out->failed. */
struct jw {
	struct buf *out;
	uint64_t comma; /* one bit a level: a value stands before */
	unsigned depth;
};

#define JW_INIT(buf) ((struct jw){.out = (buf)})

void jw_obj_begin(struct jw *w);
void jw_obj_end(struct jw *w);
void jw_arr_begin(struct jw *w);
void jw_arr_end(struct jw *w);
void jw_key(struct jw *w, const char *key);
void jw_str(struct jw *w, const char *s);	     /* NULL: null */
void jw_strn(struct jw *w, const void *s, size_t n); /* any bytes: made valid UTF-8 */
void jw_int(struct jw *w, int64_t v);
void jw_real(struct jw *w, double v); /* not finite: null */
void jw_bool(struct jw *w, bool v);
void jw_raw(struct jw *w, const void *json, size_t n); /* a value that is JSON already */

/* key and value in one call */
void jw_kstr(struct jw *w, const char *key, const char *s);
void jw_kraw(struct jw *w, const char *key, const char *json); /* NULL: neither key nor value */
void jw_kint(struct jw *w, const char *key, int64_t v);
void jw_kbool(struct jw *w, const char *key, bool v);
