/*
 * clock.h - time as numbers and as RFC 3339 text.
 */
#pragma once

#include "lib/util.h"

uint64_t clock_mono_ms(void);
uint64_t clock_mono_usec(void);
uint64_t clock_real_ms(void); /* Unix milliseconds */

#define CLOCK_RFC3339_MAX 32

/* "2026-01-31T12:00:00.123Z", always UTC, always milliseconds. Returns out. */
char *clock_rfc3339(uint64_t real_ms, char out[CLOCK_RFC3339_MAX]);
/* RFC 3339 section 5.6, any offset, any number of fraction digits. -EINVAL when it is not one. */
int clock_rfc3339_parse(const char *s, uint64_t *ret_real_ms);
