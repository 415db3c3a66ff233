/*
 * isolated.c - /v1/isolated: sessions, created, looked at, listed and deleted.
 *
 * A creation is answered when the room is ready, a deletion when nothing is left
 * of it. A client that vanishes before it has learnt of its session loses it.
 */
#include <string.h>

#include "execd/api/api.h"
#include "execd/api/spec.h"
#include "execd/confinement.h"
#include "execd/isolated/history.h"
#include "execd/isolated/isolated.h"
#include "execd/isolated/probe.h"
#include "execd/limits.h"
#include "execd/options.h"
#include "execd/path.h"
#include "lib/clock.h"
#include "proto/json.h"

#define IDLE_MAX_S ((int64_t)1 << 32)
#define BYTES_MAX  ((int64_t)1 << 50)
#define BINDS_MAX  24
#define LIST_MAX   (8U << 20)
#define STATE_MAX  (1U << 20)

static int invalid(struct err *err, const char *field, const char *what)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s: %s", field, what);
}

/* ---- the request ------------------------------------------------------------ */

/* A request as it is read; what the spec borrows besides the body is here. */
struct request {
	struct isolated_spec spec;
	struct room_mount mounts[ROOM_MOUNTS_MAX];
	struct room_bind binds[BINDS_MAX];
	const char *hide[BINDS_MAX];
	struct limits limits;
};

/* Absolute and clean, so that two paths are the same when they are equal. */
static int check_path(const char *field, const char *path, struct err *err)
{
	char *clean = *path == '/' ? strdup(path) : NULL;
	if (clean)
		path_clean(clean);
	bool same = clean && strcmp(clean, path) == 0;
	free(clean);
	if (!same)
		return err_set(
			err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			"%s: '%.128s' is not an absolute path without '.', '..' and a slash at its end",
			field, path);
	return 0;
}

/* What the room has of its own cannot be a workspace. */
static int check_workspace(const char *field, const char *path, struct err *err)
{
	static const char *const own[] = {"/proc", "/dev", "/sys"};
	int r = check_path(field, path, err);
	if (r >= 0 && strcmp(path, "/") == 0)
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOTSUP,
			       "%s: the root itself cannot be a workspace; name the directories that are",
			       field);
	for (size_t i = 0; i < ARRAY_SIZE(own) && r >= 0; i++) {
		size_t n = strlen(own[i]);
		if (strncmp(path, own[i], n) == 0 && (path[n] == '/' || path[n] == '\0'))
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "%s: '%.128s' lies in '%s', which every session has of its own", field,
				       path, own[i]);
	}
	return r;
}

static int get_mode(json_t *obj, enum room_mode *mode, struct err *err)
{
	static const char *const names[] = {[ROOM_RW] = "rw", [ROOM_RO] = "ro", [ROOM_OVERLAY] = "overlay"};
	const char *name = NULL;
	int r = json_get_str(obj, "mode", JSON_OPTIONAL, &name, err);
	if (r <= 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(name, names[i]) == 0) {
			*mode = (enum room_mode)i;
			return 0;
		}
	}
	return invalid(err, "mode", "must be 'rw', 'ro' or 'overlay'");
}

static int get_mount(struct request *rq, json_t *obj, const char *field, enum room_mode mode, struct err *err)
{
	struct room_spec *room = &rq->spec.room;
	const char *path = NULL;
	bool persist = true;
	int64_t size = 0;
	if (room->mounts_n == ROOM_MOUNTS_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "overlays: more than %d, the most of one session", ROOM_MOUNTS_MAX);
	int r = json_get_str(obj, "path", JSON_REQUIRED, &path, err);
	if (r >= 0)
		r = check_workspace(field, path, err);
	if (r >= 0)
		r = get_mode(obj, &mode, err);
	if (r < 0)
		return r;
	int given = json_get_bool(obj, "persist", JSON_OPTIONAL, &persist, err);
	if (given >= 0)
		r = json_get_int(obj, "size_bytes", JSON_OPTIONAL, 1, BYTES_MAX, &size, err);
	if (given < 0 || r < 0)
		return -EINVAL;
	if (given > 0 && mode != ROOM_OVERLAY)
		return invalid(err, field, "persist: is for overlays only");
	for (size_t i = 0; i < room->mounts_n; i++)
		if (strcmp(rq->mounts[i].path, path) == 0)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EEXIST,
				       "%s: '%.128s' is there twice", field, path);
	rq->mounts[room->mounts_n++] = (struct room_mount){.path = (char *)path,
							   .mode = mode,
							   .persist = persist,
							   .persist_must = given > 0 && persist,
							   .size_max = (uint64_t)size};
	return 0;
}

