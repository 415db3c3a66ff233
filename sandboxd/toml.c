/*
 * toml.c - recursive descent over the document, one function a production of
 * the specification's ABNF. The text is validated as UTF-8 first; after that
 * only ASCII decides. Loop thread or any other: no shared state.
 */
#include "sandboxd/toml.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "lib/buf.h"
#include "lib/utf8.h"

struct parser {
	const char *p, *end;
	unsigned line;
	unsigned depth;
	struct err *err;
	struct toml *root, *current;
};

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

static int fail(struct parser *ps, const char *problem)
{
	return err_set(ps->err, ERR_INVALID, "INVALID_CONFIG", EINVAL, "line %u: %s", ps->line, problem);
}

static int no_memory(struct parser *ps)
{
	return err_sys(ps->err, "INVALID_CONFIG", ENOMEM, "line %u", ps->line);
}

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

static struct toml *value_new(struct parser *ps, enum toml_type type)
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

struct toml *toml_get(const struct toml *table, const char *key)
{
	return get(table, key, strlen(key));
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

/* ---- characters --------------------------------------------------------------- */

static bool at(const struct parser *ps, char c)
{
	return ps->p < ps->end && *ps->p == c;
}

static bool at_text(const struct parser *ps, const char *text)
{
	size_t n = strlen(text);
	return (size_t)(ps->end - ps->p) >= n && memcmp(ps->p, text, n) == 0;
}

static bool accept(struct parser *ps, char c)
{
	if (!at(ps, c))
		return false;
	ps->p++;
	return true;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static int hex_value(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static bool is_control(char c)
{
	return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f;
}

static void skip_blanks(struct parser *ps)
{
	while (at(ps, ' ') || at(ps, '\t'))
		ps->p++;
}

/* LF or CRLF. */
static bool accept_newline(struct parser *ps)
{
	if (at_text(ps, "\r\n"))
		ps->p++;
	if (!accept(ps, '\n'))
		return false;
	ps->line++;
	return true;
}

static int skip_comment(struct parser *ps)
{
	if (!accept(ps, '#'))
		return 0;
	while (ps->p < ps->end && *ps->p != '\n' && !at_text(ps, "\r\n")) {
		if (is_control(*ps->p))
			return fail(ps, "a comment holds a control character");
		ps->p++;
	}
	return 0;
}

/* Blanks, comments and line ends. */
static int skip_space(struct parser *ps)
{
	int r;
	do {
		skip_blanks(ps);
		r = skip_comment(ps);
	} while (r >= 0 && accept_newline(ps));
	return r;
}

/* ---- strings ------------------------------------------------------------------ */

static int put_code_point(struct parser *ps, struct buf *out, int digits)
{
	uint32_t c = 0;
	for (int i = 0; i < digits; i++) {
		int v = ps->p < ps->end ? hex_value(*ps->p) : -1;
		if (v < 0)
			return fail(ps, "an escape needs more hexadecimal digits");
		c = c << 4 | (uint32_t)v;
		ps->p++;
	}
	if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return fail(ps, "an escape names no Unicode scalar value");
	if (c < 0x80)
		return buf_putc(out, (char)c);
	if (c < 0x800)
		(void)buf_putc(out, (char)(0xc0 | c >> 6));
	else if (c < 0x10000)
		(void)buf_putc(out, (char)(0xe0 | c >> 12));
	else
		(void)buf_putc(out, (char)(0xf0 | c >> 18));
	if (c >= 0x10000)
		(void)buf_putc(out, (char)(0x80 | (c >> 12 & 0x3f)));
	if (c >= 0x800)
		(void)buf_putc(out, (char)(0x80 | (c >> 6 & 0x3f)));
	return buf_putc(out, (char)(0x80 | (c & 0x3f)));
}

/* A backslash that ends a line joins it with the next that is not empty. */
static bool skip_line_joint(struct parser *ps)
{
	const char *before = ps->p;
	skip_blanks(ps);
	if (!accept_newline(ps)) {
		ps->p = before;
		return false;
	}
	do
		skip_blanks(ps);
	while (accept_newline(ps));
	return true;
}

static int escape(struct parser *ps, struct buf *out, bool multi)
{
	static const char from[] = "btnfr\"\\", to[] = "\b\t\n\f\r\"\\";
	const char *known;
	if (multi && skip_line_joint(ps))
		return 0;
	if (ps->p == ps->end)
		return fail(ps, "the document ends inside a string");
	known = *ps->p ? strchr(from, *ps->p) : NULL;
	ps->p++;
	if (known)
		return buf_putc(out, to[known - from]);
	if (ps->p[-1] == 'u')
		return put_code_point(ps, out, 4);
	if (ps->p[-1] == 'U')
		return put_code_point(ps, out, 8);
	return fail(ps, "an unknown escape in a string");
}

/* At the closing run of a multi-line string: up to two quotes before it belong to the text. */
static bool close_multi(struct parser *ps, struct buf *out, char quote)
{
	int n = 0;
	while (n < 5 && ps->p + n < ps->end && ps->p[n] == quote)
		n++;
	if (n < 3)
		return false;
	ps->p += n;
	while (n-- > 3)
		(void)buf_putc(out, quote);
	return true;
}

static int string_body(struct parser *ps, struct buf *out, char quote, bool multi)
{
	if (multi)
		(void)accept_newline(ps);
	for (;;) {
		if (ps->p == ps->end)
			return fail(ps, "the document ends inside a string");
		if (multi && close_multi(ps, out, quote))
			return 0;
		if (!multi && accept(ps, quote))
			return 0;
		if (quote == '"' && accept(ps, '\\')) {
			int r = escape(ps, out, multi);
			if (r < 0)
				return r;
			continue;
		}
		if (multi && accept_newline(ps)) {
			(void)buf_putc(out, '\n');
			continue;
		}
		if (is_control(*ps->p))
			return fail(ps, *ps->p == '\n' || *ps->p == '\r'
						? "a line ends inside a string"
						: "a string holds a control character");
		(void)buf_putc(out, *ps->p++);
	}
}

/* The opening quote is next. *ret_text is NUL-terminated beyond its n bytes. */
static int parse_quoted(struct parser *ps, bool allow_multi, char **ret_text, size_t *ret_n)
{
	struct buf out = BUF_INIT(TOML_SIZE_MAX);
	char quote = *ps->p;
	bool multi = at_text(ps, quote == '"' ? "\"\"\"" : "'''");
	int r;
	if (multi && !allow_multi)
		return fail(ps, "a key cannot be a multi-line string");
	ps->p += multi ? 3 : 1;
	r = string_body(ps, &out, quote, multi);
	if (r >= 0 && (!buf_cstr(&out) || out.failed))
		r = no_memory(ps);
	if (r < 0) {
		buf_done(&out);
		return r;
	}
	*ret_text = (char *)out.data;
	*ret_n = out.len;
	return 0;
}

/* ---- keys --------------------------------------------------------------------- */

static bool is_bare(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
}

static int parse_simple_key(struct parser *ps, struct key *k)
{
	const char *start = ps->p;
	if (at(ps, '"') || at(ps, '\''))
		return parse_quoted(ps, false, &k->text, &k->n);
	while (ps->p < ps->end && is_bare(*ps->p))
		ps->p++;
	k->n = (size_t)(ps->p - start);
	if (k->n == 0)
		return fail(ps, "a key is missing");
	k->text = strndup(start, k->n);
	return k->text ? 0 : no_memory(ps);
}

static int parse_key(struct parser *ps, struct path *path)
{
	do {
		if (path->n == KEY_PARTS_MAX)
			return fail(ps, "a key has too many parts");
		skip_blanks(ps);
		int r = parse_simple_key(ps, &path->parts[path->n]);
		if (r < 0)
			return r;
		path->n++;
		skip_blanks(ps);
	} while (accept(ps, '.'));
	return 0;
}

static int duplicate(struct parser *ps, const struct toml *there, const struct key *k)
{
	return err_set(ps->err, ERR_INVALID, "INVALID_CONFIG", EINVAL,
		       "line %u: '%.*s' is already given on line %u", ps->line, (int)MIN(k->n, (size_t)100),
		       k->text, there->line);
}

static struct toml *table_new(struct parser *ps, struct toml *parent, struct key *k, int origin)
{
	struct toml *t = value_new(ps, TOML_TABLE);
	if (!t)
		return NULL;
	t->origin = origin;
	take_key(t, k);
	add_child(parent, t);
	return t;
}

/* ---- numbers ------------------------------------------------------------------ */

/* Digits of a base with single underscores between them, copied without those. 0 when there are none. */
static size_t digits(const char **p, const char *end, int base, char *out, size_t max)
{
	size_t n = 0;
	const char *s = *p;
	while (s < end) {
		int v = hex_value(*s);
		if (*s == '_' && n > 0 && s[-1] != '_' && s + 1 < end && hex_value(s[1]) >= 0 &&
		    hex_value(s[1]) < base) {
			s++;
			continue;
		}
		if (v < 0 || v >= base || n + 1 >= max)
			break;
		out[n++] = *s++;
	}
	out[n] = '\0';
	*p = s;
	return n;
}

static int parse_based(struct parser *ps, const char *token, const char *end, struct toml *t)
{
	char text[80], *rest;
	int base = token[1] == 'x' ? 16 : token[1] == 'o' ? 8 : 2;
	const char *p = token + 2;
	if (digits(&p, end, base, text, sizeof(text)) == 0 || p != end)
		return fail(ps, "not a number");
	errno = 0;
	t->integer = strtoll(text, &rest, base);
	if (errno || *rest)
		return fail(ps, "an integer is over 64 bits");
	t->type = TOML_INTEGER;
	return 0;
}

static int parse_decimal(struct parser *ps, const char *token, const char *end, struct toml *t)
{
	char text[512], *out = text;
	const char *p = token;
	bool real = false;
	size_t n;
	if (*p == '+' || *p == '-')
		*out++ = *p++;
	if (end - p == 3 && (memcmp(p, "inf", 3) == 0 || memcmp(p, "nan", 3) == 0)) {
		t->type = TOML_FLOAT;
		t->number = (*p == 'i' ? INFINITY : NAN) * (*token == '-' ? -1 : 1);
		return 0;
	}
	const char *whole = p;
	n = digits(&p, end, 10, out, 200);
	if (n == 0 || (n > 1 && *whole == '0'))
		return fail(ps, "not a value");
	out += n;
	if (p < end && *p == '.') {
		real = true;
		*out++ = *p++;
		n = digits(&p, end, 10, out, 200);
		if (n == 0)
			return fail(ps, "a float needs digits after its point");
		out += n;
	}
	if (p < end && (*p == 'e' || *p == 'E')) {
		real = true;
		*out++ = *p++;
		if (p < end && (*p == '+' || *p == '-'))
			*out++ = *p++;
		n = digits(&p, end, 10, out, 50);
		if (n == 0)
			return fail(ps, "a float needs digits in its exponent");
	}
	if (p != end)
		return fail(ps, "not a value");
	errno = 0;
	t->type = real ? TOML_FLOAT : TOML_INTEGER;
	if (real)
		t->number = strtod(text, NULL);
	else
		t->integer = strtoll(text, NULL, 10);
	return !real && errno ? fail(ps, "an integer is over 64 bits") : 0;
}

/* ---- dates and times ------------------------------------------------------------ */

static int two_digits(const char *p, const char *end)
{
	return end - p >= 2 && is_digit(p[0]) && is_digit(p[1]) ? (p[0] - '0') * 10 + (p[1] - '0') : -1;
}

/* "2026-01-31": its length, or 0. */
static size_t date_length(const char *p, const char *end)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	if (end - p < 10 || p[4] != '-' || p[7] != '-')
		return 0;
	int century = two_digits(p, end), rest = two_digits(p + 2, end);
	int month = two_digits(p + 5, end), day = two_digits(p + 8, end), year = century * 100 + rest;
	if (century < 0 || rest < 0 || month < 1 || month > 12 || day < 1)
		return 0;
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return day <= days[month - 1] + (month == 2 && leap) ? 10 : 0;
}

/* "12:34:56" with an optional fraction: its length, or 0. */
static size_t time_length(const char *p, const char *end)
{
	if (end - p < 8 || p[2] != ':' || p[5] != ':')
		return 0;
	int hour = two_digits(p, end), minute = two_digits(p + 3, end), second = two_digits(p + 6, end);
	if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60)
		return 0;
	size_t n = 8;
	if (p + n < end && p[n] == '.') {
		size_t fraction = 0;
		while (p + n + 1 + fraction < end && is_digit(p[n + 1 + fraction]))
			fraction++;
		if (fraction == 0)
			return 0;
		n += 1 + fraction;
	}
	return n;
}

/* "Z" or "+01:00": its length, or 0. */
static size_t offset_length(const char *p, const char *end)
{
	if (p < end && (*p == 'Z' || *p == 'z'))
		return 1;
	if (end - p < 6 || (*p != '+' && *p != '-') || p[3] != ':')
		return 0;
	int hour = two_digits(p + 1, end), minute = two_digits(p + 4, end);
	return hour >= 0 && hour <= 23 && minute >= 0 && minute <= 59 ? 6 : 0;
}

/* Keeps it as written, in upper case and with 'T' in the middle. */
static int take_moment(struct parser *ps, struct toml *t, enum toml_type type, const char *p, size_t n)
{
	t->type = type;
	t->string = strndup(p, n);
	t->string_n = n;
	if (!t->string)
		return no_memory(ps);
	for (char *c = t->string; *c; c++)
		*c = (char)(*c == ' ' || *c == 't' ? 'T' : *c == 'z' ? 'Z' : *c);
	ps->p = p + n;
	return 0;
}

/* 1: it was one; 0: it looks like none. */
static int parse_moment(struct parser *ps, struct toml *t)
{
	const char *p = ps->p;
	bool looks = ps->end - p >= 5 && is_digit(p[0]) && is_digit(p[1]) && is_digit(p[2]) &&
		     is_digit(p[3]) && p[4] == '-';
	size_t n, m;
	int r;
	if (ps->end - p >= 3 && two_digits(p, ps->end) >= 0 && p[2] == ':') {
		n = time_length(p, ps->end);
		r = n ? take_moment(ps, t, TOML_TIME, p, n) : fail(ps, "not a time of day");
		return r < 0 ? r : 1;
	}
	if (!looks)
		return 0;
	n = date_length(p, ps->end);
	if (n == 0)
		return fail(ps, "not a date");
	bool more = p + n < ps->end &&
		    (p[n] == 'T' || p[n] == 't' || (p[n] == ' ' && two_digits(p + n + 1, ps->end) >= 0));
	if (!more) {
		r = take_moment(ps, t, TOML_DATE, p, n);
		return r < 0 ? r : 1;
	}
	m = time_length(p + n + 1, ps->end);
	if (m == 0)
		return fail(ps, "not a time of day");
	n += 1 + m;
	m = offset_length(p + n, ps->end);
	r = take_moment(ps, t, m ? TOML_DATETIME : TOML_DATETIME_LOCAL, p, n + m);
	return r < 0 ? r : 1;
}

/* ---- values ------------------------------------------------------------------- */

static int parse_value(struct parser *ps, struct toml *t);
static int parse_pair(struct parser *ps, struct toml *table);

static int parse_array(struct parser *ps, struct toml *t)
{
	t->type = TOML_ARRAY;
	t->origin = TOML_CLOSED;
	for (;;) {
		int r = skip_space(ps);
		if (r < 0 || accept(ps, ']'))
			return r;
		struct toml *element = value_new(ps, TOML_BOOL);
		if (!element)
			return no_memory(ps);
		add_child(t, element);
		r = parse_value(ps, element);
		if (r >= 0)
			r = skip_space(ps);
		if (r < 0)
			return r;
		if (!accept(ps, ',') && !at(ps, ']'))
			return fail(ps, "an array needs ',' or ']' here");
	}
}

/* What a value closes can not be added to from outside of it. */
static void close_tables(struct toml *t)
{
	t->origin = TOML_CLOSED;
	for (struct toml *c = t->first; c; c = c->next)
		close_tables(c);
}

static int parse_inline_table(struct parser *ps, struct toml *t)
{
	t->type = TOML_TABLE;
	skip_blanks(ps);
	if (accept(ps, '}')) {
		close_tables(t);
		return 0;
	}
	for (;;) {
		int r = parse_pair(ps, t);
		if (r < 0)
			return r;
		skip_blanks(ps);
		if (accept(ps, '}')) {
			close_tables(t);
			return 0;
		}
		if (!accept(ps, ','))
			return fail(ps, "an inline table needs ',' or '}' here, on the same line");
	}
}

static int parse_scalar(struct parser *ps, struct toml *t)
{
	const char *token = ps->p, *end = token;
	int r = parse_moment(ps, t);
	if (r != 0)
		return r < 0 ? r : 0;
	while (end < ps->end && (is_bare(*end) || *end == '+' || *end == '.'))
		end++;
	ps->p = end;
	if (end - token == 4 && memcmp(token, "true", 4) == 0) {
		t->type = TOML_BOOL;
		t->boolean = true;
	} else if (end - token == 5 && memcmp(token, "false", 5) == 0) {
		t->type = TOML_BOOL;
	} else if (end - token > 2 && *token == '0' && strchr("xob", token[1])) {
		return parse_based(ps, token, end, t);
	} else if (end > token) {
		return parse_decimal(ps, token, end, t);
	} else {
		return fail(ps, "a value is missing");
	}
	return 0;
}

static int parse_value(struct parser *ps, struct toml *t)
{
	int r;
	if (at(ps, '"') || at(ps, '\'')) {
		t->type = TOML_STRING;
		return parse_quoted(ps, true, &t->string, &t->string_n);
	}
	if (!at(ps, '[') && !at(ps, '{'))
		return parse_scalar(ps, t);
	if (++ps->depth > TOML_DEPTH_MAX)
		return fail(ps, "values are nested too deeply");
	r = *ps->p++ == '[' ? parse_array(ps, t) : parse_inline_table(ps, t);
	ps->depth--;
	return r;
}

/* ---- key = value ---------------------------------------------------------------- */

/* The table that a dotted key's value goes into: made on the way, or added to where that is allowed. */
static int descend(struct parser *ps, struct toml *table, struct path *path, struct toml **ret)
{
	for (size_t i = 0; i + 1 < path->n; i++) {
		struct key *k = &path->parts[i];
		struct toml *next = get(table, k->text, k->n);
		if (next && (next->type != TOML_TABLE || next->origin != TOML_DOTTED))
			return duplicate(ps, next, k);
		if (!next)
			next = table_new(ps, table, k, TOML_DOTTED);
		if (!next)
			return no_memory(ps);
		table = next;
	}
	*ret = table;
	return 0;
}

static int parse_pair_value(struct parser *ps, struct toml *table, struct path *path)
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
		return no_memory(ps);
	take_key(t, k);
	add_child(table, t);
	return parse_value(ps, t);
}

