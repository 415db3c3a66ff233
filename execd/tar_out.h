/*
 * tar_out.h - a tar archive that is written piece by piece, compressed.
 */
#pragma once

#include "execd/codec.h"
#include "execd/tar.h"

/* Embedded in its owner. */
struct tar_out {
	struct codec_out *codec;
	struct buf scratch;
	int fd; /* of the entry at hand; -EBADF between entries */
	uint64_t left;
	size_t padding;
};

/* -ENOMEM; tar_out_done() is due then as well. */
int tar_out_init(struct tar_out *t, enum codec codec);
void tar_out_done(struct tar_out *t);

/* What each appends to out is compressed. -ENOMEM, -ENAMETOOLONG, and -errno of reading a file. */

/* Takes *fd on success for a TAR_FILE, whose content is read by tar_out_content() before the next entry. */
int tar_out_entry(struct tar_out *t, const struct tar_entry *e, int *fd, struct buf *out);
static inline bool tar_out_within(const struct tar_out *t)
{
	return t->fd >= 0;
}
/* The next bytes of the file at hand; *done counts them. One that has become shorter is filled up with zeros.
 */
int tar_out_content(struct tar_out *t, struct buf *out, size_t *done);
int tar_out_end(struct tar_out *t, struct buf *out);
