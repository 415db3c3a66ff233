/*
 * apply.c - the child's part of a confinement.
 *
 * Owns nothing. Runs between fork and exec, maybe in memory that is the
 * parent's: see apply.h for what that means. A plan that comes from elsewhere is
 * trusted as its sender is; it is only checked that it is one of ours.
 *
 * The listener is sent home under the filter that it belongs to, which is why
 * that filter lets sendmsg(2) and the other calls of a start pass whatever the
 * profile says. What the profile has against them is made good by a second
 * filter, `rest`; of two filters the stricter answer wins.
 */
#include "seccomp/apply.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "seccomp/kernel.h"

/* The sanitizers' own checks know neither this stack nor a process without their threads. */
#define CHILD __attribute__((no_sanitize("address", "thread", "undefined")))

CHILD static const void *block(const struct confine_plan *plan, const struct confine_block *b)
{
	return (const char *)plan + b->at;
}

/* ---- limits, Landlock ---------------------------------------------------------- */

CHILD static int set_rlimits(const struct confine_plan *plan)
{
	const struct confine_rlimit *l = block(plan, &plan->rlimits);

	for (uint32_t i = 0; i < plan->rlimits.n; i++) {
		const uint64_t limit[2] = {l[i].soft, l[i].hard};

		if (syscall(SYS_prlimit64, 0, l[i].resource, limit, NULL) < 0)
			return -errno;
	}
	return 0;
}

CHILD static int allow_path(int ruleset, const char *path, uint64_t access)
{
	struct landlock_path_beneath_attr rule = {.allowed_access = access};
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC);
	struct stat st;
	int r = 0;

	if (fd < 0)
		return -errno;
	if (syscall(SYS_newfstatat, fd, "", &st, AT_EMPTY_PATH) < 0) {
		r = -errno;
	} else {
		if (!S_ISDIR(st.st_mode))
			rule.allowed_access &= LANDLOCK_OF_FILES;
		rule.parent_fd = fd;
		if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
			r = -errno;
	}
	(void)syscall(SYS_close, fd);
	return r;
}

/* The first of the paths may be missing from an image: see confine.c. */
CHILD static int allow_paths(const struct confine_plan *plan, int ruleset, const struct confine_block *paths,
			     uint32_t optional, uint64_t access, uint32_t *index)
{
	const char *path = block(plan, paths);

	for (uint32_t i = 0; i < paths->n; i++) {
		int r = allow_path(ruleset, path, access);

		if (r < 0 && i >= optional) {
			*index = i - optional;
			return r;
		}
		path += strlen(path) + 1;
	}
	return 0;
}

CHILD static int set_landlock(const struct confine_plan *plan, struct confine_fault *fault)
{
	const struct landlock_handled handled = {
		.fs = plan->landlock_fs, .net = plan->landlock_net, .scope = plan->landlock_scope};
	int ruleset = (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof(handled), 0);
	int r;

	fault->step = CONFINE_STEP_LANDLOCK_RULESET;
	if (ruleset < 0)
		return -errno;
	fault->step = CONFINE_STEP_LANDLOCK_READ_PATH;
	r = allow_paths(plan, ruleset, &plan->read_paths, plan->read_optional, plan->landlock_read,
			&fault->index);
	if (r >= 0) {
		fault->step = CONFINE_STEP_LANDLOCK_WRITE_PATH;
		r = allow_paths(plan, ruleset, &plan->write_paths, plan->write_optional, plan->landlock_write,
				&fault->index);
	}
	if (r >= 0) {
		fault->step = CONFINE_STEP_LANDLOCK;
		r = syscall(SYS_landlock_restrict_self, ruleset, 0) < 0 ? -errno : 0;
	}
	(void)syscall(SYS_close, ruleset);
	return r;
}

/* ---- capabilities -------------------------------------------------------------- */

/*
 * Without CAP_SETPCAP the set stays as it is. With no_new_privs that makes no
 * difference: nothing of it can be gained any more.
 */
CHILD static int drop_bounding(const struct confine_plan *plan)
{
	for (unsigned cap = 0; cap < 64; cap++) {
		if (plan->caps & (1ULL << cap))
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0)
			continue;
		if (errno == EINVAL) /* the kernel knows no more of them */
			return 0;
		return errno == EPERM && (plan->flags & CONFINE_NO_NEW_PRIVS) ? 0 : -errno;
	}
	return 0;
}

