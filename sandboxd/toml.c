/*
 * toml.c - recursive descent over the document, one function a production of
 * the specification's ABNF: tables, keys, arrays; what stands in them is read by
 * toml_text.c and toml_scalar.c. The text is validated as UTF-8 first; after that
 * only ASCII decides. Loop thread or any other: no shared state.
 */
#include "sandboxd/toml_priv.h"

#include <assert.h>
#include <string.h>

#include "lib/utf8.h"

struct key {
	char *text;
	size_t n;
};

#define KEY_PARTS_MAX 64

/* A dotted key: "a.b.c". */
struct path {
	struct key parts[KEY_PARTS_MAX];
	size_t n;
};

const char *toml_type_name(enum toml_type type)
{
	static const char *const names[] = {
		[TOML_TABLE] = "a table",	 [TOML_ARRAY] = "an array",
		[TOML_STRING] = "a string",	 [TOML_INTEGER] = "an integer",
		[TOML_FLOAT] = "a float",	 [TOML_BOOL] = "a boolean",
		[TOML_DATETIME] = "a date-time", [TOML_DATETIME_LOCAL] = "a local date-time",
		[TOML_DATE] = "a local date",	 [TOML_TIME] = "a local time",
	};
	return names[type];
}

/* ---- the tree --------------------------------------------------------------- */

void toml_free(struct toml *t)
{
	while (t) {
		struct toml *next = t->next;
		toml_free(t->first);
		free(t->key);
		free(t->string);
		free(t);
		t = next;
	}
}

static struct toml *value_new(struct toml_parser *ps, enum toml_type type)
{
	struct toml *t = calloc(1, sizeof(*t));
	if (t) {
		t->type = type;
		t->line = ps->line;
	}
	return t;
}

static void add_child(struct toml *parent, struct toml *child)
{
	if (parent->last)
		parent->last->next = child;
	else
		parent->first = child;
	parent->last = child;
}

static struct toml *get(const struct toml *table, const char *key, size_t n)
{
	assert(key);
	for (struct toml *c = table->first; c; c = c->next)
		if (c->key && c->key_n == n && memcmp(c->key, key, n) == 0)
			return c;
	return NULL;
}

static void path_done(struct path *path)
{
	for (size_t i = 0; i < path->n; i++)
		free(path->parts[i].text);
}

/* Moves the key's text into t. */
static void take_key(struct toml *t, struct key *k)
{
	t->key = TAKE_PTR(k->text);
	t->key_n = k->n;
}

/* ---- keys --------------------------------------------------------------------- */

static int parse_simple_key(struct toml_parser *ps, struct key *k)
{
	const char *start = ps->p;
	if (toml_at(ps, '"') || toml_at(ps, '\''))
		return toml_quoted(ps, false, &k->text, &k->n);
	while (ps->p < ps->end && toml_is_bare(*ps->p))
		ps->p++;
	k->n = (size_t)(ps->p - start);
	if (k->n == 0)
		return toml_fail(ps, "a key is missing");
	k->text = strndup(start, k->n);
	return k->text ? 0 : toml_no_memory(ps);
}

static int parse_key(struct toml_parser *ps, struct path *path)
{
	do {
		if (path->n == KEY_PARTS_MAX)
			return toml_fail(ps, "a key has too many parts");
		toml_skip_blanks(ps);
		int r = parse_simple_key(ps, &path->parts[path->n]);
		if (r < 0)
			return r;
		path->n++;
		toml_skip_blanks(ps);
	} while (toml_accept(ps, '.'));
	return 0;
}

static int duplicate(struct toml_parser *ps, const struct toml *there, const struct key *k)
{
	return err_set(ps->err, ERR_INVALID, "INVALID_CONFIG", EINVAL,
		       "line %u: '%.*s' is already given on line %u", ps->line, (int)MIN(k->n, (size_t)100),
		       k->text, there->line);
}

static struct toml *table_new(struct toml_parser *ps, struct toml *parent, struct key *k, int origin)
{
	struct toml *t = value_new(ps, TOML_TABLE);
	if (!t)
		return NULL;
	t->origin = origin;
	take_key(t, k);
	add_child(parent, t);
	return t;
}

