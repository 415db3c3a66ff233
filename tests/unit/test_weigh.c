/* What an image will be once it is unpacked: counted from headers that tell the truth, and from those that do
 * not. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "lib/buf.h"
#include "sandboxd/oci/weigh.h"

#define BLOCK	  512
#define MAX_BYTES (1ull << 30)

static struct buf tar;
static atomic_bool stop;
static uint64_t total;
static struct err err;

static int set_up(void **state)
{
	(void)state;
	tar = BUF_INIT(8u << 20);
	atomic_store(&stop, false);
	total = 0;
	err = (struct err){0};
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	buf_done(&tar);
	return 0;
}

static void put(const void *data, size_t n)
{
	assert_int_equal(buf_append(&tar, data, n), 0);
}

static void zeros(size_t n)
{
	static const uint8_t zero[BLOCK];
	for (; n > 0; n -= MIN(n, (size_t)BLOCK))
		put(zero, MIN(n, (size_t)BLOCK));
}

static void seal(uint8_t h[BLOCK])
{
	unsigned sum = 8 * ' ';
	for (size_t i = 0; i < BLOCK; i++)
		sum += i < 148 || i >= 156 ? h[i] : 0;
	(void)snprintf((char *)h + 148, 8, "%06o", sum);
}

static void fill(uint8_t h[BLOCK], const char *name, char type, uint64_t size)
{
	memset(h, 0, BLOCK);
	(void)snprintf((char *)h, 100, "%s", name);
	(void)snprintf((char *)h + 124, 12, "%011llo", (unsigned long long)(size & 0777777777));
	h[156] = (uint8_t)type;
	memcpy(h + 257, "ustar", 6);
}

/* A header, and as many bytes as it announces. */
static void entry(const char *name, char type, const void *data, size_t n)
{
	uint8_t h[BLOCK];

	fill(h, name, type, n);
	seal(h);
	put(h, BLOCK);
	if (data)
		put(data, n);
	else
		zeros(n);
	zeros((BLOCK - n % BLOCK) % BLOCK);
}

static void pax(const char *records)
{
	entry("pax", 'x', records, strlen(records));
}

static void end(void)
{
	zeros(2 * BLOCK);
}

static int weigh(uint64_t max, bool gzip)
{
	int fd = memfd_create("layer", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, tar.data, tar.len), tar.len);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	int r = weigh_layer(fd, gzip, max, &stop, &total, &err);
	(void)close(fd);
	return r;
}

static void refused(const char *words)
{
	assert_int_equal(weigh(MAX_BYTES, false), -EBADMSG);
	assert_int_equal(err.kind, ERR_INVALID);
	assert_non_null(strstr(err.message, words));
	tar.len = 0;
	total = 0;
}

static void test_what_counts(void **state)
{
	(void)state;
	end();
	assert_int_equal(weigh(MAX_BYTES, false), 0);
	assert_int_equal(total, 0);
	tar.len = 0;
	entry("dir/", '5', NULL, 0);
	entry("small", '0', "x", 1);
	entry("file", '0', NULL, 5000);
	entry("old", '\0', NULL, 513);
	entry("link", '2', NULL, 0);
	end();
	assert_int_equal(weigh(MAX_BYTES, false), 0);
	assert_int_equal(total, 4 * WEIGH_ENTRY_BYTES + 5000);
	/* a layer adds to those before it, and what lies behind the end is nobody's */
	put("rubbish", 7);
	assert_int_equal(weigh(MAX_BYTES, false), 0);
	assert_int_equal(total, 2 * (4 * WEIGH_ENTRY_BYTES + 5000));
}

/* A link may announce a size that nothing follows; a long name is followed by what it is the name of. */
static void test_sizes_without_data(void **state)
{
	uint8_t h[BLOCK];

	(void)state;
	fill(h, "hard", '1', 100000);
	seal(h);
	put(h, BLOCK);
	entry("long", 'L', "a/name", 6);
	entry("file", '0', NULL, 6000);
	end();
	assert_int_equal(weigh(MAX_BYTES, false), 0);
	assert_int_equal(total, WEIGH_ENTRY_BYTES + 6000);
}

static void test_pax(void **state)
{
	(void)state;
	pax("13 size=8192\n");
	entry("file", '0', NULL, 0);
	zeros(8192);
	entry("after", '0', "x", 1); /* the record was of one entry */
	pax("28 GNU.sparse.realsize=9999\n");
	entry("holes", '0', "x", 1);
	end();
	assert_int_equal(weigh(MAX_BYTES, false), 0);
	assert_int_equal(total, 8192 + WEIGH_ENTRY_BYTES + 9999);
	tar.len = 0;
	static const char *const wrong[] = {"13 size=-192\n", "13 size=8192.",
					    "99 size=8192\n", "size=1\n",
					    "7 size\n",	      "30 size=99999999999999999999\n"};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		pax(wrong[i]);
		entry("file", '0', NULL, 0);
		end();
		refused("not a tar");
	}
	entry("pax", 'x', NULL, (1 << 20) + 1);
	refused("not a tar");
}

