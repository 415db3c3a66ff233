/*
 * fuzz.h - what fuzz targets share. A target is one fuzz_NAME.c with one function;
 * its corpus is corpus/NAME/. `make fuzz` runs it under libFuzzer, `make test`
 * replays the corpus (replay.c).
 *
 * A target aborts where a property does not hold; the sanitizers see the rest.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/buf.h"
#include "lib/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define FUZZ_OUT_MAX (16U << 20)

/* What must hold for every input. */
#define must(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			(void)fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);  \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

/* A message that is an end of a story: it names something and is text. */
static inline void must_be_told(const struct err *err)
{
	must(err->message[0] != '\0' && memchr(err->message, '\0', sizeof(err->message)));
}

/* n bytes in memory of their own, so that one byte too far is seen; with a NUL behind. Freed by the caller.
 */
static inline char *fuzz_copy(const uint8_t *data, size_t n)
{
	char *copy = malloc(n + 1);

	must(copy);
	if (n > 0)
		memcpy(copy, data, n);
	copy[n] = '\0';
	return copy;
}

/* The first byte of the input decides how the rest is cut: into pieces of 1 to 256 bytes, or not at all. */
static inline size_t fuzz_piece(uint8_t first, size_t left)
{
	size_t piece = first == 0 ? left : first;

	return piece < left ? piece : left;
}
