/*
 * cell.c - cells: their events, their interrupt and timeout, their end.
 *
 * Owns the cells that wait and the one that runs in a kernel. Loop thread only.
 *
 *   WAITING -> SENT -> STARTED -> ended
 *
 * An interrupt before STARTED is remembered and delivered then: the kernel does
 * not heed SIGINT while the user's code is not running, so that a late one
 * cannot harm it. One that comes as the code is about to wait can be lost inside
 * the language, so it is sent again until the kernel says that it has arrived.
 */
#include "execd/cell.h"

#include <stdio.h>
#include <string.h>

#include "execd/execd.h"
#include "execd/kernel.h"
#include "lib/clock.h"
#include "proto/json.h"

#define RESULT_MAX ((size_t)64 << 20) /* bytes of one result event */

struct cell {
	struct list link;
	struct cells *queue;
	struct run *run;
	size_t code_n;
	uint64_t timeout_ms;
	bool started, interrupted, timed_out, overflowed, counted;
	unsigned tries; /* SIGINTs sent since the last acknowledgement */
};

/* ---- events ------------------------------------------------------------------ */

static void emit(struct run *run, struct jw *w)
{
	jw_kint(w, "timestamp", (int64_t)clock_real_ms());
	jw_obj_end(w);
	if (!w->out->failed)
		(void)output_append(run->output, OUTPUT_EVENT, w->out->data, w->out->len);
}

/* Clients want the count before the result, and also when there is none. */
static void emit_count(struct cell *cell)
{
	_cleanup_buf_ struct buf event = BUF_INIT(256);
	struct jw w = JW_INIT(&event);
	if (cell->counted)
		return;
	cell->counted = true;
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "execution_count");
	jw_kint(&w, "execution_count", cell->queue->count);
	emit(cell->run, &w);
}

void cells_result(struct cells *q, json_t *data)
{
	_cleanup_buf_ struct buf event = BUF_INIT(RESULT_MAX);
	struct jw w = JW_INIT(&event);
	struct cell *cell = q->current;
	const char *mime;
	json_t *value;
	emit_count(cell);
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "result");
	jw_key(&w, "results");
	jw_obj_begin(&w);
	json_object_foreach(data, mime, value)
	{
		char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		jw_kraw(&w, strcmp(mime, "text/plain") == 0 ? "text" : mime, text);
		free(text);
	}
	jw_obj_end(&w);
	jw_kint(&w, "execution_count", q->count);
	emit(cell->run, &w);
}

void cell_emit_status(struct run *run, const char *text)
{
	_cleanup_buf_ struct buf event = BUF_INIT(4096);
	struct jw w = JW_INIT(&event);
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "status");
	jw_kstr(&w, "text", text);
	emit(run, &w);
}

/* ---- the end ------------------------------------------------------------------- */

static void cell_free(struct cell *cell)
{
	list_del(&cell->link);
	free(cell);
}

static void cell_end(struct cell *cell, struct run_end *end)
{
	struct run *run = TAKE_PTR(cell->run);
	run_ended(run, end);
	run_unref(run);
	cell_free(cell);
}

void cell_set_error(struct run_end *end, const char *ename, const char *evalue)
{
	free(end->ename);
	free(end->evalue);
	end->ename = strdup(ename);
	end->evalue = strdup(evalue);
}

static void leave_queue(struct cell *cell)
{
	list_del(&cell->link);
	cell->queue->waiting_n--;
	cell->queue->waiting_bytes -= cell->code_n;
}

static void waiting_end(struct cell *cell, enum run_reason reason, const char *ename, const char *evalue)
{
	struct run_end end = {.reason = reason, .exit_code = -1};
	cell_set_error(&end, ename, evalue);
	leave_queue(cell);
	cell_end(cell, &end);
}

/* The agent has stopped it, whatever the kernel says of its end. */
static void set_stopped(struct cells *q, const struct cell *cell, struct run_end *end)
{
	const char *killed = q->kernel ? "" : " and did not heed an interrupt: its kernel was killed";
	char text[256];
	if (cell->overflowed)
		(void)snprintf(text, sizeof(text), "the cell wrote more than its limit of %llu bytes%s",
			       (unsigned long long)q->output_max, killed);
	else
		(void)snprintf(text, sizeof(text), "the cell ran longer than its timeout of %llu ms%s",
			       (unsigned long long)cell->timeout_ms, killed);
	end->reason = cell->overflowed ? RUN_OUTPUT_LIMIT : RUN_TIMEOUT;
	cell_set_error(end, cell->overflowed ? "OutputLimitError" : "TimeoutError", text);
}

