/*
 * kernel.c - kernels: their life, their control socket, their two pipes, their death.
 *
 * Order: when a frame has arrived, what lies in the pipes at that moment was
 * written before it (a kernel flushes before it sends), so both are drained by
 * exactly that much and then the frame is handled. What a cell's log has no
 * room for stays in the pipes, and the frames behind it in the socket.
 *
 * Whose child it is is taken from the credentials that come with HELLO, never
 * from what the kernel says of itself.
 *
 * Death: the process has ended (or was lost before it had a pid) and what it
 * had sent has been handled.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "execd/kernel_priv.h"
#include "execd/peer.h"
#include "execd/tree.h"
#include "proto/json.h"

#define READ_MAX     65536 /* bytes of the socket a turn */
#define EOF_GRACE_MS 1000  /* from the end of the socket to the end of the process */
#define TAIL_MAX     300   /* bytes of what it wrote on stderr that tell why it did not start */

/* ---- the end -------------------------------------------------------------- */

void kernel_lost(struct kernel *k, const char *message)
{
	if (!k->death[0])
		(void)snprintf(k->death, sizeof(k->death), "%s", message);
	k->eof = true;
	loop_io_del(&k->io);
	if (k->child.pid)
		(void)child_kill(&k->child, SIGKILL); /* its exit follows */
	else
		k->ended = true;
}

static void describe_death(const struct kernel *k, char *out, size_t size)
{
	if (k->death[0])
		(void)snprintf(out, size, "%s", k->death);
	else if (k->wstatus >= 0 && WIFSIGNALED(k->wstatus))
		(void)snprintf(out, size, "was killed by signal %d (%s)", WTERMSIG(k->wstatus),
			       strsignal(WTERMSIG(k->wstatus)));
	else
		(void)snprintf(out, size, "exited with code %d", WEXITSTATUS(k->wstatus));
}

/* Why it did not start is in the last thing it wrote. */
static void append_tail(const struct kernel *k, char *message, size_t size)
{
	struct output_slice s;
	uint64_t end = output_stream_end(k->idle_output, OUTPUT_STDERR);
	uint64_t from = end > TAIL_MAX ? end - TAIL_MAX : 0;
	size_t len = strlen(message);
	if (output_read_stream(k->idle_output, OUTPUT_STDERR, from, UINT64_MAX, TAIL_MAX, &s) <= 0)
		return;
	const char *text = (const char *)s.data;
	size_t n = s.len;
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
		n--;
	const char *line = memrchr(text, '\n', n);
	if (line) {
		n -= (size_t)(line + 1 - text);
		text = line + 1;
	}
	if (n > 0)
		(void)snprintf(message + len, size - len, ": %.*s", (int)n, text);
}

void kernel_die(struct kernel *k)
{
	char message[KERNEL_DEATH_MAX];
	bool starting = k->state == STARTING;
	describe_death(k, message, sizeof(message));
	if (starting)
		append_tail(k, message, sizeof(message));
	k->state = DEAD;
	loop_timer_del(&k->timer);
	loop_io_del(&k->io);
	fd_close(&k->control);
	kernel_fail_forks(k, message);
	if (!k->freed)
		k->events->died(k->owner, message, k->wstatus, &k->usage);
}

static void set_output(struct kernel *k, struct output *out)
{
	k->output = out;
	for (size_t i = 0; i < ARRAY_SIZE(k->pumps); i++) {
		k->pumps[i].output = out;
		k->pumps[i].budget = k->state == BUSY ? k->budget : NULL;
	}
	kernel_resume(k);
}

/* ---- frames --------------------------------------------------------------- */

static void handle_hello(struct kernel *k, json_t *message);

static void handle_end(struct kernel *k, json_t *message)
{
	if (k->state != BUSY) {
		kernel_lost(k, "ended a cell that was not running");
		return;
	}
	k->state = IDLE;
	set_output(k, k->idle_output);
	k->events->done(k->owner, message);
}

static void handle_sync(struct kernel *k, const struct frame *f)
{
	/* It waits for this one answer, so there is never more than one under way. */
	if (frame_append(&k->out, FRAME_SYNCED, f->data, f->len) < 0)
		kernel_lost(k, "broke the kernel protocol: too large a frame");
}

