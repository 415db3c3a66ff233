/* The volumes of a create: a parsed one is within its limits and has no way out in its paths. */
#include "proto/json.h"
#include "sandboxd/volume.h"
#include "tests/fuzz/fuzz.h"

static char *const allowed[] = {(char[]){"/srv"}, NULL};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct volumes volumes = {0};
	struct err err = {0};
	json_t *root = NULL;

	if (json_parse(data, n, &root, &err) < 0)
		return 0;
	if (volumes_parse(root, allowed, &volumes, &err) < 0)
		must_be_told(&err);
	volumes_done(&volumes);
	json_decref(root);
	return 0;
}
