/*
 * claim.h - what a spare agent is told when it is taken into use.
 *
 * With --claim-fd the agent is started before anybody wants it: it binds its
 * socket and waits, before it looks at its environment or anything else of it
 * exists, for one line on that descriptor, a JSON object:
 *
 *   {"entrypoint": ["tail", "-f", "/dev/null"], "env": {"KEY": "value"}, "accessToken": "..."}
 *
 * and goes on as if it had been started so. The newline is what makes it said:
 * what ends without one was broken off, and is nobody's claim. Clients that
 * connect meanwhile wait in the socket's queue. accessToken and env are optional.
 * Nobody else has the descriptor, and it is closed before anything runs: no code
 * inside can claim.
 */
#pragma once

#include "lib/err.h"

#define CLAIM_MAX (8u << 20)

struct claim {
	char **entrypoint; /* NULL-terminated */
	char *token;	   /* or NULL */
};

/*
 * Waits; the variables are put into our own environment. 1: claimed. 0: whoever could have claimed us has
 * gone. The descriptor is closed.
 */
int claim_wait(int fd, struct claim *ret, struct err *err);
void claim_done(struct claim *c);
