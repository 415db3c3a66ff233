/* The loop: what callbacks may do to each other, and in which order things run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>

#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/loop.h"

static struct loop *loop;

/* What ran, in order, as letters. */
static char story[4096];

static void tell(char c)
{
	size_t n = strlen(story);

	assert_true(n + 1 < sizeof(story));
	story[n] = c;
	story[n + 1] = '\0';
}

static int setup(void **state)
{
	(void)state;
	story[0] = '\0';
	return loop_new(&loop);
}

static int teardown(void **state)
{
	(void)state;
	loop_free(loop);
	loop = NULL;
	return 0;
}

/* ---- descriptors ------------------------------------------------------- */

#define PEERS 8

struct peer {
	struct loop_io io;
	int fds[2];
	int calls;
	uint32_t events;
	struct peer *victim;
};

static struct peer peers[PEERS];

static void peers_open(uint32_t events, loop_io_fn *fn)
{
	for (int i = 0; i < PEERS; i++) {
		peers[i] = (struct peer){};
		assert_int_equal(fs_pipe(peers[i].fds, 1, 1), 0);
		assert_int_equal(loop_io_add(loop, &peers[i].io, peers[i].fds[0], events, fn), 0);
		assert_int_equal(write(peers[i].fds[1], "x", 1), 1);
	}
}

static void peers_close(void)
{
	for (int i = 0; i < PEERS; i++) {
		loop_io_del(&peers[i].io);
		fd_close(&peers[i].fds[0]);
		fd_close(&peers[i].fds[1]);
	}
}

static void on_peer_removes_all(struct loop_io *io, uint32_t events)
{
	(void)events;
	container_of(io, struct peer, io)->calls++;
	for (int i = 0; i < PEERS; i++)
		loop_io_del(&peers[i].io);
	loop_stop(loop, 7);
}

/* All are ready in one fetch; the first one removes all of them: the others are not called. */
static void test_removed_is_not_called(void **state)
{
	int calls = 0;

	(void)state;
	peers_open(EPOLLIN, on_peer_removes_all);
	assert_int_equal(loop_run(loop), 7);
	for (int i = 0; i < PEERS; i++) {
		calls += peers[i].calls;
		assert_int_equal(peers[i].io.fd, -EBADF);
	}
	assert_int_equal(calls, 1);
	peers_close();
}

static void on_peer_frees_next(struct loop_io *io, uint32_t events)
{
	struct peer *p = container_of(io, struct peer, io);

	(void)events;
	p->calls++;
	loop_io_del(io);
	if (p->victim) {
		loop_io_del(&p->victim->io);
		fd_close(&p->victim->fds[0]);
		fd_close(&p->victim->fds[1]);
		free(p->victim);
		p->victim = NULL;
	}
	loop_stop(loop, 0);
}

/* Two that remove and free each other's memory: whichever is first wins, the other is never touched. */
static void test_freed_is_not_touched(void **state)
{
	struct peer *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b)), *left;

	(void)state;
	assert_true(a && b);
	a->victim = b;
	b->victim = a;
	assert_int_equal(fs_pipe(a->fds, 1, 1), 0);
	assert_int_equal(fs_pipe(b->fds, 1, 1), 0);
	assert_int_equal(loop_io_add(loop, &a->io, a->fds[0], EPOLLIN, on_peer_frees_next), 0);
	assert_int_equal(loop_io_add(loop, &b->io, b->fds[0], EPOLLIN, on_peer_frees_next), 0);
	assert_int_equal(write(a->fds[1], "x", 1), 1);
	assert_int_equal(write(b->fds[1], "x", 1), 1);
	/* epoll reports in the order of readiness, so a is first. */
	assert_int_equal(loop_run(loop), 0);
	left = a;
	assert_int_equal(left->calls, 1);
	assert_null(left->victim);
	fd_close(&left->fds[0]);
	fd_close(&left->fds[1]);
	free(left);
}

