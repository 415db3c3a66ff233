/*
 * layer_list.h - the changes of a view as JSON.
 */
#pragma once

#include "execd/isolated/layer.h"
#include "lib/buf.h"

#define LAYER_LIST_MAX	   10000 /* changes in one answer */
#define LAYER_LIST_DEFAULT 1000

struct layer_list {
	const char *after; /* only paths that come later in the walk; NULL: all */
	uint64_t limit;
};

/*
 * Worker. Appends {"changes": [{path, change, type, size, size_before, mode}],
 * "next": "..." when there are more, "summary": {added, modified, metadata,
 * deleted, bytes}}. bytes are those of the files added and modified.
 */
int layer_list(const struct layer_view *view, const struct layer_list *list, struct buf *out,
	       struct err *err);
