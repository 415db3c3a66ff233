/*
 * list.h - intrusive doubly linked list; a head is a node that links to itself.
 */
#pragma once

#include <stdbool.h>

#include "lib/util.h"

struct list {
	struct list *prev, *next;
};

static inline void list_init(struct list *l)
{
	l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* Links n before pos; with a head as pos that is the tail. */
static inline void list_add_before(struct list *pos, struct list *n)
{
	n->prev = pos->prev;
	n->next = pos;
	pos->prev->next = n;
	pos->prev = n;
}

static inline void list_add_tail(struct list *head, struct list *n)
{
	list_add_before(head, n);
}

/* Unlinks n and leaves it linked to itself, so that it may be removed twice. */
static inline void list_del(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}

#define list_entry(node, type, member) container_of(node, type, member)

/* The entry at hand may be removed in the body, no other one. */
#define list_foreach_safe(node, head)                                                                        \
	for (struct list *node = (head)->next, *_next_##node = node->next; node != (head);                   \
	     node = _next_##node, _next_##node = node->next)
