/*
 * loop.c - the event loop.
 *
 * Owns the epoll descriptor, the signalfd and the eventfd that wakes it for
 * posts; everything registered is borrowed. All of it belongs to the thread
 * that calls loop_run(), but for `posts`: a stack of posts pushed by any thread
 * without a lock, taken whole by the loop and reversed into posting order.
 *
 * Whatever a callback may remove is found again without trusting a pointer that
 * was kept over the callback: fetched events are nulled by loop_io_del(), due
 * timers by loop_timer_del(), and lists are walked with a marker node in them.
 */
#include "lib/loop.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "lib/clock.h"

#define BATCH_MAX	  256
#define SIGNALS_BATCH_MAX 16
/* At the end of a run: rounds of calls that deferred calls have deferred. */
#define DEFER_LAST_ROUNDS 16

/* The keys stand in the heap itself, so that sifting touches no timer but to note its slot. */
struct heap_entry {
	uint64_t due_ms;
	uint64_t seq; /* equal times fire in the order of arming */
	struct loop_timer *timer;
};

/* A timer that is due and waits for its turn has its index in due[] instead of the heap. */
#define SLOT_DUE (~(SIZE_MAX >> 1))

struct loop {
	int epfd;
	uint64_t now_ms;
	bool running, stopped;
	int code;

	struct epoll_event batch[BATCH_MAX];
	int batch_n, batch_pos; /* delivered so far */

	struct heap_entry *heap;
	struct loop_timer **due; /* as many places as heap */
	size_t heap_n, heap_cap, due_n;
	uint64_t seq;

	struct list defers;
	struct list prepares;

	struct list signals;
	struct loop_io signal_io; /* fd owned */
	sigset_t signal_mask;

	struct loop_io post_io; /* fd owned */
	_Atomic(struct loop_post *) posts;
	struct loop_post *queue, **queue_end; /* taken from posts, not yet run */
};

static void on_posts(struct loop_io *io, uint32_t events);

int loop_new(struct loop **ret)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int fd, r;

	if (!loop)
		return -ENOMEM;
	list_init(&loop->defers);
	list_init(&loop->prepares);
	list_init(&loop->signals);
	(void)sigemptyset(&loop->signal_mask);
	loop->signal_io.fd = loop->post_io.fd = -EBADF;
	loop->queue_end = &loop->queue;
	loop->now_ms = clock_mono_ms();

	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epfd < 0) {
		r = -errno;
		goto fail;
	}
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0) {
		r = -errno;
		goto fail;
	}
	r = loop_io_add(loop, &loop->post_io, fd, EPOLLIN, on_posts);
	if (r < 0) {
		fd_close(&fd);
		goto fail;
	}
	*ret = loop;
	return 0;
fail:
	loop_free(loop);
	return r;
}

static void unlink_all(struct list *head)
{
	while (!list_empty(head))
		list_del(head->next);
}

static void run_defers(struct loop *loop);

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	assert(!loop->running);
	/* What was to be released after the last turn. */
	run_defers(loop);
	/* Owners may still delete or cancel what they had here. */
	unlink_all(&loop->defers);
	unlink_all(&loop->prepares);
	unlink_all(&loop->signals);
	for (size_t i = 0; i < loop->heap_n; i++)
		loop->heap[i].timer->slot = 0;
	free(loop->heap);
	free(loop->due);
	fd_close(&loop->signal_io.fd);
	fd_close(&loop->post_io.fd);
	fd_close(&loop->epfd);
	free(loop);
}

uint64_t loop_now_ms(const struct loop *loop)
{
	return loop->now_ms;
}

void loop_stop(struct loop *loop, int code)
{
	loop->stopped = true;
	loop->code = code;
}

/* ---- descriptors ------------------------------------------------------- */

/*
 * Without interest a descriptor stays where it is, edge-triggered: taken out, it could not be put back when
 * there is no memory for that. epoll reports EPOLLHUP whether asked or not, so once at most.
 */
static int io_control(struct loop_io *io, int op, uint32_t events)
{
	struct epoll_event ev = {.events = events ? events : EPOLLET, .data.ptr = io};

	return epoll_ctl(io->loop->epfd, op, io->fd, &ev) < 0 ? -errno : 0;
}

