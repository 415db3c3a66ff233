/*
 * handle.h - names a process so that it is found again after a restart, and no
 * other that has got its number since.
 */
#pragma once

#include <sys/types.h>

#include "sandboxd/runtime.h"

/* of a process that runs */
void handle_write(pid_t pid, char out[RUNTIME_HANDLE_MAX]);
/* A pidfd; -ESRCH when it has ended. */
int handle_open(const char *handle, pid_t *ret_pid);
