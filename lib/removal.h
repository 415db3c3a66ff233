/*
 * removal.h - trees that are removed by a worker, in their time.
 */
#pragma once

#include "lib/pool.h"

/*
 * Copies path. -ENOMEM, or what pool_submit() says: nothing is removed then. A
 * pool that stops may leave some of it; whoever owns the folder clears it at its
 * next start.
 */
int remove_later(struct pool *pool, const char *path);
