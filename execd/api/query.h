/*
 * query.h - query parameters with a type. An absent one leaves *ret as it is;
 * what is wrong is 400 and named.
 */
#pragma once

#include "execd/api/api.h"

/* Must be there and not empty. */
int query_need(struct http_req *req, const char *name, const char **ret, struct err *err);
/* "true", "1", "false", "0". */
int query_bool(struct http_req *req, const char *name, bool *ret, struct err *err);
int query_uint(struct http_req *req, const char *name, uint64_t min, uint64_t max, uint64_t *ret,
	       struct err *err);
