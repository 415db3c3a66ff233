/* The frame codec: the same frames however the bytes are cut, and nothing over the limit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "execd/frame.h"

static void assert_frame(const struct frame *f, char kind, const char *data)
{
	assert_int_equal(f->kind, kind);
	assert_int_equal(f->len, strlen(data));
	assert_memory_equal(f->data, data, f->len);
}

static void test_round_trip(void **state)
{
	struct buf b = BUF_INIT(1024);
	struct frame f;

	(void)state;
	assert_int_equal(frame_append(&b, FRAME_HELLO, "{}", 2), 0);
	assert_int_equal(frame_append(&b, FRAME_SYNC, NULL, 0), 0);
	assert_int_equal(frame_append(&b, FRAME_END, "end", 3), 0);
	assert_memory_equal(b.data, "\0\0\0\2H{}\0\0\0\0Y\0\0\0\3Eend", b.len);
	assert_int_equal(frame_peek(&b, &f), 1);
	assert_frame(&f, 'H', "{}");
	assert_int_equal(frame_peek(&b, &f), 1); /* peeking takes nothing */
	frame_consume(&b, &f);
	assert_int_equal(frame_peek(&b, &f), 1);
	assert_frame(&f, 'Y', "");
	frame_consume(&b, &f);
	assert_int_equal(frame_peek(&b, &f), 1);
	assert_frame(&f, 'E', "end");
	frame_consume(&b, &f);
	assert_int_equal(frame_peek(&b, &f), 0);
	assert_int_equal(b.len, 0);
	buf_done(&b);
}

static void test_every_cut(void **state)
{
	static const char bytes[] = "\0\0\0\4Rdata\0\0\0\1Sx";
	const size_t n = sizeof(bytes) - 1;

	(void)state;
	for (size_t cut = 0; cut <= n; cut++) {
		struct buf b = BUF_INIT(1024);
		struct frame f;
		size_t seen = 0;

		assert_int_equal(buf_append(&b, bytes, cut), 0);
		while (frame_peek(&b, &f) == 1) {
			frame_consume(&b, &f);
			seen++;
		}
		assert_int_equal(seen, cut == n ? 2 : cut >= 9 ? 1 : 0);
		assert_int_equal(buf_append(&b, bytes + cut, n - cut), 0);
		while (frame_peek(&b, &f) == 1) {
			frame_consume(&b, &f);
			seen++;
		}
		assert_int_equal(seen, 2);
		assert_int_equal(b.len, 0);
		buf_done(&b);
	}
}

static void test_limits(void **state)
{
	struct buf b = BUF_INIT(16);
	struct frame f;

	(void)state;
	assert_int_equal(buf_append(&b, "\x04\0\0\1R", 5), 0); /* FRAME_MAX + 1, said before it is sent */
	assert_int_equal(frame_peek(&b, &f), -EMSGSIZE);
	buf_clear(&b);
	assert_int_equal(buf_append(&b, "\x04\0\0\0R", 5), 0);
	assert_int_equal(frame_peek(&b, &f), 0);
	buf_clear(&b);
	assert_int_equal(buf_append(&b, "\xff\xff\xff\xffR", 5), 0);
	assert_int_equal(frame_peek(&b, &f), -EMSGSIZE);
	buf_clear(&b);
	assert_int_equal(frame_append(&b, 'X', "", (size_t)FRAME_MAX + 1), -EMSGSIZE);
	assert_int_equal(frame_append(&b, 'X', "0123456789ab", 12), -ENOBUFS);
	assert_int_equal(b.len, 0);
	buf_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_every_cut),
		cmocka_unit_test(test_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