CHILD static int keep_capabilities(const struct confine_plan *plan)
{
	struct cap_header header = {.version = CAP_VERSION_3};
	struct cap_words words[2];

	if (syscall(SYS_capget, &header, words) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		words[i].permitted &= (uint32_t)(plan->caps >> (32 * i));
		words[i].effective &= words[i].permitted;
		words[i].inheritable = 0;
	}
	return syscall(SYS_capset, &header, words) < 0 ? -errno : 0;
}

/* ---- the filter ---------------------------------------------------------------- */

CHILD static int install(const struct confine_plan *plan, const struct confine_block *b, unsigned flags)
{
	const struct sock_fprog program = {.len = (unsigned short)b->n,
					   .filter = (struct sock_filter *)block(plan, b)};
	long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);

	return r < 0 ? -errno : (int)r;
}

/* The flags are what tells this one message from those of a program that is recorded. */
CHILD static int send_listener(int socket, int listener)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	char byte = 'L';
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &listener, sizeof(int));
	return syscall(SYS_sendmsg, socket, &msg, CONFINE_SEND_FLAGS) < 0 ? -errno : 0;
}

/* Not known to this kernel, or somebody over us listens already. */
static bool no_listener(int r)
{
	return r == -EINVAL || r == -EBUSY;
}

CHILD static int set_filter(const struct confine_plan *plan, int socket, struct confine_fault *fault)
{
	int listener = -EINVAL, r;

	fault->step = CONFINE_STEP_FILTER;
	if (socket >= 0 && (plan->flags & CONFINE_NOTIFY)) {
		listener = install(plan, &plan->notify, FILTER_LISTENER | FILTER_WAIT_KILLABLE);
		if (listener == -EINVAL)
			listener = install(plan, &plan->notify, FILTER_LISTENER);
		if (listener < 0 && !no_listener(listener))
			return listener;
	}
	if (listener < 0) {
		fault->step = plan->flags & CONFINE_RECORD ? CONFINE_STEP_LISTENER : CONFINE_STEP_FILTER;
		return plan->flags & CONFINE_RECORD ? listener : install(plan, &plan->plain, 0);
	}
	r = send_listener(socket, listener);
	if (r < 0) {
		fault->step = CONFINE_STEP_LISTENER;
		return r;
	}
	fault->listener = listener;
	return plan->rest.n > 0 ? install(plan, &plan->rest, 0) : 0;
}

/* ---- the phases ---------------------------------------------------------------- */

CHILD static int before_ids(const struct confine_plan *plan, struct confine_fault *fault)
{
	int r;

	fault->step = CONFINE_STEP_RLIMITS;
	r = set_rlimits(plan);
	if (r >= 0 && (plan->flags & CONFINE_CAPS)) {
		fault->step = CONFINE_STEP_BOUNDING;
		r = drop_bounding(plan);
	}
	if (r >= 0 && (plan->flags & CONFINE_NO_NEW_PRIVS)) {
		fault->step = CONFINE_STEP_NO_NEW_PRIVS;
		r = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
	}
	return r >= 0 && (plan->flags & CONFINE_LANDLOCK) ? set_landlock(plan, fault) : r;
}

CHILD static int before_exec(const struct confine_plan *plan, int socket, struct confine_fault *fault)
{
	int r = 0;

	if (plan->flags & CONFINE_CAPS) {
		fault->step = CONFINE_STEP_AMBIENT;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
			return -errno;
		fault->step = CONFINE_STEP_CAPABILITIES;
		r = keep_capabilities(plan);
	}
	return r >= 0 && plan->notify.n > 0 ? set_filter(plan, socket, fault) : r;
}

CHILD int confine_apply(const struct confine_plan *plan, int socket, enum confine_phase phase,
			struct confine_fault *fault)
{
	fault->step = CONFINE_STEP_PLAN;
	fault->listener = -1;
	if (plan->version != CONFINE_PLAN_VERSION)
		return -EINVAL;
	if (socket >= 0 && fcntl(socket, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	return phase == CONFINE_BEFORE_IDS ? before_ids(plan, fault) : before_exec(plan, socket, fault);
}
