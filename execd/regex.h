/*
 * regex.h - regular expressions in time linear in the text, whatever the pattern.
 *
 * A finite automaton, made lazily and with bounded memory: no backtracking, so
 * no pattern from a client can hang a worker. What needs backtracking
 * (backreferences, look-around) is refused by name. (PCRE2 would add 550 KB to
 * an agent of 2 MB and need limits; the C library's regexec() is slow and
 * takes "(a*)*\1" literally.)
 *
 * Syntax, on bytes, lines being searched one by one:
 *
 *   c  .  [a-z]  [^a-z]  [[:alpha:]]  \d \D \w \W \s \S  \t \r \f \v \xHH  \. (any punctuation)
 *   (r)  (?:r)  r|s  r*  r+  r?  r{n} r{n,} r{n,m}    a lazy "?" after a repetition changes nothing here
 *   ^  $  \b  \B
 *
 * "." and negated sets take a whole UTF-8 character; a set may hold ASCII only.
 * Case is ignored for ASCII letters. The leftmost match is found, and the longest there.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"

#define REGEX_PATTERN_MAX 4096
#define REGEX_NODES_MAX	  5000 /* of the automaton: what repetitions multiply to */
#define REGEX_REPEAT_MAX  1000

struct regex; /* compiled; shared by threads */
/* -EINVAL with *err that says what is wrong, and where. */
int regex_new(const char *pattern, bool ignore_case, struct regex **ret, struct err *err);
void regex_free(struct regex *re);

struct regex_run; /* one a thread: the states made so far */
int regex_run_new(const struct regex *re, struct regex_run **ret);
void regex_run_free(struct regex_run *run);
/*
 * The first match in text, which has no newline. 1 and where it is, 0 when
 * there is none, -ENOMEM.
 */
int regex_search(struct regex_run *run, const char *text, size_t n, size_t *ret_begin, size_t *ret_end);
/* The offset of a line in which there may be a match, or n: a fast look over many lines. -ENOMEM. */
ssize_t regex_scan(struct regex_run *run, const char *text, size_t n);
