/*
 * launch.c - from a request's fields to a spawn.
 *
 * Owns nothing beyond a struct launch. Loop thread only.
 */
#include "execd/launch.h"

#include <string.h>
#include <sys/stat.h>

#include "execd/account.h"
#include "execd/env.h"
#include "execd/tree.h"

void launch_done(struct launch *l)
{
	env_free(l->envp);
	free(l->mark);
	free(l->cwd);
	free(l->program);
	free(l->argv);
	free(l->groups);
	accounts_free(l->accounts);
}

int launch_cwd(const char *given, char *const *envp, const struct room *room, char **ret, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;
	if (!given || !*given)
		return 0;
	int r = env_expand_path(given, envp, &path, err);
	if (r < 0)
		return r;
	if (room) {
		*ret = TAKE_PTR(path);
		return 0;
	}
	if (stat(path, &st) < 0) {
		if (errno == ENOENT)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", errno,
				       "cwd: directory '%s' does not exist", given);
		return err_sys_given(err, errno, "cwd: directory '%s' cannot be used", given);
	}
	if (!S_ISDIR(st.st_mode))
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", ENOTDIR,
			       "cwd: '%s' is not a directory", given);
	*ret = TAKE_PTR(path);
	return 0;
}

static int launch_shell(struct launch *l, const char *command, struct err *err)
{
	if (strlen(command) > LAUNCH_TEXT_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "command: longer than %d bytes; write it to a file and run that",
			       LAUNCH_TEXT_MAX);
	int r = env_shell(l->envp, &l->program, err);
	if (r < 0)
		return r;
	l->argv = calloc(4, sizeof(*l->argv));
	if (!l->argv)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	l->argv[0] = strrchr(l->program, '/') + 1;
	l->argv[1] = "-c";
	l->argv[2] = command;
	l->spawn.path = l->program;
	return 0;
}

static int launch_argv(struct launch *l, json_t *argv, struct err *err)
{
	size_t n = json_array_size(argv);
	if (n == 0 || n > LAUNCH_ARGV_MAX || json_string_length(json_array_get(argv, 0)) == 0)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       n > LAUNCH_ARGV_MAX ? "argv: too many arguments"
						   : "argv: names no program to run");
	l->argv = calloc(n + 1, sizeof(*l->argv));
	if (!l->argv)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	for (size_t i = 0; i < n; i++) {
		l->argv[i] = json_string_value(json_array_get(argv, i));
		if (strlen(l->argv[i]) > LAUNCH_TEXT_MAX)
			return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
				       "argv[%zu]: longer than %d bytes", i, LAUNCH_TEXT_MAX);
	}
	l->spawn.path = l->argv[0];
	return 0;
}

/* As in the reference: a uid without an entry runs with group 0 unless gid says otherwise. */
static int launch_ids(struct launch *l, const struct command_spec *spec, struct err *err)
{
	struct spawn *s = &l->spawn;
	if (!spec->has_uid || spec->room)
		return 0;
	/* An agent that is not root may not call setgroups(), and need not for its own ids. */
	if (geteuid() != 0 && spec->uid == geteuid() && (!spec->has_gid || spec->gid == getegid()))
		return 0;
	int r = accounts_load(&l->accounts);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "read /etc/passwd and /etc/group");
	r = accounts_groups(l->accounts, spec->uid, &l->groups, &s->groups_n);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "groups of uid %u", spec->uid);
	s->set_ids = true;
	s->uid = spec->uid;
	s->groups = l->groups;
	if (accounts_primary_group(l->accounts, spec->uid, &s->gid) < 0)
		s->gid = 0;
	if (spec->has_gid)
		s->gid = spec->gid;
	return 0;
}

int launch_prepare(struct launch *l, const struct command_spec *spec, const char *env_file, struct err *err)
{
	int r = env_build_for(spec->env, env_file, spec->envs, TREE_MARK, "", &l->envp, err);
	if (r >= 0 && spec->room) /* whether it is there only the room knows */
		r = spec->cwd && !(l->cwd = strdup(spec->cwd)) ? err_sys(err, "RUNTIME_ERROR", ENOMEM, "cwd")
							       : 0;
	else if (r >= 0)
		r = launch_cwd(spec->cwd, l->envp, spec->undoable ? NULL : spec->room, &l->cwd, err);
	l->spawn.cwd = l->cwd;
	if (r >= 0)
		r = spec->argv ? launch_argv(l, spec->argv, err) : launch_shell(l, spec->command, err);
	if (r >= 0)
		r = launch_ids(l, spec, err);
	l->spawn.argv = (char *const *)l->argv;
	l->spawn.envp = l->envp;
	l->spawn.new_session = true;
	return r;
}

int launch_mark(struct launch *l, const char *id, struct err *err)
{
	if (asprintf(&l->mark, "%s=%s", TREE_MARK, id) < 0) {
		l->mark = NULL;
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	}
	for (char **e = l->envp; *e; e++)
		if (strncmp(*e, l->mark, sizeof(TREE_MARK)) == 0)
			*e = l->mark;
	return 0;
}
