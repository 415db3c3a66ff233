/*
 * room.c - rooms as the agent knows them.
 *
 * Owns: each room's socket to its init, the init as a child, and the directories
 * of stacks on disk. Beside it: nursery_link.c, hosted.c, clerk.c.
 *
 *   STARTING ── READY ──> READY ── the init ends ──> ENDED
 *       └── FAILED, the init ends, the nursery dies ──> ENDED (ready() with an error)
 *
 * Nothing waits: every send is non-blocking, and a room that does not take its
 * messages is one that is ended. What comes over a room's socket is the init's
 * word, and nothing but that room is believed to depend on it.
 *
 * When the init ends the kernel has killed whatever ran in there, and its owners
 * are told so.
 *
 * Memory goes with the last reference: the owner's (room_new), the loop's own
 * while the init lives or is still to be born.
 */
#include "execd/isolated/room.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "execd/account.h"
#include "execd/command.h"
#include "execd/confinement.h"
#include "execd/execd.h"
#include "execd/isolated/room_priv.h"
#include "execd/limits.h"
#include "lib/fs.h"
#include "lib/random.h"

#define EVENTS_A_TURN 64
/* ---- references -------------------------------------------------------------- */

struct room *room_ref(struct room *room)
{
	room->refs++;
	return room;
}

static void rooms_unref(struct rooms *rooms)
{
	if (--rooms->refs == 0)
		free(rooms);
}

void room_unref(struct room *room)
{
	if (--room->refs > 0)
		return;
	list_del(&room->link);
	for (size_t i = 0; i < room->mounts_n; i++) {
		struct room_mount *m = &room->mounts[i];
		fd_close(&m->stack_fd);
		fd_close(&m->lower_fd);
		free(m->path);
	}
	stacks_done(&room->stacks);
	buf_done(&room->plan);
	limits_hold_release(room->limits);
	confine_start_done(&room->listener);
	confinement_let_go(room->rooms->execd, room->denials);
	confine_unref(room->confine);
	rooms_unref(room->rooms);
	free(room);
}

bool room_is_ready(const struct room *room)
{
	return room->state == ROOM_READY;
}

bool room_proc_is_writable(const struct room *room)
{
	return !room->proc_readonly;
}

const struct err *room_failure(const struct room *room)
{
	return room->stillborn ? &room->err : NULL;
}

pid_t room_pid(const struct room *room)
{
	return room->state == ROOM_ENDED ? 0 : room->init.pid;
}

struct room_mount *room_mounts(struct room *room, size_t *ret_n)
{
	*ret_n = room->mounts_n;
	return room->mounts;
}

char *room_denied(struct room *room)
{
	return denials_take(room->denials);
}

void room_set_events(struct room *room, const struct room_events *events, void *arg)
{
	room->events = events ? *events : (struct room_events){0};
	room->arg = arg;
}

/* ---- words for what failed --------------------------------------------------------- */

static const char *need(const struct room *room, enum wire_stage stage, uint32_t step, int errnum)
{
	if (errnum == ENOSYS)
		return " (rooms need Linux 5.12, and no seccomp filter over the agent that hides its calls)";
	if (errnum != EPERM && errnum != EACCES)
		return "";
	if (stage == WIRE_STAGE_NETWORK && !room->ids.userns)
		return " (the agent needs CAP_NET_ADMIN for it; with share_net it is not done)";
	if (stage == WIRE_STAGE_MAP && room->ids.userns == WIRE_USERNS_WHOLE)
		return " (the agent needs CAP_SETUID, CAP_SETGID and, for root to be among them, "
		       "CAP_SETFCAP)";
	if (!room->ids.userns)
		return " (the agent needs CAP_SYS_ADMIN for it, and no seccomp filter or AppArmor profile "
		       "over it "
		       "that forbids it)";
	if (stage == WIRE_STAGE_VIEW && plan_step_kind(&room->plan, step) == VIEW_PROC)
		return " (the container masks parts of its /proc, and then a user namespace gets none: the "
		       "agent needs CAP_SYS_ADMIN, or the container a whole procfs, read-only, beside it)";
	return " (user namespaces are not allowed here, or something over the agent, such as AppArmor or a "
	       "seccomp "
	       "filter, forbids it)";
}

