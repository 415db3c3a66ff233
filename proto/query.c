/*
 * query.c - percent-decoding and query strings. No state, no allocation.
 */
#include "proto/query.h"

#include <string.h>

#include "lib/scan.h"

ssize_t url_decode(char *out, const char *in, size_t n, bool plus)
{
	char *start = out;

	for (size_t i = 0; i < n; i++) {
		char c = in[i];

		if (c == '+' && plus)
			c = ' ';
		if (c == '%') {
			int high = n - i > 2 ? scan_digit(in[i + 1], 16) : -1;
			int low = n - i > 2 ? scan_digit(in[i + 2], 16) : -1;

			if (high < 0 || low < 0 || (high == 0 && low == 0))
				return -EINVAL;
			c = (char)(high << 4 | low);
			i += 2;
		}
		*out++ = c;
	}
	*out = '\0';
	return out - start;
}

ssize_t query_decode(char *out, const char *query)
{
	char *start = out;

	while (*query) {
		size_t n = strcspn(query, "&"), name_n = strcspn(query, "=&");
		ssize_t r;

		if (n > 0) {
			r = url_decode(out, query, name_n, true);
			if (r < 0)
				return r;
			out += r + 1;
			if (name_n < n)
				r = url_decode(out, query + name_n + 1, n - name_n - 1, true);
			else
				r = url_decode(out, query, 0, true);
			if (r < 0)
				return r;
			out += r + 1;
		}
		query += n;
		if (*query == '&')
			query++;
	}
	return out - start;
}

size_t query_get(const char *decoded, size_t n, const char *name, const char **ret, size_t max)
{
	const char *end = decoded + n;
	size_t count = 0;

	while (decoded < end) {
		const char *value = decoded + strlen(decoded) + 1;

		if (strcmp(decoded, name) == 0) {
			if (count < max)
				ret[count] = value;
			count++;
		}
		decoded = value + strlen(value) + 1;
	}
	return count;
}
