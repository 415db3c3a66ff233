/*
 * kernel_birth.c - how kernels come to be: from a program, or by a fork of another.
 *
 * By fork: the parent gets FORK with the child's socket and pipe ends, one at a
 * time, answers FORKED, and the child says HELLO on its own socket.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "execd/asset.h"
#include "execd/kernel_priv.h"
#include "execd/tree.h"
#include "lib/fs.h"
#include "proto/json.h"

#define KERNEL_ARGV_MAX 16

struct ends {
	int control[2], out[2], err[2]; /* ours, theirs */
};

static void ends_close(struct ends *e)
{
	for (int *fd = &e->control[0]; fd <= &e->err[1]; fd++)
		fd_close(fd);
}

static int open_ends(struct ends *e)
{
	const int on = 1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, e->control) < 0)
		return -errno;
	int r = fs_set_nonblock(e->control[0]);
	if (r >= 0 && setsockopt(e->control[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		r = -errno;
	if (r >= 0)
		r = fs_pipe(e->out, 1, 0);
	return r < 0 ? r : fs_pipe(e->err, 1, 0);
}

static int watch_ends(struct kernel *k, struct ends *e)
{
	struct loop *loop = k->execd->loop;
	int r = pump_start(&k->pumps[0], loop, e->out[0], k->idle_output);
	if (r < 0)
		return r;
	e->out[0] = -EBADF;
	r = pump_start(&k->pumps[1], loop, e->err[0], k->idle_output);
	if (r < 0)
		return r;
	e->err[0] = -EBADF;
	k->control = TAKE_FD(e->control[0]);
	r = loop_io_add(loop, &k->io, k->control, EPOLLIN, kernel_control_ready);
	return r < 0 ? r
		     : loop_timer_set(loop, &k->timer, loop_now_ms(loop) + KERNEL_START_TIMEOUT_MS,
				      kernel_start_timeout);
}

static int kernel_new(struct execd *execd, const struct kernel_spec *spec, struct ends *ends,
		      struct kernel **ret, struct err *err)
{
	struct kernel *k = kernel_alloc(execd, spec);
	if (!k)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a kernel");
	k->mark = strdup(spec->mark);
	k->cwd = spec->cwd ? strdup(spec->cwd) : NULL;
	int r = !k->mark || (spec->cwd && !k->cwd) ? -ENOMEM : open_ends(ends);
	if (r >= 0)
		r = watch_ends(k, ends);
	if (r < 0) {
		(void)err_sys(err, "RUNTIME_ERROR", -r, "start a kernel");
		kernel_free(k);
		return r;
	}
	*ret = k;
	return 0;
}

static bool is_ready(const struct language *l)
{
	return l->ready && asset_there(l->ready);
}

struct files {
	int assets, native; /* -EBADF: none */
};

static int try_program(struct kernel *k, const struct kernel_spec *spec, const struct ends *ends,
		       const struct files *files, const char *program, struct err *err)
{
	const char *argv[KERNEL_ARGV_MAX] = {program};
	const char *const *args =
		is_ready(spec->language) ? spec->language->ready_args : spec->language->args;
	for (size_t i = 0; args[i] && i + 2 < ARRAY_SIZE(argv); i++)
		argv[i + 1] = args[i];
	struct spawn s = {
		.path = program,
		.argv = (char *const *)argv,
		.envp = spec->envp,
		.cwd = spec->cwd,
		.fds = {{ends->out[1], 1},
			{ends->err[1], 2},
			{ends->control[1], KERNEL_CONTROL_FD},
			{files->assets, KERNEL_ASSETS_FD},
			{files->native, KERNEL_NATIVE_FD}},
		.fds_n = files->assets < 0   ? 3
			 : files->native < 0 ? 4
					     : 5,
		.new_session = true,
		.die_with_parent = true,
	};
	k->confined = spec->confine != NULL;
	return confined_spawn(k->execd, &k->child, &s, spec->confine, spec->mark, kernel_exited, &k->denials,
			      err);
}

static int start_beside(struct kernel *k, const struct kernel_spec *spec, const struct ends *ends,
			struct err *err)
{
	const struct language *l = spec->language;
	const struct files none = {-EBADF, -EBADF};
	char path[PATH_MAX];
	int r = asset_program(l->beside, path, sizeof(path));
	if (r >= 0)
		r = try_program(k, spec, ends, &none, path, err);
	return r != -ENOENT && r != -ENOTDIR ? r
					     : err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOENT,
						       "%s code needs the program 'kernels/%s' beside the "
						       "agent, and '%s' is not there",
						       l->name, l->beside, path);
}

static int start_program(struct kernel *k, const struct kernel_spec *spec, const struct ends *ends,
			 struct err *err)
{
	const struct language *l = spec->language;
	_cleanup_close_ int assets = -EBADF, native = -EBADF;
	if (l->beside)
		return start_beside(k, spec, ends, err);
	int r = asset_open(is_ready(l) ? l->ready : l->assets, &assets, err);
	if (r >= 0 && l->native)
		r = asset_open(l->native, &native, err);
	const struct files files = {assets, native};
	if (r < 0)
		return r;
	for (size_t i = 0; i < LANGUAGE_PROGRAMS_MAX && l->programs[i]; i++) {
		r = try_program(k, spec, ends, &files, l->programs[i], err);
		if (r != -ENOENT)
			return r;
	}
	return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOENT,
		       "%s code needs the program '%s', and it is not in this image's PATH", l->name,
		       l->programs[0]);
}

