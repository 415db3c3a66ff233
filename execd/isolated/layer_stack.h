/*
 * layer_stack.h - the layers of one workspace on top of each other, as room.h describes the directory.
 *
 * All of it blocks: workers.
 */
#pragma once

#include "execd/isolated/layer.h"

/*
 * The layers top..first as uppers over first-1..0 and the workspace (lower,
 * borrowed: it must outlive the view; -EBADF: none). layer_view_close() in any case.
 */
int layer_view_open(struct layer_view *v, int stack, int lower, unsigned top, unsigned first, bool userxattr,
		    struct err *err);
void layer_view_close(struct layer_view *v);

/* An empty layer with mode and owner of the one below it, or of the workspace. What is at its place is
 * removed. */
int layer_push(int stack, unsigned index, int lower, struct err *err);
/* Removes the layers first..last. */
int layer_cut(int stack, unsigned first, unsigned last, struct err *err);
/*
 * Makes one of layer index-1 and layer index, and moves those above down by one.
 * Nothing may be in use but what is mounted anew right after. A failure leaves
 * the order as it was; it may be repeated.
 */
int layer_squash(int stack, unsigned index, bool userxattr, struct err *err);

struct layer_usage {
	uint64_t bytes; /* on disk, a file with several names once */
	uint64_t entries;
};
/* Of one layer. */
int layer_usage(int stack, unsigned index, const atomic_bool *cancel, struct layer_usage *ret,
		struct err *err);

/* The time of the file system the layers are on, as it is now. */
int layer_now(int stack, struct timespec *ret);