void cells_end_current(struct cells *q, struct run_end *end)
{
	struct cell *cell = TAKE_PTR(q->current);
	loop_timer_del(&q->timeout);
	loop_timer_del(&q->again);
	emit_count(cell);
	if ((cell->timed_out || cell->overflowed) && end->reason != RUN_CANCELLED)
		set_stopped(q, cell, end);
	else if (cell->interrupted && end->reason == RUN_FAILED)
		end->reason = RUN_INTERRUPTED;
	cell_end(cell, end);
}

void cells_end_waiting(struct cells *q, enum run_reason reason, const char *ename, const char *evalue)
{
	list_foreach_safe (node, &q->waiting)
		waiting_end(list_entry(node, struct cell, link), reason, ename, evalue);
}

void cells_end_all(struct cells *q, enum run_reason reason, const char *ename, const char *evalue)
{
	if (q->current) {
		struct run_end end = {.reason = reason, .exit_code = -1};
		cell_set_error(&end, ename, evalue);
		cells_end_current(q, &end);
	}
	cells_end_waiting(q, reason, ename, evalue);
}

/* ---- interrupt and timeout --------------------------------------------------- */

static void interrupt_again(struct loop_timer *timer);

static void arm_again(struct cells *q)
{
	struct loop *loop = q->execd->loop;
	uint64_t wait_ms = (uint64_t)CONTEXT_INTERRUPT_AGAIN_MS << (2 * q->current->tries);
	if (++q->current->tries < CONTEXT_INTERRUPT_TRIES)
		(void)loop_timer_set(loop, &q->again, loop_now_ms(loop) + wait_ms, interrupt_again);
}

static void interrupt_again(struct loop_timer *timer)
{
	struct cells *q = container_of(timer, struct cells, again);
	(void)kernel_interrupt_again(q->kernel);
	arm_again(q);
}

static int interrupt_current(struct cells *q)
{
	int r = kernel_interrupt(q->kernel);
	q->current->tries = 0;
	arm_again(q);
	return r;
}

static int cell_interrupt(struct run *run)
{
	struct cell *cell = run->owner;
	if (!cell)
		return -ESRCH;
	struct cells *q = cell->queue;
	if (q->current != cell) {
		waiting_end(cell, RUN_INTERRUPTED, "KeyboardInterrupt", "interrupted before it began");
		return 0;
	}
	cell->interrupted = true;
	return cell->started ? interrupt_current(q) : 0;
}

static const struct run_ops cell_ops = {.interrupt = cell_interrupt};

int cells_interrupt(struct cells *q)
{
	return q->current ? cell_interrupt(q->current->run) : -ESRCH;
}

struct run *cells_current(const struct cells *q)
{
	return q->current ? q->current->run : NULL;
}

static void timed_out(struct loop_timer *timer);

static void stop_current(struct cells *q)
{
	struct loop *loop = q->execd->loop;
	(void)interrupt_current(q);
	(void)loop_timer_set(loop, &q->timeout, loop_now_ms(loop) + CONTEXT_INTERRUPT_GRACE_MS, timed_out);
}

static void timed_out(struct loop_timer *timer)
{
	struct cells *q = container_of(timer, struct cells, timeout);
	if (q->current->timed_out || q->current->overflowed) { /* it does not heed SIGINT */
		kernel_kill(q->kernel);
		return;
	}
	q->current->timed_out = true;
	stop_current(q);
}

void cells_overflow(struct cells *q)
{
	if (q->current->timed_out || q->current->overflowed)
		return;
	q->current->overflowed = true;
	stop_current(q);
}

/* ---- what the kernel says --------------------------------------------------------- */

