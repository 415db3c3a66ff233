/*
 * regex.c - a lazily made automaton.
 *
 *   pattern -> tree -> two automata of nodes (forward, reverse) -> states, made as the text needs them
 *
 * A state is a set of nodes and what came before (the line's beginning, a word
 * character). What an assertion says depends on the next byte, too, so nodes
 * are followed when that is known: a transition tells the next state and
 * whether a match ended before the byte. Leftmost: the reverse automaton is
 * run over the whole line from its end; the last place where it accepts is
 * where the leftmost match begins. All three runs are linear.
 *
 * A regex is never changed after regex_new(); a regex_run belongs to one thread.
 */
#include "execd/regex.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util.h"

#define DEPTH_MAX   100
#define STEPS_MAX   200000 /* of building: an empty group may be repeated without making nodes */
#define STATES_MAX  512	   /* of one automaton; over it they are forgotten and made anew */
#define STATE_BYTES (2U << 20)
#define TABLE_SIZE  1024
#define END	    256 /* the symbol for the end of the line */
#define SYMBOLS	    257

struct set {
	uint8_t bits[32];
};

enum kind { T_EMPTY, T_SET, T_CAT, T_ALT, T_REPEAT, T_ASSERT };
enum assertion { A_BEGIN, A_END, A_WORD, A_NOT_WORD };

struct tree {
	enum kind kind;
	int a, b;     /* children */
	int min, max; /* T_REPEAT; max -1: no end. T_ASSERT: min */
	struct set set;
};

enum op { N_SET, N_SPLIT, N_ASSERT, N_MATCH };

struct node {
	enum op op;
	enum assertion assertion;
	int out, other;
	struct set set;
};

struct automaton {
	struct node *nodes;
	int n, cap, start;
};

struct regex {
	struct automaton forward, reverse;
};

static bool has(const struct set *s, unsigned c)
{
	return s->bits[c >> 3] >> (c & 7) & 1;
}

static void add(struct set *s, unsigned from, unsigned to)
{
	for (unsigned c = from; c <= to; c++)
		s->bits[c >> 3] |= (uint8_t)(1U << (c & 7));
}

static bool is_word(unsigned c)
{
	return c < 128 && (isalnum((int)c) || c == '_');
}

/* ---- parsing ------------------------------------------------------------------ */

struct parser {
	const char *text;
	size_t at, n;
	bool ignore_case;
	struct tree *trees;
	int trees_n, cap, depth;
	struct err *err;
};

static int fail(const struct parser *p, const char *what)
{
	return err_set(p->err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "pattern: %s, at offset %zu",
		       what, p->at);
}

/* The index of a new tree, or -errno. */
static int make(struct parser *p, struct tree t)
{
	if (p->trees_n == p->cap) {
		int cap = p->cap ? p->cap * 2 : 64;
		struct tree *more = reallocarray(p->trees, (size_t)cap, sizeof(*more));

		if (!more)
			return err_sys(p->err, "RUNTIME_ERROR", ENOMEM, "pattern");
		p->trees = more;
		p->cap = cap;
	}
	p->trees[p->trees_n] = t;
	return p->trees_n++;
}

static int make_pair(struct parser *p, enum kind kind, int a, int b)
{
	if (a < 0 || b < 0)
		return a < 0 ? a : b;
	return make(p, (struct tree){.kind = kind, .a = a, .b = b});
}

static int make_range(struct parser *p, unsigned from, unsigned to)
{
	struct tree t = {.kind = T_SET};

	add(&t.set, from, to);
	return make(p, t);
}

/* A lead byte and n bytes that continue it. */
static int make_sequence(struct parser *p, unsigned from, unsigned to, int n)
{
	int t = make_range(p, from, to);

	while (n-- > 0)
		t = make_pair(p, T_CAT, t, make_range(p, 0x80, 0xbf));
	return t;
}

/* One of the ASCII characters of `ascii`, or any character beyond. */
static int make_character(struct parser *p, const struct set *ascii)
{
	int t = make(p, (struct tree){.kind = T_SET, .set = *ascii});

	t = make_pair(p, T_ALT, t, make_sequence(p, 0xc2, 0xdf, 1));
	t = make_pair(p, T_ALT, t, make_sequence(p, 0xe0, 0xef, 2));
	return make_pair(p, T_ALT, t, make_sequence(p, 0xf0, 0xf4, 3));
}