static int get_mounts(struct request *rq, json_t *body, struct err *err)
{
	json_t *workspace = NULL, *overlays = NULL, *item;
	enum room_mode mode = rq->spec.room.profile == ROOM_STRICT ? ROOM_OVERLAY : ROOM_RW;
	size_t i;
	int r = json_get_obj(body, "workspace", JSON_OPTIONAL, &workspace, err);
	if (r >= 0)
		r = json_get_arr(body, "overlays", JSON_OPTIONAL, &overlays, err);
	if (r >= 0 && workspace)
		r = get_mount(rq, workspace, "workspace", mode, err);
	json_array_foreach(overlays, i, item)
	{
		if (r >= 0 && !json_is_object(item))
			r = invalid(err, "overlays", "must be objects");
		if (r >= 0)
			r = get_mount(rq, item, "overlays", ROOM_OVERLAY, err);
	}
	if (r >= 0 && rq->spec.room.mounts_n == 0)
		return invalid(err, "workspace", "is required, or 'overlays'");
	rq->spec.room.mounts = rq->mounts;
	return r;
}

static int put_bind(struct request *rq, const struct room_bind *bind, const char *field, struct err *err)
{
	if (rq->spec.room.binds_n == BINDS_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "binds: with extra_writable more than %d, the most of one session", BINDS_MAX);
	int r = check_path(field, bind->source, err);
	if (r >= 0)
		r = check_workspace(field, bind->dest ? bind->dest : bind->source, err);
	if (r >= 0)
		rq->binds[rq->spec.room.binds_n++] = *bind;
	return r;
}

static int get_binds(struct request *rq, json_t *body, struct err *err)
{
	json_t *binds = NULL, *writable = NULL, *item;
	size_t i;
	int r = json_get_arr(body, "binds", JSON_OPTIONAL, &binds, err);
	if (r >= 0)
		r = json_get_str_arr(body, "extra_writable", JSON_OPTIONAL, &writable, err);
	json_array_foreach(binds, i, item)
	{
		struct room_bind bind = {0};
		if (r >= 0 && !json_is_object(item))
			r = invalid(err, "binds", "must be objects");
		if (r >= 0)
			r = json_get_str(item, "source", JSON_REQUIRED, &bind.source, err);
		if (r >= 0)
			r = json_get_str(item, "dest", JSON_OPTIONAL, &bind.dest, err);
		if (r >= 0)
			r = json_get_bool(item, "readonly", JSON_OPTIONAL, &bind.readonly, err);
		if (r >= 0)
			r = put_bind(rq, &bind, "binds", err);
	}
	json_array_foreach(writable, i, item)
	{
		const struct room_bind bind = {.source = json_string_value(item)};
		if (r >= 0)
			r = put_bind(rq, &bind, "extra_writable", err);
	}
	rq->spec.room.binds = rq->binds;
	return r;
}

static int get_hidden(struct request *rq, json_t *body, struct err *err)
{
	json_t *hide = NULL, *item;
	size_t i;
	int r = json_get_str_arr(body, "hide", JSON_OPTIONAL, &hide, err);
	json_array_foreach(hide, i, item)
	{
		if (r >= 0 && i >= BINDS_MAX)
			r = err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
				    "hide: more than %d paths", BINDS_MAX);
		if (r >= 0)
			r = check_workspace("hide", json_string_value(item), err);
		if (r >= 0)
			rq->hide[rq->spec.room.hide_n++] = json_string_value(item);
	}
	rq->spec.room.hide = rq->hide;
	return r;
}

