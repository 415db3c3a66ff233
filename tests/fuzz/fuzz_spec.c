/* What a command is, from the JSON of a request. */
#include "execd/api/spec.h"
#include "proto/json.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct command_spec spec = {0};
	struct limits limits = {0};
	struct err err = {0};
	json_t *body = NULL;

	if (json_parse(data, n, &body, &err) < 0 || json_need_obj(body, JSON_REQUIRED, &err) < 0) {
		json_decref(body);
		return 0;
	}
	if (command_spec_parse(body, &spec, &err) < 0)
		must_be_told(&err);
	err = (struct err){0};
	if (limits_parse(body, &limits, &err) < 0)
		must_be_told(&err);
	json_decref(body);
	return 0;
}
