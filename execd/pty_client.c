/*
 * pty_client.c - the one client of a terminal session.
 *
 * Owns the link between them. A client that keeps up is a reader of the log and
 * so holds the shell up when it is slow, as a terminal does; one that has taken
 * nothing for PTY_STALL_MS no longer counts as a reader, and finds a gap where
 * the log has moved on.
 */
#include "execd/pty_priv.h"

#include <sys/wait.h>

#include "execd/execd.h"

void pty_wake(struct pty *p)
{
	if (p->client)
		p->client->ops->wake(p->client);
}

static void stall_expired(struct loop_timer *timer)
{
	struct pty_client *c = container_of(timer, struct pty_client, stall);
	uint64_t due_ms = c->progress_ms + PTY_STALL_MS;
	if (loop_now_ms(timer->loop) >= due_ms ||
	    loop_timer_set(timer->loop, timer, due_ms, stall_expired) < 0)
		output_detach(&c->reader);
}

/* From here on it has something to take; without memory for the timer it may take its time. */
static void stall_arm(struct pty_client *c)
{
	struct loop *loop = c->pty->ptys->execd->loop;
	c->progress_ms = loop_now_ms(loop);
	if (!loop_timer_armed(&c->stall))
		(void)loop_timer_set(loop, &c->stall, c->progress_ms + PTY_STALL_MS, stall_expired);
}

static void output_arrived(struct output_reader *r)
{
	struct pty_client *c = container_of(r, struct pty_client, reader);
	stall_arm(c);
	c->ops->wake(c);
}

void pty_follow(struct pty_client *c)
{
	struct pty *p = c->pty;
	if (!c->reader.output && p->state != DRAINING)
		output_attach(p->output, &c->reader, c->offset, output_arrived);
}

void pty_detach(struct pty_client *c)
{
	if (!c->pty)
		return;
	output_detach(&c->reader);
	loop_timer_del(&c->stall);
	c->pty->client = NULL;
	c->pty = NULL;
}

void pty_evict(struct pty *p, enum pty_eviction why)
{
	struct pty_client *c = p->client;
	if (!c)
		return;
	pty_detach(c);
	c->ops->evicted(c, why);
}

void pty_attach(struct pty *p, struct pty_client *c, uint64_t since, const struct pty_client_ops *ops)
{
	pty_evict(p, PTY_TAKEN_OVER);
	p->client = c;
	c->pty = p;
	c->ops = ops;
	c->offset = MIN(MAX(since, output_begin(p->output)), output_end(p->output));
	pty_follow(c);
	if (c->offset < output_end(p->output))
		stall_arm(c);
}

int pty_read(struct pty_client *c, size_t max, struct output_slice *ret, bool *ret_missed)
{
	struct output *o = c->pty->output;
	*ret_missed = false;
	int r;
	while ((r = output_read(o, c->offset, max, ret)) == -ERANGE) {
		*ret_missed = true;
		c->offset = output_begin(o);
	}
	return r;
}

void pty_advance(struct pty_client *c, const struct output_slice *slice)
{
	struct pty *p = c->pty;
	c->offset = slice->offset + slice->len;
	c->progress_ms = loop_now_ms(p->ptys->execd->loop);
	if (c->reader.output)
		output_reader_advance(&c->reader, c->offset);
	if (c->offset < output_end(p->output))
		return;
	loop_timer_del(&c->stall);
	pty_follow(c); /* it has caught up */
}

bool pty_take_end(struct pty_client *c, int *ret_exit_code, int *ret_signo)
{
	struct pty *p = c->pty;
	if (p->state != ENDED || p->told || c->offset < output_end(p->output))
		return false;
	p->told = true;
	*ret_exit_code = WIFEXITED(p->wstatus) ? WEXITSTATUS(p->wstatus) : -1;
	*ret_signo = WIFSIGNALED(p->wstatus) ? WTERMSIG(p->wstatus) : 0;
	return true;
}