static void fail_stage(struct room *room, enum wire_stage stage, uint32_t step, int errnum)
{
	static const char *const names[] = {
		[WIRE_STAGE_NONE] = "start",
		[WIRE_STAGE_CLONE] = "make the namespaces",
		[WIRE_STAGE_MAP] = "map the ids of the user namespace",
		[WIRE_STAGE_ENTER] = "enter the room",
		[WIRE_STAGE_NETWORK] = "bring up the loopback interface",
		[WIRE_STAGE_NAME] = "set the host's name",
		[WIRE_STAGE_LIMITS] = "limit it",
		[WIRE_STAGE_IDS] = "change user and groups",
		[WIRE_STAGE_CAPABILITIES] = "give up capabilities",
		[WIRE_STAGE_CONFINE] = "confine it",
	};
	char text[256];
	const char *what = stage < ARRAY_SIZE(names) && names[stage] ? names[stage] : "start";
	if (room->failed)
		return;
	room->failed = true;
	if (stage == WIRE_STAGE_VIEW)
		what = plan_step_text(&room->plan, step, text, sizeof(text));
	bool denied = errnum == EPERM || errnum == EACCES || errnum == ENOSYS;
	/* ENOSPC is of the room's own file systems, or a limit on namespaces. */
	bool scarce = errnum == ENOSPC || errnum == EAGAIN || errnum == ENOMEM || errnum == EMFILE ||
		      errnum == ENFILE;
	(void)err_set(&room->err,
		      denied		 ? ERR_NOT_SUPPORTED
		      : errnum == ENOENT ? ERR_INVALID
		      : scarce		 ? ERR_UNAVAILABLE
					 : ERR_INTERNAL,
		      denied		 ? "NOT_SUPPORTED"
		      : errnum == ENOENT ? "INVALID_REQUEST_BODY"
					 : "RUNTIME_ERROR",
		      errnum, "isolated session: %s: %s%s", what, strerror(errnum),
		      need(room, stage, step, errnum));
}

/* ---- the life of a room --------------------------------------------------------------------- */

static void room_drop_hold(struct room *room)
{
	if (room->held) {
		room->held = false;
		room_unref(room);
	}
}

/* Whoever still has a process in there is told that it was killed. */
static void end_children(struct room *room)
{
	const struct rusage none = {};
	while (!list_empty(&room->children))
		hosted_ended(list_entry(room->children.next, struct child, link), SIGKILL, &none);
}

static void room_cleared(struct room *room, uint64_t tag)
{
	if (room->clear_tag != tag || !room->cleared)
		return;
	void (*fn)(void *arg) = room->cleared;
	room->cleared = NULL;
	fn(room->clear_arg);
}

static void room_end(struct room *room)
{
	bool was_ready = room->state == ROOM_READY;
	if (room->state == ROOM_ENDED)
		return;
	(void)room_ref(room);
	room->state = ROOM_ENDED;
	loop_io_del(&room->io);
	fd_close(&room->socket);
	clerk_done(&room->clerk);
	fd_close(&room->mounts_ns);
	fd_close(&room->users_ns);
	fd_close(&room->cellar_fd);
	while (room->joins_n > 0)
		fd_close(&room->joins[--room->joins_n]);
	fail_stage(room, WIRE_STAGE_NONE, 0, ECHILD);
	room->stillborn = !was_ready;
	zygote_room_ended(room);
	end_children(room);
	room_cleared(room, room->clear_tag);
	if (was_ready && room->events.ended)
		room->events.ended(room->arg);
	else if (!was_ready && room->events.ready)
		room->events.ready(room->arg, -MAX(room->err.errnum, 1), &room->err);
	limits_hold_release(TAKE_PTR(room->limits));
	room_drop_hold(room);
	room_unref(room);
}

/*
 * Whoever drops the last reference to its mounts takes them apart, and waits for the kernel's grace: that is
 * to be the dying init, all of them at the same time, and not the loop, one after the other.
 */
void room_kill(struct room *room)
{
	room->killed = true;
	fd_close(&room->mounts_ns);
	if (room->init.pid > 0)
		(void)child_kill(&room->init, SIGKILL);
}

