/*
 * file_list.h - the JSON array of FileInfo that a listing or a search answers,
 * made piece by piece.
 */
#pragma once

#include "lib/buf.h"
#include "lib/err.h"

#define FILE_LIST_ENTRIES_MAX 1000000	   /* in one answer */
#define FILE_LIST_PIECE_SIZE  (128U << 10) /* a piece is complete with this many bytes */

struct file_list;

/*
 * Everything below the directory path (canonical), depth levels deep. A link as
 * path is refused.
 */
int file_list_new(const char *path, uint64_t depth, struct file_list **ret, struct err *err);
/*
 * What is no directory below path and matches pattern (glob.h), by its name or,
 * when the pattern has a slash, by its path below `path`. Links are told, not followed.
 */
int file_search_new(const char *path, const char *pattern, struct file_list **ret, struct err *err);
void file_list_free(struct file_list *l);

/*
 * Worker: appends the next piece to out. 1: that was the end of the array; 0:
 * there is more (out may be empty: it was a long way without a match); -errno.
 */
int file_list_next(struct file_list *l, struct buf *out, struct err *err);
/* Any thread: file_list_next() returns soon, with -ECANCELED. */
void file_list_cancel(struct file_list *l);
