/*
 * ports.h - which TCP ports are listened on, and by whom.
 *
 * Sockets come from the kernel's sock_diag dump of listeners (netlink, about 20
 * microseconds), or from /proc/net/tcp and tcp6 where that is not to be had;
 * processes from /proc/PID/fd, which shows only what the agent may see.
 *
 * Watching: the kernel tells nobody of listen(2), neither by netlink nor by
 * inotify; only tracing could, which a container may not do. So this is the one
 * place of the agent that samples, and only while somebody watches: one sampler
 * for all watchers, PORTS_FAST_MS apart while ports change and for
 * PORTS_FAST_FOR_MS after, then slower up to PORTS_SLOW_MS. The end of a
 * listening socket is pushed (SKNLGRP_INET_TCP_DESTROY) where the kernel
 * permits it, and sampled like the rest where not.
 *
 * A port is an address and a number; a socket that takes over from another one
 * between two samples is the same port.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>

#include "lib/err.h"
#include "lib/loop.h"
#include "lib/pool.h"

#define PORTS_MAX	  4096 /* listening sockets that are told */
#define PORTS_FAST_MS	  50
#define PORTS_FAST_FOR_MS 10000
#define PORTS_SLOW_MS	  500
#define PORT_NAME_MAX	  64

struct port {
	sa_family_t family; /* AF_INET, AF_INET6 */
	uint16_t number;
	uid_t uid;
	uint32_t inode;
	uint64_t cookie; /* of the socket, 0: unknown */
	pid_t pid;	 /* the lowest that has it open, 0: not seen */
	char address[INET6_ADDRSTRLEN];
	char process[PORT_NAME_MAX]; /* its name, or "" */
};

struct port_list {
	struct port *v; /* by number, family, address; several sockets of one port are one entry */
	size_t n;
	bool diag; /* from sock_diag */
};

/* Worker. known: processes are looked for only where it has none for the socket; may be NULL. */
int ports_read(struct port_list *ret, const struct port_list *known, struct err *err);
void port_list_done(struct port_list *l);
/* By number, family and address. */
int port_compare(const struct port *a, const struct port *b);

struct port_watch {
	struct list link;
	/* old NULL: the first sample. Loop. Watchers may be removed in it. */
	void (*changed)(struct port_watch *w, const struct port_list *old, const struct port_list *now);
	/* The first sample has failed; no more follows. */
	void (*failed)(struct port_watch *w, const struct err *err);
	bool begun;
};

int port_watch_add(struct loop *loop, struct pool *pool, struct port_watch *w, struct err *err);
void port_watch_del(struct port_watch *w);
