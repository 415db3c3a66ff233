/*
 * asset.h - the kernels that the agent carries in its own binary.
 *
 * A language's files are handed to its process as one anonymous file in
 * memory (memfd), sealed and read-only in effect: nothing is written to a disk,
 * so a read-only root and a full /tmp do not matter, and nobody can change the
 * code before it runs. Its content is, of a folder, for each file but .so and .jar:
 *
 *   name SPACE size LF bytes
 *
 * and of a file just its bytes. A file in kernels/ becomes part of the agent by lying there.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"

/* path: below kernels/, "java/classes.jar". Has the build embedded it? */
bool asset_there(const char *path);
/* path: a folder ("python") or a file. *ret_fd is close-on-exec and the caller's, at offset 0. */
int asset_open(const char *path, int *ret_fd, struct err *err);
/*
 * Where a kernel lies that is too large to be carried: in the folder kernels/ beside the agent's program,
 * or in the one that EXECD_KERNELS names. That it is there is for the caller to find out.
 */
int asset_program(const char *name, char *path, size_t size);
