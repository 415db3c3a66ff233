/*
 * auth.c - X-EXECD-ACCESS-TOKEN, as in the reference. Without a token everybody is let in who reaches us, but
 * not the pages that their browsers show.
 */
#include "execd/api/auth.h"

#include "execd/execd.h"
#include "lib/random.h"

#define TOKEN_HEADER "X-EXECD-ACCESS-TOKEN"

int auth_check(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *given = http_header(req, TOKEN_HEADER);
	if (!execd->token && http_cross_site(req))
		return err_set(
			err, ERR_FORBIDDEN, "CROSS_SITE", EACCES,
			"a page of another site may not ask for this; where it should, give the agent a "
			"token and let the page send it");
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
