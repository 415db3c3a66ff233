/*
 * scan.c - a cursor over text. No state but the caller's.
 */
#include "lib/scan.h"

#include <string.h>

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n';
}

int scan_digit(char c, unsigned base)
{
	unsigned value;

	if (c >= '0' && c <= '9')
		value = (unsigned)(c - '0');
	else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
		value = (unsigned)((c | 0x20) - 'a') + 10;
	else
		return -1;
	return value < base ? (int)value : -1;
}

static uint64_t fail(struct scan *s)
{
	s->p = NULL;
	return 0;
}

static void skip_blanks(struct scan *s)
{
	while (s->p && is_blank(*s->p))
		s->p++;
}

uint64_t scan_number(struct scan *s, unsigned base, uint64_t max)
{
	uint64_t value = 0;
	int d;

	skip_blanks(s);
	if (!s->p || scan_digit(*s->p, base) < 0)
		return fail(s);
	for (; (d = scan_digit(*s->p, base)) >= 0; s->p++) {
		if ((uint64_t)d > max || value > (max - (uint64_t)d) / base)
			return fail(s);
		value = value * base + (uint64_t)d;
	}
	return value;
}

uint64_t scan_digits(struct scan *s, unsigned base, unsigned n)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < n && s->p; i++) {
		int d = scan_digit(*s->p, base);

		if (d < 0)
			return fail(s);
		value = value * base + (uint64_t)d;
		s->p++;
	}
	return s->p ? value : 0;
}

void scan_text(struct scan *s, const char *text)
{
	size_t n = strlen(text);

	if (s->p && strncmp(s->p, text, n) == 0)
		s->p += n;
	else
		s->p = NULL;
}

void scan_skip(struct scan *s, unsigned n)
{
	for (unsigned i = 0; i < n && s->p; i++) {
		skip_blanks(s);
		if (*s->p == '\0')
			s->p = NULL;
		while (s->p && *s->p && !is_blank(*s->p))
			s->p++;
	}
}

void scan_end(struct scan *s)
{
	if (s->p && *s->p)
		s->p = NULL;
}
