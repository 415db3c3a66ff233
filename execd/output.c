/*
 * output.c - the output log.
 *
 * Owns: the bytes of one execution, in blocks, and at most one spill file.
 *
 * A block is a run of records, each an 8-byte header (stream, length, arrival
 * relative to the block) and its payload, so the index lies beside the bytes,
 * costs what it counts and is spilled with them. Blocks form a queue:
 *
 *   oldest                                              newest
 *   [spilled] [spilled] ... | [memory] [memory] ... [being filled]
 *
 * Bytes are never moved: a full memory pushes its oldest block to the spill
 * file with one pwrite, a full file overwrites its oldest blocks, and what has
 * been overwritten is dropped. Where nothing can be spilled the oldest memory
 * block is dropped instead; an append never fails for it. A log that nothing
 * was written to holds no block, one with a few bytes holds a few hundred.
 *
 * The spill file is a ring: blocks lie whole at file_pos, in the order of the
 * queue, and spill.next is where the next one goes.
 *
 * Threads: the loop's only.
 */
#include "execd/output.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"

#define MEMORY_DEFAULT	((size_t)256 * 1024)
#define TOTAL_DEFAULT	((uint64_t)64 * 1024 * 1024)
#define LAG_DEFAULT	((size_t)1024 * 1024)
#define BLOCK_MIN	((size_t)256)
#define BLOCK_MAX	((size_t)64 * 1024)
#define MERGE_MS	5 /* appends of one stream that arrive this close are one record */
#define ROOM_UNBOUNDED	((size_t)1024 * 1024) /* what a log without readers takes at once */
#define SPILL_FILES_MAX 256		      /* descriptors all logs together may hold */
#define RECORD_MAX	((size_t)1 << 30)     /* what a header can say */

/* Lies unaligned in the block: read and written with memcpy. */
struct record {
	uint32_t len : 30;
	uint32_t stream : 2;
	uint32_t time_ms; /* since the block's */
};
static_assert(sizeof(struct record) == 8, "a record header is eight bytes");

struct block {
	uint64_t offset;			/* of its first byte */
	uint64_t stream_offset[OUTPUT_STREAMS]; /* of each stream, where the block begins */
	uint64_t stored;			/* bytes of all blocks before it, headers included */
	uint64_t time_ms;
	uint8_t *data;	   /* NULL: in the spill file */
	uint64_t file_pos; /* when data is NULL */
	uint32_t used, cap;
	uint32_t last; /* position of the newest record */
};

/* A record that was found, and where: the next search begins here when it can. */
struct cursor {
	uint64_t block_offset;
	uint64_t offset; /* of the record's first byte */
	uint64_t stream_offset[OUTPUT_STREAMS];
	uint32_t pos; /* of the record in its block */
	bool valid;
};

struct spill {
	int fd;
	bool broken;	/* could not be made or written: never tried again */
	uint64_t cap;	/* bytes the file may have */
	uint64_t next;	/* where the next block goes */
	uint64_t bytes; /* of the blocks in it */
};

struct output {
	struct loop *loop;
	unsigned refs;
	bool closed;
	bool blocked; /* room was refused: on_room is owed */
	struct output_limits limits;

	struct block *blocks; /* a ring of cap entries, a power of two */
	size_t head, n, cap;
	size_t spilled_n; /* the oldest blocks, those in the file */
	size_t memory;	  /* capacity of the blocks in memory */
	struct spill spill;

	uint64_t end;
	uint64_t stream_end[OUTPUT_STREAMS];
	struct cursor cursor;

	struct list readers;
	void (*on_room)(void *arg);
	void *on_room_arg;
	struct loop_defer room_defer;
};

/*
 * One block read back from a spill file, for whichever log was read last: a
 * slice is used up before the next call, so one serves the whole process.
 */
static struct {
	const struct output *owner;
	uint64_t offset;
	uint8_t *data;
	size_t cap;
} scratch;

