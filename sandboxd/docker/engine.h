/*
 * engine.h - asks the Docker Engine API, over its unix socket or TCP.
 *
 * Calls run side by side on the loop; none blocks. Whatever the daemon answers
 * is bounded: ENGINE_HEAD_MAX of head, ENGINE_BODY_MAX of an answer, and as
 * much of what a stream's reader has left lying. Source: Docker Engine API,
 * versions 1.41 and up.
 */
#pragma once

#include <stdbool.h>

#include "lib/buf.h"
#include "lib/err.h"
#include "lib/loop.h"

#define ENGINE_HEAD_MAX	   (64u << 10)
#define ENGINE_BODY_MAX	   (8u << 20)
#define ENGINE_CODE	   "DOCKER::DAEMON_ERROR"
#define ENGINE_PATH_MAX	   1024
#define ENGINE_VERSION_MAX 16

struct engine;
struct engine_call;

struct engine_answer {
	long status;			  /* of HTTP; 0: none came */
	const struct buf *body;		  /* of a stream: what its reader has left */
	const struct err *err;		  /* NULL: the status is 2xx and the answer is whole */
	char version[ENGINE_VERSION_MAX]; /* of the API, as the daemon has it, or "" */
};

/* Borrowed during engine_call(), but for what and arg, which live as long as the call. */
struct engine_request {
	const char *what; /* "create the container": begins every message */
	const char *method, *path;
	const char *type; /* of the body; NULL: JSON */
	const void *body;
	size_t body_n;
	const char *registry_auth; /* or NULL */
	bool plain;		   /* the path has no version in front */
	bool endless;		   /* it goes on until somebody ends it: no time limit */
	bool input;		   /* instead of a body: what engine_send() brings, once */
	/* Its head has come, with a 2xx status. NULL: of no interest. */
	void (*opened)(void *arg);
	/* More of a 2xx answer: takes from in what it can use. NULL: the answer is wanted whole. */
	void (*data)(void *arg, struct buf *in);
	/* The last event; the call is gone. Not after engine_cancel(). */
	void (*done)(void *arg, const struct engine_answer *a);
	void *arg;
};

/*
 * address: unix:///PATH or tcp://HOST:PORT. timeout_s: for a call that is not endless. certificates: the
 * folder of ca.pem, cert.pem and key.pem, with which both ends prove who they are; NULL: no TLS.
 */
int engine_new(struct loop *loop, const char *address, const char *certificates, unsigned timeout_s,
	       struct engine **ret, struct err *err);
/* What is under way is cancelled. */
void engine_free(struct engine *e);
const char *engine_address(const struct engine *e);
/* "1.41": what paths begin with from now on. -EINVAL. */
int engine_set_version(struct engine *e, const char *version);
/* It is 1.MINOR or later. */
bool engine_has_minor(const struct engine *e, unsigned minor);

/* Events come from the loop. *ret (or NULL) is for engine_cancel() until done(). */
int engine_call(struct engine *e, const struct engine_request *r, struct engine_call **ret, struct err *err);
/*
 * Sends bytes to whoever reads this call's input, who then ends the call: that is the end of the input. Once
 * a call. 1: the kernel has all of them, and they arrive also if we die now. 0: it does not take them all
 * yet; text stays until sent(arg) says that it has. -errno: nobody reads.
 */
int engine_send(struct engine_call *c, const void *text, size_t n, void (*sent)(void *arg));
/* Harmless for NULL; legal in its own callbacks. */
void engine_cancel(struct engine_call **call);

/* Appends text to a path or query, with what is not unreserved escaped. */
int engine_escape(struct buf *out, const char *text);
