/*
 * sandbox.h - the noun: sandboxes, from the accepted request to the tombstone.
 *
 *   Pending -> Running -> Stopping -> Terminated     Terminated: nothing is left of it
 *      |        |    |        ^ ^
 *      +--------+----+-> Failed + | (deleted)
 *               |                 |
 *            Pausing -> Paused -> Resuming -> Running  (delete and expiry: Stopping)
 *
 * The store says what is; an object here exists only while there is something
 * of the sandbox on the machine. Every change goes to the store first.
 */
#pragma once

#include "lib/random.h"
#include "sandboxd/config.h"
#include "sandboxd/runtime.h"
#include "sandboxd/store.h"

struct sandboxes;

struct sandboxes_env {
	struct loop *loop;
	struct store *store;
	struct runtime *runtime;
	const struct config *config;
};

int sandboxes_new(const struct sandboxes_env *env, struct sandboxes **ret);
/* Objects that are left are abandoned where they stand: their containers live on. */
void sandboxes_free(struct sandboxes *all);

/*
 * Creations are refused with this sentence from now on (the runtime's probe failed). Where it was for want
 * of room on disk, each creation has it try again.
 */
void sandboxes_refuse(struct sandboxes *all, const struct err *why);

/* At start: adopts what runs, ends what was half-made, removes what belongs to nobody. */
int sandboxes_recover(struct sandboxes *all, struct err *err);

/*
 * No more creations. What is on its way arrives; with `kill` every sandbox is
 * ended. done runs once nothing is on its way (or nothing is left).
 */
void sandboxes_drain(struct sandboxes *all, bool kill, void (*done)(void *arg), void *arg);

/* Borrowed during sandboxes_create(). */
struct sandbox_spec {
	const char *image; /* as the client named it, or of the snapshot */
	json_t *entrypoint;
	json_t *env;	    /* object of strings, or NULL */
	json_t *metadata;   /* object of strings, or NULL */
	json_t *platform;   /* or NULL */
	uint64_t timeout_s; /* 0: none */
	struct runtime_spec runtime;
	bool secure;	   /* execd gets a token of its own */
	const char *notes; /* what the request asks for and nobody enforces, or "" */
};

int sandboxes_create(struct sandboxes *all, const struct sandbox_spec *spec, char ret_id[RANDOM_UUID_MAX],
		     struct err *err);
/* A transaction around one of these calls was undone by the store: so is what they began. */
void sandboxes_undone(struct sandboxes *all);
/* Legal in every state; ends what runs, and says so even when it has ended. -ENOENT when forgotten. */
int sandboxes_delete(struct sandboxes *all, const char *id, struct err *err);
int sandboxes_renew(struct sandboxes *all, const char *id, uint64_t expires_ms, struct err *err);

/*
 * Pausing, then Paused; Resuming, then Running. A pause that fails goes back to Running and says why.
 * One that is still Pending is paused as soon as it runs: its agent answers clients before we see it.
 */
int sandboxes_pause(struct sandboxes *all, const char *id, struct err *err);
int sandboxes_resume(struct sandboxes *all, const char *id, struct err *err);

/* RFC 7396: patch is an object of strings and nulls, its labels checked by the caller. */
int sandboxes_patch_metadata(struct sandboxes *all, const char *id, json_t *patch, struct err *err);

/*
 * Tells of changes: `changed` runs on the loop after each change of the state of
 * `id`, also when it is forgotten. It may end its own watch. Memory is the caller's.
 */
struct sandbox_watch {
	struct list link;
	void (*changed)(struct sandbox_watch *w);
	char id[RUNTIME_ID_MAX];
	bool due;
};

void sandboxes_watch(struct sandboxes *all, struct sandbox_watch *w, const char *id,
		     void (*changed)(struct sandbox_watch *w));
void sandboxes_unwatch(struct sandbox_watch *w);

/*
 * Snapshots: Creating -> Ready | Failed; Deleting until its files are gone, which
 * waits for the sandboxes that stand on it. name: or NULL.
 */
int sandboxes_snapshot(struct sandboxes *all, const char *id, const char *name, char ret_id[RANDOM_UUID_MAX],
		       struct err *err);
int sandboxes_snapshot_delete(struct sandboxes *all, const char *snapshot, struct err *err);

/* The warm pool: one row an image of [pool]. Returns how many there are; i past the end: *ret stays. */
struct sandbox_pool_stats {
	const char *image;
	uint32_t size, ready, starting;
	uint64_t started;  /* spares, since we began */
	uint64_t hits;	   /* creates that took a spare */
	uint64_t misses;   /* that would have, had one been ready */
	uint64_t unfit;	   /* that asked for what a spare cannot be given: a snapshot, volumes, ... */
	uint64_t failures; /* spares that did not start, or ended by themselves */
	char error[256];   /* the last of those, or "" */
};
/* What sandboxes_watch() takes for changes of `started` and `failures`. */
#define SANDBOX_POOL_WATCH "pool"
size_t sandboxes_pools(const struct sandboxes *all, size_t i, struct sandbox_pool_stats *ret);

/* What the driver has of the sandbox's own output, as of runtime_ops.log. */
int sandboxes_network(struct sandboxes *all, const char *id, struct buf *out);
int sandboxes_log(struct sandboxes *all, const char *id, runtime_log_fn *fn, void *arg);

/* For reading: rows are rendered by the API. */
struct store *sandboxes_store(struct sandboxes *all);
