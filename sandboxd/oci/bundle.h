/*
 * bundle.h - the config.json of one sandbox (OCI runtime specification 1.0).
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/err.h"
#include "sandboxd/oci/base_config.h"
#include "sandboxd/oci/hardening.h"

#define BUNDLE_LISTEN_FD 3 /* the number under which the agent finds its socket */
#define BUNDLE_TOKEN_FD	 4 /* and a pipe with its token, or a spare what it waits for */

struct bundle_spec {
	const struct base_config *image;
	const struct hardening *hardening;
	const json_t *entrypoint; /* array of strings */
	const json_t *env;	  /* object of strings, or NULL; wins over those of the image */
	bool own_network;	  /* the runtime makes it; otherwise it is that of its caller */
	bool token;		  /* the agent has one, in BUNDLE_TOKEN_FD */
	bool spare;		  /* it waits for all that at BUNDLE_TOKEN_FD */
};

/* The JSON text, to be freed. */
int bundle_config(const struct bundle_spec *spec, char **ret, struct err *err);
