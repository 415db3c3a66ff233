/*
 * glob.h - file name patterns, compiled once, matched in linear time.
 *
 *   *       any run of characters but '/'
 *   ?       one character but '/'
 *   [a-z]   one of them; [!a-z] and [^a-z] one of the others, never '/'
 *   **      as a whole component: any number of components, also none
 *   {a,b}   either, may be nested
 *   \x      x itself
 *   !(p)    as a whole pattern: what p does not match
 *
 * A character is a code point; a byte that is not UTF-8 stands for itself.
 * Source of the set: the reference's util/glob (doublestar).
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"

#define GLOB_PATTERN_MAX      4096 /* bytes */
#define GLOB_ALTERNATIVES_MAX 256  /* patterns that the braces multiply to */
#define GLOB_STATES_MAX	      16384

struct glob;

/* -EINVAL with *err that says what is wrong with the pattern. */
int glob_new(const char *pattern, struct glob **ret, struct err *err);
void glob_free(struct glob *g);
/* True when the pattern has a '/': it is meant for paths, not for names alone. */
bool glob_has_slash(const struct glob *g);
/* The whole of name. One thread at a time. */
bool glob_match(struct glob *g, const char *name);
