/*
 * log.c - lines to one descriptor. Any thread may write: a line is built on the
 * stack and leaves in one write(2). The settings are made once, at the start.
 */
#include "lib/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/utf8.h"

/* The whole line, newline included; PIPE_BUF is 4096. */
#define LOG_LINE_MAX 2048
#define ELLIPSIS     "\xe2\x80\xa6\n"
/* The longest form of one character: \xNN, or a UTF-8 sequence. */
#define FORM_MAX 4

enum log_level log_max = LOG_INFO;
static int log_fd = STDERR_FILENO;

static const char *const level_names[] = {
	[LOG_ERROR] = "error",
	[LOG_WARN] = "warn",
	[LOG_INFO] = "info",
	[LOG_DEBUG] = "debug",
};

void log_init(int fd, enum log_level max)
{
	log_fd = fd;
	log_max = max;
}

int log_level_parse(const char *s, enum log_level *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
		if (strcmp(s, level_names[i]) == 0) {
			*ret = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* Bytes of a printable character at s, 0 when it must be escaped: controls (C0, DEL, C1) and broken UTF-8. */
static size_t printable(const char *s)
{
	unsigned char c = (unsigned char)s[0];
	size_t n;

	if (c < 0x80)
		return c >= 0x20 && c != 0x7f;
	if (c == 0xc2 && (unsigned char)s[1] < 0xa0)
		return 0;
	n = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	return utf8_valid(s, strnlen(s, n)) ? n : 0;
}

static size_t put_escaped(char *out, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";

	out[0] = '\\';
	if (c == '\n' || c == '\t' || c == '\r') {
		out[1] = c == '\n' ? 'n' : c == '\t' ? 't' : 'r';
		return 2;
	}
	out[1] = 'x';
	out[2] = hex[c >> 4];
	out[3] = hex[c & 15];
	return 4;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[LOG_LINE_MAX], message[LOG_LINE_MAX], stamp[CLOCK_RFC3339_MAX];
	const size_t room = sizeof(line) - sizeof(ELLIPSIS) - FORM_MAX;
	int saved = errno, n;
	size_t len;
	va_list ap;
	char *p;

	va_start(ap, fmt);
	n = vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	if (n < 0)
		message[0] = '\0';
	len = (size_t)snprintf(line, sizeof(line), "%s %s ", clock_rfc3339(clock_real_ms(), stamp),
			       level_names[level]);
	for (p = message; *p && len <= room;) {
		size_t k = printable(p);

		if (k > 0)
			memcpy(line + len, p, k);
		len += k > 0 ? k : put_escaped(line + len, (unsigned char)*p);
		p += k > 0 ? k : 1;
	}
	if (*p || (size_t)MAX(n, 0) >= sizeof(message)) {
		memcpy(line + len, ELLIPSIS, sizeof(ELLIPSIS) - 1);
		len += sizeof(ELLIPSIS) - 1;
	} else {
		line[len++] = '\n';
	}
	while (write(log_fd, line, len) < 0 && errno == EINTR)
		;
	errno = saved;
}
