/*
 * box.c - owns the boxes of the docker driver. Loop thread; nothing blocks.
 *
 *   WAITING -> CREATING -> TOKEN -> ATTACHING -> STARTING -> LOOKING -> COMING -> RUNNING
 *                ^  |      (where it has one)                                        |
 *              PULLING (the image is not there)                                   ENDING -> ENDED
 *
 *   of a spare: RUNNING -> (LIMITING) -> TELLING -> RUNNING (claim.c)
 *
 *   any -> REMOVING -> (destroyed)
 *
 * A phase is one call to the daemon, b->call, and the answer brings the next.
 * destroy() awaits a call that may leave something behind, and breaks off the
 * others. Events of the daemon say that a container has ended (link.c).
 */
#include "sandboxd/docker/box.h"

#include <stdio.h>
#include <string.h>

struct docker_box *docker_box_new(struct docker *d, struct runtime_box *box)
{
	struct docker_box *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->d = d;
	b->box = box;
	(void)snprintf(b->name, sizeof(b->name), CONTAINER_NAME, box->id);
	list_add_tail(&d->boxes, &b->link);
	box->priv = b;
	return b;
}

void docker_wipe(char **text)
{
	if (*text)
		explicit_bzero(*text, strlen(*text));
	free(*text);
	*text = NULL;
}

void docker_box_free(struct docker_box *b)
{
	engine_cancel(&b->call);
	engine_cancel(&b->attach);
	engine_cancel(&b->side);
	engine_cancel(&b->alive);
	loop_timer_del(&b->again);
	loop_defer_cancel(&b->soon);
	list_del(&b->link);
	b->box->priv = NULL;
	docker_wipe(&b->spec);
	docker_wipe(&b->auth);
	docker_wipe(&b->claim);
	docker_pull_free(b);
	explicit_bzero(b->token, sizeof(b->token));
	free(b->image);
	config_free_list(b->needed);
	free(b);
}

struct docker_box *docker_box_find(const struct docker *d, const char *id)
{
	list_foreach_safe (l, &d->boxes) {
		struct docker_box *b = list_entry(l, struct docker_box, link);
		if (strcmp(b->box->id, id) == 0)
			return b;
	}
	return NULL;
}

/* What a label says goes into paths: only what an id of ours can be. */
bool docker_box_id_ok(const char *id)
{
	return id && *id && strlen(id) < RUNTIME_ID_MAX && !id[strspn(id, "0123456789abcdef-")];
}

int docker_box_call(struct docker_box *b, struct engine_call **slot, const char *what, const char *method,
		    const char *path, void (*done)(void *arg, const struct engine_answer *a), struct err *err)
{
	char full[ENGINE_PATH_MAX];
	const struct engine_request r = {
		.what = what, .method = method, .path = full, .done = done, .arg = b};

	(void)snprintf(full, sizeof(full), "/containers/%s%s", b->name, path);
	return engine_call(b->d->engine, &r, slot, err);
}