static unsigned spill_files;

static struct block *block_at(const struct output *o, size_t i)
{
	return &o->blocks[(o->head + i) & (o->cap - 1)];
}

static struct record record_at(const uint8_t *data, uint32_t pos)
{
	struct record r;

	memcpy(&r, data + pos, sizeof(r));
	return r;
}

static size_t block_max(const struct output *o)
{
	size_t quarter = o->limits.memory_max / 4;

	return quarter < BLOCK_MIN ? BLOCK_MIN : MIN(quarter, BLOCK_MAX);
}

int output_new(struct loop *loop, const struct output_limits *limits, struct output **ret)
{
	struct output *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->loop = loop;
	o->refs = 1;
	if (limits)
		o->limits = *limits;
	if (o->limits.memory_max == 0)
		o->limits.memory_max = MEMORY_DEFAULT;
	if (o->limits.total_max == 0)
		o->limits.total_max = TOTAL_DEFAULT;
	if (o->limits.reader_lag_max == 0)
		o->limits.reader_lag_max = LAG_DEFAULT;
	o->spill.fd = -EBADF;
	if (o->limits.total_max > o->limits.memory_max)
		o->spill.cap = o->limits.total_max - o->limits.memory_max;
	else
		o->spill.broken = true;
	list_init(&o->readers);
	*ret = o;
	return 0;
}

struct output *output_ref(struct output *o)
{
	o->refs++;
	return o;
}

/* ---- dropping --------------------------------------------------------- */

static void scratch_forget(const struct output *o)
{
	if (scratch.owner == o)
		scratch.owner = NULL;
	/* One oversized record does not keep its memory for good. */
	if (!scratch.owner && scratch.cap > BLOCK_MAX) {
		free(scratch.data);
		scratch.data = NULL;
		scratch.cap = 0;
	}
}

static void drop_oldest(struct output *o)
{
	struct block *b = block_at(o, 0);

	if (b->data) {
		o->memory -= b->cap;
		free(b->data);
	} else {
		o->spill.bytes -= b->used;
		o->spilled_n--;
		if (scratch.owner == o && scratch.offset == b->offset)
			scratch_forget(o);
	}
	if (o->cursor.block_offset == b->offset)
		o->cursor.valid = false;
	o->head = (o->head + 1) & (o->cap - 1);
	o->n--;
}

static void spill_close(struct output *o)
{
	if (o->spill.fd >= 0) {
		fd_close(&o->spill.fd);
		spill_files--;
	}
	scratch_forget(o);
}

static void drop_all(struct output *o)
{
	while (o->n > 0)
		drop_oldest(o);
	spill_close(o);
	o->spill.next = 0;
	free(o->blocks);
	o->blocks = NULL;
	o->head = o->cap = 0;
}

void output_unref(struct output *o)
{
	if (!o || --o->refs > 0)
		return;
	assert(list_empty(&o->readers));
	loop_defer_cancel(&o->room_defer);
	drop_all(o);
	free(o);
}

bool output_drop(struct output *o)
{
	if (!list_empty(&o->readers))
		return false;
	drop_all(o);
	return true;
}

/* ---- spilling --------------------------------------------------------- */

static int spill_open_named(const char *dir)
{
	_cleanup_free_ char *path = NULL;
	int fd;

	if (asprintf(&path, "%s/.execd-output-XXXXXX", dir) < 0)
		return -ENOMEM;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (unlink(path) < 0) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

static int spill_open_in(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);

	if (fd >= 0)
		return fd;
	/* Not every file system has O_TMPFILE. */
	if (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)
		return spill_open_named(dir);
	return -errno;
}

