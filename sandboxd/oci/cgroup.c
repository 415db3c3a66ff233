/*
 * cgroup.c - owns /sys/fs/cgroup/.../sandboxd; no state beyond the file system.
 */
#include "sandboxd/oci/cgroup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "lib/clock.h"
#include "lib/fs.h"

#define ROOT	      "/sys/fs/cgroup"
#define CGROUP2_MAGIC 0x63677270
#define PERIOD_USEC   100000
#define QUOTA_MIN     1000 /* of the kernel */
#define PROCS_MAX     (1024 * 1024)
#define KILL_WAIT_MS  5000
#define KILL_ROUNDS   8 /* what is killed may have forked meanwhile */

static const char *const names[CGROUP_CONTROLLERS] = {"cpu", "memory", "pids", "freezer"};

/* ---- small files ------------------------------------------------------------ */

static int write_file(const char *dir, const char *file, const char *text)
{
	char path[CGROUP_PATH_MAX + 64];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, file);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fs_write_all(fd, text, strlen(text));
}

static int write_number(const char *dir, const char *file, uint64_t n)
{
	char text[24];
	(void)snprintf(text, sizeof(text), "%" PRIu64, n);
	return write_file(dir, file, text);
}

static int read_file(const char *dir, const char *file, struct buf *out)
{
	char path[CGROUP_PATH_MAX + 64];
	(void)snprintf(path, sizeof(path), "%s/%s", dir, file);
	int r = fs_read_file(AT_FDCWD, path, out);
	return r < 0 ? r : buf_cstr(out) ? 0 : -ENOMEM;
}

static bool has_file(const char *dir, const char *file)
{
	char path[CGROUP_PATH_MAX + 64];
	(void)snprintf(path, sizeof(path), "%s/%s", dir, file);
	return access(path, F_OK) == 0;
}

/* ---- probe --------------------------------------------------------------------- */

static bool is_cgroup2(const char *path)
{
	struct statfs fs;
	return statfs(path, &fs) == 0 && fs.f_type == CGROUP2_MAGIC;
}

static bool make_base(char base[128], const char *parent)
{
	(void)snprintf(base, 128, "%s/sandboxd", parent);
	if (mkdir(base, 0755) == 0 || errno == EEXIST)
		return true;
	base[0] = '\0';
	return false;
}

/* A controller must be handed down twice: from the root to our base, from there to each sandbox. */
static void probe_v2(struct cgroups *cg)
{
	static const char *const down[CGROUP_CONTROLLERS] = {"+cpu", "+memory", "+pids", NULL};

	cg->unified = cg->freeze_v2 = true;
	if (!make_base(cg->base[0], ROOT))
		return;
	for (size_t i = 0; i < CGROUP_CONTROLLERS; i++) {
		if (i)
			memcpy(cg->base[i], cg->base[0], sizeof(cg->base[0]));
		if (!down[i]) {
			cg->usable[i] = true; /* the freezer is part of every group */
			continue;
		}
		(void)write_file(ROOT, "cgroup.subtree_control", down[i]);
		cg->usable[i] = write_file(cg->base[0], "cgroup.subtree_control", down[i]) == 0;
	}
}

/* Where both are mounted, v2's freezer: it tells when it is done, and what it holds can be killed. */
static bool probe_mixed_freezer(struct cgroups *cg)
{
	char *base = cg->base[CGROUP_FREEZER];

	if (!is_cgroup2(ROOT "/unified") || !make_base(base, ROOT "/unified"))
		return false;
	if (has_file(base, "cgroup.freeze"))
		return cg->usable[CGROUP_FREEZER] = cg->freeze_v2 = true;
	(void)rmdir(base);
	base[0] = '\0';
	return false;
}

static void probe_v1(struct cgroups *cg)
{
	for (size_t i = 0; i < CGROUP_CONTROLLERS; i++) {
		if (i == CGROUP_FREEZER && probe_mixed_freezer(cg))
			continue;
		char parent[64];
		(void)snprintf(parent, sizeof(parent), ROOT "/%s", names[i]);
		cg->usable[i] = has_file(parent, "cgroup.procs") && make_base(cg->base[i], parent);
	}
}

void cgroups_probe(struct cgroups *cg)
{
	*cg = (struct cgroups){0};
	if (is_cgroup2(ROOT))
		probe_v2(cg);
	else
		probe_v1(cg);
}

/* Every directory of one sandbox: one in the unified hierarchy, else one a controller. */
static size_t group_dirs(const struct cgroups *cg, const char *id,
			 char ret[CGROUP_CONTROLLERS][CGROUP_PATH_MAX])
{
	size_t n = 0;
	for (size_t i = 0; i < (cg->unified ? 1 : CGROUP_CONTROLLERS); i++)
		if (cg->base[i][0])
			(void)snprintf(ret[n++], CGROUP_PATH_MAX, "%s/%s", cg->base[i], id);
	return n;
}

