/*
 * runtimes.h - the drivers there are, by the words that settings call them: one table.
 */
#pragma once

#include "sandboxd/runtime.h"

struct config;

struct runtime_kind {
	const char *word;
	/* What its settings must be, before anything is opened; NULL: nothing. -errno with *err. */
	int (*check)(const struct config *config, struct err *err);
	/* config and env outlive the driver. -errno with *err: sandboxd does not start. */
	int (*new)(const struct runtime_env *env, const struct config *config, struct runtime **ret,
		   struct err *err);
};

/* NULL: there is no such driver. */
const struct runtime_kind *runtime_kind_find(const char *word);
const struct runtime_kind *runtime_kind_default(void);
/* "oci, docker" */
void runtime_kind_words(struct buf *out);
