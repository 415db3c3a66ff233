/*
 * tree.h - kills everything that a process of ours has started.
 *
 * A process group is not the whole story: a descendant may have called
 * setsid(), and one whose parent has ended is a child of execd. They are found
 * through /proc by ancestry, session and a mark in their environment. Without
 * /proc only the group is killed.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "lib/util.h"

/* The environment variable that marks what belongs to one execution; its value is unique. */
#define TREE_MARK "EXECD_COMMAND_ID"

/*
 * Freezes, then kills (SIGKILL) the group of leader and all its descendants.
 * mark: the value of TREE_MARK they were started with, or NULL. leader_lives:
 * false once leader has been reaped; its number may then belong to a stranger
 * and only marked processes are killed. Returns how many were signalled.
 */
size_t tree_kill(pid_t leader, bool leader_lives, const char *mark);

/*
 * Sends signo again to those members of a process group, its leader apart, that
 * it should have ended and that are still there: a signal that arrives between
 * fork and exec is taken by a handler that is about to vanish. What ignores or
 * handles it is left alone. Returns how many there were.
 */
size_t tree_insist(pid_t group, int signo);
