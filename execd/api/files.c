/*
 * files.c - /files but for upload.c, download.c and listing.c: what is asked
 * about files or done to them by name. Looking is done on the loop, everything
 * that changes or reads files on a worker with copies of all it needs.
 */
#include <fcntl.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/file_info.h"
#include "execd/path.h"
#include "lib/map.h"
#include "proto/json.h"

#define INFO_PATHS_MAX 4096
#define INFO_REPLY_MAX (16U << 20)

static void accounts_freep(struct accounts **a)
{
	accounts_free(*a);
}
#define _cleanup_accounts_ _cleanup_(accounts_freep)

/* ---- GET /files/info ------------------------------------------------------ */

struct seen {
	struct map_node node;
};

static int info_one(struct jw *w, const char *given, const struct accounts *accounts, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct statx stx;
	int r;

	r = path_canonical(given, &path, err);
	if (r < 0)
		return r;
	r = file_stat(AT_FDCWD, path, &stx);
	if (r < 0)
		return file_err(err, -r, "look at '%s'", path);
	jw_key(w, given);
	file_info_write(w, path, &stx, accounts);
	return 0;
}

static int info_all(struct jw *w, const char *const *paths, size_t n, const struct accounts *accounts,
		    struct err *err)
{
	_cleanup_free_ struct seen *seen = calloc(n + 1, sizeof(*seen));
	struct map done = {0};
	int r = seen ? 0 : -ENOMEM;

	jw_obj_begin(w);
	for (size_t i = 0; i < n && r >= 0; i++) {
		/* Asked for twice, told once: the answer is an object. */
		r = map_add(&done, &seen[i].node, paths[i]);
		if (r == -EEXIST)
			r = 0;
		else if (r >= 0)
			r = info_one(w, paths[i], accounts, err);
	}
	jw_obj_end(w);
	map_done(&done);
	if (r == -ENOMEM)
		err_sys(err, "RUNTIME_ERROR", ENOMEM, "look at files");
	return r;
}

int files_info_get(struct http_req *req, struct err *err)
{
	_cleanup_free_ const char **paths = calloc(INFO_PATHS_MAX, sizeof(*paths));
	_cleanup_accounts_ struct accounts *accounts = NULL;
	_cleanup_buf_ struct buf out = BUF_INIT(INFO_REPLY_MAX);
	struct jw w = JW_INIT(&out);
	size_t n;
	int r;

	if (!paths)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "look at files");
	n = http_query_all(req, "path", paths, INFO_PATHS_MAX);
	if (n > INFO_PATHS_MAX)
		return err_set(err, ERR_LIMIT, "INVALID_REQUEST_BODY", E2BIG,
			       "more than %d paths in one request", INFO_PATHS_MAX);
	/* Without them owners are shown by number. */
	(void)accounts_load(&accounts);
	r = info_all(&w, paths, n, accounts, err);
	if (r < 0)
		return r;
	if (out.failed)
		return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", ENOBUFS, "the answer is over %u bytes",
			       INFO_REPLY_MAX);
	http_reply_buf(req, 200, "application/json", &out);
	return 0;
}