static void fold(const struct parser *p, struct set *s)
{
	for (unsigned c = 'a'; p->ignore_case && c <= 'z'; c++) {
		if (has(s, c))
			add(s, c - 32, c - 32);
		else if (has(s, c - 32))
			add(s, c, c);
	}
}

static void negate_ascii(struct set *s)
{
	for (size_t i = 0; i < 16; i++)
		s->bits[i] = (uint8_t)~s->bits[i];
	memset(s->bits + 16, 0, 16);
}

/* Adds what \d, \w or \s stands for. False for another letter. */
static bool add_class(struct set *s, char letter)
{
	switch (letter) {
	case 'd':
		add(s, '0', '9');
		return true;
	case 'w':
		for (unsigned c = 0; c < 128; c++)
			if (is_word(c))
				add(s, c, c);
		return true;
	case 's':
		add(s, '\t', '\r');
		add(s, ' ', ' ');
		return true;
	default:
		return false;
	}
}

/* What follows a backslash, when it is one character; -EINVAL otherwise. */
static int escape(struct parser *p)
{
	static const char letters[] = "trfvae", values[] = "\t\r\f\v\a\033";
	char c = p->text[p->at], hex[3] = {0};
	const char *letter = strchr(letters, c);

	if (p->at >= p->n)
		return fail(p, "it ends with a backslash");
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
		return fail(p, "backreferences are not supported");
	if (isalpha((uint8_t)c))
		return fail(p, "an escape that is not known");
	return (uint8_t)c;
}

static bool named_class(struct parser *p, struct set *s)
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
				add(s, (unsigned)c, (unsigned)c);
		p->at += n + 4;
		return true;
	}
	return false;
}

/* One end of a range; 256 when it was a whole class. */
static int set_item(struct parser *p, struct set *s)
{
	char c = p->text[p->at];

	if (c == '[' && p->at + 1 < p->n && p->text[p->at + 1] == ':')
		return named_class(p, s) ? 256 : fail(p, "a class that is not known");
	if ((uint8_t)c >= 0x80)
		return fail(p, "a set may hold ASCII characters only; write (ä|ö)");
	p->at++;
	if (c != '\\')
		return c;
	if (p->at < p->n && add_class(s, p->text[p->at])) {
		p->at++;
		return 256;
	}
	return escape(p);
}

static int parse_set(struct parser *p)
{
	struct tree t = {.kind = T_SET};
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
				return fail(p, "a range that is none");
		}
		add(&t.set, (unsigned)from, (unsigned)to);
	}
	if (p->at >= p->n)
		return fail(p, "a [ is not closed");
	p->at++;
	fold(p, &t.set);
	if (!negated)
		return make(p, t);
	negate_ascii(&t.set);
	return make_character(p, &t.set);
}

static int parse_alternatives(struct parser *p);

static int parse_group(struct parser *p)
{
	int t;

	if (p->at < p->n && p->text[p->at] == '?') {
		if (p->at + 1 >= p->n || p->text[p->at + 1] != ':')
			return fail(p, "look-around and other (?...) are not supported");
		p->at += 2;
	}
	if (++p->depth > DEPTH_MAX)
		return fail(p, "groups are nested too deeply");
	t = parse_alternatives(p);
	p->depth--;
	if (t < 0)
		return t;
	if (p->at >= p->n)
		return fail(p, "a ( is not closed");
	p->at++;
	return t;
}

