/*
 * tar.h - the tar format: headers out, entries in. Pure functions of bytes.
 *
 * Written: POSIX.1-1988 ustar, and a POSIX.1-2001 (pax) header before an entry
 * that ustar cannot hold (long names, sizes from 8 GiB, ids from 2097152, times
 * before 1970). Read: both, and GNU tar's long names and base-256 numbers; files
 * with holes written by GNU tar -S are refused, because their bytes are not the
 * file's. Source: pax(1) in POSIX.1-2017, tar(5) of libarchive.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "lib/buf.h"
#include "lib/err.h"

#define TAR_BLOCK	 512
#define TAR_EXTENDED_MAX (1U << 20) /* bytes of one pax header or long name */
#define TAR_PATH_MAX	 65536	    /* bytes of one path or link */
#define TAR_HEADER_MAX	 (2 * TAR_PATH_MAX + 4096)

enum tar_type {
	TAR_FILE,
	TAR_DIR,
	TAR_SYMLINK,
	TAR_HARDLINK,
	TAR_OTHER, /* read: a device, a FIFO, or what we do not know */
	/* Written only. */
	TAR_FIFO,
	TAR_CHAR,
	TAR_BLOCK_DEVICE,
};

struct tar_entry {
	enum tar_type type;
	const char *path;
	const char *link; /* TAR_SYMLINK: its text; TAR_HARDLINK: the path in the archive; else "" */
	uint64_t size;	  /* of what follows the header; 0 unless TAR_FILE or TAR_OTHER */
	mode_t mode;	  /* 07777 */
	uint64_t uid, gid;
	int64_t mtime;
	uint32_t mtime_nsec;
	/* Written only: */
	dev_t device;
	const struct buf *records; /* tar_record()s of a pax header before it; NULL: none */
};

/* ---- out ------------------------------------------------------------------- */

/* Appends the header. What follows is entry->size bytes and tar_padding(entry->size) zeros. */
int tar_header(struct buf *out, const struct tar_entry *entry);
/* Appends "LENGTH key=value"; the value may be any bytes. Failure shows in out->failed. */
void tar_record(struct buf *out, const char *key, const void *value, size_t n);
static inline size_t tar_padding(uint64_t size)
{
	return (size_t)(-size & (TAR_BLOCK - 1));
}
/* The two blocks of zeros at the end. */
int tar_trailer(struct buf *out);

/* ---- in -------------------------------------------------------------------- */

struct tar_events {
	/* Strings live until it returns. */
	int (*entry)(void *arg, const struct tar_entry *entry, struct err *err);
	/* Of a TAR_FILE, in pieces; then end(), also for an empty file. */
	int (*data)(void *arg, const void *data, size_t n, struct err *err);
	int (*end)(void *arg, struct err *err);
};

struct tar_reader;
int tar_reader_new(const struct tar_events *events, void *arg, struct tar_reader **ret);
void tar_reader_free(struct tar_reader *r);
/* -errno of an event, or -EINVAL for what is no tar. Bytes after the archive's end are ignored. */
int tar_reader_feed(struct tar_reader *r, const void *data, size_t n, struct err *err);
/* -EINVAL when the archive breaks off. One that ends between two entries without its trailer is accepted. */
int tar_reader_finish(struct tar_reader *r, struct err *err);
