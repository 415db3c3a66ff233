/*
 * file_info.c - FileInfo objects, modes and owners. No state; any thread.
 */
#include "execd/file_info.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/utf8.h"

int file_stat(int dirfd, const char *path, struct statx *ret)
{
	int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;

	return fs_statx(dirfd, path, flags, ret);
}

const char *file_type(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symlink";
	default:
		return "other";
	}
}

const char *file_kind(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "a file";
	case S_IFDIR:
		return "a directory";
	case S_IFLNK:
		return "a symbolic link";
	case S_IFIFO:
		return "a FIFO";
	case S_IFSOCK:
		return "a socket";
	case S_IFCHR:
		return "a character device";
	case S_IFBLK:
		return "a block device";
	default:
		return "no regular file";
	}
}

/* RFC 3339 with the nanoseconds that the file system has; years outside 1..9999 are clamped. */
static void write_time(struct jw *w, const char *key, const struct statx_timestamp *ts)
{
	struct clock_date d;
	char text[64];

	clock_date(ts->tv_sec, &d);
	(void)snprintf(text, sizeof(text), "%04u-%02u-%02uT%02u:%02u:%02u.%09uZ", d.year, d.month, d.day,
		       d.hour, d.minute, d.second, (unsigned)ts->tv_nsec);
	jw_kstr(w, key, text);
}

static void write_owner(struct jw *w, const char *key, const char *name, unsigned id)
{
	char number[16];

	if (!name) {
		(void)snprintf(number, sizeof(number), "%u", id);
		name = number;
	}
	jw_kstr(w, key, name);
}

void file_path_write(struct jw *w, const char *key, const char *key_encoded, const char *path)
{
	size_t n = strlen(path);

	jw_key(w, key);
	jw_strn(w, path, n);
	if (!utf8_valid(path, n)) {
		_cleanup_buf_ struct buf encoded = BUF_INIT(n * 3 + 1);

		(void)file_percent_encode(&encoded, path, "/");
		jw_key(w, key_encoded);
		jw_strn(w, encoded.data, encoded.len);
	}
}

void file_info_write(struct jw *w, const char *path, const struct statx *stx, const struct accounts *accounts)
{
	const char *user = accounts ? accounts_user_name(accounts, stx->stx_uid) : NULL;
	const char *group = accounts ? accounts_group_name(accounts, stx->stx_gid) : NULL;
	bool has_btime = stx->stx_mask & STATX_BTIME && stx->stx_btime.tv_sec != 0;

	jw_obj_begin(w);
	file_path_write(w, "path", "path_encoded", path);
	jw_kstr(w, "type", file_type(stx->stx_mode));
	jw_kint(w, "size", (int64_t)stx->stx_size);
	write_time(w, "modified_at", &stx->stx_mtime);
	/* Where a file system has no birth time, or an image was made without: the change time, as in the
	 * reference. */
	write_time(w, "created_at", has_btime ? &stx->stx_btime : &stx->stx_ctime);
	write_owner(w, "owner", user, stx->stx_uid);
	write_owner(w, "group", group, stx->stx_gid);
	jw_kint(w, "mode", file_mode_to_digits(stx->stx_mode));
	jw_obj_end(w);
}

/* 644 is 0644. -EINVAL for a digit over 7 or more than 7777. */
static int file_mode_from_digits(int64_t digits, mode_t *ret)
{
	mode_t mode = 0;

	if (digits < 0 || digits > 7777)
		return -EINVAL;
	for (unsigned shift = 0; digits > 0; shift += 3, digits /= 10) {
		if (digits % 10 > 7)
			return -EINVAL;
		mode |= (mode_t)(digits % 10) << shift;
	}
	*ret = mode;
	return 0;
}

unsigned file_mode_to_digits(mode_t mode)
{
	return ((mode >> 9) & 7) * 1000 + ((mode >> 6) & 7) * 100 + ((mode >> 3) & 7) * 10 + (mode & 7);
}

int file_percent_encode(struct buf *out, const char *s, const char *keep)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

	for (; *s; s++) {
		if (strchr(plain, *s) || strchr(keep, *s))
			(void)buf_putc(out, *s);
		else
			(void)buf_printf(out, "%%%02X", (unsigned char)*s);
	}
	return out->failed ? -ENOMEM : 0;
}

int(file_err)(struct err *err, int errnum, const char *fmt, ...)
{
	char message[ERR_MESSAGE_MAX];
	va_list ap;
	int r;

	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	r = err_sys(err, "RUNTIME_ERROR", errnum, "%s", message);
	if (!err)
		return r;
	if (errnum == EROFS || errnum == ETXTBSY)
		err->kind = ERR_FORBIDDEN;
	else if (errnum == EFBIG)
		err->kind = ERR_TOO_LARGE;
	if (err->kind == ERR_NOT_FOUND)
		err->code = "FILE_NOT_FOUND";
	else if (err->kind == ERR_INVALID)
		err->code = "INVALID_FILE";
	return r;
}

static int no_account(struct err *err, const char *what, const char *name)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
		       "%s '%s' is neither a name that this system knows nor a number", what, name);
}

int file_perm_parse(json_t *obj, const struct accounts *accounts, struct file_perm *ret, struct err *err)
{
	struct file_perm perm = FILE_PERM_NONE;
	const char *owner = "", *group = "";
	int64_t digits = 0;
	int r;

	r = json_get_int(obj, "mode", JSON_OPTIONAL, 0, INT32_MAX, &digits, err);
	if (r >= 0)
		r = json_get_str(obj, "owner", JSON_OPTIONAL, &owner, err);
	if (r >= 0)
		r = json_get_str(obj, "group", JSON_OPTIONAL, &group, err);
	if (r < 0)
		return r;
	if (file_mode_from_digits(digits, &perm.mode) < 0)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "mode %lld does not read as an octal mode up to 7777", (long long)digits);
	perm.has_mode = digits != 0;
	if (owner[0] && accounts_user_id(accounts, owner, &perm.uid) < 0)
		return no_account(err, "owner", owner);
	if (group[0] && accounts_group_id(accounts, group, &perm.gid) < 0)
		return no_account(err, "group", group);
	*ret = perm;
	return 0;
}
