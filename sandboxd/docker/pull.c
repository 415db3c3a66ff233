/*
 * pull.c - fetches an image that is not there, and says how far it is.
 *
 * The daemon tells in lines of JSON what it does to which layer; a failure is
 * one of them, for the status has been sent by then. What is told on is the
 * number of layers that are done and the bytes that have come, whenever it is
 * worth a word: the row of the sandbox is written each time. The time limit is
 * that of every image, whatever comes meanwhile.
 *
 * At most image_pulls_max images are fetched at once; the others wait for their
 * turn, with a box in BOX_PULLING that has no call. An image that is on its way
 * for another sandbox takes no place: the daemon fetches it once.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "sandboxd/docker/box.h"

#define DEADLINE_ADD 5	 /* s: our own limit comes first and says more */
#define LAYERS_MAX   127 /* that an image may have */
#define TELL_STEP    20	 /* parts of what is to come, at least TELL_MIN */
#define TELL_MIN     (1ull << 20)
#define MB	     1e6

struct layer {
	char id[16];
	uint64_t bytes, total;
	bool done;
};

struct pull {
	struct docker_box *box;
	struct loop_timer timer;
	uint64_t began_ms;
	bool joins; /* another's of the same image was under way when it began */
	struct layer layers[LAYERS_MAX];
	size_t layers_n, done;
	size_t told_n, told_done;
	uint64_t told_bytes;
};

/* ---- how far it is ------------------------------------------------------------ */

static void tell(struct pull *p, const char *reason, const char *message)
{
	struct docker_box *b = p->box;
	uint64_t limit_ms = (uint64_t)b->d->config->image_max_s * 1000;
	uint64_t passed_ms = MIN(loop_now_ms(b->d->env.loop) - p->began_ms, limit_ms);

	b->box->events->progress(b->box, reason, message,
				 (uint32_t)((limit_ms - passed_ms) / 1000) + DEADLINE_ADD);
}

static void tell_far(struct pull *p)
{
	uint64_t bytes = 0, total = 0;
	char message[160];

	for (size_t i = 0; i < p->layers_n; i++) {
		bytes += p->layers[i].bytes;
		total += p->layers[i].total;
	}
	if (p->done == p->told_done && p->layers_n == p->told_n &&
	    bytes < p->told_bytes + MAX(total / TELL_STEP, TELL_MIN))
		return;
	p->told_done = p->done;
	p->told_n = p->layers_n;
	p->told_bytes = bytes;
	(void)snprintf(message, sizeof(message),
		       "The image is being fetched: %zu of %zu layers, %.1f of %.1f MB.", p->done,
		       p->layers_n, (double)bytes / MB, (double)total / MB);
	tell(p, "image_pulling", message);
}

static struct layer *layer_of(struct pull *p, const char *id)
{
	for (size_t i = 0; i < p->layers_n; i++)
		if (strncmp(p->layers[i].id, id, sizeof(p->layers[i].id) - 1) == 0)
			return &p->layers[i];
	if (p->layers_n == LAYERS_MAX)
		return NULL;
	struct layer *l = &p->layers[p->layers_n++];
	(void)snprintf(l->id, sizeof(l->id), "%s", id);
	return l;
}

static uint64_t amount(const json_t *detail, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(detail, key));
	return n > 0 && n < (json_int_t)1 << 50 ? (uint64_t)n : 0;
}

/* What is said of a layer. "Pulling from NAME" has a tag where others have a layer. */
static void see_layer(struct pull *p, const char *id, const char *status, const json_t *detail)
{
	bool there = strcmp(status, "Already exists") == 0 || strcmp(status, "Pull complete") == 0;

	if (strncmp(status, "Pulling from", 12) == 0)
		return;
	struct layer *l = layer_of(p, id);
	if (!l)
		return;
	if (strcmp(status, "Downloading") == 0) {
		l->total = MAX(l->total, amount(detail, "total"));
		l->bytes = MAX(l->bytes, amount(detail, "current"));
	} else if (there || strcmp(status, "Download complete") == 0) {
		l->bytes = l->total;
	}
	if (there && !l->done) {
		l->done = true;
		p->done++;
	}
}

static void read_line(struct docker_box *b, const char *line, size_t n)
{
	json_t *o = json_loadb(line, n, 0, NULL);
	const char *error = json_string_value(json_object_get(o, "error"));
	const char *id = json_string_value(json_object_get(o, "id"));
	const char *status = json_string_value(json_object_get(o, "status"));

	if (error && !b->err.errnum)
		(void)err_set(&b->err, ERR_BAD_GATEWAY, START_CODE, EREMOTEIO, "pull image '%.128s': %.300s",
			      b->image, error);
	if (id && status)
		see_layer(b->pull, id, status, json_object_get(o, "progressDetail"));
	json_decref(o);
}

static void on_progress(void *arg, struct buf *in)
{
	struct docker_box *b = arg;
	const uint8_t *end;
	size_t at = 0;

	while ((end = memchr(in->data + at, '\n', in->len - at))) {
		read_line(b, (const char *)in->data + at, (size_t)(end - in->data) - at);
		at = (size_t)(end - in->data) + 1;
	}
	buf_consume(in, at);
	if (!b->dying)
		tell_far(b->pull);
}

