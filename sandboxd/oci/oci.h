/*
 * oci.h - the embedded driver: any OCI runtime program, overlayfs, no daemon.
 *
 * On disk, below the state directory:
 *   runtime/          the runtime program's own records (its --root)
 *   roots/NAME/       what sandboxes share: the skeleton of the `host` image, the agent
 *   sandboxes/ID/     one sandbox: config.json, root (link to a NAME), rootfs (a mount
 *                     point), upper.N, work.N, pid, container.log, snapshot (link to the ID it
 *                     stands on)
 *   snapshots/ID/     layers (a list of IDs, the newest first) and a directory a layer with upper.N
 */
#pragma once

#include "sandboxd/config.h"
#include "sandboxd/runtime.h"

int oci_new(const struct runtime_env *env, const struct config *config, struct runtime **ret,
	    struct err *err);
