/*
 * regex_priv.h - what parsing, compiling and searching share: sets of bytes, trees, automata.
 */
#pragma once

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

struct regex_set {
	uint8_t bits[32];
};

enum kind { T_EMPTY, T_SET, T_CAT, T_ALT, T_REPEAT, T_ASSERT };
enum assertion { A_BEGIN, A_END, A_WORD, A_NOT_WORD };

struct regex_tree {
	enum kind kind;
	int a, b;     /* children */
	int min, max; /* T_REPEAT; max -1: no end. T_ASSERT: min */
	struct regex_set set;
};

enum op { N_SET, N_SPLIT, N_ASSERT, N_MATCH };

struct regex_node {
	enum op op;
	enum assertion assertion;
	int out, other;
	struct regex_set set;
};

struct regex_automaton {
	struct regex_node *nodes;
	int n, cap, start;
};

struct regex {
	struct regex_automaton forward, reverse;
};

static inline bool set_has(const struct regex_set *s, unsigned c)
{
	return s->bits[c >> 3] >> (c & 7) & 1;
}

static inline void set_add(struct regex_set *s, unsigned from, unsigned to)
{
	for (unsigned c = from; c <= to; c++)
		s->bits[c >> 3] |= (uint8_t)(1U << (c & 7));
}

static inline bool is_word(unsigned c)
{
	return c < 128 && (isalnum((int)c) || c == '_');
}

/* text, n, ignore_case and err are given; trees is the caller's to free. */
struct regex_parser {
	const char *text;
	size_t at, n;
	bool ignore_case;
	struct regex_tree *trees;
	int trees_n, cap, depth;
	struct err *err;
};

/* The tree of p->text up to its end or a ")" without its "(", or -errno with *err. */
int regex_parse(struct regex_parser *p);
/* -EINVAL with *err that says what is wrong, and where. */
int regex_fail(const struct regex_parser *p, const char *what);
