/*
 * identity.h - files as some user of the container has them: /files and /directories, served by a process
 * with that user's ids.
 *
 * Such a process serves one connection and ends with it, so that groups and homes are what /etc/passwd and
 * /etc/group say at each request. It has nothing of the agent but the connection: no environment, no
 * descriptors, and for a uid that is not 0 no capabilities. Paths, links and directories are the kernel's to
 * allow or not.
 */
#pragma once

#include <sys/types.h>

#include "lib/err.h"

#define IDENTITY_NAME "execd-identity" /* argv[0] by which main() knows */
#define IDENTITY_FD   3

struct execd;
struct identities;

int identities_new(struct execd *execd, struct identities **ret);
void identities_free(struct identities *is); /* NULL is fine */

/*
 * *ret_fd: a connection to a process that is that user, non-blocking, the caller's. -errno with *err; nobody
 * else is asked instead.
 */
int identity_connect(struct identities *is, uid_t uid, gid_t gid, int *ret_fd, struct err *err);
/* main() of that process. serve: what it does with its socket (isolated/warden.h). */
int identity_main(int (*serve)(int socket));
