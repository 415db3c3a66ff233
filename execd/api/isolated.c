/*
 * isolated.c - /v1/isolated: sessions, created, looked at, listed and deleted.
 *
 * A creation is answered when the room is ready, a deletion when nothing is left
 * of it. A client that vanishes before it has learnt of its session loses it.
 */
#include "execd/api/isolated_spec.h"
#include "execd/isolated/probe.h"
#include "execd/options.h"
#include "lib/clock.h"
#include "proto/json.h"

/* When a workspace is held to its size_bytes: by the kernel (ENOSPC), or the next run is refused. */
#define BOUND_AT_ONCE "at_once"
#define BOUND_AT_END  "after_run"

/* ---- answers ---------------------------------------------------------------------- */

static void put_time(json_t *o, const char *key, uint64_t ms)
{
	char text[CLOCK_RFC3339_MAX];
	(void)json_object_set_new(o, key, json_string(clock_rfc3339(ms, text)));
}

static json_t *state_of(struct isolated *s, const char *ended)
{
	struct isolated_status status;
	isolated_status(s, &status);
	json_t *o = json_pack("{s:s, s:s}", "session_id", isolated_id(s), "status",
			      status.alive ? "active" : ended);
	put_time(o, "created_at", status.created_ms);
	put_time(o, "last_run_at", status.last_run_ms ? status.last_run_ms : status.created_ms);
	if (status.idle_remaining_ms >= 0)
		(void)json_object_set_new(o, "idle_remaining_seconds",
					  json_integer((status.idle_remaining_ms + 999) / 1000));
	return o;
}

/* ---- POST /v1/isolated/session ------------------------------------------------------ */

struct creation {
	struct http_req *req; /* NULL: the client has gone */
	struct isolated *session;
};

/* What has become of its overlays: where their layers lie, and what holds them to their size. */
static void put_echo(json_t *o, struct isolated *s)
{
	size_t n;
	const struct room_mount *mounts = room_mounts(isolated_room(s), &n);
	json_t *all = json_deep_copy(json_object_get(isolated_echo(s), "overlays"));
	(void)json_object_update(o, isolated_echo(s));
	for (size_t i = 0; i < n; i++) {
		json_t *one = json_array_get(all, i);
		if (mounts[i].mode != ROOM_OVERLAY)
			continue;
		const char *bound = !mounts[i].persist	 ? BOUND_AT_ONCE
				    : mounts[i].size_max ? BOUND_AT_END
							 : "none";
		(void)json_object_set_new(one, "persist", json_boolean(mounts[i].persist));
		(void)json_object_set_new(one, "size_bound", json_string(bound));
		if (mounts[i].size_max)
			(void)json_object_set_new(one, "size_bytes",
						  json_integer((json_int_t)mounts[i].size_max));
	}
	(void)json_object_set_new(o, "overlays", all);
}

static void creation_done(void *arg, struct isolated *s, const struct err *err)
{
	struct creation *c = arg;
	if (!s) {
		http_reply_err(c->req, err);
	} else {
		json_t *o = state_of(s, "dead");
		(void)json_object_del(o, "status");
		(void)json_object_del(o, "last_run_at");
		put_echo(o, s);
		http_reply_json(c->req, 201, o);
	}
	free(c);
}

static void creation_gone(struct http_req *req)
{
	struct creation *c = http_data(req);
	isolated_abandon(c->session);
	free(c);
}

static int start_creation(struct http_req *req, struct isolated_request *rq, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct creation *c = calloc(1, sizeof(*c));
	rq->spec.echo = isolated_make_echo(execd, rq, http_json(req));
	if (!c || !rq->spec.echo) {
		free(c);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "make an isolated session");
	}
	c->req = req;
	int r = isolated_create(execd->isolateds, &rq->spec, creation_done, c, &c->session, err);
	if (r < 0) {
		free(c);
		return r;
	}
	http_set_data(req, c);
	http_on_gone(req, creation_gone);
	return 0;
}

int isolated_post(struct http_req *req, struct err *err)
{
	struct isolated_request rq = {0};
	int r = isolated_request_parse(&rq, http_app(req), http_json(req), true, err);
	if (r >= 0)
		r = start_creation(req, &rq, err);
	isolated_request_done(&rq);
	return r;
}

/* ---- GET, DELETE /v1/isolated/session/{id}, GET /v1/isolated/sessions ------------------ */

