/*
 * probe.h - what isolation can do here, found out by doing it once.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"

struct isolateds;

enum probe_kind { PROBE_REAL, PROBE_USERNS, PROBE_OVERLAY, PROBE_NETWORK, PROBE_PROC, PROBE_N };

struct probe_result {
	bool works[PROBE_N];
	char message[PROBE_N][ERR_MESSAGE_MAX]; /* why not */
};

/* done(arg) runs on the loop: at once when it is known already, else later; result is the agent's for good.
 */
typedef void probe_done_fn(void *arg, const struct probe_result *result);
int probe(struct isolateds *is, probe_done_fn *done, void *arg, struct err *err);
/* The agent ends: whoever waits is not told. */
void probe_forget(void);
