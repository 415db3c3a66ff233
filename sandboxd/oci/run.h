/*
 * run.h - a program that is waited for: told on stdin, read from stdout. Blocks;
 * for the time before anything is served, and for oci-enter.
 */
#pragma once

#include "lib/buf.h"
#include "lib/err.h"

#define RUN_INPUT_MAX 65536 /* what a pipe takes without being read */

struct run {
	const char *path; /* absolute, or looked up in envp's PATH */
	char *const *argv;
	char *const *envp;
	const char *input; /* or NULL */
	bool with_stderr;  /* what it says there comes too; otherwise it goes to ours */
};

/* out: bounded by its max, the rest is lost. 0: exit code 0. -EIO: another end; *out may say why. */
int run_program(const struct run *run, struct buf *out, struct err *err);
