/*
 * identity.c - processes that serve files as some user.
 *
 * Owns them until they end, which is when their connection does. Loop thread only.
 */
#include "execd/identity.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "execd/account.h"
#include "execd/execd.h"
#include "execd/isolated/message.h"

struct identities {
	struct execd *execd;
	struct list all;
};

struct identity {
	struct list link;
	struct child child;
};

static void identity_free(struct identity *i)
{
	list_del(&i->link);
	free(i);
}

static void identity_ended(struct child *child, int wstatus, const struct rusage *usage)
{
	(void)wstatus;
	(void)usage; /* whom it served was told by its connection */
	identity_free(container_of(child, struct identity, child));
}

/* Whose entry there is not, has no groups, and / for a home. */
static int identity_start(struct identities *is, struct identity *i, struct spawn *s,
			  const struct accounts *accounts, struct err *err)
{
	const char *home = accounts_user_home(accounts, s->uid);
	_cleanup_free_ gid_t *groups = NULL;
	_cleanup_free_ char *variable = NULL;
	int r = accounts_groups(accounts, s->uid, &groups, &s->groups_n);
	if (r >= 0 && asprintf(&variable, "HOME=%s", home ? home : "/") < 0) {
		variable = NULL;
		r = -ENOMEM;
	}
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "serve files as uid %u", s->uid);
	char *const envp[] = {variable, NULL};
	s->groups = groups;
	s->envp = envp;
	return child_spawn(is->execd->reaper, &i->child, s, identity_ended, err);
}

/* An agent that is not root may not call setgroups(), and need not for its own ids. */
static bool is_own(uid_t uid, gid_t gid)
{
	return geteuid() != 0 && uid == geteuid() && gid == getegid();
}

static int identity_new(struct identities *is, uid_t uid, gid_t gid, int socket, struct err *err)
{
	const char *argv[] = {IDENTITY_NAME, NULL};
	struct spawn s = {.path = "/proc/self/exe",
			  .argv = (char *const *)argv,
			  .cwd = "/",
			  .new_session = true,
			  .set_ids = !is_own(uid, gid),
			  .uid = uid,
			  .gid = gid,
			  .fds = {{socket, IDENTITY_FD}},
			  .fds_n = 1};
	struct accounts *accounts = NULL;
	struct identity *i = calloc(1, sizeof(*i));
	int r = i ? accounts_load(&accounts) : -ENOMEM;
	if (r < 0) {
		free(i);
		return err_sys(err, "RUNTIME_ERROR", -r, "read /etc/passwd and /etc/group");
	}
	list_add_tail(&is->all, &i->link);
	r = identity_start(is, i, &s, accounts, err);
	if (r < 0)
		identity_free(i);
	accounts_free(accounts);
	return r;
}

int identity_connect(struct identities *is, uid_t uid, gid_t gid, int *ret_fd, struct err *err)
{
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF, leash = -EBADF, held = -EBADF;
	int line[2], pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "open a socket");
	leash = line[0];
	held = line[1];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "open a socket");
	ours = pair[0];
	theirs = pair[1];
	/* Its one connection lies there before it starts, and the end behind it. */
	struct iovec iov = {"", 1};
	int r = message_send(leash, &iov, 1, &theirs, 1, MSG_DONTWAIT);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "serve files as uid %u", uid);
	r = identity_new(is, uid, gid, held, err);
	if (r >= 0)
		*ret_fd = TAKE_FD(ours);
	return r;
}

int identity_main(int (*serve)(int socket))
{
	/* Others of the same uid are not to meddle with what is asked of it. */
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	(void)prctl(PR_SET_NAME, IDENTITY_NAME);
	return serve(IDENTITY_FD);
}

int identities_new(struct execd *execd, struct identities **ret)
{
	struct identities *is = calloc(1, sizeof(*is));
	if (!is)
		return -ENOMEM;
	is->execd = execd;
	list_init(&is->all);
	*ret = is;
	return 0;
}

void identities_free(struct identities *is)
{
	if (!is)
		return;
	list_foreach_safe (node, &is->all) {
		struct identity *i = list_entry(node, struct identity, link);
		(void)child_kill(&i->child, SIGKILL);
		child_forget(&i->child);
		identity_free(i);
	}
	free(is);
}
