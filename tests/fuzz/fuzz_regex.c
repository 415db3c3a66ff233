/* Regular expressions: a byte of flags, pattern, newline, text. A match lies in the text and is found by the
 * fast look too. */
#include "execd/regex.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *copy = n > 0 ? fuzz_copy(data + 1, n - 1) : NULL;
	char *line = copy ? strchr(copy, '\n') : NULL;
	struct regex_run *run;
	struct err err = {0};
	struct regex *re;

	if (!line) {
		free(copy);
		return 0;
	}
	*line++ = '\0';
	if (regex_new(copy, data[0] & 1, &re, &err) < 0) {
		must_be_told(&err);
	} else {
		size_t text_n = (size_t)(copy + n - 1 - line), begin = 0, end = 0;
		const char *newline = memchr(line, '\n', text_n);
		size_t first_n = newline ? (size_t)(newline - line) : text_n;
		int r;

		must(regex_run_new(re, &run) == 0);
		r = regex_search(run, line, first_n, &begin, &end);
		must(r == 0 || r == 1);
		if (r == 1)
			must(begin <= end && end <= first_n);
		/* Of more lines: the look may stop too early, never behind a line that matches. */
		if (r == 1)
			must(regex_scan(run, line, text_n) <= (ssize_t)first_n);
		regex_run_free(run);
		regex_free(re);
	}
	free(copy);
	return 0;
}