static bool spill_open(struct output *o)
{
	/* An image may lack the first; the last is often memory. */
	const char *dirs[] = {"/var/tmp", "/", "/tmp"};
	size_t n = ARRAY_SIZE(dirs);
	int fd = -EMFILE;

	if (o->spill.fd >= 0)
		return true;
	if (o->limits.spill_dir) {
		dirs[0] = o->limits.spill_dir;
		n = 1;
	}
	if (!o->spill.broken && spill_files < SPILL_FILES_MAX)
		for (size_t i = 0; i < n && fd < 0; i++)
			fd = spill_open_in(dirs[i]);
	if (fd < 0) {
		o->spill.broken = true;
		return false;
	}
	o->spill.fd = fd;
	spill_files++;
	return true;
}

static int write_at(int fd, const uint8_t *data, size_t n, uint64_t pos)
{
	while (n > 0) {
		ssize_t w = pwrite(fd, data, n, (off_t)pos);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w < 0 ? -errno : -ENOSPC;
		data += w;
		n -= (size_t)w;
		pos += (uint64_t)w;
	}
	return 0;
}

static int read_at(int fd, uint8_t *data, size_t n, uint64_t pos)
{
	while (n > 0) {
		ssize_t r = pread(fd, data, n, (off_t)pos);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? -errno : -EIO;
		data += r;
		n -= (size_t)r;
		pos += (uint64_t)r;
	}
	return 0;
}

/* Makes room for n bytes in the file, at spill.next. The file holds n bytes at least. */
static void spill_place(struct output *o, size_t n)
{
	struct spill *s = &o->spill;

	if (s->next + n > s->cap) {
		while (o->spilled_n > 0 && block_at(o, 0)->file_pos >= s->next)
			drop_oldest(o);
		s->next = 0;
	}
	while (o->spilled_n > 0) {
		const struct block *b = block_at(o, 0);

		if (b->file_pos >= s->next + n || b->file_pos + b->used <= s->next)
			break;
		drop_oldest(o);
	}
}

static int spill_write(struct output *o, const struct block *b)
{
	struct spill *s = &o->spill;
	int r;

	if (b->used > s->cap)
		return -EMSGSIZE;
	spill_place(o, b->used);
	r = write_at(s->fd, b->data, b->used, s->next);
	/* A full disk: what the file has already becomes the ring. */
	if ((r == -ENOSPC || r == -EDQUOT || r == -EFBIG) && s->next >= b->used) {
		s->cap = s->next;
		spill_place(o, b->used);
		r = write_at(s->fd, b->data, b->used, s->next);
	}
	return r;
}

/* Drops the block that begins at offset and everything older. */
static void drop_through(struct output *o, uint64_t offset)
{
	while (o->n > 0 && block_at(o, 0)->offset <= offset)
		drop_oldest(o);
}

/* Moves the oldest block in memory to the file, or drops it with what is older. */
static void spill_oldest(struct output *o)
{
	struct block copy = *block_at(o, o->spilled_n);
	int r = spill_open(o) ? spill_write(o, &copy) : -EBADF;

	if (r < 0) {
		drop_through(o, copy.offset);
		if (r != -EMSGSIZE) {
			o->spill.broken = true;
			spill_close(o);
		}
		return;
	}
	/* The queue may have lost its head meanwhile, but this block is still the first one in memory. */
	struct block *b = block_at(o, o->spilled_n);

	b->data = NULL;
	b->file_pos = o->spill.next;
	o->spilled_n++;
	o->spill.next += b->used;
	o->spill.bytes += b->used;
	o->memory -= b->cap;
	free(copy.data);
}

/*
 * Memory within its bound. The newest block stays, so that a reader that keeps
 * up misses nothing; unless it alone is too much, and the file can take it.
 */
static void balance(struct output *o)
{
	while (o->memory > o->limits.memory_max) {
		const struct block *b = block_at(o, o->spilled_n);

		if (o->n - o->spilled_n == 1 &&
		    (b->cap <= o->limits.memory_max || !spill_open(o) || b->used > o->spill.cap))
			break;
		spill_oldest(o);
	}
}

/* ---- appending -------------------------------------------------------- */

