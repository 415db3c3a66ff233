/*
 * download.c - GET /files/download: a file, a byte range of it or a range of lines.
 *
 * The first DOWNLOAD_WHOLE_MAX bytes are read at once: a file that ends there is
 * answered whole with the length it really has, also where the file system
 * claims another one (/proc says 0, /sys says 4096). What says it is small and
 * goes on nevertheless is sent until it ends. Everything else is sent piece by
 * piece as the socket takes it; one that shrinks meanwhile breaks the
 * connection off, because the length is already promised.
 *
 * Lines of a large file are looked for on a worker, which owns the fields under
 * "scan" until done().
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "execd/api/api.h"
#include "execd/api/query.h"
#include "execd/api/range.h"
#include "execd/file_info.h"
#include "execd/file_read.h"
#include "execd/path.h"
#include "lib/clock.h"
#include "lib/utf8.h"

#define DOWNLOAD_WHOLE_MAX (64U << 10)
#define TYPE		   "application/octet-stream"

struct download {
	struct http_source src;
	struct http_req *req; /* NULL: the client has gone */
	char *path;
	int fd;
	struct buf head; /* the beginning, when it was read */
	bool whole;	 /* head is all there is */
	bool endless;	 /* of unknown length: to be sent until it ends */
	uint64_t offset, left;

	/* scan */
	struct pool_job job;
	uint64_t first, count;
	atomic_bool cancel;
	bool ran;
	int result;
	uint64_t begin, end;
};

static void download_free(struct download *d)
{
	if (!d)
		return;
	fd_close(&d->fd);
	buf_done(&d->head);
	free(d->path);
	free(d);
}

/* ---- the source ---------------------------------------------------------- */

static int take_head(struct download *d, struct buf *out, size_t room)
{
	size_t n = MIN(room, d->head.len);
	int r = buf_append(out, d->head.data, n);

	if (r < 0)
		return r;
	buf_consume(&d->head, n);
	if (d->head.len == 0)
		buf_done(&d->head);
	d->offset += n;
	if (d->endless)
		return 0;
	d->left -= n;
	return d->left == 0;
}

static int proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct download *d = container_of(src, struct download, src);
	size_t want = room;
	ssize_t n;
	int r;

	if (room == 0)
		return 0;
	if (d->head.len > 0)
		return take_head(d, out, want);
	if (!d->endless)
		want = MIN((uint64_t)want, d->left);
	if (want == 0)
		return d->left == 0;
	r = buf_reserve(out, want);
	if (r < 0)
		return r;
	do
		n = pread(d->fd, buf_tail(out), want, (off_t)d->offset);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return d->endless && errno == EAGAIN ? 1 : -errno;
	if (n == 0)
		return d->endless ? 1 : -EIO;
	out->len += (size_t)n;
	d->offset += (uint64_t)n;
	if (d->endless)
		return 0;
	d->left -= (uint64_t)n;
	return d->left == 0;
}

static void stop(struct http_source *src, bool complete)
{
	(void)complete;
	download_free(container_of(src, struct download, src));
}

/* The first piece of [offset, offset + n): where it cannot be read there is still a status to say so. */
static int read_first(struct download *d, uint64_t offset, uint64_t n, struct err *err)
{
	size_t want = (size_t)MIN(n, (uint64_t)DOWNLOAD_WHOLE_MAX);
	ssize_t got;

	if (d->whole || d->endless || n == 0)
		return 0;
	buf_clear(&d->head);
	if (buf_reserve(&d->head, want) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "read '%s'", d->path);
	do
		got = pread(d->fd, buf_tail(&d->head), want, (off_t)offset);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return file_err(err, errno, "read '%s'", d->path);
	d->head.len = (size_t)got;
	return 0;
}

/* Replies with [offset, offset + n) of the file; d is consumed. */
static void send_part(struct download *d, struct http_req *req, unsigned status, uint64_t offset, uint64_t n)
{
	if (d->whole) {
		http_reply(req, status, TYPE, d->head.data ? (void *)(d->head.data + offset) : "", n);
		download_free(d);
		return;
	}
	d->offset = offset;
	d->left = n;
	d->src = (struct http_source){.proceed = proceed, .stop = stop};
	http_reply_source(req, status, TYPE, d->endless ? -1 : (int64_t)n, &d->src);
}

/* ---- headers ------------------------------------------------------------- */

