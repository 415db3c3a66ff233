/*
 * err.c - fills struct err; owns nothing, keeps no state, safe from any thread.
 */
#include "lib/err.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static void err_fill(struct err *err, enum err_kind kind, const char *code, int errnum, const char *message)
{
	err->kind = kind;
	err->code = code;
	err->errnum = errnum;
	/* The message was built aside, because an argument may be the old err->message. */
	(void)snprintf(err->message, sizeof(err->message), "%s", message);
}

int(err_set)(struct err *err, enum err_kind kind, const char *code, int errnum, const char *fmt, ...)
{
	char message[ERR_MESSAGE_MAX];
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		(void)vsnprintf(message, sizeof(message), fmt, ap);
		va_end(ap);
		err_fill(err, kind, code, errnum, message);
	}
	return errnum ? -errnum : -EINVAL;
}

static enum err_kind kind_of_errno(int errnum)
{
	switch (errnum) {
	case ENOENT:
		return ERR_NOT_FOUND;
	case EACCES:
	case EPERM:
		return ERR_FORBIDDEN;
	case ENOSPC:
	case EDQUOT:
		return ERR_STORAGE;
	case EMFILE:
	case ENFILE:
	case EAGAIN:
	case ENOMEM:
		return ERR_UNAVAILABLE;
	case EEXIST:
	case ENOTEMPTY:
	case EBUSY:
		return ERR_CONFLICT;
	case ENOTDIR:
	case EISDIR:
	case ENAMETOOLONG:
	case ELOOP:
	case EINVAL:
		return ERR_INVALID;
	default:
		return ERR_INTERNAL;
	}
}

int(err_sys)(struct err *err, const char *code, int errnum, const char *fmt, ...)
{
	char message[ERR_MESSAGE_MAX], reason[128];
	size_t room, n;
	va_list ap;

	if (!err)
		return errnum ? -errnum : -EINVAL;

	(void)snprintf(reason, sizeof(reason), ": %s", strerror(errnum));
	if (islower((unsigned char)reason[3]))
		reason[2] = (char)tolower((unsigned char)reason[2]);

	/* A long path is cut before the reason is: the reason is what helps. */
	room = sizeof(message) - strlen(reason);
	va_start(ap, fmt);
	(void)vsnprintf(message, room, fmt, ap);
	va_end(ap);
	n = strlen(message);
	memcpy(message + n, reason, strlen(reason) + 1);
	err_fill(err, kind_of_errno(errnum), code, errnum, message);
	return errnum ? -errnum : -EINVAL;
}
