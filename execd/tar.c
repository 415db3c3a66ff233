/*
 * tar.c - writing and reading tar headers.
 *
 * A reader collects one block at a time:
 *
 *   HEADER -> (EXTENDED -> HEADER)* -> DATA | SKIP -> PADDING -> HEADER -> ... -> END
 *
 * EXTENDED is what belongs to the next header: a pax header or a GNU long name.
 * No threads of its own.
 */
#include "execd/tar.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], chksum[8];
	char typeflag;
	char linkname[100], magic[6], version[2], uname[32], gname[32], devmajor[8], devminor[8], prefix[155],
		pad[12];
};
_Static_assert(sizeof(struct header) == TAR_BLOCK, "a header is one block");

/* The sum of all bytes, those of the field itself taken as spaces. */
static unsigned checksum(const uint8_t *block, bool with_sign)
{
	unsigned sum = 0;

	for (size_t i = 0; i < TAR_BLOCK; i++) {
		bool own = i >= offsetof(struct header, chksum) && i < offsetof(struct header, typeflag);
		int byte = with_sign ? (int8_t)block[i] : block[i];

		sum += (unsigned)(own ? ' ' : byte);
	}
	return sum;
}

/* ---- out ----------------------------------------------------------------------- */

/* Octal digits and a NUL; false when it does not fit. */
static bool put_octal(char *field, size_t n, uint64_t v)
{
	field[n - 1] = '\0';
	for (size_t i = n - 1; i-- > 0; v >>= 3)
		field[i] = (char)('0' + (v & 7));
	return v == 0;
}

/* "LENGTH key=value\n", where LENGTH counts itself. */
void tar_record(struct buf *out, const char *key, const void *value, size_t value_n)
{
	size_t rest = strlen(key) + value_n + 3, n = rest + 1, digits;

	do {
		digits = (size_t)snprintf(NULL, 0, "%zu", n);
		if (rest + digits == n)
			break;
		n = rest + digits;
	} while (true);
	(void)buf_printf(out, "%zu %s=", n, key);
	(void)buf_append(out, value, value_n);
	(void)buf_putc(out, '\n');
}

static void put_record(struct buf *out, const char *key, const char *value)
{
	tar_record(out, key, value, strlen(value));
}

static void put_number(struct buf *out, const char *key, int64_t v)
{
	char text[24];

	(void)snprintf(text, sizeof(text), "%" PRId64, v);
	put_record(out, key, text);
}

static void seal(struct header *h)
{
	memcpy(h->magic, "ustar", 6);
	memcpy(h->version, "00", 2);
	(void)snprintf(h->chksum, 7, "%06o", checksum((const uint8_t *)h, false));
	h->chksum[7] = ' ';
}

/* The name, cut at a slash into prefix and name when it is long; false when it does not fit. */
static bool put_name(struct header *h, const char *path)
{
	size_t n = strlen(path), cut;

	if (n <= sizeof(h->name)) {
		memcpy(h->name, path, n);
		return true;
	}
	for (cut = n - sizeof(h->name) - 1; cut < n && path[cut] != '/'; cut++)
		;
	if (cut == 0 || cut + 1 >= n || cut > sizeof(h->prefix)) {
		memcpy(h->name, path, sizeof(h->name));
		return false;
	}
	memcpy(h->prefix, path, cut);
	memcpy(h->name, path + cut + 1, n - cut - 1);
	return true;
}

static char type_flag(enum tar_type type)
{
	static const char flags[] = {
		[TAR_FILE] = '0', [TAR_DIR] = '5',  [TAR_SYMLINK] = '2',     [TAR_HARDLINK] = '1',
		[TAR_FIFO] = '6', [TAR_CHAR] = '3', [TAR_BLOCK_DEVICE] = '4'};

	return flags[type];
}

