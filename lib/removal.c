/*
 * removal.c - trees that are removed by a worker. Owns each path until then.
 */
#include "lib/removal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fs.h"
#include "lib/util.h"

struct removal {
	struct pool_job job;
	char path[];
};

static void removal_run(struct pool_job *job)
{
	(void)fs_remove_tree(AT_FDCWD, container_of(job, struct removal, job)->path);
}

static void removal_done(struct pool_job *job)
{
	free(container_of(job, struct removal, job));
}

int remove_later(struct pool *pool, const char *path)
{
	size_t n = strlen(path) + 1;
	struct removal *x = calloc(1, sizeof(*x) + n);
	if (!x)
		return -ENOMEM;
	x->job = (struct pool_job){.run = removal_run, .done = removal_done};
	memcpy(x->path, path, n);
	int r = pool_submit(pool, &x->job);
	if (r < 0)
		free(x);
	return r;
}
