/*
 * spec.h - what a command is, from the fields of a request.
 */
#pragma once

#include "execd/launch.h"

/* The field `limits`, which has no wall time. -EINVAL with *err that names the field. */
int limits_parse(json_t *body, struct limits *limits, struct err *err);
/* *spec is zeroed and borrows from body. -EINVAL with *err that names the field. */
int command_spec_parse(json_t *body, struct command_spec *spec, struct err *err);
