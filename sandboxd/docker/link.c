/*
 * link.c - owns what we know of the daemon: whether it is there, and what it has.
 *
 *   ping (its version) -> events (open) -> list (all that is ours) -> UP
 *      any failure, or the end of the events -> DOWN -> after a while, again
 *
 * Events are asked for before the list, so nothing falls between: what the list
 * shows late an event has told, and what is told twice is told once.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "sandboxd/docker/box.h"

#define RETRY_FIRST_MS 100
#define RETRY_MAX_MS   5000
#define SINCE_S	       5

static void ask_version(struct docker *d);
static void ask_list(struct docker *d);
static void ask_snapshots(struct docker *d);

int docker_link_check(const struct docker *d, struct err *err)
{
	if (d->link != LINK_DOWN)
		return 0;
	if (err)
		*err = d->why;
	return -ECONNREFUSED;
}

static void on_retry(struct loop_timer *t)
{
	ask_version(container_of(t, struct docker, retry));
}

static void link_down(struct docker *d, const struct err *why)
{
	bool news = d->link != LINK_DOWN;

	engine_cancel(&d->ping);
	engine_cancel(&d->events);
	engine_cancel(&d->list);
	engine_cancel(&d->images);
	engine_cancel(&d->sweep);
	d->list_again = d->images_again = d->sweep_again = false;
	d->link = LINK_DOWN;
	d->why = *why;
	d->why.kind = ERR_UNAVAILABLE;
	d->why.code = "SANDBOX::UNAVAILABLE";
	if (news)
		log_error("%s", why->message);
	d->finder.away(d->finder.arg, true);
	if (news)
		d->retry_ms = RETRY_FIRST_MS;
	(void)loop_timer_set(d->env.loop, &d->retry, loop_now_ms(d->env.loop) + d->retry_ms, on_retry);
	d->retry_ms = MIN(d->retry_ms * 2, (unsigned)RETRY_MAX_MS);
	if (!news)
		return;
	list_foreach_safe (l, &d->boxes) { /* these waited for the first answer */
		struct docker_box *b = list_entry(l, struct docker_box, link);
		if (b->phase == BOX_WAITING && !b->dying)
			docker_box_begin(b);
		else if (b->spare &&
			 (b->phase == BOX_ATTACHING || b->phase == BOX_COMING || b->phase == BOX_RUNNING))
			docker_box_lost(
				b); /* its input, which says nothing of its end while nothing is sent */
		else if (b->freeze_waits)
			docker_box_freeze_now(b);
	}
}

void docker_link_doubt(struct docker *d, const struct err *why)
{
	if (d->link == LINK_UP)
		link_down(d, why);
}

static void broken(struct docker *d, const char *what)
{
	struct err err;

	(void)err_set(&err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", EPROTO,
		      "the Docker daemon at %s cannot be understood: %s", engine_address(d->engine), what);
	link_down(d, &err);
}

/* An answer, and not the one that was wanted; or none. */
static void refused(struct docker *d, const struct engine_answer *a)
{
	if (a->status)
		broken(d, a->err->message);
	else
		link_down(d, a->err);
}

/* ---- what it has ------------------------------------------------------------- */

/* The agent's port as the list shows it; with the host's network it shows none. */
static uint16_t port_of(const json_t *c)
{
	size_t i = 0;
	json_t *p;

	json_array_foreach(json_object_get(c, "Ports"), i, p)
	{
		json_int_t n = json_integer_value(json_object_get(p, "PublicPort"));
		if (json_integer_value(json_object_get(p, "PrivatePort")) == EXECD_PORT_INSIDE && n > 0 &&
		    n <= UINT16_MAX)
			return (uint16_t)n;
	}
	return 0;
}

static void tell_stranger(struct docker *d, const json_t *c, const char *id)
{
	_cleanup_free_ char *kept = docker_record_read(d, id);
	const char *state = json_string_value(json_object_get(c, "State"));
	struct runtime_found found = {
		.id = id,
		.record =
			kept ? kept
			     : json_string_value(json_object_get(json_object_get(c, "Labels"), LABEL_RECORD)),
		.port = port_of(c),
		.paused = state && strcmp(state, "paused") == 0,
	};

	if (state && (found.paused || strcmp(state, "running") == 0))
		found.handle = json_string_value(json_object_get(c, "Id"));
	d->finder.sandbox(d->finder.arg, &found);
}

