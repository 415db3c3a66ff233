/*
 * named.h - the volumes of a sandbox, and the named ones that stay: STATE/volumes/NAME/.
 *
 *   data        what is in it
 *   ephemeral   is there when it goes with the last sandbox that uses it
 *
 * SANDBOX/volumes/NAME says that the sandbox uses it. Loop thread.
 */
#pragma once

#include "sandboxd/oci/box.h"

/* The volumes of a new sandbox: duplicates, opened; named ones are made. b->volumes, or NULL without any. */
int named_take(struct oci_box *b, const struct volumes *given, struct err *err);
/* Notes in the sandbox's directory which named ones it uses. Any thread. */
int named_note(int dir, const struct volumes *volumes);
/* Those of a sandbox of an earlier life, by name only. */
void named_read(struct oci_box *b);
/* The sandbox has gone, or has not come to be. */
void named_release(struct oci_box *b);
/* At start, when every sandbox that is left has its box. */
void named_clean(struct oci *oci);
