/*
 * options.h - flags and environment variables of execd.
 *
 * Flag names and variables of the reference are accepted, with one dash or two,
 * `--flag value` and `--flag=value`. A flag wins over its variable.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"
#include "lib/log.h"

#define EXECD_VERSION "0.1.0"
#define EXECD_PORT    44772

#define KERNEL_SPARES_MAX 16

#define TOKEN_FILE_MAX 4096 /* bytes of an access token file */

struct options {
	const char *host;
	uint16_t port;
	int listen_fd; /* inherited listening socket, or -1 */
	int claim_fd;  /* where to wait until we are wanted (claim.h), or -1 */

	char *token; /* heap, or NULL */
	const char *env_file;

	enum log_level log_level;
	const char *log_file;

	const char *isolation_root; /* see execd.h */

	uint64_t grace_ms;	 /* for commands to end when the agent is told to stop */
	unsigned kernel_spares;	 /* see execd.h */
	uint64_t kernel_idle_ms; /* see execd.h */
	const char *confinement; /* defaults (confinement.h), or NULL */
	const char *profiles;	 /* name=file,..., or NULL */
	bool init, announce;
	char **entrypoint; /* NULL-terminated, points into argv; NULL: none */

	const char *ignored[8]; /* flags of the reference without a meaning here */
	size_t ignored_n;
};

enum options_next { OPTIONS_RUN, OPTIONS_DONE };

/*
 * Reads argv and the environment. OPTIONS_DONE: --help or --version has been
 * answered on stdout. -EINVAL (or another -errno) with a message for stderr in
 * *err. Secrets in argv are overwritten before it returns.
 */
int options_parse(int argc, char **argv, struct options *ret, struct err *err);
void options_done(struct options *o);
