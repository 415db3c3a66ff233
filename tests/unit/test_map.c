/* The map, small and grown. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/map.h"

struct thing {
	struct map_node node;
	char name[24];
};

static void test_empty(void **state)
{
	struct map m = {};
	struct map_node stranger = {};

	(void)state;
	assert_null(map_get(&m, "x"));
	map_del(&m, &stranger);
	map_done(&m);
}

static void test_taken_keys(void **state)
{
	struct map m = {};
	struct thing a = {.name = "same"}, b = {.name = "same"}, empty = {.name = ""};

	(void)state;
	assert_int_equal(map_add(&m, &a.node, a.name), 0);
	assert_int_equal(map_add(&m, &b.node, b.name), -EEXIST);
	assert_int_equal(m.len, 1);
	assert_ptr_equal(map_get(&m, "same"), &a.node);
	assert_int_equal(map_add(&m, &empty.node, empty.name), 0);
	assert_ptr_equal(map_get(&m, ""), &empty.node);
	map_del(&m, &a.node);
	map_del(&m, &a.node);
	assert_int_equal(m.len, 1);
	assert_null(map_get(&m, "same"));
	assert_int_equal(map_add(&m, &b.node, b.name), 0);
	assert_ptr_equal(map_get(&m, "same"), &b.node);
	map_done(&m);
}

static void test_many(void **state)
{
	enum { N = 20000 };
	struct thing *things = calloc(N, sizeof(*things));
	struct map m = {};
	size_t longest = 0;

	(void)state;
	assert_non_null(things);
	for (int i = 0; i < N; i++) {
		/* Keys of every length modulo eight. */
		(void)snprintf(things[i].name, sizeof(things[i].name), "%.*s%d", i % 9, "--------", i);
		assert_int_equal(map_add(&m, &things[i].node, things[i].name), 0);
	}
	assert_int_equal(m.len, N);
	for (int i = 0; i < N; i++)
		assert_ptr_equal(map_get(&m, things[i].name), &things[i].node);
	for (size_t i = 0; i < m.buckets_n; i++) {
		size_t n = 0;

		for (const struct map_node *node = m.buckets[i]; node; node = node->next)
			n++;
		longest = n > longest ? n : longest;
	}
	/* Spread as chance would: a chain of 20 would be one in 10^14. */
	assert_in_range(longest, 1, 20);
	for (int i = 0; i < N; i += 2)
		map_del(&m, &things[i].node);
	assert_int_equal(m.len, N / 2);
	for (int i = 0; i < N; i++)
		assert_ptr_equal(map_get(&m, things[i].name), i % 2 ? &things[i].node : NULL);
	map_done(&m);
	assert_int_equal(m.len, 0);
	assert_null(map_get(&m, things[1].name));
	free(things);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_taken_keys),
		cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
