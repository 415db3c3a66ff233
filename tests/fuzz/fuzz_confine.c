/* A confinement of a request, with whatever profile it brings: refused with words, or compiled and described.
 */
#include "proto/json.h"
#include "seccomp/confine.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct confines *confines;
	struct confine *c = NULL;
	struct err err = {0};
	json_t *value = NULL, *told;

	if (!confines)
		must(confines_new(&confines) == 0);
	if (json_parse(data, n, &value, &err) < 0)
		return 0;
	if (confine_new(confines, value, "confinement", &c, &err) < 0) {
		must_be_told(&err);
	} else {
		told = confine_describe(c);
		must(json_is_object(told));
		json_decref(told);
		must(!c || confine_plan(c));
	}
	confine_unref(c);
	json_decref(value);
	return 0;
}
