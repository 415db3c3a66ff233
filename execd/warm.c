/*
 * warm.c - zygotes, what is forked from them beforehand, and spares.
 *
 * Owns one slot a language: its zygote with the kernels parked for the next
 * contexts, or its spare. A slot is emptied when its process has died or when
 * the environment of new kernels has changed meanwhile; contexts do not need it
 * once they have their kernel. A spare goes to its context's directory; if the
 * language cannot, it stands where the last contexts were wanted. It ends when
 * nobody has wanted it for a while; what is forked costs little and stays.
 */
#include "execd/warm.h"

#include <stdlib.h>
#include <string.h>

#include "execd/env.h"
#include "execd/execd.h"
#include "execd/output.h"
#include "execd/tree.h"
#include "lib/random.h"

#define SLOTS_MAX     8
#define SPARE_IDLE_MS 600000
#define MISSES_MAX    2 /* contexts in a row that a rooted spare could not serve, before it gives way */
#define REFILL_MS     1 /* after a context is ready: its client has been told by then */

struct slot {
	struct kernel *kernel; /* the zygote, or the spare */
	struct list parked;
	size_t parked_n;
	struct loop_timer timer; /* of a spare: until it goes; of a zygote: until more are forked */
	char **envp;
	char *cwd; /* where a rooted spare stands, and the next one will; NULL: where the agent does */
	unsigned misses;
	struct output *output;
	struct warm *warm;
	const struct language *language;
};

struct parked {
	struct list link;
	struct slot *slot;
	struct kernel *kernel;
};

struct warm {
	struct execd *execd;
	const char *cwd;
	struct slot slots[SLOTS_MAX];
};

/* ---- slots ------------------------------------------------------------------ */

static void parked_free(struct parked *p)
{
	p->slot->parked_n--;
	list_del(&p->link);
	kernel_free(p->kernel);
	free(p);
}

static void slot_empty(struct slot *s)
{
	loop_timer_del(&s->timer);
	list_foreach_safe (node, &s->parked)
		parked_free(list_entry(node, struct parked, link));
	kernel_free(TAKE_PTR(s->kernel));
	env_free(TAKE_PTR(s->envp));
	output_unref(TAKE_PTR(s->output));
}

static struct slot *find_slot(struct warm *w, const struct language *language)
{
	for (size_t i = 0; i < SLOTS_MAX; i++) {
		struct slot *s = &w->slots[i];
		if (!s->language || s->language == language) {
			s->language = language;
			return s;
		}
	}
	return NULL;
}

static bool same_env(char *const *a, char *const *b)
{
	while (*a && *b && strcmp(*a, *b) == 0) {
		a++;
		b++;
	}
	return !*a && !*b;
}

/* Empties the slot when it has another environment than new kernels get; leaves it with that. */
static int slot_prepare(struct warm *w, const struct language *language, struct slot **ret, struct err *err)
{
	struct slot *s = find_slot(w, language);
	char **envp = NULL;
	int r = s ? env_build(w->execd->env_file, NULL, &envp, err)
		  : err_set(err, ERR_INTERNAL, "RUNTIME_ERROR", ENOSPC, "too many languages");
	if (r < 0)
		return r;
	if (s->envp && same_env(s->envp, envp)) {
		env_free(envp);
	} else {
		slot_empty(s);
		s->envp = envp;
	}
	*ret = s;
	return 0;
}

/* ---- events of kernels that are nobody's yet ----------------------------------- */

static void ignore(void *owner)
{
	(void)owner;
}

static void ignore_message(void *owner, json_t *message)
{
	(void)owner;
	(void)message;
}

/* The contexts that were to come from it have been told. */
static void slot_died(void *owner, const char *message, int wstatus, const struct rusage *usage)
{
	(void)message;
	(void)wstatus;
	(void)usage;
	slot_empty(owner);
}

static void parked_died(void *owner, const char *message, int wstatus, const struct rusage *usage)
{
	(void)message;
	(void)wstatus;
	(void)usage;
	parked_free(owner);
}

static const struct kernel_events slot_events = {
	.ready = ignore,
	.started = ignore,
	.interrupted = ignore,
	.overflow = ignore,
	.result = ignore_message,
	.done = ignore_message,
	.died = slot_died,
};

