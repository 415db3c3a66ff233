/*
 * language.h - the languages that code runs in: one row each.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/buf.h"

#define LANGUAGE_PROGRAMS_MAX 4

struct language {
	const char *name;
	const char *programs[LANGUAGE_PROGRAMS_MAX]; /* the first that is in PATH is started */
	const char *const *args;		     /* after the program's name, NULL-terminated */
	const char *assets; /* its folder in kernels/, or a file there that is handed over as it is */
	const char *ready;  /* a file that a build may have made of these; handed over instead */
	const char *const *ready_args; /* what args are then */
	const char
		*beside; /* or none of these three but args: a file in the folder kernels/ beside the agent */
	const char *native; /* a library there that lets its forks be confined (NATIVE_FD) */
	bool zygote;	    /* contexts are forked from one warm process by FRAME_FORK */
	bool spare;  /* one started process waits for the next context, which takes it over by FRAME_BEGIN */
	bool rooted; /* a process of it cannot change its directory: its spare stands where contexts are
			wanted */
	bool shell;  /* no program of ours: the living shell of execd/shell.h */
};

/* NULL when there is no such language. */
const struct language *language_find(const char *name);
/* "python, ...": the names in the order of the table. */
void language_names(struct buf *out);