/* ---- values ------------------------------------------------------------------- */

static int parse_value(struct toml_parser *ps, struct toml *t);
static int parse_pair(struct toml_parser *ps, struct toml *table);

static int parse_array(struct toml_parser *ps, struct toml *t)
{
	t->type = TOML_ARRAY;
	t->origin = TOML_CLOSED;
	for (;;) {
		int r = toml_skip_space(ps);
		if (r < 0 || toml_accept(ps, ']'))
			return r;
		struct toml *element = value_new(ps, TOML_BOOL);
		if (!element)
			return toml_no_memory(ps);
		add_child(t, element);
		r = parse_value(ps, element);
		if (r >= 0)
			r = toml_skip_space(ps);
		if (r < 0)
			return r;
		if (!toml_accept(ps, ',') && !toml_at(ps, ']'))
			return toml_fail(ps, "an array needs ',' or ']' here");
	}
}

/* What a value closes can not be added to from outside of it. */
static void close_tables(struct toml *t)
{
	t->origin = TOML_CLOSED;
	for (struct toml *c = t->first; c; c = c->next)
		close_tables(c);
}

static int parse_inline_table(struct toml_parser *ps, struct toml *t)
{
	t->type = TOML_TABLE;
	toml_skip_blanks(ps);
	if (toml_accept(ps, '}')) {
		close_tables(t);
		return 0;
	}
	for (;;) {
		int r = parse_pair(ps, t);
		if (r < 0)
			return r;
		toml_skip_blanks(ps);
		if (toml_accept(ps, '}')) {
			close_tables(t);
			return 0;
		}
		if (!toml_accept(ps, ','))
			return toml_fail(ps, "an inline table needs ',' or '}' here, on the same line");
	}
}

static int parse_value(struct toml_parser *ps, struct toml *t)
{
	int r;
	if (toml_at(ps, '"') || toml_at(ps, '\'')) {
		t->type = TOML_STRING;
		return toml_quoted(ps, true, &t->string, &t->string_n);
	}
	if (!toml_at(ps, '[') && !toml_at(ps, '{'))
		return toml_scalar(ps, t);
	if (++ps->depth > TOML_DEPTH_MAX)
		return toml_fail(ps, "values are nested too deeply");
	r = *ps->p++ == '[' ? parse_array(ps, t) : parse_inline_table(ps, t);
	ps->depth--;
	return r;
}

/* ---- key = value ---------------------------------------------------------------- */

/* The table that a dotted key's value goes into: made on the way, or added to where that is allowed. */
static int descend(struct toml_parser *ps, struct toml *table, struct path *path, struct toml **ret)
{
	for (size_t i = 0; i + 1 < path->n; i++) {
		struct key *k = &path->parts[i];
		struct toml *next = get(table, k->text, k->n);
		if (next && (next->type != TOML_TABLE || next->origin != TOML_DOTTED))
			return duplicate(ps, next, k);
		if (!next)
			next = table_new(ps, table, k, TOML_DOTTED);
		if (!next)
			return toml_no_memory(ps);
		table = next;
	}
	*ret = table;
	return 0;
}

static int parse_pair_value(struct toml_parser *ps, struct toml *table, struct path *path)
{
	struct key *k = &path->parts[path->n - 1];
	struct toml *there, *t;
	int r = descend(ps, table, path, &table);
	if (r < 0)
		return r;
	there = get(table, k->text, k->n);
	if (there)
		return duplicate(ps, there, k);
	t = value_new(ps, TOML_BOOL);
	if (!t)
		return toml_no_memory(ps);
	take_key(t, k);
	add_child(table, t);
	return parse_value(ps, t);
}

static int parse_pair(struct toml_parser *ps, struct toml *table)
{
	_cleanup_(path_done) struct path path = {0};
	int r = parse_key(ps, &path);
	if (r < 0)
		return r;
	if (!toml_accept(ps, '='))
		return toml_fail(ps, "a key needs '=' and a value");
	toml_skip_blanks(ps);
	return parse_pair_value(ps, table, &path);
}

/* ---- [table] and [[array of tables]] ----------------------------------------------- */

