/*
 * upload.c - POST /files/upload: multipart/form-data, pairs of a `metadata` part
 * (JSON) and a `file` part, streamed to disk in constant memory.
 *
 * Each file waits under no name until the body has ended well, so that a
 * request that fails or breaks off leaves nothing; only past UPLOAD_PENDING_MAX
 * files in one request are the first ones put in place while the rest comes.
 *
 *   RECEIVING -> (COMMITTING -> RECEIVING)* -> body ended -> COMMITTING -> replied
 *
 * While COMMITTING a worker owns `batch` and commit_err, the body is paused and
 * the upload stays until done(), whatever becomes of the client.
 *
 * Metadata may run ahead of its files (all metadata first, then all files):
 * the n-th file belongs to the n-th metadata.
 */
#include <string.h>

#include "execd/api/api.h"
#include "execd/file_write.h"
#include "execd/path.h"
#include "lib/list.h"
#include "proto/json.h"
#include "proto/multipart.h"

#define UPLOAD_METADATA_MAX (64U << 10) /* bytes of one metadata part */
#define UPLOAD_AHEAD_MAX    4096	/* metadata parts that wait for their file */
#define UPLOAD_PENDING_MAX  32		/* complete files that wait for the end of the body */
#define UPLOAD_BURST_MAX    64		/* and how far one packet of small files may go beyond that */

enum upload_part { PART_OTHER, PART_METADATA, PART_FILE };

struct metadata {
	struct list link;
	char *path; /* absolute */
	struct file_perm perm;
	int64_t size; /* what the client says it sends, or -1 */
};

struct file_batch {
	struct file_write *files[UPLOAD_BURST_MAX];
	size_t n;
};

struct upload {
	struct pool_job job;
	struct pool *pool;
	struct http_req *req; /* NULL: the client has gone */
	struct multipart *multipart;
	struct accounts *accounts; /* loaded when the first name has to be looked up */

	enum upload_part part;
	struct buf text; /* of the metadata part at hand */
	struct list ahead;
	size_t ahead_n, metadata_n, files_n;

	struct file_write *file; /* being received */
	int64_t file_size;	 /* announced, or -1 */
	struct file_batch pending;

	struct file_batch batch; /* being committed */
	bool committing, ran;
	int commit_result;
	struct err commit_err;
	bool ended;
};

static void metadata_free(struct metadata *m)
{
	if (!m)
		return;
	free(m->path);
	free(m);
}

static void batch_free(struct file_batch *b)
{
	for (size_t i = 0; i < b->n; i++)
		file_write_free(b->files[i]);
	b->n = 0;
}

static void upload_free(struct upload *u)
{
	list_foreach_safe (node, &u->ahead) {
		list_del(node);
		metadata_free(list_entry(node, struct metadata, link));
	}
	file_write_free(u->file);
	batch_free(&u->pending);
	batch_free(&u->batch);
	multipart_free(u->multipart);
	accounts_free(u->accounts);
	buf_done(&u->text);
	free(u);
}

/* ---- metadata ------------------------------------------------------------ */

static bool names_account(json_t *root)
{
	const char *owner = json_string_value(json_object_get(root, "owner"));
	const char *group = json_string_value(json_object_get(root, "group"));

	return (owner && owner[0]) || (group && group[0]);
}

static int metadata_fill(struct upload *u, json_t *root, struct metadata *m, struct err *err)
{
	const char *path;
	int r;

	r = json_need_obj(root, JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_str(root, "path", JSON_REQUIRED, &path, err);
	if (r >= 0)
		r = json_get_int(root, "size", JSON_OPTIONAL, 0, INT64_MAX, &m->size, err);
	if (r < 0)
		return r;
	if (names_account(root) && !u->accounts) {
		r = accounts_load(&u->accounts);
		if (r < 0)
			return err_sys(err, "RUNTIME_ERROR", -r, "read /etc/passwd and /etc/group");
	}
	r = file_perm_parse(root, u->accounts, &m->perm, err);
	if (r < 0)
		return r;
	return path_absolute(path, &m->path, err);
}

static int metadata_end(struct upload *u, struct err *err)
{
	struct metadata *m;
	json_t *root = NULL;
	int r;

	if (u->ahead_n >= UPLOAD_AHEAD_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_FILE_METADATA", E2BIG,
			       "more than %d metadata parts wait for their file", UPLOAD_AHEAD_MAX);
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "metadata");
	m->size = -1;
	r = json_parse(u->text.data, u->text.len, &root, err);
	if (r >= 0)
		r = metadata_fill(u, root, m, err);
	json_decref(root);
	u->metadata_n++;
	if (r < 0) {
		if (err->kind == ERR_INVALID)
			r = err_set(err, ERR_INVALID, "INVALID_FILE_METADATA", EINVAL,
				    "metadata part %zu: %s", u->metadata_n, err->message);
		metadata_free(m);
		return r;
	}
	list_add_tail(&u->ahead, &m->link);
	u->ahead_n++;
	return 0;
}