static int parse_pair(struct parser *ps, struct toml *table)
{
	_cleanup_(path_done) struct path path = {0};
	int r = parse_key(ps, &path);
	if (r < 0)
		return r;
	if (!accept(ps, '='))
		return fail(ps, "a key needs '=' and a value");
	skip_blanks(ps);
	return parse_pair_value(ps, table, &path);
}

/* ---- [table] and [[array of tables]] ----------------------------------------------- */

/* One step of a header's path: a table, or the last element of an array of tables. */
static int enter(struct parser *ps, struct toml *table, struct key *k, struct toml **ret)
{
	struct toml *next = get(table, k->text, k->n);
	if (next && next->type == TOML_ARRAY && next->origin != TOML_CLOSED)
		next = next->last;
	else if (next && (next->type != TOML_TABLE || next->origin == TOML_CLOSED))
		return duplicate(ps, next, k);
	if (!next)
		next = table_new(ps, table, k, TOML_IMPLICIT);
	*ret = next;
	return next ? 0 : no_memory(ps);
}

static int open_table(struct parser *ps, struct toml *parent, struct key *k)
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
	return t ? 0 : no_memory(ps);
}

static int open_element(struct parser *ps, struct toml *parent, struct key *k)
{
	struct toml *array = get(parent, k->text, k->n), *t;
	if (array && (array->type != TOML_ARRAY || array->origin == TOML_CLOSED))
		return duplicate(ps, array, k);
	if (!array) {
		array = table_new(ps, parent, k, TOML_HEADER);
		if (!array)
			return no_memory(ps);
		array->type = TOML_ARRAY;
	}
	t = value_new(ps, TOML_TABLE);
	if (!t)
		return no_memory(ps);
	t->origin = TOML_HEADER;
	add_child(array, t);
	ps->current = t;
	return 0;
}

