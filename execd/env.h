/*
 * env.h - the environment and the shell of what execd starts.
 *
 * Three layers, later wins: execd's own environment (less its secrets), the
 * file named by EXECD_ENVS (read at each start, KEY=VALUE lines), the
 * request's `envs`. Loop thread only, except env_expand_path().
 *
 * The env file, as the reference and its clients write it: empty lines and
 * lines that begin with '#' are skipped; KEY='text' is taken literally and may
 * hold newlines; KEY="text" knows \\ \" \$ \n \r \t and $NAME; any other
 * value is the trimmed rest of the line with $NAME and ${NAME} replaced.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/err.h"

#define ENV_ENTRIES_MAX	 4096	   /* variables beside the agent's own */
#define ENV_FILE_MAX	 (1 << 20) /* bytes of the env file */
#define ENV_FILE_VAR	 "EXECD_ENVS"
#define ENV_FILE_DEFAULT "/opt/opensandbox/.env" /* with --init; it need not be there */
#define ENV_DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/*
 * Remembers environ less the agent's own secrets, which are also overwritten
 * where /proc/PID/environ shows them. Once, at start, after the options have
 * been read. env_file (borrowed for good, or NULL) is what children find in
 * EXECD_ENVS.
 */
int env_init(const char *env_file);

/*
 * A NULL-terminated envp, freed with env_free(). env_file: its path, or NULL;
 * one that cannot be read is logged and passed over. overrides: object of
 * strings, or NULL; a name that is empty or holds '=' is -EINVAL.
 */
int env_build(const char *env_file, json_t *overrides, char ***ret_envp, struct err *err);
/* The same with one more variable that wins over all layers. */
int env_build_with(const char *env_file, json_t *overrides, const char *name, const char *value,
		   char ***ret_envp, struct err *err);
/*
 * The same for what is to see less: of the agent's own and the env file's
 * variables only those that the filter lets through. Names are globs without
 * regard to case. NULL: all.
 */
struct env_filter {
	bool allow;   /* only those of keys, and PATH; otherwise all but those of keys */
	json_t *keys; /* array of strings, or NULL */
	bool secrets; /* what looks like a secret (AWS_*, *_TOKEN, ...) is kept back as well */
};
int env_build_for(const struct env_filter *filter, const char *env_file, json_t *overrides, const char *name,
		  const char *value, char ***ret_envp, struct err *err);
void env_free(char **envp);
const char *env_get(char *const *envp, const char *name);

/*
 * A path as clients write it: a leading "~" becomes the agent's home, $NAME and
 * ${NAME} the values in envp (NULL: the agent's own environment). A variable
 * that is not there is -EINVAL and named. *ret is malloc'd.
 */
int env_expand_path(const char *path, char *const *envp, char **ret, struct err *err);

/* Absolute path of bash, or of sh where there is no bash, looked up in envp's PATH; -ENOENT with *err. */
int env_shell(char *const *envp, char **ret_path, struct err *err);
