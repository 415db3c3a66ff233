/*
 * spawn.c - the one way a process is started. Any thread may call spawn().
 *
 * The child is made with clone(2), sharing our memory until it reaches exec
 * (CLONE_VM | CLONE_VFORK): nothing is copied, however large the agent is, and
 * the report of a failure is simply left in a struct of the caller. Where that
 * is refused, and under sanitizers, which know nothing of it, the child gets a
 * copy of the memory as with fork(2) and the report comes through a pipe.
 *
 * Descriptors: an agent with ten thousand streams would have their table copied
 * and closed again for every command. So the child first shares our table
 * (CLONE_FILES) and then takes a copy of its beginning only (close_range(2)
 * with CLOSE_RANGE_UNSHARE). What it is to get is brought to that beginning:
 * spawn_init() reserves a few low numbers for this, the slots. One start at a
 * time has the slots; another one meanwhile does without.
 */
#include "lib/spawn_priv.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/fs.h"

#define CHILD_STACK  32768
#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static struct rlimit nofile_children;
static bool nofile_known;

/* Each is open on /dev/null while nobody uses it; the last one always. */
#define SLOTS_N	  (SPAWN_FDS_MAX + 1)
#define SLOT_NULL slots[SLOTS_N - 1]
static int slots[SLOTS_N];
static int slots_end; /* greater than every slot; 0 without slots */
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;

/* Without them everything works, with many descriptors open only more slowly. */
static void slots_init(void)
{
	int null_fd, n, end = 0;

	/* An empty range: asks the kernel whether it knows the flag. */
	if (slots_end || syscall(SYS_close_range, ~0U, ~0U, CLOSE_RANGE_UNSHARE) < 0)
		return;
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (n = 0; null_fd >= 0 && n < SLOTS_N; n++) {
		slots[n] = fcntl(null_fd, F_DUPFD_CLOEXEC, 3);
		if (slots[n] < 0)
			break;
		end = MAX(end, slots[n] + 1);
	}
	fd_close(&null_fd);
	if (n == SLOTS_N)
		slots_end = end;
	else
		while (n > 0)
			fd_close(&slots[--n]);
}

int spawn_init(rlim_t soft)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	nofile_children = limit;
	nofile_known = true;
	limit.rlim_cur = MIN(limit.rlim_cur, soft);
	slots_init();
	return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? -errno : 0;
}

static char oom_children[16]; /* what children get back; empty: we have changed nothing */
#define OOM_LOWEST "-999"     /* one less would make us immune, and a leak of ours fatal for all others */

int spawn_protect(void)
{
	char before[sizeof(oom_children)];
	_cleanup_close_ int fd = open(SPAWN_OOM_FILE, O_RDWR | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, before, sizeof(before) - 1);

	if (n < 0)
		return -errno;
	before[n] = '\0';
	if (atoi(before) <= atoi(OOM_LOWEST))
		return 0;
	if (pwrite(fd, OOM_LOWEST, strlen(OOM_LOWEST), 0) < 0)
		return -errno;
	memcpy(oom_children, before, sizeof(oom_children));
	return 0;
}

/* ---- the parent -------------------------------------------------------- */

static const char *search_path(char *const *envp)
{
	for (; envp && *envp; envp++)
		if (strncmp(*envp, "PATH=", 5) == 0)
			return *envp + 5;
	return PATH_DEFAULT;
}

/* The paths that the child tries, in order. */
static int plan_programs(struct plan *plan)
{
	_cleanup_buf_ struct buf out = BUF_INIT(SIZE_MAX / 4);
	const char *name = plan->spec->path;
	const char *dir = search_path(plan->spec->envp);

	if (name[0] == '\0')
		return -ENOENT;
	if (strchr(name, '/')) {
		(void)buf_append(&out, name, strlen(name) + 1);
		dir = NULL;
	}
	while (dir) {
		const char *end = strchrnul(dir, ':');

		/* An empty place is the working directory. */
		(void)buf_printf(&out, "%.*s%s%s", (int)(end - dir), dir, end > dir ? "/" : "./", name);
		(void)buf_putc(&out, '\0');
		dir = *end ? end + 1 : NULL;
	}
	(void)buf_putc(&out, '\0');
	if (out.failed)
		return -ENOMEM;
	plan->programs = (char *)TAKE_PTR(out.data);
	return 0;
}

