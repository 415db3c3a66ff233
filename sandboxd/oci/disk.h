/*
 * disk.h - the room on disk that a sandbox has, where it is limited.
 *
 * Its upper layers then lie in a file system of that size: ext4 in the sparse
 * file SANDBOX/disk.img, by a loop device, mounted at SANDBOX/disk in the mount
 * namespace of the sandbox and nowhere else. Both go with its last process;
 * SANDBOX/disk.loop is the name of the device, for who mounts it once more to
 * copy from it. Any file system below the state directory will do.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"

#define DISK_IMAGE "disk.img"
#define DISK_LOOP  "disk.loop"
#define DISK_DIR   "disk"

/* What it takes is there: loop devices and mkfs.ext4 in that PATH. */
int disk_check(const char *path, struct err *err);
/* There is room for one more sandbox below the directory: bytes and files. -ENOSPC: too little. */
int disk_room(const char *dir, uint64_t bytes_min, struct err *err);
