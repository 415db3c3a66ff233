/*
 * random.h - identifiers and secrets from getrandom(2).
 */
#pragma once

#include <stdbool.h>

#include "lib/util.h"

/* Fills all n bytes or aborts: without entropy no secret may be made. */
void random_bytes(void *out, size_t n);

#define RANDOM_UUID_MAX 37
/* RFC 9562 version 4, lower case, NUL-terminated. Returns out. */
char *random_uuid(char out[RANDOM_UUID_MAX]);
/* n lower-case hex digits and a NUL. Returns out. */
char *random_hex(char *out, size_t n);

/* Compares in time that depends on the length of `given` only. NULL never equals. */
bool secret_equal(const char *given, const char *expected);