static int parse_escape(struct parser *p)
{
	struct tree t = {.kind = T_SET};
	char c = p->at < p->n ? p->text[p->at] : '\0';
	int byte;

	if (c == 'b' || c == 'B') {
		p->at++;
		return make(p, (struct tree){.kind = T_ASSERT, .min = c == 'b' ? A_WORD : A_NOT_WORD});
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
	add(&t.set, (unsigned)byte, (unsigned)byte);
	fold(p, &t.set);
	return make(p, t);
}

/* Also a character of several bytes is one thing, which may be repeated. */
static int parse_literal(struct parser *p)
{
	struct tree t = {.kind = T_SET};
	uint8_t lead = (uint8_t)p->text[p->at++];
	int whole;

	add(&t.set, lead, lead);
	fold(p, &t.set);
	whole = make(p, t);
	while (lead >= 0xc0 && p->at < p->n && ((uint8_t)p->text[p->at] & 0xc0) == 0x80) {
		uint8_t next = (uint8_t)p->text[p->at++];

		whole = make_pair(p, T_CAT, whole, make_range(p, next, next));
	}
	return whole;
}

static int parse_atom(struct parser *p)
{
	struct set any = {0};

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
		add(&any, 0, 127);
		return make_character(p, &any);
	case '^':
	case '$':
		return make(
			p, (struct tree){.kind = T_ASSERT, .min = p->text[p->at++] == '^' ? A_BEGIN : A_END});
	case '*':
	case '+':
	case '?':
		return fail(p, "a repetition of nothing");
	default:
		return parse_literal(p);
	}
}

static bool parse_number(struct parser *p, int *ret)
{
	size_t first = p->at;
	int v = 0;

	while (p->at < p->n && isdigit((uint8_t)p->text[p->at]) && v <= REGEX_REPEAT_MAX)
		v = v * 10 + (p->text[p->at++] - '0');
	*ret = v;
	return p->at > first;
}

/* 1: {n}, {n,} or {n,m} was read; 0: it is just a brace. */
static int parse_bounds(struct parser *p, int *min, int *max)
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
		return fail(p, "a repetition that is over 1000 or backwards");
	return 1;
}

static int parse_repeated(struct parser *p)
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
		t = make(p, (struct tree){.kind = T_REPEAT, .a = t, .min = min, .max = max});
	}
	return t;
}

static int parse_sequence(struct parser *p)
{
	int t = make(p, (struct tree){.kind = T_EMPTY});

	while (t >= 0 && p->at < p->n && p->text[p->at] != '|' && p->text[p->at] != ')')
		t = make_pair(p, T_CAT, t, parse_repeated(p));
	return t;
}

static int parse_alternatives(struct parser *p)
{
	int t = parse_sequence(p);

	while (t >= 0 && p->at < p->n && p->text[p->at] == '|') {
		p->at++;
		t = make_pair(p, T_ALT, t, parse_sequence(p));
	}
	return t;
}

/* ---- building ------------------------------------------------------------------- */

struct builder {
	const struct tree *trees;
	struct automaton *to;
	bool reverse;
	unsigned steps;
};

/* The index of a new node, -1 without room. */
static int put(struct automaton *a, struct node node)
{
	if (a->n == REGEX_NODES_MAX)
		return -1;
	if (a->n == a->cap) {
		int cap = a->cap ? a->cap * 2 : 64;
		struct node *more = reallocarray(a->nodes, (size_t)cap, sizeof(*more));

		if (!more)
			return -1;
		a->nodes = more;
		a->cap = cap;
	}
	a->nodes[a->n] = node;
	return a->n++;
}

static int build(struct builder *b, int tree, int next);

static int build_repeat(struct builder *b, const struct tree *t, int next)
{
	int at = next;

	if (t->max < 0) {
		int body;

		at = put(b->to, (struct node){.op = N_SPLIT, .other = next});
		body = at < 0 ? -1 : build(b, t->a, at);
		if (body < 0)
			return -1;
		b->to->nodes[at].out = body;
	}
	for (int i = t->min; i < t->max && at >= 0; i++) {
		int body = build(b, t->a, at);

		at = body < 0 ? -1 : put(b->to, (struct node){.op = N_SPLIT, .out = body, .other = next});
	}
	for (int i = 0; i < t->min && at >= 0; i++)
		at = build(b, t->a, at);
	return at;
}

