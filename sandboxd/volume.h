/*
 * volume.h - what a sandbox mounts beside its image: the volumes of a request, checked.
 *
 * Two kinds: a path of the host, which must lie under one of
 * storage.allowed_host_paths, and a named volume, which is the driver's to keep
 * (`pvc` in the API; with oci a directory of the state, with docker one of its
 * volumes). Source: sandbox-lifecycle.yml, Volume; error codes are those of the
 * known server.
 *
 * A host path is opened once, here, and never looked up by name again: the
 * driver mounts the descriptor, so nothing that changes later can lead it
 * elsewhere.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"

#define VOLUMES_MAX	    32 /* of one sandbox */
#define VOLUME_NAME_MAX	    63
#define VOLUME_CLAIM_MAX    253
#define VOLUME_PATH_MAX	    1024 /* bytes of mountPath, host.path, subPath */
#define VOLUME_CODE(suffix) "VOLUME::" suffix

enum volume_kind { VOLUME_HOST, VOLUME_NAMED };

struct volume {
	enum volume_kind kind;
	char *name;	/* of the entry in the request */
	char *source;	/* VOLUME_HOST: absolute path; VOLUME_NAMED: its name, a DNS label */
	char *sub_path; /* "a/b" below the source, or "" */
	char *target;	/* where it is mounted: absolute, without "." or ".." or doubled slashes */
	bool readonly;
	bool create;	/* VOLUME_NAMED: make it when it is not there */
	bool ephemeral; /* VOLUME_NAMED: when this sandbox made it, it goes with it */
	int fd;		/* VOLUME_HOST: O_PATH of source and sub_path after volumes_open(), or -EBADF */
};

/* In the order in which they are mounted: what lies in another comes after it. */
struct volumes {
	struct volume list[VOLUMES_MAX];
	size_t n;
};

/*
 * Reads the array `volumes` of a request (NULL: none). Looks at no file.
 * allowed: the host paths under which volumes may lie, up to a NULL; or NULL: none.
 */
int volumes_parse(json_t *array, char *const *allowed, struct volumes *ret, struct err *err);

/* There are host paths among them, to be opened before a driver sees them. */
bool volumes_need_open(const struct volumes *v);

/*
 * Opens the host paths; what is missing of one is made, a directory. Symbolic
 * links count only where they stay below the allowed path, and below the source
 * those of sub_path. private_dir and what is in it, or has it in it, is refused.
 * May block; touches nothing but *v.
 */
int volumes_open(struct volumes *v, char *const *allowed, const char *private_dir, struct err *err);

/* Opens `path` ("a/b", or "" for root itself) below root, with O_PATH; with make, what is missing of it is
 * made: directories. No link leads out. -EXDEV: one would. */
int volume_open_below(int root, const char *path, bool make);
/* The same with root as "/" of every link in it: for what is within an image. */
int volume_open_inside(int root, const char *path, bool make);

/* The path, absolute and normalised, is one that the runtime or the agent needs. */
bool volume_target_reserved(const char *path);

void volumes_done(struct volumes *v);
