/*
 * box.h - the docker driver's own: its boxes, the link to the daemon, and who does what.
 *
 * A container is found by its name, sandbox-ID, and is ours by its labels.
 */
#pragma once

#include <limits.h>

#include "lib/list.h"
#include "sandboxd/config.h"
#include "sandboxd/docker/engine.h"
#include "sandboxd/runtime.h"
#include "sandboxd/volume.h"

#define LABEL		 "opensandbox.io/"
#define LABEL_ID	 LABEL "id"
#define LABEL_OWNER	 LABEL "owner"	   /* which sandboxd: of its state directory */
#define LABEL_AGENT	 LABEL "agent"	   /* which folder of agents/ is mounted in it */
#define LABEL_RECORD	 LABEL "record"	   /* from which a lost store is rebuilt */
#define LABEL_EPHEMERAL	 LABEL "ephemeral" /* of a volume: it goes with the last that uses it */
#define LABEL_SNAPSHOT	 LABEL "snapshot"  /* it stands on */
#define CONTAINER_NAME	 "sandbox-%s"
#define SNAPSHOT_REPO	 "sandboxd-snapshot"
#define START_CODE	 "DOCKER::SANDBOX_START_FAILED"
#define OWNER_DIGITS	 16
#define CONTAINER_ID_MAX 80
#define NOTES_MAX	 192
#define ANNOUNCEMENT	 "listening on " /* HOST:PORT, the first that the agent says */
#define ANNOUNCE_MAX	 256
#define STARVED		 "was killed for want of memory" /* the entrypoint, as the agent says (execd/init.h) */

enum link_state {
	LINK_FIRST, /* since the start nobody has answered yet: who asks waits */
	LINK_DOWN,  /* it is known to be away */
	LINK_UP,
};

struct docker {
	struct runtime rt;
	struct runtime_env env;
	const struct config *config;
	struct engine *engine;
	struct list boxes;
	char owner[OWNER_DIGITS + 1];
	char agents[PATH_MAX - 64]; /* STATE/agents */
	char agent[32];		    /* the folder there that new sandboxes get */
	char *seccomp;		    /* the configured profile, or NULL */

	enum link_state link;
	struct err why;	      /* LINK_DOWN */
	struct list removals; /* of snapshots */
	struct list logs;     /* being read for somebody */
	struct engine_call *ping, *events, *list, *images;
	struct engine_call *sweep;
	bool list_again, images_again, sweep_again;
	struct loop_timer retry;
	unsigned retry_ms;
	struct runtime_finder finder;
	struct runtime_limits likely; /* those of the last claim */
	struct loop_defer turns;      /* a pull has ended: others may begin */
};

enum phase {
	BOX_WAITING,  /* for the first answer of the daemon */
	BOX_CHECKING, /* whether the volumes are there that must be */
	BOX_CREATING,
	BOX_PULLING,
	BOX_TOKEN,
	BOX_ATTACHING,
	BOX_STARTING,
	BOX_LOOKING, /* which port it has got */
	BOX_COMING,  /* until the agent says that it listens */
	BOX_RUNNING,
	BOX_LIMITING, /* a spare that is claimed: it gets its limits */
	BOX_TELLING,  /* and is told what it is for */
	BOX_ENDING,   /* how it ended is being asked */
	BOX_ENDED,
	BOX_REMOVING,
};

struct docker_box {
	struct list link;
	struct docker *d;
	struct runtime_box *box;
	enum phase phase;
	bool dying;	 /* destroy() was called */
	bool asked;	 /* the daemon may have it */
	bool ended;	 /* the daemon says so; looked at when the step under way is done */
	bool pulled;	 /* once is enough */
	bool look_again; /* it was said to have ended while that was being asked */
	bool told;	 /* started() was called, or it was adopted */
	bool listens;	 /* the agent has said so */
	bool listed;	 /* by the daemon, this time */
	bool spare;	 /* it waits to be claimed */
	bool outlived;	 /* something in it was killed for want of memory, and that was not its end */
	char name[RUNTIME_ID_MAX + 16];
	char container[CONTAINER_ID_MAX]; /* its id, or "" */
	char *spec;			  /* JSON, until it is created */
	char *image;			  /* as it is pulled, or NULL: it is never pulled */
	char *auth;			  /* X-Registry-Auth, or NULL */
	char token[160];		  /* or "" */
	char snapshot[RUNTIME_ID_MAX];	  /* it stands on, or "" */
	char notes[NOTES_MAX];
	char said[ANNOUNCE_MAX]; /* the begin of its output */
	size_t said_n;
	unsigned starts;	    /* that have failed */
	struct engine_call *call;   /* of the phase */
	struct engine_call *attach; /* its output, until it listens; of a spare, its input too, until it is
				       claimed */
	struct engine_call *side;   /* beside RUNNING: freeze, commit */
	struct engine_call *alive;  /* beside all: whether it has outlived the death of a process */
	struct loop_timer again;    /* a removal that was refused */
	struct loop_defer soon;
	struct err err;
	struct runtime_exit exit;
	struct pull *pull;	      /* BOX_PULLING */
	struct runtime_limits limits; /* of a spare */
	char *claim;		      /* what it is being told */

