/*
 * source.h - where an image comes from: the reference of a client, looked up.
 */
#pragma once

#include <limits.h>

#include "lib/sha256.h"
#include "sandboxd/config.h"

enum source_kind {
	SOURCE_HOST,
	SOURCE_DIR,   /* fd */
	SOURCE_FETCH, /* what skopeo reads */
	SOURCE_KEPT,  /* one that is in STATE/images, by its name there */
};

#define SOURCE_FD	3 /* the number under which skopeo finds what fd is */
#define SOURCE_NAME_MAX (IMAGE_URI_MAX + 64)

struct source {
	enum source_kind kind;
	int fd;			       /* O_PATH of the directory or file, or -EBADF; owned */
	char shown[IMAGE_URI_MAX];     /* as people know it */
	char name[SOURCE_NAME_MAX];    /* as skopeo is told it */
	char registry[IMAGE_URI_MAX];  /* HOST[:PORT], or "" where none is asked */
	char identity[SHA256_HEX_MAX]; /* the same again, as long as nothing has changed there */
};

/*
 * What the image table, the paths that clients may name and the registries say
 * of this reference. ret->fd is the caller's to close. No link leads a client's
 * path out of those that are allowed.
 */
int source_find(const struct config *config, const char *uri, struct source *ret, struct err *err);
void source_done(struct source *s);

/* What a snapshot was taken of. */
void source_kept(const char *name, struct source *ret);
