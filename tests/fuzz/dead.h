/*
 * dead.h - processes that have ended and are collected by nobody: each has a number and a pidfd, can be
 * signalled, and does nothing. They stand for what a target is told has been started, at no cost.
 */
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

#define DEAD_N 64

/* Children of a child of ours that never looks after them, until we end. */
static inline void dead_new(pid_t pids[DEAD_N])
{
	int ends[2];
	pid_t mother;

	must(pipe(ends) == 0 && (mother = fork()) >= 0);
	if (mother == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (size_t i = 0; i < DEAD_N; i++) {
			pid_t pid = fork();

			if (pid == 0)
				_exit(0);
			if (pid < 0 || write(ends[1], &pid, sizeof(pid)) != sizeof(pid))
				_exit(1);
		}
		(void)close(ends[0]);
		(void)close(ends[1]);
		for (;;)
			(void)pause();
	}
	for (size_t i = 0; i < DEAD_N; i++)
		must(read(ends[0], &pids[i], sizeof(pids[i])) == sizeof(pids[i]));
	(void)close(ends[0]);
	(void)close(ends[1]);
}
