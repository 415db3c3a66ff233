/*
 * start.c - from a request to a container whose agent listens.
 */
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "sandboxd/docker/box.h"

#define START_TRIES 32 /* while somebody else has the port that the daemon picks */

static void attach(struct docker_box *b);

void docker_box_failed(struct docker_box *b, const struct err *err)
{
	engine_cancel(&b->attach);
	b->phase = BOX_ENDED;
	if (b->dying) {
		docker_box_remove(b);
		return;
	}
	struct err told = *err;
	if (told.kind != ERR_UNAVAILABLE)
		told.code = START_CODE;
	b->box->events->failed(b->box, &told);
}

bool docker_step_done(struct docker_box *b, const struct engine_answer *a)
{
	b->call = NULL;
	if (b->dying) {
		b->phase = BOX_ENDED;
		docker_box_remove(b);
	} else if (a->err) {
		docker_box_failed(b, a->err);
	} else {
		return true;
	}
	return false;
}

/* ---- COMING ------------------------------------------------------------------- */

static void check_coming(struct docker_box *b)
{
	if (b->phase != BOX_COMING || !b->listens)
		return;
	if (!b->spare)
		engine_cancel(&b->attach);
	b->phase = BOX_RUNNING;
	b->told = true;
	b->box->events->started(b->box, b->container, b->notes);
}

/* "listening on HOST:PORT": the agent's first words, before anybody else can speak. */
static void read_announcement(struct docker_box *b)
{
	static const char words[] = ANNOUNCEMENT;
	const char *end = memchr(b->said, '\n', b->said_n);
	const char *colon = end ? memrchr(b->said, ':', (size_t)(end - b->said)) : NULL;

	if (!end || b->listens || b->said_n < strlen(words) || memcmp(b->said, words, strlen(words)) != 0)
		return;
	b->listens = true;
	unsigned long port = colon ? strtoul(colon + 1, NULL, 10) : 0;
	if (strcmp(b->d->config->docker.network_mode, "host") == 0)
		b->box->port = port <= UINT16_MAX ? (uint16_t)port : 0;
}

static void on_output(void *arg, struct buf *in)
{
	struct docker_box *b = arg;
	_cleanup_buf_ struct buf out = BUF_INIT(ANNOUNCE_MAX);

	int r = output_demux(in, &out);
	size_t n = MIN(out.len, sizeof(b->said) - b->said_n);
	if (n > 0)
		memcpy(b->said + b->said_n, out.data, n);
	b->said_n += n;
	if (r < 0) /* it cannot be understood: then the deadline of the creation ends it */
		buf_clear(in);
	read_announcement(b);
	check_coming(b);
}

/* Its output has ended: so will it, and the daemon's event says how. */
static void on_output_end(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;

	b->attach = NULL;
	if (b->phase == BOX_ATTACHING) {
		if (docker_step_done(b, a))
			docker_box_failed(
				b, &(struct err){.kind = ERR_BAD_GATEWAY,
						 .message = "attach to the container: the stream ended"});
	} else if (b->phase == BOX_LIMITING || b->phase == BOX_TELLING) {
		docker_box_failed(b, &(struct err){.kind = ERR_BAD_GATEWAY,
						   .message = "the spare has ended before it was told what "
							      "it is for"});
	} else if (b->phase == BOX_COMING || b->phase == BOX_RUNNING) {
		docker_box_ended(b);
	}
}

/* ---- LOOKING ---------------------------------------------------------------------- */

static uint16_t published_port(const json_t *container)
{
	char key[16];

	(void)snprintf(key, sizeof(key), "%d/tcp", EXECD_PORT_INSIDE);
	const json_t *ports = json_object_get(json_object_get(container, "NetworkSettings"), "Ports");
	const json_t *binding = json_array_get(json_object_get(ports, key), 0);
	const char *port = json_string_value(json_object_get(binding, "HostPort"));
	unsigned long n = port ? strtoul(port, NULL, 10) : 0;
	return n <= UINT16_MAX ? (uint16_t)n : 0;
}

static void on_looked(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;

	if (!docker_step_done(b, a))
		return;
	json_t *o = json_loadb((const char *)a->body->data, a->body->len, 0, NULL);
	bool runs = json_is_true(json_object_get(json_object_get(o, "State"), "Running"));
	uint16_t port = published_port(o);
	json_decref(o);
	if (strcmp(b->d->config->docker.network_mode, "host") != 0)
		b->box->port = port;
	b->phase = BOX_COMING;
	if (b->ended || !runs || !b->attach) {
		docker_box_ended(b);
		return;
	}
	if (!port && strcmp(b->d->config->docker.network_mode, "host") != 0) {
		struct err err;
		(void)err_set(&err, ERR_BAD_GATEWAY, START_CODE, EPROTO,
			      "the daemon has published no port for the agent in network '%s'",
			      b->d->config->docker.network_mode);
		docker_box_failed(b, &err);
		return;
	}
	check_coming(b);
}