static void on_peer_moves_all(struct loop_io *io, uint32_t events)
{
	(void)events;
	container_of(io, struct peer, io)->calls++;
	for (int i = 0; i < PEERS; i++) {
		loop_io_del(&peers[i].io);
		/* Writing ends are never readable. */
		assert_int_equal(loop_io_add(loop, &peers[i].io, peers[i].fds[1], EPOLLIN, on_peer_moves_all),
				 0);
	}
	loop_stop(loop, 0);
}

/* The old descriptor's events are not those of the new one. */
static void test_registered_anew_is_not_called(void **state)
{
	int calls = 0;

	(void)state;
	peers_open(EPOLLIN, on_peer_moves_all);
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < PEERS; i++)
		calls += peers[i].calls;
	assert_int_equal(calls, 1);
	peers_close();
}

static void on_peer_wants_less(struct loop_io *io, uint32_t events)
{
	struct peer *p = container_of(io, struct peer, io);

	p->calls++;
	p->events |= events;
	for (int i = 0; i < PEERS; i++)
		if (&peers[i] != p)
			assert_int_equal(loop_io_set(&peers[i].io, EPOLLPRI), 0);
	loop_stop(loop, 0);
}

/* Also what is of no interest any more is not told, while the rest would be. */
static void test_interest_changed_in_the_batch(void **state)
{
	int calls = 0;

	(void)state;
	peers_open(EPOLLIN, on_peer_wants_less);
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < PEERS; i++)
		calls += peers[i].calls;
	assert_int_equal(calls, 1);
	peers_close();
}

static void on_peer_pauses_all(struct loop_io *io, uint32_t events)
{
	(void)events;
	container_of(io, struct peer, io)->calls++;
	for (int i = 0; i < PEERS; i++)
		assert_int_equal(loop_io_set(&peers[i].io, 0), 0);
	loop_stop(loop, 0);
}

static void test_interest_lost_in_the_batch(void **state)
{
	int calls = 0;

	(void)state;
	peers_open(EPOLLIN, on_peer_pauses_all);
	/* Also a hang-up that has been fetched is not told. */
	for (int i = 0; i < PEERS; i++)
		fd_close(&peers[i].fds[1]);
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < PEERS; i++)
		calls += peers[i].calls;
	assert_int_equal(calls, 1);
	/* And back again. */
	assert_int_equal(loop_io_set(&peers[3].io, EPOLLIN), 0);
	assert_int_equal(loop_run(loop), 0);
	calls = peers[3].calls;
	assert_in_range(calls, 1, 2);
	peers_close();
}

static void on_peer_counts(struct loop_io *io, uint32_t events)
{
	struct peer *p = container_of(io, struct peer, io);

	p->calls++;
	p->events |= events;
	if (events & EPOLLHUP)
		loop_stop(loop, 0);
}

static void on_timer_stop(struct loop_timer *timer)
{
	(void)timer;
	loop_stop(loop, 99);
}

