/*
 * batch.c - POST /batch: an ordered list of small operations in one round trip.
 *
 * The request is checked whole before anything is done. Then the operations
 * take their turns: what is done to files on a worker, as many in a row as
 * there are before the next command; commands as anywhere else, each a run that
 * can be looked at by its id.
 *
 *   step() ── files ──> worker ── done() ──┐
 *     ↑    └─ command ─> run ── ended ─────┤
 *     └────────────────────────────────────┘   after the last: the reply
 *
 * While a worker has the batch (job_next onwards), the loop touches nothing of
 * it but `cancelled`. A client that vanishes sets that: a worker stops after the
 * operation at hand, a command is interrupted, and the rest is not begun.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "execd/account.h"
#include "execd/api/api.h"
#include "execd/api/spec.h"
#include "execd/command.h"
#include "execd/confinement.h"
#include "execd/file_read.h"
#include "execd/file_write.h"
#include "execd/files.h"
#include "execd/path.h"
#include "execd/run.h"
#include "lib/base64.h"
#include "lib/utf8.h"
#include "proto/json.h"

#define BATCH_OPS_MAX	 256
#define BATCH_OUTPUT_MAX ((size_t)1 << 20)  /* of each stream of a command */
#define BATCH_DATA_MAX	 ((size_t)16 << 20) /* of what is read and written by commands, together */
#define BATCH_REPLY_MAX	 ((size_t)128 << 20)

enum kind { KIND_WRITE, KIND_READ, KIND_STAT, KIND_MKDIR, KIND_REMOVE, KIND_RUN, KINDS_N };

static const char *const kinds[KINDS_N] = {"write", "read", "stat", "mkdir", "remove", "run"};

enum status { STATUS_SKIPPED, STATUS_OK, STATUS_ERROR };

struct op {
	enum kind kind;
	char *path; /* canonical */
	struct file_perm perm;
	const void *content; /* in the request, or in bytes */
	size_t content_n;
	struct buf bytes; /* write: decoded; read: what was read */
	bool base64, recursive;
	struct command_spec spec;

	enum status status;
	struct err err;
	struct statx stx;
	struct run *run; /* a reference, NULL: not begun */
};

struct batch {
	struct pool_job job;
	struct run_watch watch;
	struct execd *execd;
	struct http_req *req; /* NULL: the client has gone */
	json_t *body;	      /* the operations borrow from it */
	struct accounts *accounts;
	bool go_on; /* after an error */
	atomic_bool cancelled;
	size_t data_left;
	size_t next, job_next, n;
	bool job_ran, stopped; /* by an error */
	struct op ops[];
};

static void batch_free(struct batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		free(b->ops[i].path);
		buf_done(&b->ops[i].bytes);
		run_unref(b->ops[i].run);
	}
	accounts_free(b->accounts);
	json_decref(b->body);
	free(b);
}

/* ---- the request ----------------------------------------------------------- */

static int invalid(struct err *err, const char *message)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s", message);
}

static int parse_kind(json_t *item, enum kind *ret, struct err *err)
{
	const char *name;
	int r = json_get_str(item, "op", JSON_REQUIRED, &name, err);
	if (r < 0)
		return r;
	for (enum kind k = 0; k < KINDS_N; k++)
		if (strcmp(kinds[k], name) == 0) {
			*ret = k;
			return 0;
		}
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
		       "op: '%.64s' is none of write, read, stat, mkdir, remove and run", name);
}

static int parse_content(json_t *item, struct op *op, struct err *err)
{
	const char *text = NULL, *base64 = NULL;
	int r = json_get_str(item, "content", JSON_OPTIONAL, &text, err);
	if (r >= 0)
		r = json_get_str(item, "content_base64", JSON_OPTIONAL, &base64, err);
	if (r < 0)
		return r;
	if (!text == !base64)
		return invalid(err, "content, content_base64: one of them is required");
	if (text) {
		op->content = text;
		op->content_n = strlen(text);
		return 0;
	}
	r = base64_decode(&op->bytes, base64, strlen(base64));
	if (r == -EINVAL)
		return invalid(err, "content_base64: is not base64");
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "content_base64");
	op->content = op->bytes.data;
	op->content_n = op->bytes.len;
	return 0;
}

static int parse_encoding(json_t *item, struct op *op, struct err *err)
{
	const char *encoding = "auto";
	int r = json_get_str(item, "encoding", JSON_OPTIONAL, &encoding, err);
	if (r < 0)
		return r;
	op->base64 = strcmp(encoding, "base64") == 0;
	if (!op->base64 && strcmp(encoding, "auto") != 0)
		return invalid(err, "encoding: must be \"auto\" or \"base64\"");
	return 0;
}

