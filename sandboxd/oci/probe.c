/*
 * probe.c - makes ready what all containers share, before anything is served or while nothing can be made.
 * Blocks.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/fs.h"
#include "sandboxd/agent.h"
#include "sandboxd/oci/disk.h"
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

/* Runs it and brings back what it says (cut to size); *ret_status as of waitpid(2). Blocks. */
static int ask(const struct oci *oci, const char *program, char *const *argv, char *text, size_t size,
	       int *ret_status, struct err *err)
{
	_cleanup_close_ int pidfd = -EBADF;
	char rest[4096] = {0};
	int ends[2];
	pid_t pid;

	int r = fs_pipe(ends, 0, 0);
	if (r < 0)
		return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "make a pipe");
	struct spawn spec = {.path = program,
			     .argv = argv,
			     .envp = oci->envp,
			     .fds = {{ends[1], 1}, {ends[1], 2}},
			     .fds_n = 2};
	r = spawn(&spec, &pid, &pidfd, err);
	fd_close(&ends[1]);
	if (r == 0) {
		ssize_t n = 1;
		size_t len = 0;
		while (n > 0) {
			bool room = len < size - 1;
			n = read(ends[0], room ? text + len : rest, room ? size - 1 - len : sizeof(rest));
			len += room && n > 0 ? (size_t)n : 0;
			n = n < 0 && errno == EINTR ? 1 : n;
		}
		while (len > 0 && text[len - 1] == '\n')
			len--;
		text[len] = '\0';
		while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
			;
	}
	fd_close(&ends[0]);
	return r;
}

/* Runs oci-enter --check in a scratch directory: nothing is served yet. */
static int check_kernel(const struct oci *oci, struct err *err)
{
	static const char *const dirs[] = {"", "/lower", "/upper.0", "/work.0", "/rootfs"};
	char dir[PATH_MAX], path[PATH_MAX + 16], text[ERR_MESSAGE_MAX] = "";
	int status = 0;

	(void)snprintf(dir, sizeof(dir), "%s/roots/%s/check", oci->config->state_dir, oci->root_name);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		(void)snprintf(path, sizeof(path), "%s%s", dir, dirs[i]);
		if (mkdir(path, 0700) < 0)
			return err_sys(err, "SANDBOX::UNAVAILABLE", errno, "make '%s'", path);
	}
	char *const argv[] = {(char *)OCI_ENTER, dir, (char *)"--check", NULL};
	int r = ask(oci, "/proc/self/exe", argv, text, sizeof(text), &status, err);
	if (r == 0 && status != 0)
		r = err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ENOTSUP, "%s", text);
	(void)fs_remove_tree(AT_FDCWD, dir);
	return r;
}

/* The agent's listening socket is handed to it through the runtime; who can do that, can with exec too. */
static int check_runtime(const struct oci *oci, struct err *err)
{
	char text[16384] = "";
	char *const argv[] = {(char *)oci->runtime_path, (char *)"exec", (char *)"--help", NULL};
	int status = 0;

	int r = ask(oci, oci->runtime_path, argv, text, sizeof(text), &status, err);
	if (r < 0 || strstr(text, "preserve-fds"))
		return r;
	return err_set(
		err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ENOTSUP,
		"the OCI runtime '%s' cannot hand a socket into a container (`run --preserve-fds`), which "
		"the agent needs; crun and runc can; gVisor's runsc is for the docker runtime "
		"(secure_runtime)",
		oci->config->runtime);
}

/* What the sandboxes that run stand in and on, also where no more can be made; needs no room on disk. */
static int look_around(struct oci *oci, struct err *err)
{
	if (oci->looked)
		return disk_room(oci->config->state_dir, (uint64_t)oci->config->free_min_mib << 20, err);
	cgroups_probe(&oci->cgroups);
	int r = find_runtime(oci, err);
	if (r == 0)
		r = make_state_dirs(oci, err);
	if (r == 0)
		r = bases_load(&oci->bases, err);
	oci->looked = r == 0;
	return r;
}

int oci_probe(struct runtime *rt, struct err *err)
{
	struct oci *oci = oci_of(rt);
	char agent[PATH_MAX];

	if (geteuid() != 0)
		return err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", EPERM,
			       "the oci runtime needs root (namespaces, overlayfs): start sandboxd as root");
	int r = look_around(oci, err);
	if (r < 0)
		return r;
	remove_old_roots(oci);
	r = rootfs_build_host(oci->config->state_dir, oci->root_name, &oci->bases.host.fs, err);
	if (r == 0)
		r = bases_host(&oci->bases, err);
	(void)snprintf(agent, sizeof(agent), "%s/roots/%s/agent", oci->config->state_dir, oci->root_name);
	if (r == 0)
		r = agent_copy(oci->config->execd, agent, err);
	if (r == 0)
		r = check_kernel(oci, err);
	if (r == 0)
		r = check_runtime(oci, err);
	if (r == 0)
		r = network_probe(&oci->network, err);
	if (r == 0)
		r = hardening_load(oci->config, oci->network.mode == NETWORK_NONE, &oci->hardening, err);
	return r;
}
