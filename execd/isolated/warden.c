/*
 * warden.c - PID 1 of a room.
 *
 * Builds the view, gives up every privilege, and then wears what whatever it
 * starts will wear: its ids, its empty capability sets, its filter. So starting
 * a process is clone and exec and nothing in between. It cannot be signalled
 * from within (PID 1 without handlers) nor looked into (not dumpable), and it
 * dies with the agent, whose end closes the socket. What is orphaned in the room
 * is reaped and forgotten.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "execd/isolated/warden.h"
#include "lib/util.h"

#define CHILD_STACK  65536
#define CHILDREN_MAX 4096
#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define CANNOT_EXEC  126
#define NOT_FOUND    127

struct warden {
	int socket, signals;
	const char *cwd;
	struct {
		pid_t pid; /* 0: free */
		uint64_t tag;
	} children[CHILDREN_MAX];
	size_t children_n; /* slots that may be in use */
	uint64_t clearing; /* the tag of who waits for us to be alone; 0: nobody */
};

static void tell(int socket, const struct wire_event *e, const int *fds, size_t fds_n)
{
	struct iovec iov = {(void *)e, sizeof(*e)};
	if (message_send(socket, &iov, 1, fds, fds_n, 0) < 0)
		_exit(1); /* nobody is there any more */
}

/* ---- becoming --------------------------------------------------------------- */

static _Noreturn void fail(int socket, enum wire_stage stage, uint32_t step, int errnum)
{
	const struct wire_event e = {.kind = WIRE_FAILED, .stage = stage, .step = step, .errnum = errnum};
	tell(socket, &e, NULL, 0);
	_exit(1);
}

static int bring_up_loopback(void)
{
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

/* What the profile adds, once for all that will run in here. */
static void confine(const struct plan *plan, int socket, int listener, enum confine_phase phase)
{
	struct confine_fault fault = {};
	int r = plan->head->confine_n > 0 ? confine_apply(plan->confine, listener, phase, &fault) : 0;
	if (r < 0)
		fail(socket, WIRE_STAGE_CONFINE, (uint32_t)fault.step, -r);
}

/* No user namespace within ours, where ours is one: the count of this one and all below it. */
static int forbid_userns(void)
{
	_cleanup_close_ int fd = open("/proc/sys/user/max_user_namespaces", O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, "0", 1) < 0 ? -errno : 0;
}

struct namespaces {
	int fds[5];
	size_t n;
};

/* By these a process comes into all that is the room's own, beside its mounts and users. */
static int open_namespaces(const struct wire_plan *head, struct namespaces *ret)
{
	static const struct {
		unsigned flag;
		const char *path;
	} kinds[] = {{CLONE_NEWIPC, "/proc/self/ns/ipc"},
		     {CLONE_NEWUTS, "/proc/self/ns/uts"},
		     {CLONE_NEWCGROUP, "/proc/self/ns/cgroup"},
		     {CLONE_NEWNET, "/proc/self/ns/net"},
		     {CLONE_NEWPID, "/proc/self/ns/pid"}};
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!(head->namespaces & kinds[i].flag))
			continue;
		int fd = open(kinds[i].path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		ret->fds[ret->n++] = fd;
	}
	return 0;
}

static void become(const struct plan *plan, int socket, int listener)
{
	const struct wire_plan *head = plan->head;
	struct namespaces own = {};
	int cellar = -EBADF, fds[3 + ARRAY_SIZE(own.fds)], r;
	size_t fds_n = 2;
	uint32_t step = 0;
	if (head->flags & WIRE_NO_USERNS)
		(void)forbid_userns(); /* the agent's /proc: may be masked, then the filter is left */
	r = view_build(plan, &cellar, &step);
	if (r < 0)
		fail(socket, WIRE_STAGE_VIEW, step, -r);
	/* By these others come in. Once we are not dumpable nobody may ask us for them. */
	fds[0] = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	fds[1] = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
	r = fds[0] < 0 || fds[1] < 0 ? -errno : 0;
	if (r >= 0 && head->flags & WIRE_JOINABLE)
		r = open_namespaces(head, &own);
	if (r < 0)
		fail(socket, WIRE_STAGE_ENTER, 0, -r);
	if (cellar >= 0)
		fds[fds_n++] = cellar;
	if (head->flags & WIRE_LOOPBACK && (r = bring_up_loopback()) < 0)
		fail(socket, WIRE_STAGE_NETWORK, 0, -r);
	if (sethostname(plan->text + head->hostname, strlen(plan->text + head->hostname)) < 0)
		fail(socket, WIRE_STAGE_NAME, 0, errno);
	r = warden_limit(head);
	if (r < 0)
		fail(socket, WIRE_STAGE_LIMITS, 0, -r);
	confine(plan, socket, listener, CONFINE_BEFORE_IDS);
	enum wire_stage stage;
	r = warden_become(head, &stage);
	if (r < 0)
		fail(socket, stage, 0, -r);
	confine(plan, socket, listener, CONFINE_BEFORE_EXEC);
	struct statfs proc;
	bool readonly = statfs("/proc", &proc) == 0 && proc.f_flags & ST_RDONLY;
	const struct wire_event ready = {
		.kind = WIRE_READY, .flags = readonly ? WIRE_PROC_RDONLY : 0, .step = (uint32_t)own.n};
	for (size_t i = 0; i < own.n; i++)
		fds[fds_n++] = own.fds[i];
	tell(socket, &ready, fds, fds_n);
	for (size_t i = 0; i < fds_n; i++)
		fd_close(&fds[i]);
}

