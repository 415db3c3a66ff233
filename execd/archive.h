/*
 * archive.h - a directory as a tar stream, and a tar stream as a directory.
 *
 * Down: everything below the directory, parents first, by the order of names;
 * files, directories, links (hard links once as a file, then as links), with
 * mode, numeric owner and time in seconds. Sockets, devices and FIFOs are left
 * out, as is what cannot be read or vanishes. A file that grows meanwhile is
 * cut at the size it had, one that shrinks is filled up with zeros.
 *
 * Up: see graft.h for what keeps it in its directory. Devices, FIFOs and
 * unknown entries are passed over and counted. What has been unpacked before an
 * error stays; the error says how much that is.
 *
 * Made and ended on the loop, the rest on workers.
 */
#pragma once

#include <stdbool.h>

#include "execd/codec.h"
#include "lib/err.h"

#define ARCHIVE_PIECE_SIZE  (256U << 10) /* a piece is complete with this many bytes */
#define ARCHIVE_ENTRIES_MAX 10000000	 /* in one archive that is unpacked */
#define ARCHIVE_BYTES_MAX   (1ULL << 40) /* and the bytes of its files, unless the client wants less */

struct archive_out;
int archive_out_new(const char *path, enum codec codec, struct archive_out **ret, struct err *err);
void archive_out_free(struct archive_out *a);
/* Appends the next piece. 1: the last one; 0: there is more; -errno. */
int archive_out_next(struct archive_out *a, struct buf *out, struct err *err);
void archive_out_cancel(struct archive_out *a);

struct archive_in_options {
	bool owner;	    /* set the owners of the archive; needs root */
	bool overwrite;	    /* replace what is there */
	uint64_t bytes_max; /* of all files */
};

struct archive_in;
/* The directory is made when it is missing. */
int archive_in_new(const char *path, const struct archive_in_options *options, struct archive_in **ret,
		   struct err *err);
void archive_in_free(struct archive_in *a);
int archive_in_feed(struct archive_in *a, const void *data, size_t n, struct err *err);
/* Appends a JSON object: entries, files, directories, links, skipped, bytes. */
int archive_in_end(struct archive_in *a, struct buf *out, struct err *err);
void archive_in_cancel(struct archive_in *a);
