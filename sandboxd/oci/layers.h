/*
 * layers.h - what a snapshot is made of: STATE/snapshots/ID/{layers,LAYER/upper.N}.
 *
 * A snapshot holds every layer above the image: its own, named as itself, and
 * those of the snapshot that its sandbox stood on. So each stands alone.
 */
#pragma once

#include "sandboxd/runtime.h"

#define SNAPSHOT_DEPTH_MAX 16 /* layers; what overlayfs takes in one line has an end */

struct layers {
	char ids[SNAPSHOT_DEPTH_MAX + 1][RUNTIME_ID_MAX]; /* the newest first */
	size_t n;
};

/* STATE/snapshots/SNAPSHOT[/LAYER]; out has PATH_MAX bytes. */
void layers_path(const char *state_dir, const char *snapshot, const char *layer, char *out);
/* -ENOENT: not complete. */
int layers_read(const char *state_dir, const char *snapshot, struct layers *ret);
/* The last step of a snapshot: on the disk when this returns. */
int layers_write(const char *state_dir, const char *snapshot, const struct layers *layers);
