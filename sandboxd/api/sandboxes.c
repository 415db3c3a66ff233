/*
 * sandboxes.c - /sandboxes: create, list, get, delete, renew. Rows of the store become JSON here.
 */
#include "sandboxd/api/answer.h"

#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "proto/query.h"
#include "sandboxd/api/rows.h"
#include "sandboxd/api/wait.h"

#define INVALID	       "SANDBOX::INVALID_PARAMETER"
#define EXPIRES_MAX_MS 253402300799000ull /* the last second of the year 9999 */

/* ---- rows -------------------------------------------------------------------- */

void write_sandbox(struct jw *w, const struct record *row, bool full)
{
	jw_obj_begin(w);
	jw_kstr(w, "id", row->id);
	write_status(w, sandbox_state_name(row->state), row->reason, row->message, row->transition_ms);
	if (full && row->snapshot) {
		jw_kstr(w, "snapshotId", row->snapshot);
	} else if (full) {
		jw_key(w, "image");
		jw_obj_begin(w);
		jw_kstr(w, "uri", row->image);
		jw_obj_end(w);
	}
	if (row->platform)
		jw_kraw(w, "platform", row->platform);
	jw_kraw(w, "metadata", row->metadata);
	jw_kraw(w, "entrypoint", row->entrypoint);
	if (row->expires_ms)
		write_time(w, "expiresAt", row->expires_ms);
	write_time(w, "createdAt", row->created_ms);
	if (full && row->timing)
		jw_kraw(w, "timing", row->timing);
	jw_obj_end(w);
}

struct render {
	struct jw w;
	bool full;
};

static int render_row(const struct record *row, void *arg)
{
	struct render *r = arg;
	write_sandbox(&r->w, row, r->full);
	return 0;
}

static int reply_one(struct http_req *req, const char *id, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	_cleanup_buf_ struct buf b = BUF_INIT(ROWS_MAX);
	struct render r = {.w = JW_INIT(&b), .full = true};

	int e = store_get(sandboxes_store(l->sandboxes), id, render_row, &r, err);
	return e < 0 ? e : reply_rows(req, &b, err);
}

static int parse_state(const char *word, unsigned *ret)
{
	enum sandbox_state state;
	int r = sandbox_state_parse(word, &state);
	if (r == 0)
		*ret = state;
	return r;
}

/* ---- one sandbox ---------------------------------------------------------------- */

/* A create that waits while a worker opens its volumes: a host path may be on a file system that hangs. */
struct opening {
	struct pool_job job;
	struct http_req *req; /* NULL: it is gone */
	const struct config *config;
	struct volumes volumes;
	int result;
	struct err err;
};

static int create_answer(struct http_req *req, struct answer *a, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	struct opening *opened = http_data(req);
	struct sandbox_spec spec;
	struct create_keep keep;
	char id[RANDOM_UUID_MAX];
	struct render render = {.w = JW_INIT(&a->body)};

	int r = create_parse(http_json(req), l->config, sandboxes_store(l->sandboxes), &spec, &keep, err);
	if (r < 0)
		return r;
	if (opened) {
		volumes_done(&keep.volumes);
		keep.volumes = opened->volumes;
		opened->volumes.n = 0;
	}
	r = sandboxes_create(l->sandboxes, &spec, id, err);
	create_done(&keep);
	if (r < 0)
		return r;
	a->status = 202;
	(void)snprintf(a->location, sizeof(a->location), "/v1/sandboxes/%s", id);
	return store_get(sandboxes_store(l->sandboxes), id, render_row, &render, err);
}

/* Worker thread. */
static void run_opening(struct pool_job *job)
{
	struct opening *o = container_of(job, struct opening, job);
	o->result = volumes_open(&o->volumes, o->config->allowed_host_paths, o->config->state_dir, &o->err);
}

static void on_opened(struct pool_job *job)
{
	struct opening *o = container_of(job, struct opening, job);
	int r = o->result;

	if (o->req && !pool_stopping(job->pool)) {
		if (r == 0)
			r = answer_once(o->req, create_answer, &o->err);
		if (r < 0)
			http_reply_err(o->req, &o->err);
	}
	volumes_done(&o->volumes);
	free(o);
}

