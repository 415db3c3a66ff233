/*
 * denials.c - listeners of seccomp filters on the loop.
 *
 * Owns each listener and the counts of its owner.
 *
 *   LISTENING <-> THROTTLED (until the next tick)
 *       └── the last process of the filter has gone (EPOLLHUP), or let go and too many ──> CLOSED
 *
 * A call is received only when poll(2) says that there is one, for receiving
 * waits. It is not safe to look into the memory of the process for a decision,
 * which it could change at once; where we look (clone3) it is only for what we tell.
 * An answer to a process that has gone meanwhile is refused by the kernel, and that is well.
 */
#include "execd/denials.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "lib/buf.h"
#include "lib/log.h"
#include "proto/json.h"
#include "seccomp/confine.h"
#include "seccomp/filter.h"
#include "seccomp/names.h"

#define REPORT_MAX	(64U << 10)
#define PIDFD_OF_THREAD O_EXCL /* pidfd_open(2); Linux 6.9 */
#define NAMESPACES                                                                                           \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |        \
	 CLONE_NEWNET | CLONE_NEWTIME)

struct denied {
	uint32_t arch;
	int nr;
	int errnum;
	bool killed;
	uint64_t count;
};

struct denials {
	struct list link; /* the orphans', once it has no owner */
	struct loop *loop;
	struct confine *confine;
	struct loop_io io;
	struct loop_timer tick;
	struct loop_defer release;
	struct denials_orphans *orphans;
	int listener; /* -EBADF: closed */
	unsigned tick_left;
	bool told_throttled, owned, freed;
	char *id;
	struct denied *seen;
	size_t seen_n, seen_max;
	uint64_t others;
};

struct denials_orphans {
	struct list all; /* oldest first */
	size_t n;
};

/* ---- the end ---------------------------------------------------------------------- */

static void release(struct loop_defer *defer)
{
	struct denials *d = container_of(defer, struct denials, release);

	confine_unref(d->confine);
	free(d->id);
	free(d->seen);
	free(d);
}

static void close_listener(struct denials *d)
{
	loop_io_del(&d->io);
	loop_timer_del(&d->tick);
	fd_close(&d->listener);
}

static void denials_free(struct denials *d)
{
	if (d->freed)
		return;
	d->freed = true;
	close_listener(d);
	if (d->orphans)
		d->orphans->n--;
	list_del(&d->link);
	loop_defer(d->loop, &d->release, release);
}

/* No process has the filter any more. The counts are still the owner's. */
static void unused(struct denials *d)
{
	if (d->owned)
		close_listener(d);
	else
		denials_free(d);
}

void denials_let_go(struct denials *d, struct denials_orphans *o)
{
	if (!d)
		return;
	d->owned = false;
	if (d->listener < 0 || !o) {
		denials_free(d);
		return;
	}
	if (o->n == DENIALS_ORPHANS_MAX)
		denials_free(list_entry(o->all.next, struct denials, link));
	d->orphans = o;
	list_add_tail(&o->all, &d->link);
	o->n++;
}

int denials_orphans_new(struct denials_orphans **ret)
{
	struct denials_orphans *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	list_init(&o->all);
	*ret = o;
	return 0;
}

void denials_orphans_free(struct denials_orphans *o)
{
	if (!o)
		return;
	list_foreach_safe (node, &o->all)
		denials_free(list_entry(node, struct denials, link));
	free(o);
}

/* ---- counting ------------------------------------------------------------------------ */

static void note(struct denials *d, const struct seccomp_data *data, int errnum, bool killed)
{
	char name[SYSCALL_NAME_MAX];

	for (size_t i = 0; i < d->seen_n; i++) {
		struct denied *s = &d->seen[i];

		if (s->arch == data->arch && s->nr == data->nr && s->errnum == errnum &&
		    s->killed == killed) {
			s->count++;
			return;
		}
	}
	if (d->seen_n == d->seen_max) {
		d->others++;
		return;
	}
	d->seen[d->seen_n++] = (struct denied){
		.arch = data->arch, .nr = data->nr, .errnum = errnum, .killed = killed, .count = 1};
	if (!confine_records(d->confine))
		log_info("'%s': system call %s (%s) is denied by its confinement: %s", d->id,
			 syscall_name(data->arch, data->nr, name), arch_name(data->arch, data->nr),
			 killed ? "killed" : strerror(errnum));
}

/*
 * Threads are made with clone3 where there is one; that it is not there makes no
 * difference to them, and is no denial worth telling.
 */
