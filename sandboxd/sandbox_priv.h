/*
 * sandbox_priv.h - what the files of the noun share: sandbox.c (the objects, and what clients ask
 * for), sandbox_state.c, sandbox_pause.c, sandbox_snapshot.c, sandbox_spare.c,
 * sandbox_recover.c, sandbox_watch.c.
 */
#pragma once

#include "lib/map.h"
#include "sandboxd/ping.h"
#include "sandboxd/sandbox.h"
#include "sandboxd/sweeper.h"

#define NOTES_MAX	256
#define STORE_ID_DIGITS 16

struct sandbox {
	struct map_node node;
	struct list link;
	struct sandboxes *all;
	struct runtime_box box;
	struct ping ping;
	enum sandbox_state state; /* of the row */
	bool started, answered;
	uint64_t created_usec, claimed_usec, started_usec,
		answered_usec;	     /* monotonic; 0: not seen in this life */
	struct shelf *shelf;	     /* a spare's place in the pool, NULL: it is none, or is ending */
	uint64_t give_up_ms;	     /* monotonic, of a spare that starts */
	char taking[RUNTIME_ID_MAX]; /* the snapshot that is being taken of it, or waits until it runs */
	/* As soon as what is on its way has come: a client need not wait for it. */
	bool pause_wanted, resume_wanted;
	char handle[RUNTIME_HANDLE_MAX];
	char notes[NOTES_MAX];
};

struct sandboxes {
	struct sandboxes_env env;
	struct sweeper *sweeper;
	struct spares *spares; /* NULL: there is no pool */
	struct map live;
	struct list list;
	struct list watches;
	struct loop_defer tell_soon;
	char store_id[STORE_ID_DIGITS + 1]; /* of this store and no other */
	struct err refuse;		    /* why no creation is accepted; code: NULL: they are */
	bool draining, kill;
	bool away; /* the runtime; what is on its way stays there until it is back */
	void (*drained)(void *arg);
	void *drained_arg;
	struct loop_defer drained_soon;
};

extern const struct runtime_events sandbox_events;

struct sandbox *sandbox_find(struct sandboxes *all, const char *id);
/* Known to nobody yet; free() undoes it. */
struct sandbox *sandbox_alloc(struct sandboxes *all, const char *id);
struct sandbox *sandbox_new(struct sandboxes *all, const char *id, enum sandbox_state state);
void sandbox_free(struct sandbox *sb);
void sandbox_add_note(struct sandbox *sb, const char *note);

/* What a row waits for in its new state. */
void sandboxes_set_deadline(const struct sandboxes *all, struct transition *t);
/* Changes the row, and tells of it. */
int sandboxes_move(struct sandboxes *all, const char *id, struct transition *t);
/* Those who wait for a change of this sandbox or snapshot are called from the loop. */
void sandboxes_tell(struct sandboxes *all, const char *id);
void sandboxes_check_drained(struct sandboxes *all);

/* Row first, then the container. */
int sandbox_stop(struct sandbox *sb, const char *reason, const char *message);
int sandbox_fail(struct sandbox *sb, const char *reason, const char *message, bool force);
void sandbox_tear_down(struct sandbox *sb, bool force);
/* Its answer is what it takes to be Running. */
void sandbox_ask_agent(struct sandbox *sb);
int sandbox_on_due(void *arg, const char *id, enum sandbox_state state, uint64_t now_ms);

/* Pauses or resumes, where that has been asked for too early. */
void sandbox_do_wanted(struct sandbox *sb);
void sandbox_on_frozen(struct runtime_box *box, bool on, const struct err *err);
int sandbox_not_in_state(struct err *err, const char *code, const char *id, const char *wanted);

int sandboxes_spares_new(struct sandboxes *all);
void sandboxes_spares_free(struct sandboxes *all);
/* Something has changed: refill where it is time. Cheap, may be called at every change. */
void sandboxes_spares_kick(struct sandboxes *all);
/* A spare that has become this sandbox, still without a row; NULL: there is none that fits. */
struct sandbox *sandboxes_claim(struct sandboxes *all, const struct sandbox_spec *spec);
void sandboxes_spares_drain(struct sandboxes *all);
bool sandboxes_spares_left(const struct sandboxes *all);

int sandbox_take_snapshot(struct sandbox *sb, struct err *err);
void sandbox_on_snapshotted(struct runtime_box *box, const char *snapshot, const struct err *why);
void sandbox_snapshot_failed(struct sandbox *sb, const char *reason, const char *message);
void sandboxes_retry_snapshot_deletes(struct sandboxes *all);
/* The driver has this one: when nobody wants it, it goes; of a store that was lost, it is wanted. */
void sandboxes_snapshot_found(struct sandboxes *all, const struct runtime_found *found);
void sandboxes_recover_snapshots(struct sandboxes *all);
