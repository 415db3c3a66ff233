/*
 * run.c - executions and their registry.
 *
 * Owns: every run that can be looked up. A live run is held by its owner (the
 * command, session or context) and by the registry; an ended one by the
 * registry until it is too old or too many have ended since, and by whoever
 * still shows it. Eviction only takes it out of the map.
 *
 * Outputs of ended runs cost memory and disk: over a budget the oldest lose
 * their output and long content, and keep their end record. One timer serves
 * the age limit; it is armed only while there is an ended run.
 *
 * Threads: the loop's only.
 */
#include "execd/run.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/err.h"
#include "lib/random.h"
#include "proto/json.h"

#define RUN_ID_LEN	     32
#define ENDED_MAX_DEFAULT    1024
#define ENDED_AGE_DEFAULT_MS ((uint64_t)3600 * 1000)
#define ENDED_MEMORY_DEFAULT ((size_t)16 << 20)
#define ENDED_SPILL_DEFAULT  ((uint64_t)512 << 20)
#define LIVE_MAX_DEFAULT     4096

struct runs {
	struct loop *loop;
	struct runs_limits limits;
	struct map map;
	struct list live, ended, held, all;
	struct run *listed; /* what runs_before() gave last, while it is in the registry */
	size_t live_n, ended_n;
	uint64_t total;
	size_t held_memory;
	uint64_t held_spill;
	struct loop_timer age_timer;
};

const char *run_reason_name(enum run_reason reason)
{
	static const char *const names[] = {
		[RUN_EXITED] = "exited",
		[RUN_SIGNALLED] = "signalled",
		[RUN_TIMEOUT] = "timeout",
		[RUN_OOM] = "oom",
		[RUN_INTERRUPTED] = "interrupted",
		[RUN_CANCELLED] = "cancelled",
		[RUN_OUTPUT_LIMIT] = "output_limit",
		[RUN_FAILED] = "failed",
	};

	return names[reason];
}

/* ---- one run ---------------------------------------------------------- */

struct run *run_ref(struct run *run)
{
	run->refs++;
	return run;
}

static void end_done(struct run_end *end)
{
	for (size_t i = 0; i < end->traceback_n; i++)
		free(end->traceback[i]);
	free(end->traceback);
	free(end->ename);
	free(end->evalue);
}

void run_unref(struct run *run)
{
	if (!run || --run->refs > 0)
		return;
	assert(list_empty(&run->watches));
	output_unref(run->output);
	end_done(&run->end);
	free(run->id);
	free(run->session);
	free(run->init_text);
	free(run->content);
	free(run->limits);
	free(run->confinement);
	free(run->denied);
	free(run->profile);
	free(run);
}

int run_new(struct runs *runs, const char *content, const struct run_ops *ops, void *owner, struct run **ret,
	    struct err *err)
{
	struct run *run;
	int r = -ENOMEM;

	if (runs->live_n >= runs->limits.live_max)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN, "%zu executions are running already",
			       runs->live_n);
	run = calloc(1, sizeof(*run));
	if (!run)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "new execution");
	run->refs = 1;
	list_init(&run->link);
	list_init(&run->held);
	list_init(&run->all);
	list_init(&run->watches);
	run->ops = ops;
	run->owner = owner;
	run->created_ms = clock_real_ms();
	run->content = strdup(content ? content : "");
	run->id = malloc(RUN_ID_LEN + 1);
	if (!run->content || !run->id)
		goto fail;
	random_hex(run->id, RUN_ID_LEN);
	r = output_new(runs->loop, &runs->limits.output, &run->output);
	if (r < 0)
		goto fail;
	r = map_add(&runs->map, &run->node, run->id);
	if (r < 0)
		goto fail;
	run->runs = runs;
	list_add_tail(&runs->live, &run->link);
	list_add_tail(&runs->all, &run->all);
	runs->live_n++;
	run->number = ++runs->total;
	*ret = run_ref(run);
	return 0;
fail:
	run_unref(run);
	return err_sys(err, "RUNTIME_ERROR", -r, "new execution");
}

void runs_count(const struct runs *runs, struct runs_counts *ret)
{
	*ret = (struct runs_counts){.live = runs->live_n, .ended = runs->ended_n, .total = runs->total};
}