/* ---- starting ---------------------------------------------------------------- */

struct start {
	const struct warden *warden;
	const struct wire_spawn *head;
	const char *path, *cwd;
	char **argv, **envp;
	int fds[ARRAY_SIZE(((struct wire_spawn *)0)->fds)];
};

static const char *search_path(char *const *envp)
{
	for (; *envp; envp++)
		if (strncmp(*envp, "PATH=", 5) == 0)
			return *envp + 5;
	return PATH_DEFAULT;
}

static void exec_program(const struct start *s)
{
	char program[4096];
	int denied = ENOENT;
	if (strchr(s->path, '/')) {
		(void)execve(s->path, s->argv, s->envp);
		return;
	}
	for (const char *dir = search_path(s->envp); dir;) {
		const char *end = strchrnul(dir, ':');
		int n = snprintf(program, sizeof(program), "%.*s%s%s", (int)(end - dir), dir,
				 end > dir ? "/" : "./", s->path);
		if (n > 0 && (size_t)n < sizeof(program))
			(void)execve(program, s->argv, s->envp);
		if (errno != ENOENT && errno != ENOTDIR)
			denied = errno;
		dir = *end ? end + 1 : NULL;
	}
	errno = denied;
}

/* Its memory is the warden's: nothing but the stack is written. */
static int child_main(void *arg)
{
	const struct start *s = arg;
	const struct wire_spawn *head = s->head;
	sigset_t none;
	unsigned seen = 0;
	if (head->new_session)
		(void)setsid();
	for (uint32_t i = 0; i < head->fds_n; i++) {
		if (dup2(s->fds[i], head->fds[i]) < 0)
			_exit(CANNOT_EXEC);
		if (head->fds[i] < 3)
			seen |= 1U << head->fds[i];
	}
	for (int fd = 0; fd < 3; fd++) {
		if (seen & 1U << fd)
			continue;
		int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (null_fd < 0 || dup2(null_fd, fd) < 0 || (null_fd == fd && fcntl(fd, F_SETFD, 0) < 0))
			_exit(CANNOT_EXEC);
	}
	/* The directory may have gone with a change of the files: then the room's own. */
	if (*s->cwd == '\0' || chdir(s->cwd) < 0)
		(void)!(chdir(s->warden->cwd) == 0 || chdir("/") == 0);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	exec_program(s);
	int e = errno;
	dprintf(2, "execd: start '%s': %s\n", s->path, strerror(e));
	_exit(e == ENOENT ? NOT_FOUND : CANNOT_EXEC);
}

#if defined(__SANITIZE_ADDRESS__)
#define CLONE_HOW 0
#else
#define CLONE_HOW (CLONE_VM | CLONE_VFORK)
#endif

static void remember(struct warden *w, pid_t pid, uint64_t tag)
{
	size_t i = 0;
	while (i < w->children_n && w->children[i].pid != 0)
		i++;
	if (i == CHILDREN_MAX)
		return;
	if (i == w->children_n)
		w->children_n++;
	w->children[i].pid = pid;
	w->children[i].tag = tag;
}

static void start(struct warden *w, struct start *s)
{
	static _Alignas(16) char stack[CHILD_STACK];
	struct wire_event e = {.kind = WIRE_STARTED, .tag = s->head->tag};
	int pidfd = -EBADF;
	pid_t pid = clone(child_main, stack + sizeof(stack), CLONE_HOW | CLONE_PIDFD | SIGCHLD, s, &pidfd);
	if (pid < 0) {
		e.kind = WIRE_EXITED;
		e.wstatus = CANNOT_EXEC << 8;
		e.errnum = errno;
		tell(w->socket, &e, NULL, 0);
		return;
	}
	remember(w, pid, s->head->tag);
	tell(w->socket, &e, &pidfd, 1);
	fd_close(&pidfd);
}

