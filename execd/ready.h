/*
 * ready.h - the sign that cells can run.
 *
 * The official code interpreter clients ask for it from inside the sandbox: they
 * run a command that connects to 127.0.0.1:${JUPYTER_PORT:-44771} and go on once
 * somebody accepts (the reference has Jupyter there). Nothing is served: who
 * connects is accepted and let go.
 */
#pragma once

#include "lib/loop.h"

struct ready;

/* -EADDRINUSE: somebody else gives the sign. loop must outlive it. */
int ready_new(struct loop *loop, struct ready **ret);
/* Takes NULL. */
void ready_free(struct ready *r);
