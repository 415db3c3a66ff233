/* Routes: which pattern wins, what the parameters are, and what is allowed otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/router.h"

static const struct http_route routes[] = {
	{.method = "GET", .path = "/"},
	{.method = "GET", .path = "/ping"},
	{.method = "DELETE", .path = "/command"},
	{.method = "POST", .path = "/command"},
	{.method = "GET", .path = "/command/{id}/logs"},
	{.method = "GET", .path = "/command/status/{id}"},
	{.method = "GET", .path = "/{kind}/{id}"},
	{.method = "GET", .path = "/proxy/{port}/*"},
	{.method = "POST", .path = "/proxy/{port}/*"},
	{.method = "GET", .path = "/proxy/{port}/fixed/{x}"},
	{0},
};

static char store[4096];

static struct route_match find(const char *prefix, const char *method, const char *path)
{
	struct route_match m;

	/* Poisoned, so that a value that was not written shows. */
	memset(store, '#', sizeof(store));
	assert_true(ROUTE_STORE_ROOM(strlen(path)) < sizeof(store));
	assert_int_equal(route_find(routes, prefix, method, path, store, &m), 0);
	assert_int_equal(store[ROUTE_STORE_ROOM(strlen(path))], '#');
	return m;
}

static void leads_to(const char *method, const char *path, const char *pattern)
{
	struct route_match m = find(NULL, method, path);

	if (!m.route || strcmp(m.route->path, pattern) != 0)
		fail_msg("%s %s leads to %s", method, path, m.route ? m.route->path : "nothing");
}

static void leads_nowhere(const char *method, const char *path, const char *allow)
{
	struct route_match m = find(NULL, method, path);

	if (m.route || strcmp(m.allow, allow) != 0)
		fail_msg("%s %s leads to %s, allow '%s'", method, path, m.route ? m.route->path : "nothing",
			 m.allow);
}

static void param_is(const struct route_match *m, const char *name, const char *value)
{
	for (size_t i = 0; i < m->params_n; i++)
		if (strlen(name) == m->params[i].name_n &&
		    strncmp(name, m->params[i].name, m->params[i].name_n) == 0) {
			assert_string_equal(m->params[i].value, value);
			return;
		}
	fail_msg("no parameter %s", name);
}

static void test_which_wins(void **state)
{
	(void)state;
	leads_to("GET", "/", "/");
	leads_to("GET", "/ping", "/ping");
	leads_to("HEAD", "/ping", "/ping");
	leads_to("POST", "/command", "/command");
	leads_to("GET", "/command/abc/logs", "/command/{id}/logs");
	leads_to("GET", "/command/status/abc", "/command/status/{id}");
	/* A literal in front beats one behind. */
	leads_to("GET", "/command/status/logs", "/command/status/{id}");
	leads_to("GET", "/proxy/80", "/proxy/{port}/*");
	leads_to("GET", "/proxy/80/fixed/1", "/proxy/{port}/fixed/{x}");
	leads_to("GET", "/proxy/80/fixed/1/2", "/proxy/{port}/*");
	leads_to("POST", "/proxy/80/fixed/1", "/proxy/{port}/*");
	leads_to("GET", "/p%69ng", "/ping");
}

static void test_nowhere(void **state)
{
	(void)state;
	leads_nowhere("GET", "/nope", "");
	leads_nowhere("GET", "/ping/", "");
	leads_nowhere("GET", "//ping", "");
	leads_nowhere("GET", "/PING", "");
	leads_nowhere("GET", "/pin", "");
	leads_nowhere("GET", "/pingx", "");
	leads_nowhere("GET", "/command//logs", "");
	leads_nowhere("OPTIONS", "*", "");
	leads_nowhere("POST", "/ping", "GET, HEAD");
	leads_nowhere("GET", "/command", "DELETE, POST");
	leads_nowhere("HEAD", "/command", "DELETE, POST");
	leads_nowhere("get", "/ping", "GET, HEAD");
	leads_nowhere("PUT", "/proxy/80/fixed/1", "GET, HEAD, POST");
}

static void test_params(void **state)
{
	struct route_match m;

	(void)state;
	m = find(NULL, "GET", "/command/a%20b+c%2Fd/logs");
	param_is(&m, "id", "a b+c/d");
	m = find(NULL, "GET", "/proxy/80/a%2Fb/../c//d/");
	param_is(&m, "port", "80");
	param_is(&m, "*", "a/b/../c//d/");
	m = find(NULL, "GET", "/proxy/80/");
	param_is(&m, "*", "");
	m = find(NULL, "GET", "/one/two");
	param_is(&m, "kind", "one");
	param_is(&m, "id", "two");
}

static void test_prefix(void **state)
{
	struct route_match m;

	(void)state;
	m = find("/v1", "GET", "/v1/ping");
	assert_string_equal(m.route->path, "/ping");
	m = find("/v1", "GET", "/ping");
	assert_string_equal(m.route->path, "/ping");
	m = find("/v1", "GET", "/v1/");
	assert_string_equal(m.route->path, "/");
	assert_null(find("/v1", "GET", "/v1ping").route);
	assert_null(find("/v1", "GET", "/v1").route);
}

/* More segments than are kept: only a "*" can take them. */
static void test_deep_paths(void **state)
{
	char deep[1024] = "/proxy/80";
	char *rest = deep + strlen(deep);
	struct route_match m;

	(void)state;
	for (size_t i = 0; i < 100; i++)
		memcpy(rest + 2 * i, "/x", 3);
	m = find(NULL, "GET", deep);
	param_is(&m, "*", rest + 1);
	leads_nowhere("GET", rest, "");
}

static void test_broken_escape(void **state)
{
	struct route_match m;

	(void)state;
	assert_int_equal(route_find(routes, NULL, "GET", "/ping%", store, &m), -EINVAL);
	assert_int_equal(route_find(routes, NULL, "GET", "/%00", store, &m), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_which_wins), cmocka_unit_test(test_nowhere),
		cmocka_unit_test(test_params),	   cmocka_unit_test(test_prefix),
		cmocka_unit_test(test_deep_paths), cmocka_unit_test(test_broken_escape),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