static void handle_message(struct kernel *k, char kind, json_t *message)
{
	switch (kind) {
	case FRAME_HELLO:
		handle_hello(k, message);
		break;
	case FRAME_STARTED:
		if (k->state == BUSY)
			k->events->started(k->owner);
		break;
	case FRAME_INTERRUPTED:
		if (k->state == BUSY)
			k->events->interrupted(k->owner);
		break;
	case FRAME_RESULT:
		/* From a thread it may come between cells, where there is nobody to show it to. */
		if (k->state == BUSY && json_is_object(json_object_get(message, "data")))
			k->events->result(k->owner, json_object_get(message, "data"));
		break;
	case FRAME_END:
		handle_end(k, message);
		break;
	case FRAME_FORKED:
		kernel_handle_forked(k, message);
		break;
	default:
		kernel_lost(k, "broke the kernel protocol: an unknown frame");
	}
}

static void flush(struct kernel *k);

static void handle(struct kernel *k, const struct frame *f)
{
	json_t *message = NULL;
	struct err err;
	if (f->kind == FRAME_SYNC && f->len <= 64) {
		handle_sync(k, f);
		flush(k);
		return;
	}
	int r = json_parse_large(f->data, f->len, &message, &err);
	if (r < 0) {
		kernel_lost(k, r == -E2BIG ? "broke the kernel protocol: a frame of too many values"
					   : "broke the kernel protocol: a frame that is not JSON");
		return;
	}
	handle_message(k, f->kind, message);
	json_decref(message);
}

/* True when what was written before now is in the log. */
static bool drain(struct kernel *k)
{
	bool out = pump_drain(&k->pumps[0]), err = pump_drain(&k->pumps[1]);
	return out && err;
}

static bool draining(const struct kernel *k)
{
	return k->pumps[0].draining || k->pumps[1].draining;
}

/* Handles what has arrived, frame by frame, each behind its output; the end comes last. */
void kernel_advance(struct kernel *k)
{
	if (k->advancing)
		return;
	k->advancing = true;
	while (!k->freed && k->state != DEAD && !draining(k)) {
		struct frame f;
		int r = frame_peek(&k->in, &f);
		if (r < 0) {
			buf_clear(&k->in);
			kernel_lost(k, "broke the kernel protocol: too large a frame");
			continue;
		}
		if (r == 0 && !k->ended)
			break;
		if (!k->drained) {
			k->drained = true;
			if (!drain(k))
				break;
		}
		k->drained = false;
		if (r == 0) {
			kernel_die(k);
			break;
		}
		handle(k, &f);
		if (!k->freed)
			frame_consume(&k->in, &f);
	}
	k->advancing = false;
}

static void pump_drained(struct pump *p)
{
	kernel_advance(container_of(p, struct kernel, pumps[p->stream == OUTPUT_STDERR]));
}

static void pump_failed(struct pump *p, int r)
{
	struct kernel *k = container_of(p, struct kernel, pumps[p->stream == OUTPUT_STDERR]);
	if (r == -EDQUOT && k->state == BUSY)
		k->events->overflow(k->owner);
}

static const struct pump_ops pump_ops = {.drained = pump_drained, .failed = pump_failed};

/* ---- the control socket ----------------------------------------------------- */