/* One step of a header's path: a table, or the last element of an array of tables. */
static int enter(struct toml_parser *ps, struct toml *table, struct key *k, struct toml **ret)
{
	struct toml *next = get(table, k->text, k->n);
	if (next && next->type == TOML_ARRAY && next->origin != TOML_CLOSED)
		next = next->last;
	else if (next && (next->type != TOML_TABLE || next->origin == TOML_CLOSED))
		return duplicate(ps, next, k);
	if (!next)
		next = table_new(ps, table, k, TOML_IMPLICIT);
	*ret = next;
	return next ? 0 : toml_no_memory(ps);
}

static int open_table(struct toml_parser *ps, struct toml *parent, struct key *k)
{
	struct toml *t = get(parent, k->text, k->n);
	if (t && (t->type != TOML_TABLE || t->origin != TOML_IMPLICIT))
		return duplicate(ps, t, k);
	if (t) {
		t->origin = TOML_HEADER;
		t->line = ps->line;
	} else {
		t = table_new(ps, parent, k, TOML_HEADER);
	}
	ps->current = t;
	return t ? 0 : toml_no_memory(ps);
}

static int open_element(struct toml_parser *ps, struct toml *parent, struct key *k)
{
	struct toml *array = get(parent, k->text, k->n), *t;
	if (array && (array->type != TOML_ARRAY || array->origin == TOML_CLOSED))
		return duplicate(ps, array, k);
	if (!array) {
		array = table_new(ps, parent, k, TOML_HEADER);
		if (!array)
			return toml_no_memory(ps);
		array->type = TOML_ARRAY;
	}
	t = value_new(ps, TOML_TABLE);
	if (!t)
		return toml_no_memory(ps);
	t->origin = TOML_HEADER;
	add_child(array, t);
	ps->current = t;
	return 0;
}

static int parse_header(struct toml_parser *ps)
{
	_cleanup_(path_done) struct path path = {0};
	struct toml *table = ps->root;
	bool element = toml_at_text(ps, "[[");
	ps->p += element ? 2 : 1;
	int r = parse_key(ps, &path);
	if (r < 0)
		return r;
	if (!toml_at_text(ps, element ? "]]" : "]"))
		return toml_fail(ps, element ? "']]' is missing" : "']' is missing");
	ps->p += element ? 2 : 1;
	for (size_t i = 0; i + 1 < path.n && r >= 0; i++)
		r = enter(ps, table, &path.parts[i], &table);
	if (r < 0)
		return r;
	return element ? open_element(ps, table, &path.parts[path.n - 1])
		       : open_table(ps, table, &path.parts[path.n - 1]);
}

/* ---- the document ------------------------------------------------------------------ */

static int parse_line(struct toml_parser *ps)
{
	int r = 0;
	toml_skip_blanks(ps);
	if (toml_at(ps, '['))
		r = parse_header(ps);
	else if (ps->p < ps->end && *ps->p != '\n' && *ps->p != '\r' && *ps->p != '#')
		r = parse_pair(ps, ps->current);
	if (r < 0)
		return r;
	toml_skip_blanks(ps);
	r = toml_skip_comment(ps);
	if (r >= 0 && ps->p < ps->end && !toml_accept_newline(ps))
		r = toml_fail(ps, "the line goes on where it should end");
	return r;
}

int toml_parse(const char *text, size_t n, struct toml **ret, struct err *err)
{
	struct toml_parser ps = {.p = text, .end = text + n, .line = 1, .err = err};
	int r = 0;
	if (n > TOML_SIZE_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_CONFIG", E2BIG, "longer than %u bytes",
			       TOML_SIZE_MAX);
	if (!utf8_valid(text, n))
		return toml_fail(&ps, "the document is not UTF-8");
	if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
		ps.p += 3;
	ps.root = ps.current = value_new(&ps, TOML_TABLE);
	if (!ps.root)
		return toml_no_memory(&ps);
	ps.root->origin = TOML_HEADER;
	while (r >= 0 && ps.p < ps.end)
		r = parse_line(&ps);
	if (r < 0) {
		toml_free(ps.root);
		return r;
	}
	*ret = ps.root;
	return 0;
}
