/*
 * enter_step.h - the steps of oci-enter that have files of their own. One thread, a short life:
 * what they open ends with the process.
 *
 * Each returns 0, or an exit code after it has said on stderr what is wrong.
 */
#pragma once

#include <stdbool.h>

#define ENTER_FAILED 70 /* exit code */

/* "oci-enter: WHAT 'OBJECT': the error"; returns the exit code. object: or NULL. */
int enter_complain(const char *what, const char *object, int errnum);

/* "SOURCE=TARGET". Before the mount namespace is ours: SOURCE is a descriptor of our parent, by its path in
 * /proc, and what it is open on belongs to the namespace we come from. */
int enter_volume_open(const char *arg, bool readonly);
/* After the root is mounted: mounts what was opened, in that order, below ./rootfs. */
int enter_volumes_mount(void);

/* The disk of a sandbox, of that many bytes (disk.h); or the one it has, once more, for who copies from it.
 * After the mount namespace is ours, before the layers. */
int enter_disk_make(const char *size);
int enter_disk_again(void);
/* Where the upper layers lie in the bundle: "disk/", or "". */
const char *enter_disk_prefix(void);

/* A network namespace with an interface on the bridge, as that file (bridge.json) says. In the bundle; in the
 * mount namespace we come from. From then on we are in it. */
int enter_network_add(const char *file);
/* Undoes it as far as it can be; what fails is said. */
void enter_network_del(const char *file);
/* The sandbox is in the network of the host. */
void enter_network_share(void);
/* After the root is mounted: its hosts and resolv.conf, where it has a network. */
int enter_network_names(void);