/* The descriptors of the spec, and /dev/null where it names none of 0, 1 and 2. */
static int plan_fds(struct plan *plan, int *null_fd, struct err *err)
{
	const struct spawn *spec = plan->spec;
	unsigned seen = 0;

	assert(spec->fds_n <= SPAWN_FDS_MAX);
	plan->fd_above = 3;
	for (size_t i = 0; i < spec->fds_n; i++) {
		assert(spec->fds[i].parent_fd >= 0 && spec->fds[i].child_fd >= 0);
		plan->fds[plan->fds_n++] = spec->fds[i];
		plan->fd_above = MAX(plan->fd_above, spec->fds[i].child_fd + 1);
		if (spec->fds[i].child_fd < 3)
			seen |= 1U << spec->fds[i].child_fd;
	}
	for (int fd = 0; fd < 3; fd++) {
		if (seen & (1U << fd))
			continue;
		if (!slots_end && *null_fd < 0)
			*null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (!slots_end && *null_fd < 0)
			return err_sys(err, "RUNTIME_ERROR", errno, "start '%s': open '/dev/null'",
				       spec->path);
		plan->fds[plan->fds_n++] =
			(struct spawn_fd){.parent_fd = slots_end ? SLOT_NULL : *null_fd, .child_fd = fd};
	}
	return 0;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CLONE_FIRST CLONE_PIDFD
#else
#define CLONE_FIRST (CLONE_VM | CLONE_VFORK | CLONE_PIDFD)
#endif

/* With every signal blocked, those of libc too: the child starts that way. */
static pid_t clone_blocked(struct plan *plan, int flags, int *pidfd)
{
	_Alignas(16) char stack[CHILD_STACK];
	uint64_t all = ~0ULL, before;
	pid_t pid;
	int saved;

	(void)syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, &before, sizeof(all));
	pid = clone(spawn_child, stack + sizeof(stack), flags | SIGCHLD, plan, pidfd);
	saved = errno;
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof(before));
	errno = saved;
	return pid;
}

/* The copy of our memory reports through a pipe; end of file is success. */
static pid_t clone_with_pipe(struct plan *plan, int flags, int *pidfd)
{
	_cleanup_close_ int read_fd = -EBADF;
	struct report report;
	int fds[2], r;
	ssize_t n;
	pid_t pid;

	r = fs_pipe(fds, 0, 0);
	if (r < 0)
		return r;
	read_fd = fds[0];
	plan->report_fd = fds[1];
	pid = clone_blocked(plan, flags, pidfd);
	r = pid < 0 ? -errno : pid;
	fd_close(&plan->report_fd);
	if (pid < 0)
		return r;
	do
		n = read(read_fd, &report, sizeof(report));
	while (n < 0 && errno == EINTR);
	if (n == sizeof(report))
		plan->report = report;
	return pid;
}

static void slots_give_back(size_t n)
{
	for (size_t i = 0; i < n; i++)
		while (dup3(SLOT_NULL, slots[i], O_CLOEXEC) < 0 && (errno == EINTR || errno == EBUSY))
			;
	(void)pthread_mutex_unlock(&slots_lock);
}

/* Brings what the child is to get into the slots; false when they are not to be had. */
static bool slots_take(struct plan *plan, size_t *ret_n)
{
	struct spawn_fd fds[ARRAY_SIZE(plan->fds)];
	size_t n = 0;

	if (!slots_end || pthread_mutex_trylock(&slots_lock) != 0)
		return false;
	memcpy(fds, plan->fds, sizeof(fds));
	for (size_t i = 0; i < plan->fds_n; i++) {
		if (fds[i].parent_fd < slots_end)
			continue;
		/* A descriptor that is none is reported by the child, as without slots. */
		if (dup3(fds[i].parent_fd, slots[n], O_CLOEXEC) < 0) {
			slots_give_back(n);
			return false;
		}
		fds[i].parent_fd = slots[n++];
	}
	memcpy(plan->fds, fds, sizeof(fds));
	*ret_n = n;
	return true;
}

