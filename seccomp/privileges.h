/*
 * privileges.h - what this process and this kernel have: capabilities, seccomp, Landlock. Probed, once.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct confine_plan;

/* What engines leave to root in a container. */
extern const uint64_t CAPS_OF_CONTAINERS;

/* The permitted set of this process. */
uint64_t caps_held(void);
/* An array of their names, "CAP_CHOWN", ...; NULL without memory. */
json_t *caps_describe(uint64_t caps);

bool filter_possible(void);   /* seccomp filters */
bool listener_possible(void); /* and notifications of denied calls */
int landlock_version(void);   /* 0: this kernel has none, or not enabled */
/* Fills in what is handled, and what the two kinds of paths allow. */
void landlock_rights(struct confine_plan *plan);
