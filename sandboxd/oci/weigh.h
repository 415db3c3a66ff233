/*
 * weigh.h - how much an image will be once it is unpacked, from its layers alone.
 *
 * A layer is read once without being written: what tar headers announce counts,
 * holes of sparse files too, and every entry as a block at least. So a bomb is
 * known before it goes off. What is no tar, or is compressed in a way that umoci
 * does not know, is refused here, with words.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

#define WEIGH_ENTRY_BYTES 4096

/*
 * One layer; gzip says how it is packed. Adds to *total. -EFBIG as soon as that
 * is over max; -ECANCELED when *stop is set. Blocks: for workers.
 */
int weigh_layer(int fd, bool gzip, uint64_t max, const atomic_bool *stop, uint64_t *total, struct err *err);
