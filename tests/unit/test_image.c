/* Image names: what the default table takes, how tags and registries count, what a refusal says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sandboxd/image.h"

static struct image_table table;

static int set_up(void **state)
{
	(void)state;
	return image_table_init(&table);
}

static int tear_down(void **state)
{
	(void)state;
	image_table_done(&table);
	return 0;
}

static void known(const char *uri)
{
	struct err err;
	const char *root = NULL;
	if (image_resolve(&table, uri, &root, &err) != 0)
		fail_msg("%s is not known", uri);
	assert_string_equal(root, "host");
}

static void unknown(const char *uri)
{
	struct err err;
	const char *root = NULL;
	if (image_resolve(&table, uri, &root, &err) == 0)
		fail_msg("%s is known", uri);
	assert_null(root);
	assert_int_equal(err.kind, ERR_INVALID);
	assert_non_null(strstr(err.message, "not configured"));
	assert_non_null(strstr(err.message, "python, "));
}

static void test_defaults(void **state)
{
	(void)state;
	known("host");
	known("opensandbox/code-interpreter:v1.1.0");
	known("opensandbox/code-interpreter");
	known("sandbox-registry.cn-zhangjiakou.cr.aliyuncs.com/opensandbox/code-interpreter:v1.1.0");
	known("localhost:5000/opensandbox/code-interpreter");
	known("python:3.11");
	known("python:3.11-slim");
	known("python@sha256:0123456789abcdef");
	known("python:3.11@sha256:0123456789abcdef");
	known("docker.io/library/python:3.11");
	known("docker.io/opensandbox/code-interpreter:latest");
	known("library/ubuntu");
	known("node:20");
	known("debian");
}

static void test_unknown(void **state)
{
	char longest[IMAGE_URI_MAX + 8];
	(void)state;
	unknown("nginx:latest");
	unknown("evil.example/python:3.11");
	unknown("pythonista");
	unknown("my/python");
	unknown("");
	unknown(":3.11");
	unknown("*");
	unknown("../python");
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	unknown(longest);
}

static void test_configured(void **state)
{
	struct err err;
	(void)state;
	assert_int_equal(image_table_add(&table, "my/app:v1*", "host", &err), 0);
	assert_int_equal(image_table_add(&table, "reg.example:5000/*", "host", &err), 0);
	known("my/app:v1.2");
	unknown("my/app:v2");
	unknown("my/app");
	known("reg.example:5000/anything:1");
	assert_true(image_table_add(&table, "x", "alpine", &err) < 0);
	assert_non_null(strstr(err.message, "alpine"));
}

/* However many rows there are, the message keeps its bounds. */
static void test_many_rows(void **state)
{
	char name[64];
	(void)state;
	for (int i = 0; i < 100; i++) {
		(void)snprintf(name, sizeof(name), "registry.example/team/application-%d", i);
		assert_int_equal(image_table_add(&table, name, "host", NULL), 0);
	}
	unknown("nginx");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_defaults), TEST(test_unknown), TEST(test_configured),
					   TEST(test_many_rows)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
