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

static void sys_fill(struct err *err, const char *code, int errnum, const char *fmt, va_list ap)
{
	char message[ERR_MESSAGE_MAX], reason[128];
	size_t room, n;

	(void)snprintf(reason, sizeof(reason), ": %s", strerror(errnum));
	if (islower((unsigned char)reason[3]))
		reason[2] = (char)tolower((unsigned char)reason[2]);

	/* A long path is cut before the reason is: the reason is what helps. */
	room = sizeof(message) - strlen(reason);
	(void)vsnprintf(message, room, fmt, ap);
	n = strlen(message);
	memcpy(message + n, reason, strlen(reason) + 1);
	err_fill(err, kind_of_errno(errnum), code, errnum, message);
}

int(err_sys)(struct err *err, const char *code, int errnum, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		sys_fill(err, code, errnum, fmt, ap);
		va_end(ap);
	}
	return errnum ? -errnum : -EINVAL;
}

int(err_sys_given)(struct err *err, int errnum, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		sys_fill(err, "RUNTIME_ERROR", errnum, fmt, ap);
		va_end(ap);
		if (err->kind == ERR_NOT_FOUND || err->kind == ERR_FORBIDDEN || err->kind == ERR_INVALID) {
			err->kind = ERR_INVALID;
			err->code = "INVALID_REQUEST_BODY";
		}
	}
	return errnum ? -errnum : -EINVAL;
}
