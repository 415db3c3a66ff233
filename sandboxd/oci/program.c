/*
 * program.c - command lines of the OCI runtime. Loop thread; no state.
 */
#include "sandboxd/oci/program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "lib/fs.h"
#include "sandboxd/oci/bundle.h"
#include "sandboxd/oci/enter.h"

void program_arg(struct program_args *a, const char *s)
{
	if (a->n < PROGRAM_ARGS_MAX - 1)
		a->v[a->n++] = s;
}

static bool is_crun(const struct oci *oci)
{
	const char *slash = strrchr(oci->runtime_path, '/');
	return strcmp(slash ? slash + 1 : oci->runtime_path, "crun") == 0;
}

void program_runtime(const struct oci *oci, struct program_args *a, const char *records)
{
	program_arg(a, "--");
	program_arg(a, oci->runtime_path);
	if (is_crun(oci))
		program_arg(a, "--cgroup-manager=disabled"); /* the groups are ours */
	program_arg(a, "--root");
	program_arg(a, records);
}

int program_start(struct oci_box *b, struct program_args *a, bool inherit, child_exit_fn *on_exit,
		  struct err *err)
{
	char path[PATH_MAX + 32];
	(void)snprintf(path, sizeof(path), "%s/container.log", b->dir);
	_cleanup_close_ int log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (log_fd < 0)
		log_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (log_fd < 0)
		return err_sys(err, OCI_START_CODE, errno, "open '%s'", path);
	a->v[a->n] = NULL;
	struct spawn spec = {
		.path = "/proc/self/exe",
		.argv = (char *const *)a->v,
		.envp = b->oci->envp,
		.fds = {{log_fd, 1},
			{log_fd, 2},
			{b->listen_fd, BUNDLE_LISTEN_FD},
			{b->token_fd, BUNDLE_TOKEN_FD}},
		.fds_n = !inherit	   ? 2
			 : b->token_fd < 0 ? 3
					   : 4,
		.new_session = true,
		.die_with_parent = true, /* else a start could finish after our successor cleaned up */
	};
	return child_spawn(b->oci->env.reaper, &b->child, &spec, on_exit, err);
}

int program_find(const struct oci *oci, const char *name, char out[PATH_MAX])
{
	const char *path = oci->envp[0] + strlen("PATH=");

	if (strchr(name, '/')) {
		if (snprintf(out, PATH_MAX, "%s", name) < PATH_MAX && access(name, X_OK) == 0)
			return 0;
		path = "";
	}
	while (*path) {
		size_t n = strcspn(path, ":");
		if (snprintf(out, PATH_MAX, "%.*s/%s", (int)n, path, name) < PATH_MAX &&
		    access(out, X_OK) == 0)
			return 0;
		path += n + (path[n] == ':');
	}
	return -ENOENT;
}