int isolated_get_one(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct isolated *s;
	int r = isolated_get(execd->isolateds, http_param(req, "id"), &s, err);
	if (r < 0)
		return r;
	json_t *o = state_of(s, "dead");
	put_echo(o, s);
	(void)json_object_set_new(o, "runs", json_integer((json_int_t)isolated_runs(s)));
	http_reply_json(req, 200, o);
	return 0;
}

struct deletion {
	struct http_req *req; /* NULL: the client has gone */
};

static void deletion_done(void *arg)
{
	struct deletion *d = arg;
	if (d->req)
		http_reply_empty(d->req, 204);
	free(d);
}

static void deletion_gone(struct http_req *req)
{
	struct deletion *d = http_data(req);
	d->req = NULL;
}

int isolated_delete_one(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct isolated *s;
	int r = isolated_get(execd->isolateds, http_param(req, "id"), &s, err);
	if (r < 0)
		return r;
	struct deletion *d = calloc(1, sizeof(*d));
	if (!d)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "delete an isolated session");
	d->req = req;
	http_set_data(req, d);
	http_on_gone(req, deletion_gone);
	isolated_delete(s, deletion_done, d);
	return 0;
}

static void list_one(void *arg, struct isolated *s)
{
	(void)json_array_append_new(arg, state_of(s, "dead"));
}

int isolated_list_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	json_t *list = json_array();
	(void)err;
	isolateds_each(execd->isolateds, list_one, list);
	http_reply_json(req, 200, json_pack("{s:o}", "sessions", list));
	return 0;
}

/* ---- GET /v1/isolated/capabilities -------------------------------------------------------- */

struct asking {
	struct http_req *req; /* NULL: the client has gone */
};

static void put_probe(json_t *o, const char *key, const struct probe_result *p, enum probe_kind kind)
{
	json_t *v = json_pack("{s:b}", "available", p->works[kind]);
	if (!p->works[kind])
		(void)json_object_set_new(v, "message", json_string(p->message[kind]));
	(void)json_object_set_new(o, key, v);
}

static void put_kept(json_t *o, const struct execd *execd)
{
	const char *problem = rooms_persist_problem(isolateds_rooms(execd->isolateds));
	json_t *v = json_pack("{s:b}", "available", problem == NULL);
	if (problem)
		(void)json_object_set_new(v, "message", json_string(problem));
	(void)json_object_set_new(o, "persist", v);
	(void)json_object_set_new(o, "size_bound",
				  json_pack("{s:s, s:s}", "memory", BOUND_AT_ONCE, "disk", BOUND_AT_END));
}

static void capabilities_known(void *arg, const struct probe_result *p)
{
	struct asking *a = arg;
	struct http_req *req = a->req;
	free(a);
	if (!req)
		return;
	bool available = p->works[PROBE_REAL] || p->works[PROBE_USERNS], overlay = p->works[PROBE_OVERLAY];
	json_t *o =
		json_pack("{s:b, s:s, s:s, s:b, s:b, s:b, s:b, s:[s, s]}", "available", available, "isolator",
			  "execd", "version", EXECD_VERSION, "setpriv_available", p->works[PROBE_REAL],
			  "userns_available", p->works[PROBE_USERNS], "diff_supported", overlay,
			  "commit_supported", overlay, "profiles", "strict", "balanced");
	if (!available)
		(void)json_object_set_new(
			o, "message",
			json_sprintf("%s; %s", p->message[PROBE_REAL], p->message[PROBE_USERNS]));
	put_probe(o, "setpriv", p, PROBE_REAL);
	put_probe(o, "userns", p, PROBE_USERNS);
	put_probe(o, "overlay", p, PROBE_OVERLAY);
	put_probe(o, "network", p, PROBE_NETWORK);
	put_probe(o, "writable_proc", p, PROBE_PROC);
	put_kept(o, http_app(req));
	http_reply_json(req, 200, o);
}

static void asking_gone(struct http_req *req)
{
	((struct asking *)http_data(req))->req = NULL;
}

int isolated_capabilities_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct asking *a = calloc(1, sizeof(*a));
	if (!a)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "look what isolation can do here");
	a->req = req;
	http_set_data(req, a);
	http_on_gone(req, asking_gone);
	int r = probe(execd->isolateds, capabilities_known, a, err);
	if (r < 0)
		free(a);
	return r;
}