static void take_turns(struct loop_defer *turns);

/* ---- its end -------------------------------------------------------------------- */

void docker_pull_free(struct docker_box *b)
{
	if (!b->pull)
		return;
	loop_timer_del(&b->pull->timer);
	free(b->pull);
	b->pull = NULL;
	loop_defer(b->d->env.loop, &b->d->turns, take_turns);
}

static void on_pulled(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;

	if (a->body->len > 0 && !a->err)
		read_line(b, (const char *)a->body->data, a->body->len);
	docker_pull_free(b);
	if (a->err)
		(void)err_set(&b->err, a->err->kind, START_CODE, EREMOTEIO, "image '%.128s': %.300s",
			      b->image, a->err->message);
	if (!docker_step_done(b, a->err ? &(struct engine_answer){.err = &b->err} : a))
		return;
	if (b->err.errnum) {
		docker_box_failed(b, &b->err);
		return;
	}
	b->box->pulled_usec = clock_mono_usec();
	b->box->events->progress(b->box, "provisioning", "Sandbox is being created.", 0);
	docker_container_create(b);
}

/* The daemon goes on for whoever else wants it, and keeps what it has. */
static void on_timer(struct loop_timer *t)
{
	struct docker_box *b = container_of(t, struct pull, timer)->box;
	struct err err;

	(void)err_set(&err, ERR_TIMEOUT, START_CODE, ETIMEDOUT,
		      "image '%.128s': fetching it took longer than sandboxd.image_timeout_seconds (%u)",
		      b->image, b->d->config->image_max_s);
	engine_cancel(&b->call);
	docker_pull_free(b);
	docker_box_failed(b, &err);
}

/* ---- its begin ------------------------------------------------------------------- */

static bool has_turn(const struct docker_box *b)
{
	unsigned others = 0;

	b->pull->joins = false;
	list_foreach_safe (l, &b->d->boxes) {
		const struct docker_box *o = list_entry(l, struct docker_box, link);
		if (o == b || !o->pull || !o->call)
			continue;
		if (strcmp(o->image, b->image) == 0)
			b->pull->joins = true;
		others += !o->pull->joins;
	}
	return b->pull->joins || others < b->d->config->image_pulls_max;
}

static int begin(struct docker_box *b, struct err *err)
{
	_cleanup_buf_ struct buf path = BUF_INIT(ENGINE_PATH_MAX);
	struct engine_request r = {
		.what = "pull the image",
		.method = "POST",
		.registry_auth = b->auth,
		.endless = true, /* the timer holds */
		.data = on_progress,
		.done = on_pulled,
		.arg = b,
	};

	int e = spec_pull_path(b->image, &path);
	r.path = buf_cstr(&path);
	if (e < 0 || !r.path)
		return err_set(err, ERR_INVALID, START_CODE, E2BIG, "image '%.64s...' is too long a name",
			       b->image);
	e = engine_call(b->d->engine, &r, &b->call, err);
	docker_wipe(&b->auth); /* libcurl has its own copy, for as long as the call */
	return e;
}

static void failed(struct docker_box *b, const struct err *err)
{
	docker_wipe(&b->auth);
	docker_pull_free(b);
	docker_box_failed(b, err);
}

static void take_turn(struct docker_box *b)
{
	struct err err;

	if (begin(b, &err) < 0) {
		failed(b, &err);
		return;
	}
	log_info("sandbox %s: pulling %s", b->box->id, b->image);
	tell(b->pull, "image_pulling", "The image is being fetched.");
}

static void take_turns(struct loop_defer *turns)
{
	struct docker *d = container_of(turns, struct docker, turns);

	list_foreach_safe (l, &d->boxes) {
		struct docker_box *b = list_entry(l, struct docker_box, link);
		if (b->pull && !b->call && !b->dying && has_turn(b))
			take_turn(b);
	}
}

void docker_pull(struct docker_box *b)
{
	struct loop *loop = b->d->env.loop;
	struct err err;

	b->phase = BOX_PULLING;
	b->pulled = true;
	b->err = (struct err){0};
	b->pull = calloc(1, sizeof(*b->pull));
	if (!b->pull) {
		(void)err_set(&err, ERR_INTERNAL, START_CODE, ENOMEM, "out of memory");
		failed(b, &err);
		return;
	}
	b->pull->box = b;
	b->pull->began_ms = loop_now_ms(loop);
	int e = loop_timer_set(loop, &b->pull->timer,
			       b->pull->began_ms + (uint64_t)b->d->config->image_max_s * 1000, on_timer);
	if (e < 0) {
		(void)err_sys(&err, START_CODE, -e, "pull the image");
		failed(b, &err);
	} else if (has_turn(b)) {
		take_turn(b);
	} else {
		tell(b->pull, "image_waiting", "The image waits until others have been fetched.");
	}
}
