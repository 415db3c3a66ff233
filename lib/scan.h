/*
 * scan.h - numbers and words out of the kernel's text files, and the like.
 *
 * A cursor that fails once stays failed: what did not fit shows at the end, in
 * scan_ok(). (sscanf(3) brings 85 KB of floating point into a static program.)
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct scan {
	const char *p; /* a C string; NULL: something did not fit */
};

#define SCAN(text) ((struct scan){.p = (text)})

static inline bool scan_ok(const struct scan *s)
{
	return s->p != NULL;
}

/* What this digit is worth; -1: none of this base. */
int scan_digit(char c, unsigned base);
/* Blanks, then digits without a sign: what they are, up to max. base: 10 or 16. 0 when it fails. */
uint64_t scan_number(struct scan *s, unsigned base, uint64_t max);
/* Just n digits (16 at most), nothing before them. */
uint64_t scan_digits(struct scan *s, unsigned base, unsigned n);
/* That text, here. */
void scan_text(struct scan *s, const char *text);
/* n words with the blanks before them. */
void scan_skip(struct scan *s, unsigned n);
/* The end of the string. */
void scan_end(struct scan *s);
