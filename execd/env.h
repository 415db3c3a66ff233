/*
 * env.h - the environment and the shell of what execd starts.
 *
 * Three layers, later wins: execd's own environment (less its secrets), the
 * file named by EXECD_ENVS (read at each start, KEY=VALUE lines), the
 * request's `envs`.
 */
#pragma once

#include <jansson.h>

#include "lib/err.h"

/* Remembers environ and removes the agent's own secrets from it. Once, at start. */
int env_init(void);

/* A NULL-terminated envp, freed with env_free(). overrides: object of strings, or NULL. */
int env_build(const char *env_file, json_t *overrides, char ***ret_envp, struct err *err);
void env_free(char **envp);
const char *env_get(char *const *envp, const char *name);

/* Absolute path of bash, or of sh where there is no bash, looked up in envp's PATH; -ENOENT with *err. */
int env_shell(char *const *envp, char **ret_path, struct err *err);
