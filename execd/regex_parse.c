/*
 * regex_parse.c - from a pattern to a tree, by recursive descent.
 *
 * Owns nothing: trees lie in the parser's array and name each other by index.
 * A character beyond ASCII is a sequence of bytes here, so that the automata
 * know bytes only.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "execd/regex.h"
#include "execd/regex_priv.h"
#include "lib/util.h"

#define DEPTH_MAX 100

int regex_fail(const struct regex_parser *p, const char *what)
{
	return err_set(p->err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "pattern: %s, at offset %zu",
		       what, p->at);
}

/* The index of a new tree, or -errno. */
static int make(struct regex_parser *p, struct regex_tree t)
{
	if (p->trees_n == p->cap) {
		int cap = p->cap ? p->cap * 2 : 64;
		struct regex_tree *more = reallocarray(p->trees, (size_t)cap, sizeof(*more));

		if (!more)
			return err_sys(p->err, "RUNTIME_ERROR", ENOMEM, "pattern");
		p->trees = more;
		p->cap = cap;
	}
	p->trees[p->trees_n] = t;
	return p->trees_n++;
}

static int make_pair(struct regex_parser *p, enum kind kind, int a, int b)
{
	if (a < 0 || b < 0)
		return a < 0 ? a : b;
	return make(p, (struct regex_tree){.kind = kind, .a = a, .b = b});
}

static int make_range(struct regex_parser *p, unsigned from, unsigned to)
{
	struct regex_tree t = {.kind = T_SET};

	set_add(&t.set, from, to);
	return make(p, t);
}

/* A lead byte and n bytes that continue it. */
static int make_sequence(struct regex_parser *p, unsigned from, unsigned to, int n)
{
	int t = make_range(p, from, to);

	while (n-- > 0)
		t = make_pair(p, T_CAT, t, make_range(p, 0x80, 0xbf));
	return t;
}

/* One of the ASCII characters of `ascii`, or any character beyond. */
static int make_character(struct regex_parser *p, const struct regex_set *ascii)
{
	int t = make(p, (struct regex_tree){.kind = T_SET, .set = *ascii});

	t = make_pair(p, T_ALT, t, make_sequence(p, 0xc2, 0xdf, 1));
	t = make_pair(p, T_ALT, t, make_sequence(p, 0xe0, 0xef, 2));
	return make_pair(p, T_ALT, t, make_sequence(p, 0xf0, 0xf4, 3));
}

static void fold(const struct regex_parser *p, struct regex_set *s)
{
	for (unsigned c = 'a'; p->ignore_case && c <= 'z'; c++) {
		if (set_has(s, c))
			set_add(s, c - 32, c - 32);
		else if (set_has(s, c - 32))
			set_add(s, c, c);
	}
}

static void negate_ascii(struct regex_set *s)
{
	for (size_t i = 0; i < 16; i++)
		s->bits[i] = (uint8_t)~s->bits[i];
	memset(s->bits + 16, 0, 16);
}

/* Adds what \d, \w or \s stands for. False for another letter. */
static bool add_class(struct regex_set *s, char letter)
{
	switch (letter) {
	case 'd':
		set_add(s, '0', '9');
		return true;
	case 'w':
		for (unsigned c = 0; c < 128; c++)
			if (is_word(c))
				set_add(s, c, c);
		return true;
	case 's':
		set_add(s, '\t', '\r');
		set_add(s, ' ', ' ');
		return true;
	default:
		return false;
	}
}

/* What follows a backslash, when it is one character; -EINVAL otherwise. */
static int escape(struct regex_parser *p)
{
	static const char letters[] = "trfvae", values[] = "\t\r\f\v\a\033";
	char c = p->text[p->at], hex[3] = {0};
	const char *letter = strchr(letters, c);

	if (p->at >= p->n)
		return regex_fail(p, "it ends with a backslash");
	p->at++;
	if (c && letter)
		return values[letter - letters];
	if (c == 'x' && p->at + 2 <= p->n && isxdigit((uint8_t)p->text[p->at]) &&
	    isxdigit((uint8_t)p->text[p->at + 1])) {
		memcpy(hex, p->text + p->at, 2);
		p->at += 2;
		return (int)strtol(hex, NULL, 16);
	}
	if (isdigit((uint8_t)c))
		return regex_fail(p, "backreferences are not supported");
	if (isalpha((uint8_t)c))
		return regex_fail(p, "an escape that is not known");
	return (uint8_t)c;
}

