/*
 * limits.c - bounds of commands: cgroups where we may make them, rlimits where not.
 *
 * Owns: the cgroups of commands with bounds, below the agent's own, and the
 * list of those that were left with processes in them. Those are tried again
 * whenever a process of ours ends: who was in there is a child or an orphan.
 *
 * Version 2 gives a cgroup controllers only when its parent hands them down,
 * and a parent that does so may hold no processes. As PID 1 all that is in
 * there is ours, and it moves into a leaf; otherwise we make do without.
 */
#include "execd/limits.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "execd/cgroup.h"
#include "lib/fs.h"
#include "lib/scan.h"
#include "proto/json.h"

#define LEAF	    "execd.agent" /* where PID 1 and its companions go */
#define PREFIX	    "execd."
#define MOVE_ROUNDS 16 /* of moving what forks meanwhile */
#define MIB	    ((uint64_t)1 << 20)
#define JSON_MAX    4096
#define BOUNDED_MAX LIMIT_PROCESSES /* the last bound that a cgroup may enforce */

struct place {
	bool usable;
	enum cgroup_version version;
	char dir[CGROUP_PATH_MAX]; /* of the agent */
};

struct limiter {
	struct place places[BOUNDED_MAX + 1]; /* memory, pids */
	struct list left;		      /* holds whose cgroups still have processes */
};

static const struct {
	const char *name;
	uint64_t min;
} bounds[] = {
	[LIMIT_MEMORY] = {"memory_bytes", MIB}, [LIMIT_PROCESSES] = {"processes", 1},
	[LIMIT_CPU] = {"cpu_seconds", 1},	[LIMIT_OUTPUT] = {"output_bytes", 1},
	[LIMIT_FILES] = {"open_files", 8},	[LIMIT_TIMEOUT] = {"timeout_ms", 1},
};

static const char *const controllers[] = {[LIMIT_MEMORY] = "memory", [LIMIT_PROCESSES] = "pids"};

const char *limit_name(enum limit limit)
{
	return bounds[limit].name;
}

uint64_t limit_min(enum limit limit)
{
	return bounds[limit].min;
}

/* ---- where cgroups can be made -------------------------------------------- */

/* The files are the kernel's: none is ever created. */
static int put(const char *dir, const char *file, const char *text)
{
	char path[CGROUP_PATH_MAX + 64];
	(void)snprintf(path, sizeof(path), "%s/%s", dir, file);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	ssize_t n;
	do
		n = write(fd, text, strlen(text));
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

static int put_number(const char *dir, const char *file, uint64_t n)
{
	char text[24];
	(void)snprintf(text, sizeof(text), "%" PRIu64, n);
	return put(dir, file, text);
}

/* Moves every process of dir into its leaf. */
static int make_leaf(const char *dir)
{
	_cleanup_buf_ struct buf b = BUF_INIT(CGROUP_FILE_MAX);
	char leaf[CGROUP_PATH_MAX + 16];
	(void)snprintf(leaf, sizeof(leaf), "%s/%s", dir, LEAF);
	if (mkdir(leaf, 0755) < 0 && errno != EEXIST)
		return -errno;
	_cleanup_close_ int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (int round = 0; round < MOVE_ROUNDS; round++) {
		const char *text = cgroup_text(fd, "cgroup.procs", &b);
		if (!text)
			return -EIO;
		if (!*text)
			return 0;
		for (const char *p = text; *p; p = strchrnul(p, '\n'), p += *p == '\n')
			(void)put_number(leaf, "cgroup.procs", strtoull(p, NULL, 10)); /* may be gone */
	}
	return -EBUSY;
}

static bool hand_down(const char *dir, const char *controller)
{
	char text[32];
	(void)snprintf(text, sizeof(text), "+%s", controller);
	int r = put(dir, "cgroup.subtree_control", text);
	if (r == -EBUSY && getpid() == 1 && make_leaf(dir) >= 0)
		r = put(dir, "cgroup.subtree_control", text);
	return r >= 0;
}

static void find_place(struct place *p, const char *controller)
{
	p->usable = cgroup_find(controller, p->dir, &p->version) >= 0 && access(p->dir, W_OK) >= 0;
}

/*
 * What an agent left behind that was killed: execd.<id>-<its pid>. Those of one that lives are not touched,
 * and one with processes in it is not removed by the kernel.
 */
static void remove_stale(const struct place *p)
{
	DIR *dir = p->usable ? opendir(p->dir) : NULL;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		const char *pid = strrchr(e->d_name, '-');
		struct scan s = SCAN(pid ? pid + 1 : "");
		pid_t owner = (pid_t)scan_number(&s, 10, INT32_MAX);
		if (strncmp(e->d_name, PREFIX, strlen(PREFIX)) == 0 && scan_ok(&s) && owner > 0 &&
		    (owner == getpid() || (kill(owner, 0) < 0 && errno == ESRCH)))
			(void)unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR);
	}
	if (dir)
		(void)closedir(dir);
}

