/*
 * listing.c - GET /files/search and GET /directories/list. The list is the worker's.
 */
#include "execd/api/query.h"
#include "execd/api/flow.h"
#include "execd/file_list.h"
#include "execd/path.h"

static int next(void *state, unsigned lane, struct buf *out, struct err *err)
{
	(void)lane;
	return file_list_next(state, out, err);
}

static void cancel(void *state)
{
	file_list_cancel(state);
}

static void free_list(void *state)
{
	file_list_free(state);
}

static int listing_start(struct http_req *req, struct file_list *list_consumed, struct err *err)
{
	static const struct flow_out_ops ops = {
		.content_type = "application/json", .next = next, .cancel = cancel, .free = free_list};

	return flow_out(req, &ops, 1, list_consumed, err);
}

/* ---- the requests ---------------------------------------------------------------- */

static int query_path(struct http_req *req, char **ret, struct err *err)
{
	const char *given;
	int r = query_need(req, "path", &given, err);

	return r < 0 ? r : path_canonical(given, ret, err);
}

int files_search_get(struct http_req *req, struct err *err)
{
	const char *pattern = http_query(req, "pattern");
	_cleanup_free_ char *path = NULL;
	struct file_list *list;
	int r = query_path(req, &path, err);

	if (r >= 0)
		r = file_search_new(path, pattern && pattern[0] ? pattern : "**", &list, err);
	return r < 0 ? r : listing_start(req, list, err);
}

static int query_depth(struct http_req *req, uint64_t *ret, struct err *err)
{
	const char *text = http_query(req, "depth");
	char *end;

	*ret = 1;
	if (!text || !text[0])
		return 0;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (errno || text[0] < '0' || text[0] > '9' || *end || *ret > INT32_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "query parameter 'depth' is '%s' and not a number from 0 to %d", text,
			       INT32_MAX);
	return 0;
}

int directories_list_get(struct http_req *req, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct file_list *list;
	uint64_t depth;
	int r = query_path(req, &path, err);

	if (r >= 0)
		r = query_depth(req, &depth, err);
	if (r >= 0)
		r = file_list_new(path, depth, &list, err);
	return r < 0 ? r : listing_start(req, list, err);
}
