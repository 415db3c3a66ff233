/*
 * cgroup.c - finding and reading cgroups. Owns nothing, keeps nothing.
 */
#include "execd/cgroup.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "lib/fs.h"

const char *cgroup_text(int dirfd, const char *path, struct buf *b)
{
	buf_clear(b);
	return fs_read_file(dirfd, path, b) < 0 ? NULL : buf_cstr(b);
}

int cgroup_field(const char *text, const char *key, uint64_t *ret)
{
	size_t n = strlen(key);
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, n) == 0 && (line[n] == ' ' || line[n] == ':')) {
			*ret = strtoull(line + n + 1, NULL, 10);
			return 0;
		}
	}
	return -ENOENT;
}

int cgroup_number(int dirfd, const char *path, struct buf *b, uint64_t *ret)
{
	const char *text = cgroup_text(dirfd, path, b);
	if (!text || *text < '0' || *text > '9')
		return -ENOENT;
	*ret = strtoull(text, NULL, 10);
	return 0;
}

int cgroup_oom_kills(int dirfd, uint64_t *ret)
{
	_cleanup_buf_ struct buf b = BUF_INIT(CGROUP_FILE_MAX);
	const char *text = cgroup_text(dirfd, "memory.events", &b);
	if (!text)
		text = cgroup_text(dirfd, "memory.oom_control", &b);
	return text ? cgroup_field(text, "oom_kill", ret) : -ENOENT;
}

/* ---- which cgroup is ours ------------------------------------------------- */

/* Is `controller` one of the names in list? */
static bool listed(const char *list, size_t n, char separator, const char *controller)
{
	size_t len = strlen(controller);
	for (const char *p = list; p < list + n;) {
		const char *end = memchr(p, separator, (size_t)(list + n - p));
		end = end ? end : list + n;
		if ((size_t)(end - p) == len && memcmp(p, controller, len) == 0)
			return true;
		p = end + 1;
	}
	return false;
}

/* Our path in the hierarchy of a controller ("": version 2), from /proc/self/cgroup: "4:memory:/path". */
static bool own_path(const char *text, const char *controller, char *out, size_t size)
{
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		const char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
		if (!path)
			return false;
		size_t list_n = (size_t)(path - list - 1), n = strcspn(path + 1, "\n");
		bool match = *controller ? listed(list + 1, list_n, ',', controller) : list_n == 0;
		if (!match || n >= size)
			continue;
		memcpy(out, path + 1, n);
		out[n] = '\0';
		return true;
	}
	return false;
}

/*
 * The directory of a hierarchy: mount + our path where the container shows the
 * host's tree, the mount itself where it shows only our part of it.
 */
static int find_dir(const char *mount, const char *path, const char *must_have, char out[CGROUP_PATH_MAX])
{
	for (int whole = 1; whole >= 0; whole--) {
		char file[CGROUP_PATH_MAX + 64];
		if (snprintf(out, CGROUP_PATH_MAX, "%s%s", mount, whole ? path : "") >= CGROUP_PATH_MAX)
			continue;
		(void)snprintf(file, sizeof(file), "%s/%s", out, must_have);
		if (access(file, R_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

static int find_2(const char *path, const char *controller, char out[CGROUP_PATH_MAX])
{
	static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
	_cleanup_buf_ struct buf b = BUF_INIT(CGROUP_FILE_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		if (find_dir(mounts[i], path, "cgroup.controllers", out) < 0)
			continue;
		_cleanup_close_ int fd = open(out, O_PATH | O_DIRECTORY | O_CLOEXEC);
		const char *text = fd < 0 ? NULL : cgroup_text(fd, "cgroup.controllers", &b);
		if (text && listed(text, strcspn(text, "\n"), ' ', controller))
			return 0;
	}
	return -ENOENT;
}

int cgroup_find(const char *controller, char ret_path[CGROUP_PATH_MAX], enum cgroup_version *ret_version)
{
	_cleanup_buf_ struct buf b = BUF_INIT(CGROUP_FILE_MAX);
	char path[CGROUP_PATH_MAX / 2], mount[64];
	const char *text = cgroup_text(AT_FDCWD, "/proc/self/cgroup", &b);
	if (text && own_path(text, "", path, sizeof(path)) && find_2(path, controller, ret_path) == 0) {
		*ret_version = CGROUP_2;
		return 0;
	}
	if (!text || !own_path(text, controller, path, sizeof(path)))
		return -ENOENT;
	(void)snprintf(mount, sizeof(mount), "/sys/fs/cgroup/%s", controller);
	*ret_version = CGROUP_1;
	return find_dir(mount, path, "cgroup.procs", ret_path);
}