static int parse_header(struct parser *ps)
{
	_cleanup_(path_done) struct path path = {0};
	struct toml *table = ps->root;
	bool element = at_text(ps, "[[");
	ps->p += element ? 2 : 1;
	int r = parse_key(ps, &path);
	if (r < 0)
		return r;
	if (!at_text(ps, element ? "]]" : "]"))
		return fail(ps, element ? "']]' is missing" : "']' is missing");
	ps->p += element ? 2 : 1;
	for (size_t i = 0; i + 1 < path.n && r >= 0; i++)
		r = enter(ps, table, &path.parts[i], &table);
	if (r < 0)
		return r;
	return element ? open_element(ps, table, &path.parts[path.n - 1])
		       : open_table(ps, table, &path.parts[path.n - 1]);
}

/* ---- the document ------------------------------------------------------------------ */

static int parse_line(struct parser *ps)
{
	int r = 0;
	skip_blanks(ps);
	if (at(ps, '['))
		r = parse_header(ps);
	else if (ps->p < ps->end && *ps->p != '\n' && *ps->p != '\r' && *ps->p != '#')
		r = parse_pair(ps, ps->current);
	if (r < 0)
		return r;
	skip_blanks(ps);
	r = skip_comment(ps);
	if (r >= 0 && ps->p < ps->end && !accept_newline(ps))
		r = fail(ps, "the line goes on where it should end");
	return r;
}

int toml_parse(const char *text, size_t n, struct toml **ret, struct err *err)
{
	struct parser ps = {.p = text, .end = text + n, .line = 1, .err = err};
	int r = 0;
	if (n > TOML_SIZE_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_CONFIG", E2BIG, "longer than %u bytes",
			       TOML_SIZE_MAX);
	if (!utf8_valid(text, n))
		return fail(&ps, "the document is not UTF-8");
	if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
		ps.p += 3;
	ps.root = ps.current = value_new(&ps, TOML_TABLE);
	if (!ps.root)
		return no_memory(&ps);
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