static int blocks_grow(struct output *o)
{
	size_t cap = o->cap > 0 ? o->cap * 2 : 1;
	struct block *blocks = calloc(cap, sizeof(*blocks));

	if (!blocks)
		return -ENOMEM;
	for (size_t i = 0; i < o->n; i++)
		blocks[i] = *block_at(o, i);
	free(o->blocks);
	o->blocks = blocks;
	o->head = 0;
	o->cap = cap;
	return 0;
}

/* A new newest block with at least `need` bytes. */
static int block_add(struct output *o, size_t need, uint64_t now_ms)
{
	uint64_t stored = 0;
	size_t cap = o->n > 0 ? block_max(o) : BLOCK_MIN;
	uint8_t *data;

	if (o->n == o->cap && blocks_grow(o) < 0)
		return -ENOMEM;
	cap = MAX(cap, need);
	data = malloc(cap);
	if (!data)
		return -ENOMEM;
	if (o->n > 0)
		stored = block_at(o, o->n - 1)->stored + block_at(o, o->n - 1)->used;
	o->n++;
	struct block *b = block_at(o, o->n - 1);
	*b = (struct block){
		.offset = o->end, .stored = stored, .time_ms = now_ms, .data = data, .cap = (uint32_t)cap};
	memcpy(b->stream_offset, o->stream_end, sizeof(b->stream_offset));
	o->memory += cap;
	return 0;
}

/* Room for `need` more bytes in the newest block, which grows in place up to the usual size. */
static bool block_fits(struct output *o, struct block *b, size_t need, size_t want)
{
	size_t max = block_max(o), cap;
	uint8_t *data;

	if (b->cap - b->used >= need && (b->cap >= max || b->cap - b->used >= want))
		return true;
	if (b->cap >= max || b->used + need > max)
		return b->cap - b->used >= need;
	cap = b->cap;
	while (cap < max && cap - b->used < want)
		cap *= 2;
	cap = MIN(cap, max);
	data = realloc(b->data, cap);
	if (!data)
		return b->cap - b->used >= need;
	o->memory += cap - b->cap;
	b->data = data;
	b->cap = (uint32_t)cap;
	return true;
}

/* The newest block when it is in memory and can still be written to. */
static struct block *block_open(const struct output *o)
{
	struct block *b = o->n > 0 ? block_at(o, o->n - 1) : NULL;

	return b && b->data ? b : NULL;
}

/* Lengthens the newest record when this is more of the same. Returns the bytes taken. */
static size_t merge(struct output *o, enum output_stream stream, const uint8_t *data, size_t n,
		    uint64_t now_ms)
{
	struct block *b = block_open(o);

	if (!b || stream == OUTPUT_EVENT)
		return 0;
	struct record r = record_at(b->data, b->last);

	if (r.stream != (uint32_t)stream || now_ms - b->time_ms - r.time_ms > MERGE_MS)
		return 0;
	if (!block_fits(o, b, 1, n))
		return 0;
	n = MIN(n, (size_t)(b->cap - b->used));
	memcpy(b->data + b->used, data, n);
	b->used += (uint32_t)n;
	r.len += (uint32_t)n;
	memcpy(b->data + b->last, &r, sizeof(r));
	return n;
}

static int record_add(struct output *o, enum output_stream stream, const uint8_t *data, size_t n,
		      uint64_t now_ms, size_t *ret_taken)
{
	bool whole = stream == OUTPUT_EVENT;
	size_t need = sizeof(struct record) + (whole ? n : 1), want = sizeof(struct record) + n;
	struct block *b = block_open(o);

	if (!b || now_ms - b->time_ms > UINT32_MAX || !block_fits(o, b, need, want)) {
		if (block_add(o, need, now_ms) < 0)
			return -ENOMEM;
		b = block_at(o, o->n - 1);
		(void)block_fits(o, b, need, want);
	}
	n = MIN(n, (size_t)(b->cap - b->used) - sizeof(struct record));
	struct record r = {.len = (uint32_t)n & (RECORD_MAX - 1),
			   .stream = (uint32_t)stream & 3,
			   .time_ms = (uint32_t)(now_ms - b->time_ms)};

	b->last = b->used;
	memcpy(b->data + b->used, &r, sizeof(r));
	memcpy(b->data + b->used + sizeof(r), data, n);
	b->used += (uint32_t)(sizeof(r) + n);
	*ret_taken = n;
	return 0;
}

