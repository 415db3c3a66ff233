/*
 * base.h - what sandboxes stand on: the file system below their own layer.
 *
 * A base is the pseudo image `host` (rootfs.h), a directory of this machine, or
 * an image that was unpacked into STATE/images/KEY/{rootfs,config.json}; KEY is
 * the digest of its manifest. All are shared and never written to. Above one
 * that is not host lies a layer of ours with the directories that a container
 * is mounted on and the generated files of /etc: so nothing of it is written
 * through what an image has in their place.
 *
 * Loop thread. Every user holds a reference.
 */
#pragma once

#include "lib/loop.h"
#include "sandboxd/oci/base_config.h"
#include "sandboxd/oci/rootfs.h"

#define BASE_NAME_MAX 80
#define BASE_HOST     "host"
#define BASE_DIR      "dir"

struct oci;

struct base {
	struct list link;	  /* least recently used first */
	char name[BASE_NAME_MAX]; /* BASE_HOST, BASE_DIR or KEY */
	unsigned users;
	struct rootfs fs;
	int fd;			   /* O_PATH of the directory, or -EBADF */
	bool kept;		   /* it is in STATE/images */
	uint64_t idle_ms;	   /* real time since when nobody has used it */
	bool loaded;		   /* config is known; always but after a restart */
	struct base_config config; /* constant once loaded */
};

struct bases {
	struct oci *oci;
	struct list list;
	struct base host;
	struct loop_timer sweep; /* when the next one has been idle for too long */
};

void bases_init(struct bases *all, struct oci *oci);
/* Blocks. Finds what STATE/images has, and removes what was half done. */
int bases_load(struct bases *all, struct err *err);
/* After rootfs_build_host(). */
int bases_host(struct bases *all, struct err *err);
void bases_done(struct bases *all);

/* By the name that a box or a snapshot has noted; NULL: out of memory. It may not be loaded. */
struct base *base_named(struct bases *all, const char *name);
/* fd: O_PATH of a directory, taken on success. NULL: out of memory. */
struct base *base_of_directory(struct bases *all, int fd);
struct base *base_ref(struct base *base);
void base_unref(struct bases *all, struct base *base);

/* So that one more may be kept: at the limit the one goes that nobody has used for longest. -ENOSPC. */
int bases_make_room(struct bases *all, struct err *err);

/* The name in the link `image` of a directory, BASE_HOST where there is none. out has BASE_NAME_MAX bytes. */
void base_read_link(const char *dir, char *out);
/* A snapshot holds what the link of its directory names, from when that is made until it is let go. */
void bases_hold(struct bases *all, const char *dir);
void bases_let_go(struct bases *all, const char *dir); /* the link is gone then; harmless without */
/* Notes what stands on it; nothing for host. -errno. */
int base_write_link(const struct base *base, int dir);
