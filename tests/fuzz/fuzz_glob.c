/* File name patterns: pattern, NUL, name. */
#include "execd/glob.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *pattern = fuzz_copy(data, n);
	const char *name = strlen(pattern) < n ? pattern + strlen(pattern) + 1 : "";
	struct err err = {0};
	struct glob *glob;

	if (glob_new(pattern, &glob, &err) < 0) {
		must_be_told(&err);
	} else {
		bool first = glob_match(glob, name);

		must(glob_match(glob, name) == first); /* it remembers nothing of the last one */
		(void)glob_has_slash(glob);
		glob_free(glob);
	}
	free(pattern);
	return 0;
}
