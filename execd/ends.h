/*
 * ends.h - both ends of a shell's descriptors 0, 1 and 2: of a pseudoterminal, or of three pipes.
 */
#pragma once

#include <errno.h>
#include <sys/types.h>

struct ends {
	int out, error, in; /* ours; error is -EBADF for a terminal */
	int child[3];
};
#define ENDS_NONE                                                                                            \
	((struct ends){.out = -EBADF, .error = -EBADF, .in = -EBADF, .child = {-EBADF, -EBADF, -EBADF}})

/* 0 or -errno, with what has been opened by then left to ends_done(). All are close-on-exec; ours do not
 * block. */
int ends_pipes(struct ends *e);
/* owner: whose the terminal is to be; (uid_t)-1: ours. */
int ends_terminal(struct ends *e, unsigned cols, unsigned rows, uid_t owner);
/* Closes what has not been taken. */
void ends_done(struct ends *e);

/* fd: either side of a terminal. 0 or -errno. */
int ends_set_size(int fd, unsigned cols, unsigned rows);