static const struct kernel_events parked_events = {
	.ready = ignore,
	.started = ignore,
	.interrupted = ignore,
	.overflow = ignore,
	.result = ignore_message,
	.done = ignore_message,
	.died = parked_died,
};

/* ---- a zygote and what is forked from it ------------------------------------------ */

static int slot_output(struct slot *s, struct err *err)
{
	const struct output_limits limits = {.memory_max = 16 << 10, .total_max = 16 << 10};
	int r = s->output ? 0 : output_new(s->warm->execd->loop, &limits, &s->output);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "start a kernel") : 0;
}

/* Its mark is in nobody's environment: what is forked from it must not look like a part of it. */
static int need_zygote(struct slot *s, struct err *err)
{
	char mark[RANDOM_UUID_MAX];
	int r = s->kernel ? 0 : slot_output(s, err);
	if (r < 0 || s->kernel)
		return r;
	const struct kernel_spec spec = {
		.language = s->language,
		.envp = s->envp,
		.cwd = "/",
		.mark = random_uuid(mark),
		.output = s->output,
		.events = &slot_events,
		.owner = s,
	};
	return kernel_start(s->warm->execd, &spec, &s->kernel, err);
}

static int park_one(struct slot *s)
{
	struct parked *p = calloc(1, sizeof(*p));
	char mark[RANDOM_UUID_MAX];
	struct err err;
	if (!p)
		return -ENOMEM;
	const struct kernel_spec spec = {
		.language = s->language,
		.cwd = s->warm->cwd,
		.mark = random_uuid(mark),
		.output = s->output,
		.events = &parked_events,
		.owner = p,
	};
	int r = kernel_fork(s->kernel, &spec, &p->kernel, &err);
	if (r < 0) {
		free(p);
		return r;
	}
	p->slot = s;
	s->parked_n++;
	list_add_tail(&s->parked, &p->link);
	return 0;
}

/* Without them the next context is forked when it is wanted, and says why not. */
static void park(struct loop_timer *timer)
{
	struct slot *s = container_of(timer, struct slot, timer);
	while (s->kernel && s->parked_n < s->warm->execd->kernel_spares && park_one(s) >= 0)
		;
}

/* NULL: there is none that spec's owner could have. */
static struct parked *find_parked(struct slot *s, const struct kernel_spec *spec)
{
	struct parked *p = list_empty(&s->parked) ? NULL : list_entry(s->parked.next, struct parked, link);
	bool fits = p && (kernel_ready(p->kernel) || strcmp(spec->cwd, s->warm->cwd) == 0);
	return fits ? p : NULL;
}

