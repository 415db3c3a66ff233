/*
 * toml_scalar.c - numbers, dates and times of a document. No state but the parser's.
 */
#include <math.h>
#include <string.h>

#include "lib/scan.h"
#include "sandboxd/toml_priv.h"

/* ---- numbers ------------------------------------------------------------------ */

/* Digits of a base with single underscores between them, copied without those. 0 when there are none. */
static size_t digits(const char **p, const char *end, int base, char *out, size_t max)
{
	size_t n = 0;
	const char *s = *p;
	while (s < end) {
		int v = scan_digit(*s, 16);
		if (*s == '_' && n > 0 && s[-1] != '_' && s + 1 < end && scan_digit(s[1], 16) >= 0 &&
		    scan_digit(s[1], 16) < base) {
			s++;
			continue;
		}
		if (v < 0 || v >= base || n + 1 >= max)
			break;
		out[n++] = *s++;
	}
	out[n] = '\0';
	*p = s;
	return n;
}

static int parse_based(struct toml_parser *ps, const char *token, const char *end, struct toml *t)
{
	char text[80], *rest;
	int base = token[1] == 'x' ? 16 : token[1] == 'o' ? 8 : 2;
	const char *p = token + 2;
	if (digits(&p, end, base, text, sizeof(text)) == 0 || p != end)
		return toml_fail(ps, "not a number");
	errno = 0;
	t->integer = strtoll(text, &rest, base);
	if (errno || *rest)
		return toml_fail(ps, "an integer is over 64 bits");
	t->type = TOML_INTEGER;
	return 0;
}

static int parse_decimal(struct toml_parser *ps, const char *token, const char *end, struct toml *t)
{
	char text[512], *out = text;
	const char *p = token;
	bool real = false;
	size_t n;
	if (*p == '+' || *p == '-')
		*out++ = *p++;
	if (end - p == 3 && (memcmp(p, "inf", 3) == 0 || memcmp(p, "nan", 3) == 0)) {
		t->type = TOML_FLOAT;
		t->number = (*p == 'i' ? INFINITY : NAN) * (*token == '-' ? -1 : 1);
		return 0;
	}
	const char *whole = p;
	n = digits(&p, end, 10, out, 200);
	if (n == 0 || (n > 1 && *whole == '0'))
		return toml_fail(ps, "not a value");
	out += n;
	if (p < end && *p == '.') {
		real = true;
		*out++ = *p++;
		n = digits(&p, end, 10, out, 200);
		if (n == 0)
			return toml_fail(ps, "a float needs digits after its point");
		out += n;
	}
	if (p < end && (*p == 'e' || *p == 'E')) {
		real = true;
		*out++ = *p++;
		if (p < end && (*p == '+' || *p == '-'))
			*out++ = *p++;
		n = digits(&p, end, 10, out, 50);
		if (n == 0)
			return toml_fail(ps, "a float needs digits in its exponent");
	}
	if (p != end)
		return toml_fail(ps, "not a value");
	errno = 0;
	t->type = real ? TOML_FLOAT : TOML_INTEGER;
	if (real)
		t->number = strtod(text, NULL);
	else
		t->integer = strtoll(text, NULL, 10);
	return !real && errno ? toml_fail(ps, "an integer is over 64 bits") : 0;
}

/* ---- dates and times ------------------------------------------------------------ */

static int two_digits(const char *p, const char *end)
{
	return end - p >= 2 && toml_is_digit(p[0]) && toml_is_digit(p[1]) ? (p[0] - '0') * 10 + (p[1] - '0')
									  : -1;
}

/* "2026-01-31": its length, or 0. */
static size_t date_length(const char *p, const char *end)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	if (end - p < 10 || p[4] != '-' || p[7] != '-')
		return 0;
	int century = two_digits(p, end), rest = two_digits(p + 2, end);
	int month = two_digits(p + 5, end), day = two_digits(p + 8, end), year = century * 100 + rest;
	if (century < 0 || rest < 0 || month < 1 || month > 12 || day < 1)
		return 0;
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return day <= days[month - 1] + (month == 2 && leap) ? 10 : 0;
}