/* Holes cost nothing in the layer, and everything where they are not known. */
static void test_sparse(void **state)
{
	uint8_t h[BLOCK], more[BLOCK] = {0};

	(void)state;
	fill(h, "holes", 'S', 0);
	(void)snprintf((char *)h + 483, 12, "%011llo", 1ull << 32);
	h[482] = 1; /* more of its map follows */
	seal(h);
	put(h, BLOCK);
	put(more, BLOCK);
	end();
	assert_int_equal(weigh(MAX_BYTES, false), -EFBIG);
	assert_int_equal(err.kind, ERR_TOO_LARGE);
	assert_non_null(strstr(err.message, "image_max_mb (1024 MiB)"));
	assert_int_equal(weigh(1ull << 40, false), 0);
	assert_int_equal(total, 1ull << 32);
}

static void test_bounds(void **state)
{
	uint8_t h[BLOCK];

	(void)state;
	entry("file", '0', NULL, 5000);
	end();
	assert_int_equal(weigh(5000, false), 0);
	assert_int_equal(weigh(9999, false), -EFBIG); /* with the layer before */
	assert_int_equal(weigh(10000, false), 0);
	tar.len = 0;
	total = 0;
	/* as a big-endian number: large, too large to be one, and less than nothing */
	fill(h, "huge", '0', 0);
	memset(h + 124, 0, 12);
	h[124] = 0x80;
	h[130] = 1;
	seal(h);
	put(h, BLOCK);
	assert_int_equal(weigh(MAX_BYTES, false), -EFBIG);
	static const uint8_t first[] = {0xc0, 0xff, 0x81};
	for (size_t i = 0; i < ARRAY_SIZE(first); i++) {
		tar.len = 0;
		memset(h + 124, 0xff, 12);
		h[124] = first[i];
		seal(h);
		put(h, BLOCK);
		refused("not a tar");
	}
}

static void test_what_is_no_tar(void **state)
{
	uint8_t h[BLOCK];

	(void)state;
	for (int i = 0; i < 4 * BLOCK; i++)
		put("x", 1);
	refused("not a tar");
	fill(h, "file", '0', 1);
	seal(h);
	h[0] ^= 1;
	put(h, BLOCK);
	refused("not a tar");
	fill(h, "file", '0', 1);
	memcpy(h + 124, "00000000009", 12); /* no octal digit */
	seal(h);
	put(h, BLOCK);
	refused("not a tar");
	entry("dir/", '\0', NULL, 10); /* readers do not agree whether data follows */
	refused("not a tar");
	entry("file", '0', NULL, 1000);
	tar.len -= BLOCK;
	refused("too early");
	put("file", 4);
	refused("too early");
}

static void pack(size_t members)
{
	_cleanup_buf_ struct buf plain = tar;
	size_t piece = plain.len / members;

	tar = BUF_INIT(8u << 20);
	for (size_t i = 0; i < members; i++) {
		uint8_t out[65536];
		z_stream z = {0};
		size_t at = i * piece;
		assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY), Z_OK);
		z.next_in = plain.data + at;
		z.avail_in = (unsigned)(i == members - 1 ? plain.len - at : piece);
		z.next_out = out;
		z.avail_out = sizeof(out);
		assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
		put(out, sizeof(out) - z.avail_out);
		(void)deflateEnd(&z);
	}
}

static void test_gzip(void **state)
{
	(void)state;
	for (size_t members = 1; members < 4; members++) {
		tar.len = 0;
		total = 0;
		entry("file", '0', NULL, 3000001);
		entry("small", '0', "x", 1);
		end();
		pack(members);
		assert_int_equal(weigh(1ull << 40, true), 0);
		assert_int_equal(total, 3000001 + WEIGH_ENTRY_BYTES);
	}
	tar.len -= 600;
	assert_int_equal(weigh(MAX_BYTES, true), -EBADMSG);
	assert_non_null(strstr(err.message, "too early"));
	tar.data[0] ^= 1;
	assert_int_equal(weigh(MAX_BYTES, true), -EBADMSG);
	assert_non_null(strstr(err.message, "no gzip"));
}

static void test_stopped(void **state)
{
	(void)state;
	entry("file", '0', NULL, 100000);
	end();
	atomic_store(&stop, true);
	assert_int_equal(weigh(MAX_BYTES, false), -ECANCELED);
	pack(1);
	assert_int_equal(weigh(MAX_BYTES, true), -ECANCELED);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_counts), TEST(test_sizes_without_data), TEST(test_pax),	TEST(test_sparse),
		TEST(test_bounds),	TEST(test_what_is_no_tar),     TEST(test_gzip), TEST(test_stopped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
