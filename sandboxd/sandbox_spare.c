/*
 * sandbox_spare.c - owns the warm pool: sandboxes that are started before anybody asks for them.
 *
 * A spare is a sandbox without a row, kept out of the map of the live ones. Its
 * execd waits at the very beginning (execd/claim.h) and is told its entrypoint,
 * environment and token when a create takes it; limits are set at that moment
 * too, so that every create of the image fits. Its id is that of the sandbox
 * which it becomes: nothing has to be renamed.
 *
 *   starting -> ready -> (claimed: a Pending sandbox like any other)
 *       |         |
 *       +---------+--> ending -> (destroyed, and replaced)
 *
 * A claim tells the spare first and writes the row then. Killed before, we
 * leave a container that no row knows, which goes at the next start; killed
 * after, a sandbox that serves, which is adopted. Where telling takes time the
 * row comes first, without the handle by which the sandbox could be adopted, and
 * is that of any creation under way. Spares themselves end when they see that we
 * are gone, and what they leave goes at the next start.
 *
 * Refilling waits until no creation is on its way, makes at most pool_starts at
 * once, and waits longer after each failure in a row.
 */
#include "sandboxd/sandbox_priv.h"

#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"

#define RETRY_MIN_MS  500
#define RETRY_MAX_MS  60000
#define RETRY_DOUBLE  7	    /* times */
#define LIVED_WELL_MS 60000 /* whose end says nothing against the next one */

struct shelf {
	const struct config_pool *config;
	struct list spares; /* not those that are ending */
	struct sandbox_pool_stats stats;
	unsigned failures; /* in a row */
	uint64_t retry_ms; /* monotonic, 0: now */
};

struct spares {
	struct sandboxes *all;
	struct shelf *shelves;
	size_t n;
	struct list ending;
	struct loop_defer soon;
	struct loop_timer later;
	bool draining;
};

static uint64_t now_ms(void)
{
	return clock_mono_usec() / 1000;
}

/* ---- one spare ------------------------------------------------------------- */

static void discard(struct sandbox *sb, bool force)
{
	struct shelf *shelf = sb->shelf;
	struct runtime *rt = sb->all->env.runtime;

	if (!shelf)
		return;
	if (sb->started)
		shelf->stats.ready--;
	else
		shelf->stats.starting--;
	sb->shelf = NULL;
	list_del(&sb->link);
	list_add_tail(&sb->all->spares->ending, &sb->link);
	rt->ops->destroy(rt, &sb->box, force);
}

/* The first failure says little; after it the waits grow. */
static void note_failure(struct sandboxes *all, struct shelf *shelf, const char *why)
{
	unsigned n = shelf->failures++;

	shelf->stats.failures++;
	(void)snprintf(shelf->stats.error, sizeof(shelf->stats.error), "%s", why);
	uint64_t wait_ms =
		n ? MIN((uint64_t)RETRY_MIN_MS << MIN(n - 1, (unsigned)RETRY_DOUBLE), (uint64_t)RETRY_MAX_MS)
		  : 0;
	shelf->retry_ms = now_ms() + wait_ms;
	sandboxes_tell(all, SANDBOX_POOL_WATCH);
	log_warn("pool of '%s': %s; the next try is in %llu ms", shelf->config->image, why,
		 (unsigned long long)wait_ms);
}

static void on_started(struct runtime_box *box, const char *handle, const char *notes)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);

	(void)notes; /* of limits that are not the sandbox's */
	if (!sb->shelf)
		return;
	sb->started = true;
	sb->started_usec = clock_mono_usec();
	(void)snprintf(sb->handle, sizeof(sb->handle), "%s", handle);
	sb->shelf->stats.starting--;
	sb->shelf->stats.ready++;
	sb->shelf->stats.started++;
	sandboxes_tell(sb->all, SANDBOX_POOL_WATCH);
	log_debug("pool of '%s': spare %s is ready", sb->shelf->config->image, box->id);
	sandboxes_spares_kick(sb->all);
}

static void on_progress(struct runtime_box *box, const char *reason, const char *message, uint32_t max_s)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);

	log_info("pool: spare %s: %s: %s", box->id, reason, message);
	if (max_s)
		sb->give_up_ms = now_ms() + max_s * 1000ull;
}

static void on_failed(struct runtime_box *box, const struct err *err)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);

	if (sb->shelf)
		note_failure(sb->all, sb->shelf, err->message);
	discard(sb, false);
}

static void on_exited(struct runtime_box *box, const struct runtime_exit *e)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	struct shelf *shelf = sb->shelf;

	if (shelf && sb->started && clock_mono_usec() - sb->started_usec > LIVED_WELL_MS * 1000ull)
		shelf->failures = 0;
	if (shelf)
		note_failure(sb->all, shelf, *e->detail ? e->detail : "a spare has ended by itself");
	discard(sb, false);
}

static void on_destroyed(struct runtime_box *box)
{
	struct sandbox *sb = container_of(box, struct sandbox, box);
	struct sandboxes *all = sb->all;

	list_del(&sb->link);
	free(sb);
	sandboxes_spares_kick(all);
	sandboxes_check_drained(all);
}

