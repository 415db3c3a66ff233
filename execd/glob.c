/*
 * glob.c - patterns as nondeterministic automata.
 *
 * The braces are multiplied out; each resulting pattern becomes a chain of
 * states, and all chains run side by side over the name. A match costs the
 * length of the name times the states alive, whatever the pattern: a hostile
 * one cannot make it explode.
 *
 * Source for the matching: K. Thompson, "Regular Expression Search Algorithm"
 * (1968), in the two-list form.
 */
#include "execd/glob.h"

#include <string.h>

#include "lib/buf.h"

enum op {
	OP_CHAR,      /* this code point */
	OP_ANY,	      /* ?: one but '/' */
	OP_CLASS,     /* [...] */
	OP_STAR,      /* *: stays on all but '/', or goes on without a character */
	OP_DIRS,      /* "**" and its '/': at the begin of a component; goes on without a character */
	OP_DIRS_IN,   /* the same inside a component, back to OP_DIRS at '/' */
	OP_REST,      /* "**" at the end: everything */
	OP_SLASH_ALL, /* "/" and "**" at the end: '/' and everything, or nothing at all */
	OP_MATCH,
};

struct range {
	uint32_t first, last;
};

struct state {
	enum op op;
	uint32_t c;		 /* OP_CHAR */
	size_t ranges, ranges_n; /* OP_CLASS: in glob->ranges */
	bool negated;
};

/* States that are alive, each once. */
struct set {
	uint32_t *ids;
	size_t n;
};

struct glob {
	struct buf states; /* struct state */
	struct buf ranges; /* struct range */
	struct buf starts; /* uint32_t: the first state of every alternative */
	struct set now, next;
	uint32_t *mark; /* round in which a state was added last */
	uint32_t round;
	bool has_slash, negated;
};

/* ---- characters ----------------------------------------------------------- */

/* Bytes that are no UTF-8 get values beyond Unicode, so that they equal only themselves. */
#define RAW_BYTE 0x110000U

static uint32_t decode(const char **p, const char *end)
{
	const uint8_t *s = (const uint8_t *)*p;
	size_t left = (size_t)(end - *p), n;
	uint32_t c;

	n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
	c = n == 1 ? s[0] : s[0] & (0x7fU >> n);
	for (size_t i = 1; i < n; i++) {
		if (i >= left || (s[i] & 0xc0) != 0x80) {
			n = 0;
			break;
		}
		c = c << 6 | (s[i] & 0x3f);
	}
	if (n == 0 || (n == 3 && c < 0x800) || (n == 4 && (c < 0x10000 || c > 0x10ffff))) {
		(*p)++;
		return RAW_BYTE + s[0];
	}
	*p += n;
	return c;
}

/* ---- braces ---------------------------------------------------------------- */

static int bad(struct err *err, const char *why)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "bad pattern: %s", why);
}

static int no_memory(struct err *err)
{
	return err_sys(err, "RUNTIME_ERROR", ENOMEM, "pattern");
}

/* The end of the [class] that begins at p, past its ']'; NULL when it has none. */
static const char *class_end(const char *p)
{
	p++;
	if (*p == '!' || *p == '^')
		p++;
	if (*p == ']')
		return NULL;
	for (; *p; p++) {
		if (*p == '\\' && p[1])
			p++;
		else if (*p == ']')
			return p + 1;
	}
	return NULL;
}

/* One step over a character of the pattern: escapes and classes count as one. NULL: it is broken. */
static const char *step(const char *p, struct err *err)
{
	if (*p == '\\') {
		if (!p[1]) {
			bad(err, "it ends in a backslash");
			return NULL;
		}
		return p + 2;
	}
	if (*p == '[') {
		const char *end = class_end(p);

		if (!end)
			bad(err, "a [ is not closed, or nothing is in it");
		return end;
	}
	return p + 1;
}

struct brace {
	const char *open, *close; /* of the first one; NULL: there is none */
};

static int find_brace(const char *p, struct brace *ret, struct err *err)
{
	unsigned depth = 0;

	*ret = (struct brace){0};
	while (*p) {
		if (*p == '{' && depth++ == 0)
			ret->open = p;
		if (*p == '}' && depth == 0)
			return bad(err, "a } without its {");
		if (*p == '}' && --depth == 0) {
			ret->close = p;
			return 1;
		}
		p = step(p, err);
		if (!p)
			return -EINVAL;
	}
	return depth ? bad(err, "a { is not closed") : 0;
}

/* Where the alternative that begins at p ends: at a comma of this level or at the closing brace. */
static const char *alternative_end(const char *p, const char *close)
{
	unsigned depth = 0;

	while (p < close && !(depth == 0 && *p == ',')) {
		depth += *p == '{';
		depth -= *p == '}';
		p = step(p, NULL);
	}
	return p;
}

