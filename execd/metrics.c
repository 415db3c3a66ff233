/*
 * metrics.c - cgroup and system figures.
 *
 * Owns the descriptors of the cgroup's directories, which are found once: the
 * agent's own children may be moved into cgroups below, the agent itself stays.
 * Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst, proc(5).
 */
#include "execd/metrics.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "execd/cgroup.h"
#include "lib/buf.h"
#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/scan.h"

#define MIB (1024.0 * 1024.0)

enum source { SOURCE_SYSTEM, SOURCE_CGROUP1, SOURCE_CGROUP2 };

struct metrics {
	enum source source;
	int cpu_fd, memory_fd; /* directories; the same one for v2 */
	double cpus;
	uint64_t mem_total;
	/* CPU use is measured from `base`; `recent` becomes the base once it is old enough. */
	struct point {
		uint64_t mono_usec, cpu_usec;
	} base, recent;
};

/* ---- kernel files --------------------------------------------------------- */

static int cpu_usage(const struct metrics *m, struct buf *b, uint64_t *ret_usec)
{
	struct scan s;
	uint64_t v, busy;
	int r;
	switch (m->source) {
	case SOURCE_CGROUP2: {
		const char *text = cgroup_text(m->cpu_fd, "cpu.stat", b);
		return text ? cgroup_field(text, "usage_usec", ret_usec) : -ENOENT;
	}
	case SOURCE_CGROUP1:
		r = cgroup_number(m->cpu_fd, "cpuacct.usage", b, &v);
		*ret_usec = r < 0 ? 0 : v / 1000;
		return r;
	case SOURCE_SYSTEM:
		break;
	}
	s = SCAN(cgroup_text(AT_FDCWD, "/proc/stat", b));
	scan_text(&s, "cpu ");
	busy = scan_number(&s, 10, INT64_MAX);	/* user */
	busy += scan_number(&s, 10, INT64_MAX); /* nice */
	busy += scan_number(&s, 10, INT64_MAX); /* system */
	scan_skip(&s, 2);			/* idle, iowait */
	busy += scan_number(&s, 10, INT64_MAX); /* irq */
	busy += scan_number(&s, 10, INT64_MAX); /* softirq */
	busy += scan_number(&s, 10, INT64_MAX); /* steal */
	*ret_usec = busy * (1000000U / (unsigned)sysconf(_SC_CLK_TCK));
	return scan_ok(&s) ? 0 : -ENOENT;
}

static int memory_used(const struct metrics *m, struct buf *b, uint64_t *ret)
{
	bool v2 = m->source == SOURCE_CGROUP2;
	uint64_t used, cache = 0, total;
	const char *text;
	int r;
	if (m->source != SOURCE_SYSTEM) {
		r = cgroup_number(m->memory_fd, v2 ? "memory.current" : "memory.usage_in_bytes", b, &used);
		text = r < 0 ? NULL : cgroup_text(m->memory_fd, "memory.stat", b);
		if (text)
			(void)cgroup_field(text, v2 ? "inactive_file" : "total_inactive_file", &cache);
		*ret = r < 0 ? 0 : used - MIN(cache, used);
		return r;
	}
	text = cgroup_text(AT_FDCWD, "/proc/meminfo", b);
	r = text ? cgroup_field(text, "MemTotal", &total) : -ENOENT;
	if (r >= 0)
		r = cgroup_field(text, "MemAvailable", &used);
	*ret = r < 0 ? 0 : (total - MIN(used, total)) * 1024;
	return r;
}

/* ---- limits, which do not change while we run ----------------------------- */

static double cpu_quota(const struct metrics *m, struct buf *b)
{
	uint64_t quota, period;
	const char *text;
	if (m->source == SOURCE_CGROUP2) {
		text = cgroup_text(m->cpu_fd, "cpu.max", b); /* "max 100000" or "50000 100000" */
		char *end;
		quota = text && *text != 'm' ? strtoull(text, &end, 10) : 0;
		period = quota ? strtoull(end, NULL, 10) : 0;
	} else if (m->source != SOURCE_CGROUP1 ||
		   cgroup_number(m->cpu_fd, "cpu.cfs_quota_us", b, &quota) < 0 ||
		   cgroup_number(m->cpu_fd, "cpu.cfs_period_us", b, &period) < 0) {
		return 0;
	}
	return period ? (double)quota / (double)period : 0;
}

static double cpu_count(const struct metrics *m, struct buf *b)
{
	cpu_set_t set;
	double online = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set)
								     : (double)sysconf(_SC_NPROCESSORS_ONLN);
	double quota = cpu_quota(m, b);
	return quota > 0 && quota < online ? quota : online;
}

static uint64_t memory_total(const struct metrics *m, struct buf *b)
{
	uint64_t limit = UINT64_MAX, total = 0;
	const char *text = cgroup_text(AT_FDCWD, "/proc/meminfo", b);
	if (text && cgroup_field(text, "MemTotal", &total) == 0)
		total *= 1024;
	if (m->source == SOURCE_CGROUP2) {
		(void)cgroup_number(m->memory_fd, "memory.max", b, &limit); /* "max" is no number */
	} else if (m->source == SOURCE_CGROUP1) {
		text = cgroup_text(m->memory_fd, "memory.stat", b);
		if (text)
			(void)cgroup_field(text, "hierarchical_memory_limit", &limit);
	}
	return total ? MIN(limit, total) : limit;
}

