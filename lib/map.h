/*
 * map.h - intrusive hash map from a string key to the object that embeds the node.
 *
 * The key is borrowed from the object. Hashed with a per-process random seed
 * (keys come from the network).
 */
#pragma once

#include "lib/util.h"

struct map_node {
	struct map_node *next;
	const char *key;
	uint32_t hash;
};

struct map {
	struct map_node **buckets;
	size_t buckets_n, len;
};

void map_done(struct map *m); /* frees the table, not the objects */
/* The same with the objects; the map is empty then, and may be filled anew. */
void map_clear(struct map *m, void (*free_object)(struct map_node *node));
/* -EEXIST when the key is taken, -ENOMEM. */
int map_add(struct map *m, struct map_node *node, const char *key);
struct map_node *map_get(const struct map *m, const char *key);
void map_del(struct map *m, struct map_node *node);
