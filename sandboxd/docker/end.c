/*
 * end.c - how a container ended, and the removal of what is left of it.
 */
#include <stdio.h>
#include <string.h>

#include "lib/log.h"
#include "lib/utf8.h"
#include "sandboxd/docker/box.h"

#define AGAIN_MS     500 /* a removal that was refused is tried again */
#define SIGNALS_FROM 128 /* exit codes above it are signals */
#define SIGNAL_LAST  64

/* ---- how it ended ------------------------------------------------------------- */

static void tell_end(struct docker_box *b)
{
	b->phase = BOX_ENDED;
	if (b->dying)
		docker_box_remove(b);
	else
		b->box->events->exited(b->box, &b->exit);
}

/* True: *begin to begin + *n is the last line of out; it is cut off. */
static bool last_line(struct buf *out, const char **begin, size_t *n)
{
	while (out->len > 0 && strchr("\r\n\t ", out->data[out->len - 1]))
		out->len--;
	if (out->len == 0)
		return false;
	const uint8_t *newline = memrchr(out->data, '\n', out->len);
	size_t at = newline ? (size_t)(newline - out->data) + 1 : 0;
	*begin = (const char *)out->data + at;
	*n = out->len - at;
	out->len = at;
	return true;
}

/* As text: whatever runs inside may have written it. */
static void take_line(struct docker_box *b, const char *begin, size_t n)
{
	_cleanup_buf_ struct buf line = BUF_INIT(4 * sizeof(b->exit.detail));
	const size_t size = sizeof(b->exit.detail);

	if (utf8_sanitize(&line, begin, MIN(n, size - 1)) < 0)
		return;
	n = MIN(line.len, size - 1);
	n -= utf8_incomplete_tail(line.data, n);
	memcpy(b->exit.detail, line.data, n);
	b->exit.detail[n] = '\0';
	for (char *c = b->exit.detail; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
}

/*
 * The daemon says whether memory has ever run out in it, which may have been the end of a command only. Of
 * the entrypoint's end the agent tells; of its own nobody can, unless it had come through the last time.
 */
static void judge_memory(struct docker_box *b, const struct buf *out)
{
	bool told = out->len > 0 && memmem(out->data, out->len, STARVED, strlen(STARVED));

	b->exit.oom = b->exit.oom && (told || !b->outlived);
}

/* The last line that says something. stdout and stderr may come in any order: the agent's may be behind. */
static void take_last_line(struct docker_box *b, struct buf *in)
{
	_cleanup_buf_ struct buf out = BUF_INIT(ENGINE_BODY_MAX);
	const char *begin;
	size_t n;

	(void)output_demux(in, &out);
	judge_memory(b, &out);
	while (last_line(&out, &begin, &n))
		if (n < strlen(ANNOUNCEMENT) || memcmp(begin, ANNOUNCEMENT, strlen(ANNOUNCEMENT)) != 0) {
			take_line(b, begin, n);
			return;
		}
}

static void on_last_words(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;
	_cleanup_buf_ struct buf copy = BUF_INIT(ENGINE_BODY_MAX);

	b->call = NULL;
	if (!a->err && buf_append(&copy, a->body->data, a->body->len) == 0)
		take_last_line(b, &copy);
	tell_end(b);
}

static void take_state(struct docker_box *b, const json_t *state)
{
	json_int_t code = json_integer_value(json_object_get(state, "ExitCode"));

	b->exit = (struct runtime_exit){.known = true, .wstatus = (int)(code & 0xff) << 8};
	if (code > SIGNALS_FROM && code <= SIGNALS_FROM + SIGNAL_LAST)
		b->exit.wstatus = (int)code - SIGNALS_FROM;
	b->exit.oom = code == SIGNALS_FROM + 9 && json_is_true(json_object_get(state, "OOMKilled"));
}

/* Nobody can say, or it is not so yet: an event or the next list of the daemon tells. */
static void not_ended(struct docker_box *b, const struct err *err)
{
	b->phase = b->told ? BOX_RUNNING : BOX_COMING;
	if (b->told && b->spare) /* nobody can claim it any more */
		docker_box_lost(b);
	else if (err && !b->told)
		docker_box_failed(b, err);
	else if (b->look_again)
		docker_box_ended(b);
}

static void on_state(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;
	struct err err;

	b->call = NULL;
	if (a->status == 404 || b->dying) {
		b->exit = (struct runtime_exit){0};
		tell_end(b);
		return;
	}
	json_t *o = a->err ? NULL : json_loadb((const char *)a->body->data, a->body->len, 0, NULL);
	json_t *state = json_object_get(o, "State");
	bool runs = json_is_true(json_object_get(state, "Running"));
	if (state && !runs)
		take_state(b, state);
	json_decref(o);
	if (!state || runs) {
		not_ended(b, a->err);
		return;
	}
	if (docker_box_call(b, &b->call, "read the output", "GET", "/logs?stdout=1&stderr=1&tail=5",
			    on_last_words, &err) < 0)
		tell_end(b);
}

static void on_alive(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;

	b->alive = NULL;
	json_t *o = a->err ? NULL : json_loadb((const char *)a->body->data, a->body->len, 0, NULL);
	if (json_is_true(json_object_get(json_object_get(o, "State"), "Running")) && !b->ended) {
		b->outlived = true;
		log_info("sandbox %s: its memory limit has killed a process in it", b->box->id);
	}
	json_decref(o);
}

void docker_box_starved(struct docker_box *b)
{
	if (b->phase == BOX_RUNNING && !b->dying && !b->outlived && !b->alive)
		(void)docker_box_call(b, &b->alive, "look at the container", "GET", "/json", on_alive, NULL);
}

void docker_box_ended(struct docker_box *b)
{
	struct err err;

	b->ended = true;
	b->look_again = b->phase == BOX_ENDING;
	if (b->dying || *b->taking || (b->phase != BOX_RUNNING && b->phase != BOX_COMING))
		return;
	engine_cancel(&b->attach);
	engine_cancel(&b->side);
	b->phase = BOX_ENDING;
	if (docker_box_call(b, &b->call, "look at the container", "GET", "/json", on_state, &err) < 0)
		docker_box_lost(b);
}

void docker_box_lost(struct docker_box *b)
{
	if (b->dying || b->phase == BOX_ENDED)
		return;
	engine_cancel(&b->call);
	engine_cancel(&b->attach);
	engine_cancel(&b->side);
	b->taking[0] = '\0';
	b->exit = (struct runtime_exit){0};
	tell_end(b);
}

/* ---- removal --------------------------------------------------------------------- */

static void again(struct loop_timer *t)
{
	docker_box_remove(container_of(t, struct docker_box, again));
}

static void on_removed(void *arg, const struct engine_answer *a)
{
	struct docker_box *b = arg;
	struct runtime_box *box = b->box;

	b->call = NULL;
	if (!a->err || a->status == 404) {
		if (b->has_volumes)
			docker_volumes_sweep(b->d);
		docker_record_remove(b->d, box->id);
		docker_box_free(b);
		box->events->destroyed(box);
		return;
	}
	if (a->status != 409) /* else somebody is at it already */
		log_warn("sandbox %s: %s", box->id, a->err->message);
	if (!a->status)
		docker_link_doubt(b->d, a->err);
	if (b->d->link == LINK_UP) /* else when the daemon is back */
		(void)loop_timer_set(b->d->env.loop, &b->again, loop_now_ms(b->d->env.loop) + AGAIN_MS,
				     again);
}

static void gone(struct loop_defer *soon)
{
	struct docker_box *b = container_of(soon, struct docker_box, soon);
	struct runtime_box *box = b->box;

	docker_box_free(b);
	box->events->destroyed(box);
}

void docker_box_remove(struct docker_box *b)
{
	struct err err;

	b->phase = BOX_REMOVING;
	loop_timer_del(&b->again);
	if (!b->asked) {
		loop_defer_cancel(&b->soon);
		loop_defer(b->d->env.loop, &b->soon, gone);
		return;
	}
	if (b->call || b->d->link != LINK_UP)
		return;
	if (docker_box_call(b, &b->call, "remove the container", "DELETE", "?force=1&v=1", on_removed, &err) <
	    0) {
		log_warn("sandbox %s: %s", b->box->id, err.message);
		(void)loop_timer_set(b->d->env.loop, &b->again, loop_now_ms(b->d->env.loop) + AGAIN_MS,
				     again);
	}
}

/* A call of this phase may bring something into being that is to be removed. */
static bool must_wait(const struct docker_box *b, bool force)
{
	if (*b->taking && !force)
		return true;
	return b->call && (b->phase == BOX_CREATING || b->phase == BOX_TOKEN || b->phase == BOX_STARTING);
}

void docker_destroy(struct runtime *rt, struct runtime_box *box, bool force)
{
	struct docker_box *b = box->priv;

	if (!b) { /* whatever an earlier life has left */
		b = docker_box_new(docker_of(rt), box);
		if (!b) {
			log_error("sandbox %s: destroy: out of memory", box->id);
			return;
		}
		b->asked = b->has_volumes = true;
	}
	b->dying = true;
	if (b->phase == BOX_REMOVING || must_wait(b, force))
		return;
	engine_cancel(&b->call);
	engine_cancel(&b->attach);
	engine_cancel(&b->side);
	docker_pull_free(b);
	b->taking[0] = '\0';
	docker_box_remove(b);
}
