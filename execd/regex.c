/*
 * regex.c - compiling: a lazily made automaton.
 *
 *   pattern -> tree -> two automata of nodes (forward, reverse) -> states, made as the text needs them
 *
 * regex_parse.c makes the tree, this file the automata, regex_run.c the
 * states. A regex is never changed after regex_new(); a regex_run belongs to
 * one thread.
 */
#include "execd/regex.h"

#include <stdlib.h>
#include <string.h>

#include "execd/regex_priv.h"

#define STEPS_MAX 200000 /* of building: an empty group may be repeated without making nodes */

struct builder {
	const struct regex_tree *trees;
	struct regex_automaton *to;
	bool reverse;
	unsigned steps;
};

/* The index of a new node, -1 without room. */
static int put(struct regex_automaton *a, struct regex_node node)
{
	if (a->n == REGEX_NODES_MAX)
		return -1;
	if (a->n == a->cap) {
		int cap = a->cap ? a->cap * 2 : 64;
		struct regex_node *more = reallocarray(a->nodes, (size_t)cap, sizeof(*more));

		if (!more)
			return -1;
		a->nodes = more;
		a->cap = cap;
	}
	a->nodes[a->n] = node;
	return a->n++;
}

static int build(struct builder *b, int tree, int next);

static int build_repeat(struct builder *b, const struct regex_tree *t, int next)
{
	int at = next;

	if (t->max < 0) {
		int body;

		at = put(b->to, (struct regex_node){.op = N_SPLIT, .other = next});
		body = at < 0 ? -1 : build(b, t->a, at);
		if (body < 0)
			return -1;
		b->to->nodes[at].out = body;
	}
	for (int i = t->min; i < t->max && at >= 0; i++) {
		int body = build(b, t->a, at);

		at = body < 0 ? -1
			      : put(b->to, (struct regex_node){.op = N_SPLIT, .out = body, .other = next});
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
	const struct regex_tree *t = &b->trees[tree];
	int first, second;

	if (next < 0 || ++b->steps > STEPS_MAX)
		return -1;
	switch (t->kind) {
	case T_EMPTY:
		return next;
	case T_SET:
		return put(b->to, (struct regex_node){.op = N_SET, .out = next, .set = t->set});
	case T_CAT:
		return b->reverse ? build(b, t->b, build(b, t->a, next))
				  : build(b, t->a, build(b, t->b, next));
	case T_ALT:
		first = build(b, t->a, next);
		second = build(b, t->b, next);
		if (first < 0 || second < 0)
			return -1;
		return put(b->to, (struct regex_node){.op = N_SPLIT, .out = first, .other = second});
	case T_REPEAT:
		return build_repeat(b, t, next);
	case T_ASSERT:
		return put(b->to, (struct regex_node){.op = N_ASSERT,
						      .assertion = b->reverse ? reversed[t->min]
									      : (enum assertion)t->min,
						      .out = next});
	}
	return -1;
}

static bool automaton_build(struct regex_automaton *a, const struct regex_tree *trees, int root, bool reverse)
{
	struct builder b = {.trees = trees, .to = a, .reverse = reverse};

	a->start = build(&b, root, put(a, (struct regex_node){.op = N_MATCH}));
	return a->start >= 0;
}

int regex_new(const char *pattern, bool ignore_case, struct regex **ret, struct err *err)
{
	struct regex_parser p = {
		.text = pattern, .n = strlen(pattern), .ignore_case = ignore_case, .err = err};
	struct regex *re;
	int root;

	if (p.n > REGEX_PATTERN_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "pattern: it is over %d bytes", REGEX_PATTERN_MAX);
	root = regex_parse(&p);
	if (root >= 0 && p.at < p.n)
		root = regex_fail(&p, "a ) without its (");
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
