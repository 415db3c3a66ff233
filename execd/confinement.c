/*
 * confinement.c - the agent's profiles and defaults, and confined starts.
 *
 * Owns the defaults of each kind and the listeners of processes whose owner has
 * ended. A listener is taken as soon as the child has reached exec: until then
 * it makes no call that could be told (seccomp/apply.h), so a start never waits
 * for the loop that is waiting for the start.
 */
#include "execd/confinement.h"

#include <string.h>

#include "execd/execd.h"
#include "lib/log.h"

#define DEFAULTS_MAX 4096 /* bytes of the flags */
#define FIRST_FD     3

struct confinement {
	struct confines *confines;
	struct confine *defaults[CONFINED_N];
	struct denials_orphans *orphans;
};

static const char *const kinds[CONFINED_N] = {"commands", "sessions", "ptys", "contexts"};

/* ---- settings ----------------------------------------------------------------------- */

/* Calls fn with each "name=value" of a list; name is NULL where there is none. */
static int each_setting(const char *list, const char *what,
			int (*fn)(struct confinement *c, const char *name, const char *value,
				  struct err *err),
			struct confinement *c, struct err *err)
{
	_cleanup_free_ char *copy = strdup(list);
	char *rest = copy, *item;
	int r = 0;

	if (!copy || strlen(list) > DEFAULTS_MAX)
		return err_set(err, ERR_INVALID, "OPTIONS", EINVAL, "--%s: over %d bytes", what,
			       DEFAULTS_MAX);
	while (r >= 0 && (item = strsep(&rest, ","))) {
		char *value = strchr(item, '=');

		if (!*item)
			continue;
		if (value)
			*value++ = '\0';
		r = fn(c, value ? item : NULL, value ? value : item, err);
	}
	return r;
}

static int load_profile(struct confinement *c, const char *name, const char *path, struct err *err)
{
	if (!name)
		return err_set(err, ERR_INVALID, "OPTIONS", EINVAL,
			       "--seccomp-profiles: '%.80s' is not NAME=FILE", path);
	return confines_load(c->confines, name, path, err);
}

static int set_default(struct confinement *c, enum confined kind, const char *profile, struct err *err)
{
	json_t *value = json_string(profile);
	struct confine *confine = NULL;
	int r = value ? confine_new(c->confines, value, "--confinement", &confine, err)
		      : err_sys(err, "OPTIONS", ENOMEM, "--confinement");

	json_decref(value);
	if (r < 0)
		return r;
	confine_unref(c->defaults[kind]);
	c->defaults[kind] = confine;
	return 0;
}

static int set_defaults(struct confinement *c, const char *kind, const char *profile, struct err *err)
{
	int r = 0;
	bool any = false;

	for (enum confined i = 0; i < CONFINED_N && r >= 0; i++) {
		if (kind && strcmp(kind, kinds[i]) != 0)
			continue;
		any = true;
		r = set_default(c, i, profile, err);
	}
	return any ? r
		   : err_set(err, ERR_INVALID, "OPTIONS", EINVAL,
			     "--confinement: '%.80s' is none of commands, sessions, ptys and contexts", kind);
}