static int parse_path(json_t *item, struct op *op, struct err *err)
{
	const char *path;
	int r = json_get_str(item, "path", JSON_REQUIRED, &path, err);
	return r < 0 ? r : path_canonical(path, &op->path, err);
}

static int parse_run(const struct batch *b, json_t *item, struct op *op, struct err *err)
{
	int r = command_spec_parse(item, &op->spec, err);
	if (r < 0)
		return r;
	if (op->spec.background)
		return invalid(err, "background: a batch waits for its commands");
	struct confine *confine = NULL;
	if (confinement_get(b->execd->confinement, CONFINED_COMMANDS, op->spec.confinement, &confine, err) <
	    0)
		return -EINVAL;
	confine_unref(confine); /* compiled now, and found again when its turn comes */
	if (op->spec.stdin_pipe)
		return invalid(err, "stdin: a command of a batch has none");
	return 0;
}

static int parse_op(struct batch *b, json_t *item, struct op *op, struct err *err)
{
	if (!json_is_object(item))
		return invalid(err, "must be an object");
	int r = parse_kind(item, &op->kind, err);
	if (r < 0 || op->kind == KIND_RUN)
		return r < 0 ? r : parse_run(b, item, op, err);
	r = parse_path(item, op, err);
	if (r >= 0 && (op->kind == KIND_WRITE || op->kind == KIND_MKDIR))
		r = file_perm_parse(item, b->accounts, &op->perm, err);
	if (r >= 0 && op->kind == KIND_WRITE)
		r = parse_content(item, op, err);
	if (r >= 0 && op->kind == KIND_READ)
		r = parse_encoding(item, op, err);
	if (r >= 0 && op->kind == KIND_REMOVE)
		r = json_get_bool(item, "recursive", JSON_OPTIONAL, &op->recursive, err);
	return r;
}

static int parse_ops(struct batch *b, json_t *items, struct err *err)
{
	for (size_t i = 0; i < b->n; i++) {
		int r = parse_op(b, json_array_get(items, i), &b->ops[i], err);
		const struct err inner = *err;
		if (r < 0 && inner.kind == ERR_INVALID)
			return err_set(err, ERR_INVALID, inner.code, -r, "operations[%zu]: %s", i,
				       inner.message);
		if (r < 0)
			return r;
	}
	return 0;
}

static struct batch *batch_new(struct execd *execd, struct http_req *req, size_t n)
{
	struct batch *b = calloc(1, sizeof(*b) + n * sizeof(b->ops[0]));
	if (!b)
		return NULL;
	b->execd = execd;
	b->req = req;
	b->body = json_incref(http_json(req));
	b->data_left = BATCH_DATA_MAX;
	b->n = n;
	for (size_t i = 0; i < n; i++) {
		b->ops[i].perm = FILE_PERM_NONE;
		b->ops[i].bytes = BUF_INIT(BATCH_DATA_MAX);
	}
	return b;
}

static int parse(struct http_req *req, struct batch **ret, struct err *err)
{
	json_t *body = http_json(req), *items;
	bool go_on = false;
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_arr(body, "operations", JSON_REQUIRED, &items, err);
	if (r >= 0)
		r = json_get_bool(body, "continue_on_error", JSON_OPTIONAL, &go_on, err);
	if (r < 0)
		return r;
	size_t n = json_array_size(items);
	if (n == 0 || n > BATCH_OPS_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "operations: must be 1 to %d, not %zu", BATCH_OPS_MAX, n);
	struct batch *b = batch_new(http_app(req), req, n);
	if (!b)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "batch");
	b->go_on = go_on;
	(void)accounts_load(&b->accounts); /* without them owners are known by number alone */
	r = parse_ops(b, items, err);
	if (r < 0) {
		batch_free(b);
		return r;
	}
	*ret = b;
	return 0;
}

/* ---- files, on a worker ------------------------------------------------------ */

static int op_write(const struct op *op, struct err *err)
{
	struct file_write *w;
	int r = file_write_open(op->path, FILE_PARENTS_MAKE, &op->perm, &w, err);
	if (r < 0)
		return r;
	r = file_write_data(w, op->content, op->content_n, err);
	if (r >= 0)
		r = file_write_end(w, err);
	if (r >= 0)
		r = file_write_commit(w, err);
	file_write_free(w);
	return r;
}

