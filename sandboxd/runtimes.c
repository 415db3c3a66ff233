/*
 * runtimes.c - the table of drivers.
 */
#include "sandboxd/runtimes.h"

#include <string.h>

#include "sandboxd/docker/docker.h"
#include "sandboxd/oci/oci.h"

/* The first one is what is taken where nothing is said. */
static const struct runtime_kind kinds[] = {
	{"oci", NULL, oci_new},
	{"docker", docker_check, docker_new},
};

const struct runtime_kind *runtime_kind_find(const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strcmp(kinds[i].word, word) == 0)
			return &kinds[i];
	return NULL;
}

const struct runtime_kind *runtime_kind_default(void)
{
	return &kinds[0];
}

void runtime_kind_words(struct buf *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		(void)buf_printf(out, "%s%s", i ? ", " : "", kinds[i].word);
}
