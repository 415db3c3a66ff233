/*
 * network.h - which network a sandbox of the embedded driver has.
 *
 *   none    its own loopback and nothing else
 *   bridge  an interface on a bridge of this sandboxd, with an address of its own and a way out
 *           through the host; neither the host's services nor other sandboxes are reached by it
 *   host    the network of the host
 *
 * The agent is reached in the same way in all of them: through the socket that
 * it is handed. With bridge, CNI plugins (cni.dev, specification 1.0.0) make and
 * remove the interface, called by oci-enter; this file makes what all share. On
 * disk, below the state directory:
 *   cni/bridge.json           what oci-enter needs to know
 *   cni/leases/BRIDGE/        addresses in use, kept by the plugin host-local
 *   sandboxes/ID/network      the mode
 *   sandboxes/ID/network.json what the plugin said; there from before it is asked, until it has undone it
 */
#pragma once

#include <limits.h>

#include "lib/buf.h"
#include "sandboxd/config.h"

struct network {
	enum network_mode mode; /* after network_probe() never NETWORK_AUTO */
	char file[PATH_MAX];	/* bridge.json */
	const struct config *config;
	char *const *envp; /* of programs */
};

/* Enough for what is there to be removed. -ENAMETOOLONG. */
int network_init(struct network *n, const struct config *config, char *const *envp);
/* Makes the bridge and its rules, where that is wanted; chooses, where the choice is ours. Blocks. */
int network_probe(struct network *n, struct err *err);
/* Nothing uses it any more: removes the bridge and its rules. Blocks. */
void network_done(const struct network *n);

/* A sandbox in this directory has something that is to be undone by oci-enter. Any thread. */
bool network_pending(const char *dir);
/* What there is to say of the sandbox's network, as text; -ENOENT: nothing. */
int network_describe(const char *dir, struct buf *out);
