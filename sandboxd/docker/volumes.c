/*
 * volumes.c - the volumes of a sandbox: mounts of the host, and volumes that the daemon keeps.
 *
 * Named ones are the daemon's, by the name the client gives. One that must be
 * there already is asked for first. Ephemeral ones have a label that the daemon
 * gives only to those that it makes for us; they go when no container has them.
 */
#include <stdio.h>
#include <string.h>

#include "lib/log.h"
#include "sandboxd/docker/box.h"

#define SUBPATH_MINOR 45 /* API 1.45, Docker 26: before, it would be passed over in silence */

/* ---- what is asked for ---------------------------------------------------------- */

/* What the descriptor is: the daemon opens it again by name, which nobody but the host's owner changes. */
static json_t *host_source(const struct volume *v)
{
	char link[64], path[PATH_MAX];

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", v->fd);
	ssize_t n = readlink(link, path, sizeof(path));
	return n > 0 && (size_t)n < sizeof(path) ? json_stringn(path, (size_t)n) : NULL;
}

static json_t *volume_options(const struct docker *d, const struct volume *v)
{
	json_t *o = json_pack("{s:{s:s}}", "Labels", LABEL_OWNER, d->owner);

	if (v->ephemeral)
		(void)json_object_set_new(json_object_get(o, "Labels"), LABEL_EPHEMERAL, json_string("true"));
	if (*v->sub_path)
		(void)json_object_set_new(o, "Subpath", json_string(v->sub_path));
	return o;
}

int docker_volumes_mount(const struct docker *d, const struct volumes *volumes, json_t *mounts,
			 struct err *err)
{
	for (size_t i = 0; volumes && i < volumes->n; i++) {
		const struct volume *v = &volumes->list[i];
		json_t *source = v->kind == VOLUME_HOST ? host_source(v) : json_string(v->source);
		if (!source)
			return err_set(err, ERR_INVALID, VOLUME_CODE("HOST_PATH_INVALID"), EINVAL,
				       "volume '%s': its path cannot be named to the daemon", v->name);
		json_t *m =
			json_pack("{s:s, s:o, s:s, s:b}", "Type", v->kind == VOLUME_HOST ? "bind" : "volume",
				  "Source", source, "Target", v->target, "ReadOnly", v->readonly);
		if (v->kind == VOLUME_NAMED)
			(void)json_object_set_new(m, "VolumeOptions", volume_options(d, v));
		(void)json_array_append_new(mounts, m);
	}
	return 0;
}

int docker_volumes_take(struct docker_box *b, const struct volumes *volumes)
{
	for (size_t i = 0; volumes && i < volumes->n; i++) {
		const struct volume *v = &volumes->list[i];
		if (v->kind != VOLUME_NAMED)
			continue;
		b->has_volumes = true;
		b->sub_paths |= *v->sub_path != '\0';
		if (v->create)
			continue;
		if (!b->needed)
			b->needed = calloc(VOLUMES_MAX + 1, sizeof(*b->needed));
		if (!b->needed || !(b->needed[b->needed_n] = strdup(v->source)))
			return -ENOMEM;
		b->needed_n++;
	}
	return 0;
}

/* ---- those that must be there ------------------------------------------------------ */

static void on_volume(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;
	struct err err;

	b->call = NULL;
	if (b->dying) {
		docker_box_failed(b, &b->err);
		return;
	}
	if (a->status == 404)
		(void)err_set(&err, ERR_NOT_FOUND, START_CODE, ENOENT,
			      "volume '%s' is not there, and the request does not say that it be made",
			      b->needed[b->needed_at]);
	else if (a->err)
		err = *a->err;
	if (a->err) {
		docker_box_failed(b, &err);
		return;
	}
	b->needed_at++;
	docker_volumes_check(b);
}

void docker_volumes_check(struct docker_box *b)
{
	_cleanup_buf_ struct buf path = BUF_INIT(ENGINE_PATH_MAX);
	struct engine_request r = {
		.what = "look for the volume", .method = "GET", .done = on_volume, .arg = b};
	struct err err;

	if (b->sub_paths && !engine_has_minor(b->d->engine, SUBPATH_MINOR)) {
		(void)err_set(&err, ERR_NOT_SUPPORTED, START_CODE, ENOTSUP,
			      "subPath of a named volume needs Docker 26 or later");
		docker_box_failed(b, &err);
		return;
	}
	if (b->needed_at >= b->needed_n) {
		docker_container_create(b);
		return;
	}
	b->phase = BOX_CHECKING;
	(void)buf_puts(&path, "/volumes/");
	(void)engine_escape(&path, b->needed[b->needed_at]);
	r.path = buf_cstr(&path);
	if (!r.path || engine_call(b->d->engine, &r, &b->call, &err) < 0)
		docker_box_failed(b, &err);
}

/* ---- those that nobody uses any more -------------------------------------------------- */

static void on_swept(void *arg, const struct engine_answer *a)
{
	(void)arg;
	if (a->err && a->status != 404 && a->status != 409)
		log_warn("%s", a->err->message);
}

static void remove_volume(struct docker *d, const char *name)
{
	_cleanup_buf_ struct buf path = BUF_INIT(ENGINE_PATH_MAX);
	struct engine_request r = {
		.what = "remove an ephemeral volume", .method = "DELETE", .done = on_swept, .arg = d};
	struct err err;

	(void)buf_puts(&path, "/volumes/");
	(void)engine_escape(&path, name);
	r.path = buf_cstr(&path);
	if (r.path && engine_call(d->engine, &r, NULL, &err) < 0)
		log_warn("%s", err.message);
}

static void on_unused(void *arg, const struct engine_answer *a)
{
	struct docker *d = arg;
	size_t i = 0;
	json_t *v;

	d->sweep = NULL;
	json_t *o = a->err ? NULL : json_loadb((const char *)a->body->data, a->body->len, 0, NULL);
	json_array_foreach(json_object_get(o, "Volumes"), i, v)
	{
		const char *name = json_string_value(json_object_get(v, "Name"));
		if (name)
			remove_volume(d, name);
	}
	json_decref(o);
	if (d->sweep_again)
		docker_volumes_sweep(d);
}

void docker_volumes_sweep(struct docker *d)
{
	_cleanup_buf_ struct buf path = BUF_INIT(ENGINE_PATH_MAX);
	struct engine_request r = {
		.what = "list the volumes that nobody uses", .method = "GET", .done = on_unused, .arg = d};
	char filters[200];
	struct err err;

	d->sweep_again = d->sweep;
	if (d->sweep)
		return;
	(void)snprintf(filters, sizeof(filters),
		       "{\"dangling\":[\"true\"],\"label\":[\"" LABEL_OWNER "=%s\",\"" LABEL_EPHEMERAL
		       "=true\"]}",
		       d->owner);
	(void)buf_puts(&path, "/volumes?filters=");
	(void)engine_escape(&path, filters);
	r.path = buf_cstr(&path);
	if (engine_call(d->engine, &r, &d->sweep, &err) < 0)
		log_warn("%s", err.message);
}
