/*
 * clerk.h - whoever serves the files of a room over HTTP, with the handlers that serve the container's.
 *
 * A clerk is a process from the nursery, with the room's files, ids and lack of
 * privileges, but outside of its PID namespace: it can do to files what the room can do,
 * through the same mounts, and nobody in the room sees it, let alone stops it.
 * Links and ".." are resolved by the kernel where they stand, so there is
 * nothing to escape to. It is started for the first request; after some
 * time without a new one it ends when the last is done, with its room at once.
 */
#pragma once

#include "execd/isolated/room.h"

#define CLERK_IDLE_MS 30000 /* without a request */

/* *ret_fd: a connection to the room's clerk, which is started when there is none; non-blocking, the caller's.
 */
int room_clerk_connect(struct room *room, int *ret_fd, struct err *err);