static void flush(struct kernel *k)
{
	while (k->out.len > 0 && k->control >= 0) {
		ssize_t n = send(k->control, k->out.data, k->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break; /* full, or gone: reading tells */
		buf_consume(&k->out, (size_t)n);
	}
	if (k->io.fd >= 0)
		(void)loop_io_set(&k->io, (k->io.events & EPOLLIN) | (k->out.len > 0 ? EPOLLOUT : 0));
}

/* One read. False: nothing there, or the end. */
static bool control_read(struct kernel *k)
{
	if (k->eof || k->control < 0)
		return false;
	if (buf_reserve(&k->in, READ_MAX) < 0) {
		kernel_lost(k, "broke the kernel protocol: too much at once");
		return false;
	}
	ssize_t n = peer_receive(k->control, buf_tail(&k->in), READ_MAX, &k->peer);
	if (n > 0) {
		k->in.len += (size_t)n;
		return true;
	}
	if (n == 0 || errno != EAGAIN) {
		k->eof = true;
		loop_io_del(&k->io);
	}
	return false;
}

static void eof_timeout(struct loop_timer *timer)
{
	struct kernel *k = container_of(timer, struct kernel, timer);
	kernel_lost(k, "closed its control socket");
	kernel_advance(k);
}

/* Mostly the process is ending as well. Without its socket it is no kernel any more. */
static void control_ended(struct kernel *k)
{
	struct loop *loop = k->execd->loop;
	if (k->child.pid)
		(void)loop_timer_set(loop, &k->timer, loop_now_ms(loop) + EOF_GRACE_MS, eof_timeout);
	else if (!k->parent) /* else the parent's answer says why */
		kernel_lost(k, "ended before it was ready");
}

void kernel_control_ready(struct loop_io *io, uint32_t events)
{
	struct kernel *k = container_of(io, struct kernel, io);
	if (events & EPOLLOUT)
		flush(k);
	if (!(events & ~(uint32_t)EPOLLOUT))
		return;
	if (k->output && output_room(k->output) == 0) { /* kernel_resume() brings it back */
		(void)loop_io_set(&k->io, k->io.events & ~(uint32_t)EPOLLIN);
		return;
	}
	(void)control_read(k);
	if (k->eof && !k->ended)
		control_ended(k);
	kernel_advance(k);
}

void kernel_resume(struct kernel *k)
{
	if (k->shell) {
		shell_resume(k->shell);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(k->pumps); i++)
		pump_resume(&k->pumps[i]);
	if (k->io.fd >= 0)
		(void)loop_io_set(&k->io, k->io.events | EPOLLIN);
}

void kernel_exited(struct child *child, int wstatus, const struct rusage *usage)
{
	struct kernel *k = container_of(child, struct kernel, child);
	k->wstatus = wstatus;
	k->usage = *usage;
	k->ended = true;
	while (control_read(k)) /* what it had sent still counts; bounded by in.max */
		;
	k->eof = true;
	loop_io_del(&k->io);
	kernel_advance(k);
}

void kernel_start_timeout(struct loop_timer *timer)
{
	struct kernel *k = container_of(timer, struct kernel, timer);
	char text[64];
	(void)snprintf(text, sizeof(text), "was not ready within %d seconds", KERNEL_START_TIMEOUT_MS / 1000);
	kernel_lost(k, text);
	kernel_advance(k);
}

/* ---- birth ------------------------------------------------------------------ */

static void handle_hello(struct kernel *k, json_t *message)
{
	const char *error = json_string_value(json_object_get(message, "error"));
	const char *version = json_string_value(json_object_get(message, "version"));
	if (k->state != STARTING ||
	    json_integer_value(json_object_get(message, "protocol")) != KERNEL_PROTOCOL) {
		kernel_lost(k, "broke the kernel protocol: a greeting that does not fit");
		return;
	}
	/* Gone again before it could be watched: its end cannot be told any more than that. */
	if (!k->child.pid && child_adopt(k->execd->reaper, &k->child, k->peer, kernel_exited) < 0)
		error = "ended as soon as it was ready";
	if (error) {
		kernel_lost(k, error);
		return;
	}
	if (!k->version)
		k->version = version ? strdup(version) : NULL;
	k->confines = json_is_true(json_object_get(message, "confine"));
	if (k->confine)
		confinement_listen(k->execd, &k->listener, k->confine, k->mark, &k->denials);
	confine_unref(TAKE_PTR(k->confine));
	confine_start_done(&k->listener);
	k->interrupt_frame = json_object_get(message, "interrupt") != NULL;
	k->state = IDLE;
	loop_timer_del(&k->timer);
	kernel_ask_next_fork(k);
	k->events->ready(k->owner);
}

struct kernel *kernel_alloc(struct execd *execd, const struct kernel_spec *spec)
{
	struct kernel *k = calloc(1, sizeof(*k));
	if (!k)
		return NULL;
	k->execd = execd;
	k->language = spec->language;
	k->events = spec->events;
	k->owner = spec->owner;
	k->idle_output = k->output = spec->output;
	k->in = BUF_INIT((size_t)FRAME_MAX + FRAME_HEADER + READ_MAX);
	k->out = BUF_INIT(((size_t)FRAME_MAX + FRAME_HEADER) * 2);
	k->control = k->io.fd = -EBADF;
	k->wstatus = -1;
	k->listener.socket = k->listener.child_socket = -EBADF;
	for (size_t i = 0; i < ARRAY_SIZE(k->child_ends); i++)
		k->child_ends[i] = -EBADF;
	list_init(&k->fork_link);
	list_init(&k->forks);
	pump_init(&k->pumps[0], &pump_ops, OUTPUT_STDOUT);
	pump_init(&k->pumps[1], &pump_ops, OUTPUT_STDERR);
	return k;
}

/* ---- a spare ------------------------------------------------------------------ */

int kernel_take_over(struct kernel *k, const struct kernel_spec *spec, struct err *err)
{
	_cleanup_buf_ struct buf json = BUF_INIT(65536);
	struct jw w = JW_INIT(&json);
	struct loop *loop = k->execd->loop;
	if (k->state != IDLE)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY, "the kernel is not idle");
	jw_obj_begin(&w);
	jw_kstr(&w, "cwd", spec->cwd);
	jw_obj_end(&w);
	int r = json.failed ? -ENOMEM : frame_append(&k->out, FRAME_BEGIN, json.data, json.len);
	if (r >= 0)
		r = loop_timer_set(loop, &k->timer, loop_now_ms(loop) + KERNEL_START_TIMEOUT_MS,
				   kernel_start_timeout);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "take over a kernel");
	k->events = spec->events;
	k->owner = spec->owner;
	k->idle_output = spec->output;
	k->state = STARTING;
	set_output(k, spec->output);
	flush(k);
	return 0;
}