/* A hung-up pipe without interest is silent: a wait with it ends by the timer, not at once. */
static void test_no_interest_no_hangup(void **state)
{
	struct loop_timer timer = {};
	struct peer p = {};

	(void)state;
	assert_int_equal(fs_pipe(p.fds, 1, 1), 0);
	assert_int_equal(loop_io_add(loop, &p.io, p.fds[0], 0, on_peer_counts), 0);
	fd_close(&p.fds[1]);
	assert_int_equal(loop_timer_set(loop, &timer, loop_now_ms(loop) + 5, on_timer_stop), 0);
	assert_int_equal(loop_run(loop), 99);
	assert_int_equal(p.calls, 0);
	assert_int_equal(loop_io_set(&p.io, EPOLLIN), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_true(p.events & EPOLLHUP);
	loop_io_del(&p.io);
	loop_io_del(&p.io);
	fd_close(&p.fds[0]);
}

static void test_bad_descriptors(void **state)
{
	struct loop_io io = {}, zeroed = {};
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_true(file >= 0);
	assert_int_equal(loop_io_add(loop, &io, -EBADF, EPOLLIN, on_peer_counts), -EBADF);
	assert_int_equal(loop_io_add(loop, &io, file, EPOLLIN, on_peer_counts), -EPERM);
	assert_int_equal(io.fd, -EBADF);
	loop_io_del(&io);
	loop_io_del(&zeroed);
	assert_int_equal(loop_io_set(&zeroed, EPOLLIN), -EBADF);
	fd_close(&file);
}

/* ---- timers ------------------------------------------------------------ */

struct letter {
	struct loop_timer timer;
	char c;
	struct letter *other;
};

static void on_letter(struct loop_timer *timer)
{
	assert_false(loop_timer_armed(timer));
	assert_true(loop_now_ms(loop) >= timer->due_ms);
	assert_true(clock_mono_ms() >= timer->due_ms);
	tell(container_of(timer, struct letter, timer)->c);
}

static void on_letter_stop(struct loop_timer *timer)
{
	on_letter(timer);
	loop_stop(loop, 0);
}

static void test_timers_in_order(void **state)
{
	/* Due times out of order, with equal ones in the order of arming. */
	static const struct {
		char c;
		unsigned after;
	} plan[] = {{'f', 4}, {'b', 1}, {'h', 6}, {'c', 1}, {'a', 0}, {'d', 1}, {'g', 5}, {'e', 3}};
	struct letter letters[ARRAY_SIZE(plan)] = {}, last = {.c = 'z'}, gone = {.c = '!'};
	uint64_t now = loop_now_ms(loop);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(plan); i++) {
		letters[i].c = plan[i].c;
		assert_int_equal(loop_timer_set(loop, &letters[i].timer, now + plan[i].after, on_letter), 0);
	}
	assert_int_equal(loop_timer_set(loop, &gone.timer, now + 2, on_letter), 0);
	assert_int_equal(loop_timer_set(loop, &last.timer, now, on_letter), 0);
	assert_int_equal(loop_timer_set(loop, &last.timer, now + 8, on_letter_stop), 0);
	loop_timer_del(&gone.timer);
	assert_false(loop_timer_armed(&gone.timer));
	loop_timer_del(&gone.timer);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "abcdefghz");
}

static void on_letter_deletes_other(struct loop_timer *timer)
{
	struct letter *l = container_of(timer, struct letter, timer);

	on_letter(timer);
	loop_timer_del(&l->other->timer);
	assert_false(loop_timer_armed(&l->other->timer));
	loop_stop(loop, 0);
}

/* Both are due in the same turn; the first removes the second. */
static void test_due_timer_removed(void **state)
{
	struct letter a = {.c = 'a'}, b = {.c = 'b', .other = &a};

	(void)state;
	a.other = &b;
	assert_int_equal(loop_timer_set(loop, &a.timer, 1, on_letter_deletes_other), 0);
	assert_int_equal(loop_timer_set(loop, &b.timer, 2, on_letter_deletes_other), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "a");
}

static void on_letter_moves_other(struct loop_timer *timer)
{
	struct letter *l = container_of(timer, struct letter, timer);

	on_letter(timer);
	assert_true(loop_timer_armed(&l->other->timer));
	assert_int_equal(loop_timer_set(loop, &l->other->timer, loop_now_ms(loop) + 2, on_letter_stop), 0);
}

static void test_due_timer_moved(void **state)
{
	struct letter a = {.c = 'a'}, b = {.c = 'b'}, c = {.c = 'c'};

	(void)state;
	a.other = &b;
	assert_int_equal(loop_timer_set(loop, &a.timer, 1, on_letter_moves_other), 0);
	assert_int_equal(loop_timer_set(loop, &b.timer, 2, on_letter), 0);
	assert_int_equal(loop_timer_set(loop, &c.timer, 3, on_letter), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "acb");
}

static void on_letter_again(struct loop_timer *timer)
{
	on_letter(timer);
	if (strlen(story) < 6)
		assert_int_equal(loop_timer_set(loop, timer, 0, on_letter_again), 0);
	else
		loop_stop(loop, 0);
}

/* One that is always due again takes turns with the rest of the loop. */
static void test_rearmed_timer_starves_nobody(void **state)
{
	struct letter a = {.c = 'a'}, b = {.c = 'b'};

	(void)state;
	assert_int_equal(loop_timer_set(loop, &a.timer, 0, on_letter_again), 0);
	assert_int_equal(loop_timer_set(loop, &b.timer, 1, on_letter_again), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "ababab");
	loop_timer_del(&a.timer);
}

