/*
 * plan.h - a room as the nursery is told of it: from a room_spec to one message.
 */
#pragma once

#include "execd/isolated/room.h"
#include "execd/isolated/wire.h"
#include "lib/buf.h"

/* Whom a room's processes run as. */
struct room_ids_in_force {
	enum wire_userns userns;
	uint32_t uid, gid, groups_n;
	uint32_t groups[32];
};

/* What room.c has found out and made beside the spec. */
struct room_place {
	uint64_t tag;
	const char *name;    /* of the host in it */
	const char *hidden;  /* where all rooms have their stacks, or NULL */
	char *const *stacks; /* by workspace; NULL: a tmpfs */
	enum wire_userns userns;
	uid_t uid;
	gid_t gid;
	const gid_t *groups;
	size_t groups_n;
	const struct confine_plan *confine; /* or NULL */
	const struct spawn_rlimit *rlimits;
	size_t rlimits_n;
};

/* The message into out. -errno with *err. */
int plan_room(const struct room_spec *spec, const struct room_place *place, struct buf *out, struct err *err);
/* That of a remount. */
int plan_remount(const struct room_mount *mount, size_t index, unsigned top, bool last, bool userns,
		 uint64_t tag, struct buf *out);
/* That of a clerk, which begins in cwd. */
int plan_clerk(const struct room_ids_in_force *ids, const char *cwd, uint64_t tag, struct buf *out);
/* What a process becomes that is forked into a room: no steps, no text. */
int plan_fork(const struct room_ids_in_force *ids, const struct confine_plan *confine,
	      const struct spawn_rlimit *rlimits, size_t rlimits_n, struct buf *out);
/* enum view_kind; -1: there is no such step. */
int plan_step_kind(const struct buf *plan, uint32_t i);
/* Words for step i of a plan, from its own text: "workspace '/x': mount the overlay". In out, which is
 * returned. */
const char *plan_step_text(const struct buf *plan, uint32_t i, char *out, size_t size);
