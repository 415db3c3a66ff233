/*
 * grep.c - POST /files/grep: matches as lines of JSON, as they are found.
 */
#include "execd/grep.h"

#include <unistd.h>

#include "execd/api/flow.h"
#include "execd/path.h"
#include "proto/json.h"

_Static_assert(GREP_LANES <= FLOW_LANES_MAX, "each lane of the search is one of the reply");

static int next(void *state, unsigned lane, struct buf *out, struct err *err)
{
	return grep_next(state, lane, out, err);
}

static void finish(void *state, struct buf *out)
{
	grep_finish(state, out);
}

static void cancel(void *state)
{
	grep_cancel(state);
}

static void free_grep(void *state)
{
	grep_free(state);
}

static int parse(json_t *root, struct grep_spec *spec, const char **path, struct err *err)
{
	int64_t max_results = 10000, context = 0, max_file_bytes = GREP_FILE_BYTES_USUAL;
	int r = json_need_obj(root, JSON_REQUIRED, err);

	if (r >= 0)
		r = json_get_str(root, "path", JSON_REQUIRED, path, err);
	if (r >= 0)
		r = json_get_str(root, "pattern", JSON_REQUIRED, &spec->pattern, err);
	if (r >= 0)
		r = json_get_bool(root, "literal", JSON_OPTIONAL, &spec->literal, err);
	if (r >= 0)
		r = json_get_bool(root, "ignore_case", JSON_OPTIONAL, &spec->ignore_case, err);
	if (r >= 0)
		r = json_get_bool(root, "binary", JSON_OPTIONAL, &spec->binary, err);
	if (r >= 0)
		r = json_get_str_arr(root, "include", JSON_OPTIONAL, &spec->include, err);
	if (r >= 0)
		r = json_get_str_arr(root, "exclude", JSON_OPTIONAL, &spec->exclude, err);
	if (r >= 0)
		r = json_get_int(root, "max_results", JSON_OPTIONAL, 1, GREP_RESULTS_MAX, &max_results, err);
	if (r >= 0)
		r = json_get_int(root, "context", JSON_OPTIONAL, 0, GREP_CONTEXT_MAX, &context, err);
	if (r >= 0)
		r = json_get_int(root, "max_file_bytes", JSON_OPTIONAL, 1, GREP_FILE_BYTES_MAX,
				 &max_file_bytes, err);
	spec->max_results = (uint64_t)max_results;
	spec->context = (uint64_t)context;
	spec->max_file_bytes = (uint64_t)max_file_bytes;
	return r;
}

/* As many as there are processors: the work is the processor's once the files are cached. */
static unsigned lanes(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (unsigned)MIN(n, (long)GREP_LANES);
}

int files_grep_post(struct http_req *req, struct err *err)
{
	static const struct flow_out_ops ops = {.content_type = "application/x-ndjson",
						.next = next,
						.finish = finish,
						.cancel = cancel,
						.free = free_grep};
	_cleanup_free_ char *path = NULL;
	struct grep_spec spec = {0};
	const char *given;
	struct grep *grep;
	int r = parse(http_json(req), &spec, &given, err);

	if (r >= 0)
		r = path_canonical(given, &path, err);
	if (r < 0)
		return r;
	spec.path = path;
	r = grep_new(&spec, &grep, err);
	return r < 0 ? r : flow_out(req, &ops, lanes(), grep, err);
}
