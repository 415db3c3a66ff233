/*
 * logs.h - keeps what containers say within bounds.
 *
 * Whatever runs in a container writes into its container.log by itself, so that
 * nothing breaks while we are away. When the file is over
 * sandboxd.container_log_max_kb, its beginning is given back to the file system
 * (a hole): the last of it stays, and diagnostics say that there was more.
 */
#pragma once

#include "lib/loop.h"

struct oci;
struct oci_box;

struct logs {
	struct oci *oci;
	struct loop_io io; /* inotify; without it nothing is watched, which is said once */
};

void logs_init(struct logs *all, struct oci *oci);
void logs_done(struct logs *all);
/* From now on, and as it is now. */
void logs_watch(struct logs *all, struct oci_box *b);
void logs_unwatch(struct logs *all, struct oci_box *b);
