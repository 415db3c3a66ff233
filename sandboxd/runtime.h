/*
 * runtime.h - what a driver that makes containers offers: one table of functions.
 *
 * Drivers: oci (embedded, any OCI runtime), docker (a daemon's Engine API). A
 * driver lives on the loop thread; nothing in the table blocks for long except
 * probe(), which runs before anything is served, or while no sandbox can be
 * made. A container is a box, embedded in its sandbox:
 *
 *   create() -> (progress)* -> started | failed
 *                                         destroy() -> destroyed
 *   adopt()  -> (runs already)            freeze()  -> frozen
 *                                         and, any time between: exited
 *
 * Events come from the loop, never from within the call that causes them.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/buf.h"
#include "lib/child.h"
#include "lib/err.h"
#include "lib/loop.h"
#include "lib/pool.h"
#include "sandboxd/volume.h"

#define RUNTIME_ID_MAX	   64
#define RUNTIME_HANDLE_MAX 128
#define EXECD_PORT_INSIDE  44772 /* execd's port as clients name it */

struct runtime;
struct runtime_box;

struct runtime_exit {
	bool known;	  /* wstatus is valid: after a restart nobody may know it */
	int wstatus;	  /* as of waitpid(2) */
	bool oom;	  /* a memory limit killed it */
	char detail[256]; /* last line of the container's own log, or "" */
};

struct runtime_events {
	/* It runs, and box->port is set. handle: what adopt() needs after a restart. notes: what could not be
	 * enforced, or "". */
	void (*started)(struct runtime_box *box, const char *handle, const char *notes);
	/* create() does something that may take minutes, such as fetching an image, or is further with it:
	 * what the sandbox is told to be doing. max_s: how long it may take from now; 0: as long as any
	 * start. */
	void (*progress)(struct runtime_box *box, const char *reason, const char *message, uint32_t max_s);
	/* create() did not succeed; destroy() is still to be called. */
	void (*failed)(struct runtime_box *box, const struct err *err);
	/* It ended by itself; destroy() is still to be called. Not after destroy(). */
	void (*exited)(struct runtime_box *box, const struct runtime_exit *exit);
	/* The end of freeze(). err: why it is not so; then it runs. Not after exited() or destroy(). */
	void (*frozen)(struct runtime_box *box, bool on, const struct err *err);
	/* The end of snapshot(); the sandbox runs on. err: why there is none. Not after exited() or
	 * destroy(). */
	void (*snapshotted)(struct runtime_box *box, const char *snapshot, const struct err *err);
	/* The last event: nothing is left of it, and the box is the owner's to free. */
	void (*destroyed)(struct runtime_box *box);
};

struct runtime_box {
	const struct runtime_events *events;
	char id[RUNTIME_ID_MAX];
	/* Of execd on 127.0.0.1. Where the driver binds it itself it is set by create(), and connections wait
	 * there until execd is up; otherwise it is 0 until started(), when execd answers. adopt()'s caller
	 * sets it. */
	uint16_t port;
	/* Of the monotonic clock, what has been reached; 0: not yet, or never had to be done. */
	uint64_t pulled_usec;	/* its image was fetched */
	uint64_t unpacked_usec; /* and made into a file system */
	uint64_t prepared_usec; /* its files and groups stood */
	void *priv;		/* the driver's */
};

struct runtime_limits {
	uint64_t cpu_millis;   /* thousandths of a processor, 0: no limit */
	uint64_t memory_bytes; /* 0: no limit */
	uint32_t pids;	       /* 0: no limit */
	uint64_t disk_bytes; /* what it may write beside its image, 0: no limit; who cannot hold it refuses */
};

/* What a container is made from, as the client named it. Each driver looks it up where it has its own. */
struct runtime_image {
	const char *uri;
	const char *username, *password; /* of its registry; NULL: none. Never logged, stored or in argv. */
};

