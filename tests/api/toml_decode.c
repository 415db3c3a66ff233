/*
 * toml_decode.c - TOML from standard input as the tagged JSON of toml-test, on standard output.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/json.h"
#include "sandboxd/toml.h"

static void put(struct jw *w, const struct toml *t);

static void put_tagged(struct jw *w, const char *type, const void *value, size_t n)
{
	jw_obj_begin(w);
	jw_kstr(w, "type", type);
	jw_key(w, "value");
	jw_strn(w, value, n);
	jw_obj_end(w);
}

static void put_text(struct jw *w, const char *type, const char *value)
{
	put_tagged(w, type, value, strlen(value));
}

static void put_key(struct jw *w, const struct toml *t)
{
	jw_strn(w, t->key, t->key_n); /* as jw_key(), but a key may hold NUL here */
	(void)buf_putc(w->out, ':');
	w->comma &= ~((uint64_t)1 << w->depth);
}

static void put_children(struct jw *w, const struct toml *t)
{
	for (const struct toml *c = t->first; c; c = c->next) {
		if (t->type == TOML_TABLE)
			put_key(w, c);
		put(w, c);
	}
}

static void put(struct jw *w, const struct toml *t)
{
	char text[64];
	switch (t->type) {
	case TOML_TABLE:
		jw_obj_begin(w);
		put_children(w, t);
		jw_obj_end(w);
		break;
	case TOML_ARRAY:
		jw_arr_begin(w);
		put_children(w, t);
		jw_arr_end(w);
		break;
	case TOML_STRING:
		put_tagged(w, "string", t->string, t->string_n);
		break;
	case TOML_INTEGER:
		(void)snprintf(text, sizeof(text), "%lld", (long long)t->integer);
		put_text(w, "integer", text);
		break;
	case TOML_FLOAT:
		(void)snprintf(text, sizeof(text), "%.17g", t->number);
		put_text(w, "float", isnan(t->number) ? "nan" : text);
		break;
	case TOML_BOOL:
		put_text(w, "bool", t->boolean ? "true" : "false");
		break;
	case TOML_DATETIME:
		put_text(w, "datetime", t->string);
		break;
	case TOML_DATETIME_LOCAL:
		put_text(w, "datetime-local", t->string);
		break;
	case TOML_DATE:
		put_text(w, "date-local", t->string);
		break;
	case TOML_TIME:
		put_text(w, "time-local", t->string);
		break;
	}
}

int main(void)
{
	_cleanup_buf_ struct buf in = BUF_INIT(TOML_SIZE_MAX + 1), out = BUF_INIT(SIZE_MAX / 2);
	struct jw w = JW_INIT(&out);
	struct toml *root;
	struct err err;
	size_t n;
	do {
		if (buf_reserve(&in, 4096) < 0)
			return 2;
		n = fread(buf_tail(&in), 1, 4096, stdin);
		in.len += n;
	} while (n > 0);
	if (toml_parse((const char *)in.data, in.len, &root, &err) < 0) {
		(void)fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	put(&w, root);
	toml_free(root);
	return !out.failed && fwrite(out.data, 1, out.len, stdout) == out.len ? 0 : 2;
}
