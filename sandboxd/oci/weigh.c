/*
 * weigh.c - walks the headers of a tar stream; no state beyond one call. Worker threads.
 */
#include "sandboxd/oci/weigh.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "lib/buf.h"

#define CODE	    "DOCKER::SANDBOX_IMAGE_PULL_FAILED"
#define BLOCK	    512
#define CHUNK	    (64 * 1024)
#define PAX_MAX	    (1 << 20) /* bytes of one extended header */
#define MAGIC_WBITS (15 + 16) /* of zlib: gzip, with the largest window */

/* The fields of a header, by offset (POSIX ustar and GNU tar). */
enum {
	TAR_NAME = 100,
	TAR_SIZE = 124,
	TAR_CHECKSUM = 148,
	TAR_TYPE = 156,
	TAR_MAGIC = 257,
	TAR_SPARSE_EXTENDED = 482,
	TAR_SPARSE_SIZE = 483,
	TAR_EXTENDED_AGAIN = 504,
	TAR_FIELD = 12,
};

struct walk {
	enum { AT_HEADER, IN_EXTENDED, IN_DATA, IN_PAX, AT_END } at;
	uint8_t block[BLOCK];
	size_t have;
	uint64_t left; /* of the data or pax record, padding included */
	struct buf pax;
	size_t pax_bytes;
	uint64_t pax_size, pax_real; /* for the next entry; UINT64_MAX: it says nothing */
	bool named;		     /* the next entry's name is not in its header */
	bool empty_block;	     /* two of them are the end */
	uint64_t *total, max;
};

static int bad(struct err *err)
{
	return err_set(err, ERR_INVALID, CODE, EBADMSG, "a layer of the image is not a tar archive");
}

static int weigh(struct walk *w, uint64_t bytes, struct err *err)
{
	uint64_t n = bytes > WEIGH_ENTRY_BYTES ? bytes : WEIGH_ENTRY_BYTES;

	if (n > w->max || *w->total > w->max - n)
		return err_set(
			err, ERR_TOO_LARGE, CODE, EFBIG,
			"the image is larger than sandboxd.image_max_mb (%llu MiB) once it is unpacked",
			(unsigned long long)(w->max >> 20));
	*w->total += n;
	return 0;
}

/* Octal digits, or with the high bit set a big-endian number. */
static int field(const uint8_t *p, uint64_t *ret)
{
	uint64_t n = 0;
	size_t i = 0;

	if (p[0] & 0x80) {
		n = p[0] & 0x3f;
		if (p[0] & 0x40)
			return -EBADMSG; /* less than nothing */
		for (i = 1; i < TAR_FIELD; i++) {
			if (n >> 55)
				return -EBADMSG;
			n = n << 8 | p[i];
		}
		*ret = n;
		return 0;
	}
	while (i < TAR_FIELD && p[i] == ' ')
		i++;
	for (; i < TAR_FIELD && p[i] >= '0' && p[i] <= '7'; i++)
		n = n << 3 | (uint64_t)(p[i] - '0');
	if (i < TAR_FIELD && p[i] != ' ' && p[i] != '\0')
		return -EBADMSG;
	*ret = n;
	return 0;
}

static bool checksum_holds(const uint8_t *block)
{
	uint64_t wanted;
	uint8_t text[TAR_FIELD] = {0};
	unsigned sum = 8 * ' ';
	int sum_signed = 8 * ' ';

	memcpy(text, block + TAR_CHECKSUM, 8);
	for (size_t i = 0; i < BLOCK; i++)
		if (i < TAR_CHECKSUM || i >= TAR_CHECKSUM + 8) {
			sum += block[i];
			sum_signed += (int8_t)block[i];
		}
	return field(text, &wanted) == 0 && (wanted == sum || (int64_t)wanted == sum_signed);
}