static int compile(struct glob *g, const char *pattern, struct err *err);

/* Replaces the first brace by each of its alternatives in turn and goes on with the result. */
static int expand(struct glob *g, const char *pattern, struct err *err)
{
	struct brace brace;
	const char *p, *end;
	int r = find_brace(pattern, &brace, err);

	if (r < 0)
		return r;
	if (r == 0)
		return compile(g, pattern, err);
	for (p = brace.open + 1;; p = end + 1) {
		_cleanup_buf_ struct buf one = BUF_INIT(GLOB_PATTERN_MAX);

		end = alternative_end(p, brace.close);
		(void)buf_append(&one, pattern, (size_t)(brace.open - pattern));
		(void)buf_append(&one, p, (size_t)(end - p));
		(void)buf_puts(&one, brace.close + 1);
		if (one.failed || !buf_cstr(&one))
			return no_memory(err);
		r = expand(g, buf_cstr(&one), err);
		if (r < 0 || end == brace.close)
			return r;
	}
}

/* ---- compiling one alternative ------------------------------------------------ */

static int emit(struct glob *g, struct state s)
{
	return buf_append(&g->states, &s, sizeof(s));
}

static uint32_t class_char(const char **p, const char *end)
{
	if (**p == '\\')
		(*p)++;
	return decode(p, end);
}

/* p: at the '['; end: past the ']'. */
static int emit_class(struct glob *g, const char *p, const char *end)
{
	struct state s = {.op = OP_CLASS, .ranges = g->ranges.len / sizeof(struct range)};

	p++;
	if (*p == '!' || *p == '^') {
		s.negated = true;
		p++;
	}
	end--;
	while (p < end) {
		struct range range;

		range.first = range.last = class_char(&p, end);
		if (end - p >= 2 && *p == '-') {
			p++;
			range.last = class_char(&p, end);
		}
		if (buf_append(&g->ranges, &range, sizeof(range)) < 0)
			return -ENOMEM;
		s.ranges_n++;
	}
	return emit(g, s);
}

/* "**" as a whole component: with the '/' after it, or at the end of the pattern. */
static int emit_stars(struct glob *g, const char **p, bool component)
{
	const char *after = *p + strspn(*p, "*");
	bool doubled = after - *p == 2;

	*p = after;
	if (doubled && component && *after == '/') {
		(*p)++;
		return emit(g, (struct state){.op = OP_DIRS}) < 0 ? -ENOMEM
								  : emit(g, (struct state){.op = OP_DIRS_IN});
	}
	if (doubled && component && *after == '\0')
		return emit(g, (struct state){.op = OP_REST});
	return emit(g, (struct state){.op = OP_STAR});
}

static int compile_one(struct glob *g, const char *p)
{
	const char *end = p + strlen(p);
	bool component = true; /* p stands at the begin of one */
	int r = 0;

	while (*p && r >= 0) {
		if (*p == '*') {
			r = emit_stars(g, &p, component);
			component = p[-1] == '/';
			continue;
		}
		component = *p == '/';
		if (strcmp(p, "/**") == 0) {
			r = emit(g, (struct state){.op = OP_SLASH_ALL});
			if (r >= 0)
				r = emit(g, (struct state){.op = OP_REST});
			p = end;
		} else if (*p == '?') {
			r = emit(g, (struct state){.op = OP_ANY});
			p++;
		} else if (*p == '[') {
			const char *past = class_end(p);

			r = emit_class(g, p, past);
			p = past;
		} else {
			if (*p == '\\')
				p++;
			r = emit(g, (struct state){.op = OP_CHAR, .c = decode(&p, end)});
		}
	}
	return r < 0 ? r : emit(g, (struct state){.op = OP_MATCH});
}

static int compile(struct glob *g, const char *pattern, struct err *err)
{
	uint32_t start = (uint32_t)(g->states.len / sizeof(struct state));
	int r;

	if (g->starts.len / sizeof(start) >= GLOB_ALTERNATIVES_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "the braces of the pattern make more than %d alternatives",
			       GLOB_ALTERNATIVES_MAX);
	r = buf_append(&g->starts, &start, sizeof(start));
	if (r >= 0)
		r = compile_one(g, pattern);
	if (r == -ENOBUFS)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "the pattern is over %d states", GLOB_STATES_MAX);
	return r < 0 ? no_memory(err) : 0;
}

/* "!(p)" as a whole: *ret is p, or NULL when it is not that. */
static int negation(const char *pattern, char **ret)
{
	size_t n = strlen(pattern);

	*ret = NULL;
	if (n < 3 || pattern[0] != '!' || pattern[1] != '(' || pattern[n - 1] != ')')
		return 0;
	*ret = strndup(pattern + 2, n - 3);
	return *ret ? 1 : -ENOMEM;
}