static unsigned seed = 1;

static unsigned pick(unsigned below)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % below;
}

static uint64_t last_due;

static void on_ordered(struct loop_timer *timer)
{
	assert_true(timer->due_ms >= last_due);
	last_due = timer->due_ms;
	tell('.');
}

/* A heap in which timers are armed, moved and removed at random still fires in order. */
static void test_many_timers(void **state)
{
	enum { N = 500 };
	static struct loop_timer timers[N];
	struct letter end = {.c = 'z'};
	uint64_t base = loop_now_ms(loop) - 2000;
	size_t armed = 0;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		struct loop_timer *t = &timers[pick(N)];

		if (pick(3) == 0)
			loop_timer_del(t);
		else
			assert_int_equal(loop_timer_set(loop, t, base + pick(1000), on_ordered), 0);
	}
	for (int i = 0; i < N; i++)
		armed += loop_timer_armed(&timers[i]);
	assert_in_range(armed, 1, N);
	assert_int_equal(loop_timer_set(loop, &end.timer, base + 2000, on_letter_stop), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(strlen(story), armed + 1);
	assert_int_equal(story[armed], 'z');
}

static void test_far_timer(void **state)
{
	struct letter never = {.c = '!'}, soon = {.c = 'a'};

	(void)state;
	assert_int_equal(loop_timer_set(loop, &never.timer, UINT64_MAX, on_letter), 0);
	assert_int_equal(loop_timer_set(loop, &soon.timer, loop_now_ms(loop) + 1, on_letter_stop), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "a");
	/* loop_free lets go of what is still armed. */
	loop_free(loop);
	assert_false(loop_timer_armed(&never.timer));
	loop_timer_del(&never.timer);
	assert_int_equal(loop_new(&loop), 0);
}

/* ---- deferred calls and prepare hooks ---------------------------------- */

struct later {
	struct loop_defer d;
	char c;
	struct later *next, *cancel;
};

static void on_later(struct loop_defer *d)
{
	struct later *l = container_of(d, struct later, d);

	tell(l->c);
	if (l->next)
		loop_defer(loop, &l->next->d, on_later);
	if (l->cancel)
		loop_defer_cancel(&l->cancel->d);
}

static void on_peer_defers(struct loop_io *io, uint32_t events)
{
	static struct later a = {.c = 'a'}, b = {.c = 'b'}, c = {.c = 'c'}, d = {.c = 'd'};
	char byte;

	(void)events;
	assert_int_equal(read(io->fd, &byte, 1), 1);
	a.next = &d;
	a.cancel = &c;
	tell('(');
	loop_defer(loop, &a.d, on_later);
	loop_defer(loop, &b.d, on_later);
	loop_defer(loop, &a.d, on_later);
	loop_defer(loop, &c.d, on_later);
	tell(')');
	loop_stop(loop, 0);
}

/* Deferred calls run after the callback, once each; what they defer runs still before the loop ends. */
static void test_defer(void **state)
{
	struct later unused = {};
	struct peer p = {};

	(void)state;
	loop_defer_cancel(&unused.d);
	assert_int_equal(fs_pipe(p.fds, 1, 1), 0);
	assert_int_equal(loop_io_add(loop, &p.io, p.fds[0], EPOLLIN, on_peer_defers), 0);
	assert_int_equal(write(p.fds[1], "x", 1), 1);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "()abd");
	loop_io_del(&p.io);
	fd_close(&p.fds[0]);
	fd_close(&p.fds[1]);
}

/* What is deferred when no turn will come any more still runs: it frees what the last one left. */
static void test_defer_before_the_end(void **state)
{
	struct later l = {.c = 'e'};

	(void)state;
	loop_defer(loop, &l.d, on_later);
	loop_free(loop);
	assert_string_equal(story, "e");
	loop_defer_cancel(&l.d);
	assert_int_equal(loop_new(&loop), 0);
}