/* joins_n: how many of them are for those who come in. */
static void room_ready(struct room *room, int *fds, size_t fds_n, size_t joins_n)
{
	if (room->state != ROOM_STARTING)
		return;
	if (joins_n > ARRAY_SIZE(room->joins) || fds_n < 2 + joins_n)
		return;
	room->mounts_ns = TAKE_FD(fds[0]);
	room->users_ns = TAKE_FD(fds[1]);
	if (fds_n > 2 + joins_n)
		room->cellar_fd = TAKE_FD(fds[2]);
	for (size_t i = fds_n - joins_n; i < fds_n; i++)
		room->joins[room->joins_n++] = TAKE_FD(fds[i]);
	for (size_t i = 0; i < room->mounts_n; i++) {
		struct room_mount *m = &room->mounts[i];
		char path[32];
		if (m->mode != ROOM_OVERLAY)
			continue;
		(void)snprintf(path, sizeof(path), "%zu/stack", i);
		m->stack_fd = openat(room->cellar_fd, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (m->stack_fd < 0) {
			fail_stage(room, WIRE_STAGE_VIEW, UINT32_MAX, errno);
			room_kill(room);
			return;
		}
	}
	int listener = confine_start_listener(&room->listener);
	if (listener >= 0)
		(void)denials_new(room->rooms->execd->loop, room->confine, listener, room->id,
				  &room->denials);
	confine_start_done(&room->listener);
	room->state = ROOM_READY;
	buf_done(&room->plan);
	zygote_room_ready(room);
	if (room->events.ready)
		room->events.ready(room->arg, 0, NULL);
}

int room_clear(struct room *room, void (*done)(void *arg), void *arg, struct err *err)
{
	struct wire_spawn head = {.tag = ++room->rooms->tags, .clear = 1};
	struct iovec iov = {&head, sizeof(head)};
	if (room->state != ROOM_READY || room->killed)
		return err_set(err, ERR_GONE, "RUNTIME_ERROR", ESRCH, "the isolated session has ended");
	if (room->cleared)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			       "the isolated session is being cleared");
	int r = message_send(room->socket, &iov, 1, NULL, 0, MSG_DONTWAIT);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "clear the isolated session");
	room->clear_tag = head.tag;
	room->cleared = done;
	room->clear_arg = arg;
	return 0;
}

/* One event; false when there is none now, or no more at all. */
static bool room_receive(struct room *room)
{
	struct wire_event e = {0};
	int fds[MESSAGE_FDS_MAX];
	size_t fds_n;
	ssize_t n = message_receive(room->socket, &e, sizeof(e), fds, &fds_n, MSG_DONTWAIT);
	if (n == -EAGAIN)
		return false;
	if (n == sizeof(e)) {
		int first = fds_n > 0 ? fds[0] : -EBADF;
		struct child *c;
		switch ((enum wire_event_kind)e.kind) {
		case WIRE_READY:
			room->proc_readonly = e.flags & WIRE_PROC_RDONLY;
			room_ready(room, fds, fds_n, e.step);
			break;
		case WIRE_FAILED:
			fail_stage(room, (enum wire_stage)e.stage, e.step, e.errnum);
			break;
		case WIRE_STARTED:
			hosted_started(room, e.tag, first);
			fds[0] = -EBADF;
			break;
		case WIRE_CLEARED:
			room_cleared(room, e.tag);
			break;
		case WIRE_EXITED:
			c = hosted_find(room, e.tag);
			if (c)
				hosted_ended(c, e.wstatus, &e.usage);
			break;
		}
	}
	for (size_t i = 0; i < fds_n; i++)
		fd_close(&fds[i]);
	return n > 0 && room->state != ROOM_ENDED;
}

static void room_event(struct loop_io *io, uint32_t events)
{
	struct room *room = container_of(io, struct room, io);
	(void)events;
	(void)room_ref(room);
	for (int i = 0; i < EVENTS_A_TURN && room->state != ROOM_ENDED; i++) {
		if (room_receive(room))
			continue;
		char byte;
		/* The init closes its end when it dies; its exit is what counts, and on its way. */
		if (room->state != ROOM_ENDED && recv(room->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
			loop_io_del(&room->io);
			if (room->born && room->init.pid == 0)
				room_end(room);
		}
		break;
	}
	room_unref(room);
}

/* What it said before it died is still to be heard. */
static void init_exited(struct child *child, int wstatus, const struct rusage *usage)
{
	struct room *room = container_of(child, struct room, init);
	(void)wstatus;
	(void)usage;
	(void)room_ref(room);
	while (room->state != ROOM_ENDED && room_receive(room))
		;
	room_end(room);
	room_unref(room);
}

void room_born(struct room *room, int pid)
{
	room->born = true;
	if (pid < 0) {
		fail_stage(room, WIRE_STAGE_CLONE, 0, -pid);
		room_end(room);
		return;
	}
	int r = child_adopt(room->rooms->execd->reaper, &room->init, pid, init_exited);
	if (r < 0) {
		init_exited(&room->init, 0, NULL);
		return;
	}
	if (room->limits && (r = limits_hold_join(room->limits, pid)) < 0) {
		fail_stage(room, WIRE_STAGE_NONE, 0, -r);
		room->killed = true;
	}
	if (room->killed)
		(void)child_kill(&room->init, SIGKILL);
}

/* ---- making ------------------------------------------------------------------------------------- */

static int find_ids(const struct room_spec *spec, struct room_place *place, struct accounts **accounts,
		    gid_t **ret_groups, struct err *err)
{
	bool own = spec->uid == (uid_t)-1 || spec->uid == geteuid();
	place->uid = spec->uid == (uid_t)-1 ? geteuid() : spec->uid;
	place->gid = own ? getegid() : 0;
	if (place->userns != WIRE_USERNS_ONE) {
		int r = accounts_load(accounts);
		if (r >= 0)
			r = accounts_groups(*accounts, place->uid, ret_groups, &place->groups_n);
		if (r < 0)
			return err_sys(err, "RUNTIME_ERROR", -r, "groups of uid %u", place->uid);
		place->groups = *ret_groups;
		if (!own)
			(void)accounts_primary_group(*accounts, place->uid, &place->gid);
	}
	if (spec->gid != (gid_t)-1)
		place->gid = spec->gid;
	return 0;
}

/* Is it one of ours? (CAP_*, in effect) */
static bool has_capability(int capability)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {};
	if (syscall(SYS_capget, &header, data) < 0)
		return false;
	return data[capability / 32].effective >> (capability % 32) & 1;
}