/* The ustar header; what does not fit goes to the records as well. */
static void fill(struct header *h, const struct tar_entry *e, const char *path, struct buf *records)
{
	size_t link_n = strlen(e->link);

	if (!put_name(h, path))
		put_record(records, "path", path);
	memcpy(h->linkname, e->link, MIN(link_n, sizeof(h->linkname)));
	if (link_n > sizeof(h->linkname))
		put_record(records, "linkpath", e->link);
	h->typeflag = type_flag(e->type);
	(void)put_octal(h->mode, sizeof(h->mode), e->mode & 07777);
	if (!put_octal(h->size, sizeof(h->size), e->size))
		put_number(records, "size", (int64_t)e->size);
	if (!put_octal(h->uid, sizeof(h->uid), e->uid))
		put_number(records, "uid", (int64_t)e->uid);
	if (!put_octal(h->gid, sizeof(h->gid), e->gid))
		put_number(records, "gid", (int64_t)e->gid);
	if (!put_octal(h->mtime, sizeof(h->mtime), e->mtime > 0 ? (uint64_t)e->mtime : 0) || e->mtime < 0)
		put_number(records, "mtime", e->mtime);
	(void)put_octal(h->devmajor, sizeof(h->devmajor), major(e->device));
	(void)put_octal(h->devminor, sizeof(h->devminor), minor(e->device));
	seal(h);
}

static const uint8_t zeros[TAR_BLOCK];

int tar_header(struct buf *out, const struct tar_entry *e)
{
	_cleanup_buf_ struct buf path = BUF_INIT(TAR_PATH_MAX + 2), records = BUF_INIT(TAR_HEADER_MAX);
	struct header h = {0}, x = {0};

	(void)buf_puts(&path, e->path);
	if (e->type == TAR_DIR)
		(void)buf_putc(&path, '/');
	if (path.failed || !buf_cstr(&path))
		return -ENAMETOOLONG;
	if (e->records)
		(void)buf_append(&records, e->records->data, e->records->len);
	fill(&h, e, (const char *)path.data, &records);
	if (records.failed)
		return -ENOMEM;
	if (records.len > 0) {
		const struct tar_entry extended = {
			.path = "PaxHeaders/entry", .link = "", .size = records.len, .mode = 0644};

		fill(&x, &extended, extended.path, &records);
		x.typeflag = 'x';
		seal(&x);
		(void)buf_append(out, &x, sizeof(x));
		(void)buf_append(out, records.data, records.len);
		(void)buf_append(out, zeros, tar_padding(records.len));
	}
	(void)buf_append(out, &h, sizeof(h));
	return out->failed ? -ENOMEM : 0;
}

int tar_trailer(struct buf *out)
{
	(void)buf_append(out, zeros, sizeof(zeros));
	return buf_append(out, zeros, sizeof(zeros));
}

/* ---- in ------------------------------------------------------------------------ */

enum state { HEADER, EXTENDED, DATA, SKIP, END };

/* What extended headers say of entries to come. */
struct extra {
	char *path, *link;
	bool has_size, has_mtime, has_uid, has_gid, sparse;
	uint64_t size, uid, gid;
	int64_t mtime;
	uint32_t mtime_nsec;
};

struct tar_reader {
	const struct tar_events *events;
	void *arg;
	enum state state;
	uint8_t block[TAR_BLOCK];
	size_t have;
	uint64_t left; /* of the content */
	size_t padding;
	bool zero; /* the block before was zeros */
	bool any;  /* a header has been seen */
	uint64_t entries;
	char extended_type;
	struct buf extended;
	struct extra next, global;
};

int tar_reader_new(const struct tar_events *events, void *arg, struct tar_reader **ret)
{
	struct tar_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->events = events;
	r->arg = arg;
	r->extended = BUF_INIT(TAR_EXTENDED_MAX + 1);
	*ret = r;
	return 0;
}

static void extra_done(struct extra *x)
{
	free(x->path);
	free(x->link);
	*x = (struct extra){0};
}

void tar_reader_free(struct tar_reader *r)
{
	if (!r)
		return;
	extra_done(&r->next);
	extra_done(&r->global);
	buf_done(&r->extended);
	free(r);
}

