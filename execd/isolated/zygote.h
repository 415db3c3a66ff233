/*
 * zygote.h - a warm Python, from which calls in rooms are forked instead of being started.
 *
 * It is started with the first of them and serves every room: a process of the agent's, outside of all rooms,
 * that runs nothing of anybody's (kernels/python/zygote.py). What it forks enters the room's namespaces and
 * becomes what the room is before it runs anything. Where it cannot be had, or says no, the room's init
 * starts the same program: whoever asks sees no difference but the time.
 */
#pragma once

#include "execd/isolated/room.h"

/* As room_spawn(), of a joinable room, for a spec whose arguments are python3 -u -c CODE. CODE is the agent's
 * own. */
int zygote_spawn(struct room *room, struct child *c, const struct spawn *spec, child_exit_fn *on_exit,
		 struct err *err);