static bool is_plain(const char *name)
{
	for (; *name; name++)
		if ((unsigned char)*name < 0x20 || (unsigned char)*name >= 0x7f)
			return false;
	return true;
}

/* RFC 6266: the plain name quoted; another one percent-encoded, in both forms, as the reference does. */
static int add_disposition(struct http_req *req, const char *name)
{
	_cleanup_buf_ struct buf value = BUF_INIT(16U << 10), clean = BUF_INIT(4096),
				 encoded = BUF_INIT(12288);

	(void)buf_puts(&value, "attachment; filename=\"");
	if (is_plain(name)) {
		for (; *name; name++) {
			if (*name == '"' || *name == '\\')
				(void)buf_putc(&value, '\\');
			(void)buf_putc(&value, *name);
		}
		(void)buf_putc(&value, '"');
	} else {
		(void)utf8_sanitize(&clean, name, strlen(name));
		if (clean.failed || !buf_cstr(&clean))
			return -ENOMEM;
		(void)file_percent_encode(&encoded, buf_cstr(&clean), "");
		if (encoded.failed || !buf_cstr(&encoded))
			return -ENOMEM;
		(void)buf_printf(&value, "%s\"; filename*=UTF-8''%s", buf_cstr(&encoded), buf_cstr(&encoded));
	}
	if (value.failed || !buf_cstr(&value))
		return -ENOMEM;
	return http_add_header(req, "Content-Disposition", buf_cstr(&value));
}

static int add_headers(struct http_req *req, const struct download *d, const char *modified, struct err *err)
{
	int r = add_disposition(req, path_base(d->path));

	if (r >= 0)
		r = http_add_header(req, "Last-Modified", modified);
	if (r >= 0 && !d->endless)
		r = http_add_header(req, "Accept-Ranges", "bytes");
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "headers for '%s'", d->path);
	return 0;
}

/* ---- byte ranges ---------------------------------------------------------- */

/* The whole file, or the range asked for. Consumes d when it returns 0. */
static int send_bytes(struct download *d, struct http_req *req, uint64_t size, struct err *err)
{
	const char *range = http_header(req, "range"), *if_range = http_header(req, "if-range");
	uint64_t offset = 0, n = size;
	char modified[CLOCK_HTTP_MAX], text[96];
	struct stat st;
	int r = 0;

	if (fstat(d->fd, &st) < 0)
		return file_err(err, errno, "read '%s'", d->path);
	(void)clock_http(st.st_mtime, modified);
	if (range && !d->endless && (!if_range || strcmp(if_range, modified) == 0))
		r = range_parse(range, size, &offset, &n);
	if (r < 0) {
		(void)snprintf(text, sizeof(text), "bytes */%llu", (unsigned long long)size);
		(void)http_add_header(req, "Content-Range", text);
		return err_set(err, ERR_RANGE, "UNKNOWN", ERANGE, "range '%s' of '%s', which has %llu bytes",
			       range, d->path, (unsigned long long)size);
	}
	if (read_first(d, offset, n, err) < 0)
		return -EIO;
	if (r > 0) {
		(void)snprintf(text, sizeof(text), "bytes %llu-%llu/%llu", (unsigned long long)offset,
			       (unsigned long long)(offset + n - 1), (unsigned long long)size);
		if (http_add_header(req, "Content-Range", text) < 0)
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "headers for '%s'", d->path);
	}
	if (add_headers(req, d, modified, err) < 0)
		return -ENOMEM;
	send_part(d, req, r > 0 ? 206 : 200, offset, n);
	return 0;
}

/* ---- lines ----------------------------------------------------------------- */

static int parse_count(const char *text, const char *name, uint64_t min, uint64_t *ret, struct err *err)
{
	char *end;

	if (!text)
		return 0;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (errno || text[0] < '0' || text[0] > '9' || *end || *ret < min || *ret > INT64_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "query parameter '%s' is '%s' and not a number from %llu on", name, text,
			       (unsigned long long)min);
	return 1;
}

/* 1 when the query asks for lines. */
static int parse_lines(struct http_req *req, uint64_t *ret_first, uint64_t *ret_count, struct err *err)
{
	int offset, limit;

	*ret_first = 1;
	*ret_count = UINT64_MAX;
	offset = parse_count(http_query(req, "offset"), "offset", 1, ret_first, err);
	if (offset < 0)
		return offset;
	limit = parse_count(http_query(req, "limit"), "limit", 0, ret_count, err);
	if (limit < 0)
		return limit;
	if ((offset || limit) && http_header(req, "range"))
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "either lines (offset, limit) or a Range of bytes can be asked for, not both");
	return offset || limit;
}

