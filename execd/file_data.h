/*
 * file_data.h - the bytes of one file into another.
 */
#pragma once

#include <stdatomic.h>

#include "lib/util.h"

/*
 * All of `from` into the empty file `to`: shared blocks where the file system
 * can, a copy within the kernel, or a plain one. Holes stay holes. -ECANCELED,
 * -errno. Worker.
 */
int file_data_copy(int to, int from, const atomic_bool *cancel, uint64_t *ret_bytes);