/* "12:34:56" with an optional fraction: its length, or 0. */
static size_t time_length(const char *p, const char *end)
{
	if (end - p < 8 || p[2] != ':' || p[5] != ':')
		return 0;
	int hour = two_digits(p, end), minute = two_digits(p + 3, end), second = two_digits(p + 6, end);
	if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60)
		return 0;
	size_t n = 8;
	if (p + n < end && p[n] == '.') {
		size_t fraction = 0;
		while (p + n + 1 + fraction < end && toml_is_digit(p[n + 1 + fraction]))
			fraction++;
		if (fraction == 0)
			return 0;
		n += 1 + fraction;
	}
	return n;
}

/* "Z" or "+01:00": its length, or 0. */
static size_t offset_length(const char *p, const char *end)
{
	if (p < end && (*p == 'Z' || *p == 'z'))
		return 1;
	if (end - p < 6 || (*p != '+' && *p != '-') || p[3] != ':')
		return 0;
	int hour = two_digits(p + 1, end), minute = two_digits(p + 4, end);
	return hour >= 0 && hour <= 23 && minute >= 0 && minute <= 59 ? 6 : 0;
}

/* Keeps it as written, in upper case and with 'T' in the middle. */
static int take_moment(struct toml_parser *ps, struct toml *t, enum toml_type type, const char *p, size_t n)
{
	t->type = type;
	t->string = strndup(p, n);
	t->string_n = n;
	if (!t->string)
		return toml_no_memory(ps);
	for (char *c = t->string; *c; c++)
		*c = (char)(*c == ' ' || *c == 't' ? 'T' : *c == 'z' ? 'Z' : *c);
	ps->p = p + n;
	return 0;
}

/* 1: it was one; 0: it looks like none. */
static int parse_moment(struct toml_parser *ps, struct toml *t)
{
	const char *p = ps->p;
	bool looks = ps->end - p >= 5 && toml_is_digit(p[0]) && toml_is_digit(p[1]) && toml_is_digit(p[2]) &&
		     toml_is_digit(p[3]) && p[4] == '-';
	size_t n, m;
	int r;
	if (ps->end - p >= 3 && two_digits(p, ps->end) >= 0 && p[2] == ':') {
		n = time_length(p, ps->end);
		r = n ? take_moment(ps, t, TOML_TIME, p, n) : toml_fail(ps, "not a time of day");
		return r < 0 ? r : 1;
	}
	if (!looks)
		return 0;
	n = date_length(p, ps->end);
	if (n == 0)
		return toml_fail(ps, "not a date");
	bool more = p + n < ps->end &&
		    (p[n] == 'T' || p[n] == 't' || (p[n] == ' ' && two_digits(p + n + 1, ps->end) >= 0));
	if (!more) {
		r = take_moment(ps, t, TOML_DATE, p, n);
		return r < 0 ? r : 1;
	}
	m = time_length(p + n + 1, ps->end);
	if (m == 0)
		return toml_fail(ps, "not a time of day");
	n += 1 + m;
	m = offset_length(p + n, ps->end);
	r = take_moment(ps, t, m ? TOML_DATETIME : TOML_DATETIME_LOCAL, p, n + m);
	return r < 0 ? r : 1;
}

/* ---- any of them ---------------------------------------------------------------- */

int toml_scalar(struct toml_parser *ps, struct toml *t)
{
	const char *token = ps->p, *end = token;
	int r = parse_moment(ps, t);
	if (r != 0)
		return r < 0 ? r : 0;
	while (end < ps->end && (toml_is_bare(*end) || *end == '+' || *end == '.'))
		end++;
	ps->p = end;
	if (end - token == 4 && memcmp(token, "true", 4) == 0) {
		t->type = TOML_BOOL;
		t->boolean = true;
	} else if (end - token == 5 && memcmp(token, "false", 5) == 0) {
		t->type = TOML_BOOL;
	} else if (end - token > 2 && *token == '0' && strchr("xob", token[1])) {
		return parse_based(ps, token, end, t);
	} else if (end > token) {
		return parse_decimal(ps, token, end, t);
	} else {
		return toml_fail(ps, "a value is missing");
	}
	return 0;
}
