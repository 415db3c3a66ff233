/*
 * room.h - a room: namespaces with a tiny init, in which isolated code runs.
 *
 * Who does what. The agent describes a room (struct room_spec). The nursery, a
 * small static program that the agent carries and starts from memory once,
 * clones the room's init out of itself, so nothing of the agent's memory or
 * descriptors is ever there; the init builds the view of the files, gives up
 * its privileges for good and from then on starts what it is told to over a
 * socket (room_spawn). It is a child of the agent, not dumpable, PID 1 of its
 * own PID namespace. When it is killed everything in the room dies, and with the
 * last process go the mounts, so there is nothing to undo.
 *
 *   STARTING -> READY -> ENDED
 *
 * All calls are for the loop's thread; none of them waits for the room.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "lib/child.h"
#include "lib/err.h"
#include "lib/spawn.h"

struct confine;
struct execd;
struct limits;
struct rooms;
struct room;

#define ROOM_MOUNTS_MAX 16 /* workspaces of one room */
#define ROOM_LAYERS_MAX 64 /* uppers on top of each other */

enum room_mode { ROOM_RW, ROOM_RO, ROOM_OVERLAY };

/*
 * A workspace. It stands at the same path in the room as in the container.
 *
 * An overlay has a *stack*, a directory with
 *
 *   0, 1, 2, ...   the layers, oldest first; the newest is the upper that is written to
 *   work           overlayfs's own (replaced at each mount)
 *
 * and is mounted as lowerdir=<top-1>:...:<0>:<path>, upperdir=<top>. The stack
 * of a workspace with `persist` is <state>/<id of the room>/<index> on disk;
 * without it it lies in a tmpfs that only the room's mount and stack_fd know. Either way
 * all work on it goes through stack_fd, never through a path.
 */
struct room_mount {
	char *path; /* absolute and clean */
	enum room_mode mode;
	bool persist;
	bool persist_must; /* rather fail than keep it in memory */
	uint64_t size_max; /* of a tmpfs; 0: the default of the kernel */

	/* ROOM_OVERLAY, from READY until the last reference to the room is gone; otherwise -EBADF. */
	int stack_fd;	/* O_PATH | O_DIRECTORY */
	int lower_fd;	/* O_PATH | O_DIRECTORY: what is below, in the agent's own view of the files */
	bool userxattr; /* opaque marks are user.overlay.*, otherwise trusted.overlay.*; whiteouts are 0:0
			   devices in both */
	unsigned top;	/* the layer that is written to now */
};

/* What a room is to be like. Borrowed until room_new() returns. */
struct room_bind {
	const char *source, *dest;
	bool readonly;
	bool optional; /* no such source: none is made */
};

enum room_profile { ROOM_STRICT, ROOM_BALANCED };

enum room_ids { ROOM_IDS_ANY, ROOM_IDS_REAL, ROOM_IDS_USERNS };

struct room_spec {
	enum room_profile profile;
	enum room_ids ids;
	uid_t uid; /* (uid_t)-1: the agent's */
	gid_t gid; /* (gid_t)-1: the user's */
	bool share_net;
	bool joinable;			 /* a process may be forked into it (zygote.h) */
	const struct room_mount *mounts; /* path, mode, persist, size_max; the first is where runs begin */
	size_t mounts_n;
	const struct room_bind *binds;
	size_t binds_n;
	const char *const *hide; /* paths that are empty in the room */
	size_t hide_n;
	uint64_t tmp_max;	     /* bytes of /tmp; 0: ROOM_TMP_MAX */
	const struct limits *limits; /* of the room as a whole, or NULL */
	struct confine *confine;     /* NULL: none */
};

#define ROOM_TMP_MAX ((uint64_t)1 << 30)

struct room_events {
	/* Once: it can be used, or (-errno, *err) has come to nothing; ended() does not follow then. */
	void (*ready)(void *arg, int r, const struct err *err);
	/* Once, after ready: everything in it has ended, its processes have been told. */
	void (*ended)(void *arg);
};

/* Lives as long as the agent; costs nothing until the first room. */
int rooms_new(struct execd *execd, struct rooms **ret);
/* NULL, or why layers cannot be kept on disk. */
const char *rooms_persist_problem(struct rooms *rooms);
/* Kills every room and removes what is on disk. */
void rooms_free(struct rooms *rooms);

/*
 * *ret is a reference for the caller; processes may be started in it at once,
 * they wait until it is READY. -errno with *err for what is wrong from the start.
 */
int room_new(struct rooms *rooms, const struct room_spec *spec, const struct room_events *events, void *arg,
	     struct room **ret, struct err *err);
/* Others from here on; NULL: none. */
void room_set_events(struct room *room, const struct room_events *events, void *arg);

bool room_is_ready(const struct room *room);
/* Of a READY one; in the profile balanced it is wherever that can be had. */
bool room_proc_is_writable(const struct room *room);
/* Why it has come to nothing; NULL: it has not, or not yet. Borrowed. */
const struct err *room_failure(const struct room *room);
/* Its init, for /proc/PID/...; 0 once it has ended. */
pid_t room_pid(const struct room *room);
struct room_mount *room_mounts(struct room *room, size_t *ret_n);

/*
 * A reference keeps the descriptors above and the directories on disk, not the
 * processes: whoever works on a stack with a worker holds one.
 */
struct room *room_ref(struct room *room);
void room_unref(struct room *room);
/* System calls that were denied in it since this was last asked (denials.h), on the heap, or NULL. */
char *room_denied(struct room *room);
/* Kills everything in it at once. */
void room_kill(struct room *room);
/* Kills everything in it but the init; done(arg) runs once that is so, or the room has ended. */
int room_clear(struct room *room, void (*done)(void *arg), void *arg, struct err *err);

/*
 * Replaces the mount of workspace `index` by one whose newest layer is `top`
 * (an empty directory with the mode and owner that the root of the workspace is
 * to have; it and all below must be there). The old mount is detached: processes
 * that stand in it go on seeing it, so nothing may run in the room that matters
 * (isolated_quiesce()). last: what they see is read-only from then on, and where
 * one has a file open for writing already nothing is replaced (-EBUSY). done(arg, 0 or -errno with *err) runs
 * on the loop, later. Also the way to make changes of lower or of layers visible that were made from outside.
 */
typedef void room_done_fn(void *arg, int r, const struct err *err);
int room_remount(struct room *room, size_t index, unsigned top, bool last, room_done_fn *done, void *arg,
		 struct err *err);

/*
 * As child_spawn(), inside: path and cwd are of the room's files, ids and
 * cgroups are the room's own. It returns before there is a process: c->pid is
 * known when the init has answered; one that cannot be started ends at once, with exit code
 * 126 or 127 and what was wrong on its standard error. child_kill() and its kin work.
 */
int room_spawn(struct room *room, struct child *c, const struct spawn *spec, child_exit_fn *on_exit,
	       struct err *err);
