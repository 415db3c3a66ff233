/*
 * toml.h - a TOML 1.0.0 reader (https://toml.io/en/v1.0.0) that remembers lines.
 *
 * The whole document becomes a tree of values; each knows the line it was
 * written on, so that whoever reads a configuration can say where it is wrong.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"

#define TOML_DEPTH_MAX 64	  /* of nested arrays and inline tables */
#define TOML_SIZE_MAX  (4U << 20) /* bytes of a document */

enum toml_type {
	TOML_TABLE,
	TOML_ARRAY,
	TOML_STRING,
	TOML_INTEGER,
	TOML_FLOAT,
	TOML_BOOL,
	TOML_DATETIME,	     /* with an offset */
	TOML_DATETIME_LOCAL, /* without */
	TOML_DATE,
	TOML_TIME,
};

struct toml {
	enum toml_type type;
	unsigned line;
	char *key; /* in a table; NULL in an array. May hold NUL: key_n bytes */
	size_t key_n;
	struct toml *first, *last, *next; /* children of a table or array; siblings */
	char *string;			  /* of a string; of dates and times: as written, with 'T' between */
	size_t string_n;
	int64_t integer;
	double number;
	bool boolean;
	/* How a table came to be, which decides what may still be added to it. */
	enum { TOML_IMPLICIT, TOML_HEADER, TOML_DOTTED, TOML_CLOSED } origin;
};

/* "a string", "a table", ... */
const char *toml_type_name(enum toml_type type);

/* -EINVAL with *err, which says line and problem. *ret is the root table. */
int toml_parse(const char *text, size_t n, struct toml **ret, struct err *err);
void toml_free(struct toml *t);