/* The node at which tree begins when `next` follows it; -1 when it is too large. */
static int build(struct builder *b, int tree, int next)
{
	static const enum assertion reversed[] = {
		[A_BEGIN] = A_END, [A_END] = A_BEGIN, [A_WORD] = A_WORD, [A_NOT_WORD] = A_NOT_WORD};
	const struct tree *t = &b->trees[tree];
	int first, second;

	if (next < 0 || ++b->steps > STEPS_MAX)
		return -1;
	switch (t->kind) {
	case T_EMPTY:
		return next;
	case T_SET:
		return put(b->to, (struct node){.op = N_SET, .out = next, .set = t->set});
	case T_CAT:
		return b->reverse ? build(b, t->b, build(b, t->a, next))
				  : build(b, t->a, build(b, t->b, next));
	case T_ALT:
		first = build(b, t->a, next);
		second = build(b, t->b, next);
		if (first < 0 || second < 0)
			return -1;
		return put(b->to, (struct node){.op = N_SPLIT, .out = first, .other = second});
	case T_REPEAT:
		return build_repeat(b, t, next);
	case T_ASSERT:
		return put(b->to,
			   (struct node){.op = N_ASSERT,
					 .assertion = b->reverse ? reversed[t->min] : (enum assertion)t->min,
					 .out = next});
	}
	return -1;
}

static bool automaton_build(struct automaton *a, const struct tree *trees, int root, bool reverse)
{
	struct builder b = {.trees = trees, .to = a, .reverse = reverse};

	a->start = build(&b, root, put(a, (struct node){.op = N_MATCH}));
	return a->start >= 0;
}

int regex_new(const char *pattern, bool ignore_case, struct regex **ret, struct err *err)
{
	struct parser p = {.text = pattern, .n = strlen(pattern), .ignore_case = ignore_case, .err = err};
	struct regex *re;
	int root;

	if (p.n > REGEX_PATTERN_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "pattern: it is over %d bytes", REGEX_PATTERN_MAX);
	root = parse_alternatives(&p);
	if (root >= 0 && p.at < p.n)
		root = fail(&p, "a ) without its (");
	re = root >= 0 ? calloc(1, sizeof(*re)) : NULL;
	if (root >= 0 && !re)
		root = err_sys(err, "RUNTIME_ERROR", ENOMEM, "pattern");
	if (re && (!automaton_build(&re->forward, p.trees, root, false) ||
		   !automaton_build(&re->reverse, p.trees, root, true)))
		root = err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "pattern: it is too large, its repetitions multiply to more than %d places",
			       REGEX_NODES_MAX);
	free(p.trees);
	if (root < 0) {
		regex_free(re);
		return root;
	}
	*ret = re;
	return 0;
}

void regex_free(struct regex *re)
{
	if (!re)
		return;
	free(re->forward.nodes);
	free(re->reverse.nodes);
	free(re);
}

/* ---- states ------------------------------------------------------------------------ */

enum { BEFORE_BEGIN = 1, BEFORE_WORD = 2 }; /* what came before */

struct state {
	int32_t next[SYMBOLS]; /* -1: not yet known; else index << 1 | a match ended before the symbol */
	uint32_t hash;
	uint16_t before;
	int n;
	int nodes[]; /* sorted */
};

struct machine {
	const struct automaton *automaton;
	bool anywhere; /* a match may begin at every place */
	struct state *states[STATES_MAX];
	int n;
	size_t bytes;
	int16_t table[TABLE_SIZE]; /* index + 1 by hash */
	unsigned generation;	   /* how often the states have been forgotten */
	/* work space */
	uint32_t *mark, *mark_next, stamp;
	int *stack, *set;
};

struct regex_run {
	struct machine scan, end, begin;
};

static void forget(struct machine *m)
{
	for (int i = 0; i < m->n; i++)
		free(m->states[i]);
	m->n = 0;
	m->bytes = 0;
	m->generation++;
	memset(m->table, 0, sizeof(m->table));
}

static void machine_done(struct machine *m)
{
	forget(m);
	free(m->mark);
	free(m->mark_next);
	free(m->stack);
	free(m->set);
}

