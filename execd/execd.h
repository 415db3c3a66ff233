/*
 * execd.h - the agent as a whole: what main() builds and every handler reaches.
 */
#pragma once

#include "lib/child.h"
#include "lib/loop.h"
#include "lib/pool.h"

struct http_server;
struct runs;
struct commands;
struct sessions;
struct ptys;
struct contexts;
struct metrics;
struct isolateds;
struct identities;
struct undoables;
struct confinement;

struct execd {
	struct loop *loop;
	struct reaper *reaper;
	struct pool *pool;
	struct http_server *http;

	char *token;	/* NULL: every request is let through */
	char *env_file; /* EXECD_ENVS, or NULL */

	unsigned kernel_spares;	 /* warm processes that wait for the next contexts of a language */
	uint64_t kernel_idle_ms; /* after which a context without cells loses its kernel; 0: never */

	const char *isolation_root;	 /* where layers of isolated sessions lie; NULL: the default */
	struct confinement *confinement; /* profiles, and the default of each kind */

	struct runs *runs;
	struct commands *commands;
	struct sessions *sessions;
	struct ptys *ptys;
	struct contexts *contexts;
	struct metrics *metrics;
	struct isolateds *isolateds;
	struct identities *identities;
	struct undoables *undoables;
};
