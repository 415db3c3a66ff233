/*
 * sandbox.c - owns the live sandboxes and every change of state.
 *
 * A live object is in the map from create() or recovery until the driver says
 * `destroyed`. Its row may be ahead of it: a sandbox that ended by itself is
 * Failed or Terminated in the store at once, while its remains are still being
 * removed. A row that is Stopping becomes Terminated when the driver is done.
 *
 * Running means two things have been seen: the driver has started the
 * container, and its execd has answered /ping.
 *
 * Everything runs on the loop thread.
 */
#include "sandboxd/sandbox_priv.h"

#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"

#define TOKEN_DIGITS 48
#define METADATA_MAX 64 /* pairs, after a patch */

struct store *sandboxes_store(struct sandboxes *all)
{
	return all->env.store;
}

/* ---- objects ------------------------------------------------------------ */

struct sandbox *sandbox_find(struct sandboxes *all, const char *id)
{
	struct map_node *node = map_get(&all->live, id);
	return node ? container_of(node, struct sandbox, node) : NULL;
}

struct sandbox *sandbox_alloc(struct sandboxes *all, const char *id)
{
	struct sandbox *sb = calloc(1, sizeof(*sb));
	if (!sb)
		return NULL;
	sb->all = all;
	sb->ping = PING_INIT;
	sb->box.events = &sandbox_events;
	(void)snprintf(sb->box.id, sizeof(sb->box.id), "%s", id);
	list_init(&sb->link);
	return sb;
}

struct sandbox *sandbox_new(struct sandboxes *all, const char *id, enum sandbox_state state)
{
	struct sandbox *sb = sandbox_alloc(all, id);
	if (!sb)
		return NULL;
	sb->state = state;
	if (map_add(&all->live, &sb->node, sb->box.id) < 0) {
		free(sb);
		return NULL;
	}
	list_add_tail(&all->list, &sb->link);
	return sb;
}

void sandbox_free(struct sandbox *sb)
{
	ping_cancel(&sb->ping);
	sandboxes_spares_kick(sb->all);
	map_del(&sb->all->live, &sb->node);
	list_del(&sb->link);
	free(sb);
}

void sandbox_add_note(struct sandbox *sb, const char *note)
{
	size_t n = strlen(sb->notes);
	if (*note)
		(void)snprintf(sb->notes + n, sizeof(sb->notes) - n, "%s%s", n ? " " : "", note);
}

/* ---- draining --------------------------------------------------------------- */

static bool on_its_way(const struct sandbox *sb)
{
	return (sb->state != SANDBOX_RUNNING && sb->state != SANDBOX_PAUSED) || *sb->taking;
}

static void on_drained(struct loop_defer *d)
{
	struct sandboxes *all = container_of(d, struct sandboxes, drained_soon);
	all->drained(all->drained_arg);
}

static bool something_left(const struct sandboxes *all)
{
	list_foreach_safe (l, &all->list)
		if (all->kill || on_its_way(list_entry(l, struct sandbox, link)))
			return true;
	return sandboxes_spares_left(all);
}

void sandboxes_check_drained(struct sandboxes *all)
{
	if (!all->draining)
		return;
	bool left = something_left(all);
	if (left && !all->away)
		return;
	if (left)
		log_warn("the runtime cannot be reached: what is under way is finished or undone at the next "
			 "start");
	loop_defer(all->env.loop, &all->drained_soon, on_drained);
}

/* ---- requests ---------------------------------------------------------------------- */

