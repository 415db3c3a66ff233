/*
 * util.h - the few macros every file uses.
 *
 * Ownership in names: a variable marked _cleanup_* is released when its scope
 * ends; TAKE_FD and TAKE_PTR hand it over instead.
 */
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Each use has names of its own, so that one MIN may stand within another. */
#define UNIQUE_NAME_2(prefix, n) prefix##n
#define UNIQUE_NAME(prefix, n)	 UNIQUE_NAME_2(prefix, n)

#define MIN(a, b) MIN_2(a, b, UNIQUE_NAME(_a_, __COUNTER__), UNIQUE_NAME(_b_, __COUNTER__))
#define MIN_2(a, b, ua, ub)                                                                                  \
	({                                                                                                   \
		__typeof__(a) ua = (a);                                                                      \
		__typeof__(b) ub = (b);                                                                      \
		ua < ub ? ua : ub;                                                                           \
	})
#define MAX(a, b) MAX_2(a, b, UNIQUE_NAME(_a_, __COUNTER__), UNIQUE_NAME(_b_, __COUNTER__))
#define MAX_2(a, b, ua, ub)                                                                                  \
	({                                                                                                   \
		__typeof__(a) ua = (a);                                                                      \
		__typeof__(b) ub = (b);                                                                      \
		ua > ub ? ua : ub;                                                                           \
	})

#define TAKE_FD(fd)                                                                                          \
	({                                                                                                   \
		int *_fd = &(fd);                                                                            \
		int _taken = *_fd;                                                                           \
		*_fd = -EBADF;                                                                               \
		_taken;                                                                                      \
	})
#define TAKE_PTR(p)                                                                                          \
	({                                                                                                   \
		__typeof__(p) *_p = &(p);                                                                    \
		__typeof__(p) _taken = *_p;                                                                  \
		*_p = NULL;                                                                                  \
		_taken;                                                                                      \
	})

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Closes *fd when it is one, keeps errno, leaves -EBADF behind. */
static inline void fd_close(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		(void)close(*fd);
		errno = saved;
	}
	*fd = -EBADF;
}

static inline void free_ptr(void *p)
{
	free(*(void **)p);
}

#define _cleanup_(fn)	__attribute__((cleanup(fn)))
#define _cleanup_close_ _cleanup_(fd_close)
#define _cleanup_free_	_cleanup_(free_ptr)
