/*
 * probe.c - makes ready what all containers share, before anything is served. Blocks.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/fs.h"
#include "sandboxd/agent.h"
#include "sandboxd/oci/enter.h"
#include "sandboxd/oci/program.h"

static int find_runtime(struct oci *oci, struct err *err)
{
	if (program_find(oci, oci->config->runtime, oci->runtime_path) == 0)
		return 0;
	return err_set(
		err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ENOENT,
		"the OCI runtime '%s' is not there: `apt-get install crun` brings crun; --runtime names "
		"another",
		oci->config->runtime);
}

/* A sandbox's directory links to the root it stands on. */
static bool root_in_use(const struct oci *oci, const char *name)
{
	char path[PATH_MAX], link[PATH_MAX + 300], target[64];
	bool found = false;
	struct dirent *e;

	(void)snprintf(path, sizeof(path), "%s/sandboxes", oci->config->state_dir);
	DIR *d = opendir(path);
	while (d && !found && (e = readdir(d))) {
		(void)snprintf(link, sizeof(link), "%s/%s/root", path, e->d_name);
		ssize_t n = readlink(link, target, sizeof(target) - 1);
		target[MAX(n, (ssize_t)0)] = '\0';
		found = n > 0 && strcmp(target, name) == 0;
	}
	if (d)
		(void)closedir(d);
	return found;
}

/* Roots of earlier starts on which no sandbox stands any more. */
static void remove_old_roots(const struct oci *oci)
{
	char path[PATH_MAX], old[PATH_MAX + 300];
	struct dirent *e;

	(void)snprintf(path, sizeof(path), "%s/roots", oci->config->state_dir);
	DIR *d = opendir(path);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && !root_in_use(oci, e->d_name)) {
			(void)snprintf(old, sizeof(old), "%s/%s", path, e->d_name);
			(void)fs_remove_tree(AT_FDCWD, old);
		}
	if (d)
		(void)closedir(d);
}

static int make_state_dirs(const struct oci *oci, struct err *err)
{
	static const char *const dirs[] = {"",		 "/runtime", "/roots",	"/sandboxes",
					   "/snapshots", "/volumes", "/images", "/images/refs"};
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		(void)snprintf(path, sizeof(path), "%s%s", oci->config->state_dir, dirs[i]);
		int r = fs_mkdir_p(path, 0700);
		if (r < 0)
			return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "make '%s'", path);
	}
	return 0;
}

/* Runs oci-enter --check in a scratch directory and brings back what it says. Blocks: nothing is served yet.
 */
static int check_kernel(const struct oci *oci, struct err *err)
{
	static const char *const dirs[] = {"", "/lower", "/upper.0", "/work.0", "/rootfs"};
	char dir[PATH_MAX], path[PATH_MAX + 16], text[ERR_MESSAGE_MAX] = "";
	_cleanup_close_ int pidfd = -EBADF;
	int ends[2];
	pid_t pid;
	siginfo_t info = {0};

	(void)snprintf(dir, sizeof(dir), "%s/roots/%s/check", oci->config->state_dir, oci->root_name);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		(void)snprintf(path, sizeof(path), "%s%s", dir, dirs[i]);
		if (mkdir(path, 0700) < 0)
			return err_sys(err, "SANDBOX::UNAVAILABLE", errno, "make '%s'", path);
	}
	int r = fs_pipe(ends, 0, 0);
	if (r < 0)
		return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "make a pipe");
	char *const argv[] = {(char *)OCI_ENTER, dir, (char *)"--check", NULL};
	struct spawn spec = {
		.path = "/proc/self/exe", .argv = argv, .envp = oci->envp, .fds = {{ends[1], 2}}, .fds_n = 1};
	r = spawn(&spec, &pid, &pidfd, err);
	fd_close(&ends[1]);
	if (r == 0) {
		ssize_t n, len = 0;
		while ((n = read(ends[0], text + len, sizeof(text) - 1 - (size_t)len)) > 0)
			len += n;
		while (len > 0 && text[len - 1] == '\n')
			text[--len] = '\0';
		while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 && errno == EINTR)
			;
		if (info.si_code != CLD_EXITED || info.si_status != 0)
			r = err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ENOTSUP, "%s", text);
	}
	fd_close(&ends[0]);
	(void)fs_remove_tree(AT_FDCWD, dir);
	return r;
}

int oci_probe(struct runtime *rt, struct err *err)
{
	struct oci *oci = oci_of(rt);
	char agent[PATH_MAX];

	if (geteuid() != 0)
		return err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", EPERM,
			       "the oci runtime needs root (namespaces, overlayfs): start sandboxd as root");
	cgroups_probe(&oci->cgroups); /* also where nothing can be made: what runs may still be ended */
	int r = find_runtime(oci, err);
	if (r == 0)
		r = make_state_dirs(oci, err);
	if (r < 0)
		return r;
	remove_old_roots(oci);
	r = rootfs_build_host(oci->config->state_dir, oci->root_name, &oci->bases.host.fs, err);
	if (r == 0)
		r = bases_load(&oci->bases, err);
	(void)snprintf(agent, sizeof(agent), "%s/roots/%s/agent", oci->config->state_dir, oci->root_name);
	if (r == 0)
		r = agent_copy(oci->config->execd, agent, err);
	if (r == 0)
		r = check_kernel(oci, err);
	return r == 0 ? network_probe(&oci->network, err) : r;
}
