/*
 * spec.h - what a command is, from the fields of a request.
 */
#pragma once

#include "execd/launch.h"

/* *spec is zeroed and borrows from body. -EINVAL with *err that names the field. */
int command_spec_parse(json_t *body, struct command_spec *spec, struct err *err);
