/*
 * ping.c - GET /ping: execd answers.
 */
#include "execd/api/api.h"

int ping_get(struct http_req *req, struct err *err)
{
	(void)err;
	http_reply_empty(req, 200);
	return 0;
}