/* ---- files --------------------------------------------------------------- */

static int file_begin(struct upload *u, struct err *err)
{
	struct metadata *m;
	int r;

	u->files_n++;
	if (list_empty(&u->ahead))
		return err_set(err, ERR_INVALID, u->metadata_n ? "INVALID_FILE" : "INVALID_FILE_METADATA",
			       EINVAL, "file part %zu has no metadata part before it", u->files_n);
	m = list_entry(u->ahead.next, struct metadata, link);
	list_del(&m->link);
	u->ahead_n--;
	u->file_size = m->size;
	r = file_write_open(m->path, FILE_PARENTS_MAKE, &m->perm, &u->file, err);
	metadata_free(m);
	return r;
}

/* Puts the files of a batch in place, in their order, up to the first that fails. */
static int batch_commit(struct file_batch *b, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < b->n && r >= 0; i++)
		r = file_write_commit(b->files[i], err);
	batch_free(b);
	return r;
}

static int file_end(struct upload *u, struct err *err)
{
	int r = file_write_end(u->file, err);

	if (r < 0)
		return r;
	if (u->file_size >= 0 && (uint64_t)u->file_size != file_write_size(u->file))
		return err_set(err, ERR_INVALID, "INVALID_FILE_CONTENT", EINVAL,
			       "file '%s' has %llu bytes, its metadata says %lld", file_write_path(u->file),
			       (unsigned long long)file_write_size(u->file), (long long)u->file_size);
	if (u->pending.n == UPLOAD_BURST_MAX) {
		/* All of these came within one packet: they are tiny, and so is the time this takes. */
		r = batch_commit(&u->pending, err);
		if (r < 0)
			return r;
	}
	u->pending.files[u->pending.n++] = TAKE_PTR(u->file);
	return 0;
}

/* ---- parts --------------------------------------------------------------- */

static int part_begin(void *arg, const struct multipart_part *part, struct err *err)
{
	struct upload *u = arg;

	buf_clear(&u->text);
	if (strcmp(part->name, "metadata") == 0) {
		u->part = PART_METADATA;
	} else if (strcmp(part->name, "file") == 0) {
		u->part = PART_FILE;
		return file_begin(u, err);
	} else {
		u->part = PART_OTHER;
	}
	return 0;
}

static int part_data(void *arg, const void *data, size_t n, struct err *err)
{
	struct upload *u = arg;
	int r;

	switch (u->part) {
	case PART_METADATA:
		r = buf_append(&u->text, data, n);
		if (r == -ENOBUFS)
			return err_set(err, ERR_TOO_LARGE, "INVALID_FILE_METADATA", EMSGSIZE,
				       "metadata part %zu is over %u bytes", u->metadata_n + 1,
				       UPLOAD_METADATA_MAX);
		return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "metadata") : 0;
	case PART_FILE:
		return file_write_data(u->file, data, n, err);
	default:
		return 0;
	}
}

static int part_end(void *arg, struct err *err)
{
	struct upload *u = arg;

	switch (u->part) {
	case PART_METADATA:
		return metadata_end(u, err);
	case PART_FILE:
		return file_end(u, err);
	default:
		return 0;
	}
}

/* ---- commits on the pool -------------------------------------------------- */

static void commit_run(struct pool_job *job)
{
	struct upload *u = container_of(job, struct upload, job);

	u->commit_result = batch_commit(&u->batch, &u->commit_err);
	u->ran = true;
}

static void commit_done(struct pool_job *job);