static int bad(const struct tar_reader *r, struct err *err, const char *what)
{
	return err_set(err, ERR_INVALID, "INVALID_FILE_CONTENT", EINVAL,
		       "this is no tar archive, or a broken one: %s after %" PRIu64 " entries", what,
		       r->entries);
}

/* Octal with spaces or NULs around it, or base-256. False when it is neither. */
static bool get_number(const char *field, size_t n, int64_t *ret)
{
	const uint8_t *p = (const uint8_t *)field;
	uint64_t v = 0;
	size_t i = 0;

	if (p[0] & 0x80) {
		bool negative = p[0] & 0x40;

		v = negative ? UINT64_MAX << 6 | (p[0] & 0x3f) : p[0] & 0x3f;
		for (i = 1; i < n; i++) {
			if (v >> 55 != (negative ? 0x1ff : 0))
				return false;
			v = v << 8 | p[i];
		}
		*ret = (int64_t)v;
		return true;
	}
	while (i < n && p[i] == ' ')
		i++;
	for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) {
		if (v >> 60)
			return false;
		v = v << 3 | (uint64_t)(p[i] - '0');
	}
	if (i < n && p[i] != ' ' && p[i] != '\0')
		return false;
	*ret = (int64_t)v;
	return true;
}

/* "123", "-123.456": seconds and the nanoseconds that follow the point. */
static bool get_time(const char *s, int64_t *ret, uint32_t *ret_nsec)
{
	bool negative = *s == '-';
	uint64_t v = 0;
	uint32_t nsec = 0, unit = 100000000;

	s += negative;
	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++) {
		if (v > INT64_MAX / 10 - 9)
			return false;
		v = v * 10 + (uint64_t)(*s - '0');
	}
	if (*s == '.')
		for (s++; *s >= '0' && *s <= '9'; s++, unit /= 10)
			nsec += (uint32_t)(*s - '0') * unit;
	if (*s)
		return false;
	if (negative && nsec > 0) {
		v++;
		nsec = 1000000000 - nsec;
	}
	*ret = negative ? -(int64_t)v : (int64_t)v;
	*ret_nsec = nsec;
	return true;
}

static bool get_decimal(const char *s, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(s, &end, 10);
	return *s >= '0' && *s <= '9' && !*end && !errno && *ret <= INT64_MAX;
}

static bool set_text(char **to, const char *text, size_t n)
{
	char *copy;

	if (n > TAR_PATH_MAX || memchr(text, '\0', n))
		return false;
	copy = strndup(text, n);
	if (!copy)
		return false;
	free(*to);
	*to = copy;
	return true;
}

/* One record of a pax header; value is a string. */
static bool apply_record(struct extra *x, const char *key, const char *value, size_t n)
{
	if (strcmp(key, "path") == 0)
		return set_text(&x->path, value, n);
	if (strcmp(key, "linkpath") == 0)
		return set_text(&x->link, value, n);
	if (strcmp(key, "size") == 0)
		return x->has_size = get_decimal(value, &x->size);
	if (strcmp(key, "uid") == 0)
		return x->has_uid = get_decimal(value, &x->uid);
	if (strcmp(key, "gid") == 0)
		return x->has_gid = get_decimal(value, &x->gid);
	if (strcmp(key, "mtime") == 0)
		return x->has_mtime = get_time(value, &x->mtime, &x->mtime_nsec);
	if (strncmp(key, "GNU.sparse.", 11) == 0)
		x->sparse = true;
	return true;
}

/* "LENGTH key=value\n"...; text is followed by a NUL of ours and may be cut into strings. */
static bool apply_pax(struct extra *x, char *text, size_t n)
{
	while (n > 0) {
		char *key = NULL, *equals;
		unsigned long length = *text >= '1' && *text <= '9' ? strtoul(text, &key, 10) : 0;

		if (length == 0 || length > n || *key != ' ' || (size_t)(key - text) >= length ||
		    text[length - 1] != '\n')
			return false;
		text[length - 1] = '\0';
		key++;
		equals = memchr(key, '=', length - (size_t)(key - text));
		if (!equals)
			return false;
		*equals = '\0';
		if (!apply_record(x, key, equals + 1, length - 1 - (size_t)(equals + 1 - text)))
			return false;
		text += length;
		n -= length;
	}
	return true;
}