/* What the driver keeps beside the sandbox, should the store be lost (sandbox_recover.c). */
static char *record_text(const struct sandboxes *all, const struct sandbox_spec *spec)
{
	json_t *o = json_pack("{s:s, s:s, s:O, s:I, s:I, s:b}", "store", all->store_id, "image", spec->image,
			      "entrypoint", spec->entrypoint, "createdMs", (json_int_t)clock_real_ms(),
			      "timeoutS", (json_int_t)spec->timeout_s, "secure", spec->secure);
	char *text = NULL;

	if (o &&
	    json_object_set_new(o, "metadata",
				spec->metadata ? json_incref(spec->metadata) : json_object()) == 0 &&
	    (!spec->platform || json_object_set(o, "platform", spec->platform) == 0) &&
	    (!spec->runtime.snapshot ||
	     json_object_set_new(o, "snapshot", json_string(spec->runtime.snapshot)) == 0))
		text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

static int insert(struct sandboxes *all, const struct sandbox_spec *spec, const struct sandbox *sb,
		  struct err *err)
{
	_cleanup_free_ char *entrypoint = json_dumps(spec->entrypoint, JSON_COMPACT);
	_cleanup_free_ char *metadata = spec->metadata ? json_dumps(spec->metadata, JSON_COMPACT) : NULL;
	_cleanup_free_ char *platform = spec->platform ? json_dumps(spec->platform, JSON_COMPACT) : NULL;
	struct transition t = {.to = SANDBOX_PENDING, .now_ms = clock_real_ms()};

	if (!entrypoint || (spec->metadata && !metadata) || (spec->platform && !platform))
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	sandboxes_set_deadline(all, &t);
	struct record row = {
		.id = sb->box.id,
		.state = SANDBOX_PENDING,
		.reason = "provisioning",
		.message = "Sandbox is being created.",
		.created_ms = t.now_ms,
		.transition_ms = t.now_ms,
		.expires_ms = spec->timeout_s ? t.now_ms + spec->timeout_s * 1000 : 0,
		.deadline_ms = t.deadline_ms,
		.image = spec->image,
		.entrypoint = entrypoint,
		.metadata = metadata,
		.platform = platform,
		.runtime = all->env.runtime->ops->name,
		.handle = *sb->handle ? sb->handle : NULL,
		.port = sb->box.port,
		.token = spec->runtime.token,
		.snapshot = spec->runtime.snapshot,
	};
	return store_insert(all->env.store, &row, err);
}

/* A disk that was full at our start has room again when somebody has cleared it: nothing tells us. */
static int check_ready(struct sandboxes *all, struct err *err)
{
	struct runtime *rt = all->env.runtime;
	struct err *why = &all->refuse;

	if (!why->code)
		return 0;
	if (why->errnum == ENOSPC) {
		if (rt->ops->probe(rt, why) == 0) {
			log_info("the disk has room again: sandboxes can be made");
			*why = (struct err){0};
			sandboxes_spares_kick(all);
			return 0;
		}
		if (why->errnum == ENOSPC)
			return err_set(err, ERR_STORAGE, "SANDBOX::INSUFFICIENT_STORAGE", ENOSPC, "%s",
				       why->message);
	}
	return err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ENOTSUP, "%s", why->message);
}

static int check_open(struct sandboxes *all, struct err *err)
{
	if (all->draining)
		return err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ESHUTDOWN,
			       "sandboxd is shutting down");
	int r = check_ready(all, err);
	if (r < 0)
		return r;
	if (all->live.len >= all->env.config->sandboxes_max)
		return err_set(err, ERR_LIMIT, "SANDBOX::LIMIT", ENOSPC,
			       "%zu sandboxes exist, the limit is %u", all->live.len,
			       all->env.config->sandboxes_max);
	return 0;
}

static int create_cold(struct sandboxes *all, const struct sandbox_spec *spec, struct sandbox **ret,
		       struct err *err)
{
	struct runtime *rt = all->env.runtime;
	char id[RANDOM_UUID_MAX];

	struct sandbox *sb = sandbox_new(all, random_uuid(id), SANDBOX_PENDING);
	if (!sb)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	int r = rt->ops->create(rt, &sb->box, &spec->runtime, err);
	if (r < 0)
		sandbox_free(sb);
	else
		*ret = sb;
	return r;
}

int sandboxes_create(struct sandboxes *all, const struct sandbox_spec *given, char ret_id[RANDOM_UUID_MAX],
		     struct err *err)
{
	struct sandbox_spec copy = *given, *spec = &copy;
	char token[TOKEN_DIGITS + 1];