int limiter_new(struct limiter **ret)
{
	struct limiter *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	list_init(&l->left);
	/* Before processes move to a leaf: afterwards our own place would be that. */
	for (size_t i = 0; i < ARRAY_SIZE(l->places); i++)
		find_place(&l->places[i], controllers[i]);
	for (size_t i = 0; i < ARRAY_SIZE(l->places); i++)
		remove_stale(&l->places[i]);
	for (size_t i = 0; i < ARRAY_SIZE(l->places); i++)
		if (l->places[i].usable && l->places[i].version == CGROUP_2)
			l->places[i].usable = hand_down(l->places[i].dir, controllers[i]);
	*ret = l;
	return 0;
}

/* ---- the cgroups of one command -------------------------------------------- */

static void remove_dirs(struct limits_hold *h)
{
	for (size_t i = 0; i < SPAWN_CGROUPS_MAX; i++) {
		if (h->dirs[i] && rmdir(h->dirs[i]) < 0 && errno == EBUSY)
			continue;
		free(h->dirs[i]);
		h->dirs[i] = NULL;
	}
}

static bool has_dirs(const struct limits_hold *h)
{
	for (size_t i = 0; i < SPAWN_CGROUPS_MAX; i++)
		if (h->dirs[i])
			return true;
	return false;
}

static void hold_free(struct limits_hold *h)
{
	for (size_t i = 0; i < SPAWN_CGROUPS_MAX; i++) {
		free(h->dirs[i]);
		free(h->procs[i]);
	}
	free(h);
}

void limiter_tidy(struct limiter *l)
{
	list_foreach_safe (node, &l->left) {
		struct limits_hold *h = list_entry(node, struct limits_hold, link);
		remove_dirs(h);
		if (!has_dirs(h)) {
			list_del(&h->link);
			hold_free(h);
		}
	}
}

void limiter_free(struct limiter *l)
{
	if (!l)
		return;
	limiter_tidy(l);
	list_foreach_safe (node, &l->left)
		hold_free(list_entry(node, struct limits_hold, link));
	free(l);
}

static int make_dir(struct limits_hold *h, size_t i, const struct place *p, const char *id)
{
	/* One directory of version 2 serves both. */
	if (i > 0 && h->dirs[0] && p->version == CGROUP_2 && h->limiter->places[0].version == CGROUP_2)
		return 0;
	_cleanup_free_ char *dir = NULL, *procs = NULL;
	if (asprintf(&dir, "%s/" PREFIX "%s-%d", p->dir, id, (int)getpid()) < 0) {
		dir = NULL;
		return -ENOMEM;
	}
	if (asprintf(&procs, "%s/cgroup.procs", dir) < 0) {
		procs = NULL;
		return -ENOMEM;
	}
	if (mkdir(dir, 0755) < 0)
		return -errno;
	if (access(procs, W_OK) < 0) {
		(void)rmdir(dir);
		return -ENOENT;
	}
	h->dirs[i] = TAKE_PTR(dir);
	h->procs[i] = TAKE_PTR(procs);
	return 0;
}