static void see_container(struct docker *d, const json_t *c)
{
	const json_t *labels = json_object_get(c, "Labels");
	const char *id = json_string_value(json_object_get(labels, LABEL_ID));
	const char *snapshot = json_string_value(json_object_get(labels, LABEL_SNAPSHOT));
	const char *container = json_string_value(json_object_get(c, "Id"));
	const char *state = json_string_value(json_object_get(c, "State"));
	struct docker_box *b = docker_box_id_ok(id) ? docker_box_find(d, id) : NULL;

	if (!b && docker_box_id_ok(id) && container) {
		tell_stranger(d, c, id);
		b = docker_box_find(d, id); /* it may have been adopted */
	}
	if (!b || b->phase != BOX_RUNNING || !container || strcmp(container, b->container) != 0)
		return;
	b->listed = true;
	if (snapshot)
		(void)snprintf(b->snapshot, sizeof(b->snapshot), "%s", snapshot);
	if (!state || (strcmp(state, "running") != 0 && strcmp(state, "paused") != 0))
		docker_box_ended(b);
}

static void reconcile(struct docker *d, const json_t *containers)
{
	size_t i = 0;
	json_t *c;

	list_foreach_safe (l, &d->boxes)
		list_entry(l, struct docker_box, link)->listed = false;
	json_array_foreach(containers, i, c) see_container(d, c);
	list_foreach_safe (l, &d->boxes) {
		struct docker_box *b = list_entry(l, struct docker_box, link);
		if (b->phase == BOX_RUNNING && !b->listed)
			docker_box_lost(b);
		else if (b->phase == BOX_WAITING)
			docker_box_begin(b);
		else if (b->phase == BOX_REMOVING)
			docker_box_remove(b);
		else if (b->freeze_waits)
			docker_box_freeze_now(b);
	}
}

static void on_list(void *arg, const struct engine_answer *a)
{
	struct docker *d = arg;

	d->list = NULL;
	if (a->err) {
		refused(d, a);
		return;
	}
	json_t *all = json_loadb((const char *)a->body->data, a->body->len, 0, NULL);
	if (!json_is_array(all)) {
		json_decref(all);
		broken(d, "its list of containers is none");
		return;
	}
	if (d->link == LINK_DOWN)
		log_info("the Docker daemon at %s is back", engine_address(d->engine));
	bool first = d->link != LINK_UP;
	d->link = LINK_UP;
	d->retry_ms = RETRY_FIRST_MS;
	d->finder.away(d->finder.arg, false);
	reconcile(d, all);
	if (first) {
		docker_agents_clean(d, all);
		docker_records_clean(d);
	}
	json_decref(all);
	if (first)
		docker_removals_begin(d);
	if (first)
		ask_snapshots(d);
	if (first)
		docker_volumes_sweep(d);
	if (d->list_again)
		ask_list(d);
}

static int get_filtered(struct docker *d, const char *what, const char *base,
			void (*done)(void *arg, const struct engine_answer *a), struct engine_call **slot)
{
	_cleanup_buf_ struct buf path = BUF_INIT(ENGINE_PATH_MAX);
	struct engine_request r = {.what = what, .method = "GET", .done = done, .arg = d};
	char filters[160];
	struct err err;

	(void)snprintf(filters, sizeof(filters), "{\"label\":[\"" LABEL_OWNER "=%s\"]}", d->owner);
	(void)buf_puts(&path, base);
	(void)engine_escape(&path, filters);
	r.path = buf_cstr(&path);
	int e = engine_call(d->engine, &r, slot, &err);
	if (e < 0)
		link_down(d, &err);
	return e;
}

static void ask_list(struct docker *d)
{
	d->list_again = d->list;
	if (!d->list)
		(void)get_filtered(d, "list the containers", "/containers/json?all=1&filters=", on_list,
				   &d->list);
}

/* ---- its snapshots: which of them are wanted is not ours to say ------------------ */

static void see_image(struct docker *d, const json_t *image)
{
	const json_t *labels = json_object_get(image, "Labels"); /* those of the container that it was */
	static const char repo[] = SNAPSHOT_REPO ":";
	size_t i = 0;
	json_t *tag;

	json_array_foreach(json_object_get(image, "RepoTags"), i, tag)
	{
		const char *name = json_string_value(tag);
		if (name && strncmp(name, repo, strlen(repo)) == 0 && docker_box_id_ok(name + strlen(repo)))
			d->finder.snapshot(
				d->finder.arg,
				&(struct runtime_found){
					.id = name + strlen(repo),
					.of = json_string_value(json_object_get(labels, LABEL_ID)),
					.record = json_string_value(json_object_get(labels, LABEL_RECORD)),
				});
	}
}

static void on_snapshots(void *arg, const struct engine_answer *a)
{
	struct docker *d = arg;
	size_t i = 0;
	json_t *image;

	d->images = NULL;
	json_t *all = a->err ? NULL : json_loadb((const char *)a->body->data, a->body->len, 0, NULL);
	if (a->err)
		log_warn("%s", a->err->message);
	json_array_foreach(all, i, image) see_image(d, image);
	json_decref(all);
	if (d->images_again)
		ask_snapshots(d);
}