static void on_later_forever(struct loop_defer *d)
{
	tell('f');
	if (strlen(story) < 10)
		loop_defer(loop, d, on_later_forever);
	else
		loop_stop(loop, 0);
}

/* A call that defers itself makes turns, without waiting in between. */
static void test_defer_itself(void **state)
{
	struct later l = {};

	(void)state;
	loop_defer(loop, &l.d, on_later_forever);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "ffffffffff");
}

struct hook {
	struct loop_prepare p;
	char c;
	int ms;
	struct hook *add, *del;
};

static int on_prepare(struct loop_prepare *p)
{
	struct hook *h = container_of(p, struct hook, p);

	tell(h->c);
	if (h->add) {
		loop_prepare_add(loop, &h->add->p, on_prepare);
		h->add = NULL;
	}
	if (h->del) {
		loop_prepare_del(&h->del->p);
		h->del = NULL;
	}
	if (strlen(story) >= 8)
		loop_stop(loop, 0);
	return h->ms;
}

static void test_prepare(void **state)
{
	struct hook d = {.c = 'd', .ms = 0}, c = {.c = 'c', .ms = -1};
	struct hook b = {.c = 'b', .ms = 50000, .del = &c}, a = {.c = 'a', .ms = -1, .add = &d};
	struct hook unused = {};

	(void)state;
	a.del = &a;
	loop_prepare_del(&unused.p);
	loop_prepare_add(loop, &a.p, on_prepare);
	loop_prepare_add(loop, &b.p, on_prepare);
	loop_prepare_add(loop, &c.p, on_prepare);
	/* a goes and brings d, b removes c before it is reached, and d's 0 keeps b's 50 s from being waited.
	 */
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "abdbdbdb"
				   "d");
	loop_prepare_del(&b.p);
	loop_prepare_del(&d.p);
}

static struct letter in_hook = {.c = 't'};

static int on_prepare_arms(struct loop_prepare *p)
{
	loop_prepare_del(p);
	assert_int_equal(loop_timer_set(loop, &in_hook.timer, loop_now_ms(loop) + 1, on_letter_stop), 0);
	return -1;
}

/* A timer that a hook arms counts for the wait that follows. */
static void test_prepare_arms_timer(void **state)
{
	struct hook h = {};

	(void)state;
	loop_prepare_add(loop, &h.p, on_prepare_arms);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "t");
}

/* ---- signals ----------------------------------------------------------- */

struct sig {
	struct loop_signal s;
	char c;
	struct sig *del;
};

static void on_signal(struct loop_signal *s, const struct signalfd_siginfo *info)
{
	struct sig *sig = container_of(s, struct sig, s);

	assert_int_equal(info->ssi_signo, s->signo);
	assert_int_equal(info->ssi_pid, getpid());
	tell(sig->c);
	if (sig->del)
		loop_signal_del(&sig->del->s);
	if (s->signo == SIGUSR2)
		loop_stop(loop, 0);
}

static void test_signals(void **state)
{
	struct sig a = {.c = 'a'}, b = {.c = 'b'}, c = {.c = 'c'}, unused = {};

	(void)state;
	loop_signal_del(&unused.s);
	assert_int_equal(loop_signal_add(loop, &a.s, SIGUSR1, on_signal), 0);
	assert_int_equal(loop_signal_add(loop, &b.s, SIGUSR1, on_signal), 0);
	assert_int_equal(loop_signal_add(loop, &c.s, SIGUSR2, on_signal), 0);
	assert_int_equal(loop_signal_add(loop, &unused.s, 12345, on_signal), -EINVAL);
	a.del = &b;
	assert_int_equal(kill(getpid(), SIGUSR1), 0);
	assert_int_equal(kill(getpid(), SIGUSR2), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "ac");
	/* Removed, it is still blocked and does not kill us. */
	loop_signal_del(&a.s);
	assert_int_equal(kill(getpid(), SIGUSR1), 0);
	assert_int_equal(kill(getpid(), SIGUSR2), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "acc");
	loop_signal_del(&c.s);
}

/* ---- posts ------------------------------------------------------------- */