/* ---- STARTING ----------------------------------------------------------------------- */

/* As many as there are ports, where they are ours to choose. */
static unsigned start_tries(const struct config_docker *c)
{
	if (!c->port_range_min || !c->port_range_max)
		return START_TRIES;
	return MIN((unsigned)START_TRIES, c->port_range_max - c->port_range_min + 1U);
}

/*
 * The daemon knows which ports it has given away, not which others are in use:
 * it picks one, fails, and picks later ones when it is asked again. Its words are
 * all that tells this from other failures.
 */
static bool port_is_taken(struct docker_box *b, const struct engine_answer *a)
{
	return a->err && a->status >= 400 &&
	       (strstr(a->err->message, "address already in use") ||
		strstr(a->err->message, "port is already allocated")) &&
	       ++b->starts < start_tries(&b->d->config->docker);
}

/* The attempt has ended the attachment too, or is about to: that was nobody's death. */
static void start_again(struct docker_box *b, const struct err *why)
{
	log_info("sandbox %s: %s; another port is tried", b->box->id, why->message);
	b->call = NULL;
	engine_cancel(&b->attach);
	b->ended = false;
	b->said_n = 0;
	attach(b);
}

static void on_started(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;
	struct err err;

	if (!b->dying && port_is_taken(b, a)) {
		start_again(b, a->err);
		return;
	}
	if (!docker_step_done(b, a))
		return;
	b->phase = BOX_LOOKING;
	if (docker_box_call(b, &b->call, "look at the container", "GET", "/json", on_looked, &err) < 0)
		docker_box_failed(b, &err);
}

static void on_attached(void *arg)
{
	struct docker_box *b = arg;
	struct err err;

	if (b->phase != BOX_ATTACHING)
		return;
	b->phase = BOX_STARTING;
	if (b->dying)
		docker_box_failed(b, &b->err);
	else if (docker_box_call(b, &b->call, "start the container", "POST", "/start", on_started, &err) < 0)
		docker_box_failed(b, &err);
}

static void attach(struct docker_box *b)
{
	char path[ENGINE_PATH_MAX];
	const struct engine_request r = {
		.what = "attach to the container",
		.method = "POST",
		.path = path,
		.endless = true,
		.input = b->spare,
		.opened = on_attached,
		.data = on_output,
		.done = on_output_end,
		.arg = b,
	};
	struct err err;

	b->phase = BOX_ATTACHING;
	(void)snprintf(path, sizeof(path), "/containers/%s/attach?stream=1&stdout=1&stderr=1%s", b->name,
		       b->spare ? "&stdin=1" : "");
	if (engine_call(b->d->engine, &r, &b->attach, &err) < 0)
		docker_box_failed(b, &err);
}

/* ---- TOKEN ---------------------------------------------------------------------------- */

static void on_token(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;

	if (docker_step_done(b, a))
		attach(b);
}

static void put_token(struct docker_box *b)
{
	_cleanup_buf_ struct buf tar = BUF_INIT(16384);
	char path[ENGINE_PATH_MAX];
	struct engine_request r = {
		.what = "give the container its token",
		.method = "PUT",
		.path = path,
		.type = "application/x-tar",
		.done = on_token,
		.arg = b,
	};
	struct err err;

	b->phase = BOX_TOKEN;
	(void)snprintf(path, sizeof(path), "/containers/%s/archive?path=%%2F", b->name);
	int e = spec_token_tar(b->token, &tar);
	r.body = tar.data;
	r.body_n = tar.len;
	if (e < 0)
		e = err_sys(&err, START_CODE, -e, "write the token");
	else
		e = engine_call(b->d->engine, &r, &b->call, &err);
	explicit_bzero(b->token, sizeof(b->token));
	if (tar.data)
		explicit_bzero(tar.data, tar.len);
	if (e < 0)
		docker_box_failed(b, &err);
}

/* ---- CREATING ----------------------------------------------------------------------------- */

static void take_warnings(struct docker_box *b, const json_t *warnings)
{
	size_t i = 0, n = 0;
	json_t *w;

	json_array_foreach(warnings, i, w) if (json_is_string(w) && n < sizeof(b->notes) - 1) n +=
		(size_t)snprintf(b->notes + n, sizeof(b->notes) - n, "%s%.120s", n ? " " : "",
				 json_string_value(w));
}

