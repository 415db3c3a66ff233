/* Tar in: the same entries and the same verdict however the bytes are cut; each entry can be written again.
 */
#include "execd/tar.h"
#include "tests/fuzz/fuzz.h"

static int on_entry(void *arg, const struct tar_entry *e, struct err *err)
{
	struct tar_entry again = *e;
	struct buf *out = arg;

	(void)err;
	must(strlen(e->path) <= TAR_PATH_MAX && strlen(e->link) <= TAR_PATH_MAX);
	if (again.type != TAR_OTHER)
		must(tar_header(out, &again) == 0);
	return 0;
}

static int on_data(void *arg, const void *data, size_t n, struct err *err)
{
	(void)err;
	return buf_append(arg, data, n);
}

static int on_end(void *arg, struct err *err)
{
	(void)err;
	return buf_puts(arg, ">");
}

static int parse(const uint8_t *data, size_t n, uint8_t cut, struct buf *out)
{
	static const struct tar_events events = {on_entry, on_data, on_end};
	struct tar_reader *reader;
	struct err err = {0};
	int r = tar_reader_new(&events, out, &reader);

	must(r == 0);
	for (size_t at = 0; at < n && r >= 0;) {
		size_t piece = fuzz_piece(cut, n - at);
		char *copy = fuzz_copy(data + at, piece);

		r = tar_reader_feed(reader, copy, piece, &err);
		at += piece;
		free(copy);
	}
	if (r >= 0)
		r = tar_reader_finish(reader, &err);
	if (r < 0)
		must_be_told(&err);
	tar_reader_free(reader);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(FUZZ_OUT_MAX), pieces = BUF_INIT(FUZZ_OUT_MAX);
	int r;

	if (n == 0)
		return 0;
	r = parse(data + 1, n - 1, 0, &whole);
	must(parse(data + 1, n - 1, data[0], &pieces) == r);
	if (r >= 0)
		must(whole.len == pieces.len &&
		     (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
	return 0;
}
