/*
 * flags.h - the command line and the environment, into the settings.
 */
#pragma once

#include "sandboxd/config.h"

/*
 * 0: run with *c. 1: help or version was printed, exit with 0. -errno: *err says what is wrong.
 * c is initialised by the caller.
 */
int flags_parse(int argc, char **argv, struct config *c, struct err *err);