static void on_created(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;

	if (a->status == 404 && b->image && !b->pulled && !b->dying && b->d->config->pull_images) {
		b->call = NULL;
		docker_pull(b);
		return;
	}
	if (!docker_step_done(b, a))
		return;
	json_t *o = json_loadb((const char *)a->body->data, a->body->len, 0, NULL);
	const char *id = json_string_value(json_object_get(o, "Id"));
	bool ok = id && *id && strlen(id) < sizeof(b->container) && !id[strspn(id, "0123456789abcdef")];
	if (ok) {
		(void)snprintf(b->container, sizeof(b->container), "%s", id);
		take_warnings(b, json_object_get(o, "Warnings"));
	}
	json_decref(o);
	if (!ok) {
		struct err err;
		(void)err_set(&err, ERR_BAD_GATEWAY, START_CODE, EPROTO,
			      "create the container: the daemon's answer names none");
		docker_box_failed(b, &err);
		return;
	}
	b->box->prepared_usec = clock_mono_usec();
	if (*b->token)
		put_token(b);
	else
		attach(b);
}

void docker_container_create(struct docker_box *b)
{
	char path[ENGINE_PATH_MAX];
	const struct engine_request r = {
		.what = "create the container",
		.method = "POST",
		.path = path,
		.body = b->spec,
		.body_n = strlen(b->spec),
		.done = on_created,
		.arg = b,
	};
	struct err err;

	b->phase = BOX_CREATING;
	b->asked = true;
	(void)snprintf(path, sizeof(path), "/containers/create?name=%s", b->name);
	if (engine_call(b->d->engine, &r, &b->call, &err) < 0)
		docker_box_failed(b, &err);
}

static void begin(struct loop_defer *soon)
{
	struct docker_box *b = container_of(soon, struct docker_box, soon);
	struct err err;

	if (b->phase != BOX_WAITING || b->dying)
		return;
	if (docker_link_check(b->d, &err) < 0)
		docker_box_failed(b, &err);
	else
		docker_volumes_check(b);
}

void docker_box_begin(struct docker_box *b)
{
	loop_defer(b->d->env.loop, &b->soon, begin);
}

/* ---- create and adopt ------------------------------------------------------------------------ */

int docker_create(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec,
		  struct err *err)
{
	struct docker *d = docker_of(rt);

	int r = docker_link_check(d, err);
	if (r == 0 && spec->limits.disk_bytes)
		r = err_set(err, ERR_INVALID, "SANDBOX::API_NOT_SUPPORTED", EOPNOTSUPP,
			    "resourceLimits: the docker runtime cannot limit the disk of a sandbox");
	if (r < 0)
		return r;
	struct docker_box *b = docker_box_new(d, box);
	if (!b)
		return err_set(err, ERR_INTERNAL, START_CODE, ENOMEM, "out of memory");
	(void)snprintf(b->snapshot, sizeof(b->snapshot), "%s", spec->snapshot ? spec->snapshot : "");
	(void)snprintf(b->token, sizeof(b->token), "%s", spec->token ? spec->token : "");
	b->spare = spec->spare;
	if (b->spare) {
		b->limits.memory_bytes = d->likely.memory_bytes;
		b->limits.cpu_millis = d->likely.cpu_millis;
		b->limits.pids = spec->limits.pids;
	}
	const struct runtime_spec own = {.image = spec->image, .spare = true, .limits = b->limits};
	r = spec_container(d, box, b->spare ? &own : spec, &b->spec, err);
	if (r == 0 && docker_volumes_take(b, spec->volumes) < 0)
		r = err_set(err, ERR_INTERNAL, START_CODE, ENOMEM, "out of memory");
	if (r == 0 && !spec->snapshot && !(b->image = strdup(spec->image.uri)))
		r = err_set(err, ERR_INTERNAL, START_CODE, ENOMEM, "out of memory");
	if (r == 0 && spec->image.username)
		r = spec_registry_auth(&spec->image, &b->auth, err);
	if (r < 0) {
		docker_box_free(b);
		return r;
	}
	if (d->link != LINK_FIRST)
		docker_box_begin(b);
	return 0;
}

/* Whether it is so is seen when the daemon lists what it has; until then it is believed. */
int docker_adopt(struct runtime *rt, struct runtime_box *box, const char *handle)
{
	struct docker_box *b = docker_box_new(docker_of(rt), box);

	if (!b)
		return -ENOMEM;
	(void)snprintf(b->container, sizeof(b->container), "%s", handle);
	b->phase = BOX_RUNNING;
	b->asked = b->told = true;
	b->has_volumes = true; /* it may */
	return 0;
}
