/*
 * pty_priv.h - what pty.c (the sessions and their shells) and pty_client.c (whoever is attached) share.
 */
#pragma once

#include "execd/feed.h"
#include "execd/pump.h"
#include "execd/pty.h"
#include "lib/buf.h"
#include "lib/child.h"
#include "lib/list.h"
#include "lib/loop.h"
#include "lib/map.h"
#include "lib/random.h"

enum state { NEW, RUNNING, DRAINING, ENDED };

struct pty {
	struct map_node node;
	struct list link;
	struct ptys *ptys;
	char id[RANDOM_UUID_MAX];
	char *cwd, *command;  /* or NULL */
	struct pty_spec spec; /* its strings are those above, its envs a reference */
	uint64_t created_ms;

	enum state state;
	bool pipe;
	bool told; /* ENDED: a client has seen it */
	struct child child;
	pid_t pid;
	int wstatus;
	struct confine *confine; /* NULL: none */
	struct denials *denials; /* of the shell at hand; NULL: nothing is told */
	char *confinement;	 /* as JSON; NULL: none */
	char *denied;		 /* of the last shell, as JSON, or NULL */
	struct loop_timer drain;

	struct output *output;
	struct pump out, error;
	struct feed feed;
	struct feed_writer writer;
	struct buf input; /* what the feed has not taken */
	struct pty_client *client;
};

struct ptys {
	struct execd *execd;
	struct map by_id;
	struct list all; /* in order of creation */
	size_t n;
	bool stopping;
	struct list dead; /* freed after the callbacks that may still stand in them */
	struct loop_defer tidy;
};

/* There is something for the client, if there is one. */
void pty_wake(struct pty *p);
/* The client becomes a reader of the log, unless the shell has ended: that is not held up any more. */
void pty_follow(struct pty_client *c);
void pty_evict(struct pty *p, enum pty_eviction why);