static int get_profile(struct request *rq, json_t *body, struct err *err)
{
	const char *profile = "strict", *ids = NULL;
	struct room_spec *room = &rq->spec.room;
	int r = json_get_str(body, "profile", JSON_OPTIONAL, &profile, err);
	if (r >= 0)
		r = json_get_str(body, "uid_mode", JSON_OPTIONAL, &ids, err);
	if (r < 0)
		return r;
	if (strcmp(profile, "strict") != 0 && strcmp(profile, "balanced") != 0)
		return invalid(err, "profile", "must be 'strict' or 'balanced'");
	room->profile = strcmp(profile, "strict") == 0 ? ROOM_STRICT : ROOM_BALANCED;
	if (ids && strcmp(ids, "setpriv") != 0 && strcmp(ids, "userns") != 0)
		return invalid(err, "uid_mode", "must be 'setpriv' or 'userns'");
	if (ids)
		room->ids = strcmp(ids, "setpriv") == 0 ? ROOM_IDS_REAL : ROOM_IDS_USERNS;
	room->share_net = true;
	return json_get_bool(body, "share_net", JSON_OPTIONAL, &room->share_net, err);
}

static int get_ids(struct request *rq, json_t *body, struct err *err)
{
	int64_t uid = -1, gid = -1;
	int r = json_get_int(body, "uid", JSON_OPTIONAL, 0, UINT32_MAX - 1, &uid, err);
	if (r >= 0)
		r = json_get_int(body, "gid", JSON_OPTIONAL, 0, UINT32_MAX - 1, &gid, err);
	rq->spec.room.uid = (uid_t)uid;
	rq->spec.room.gid = (gid_t)gid;
	return r;
}

static int get_env(struct request *rq, json_t *body, struct err *err)
{
	json_t *env = NULL;
	const char *mode = "deny";
	struct env_filter *f = &rq->spec.env;
	f->secrets = rq->spec.room.profile == ROOM_STRICT;
	int r = json_get_obj(body, "env_passthrough", JSON_OPTIONAL, &env, err);
	if (r <= 0)
		return r;
	r = json_get_str(env, "mode", JSON_OPTIONAL, &mode, err);
	if (r >= 0)
		r = json_get_str_arr(env, "keys", JSON_OPTIONAL, &f->keys, err);
	if (r < 0)
		return r;
	f->allow = strcmp(mode, "allow") == 0;
	return f->allow || strcmp(mode, "deny") == 0
		       ? 0
		       : invalid(err, "env_passthrough.mode", "must be 'allow' or 'deny'");
}

/* How far back one can go: undoable, undo_points_max. */
static int get_history(struct request *rq, json_t *body, struct err *err)
{
	int64_t points = HISTORY_POINTS_DEFAULT;
	bool undoable = false;
	int r = json_get_bool(body, "undoable", JSON_OPTIONAL, &undoable, err);
	if (r >= 0)
		r = json_get_int(body, "undo_points_max", JSON_OPTIONAL, 2, HISTORY_POINTS_MAX, &points, err);
	for (size_t i = 0; i < rq->spec.room.mounts_n && r >= 0; i++)
		if (undoable && rq->mounts[i].mode == ROOM_RW)
			return invalid(err, "undoable",
				       "a workspace that is 'rw' cannot be undone; use 'overlay'");
	rq->spec.points_max = undoable ? (unsigned)points : 0;
	return r;
}

static int get_bounds(struct request *rq, json_t *body, struct err *err)
{
	int64_t idle = ISOLATED_IDLE_DEFAULT_MS / 1000, tmp = 0;
	int r = json_get_int(body, "idle_timeout_seconds", JSON_OPTIONAL, 0, IDLE_MAX_S, &idle, err);
	if (r >= 0)
		r = json_get_int(body, "tmp_bytes", JSON_OPTIONAL, 4096, BYTES_MAX, &tmp, err);
	if (r >= 0)
		r = limits_parse(body, &rq->limits, err);
	if (r >= 0)
		r = get_history(rq, body, err);
	if (r < 0)
		return r;
	if (rq->limits.value[LIMIT_OUTPUT])
		return invalid(err, "limits.output_bytes", "is a bound of a run, not of a session");
	rq->spec.idle_ms = (uint64_t)idle * 1000;
	rq->spec.room.tmp_max = (uint64_t)tmp;
	rq->spec.room.limits = &rq->limits;
	return 0;
}