/* Who the room's ids are: real where we have the privilege, by a user namespace where not. */
static int find_userns(const struct room_spec *spec, enum wire_userns *ret, struct err *err)
{
	bool admin = has_capability(CAP_SYS_ADMIN);
	if (spec->ids == ROOM_IDS_REAL && !admin)
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", EPERM,
			       "uid_mode: 'setpriv' needs CAP_SYS_ADMIN, which the agent does not have; use "
			       "'userns'");
	if (spec->ids == ROOM_IDS_REAL || (spec->ids == ROOM_IDS_ANY && admin))
		*ret = WIRE_USERNS_NONE;
	else if (has_capability(CAP_SETUID) && has_capability(CAP_SETGID))
		*ret = WIRE_USERNS_WHOLE;
	else
		*ret = WIRE_USERNS_ONE;
	return 0;
}

static int copy_mounts(struct room *room, const struct room_spec *spec, struct err *err)
{
	for (size_t i = 0; i < spec->mounts_n; i++) {
		struct room_mount *m = &room->mounts[room->mounts_n];
		*m = spec->mounts[i];
		m->stack_fd = m->lower_fd = -EBADF;
		m->top = 0;
		m->userxattr = room->ids.userns != WIRE_USERNS_NONE;
		m->path = strdup(spec->mounts[i].path);
		if (!m->path)
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "workspace '%s'", spec->mounts[i].path);
		room->mounts_n++;
		if (m->mode != ROOM_OVERLAY)
			continue;
		m->lower_fd = open(m->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (m->lower_fd < 0)
			return err_sys_given(err, errno, "workspace '%s'", m->path);
	}
	return 0;
}

static int room_limits(struct room *room, const struct room_spec *spec, uid_t uid, struct err *err)
{
	struct limiter *limiter;
	if (!spec->limits || !limits_any(spec->limits))
		return 0;
	int r = commands_limiter(room->rooms->execd->commands, &limiter, err);
	return r < 0 ? r : limits_hold_new(limiter, spec->limits, room->id, uid, &room->limits, err);
}

/* Sends the plan and the init's end of the socket. */
static int room_send(struct room *room, struct err *err)
{
	_cleanup_close_ int theirs = -EBADF;
	int pair[2], r;
	loop_io_del(&room->io);
	fd_close(&room->socket);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "open a socket");
	room->socket = pair[0];
	theirs = pair[1];
	r = loop_io_add(room->rooms->execd->loop, &room->io, room->socket, EPOLLIN, room_event);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "watch a socket");
	const int fds[] = {theirs, room->listener.child_socket};
	return nursery_tell(room->rooms, &room->plan, fds, fds[1] < 0 ? 1 : 2, err);
}

/* The nursery has died with the order: once more to the next one. */
bool room_send_again(struct room *room)
{
	if (room->again || room->killed)
		return false;
	room->again = true;
	return room_send(room, NULL) >= 0;
}