/* Swap would be memory by another name; where it is not counted there is nothing to bound. */
static int put_bound(const char *dir, enum limit limit, enum cgroup_version version, uint64_t value)
{
	if (limit == LIMIT_PROCESSES)
		return put_number(dir, "pids.max", value);
	if (version == CGROUP_2) {
		(void)put(dir, "memory.swap.max", "0");
		return put_number(dir, "memory.max", value);
	}
	int r = put_number(dir, "memory.limit_in_bytes", value);
	if (r >= 0)
		(void)put_number(dir, "memory.memsw.limit_in_bytes", value);
	return r;
}

static bool hold_by_cgroup(struct limits_hold *h, enum limit limit, const char *id)
{
	const struct place *p = &h->limiter->places[limit];
	size_t i = (size_t)limit;
	if (!p->usable || make_dir(h, i, p, id) < 0)
		return false;
	if (put_bound(h->dirs[i] ? h->dirs[i] : h->dirs[0], limit, p->version, h->limits.value[limit]) >= 0)
		return true;
	/* An empty one that bounds nothing is not needed. */
	if (h->dirs[i])
		(void)rmdir(h->dirs[i]);
	free(h->procs[i]);
	free(h->dirs[i]);
	h->procs[i] = h->dirs[i] = NULL;
	return false;
}

/* ---- rlimits --------------------------------------------------------------- */

/* The kernel lets the root of the machine have any number of processes; a root that is somebody else outside
 * is bound. */
static bool processes_bind(uid_t uid)
{
	_cleanup_buf_ struct buf b = BUF_INIT(CGROUP_FILE_MAX);
	const char *map = uid == 0 ? cgroup_text(AT_FDCWD, "/proc/self/uid_map", &b) : NULL;
	struct scan s = SCAN(map);
	(void)scan_number(&s, 10, UINT32_MAX); /* inside */
	return uid != 0 || (scan_number(&s, 10, UINT32_MAX) != 0 && scan_ok(&s));
}

/* A lower bound that we are under ourselves holds. */
static void hold_by_rlimit(struct limits_hold *h, int resource, rlim_t soft, rlim_t hard)
{
	struct rlimit now;
	if (getrlimit((__rlimit_resource_t)resource, &now) == 0) {
		hard = MIN(hard, now.rlim_max);
		soft = MIN(soft, hard);
	}
	h->rlimits[h->rlimits_n++] = (struct spawn_rlimit){resource, {.rlim_cur = soft, .rlim_max = hard}};
}

static int hold_one(struct limits_hold *h, enum limit limit, const char *id, uid_t uid, struct err *err)
{
	rlim_t value = (rlim_t)h->limits.value[limit];
	h->by[limit] = LIMIT_BY_RLIMIT;
	switch (limit) {
	case LIMIT_MEMORY:
	case LIMIT_PROCESSES:
		if (hold_by_cgroup(h, limit, id)) {
			h->by[limit] = LIMIT_BY_CGROUP;
			return 0;
		}
		if (limit == LIMIT_PROCESSES && !processes_bind(uid))
			return err_set(
				err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOTSUP,
				"limits.processes: the cgroup of this container cannot be written, and "
				"no rlimit binds root; use 'uid'");
		hold_by_rlimit(h, limit == LIMIT_MEMORY ? RLIMIT_AS : RLIMIT_NPROC, value, value);
		return 0;
	case LIMIT_CPU:
		hold_by_rlimit(h, RLIMIT_CPU, value, value + 1);
		return 0;
	case LIMIT_FILES:
		hold_by_rlimit(h, RLIMIT_NOFILE, value, value);
		return 0;
	case LIMIT_OUTPUT:
	case LIMIT_TIMEOUT:
	case LIMITS_N:
		break;
	}
	h->by[limit] = LIMIT_BY_AGENT;
	return 0;
}

