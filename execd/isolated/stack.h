/*
 * stack.h - where the layers of overlays lie on disk.
 *
 * Under one directory (--isolation-upper-root) every agent has one of its own,
 * locked as long as it lives; what an agent left behind that was killed is
 * removed by the next. In that each room has one, and in that each overlay:
 *
 *   <root>/rooms.XXXXXX/<room>/<workspace>/0   the first layer
 */
#pragma once

#include "execd/isolated/room.h"

#define STACK_ROOT_DEFAULT "/var/lib/execd/isolation"

struct stack_root;

/* Once; *ret stays when it is there. Without a place on disk that overlayfs takes it is there all the same.
 */
int stack_root_open(struct execd *execd, struct stack_root **ret, struct err *err);
/* Removes everything in it. NULL is fine. */
void stack_root_close(struct stack_root *root);
/* What rooms must not see. */
const char *stack_root_path(const struct stack_root *root);
/* NULL, or why nothing can be kept on disk. */
const char *stack_root_problem(const struct stack_root *root);

struct stacks {
	struct stack_root *root;
	char *dir;		      /* of the room; NULL: none on disk */
	char *paths[ROOM_MOUNTS_MAX]; /* by workspace; NULL: not on disk */
};

/* For the overlays with persist among mounts; sets persist to what has become of it. */
int stacks_make(struct stacks *s, struct stack_root *root, const char *id, struct room_mount *mounts,
		size_t n, struct err *err);
/* Removes them, later. */
void stacks_done(struct stacks *s);
