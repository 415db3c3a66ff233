/*
 * regex_run.c - searching: the states of an automaton, made as the text needs them.
 *
 * A state is a set of nodes and what came before (the line's beginning, a word
 * character). What an assertion says depends on the next byte, too, so nodes
 * are followed when that is known: a transition tells the next state and
 * whether a match ended before the byte. Leftmost: the reverse automaton is
 * run over the whole line from its end; the last place where it accepts is
 * where the leftmost match begins. All three runs are linear.
 *
 * Owns the states of one regex_run, which one thread uses.
 */
#include <stdlib.h>
#include <string.h>

#include "execd/regex.h"
#include "execd/regex_priv.h"

#define STATES_MAX  512 /* of one automaton; over it they are forgotten and made anew */
#define STATE_BYTES (2U << 20)
#define TABLE_SIZE  1024
#define END	    256 /* the symbol for the end of the line */
#define SYMBOLS	    257

enum { BEFORE_BEGIN = 1, BEFORE_WORD = 2 }; /* what came before */

struct state {
	int32_t next[SYMBOLS]; /* -1: not yet known; else index << 1 | a match ended before the symbol */
	uint32_t hash;
	uint16_t before;
	int n;
	int nodes[]; /* sorted */
};

struct machine {
	const struct regex_automaton *automaton;
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

static bool machine_init(struct machine *m, const struct regex_automaton *a, bool anywhere)
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
	const struct regex_node *nodes = m->automaton->nodes;
	int top = 0, n = 0;

	m->stamp++;
	*matched = false;
	for (int i = 0; i < s->n; i++)
		m->stack[top++] = s->nodes[i];
	if (m->anywhere)
		m->stack[top++] = m->automaton->start;
	while (top > 0) {
		int at = m->stack[--top];
		const struct regex_node *node = &nodes[at];

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
			if (symbol != END && set_has(&node->set, symbol) &&
			    m->mark_next[node->out] != m->stamp) {
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
 * set_has. */
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
