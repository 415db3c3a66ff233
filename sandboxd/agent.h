/*
 * agent.h - the files of the agent that go into every sandbox.
 */
#pragma once

#include "lib/err.h"

#define EXECD_INSIDE "/.execd/execd" /* where a sandbox has the agent */

/*
 * Copies the binary `execd` to DIR/execd, and the programs in the folder
 * kernels/ beside it, where there is one, to DIR/kernels/. DIR is there. Blocks.
 */
int agent_copy(const char *execd, const char *dir, struct err *err);