static void opening_gone(struct http_req *req)
{
	struct opening *o = http_data(req);
	o->req = NULL;
}

static int open_first(struct http_req *req, const struct volumes *volumes, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	struct opening *o = calloc(1, sizeof(*o));

	if (!o)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	o->job = (struct pool_job){.run = run_opening, .done = on_opened};
	o->req = req;
	o->config = l->config;
	o->volumes = *volumes;
	int r = pool_submit(l->pool, &o->job);
	if (r < 0) {
		free(o);
		return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "too much is waiting already");
	}
	http_set_data(req, o);
	http_on_gone(req, opening_gone);
	return 0;
}

int sandboxes_post(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	json_t *array = json_object_get(http_json(req), "volumes");
	struct volumes volumes;

	if (!json_is_array(array) || !json_array_size(array) ||
	    volumes_parse(array, l->config->allowed_host_paths, &volumes, err) < 0)
		return answer_once(req, create_answer, err); /* which says what is wrong */
	int r = volumes_need_open(&volumes) ? open_first(req, &volumes, err)
					    : answer_once(req, create_answer, err);
	if (r < 0 || !volumes_need_open(&volumes))
		volumes_done(&volumes);
	return r;
}

static int see_state(const struct record *row, void *arg)
{
	*(unsigned *)arg = STATE_BIT(row->state);
	return 0;
}

static int look(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	const char *id = http_param(req, "id");
	unsigned wanted = STATES_ENDED, state = 0;

	int r = query_states(req, "wait", parse_state, &wanted, err);
	if (r == 0)
		r = store_get(sandboxes_store(l->sandboxes), id, see_state, &state, err);
	if (r < 0 || !(state & wanted))
		return r;
	r = reply_one(req, id, err);
	return r < 0 ? r : 1;
}

/* With ?wait=STATE the answer comes when the sandbox is in one of those states or has ended. */
int sandbox_get(struct http_req *req, struct err *err)
{
	const char *id = http_param(req, "id");

	return http_query(req, "wait") ? wait_for(req, id, look, err) : reply_one(req, id, err);
}

int sandbox_delete(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);

	int r = sandboxes_delete(l->sandboxes, http_param(req, "id"), err);
	if (r < 0)
		return r;
	http_reply_empty(req, 204);
	return 0;
}

static int pause_answer(struct http_req *req, struct answer *a, struct err *err)
{
	const struct lifecycle *l = http_app(req);

	a->status = 202;
	return sandboxes_pause(l->sandboxes, http_param(req, "id"), err);
}

int sandbox_pause(struct http_req *req, struct err *err)
{
	return answer_once(req, pause_answer, err);
}

static int resume_answer(struct http_req *req, struct answer *a, struct err *err)
{
	const struct lifecycle *l = http_app(req);

	a->status = 202;
	return sandboxes_resume(l->sandboxes, http_param(req, "id"), err);
}

int sandbox_resume(struct http_req *req, struct err *err)
{
	return answer_once(req, resume_answer, err);
}

int sandbox_patch_metadata(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	json_t *patch = http_json(req), *value;
	const char *key = NULL;

	int r = json_need_obj(patch, JSON_REQUIRED, err);
	json_object_foreach(patch, key, value)
	{
		if (!json_is_string(value) && !json_is_null(value))
			return err_set(err, ERR_INVALID, INVALID, EINVAL,
				       "metadata: the value of '%.64s' must be a string or null", key);
		r = label_check(key, json_is_null(value) ? "" : json_string_value(value), err);
		if (r < 0)
			return r;
	}
	if (r >= 0)
		r = sandboxes_patch_metadata(l->sandboxes, http_param(req, "id"), patch, err);
	return r < 0 ? r : reply_one(req, http_param(req, "id"), err);
}