	int r = check_open(all, err);
	if (r < 0)
		return r;
	uint64_t now_usec = clock_mono_usec();
	if (given->secure)
		spec->runtime.token = random_hex(token, TOKEN_DIGITS);
	_cleanup_free_ char *record = record_text(all, spec);
	spec->runtime.record = record;
	struct sandbox *sb = sandboxes_claim(all, spec);
	if (sb)
		sb->claimed_usec = clock_mono_usec();
	else if ((r = create_cold(all, spec, &sb, err)) < 0)
		return r;
	sb->created_usec = now_usec;
	sandbox_add_note(sb, spec->notes);
	/* Killed before this is written, we find a container without a row at the next start. */
	r = insert(all, spec, sb, err);
	if (r < 0) {
		sandbox_tear_down(sb, false);
		return r;
	}
	log_info("sandbox %s: Pending (%s) image %s", sb->box.id,
		 sb->claimed_usec ? "claimed" : "provisioning", spec->image);
	sweeper_kick(all->sweeper);
	if (sb->box.port) /* else it is told by started() */
		sandbox_ask_agent(sb);
	memcpy(ret_id, sb->box.id, RANDOM_UUID_MAX);
	return 0;
}

static int see_state(const struct record *row, void *arg)
{
	*(enum sandbox_state *)arg = row->state;
	return 0;
}

/* A change of state that is on its way writes its row when it arrives (sandbox_pause.c, sandbox_snapshot.c).
 */
void sandboxes_undone(struct sandboxes *all)
{
	enum sandbox_state state;
	struct err err;

	list_foreach_safe (l, &all->list) {
		struct sandbox *sb = list_entry(l, struct sandbox, link);
		if (!(STATE_BIT(sb->state) & STATES_LIVE) ||
		    store_get(all->env.store, sb->box.id, see_state, &state, &err) != -ENOENT)
			continue;
		log_warn("sandbox %s: the store has lost its creation", sb->box.id);
		sb->state = SANDBOX_TERMINATED;
		sandbox_tear_down(sb, false);
	}
}

/* It has ended, and now nobody wants to hear of it. */
static int bury(struct sandboxes *all, const char *id, struct err *err)
{
	struct transition t = {
		.from = STATE_BIT(SANDBOX_FAILED),
		.to = SANDBOX_TERMINATED,
		.reason = "user_delete",
		.message = "Sandbox was deleted by request after it had failed.",
		.now_ms = clock_real_ms(),
	};
	sandboxes_set_deadline(all, &t);
	int r = store_move(all->env.store, id, &t, err);
	if (r == 0)
		sandboxes_tell(all, id);
	return r == -ESTALE ? 0 : r;
}

int sandboxes_delete(struct sandboxes *all, const char *id, struct err *err)
{
	struct sandbox *sb = sandbox_find(all, id);

	if (!sb || sb->state == SANDBOX_TERMINATED)
		return bury(all, id, err);
	if (sb->state == SANDBOX_STOPPING)
		return 0;
	if (sandbox_stop(sb, "user_delete", "Sandbox was deleted by request.") < 0)
		return err_set(err, ERR_INTERNAL, "DOCKER::SANDBOX_DELETE_FAILED", EIO,
			       "the store could not note the deletion");
	return 0;
}

/* ---- metadata -------------------------------------------------------------------------- */

struct merge {
	json_t *patch;
	char *result;
	struct err *err;
};

