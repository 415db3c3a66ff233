/*
 * err.h - a failure that may reach a client, filled where the fact is known.
 *
 * Functions that can fail for a reason worth telling take `struct err *err` as
 * their last argument (NULL is allowed) and return -errno. Whoever knows the
 * fact writes the message ("open '/workspace/x': permission denied"); proto/
 * turns the kind into a status and the whole into a JSON body, once.
 */
#pragma once

#include <stdarg.h>

#include "lib/util.h"

enum err_kind {
	ERR_INTERNAL,	   /* our fault or the system's */
	ERR_INVALID,	   /* the request is wrong */
	ERR_UNAUTHORIZED,  /* no key, or a wrong one */
	ERR_FORBIDDEN,	   /* understood and refused */
	ERR_NOT_FOUND,	   /* no such thing */
	ERR_METHOD,	   /* the thing exists, the method does not */
	ERR_CONFLICT,	   /* not in this state */
	ERR_GONE,	   /* it was there and is no more */
	ERR_TOO_LARGE,	   /* over a named limit on size */
	ERR_RANGE,	   /* range not satisfiable */
	ERR_LIMIT,	   /* over a named limit on count or rate */
	ERR_UNAVAILABLE,   /* cannot be served now, may be later */
	ERR_NOT_SUPPORTED, /* this build, kernel or image cannot do it */
	ERR_BAD_GATEWAY,   /* whoever we asked did not answer properly */
	ERR_TIMEOUT,	   /* it took longer than its limit */
	ERR_STORAGE,	   /* no space, no quota */
	ERR_UPGRADE,	   /* it is there, over another protocol */
};

#define ERR_MESSAGE_MAX 512

struct err {
	enum err_kind kind;
	const char *code; /* static string of the API, e.g. "FILE_NOT_FOUND" */
	int errnum;	  /* positive errno, 0 when none applies */
	char message[ERR_MESSAGE_MAX];
};

/*
 * Fills *err (when not NULL) and returns -errnum, or -EINVAL when errnum is 0,
 * so that `return err_set(...)` is the whole error path.
 */
int err_set(struct err *err, enum err_kind kind, const char *code, int errnum, const char *fmt, ...)
	PRINTF_LIKE(5, 6);

/*
 * The same for a failed system call: appends ": <strerror>" to the message and
 * derives the kind from errnum (ENOENT not found, EACCES and EPERM forbidden,
 * ENOSPC and EDQUOT storage, EMFILE, ENFILE, EAGAIN and ENOMEM unavailable,
 * EEXIST, ENOTEMPTY and EBUSY conflict, ENOTDIR, EISDIR, ENAMETOOLONG, ELOOP
 * and EINVAL invalid, everything else internal).
 */
int err_sys(struct err *err, const char *code, int errnum, const char *fmt, ...) PRINTF_LIKE(4, 5);

/*
 * The same where the call was made on what the request names: that it is not there, or may not be used, is an
 * INVALID_REQUEST_BODY; what the system is short of stays a RUNTIME_ERROR.
 */
int err_sys_given(struct err *err, int errnum, const char *fmt, ...) PRINTF_LIKE(3, 4);

#ifdef __clang_analyzer__ /* does not look into err.c: tell it that both are negative */
#define ERR_NEGATIVE(call)                                                                                   \
	({                                                                                                   \
		int _negative = (call);                                                                      \
		if (_negative >= 0)                                                                          \
			__builtin_unreachable();                                                             \
		_negative;                                                                                   \
	})
#define err_set(...)	   ERR_NEGATIVE(err_set(__VA_ARGS__))
#define err_sys(...)	   ERR_NEGATIVE(err_sys(__VA_ARGS__))
#define err_sys_given(...) ERR_NEGATIVE(err_sys_given(__VA_ARGS__))
#endif
