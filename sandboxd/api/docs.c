/*
 * docs.c - GET /docs: the API in the browser, from the document itself; no network needed.
 *
 * Page and document are part of the program. The page fetches the document from
 * beside it, so it works below the prefix too.
 */
#include "sandboxd/api/lifecycle.h"

#define EMBED(name, file)                                                                                    \
	__asm__(".pushsection .rodata\n" name "_begin: .incbin \"" file "\"\n" name "_end:\n.popsection")

EMBED("docs_page", "sandboxd/api/docs.html");
EMBED("docs_openapi", "proto/lifecycle.yaml");

extern const char docs_page_begin[] __attribute__((visibility("hidden")));
extern const char docs_page_end[] __attribute__((visibility("hidden")));
extern const char docs_openapi_begin[] __attribute__((visibility("hidden")));
extern const char docs_openapi_end[] __attribute__((visibility("hidden")));

static size_t span(const char *begin, const char *end)
{
	return (size_t)(end - begin);
}

int docs_get(struct http_req *req, struct err *err)
{
	(void)err;
	(void)http_add_header(
		req, "Content-Security-Policy",
		"default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
		"style-src 'unsafe-inline'");
	http_reply(req, 200, "text/html; charset=utf-8", docs_page_begin,
		   span(docs_page_begin, docs_page_end));
	return 0;
}

int openapi_get(struct http_req *req, struct err *err)
{
	(void)err;
	http_reply(req, 200, "application/yaml", docs_openapi_begin,
		   span(docs_openapi_begin, docs_openapi_end));
	return 0;
}
