/*
 * range.c - parses Range headers. No state.
 */
#include "execd/api/range.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static void skip_space(const char **p)
{
	while (**p == ' ' || **p == '\t')
		(*p)++;
}

/* Digits to a number that stays at its maximum. 0 when there is no digit. */
static int parse_number(const char **p, uint64_t *ret)
{
	uint64_t v = 0;

	if (!isdigit((unsigned char)**p))
		return 0;
	for (; isdigit((unsigned char)**p); (*p)++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(**p - '0'), &v))
			v = UINT64_MAX;
	*ret = v;
	return 1;
}

/* One of "a-b", "a-", "-n". 1: *ret_*; 0: not satisfiable; -EINVAL. */
static int parse_one(const char **p, uint64_t size, uint64_t *ret_offset, uint64_t *ret_n)
{
	uint64_t first = 0, last = UINT64_MAX;
	int has_first, has_last;

	has_first = parse_number(p, &first);
	if (**p != '-')
		return -EINVAL;
	(*p)++;
	has_last = parse_number(p, &last);
	if (!has_first && !has_last)
		return -EINVAL;
	if (!has_first) {
		first = size - MIN(last, size);
		last = UINT64_MAX;
	} else if (has_last && last < first) {
		return -EINVAL;
	}
	if (first >= size)
		return 0;
	*ret_offset = first;
	*ret_n = MIN(last, size - 1) - first + 1;
	return 1;
}

int range_parse(const char *header, uint64_t size, uint64_t *ret_offset, uint64_t *ret_n)
{
	uint64_t offset = 0, n = 0;
	const char *p = header;
	int found = 0;

	skip_space(&p);
	if (strncasecmp(p, "bytes", 5) != 0)
		return 0;
	p += 5;
	skip_space(&p);
	if (*p++ != '=')
		return 0;
	for (;;) {
		uint64_t one_offset, one_n;
		int r;

		skip_space(&p);
		r = parse_one(&p, size, &one_offset, &one_n);
		if (r < 0)
			return -ERANGE;
		if (r > 0 && !found) {
			found = 1;
			offset = one_offset;
			n = one_n;
		}
		skip_space(&p);
		if (*p == '\0')
			break;
		if (*p++ != ',')
			return -ERANGE;
	}
	if (!found)
		return -ERANGE;
	*ret_offset = offset;
	*ret_n = n;
	return 1;
}
