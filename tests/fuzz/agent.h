/*
 * agent.h - the whole agent within a fuzz target, in its jail, as main() builds it.
 */
#pragma once

#include <signal.h>

#include "execd/api/api.h"
#include "execd/command.h"
#include "execd/confinement.h"
#include "execd/context.h"
#include "execd/env.h"
#include "execd/isolated/isolated.h"
#include "execd/isolated/undoable.h"
#include "execd/metrics.h"
#include "execd/pty.h"
#include "execd/run.h"
#include "execd/session.h"
#include "tests/fuzz/drive.h"
#include "tests/fuzz/jail.h"

struct agent {
	struct drive drive;
	struct execd execd;
	struct http_route routes[128];
};

/* Those that fork the program that they are in, which is not the agent here. */
static inline bool agent_is_of_rooms(const struct http_route *r)
{
	return r->fn == isolated_post || r->fn == isolated_oneshot_post || r->fn == isolated_capabilities_get;
}

/* left_out: which routes it does not have; NULL: it has all. */
static inline void agent_new(struct agent *a, bool (*left_out)(const struct http_route *r))
{
	struct http_config config = {.routes = a->routes, .app = &a->execd, .json_max = 65536};
	struct execd *e = &a->execd;
	struct err err;
	size_t n = 0;

	for (const struct http_route *r = execd_routes; r->method; r++)
		if (!left_out || !left_out(r))
			a->routes[n++] = *r;
	must(n < ARRAY_SIZE(a->routes));
	(void)signal(SIGPIPE, SIG_IGN);
	must(env_init(NULL) == 0);
	drive_new(&a->drive, &config);
	e->loop = a->drive.loop;
	e->http = a->drive.http;
	must(reaper_new(e->loop, &e->reaper) == 0 && pool_new(e->loop, 2, 64, &e->pool) == 0);
	must(metrics_new(&e->metrics) == 0 && runs_new(e->loop, NULL, &e->runs) == 0);
	must(commands_new(e, &e->commands) == 0 && sessions_new(e, 16, &e->sessions) == 0);
	must(ptys_new(e, &e->ptys) == 0 && contexts_new(e, &e->contexts) == 0);
	must(isolateds_new(e, &e->isolateds) == 0 && undoables_new(e, &e->undoables) == 0);
	must(confinement_new(NULL, NULL, &e->confinement, &err) == 0);
}