void run_started(struct run *run)
{
	assert(run->state == RUN_QUEUED);
	run->state = RUN_RUNNING;
	run->started_ms = clock_real_ms();
	run->started_mono_ms = clock_mono_ms();
}

struct run *run_current(struct run *run)
{
	struct run *current = run->ops && run->ops->current ? run->ops->current(run) : NULL;
	return current ? current : run;
}

int run_interrupt(struct run *run)
{
	if (run->state == RUN_ENDED || !run->ops || !run->ops->interrupt)
		return -ESRCH;
	return run->ops->interrupt(run);
}

int run_signal(struct run *run, int signo, bool group)
{
	if (run->state != RUN_RUNNING)
		return -ESRCH;
	return run->ops && run->ops->signal ? run->ops->signal(run, signo, group) : -EOPNOTSUPP;
}

void run_watch(struct run *run, struct run_watch *w, void (*ended)(struct run_watch *w))
{
	w->ended = ended;
	list_add_tail(&run->watches, &w->link);
}

void run_unwatch(struct run_watch *w)
{
	if (w->link.next)
		list_del(&w->link);
}

static uint64_t timeval_ms(const struct timeval *tv)
{
	return (uint64_t)tv->tv_sec * 1000 + (uint64_t)tv->tv_usec / 1000;
}

const char *run_signal_name(int signo, char out[RUN_SIGNAL_MAX])
{
	const char *name = sigabbrev_np(signo);

	if (name)
		(void)snprintf(out, RUN_SIGNAL_MAX, "SIG%s", name);
	else
		(void)snprintf(out, RUN_SIGNAL_MAX, "SIG%d", signo);
	return out;
}

void run_end_json(const struct run *run, struct jw *w)
{
	const struct run_end *end = &run->end;

	jw_obj_begin(w);
	jw_kstr(w, "reason", run_reason_name(end->reason));
	if (end->exit_code >= 0)
		jw_kint(w, "exit_code", end->exit_code);
	if (end->signo > 0) {
		char name[RUN_SIGNAL_MAX];

		jw_kstr(w, "signal", run_signal_name(end->signo, name));
	}
	jw_kint(w, "user_cpu_ms", (int64_t)timeval_ms(&end->usage.ru_utime));
	jw_kint(w, "sys_cpu_ms", (int64_t)timeval_ms(&end->usage.ru_stime));
	jw_kint(w, "max_rss_kib", end->usage.ru_maxrss);
	jw_kint(w, "processes_killed", (int64_t)end->processes_killed);
	if (end->oom_kills > 0)
		jw_kint(w, "oom_kills", (int64_t)end->oom_kills);
	if (run->output && output_begin(run->output) > 0)
		jw_kint(w, "output_dropped", (int64_t)output_begin(run->output));
	jw_kraw(w, "denied", run->denied);
	jw_obj_end(w);
}

/* ---- the registry ------------------------------------------------------ */

int runs_new(struct loop *loop, const struct runs_limits *limits, struct runs **ret)
{
	struct runs *runs = calloc(1, sizeof(*runs));

	if (!runs)
		return -ENOMEM;
	runs->loop = loop;
	if (limits)
		runs->limits = *limits;
	if (runs->limits.ended_max == 0)
		runs->limits.ended_max = ENDED_MAX_DEFAULT;
	if (runs->limits.ended_age_ms == 0)
		runs->limits.ended_age_ms = ENDED_AGE_DEFAULT_MS;
	if (runs->limits.ended_memory_max == 0)
		runs->limits.ended_memory_max = ENDED_MEMORY_DEFAULT;
	if (runs->limits.ended_spill_max == 0)
		runs->limits.ended_spill_max = ENDED_SPILL_DEFAULT;
	if (runs->limits.live_max == 0)
		runs->limits.live_max = LIVE_MAX_DEFAULT;
	list_init(&runs->live);
	list_init(&runs->ended);
	list_init(&runs->held);
	list_init(&runs->all);
	*ret = runs;
	return 0;
}

struct run *runs_get(struct runs *runs, const char *id)
{
	struct map_node *node = map_get(&runs->map, id);

	return node ? container_of(node, struct run, node) : NULL;
}

struct run *runs_before(struct runs *runs, uint64_t before)
{
	struct list *node = runs->all.prev;

