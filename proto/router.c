/*
 * router.c - route lookup. The table is small and fixed, so it is walked; the
 * cost is a few string comparisons.
 */
#include "proto/router.h"

#include <stdio.h>
#include <string.h>

#include "proto/query.h"

struct path {
	const char *decoded[ROUTE_SEGMENTS_MAX];
	const char *raw[ROUTE_SEGMENTS_MAX];
	size_t n;      /* segments, ROUTE_SEGMENTS_MAX + 1 when there are more */
	char *rest_at; /* where the rest may be decoded to */
};

static int split(const char *path, char *store, struct path *p)
{
	p->n = 0;
	while (*path == '/') {
		size_t n = strcspn(++path, "/");
		ssize_t r;

		if (p->n == ROUTE_SEGMENTS_MAX) {
			p->n++;
			break;
		}
		p->raw[p->n] = path;
		p->decoded[p->n++] = store;
		r = url_decode(store, path, n, false);
		if (r < 0)
			return (int)r;
		store += r + 1;
		path += n;
	}
	p->rest_at = store;
	return 0;
}

static void add_param(struct route_match *m, const char *name, size_t n, const char *value)
{
	if (m->params_n < ROUTE_PARAMS_MAX)
		m->params[m->params_n++] = (struct route_param){name, n, value};
}

/*
 * Whether the pattern matches; *score then tells which of two patterns is the
 * better one: two bits a segment, literal over parameter over rest.
 */
static bool pattern_matches(const char *pattern, const struct path *p, struct route_match *m, uint64_t *score)
{
	size_t i = 0;

	m->params_n = 0;
	*score = 0;
	for (; *pattern == '/'; i++) {
		const char *seg = pattern + 1;
		size_t n = strcspn(seg, "/");
		uint64_t weight = 3;

		if (n == 1 && seg[0] == '*') {
			add_param(m, "*", 1, i < p->n && i < ROUTE_SEGMENTS_MAX ? p->raw[i] : "");
			*score |= (uint64_t)1 << (62 - 2 * i);
			return true;
		}
		if (i >= p->n || i == ROUTE_SEGMENTS_MAX)
			return false;
		if (seg[0] == '{') {
			weight = 2;
			if (!*p->decoded[i])
				return false;
			add_param(m, seg + 1, n - 2, p->decoded[i]);
		} else if (strncmp(seg, p->decoded[i], n) != 0 || p->decoded[i][n]) {
			return false;
		}
		*score |= weight << (62 - 2 * i);
		pattern = seg + n;
	}
	return i == p->n;
}

static void allow_add(char *allow, size_t size, const char *method)
{
	size_t len = strlen(allow);

	if (!strstr(allow, method))
		(void)snprintf(allow + len, size - len, "%s%s", len ? ", " : "", method);
}

static bool method_fits(const struct http_route *r, const char *method)
{
	return strcmp(r->method, "*") == 0 || strcmp(r->method, method) == 0 ||
	       (strcmp(r->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

int route_find(const struct http_route *routes, const char *prefix, const char *method, const char *path,
	       char *store, struct route_match *ret)
{
	size_t prefix_n = prefix ? strlen(prefix) : 0;
	struct route_match m;
	struct path p = {0};
	uint64_t best = 0, score;
	int r;

	memset(ret, 0, sizeof(*ret));
	if (prefix_n && strncmp(path, prefix, prefix_n) == 0 && path[prefix_n] == '/')
		path += prefix_n;
	r = split(path, store, &p);
	if (r < 0)
		return r;

	for (const struct http_route *route = routes; route->method; route++) {
		if (!pattern_matches(route->path, &p, &m, &score))
			continue;
		if (!method_fits(route, method)) {
			allow_add(ret->allow, sizeof(ret->allow), route->method);
			if (strcmp(route->method, "GET") == 0)
				allow_add(ret->allow, sizeof(ret->allow), "HEAD");
			continue;
		}
		if (ret->route && score <= best)
			continue;
		best = score;
		ret->route = route;
		memcpy(ret->params, m.params, sizeof(ret->params));
		ret->params_n = m.params_n;
	}

	/* The rest is decoded only now, for the one that has won. */
	for (size_t i = 0; i < ret->params_n; i++) {
		struct route_param *param = &ret->params[i];

		if (param->name[0] != '*')
			continue;
		r = (int)url_decode(p.rest_at, param->value, strlen(param->value), false);
		if (r < 0)
			return r;
		param->value = p.rest_at;
	}
	return 0;
}
