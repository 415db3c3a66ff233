/*
 * base_config.h - what an image says about the processes that run on it.
 *
 * Env, WorkingDir and User count; Entrypoint and Cmd do not, for every create
 * names a program (as the known server has it). An image is written by
 * strangers: each part is bounded, and what is none is left out.
 */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "lib/err.h"

#define BASE_GROUPS_MAX 64

struct base_config {
	json_t *env; /* object of strings, or NULL */
	char *cwd;   /* absolute, or NULL: "/" */
	char *home;  /* of its user, or NULL: "/" */
	uint32_t uid, gid, groups[BASE_GROUPS_MAX];
	size_t groups_n;
};

/* A copy of the parts that an OCI image configuration (JSON, n bytes) has. *ret is set on success alone. */
int base_config_read(const void *json, size_t n, int rootfs, struct base_config *ret, struct err *err);
void base_config_done(struct base_config *c);