int output_append(struct output *o, enum output_stream stream, const void *data, size_t n)
{
	const uint8_t *p = data;
	uint64_t old_end = o->end, now_ms;
	int r = 0;

	if (o->closed || n == 0)
		return 0;
	if (stream == OUTPUT_EVENT && n >= RECORD_MAX)
		return -ENOMEM;
	now_ms = clock_real_ms();
	while (n > 0 && r == 0) {
		size_t taken = merge(o, stream, p, n, now_ms);

		if (taken == 0)
			r = record_add(o, stream, p, n, now_ms, &taken);
		o->end += taken;
		o->stream_end[stream] += taken;
		p += taken;
		n -= taken;
		balance(o);
	}
	if (o->end > old_end)
		list_foreach_safe (node, &o->readers) {
			struct output_reader *reader = list_entry(node, struct output_reader, link);

			if (reader->offset >= old_end)
				reader->wake(reader);
		}
	return r;
}

/* The last block gives back what it will not use. */
static void trim(struct output *o)
{
	struct block *b = block_open(o);
	uint8_t *data;

	if (!b || b->used == b->cap)
		return;
	data = realloc(b->data, b->used);
	if (!data)
		return;
	o->memory -= b->cap - b->used;
	b->data = data;
	b->cap = b->used;
}

void output_close(struct output *o)
{
	if (!o->closed)
		trim(o);
	o->closed = true;
	o->blocked = false;
	loop_defer_cancel(&o->room_defer);
	list_foreach_safe (node, &o->readers) {
		struct output_reader *reader = list_entry(node, struct output_reader, link);

		reader->wake(reader);
	}
}

bool output_closed(const struct output *o)
{
	return o->closed;
}

uint64_t output_begin(const struct output *o)
{
	return o->n > 0 ? block_at(o, 0)->offset : o->end;
}

uint64_t output_end(const struct output *o)
{
	return o->end;
}

uint64_t output_stream_end(const struct output *o, enum output_stream stream)
{
	return o->stream_end[stream];
}

size_t output_memory(const struct output *o)
{
	return sizeof(*o) + o->memory + o->cap * sizeof(*o->blocks);
}

uint64_t output_spilled(const struct output *o)
{
	return o->spill.bytes;
}

/* ---- reading ---------------------------------------------------------- */

/* The block's bytes, from memory or through the scratch; NULL when the file cannot be read. */
static const uint8_t *block_load(struct output *o, const struct block *b)
{
	if (b->data)
		return b->data;
	if (scratch.owner == o && scratch.offset == b->offset)
		return scratch.data;
	scratch.owner = NULL;
	if (scratch.cap < b->used || scratch.cap > MAX((size_t)b->used, BLOCK_MAX)) {
		size_t cap = MAX((size_t)b->used, BLOCK_MAX);

		free(scratch.data);
		scratch.data = malloc(cap);
		scratch.cap = scratch.data ? cap : 0;
		if (!scratch.data)
			return NULL;
	}
	if (read_at(o->spill.fd, scratch.data, b->used, b->file_pos) < 0)
		return NULL;
	scratch.owner = o;
	scratch.offset = b->offset;
	return scratch.data;
}

/* Bytes that cannot be read back are as good as dropped. */
static int block_lost(struct output *o, const struct block *b)
{
	drop_through(o, b->offset);
	return -ERANGE;
}

