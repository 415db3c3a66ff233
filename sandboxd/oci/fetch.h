/*
 * fetch.h - brings images: fetched by skopeo, unpacked by umoci, once.
 *
 *   LOOKING -> (WAITING) -> PULLING -> WEIGHING -> UNPACKING -> FINISHING -> kept in STATE/images/KEY
 *   job: is it there?       skopeo     job: size   umoci        job: config, rename
 *
 * Whoever wants what is on its way already waits for the same; two that turn
 * out to be one image share its unpacking. All that is half done lies in
 * STATE/images/tmp.*, which a start removes. STATE/images/refs/HASH links what
 * was asked for to what it was: it is not asked for again.
 *
 * Loop thread, but for the jobs.
 */
#pragma once

#include "sandboxd/oci/base.h"
#include "sandboxd/oci/source.h"
#include "sandboxd/runtime.h"

struct oci;
struct fetch;

struct fetched {
	struct base *base;    /* the waiter's reference; NULL: it failed */
	uint64_t pulled_usec; /* monotonic; 0: it was here */
	uint64_t unpacked_usec;
};

/* Embedded in whoever waits; the callbacks come from the loop. */
struct fetch_wait {
	struct list link;
	struct fetch *fetch; /* NULL: does not wait */
	/* A step that takes long begins. */
	void (*progress)(struct fetch_wait *w, const char *reason, const char *message, uint32_t max_s);
	/* The end, once; w waits no longer. err: when it failed. */
	void (*done)(struct fetch_wait *w, const struct fetched *result, const struct err *err);
};

struct fetches {
	struct oci *oci;
	struct list list;
	unsigned pulling;
};

void fetches_init(struct fetches *all, struct oci *oci);
/* The pool and the children have ended or are not waited for. */
void fetches_done(struct fetches *all);

/*
 * Takes the descriptor of *source on success. login: of the registry, copied and
 * forgotten as soon as it was used. done follows. -errno: nothing began, which
 * says the program that is missing.
 */
int fetch_begin(struct fetches *all, struct source *source, const struct runtime_image *login,
		struct fetch_wait *w, struct err *err);
/* done does not follow. What nobody waits for is broken off. Harmless when w does not wait. */
void fetch_cancel(struct fetch_wait *w);
