/*
 * fetch_files.h - the files of one fetch: STATE/images/tmp.*, and where they go in the end.
 *
 * STATE/images/
 *   KEY/{rootfs,config.json}   an image, complete since it has this name
 *   refs/IDENTITY -> ../KEY    what a source was when it was fetched
 *   tmp.RANDOM/{layout,rootfs,config.json,auth.json,log}
 *
 * The functions that say so block, and are for workers: they touch nothing but
 * their argument and say how it went in result and err.
 */
#pragma once

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "sandboxd/oci/base.h"
#include "sandboxd/oci/source.h"
#include "sandboxd/runtime.h"

struct fetch_files {
	char images[PATH_MAX], tmp[PATH_MAX]; /* STATE/images, and ours below it */
	char identity[SHA256_HEX_MAX];
	char *auth; /* the login for skopeo, until it is forgotten; NULL: none */
	uint64_t max_bytes;
	atomic_bool stop; /* asks a job to end soon */

	char key[BASE_NAME_MAX]; /* what it is, once known */
	bool stored;		 /* it is in STATE/images */
	struct base_config config;
	int result;
	struct err err;
};

int fetch_files_init(struct fetch_files *f, const char *state_dir, const struct source *source,
		     const struct runtime_image *login);
void fetch_files_done(struct fetch_files *f);

/* Blocks. Is what the source names here already? Else makes the directory. */
void fetch_files_look(struct fetch_files *f);
/* Blocks. Which image has come, is it here already, and is it one that may be unpacked? */
void fetch_files_weigh(struct fetch_files *f);
/* Blocks. Reads its configuration and gives it its name. */
void fetch_files_keep(struct fetch_files *f);
/* Blocks. Removes what is left of the directory. */
void fetch_files_remove(struct fetch_files *f);

/* For the programs' output; -errno. */
int fetch_files_log(const struct fetch_files *f);
/* Its last words, as text. */
void fetch_files_why(const struct fetch_files *f, char *out, size_t size);
/* The file with the logins: ours, else `other` where that is given. False: none. */
bool fetch_files_auth(const struct fetch_files *f, const char *other, char *out, size_t size);
void fetch_files_forget_login(struct fetch_files *f);

/* True when this machine says which signatures it asks for. */
bool fetch_policy_is_there(void);