/* Records "LENGTH KEY=VALUE\n". The last one of a name counts. */
static int read_pax(struct walk *w)
{
	const char *p = (const char *)w->pax.data, *end = p + w->pax_bytes;

	while (p < end) {
		char *after, *stop;
		unsigned long n = strtoul(p, &after, 10);
		if (after == p || *after != ' ' || n > (size_t)(end - p) || n < (size_t)(after - p) + 3 ||
		    p[n - 1] != '\n')
			return -EBADMSG;
		const char *key = after + 1, *eq = memchr(key, '=', (size_t)(p + n - key));
		if (!eq)
			return -EBADMSG;
		size_t length = (size_t)(eq - key);
		uint64_t *slot = NULL;
		if (length == 4 && memcmp(key, "size", 4) == 0)
			slot = &w->pax_size;
		else if ((length == 15 && memcmp(key, "GNU.sparse.size", 15) == 0) ||
			 (length == 19 && memcmp(key, "GNU.sparse.realsize", 19) == 0))
			slot = &w->pax_real;
		if (slot) {
			if (eq[1] < '0' || eq[1] > '9')
				return -EBADMSG;
			errno = 0;
			*slot = strtoull(eq + 1, &stop, 10);
			if (errno || *stop != '\n' || *slot > INT64_MAX)
				return -EBADMSG;
		}
		p += n;
	}
	return 0;
}

static void next_header(struct walk *w)
{
	w->at = AT_HEADER;
	w->have = 0;
}

static int begin_data(struct walk *w, uint64_t size)
{
	if (size > INT64_MAX - BLOCK)
		return -EBADMSG;
	w->left = (size + BLOCK - 1) / BLOCK * BLOCK;
	w->at = IN_DATA;
	if (w->left == 0)
		next_header(w);
	return 0;
}

static int begin_pax(struct walk *w, uint64_t size)
{
	if (size > PAX_MAX)
		return -EBADMSG;
	int r = begin_data(w, size);
	if (r == 0 && w->left) {
		w->at = IN_PAX;
		w->pax.len = 0;
		w->pax_bytes = size;
	}
	return r;
}

/* A file, directory, link or device. */
static int take_entry(struct walk *w, uint64_t size, struct err *err)
{
	const uint8_t *h = w->block;
	char type = (char)h[TAR_TYPE];
	bool data = type == '0' || type == '\0' || type == '7' || type == 'S';
	uint64_t real = 0;

	size_t name = strnlen((const char *)h, TAR_NAME);

	if (w->pax_size != UINT64_MAX)
		size = w->pax_size;
	/* Before types there were, a directory was a file whose name ends so: whether data follows, readers
	 * do not agree. */
	if (type == '\0' && size > 0 && (w->named || (name > 0 && h[name - 1] == '/')))
		return bad(err);
	w->named = false;
	if (type == 'S' && field(h + TAR_SPARSE_SIZE, &real) < 0)
		return bad(err);
	if (w->pax_real != UINT64_MAX)
		real = MAX(real, w->pax_real);
	w->pax_size = w->pax_real = UINT64_MAX;
	int r = weigh(w, data ? MAX(size, real) : 0, err);
	if (r < 0)
		return r;
	/* Links and devices announce at times what does not follow. */
	r = begin_data(w, data || !strchr("123456", type) ? size : 0);
	if (r == 0 && type == 'S' && h[TAR_SPARSE_EXTENDED]) {
		w->at = IN_EXTENDED;
		w->have = 0;
	}
	return r < 0 ? bad(err) : 0;
}

static int take_header(struct walk *w, struct err *err)
{
	static const uint8_t zero[BLOCK];
	uint64_t size;

	if (memcmp(w->block, zero, BLOCK) == 0) {
		w->at = w->empty_block ? AT_END : AT_HEADER;
		w->empty_block = true;
		w->have = 0;
		return 0;
	}
	w->empty_block = false;
	if (!checksum_holds(w->block) || field(w->block + TAR_SIZE, &size) < 0)
		return bad(err);
	switch (w->block[TAR_TYPE]) {
	case 'x':
		w->named = true;
		return begin_pax(w, size) < 0 ? bad(err) : 0;
	case 'g': /* for all that follow: unpackers pass over sizes in it */
	case 'L':
	case 'K':
		w->named = true;
		return size > PAX_MAX || begin_data(w, size) < 0 ? bad(err) : 0;
	default:
		return take_entry(w, size, err);
	}
}

