/* Settings files. */
#include "sandboxd/toml.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text = fuzz_copy(data, n);
	struct toml *root = NULL;
	struct err err = {0};

	if (toml_parse(text, n, &root, &err) < 0) {
		must_be_told(&err);
		must(strstr(err.message, "line"));
	}
	toml_free(root);
	free(text);
	return 0;
}