/* The last block that begins at or before a position, by log offset (stream < 0) or within a stream. */
static size_t block_find(const struct output *o, int stream, uint64_t position)
{
	size_t lo = 0, hi = o->n;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;
		const struct block *b = block_at(o, mid);

		if ((stream < 0 ? b->offset : b->stream_offset[stream]) <= position)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

/* Where to begin in block b: at the last record found when that is not beyond the position. */
static struct cursor cursor_begin(const struct output *o, const struct block *b, int stream,
				  uint64_t position)
{
	const struct cursor *last = &o->cursor;
	struct cursor c = {.block_offset = b->offset, .offset = b->offset, .valid = true};

	if (last->valid && last->block_offset == b->offset &&
	    (stream < 0 ? last->offset : last->stream_offset[stream]) <= position)
		return *last;
	memcpy(c.stream_offset, b->stream_offset, sizeof(c.stream_offset));
	return c;
}

static void cursor_next(struct cursor *c, struct record r)
{
	c->offset += r.len;
	c->stream_offset[r.stream] += r.len;
	c->pos += (uint32_t)sizeof(r) + r.len;
}

/* The piece of record r at cursor c that begins `skip` bytes into it. */
static void slice_set(struct output_slice *ret, const struct cursor *c, struct record r,
		      const struct block *b, const uint8_t *data, uint64_t skip, size_t max)
{
	size_t len = r.len - (size_t)skip;

	if (r.stream == OUTPUT_EVENT) {
		skip = 0;
		len = max = r.len;
	}
	*ret = (struct output_slice){
		.stream = (enum output_stream)r.stream,
		.offset = c->offset + skip,
		.stream_offset = c->stream_offset[r.stream] + skip,
		.time_ms = b->time_ms + r.time_ms,
		.data = data + c->pos + sizeof(r) + skip,
		.len = MIN(max, len),
	};
}

int output_read(struct output *o, uint64_t offset, size_t max, struct output_slice *ret)
{
	if (offset >= o->end)
		return 0;
	if (offset < output_begin(o))
		return -ERANGE;
	const struct block *b = block_at(o, block_find(o, -1, offset));
	const uint8_t *data = block_load(o, b);

	if (!data)
		return block_lost(o, b);
	struct cursor c = cursor_begin(o, b, -1, offset);
	struct record r = record_at(data, c.pos);

	while (c.offset + r.len <= offset) {
		cursor_next(&c, r);
		r = record_at(data, c.pos);
	}
	o->cursor = c;
	slice_set(ret, &c, r, b, data, offset - c.offset, max);
	return 1;
}

int output_read_stream(struct output *o, enum output_stream stream, uint64_t stream_offset, uint64_t before,
		       size_t max, struct output_slice *ret)
{
	if (stream_offset >= o->stream_end[stream])
		return 0;
	if (o->n == 0 || stream_offset < block_at(o, 0)->stream_offset[stream])
		return -ERANGE;
	const struct block *b = block_at(o, block_find(o, stream, stream_offset));

	if (b->offset >= before)
		return 0;
	const uint8_t *data = block_load(o, b);

	if (!data)
		return block_lost(o, b);
	struct cursor c = cursor_begin(o, b, stream, stream_offset);
	struct record r = record_at(data, c.pos);

	while (r.stream != (uint32_t)stream || c.stream_offset[stream] + r.len <= stream_offset) {
		cursor_next(&c, r);
		r = record_at(data, c.pos);
	}
	o->cursor = c;
	slice_set(ret, &c, r, b, data, stream_offset - c.stream_offset[stream], max);
	if (ret->offset >= before)
		return 0;
	if (stream != OUTPUT_EVENT)
		ret->len = (size_t)MIN((uint64_t)ret->len, before - ret->offset);
	return 1;
}

int output_stream_offset(struct output *o, enum output_stream stream, uint64_t offset, uint64_t *ret)
{
	if (offset >= o->end) {
		*ret = o->stream_end[stream];
		return 0;
	}
	if (offset < output_begin(o))
		return -ERANGE;
	const struct block *b = block_at(o, block_find(o, -1, offset));
	const uint8_t *data = block_load(o, b);

	if (!data)
		return block_lost(o, b);
	struct cursor c = cursor_begin(o, b, -1, offset);
	struct record r = record_at(data, c.pos);

	while (c.offset + r.len <= offset) {
		cursor_next(&c, r);
		r = record_at(data, c.pos);
	}
	o->cursor = c;
	*ret = c.stream_offset[stream] + (r.stream == (uint32_t)stream ? offset - c.offset : 0);
	return 0;
}

/* ---- readers and pressure --------------------------------------------- */

/* Bytes that may be appended before the reader's next ones are dropped, in steps of a block. */
static size_t drop_distance(const struct output *o, const struct output_reader *r)
{
	uint64_t capacity = o->spill.broken ? o->limits.memory_max : o->limits.total_max;
	const struct block *newest, *oldest;
	uint64_t behind, reserve = 2 * (uint64_t)block_max(o);

	if (r->offset >= o->end || r->offset < output_begin(o))
		return SIZE_MAX;
	newest = block_at(o, o->n - 1);
	oldest = block_at(o, block_find(o, -1, r->offset));
	/* One that shares its block with the end is as near as it can be. */
	if (newest == oldest)
		return SIZE_MAX;
	behind = newest->stored + newest->used - oldest->stored;
	return behind + reserve < capacity ? (size_t)(capacity - behind - reserve) : 0;
}

static size_t reader_room(const struct output *o, const struct output_reader *r)
{
	uint64_t lag = o->end > r->offset ? o->end - r->offset : 0;
	size_t room = drop_distance(o, r);

	if (!r->live)
		return room;
	return MIN(room, lag < o->limits.reader_lag_max ? (size_t)(o->limits.reader_lag_max - lag) : 0);
}

static size_t slowest_room(const struct output *o)
{
	size_t room = ROOM_UNBOUNDED;

	list_foreach_safe (node, &o->readers) {
		room = MIN(room, reader_room(o, list_entry(node, struct output_reader, link)));
		if (room == 0)
			break;
	}
	return room;
}

size_t output_room(struct output *o)
{
	size_t room;

	if (o->blocked)
		return 0;
	room = slowest_room(o);
	if (room == 0)
		o->blocked = true;
	return room;
}

void output_set_on_room(struct output *o, void (*fn)(void *arg), void *arg)
{
	o->on_room = fn;
	o->on_room_arg = arg;
}

static void room_deferred(struct loop_defer *d)
{
	struct output *o = container_of(d, struct output, room_defer);

	if (o->on_room)
		o->on_room(o->on_room_arg);
}

/* Readers have moved. The writer goes on only when that is worth its while: a quarter of the lag is free
 * again. */
static void unblock(struct output *o)
{
	if (!o->blocked || o->closed)
		return;
	if (slowest_room(o) < MIN(o->limits.reader_lag_max / 4, block_max(o)))
		return;
	o->blocked = false;
	loop_defer(o->loop, &o->room_defer, room_deferred);
}

static void reader_move(struct output_reader *r, uint64_t offset)
{
	const struct output *o = r->output;

	r->offset = offset;
	if (!r->live)
		r->live = o->end <= offset || o->end - offset <= o->limits.reader_lag_max;
}

void output_attach(struct output *o, struct output_reader *r, uint64_t offset,
		   void (*wake)(struct output_reader *r))
{
	r->output = output_ref(o);
	r->live = false;
	r->wake = wake;
	reader_move(r, offset);
	list_add_tail(&o->readers, &r->link);
}

void output_reader_advance(struct output_reader *r, uint64_t offset)
{
	reader_move(r, offset);
	unblock(r->output);
}

void output_detach(struct output_reader *r)
{
	struct output *o = r->output;

	if (!o)
		return;
	list_del(&r->link);
	r->output = NULL;
	unblock(o);
	output_unref(o);
}
