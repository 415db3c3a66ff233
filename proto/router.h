/*
 * router.h - finds the route of a method and a path.
 *
 * A pattern is matched segment by segment against the path as sent, each
 * segment decoded once: an encoded slash belongs to its segment. Of several
 * patterns that match, the one with a literal where the others have a parameter
 * wins, and a parameter wins over the "*" that takes the rest.
 */
#pragma once

#include "proto/http.h"

#define ROUTE_SEGMENTS_MAX 32
#define ROUTE_PARAMS_MAX   8

struct route_param {
	const char *name; /* in the pattern; name_n bytes */
	size_t name_n;
	const char *value;
};

struct route_match {
	const struct http_route *route; /* NULL: see allow */
	struct route_param params[ROUTE_PARAMS_MAX];
	size_t params_n;
	char allow[96]; /* methods of the routes that match the path, when none matches the method */
};

/*
 * path: as sent, without the query. prefix: NULL, or one under which every route
 * exists too. store has room for ROUTE_STORE_ROOM(strlen(path)) bytes and holds
 * the values of the parameters. -EINVAL when the path has a broken escape.
 */
#define ROUTE_STORE_ROOM(n) (2 * (n) + ROUTE_SEGMENTS_MAX + 2)
int route_find(const struct http_route *routes, const char *prefix, const char *method, const char *path,
	       char *store, struct route_match *ret);
