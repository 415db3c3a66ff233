/*
 * isolated_spec.c - what an isolated session is to be, from the fields of a request.
 */
#include "execd/api/isolated_spec.h"

#include <string.h>

#include "execd/api/spec.h"
#include "execd/confinement.h"
#include "execd/isolated/history.h"
#include "execd/path.h"
#include "proto/json.h"

#define IDLE_MAX_S ((int64_t)1 << 32)
#define BYTES_MAX  ((int64_t)1 << 50)
#define BINDS_MAX  ISOLATED_BINDS_MAX

static int invalid(struct err *err, const char *field, const char *what)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s: %s", field, what);
}

/* ---- the request ------------------------------------------------------------ */

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

static int get_mount(struct isolated_request *rq, json_t *obj, const char *field, enum room_mode mode,
		     struct err *err)
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
	/* A bound is there to be held: only in memory does the kernel do that while a run is on. */
	if (given == 0 && size > 0)
		persist = false;
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

static int get_mounts(struct isolated_request *rq, json_t *body, bool need, struct err *err)
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
	if (r >= 0 && need && rq->spec.room.mounts_n == 0)
		return invalid(err, "workspace", "is required, or 'overlays'");
	rq->spec.room.mounts = rq->mounts;
	return r;
}

static int put_bind(struct isolated_request *rq, const struct room_bind *bind, const char *field,
		    struct err *err)
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

static int get_binds(struct isolated_request *rq, json_t *body, struct err *err)
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

static int get_hidden(struct isolated_request *rq, json_t *body, struct err *err)
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

static int get_profile(struct isolated_request *rq, json_t *body, struct err *err)
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

static int get_ids(struct isolated_request *rq, json_t *body, struct err *err)
{
	int64_t uid = -1, gid = -1;
	int r = json_get_int(body, "uid", JSON_OPTIONAL, 0, UINT32_MAX - 1, &uid, err);
	if (r >= 0)
		r = json_get_int(body, "gid", JSON_OPTIONAL, 0, UINT32_MAX - 1, &gid, err);
	rq->spec.room.uid = (uid_t)uid;
	rq->spec.room.gid = (gid_t)gid;
	return r;
}

static int get_env(struct isolated_request *rq, json_t *body, struct err *err)
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
static int get_history(struct isolated_request *rq, json_t *body, struct err *err)
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

static int get_bounds(struct isolated_request *rq, json_t *body, struct err *err)
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

int isolated_request_parse(struct isolated_request *rq, const struct execd *execd, json_t *body,
			   bool need_workspace, struct err *err)
{
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = get_profile(rq, body, err);
	if (r >= 0)
		r = get_mounts(rq, body, need_workspace, err);
	if (r >= 0)
		r = get_binds(rq, body, err);
	if (r >= 0)
		r = get_hidden(rq, body, err);
	if (r >= 0)
		r = get_ids(rq, body, err);
	if (r >= 0)
		r = get_env(rq, body, err);
	if (r >= 0)
		r = get_bounds(rq, body, err);
	return r < 0 ? r : get_confinement(execd->confinement, body, &rq->spec.room, err);
}

void isolated_request_done(struct isolated_request *rq)
{
	confine_unref(rq->spec.room.confine);
	json_decref(rq->spec.echo);
}

bool isolated_request_has(json_t *body)
{
	static const char *const fields[] = {
		"profile", "workspace",	  "overlays", "binds",		"extra_writable",  "share_net",
		"hide",	   "uid",	  "gid",      "uid_mode",	"env_passthrough", "tmp_bytes",
		"limits",  "confinement", "undoable", "undo_points_max"};
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (json_object_get(body, fields[i]))
			return true;
	return false;
}

/* ---- the echo ------------------------------------------------------------------ */

/* kept: whether layers can be kept on disk here; where not, those that only would like to be are not. */
static json_t *echo_mount(const struct room_mount *m, bool workspace, bool kept)
{
	static const char *const modes[] = {[ROOM_RW] = "rw", [ROOM_RO] = "ro", [ROOM_OVERLAY] = "overlay"};
	json_t *o = json_pack("{s:s, s:s}", "path", m->path, "mode", modes[m->mode]);
	if (o && m->mode == ROOM_OVERLAY && !workspace)
		(void)json_object_set_new(o, "persist", json_boolean(m->persist && kept));
	return o;
}

/* What the session is, with the defaults filled in. */
json_t *isolated_make_echo(const struct execd *execd, const struct isolated_request *rq, json_t *body)
{
	static const char *const as_given[] = {
		"extra_writable", "binds", "env_passthrough", "uid",	   "gid",
		"uid_mode",	  "hide",  "limits",	      "tmp_bytes", "confinement"};
	const struct room_spec *room = &rq->spec.room;
	json_t *o = json_pack("{s:s, s:b, s:I}", "profile",
			      room->profile == ROOM_STRICT ? "strict" : "balanced", "share_net",
			      room->share_net, "idle_timeout_seconds", (json_int_t)(rq->spec.idle_ms / 1000));
	bool kept = !rooms_persist_problem(isolateds_rooms(execd->isolateds));
	json_t *overlays = json_array();
	for (size_t i = 0; i < room->mounts_n; i++)
		(void)json_array_append_new(overlays, echo_mount(&room->mounts[i], false, kept));
	(void)json_object_set_new(o, "overlays", overlays);
	if (room->mounts_n == 1)
		(void)json_object_set_new(o, "workspace", echo_mount(&room->mounts[0], true, kept));
	for (size_t i = 0; i < ARRAY_SIZE(as_given); i++) {
		json_t *v = json_object_get(body, as_given[i]);
		if (v && !json_is_null(v))
			(void)json_object_set(o, as_given[i], v);
	}
	return o;
}
