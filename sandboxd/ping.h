/*
 * ping.h - asks an execd once whether it is up, and waits for the answer.
 *
 * The connection waits in the listener's queue until execd accepts it, so the
 * answer comes at the moment the agent serves: no second try, no timer.
 */
#pragma once

#include <stdbool.h>

#include "lib/loop.h"

struct ping;
/* 0: it answered (200, or 401 where it has a token). -errno otherwise. May start another ping. */
typedef void ping_fn(struct ping *p, int result);

struct ping {
	struct loop_io io;
	ping_fn *fn;
	int fd; /* -EBADF when idle */
	char answer[64];
	size_t len;
	bool sent;
};

#define PING_INIT ((struct ping){.fd = -EBADF, .io.fd = -EBADF})

/* To 127.0.0.1:port. p stays put until fn or ping_cancel(). */
int ping_start(struct loop *loop, struct ping *p, uint16_t port, ping_fn *fn);
void ping_cancel(struct ping *p);
