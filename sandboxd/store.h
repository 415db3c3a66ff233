/*
 * store.h - the truth about every sandbox, in SQLite.
 *
 * One row a sandbox, from the moment its creation is accepted until its
 * tombstone is forgotten. Each state has at most one deadline: Pending until
 * provisioning is a failure, Running until it expires, Stopping until the stop
 * is forced, an ended one until it is forgotten; the sweeper acts on them.
 *
 * Used on the loop thread only. A change is on its way to the disk when the
 * call returns: it survives the death of this process at any moment. It may be
 * lost when the machine itself dies, and so are then all sandboxes; that is why
 * no call waits for the disk (WAL, synchronous=NORMAL).
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "lib/err.h"

enum sandbox_state {
	SANDBOX_PENDING,
	SANDBOX_RUNNING,
	SANDBOX_PAUSING,
	SANDBOX_PAUSED,
	SANDBOX_RESUMING,
	SANDBOX_STOPPING,
	SANDBOX_TERMINATED,
	SANDBOX_FAILED,
	SANDBOX_STATES,
};

/* "Pending", ...: the words of the API. */
const char *sandbox_state_name(enum sandbox_state state);
/* Without regard to case; -EINVAL for a word that is none. */
int sandbox_state_parse(const char *name, enum sandbox_state *ret);

#define STATE_BIT(state) (1u << (state))
#define STATES_ENDED	 (STATE_BIT(SANDBOX_TERMINATED) | STATE_BIT(SANDBOX_FAILED))
#define STATES_ALL	 (STATE_BIT(SANDBOX_STATES) - 1)
#define STATES_LIVE	 (STATES_ALL & ~STATES_ENDED)

/* A row. Strings are borrowed: valid during the callback, or as long as the caller says. */
struct record {
	const char *id;
	enum sandbox_state state;
	const char *reason;  /* one word for programs */
	const char *message; /* one sentence for people */
	uint64_t created_ms, transition_ms;
	uint64_t expires_ms;  /* 0: does not expire */
	uint64_t deadline_ms; /* of this state; 0: none */
	const char *image;
	const char *entrypoint; /* JSON array */
	const char *metadata;	/* JSON object */
	const char *platform;	/* JSON object, or NULL */
	const char *runtime;	/* name of the driver */
	const char *handle;	/* the driver's own note, NULL before it has one */
	uint16_t port;		/* of execd, 0 before it is known */
	const char *token;	/* of execd, NULL: it lets everybody in */
	const char *timing;	/* JSON object, NULL before it runs */
	const char *snapshot;	/* it was made from, or NULL */
	const char *volumes;	/* JSON array, or NULL */
};

struct store;
typedef int store_row_fn(const struct record *row, void *arg); /* non-zero stops and is returned */

int store_open(const char *path, struct store **ret, struct err *err);
void store_close(struct store *s);

/*
 * What is done between the two is done together or not at all; they nest.
 * store_end() takes the result of the work and gives that of the whole.
 */
int store_begin(struct store *s, struct err *err);
int store_end(struct store *s, int result, struct err *err);

/* metadata is split into its pairs. -EEXIST when the id is taken. */
int store_insert(struct store *s, const struct record *row, struct err *err);
/* -ENOENT with *err when there is none. */
int store_get(struct store *s, const char *id, store_row_fn *fn, void *arg, struct err *err);

/*
 * Moves a sandbox that is in one of the states `from` (STATE_BITs). -ENOENT
 * when there is none, -ESTALE when it is in another state: nothing changed.
 */
struct transition {
	unsigned from;
	enum sandbox_state to;
	const char *reason, *message; /* NULL: stays as it is */
	uint64_t now_ms;
	uint64_t deadline_ms; /* of the new state, 0: none */
	uint32_t max_s;	      /* from which its owner reckons that, 0: the usual */
	bool until_expiry;    /* the deadline is expires_ms */
	const char *handle;   /* NULL: stays as it is */
	uint16_t port;	      /* 0: stays as it is */
};
int store_move(struct store *s, const char *id, const struct transition *t, struct err *err);

