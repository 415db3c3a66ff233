/*
 * native.c - what a warm Python cannot do by itself: enter a room, and confine the process that it has
 * forked.
 *
 * A library that the zygotes load by its descriptor. The work is the agent's own code, built in here a second
 * time (execd/isolated/become.c, seccomp/apply.c). Everything returns 0 or -errno. Linked with nothing: the C
 * library is the one that Python has already, be it glibc or musl.
 */
#include <errno.h>
#include <sched.h>
#include <sys/prctl.h>

#include "execd/isolated/warden.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int execd_enter(const int *namespaces, unsigned n);
EXPORT int execd_become(const struct wire_plan *head, int socket, int *ret_listener);
EXPORT int execd_confine(const struct confine_plan *plan, int socket, int *ret_listener);

/* A PID namespace takes effect with the next fork. */
int execd_enter(const int *namespaces, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (setns(namespaces[i], 0) < 0)
			return -errno;
	return 0;
}

/* socket, *ret_listener: see apply.h. */
int execd_confine(const struct confine_plan *plan, int socket, int *ret_listener)
{
	struct confine_fault fault;
	int r = confine_apply(plan, socket, CONFINE_BEFORE_IDS, &fault);
	if (r >= 0)
		r = confine_apply(plan, socket, CONFINE_BEFORE_EXEC, &fault);
	*ret_listener = fault.listener;
	return r;
}

/* head: the confinement follows. As the init of a room does it before it starts anything. */
int execd_become(const struct wire_plan *head, int socket, int *ret_listener)
{
	const struct confine_plan *plan = (const void *)(head + 1);
	struct confine_fault fault = {.listener = -1};
	enum wire_stage stage;
	int r = warden_limit(head);
	if (r >= 0 && head->confine_n)
		r = confine_apply(plan, socket, CONFINE_BEFORE_IDS, &fault);
	if (r >= 0)
		r = warden_become(head, &stage);
	/* What runs here is the room's own, and there is nothing of anybody else's in its memory. */
	if (r >= 0 && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0)
		r = -errno;
	if (r >= 0 && head->confine_n)
		r = confine_apply(plan, socket, CONFINE_BEFORE_EXEC, &fault);
	*ret_listener = fault.listener;
	return r;
}
