/*
 * metrics.h - what the container uses, without waiting for a sample.
 *
 * The figures are those of the cgroup the agent was started in (v2, or v1's
 * cpuacct and memory controllers); where the container shows no cgroup, those
 * of the whole system. CPU use is measured between two calls: over the time
 * since the last sample that is at least METRICS_WINDOW_MS old, the first of
 * which is taken when the agent starts.
 */
#pragma once

#include "lib/util.h"

#define METRICS_WINDOW_MS 500

struct metrics;

int metrics_new(struct metrics **ret);
void metrics_free(struct metrics *m);

struct metrics_sample {
	double cpu_count;    /* the quota where there is one, else the processors we may run on */
	double cpu_used_pct; /* of cpu_count, 0 to 100 */
	double mem_total_mib;
	double mem_used_mib; /* without page cache that can be dropped at once */
	uint64_t cpu_usage_usec;
	uint64_t mem_used_bytes, mem_total_bytes;
	uint64_t timestamp_ms;
	const char *source; /* "cgroup2", "cgroup1", "system" */
};

/* Reads a few kernel files; -errno when none of them can be read. */
int metrics_read(struct metrics *m, struct metrics_sample *ret);

/* Processes of our own cgroup that the kernel has killed for want of memory, ever. -errno when nothing tells.
 */
int metrics_oom_kills(const struct metrics *m, uint64_t *ret);

/* The agent itself. */
struct metrics_agent {
	uint64_t resident_bytes;
	uint64_t cpu_usec;
	unsigned fds;
};
void metrics_agent(struct metrics_agent *ret);
