/*
 * warden.h - the other side of the wall: the nursery and the init of a room.
 *
 * None of this runs in the agent. The agent starts itself anew (nursery_main)
 * with an empty memory, and that process clones one init after the other out of
 * itself. Everything here may block and allocate; nothing of it trusts a room.
 */
#pragma once

#include <stddef.h>

#include "execd/isolated/message.h"
#include "execd/isolated/wire.h"
#include "seccomp/apply.h"

#define NURSERY_NAME "execd-nursery" /* argv[0] by which main() knows */

/* A message as it was received, cut into its parts. */
struct plan {
	const struct wire_plan *head;
	const struct view_step *steps;
	const struct confine_plan *confine;
	const char *text;
};

/*
 * Serves requests at WIRE_FD until the agent has gone. clerk: what a room's clerk does once it is
 * in there, with the socket of its own; what it returns is its exit code.
 */
typedef int clerk_fn(int socket);
int nursery_main(clerk_fn *clerk);

/*
 * view.c: in the room's own mount namespace, with privileges over it. -errno,
 * and the step. *ret_cellar: a descriptor, or -EBADF when there are no stacks.
 */
int view_build(const struct plan *plan, int *ret_cellar, uint32_t *ret_step);
/* One VIEW_OVERLAY step, in a room that has been entered; what was mounted there is detached. */
int view_remount(int cellar, const struct view_step *step, const char *text);

/* become.c: the room's rlimits, while the privileges for it are there: the user that we become may not have
 * them. */
int warden_limit(const struct wire_plan *head);
/* become.c: the room's ids, and no privilege at all. -errno, and what did not work. */
int warden_become(const struct wire_plan *head, enum wire_stage *ret_stage);
/* warden.c: the life of an init from its clone on. Never returns. */
/* listener: where the confinement's listener goes, or -1. */
_Noreturn void warden_main(const struct plan *plan, int socket, int listener);
