/*
 * log.h - one line per fact, to stderr or to a file.
 *
 * `2026-01-31T12:00:00.123Z level message`. Written with one write(2), so that
 * lines of several processes do not mix. Control characters are escaped: what
 * a peer sent cannot forge a line. Never pass secrets.
 */
#pragma once

#include "lib/util.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* fd is borrowed. Default: stderr, LOG_INFO. */
void log_init(int fd, enum log_level max);
/* "error", "warn", "info", "debug"; -EINVAL for anything else. */
int log_level_parse(const char *s, enum log_level *ret);

extern enum log_level log_max;
void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_at(level, ...)                                                                                   \
	do {                                                                                                 \
		if ((level) <= log_max)                                                                      \
			log_write(level, __VA_ARGS__);                                                       \
	} while (0)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)
