/*
 * wire.h - what the agent says to the nursery and to a room's init, and what they answer.
 *
 * Both speak in messages (SOCK_SEQPACKET): one struct below, then what it
 * announces, descriptors beside it. Both ends are of one binary, so numbers
 * are as the machine has them. The agent trusts no length in an answer.
 */
#pragma once

#include <stdint.h>
#include <sys/resource.h>

#define WIRE_FD	 3	       /* the nursery's end */
#define WIRE_MAX (128U * 1024) /* bytes of one message; what is longer goes through a memfd */

/* ---- agent to nursery ---------------------------------------------------- */

enum wire_op { WIRE_ROOM, WIRE_REMOUNT, WIRE_CLERK, WIRE_FORK };

enum wire_userns {
	WIRE_USERNS_NONE,
	WIRE_USERNS_ONE,   /* the room's uid and gid are the agent's own outside */
	WIRE_USERNS_WHOLE, /* every id of the agent's namespace is itself */
};

/*
 * A room: steps, confinement and text follow; the socket of its init is beside it,
 * and one that takes the confinement's listener home, when there is to be one. A
 * remount: one step and its text; both namespaces of the room and its cellar are beside it. A clerk:
 * text; both namespaces and its own socket are beside it, and no answer follows.
 */
struct wire_plan {
	uint32_t op;
	uint32_t namespaces; /* CLONE_NEW* */
	uint32_t userns;
	uint32_t uid, gid;
	uint32_t groups_n;
	uint32_t groups[32];
	uint32_t steps_n;
	uint32_t confine_n; /* bytes of a confinement (seccomp/apply.h) */
	uint32_t text_n;
	uint32_t cwd, hostname; /* in text */
	uint32_t flags;
	uint64_t tag; /* what the answer is known by */
	uint32_t rlimits_n;
	struct wire_rlimit {
		uint32_t resource;
		uint64_t soft, hard;
	} rlimits[8];
};

#define WIRE_NO_USERNS (1U << 0) /* with a user namespace: none within it */
#define WIRE_LOOPBACK  (1U << 1) /* bring up lo */
#define WIRE_JOINABLE  (1U << 2) /* others will come in: all its namespaces are sent home */

/* How the view of the files comes about, in this order. Sources are of the container, places of the room. */
enum view_kind {
	VIEW_SOURCE,  /* a is kept as number n */
	VIEW_CELLAR,  /* where stacks lie, out of sight */
	VIEW_STACK,   /* n: of which workspace; a: the source below, b: the source of the stack, or none: a
			 tmpfs of size */
	VIEW_SEAL,    /* all that the container has becomes read-only, without devices and setuid */
	VIEW_TMPFS,   /* a; b: options */
	VIEW_DEV,     /* /dev of the room's own */
	VIEW_PROC,    /* the room's own */
	VIEW_MASK,    /* a is empty; nothing happens when it is not there */
	VIEW_PLACE,   /* source n at a */
	VIEW_OVERLAY, /* the stack of workspace n at a; size: its top */
};

#define VIEW_READONLY  (1U << 0)
#define VIEW_OPTIONAL  (1U << 1) /* that the source, or the place of a tmpfs, is not there is fine */
#define VIEW_USERXATTR (1U << 2)
#define VIEW_ALONE     (1U << 3) /* without what is mounted below the source */
#define VIEW_LAST                                                                                            \
	(1U << 4) /* a remount: nobody may write through the mount before it, not from now on either */
#define VIEW_NO_SOURCE UINT32_MAX

#define VIEW_SOURCES_MAX 64

struct view_step {
	uint32_t kind, flags, n;
	uint32_t a, b; /* in text; 0: none */
	uint64_t size;
};

/* ---- nursery to agent ----------------------------------------------------- */

struct wire_answer {
	uint64_t tag;
	int32_t pid;	/* WIRE_ROOM: of the init, or -errno; WIRE_REMOUNT: 0, or -errno */
	uint32_t stage; /* what failed: enum wire_stage */
};

enum wire_stage {
	WIRE_STAGE_NONE,
	WIRE_STAGE_CLONE,
	WIRE_STAGE_MAP,
	WIRE_STAGE_ENTER,
	WIRE_STAGE_VIEW, /* step is which */
	WIRE_STAGE_NETWORK,
	WIRE_STAGE_NAME,
	WIRE_STAGE_LIMITS,
	WIRE_STAGE_IDS,
	WIRE_STAGE_CAPABILITIES,
	WIRE_STAGE_CONFINE,
};

/* ---- agent to the warm Python ---------------------------------------------- */

/*
 * A process in a room, forked (kernels/python/zygote.py reads this). After it: a struct wire_plan with its
 * confinement, plan_n bytes; then text as below. Beside it: a socket for its struct wire_answer (its pid), to
 * which a byte is the answer that lets it go on; with `listener` a socket that takes the confinement's
 * listener home; the namespaces in the order in which they are to be entered; its descriptors. kept: another
 * process has its memory until the room ends, so that its own end is quick.
 */
struct wire_fork {
	uint32_t namespaces_n, fds_n, listener, kept;
	uint32_t plan_n, argc, envc, text_n;
	int32_t fds[16];
};

/* ---- agent to init --------------------------------------------------------- */

/*
 * A process: its descriptors are beside it (and, with `outside`, before them a memfd
 * with the text). text: path, cwd, arguments, variables, each with its NUL.
 */
struct wire_spawn {
	uint64_t tag;
	uint32_t argc, envc;
	uint32_t fds_n;
	int32_t fds[16]; /* the numbers they get */
	uint32_t text_n;
	uint8_t outside, new_session;
	uint8_t clear; /* nothing is started: everything is killed, and WIRE_CLEARED follows */
};

/* ---- init to agent --------------------------------------------------------- */

enum wire_event_kind {
	/*
	 * Its mount and user namespaces are beside it, the cellar when there is one, and so many
	 * (`step`) others by which a process comes in (WIRE_JOINABLE).
	 */
	WIRE_READY,
	WIRE_FAILED,
	WIRE_STARTED, /* a pidfd is beside it */
	WIRE_EXITED,
	WIRE_CLEARED,
};

#define WIRE_PROC_RDONLY (1U << 0)

struct wire_event {
	uint32_t kind;
	uint32_t stage, step;
	int32_t errnum;
	uint64_t tag;
	int32_t wstatus;
	uint32_t flags; /* WIRE_READY: WIRE_PROC_RDONLY */
	struct rusage usage;
};
