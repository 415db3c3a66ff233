/* The tar format: what is written reads back, in pieces of any size; garbage is refused and harms nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "execd/codec.h"
#include "execd/tar.h"

struct told {
	struct buf text; /* one line an entry */
	int fail_at;	 /* the entry that is refused, -1: none */
	int entries;
};

static int on_entry(void *arg, const struct tar_entry *e, struct err *err)
{
	struct told *t = arg;

	if (t->entries++ == t->fail_at)
		return err_set(err, ERR_FORBIDDEN, "TEST", EPERM, "refused");
	(void)buf_printf(&t->text, "%d %.20s(%zu) %.20s(%zu) %llu %o %llu:%llu %lld.%u\n", e->type, e->path,
			 strlen(e->path), e->link, strlen(e->link), (unsigned long long)e->size, e->mode,
			 (unsigned long long)e->uid, (unsigned long long)e->gid, (long long)e->mtime,
			 e->mtime_nsec);
	return 0;
}

static int on_data(void *arg, const void *data, size_t n, struct err *err)
{
	struct told *t = arg;

	(void)err;
	return buf_append(&t->text, data, n);
}

static int on_end(void *arg, struct err *err)
{
	struct told *t = arg;

	(void)err;
	return buf_puts(&t->text, "$\n");
}

static int read_all(struct told *t, const uint8_t *data, size_t n, size_t piece, struct err *err)
{
	static const struct tar_events events = {on_entry, on_data, on_end};
	struct tar_reader *r;
	int result = 0;

	t->text = BUF_INIT(1U << 20);
	t->entries = 0;
	assert_int_equal(tar_reader_new(&events, t, &r), 0);
	for (size_t at = 0; at < n && result >= 0; at += piece)
		result = tar_reader_feed(r, data + at, MIN(piece, n - at), err);
	if (result >= 0)
		result = tar_reader_finish(r, err);
	tar_reader_free(r);
	return result;
}

static void put_file(struct buf *out, const struct tar_entry *e, const char *content)
{
	static const char zeros[TAR_BLOCK];

	assert_int_equal(tar_header(out, e), 0);
	(void)buf_puts(out, content);
	(void)buf_append(out, zeros, tar_padding(e->size));
}

static void make_archive(struct buf *out)
{
	char path[301], link[201];

	memset(path, 'p', 300);
	path[300] = '\0';
	memset(link, 'l', 200);
	link[200] = '\0';
	put_file(out,
		 &(struct tar_entry){
			 .path = "a", .link = "", .size = 5, .mode = 0644, .uid = 1, .gid = 2, .mtime = 3},
		 "hello");
	put_file(out, &(struct tar_entry){.type = TAR_DIR, .path = "d", .link = "", .mode = 0755}, "");
	put_file(out,
		 &(struct tar_entry){
			 .path = path, .link = "", .size = 3, .uid = 4000000000, .gid = 3000000, .mtime = -5},
		 "xyz");
	put_file(out, &(struct tar_entry){.type = TAR_SYMLINK, .path = "s", .link = link, .mtime = 1LL << 40},
		 "");
	put_file(out, &(struct tar_entry){.type = TAR_HARDLINK, .path = "h", .link = "a"}, "");
	path[150] = path[250] = '/';
	put_file(out, &(struct tar_entry){.path = path + 51, .link = ""}, "");
	assert_int_equal(tar_trailer(out), 0);
	(void)buf_puts(out, "what comes after the end");
}

static const char expected[] = "0 a(1) (0) 5 644 1:2 3.0\nhello$\n"
			       "1 d/(2) (0) 0 755 0:0 0.0\n"
			       "0 pppppppppppppppppppp(300) (0) 3 0 4000000000:3000000 -5.0\nxyz$\n"
			       "2 s(1) llllllllllllllllllll(200) 0 0 0:0 1099511627776.0\n"
			       "3 h(1) a(1) 0 0 0:0 0.0\n"
			       "0 pppppppppppppppppppp(249) (0) 0 0 0:0 0.0\n$\n";

static void test_there_and_back(void **state)
{
	static const size_t pieces[] = {1, 7, 511, 512, 513, 100000};
	_cleanup_buf_ struct buf archive = BUF_INIT(1U << 20);

	(void)state;
	make_archive(&archive);
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		struct told t = {.fail_at = -1};
		struct err err = {0};

		assert_int_equal(read_all(&t, archive.data, archive.len, pieces[i], &err), 0);
		assert_string_equal(buf_cstr(&t.text), expected);
		buf_done(&t.text);
	}
}