static bool machine_init(struct machine *m, const struct automaton *a, bool anywhere)
{
	size_t n = (size_t)a->n;

	m->automaton = a;
	m->anywhere = anywhere;
	m->mark = calloc(n, sizeof(*m->mark));
	m->mark_next = calloc(n, sizeof(*m->mark_next));
	m->stack = calloc(2 * n + 2, sizeof(*m->stack));
	m->set = calloc(n, sizeof(*m->set));
	return m->mark && m->mark_next && m->stack && m->set;
}

int regex_run_new(const struct regex *re, struct regex_run **ret)
{
	struct regex_run *run = calloc(1, sizeof(*run));

	if (!run)
		return -ENOMEM;
	if (!machine_init(&run->scan, &re->forward, true) || !machine_init(&run->end, &re->forward, false) ||
	    !machine_init(&run->begin, &re->reverse, true)) {
		regex_run_free(run);
		return -ENOMEM;
	}
	*ret = run;
	return 0;
}

void regex_run_free(struct regex_run *run)
{
	if (!run)
		return;
	machine_done(&run->scan);
	machine_done(&run->end);
	machine_done(&run->begin);
	free(run);
}

static int compare_ints(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* The state of the n nodes in m->set, made when there is none. -ENOMEM. Never forgets others. */
static int state_of(struct machine *m, int n, uint16_t before)
{
	uint32_t hash = 2166136261U ^ before, slot;
	struct state *s;
	size_t size = sizeof(*s) + (size_t)n * sizeof(int);

	qsort(m->set, (size_t)n, sizeof(int), compare_ints);
	for (int i = 0; i < n; i++)
		hash = (hash ^ (uint32_t)m->set[i]) * 16777619U;
	for (slot = hash % TABLE_SIZE; m->table[slot]; slot = (slot + 1) % TABLE_SIZE) {
		s = m->states[m->table[slot] - 1];
		if (s->hash == hash && s->before == before && s->n == n &&
		    memcmp(s->nodes, m->set, (size_t)n * sizeof(int)) == 0)
			return m->table[slot] - 1;
	}
	s = malloc(size);
	if (!s)
		return -ENOMEM;
	memset(s->next, 0xff, sizeof(s->next));
	s->hash = hash;
	s->before = before;
	s->n = n;
	memcpy(s->nodes, m->set, (size_t)n * sizeof(int));
	m->states[m->n] = s;
	m->table[slot] = (int16_t)(m->n + 1);
	m->bytes += size;
	return m->n++;
}

static bool holds(enum assertion a, uint16_t before, unsigned symbol)
{
	bool word = ((before & BEFORE_WORD) != 0) != (symbol < 128 && is_word(symbol));

	switch (a) {
	case A_BEGIN:
		return before & BEFORE_BEGIN;
	case A_END:
		return symbol == END;
	case A_WORD:
		return word;
	case A_NOT_WORD:
		return !word;
	}
	return false;
}

/* Follows the nodes of s with symbol next: m->set gets where it leads, *matched whether a match is complete.
 */
static int follow(struct machine *m, const struct state *s, unsigned symbol, bool *matched)
{
	const struct node *nodes = m->automaton->nodes;
	int top = 0, n = 0;

	m->stamp++;
	*matched = false;
	for (int i = 0; i < s->n; i++)
		m->stack[top++] = s->nodes[i];
	if (m->anywhere)
		m->stack[top++] = m->automaton->start;
	while (top > 0) {
		int at = m->stack[--top];
		const struct node *node = &nodes[at];

		if (m->mark[at] == m->stamp)
			continue;
		m->mark[at] = m->stamp;
		switch (node->op) {
		case N_MATCH:
			*matched = true;
			break;
		case N_SPLIT:
			m->stack[top++] = node->other;
			m->stack[top++] = node->out;
			break;
		case N_ASSERT:
			if (holds(node->assertion, s->before, symbol))
				m->stack[top++] = node->out;
			break;
		case N_SET:
			if (symbol != END && has(&node->set, symbol) && m->mark_next[node->out] != m->stamp) {
				m->mark_next[node->out] = m->stamp;
				m->set[n++] = node->out;
			}
		}
	}
	return n;
}

/* Where symbol leads from state: index << 1 | matched. When there are too many states all but it are made
 * anew. */
static int32_t step(struct machine *m, int state, unsigned symbol)
{
	struct state *s = m->states[state];
	bool matched;
	int n, to;

	if (s->next[symbol] >= 0)
		return s->next[symbol];
	n = follow(m, s, symbol, &matched);
	if (m->n >= STATES_MAX - 1 || m->bytes > STATE_BYTES) {
		forget(m);
		to = state_of(m, n, symbol < 128 && is_word(symbol) ? BEFORE_WORD : 0);
		return to < 0 ? to : (int32_t)((uint32_t)to << 1 | matched);
	}
	to = state_of(m, n, symbol < 128 && is_word(symbol) ? BEFORE_WORD : 0);
	if (to < 0)
		return to;
	s->next[symbol] = (int32_t)((uint32_t)to << 1 | matched);
	return s->next[symbol];
}

static int begin_state(struct machine *m, uint16_t before)
{
	if (m->n >= STATES_MAX - 1)
		forget(m);
	m->set[0] = m->automaton->start;
	return state_of(m, m->anywhere ? 0 : 1, before);
}

/* The end of a line: a match may end with it, and the next one begins. Kept under the newline, which no line
 * has. */
static int32_t step_line(struct machine *m, int state)
{
	int32_t to = step(m, state, END);
	int begin;

	if (to < 0)
		return to;
	begin = begin_state(m, BEFORE_BEGIN);
	if (begin < 0)
		return begin;
	return (int32_t)((uint32_t)begin << 1 | (to & 1));
}

ssize_t regex_scan(struct regex_run *run, const char *text, size_t n)
{
	struct machine *m = &run->scan;
	int32_t at = begin_state(m, BEFORE_BEGIN);
	size_t i = 0;

	if (at < 0)
		return at;
	at <<= 1;
	for (; i < n && !(at & 1); i++) {
		struct state *s = m->states[at >> 1];
		unsigned c = (uint8_t)text[i];
		int32_t to = s->next[c];

		if (to < 0) {
			unsigned generation = m->generation;

			to = c == '\n' ? step_line(m, at >> 1) : step(m, at >> 1, c);
			if (to < 0)
				return to;
			if (generation == m->generation)
				s->next[c] = to;
		}
		at = to;
	}
	if (!(at & 1)) {
		at = step(m, at >> 1, END);
		if (at < 0)
			return at;
		if (!(at & 1))
			return (ssize_t)n;
	} else {
		i--; /* it ended before this byte, which may be the newline */
	}
	while (i > 0 && text[i - 1] != '\n')
		i--;
	return (ssize_t)i;
}

/* The leftmost place where a match begins, from the end of the line backwards. */
static int find_begin(struct machine *m, const char *text, size_t n, size_t *ret)
{
	int state = begin_state(m, BEFORE_BEGIN);
	bool found = false;

	for (size_t i = n + 1; i-- > 0 && state >= 0;) {
		int32_t to = step(m, state, i == 0 ? END : (uint8_t)text[i - 1]);

		if (to >= 0 && to & 1) {
			found = true;
			*ret = i;
		}
		state = to < 0 ? to : to >> 1;
	}
	return state < 0 ? state : found;
}

static int find_end(struct machine *m, const char *text, size_t n, size_t begin, size_t *ret)
{
	uint16_t before = begin == 0 ? BEFORE_BEGIN : is_word((uint8_t)text[begin - 1]) ? BEFORE_WORD : 0;
	int state = begin_state(m, before);

	*ret = begin;
	for (size_t i = begin; i <= n && state >= 0; i++) {
		int32_t to = step(m, state, i == n ? END : (uint8_t)text[i]);

		if (to >= 0 && to & 1)
			*ret = i;
		state = to < 0 ? to : to >> 1;
		if (state >= 0 && m->states[state]->n == 0)
			break;
	}
	return state < 0 ? state : 1;
}

int regex_search(struct regex_run *run, const char *text, size_t n, size_t *ret_begin, size_t *ret_end)
{
	int r = find_begin(&run->begin, text, n, ret_begin);

	return r <= 0 ? r : find_end(&run->end, text, n, *ret_begin, ret_end);
}