static bool named_class(struct regex_parser *p, struct regex_set *s)
{
	static const struct {
		const char *name;
		int (*is)(int c);
	} classes[] = {
		{"alpha", isalpha}, {"digit", isdigit}, {"alnum", isalnum}, {"upper", isupper},
		{"lower", islower}, {"space", isspace}, {"blank", isblank}, {"punct", ispunct},
		{"print", isprint}, {"graph", isgraph}, {"cntrl", iscntrl}, {"xdigit", isxdigit},
	};

	for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
		size_t n = strlen(classes[i].name);

		if (p->n - p->at < n + 4 || strncmp(p->text + p->at + 2, classes[i].name, n) != 0 ||
		    strncmp(p->text + p->at + 2 + n, ":]", 2) != 0)
			continue;
		for (int c = 0; c < 128; c++)
			if (classes[i].is(c))
				set_add(s, (unsigned)c, (unsigned)c);
		p->at += n + 4;
		return true;
	}
	return false;
}

/* One end of a range; 256 when it was a whole class. */
static int set_item(struct regex_parser *p, struct regex_set *s)
{
	char c = p->text[p->at];

	if (c == '[' && p->at + 1 < p->n && p->text[p->at + 1] == ':')
		return named_class(p, s) ? 256 : regex_fail(p, "a class that is not known");
	if ((uint8_t)c >= 0x80)
		return regex_fail(p, "a set may hold ASCII characters only; write (ä|ö)");
	p->at++;
	if (c != '\\')
		return c;
	if (p->at < p->n && add_class(s, p->text[p->at])) {
		p->at++;
		return 256;
	}
	return escape(p);
}

static int parse_set(struct regex_parser *p)
{
	struct regex_tree t = {.kind = T_SET};
	bool negated = p->at < p->n && p->text[p->at] == '^';
	size_t first;

	p->at += negated;
	first = p->at;
	while (p->at < p->n && (p->text[p->at] != ']' || p->at == first)) {
		int from = set_item(p, &t.set), to = from;

		if (from < 0)
			return from;
		if (from == 256)
			continue;
		if (p->at + 1 < p->n && p->text[p->at] == '-' && p->text[p->at + 1] != ']') {
			p->at++;
			to = set_item(p, &t.set);
			if (to < 0)
				return to;
			if (to == 256 || to < from)
				return regex_fail(p, "a range that is none");
		}
		set_add(&t.set, (unsigned)from, (unsigned)to);
	}
	if (p->at >= p->n)
		return regex_fail(p, "a [ is not closed");
	p->at++;
	fold(p, &t.set);
	if (!negated)
		return make(p, t);
	negate_ascii(&t.set);
	return make_character(p, &t.set);
}

static int parse_group(struct regex_parser *p)
{
	int t;

	if (p->at < p->n && p->text[p->at] == '?') {
		if (p->at + 1 >= p->n || p->text[p->at + 1] != ':')
			return regex_fail(p, "look-around and other (?...) are not supported");
		p->at += 2;
	}
	if (++p->depth > DEPTH_MAX)
		return regex_fail(p, "groups are nested too deeply");
	t = regex_parse(p);
	p->depth--;
	if (t < 0)
		return t;
	if (p->at >= p->n)
		return regex_fail(p, "a ( is not closed");
	p->at++;
	return t;
}

static int parse_escape(struct regex_parser *p)
{
	struct regex_tree t = {.kind = T_SET};
	char c = p->at < p->n ? p->text[p->at] : '\0';
	int byte;

	if (c == 'b' || c == 'B') {
		p->at++;
		return make(p, (struct regex_tree){.kind = T_ASSERT, .min = c == 'b' ? A_WORD : A_NOT_WORD});
	}
	if (c && add_class(&t.set, c)) {
		p->at++;
		return make(p, t);
	}
	if (c && strchr("DWS", c)) {
		p->at++;
		(void)add_class(&t.set, (char)(c | 32));
		negate_ascii(&t.set);
		return make_character(p, &t.set);
	}
	byte = escape(p);
	if (byte < 0)
		return byte;
	set_add(&t.set, (unsigned)byte, (unsigned)byte);
	fold(p, &t.set);
	return make(p, t);
}