static void announce(struct loop_defer *d)
{
	struct kernel *k = container_of(d, struct kernel, announce);
	if (k->state == IDLE)
		k->events->ready(k->owner);
}

void kernel_assign(struct kernel *k, const struct kernel_spec *spec)
{
	k->events = spec->events;
	k->owner = spec->owner;
	k->idle_output = spec->output;
	set_output(k, spec->output);
	if (k->state == IDLE) /* else its HELLO is still to come */
		loop_defer(k->execd->loop, &k->announce, announce);
}

/* ---- for the owner ---------------------------------------------------------- */

int kernel_execute(struct kernel *k, int64_t cell, const char *code, struct output *out, struct err *err)
{
	struct buf json = BUF_INIT(FRAME_MAX);
	struct jw w = JW_INIT(&json);
	if (k->state != IDLE)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY, "the kernel is not idle");
	if (k->shell)
		return kernel_shell_execute(k, code, out, err);
	jw_obj_begin(&w);
	jw_kint(&w, "cell", cell);
	jw_kstr(&w, "code", code);
	jw_obj_end(&w);
	int r = json.failed ? -ENOMEM : frame_append(&k->out, FRAME_EXECUTE, json.data, json.len);
	buf_done(&json);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "send the code to its kernel");
	k->state = BUSY;
	set_output(k, out);
	flush(k);
	return 0;
}

void kernel_set_budget(struct kernel *k, uint64_t *budget)
{
	k->budget = budget;
	if (k->shell)
		shell_set_budget(k->shell, budget);
}

static void send_interrupt(struct kernel *k)
{
	if (k->interrupt_frame && frame_append(&k->out, FRAME_INTERRUPT, "{}", 2) >= 0)
		flush(k);
}

int kernel_interrupt(struct kernel *k)
{
	if (k->shell)
		return shell_interrupt(k->shell);
	send_interrupt(k);
	return child_kill_group(&k->child, SIGINT);
}

int kernel_interrupt_again(struct kernel *k)
{
	if (k->shell)
		return shell_interrupt(k->shell);
	send_interrupt(k);
	return child_kill(&k->child, SIGINT);
}

void kernel_kill(struct kernel *k)
{
	if (k->shell)
		shell_kill(k->shell);
	if (k->child.pid)
		(void)tree_kill(k->child.pid, true, k->mark);
}

char *kernel_denied(struct kernel *k)
{
	return k->shell ? shell_denied(k->shell) : denials_take(k->denials);
}

bool kernel_ready(const struct kernel *k)
{
	return k->state == IDLE || k->state == BUSY;
}

bool kernel_confines(const struct kernel *k)
{
	return k->confines;
}

pid_t kernel_pid(const struct kernel *k)
{
	return k->shell ? shell_pid(k->shell) : k->child.pid;
}

const char *kernel_version(const struct kernel *k)
{
	return k->version;
}

static void release(struct loop_defer *d)
{
	struct kernel *k = container_of(d, struct kernel, release);
	buf_done(&k->in);
	buf_done(&k->out);
	free(k->mark);
	free(k->version);
	free(k->cwd);
	free(k);
}

void kernel_free(struct kernel *k)
{
	if (!k || k->freed)
		return;
	k->freed = true;
	shell_free(TAKE_PTR(k->shell)); /* kills what it had started */
	if (k->mark && (k->child.pid || k->ended))
		(void)tree_kill(k->child.pid, k->child.pid != 0, k->mark);
	confinement_let_go(k->execd, TAKE_PTR(k->denials));
	confine_unref(TAKE_PTR(k->confine));
	confine_start_done(&k->listener);
	child_forget(&k->child);
	loop_defer_cancel(&k->announce);
	loop_timer_del(&k->timer);
	loop_io_del(&k->io);
	fd_close(&k->control);
	for (size_t i = 0; i < ARRAY_SIZE(k->pumps); i++)
		pump_close(&k->pumps[i]);
	kernel_close_child_ends(k);
	list_del(&k->fork_link);
	kernel_fail_forks(k, "could not be forked: its parent has gone");
	if (k->advancing) /* a callback of its own stands in it */
		loop_defer(k->execd->loop, &k->release, release);
	else
		release(&k->release);
}
