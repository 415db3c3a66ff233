/*
 * query.c - query parameters with a type.
 */
#include "execd/api/query.h"

#include <inttypes.h>
#include <string.h>

int query_need(struct http_req *req, const char *name, const char **ret, struct err *err)
{
	const char *text = http_query(req, name);

	if (!text || !text[0])
		return err_set(err, ERR_INVALID, "MISSING_QUERY", EINVAL, "missing query parameter '%s'",
			       name);
	*ret = text;
	return 0;
}

int query_bool(struct http_req *req, const char *name, bool *ret, struct err *err)
{
	const char *text = http_query(req, name);

	if (!text)
		return 0;
	if (strcmp(text, "true") == 0 || strcmp(text, "1") == 0)
		*ret = true;
	else if (strcmp(text, "false") == 0 || strcmp(text, "0") == 0)
		*ret = false;
	else
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "query parameter '%s' is '%s' and not true or false", name, text);
	return 0;
}

int query_uint(struct http_req *req, const char *name, uint64_t min, uint64_t max, uint64_t *ret,
	       struct err *err)
{
	const char *text = http_query(req, name);
	uint64_t v;
	char *end;

	if (!text)
		return 0;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || text[0] < '0' || text[0] > '9' || *end || v < min || v > max)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "query parameter '%s' is '%s' and not a number from %" PRIu64 " to %" PRIu64,
			       name, text, min, max);
	*ret = v;
	return 0;
}