static int take_extended(struct tar_reader *r, struct err *err)
{
	size_t n = r->extended.len;
	char *text;
	bool good;

	if (!buf_cstr(&r->extended))
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "a tar header");
	text = (char *)r->extended.data;
	switch (r->extended_type) {
	case 'L':
		good = set_text(&r->next.path, text, strnlen(text, n));
		break;
	case 'K':
		good = set_text(&r->next.link, text, strnlen(text, n));
		break;
	default:
		good = apply_pax(r->extended_type == 'g' ? &r->global : &r->next, text, n);
	}
	buf_clear(&r->extended);
	return good ? 0 : bad(r, err, "an extended header that makes no sense");
}

/* ---- headers --------------------------------------------------------------------- */

static enum tar_type entry_type(char flag, const char *path)
{
	size_t n = strlen(path);

	switch (flag) {
	case '\0':
	case '0':
	case '7':
		/* Before ustar, a directory was a file whose name ends in a slash. */
		return n > 0 && path[n - 1] == '/' ? TAR_DIR : TAR_FILE;
	case '1':
		return TAR_HARDLINK;
	case '2':
		return TAR_SYMLINK;
	case '5':
		return TAR_DIR;
	default:
		return TAR_OTHER;
	}
}

/* The name of a header with its prefix, which only ustar has. */
static void get_name(const struct header *h, char out[sizeof(h->prefix) + sizeof(h->name) + 2])
{
	int prefix_n = memcmp(h->magic, "ustar\0", 6) == 0 ? (int)strnlen(h->prefix, sizeof(h->prefix)) : 0;

	(void)snprintf(out, sizeof(h->prefix) + sizeof(h->name) + 2, "%.*s%s%.*s", prefix_n, h->prefix,
		       prefix_n ? "/" : "", (int)strnlen(h->name, sizeof(h->name)), h->name);
}

static void use_extra(struct tar_entry *e, const struct extra *x)
{
	if (x->path)
		e->path = x->path;
	if (x->link)
		e->link = x->link;
	if (x->has_size)
		e->size = x->size;
	if (x->has_uid)
		e->uid = x->uid;
	if (x->has_gid)
		e->gid = x->gid;
	if (x->has_mtime) {
		e->mtime = x->mtime;
		e->mtime_nsec = x->mtime_nsec;
	}
}

static int get_fields(const struct tar_reader *r, const struct header *h, struct tar_entry *e,
		      struct err *err)
{
	int64_t size, mode, uid, gid;

	if (!get_number(h->size, sizeof(h->size), &size) || size < 0)
		return bad(r, err, "a size that is no number");
	if (!get_number(h->mode, sizeof(h->mode), &mode) || !get_number(h->uid, sizeof(h->uid), &uid) ||
	    !get_number(h->gid, sizeof(h->gid), &gid) || !get_number(h->mtime, sizeof(h->mtime), &e->mtime) ||
	    uid < 0 || gid < 0)
		return bad(r, err, "a header with what is no number");
	e->size = (uint64_t)size;
	e->mode = (mode_t)mode & 07777;
	e->uid = (uint64_t)uid;
	e->gid = (uint64_t)gid;
	return 0;
}

static void begin_content(struct tar_reader *r, enum state state, uint64_t size)
{
	r->state = state;
	r->left = size;
	r->padding = tar_padding(size);
}

static int begin_entry(struct tar_reader *r, const struct header *h, const struct tar_entry *fields,
		       struct err *err)
{
	char name[sizeof(h->prefix) + sizeof(h->name) + 2], link[sizeof(h->linkname) + 1];
	struct tar_entry e = *fields;
	uint64_t size;
	int result;