static bool harmless(const struct seccomp_notif *call, int errnum)
{
	uint64_t flags = 0;
	const struct iovec here = {.iov_base = &flags, .iov_len = sizeof(flags)};
	const struct iovec there = {
		.iov_base = (void *)(uintptr_t)call->data.args[0], // NOLINT(performance-no-int-to-ptr)
		.iov_len = sizeof(flags)};

	return errnum == ENOSYS && call->data.arch == native_arch() && call->data.nr == SYS_clone3 &&
	       process_vm_readv((pid_t)call->pid, &here, 1, &there, 1, 0) == sizeof(flags) &&
	       !(flags & NAMESPACES);
}

/* ---- answers --------------------------------------------------------------------------- */

/* It waits for an answer that never comes, and dies of this instead. */
static void kill_caller(const struct denials *d, const struct seccomp_notif *call)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, call->pid, PIDFD_OF_THREAD);

	if (pidfd < 0)
		pidfd = (int)syscall(SYS_pidfd_open, call->pid, 0);
	/* Still the same process, then, and not another with its number. */
	if (ioctl(d->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &call->id) < 0)
		return;
	if (pidfd < 0 || syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
		(void)syscall(SYS_tkill, call->pid, SIGKILL);
}

static void answer(struct denials *d, const struct seccomp_notif *call)
{
	struct seccomp_notif_resp resp = {.id = call->id};
	int errnum = 0;

	switch (confine_verdict(d->confine, &call->data, &errnum)) {
	case CONFINE_KILL:
		note(d, &call->data, 0, true);
		kill_caller(d, call);
		return;
	case CONFINE_DENY:
		if (!harmless(call, errnum))
			note(d, &call->data, errnum, false);
		resp.error = -errnum;
		break;
	case CONFINE_LET_PASS:
		note(d, &call->data, 0, false);
		resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		break;
	}
	(void)ioctl(d->listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
}

/* What the kernel writes may be longer than what we know of. */
union notification {
	struct seccomp_notif call;
	struct seccomp_notif_resp resp;
	char room[512];
};

/* One call. False: there is none now. */
static bool receive(struct denials *d)
{
	struct pollfd p = {.fd = d->listener, .events = POLLIN};
	union notification n = {0};

	if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLIN))
		return false;
	/* ENOENT: it has gone again. */
	if (ioctl(d->listener, SECCOMP_IOCTL_NOTIF_RECV, &n) == 0)
		answer(d, &n.call);
	return true;
}

static void tick_over(struct loop_timer *timer)
{
	struct denials *d = container_of(timer, struct denials, tick);

	d->tick_left = DENIALS_TICK_MAX;
	(void)loop_io_set(&d->io, EPOLLIN | EPOLLHUP);
}

static void throttle(struct denials *d)
{
	if (!d->told_throttled)
		log_warn("'%s': so many denied system calls that it is slowed down", d->id);
	d->told_throttled = true;
	if (loop_timer_set(d->loop, &d->tick, loop_now_ms(d->loop) + DENIALS_TICK_MS, tick_over) >= 0)
		(void)loop_io_set(&d->io, 0);
}

static void ready(struct loop_io *io, uint32_t events)
{
	struct denials *d = container_of(io, struct denials, io);

	for (unsigned i = 0; i < DENIALS_TURN_MAX && receive(d); i++)
		if (!confine_records(d->confine) && --d->tick_left == 0) {
			throttle(d);
			return;
		}
	/* A tick begins with the first call of it. */
	if (!loop_timer_armed(&d->tick) && d->tick_left < DENIALS_TICK_MAX)
		(void)loop_timer_set(d->loop, &d->tick, loop_now_ms(d->loop) + DENIALS_TICK_MS, tick_over);
	if (events & (EPOLLHUP | EPOLLERR))
		unused(d);
}

int denials_new(struct loop *loop, const struct confine *confine, int listener, const char *id,
		struct denials **ret)
{
	struct denials *d = calloc(1, sizeof(*d));
	int r = -ENOMEM;

	if (!d) {
		fd_close(&listener);
		return r;
	}
	list_init(&d->link);
	d->loop = loop;
	d->confine = confine_ref((struct confine *)confine);
	d->listener = listener;
	d->io.fd = -EBADF;
	d->owned = true;
	d->tick_left = DENIALS_TICK_MAX;
	d->seen_max = confine_records(confine) ? DENIALS_RECORD_MAX : DENIALS_DISTINCT_MAX;
	d->seen = calloc(d->seen_max, sizeof(*d->seen));
	d->id = strdup(id);
	if (d->seen && d->id)
		r = loop_io_add(loop, &d->io, listener, EPOLLIN | EPOLLHUP, ready);
	if (r < 0) {
		denials_free(d);
		return r;
	}
	*ret = d;
	return 0;
}