static void scan_run(struct pool_job *job)
{
	struct download *d = container_of(job, struct download, job);

	d->result = file_find_lines(d->fd, d->first, d->count, &d->cancel, &d->begin, &d->end);
	d->ran = true;
}

static int send_lines(struct download *d, struct http_req *req, struct err *err)
{
	char modified[CLOCK_HTTP_MAX];
	struct stat st;

	if (!d->ran)
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED, "the agent is stopping");
	if (d->result < 0 || fstat(d->fd, &st) < 0)
		return file_err(err, d->result < 0 ? -d->result : errno, "read '%s'", d->path);
	(void)clock_http(st.st_mtime, modified);
	d->endless = false;
	if (read_first(d, d->begin, d->end - d->begin, err) < 0)
		return -EIO;
	if (add_headers(req, d, modified, err) < 0)
		return -ENOMEM;
	send_part(d, req, 200, d->begin, d->end - d->begin);
	return 0;
}

static void scan_done(struct pool_job *job)
{
	struct download *d = container_of(job, struct download, job);
	struct http_req *req = d->req;
	struct err err;

	if (!req) {
		download_free(d);
		return;
	}
	http_set_data(req, NULL);
	if (send_lines(d, req, &err) < 0) {
		download_free(d);
		http_reply_err(req, &err);
	}
}

static void scan_gone(struct http_req *req)
{
	struct download *d = http_data(req);

	d->req = NULL;
	atomic_store(&d->cancel, true);
}

static int start_scan(struct download *d, struct http_req *req, struct err *err)
{
	struct execd *execd = http_app(req);
	int r;

	d->req = req;
	d->job = (struct pool_job){.run = scan_run, .done = scan_done};
	r = pool_submit(execd->pool, &d->job);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	http_set_data(req, d);
	http_on_gone(req, scan_gone);
	return 0;
}

/* ---- the request ------------------------------------------------------------ */

/* Reads the beginning of what says it is small, and learns whether it is. */
static int read_head(struct download *d, uint64_t size, struct err *err)
{
	ssize_t n = 1;

	d->head = BUF_INIT(DOWNLOAD_WHOLE_MAX);
	if (size > DOWNLOAD_WHOLE_MAX)
		return 0;
	/* One byte more than it claims to have, so that the usual file needs one read and its end another. */
	while (n != 0 && d->head.len < DOWNLOAD_WHOLE_MAX) {
		size_t want = d->head.len == 0 && size > 0
				      ? MIN(size + 1, (uint64_t)DOWNLOAD_WHOLE_MAX)
				      : MIN((size_t)4096, DOWNLOAD_WHOLE_MAX - d->head.len);

		if (buf_reserve(&d->head, want) < 0)
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "read '%s'", d->path);
		n = pread(d->fd, buf_tail(&d->head), want, (off_t)d->head.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && d->head.len > 0)
			break;
		if (n < 0)
			return file_err(err, errno, "read '%s'", d->path);
		d->head.len += (size_t)n;
	}
	if (n <= 0)
		d->whole = true;
	else if (size < DOWNLOAD_WHOLE_MAX)
		d->endless = true;
	return 0;
}

static int download_start(struct download *d, struct http_req *req, struct err *err)
{
	struct stat st;
	uint64_t size;
	int lines, r;

	lines = parse_lines(req, &d->first, &d->count, err);
	if (lines < 0)
		return lines;
	r = file_read_open(d->path, &d->fd, &st, err);
	if (r >= 0)
		r = read_head(d, (uint64_t)st.st_size, err);
	if (r < 0)
		return r;
	size = d->whole ? d->head.len : (uint64_t)st.st_size;
	if (!lines)
		return send_bytes(d, req, size, err);
	if (!d->whole)
		return start_scan(d, req, err);
	lines_find(d->head.data, d->head.len, d->first, d->count, &d->begin, &d->end);
	d->ran = true;
	return send_lines(d, req, err);
}

int files_download_get(struct http_req *req, struct err *err)
{
	const char *given;
	struct download *d;
	int r = query_need(req, "path", &given, err);

	if (r < 0)
		return r;
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "download");
	d->fd = -EBADF;
	r = path_absolute(given, &d->path, err);
	if (r >= 0)
		r = download_start(d, req, err);
	if (r < 0)
		download_free(d);
	return r;
}
