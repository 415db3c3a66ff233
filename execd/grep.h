/*
 * grep.h - searching in the contents of files, several at once.
 *
 * Everything below a directory, or one file. Links are not followed; binary
 * files (a NUL in the first 8 KiB), files over a size and what cannot be read
 * are passed over and counted. Results are lines of JSON: of one file in their
 * order, of several in no order.
 *
 *   {"type":"match","path","line","column","length","text", "text_start"?, "before"?, "after"?}
 *   {"type":"end","matches","files","files_matched","skipped_binary","skipped_large","skipped_unreadable","truncated"}
 *
 * One result a line of text, for the leftmost match in it. line and column
 * count from 1, column and length in bytes. A text over GREP_TEXT_MAX is cut;
 * text_start, where it begins in its line, is there then.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/buf.h"
#include "lib/err.h"

#define GREP_LANES	      4
#define GREP_TEXT_MAX	      1024 /* bytes of a line that are told */
#define GREP_CONTEXT_MAX      50   /* lines before and after */
#define GREP_RESULTS_MAX      1000000
#define GREP_FILE_BYTES_MAX   (64U << 20)
#define GREP_FILE_BYTES_USUAL (16U << 20)
#define GREP_GLOBS_MAX	      64 /* of each kind */

struct grep_spec {
	const char *path; /* canonical */
	const char *pattern;
	bool literal, ignore_case, binary; /* binary: search in binary files, too */
	json_t *include, *exclude; /* arrays of glob.h patterns, by name or by path; a directory excluded is
				      not entered */
	uint64_t max_results, context, max_file_bytes;
};

struct grep;
/* Loop. Everything is copied. */
int grep_new(const struct grep_spec *spec, struct grep **ret, struct err *err);
void grep_free(struct grep *g);
/* Worker; lanes below GREP_LANES run at once. 1: nothing is left for this lane; 0: there is more; -errno. */
int grep_next(struct grep *g, unsigned lane, struct buf *out, struct err *err);
/* After all lanes: the last line. */
void grep_finish(struct grep *g, struct buf *out);
void grep_cancel(struct grep *g);