/* The strings of text one after the other; NULL when there are not that many. */
static char **cut_strings(char **text, const char *end, uint32_t n)
{
	char **list = calloc((size_t)n + 1, sizeof(*list));
	for (uint32_t i = 0; list && i < n; i++) {
		if (*text >= end) {
			free(list);
			return NULL;
		}
		list[i] = *text;
		*text += strlen(*text) + 1;
	}
	return list;
}

static void start_text(struct warden *w, const struct wire_spawn *head, char *text, const int *fds)
{
	struct start s = {.warden = w, .head = head};
	char *p = text;
	const char *end = text + head->text_n;
	int above = 3;
	if (head->text_n == 0 || end[-1] != '\0' || head->fds_n > ARRAY_SIZE(s.fds))
		_exit(1);
	s.path = p;
	p += strlen(p) + 1;
	s.cwd = p < end ? p : "";
	p += strlen(s.cwd) + 1;
	s.argv = cut_strings(&p, end, head->argc);
	s.envp = cut_strings(&p, end, head->envc);
	if (!s.argv || !s.envp)
		_exit(1);
	/* Out of the way of every place, and no higher than it must be: their number may be bounded. */
	for (uint32_t i = 0; i < head->fds_n; i++)
		above = MAX(above, head->fds[i] + 1);
	for (uint32_t i = 0; i < head->fds_n; i++) {
		s.fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, above);
		if (s.fds[i] < 0)
			_exit(1);
	}
	start(w, &s);
	for (uint32_t i = 0; i < head->fds_n; i++)
		(void)close(s.fds[i]);
	free(s.argv);
	free(s.envp);
}

/* ---- ends ---------------------------------------------------------------------- */

static void cleared(struct warden *w)
{
	const struct wire_event e = {.kind = WIRE_CLEARED, .tag = w->clearing};
	w->clearing = 0;
	tell(w->socket, &e, NULL, 0);
}

/* Each round kills what the one before has left; their ends are what starts the next. */
static void on_ended(struct warden *w)
{
	struct signalfd_siginfo info;
	(void)!read(w->signals, &info, sizeof(info));
	if (w->clearing)
		(void)kill(-1, SIGKILL);
	for (;;) {
		struct wire_event e = {.kind = WIRE_EXITED};
		pid_t pid = wait4(-1, &e.wstatus, WNOHANG, &e.usage);
		if (pid < 0 && w->clearing)
			cleared(w);
		if (pid <= 0)
			return;
		for (size_t i = 0; i < w->children_n; i++) {
			if (w->children[i].pid != pid)
				continue;
			w->children[i].pid = 0;
			e.tag = w->children[i].tag;
			tell(w->socket, &e, NULL, 0);
		}
		while (w->children_n > 0 && w->children[w->children_n - 1].pid == 0)
			w->children_n--;
	}
}

static void on_request(struct warden *w)
{
	static _Alignas(8) char message[WIRE_MAX];
	int fds[MESSAGE_FDS_MAX];
	size_t fds_n;
	long n = message_receive(w->socket, message, sizeof(message), fds, &fds_n, 0);
	const struct wire_spawn *head = (const void *)message;
	if (n < (long)sizeof(*head) || fds_n != head->fds_n + (head->outside ? 1U : 0U))
		_exit(0); /* the agent has closed its end */
	if (head->clear) {
		w->clearing = head->tag;
		(void)kill(-1, SIGKILL);
		on_ended(w);
	} else if (head->outside) {
		char *text = mmap(NULL, head->text_n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[0], 0);
		if (text == MAP_FAILED)
			_exit(1);
		start_text(w, head, text, fds + 1);
		(void)munmap(text, head->text_n);
	} else if ((size_t)n == sizeof(*head) + head->text_n) {
		start_text(w, head, message + sizeof(*head), fds);
	}
	for (size_t i = 0; i < fds_n; i++)
		(void)close(fds[i]);
}

/* ---- life ----------------------------------------------------------------------- */

void warden_main(const struct plan *plan, int socket, int listener)
{
	static struct warden w;
	sigset_t mask;
	char *cwd = strdup(plan->text + plan->head->cwd);
	(void)signal(SIGCHLD, SIG_DFL);
	(void)umask(022);
	become(plan, socket, listener);
	if (listener >= 0)
		(void)close(listener);
	w.socket = socket;
	w.cwd = cwd ? cwd : "/";
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &mask, NULL);
	w.signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (w.signals < 0)
		_exit(1);
	for (;;) {
		struct pollfd ready[] = {{w.socket, POLLIN, 0}, {w.signals, POLLIN, 0}};
		if (poll(ready, ARRAY_SIZE(ready), -1) < 0)
			continue;
		if (ready[1].revents)
			on_ended(&w);
		if (ready[0].revents)
			on_request(&w);
	}
}