int kernel_start(struct execd *execd, const struct kernel_spec *spec, struct kernel **ret, struct err *err)
{
	_cleanup_(ends_close) struct ends ends = {
		{-EBADF, -EBADF},
		{-EBADF, -EBADF},
		{-EBADF, -EBADF},
	};
	struct kernel *k;
	if (spec->language->shell)
		return kernel_shell_start(execd, spec, ret, err);
	int r = kernel_new(execd, spec, &ends, &k, err);
	if (r < 0)
		return r;
	r = start_program(k, spec, &ends, err);
	if (r < 0) {
		kernel_free(k);
		return r;
	}
	*ret = k;
	return 0;
}

/* ---- forks ------------------------------------------------------------------ */

void kernel_fail_forks(struct kernel *k, const char *message)
{
	list_foreach_safe (node, &k->forks) {
		struct kernel *child = list_entry(node, struct kernel, fork_link);
		list_del(&child->fork_link);
		child->parent = NULL;
		kernel_lost(child, message);
		kernel_advance(child);
	}
}

void kernel_handle_forked(struct kernel *k, json_t *message)
{
	const char *error = json_string_value(json_object_get(message, "error"));
	if (!k->forking) {
		kernel_lost(k, "answered a fork that nobody asked for");
		return;
	}
	k->forking = false;
	if (!list_empty(&k->forks)) {
		struct kernel *child = list_entry(k->forks.next, struct kernel, fork_link);
		/* Freed meanwhile, it has left the list: then the head is another, not asked for yet. */
		if (child->child_ends[0] < 0) {
			list_del(&child->fork_link);
			child->parent = NULL;
			if (error || child->eof) {
				char text[KERNEL_DEATH_MAX];
				(void)snprintf(text, sizeof(text), "could not be forked: %s",
					       error ? error : "it ended at once");
				child->wstatus = error ? KERNEL_REFUSED : child->wstatus;
				kernel_lost(child, text);
				kernel_advance(child);
			}
		}
	}
	kernel_ask_next_fork(k);
}

/* Small, and alone in the socket: it goes whole or not at all. */
static int send_fork(struct kernel *parent, struct kernel *child)
{
	_cleanup_buf_ struct buf json = BUF_INIT(65536), frame = BUF_INIT(65536 + FRAME_HEADER);
	struct jw w = JW_INIT(&json);
	jw_obj_begin(&w);
	jw_kstr(&w, "cwd", child->cwd);
	jw_key(&w, "env");
	jw_obj_begin(&w);
	jw_kstr(&w, TREE_MARK, child->mark);
	jw_obj_end(&w);
	jw_obj_end(&w);
	if (json.failed || parent->out.len > 0)
		return json.failed ? -ENOMEM : -EAGAIN;
	int r = frame_append(&frame, FRAME_FORK, json.data, json.len);
	if (r < 0)
		return r;
	size_t ends_n = 0;
	while (ends_n < ARRAY_SIZE(child->child_ends) && child->child_ends[ends_n] >= 0)
		ends_n++;
	union {
		char bytes[CMSG_SPACE(sizeof(child->child_ends))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = frame.data, .iov_len = frame.len};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = CMSG_SPACE(ends_n * sizeof(int))};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(ends_n * sizeof(int));
	memcpy(CMSG_DATA(c), child->child_ends, ends_n * sizeof(int));
	ssize_t n = sendmsg(parent->control, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	return (size_t)n == frame.len ? 0 : -EMSGSIZE;
}

void kernel_close_child_ends(struct kernel *child)
{
	for (size_t i = 0; i < ARRAY_SIZE(child->child_ends); i++)
		fd_close(&child->child_ends[i]);
}

void kernel_ask_next_fork(struct kernel *k)
{
	while (k->state == IDLE && !k->forking && !k->freed && !list_empty(&k->forks)) {
		struct kernel *child = list_entry(k->forks.next, struct kernel, fork_link);
		int r = send_fork(k, child);
		kernel_close_child_ends(child);
		if (r >= 0) {
			k->forking = true;
			break;
		}
		list_del(&child->fork_link);
		child->parent = NULL;
		kernel_lost(child, "could not be forked: its parent does not answer");
		kernel_advance(child);
	}
}

/* It puts it on by itself, before it runs anything: the plan, and the socket for its listener. */
static int confine_fork(struct kernel *k, struct confine *confine, struct err *err)
{
	const struct confine_plan *plan = confine_plan(confine);
	_cleanup_close_ int fd = memfd_create("confinement", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : fs_write_all(fd, plan, plan->size);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "confine a kernel");
	r = confine_start_init(&k->listener, confine, err);
	if (r < 0)
		return r;
	k->confine = confine_ref(confine);
	k->child_ends[3] = TAKE_FD(fd);
	k->child_ends[4] = TAKE_FD(k->listener.child_socket);
	return 0;
}

int kernel_fork(struct kernel *parent, const struct kernel_spec *spec, struct kernel **ret, struct err *err)
{
	_cleanup_(ends_close) struct ends ends = {
		{-EBADF, -EBADF},
		{-EBADF, -EBADF},
		{-EBADF, -EBADF},
	};
	struct kernel *k;
	if (parent->shell)
		return kernel_shell_fork(parent, spec, ret, err);
	int r = kernel_new(parent->execd, spec, &ends, &k, err);
	if (r < 0)
		return r;
	k->child_ends[0] = TAKE_FD(ends.control[1]);
	k->child_ends[1] = TAKE_FD(ends.out[1]);
	k->child_ends[2] = TAKE_FD(ends.err[1]);
	k->confined = parent->confined || spec->confine;
	if (spec->confine && !parent->confined && (r = confine_fork(k, spec->confine, err)) < 0) {
		kernel_free(k);
		return r;
	}
	k->parent = parent;
	list_add_tail(&parent->forks, &k->fork_link);
	kernel_ask_next_fork(parent);
	*ret = k;
	return 0;
}