#define POSTERS	      4
#define POSTS_PER_ONE 5000

struct posting {
	struct loop_post post;
	int poster, n;
};

static struct posting postings[POSTERS][POSTS_PER_ONE];
static int next_of[POSTERS], posts_seen;

static void on_post(struct loop_post *post)
{
	struct posting *p = container_of(post, struct posting, post);

	/* Each thread's posts arrive in its order. */
	assert_int_equal(p->n, next_of[p->poster]);
	next_of[p->poster]++;
	if (++posts_seen == POSTERS * POSTS_PER_ONE)
		loop_stop(loop, 5);
}

static void *poster(void *arg)
{
	int me = *(int *)arg;

	for (int i = 0; i < POSTS_PER_ONE; i++) {
		postings[me][i] = (struct posting){.post.fn = on_post, .poster = me, .n = i};
		loop_post(loop, &postings[me][i].post);
	}
	return NULL;
}

static void test_posts(void **state)
{
	pthread_t threads[POSTERS];
	int ids[POSTERS];

	(void)state;
	posts_seen = 0;
	memset(next_of, 0, sizeof(next_of));
	for (int i = 0; i < POSTERS; i++) {
		ids[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, poster, &ids[i]), 0);
	}
	assert_int_equal(loop_run(loop), 5);
	for (int i = 0; i < POSTERS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(posts_seen, POSTERS * POSTS_PER_ONE);
}

static void on_single(struct loop_post *post)
{
	(void)post;
	tell('s');
	loop_stop(loop, 0);
}

static void *post_one(void *arg)
{
	loop_post(loop, arg);
	return NULL;
}

/* One post alone wakes the loop, time and again. */
static void test_single_posts(void **state)
{
	struct loop_post post = {.fn = on_single};
	pthread_t thread;

	(void)state;
	for (int i = 0; i < 20; i++) {
		assert_int_equal(pthread_create(&thread, NULL, post_one, &post), 0);
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
	}
	assert_string_equal(story, "ssssssssssssssssssss");
}

static struct loop_post nested[3];

static void on_nested_last(struct loop_post *post)
{
	assert_ptr_equal(post, &nested[2]);
	tell('3');
	loop_stop(loop, 0);
}

static void on_nested_second(struct loop_post *post)
{
	assert_ptr_equal(post, &nested[1]);
	tell('2');
}

static void on_nested_first(struct loop_post *post)
{
	assert_ptr_equal(post, &nested[0]);
	tell('1');
	nested[2].fn = on_nested_last;
	loop_post(loop, &nested[2]);
	/* Also what the loop has already fetched is run now, in order. */
	loop_post_flush(loop);
	tell('.');
}

static void test_post_flush(void **state)
{
	(void)state;
	nested[0].fn = on_nested_first;
	nested[1].fn = on_nested_second;
	loop_post(loop, &nested[0]);
	loop_post(loop, &nested[1]);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(story, "123.");
	loop_post_flush(loop);
}

static void test_stop_before_run(void **state)
{
	(void)state;
	loop_stop(loop, 3);
	assert_int_equal(loop_run(loop), 3);
	loop_free(NULL);
}

#define loop_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		loop_test(test_removed_is_not_called),
		loop_test(test_freed_is_not_touched),
		loop_test(test_registered_anew_is_not_called),
		loop_test(test_interest_changed_in_the_batch),
		loop_test(test_interest_lost_in_the_batch),
		loop_test(test_no_interest_no_hangup),
		loop_test(test_bad_descriptors),
		loop_test(test_timers_in_order),
		loop_test(test_due_timer_removed),
		loop_test(test_due_timer_moved),
		loop_test(test_rearmed_timer_starves_nobody),
		loop_test(test_many_timers),
		loop_test(test_far_timer),
		loop_test(test_defer),
		loop_test(test_defer_before_the_end),
		loop_test(test_defer_itself),
		loop_test(test_prepare),
		loop_test(test_prepare_arms_timer),
		loop_test(test_signals),
		loop_test(test_posts),
		loop_test(test_single_posts),
		loop_test(test_post_flush),
		loop_test(test_stop_before_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