int loop_io_add(struct loop *loop, struct loop_io *io, int fd, uint32_t events, loop_io_fn *fn)
{
	int r;

	if (fd < 0)
		return -EBADF;
	*io = (struct loop_io){.loop = loop, .fn = fn, .fd = fd, .events = events};
	r = io_control(io, EPOLL_CTL_ADD, events);
	if (r < 0)
		io->fd = -EBADF;
	return r;
}

int loop_io_set(struct loop_io *io, uint32_t events)
{
	int r;

	if (!io->loop || io->fd < 0)
		return -EBADF;
	if (events == io->events)
		return 0;
	r = io_control(io, EPOLL_CTL_MOD, events);
	if (r >= 0)
		io->events = events;
	return r;
}

void loop_io_del(struct loop_io *io)
{
	struct loop *loop = io->loop;

	if (!loop || io->fd < 0)
		return;
	(void)io_control(io, EPOLL_CTL_DEL, 0);
	for (int i = loop->batch_pos; i < loop->batch_n; i++)
		if (loop->batch[i].data.ptr == io)
			loop->batch[i].data.ptr = NULL;
	io->fd = -EBADF;
	io->events = 0;
}

static void run_batch(struct loop *loop, int n)
{
	loop->batch_n = n;
	for (loop->batch_pos = 0; loop->batch_pos < loop->batch_n;) {
		const struct epoll_event *ev = &loop->batch[loop->batch_pos++];
		struct loop_io *io = ev->data.ptr;
		uint32_t events;

		if (!io || !io->events)
			continue;
		/* An earlier callback may have lost interest since the fetch. */
		events = ev->events & (io->events | EPOLLERR | EPOLLHUP);
		if (events)
			io->fn(io, events);
	}
	loop->batch_n = loop->batch_pos = 0;
}

/* ---- timers ------------------------------------------------------------ */

static bool entry_before(const struct heap_entry *a, const struct heap_entry *b)
{
	return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->seq < b->seq;
}

static void heap_put(struct loop *loop, size_t i, struct heap_entry e)
{
	loop->heap[i] = e;
	e.timer->slot = i + 1;
}