/* What the profile brings, unless the request says otherwise. */
static int get_confinement(struct confinement *confinement, json_t *body, struct room_spec *room,
			   struct err *err)
{
	json_t *given = json_object_get(body, "confinement");
	json_t *own = json_string(room->profile == ROOM_STRICT ? "strict" : "default");
	if (!own)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "confine an isolated session");
	int r = confinement_get(confinement, CONFINED_SESSIONS, given && !json_is_null(given) ? given : own,
				&room->confine, err);
	json_decref(own);
	return r;
}

static int request_parse(struct request *rq, json_t *body, struct err *err)
{
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = get_profile(rq, body, err);
	if (r >= 0)
		r = get_mounts(rq, body, err);
	if (r >= 0)
		r = get_binds(rq, body, err);
	if (r >= 0)
		r = get_hidden(rq, body, err);
	if (r >= 0)
		r = get_ids(rq, body, err);
	if (r >= 0)
		r = get_env(rq, body, err);
	return r < 0 ? r : get_bounds(rq, body, err);
}

/* ---- the echo ------------------------------------------------------------------ */

static json_t *echo_mount(const struct room_mount *m, bool workspace)
{
	static const char *const modes[] = {[ROOM_RW] = "rw", [ROOM_RO] = "ro", [ROOM_OVERLAY] = "overlay"};
	json_t *o = json_pack("{s:s, s:s}", "path", m->path, "mode", modes[m->mode]);
	if (o && m->mode == ROOM_OVERLAY && !workspace)
		(void)json_object_set_new(o, "persist", json_boolean(m->persist));
	return o;
}

/* What the session is, with the defaults filled in. */
static json_t *make_echo(const struct request *rq, json_t *body)
{
	static const char *const as_given[] = {
		"extra_writable", "binds",  "env_passthrough", "uid",	      "gid",	  "uid_mode",
		"hide",		  "limits", "tmp_bytes",       "confinement", "undoable", "undo_points_max"};
	const struct room_spec *room = &rq->spec.room;
	json_t *o = json_pack("{s:s, s:b, s:I}", "profile",
			      room->profile == ROOM_STRICT ? "strict" : "balanced", "share_net",
			      room->share_net, "idle_timeout_seconds", (json_int_t)(rq->spec.idle_ms / 1000));
	json_t *overlays = json_array();
	for (size_t i = 0; i < room->mounts_n; i++)
		(void)json_array_append_new(overlays, echo_mount(&room->mounts[i], false));
	(void)json_object_set_new(o, "overlays", overlays);
	if (room->mounts_n == 1)
		(void)json_object_set_new(o, "workspace", echo_mount(&room->mounts[0], true));
	for (size_t i = 0; i < ARRAY_SIZE(as_given); i++) {
		json_t *v = json_object_get(body, as_given[i]);
		if (v && !json_is_null(v))
			(void)json_object_set(o, as_given[i], v);
	}
	return o;
}

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

static void creation_done(void *arg, struct isolated *s, const struct err *err)
{
	struct creation *c = arg;
	if (!s) {
		http_reply_err(c->req, err);
	} else {
		json_t *o = state_of(s, "dead");
		(void)json_object_del(o, "status");
		(void)json_object_del(o, "last_run_at");
		(void)json_object_update(o, isolated_echo(s));
		http_reply_json(c->req, 201, o);
	}
	free(c);
}

static void creation_gone(struct http_req *req)
{
	struct creation *c = http_data(req);
	isolated_delete(c->session, NULL, NULL);
	free(c);
}

int isolated_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct request rq = {0};
	json_t *body = http_json(req);
	int r = request_parse(&rq, body, err);
	if (r < 0)
		return r;
	struct creation *c = calloc(1, sizeof(*c));
	rq.spec.echo = make_echo(&rq, body);
	if (!c || !rq.spec.echo) {
		json_decref(rq.spec.echo);
		free(c);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "make an isolated session");
	}
	c->req = req;
	r = get_confinement(execd->confinement, body, &rq.spec.room, err);
	if (r >= 0)
		r = isolated_create(execd->isolateds, &rq.spec, creation_done, c, &c->session, err);
	confine_unref(rq.spec.room.confine);
	json_decref(rq.spec.echo);
	if (r < 0) {
		free(c);
		return r;
	}
	http_set_data(req, c);
	http_on_gone(req, creation_gone);
	return 0;
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
	(void)json_object_update(o, isolated_echo(s));
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