static int renew_answer(struct http_req *req, struct answer *a, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	const uint64_t max_s = l->config->timeout_max_s;
	const char *text = NULL;
	uint64_t expires;
	struct jw w = JW_INIT(&a->body);

	int r = json_need_obj(http_json(req), JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_str(http_json(req), "expiresAt", JSON_REQUIRED, &text, err);
	if (r < 0)
		return r;
	if (clock_rfc3339_parse(text, &expires) < 0 || expires > EXPIRES_MAX_MS)
		return err_set(err, ERR_INVALID, INVALID, EINVAL,
			       "expiresAt: '%.40s' is not a time such as 2030-01-31T12:00:00Z", text);
	if (expires <= clock_real_ms())
		return err_set(err, ERR_INVALID, "DOCKER::INVALID_EXPIRATION", EINVAL,
			       "expiresAt: '%.40s' is not in the future", text);
	if (max_s && expires > clock_real_ms() + max_s * 1000)
		return err_set(err, ERR_INVALID, INVALID, EINVAL,
			       "expiresAt: '%.40s' is further away than the configured maximum", text);
	r = sandboxes_renew(l->sandboxes, http_param(req, "id"), expires, err);
	if (r < 0)
		return r;
	jw_obj_begin(&w);
	write_time(&w, "expiresAt", expires);
	jw_obj_end(&w);
	a->status = 200;
	return 0;
}

int sandbox_renew(struct http_req *req, struct err *err)
{
	return answer_once(req, renew_answer, err);
}

/* ---- the list ---------------------------------------------------------------------- */

/* Form encoding, in place; the query as a whole has been decoded once, pairs are encoded in it again. */
static int decode(char *s)
{
	return url_decode(s, s, strlen(s), true) < 0 ? -EINVAL : 0;
}

/* "project=Apollo&note=Demo%20Test"; text is cut up. */
static int query_metadata(char *text, struct store_pair *pairs, size_t *ret_n, struct err *err)
{
	size_t n = 0;

	for (char *pair = text; pair && *text;) {
		char *next = strchr(pair, '&');
		if (next)
			*next++ = '\0';
		char *eq = strchr(pair, '=');
		if (n >= STORE_FILTER_PAIRS_MAX)
			return err_set(err, ERR_INVALID, "INVALID_METADATA_FORMAT", EINVAL,
				       "metadata: more than %d pairs", STORE_FILTER_PAIRS_MAX);
		if (!eq)
			return err_set(err, ERR_INVALID, "INVALID_METADATA_FORMAT", EINVAL,
				       "metadata: '%.64s' is not key=value", pair);
		*eq = '\0';
		if (decode(pair) < 0 || decode(eq + 1) < 0)
			return err_set(err, ERR_INVALID, "INVALID_METADATA_FORMAT", EINVAL,
				       "metadata: '%.64s' is not percent-encoded", pair);
		pairs[n++] = (struct store_pair){.key = pair, .value = eq + 1};
		pair = next;
	}
	*ret_n = n;
	return 0;
}

int sandboxes_get(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	const char *given = http_query(req, "metadata");
	_cleanup_free_ char *metadata = strdup(given ? given : "");
	struct store_pair pairs[STORE_FILTER_PAIRS_MAX];
	struct store_filter filter = {.metadata = pairs};
	struct page page;
	uint64_t total = 0;
	_cleanup_buf_ struct buf b = BUF_INIT(ROWS_MAX);
	struct render r = {.w = JW_INIT(&b), .full = true};

	if (!metadata)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	int e = page_query(req, &page, err);
	if (e == 0)
		e = query_states(req, "state", parse_state, &filter.states, err);
	/* A tombstone is told to who asks for it; a failure is told to everybody. */
	if (!filter.states)
		filter.states = STATES_ALL & ~STATE_BIT(SANDBOX_TERMINATED);
	if (e == 0)
		e = query_metadata(metadata, pairs, &filter.metadata_n, err);
	if (e < 0)
		return e;
	page_begin(&r.w);
	e = store_list(sandboxes_store(l->sandboxes), &filter, page_offset(&page), page.size, render_row, &r,
		       &total, err);
	return e < 0 ? e : page_reply(req, &r.w, &b, &page, total, err);
}
