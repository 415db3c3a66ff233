/*
 * auth.h - the token check before every route.
 */
#pragma once

#include "proto/http.h"

/* Lets everything through when the agent has no token. ERR_UNAUTHORIZED otherwise. */
int auth_check(struct http_req *req, struct err *err);
