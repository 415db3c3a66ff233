/*
 * rootfs.h - the root of the pseudo image `host`, made once and shared by all its sandboxes.
 *
 * A sandbox of `host` sees the host's /usr and /opt (and /bin, /lib and so on
 * as they are there), and nothing else of it: the rest is a skeleton with a
 * generated /etc. Each part is the lower layer of an overlay, so everything is
 * writable inside and nothing reaches the host.
 *
 * A sandbox of any other image has two: the image below a layer of ours, and the agent.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"

#define DEFAULT_PATH	    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define ROOTFS_OVERLAYS_MAX 12
#define ROOTFS_LOWER_MAX    256

struct rootfs_overlay {
	char target[32];	      /* below the root, "" is the root itself */
	char lower[ROOTFS_LOWER_MAX]; /* as overlayfs takes it, relative to a sandbox's directory */
	bool readonly;		      /* has no upper layer */
};

struct rootfs {
	struct rootfs_overlay overlays[ROOTFS_OVERLAYS_MAX]; /* mounted in this order */
	size_t overlays_n;
	char path[512]; /* PATH inside */
};

/*
 * Builds STATE/roots/NAME/{root,opt,agent,image}; sandboxes live in STATE/sandboxes/ID.
 * The caller puts the agent into agent/execd; inside it is EXECD_INSIDE and
 * cannot be written. Blocks; called once at start.
 */
int rootfs_build_host(const char *state_dir, const char *name, struct rootfs *ret, struct err *err);

/* lower: the image's own directory, as overlayfs takes it. */
void rootfs_of_image(const char *name, const char *lower, struct rootfs *ret);
