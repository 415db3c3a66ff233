/*
 * auth.c - X-EXECD-ACCESS-TOKEN, as in the reference.
 */
#include "execd/api/auth.h"

#include "execd/execd.h"
#include "lib/random.h"

#define TOKEN_HEADER "X-EXECD-ACCESS-TOKEN"

int auth_check(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *given = http_header(req, TOKEN_HEADER);
	if (!execd->token)
		return 0;
	if (!given)
		return err_set(err, ERR_UNAUTHORIZED, "UNAUTHORIZED", EACCES, "header %s is missing",
			       TOKEN_HEADER);
	if (!secret_equal(given, execd->token))
		return err_set(err, ERR_UNAUTHORIZED, "UNAUTHORIZED", EACCES,
			       "header %s does not hold the right token", TOKEN_HEADER);
	return 0;
}
