/*
 * clock.h - time as numbers, as RFC 3339 text, and as HTTP has it.
 */
#pragma once

#include "lib/util.h"

uint64_t clock_mono_ms(void);
uint64_t clock_mono_usec(void);
uint64_t clock_real_ms(void); /* Unix milliseconds */

#define CLOCK_RFC3339_MAX 32

/* "2026-01-31T12:00:00.123Z", always UTC, always milliseconds. Returns out. */
char *clock_rfc3339(uint64_t real_ms, char out[CLOCK_RFC3339_MAX]);
/* RFC 3339 section 5.6, any offset, any number of fraction digits. -EINVAL when it is not one. */
int clock_rfc3339_parse(const char *s, uint64_t *ret_real_ms);

/* UTC, Gregorian, also before 1970. Years are clamped to 1 to 9999, which is what both formats can write. */
struct clock_date {
	unsigned year, month, day; /* from 1 */
	unsigned hour, minute, second;
	unsigned weekday; /* 0: Sunday */
};
void clock_date(int64_t unix_seconds, struct clock_date *ret);

#define CLOCK_HTTP_MAX 40
/* "Sun, 06 Nov 1994 08:49:37 GMT" (IMF-fixdate, RFC 9110 section 5.6.7). Returns out. */
char *clock_http(int64_t unix_seconds, char out[CLOCK_HTTP_MAX]);
