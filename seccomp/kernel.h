/*
 * kernel.h - the kernel's own definitions that the C library's headers may lack.
 *
 * Only what is newer than the oldest headers this is built with (Linux 6.1).
 */
#pragma once

#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/socket.h>

/* seccomp(2), SECCOMP_SET_MODE_FILTER */
#define FILTER_LISTENER	     (1U << 3) /* the result is a descriptor that denied calls are told on */
#define FILTER_WAIT_KILLABLE (1U << 5) /* a told call is not interrupted by signals; Linux 5.19 */

/* capget(2), capset(2): 64 bits in two words */
#define CAP_VERSION_3 0x20080522
struct cap_header {
	uint32_t version;
	int32_t pid;
};
struct cap_words {
	uint32_t effective, permitted, inheritable;
};

/* landlock_create_ruleset(2): grows with each version; what the kernel does not know must be zero. */
struct landlock_handled {
	uint64_t fs, net, scope;
};
#define LANDLOCK_READS                                                                                       \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define LANDLOCK_ALL_1	   ((1ULL << 13) - 1) /* everything of version 1 */
#define LANDLOCK_REFER	   (1ULL << 13)	      /* version 2: rename and link between directories */
#define LANDLOCK_TRUNCATE  (1ULL << 14)	      /* version 3 */
#define LANDLOCK_IOCTL_DEV (1ULL << 15)	      /* version 5 */
#define LANDLOCK_OF_FILES                                                                                    \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |         \
	 LANDLOCK_TRUNCATE | LANDLOCK_IOCTL_DEV)
#define LANDLOCK_SCOPE_ABSTRACT_SOCKETS (1ULL << 0) /* version 6 */
#define LANDLOCK_SCOPE_SIGNALS		(1ULL << 1)

/* What a recorded program is not likely to pass to sendmsg(2); all without meaning on a local socket. */
#define CONFINE_SEND_FLAGS (MSG_NOSIGNAL | MSG_DONTROUTE | MSG_CONFIRM)
