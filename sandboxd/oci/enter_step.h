/*
 * enter_step.h - the steps of oci-enter that have files of their own. One thread, a short life:
 * what they open ends with the process.
 *
 * Each returns 0, or an exit code after it has said on stderr what is wrong.
 */
#pragma once

#include <stdbool.h>

/* "oci-enter: WHAT 'OBJECT': the error"; returns the exit code. object: or NULL. */
int enter_complain(const char *what, const char *object, int errnum);

/* "SOURCE=TARGET". Before the mount namespace is ours: SOURCE is a descriptor of our parent, by its path in
 * /proc, and what it is open on belongs to the namespace we come from. */
int enter_volume_open(const char *arg, bool readonly);
/* After the root is mounted: mounts what was opened, in that order, below ./rootfs. */
int enter_volumes_mount(void);