/* Nobody can pause a spare or take a snapshot of it: nobody knows it. */
static const struct runtime_events spare_events = {
	.started = on_started,
	.progress = on_progress,
	.failed = on_failed,
	.exited = on_exited,
	.destroyed = on_destroyed,
};

/* ---- refilling ------------------------------------------------------------------ */

static int start_spare(struct spares *s, struct shelf *shelf)
{
	struct sandboxes *all = s->all;
	struct runtime *rt = all->env.runtime;
	const struct runtime_spec spec = {
		.image.uri = shelf->config->image,
		.limits.pids = all->env.config->pids_max,
		.limits.disk_bytes = (uint64_t)all->env.config->disk_mib << 20,
		.spare = true,
	};
	char id[RANDOM_UUID_MAX];
	struct err err;

	struct sandbox *sb = sandbox_alloc(all, random_uuid(id));
	int r = sb ? 0 : err_set(&err, ERR_INTERNAL, "POOL", ENOMEM, "out of memory");
	if (r == 0) {
		sb->box.events = &spare_events;
		r = rt->ops->create(rt, &sb->box, &spec, &err);
	}
	if (r < 0) {
		free(sb);
		note_failure(all, shelf, err.message);
		return r;
	}
	sb->shelf = shelf;
	sb->give_up_ms = now_ms() + all->env.config->provision_max_s * 1000ull;
	list_add_tail(&shelf->spares, &sb->link);
	shelf->stats.starting++;
	return 0;
}

static bool creations_on_their_way(struct sandboxes *all)
{
	list_foreach_safe (l, &all->list)
		if (list_entry(l, struct sandbox, link)->state == SANDBOX_PENDING)
			return true;
	return false;
}

static uint32_t count_starting(const struct spares *s)
{
	uint32_t n = 0;
	for (size_t i = 0; i < s->n; i++)
		n += s->shelves[i].stats.starting;
	return n;
}

static uint32_t lacking(const struct shelf *shelf)
{
	uint32_t has = shelf->stats.ready + shelf->stats.starting;
	return shelf->config->size - MIN(has, shelf->config->size);
}

static void on_later(struct loop_timer *t)
{
	struct spares *s = container_of(t, struct spares, later);
	sandboxes_spares_kick(s->all);
}

static void sooner(uint64_t *ms, uint64_t other)
{
	if (!*ms || other < *ms)
		*ms = other;
}

/* Ends those that do not start in time; returns when to look again, 0: never. */
static uint64_t give_up(struct spares *s)
{
	uint64_t now = now_ms(), next = 0;

	for (size_t i = 0; i < s->n; i++)
		list_foreach_safe (l, &s->shelves[i].spares) {
			struct sandbox *sb = list_entry(l, struct sandbox, link);
			if (sb->started)
				continue;
			if (sb->give_up_ms > now) {
				sooner(&next, sb->give_up_ms);
				continue;
			}
			note_failure(s->all, &s->shelves[i], "a spare did not start in time");
			discard(sb, true);
		}
	return next;
}

/* Returns when to try again, 0: nothing failed. */
static uint64_t refill(struct spares *s)
{
	uint32_t room = s->all->env.config->pool_starts;
	uint64_t next = 0;

	room -= MIN(room, count_starting(s));
	for (size_t i = 0; i < s->n; i++) {
		struct shelf *shelf = &s->shelves[i];
		while (room > 0 && lacking(shelf) > 0 && shelf->retry_ms <= now_ms())
			if (start_spare(s, shelf) == 0)
				room--;
		if (lacking(shelf) > 0 && shelf->retry_ms > now_ms())
			sooner(&next, shelf->retry_ms);
	}
	return next;
}

static void on_soon(struct loop_defer *d)
{
	struct spares *s = container_of(d, struct spares, soon);

	if (s->draining || s->all->refuse.code)
		return;
	uint64_t retry = creations_on_their_way(s->all) ? 0 : refill(s);
	uint64_t next = give_up(s); /* also of what was just begun */
	if (retry)
		sooner(&next, retry);
	if (next)
		(void)loop_timer_set(s->all->env.loop, &s->later, next, on_later);
}

void sandboxes_spares_kick(struct sandboxes *all)
{
	if (all->spares && all->spares->n > 0)
		loop_defer(all->env.loop, &all->spares->soon, on_soon);
}

/* ---- claims --------------------------------------------------------------------- */

static struct shelf *find_shelf(struct spares *s, const char *image)
{
	for (size_t i = 0; i < s->n; i++)
		if (image_same(s->shelves[i].config->image, image))
			return &s->shelves[i];
	return NULL;
}

/* What a running container cannot be given any more. Whoever adds to runtime_spec looks here too. */
static bool fits(const struct config *config, const struct sandbox_spec *spec)
{
	const struct runtime_spec *rt = &spec->runtime;
	return !rt->snapshot && !rt->image.username && !rt->image.password &&
	       !(rt->volumes && rt->volumes->n) && rt->limits.disk_bytes == (uint64_t)config->disk_mib << 20;
}