/* Borrowed during create(). */
struct runtime_spec {
	struct runtime_image image;
	const json_t *entrypoint; /* array of strings, not empty */
	const json_t *env;	  /* object of strings, or NULL */
	const char *snapshot;	  /* to stand on, or NULL */
	const char *token;	  /* that execd asks every request for, or NULL */
	struct runtime_limits limits;
	bool spare;	    /* execd waits for claim(), which brings entrypoint, env, token and limits */
	const char *record; /* JSON from which a lost store is rebuilt; no secrets are in it */
	const struct volumes *volumes; /* opened, or NULL; a driver that keeps a descriptor duplicates it */
};

/* cut: there was more. result: 0, or -errno and text is NULL. */
typedef void runtime_log_fn(void *arg, const struct buf *text, bool cut, int result);

#define RUNTIME_LOG_MAX (256 * 1024) /* of a container's output, in its diagnostics */

/* Something that a driver has and no box stands for. Strings are borrowed. */
struct runtime_found {
	const char *id;
	const char *of;	    /* of a snapshot: the sandbox it was taken of, or NULL */
	const char *record; /* runtime_spec.record, where the driver keeps it, or NULL */
	const char *handle; /* as of started(), or NULL: it does not run */
	uint16_t port;	    /* 0: not known */
	bool paused;
};

struct runtime_finder {
	void (*sandbox)(void *arg, const struct runtime_found *found);
	void (*snapshot)(void *arg, const struct runtime_found *found); /* also those that are wanted */
	/* Who makes the containers cannot be reached, or can be again: meanwhile nothing gets on. */
	void (*away)(void *arg, bool away);
	void *arg;
};

struct runtime_ops {
	const char *name;

	/* Makes ready what all containers share and tries what they need. The message says how to get it.
	 * Called again, before any create(), where it failed with ENOSPC. */
	int (*probe)(struct runtime *rt, struct err *err);
	/* 0: started or failed follows. -errno: nothing began. */
	int (*create)(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec,
		      struct err *err);
	/*
	 * Gives a spare that has started what its execd waits for (text, as of execd/claim.h), and limits and
	 * record of spec. 0: it will serve as if it had been created so, also if we die now; *ret_notes as
	 * those of started(), borrowed until the next event. 1: on the way, started or failed follows.
	 * -errno: it is of no use any more. NULL: there are no spares here.
	 */
	int (*claim)(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec,
		     const char *text, size_t n, const char **ret_notes, struct err *err);
	/* 0: it runs and is watched. -ESRCH: it is gone; destroy() removes what is left. */
	int (*adopt)(struct runtime *rt, struct runtime_box *box, const char *handle);
	/* Stops every process in it where it stands, or lets them go on; frozen follows. -errno: not begun.
	 */
	int (*freeze)(struct runtime *rt, struct runtime_box *box, bool on, struct err *err);
	/* Legal in any state, also for a box that was never created (leftovers). Repeated with force, it
	 * also breaks off what hangs. */
	void (*destroy)(struct runtime *rt, struct runtime_box *box, bool force);
	/* Keeps what its file system is now, under that name; snapshotted follows. -errno: not begun. */
	int (*snapshot)(struct runtime *rt, struct runtime_box *box, const char *snapshot, struct err *err);
	/* Removes it, also one half made; done follows. -EBUSY: a sandbox stands on it. */
	int (*snapshot_delete)(struct runtime *rt, const char *snapshot,
			       void (*done)(void *arg, const char *snapshot), void *arg);
	/* 0: fn is called with the end of what the container has said, now or from the loop. -ENOENT: nothing
	 * is left. */
	int (*log)(struct runtime *rt, const char *id, runtime_log_fn *fn, void *arg);
	/* Appends what there is to say of its network, lines of text. -ENOENT: nothing. May be NULL. */
	int (*network)(struct runtime *rt, const char *id, struct buf *out);
	/* Names every sandbox of which the driver has anything: now, or from the loop whenever one is found.
	 */
	int (*leftovers)(struct runtime *rt, const struct runtime_finder *finder);
	/* Every box has been destroyed or is abandoned where it stands. */
	void (*free)(struct runtime *rt);
};

struct runtime {
	const struct runtime_ops *ops;
};

struct runtime_env {
	struct loop *loop;
	struct reaper *reaper;
	struct pool *pool;
};
