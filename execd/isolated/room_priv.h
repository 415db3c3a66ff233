/*
 * room_priv.h - what a room is made of, for the files that make it.
 */
#pragma once

#include <sys/uio.h>

#include "execd/isolated/plan.h"
#include "execd/isolated/room.h"
#include "execd/isolated/stack.h"
#include "execd/isolated/wire.h"
#include "seccomp/confine.h"

#define ROOM_ID_LEN 12

enum room_state { ROOM_STARTING, ROOM_READY, ROOM_ENDED };

struct clerk {
	int socket; /* -EBADF: there is none */
	struct loop_timer idle;
};

struct room {
	struct list link; /* all rooms */
	struct rooms *rooms;
	unsigned refs;
	char id[ROOM_ID_LEN + 1];
	enum room_state state;
	bool proc_readonly;
	bool born, killed, lost, again, stillborn, held; /* held: the loop's own reference */
	uint64_t tag;
	int socket;
	struct loop_io io;
	struct child init;
	struct list children; /* struct child, by link */
	struct room_mount mounts[ROOM_MOUNTS_MAX];
	size_t mounts_n;
	struct stacks stacks;
	int mounts_ns, users_ns, cellar_fd; /* until it has ended */
	struct room_ids_in_force ids;
	struct clerk clerk;
	struct confine *confine;       /* NULL: none */
	struct confine_start listener; /* until it is ready */
	struct denials *denials;       /* NULL: nothing is told */
	struct limits_hold *limits;
	struct buf plan; /* until it is ready, for words */
	uint64_t clear_tag;
	void (*cleared)(void *arg); /* asked for and not yet told */
	void *clear_arg;
	struct room_events events;
	void *arg;
	struct err err; /* why it came to nothing, once known */
	bool failed;
};

struct rooms {
	unsigned refs; /* the agent's, and one of each room */
	struct execd *execd;
	struct list all, orders;
	bool closing;
	struct child nursery;
	int socket; /* to it; -EBADF: there is none */
	struct loop_io io;
	uint64_t tags;
	struct stack_root *root;
};

/* ---- message.c: both without waiting ---------------------------------------- */

int message_send(int socket, struct iovec *iov, size_t iov_n, const int *fds, size_t fds_n);
/* Bytes of the message, 0 at the end, -EAGAIN. fds: WIRE_FDS_MAX; what is more is closed by the kernel. */
ssize_t message_receive(int socket, void *data, size_t size, int *fds, size_t *ret_fds_n);

/* ---- nursery_link.c ------------------------------------------------------------ */

/* The nursery is started with the first message, and anew when it has died. */
int nursery_tell(struct rooms *rooms, const struct buf *message, const int *fds, size_t fds_n,
		 struct err *err);
void nursery_lost(struct rooms *rooms);

/* ---- hosted.c: processes in a room ------------------------------------------------ */

struct child *hosted_find(struct room *room, uint64_t tag);
/* pidfd is consumed. */
void hosted_started(struct room *room, uint64_t tag, int pidfd);
void hosted_ended(struct child *c, int wstatus, const struct rusage *usage);

/* ---- room.c --------------------------------------------------------------------------- */

/* Its init has been cloned (pid), or has not (-errno). */
void room_born(struct room *room, int pid);
/* The nursery is gone, and knew of it: false when it is not worth another try. */
bool room_send_again(struct room *room);

/* ---- clerk.c --------------------------------------------------------------------------- */

void clerk_done(struct clerk *c);
