/*
 * docker.h - the driver whose containers a Docker daemon makes.
 *
 * The daemon is the one that DOCKER_HOST names, and it must see the state
 * directory under the same path: the agent is mounted from there. It may be
 * away: what is begun meanwhile is refused and says so, what runs is found
 * again when it is back.
 */
#pragma once

#include "sandboxd/config.h"
#include "sandboxd/runtime.h"

/* What [docker] and [secure_runtime] may say. */
int docker_check(const struct config *config, struct err *err);
int docker_new(const struct runtime_env *env, const struct config *config, struct runtime **ret,
	       struct err *err);
