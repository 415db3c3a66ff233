/*
 * output.c - what a container has said: the file container.log of its box. No state.
 */
#include "sandboxd/oci/output.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/utf8.h"
#include "sandboxd/oci/box.h"

#define LOG_TAIL_MAX 2048

void output_last_line(const char *path, char *out, size_t size)
{
	char text[LOG_TAIL_MAX + 1];
	_cleanup_buf_ struct buf line = BUF_INIT(4 * LOG_TAIL_MAX);
	struct stat st;

	out[0] = '\0';
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	ssize_t n = pread(fd, text, LOG_TAIL_MAX, MAX(st.st_size - LOG_TAIL_MAX, (off_t)0));
	while (n > 0 && strchr("\r\n\t ", text[n - 1]))
		n--;
	if (n <= 0)
		return;
	const char *begin = memrchr(text, '\n', (size_t)n);
	begin = begin ? begin + 1 : text;
	if (utf8_sanitize(&line, begin, MIN((size_t)(text + n - begin), size - 1)) < 0)
		return;
	/* A replacement is longer than what it replaces; a cut one is dropped whole. */
	size_t len = MIN(line.len, size - 1);
	len -= utf8_incomplete_tail(line.data, len);
	memcpy(out, line.data, len);
	out[len] = '\0';
	for (char *c = out; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
}

void output_tail(const struct oci_box *b, char *out, size_t size)
{
	char path[PATH_MAX + 32];

	(void)snprintf(path, sizeof(path), "%s/container.log", b->dir);
	output_last_line(path, out, size);
}

int oci_log(struct runtime *rt, const char *id, runtime_log_fn *fn, void *arg)
{
	char path[PATH_MAX];
	struct stat st;

	if (snprintf(path, sizeof(path), "%s/sandboxes/%s/container.log", oci_of(rt)->config->state_dir,
		     id) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	off_t at = MAX(st.st_size - RUNTIME_LOG_MAX, (off_t)0);
	_cleanup_buf_ struct buf out = BUF_INIT(RUNTIME_LOG_MAX);
	int r = buf_reserve(&out, RUNTIME_LOG_MAX);
	if (r < 0)
		return r;
	ssize_t n = pread(fd, buf_tail(&out), RUNTIME_LOG_MAX, at);
	if (n < 0)
		return -errno;
	out.len += (size_t)n;
	fn(arg, &out, at > 0, 0);
	return 0;
}