void cells_started(struct cells *q)
{
	struct loop *loop = q->execd->loop;
	struct cell *cell = q->current;
	/* Once: code that says it again would put off its own timeout. */
	if (cell->started)
		return;
	cell->started = true;
	if (cell->interrupted || cell->overflowed)
		(void)interrupt_current(q);
	if (cell->timeout_ms && !cell->overflowed)
		(void)loop_timer_set(loop, &q->timeout, loop_now_ms(loop) + cell->timeout_ms, timed_out);
}

void cells_interrupted(struct cells *q)
{
	loop_timer_del(&q->again);
}

static const char *string_of(json_t *object, const char *field, const char *otherwise)
{
	const char *s = json_string_value(json_object_get(object, field));
	return s ? s : otherwise;
}

static void take_traceback(struct run_end *end, json_t *lines)
{
	size_t n = json_array_size(lines);
	end->traceback = n > 0 ? calloc(n, sizeof(*end->traceback)) : NULL;
	for (size_t i = 0; end->traceback && i < n; i++) {
		const char *line = json_string_value(json_array_get(lines, i));
		char *copy = strdup(line ? line : "");
		if (copy)
			end->traceback[end->traceback_n++] = copy;
	}
}

void cells_ended(struct cells *q, json_t *message)
{
	struct run_end end = {.reason = RUN_EXITED};
	if (strcmp(string_of(message, "status", ""), "ok") != 0) {
		end.reason = RUN_FAILED;
		end.exit_code = -1;
		cell_set_error(&end, string_of(message, "ename", "Error"), string_of(message, "evalue", ""));
		take_traceback(&end, json_object_get(message, "traceback"));
	}
	cells_end_current(q, &end);
}

/* ---- the queue ---------------------------------------------------------------------- */

static int check_room(const struct cells *q, size_t code_n, struct err *err)
{
	if (q->waiting_n >= CONTEXT_QUEUE_MAX)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "%d cells wait in this context already, the most at once", CONTEXT_QUEUE_MAX);
	if (q->waiting_bytes + code_n > CONTEXT_QUEUE_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "the cells that wait in this context would be longer than %lu bytes",
			       CONTEXT_QUEUE_BYTES_MAX);
	return 0;
}

int cells_add(struct cells *q, const char *context, const struct context_cell *spec, struct run **ret_run,
	      struct err *err)
{
	size_t code_n = strlen(spec->code);
	int r = check_room(q, code_n, err);
	if (r < 0)
		return r;
	struct cell *cell = calloc(1, sizeof(*cell));
	if (!cell)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "run code");
	list_init(&cell->link);
	cell->queue = q;
	cell->code_n = code_n;
	cell->timeout_ms = spec->timeout_ms;
	r = run_new(q->execd->runs, spec->code, &cell_ops, cell, &cell->run, err);
	if (r < 0) {
		cell_free(cell);
		return r;
	}
	cell->run->code = true;
	cell->run->init_text = strdup(context);
	*ret_run = run_ref(cell->run);
	list_add_tail(&q->waiting, &cell->link);
	q->waiting_n++;
	q->waiting_bytes += code_n;
	return 0;
}

struct run *cells_begin(struct cells *q)
{
	struct cell *cell = list_entry(q->waiting.next, struct cell, link);
	leave_queue(cell);
	q->count++;
	q->current = cell;
	run_started(cell->run);
	return cell->run;
}

static void cell_room(void *arg)
{
	const struct cell *cell = arg;
	if (cell->queue->kernel)
		kernel_resume(cell->queue->kernel);
}

int cells_send(struct cells *q)
{
	struct run *run = q->current->run;
	struct err err;
	output_set_on_room(run->output, cell_room, q->current);
	q->output_budget = q->output_max;
	kernel_set_budget(q->kernel, q->output_max ? &q->output_budget : NULL);
	int r = kernel_execute(q->kernel, q->count, run->content, run->output, &err);
	if (r < 0) {
		struct run_end end = {.reason = RUN_FAILED, .exit_code = -1};
		cell_set_error(&end, "KernelError", err.message);
		cells_end_current(q, &end);
	}
	return r;
}

void cells_init(struct cells *q, struct execd *execd)
{
	q->execd = execd;
	list_init(&q->waiting);
}

void cells_done(struct cells *q, const char *ename, const char *evalue)
{
	cells_end_all(q, RUN_CANCELLED, ename, evalue);
	loop_timer_del(&q->timeout);
	loop_timer_del(&q->again);
}