static void ask_snapshots(struct docker *d)
{
	d->images_again = d->images;
	if (!d->images)
		(void)get_filtered(d, "list the snapshots", "/images/json?filters=", on_snapshots,
				   &d->images);
}

/* ---- what happens ---------------------------------------------------------------- */

static void see_event(struct docker *d, const json_t *e)
{
	const char *action = json_string_value(json_object_get(e, "Action"));
	const json_t *actor = json_object_get(e, "Actor");
	const char *id = json_string_value(json_object_get(json_object_get(actor, "Attributes"), LABEL_ID));
	const char *container = json_string_value(json_object_get(actor, "ID"));

	if (!action || !container || !docker_box_id_ok(id))
		return;
	struct docker_box *b = docker_box_find(d, id);
	bool destroyed = strcmp(action, "destroy") == 0;
	if (strcmp(action, "commit") == 0) {
		if (!b || !*b->taking) /* nobody waits for it any more */
			ask_snapshots(d);
	} else if (!b) {
		if (!destroyed) /* asked for by a life before this one */
			ask_list(d);
	} else if (b->phase == BOX_REMOVING) {
		if (destroyed)
			docker_box_remove(b);
	} else if (strcmp(container, b->container) == 0 && (destroyed || strcmp(action, "die") == 0)) {
		docker_box_ended(b);
	} else if (strcmp(container, b->container) == 0 && strcmp(action, "oom") == 0) {
		docker_box_starved(b);
	}
}

static void on_events(void *arg, struct buf *in)
{
	struct docker *d = arg;
	const uint8_t *end;
	size_t at = 0;
	bool bad = false;

	while (!bad && (end = memchr(in->data + at, '\n', in->len - at))) {
		json_t *e = json_loadb((const char *)in->data + at, (size_t)(end - in->data) - at, 0, NULL);
		bad = !json_is_object(e);
		if (!bad)
			see_event(d, e);
		json_decref(e);
		at = (size_t)(end - in->data) + 1;
	}
	buf_consume(in, at);
	if (bad)
		broken(d, "an event is none");
}

static void on_events_open(void *arg)
{
	ask_list(arg);
}

static void on_events_end(void *arg, const struct engine_answer *a)
{
	struct docker *d = arg;
	struct err err;

	d->events = NULL;
	(void)err_set(&err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ECONNRESET,
		      "the Docker daemon at %s has gone away", engine_address(d->engine));
	if (a->err)
		refused(d, a);
	else
		link_down(d, &err);
}

static void ask_events(struct docker *d)
{
	_cleanup_buf_ struct buf path = BUF_INIT(ENGINE_PATH_MAX);
	struct engine_request r = {
		.what = "follow its events",
		.method = "GET",
		.endless = true,
		.opened = on_events_open,
		.data = on_events,
		.done = on_events_end,
		.arg = d,
	};
	char filters[256];
	struct err err;

	/* It sends the head before it listens to itself: what happens between the two is in its memory. */
	(void)buf_printf(&path, "/events?since=%" PRIu64 "&filters=", clock_real_ms() / 1000 - SINCE_S);
	(void)snprintf(
		filters, sizeof(filters),
		"{\"type\":[\"container\"],\"event\":[\"create\",\"die\",\"destroy\",\"commit\",\"oom\"],"
		"\"label\":[\"" LABEL_OWNER "=%s\"]}",
		d->owner);
	(void)engine_escape(&path, filters);
	r.path = buf_cstr(&path);
	if (engine_call(d->engine, &r, &d->events, &err) < 0)
		link_down(d, &err);
}

/* ---- is it there ------------------------------------------------------------------- */

static void on_version(void *arg, const struct engine_answer *a)
{
	struct docker *d = arg;

	d->ping = NULL;
	if (a->err)
		refused(d, a);
	else if (engine_set_version(d->engine, a->version) < 0)
		broken(d, "it does not say which version of the API it has");
	else
		ask_events(d);
}

static void ask_version(struct docker *d)
{
	const struct engine_request r = {.what = "ping",
					 .method = "GET",
					 .path = "/_ping",
					 .plain = true,
					 .done = on_version,
					 .arg = d};
	struct err err;

	if (engine_call(d->engine, &r, &d->ping, &err) < 0)
		link_down(d, &err);
}

void docker_link_start(struct docker *d)
{
	d->link = LINK_FIRST;
	d->finder.away(d->finder.arg, true);
	d->retry_ms = RETRY_FIRST_MS;
	ask_version(d);
}
