/*
 * path.h - paths as clients write them, made absolute.
 */
#pragma once

#include "lib/err.h"

/*
 * Expands "~", $NAME and ${NAME} (env_expand_path()) and puts the agent's
 * working directory before a relative path. What stands between the slashes
 * is left to the kernel. *ret is malloc'd. -EINVAL for an empty path.
 */
int path_absolute(const char *given, char **ret, struct err *err);

/* The same, then path_clean(): the form in which a path is shown to clients. */
int path_canonical(const char *given, char **ret, struct err *err);

/* Removes "//", "." and ".." by text alone, and a slash at the end. path is absolute; in place. */
void path_clean(char *path);

/* The last component: what stands after the last slash, "" when it ends in one. Borrowed. */
const char *path_base(const char *path);