static int take_block(struct walk *w, struct err *err)
{
	if (w->at == AT_HEADER)
		return take_header(w, err);
	w->have = 0;
	if (!w->block[TAR_EXTENDED_AGAIN])
		w->at = w->left ? IN_DATA : AT_HEADER;
	return 0;
}

static int feed(struct walk *w, const uint8_t *p, size_t n, struct err *err)
{
	while (n > 0 && w->at != AT_END) {
		size_t take;
		if (w->at == AT_HEADER || w->at == IN_EXTENDED) {
			take = MIN(n, BLOCK - w->have);
			memcpy(w->block + w->have, p, take);
			w->have += take;
			int r = w->have == BLOCK ? take_block(w, err) : 0;
			if (r < 0)
				return r;
		} else {
			take = (size_t)MIN((uint64_t)n, w->left);
			if (w->at == IN_PAX && buf_append(&w->pax, p, take) < 0)
				return err_set(err, ERR_INTERNAL, CODE, ENOMEM, "out of memory");
			w->left -= take;
			if (w->left == 0 && w->at == IN_PAX && (!buf_cstr(&w->pax) || read_pax(w) < 0))
				return bad(err);
			if (w->left == 0)
				next_header(w);
		}
		p += take;
		n -= take;
	}
	return 0;
}

static int inflate_some(z_stream *z, uint8_t *out, struct walk *w, const atomic_bool *stop, struct err *err)
{
	while (z->avail_in > 0 && w->at != AT_END) {
		if (atomic_load(stop))
			return -ECANCELED;
		z->next_out = out;
		z->avail_out = CHUNK;
		int zr = inflate(z, Z_NO_FLUSH);
		if (zr != Z_OK && zr != Z_STREAM_END)
			return err_set(err, ERR_INVALID, CODE, EBADMSG,
				       "a layer of the image is no gzip file");
		int r = feed(w, out, CHUNK - z->avail_out, err);
		if (r < 0)
			return r;
		if (zr == Z_STREAM_END && inflateReset(z) != Z_OK) /* members may follow one another */
			return -ENOMEM;
	}
	return 0;
}

static int read_layer(int fd, z_stream *z, struct walk *w, const atomic_bool *stop, uint8_t *in, uint8_t *out,
		      struct err *err)
{
	ssize_t n = 1;
	int r = 0;

	while (r == 0 && n > 0 && w->at != AT_END) {
		if (atomic_load(stop))
			return -ECANCELED;
		n = read(fd, in, CHUNK);
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n < 0)
			r = err_sys(err, CODE, errno, "read a layer of the image");
		else if (z) {
			z->next_in = in;
			z->avail_in = (unsigned)n;
			r = inflate_some(z, out, w, stop, err);
		} else {
			r = feed(w, in, (size_t)n, err);
		}
	}
	return r;
}

int weigh_layer(int fd, bool gzip, uint64_t max, const atomic_bool *stop, uint64_t *total, struct err *err)
{
	struct walk w = {.pax = BUF_INIT(PAX_MAX + 2 * BLOCK),
			 .pax_size = UINT64_MAX,
			 .pax_real = UINT64_MAX,
			 .total = total,
			 .max = max};
	_cleanup_free_ uint8_t *chunks = malloc(2 * CHUNK);
	z_stream z = {0};

	if (!chunks || (gzip && inflateInit2(&z, MAGIC_WBITS) != Z_OK))
		return err_set(err, ERR_INTERNAL, CODE, ENOMEM, "out of memory");
	int r = read_layer(fd, gzip ? &z : NULL, &w, stop, chunks, chunks + CHUNK, err);
	if (r == 0 && w.at != AT_END && !(w.at == AT_HEADER && w.have == 0))
		r = err_set(err, ERR_INVALID, CODE, EBADMSG, "a layer of the image ends too early");
	if (gzip)
		(void)inflateEnd(&z);
	buf_done(&w.pax);
	return r;
}