static int op_read(struct batch *b, struct op *op, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;
	int r = file_read_open(op->path, &fd, &st, err);
	if (r < 0)
		return r;
	for (;;) {
		/* One byte more than there may be tells that there is more. */
		size_t room = b->data_left - MIN(b->data_left, op->bytes.len);
		op->bytes.max = b->data_left + 65536;
		if (buf_reserve(&op->bytes, MIN(room + 1, (size_t)65536)) < 0)
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "read '%s'", op->path);
		ssize_t n = read(fd, buf_tail(&op->bytes), MIN(room + 1, (size_t)65536));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return file_err(err, errno, "read '%s'", op->path);
		if (n == 0)
			break;
		op->bytes.len += (size_t)n;
		if (op->bytes.len > b->data_left) {
			buf_done(&op->bytes);
			return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", EFBIG,
				       "read '%s': over the %zu bytes that one batch may bring; use "
				       "/files/download",
				       op->path, BATCH_DATA_MAX);
		}
	}
	b->data_left -= op->bytes.len;
	return 0;
}

static int op_stat(struct op *op, struct err *err)
{
	int r = file_stat(AT_FDCWD, op->path, &op->stx);
	return r < 0 ? file_err(err, -r, "look at '%s'", op->path) : 0;
}

static void op_ended(struct batch *b, struct op *op, int r)
{
	op->status = r < 0 ? STATUS_ERROR : STATUS_OK;
	if (r < 0 && !b->go_on)
		b->stopped = true;
}

static void op_file(struct batch *b, struct op *op)
{
	int r = -EINVAL;
	switch (op->kind) {
	case KIND_WRITE:
		r = op_write(op, &op->err);
		break;
	case KIND_READ:
		r = op_read(b, op, &op->err);
		break;
	case KIND_STAT:
		r = op_stat(op, &op->err);
		break;
	case KIND_MKDIR:
		r = dir_make(op->path, &op->perm, &op->err);
		break;
	case KIND_REMOVE:
		r = op->recursive ? dir_remove(op->path, &op->err) : file_remove(op->path, &op->err);
		break;
	case KIND_RUN:
	case KINDS_N:
		break;
	}
	op_ended(b, op, r);
}

static void job_run(struct pool_job *job)
{
	struct batch *b = container_of(job, struct batch, job);
	b->job_ran = true;
	while (b->job_next < b->n && b->ops[b->job_next].kind != KIND_RUN && !b->stopped &&
	       !atomic_load(&b->cancelled))
		op_file(b, &b->ops[b->job_next++]);
}

static void step(struct batch *b);

static void job_done(struct pool_job *job)
{
	struct batch *b = container_of(job, struct batch, job);
	if (!b->job_ran)
		atomic_store(&b->cancelled, true); /* the agent is going away */
	b->next = b->job_next;
	step(b);
}

static int start_files(struct batch *b, struct op *op)
{
	b->job = (struct pool_job){.run = job_run, .done = job_done};
	b->job_next = b->next;
	b->job_ran = false;
	int r = pool_submit(b->execd->pool, &b->job);
	return r < 0 ? err_sys(&op->err, "RUNTIME_ERROR", -r, "too many file operations wait already") : 0;
}

/* ---- commands ------------------------------------------------------------------ */

static void check_end(struct batch *b, struct op *op)
{
	const struct run_end *end = &op->run->end;
	char name[RUN_SIGNAL_MAX], how[64];
	if (end->signo == 0 && end->exit_code == 0) {
		op_ended(b, op, 0);
		return;
	}
	if (end->signo)
		(void)snprintf(how, sizeof(how), "ended by %s", run_signal_name(end->signo, name));
	else
		(void)snprintf(how, sizeof(how), "exit status %d", end->exit_code);
	op_ended(b, op,
		 err_set(&op->err, ERR_INTERNAL, "COMMAND_FAILED", ECHILD,
			 end->reason == RUN_EXITED || end->reason == RUN_SIGNALLED ? "%s" : "%s (%s)", how,
			 run_reason_name(end->reason)));
}

static void command_ended(struct run_watch *w)
{
	struct batch *b = container_of(w, struct batch, watch);
	check_end(b, &b->ops[b->next++]);
	step(b);
}

static int start_command(struct batch *b, struct op *op)
{
	int r = command_start(b->execd->commands, &op->spec, &op->run, &op->err);
	if (r >= 0)
		run_watch(op->run, &b->watch, command_ended);
	return r;
}

/* ---- the reply ------------------------------------------------------------------- */

