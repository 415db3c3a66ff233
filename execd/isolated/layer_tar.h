/*
 * layer_tar.h - the changes of a view as a tar stream that is an OCI layer.
 *
 * Whiteouts and opaque directories are the files ".wh.NAME" and ".wh..wh..opq"
 * of the OCI image specification (layer.md); extended attributes are
 * SCHILY.xattr.* records; hard links, devices and FIFOs are entries of their
 * own, sockets are left out. Directories on the way to a change are entries,
 * too. A file with a name that a reader would take for a whiteout cannot be
 * told and is an error before the first byte, as is more than bytes_max.
 *
 * Made and ended on the loop, the rest on workers.
 */
#pragma once

#include "execd/codec.h"
#include "execd/isolated/layer.h"

#define LAYER_TAR_PIECE 262144U /* a piece is complete with this many bytes */

struct layer_tar;
/* view is copied; its descriptors are borrowed for as long as this lives. */
int layer_tar_new(const struct layer_view *view, enum codec codec, uint64_t bytes_max,
		  struct layer_tar **ret);
void layer_tar_free(struct layer_tar *t);
/* Appends the next piece. 1: the last one; 0: there is more; -errno. */
int layer_tar_next(struct layer_tar *t, struct buf *out, struct err *err);
void layer_tar_cancel(struct layer_tar *t);