static void test_refusal_ends_it(void **state)
{
	_cleanup_buf_ struct buf archive = BUF_INIT(1U << 20);
	struct told t = {.fail_at = 2};
	struct err err = {0};

	(void)state;
	make_archive(&archive);
	assert_int_equal(read_all(&t, archive.data, archive.len, 100, &err), -EPERM);
	assert_int_equal(t.entries, 3);
	buf_done(&t.text);
}

/* Every byte of the headers wrong once, and every cut: no crash, and never more than an error. */
static void test_damage(void **state)
{
	_cleanup_buf_ struct buf archive = BUF_INIT(1U << 20);
	unsigned refused = 0;

	(void)state;
	make_archive(&archive);
	for (size_t i = 0; i < archive.len; i++) {
		struct told t = {.fail_at = -1};
		struct err err = {0};

		archive.data[i] ^= (uint8_t)(1 + i % 255);
		refused += read_all(&t, archive.data, archive.len, 100000, &err) < 0;
		archive.data[i] ^= (uint8_t)(1 + i % 255);
		buf_done(&t.text);
	}
	assert_true(refused > 3000);
	for (size_t i = 0; i < archive.len; i += 13) {
		struct told t = {.fail_at = -1};
		struct err err = {0};

		(void)read_all(&t, archive.data, i, 100000, &err);
		buf_done(&t.text);
	}
}

static int collect(void *arg, const void *data, size_t n, struct err *err)
{
	(void)err;
	return buf_append(arg, data, n);
}

/* Two files one behind the other, taken apart byte by byte; cut off; and with a byte changed. */
static void codec_there_and_back(enum codec codec, size_t packed_max)
{
	_cleanup_buf_ struct buf packed = BUF_INIT(1U << 20), plain = BUF_INIT(1U << 20);
	struct codec_out *out;
	struct codec_in *in;
	struct err err = {0};

	for (int member = 0; member < 2; member++) {
		assert_int_equal(codec_out_new(codec, &out), 0);
		for (int i = 0; i < 5000; i++)
			assert_int_equal(codec_out_push(out, "0123456789", 10, i == 4999, &packed), 0);
		codec_out_free(out);
	}
	assert_true(packed.len < packed_max);
	assert_int_equal(codec_in_new(collect, &plain, &in), 0);
	for (size_t i = 0; i < packed.len; i++)
		assert_int_equal(codec_in_push(in, packed.data + i, 1, &err), 0);
	assert_int_equal(codec_in_finish(in, &err), 0);
	codec_in_free(in);
	assert_int_equal(plain.len, 100000);
	assert_memory_equal(plain.data + 99990, "0123456789", 10);

	assert_int_equal(codec_in_new(collect, &plain, &in), 0);
	assert_int_equal(codec_in_push(in, packed.data, packed.len - 3, &err), 0);
	assert_int_equal(codec_in_finish(in, &err), -EINVAL);
	codec_in_free(in);
	packed.data[20] ^= 0x55;
	assert_int_equal(codec_in_new(collect, &plain, &in), 0);
	assert_true(codec_in_push(in, packed.data, packed.len, &err) < 0 || codec_in_finish(in, &err) < 0);
	codec_in_free(in);
}

static void test_codec(void **state)
{
	(void)state;
	codec_there_and_back(CODEC_GZIP, 2000);
	codec_there_and_back(CODEC_ZSTD, 200);
}

/* The output's buffer is full just when a frame ends. */
static void test_codec_full_pieces(void **state)
{
	static const char zeros[128 << 10];

	(void)state;
	for (enum codec codec = CODEC_NONE; codec <= CODEC_ZSTD; codec++) {
		_cleanup_buf_ struct buf packed = BUF_INIT(1U << 20), plain = BUF_INIT(1U << 20);
		struct codec_out *out;
		struct codec_in *in;
		struct err err = {0};

		assert_int_equal(codec_out_new(codec, &out), 0);
		assert_int_equal(codec_out_push(out, zeros, sizeof(zeros), true, &packed), 0);
		codec_out_free(out);
		assert_int_equal(codec_in_new(collect, &plain, &in), 0);
		assert_int_equal(codec_in_push(in, packed.data, packed.len, &err), 0);
		assert_int_equal(codec_in_finish(in, &err), 0);
		codec_in_free(in);
		assert_int_equal(plain.len, sizeof(zeros));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_refusal_ends_it),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_codec),
		cmocka_unit_test(test_codec_full_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