static void heap_up(struct loop *loop, size_t i, struct heap_entry e)
{
	while (i > 0 && entry_before(&e, &loop->heap[(i - 1) / 2])) {
		heap_put(loop, i, loop->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_put(loop, i, e);
}

static void heap_down(struct loop *loop, size_t i, struct heap_entry e)
{
	size_t child;

	while ((child = 2 * i + 1) < loop->heap_n) {
		if (child + 1 < loop->heap_n && entry_before(&loop->heap[child + 1], &loop->heap[child]))
			child++;
		if (!entry_before(&loop->heap[child], &e))
			break;
		heap_put(loop, i, loop->heap[child]);
		i = child;
	}
	heap_put(loop, i, e);
}

/* Puts e where slot i is free, wherever in the heap that leads. */
static void heap_settle(struct loop *loop, size_t i, struct heap_entry e)
{
	if (i > 0 && entry_before(&e, &loop->heap[(i - 1) / 2]))
		heap_up(loop, i, e);
	else
		heap_down(loop, i, e);
}

static void heap_remove(struct loop *loop, size_t i)
{
	struct heap_entry last = loop->heap[--loop->heap_n];

	if (i < loop->heap_n)
		heap_settle(loop, i, last);
}

static int heap_room(struct loop *loop)
{
	size_t cap = loop->heap_cap ? loop->heap_cap * 2 : 16;
	struct loop_timer **due;
	struct heap_entry *heap;

	if (loop->heap_n < loop->heap_cap)
		return 0;
	heap = reallocarray(loop->heap, cap, sizeof(*heap));
	if (!heap)
		return -ENOMEM;
	loop->heap = heap;
	due = reallocarray(loop->due, cap, sizeof(*due));
	if (!due)
		return -ENOMEM;
	loop->due = due;
	loop->heap_cap = cap;
	return 0;
}

int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t due_ms, loop_timer_fn *fn)
{
	struct heap_entry e = {.due_ms = due_ms, .seq = loop->seq++, .timer = timer};
	int r;

	if (timer->slot & SLOT_DUE)
		loop_timer_del(timer);
	if (timer->slot) {
		heap_settle(loop, timer->slot - 1, e);
	} else {
		r = heap_room(loop);
		if (r < 0)
			return r;
		heap_up(loop, loop->heap_n++, e);
	}
	timer->loop = loop;
	timer->fn = fn;
	timer->due_ms = due_ms;
	return 0;
}

void loop_timer_del(struct loop_timer *timer)
{
	if (!timer->slot)
		return;
	if (timer->slot & SLOT_DUE)
		timer->loop->due[timer->slot & ~SLOT_DUE] = NULL;
	else
		heap_remove(timer->loop, timer->slot - 1);
	timer->slot = 0;
}

/* What is due leaves the heap before any callback runs: a timer that re-arms itself cannot hold the turn. */
static void run_timers(struct loop *loop)
{
	loop->due_n = 0;
	while (loop->heap_n > 0 && loop->heap[0].due_ms <= loop->now_ms) {
		struct loop_timer *timer = loop->heap[0].timer;

		heap_remove(loop, 0);
		timer->slot = SLOT_DUE | loop->due_n;
		loop->due[loop->due_n++] = timer;
	}
	for (size_t i = 0; i < loop->due_n; i++) {
		struct loop_timer *timer = loop->due[i];

		if (!timer)
			continue;
		timer->slot = 0;
		timer->fn(timer);
	}
	loop->due_n = 0;
}

/* ---- signals ----------------------------------------------------------- */

static void run_signal(struct loop *loop, const struct signalfd_siginfo *info)
{
	struct list marker;

	list_add_before(loop->signals.next, &marker);
	while (marker.next != &loop->signals) {
		struct loop_signal *sig = list_entry(marker.next, struct loop_signal, link);

		list_del(&marker);
		list_add_before(sig->link.next, &marker);
		if (sig->signo == (int)info->ssi_signo)
			sig->fn(sig, info);
	}
	list_del(&marker);
}

static void on_signals(struct loop_io *io, uint32_t events)
{
	struct signalfd_siginfo info[SIGNALS_BATCH_MAX];
	ssize_t n = read(io->fd, info, sizeof(info));

	(void)events;
	for (ssize_t i = 0; n > 0 && i < n / (ssize_t)sizeof(info[0]); i++)
		run_signal(io->loop, &info[i]);
}

int loop_signal_add(struct loop *loop, struct loop_signal *sig, int signo, loop_signal_fn *fn)
{
	bool first = loop->signal_io.fd < 0;
	sigset_t mask = loop->signal_mask, one;
	int fd, r;

	if (sigaddset(&mask, signo) < 0)
		return -errno;
	fd = signalfd(first ? -1 : loop->signal_io.fd, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (first) {
		r = loop_io_add(loop, &loop->signal_io, fd, EPOLLIN, on_signals);
		if (r < 0) {
			fd_close(&fd);
			return r;
		}
	}
	(void)sigemptyset(&one);
	(void)sigaddset(&one, signo);
	r = pthread_sigmask(SIG_BLOCK, &one, NULL);
	if (r != 0)
		return -r;
	loop->signal_mask = mask;
	sig->signo = signo;
	sig->fn = fn;
	list_add_tail(&loop->signals, &sig->link);
	return 0;
}

void loop_signal_del(struct loop_signal *sig)
{
	if (sig->link.next)
		list_del(&sig->link);
}

/* ---- deferred work ----------------------------------------------------- */

static bool defer_queued(const struct loop_defer *d)
{
	return d->link.next && !list_empty(&d->link);
}

void loop_defer(struct loop *loop, struct loop_defer *d, loop_defer_fn *fn)
{
	if (defer_queued(d))
		return;
	d->fn = fn;
	list_add_tail(&loop->defers, &d->link);
}

void loop_defer_cancel(struct loop_defer *d)
{
	if (defer_queued(d))
		list_del(&d->link);
}

static void run_defers(struct loop *loop)
{
	struct list todo;

	/* The nodes move to a head of this round: what they defer is for the next one. */
	list_add_before(loop->defers.next, &todo);
	list_del(&loop->defers);
	while (!list_empty(&todo)) {
		struct loop_defer *d = list_entry(todo.next, struct loop_defer, link);

		list_del(&d->link);
		d->fn(d);
	}
}

void loop_prepare_add(struct loop *loop, struct loop_prepare *p, loop_prepare_fn *fn)
{
	p->fn = fn;
	list_add_tail(&loop->prepares, &p->link);
}

void loop_prepare_del(struct loop_prepare *p)
{
	if (p->link.next)
		list_del(&p->link);
}

/* The shortest wait that a hook asks for, or -1. */
static int run_prepares(struct loop *loop)
{
	struct list marker;
	int shortest = -1;

	list_add_before(loop->prepares.next, &marker);
	while (marker.next != &loop->prepares) {
		struct loop_prepare *p = list_entry(marker.next, struct loop_prepare, link);
		int ms;

		list_del(&marker);
		list_add_before(p->link.next, &marker);
		ms = p->fn(p);
		if (ms >= 0 && (shortest < 0 || ms < shortest))
			shortest = ms;
	}
	list_del(&marker);
	return shortest;
}

/* ---- other threads ----------------------------------------------------- */

void loop_post(struct loop *loop, struct loop_post *post)
{
	struct loop_post *head = atomic_load_explicit(&loop->posts, memory_order_relaxed);
	uint64_t one = 1;

	do
		post->next = head;
	while (!atomic_compare_exchange_weak_explicit(&loop->posts, &head, post, memory_order_release,
						      memory_order_relaxed));
	/* From here on post may be gone. Whoever found the stack empty wakes the loop. */
	if (head)
		return;
	while (write(loop->post_io.fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* Moves what was posted to the end of the queue, oldest first. */
static void take_posts(struct loop *loop)
{
	struct loop_post *stack = atomic_exchange_explicit(&loop->posts, NULL, memory_order_acquire);
	struct loop_post *first = NULL, *last = stack;

	if (!stack)
		return;
	while (stack) {
		struct loop_post *next = stack->next;

		stack->next = first;
		first = stack;
		stack = next;
	}
	*loop->queue_end = first;
	loop->queue_end = &last->next;
}

static void run_queue(struct loop *loop)
{
	while (loop->queue) {
		struct loop_post *post = loop->queue;

		loop->queue = post->next;
		if (!loop->queue)
			loop->queue_end = &loop->queue;
		post->fn(post);
	}
}

static void on_posts(struct loop_io *io, uint32_t events)
{
	uint64_t count;

	(void)events;
	/* First the wake-up, then the stack: a post in between wakes once more. */
	(void)!read(io->fd, &count, sizeof(count));
	take_posts(io->loop);
	run_queue(io->loop);
}

void loop_post_flush(struct loop *loop)
{
	take_posts(loop);
	run_queue(loop);
}

/* ---- the turn ---------------------------------------------------------- */

static int wait_limit(const struct loop *loop, int hooks_ms)
{
	uint64_t now_ms, left_ms;

	if (!list_empty(&loop->defers))
		return 0;
	if (loop->heap_n == 0)
		return hooks_ms;
	/* The clock is rounded down, so the rest is rounded up: never early. */
	now_ms = clock_mono_ms();
	left_ms = loop->heap[0].due_ms > now_ms ? loop->heap[0].due_ms - now_ms : 0;
	left_ms = MIN(left_ms, (uint64_t)INT_MAX);
	return hooks_ms >= 0 ? MIN(hooks_ms, (int)left_ms) : (int)left_ms;
}

/* Waits and runs what has come of it. */
static int turn(struct loop *loop)
{
	int n, timeout_ms = run_prepares(loop);

	if (loop->stopped)
		return 0;
	n = epoll_wait(loop->epfd, loop->batch, BATCH_MAX, wait_limit(loop, timeout_ms));
	if (n < 0 && errno != EINTR)
		return -errno;
	loop->now_ms = clock_mono_ms();
	run_batch(loop, MAX(n, 0));
	run_timers(loop);
	run_defers(loop);
	return 0;
}

int loop_run(struct loop *loop)
{
	int r = 0;

	assert(!loop->running);
	loop->running = true;
	loop->now_ms = clock_mono_ms();
	run_timers(loop);
	run_defers(loop);
	while (r >= 0 && !loop->stopped)
		r = turn(loop);
	for (int i = 0; i < DEFER_LAST_ROUNDS && !list_empty(&loop->defers); i++)
		run_defers(loop);
	loop->running = loop->stopped = false;
	return r < 0 ? r : loop->code;
}
