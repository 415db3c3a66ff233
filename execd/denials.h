/*
 * denials.h - system calls that a confinement denies: answered, counted, told.
 *
 * The kernel stops whoever makes such a call and tells the listener of its
 * filter; the loop answers with the error of the profile and counts. A process
 * that does nothing else but make them is slowed down, not the agent: of one
 * listener so many are answered in a tick, and the rest wait.
 *
 * The owner (a command, a shell, a kernel) takes the counts when something ends,
 * and lets go when it ends itself; what its processes have left behind is still
 * answered, until the last of them is gone. Loop thread only.
 */
#pragma once

#include <stdint.h>

#include "lib/loop.h"

#define DENIALS_DISTINCT_MAX                                                                                 \
	64			 /* calls of one owner that are told apart; the others are counted together  \
				  */
#define DENIALS_RECORD_MAX  1024 /* the same of a recorded program */
#define DENIALS_TURN_MAX    16	 /* answered before others have their turn */
#define DENIALS_TICK_MS	    10
#define DENIALS_TICK_MAX    500 /* answered in a tick; a recorded program's are all */
#define DENIALS_ORPHANS_MAX 256 /* without an owner; over it the oldest is closed: ENOSYS from then on */

struct confine;
struct denials;

/* The orphans. One for the loop. */
struct denials_orphans;
int denials_orphans_new(struct denials_orphans **ret);
void denials_orphans_free(struct denials_orphans *o);

/* Takes the listener, also when it fails; refers to confine; id is what the log calls it. */
int denials_new(struct loop *loop, const struct confine *confine, int listener, const char *id,
		struct denials **ret);
/*
 * What was denied since this was last asked: [{"syscall": "ptrace", "count": 2, "errno": "EPERM"}, ...] on
 * the heap; NULL when nothing was, or without memory. d may be NULL.
 */
char *denials_take(struct denials *d);
/* The same without being taken. */
char *denials_json(const struct denials *d);
/* Of a recorded program: the profile that it needs, OCI JSON on the heap; NULL when it is not one. */
char *denials_profile(const struct denials *d);
/* The owner ends. NULL is allowed. */
void denials_let_go(struct denials *d, struct denials_orphans *o);
