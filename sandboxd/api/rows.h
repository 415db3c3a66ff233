/*
 * rows.h - what the lists and rows of the resources have in common.
 */
#pragma once

#include "proto/http.h"
#include "proto/json.h"

#define PAGE_SIZE     20
#define PAGE_SIZE_MAX 200
#define PAGE_MAX      1000000
#define ROWS_MAX      (16u << 20) /* bytes: a page of 200 sandboxes with the longest entrypoints is less */

/* ---- rows ---- */

/* full: with the image, as in get and list; without, as in the answer to create. */
struct record;
void write_sandbox(struct jw *w, const struct record *row, bool full);
void write_time(struct jw *w, const char *key, uint64_t ms);
/* "status": {state, reason, message, lastTransitionAt} */
void write_status(struct jw *w, const char *state, const char *reason, const char *message, uint64_t at_ms);

/* ---- lists ---- */

struct page {
	uint32_t number, size;
};
/* page and pageSize of the query. */
int page_query(struct http_req *req, struct page *ret, struct err *err);
static inline uint64_t page_offset(const struct page *p)
{
	return (uint64_t)(p->number - 1) * p->size;
}
void page_begin(struct jw *w);
/* The end of what page_begin() began, as the answer. */
int page_reply(struct http_req *req, struct jw *w, struct buf *b, const struct page *p, uint64_t total,
	       struct err *err);

/* A query parameter from 1 to max; absent: *ret stays. */
int query_number(struct http_req *req, const char *name, uint32_t max, uint32_t *ret, struct err *err);
/* Adds the bit of each state that the query names; parse: 0 and *ret, or -EINVAL. */
int query_states(struct http_req *req, const char *name, int (*parse)(const char *word, unsigned *ret),
		 unsigned *states, struct err *err);

/* 200 with what was written; 500 when it did not fit. */
int reply_rows(struct http_req *req, struct buf *b, struct err *err);
