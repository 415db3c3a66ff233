/*
 * pty.h - terminal sessions: a shell on a pseudoterminal, or on three pipes, that
 * outlives its clients.
 *
 *   NEW -> RUNNING -> DRAINING -> ENDED
 *            ^                      |
 *            '----- pty_start() ----'
 *
 * The shell starts when the first client asks for it. Its output goes to one
 * log whose newest PTY_REPLAY_MAX bytes stay for whoever comes back; the
 * offsets go on when another shell is started in the same session. One client
 * at a time is attached, and it reads at its own offset. Loop thread only.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "execd/output.h"
#include "lib/err.h"

struct execd;
struct pty;
struct ptys;

#define PTYS_MAX	   256		 /* sessions; one more takes the place of one that has ended */
#define PTY_REPLAY_MAX	   (1U << 20)	 /* bytes of output that are kept at least */
#define PTY_LAG_MAX	   (512U * 1024) /* a client further behind holds the shell up, */
#define PTY_STALL_MS	   10000	 /* for so long; one that takes nothing may miss output instead */
#define PTY_INPUT_HIGH	   (256U * 1024) /* unread input from which on a client should send no more */
#define PTY_INPUT_MAX	   (4U << 20)	 /* and over which it is refused */
#define PTY_DRAIN_GRACE_MS 100 /* after the shell's end, for output that others may still be writing */
#define PTY_SIZE_MAX	   65535

struct pty_spec {
	const char *cwd;     /* as the client wrote it, made when it is not there; NULL: the agent's */
	const char *command; /* NULL: an interactive shell */
	json_t *envs;	     /* object of strings, or NULL */
	json_t *confinement; /* as given (confinement.h), or NULL; not looked at after pty_create() */
	bool has_uid, has_gid;
	uid_t uid;
	gid_t gid;
	unsigned cols, rows; /* 1 to PTY_SIZE_MAX; 0: 80, 24 */
};

int ptys_new(struct execd *execd, struct ptys **ret);
/* The agent shuts down: clients are sent away, shells killed, and nothing new is begun. */
void ptys_stop(struct ptys *ps);
void ptys_free(struct ptys *ps);

/* Whatever can be wrong with it is found here, the shell's absence included. *ret_id lives as long as it. */
int pty_create(struct ptys *ps, const struct pty_spec *spec, const char **ret_id, struct err *err);
/* Borrowed; -ENOENT with *err. */
int pty_get(struct ptys *ps, const char *id, struct pty **ret, struct err *err);
/* Kills everything in it. */
void pty_delete(struct pty *p);

struct pty_info {
	const char *id, *command, *cwd; /* command, cwd: or NULL */
	uint64_t created_ms;
	uint64_t begin, end; /* offsets of the output that is held */
	bool running, ended; /* neither: not started */
	bool pipe;	     /* as started last, or is running */
	bool connected;
	int exit_code; /* when ended; -1: by a signal */
	int signo;
	unsigned cols, rows;
	const char *confinement; /* a JSON object; NULL: none */
	const char *denied;	 /* what its shells were denied, as a JSON array, or NULL */
};
void pty_info(struct pty *p, struct pty_info *ret);
void ptys_each(struct ptys *ps, void (*fn)(void *arg, const struct pty_info *info), void *arg);

/* ---- a client ------------------------------------------------------------- */

enum pty_eviction { PTY_TAKEN_OVER, PTY_DELETED, PTY_SHUTDOWN };

struct pty_client;

struct pty_client_ops {
	/* There is output, room for input, or the end. Make no call on the session from inside. */
	void (*wake)(struct pty_client *c);
	/* It has been detached. */
	void (*evicted)(struct pty_client *c, enum pty_eviction why);
};

/* Embedded in its owner. Zeroed before the first pty_attach(). */
struct pty_client {
	struct pty *pty; /* NULL when not attached */
	const struct pty_client_ops *ops;
	uint64_t offset; /* of the next byte it reads */
	uint64_t progress_ms;
	struct output_reader reader; /* attached while the client may hold the shell up */
	struct loop_timer stall;
};

/*
 * Evicts whoever is attached. since: the offset to begin at, moved to what is
 * held. Without a shell, or when the end of the last one has been seen by a
 * client, pty_start() is to follow.
 */
void pty_attach(struct pty *p, struct pty_client *c, uint64_t since, const struct pty_client_ops *ops);
/* Harmless when not attached. */
void pty_detach(struct pty_client *c);
bool pty_needs_start(const struct pty *p);
int pty_start(struct pty *p, bool pipe, struct err *err);

/*
 * The next piece of output, at most max bytes. 1: there is one; *ret_missed:
 * bytes before it have been dropped; 0: nothing now.
 */
int pty_read(struct pty_client *c, size_t max, struct output_slice *ret, bool *ret_missed);
void pty_advance(struct pty_client *c, const struct output_slice *slice);
/* The shell has ended and all of its output was read: true once, the session then waits for pty_start(). */
bool pty_take_end(struct pty_client *c, int *ret_exit_code, int *ret_signo);

/* To the shell's input, in order. -EPIPE: nobody reads it; -ENOBUFS: over PTY_INPUT_MAX. */
int pty_write(struct pty *p, const void *data, size_t n);
bool pty_input_full(const struct pty *p);
/* Kept for the next start when none runs. */
int pty_resize(struct pty *p, unsigned cols, unsigned rows);
/*
 * What a key would send goes to the terminal's foreground job, anything else to
 * the shell as well. -EINVAL: no such name; -ESRCH: nothing runs.
 */
int pty_signal(struct pty *p, const char *name);
