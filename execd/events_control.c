/*
 * events_control.c - the events of a run's life: init, execution_complete, error.
 *
 * Owns nothing: each is put from the run as it stands into the caller's buffer.
 * The words for how a command ended are the reference's.
 */
#include "execd/events_priv.h"

#include <ctype.h>
#include <stdio.h>

#include "lib/clock.h"

size_t events_put_head(uint8_t *out, enum events_framing framing, const char *type, size_t type_len,
		       uint64_t id)
{
	uint8_t *p = out;

	if (framing == EVENTS_BARE)
		return 0;
	if (framing == EVENTS_SSE_NAMED) {
		p += events_put_str(p, "event: ");
		memcpy(p, type, type_len);
		p += type_len;
		*p++ = '\n';
	}
	if (id != UINT64_MAX) {
		p += events_put_str(p, "id: ");
		p += events_put_uint(p, id);
		*p++ = '\n';
	}
	p += events_put_str(p, "data: ");
	return (size_t)(p - out);
}

struct jw events_control_begin(struct buf *b, enum events_framing framing, const char *type, uint64_t id)
{
	struct jw w = JW_INIT(b);

	if (buf_reserve(b, EVENTS_FRAME_MAX) < 0)
		b->failed = true;
	else
		b->len += events_put_head(buf_tail(b), framing, type, strlen(type), id);
	jw_obj_begin(&w);
	jw_kstr(&w, "type", type);
	return w;
}

void events_control_end(struct jw *w, uint64_t time_ms)
{
	jw_kint(w, "timestamp", (int64_t)time_ms);
	jw_obj_end(w);
	(void)buf_puts(w->out, "\n\n");
}

void events_put_init(struct buf *b, const struct run *run, enum events_framing framing, uint64_t id)
{
	struct jw w = events_control_begin(b, framing, "init", id);

	jw_kstr(&w, "text", run->init_text ? run->init_text : run->id);
	jw_kraw(&w, "limits", run->limits);
	events_control_end(&w, run->created_ms);
}

static void put_complete(struct buf *b, const struct run *run, enum events_framing framing, uint64_t id)
{
	bool ended = run->state == RUN_ENDED;
	struct jw w = events_control_begin(b, framing, "execution_complete", id);
	uint64_t to_ms = ended ? run->ended_mono_ms : clock_mono_ms();

	jw_kint(&w, "execution_time", run->started_mono_ms ? (int64_t)(to_ms - run->started_mono_ms) : 0);
	if (ended) {
		jw_key(&w, "end");
		run_end_json(run, &w);
	}
	events_control_end(&w, ended ? run->ended_ms : clock_real_ms());
}

/* "killed", "segmentation fault": the reference's words, which are libc's in lower case. */
static void signal_words(int signo, char *out, size_t size)
{
	const char *words = sigdescr_np(signo);

	if (words)
		(void)snprintf(out, size, "signal: %s", words);
	else
		(void)snprintf(out, size, "signal: signal %d", signo);
	/* But "CPU time limit exceeded" stays. */
	out += strlen("signal: ");
	if (!isupper((unsigned char)out[1]))
		out[0] = (char)tolower((unsigned char)out[0]);
}

static const char *reason_words(enum run_reason reason)
{
	switch (reason) {
	case RUN_TIMEOUT:
		return "ended by its time limit";
	case RUN_OOM:
		return "ended by its memory limit";
	case RUN_INTERRUPTED:
		return "interrupted by a client";
	case RUN_CANCELLED:
		return "cancelled: what it belonged to has gone";
	case RUN_OUTPUT_LIMIT:
		return "ended by its output limit";
	case RUN_FAILED:
		return "failed";
	case RUN_EXITED:
	case RUN_SIGNALLED:
		break;
	}
	return NULL;
}

/* What the reference says of a command: its exit code, -1 for a signal. */
static void put_command_error(struct jw *w, const struct run_end *end)
{
	char value[16], trace[80];

	(void)snprintf(value, sizeof(value), "%d", end->signo > 0 ? -1 : end->exit_code);
	if (end->signo > 0)
		signal_words(end->signo, trace, sizeof(trace));
	else
		(void)snprintf(trace, sizeof(trace), "exit status %d", end->exit_code);
	jw_kstr(w, "ename", "CommandExecError");
	jw_kstr(w, "evalue", value);
	jw_key(w, "traceback");
	jw_arr_begin(w);
	jw_str(w, trace);
	if (reason_words(end->reason))
		jw_str(w, reason_words(end->reason));
	jw_arr_end(w);
}

/* What a cell raised, or, where it raised nothing and still did not finish, why. */
static void put_raised(struct jw *w, const struct run_end *end)
{
	const char *words = reason_words(end->reason);

	jw_kstr(w, "ename", end->ename ? end->ename : "ExecutionError");
	jw_kstr(w, "evalue", end->evalue ? end->evalue : words ? words : run_reason_name(end->reason));
	jw_key(w, "traceback");
	jw_arr_begin(w);
	for (size_t i = 0; i < end->traceback_n; i++)
		jw_str(w, end->traceback[i]);
	jw_arr_end(w);
}

static void put_error(struct buf *b, const struct run *run, enum events_framing framing, uint64_t id)
{
	struct jw w = events_control_begin(b, framing, "error", id);

	jw_key(&w, "error");
	jw_obj_begin(&w);
	if (run->code || run->end.ename)
		put_raised(&w, &run->end);
	else
		put_command_error(&w, &run->end);
	jw_obj_end(&w);
	jw_key(&w, "end");
	run_end_json(run, &w);
	events_control_end(&w, run->ended_ms);
}

/* A command that was stopped but left with 0 (it caught the signal) has not failed for those who read exit
 * codes. */
static bool succeeded(const struct run *run)
{
	const struct run_end *end = &run->end;

	if (end->ename)
		return false;
	if (run->code)
		return end->reason == RUN_EXITED;
	return end->signo == 0 && end->exit_code == 0 && end->reason != RUN_FAILED;
}

void events_put_terminal(struct buf *b, const struct run *run, enum events_framing framing, uint64_t id)
{
	if (succeeded(run))
		put_complete(b, run, framing, id);
	else
		put_error(b, run, framing, id);
}

int events_detached(struct run *run, enum events_framing framing, struct buf *out)
{
	events_put_init(out, run, framing, 0);
	put_complete(out, run, framing, 0);
	return out->failed ? -ENOMEM : 0;
}