/* The child shares our memory, and at first our descriptors when their beginning holds all that it needs. */
static pid_t clone_sharing(struct plan *plan, int flags, int *pidfd)
{
	struct spawn_fd before[ARRAY_SIZE(plan->fds)];
	size_t slots_used;
	pid_t pid;

	memcpy(before, plan->fds, sizeof(before));
	if (slots_take(plan, &slots_used)) {
		plan->keep_below = slots_end;
		pid = clone_blocked(plan, flags | CLONE_FILES, pidfd);
		pid = pid < 0 ? -errno : pid;
		slots_give_back(slots_used);
		plan->keep_below = 0;
	} else {
		pid = clone_blocked(plan, flags, pidfd);
		pid = pid < 0 ? -errno : pid;
	}
	memcpy(plan->fds, before, sizeof(before));
	return pid;
}

/*
 * The best way that this kernel, or the filter over us, allows. What was
 * refused once is not tried again. An old kernel ignores CLONE_PIDFD.
 */
static pid_t start(struct plan *plan, int *pidfd)
{
	static const int ways[] = {CLONE_FIRST, CLONE_FIRST & ~CLONE_PIDFD, CLONE_PIDFD, 0};
	static atomic_size_t best;
	size_t way = atomic_load_explicit(&best, memory_order_relaxed);
	pid_t pid;

	for (;; way++) {
		*pidfd = -EBADF;
		plan->report_fd = -EBADF;
		if (ways[way] & CLONE_VM) {
			pid = clone_sharing(plan, ways[way], pidfd);
		} else {
			pid = clone_with_pipe(plan, ways[way], pidfd);
		}
		if (pid >= 0 || way + 1 == ARRAY_SIZE(ways) ||
		    (pid != -EINVAL && pid != -ENOSYS && pid != -EPERM))
			break;
	}
	if (pid >= 0)
		atomic_store_explicit(&best, way, memory_order_relaxed);
	if (pid >= 0 && *pidfd < 0)
		*pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (*pidfd < 0)
		*pidfd = -EBADF;
	return pid;
}

/* What the caller asked for and cannot be, told in the caller's words. */
static int fail_exec(const struct spawn *spec, int errnum, struct err *err)
{
	if (errnum == ENOENT && spec->path[0] == '/' && access(spec->path, F_OK) == 0)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", errnum,
			       "start '%s': its interpreter does not exist", spec->path);
	if (errnum == ENOENT || errnum == ENOTDIR)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", errnum,
			       "start '%s': no such program", spec->path);
	if (errnum == E2BIG)
		return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", errnum,
			       "start '%s': arguments and environment are too long", spec->path);
	err_sys(err, "RUNTIME_ERROR", errnum, "start '%s'", spec->path);
	if (err && (errnum == EACCES || errnum == EPERM || errnum == ENOEXEC || errnum == EISDIR)) {
		err->kind = ERR_INVALID;
		err->code = "INVALID_REQUEST_BODY";
	}
	return -errnum;
}

static int fail(const struct spawn *spec, const struct report *report, struct err *err)
{
	static const char *const stages[] = {
		[STAGE_SESSION] = "new session",	[STAGE_CGROUP] = "join the cgroup",
		[STAGE_FDS] = "pass descriptors",	[STAGE_LIMITS] = "set limits",
		[STAGE_IDS] = "change user and groups", [STAGE_TERMINAL] = "take the terminal",
		[STAGE_PARENT] = "die with the parent",
	};

	if (report->stage == STAGE_EXEC)
		return fail_exec(spec, report->errnum, err);
	if (report->stage == STAGE_HOOK)
		return spec->hook->report(spec->hook, report->detail, report->errnum, spec->path, err);
	if (report->stage == STAGE_CWD)
		return err_sys_given(err, report->errnum, "start '%s': working directory '%s'", spec->path,
				     spec->cwd);
	return err_sys(err, "RUNTIME_ERROR", report->errnum, "start '%s': %s", spec->path,
		       stages[report->stage]);
}

