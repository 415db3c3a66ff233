/*
 * inodes.c - a map from device and inode to a path.
 */
#include "execd/inodes.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct first_name {
	struct map_node node;
	char key[48]; /* device and inode */
	char path[];
};

static void free_name(struct map_node *node)
{
	free(container_of(node, struct first_name, node));
}

void inodes_done(struct inodes *in)
{
	map_clear(&in->names, free_name);
}

const char *inodes_first(struct inodes *in, const struct stat *st, const char *path)
{
	struct first_name *f;
	struct map_node *node;
	char key[sizeof(f->key)];
	size_t n = strlen(path) + 1;

	(void)snprintf(key, sizeof(key), "%" PRIx64 ":%" PRIx64, (uint64_t)st->st_dev, (uint64_t)st->st_ino);
	node = map_get(&in->names, key);
	if (node)
		return container_of(node, struct first_name, node)->path;
	f = in->names.len < INODES_MAX ? malloc(sizeof(*f) + n) : NULL;
	if (f) {
		memcpy(f->key, key, sizeof(key));
		memcpy(f->path, path, n);
		if (map_add(&in->names, &f->node, f->key) < 0)
			free(f);
	}
	return NULL;
}