void cgroups_done(const struct cgroups *cg)
{
	for (size_t i = 0; i < CGROUP_CONTROLLERS; i++)
		if (cg->base[i][0])
			(void)rmdir(cg->base[i]);
}

/* ---- limits ---------------------------------------------------------------------- */

static int limit_cpu(const struct cgroups *cg, const char *dir, uint64_t millis)
{
	uint64_t quota = MAX(millis * PERIOD_USEC / 1000, (uint64_t)QUOTA_MIN);
	char text[48];

	if (cg->unified) {
		(void)snprintf(text, sizeof(text), "%" PRIu64 " %d", quota, PERIOD_USEC);
		return write_file(dir, "cpu.max", text);
	}
	int r = write_number(dir, "cpu.cfs_period_us", PERIOD_USEC);
	return r < 0 ? r : write_number(dir, "cpu.cfs_quota_us", quota);
}

/* Swap counts too: a limit that swapping gets around is none. */
static int limit_memory(const struct cgroups *cg, const char *dir, uint64_t bytes)
{
	if (cg->unified) {
		(void)write_file(dir, "memory.swap.max", "0");
		return write_number(dir, "memory.max", bytes);
	}
	int r = write_number(dir, "memory.limit_in_bytes", bytes);
	if (r == 0)
		(void)write_number(dir, "memory.memsw.limit_in_bytes", bytes);
	return r;
}

static int limit_pids(const char *dir, uint64_t n)
{
	return write_number(dir, "pids.max", n);
}

static int set_limit(const struct cgroups *cg, enum cgroup_controller c, const char *id,
		     const struct runtime_limits *l)
{
	char dir[CGROUP_PATH_MAX];

	if (!cg->usable[c])
		return -ENOTSUP;
	(void)snprintf(dir, sizeof(dir), "%s/%s", cg->base[c], id);
	switch (c) {
	case CGROUP_CPU:
		return limit_cpu(cg, dir, l->cpu_millis);
	case CGROUP_MEMORY:
		return limit_memory(cg, dir, l->memory_bytes);
	default:
		return limit_pids(dir, l->pids);
	}
}

void cgroups_limit(const struct cgroups *cg, const char *id, const struct runtime_limits *l,
		   char notes[CGROUP_NOTES_MAX])
{
	const bool wanted[CGROUP_CONTROLLERS] = {l->cpu_millis > 0, l->memory_bytes > 0, l->pids > 0, false};
	size_t n = 0;

	notes[0] = '\0';
	for (size_t i = 0; i < CGROUP_CONTROLLERS; i++)
		if (wanted[i] && set_limit(cg, i, id, l) < 0)
			n += (size_t)snprintf(notes + n, CGROUP_NOTES_MAX - n, "%s%s",
					      n ? ", " : "Limits not enforced on this machine: ", names[i]);
	if (n)
		(void)snprintf(notes + n, CGROUP_NOTES_MAX - n, ".");
}

int cgroups_create(const struct cgroups *cg, const char *id, const struct runtime_limits *limits,
		   char notes[CGROUP_NOTES_MAX], struct err *err)
{
	char dirs[CGROUP_CONTROLLERS][CGROUP_PATH_MAX];
	size_t n = group_dirs(cg, id, dirs);

	for (size_t i = 0; i < n; i++) {
		int r = mkdir(dirs[i], 0755) < 0 ? -errno : 0;
		if (r == -ENOENT) { /* another sandboxd removed the base when it ended */
			char *slash = strrchr(dirs[i], '/');
			*slash = '\0';
			(void)mkdir(dirs[i], 0755);
			*slash = '/';
			r = mkdir(dirs[i], 0755) < 0 ? -errno : 0;
		}
		if (r < 0 && r != -EEXIST) {
			(void)cgroups_remove(cg, id);
			return err_sys(err, "DOCKER::SANDBOX_START_FAILED", -r, "make control group '%s'",
				       dirs[i]);
		}
	}
	cgroups_limit(cg, id, limits, notes);
	return 0;
}

size_t cgroups_join_files(const struct cgroups *cg, const char *id,
			  char ret[CGROUP_CONTROLLERS][CGROUP_PATH_MAX])
{
	size_t n = group_dirs(cg, id, ret);
	for (size_t i = 0; i < n; i++)
		strncat(ret[i], "/cgroup.procs", CGROUP_PATH_MAX - strlen(ret[i]) - 1);
	return n;
}

bool cgroups_oom(const struct cgroups *cg, const char *id)
{
	_cleanup_buf_ struct buf b = BUF_INIT(4096);
	char dir[CGROUP_PATH_MAX];

	(void)snprintf(dir, sizeof(dir), "%s/%s", cg->base[CGROUP_MEMORY], id);
	if (!cg->usable[CGROUP_MEMORY] ||
	    read_file(dir, cg->unified ? "memory.events" : "memory.oom_control", &b) < 0)
		return false;
	const char *line = strstr((char *)b.data, "oom_kill ");
	return line && strtoull(line + strlen("oom_kill "), NULL, 10) > 0;
}

