/*
 * settings.h - the configuration file: one table of what can be set.
 *
 * TOML, with the names of the known server where it has the setting. The same
 * table reads a file, writes `sandboxd init-config` and the reference.
 */
#pragma once

#include "sandboxd/config.h"

/* The file that is read without a word on the command line; NULL when there is none. malloc'd. */
char *settings_default_path(void);

/*
 * Sets in *c what the file says. An unknown name is a warning, with name and
 * line; a wrong type or value is -EINVAL with *err, likewise. A setting of the
 * known server that has no meaning here is passed over, and said at level info.
 */
int settings_load(const char *path, struct config *c, struct err *err);

/* Writes a file with every setting, its default and what it does. -EEXIST without `force`. */
int settings_write(const char *path, bool force, struct err *err);
