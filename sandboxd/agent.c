/*
 * agent.c - copies the agent; no state.
 */
#include "sandboxd/agent.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fs.h"

#define FILE_MAX (256u << 20)

static int copy(int from, const char *name, const char *to)
{
	_cleanup_buf_ struct buf b = BUF_INIT(FILE_MAX);

	int r = fs_read_file(from, name, &b);
	if (r >= 0)
		r = fs_write_file(AT_FDCWD, to, b.data, b.len, 0755);
	return r == 0 && chmod(to, 0755) < 0 ? -errno : r;
}

/* One of the kernels that lie beside the agent; theirs are the languages that it does not carry itself. */
static int copy_kernel(int from, const char *name, const char *dir)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/kernels", dir);
	int r = fs_mkdir_p(path, 0755);
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "%s/kernels/%s", dir, name);
	return copy(from, name, path);
}

static int copy_kernels(const char *execd, const char *dir, struct err *err)
{
	char path[PATH_MAX];
	const char *slash = strrchr(execd, '/');
	int n = slash ? (int)(slash - execd) : 1;
	struct dirent *e;
	int r = 0;

	(void)snprintf(path, sizeof(path), "%.*s/kernels", n, slash ? execd : ".");
	DIR *from = opendir(path);
	while (from && r == 0 && (e = readdir(from))) {
		struct stat st;
		if (fstatat(dirfd(from), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
		    (st.st_mode & S_IXUSR))
			r = copy_kernel(dirfd(from), e->d_name, dir);
	}
	if (from)
		(void)closedir(from);
	return r < 0 ? err_sys(err, "SANDBOX::UNAVAILABLE", -r, "copy the kernels of '%s'", path) : 0;
}

int agent_copy(const char *execd, const char *dir, struct err *err)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/execd", dir);
	int r = copy(AT_FDCWD, execd, path);
	if (r < 0)
		return err_sys(err, "SANDBOX::UNAVAILABLE", -r,
			       "copy the agent '%s' (--execd names another) to '%s'", execd, path);
	return copy_kernels(execd, dir, err);
}
