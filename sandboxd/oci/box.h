/*
 * box.h - one container of the embedded driver, as the driver's files share it.
 *
 *   FRESH -> (FETCHING) -> PREPARING -> STARTING -> RUNNING -> ENDED      (made, and ended by itself)
 *             fetch.h     job: files   runtime run  |  |        |
 *                                    KILLING       |          (destroy() at any time; while a
 *                                       |          |           step is under way it is awaited)
 *                                       +-> DELETING -> REMOVING -> (destroyed)
 *                                           runtime     job: groups,
 *                                           delete      files
 *
 * What may take long is a child process or a job of the pool, and its end
 * brings the next phase. Loop thread, except what says otherwise.
 *
 * create.c and start.c make a container, adopt.c finds one again, freeze.c and snapshot.c
 * work beside RUNNING, destroy.c ends it.
 */
#pragma once

#include <limits.h>

#include "sandboxd/config.h"
#include "sandboxd/oci/cgroup.h"
#include "sandboxd/oci/fetch.h"
#include "sandboxd/oci/hardening.h"
#include "sandboxd/oci/layers.h"
#include "sandboxd/oci/logs.h"
#include "sandboxd/oci/network.h"
#include "sandboxd/runtime.h"

#define OCI_ROOT_NAME_MAX 24
#define OCI_START_CODE	  "DOCKER::SANDBOX_START_FAILED"

struct oci {
	struct runtime rt;
	struct runtime_env env;
	const struct config *config;
	struct list boxes;
	struct cgroups cgroups;
	struct network network;
	struct bases bases;
	struct fetches fetches;
	struct hardening hardening;
	struct logs logs;
	bool looked;			   /* at the groups and images that there are: once */
	char root_name[OCI_ROOT_NAME_MAX]; /* roots/NAME */
	char runtime_path[PATH_MAX];	   /* found in PATH */
	char *envp[2];			   /* of the runtime program: PATH and nothing else */
	char *fetch_envp[10];		   /* of skopeo and umoci; owned */
};

enum oci_phase {
	OCI_FRESH,
	OCI_FETCHING,
	OCI_PREPARING,
	OCI_STARTING,
	OCI_RUNNING,
	OCI_KILLING,
	OCI_ENDED,
	OCI_DELETING,
	OCI_REMOVING,
};

struct oci_box {
	struct list link;
	struct oci *oci;
	struct runtime_box *box;
	enum oci_phase phase;
	bool dying;   /* destroy() was called */
	bool started; /* the runtime may have records of it */

	struct child child; /* the runtime program at work */
	struct child init;  /* the container's first process, as our child */
	int pidfd;	    /* the same, when it is not our child */
	struct loop_io pid_io;
	pid_t pid;
	int listen_fd;
	int token_fd; /* the agent's end of a pipe with its token or claim, or -EBADF */
	int claim_fd; /* our end, of a spare: it ends when that is closed */

	struct pool_job job;
	struct loop_defer inline_job; /* where the pool has no room */
	struct pool_job side;	      /* beside RUNNING; a teardown waits for its end */
	bool side_busy, teardown_waits;
	bool freeze_on;
	char snapshot[RUNTIME_ID_MAX]; /* it stands on, or "" */
	char taking[RUNTIME_ID_MAX];   /* is being taken of it */
	struct layers layers;	       /* of the one it stands on */
	struct base *base;	       /* below those */
	int log_watch;		       /* of inotify, or -1 */
	bool log_busy;		       /* it is being cut */
	char dir[PATH_MAX];
	struct fetch_wait fetch;  /* for the base */
	json_t *entrypoint, *env; /* of the request; env may be NULL */
	char *config_json;
	struct runtime_limits limits;
	struct volumes *volumes; /* or NULL; of an earlier life by name only */
	char notes[CGROUP_NOTES_MAX];
	int result;
	struct err err;
};

static inline struct oci *oci_of(struct runtime *rt)
{
	return container_of(rt, struct oci, rt);
}

/* NULL: out of memory. */
struct oci_box *box_new(struct oci *oci, struct runtime_box *box);
void box_free(struct oci_box *b);
/* What the container has of its own by now, or never will. */
void box_close_inherited(struct oci_box *b);
/* The next phase is a job. A full pool makes a box slow, never stuck. */
void box_submit(struct oci_box *b, enum oci_phase phase, void (*run)(struct pool_job *),
		void (*done)(struct pool_job *));

/* create.c */
int oci_create(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec, struct err *err);

/* start.c: from OCI_PREPARING on, with base and config_json */
void box_prepare(struct oci_box *b);
void box_start_failed(struct oci_box *b);
/* The container has ended, whoever noticed. */
void box_ended(struct oci_box *b, bool known, int wstatus);

/* claim.c */
/* Its execd will wait at b->token_fd. */
int spare_begin(struct oci_box *b, struct err *err);
int oci_claim(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec, const char *text,
	      size_t n, const char **ret_notes, struct err *err);

/* adopt.c */
int oci_adopt(struct runtime *rt, struct runtime_box *box, const char *handle);

/* freeze.c: jobs beside RUNNING; a teardown waits for their end. */
int oci_freeze(struct runtime *rt, struct runtime_box *box, bool on, struct err *err);
int side_begin(struct oci_box *b, void (*run)(struct pool_job *), void (*done)(struct pool_job *),
	       struct err *err);
/* True when the box is to be told of the end of its side job. */
bool side_done(struct oci_box *b);

/* snapshot.c */
int oci_snapshot(struct runtime *rt, struct runtime_box *box, const char *snapshot, struct err *err);
int oci_snapshot_delete(struct runtime *rt, const char *snapshot,
			void (*done)(void *arg, const char *snapshot), void *arg);
/* The snapshot that the box stands on, from its directory. */
void box_read_snapshot(struct oci_box *b);

/* destroy.c */
void oci_destroy(struct runtime *rt, struct runtime_box *box, bool force);
/* The next step towards nothing, from a phase in which no step is under way. */
void box_teardown(struct oci_box *b);

/* probe.c */
int oci_probe(struct runtime *rt, struct err *err);

/* output.c */
int oci_log(struct runtime *rt, const char *id, runtime_log_fn *fn, void *arg);
/* The last line that says something, as text: whatever runs inside may have written it. */
void output_tail(const struct oci_box *b, char *out, size_t size);