static int commit_start(struct upload *u, struct err *err)
{
	int r;

	u->batch = u->pending;
	u->pending.n = 0;
	u->ran = false;
	u->commit_result = 0;
	u->job = (struct pool_job){.run = commit_run, .done = commit_done};
	r = pool_submit(u->pool, &u->job);
	if (r < 0) {
		batch_free(&u->batch);
		return err_sys(err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	}
	u->committing = true;
	return 0;
}

static void reply(struct upload *u)
{
	struct http_req *req = u->req;

	http_set_data(req, NULL);
	if (u->commit_result < 0)
		http_reply_err(req, &u->commit_err);
	else
		http_reply_empty(req, 200);
	upload_free(u);
}

static void commit_done(struct pool_job *job)
{
	struct upload *u = container_of(job, struct upload, job);

	u->committing = false;
	if (!u->ran)
		u->commit_result = err_set(&u->commit_err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED,
					   "the agent is stopping");
	if (!u->req) {
		upload_free(u);
	} else if (!u->ended) {
		/* A failure is told by the sink, which is called next. */
		http_body_pause(u->req, false);
	} else if (u->commit_result >= 0 && u->pending.n > 0) {
		int r = commit_start(u, &u->commit_err); /* then commit_result is the worker's */

		if (r < 0) {
			u->commit_result = r;
			reply(u);
		}
	} else {
		reply(u);
	}
}

static void on_gone(struct http_req *req)
{
	struct upload *u = http_data(req);

	u->req = NULL;
}

/* ---- the body ------------------------------------------------------------- */

static int failed_before(struct upload *u, struct err *err)
{
	if (u->commit_result < 0)
		*err = u->commit_err;
	return u->commit_result;
}

static int sink_data(struct http_req *req, const void *data, size_t n, struct err *err)
{
	struct upload *u = http_data(req);
	int r = failed_before(u, err);

	if (r >= 0)
		r = multipart_feed(u->multipart, data, n, err);
	if (r < 0 || u->pending.n < UPLOAD_PENDING_MAX || u->committing)
		return r;
	r = commit_start(u, err);
	if (r >= 0)
		http_body_pause(req, true);
	return r;
}

static int check_complete(struct upload *u, struct err *err)
{
	if (u->metadata_n == 0 && u->files_n == 0)
		return err_set(err, ERR_INVALID, "INVALID_FILE_METADATA", EINVAL,
			       "the form has no metadata part and no file part");
	if (!list_empty(&u->ahead))
		return err_set(err, ERR_INVALID, u->files_n ? "INVALID_FILE" : "INVALID_FILE_CONTENT", EINVAL,
			       "no file part for '%s': %zu metadata parts and %zu file parts",
			       list_entry(u->ahead.next, struct metadata, link)->path, u->metadata_n,
			       u->files_n);
	return 0;
}

static int sink_end(struct http_req *req, struct err *err)
{
	struct upload *u = http_data(req);
	int r = failed_before(u, err);

	if (r >= 0)
		r = multipart_finish(u->multipart, err);
	if (r >= 0)
		r = check_complete(u, err);
	if (r >= 0 && !u->committing)
		r = commit_start(u, err);
	if (r < 0)
		return r;
	u->ended = true;
	http_on_gone(req, on_gone);
	return 0;
}

static void sink_abort(struct http_req *req)
{
	struct upload *u = http_data(req);

	http_set_data(req, NULL);
	if (u->committing)
		u->req = NULL;
	else
		upload_free(u);
}

int files_upload_post(struct http_req *req, struct err *err)
{
	static const struct multipart_events events = {part_begin, part_data, part_end};
	static const struct http_sink sink = {sink_data, sink_end, sink_abort};
	const char *type = http_header(req, "content-type");
	struct execd *execd = http_app(req);
	struct upload *u;
	int r;

	if (!type)
		return err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL,
			       "no Content-Type: an upload is multipart/form-data");
	u = calloc(1, sizeof(*u));
	if (!u)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "upload");
	list_init(&u->ahead);
	u->req = req;
	u->pool = execd->pool;
	u->text = BUF_INIT(UPLOAD_METADATA_MAX);
	r = multipart_new(type, &events, u, &u->multipart, err);
	if (r < 0) {
		upload_free(u);
		return r;
	}
	http_set_data(req, u);
	http_set_sink(req, &sink);
	return 0;
}
