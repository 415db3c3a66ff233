/*
 * sweeper.c - owns the one timer of the control plane; on the loop thread.
 *
 * A timerfd on CLOCK_REALTIME, absolute, with cancel-on-set: deadlines are
 * points in wall-clock time, and when the clock is set the wait is computed
 * anew instead of being trusted.
 */
#include "sandboxd/sweeper.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "lib/clock.h"
#include "lib/log.h"

struct sweeper {
	struct loop *loop;
	struct store *store;
	sweeper_fn *fn;
	void *arg;
	int timerfd;
	struct loop_io io;
	struct loop_defer soon;
};

static void arm(struct sweeper *w, uint64_t at_ms)
{
	struct itimerspec when = {
		.it_value.tv_sec = (time_t)(at_ms / 1000),
		.it_value.tv_nsec = (long)(at_ms % 1000) * 1000000,
	};
	if (timerfd_settime(w->timerfd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &when, NULL) < 0)
		log_error("sweeper: set the timer: errno %d", errno);
}

uint64_t sweeper_run(struct sweeper *w, uint64_t now_ms)
{
	char id[64];
	enum sandbox_state state;
	uint64_t next;
	int r;

	for (int i = 0; i < SWEEPER_BATCH; i++) {
		r = store_due(w->store, now_ms, id, &state);
		if (r == 0)
			return store_next_deadline(w->store, &next) == 0 ? next : 0;
		if (r > 0)
			r = w->fn(w->arg, id, state, now_ms);
		if (r < 0)
			return now_ms + SWEEPER_RETRY_MS;
	}
	return now_ms; /* more are due: the next turn of the loop */
}

static void pass(struct sweeper *w)
{
	arm(w, sweeper_run(w, clock_real_ms()));
}

static void on_soon(struct loop_defer *d)
{
	pass(container_of(d, struct sweeper, soon));
}

static void on_timer(struct loop_io *io, uint32_t events)
{
	struct sweeper *w = container_of(io, struct sweeper, io);
	uint64_t ticks;

	(void)events;
	(void)!read(w->timerfd, &ticks, sizeof(ticks)); /* ECANCELED: the clock was set; look again too */
	pass(w);
}

int sweeper_new(struct loop *loop, struct store *store, sweeper_fn *fn, void *arg, struct sweeper **ret)
{
	struct sweeper *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct sweeper){.loop = loop, .store = store, .fn = fn, .arg = arg, .io.fd = -EBADF};
	w->timerfd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	int r = w->timerfd < 0 ? -errno : loop_io_add(loop, &w->io, w->timerfd, EPOLLIN, on_timer);
	if (r < 0) {
		fd_close(&w->timerfd);
		free(w);
		return r;
	}
	*ret = w;
	return 0;
}

void sweeper_free(struct sweeper *w)
{
	if (!w)
		return;
	loop_defer_cancel(&w->soon);
	loop_io_del(&w->io);
	fd_close(&w->timerfd);
	free(w);
}

void sweeper_kick(struct sweeper *w)
{
	loop_defer(w->loop, &w->soon, on_soon);
}