int store_set_timing(struct store *s, const char *id, const char *timing, struct err *err);

/* The deadline of a sandbox that runs moves with it. -ESTALE when it is ending, or never expires. */
int store_set_expires(struct store *s, const char *id, uint64_t expires_ms, struct err *err);
/* Replaces all pairs. metadata: a JSON object of strings. -ENOENT. */
int store_set_metadata(struct store *s, const char *id, const char *metadata, struct err *err);
int store_forget(struct store *s, const char *id, struct err *err);

/* Earliest deadline of all; -ENOENT when there is none. */
int store_next_deadline(struct store *s, uint64_t *ret_ms);
/* One row whose deadline is due at now_ms, the oldest first; 0 when there is none, else 1. */
int store_due(struct store *s, uint64_t now_ms, char ret_id[64], enum sandbox_state *ret_state);

struct store_pair {
	const char *key, *value;
};

struct store_filter {
	unsigned states; /* STATE_BITs */
	const struct store_pair *metadata;
	size_t metadata_n;
};

#define STORE_FILTER_PAIRS_MAX 16

/* Newest first; skips `offset` rows, gives at most `limit`; *ret_total counts all that match. */
int store_list(struct store *s, const struct store_filter *filter, uint64_t offset, uint32_t limit,
	       store_row_fn *fn, void *arg, uint64_t *ret_total, struct err *err);
int store_count(struct store *s, unsigned states, uint64_t *ret, struct err *err);

/* ---- store_log.c ---------------------------------------------------------- */

/* A secret of this installation: n hex digits, made when it is first asked for. */
int store_secret(struct store *s, const char *name, char *ret, size_t n, struct err *err);

struct store_event {
	uint64_t at_ms;
	const char *state, *reason, *message;
};
/* Newest first, at most limit. */
int store_events(struct store *s, const char *id, uint32_t limit,
		 void (*fn)(const struct store_event *e, void *arg), void *arg, struct err *err);

/* An answer that is given again when its request is repeated. Strings are borrowed. */
struct store_answer {
	const char *request; /* digest of what was asked */
	unsigned status;
	const char *location; /* or NULL */
	const char *body;
};

#define STORE_ANSWER_MS (24ull * 3600 * 1000)

/* 1: fn has been called with what is remembered for key; 0: nothing is. */
int store_answer_get(struct store *s, const char *key, uint64_t now_ms,
		     int (*fn)(const struct store_answer *a, void *arg), void *arg, struct err *err);
int store_answer_put(struct store *s, const char *key, const struct store_answer *a, uint64_t now_ms,
		     struct err *err);

/* ---- store_snapshot.c ------------------------------------------------------ */

enum snapshot_state {
	SNAPSHOT_CREATING,
	SNAPSHOT_READY,
	SNAPSHOT_FAILED,
	SNAPSHOT_DELETING,
	SNAPSHOT_STATES,
};

const char *snapshot_state_name(enum snapshot_state state);
int snapshot_state_parse(const char *name, enum snapshot_state *ret);

struct snapshot_record {
	const char *id, *sandbox;
	const char *name; /* or NULL */
	enum snapshot_state state;
	const char *reason, *message;
	uint64_t created_ms, transition_ms;
	const char *image; /* of the sandbox it was taken from */
};

typedef int snapshot_row_fn(const struct snapshot_record *row, void *arg);

int store_snapshot_insert(struct store *s, const struct snapshot_record *row, struct err *err);
int store_snapshot_get(struct store *s, const char *id, snapshot_row_fn *fn, void *arg, struct err *err);
/* from: STATE_BITs. -ESTALE: it is in another state. */
int store_snapshot_move(struct store *s, const char *id, unsigned from, enum snapshot_state to,
			const char *reason, const char *message, uint64_t now_ms, struct err *err);
int store_snapshot_delete(struct store *s, const char *id, struct err *err);
/* sandbox: NULL, or of this one only. Otherwise as store_list(). */
int store_snapshot_list(struct store *s, unsigned states, const char *sandbox, uint64_t offset,
			uint32_t limit, snapshot_row_fn *fn, void *arg, uint64_t *ret_total, struct err *err);