/* The beginning of one stream, so much as there is still room for. True when that is not all of it. */
static bool put_output(struct batch *b, struct jw *w, const char *key, struct output *o,
		       enum output_stream stream)
{
	_cleanup_buf_ struct buf text = BUF_INIT(BATCH_OUTPUT_MAX);
	uint64_t at = 0, end = output_stream_end(o, stream);
	size_t max = MIN(BATCH_OUTPUT_MAX, b->data_left);
	struct output_slice s;
	(void)output_stream_offset(o, stream, output_begin(o), &at);
	bool truncated = at > 0;
	while (text.len < max && output_read_stream(o, stream, at, UINT64_MAX, max - text.len, &s) > 0 &&
	       buf_append(&text, s.data, s.len) >= 0)
		at += s.len;
	b->data_left -= text.len;
	jw_key(w, key);
	jw_strn(w, text.data, text.len);
	return truncated || at < end;
}

static void put_run(struct batch *b, struct jw *w, const struct op *op)
{
	const struct run *run = op->run;
	if (!run)
		return;
	jw_kstr(w, "id", run->id);
	jw_kint(w, "exit_code", run->end.exit_code);
	bool truncated = put_output(b, w, "stdout", run->output, OUTPUT_STDOUT);
	truncated |= put_output(b, w, "stderr", run->output, OUTPUT_STDERR);
	if (truncated)
		jw_kbool(w, "truncated", true);
	jw_key(w, "end");
	run_end_json(run, w);
}

static void put_read(struct jw *w, const struct op *op)
{
	_cleanup_buf_ struct buf text = BUF_INIT(BATCH_REPLY_MAX);
	jw_kint(w, "size", (int64_t)op->bytes.len);
	if (!op->base64 && utf8_valid(op->bytes.data, op->bytes.len)) {
		jw_key(w, "content");
		jw_strn(w, op->bytes.data, op->bytes.len);
		return;
	}
	if (base64_encode(&text, op->bytes.data, op->bytes.len) < 0)
		w->out->failed = true;
	jw_key(w, "content_base64");
	jw_strn(w, text.data, text.len);
}

static void put_op(struct batch *b, struct jw *w, const struct op *op)
{
	static const char *const names[] = {
		[STATUS_SKIPPED] = "skipped", [STATUS_OK] = "ok", [STATUS_ERROR] = "error"};
	jw_obj_begin(w);
	jw_kstr(w, "op", kinds[op->kind]);
	jw_kstr(w, "status", names[op->status]);
	if (op->status == STATUS_ERROR) {
		jw_key(w, "error");
		jw_obj_begin(w);
		jw_kstr(w, "code", op->err.code);
		jw_kstr(w, "message", op->err.message);
		jw_obj_end(w);
	}
	if (op->kind == KIND_RUN)
		put_run(b, w, op);
	else if (op->status == STATUS_OK && op->kind == KIND_READ)
		put_read(w, op);
	else if (op->status == STATUS_OK && op->kind == KIND_WRITE)
		jw_kint(w, "size", (int64_t)op->content_n);
	if (op->status == STATUS_OK && op->kind == KIND_STAT) {
		jw_key(w, "info");
		file_info_write(w, op->path, &op->stx, b->accounts);
	}
	jw_obj_end(w);
}

static void reply(struct batch *b)
{
	struct buf body = BUF_INIT(BATCH_REPLY_MAX);
	struct jw w = JW_INIT(&body);
	bool ok = true;
	for (size_t i = 0; i < b->n; i++)
		ok = ok && b->ops[i].status == STATUS_OK;
	jw_obj_begin(&w);
	jw_kbool(&w, "ok", ok);
	jw_key(&w, "results");
	jw_arr_begin(&w);
	for (size_t i = 0; i < b->n; i++)
		put_op(b, &w, &b->ops[i]);
	jw_arr_end(&w);
	jw_obj_end(&w);
	http_set_data(b->req, NULL);
	http_reply_buf(b->req, 200, "application/json", &body);
}

/* ---- one after the other ------------------------------------------------------- */

static void step(struct batch *b)
{
	while (b->next < b->n && !b->stopped && !atomic_load(&b->cancelled)) {
		struct op *op = &b->ops[b->next];
		int r = op->kind == KIND_RUN ? start_command(b, op) : start_files(b, op);
		if (r >= 0)
			return;
		op_ended(b, op, r);
		b->next++;
	}
	if (b->req)
		reply(b);
	batch_free(b);
}

static void client_gone(struct http_req *req)
{
	struct batch *b = http_data(req);
	if (!b)
		return;
	b->req = NULL;
	atomic_store(&b->cancelled, true);
	/* Set only while a command is what the batch waits for. */
	if (b->watch.link.next && !list_empty(&b->watch.link))
		(void)run_interrupt(b->ops[b->next].run);
}

int batch_post(struct http_req *req, struct err *err)
{
	struct batch *b = NULL;
	int r = parse(req, &b, err);
	if (r < 0)
		return r;
	http_set_data(req, b);
	http_on_gone(req, client_gone);
	step(b);
	return 0;
}