	get_name(h, name);
	(void)snprintf(link, sizeof(link), "%.*s", (int)strnlen(h->linkname, sizeof(h->linkname)),
		       h->linkname);
	e.path = name;
	e.link = link;
	use_extra(&e, &r->global);
	use_extra(&e, &r->next);
	if (h->typeflag == 'S' || r->next.sparse)
		return err_set(err, ERR_NOT_SUPPORTED, "INVALID_FILE_CONTENT", ENOTSUP,
			       "'%s': files with holes (tar --sparse) are not supported", e.path);
	e.type = entry_type(h->typeflag, e.path);
	/* A directory and a link have no content, whatever the size says: it is that of a list of names. */
	if (e.type == TAR_DIR || e.type == TAR_SYMLINK)
		e.size = 0;
	size = e.size;
	if (e.type == TAR_HARDLINK)
		e.size = 0;
	result = r->events->entry(r->arg, &e, err);
	if (result < 0)
		return result;
	r->entries++;
	begin_content(r, e.type == TAR_FILE ? DATA : SKIP, size);
	extra_done(&r->next);
	return 0;
}

static bool is_zero(const uint8_t *block)
{
	return memcmp(block, zeros, TAR_BLOCK) == 0;
}

static int take_header(struct tar_reader *r, struct err *err)
{
	const struct header *h = (const struct header *)r->block;
	struct tar_entry e = {0};
	int64_t sum;
	int result;

	if (is_zero(r->block)) {
		if (r->zero)
			r->state = END;
		r->zero = true;
		return 0;
	}
	r->zero = false;
	if (!get_number(h->chksum, sizeof(h->chksum), &sum) ||
	    ((uint64_t)sum != checksum(r->block, false) && (unsigned)sum != checksum(r->block, true)))
		return bad(r, err, "a header with a wrong checksum");
	r->any = true;
	result = get_fields(r, h, &e, err);
	if (result < 0)
		return result;
	switch (h->typeflag) {
	case 'x':
	case 'g':
	case 'L':
	case 'K':
		if (e.size > TAR_EXTENDED_MAX)
			return bad(r, err, "an extended header over the limit");
		r->extended_type = h->typeflag;
		begin_content(r, EXTENDED, e.size);
		return 0;
	default:
		return begin_entry(r, h, &e, err);
	}
}

/* ---- feeding ---------------------------------------------------------------------- */

static int content_piece(struct tar_reader *r, const void *data, size_t n, struct err *err)
{
	switch (r->state) {
	case EXTENDED:
		return buf_append(&r->extended, data, n) < 0
			       ? err_sys(err, "RUNTIME_ERROR", ENOMEM, "a tar header")
			       : 0;
	case DATA:
		return r->events->data(r->arg, data, n, err);
	default:
		return 0;
	}
}

/* The content is complete, its padding may be to come. */
static int content_end(struct tar_reader *r, struct err *err)
{
	int result = 0;

	if (r->state == EXTENDED)
		result = take_extended(r, err);
	else if (r->state == DATA)
		result = r->events->end(r->arg, err);
	r->state = HEADER;
	return result;
}

int tar_reader_feed(struct tar_reader *r, const void *data, size_t n, struct err *err)
{
	const uint8_t *p = data;
	int result = 0;

	while (result >= 0 && r->state != END) {
		size_t take;

		if (r->state != HEADER && r->left == 0) {
			result = content_end(r, err);
			continue;
		}
		if (n == 0)
			break;
		if (r->state != HEADER) {
			take = (size_t)MIN((uint64_t)n, r->left);
			result = content_piece(r, p, take, err);
			r->left -= take;
		} else if (r->padding > 0) {
			take = MIN(n, r->padding);
			r->padding -= take;
		} else {
			take = MIN(n, TAR_BLOCK - r->have);
			memcpy(r->block + r->have, p, take);
			r->have += take;
			if (r->have == TAR_BLOCK) {
				r->have = 0;
				result = take_header(r, err);
			}
		}
		p += take;
		n -= take;
	}
	return result < 0 ? result : 0;
}

int tar_reader_finish(struct tar_reader *r, struct err *err)
{
	if (r->state == END || (r->state == HEADER && r->have == 0 && r->any))
		return 0;
	return bad(r, err, "it breaks off");
}