/* ---- the freezer ------------------------------------------------------------------- */

static bool says(const char *dir, const char *file, const char *text)
{
	_cleanup_buf_ struct buf b = BUF_INIT(4096);
	return read_file(dir, file, &b) == 0 && strstr((char *)b.data, text);
}

/* The kernel wakes a poll on cgroup.events at each change. */
static int wait_v2(const char *dir, bool on)
{
	char path[CGROUP_PATH_MAX + 64], text[256];
	const uint64_t end = clock_mono_ms() + FREEZE_WAIT_MS;

	(void)snprintf(path, sizeof(path), "%s/cgroup.events", dir);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (;;) {
		ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
		if (n < 0)
			return -errno;
		text[n] = '\0';
		if (strstr(text, on ? "frozen 1" : "frozen 0"))
			return 0;
		if (strstr(text, "populated 0"))
			return -ESRCH;
		struct pollfd wait = {.fd = fd, .events = POLLPRI};
		uint64_t now = clock_mono_ms();
		if (now >= end || poll(&wait, 1, (int)(end - now)) == 0)
			return -ETIMEDOUT;
	}
}

/* The old freezer has no event: it is asked again in growing steps, on a worker. */
static int wait_v1(const char *dir, const char *state)
{
	uint64_t waited = 0, step = 1;

	for (;; waited += step, step = MIN(2 * step, (uint64_t)100)) {
		if (says(dir, "freezer.state", state))
			return 0;
		if (waited >= FREEZE_WAIT_MS)
			return -ETIMEDOUT;
		(void)poll(NULL, 0, (int)step);
	}
}

static int freezer_write(const struct cgroups *cg, const char *dir, bool on)
{
	return cg->freeze_v2 ? write_file(dir, "cgroup.freeze", on ? "1" : "0")
			     : write_file(dir, "freezer.state", on ? "FROZEN" : "THAWED");
}

static void freezer_dir(const struct cgroups *cg, const char *id, char dir[CGROUP_PATH_MAX])
{
	(void)snprintf(dir, CGROUP_PATH_MAX, "%s/%s", cg->base[CGROUP_FREEZER], id);
}

int cgroups_freeze(const struct cgroups *cg, const char *id, bool on)
{
	char dir[CGROUP_PATH_MAX];

	if (!cg->usable[CGROUP_FREEZER])
		return -ENOTSUP;
	freezer_dir(cg, id, dir);
	int r = freezer_write(cg, dir, on);
	if (r == 0)
		r = cg->freeze_v2 ? wait_v2(dir, on) : wait_v1(dir, on ? "FROZEN" : "THAWED");
	if (r < 0 && on)
		(void)freezer_write(cg, dir, false);
	return r;
}

void cgroups_thaw(const struct cgroups *cg, const char *id)
{
	char dir[CGROUP_PATH_MAX];

	if (!cg->usable[CGROUP_FREEZER])
		return;
	freezer_dir(cg, id, dir);
	(void)freezer_write(cg, dir, false);
}

/* ---- removal -------------------------------------------------------------------------- */

/* Kills one process and waits until it has ended. */
static void end_process(pid_t pid)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd wait = {.fd = pidfd, .events = POLLIN};

	if (pidfd < 0 || syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
		return;
	(void)poll(&wait, 1, KILL_WAIT_MS);
}

/* Ends every process of the group; false when there was none. */
static bool empty_group(const char *dir)
{
	_cleanup_buf_ struct buf b = BUF_INIT(PROCS_MAX);
	bool any = false;
	char *end;

	if (read_file(dir, "cgroup.procs", &b) < 0)
		return false;
	for (const char *p = (char *)b.data;; p = end) {
		long pid = strtol(p, &end, 10);
		if (end == p)
			return any;
		any = true;
		if (pid > 1)
			end_process((pid_t)pid);
	}
}

static int remove_group(const char *dir)
{
	for (int round = 0; round < KILL_ROUNDS; round++) {
		if (rmdir(dir) == 0 || errno == ENOENT)
			return 0;
		if (!empty_group(dir))
			break;
	}
	return rmdir(dir) == 0 || errno == ENOENT ? 0 : -errno;
}

int cgroups_remove(const struct cgroups *cg, const char *id)
{
	char dirs[CGROUP_CONTROLLERS][CGROUP_PATH_MAX];
	size_t n = group_dirs(cg, id, dirs);
	int r = 0;

	cgroups_thaw(cg, id);
	for (size_t i = 0; i < n; i++) {
		int e = remove_group(dirs[i]);
		if (e < 0)
			r = e;
	}
	return r;
}