static int room_order(struct room *room, const struct room_spec *spec, struct err *err)
{
	struct accounts *accounts = NULL;
	_cleanup_free_ gid_t *groups = NULL;
	struct room_place place = {.tag = room->tag, .name = room->id};
	struct room_spec own = *spec;
	int r = find_userns(spec, &place.userns, err);
	if (r < 0)
		return r;
	room->ids.userns = place.userns;
	r = copy_mounts(room, spec, err);
	if (r < 0)
		return r;
	r = find_ids(spec, &place, &accounts, &groups, err);
	accounts_free(accounts);
	room->ids.uid = place.uid;
	room->ids.gid = place.gid;
	room->ids.groups_n = (uint32_t)MIN(place.groups_n, ARRAY_SIZE(room->ids.groups));
	for (size_t i = 0; i < room->ids.groups_n; i++)
		room->ids.groups[i] = groups[i];
	if (r >= 0)
		r = stacks_make(&room->stacks, room->rooms->root, room->id, room->mounts, room->mounts_n,
				err);
	if (r >= 0)
		r = room_limits(room, spec, place.uid, err);
	if (r >= 0 && room->limits) {
		struct spawn bounds = {0};
		limits_hold_apply(room->limits, &bounds);
		place.rlimits = bounds.rlimits;
		place.rlimits_n = bounds.rlimits_n;
	}
	own.mounts = room->mounts;
	place.stacks = room->stacks.paths;
	place.hidden = stack_root_path(room->rooms->root);
	if (r >= 0)
		r = confine_start_init(&room->listener, room->confine, err);
	place.confine = confine_plan(room->confine);
	if (r >= 0)
		r = plan_room(&own, &place, &room->plan, err);
	return r < 0 ? r : room_send(room, err);
}

int room_new(struct rooms *rooms, const struct room_spec *spec, const struct room_events *events, void *arg,
	     struct room **ret, struct err *err)
{
	struct room *room = calloc(1, sizeof(*room));
	if (!room)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "make an isolated session");
	room->rooms = rooms;
	room->refs = 1;
	rooms->refs++;
	room->socket = room->io.fd = room->cellar_fd = room->mounts_ns = room->users_ns = room->init.pidfd =
		room->clerk.socket = -EBADF;
	room->plan = BUF_INIT(WIRE_MAX);
	room->confine = confine_ref(spec->confine);
	room->joinable = spec->joinable;
	room->listener.socket = room->listener.child_socket = -EBADF;
	room->tag = ++rooms->tags;
	list_init(&room->link);
	list_init(&room->children);
	list_init(&room->init.link);
	(void)random_hex(room->id, ROOM_ID_LEN);
	int r = spec->mounts_n > ROOM_MOUNTS_MAX
			? err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
				  "overlays: more than %d, the most of one session", ROOM_MOUNTS_MAX)
			: stack_root_open(rooms->execd, &rooms->root, err);
	if (r >= 0)
		r = room_order(room, spec, err);
	if (r < 0) {
		loop_io_del(&room->io);
		fd_close(&room->socket);
		room_unref(room);
		return r;
	}
	room->events = *events;
	room->arg = arg;
	list_add_tail(&rooms->all, &room->link);
	room->held = true;
	room->refs++;
	*ret = room;
	return 0;
}

/* ---- all of them ----------------------------------------------------------------------------------- */

int rooms_new(struct execd *execd, struct rooms **ret)
{
	struct rooms *rooms = calloc(1, sizeof(*rooms));
	if (!rooms)
		return -ENOMEM;
	rooms->refs = 1;
	rooms->execd = execd;
	rooms->socket = rooms->io.fd = rooms->nursery.pidfd = -EBADF;
	list_init(&rooms->all);
	list_init(&rooms->orders);
	list_init(&rooms->nursery.link);
	*ret = rooms;
	return 0;
}

const char *rooms_persist_problem(struct rooms *rooms)
{
	int r = stack_root_open(rooms->execd, &rooms->root, NULL);
	return r < 0 ? "out of memory" : stack_root_problem(rooms->root);
}

void rooms_free(struct rooms *rooms)
{
	if (!rooms)
		return;
	rooms->closing = true;
	zygote_free(TAKE_PTR(rooms->zygote));
	nursery_lost(rooms);
	list_foreach_safe (node, &rooms->all) {
		struct room *room = list_entry(node, struct room, link);
		room_kill(room);
		child_forget(&room->init);
		room_end(room);
	}
	/* Whoever still holds a room has no files of it any more. */
	list_foreach_safe (node, &rooms->all)
		free(TAKE_PTR(list_entry(node, struct room, link)->stacks.dir));
	stack_root_close(TAKE_PTR(rooms->root));
	rooms_unref(rooms);
}