/* ---- the bounds of one command ----------------------------------------------- */

bool limits_any(const struct limits *limits)
{
	for (size_t i = 0; i < LIMITS_N; i++)
		if (limits->value[i] && i != LIMIT_TIMEOUT)
			return true;
	return false;
}

int limits_hold_new(struct limiter *l, const struct limits *limits, const char *id, uid_t uid,
		    struct limits_hold **ret, struct err *err)
{
	int r = 0;
	*ret = NULL;
	if (!limits_any(limits))
		return 0;
	struct limits_hold *h = calloc(1, sizeof(*h));
	if (!h)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "limits");
	list_init(&h->link);
	h->limiter = l;
	h->limits = *limits;
	for (enum limit i = 0; i < LIMITS_N && r >= 0; i++)
		if (limits->value[i])
			r = hold_one(h, i, id, uid, err);
	if (r < 0) {
		limits_hold_release(h);
		return r;
	}
	*ret = h;
	return 0;
}

void limits_hold_apply(struct limits_hold *h, struct spawn *s)
{
	s->rlimits = h->rlimits;
	s->rlimits_n = h->rlimits_n;
	for (size_t i = 0; i < SPAWN_CGROUPS_MAX; i++)
		s->cgroup_procs[i] = h->procs[i];
}

int limits_hold_join(const struct limits_hold *h, pid_t pid)
{
	char text[16];
	(void)snprintf(text, sizeof(text), "%d", (int)pid);
	for (size_t i = 0; i < SPAWN_CGROUPS_MAX; i++) {
		int r = h->dirs[i] ? put(h->dirs[i], "cgroup.procs", text) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

int limits_hold_enter(const struct limits_hold *h, pid_t pid)
{
	int r = limits_hold_join(h, pid);
	if (r < 0)
		return r;
	for (size_t i = 0; i < h->rlimits_n; i++)
		if (prlimit(pid, (__rlimit_resource_t)h->rlimits[i].resource, &h->rlimits[i].limit, NULL) < 0)
			return -errno;
	return 0;
}

char *limits_hold_json(const struct limits_hold *h)
{
	static const char *const names[] = {[LIMIT_BY_NONE] = "none",
					    [LIMIT_BY_CGROUP] = "cgroup",
					    [LIMIT_BY_RLIMIT] = "rlimit",
					    [LIMIT_BY_AGENT] = "agent"};
	struct buf b = BUF_INIT(JSON_MAX);
	struct jw w = JW_INIT(&b);
	jw_obj_begin(&w);
	for (size_t i = 0; i < LIMITS_N; i++) {
		if (!h->limits.value[i])
			continue;
		jw_key(&w, bounds[i].name);
		jw_obj_begin(&w);
		jw_kint(&w, "value", (int64_t)h->limits.value[i]);
		jw_kstr(&w, "by", names[h->by[i]]);
		jw_obj_end(&w);
	}
	jw_obj_end(&w);
	if (!buf_cstr(&b))
		buf_done(&b);
	return (char *)b.data;
}

uint64_t limits_hold_oom_kills(const struct limits_hold *h)
{
	uint64_t n = 0;
	if (h->by[LIMIT_MEMORY] != LIMIT_BY_CGROUP)
		return 0;
	_cleanup_close_ int fd = open(h->dirs[LIMIT_MEMORY], O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 && cgroup_oom_kills(fd, &n) >= 0 ? n : 0;
}

void limits_hold_release(struct limits_hold *h)
{
	if (!h)
		return;
	remove_dirs(h);
	if (has_dirs(h))
		list_add_tail(&h->limiter->left, &h->link);
	else
		hold_free(h);
}
