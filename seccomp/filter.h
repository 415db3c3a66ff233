/*
 * filter.h - the BPF programs of one profile, and what they answer.
 *
 * A profile becomes three programs (see apply.h for their use):
 *
 *   plain   the profile as it stands
 *   notify  the same, but what is denied is told to the listener, and the calls that a start
 *           still needs pass
 *   rest    denies of those calls what the profile denies; empty when that is nothing
 *
 * The listener asks `plain` what to answer, by running it on the call it was told
 * of: so the answer is the one that the kernel would have given. Any thread.
 */
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILTER_EXTRAS_MAX 32

/* What a child still calls with the filter in force, until its exec. */
#define FILTER_START_CALLS_N 5
extern const int filter_start_calls[FILTER_START_CALLS_N];

struct filter_program {
	struct sock_filter *insns; /* owned */
	size_t n;
};

struct filter {
	struct filter_program plain, notify, rest;
};

/* Calls that the compiler of the profile did not know: answered before its program is asked. */
struct filter_extra {
	int nr;
	uint32_t action; /* SECCOMP_RET_* with its data */
};

struct filter_parts {
	const struct sock_filter *body; /* libseccomp's program */
	size_t body_n;
	struct filter_extra extras[FILTER_EXTRAS_MAX];
	size_t extras_n;
	int newest;    /* calls of this architecture above it are answered with ENOSYS; -1: none */
	bool start_ok; /* all calls that a start needs are allowed by the profile whatever their arguments */
};

/* -ENOMEM, or -E2BIG when a program is longer than the kernel takes. Zeroes *ret on failure. */
int filter_build(const struct filter_parts *parts, struct filter *ret);
/* One that tells the listener of everything but what no program can do without. */
int filter_build_recorder(struct filter *ret);
void filter_done(struct filter *f);

/* What the program answers: SECCOMP_RET_* with its data. An instruction that is none of ours kills. */
uint32_t filter_run(const struct filter_program *p, const struct seccomp_data *data);
/* Passed by the recorder untold, so that every recorded profile has to have them: -1 ends them. */
extern const int filter_untold[];
