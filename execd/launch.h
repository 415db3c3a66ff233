/*
 * launch.h - what a command is started with: program, arguments, environment, directory, ids.
 *
 * Everything that a request can get wrong is found here, before there is a run.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "execd/limits.h"
#include "lib/spawn.h"

#define LAUNCH_TEXT_MAX (128 * 1024 - 1) /* one argument: MAX_ARG_STRLEN of Linux */
#define LAUNCH_ARGV_MAX 65536

struct env_filter;
struct room;
struct undoable;

struct command_spec {
	const char *command; /* for the shell; or */
	json_t *argv;	     /* an array of strings for exec; exactly one of both */
	const char *cwd;     /* as the client wrote it, or NULL */
	json_t *envs;	     /* object of strings, or NULL */
	json_t *confinement; /* as given (confinement.h), or NULL */
	bool background;
	bool stdin_pipe;      /* for command_feed(); else /dev/null */
	struct limits limits; /* wall time among them */
	bool has_uid, has_gid;
	uid_t uid;
	gid_t gid;
	struct room *room;	      /* where it runs, with the room's ids; NULL: in the container */
	bool warm_python;	      /* in a joinable room: argv may be forked (isolated/zygote.h) */
	const struct spawn_fd *extra; /* more descriptors, borrowed */
	size_t extra_n;
	struct undoable *undoable;    /* that is its room (undoable.h); NULL: what it does stays */
	const struct env_filter *env; /* what it sees of the agent's environment; NULL: all */
};

struct accounts;

/* Zeroed at first; spawn borrows from the rest and from the command_spec. */
struct launch {
	struct spawn spawn;
	char **envp;
	char *mark; /* TREE_MARK=id, in its place in envp */
	char *cwd, *program;
	const char **argv;
	struct accounts *accounts;
	gid_t *groups;
};

/* Fills all of spawn but its descriptors. launch_done() in any case. */
int launch_prepare(struct launch *l, const struct command_spec *spec, const char *env_file, struct err *err);
/* The id is known once there is a run; then the environment is marked with it (tree.h). */
int launch_mark(struct launch *l, const char *id, struct err *err);
void launch_done(struct launch *l);

/*
 * A request's cwd (NULL or empty: none given, *ret stays) as a path that is a
 * directory: expanded as env_expand_path() does, -EINVAL with *err otherwise.
 * What is a directory in a room, with files of its own, is seen only when it goes there.
 */
int launch_cwd(const char *given, char *const *envp, const struct room *room, char **ret, struct err *err);