	bool freezing, freeze_on, freeze_waits, freeze_unsure;
	char **needed; /* named volumes that must be there already */
	size_t needed_n, needed_at;
	bool has_volumes, sub_paths;
	char taking[RUNTIME_ID_MAX]; /* the snapshot that is being taken of it, or "" */
};

static inline struct docker *docker_of(struct runtime *rt)
{
	return container_of(rt, struct docker, rt);
}

/* box.c */
struct docker_box *docker_box_new(struct docker *d, struct runtime_box *box);
void docker_box_free(struct docker_box *b);
/* Frees a text that may hold secrets. */
void docker_wipe(char **text);
struct docker_box *docker_box_find(const struct docker *d, const char *id);
bool docker_box_id_ok(const char *id);
/* A call about the container: path is what follows /containers/NAME. The answer comes as b. */
int docker_box_call(struct docker_box *b, struct engine_call **slot, const char *what, const char *method,
		    const char *path, void (*done)(void *arg, const struct engine_answer *a),
		    struct err *err);

/* start.c */
int docker_create(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec,
		  struct err *err);
int docker_adopt(struct runtime *rt, struct runtime_box *box, const char *handle);
/* The first step, once the daemon has answered. */
void docker_box_begin(struct docker_box *b);
void docker_container_create(struct docker_box *b);
void docker_box_failed(struct docker_box *b, const struct err *err);
/* The end of the call of the phase. True: the step is done and the next may follow. */
bool docker_step_done(struct docker_box *b, const struct engine_answer *a);

/* pull.c */
/* The step before the container is created once more. */
void docker_pull(struct docker_box *b);
/* Harmless for NULL. */
void docker_pull_free(struct docker_box *b);

/* claim.c */
int docker_claim(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec,
		 const char *text, size_t n, const char **ret_notes, struct err *err);

/* record.c */
int docker_record_write(const struct docker *d, const char *id, const char *record);
/* To be freed; NULL: there is none. */
char *docker_record_read(const struct docker *d, const char *id);
void docker_record_remove(const struct docker *d, const char *id);
/* Removes those that no box is of. */
void docker_records_clean(const struct docker *d);

/* end.c */
void docker_destroy(struct runtime *rt, struct runtime_box *box, bool force);
/* It has ended, or is said to: asks how, and tells. Waits for the step under way. */
void docker_box_ended(struct docker_box *b);
/* Its memory limit has killed something in it. */
void docker_box_starved(struct docker_box *b);
/* It is gone without a trace. */
void docker_box_lost(struct docker_box *b);
/* The next step towards nothing. */
void docker_box_remove(struct docker_box *b);

/* side.c */
int docker_freeze(struct runtime *rt, struct runtime_box *box, bool on, struct err *err);
int docker_snapshot(struct runtime *rt, struct runtime_box *box, const char *snapshot, struct err *err);
int docker_snapshot_delete(struct runtime *rt, const char *snapshot,
			   void (*done)(void *arg, const char *snapshot), void *arg);
/* What has waited for the daemon. */
void docker_removals_begin(struct docker *d);
void docker_removals_free(struct docker *d);
/* What freeze() had to wait with. */
void docker_box_freeze_now(struct docker_box *b);

/* volumes.c */
/* Appends the mounts of the volumes. */
int docker_volumes_mount(const struct docker *d, const struct volumes *volumes, json_t *mounts,
			 struct err *err);
int docker_volumes_take(struct docker_box *b, const struct volumes *volumes);
/* The step before the container is created. */
void docker_volumes_check(struct docker_box *b);
/* Removes those that go when nobody uses them. */
void docker_volumes_sweep(struct docker *d);

/* spec.c */
int spec_container(const struct docker *d, const struct runtime_box *box, const struct runtime_spec *spec,
		   char **ret, struct err *err);
/* JSON, to be freed: what changes the limits of a container that has `has` into those that are wanted. */
char *spec_update(const struct runtime_limits *has, const struct runtime_limits *wanted);
int spec_registry_auth(const struct runtime_image *image, char **ret, struct err *err);
/* The path of the call that pulls it. */
int spec_pull_path(const char *image, struct buf *out);
/* A tar with one file, the token, for `/`. */
#define TOKEN_FILE "/.execd-token/token"
int spec_token_tar(const char *token, struct buf *out);

/* link.c */
void docker_link_start(struct docker *d);
/* -errno and why when the daemon is known to be away. */
int docker_link_check(const struct docker *d, struct err *err);
/* A call has not been answered: whether the daemon is still there is asked anew. */
void docker_link_doubt(struct docker *d, const struct err *why);

/* docker.c */
/* Removes the folders of agents that no container has. */
void docker_agents_clean(struct docker *d, const json_t *containers);

/* output.c */
/* Takes whole frames of a multiplexed stream from in and appends what they carry to out, as far as it has
 * room. -EBADMSG. */
int output_demux(struct buf *in, struct buf *out);
int docker_log(struct runtime *rt, const char *id, runtime_log_fn *fn, void *arg);
void docker_logs_free(struct docker *d);
