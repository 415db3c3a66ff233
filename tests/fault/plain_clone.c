/*
 * plain_clone.c - a clone(2) that knows nothing but to fork, for valgrind, which knows no more.
 *
 * Loaded into the agent (LD_PRELOAD). What it refuses with EINVAL a kernel without those flags would refuse
 * as well.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#define FLAGS_KNOWN 0xff /* the signal at the end */

int clone(int (*fn)(void *arg), void *stack, int flags, void *arg, ...)
{
	(void)stack;
	if (flags & ~FLAGS_KNOWN) {
		errno = EINVAL;
		return -1;
	}
	pid_t pid = fork();
	if (pid == 0)
		_exit(fn(arg));
	return pid;
}