/* Also a character of several bytes is one thing, which may be repeated. */
static int parse_literal(struct regex_parser *p)
{
	struct regex_tree t = {.kind = T_SET};
	uint8_t lead = (uint8_t)p->text[p->at++];
	int whole;

	set_add(&t.set, lead, lead);
	fold(p, &t.set);
	whole = make(p, t);
	while (lead >= 0xc0 && p->at < p->n && ((uint8_t)p->text[p->at] & 0xc0) == 0x80) {
		uint8_t next = (uint8_t)p->text[p->at++];

		whole = make_pair(p, T_CAT, whole, make_range(p, next, next));
	}
	return whole;
}

static int parse_atom(struct regex_parser *p)
{
	struct regex_set any = {0};

	switch (p->text[p->at]) {
	case '(':
		p->at++;
		return parse_group(p);
	case '[':
		p->at++;
		return parse_set(p);
	case '\\':
		p->at++;
		return parse_escape(p);
	case '.':
		p->at++;
		set_add(&any, 0, 127);
		return make_character(p, &any);
	case '^':
	case '$':
		return make(p, (struct regex_tree){.kind = T_ASSERT,
						   .min = p->text[p->at++] == '^' ? A_BEGIN : A_END});
	case '*':
	case '+':
	case '?':
		return regex_fail(p, "a repetition of nothing");
	default:
		return parse_literal(p);
	}
}

static bool parse_number(struct regex_parser *p, int *ret)
{
	size_t first = p->at;
	int v = 0;

	while (p->at < p->n && isdigit((uint8_t)p->text[p->at]) && v <= REGEX_REPEAT_MAX)
		v = v * 10 + (p->text[p->at++] - '0');
	*ret = v;
	return p->at > first;
}

/* 1: {n}, {n,} or {n,m} was read; 0: it is just a brace. */
static int parse_bounds(struct regex_parser *p, int *min, int *max)
{
	size_t first = p->at++;

	if (!parse_number(p, min)) {
		p->at = first;
		return 0;
	}
	*max = *min;
	if (p->at < p->n && p->text[p->at] == ',') {
		p->at++;
		if (!parse_number(p, max))
			*max = -1;
	}
	if (p->at >= p->n || p->text[p->at] != '}') {
		p->at = first;
		return 0;
	}
	p->at++;
	if (*min > REGEX_REPEAT_MAX || *max > REGEX_REPEAT_MAX || (*max >= 0 && *max < *min))
		return regex_fail(p, "a repetition that is over 1000 or backwards");
	return 1;
}

static int parse_repeated(struct regex_parser *p)
{
	int t = parse_atom(p);

	while (t >= 0 && p->at < p->n) {
		int min = 0, max = -1, r = 1;

		switch (p->text[p->at]) {
		case '*':
			p->at++;
			break;
		case '+':
			p->at++;
			min = 1;
			break;
		case '?':
			p->at++;
			max = 1;
			break;
		case '{':
			r = parse_bounds(p, &min, &max);
			break;
		default:
			return t;
		}
		if (r <= 0) /* a brace that is none is an atom of its own */
			return r < 0 ? r : make_pair(p, T_CAT, t, parse_literal(p));
		if (p->at < p->n && p->text[p->at] == '?')
			p->at++;
		t = make(p, (struct regex_tree){.kind = T_REPEAT, .a = t, .min = min, .max = max});
	}
	return t;
}

static int parse_sequence(struct regex_parser *p)
{
	int t = make(p, (struct regex_tree){.kind = T_EMPTY});

	while (t >= 0 && p->at < p->n && p->text[p->at] != '|' && p->text[p->at] != ')')
		t = make_pair(p, T_CAT, t, parse_repeated(p));
	return t;
}

int regex_parse(struct regex_parser *p)
{
	int t = parse_sequence(p);

	while (t >= 0 && p->at < p->n && p->text[p->at] == '|') {
		p->at++;
		t = make_pair(p, T_ALT, t, parse_sequence(p));
	}
	return t;
}
