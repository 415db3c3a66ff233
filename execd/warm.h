/*
 * warm.h - kernels without waiting: processes that are there before a context asks for one.
 *
 * A language that can fork has a zygote, a kernel that runs no cell and that
 * contexts are forked from; some are forked beforehand and parked. A language
 * that cannot has a spare, one started kernel that becomes the next context's.
 * Loop thread only.
 */
#pragma once

#include "execd/kernel.h"

struct warm;

/* cwd is borrowed: the directory of contexts that ask for no other. */
int warm_new(struct execd *execd, const char *cwd, struct warm **ret);
/* Ends what waits. */
void warm_free(struct warm *w);

/*
 * A kernel for spec (envp is filled in here), by the shortest way there is. ready() or died() of spec's
 * owner follows. What waits with another environment than new kernels are to have is discarded.
 * 1: it is one that had waited; it may be found dead, and then another one is to be asked for.
 */
int warm_start(struct warm *w, struct kernel_spec *spec, struct kernel **ret, struct err *err);
/* A context of the language has become ready: provides for the next one, when the loop comes to it. */
void warm_refill(struct warm *w, const struct language *language);