	if (runs->listed && runs->listed->number <= before)
		node = &runs->listed->all;
	while (node != &runs->all && list_entry(node, struct run, all)->number >= before)
		node = node->prev;
	runs->listed = node == &runs->all ? NULL : list_entry(node, struct run, all);
	return runs->listed;
}

/* The run's cost leaves the budget. */
static void unhold(struct runs *runs, struct run *run)
{
	runs->held_memory -= run->held_memory;
	runs->held_spill -= run->held_spill;
	run->held_memory = 0;
	run->held_spill = 0;
	list_del(&run->held);
}

static void forget(struct runs *runs, struct run *run)
{
	unhold(runs, run);
	map_del(&runs->map, &run->node);
	list_del(&run->link);
	list_del(&run->all);
	if (runs->listed == run)
		runs->listed = NULL;
	run->runs = NULL;
	run_unref(run);
}

void runs_free(struct runs *runs)
{
	if (!runs)
		return;
	loop_timer_del(&runs->age_timer);
	list_foreach_safe (node, &runs->ended)
		forget(runs, list_entry(node, struct run, link));
	list_foreach_safe (node, &runs->live)
		forget(runs, list_entry(node, struct run, link));
	map_done(&runs->map);
	free(runs);
}

static void hold(struct runs *runs, struct run *run)
{
	run->held_memory = output_memory(run->output) + strlen(run->content);
	run->held_spill = output_spilled(run->output);
	runs->held_memory += run->held_memory;
	runs->held_spill += run->held_spill;
	list_add_tail(&runs->held, &run->held);
}

/* Cuts long content at the border of a code point. */
static void shorten(struct run *run)
{
	size_t n = RUN_CONTENT_MIN;
	char *content;

	if (strlen(run->content) <= n)
		return;
	while (n > 0 && ((unsigned char)run->content[n] & 0xc0) == 0x80)
		n--;
	run->content[n] = '\0';
	content = realloc(run->content, n + 1);
	if (content)
		run->content = content;
}

/* The newest keeps its output whatever it costs: its client is only just reading the end. */
static void keep_budget(struct runs *runs)
{
	list_foreach_safe (node, &runs->held) {
		struct run *run = list_entry(node, struct run, held);

		if ((runs->held_memory <= runs->limits.ended_memory_max &&
		     runs->held_spill <= runs->limits.ended_spill_max) ||
		    node->next == &runs->held)
			return;
		if (!output_drop(run->output))
			continue;
		shorten(run);
		unhold(runs, run);
	}
}

static void age_due(struct loop_timer *timer);

/* What is over the count or the age goes, and the timer waits for the next. */
static void keep_history(struct runs *runs)
{
	uint64_t now_ms = clock_mono_ms();

	while (!list_empty(&runs->ended)) {
		struct run *oldest = list_entry(runs->ended.next, struct run, link);
		uint64_t due_ms = oldest->ended_mono_ms + runs->limits.ended_age_ms;

		if (runs->ended_n <= runs->limits.ended_max && now_ms < due_ms) {
			if (!loop_timer_armed(&runs->age_timer))
				(void)loop_timer_set(runs->loop, &runs->age_timer, due_ms, age_due);
			return;
		}
		runs->ended_n--;
		forget(runs, oldest);
	}
}

static void age_due(struct loop_timer *timer)
{
	keep_history(container_of(timer, struct runs, age_timer));
}

void run_ended(struct run *run, struct run_end *end)
{
	struct runs *runs = run->runs;

	assert(run->state != RUN_ENDED);
	run_ref(run);
	run->state = RUN_ENDED;
	run->ended_ms = clock_real_ms();
	run->ended_mono_ms = clock_mono_ms();
	run->owner = NULL;
	run->ops = NULL;
	run->end = *end;
	memset(end, 0, sizeof(*end));
	output_set_on_room(run->output, NULL, NULL);
	output_close(run->output);
	if (runs) {
		list_del(&run->link);
		runs->live_n--;
		list_add_tail(&runs->ended, &run->link);
		runs->ended_n++;
		hold(runs, run);
	}
	while (!list_empty(&run->watches)) {
		struct run_watch *w = list_entry(run->watches.next, struct run_watch, link);

		list_del(&w->link);
		w->ended(w);
	}
	if (runs && run->runs) {
		keep_budget(runs);
		keep_history(runs);
	}
	run_unref(run);
}