static int merge_row(const struct record *row, void *arg)
{
	struct merge *m = arg;
	json_t *value, *all = json_loads(row->metadata, 0, NULL);
	const char *key = NULL;

	if (STATE_BIT(row->state) & (STATES_ENDED | STATE_BIT(SANDBOX_STOPPING))) {
		json_decref(all);
		return err_set(m->err, ERR_CONFLICT, "SANDBOX::INVALID_STATE", ESTALE,
			       "sandbox '%.64s' is %s", row->id, sandbox_state_name(row->state));
	}
	json_object_foreach(m->patch, key, value)
	{
		if (json_is_null(value))
			(void)json_object_del(all, key);
		else
			(void)json_object_set(all, key, value);
	}
	if (json_object_size(all) > METADATA_MAX) {
		json_decref(all);
		return err_set(m->err, ERR_INVALID, "SANDBOX::INVALID_METADATA_LABEL", E2BIG,
			       "metadata: more than %d pairs", METADATA_MAX);
	}
	m->result = all ? json_dumps(all, JSON_COMPACT) : NULL;
	json_decref(all);
	return m->result ? 0
			 : err_set(m->err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
}

int sandboxes_patch_metadata(struct sandboxes *all, const char *id, json_t *patch, struct err *err)
{
	struct merge m = {.patch = patch, .err = err};

	int r = store_get(all->env.store, id, merge_row, &m, err);
	if (r == 0)
		r = store_set_metadata(all->env.store, id, m.result, err);
	free(m.result);
	if (r == 0)
		sandboxes_tell(all, id);
	return r;
}

static int check_expires(const struct record *row, void *arg)
{
	struct err *err = arg;
	if (STATE_BIT(row->state) & (STATES_ENDED | STATE_BIT(SANDBOX_STOPPING)))
		return err_set(err, ERR_CONFLICT, "SANDBOX::INVALID_STATE", ESTALE, "sandbox '%.64s' is %s",
			       row->id, sandbox_state_name(row->state));
	if (!row->expires_ms)
		return err_set(err, ERR_CONFLICT, "DOCKER::INVALID_EXPIRATION", ESTALE,
			       "sandbox '%.64s' does not expire: it was created without a timeout", row->id);
	return 0;
}

int sandboxes_renew(struct sandboxes *all, const char *id, uint64_t expires_ms, struct err *err)
{
	/* One thread: nothing comes between the look and the change, so renewal and expiry cannot race. */
	int r = store_get(all->env.store, id, check_expires, err, err);
	if (r == 0)
		r = store_set_expires(all->env.store, id, expires_ms, err);
	if (r == 0)
		sweeper_kick(all->sweeper);
	return r;
}

int sandboxes_network(struct sandboxes *all, const char *id, struct buf *out)
{
	struct runtime *rt = all->env.runtime;
	return rt->ops->network ? rt->ops->network(rt, id, out) : -ENOENT;
}

int sandboxes_log(struct sandboxes *all, const char *id, runtime_log_fn *fn, void *arg)
{
	struct runtime *rt = all->env.runtime;
	return rt->ops->log ? rt->ops->log(rt, id, fn, arg) : -ENOENT;
}

/* ---- the whole --------------------------------------------------------------------------- */

int sandboxes_new(const struct sandboxes_env *env, struct sandboxes **ret)
{
	struct sandboxes *all = calloc(1, sizeof(*all));
	if (!all)
		return -ENOMEM;
	all->env = *env;
	list_init(&all->list);
	list_init(&all->watches);
	int r = sweeper_new(env->loop, env->store, sandbox_on_due, all, &all->sweeper);
	if (r < 0) {
		free(all);
		return r;
	}
	r = sandboxes_spares_new(all);
	if (r < 0) {
		sandboxes_free(all);
		return r;
	}
	*ret = all;
	return 0;
}

void sandboxes_free(struct sandboxes *all)
{
	if (!all)
		return;
	sandboxes_spares_free(all);
	loop_defer_cancel(&all->drained_soon);
	loop_defer_cancel(&all->tell_soon);
	list_foreach_safe (l, &all->list)
		sandbox_free(list_entry(l, struct sandbox, link));
	map_done(&all->live);
	sweeper_free(all->sweeper);
	free(all);
}

void sandboxes_refuse(struct sandboxes *all, const struct err *why)
{
	all->refuse = *why;
}

void sandboxes_drain(struct sandboxes *all, bool kill, void (*done)(void *arg), void *arg)
{
	all->draining = true;
	all->kill = kill;
	all->drained = done;
	all->drained_arg = arg;
	sandboxes_spares_drain(all);
	if (kill)
		list_foreach_safe (l, &all->list) {
			struct sandbox *sb = list_entry(l, struct sandbox, link);
			if (STATE_BIT(sb->state) & STATES_LIVE & ~STATE_BIT(SANDBOX_STOPPING))
				(void)sandbox_stop(sb, "shutdown",
						   "sandboxd was told to end every sandbox with it.");
		}
	sandboxes_check_drained(all);
}