/* The line that execd is told (execd/claim.h); to be freed. */
static char *claim_text(const struct sandbox_spec *spec)
{
	json_t *o = json_pack("{s:O, s:O*, s:s*}", "entrypoint", spec->entrypoint, "env", spec->env,
			      "accessToken", spec->runtime.token);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL, *line = NULL;

	json_decref(o);
	if (text && asprintf(&line, "%s\n", text) < 0)
		line = NULL;
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
	return line;
}

static struct sandbox *first_ready(const struct shelf *shelf)
{
	list_foreach_safe (l, &shelf->spares) {
		struct sandbox *sb = list_entry(l, struct sandbox, link);
		if (sb->started)
			return sb;
	}
	return NULL;
}

/* From here on it is a sandbox like any other. */
static int promote(struct shelf *shelf, struct sandbox *sb, const char *text, const struct sandbox_spec *spec)
{
	struct sandboxes *all = sb->all;
	struct runtime *rt = all->env.runtime;
	const char *notes = "";
	struct err err;

	int r = map_add(&all->live, &sb->node, sb->box.id);
	if (r < 0)
		return r;
	r = rt->ops->claim(rt, &sb->box, &spec->runtime, text, strlen(text), &notes, &err);
	if (r < 0) {
		map_del(&all->live, &sb->node);
		note_failure(all, shelf, err.message);
		return r;
	}
	list_del(&sb->link);
	list_add_tail(&all->list, &sb->link);
	sb->shelf = NULL;
	sb->state = SANDBOX_PENDING;
	sb->box.events = &sandbox_events;
	sb->box.pulled_usec = sb->box.unpacked_usec = sb->box.prepared_usec = sb->started_usec = 0;
	if (r > 0) { /* until it is told that it has started, nobody can rely on it */
		sb->started = false;
		sb->handle[0] = '\0';
	}
	shelf->stats.ready--;
	shelf->stats.hits++;
	shelf->failures = 0;
	sandbox_add_note(sb, notes);
	return 0;
}

struct sandbox *sandboxes_claim(struct sandboxes *all, const struct sandbox_spec *spec)
{
	struct shelf *shelf = all->spares ? find_shelf(all->spares, spec->image) : NULL;
	struct sandbox *sb, *got = NULL;

	if (!shelf)
		return NULL;
	if (!fits(all->env.config, spec)) {
		shelf->stats.unfit++;
		return NULL;
	}
	char *text = claim_text(spec);
	while (text && !got && (sb = first_ready(shelf))) {
		if (promote(shelf, sb, text, spec) >= 0)
			got = sb;
		else
			discard(sb, false);
	}
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
	if (!got)
		shelf->stats.misses++;
	return got;
}

/* ---- the whole -------------------------------------------------------------------- */

int sandboxes_spares_new(struct sandboxes *all)
{
	const struct config *c = all->env.config;
	struct runtime *rt = all->env.runtime;
	struct spares *s;

	if (c->pools_n == 0)
		return 0;
	if (!rt->ops->claim) {
		log_warn("the runtime %s keeps no spares: [pool] is passed over", rt->ops->name);
		return 0;
	}
	s = calloc(1, sizeof(*s));
	if (!s || !(s->shelves = calloc(c->pools_n, sizeof(*s->shelves)))) {
		free(s);
		return -ENOMEM;
	}
	s->all = all;
	s->n = c->pools_n;
	list_init(&s->ending);
	for (size_t i = 0; i < s->n; i++) {
		struct shelf *shelf = &s->shelves[i];
		shelf->config = &c->pools[i];
		shelf->stats.image = shelf->config->image;
		shelf->stats.size = shelf->config->size;
		list_init(&shelf->spares);
	}
	all->spares = s;
	return 0;
}

static void abandon(struct list *list)
{
	list_foreach_safe (l, list) {
		struct sandbox *sb = list_entry(l, struct sandbox, link);
		list_del(&sb->link);
		free(sb);
	}
}

void sandboxes_spares_free(struct sandboxes *all)
{
	struct spares *s = all->spares;

	if (!s)
		return;
	loop_defer_cancel(&s->soon);
	loop_timer_del(&s->later);
	for (size_t i = 0; i < s->n; i++)
		abandon(&s->shelves[i].spares);
	abandon(&s->ending);
	free(s->shelves);
	free(s);
	all->spares = NULL;
}

void sandboxes_spares_drain(struct sandboxes *all)
{
	struct spares *s = all->spares;

	if (!s)
		return;
	s->draining = true;
	for (size_t i = 0; i < s->n; i++)
		list_foreach_safe (l, &s->shelves[i].spares)
			discard(list_entry(l, struct sandbox, link), false);
}

bool sandboxes_spares_left(const struct sandboxes *all)
{
	const struct spares *s = all->spares;
	return s && !list_empty(&s->ending);
}

size_t sandboxes_pools(const struct sandboxes *all, size_t i, struct sandbox_pool_stats *ret)
{
	const struct spares *s = all->spares;

	if (s && i < s->n)
		*ret = s->shelves[i].stats;
	return s ? s->n : 0;
}
