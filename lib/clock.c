/*
 * clock.c - clocks and RFC 3339. Stateless, safe from any thread.
 *
 * The calendar is computed here: gmtime_r(3) of glibc reads the time zone file
 * first, which an empty root file system does not have.
 */
#include "lib/clock.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define S_PER_DAY 86400
/* 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z. */
#define FIRST_S (-62135596800LL)
#define LAST_S	253402300799LL

static uint64_t clock_usec(clockid_t id)
{
	struct timespec ts;

	(void)clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t clock_mono_ms(void)
{
	return clock_usec(CLOCK_MONOTONIC) / 1000;
}

uint64_t clock_mono_usec(void)
{
	return clock_usec(CLOCK_MONOTONIC);
}

uint64_t clock_real_ms(void)
{
	return clock_usec(CLOCK_REALTIME) / 1000;
}

/* Days since 1970-01-01, Gregorian. The year begins in March, so that the leap day is its last. */
static int64_t days_from_civil(int64_t y, unsigned m, unsigned d)
{
	int64_t era, yoe, doy;

	y -= m <= 2;
	era = (y >= 0 ? y : y - 399) / 400;
	yoe = y - era * 400;
	doy = (153 * (int64_t)(m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

void clock_date(int64_t unix_seconds, struct clock_date *ret)
{
	uint64_t s = (uint64_t)(MIN(MAX(unix_seconds, (int64_t)FIRST_S), (int64_t)LAST_S) - FIRST_S);
	unsigned t = (unsigned)(s % S_PER_DAY);
	/* Days since 0000-03-01, which is 306 days before the first. */
	uint64_t z = s / S_PER_DAY + 306, era = z / 146097, doe = z % 146097;
	uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	uint64_t mp = (5 * doy + 2) / 153;

	ret->day = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
	ret->month = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
	ret->year = (unsigned)(yoe + era * 400 + (ret->month <= 2));
	ret->weekday = (unsigned)((s / S_PER_DAY + 1) % 7); /* the first was a Monday */
	ret->hour = t / 3600;
	ret->minute = t / 60 % 60;
	ret->second = t % 60;
}

char *clock_rfc3339(uint64_t real_ms, char out[CLOCK_RFC3339_MAX])
{
	bool beyond = real_ms / 1000 > (uint64_t)LAST_S;
	struct clock_date d;

	clock_date(beyond ? LAST_S : (int64_t)(real_ms / 1000), &d);
	(void)snprintf(out, CLOCK_RFC3339_MAX, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", d.year % 10000,
		       d.month % 100, d.day % 100, d.hour % 100, d.minute % 100, d.second % 100,
		       beyond ? 999 : (unsigned)(real_ms % 1000));
	return out;
}

char *clock_http(int64_t unix_seconds, char out[CLOCK_HTTP_MAX])
{
	static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	struct clock_date d;

	clock_date(unix_seconds, &d);
	(void)snprintf(out, CLOCK_HTTP_MAX, "%.3s, %02u %.3s %04u %02u:%02u:%02u GMT",
		       days + 3 * (d.weekday % 7), d.day % 100, months + 3 * ((d.month - 1) % 12),
		       d.year % 10000, d.hour % 100, d.minute % 100, d.second % 100);
	return out;
}

/* Reads exactly n digits and moves on. */
static bool take_digits(const char **s, int n, unsigned *ret)
{
	unsigned v = 0;

	for (; n > 0; n--, (*s)++) {
		if (**s < '0' || **s > '9')
			return false;
		v = v * 10 + (unsigned)(**s - '0');
	}
	*ret = v;
	return true;
}

static bool take_char(const char **s, char c)
{
	if (**s != c)
		return false;
	(*s)++;
	return true;
}

static unsigned days_in_month(unsigned y, unsigned m)
{
	static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;

	return days[m - 1] + (m == 2 && leap);
}

/* full-date "T" partial-time, with the fraction cut to milliseconds. */
static bool take_local(const char **s, int64_t *ret_ms, unsigned *ret_sec)
{
	unsigned y, mo, d, h, mi, sec, ms = 0, scale = 100;

	if (!take_digits(s, 4, &y) || !take_char(s, '-') || !take_digits(s, 2, &mo) || !take_char(s, '-') ||
	    !take_digits(s, 2, &d) || !(take_char(s, 'T') || take_char(s, 't')))
		return false;
	if (!take_digits(s, 2, &h) || !take_char(s, ':') || !take_digits(s, 2, &mi) || !take_char(s, ':') ||
	    !take_digits(s, 2, &sec))
		return false;
	if (mo < 1 || mo > 12 || d < 1 || d > days_in_month(y, mo) || h > 23 || mi > 59 || sec > 60)
		return false;
	if (take_char(s, '.')) {
		if (**s < '0' || **s > '9')
			return false;
		for (; **s >= '0' && **s <= '9'; (*s)++, scale /= 10)
			ms += (unsigned)(**s - '0') * scale;
	}
	*ret_ms = ((days_from_civil(y, mo, d) * 24 + h) * 60 + mi) * 60000 + (int64_t)sec * 1000 + ms;
	*ret_sec = sec;
	return true;
}

static bool take_offset(const char **s, int64_t *ret_min)
{
	unsigned h, m;
	bool minus;

	*ret_min = 0;
	if (take_char(s, 'Z') || take_char(s, 'z'))
		return true;
	minus = **s == '-';
	if (!take_char(s, '+') && !take_char(s, '-'))
		return false;
	if (!take_digits(s, 2, &h) || !take_char(s, ':') || !take_digits(s, 2, &m) || h > 23 || m > 59)
		return false;
	*ret_min = (int64_t)(h * 60 + m) * (minus ? -1 : 1);
	return true;
}

int clock_rfc3339_parse(const char *s, uint64_t *ret_real_ms)
{
	int64_t ms, offset_min;
	unsigned sec;

	if (!take_local(&s, &ms, &sec) || !take_offset(&s, &offset_min) || *s != '\0')
		return -EINVAL;
	ms -= offset_min * 60000;
	if (ms < 0)
		return -ERANGE;
	/* A leap second is the last of a UTC day; Unix time counts it as the first of the next. */
	if (sec == 60 && (uint64_t)ms % (1000ULL * S_PER_DAY) >= 1000)
		return -EINVAL;
	*ret_real_ms = (uint64_t)ms;
	return 0;
}