int glob_new(const char *pattern, struct glob **ret, struct err *err)
{
	_cleanup_free_ char *inner = NULL;
	struct glob *g;
	size_t n;
	int r;

	if (strlen(pattern) > GLOB_PATTERN_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "the pattern is over %d bytes", GLOB_PATTERN_MAX);
	g = calloc(1, sizeof(*g));
	if (!g)
		return no_memory(err);
	g->states = BUF_INIT(GLOB_STATES_MAX * sizeof(struct state));
	g->ranges = BUF_INIT(GLOB_STATES_MAX * sizeof(struct range));
	g->starts = BUF_INIT(GLOB_ALTERNATIVES_MAX * sizeof(uint32_t));
	g->has_slash = strchr(pattern, '/') != NULL;
	r = negation(pattern, &inner);
	g->negated = r > 0;
	r = r < 0 ? no_memory(err) : expand(g, inner ? inner : pattern, err);
	if (r >= 0) {
		n = g->states.len / sizeof(struct state);
		g->now.ids = calloc(n, sizeof(uint32_t));
		g->next.ids = calloc(n, sizeof(uint32_t));
		g->mark = calloc(n, sizeof(uint32_t));
		if (!g->now.ids || !g->next.ids || !g->mark)
			r = no_memory(err);
	}
	if (r < 0) {
		glob_free(g);
		return r;
	}
	*ret = g;
	return 0;
}

void glob_free(struct glob *g)
{
	if (!g)
		return;
	buf_done(&g->states);
	buf_done(&g->ranges);
	buf_done(&g->starts);
	free(g->now.ids);
	free(g->next.ids);
	free(g->mark);
	free(g);
}

bool glob_has_slash(const struct glob *g)
{
	return g->has_slash;
}

/* ---- matching ------------------------------------------------------------------ */

static const struct state *state_of(const struct glob *g, uint32_t id)
{
	return (const struct state *)g->states.data + id;
}

/* Adds a state and all that can be reached from it without a character. */
static void add(struct glob *g, struct set *set, uint32_t id)
{
	for (;;) {
		if (g->mark[id] == g->round)
			return;
		g->mark[id] = g->round;
		set->ids[set->n++] = id;
		switch (state_of(g, id)->op) {
		case OP_STAR:
		case OP_REST:
			id++;
			break;
		case OP_DIRS:
		case OP_SLASH_ALL:
			id += 2; /* past OP_DIRS_IN, past OP_REST */
			break;
		default:
			return;
		}
	}
}

static bool in_class(const struct glob *g, const struct state *s, uint32_t c)
{
	const struct range *range = (const struct range *)g->ranges.data + s->ranges;

	for (size_t i = 0; i < s->ranges_n; i++)
		if (range[i].first <= c && c <= range[i].last)
			return true;
	return false;
}

/* Where the state id goes with character c: into g->next. */
static void advance(struct glob *g, uint32_t id, uint32_t c)
{
	const struct state *s = state_of(g, id);
	bool slash = c == '/';

	switch (s->op) {
	case OP_CHAR:
		if (c == s->c)
			add(g, &g->next, id + 1);
		break;
	case OP_ANY:
		if (!slash)
			add(g, &g->next, id + 1);
		break;
	case OP_CLASS:
		if (!slash && in_class(g, s, c) != s->negated)
			add(g, &g->next, id + 1);
		break;
	case OP_STAR:
		if (!slash)
			add(g, &g->next, id);
		break;
	case OP_DIRS:
		if (!slash)
			add(g, &g->next, id + 1);
		break;
	case OP_DIRS_IN:
		add(g, &g->next, slash ? id - 1 : id);
		break;
	case OP_REST:
		add(g, &g->next, id);
		break;
	case OP_SLASH_ALL:
		if (slash)
			add(g, &g->next, id + 1);
		break;
	case OP_MATCH:
		break;
	}
}

static void new_round(struct glob *g)
{
	if (++g->round == 0) {
		memset(g->mark, 0, g->states.len / sizeof(struct state) * sizeof(*g->mark));
		g->round = 1;
	}
}

bool glob_match(struct glob *g, const char *name)
{
	const uint32_t *starts = (const uint32_t *)g->starts.data;
	const char *end = name + strlen(name);

	g->now.n = 0;
	new_round(g);
	for (size_t i = 0; i < g->starts.len / sizeof(*starts); i++)
		add(g, &g->now, starts[i]);
	while (name < end && g->now.n > 0) {
		uint32_t c = decode(&name, end);
		struct set spare = g->now;

		g->next.n = 0;
		new_round(g);
		for (size_t i = 0; i < g->now.n; i++)
			advance(g, g->now.ids[i], c);
		g->now = g->next;
		g->next = spare;
	}
	for (size_t i = 0; i < g->now.n && name == end; i++)
		if (state_of(g, g->now.ids[i])->op == OP_MATCH)
			return !g->negated;
	return g->negated;
}
