/*
 * An image from a registry of strangers: its index, manifest and configuration are taken or refused with
 * words, and its layers weighed without being unpacked.
 *
 * The parts of the input, parted by a line "%%": index.json, and the blobs whose digests are 64 times "a",
 * "b", "c" and "d"; then /etc/passwd and /etc/group of what is unpacked.
 */
#include "sandboxd/oci/fetch_files.h"
#include "sandboxd/oci/weigh.h"
#include "tests/fuzz/jail.h"

#define BLOBS	  4
#define PARTS_MAX (BLOBS + 3)
#define BYTES_MAX (64U << 20)

static void put(const char *path, const uint8_t *data, size_t n)
{
	must(fs_write_file(AT_FDCWD, path, n > 0 ? data : (const uint8_t *)"", n, 0644) == 0);
}

static void take_part(size_t i, const uint8_t *data, size_t n)
{
	char path[256] = "/w/tmp/layout/index.json";

	if (i > 0 && i <= BLOBS) {
		(void)snprintf(path, sizeof(path), "/w/tmp/layout/blobs/sha256/%064d", 0);
		memset(path + strlen(path) - 64, 'a' + (int)i - 1, 64);
	} else if (i > BLOBS) {
		(void)snprintf(path, sizeof(path), "/w/tmp/rootfs/etc/%s",
			       i == BLOBS + 1 ? "passwd" : "group");
	}
	put(path, data, n);
}

static void take_parts(const uint8_t *data, size_t n)
{
	static const char parting[] = "\n%%\n";

	for (size_t i = 0; i < PARTS_MAX; i++) {
		const uint8_t *cut = n > 0 ? memmem(data, n, parting, sizeof(parting) - 1) : NULL;
		size_t part_n = cut ? (size_t)(cut - data) : n, used = cut ? part_n + sizeof(parting) - 1 : n;

		take_part(i, data, part_n);
		data += used;
		n -= used;
	}
}

static void configure(void)
{
	_cleanup_buf_ struct buf json = BUF_INIT(FUZZ_OUT_MAX);
	struct base_config c;
	char path[256];
	struct err err = {0};
	int rootfs = open("/w/tmp/rootfs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	must(rootfs >= 0);
	(void)snprintf(path, sizeof(path), "/w/tmp/layout/blobs/sha256/%064d", 0);
	memset(path + strlen(path) - 64, 'b', 64);
	must(fs_read_file(AT_FDCWD, path, &json) == 0);
	if (base_config_read(json.data, json.len, rootfs, &c, &err) < 0) {
		must_be_told(&err);
	} else {
		must(c.groups_n <= ARRAY_SIZE(c.groups) && (!c.cwd || *c.cwd == '/'));
		base_config_done(&c);
	}
	(void)close(rootfs);
}

static void weigh(void)
{
	static const atomic_bool go_on;
	char path[256];

	(void)snprintf(path, sizeof(path), "/w/tmp/layout/blobs/sha256/%064d", 0);
	memset(path + strlen(path) - 64, 'c', 64);
	for (int gzip = 0; gzip < 2; gzip++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC), r;
		uint64_t total = 0;
		struct err err = {0};

		must(fd >= 0);
		r = weigh_layer(fd, gzip, BYTES_MAX, &go_on, &total, &err);
		if (r < 0)
			must_be_told(&err);
		else
			must(total <= BYTES_MAX);
		(void)close(fd);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct fetch_files f = {.images = "/w/images", .tmp = "/w/tmp", .max_bytes = BYTES_MAX};
	static bool begun;

	if (n == 0 || !jail())
		return 0;
	if (!begun) {
		must(fs_mkdir_p("/w/tmp/layout/blobs/sha256", 0755) == 0);
		must(fs_mkdir_p("/w/tmp/rootfs/etc", 0755) == 0 && fs_mkdir_p("/w/images/refs", 0755) == 0);
		begun = true;
	}
	take_parts(data, n);
	(void)snprintf(f.identity, sizeof(f.identity), "identity");
	fetch_files_weigh(&f);
	if (f.result < 0)
		must_be_told(&f.err);
	configure();
	weigh();
	fetch_files_done(&f);
	return 0;
}
