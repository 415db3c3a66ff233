/*
 * toml_priv.h - what the files of the parser share: toml.c (the tree, tables, the document),
 * toml_text.c (characters, comments, strings), toml_scalar.c (numbers, dates, times).
 */
#pragma once

#include "lib/err.h"
#include "sandboxd/toml.h"

struct toml_parser {
	const char *p, *end;
	unsigned line;
	unsigned depth;
	struct err *err;
	struct toml *root, *current;
};

int toml_fail(struct toml_parser *ps, const char *problem);
int toml_no_memory(struct toml_parser *ps);

/* ---- toml_text.c ---------------------------------------------------------- */

static inline bool toml_at(const struct toml_parser *ps, char c)
{
	return ps->p < ps->end && *ps->p == c;
}

bool toml_at_text(const struct toml_parser *ps, const char *text);
bool toml_accept(struct toml_parser *ps, char c);
bool toml_accept_newline(struct toml_parser *ps); /* LF or CRLF */
void toml_skip_blanks(struct toml_parser *ps);
int toml_skip_comment(struct toml_parser *ps);
/* Blanks, comments and line ends. */
int toml_skip_space(struct toml_parser *ps);

static inline bool toml_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static inline bool toml_is_bare(char c)
{
	return toml_is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
}

/* -1: it is none. */
/* The opening quote is next. *ret_text is NUL-terminated beyond its n bytes. */
int toml_quoted(struct toml_parser *ps, bool allow_multi, char **ret_text, size_t *ret_n);

/* ---- toml_scalar.c --------------------------------------------------------- */

/* A boolean, a number, a date or a time: type and value of t. */
int toml_scalar(struct toml_parser *ps, struct toml *t);
