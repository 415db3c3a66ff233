/*
 * sign.h - signatures of routes to a port of a sandbox (OSEP-0011).
 *
 * A route is SANDBOX, PORT, EXPIRES and SIGNATURE. EXPIRES is Unix seconds in
 * base 36. The signature is eight hex digits of
 *
 *   SHA-256(BE32(len key) key BE32(len text) text)
 *   text = "v1\nshort\nSANDBOX\nPORT\nEXPIRES\n"
 *
 * and one character that names the key.
 */
#pragma once

#include <stdint.h>

#include "lib/err.h"

#define SIGN_EXPIRES_MAX 14 /* base 36, with its NUL */
#define SIGNATURE_MAX	 10
#define SIGN_KEY_ID	 '0'

/* Returns out. */
char *sign_expires(uint64_t seconds, char out[SIGN_EXPIRES_MAX]);
/* -EINVAL: not as sign_expires() writes it. */
int sign_expires_parse(const char *text, uint64_t *ret_seconds);
char *sign_route(const char *key, const char *sandbox, unsigned port, const char *expires,
		 char out[SIGNATURE_MAX]);
