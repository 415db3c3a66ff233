/*
 * image.h - the table from image names to root file systems.
 *
 * Clients send image references ("python:3.11"); a row maps a glob over the
 * reference to a root. A pattern without a tag matches every tag and digest.
 * "docker.io/" and "library/" in front of a reference say nothing and are
 * ignored. Later rows win, so that a configured one overrides a default.
 *
 * Roots:
 *   host                         the host's own /usr and /opt under a generated /etc (oci/rootfs.h)
 *   dir:/PATH                    a directory
 *   oci:/PATH[:TAG]              an OCI layout
 *   oci-archive:/PATH[:TAG]      the same in a tar file
 *   docker-archive:/PATH[:REF]   what `docker save` writes
 *   docker://REF                 this reference, from its registry
 *   registry                     the reference as the client named it, from its registry
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"

struct image_row {
	char *pattern;
	char *root;
};

struct image_table {
	struct image_row *rows;
	size_t rows_n;
};

#define IMAGE_URI_MAX  512
#define IMAGE_HOST     "host"
#define IMAGE_REGISTRY "registry"
#define IMAGE_PULL     "docker://"

/* One of the roots that are a path of this machine. */
bool image_is_path(const char *text);

int image_table_init(struct image_table *t); /* with the default rows */
void image_table_done(struct image_table *t);
int image_table_add(struct image_table *t, const char *pattern, const char *root, struct err *err);

/* They name the same: "docker.io/" and "library/" in front say nothing. */
bool image_same(const char *a, const char *b);

/* The root for a reference; -ENOENT with a message that lists the patterns. */
int image_resolve(const struct image_table *t, const char *uri, const char **ret_root, struct err *err);