/*
 * When a child that shares our memory changes its ids, the kernel marks that
 * memory as not dumpable, so that its new user cannot trace it; for us that
 * would last, and in a user namespace take our own /proc/self away. The mark is
 * undone when no such child is left before its exec.
 */
static pthread_mutex_t ids_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned ids_starts;
static bool ids_dumpable;

static void ids_begin(const struct spawn *spec)
{
	if (!spec->set_ids)
		return;
	(void)pthread_mutex_lock(&ids_lock);
	if (ids_starts++ == 0)
		ids_dumpable = prctl(PR_GET_DUMPABLE) == 1;
	(void)pthread_mutex_unlock(&ids_lock);
}

static void ids_end(const struct spawn *spec)
{
	if (!spec->set_ids)
		return;
	(void)pthread_mutex_lock(&ids_lock);
	if (--ids_starts == 0 && ids_dumpable)
		(void)prctl(PR_SET_DUMPABLE, 1);
	(void)pthread_mutex_unlock(&ids_lock);
}

static int spawn_planned(struct plan *plan, pid_t *ret_pid, int *ret_pidfd, struct err *err)
{
	_cleanup_close_ int pidfd = -EBADF;
	pid_t pid;

	ids_begin(plan->spec);
	pid = start(plan, &pidfd);
	ids_end(plan->spec);
	if (pid < 0)
		return err_sys(err, "RUNTIME_ERROR", -pid, "start '%s': no new process", plan->spec->path);
	if (plan->report.stage != STAGE_NONE) {
		/* The reaper of another thread may be first. */
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		return fail(plan->spec, &plan->report, err);
	}
	*ret_pid = pid;
	*ret_pidfd = TAKE_FD(pidfd);
	return 0;
}

static int open_cgroups(struct plan *plan, struct err *err)
{
	const struct spawn *spec = plan->spec;

	for (int i = 0; i < SPAWN_CGROUPS_MAX; i++) {
		if (!spec->cgroup_procs[i])
			continue;
		plan->cgroup_fds[i] = open(spec->cgroup_procs[i], O_WRONLY | O_CLOEXEC | O_NOCTTY);
		if (plan->cgroup_fds[i] < 0)
			return err_sys(err, "RUNTIME_ERROR", errno, "start '%s': open '%s'", spec->path,
				       spec->cgroup_procs[i]);
	}
	return 0;
}

static int spawn_in(struct plan *plan, pid_t *ret_pid, int *ret_pidfd, struct err *err)
{
	_cleanup_close_ int null_fd = -EBADF;
	const struct spawn *spec = plan->spec;
	int r = open_cgroups(plan, err);

	if (r < 0)
		return r;
	r = plan_fds(plan, &null_fd, err);
	if (r < 0)
		return r;
	r = plan_programs(plan);
	if (r == -ENOENT)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", ENOENT,
			       "the program's name is empty");
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "start '%s'", spec->path);
	r = spawn_planned(plan, ret_pid, ret_pidfd, err);
	free(plan->programs);
	return r;
}

int spawn(const struct spawn *spec, pid_t *ret_pid, int *ret_pidfd, struct err *err)
{
	struct plan plan = {.spec = spec,
			    .nofile = nofile_known ? &nofile_children : NULL,
			    .oom_score = oom_children,
			    .parent = getpid(),
			    .cgroup_fds = {-EBADF, -EBADF}};
	int r = spawn_in(&plan, ret_pid, ret_pidfd, err);

	for (int i = 0; i < SPAWN_CGROUPS_MAX; i++)
		fd_close(&plan.cgroup_fds[i]);
	return r;
}