/* ---- what is told ------------------------------------------------------------------------ */

static void put_denied(struct jw *w, const struct denied *s)
{
	char name[SYSCALL_NAME_MAX];
	const char *error = strerrorname_np(s->errnum);

	jw_obj_begin(w);
	jw_kstr(w, "syscall", syscall_name(s->arch, s->nr, name));
	if (s->arch != native_arch() || strcmp(arch_name(s->arch, s->nr), arch_name(native_arch(), 0)) != 0)
		jw_kstr(w, "arch", arch_name(s->arch, s->nr));
	jw_kint(w, "count", (int64_t)s->count);
	if (s->killed)
		jw_kbool(w, "killed", true);
	else if (s->errnum > 0 && error)
		jw_kstr(w, "errno", error);
	else
		jw_kint(w, "errno", s->errnum);
	jw_obj_end(w);
}

char *denials_json(const struct denials *d)
{
	struct buf out = BUF_INIT(REPORT_MAX);
	struct jw w = JW_INIT(&out);

	if (!d || d->seen_n == 0 || confine_records(d->confine))
		return NULL;
	jw_arr_begin(&w);
	for (size_t i = 0; i < d->seen_n; i++)
		put_denied(&w, &d->seen[i]);
	if (d->others > 0) {
		jw_obj_begin(&w);
		jw_kstr(&w, "syscall", "(others)");
		jw_kint(&w, "count", (int64_t)d->others);
		jw_obj_end(&w);
	}
	jw_arr_end(&w);
	return (char *)buf_cstr(&out);
}

char *denials_take(struct denials *d)
{
	char *text = denials_json(d);

	if (text) {
		d->seen_n = 0;
		d->others = 0;
	}
	return text;
}

static bool told_before(const struct denials *d, size_t n, const char *name)
{
	char other[SYSCALL_NAME_MAX];

	for (size_t i = 0; i < n; i++)
		if (strcmp(syscall_name(d->seen[i].arch, d->seen[i].nr, other), name) == 0)
			return true;
	return false;
}

static void put_names(struct jw *w, const struct denials *d)
{
	char name[SYSCALL_NAME_MAX];

	for (size_t i = 0; filter_untold[i] >= 0; i++)
		jw_str(w, syscall_name(native_arch(), filter_untold[i], name));
	for (size_t i = 0; i < d->seen_n; i++) {
		syscall_name(d->seen[i].arch, d->seen[i].nr, name);
		if (!told_before(d, i, name))
			jw_str(w, name);
	}
}

static void put_architectures(struct jw *w, const struct denials *d)
{
	static const char *const others[][2] = {
		{"i386", "SCMP_ARCH_X86"}, {"x32", "SCMP_ARCH_X32"}, {"arm", "SCMP_ARCH_ARM"}};

	jw_str(w, "SCMP_ARCH_NATIVE");
	for (size_t o = 0; o < ARRAY_SIZE(others); o++)
		for (size_t i = 0; i < d->seen_n; i++)
			if (strcmp(arch_name(d->seen[i].arch, d->seen[i].nr), others[o][0]) == 0) {
				jw_str(w, others[o][1]);
				break;
			}
}

char *denials_profile(const struct denials *d)
{
	struct buf out = BUF_INIT(REPORT_MAX);
	struct jw w = JW_INIT(&out);

	if (!d || !confine_records(d->confine))
		return NULL;
	jw_obj_begin(&w);
	jw_kstr(&w, "defaultAction", "SCMP_ACT_ERRNO");
	jw_kint(&w, "defaultErrnoRet", EPERM);
	jw_key(&w, "architectures");
	jw_arr_begin(&w);
	put_architectures(&w, d);
	jw_arr_end(&w);
	jw_key(&w, "syscalls");
	jw_arr_begin(&w);
	jw_obj_begin(&w);
	jw_key(&w, "names");
	jw_arr_begin(&w);
	put_names(&w, d);
	jw_arr_end(&w);
	jw_kstr(&w, "action", "SCMP_ACT_ALLOW");
	jw_obj_end(&w);
	jw_arr_end(&w);
	jw_obj_end(&w);
	return (char *)buf_cstr(&out);
}