int confinement_new(const char *defaults, const char *profiles, struct confinement **ret, struct err *err)
{
	struct confinement *c = calloc(1, sizeof(*c));
	int r = c ? confines_new(&c->confines) : -ENOMEM;

	if (r >= 0)
		r = denials_orphans_new(&c->orphans);
	if (r < 0)
		(void)err_sys(err, "START", -r, "seccomp profiles");
	if (r >= 0 && profiles)
		r = each_setting(profiles, "seccomp-profiles", load_profile, c, err);
	if (r >= 0 && defaults)
		r = each_setting(defaults, "confinement", set_defaults, c, err);
	if (r < 0) {
		confinement_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void confinement_free(struct confinement *c)
{
	if (!c)
		return;
	denials_orphans_free(c->orphans);
	for (size_t i = 0; i < CONFINED_N; i++)
		confine_unref(c->defaults[i]);
	confines_free(c->confines);
	free(c);
}

int confinement_get(struct confinement *c, enum confined kind, json_t *given, struct confine **ret,
		    struct err *err)
{
	int r;

	if (!given || json_is_null(given)) {
		*ret = confine_ref(c->defaults[kind]);
		return 0;
	}
	r = confine_new(c->confines, given, "confinement", ret, err);
	if (r >= 0 && confine_records(*ret) && kind != CONFINED_COMMANDS) {
		confine_unref(TAKE_PTR(*ret));
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "confinement.record: only a command can be recorded");
	}
	return r;
}

json_t *confinement_describe(const struct confinement *c)
{
	json_t *all = confine_capabilities(), *defaults = json_object();

	for (size_t i = 0; i < CONFINED_N; i++)
		(void)json_object_set_new(defaults, kinds[i], confine_describe(c->defaults[i]));
	if (json_object_set_new(all, "defaults", defaults) < 0 ||
	    json_object_set_new(all, "profiles", confines_names(c->confines)) < 0) {
		json_decref(all);
		return NULL;
	}
	return all;
}

char *confinement_json(const struct confine *c)
{
	json_t *d = c ? confine_describe(c) : NULL;
	char *text = d ? json_dumps(d, JSON_COMPACT) : NULL;

	json_decref(d);
	return text;
}

/* ---- a start --------------------------------------------------------------------------- */

struct confined_start {
	struct spawn_hook hook;
	const struct confine *confine;
	const struct confine_plan *plan;
	int child_fd; /* the socket's number in the child; -1: none */
};

/* CHILD, see lib/spawn_child.c. */
__attribute__((no_sanitize("address", "thread", "undefined"))) static int
run_hook(const struct spawn_hook *h, bool last, uint32_t detail[2])
{
	const struct confined_start *s = container_of(h, struct confined_start, hook);
	struct confine_fault fault = {0};
	int r = confine_apply(s->plan, s->child_fd, last ? CONFINE_BEFORE_EXEC : CONFINE_BEFORE_IDS, &fault);

	detail[0] = fault.step;
	detail[1] = fault.index;
	return r;
}

static int report_hook(const struct spawn_hook *h, const uint32_t detail[2], int errnum, const char *program,
		       struct err *err)
{
	const struct confined_start *s = container_of(h, struct confined_start, hook);
	const struct confine_fault fault = {.step = (enum confine_step)detail[0], .index = detail[1]};

	return confine_fault_err(s->confine, &fault, errnum, program, err);
}

/* A number that nothing else is to have in the child. */
static int free_fd(const struct spawn *spec)
{
	int fd = FIRST_FD;

	for (size_t i = 0; i < spec->fds_n; i++)
		if (spec->fds[i].child_fd == fd) {
			fd++;
			i = (size_t)-1;
		}
	return fd;
}

/* Without one, as where a filter above us has a listener already, calls are denied in silence: say so once.
 */
void confinement_listen(struct execd *execd, struct confine_start *start, const struct confine *confine,
			const char *id, struct denials **ret)
{
	int listener = confine_start_listener(start);
	int r = listener < 0 ? listener : denials_new(execd->loop, confine, listener, id, ret);

	if (r < 0 && start->socket >= 0)
		log_warn("'%s': what its confinement denies cannot be told: %s", id, strerror(-r));
}

int confined_spawn(struct execd *execd, struct child *c, const struct spawn *spec, struct confine *confine,
		   const char *id, child_exit_fn *on_exit, struct denials **ret_denials, struct err *err)
{
	struct confined_start s = {.hook = {.run = run_hook, .report = report_hook},
				   .confine = confine,
				   .plan = confine_plan(confine),
				   .child_fd = -1};
	struct confine_start start;
	struct spawn own = *spec;

	*ret_denials = NULL;
	if (!confine)
		return child_spawn(execd->reaper, c, spec, on_exit, err);
	int r = confine_start_init(&start, confine, err);
	if (r < 0)
		return r;
	if (start.child_socket >= 0) {
		s.child_fd = free_fd(spec);
		own.fds[own.fds_n++] = (struct spawn_fd){start.child_socket, s.child_fd};
	}
	own.hook = &s.hook;
	r = child_spawn(execd->reaper, c, &own, on_exit, err);
	if (r >= 0)
		confinement_listen(execd, &start, confine, id, ret_denials);
	confine_start_done(&start);
	return r;
}

void confinement_let_go(struct execd *execd, struct denials *d)
{
	denials_let_go(d, execd->confinement ? execd->confinement->orphans : NULL);
}