/* ---- which cgroup is ours ------------------------------------------------- */

static int open_cgroup(const char *controller, enum cgroup_version *ret_version)
{
	char path[CGROUP_PATH_MAX];
	int r = cgroup_find(controller, path, ret_version);
	if (r < 0)
		return r;
	r = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return r < 0 ? -errno : r;
}

static void find_cgroup(struct metrics *m)
{
	enum cgroup_version memory = CGROUP_1, cpu = CGROUP_1;
	m->memory_fd = open_cgroup("memory", &memory);
	if (m->memory_fd >= 0 && memory == CGROUP_2) {
		if (faccessat(m->memory_fd, "memory.current", R_OK, 0) < 0) { /* the top of the tree */
			fd_close(&m->memory_fd);
			return;
		}
		m->cpu_fd = openat(m->memory_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (m->cpu_fd >= 0)
			m->source = SOURCE_CGROUP2;
		return;
	}
	m->cpu_fd = open_cgroup("cpuacct", &cpu);
	if (m->memory_fd >= 0 && m->cpu_fd >= 0)
		m->source = SOURCE_CGROUP1;
}

int metrics_oom_kills(const struct metrics *m, uint64_t *ret)
{
	return m->memory_fd < 0 ? -ENOENT : cgroup_oom_kills(m->memory_fd, ret);
}

/* ---- samples -------------------------------------------------------------- */

int metrics_new(struct metrics **ret)
{
	_cleanup_buf_ struct buf b = BUF_INIT(CGROUP_FILE_MAX);
	struct metrics *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->cpu_fd = m->memory_fd = -EBADF;
	find_cgroup(m);
	m->cpus = cpu_count(m, &b);
	m->mem_total = memory_total(m, &b);
	m->base.mono_usec = clock_mono_usec();
	if (cpu_usage(m, &b, &m->base.cpu_usec) < 0)
		m->base.cpu_usec = 0;
	m->recent = m->base;
	*ret = m;
	return 0;
}

void metrics_free(struct metrics *m)
{
	if (!m)
		return;
	fd_close(&m->cpu_fd);
	fd_close(&m->memory_fd);
	free(m);
}

static double used_pct(struct metrics *m, struct point now)
{
	if (now.mono_usec - m->recent.mono_usec >= METRICS_WINDOW_MS * 1000ULL) {
		m->base = m->recent;
		m->recent = now;
	}
	double elapsed = (double)(now.mono_usec - m->base.mono_usec);
	double used = now.cpu_usec > m->base.cpu_usec ? (double)(now.cpu_usec - m->base.cpu_usec) : 0;
	double pct = elapsed > 0 ? used * 100.0 / elapsed / m->cpus : 0;
	return MIN(pct, 100.0);
}

int metrics_read(struct metrics *m, struct metrics_sample *ret)
{
	static const char *const names[] = {"system", "cgroup1", "cgroup2"};
	_cleanup_buf_ struct buf b = BUF_INIT(CGROUP_FILE_MAX);
	struct point now = {.mono_usec = clock_mono_usec()};
	uint64_t used;
	int r = cpu_usage(m, &b, &now.cpu_usec);
	if (r >= 0)
		r = memory_used(m, &b, &used);
	if (r < 0)
		return r;
	*ret = (struct metrics_sample){
		.cpu_count = m->cpus,
		.cpu_used_pct = used_pct(m, now),
		.mem_total_mib = (double)m->mem_total / MIB,
		.mem_used_mib = (double)used / MIB,
		.cpu_usage_usec = now.cpu_usec,
		.mem_used_bytes = used,
		.mem_total_bytes = m->mem_total,
		.timestamp_ms = clock_real_ms(),
		.source = names[m->source],
	};
	return 0;
}

static unsigned count_fds(void)
{
	unsigned n = 0;
	DIR *dir = opendir("/proc/self/fd");
	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	(void)closedir(dir);
	return n > 3 ? n - 3 : 0; /* ".", ".." and the directory itself */
}

void metrics_agent(struct metrics_agent *ret)
{
	_cleanup_buf_ struct buf b = BUF_INIT(CGROUP_FILE_MAX);
	struct rusage usage;
	struct scan s = SCAN(cgroup_text(AT_FDCWD, "/proc/self/statm", &b));
	scan_skip(&s, 1); /* size */
	uint64_t resident = scan_number(&s, 10, UINT32_MAX);
	(void)getrusage(RUSAGE_SELF, &usage);
	*ret = (struct metrics_agent){
		.resident_bytes = resident * (uint64_t)sysconf(_SC_PAGESIZE),
		.cpu_usec = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000U +
			    (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec),
		.fds = count_fds(),
	};
}
