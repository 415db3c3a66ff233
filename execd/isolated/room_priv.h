/*
 * room_priv.h - what a room is made of, for the files that make it.
 */
#pragma once

#include "execd/isolated/message.h"
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
	int mounts_ns, users_ns, cellar_fd; /* until it has ended; the first until it is killed */
	bool joinable;
	int joins[5]; /* the other namespaces of a joinable one, until it has ended */
	size_t joins_n;
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
	struct zygote *zygote; /* NULL: none so far */
};

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
/* What there is to start: but for the tag all of *head, which is empty, and text. */
int hosted_pack(const struct spawn *spec, struct wire_spawn *head, struct buf *text);
/* Has the init start it; fds: head->fds_n. Without waiting. */
int hosted_send(struct room *room, struct wire_spawn *head, const struct buf *text, const int *fds);
void hosted_add(struct room *room, struct child *c, uint64_t tag, child_exit_fn *on_exit);
/* The room is its host no more. Which signal it was to get when it starts, or 0. */
int hosted_take(struct child *c);

/* ---- zygote.c: processes that are forked into a room ---------------------------------- */

/* Those that wait for the room can be sent for. */
void zygote_room_ready(struct room *room);
/* Nothing is to come any more. */
void zygote_room_ended(struct room *room);
void zygote_free(struct zygote *z);

/* ---- room.c --------------------------------------------------------------------------- */

/* Its init has been cloned (pid), or has not (-errno). */
void room_born(struct room *room, int pid);
/* The nursery is gone, and knew of it: false when it is not worth another try. */
bool room_send_again(struct room *room);

/* ---- clerk.c --------------------------------------------------------------------------- */

void clerk_done(struct clerk *c);
