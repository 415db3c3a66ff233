/*
 * program.h - runs the OCI runtime, and other programs, on behalf of a box.
 */
#pragma once

#include "sandboxd/oci/box.h"

#define PROGRAM_ARGS_MAX (64 + 2 * VOLUMES_MAX)

struct program_args {
	const char *v[PROGRAM_ARGS_MAX]; /* borrowed */
	size_t n;
};

void program_arg(struct program_args *a, const char *s);
/* "-- RUNTIME --root RECORDS": the first words of what the runtime is told. */
void program_runtime(const struct oci *oci, struct program_args *a, const char *records);
/*
 * Starts it as b->child. stdout and stderr go to the container's log, which
 * also says why the runtime refused. inherit: it gets the listening socket and
 * the token.
 */
int program_start(struct oci_box *b, struct program_args *a, bool inherit, child_exit_fn *on_exit,
		  struct err *err);

/* A path, or a bare name looked up in PATH; -ENOENT. */
int program_find(const struct oci *oci, const char *name, char out[PATH_MAX]);