/* One that stands in the right directory already is told nothing. */
static int take_parked(struct parked *p, const struct kernel_spec *spec, struct kernel **ret, struct err *err)
{
	int r = 0;
	if (strcmp(spec->cwd, p->slot->warm->cwd) == 0)
		kernel_assign(p->kernel, spec);
	else
		r = kernel_take_over(p->kernel, spec, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(p->kernel);
	parked_free(p);
	return 1;
}

static int fork_or_take(struct slot *s, const struct kernel_spec *spec, struct kernel **ret, struct err *err)
{
	int r = need_zygote(s, err);
	if (r < 0)
		return r;
	struct parked *p = find_parked(s, spec);
	return p ? take_parked(p, spec, ret, err) : kernel_fork(s->kernel, spec, ret, err);
}

static int start_marked(struct warm *w, struct kernel_spec *spec, struct kernel **ret, struct err *err);

/* Not before the zygote has said that what it forks can confine itself; the next one finds it ready. */
static int fork_confined(struct slot *s, struct kernel_spec *spec, struct kernel **ret, struct err *err)
{
	struct err ignored;
	if (s->kernel && kernel_ready(s->kernel) && kernel_confines(s->kernel))
		return kernel_fork(s->kernel, spec, ret, err);
	int r = start_marked(s->warm, spec, ret, err);
	if (r >= 0 && need_zygote(s, &ignored) < 0)
		slot_empty(s);
	return r;
}

/* ---- spares ------------------------------------------------------------------------- */

static void spare_unwanted(struct loop_timer *timer)
{
	slot_empty(container_of(timer, struct slot, timer));
}

/* A spare is its context's only process, and what it starts carries the mark. */
static int start_marked(struct warm *w, struct kernel_spec *spec, struct kernel **ret, struct err *err)
{
	char **envp = NULL;
	int r = env_build_with(w->execd->env_file, NULL, TREE_MARK, spec->mark, &envp, err);
	if (r < 0)
		return r;
	spec->envp = envp;
	r = kernel_start(w->execd, spec, ret, err);
	env_free(envp);
	return r;
}

static const char *stands_in(const struct slot *s)
{
	return s->cwd ? s->cwd : s->warm->cwd;
}

/* A context in cwd has been asked for, in another directory than that of the spare. */
static void learn_cwd(struct slot *s, const char *cwd)
{
	if (!s->language->rooted || (s->kernel && ++s->misses < MISSES_MAX))
		return;
	char *copy = strdup(cwd);
	if (!copy)
		return;
	slot_empty(s);
	free(s->cwd);
	s->cwd = copy;
	s->misses = 0;
}

static int need_spare(struct slot *s, struct err *err)
{
	struct loop *loop = s->warm->execd->loop;
	char mark[RANDOM_UUID_MAX];
	int r = s->kernel ? 0 : slot_output(s, err);
	if (r < 0 || s->kernel)
		return r;
	struct kernel_spec spec = {
		.language = s->language,
		.cwd = stands_in(s),
		.mark = random_uuid(mark),
		.output = s->output,
		.events = &slot_events,
		.owner = s,
	};
	r = start_marked(s->warm, &spec, &s->kernel, err);
	return r < 0 ? r : loop_timer_set(loop, &s->timer, loop_now_ms(loop) + SPARE_IDLE_MS, spare_unwanted);
}

/* The spare may still be starting. */
static int start_or_take(struct slot *s, struct kernel_spec *spec, struct kernel **ret, struct err *err)
{
	bool there = strcmp(spec->cwd, stands_in(s)) == 0;
	if (!there)
		learn_cwd(s, spec->cwd);
	if (!s->kernel || (!there && (s->language->rooted || !kernel_ready(s->kernel))))
		return start_marked(s->warm, spec, ret, err);
	s->misses = 0;
	if (there)
		kernel_assign(s->kernel, spec);
	int r = there ? 0 : kernel_take_over(s->kernel, spec, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s->kernel);
	slot_empty(s);
	return 1;
}

/* ---- for the contexts ------------------------------------------------------------------ */

int warm_start(struct warm *w, struct kernel_spec *spec, struct kernel **ret, struct err *err)
{
	struct slot *s;
	/* What waits is not confined. */
	if (!spec->language->zygote && (spec->confine || !spec->language->spare))
		return start_marked(w, spec, ret, err);
	int r = slot_prepare(w, spec->language, &s, err);
	if (r < 0)
		return r;
	if (spec->confine)
		return fork_confined(s, spec, ret, err);
	return spec->language->zygote ? fork_or_take(s, spec, ret, err) : start_or_take(s, spec, ret, err);
}

void warm_refill(struct warm *w, const struct language *language)
{
	struct loop *loop = w->execd->loop;
	struct slot *s = find_slot(w, language);
	struct err err;
	if (!s || w->execd->kernel_spares == 0)
		return;
	if (language->zygote)
		(void)loop_timer_set(loop, &s->timer, loop_now_ms(loop) + REFILL_MS, park);
	else if (language->spare && slot_prepare(w, language, &s, &err) >= 0 && need_spare(s, &err) < 0)
		slot_empty(s);
}

int warm_new(struct execd *execd, const char *cwd, struct warm **ret)
{
	struct warm *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->execd = execd;
	w->cwd = cwd;
	for (size_t i = 0; i < SLOTS_MAX; i++) {
		w->slots[i].warm = w;
		list_init(&w->slots[i].parked);
	}
	*ret = w;
	return 0;
}

void warm_free(struct warm *w)
{
	if (!w)
		return;
	for (size_t i = 0; i < SLOTS_MAX; i++) {
		slot_empty(&w->slots[i]);
		free(w->slots[i].cwd);
	}
	free(w);
}
