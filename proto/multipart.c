/*
 * multipart.c - the streaming multipart/form-data parser.
 *
 * A delimiter is CRLF, two hyphens and the boundary; the body is read as if a
 * CRLF stood before it, so that its first line needs no case of its own. No
 * boundary holds a CR, hence a delimiter that fails to match can only begin
 * anew at the byte at hand: what had matched is content, and its bytes are known
 * without having been kept. So nothing is held but the headers of one part.
 *
 *   PREAMBLE -> AFTER_DELIMITER -> HEADERS -> CONTENT -> AFTER_DELIMITER ... -> EPILOGUE
 */
#include "proto/multipart.h"

#include <string.h>
#include <strings.h>

#include "lib/buf.h"
#include "proto/query.h"

#define BOUNDARY_MAX 70 /* RFC 2046 section 5.1.1 */
#define INVALID	     "INVALID_FILE_CONTENT"

enum state {
	PREAMBLE,
	CONTENT,
	AFTER_DELIMITER, /* decides whether it was one */
	AFTER_HYPHEN,
	PADDING,
	PADDING_LF,
	HEADERS,
	EPILOGUE,
};

struct multipart {
	const struct multipart_events *events;
	void *arg;
	enum state state;
	bool in_part;	/* begin has been called, end not yet */
	size_t matched; /* of delimiter */
	size_t delimiter_n;
	char delimiter[4 + BOUNDARY_MAX + 1];
	struct buf headers;
};

static int malformed(struct err *err, const char *what)
{
	return err_set(err, ERR_INVALID, INVALID, EINVAL, "malformed multipart body: %s", what);
}

/* ---- header parameters ------------------------------------------------------ */

/* `; name=value` or `; name="value"`, cut out of the text in place. 1, 0 at the end, -EINVAL. */
static int next_param(char **text, char **ret_name, char **ret_value)
{
	char *p = *text, *out;

	p += strspn(p, "; \t");
	if (!*p)
		return 0;
	*ret_name = p;
	p += strcspn(p, "=; \t");
	if (*p != '=')
		return -EINVAL;
	*p++ = '\0';
	if (*p != '"') {
		*ret_value = p;
		p += strcspn(p, "; \t");
		if (*p)
			*p++ = '\0';
		*text = p;
		return 1;
	}
	*ret_value = out = ++p;
	for (; *p != '"'; p++) {
		/* Only these two are escaped: a lone backslash is a Windows path of some old browser. */
		if (*p == '\\' && (p[1] == '"' || p[1] == '\\'))
			p++;
		if (!*p)
			return -EINVAL;
		*out++ = *p;
	}
	p++;
	if (*p && !strchr("; \t", *p))
		return -EINVAL;
	*out = '\0';
	*text = p;
	return 1;
}

/* RFC 8187: charset'language'percent-encoded, decoded in place. */
static char *extended_value(char *value)
{
	char *language = strchr(value, '\''), *text = language ? strchr(language + 1, '\'') : NULL;

	if (!text || strncasecmp(value, "utf-8'", 6) != 0)
		return NULL;
	text++;
	return url_decode(text, text, strlen(text), false) < 0 ? NULL : text;
}

static char *skip_type(char *value, const char *type)
{
	size_t n = strlen(type);

	if (strncasecmp(value, type, n) != 0 || !strchr("; \t", value[n]))
		return NULL;
	return value + n;
}

/* ---- headers of a part -------------------------------------------------------- */

static int parse_disposition(char *value, struct multipart_part *part, struct err *err)
{
	char *text = skip_type(value, "form-data"), *name, *v;
	bool extended = false;
	int r;

	if (!text)
		return malformed(err, "a part's Content-Disposition is not form-data");
	while ((r = next_param(&text, &name, &v)) > 0) {
		if (strcasecmp(name, "name") == 0 && !part->name) {
			part->name = v;
		} else if (strcasecmp(name, "filename") == 0 && !extended) {
			part->filename = v;
		} else if (strcasecmp(name, "filename*") == 0) {
			part->filename = extended_value(v);
			extended = true;
			if (!part->filename)
				return malformed(err, "a part's filename* is not UTF-8''name");
		}
	}
	return r < 0 ? malformed(err, "a part's Content-Disposition cannot be parsed") : 0;
}

static int parse_header(char *line, struct multipart_part *part, struct err *err)
{
	char *colon = strchr(line, ':'), *value;

	if (!colon)
		return malformed(err, "a header line has no colon");
	*colon = '\0';
	value = colon + 1;
	value += strspn(value, " \t");
	if (strcasecmp(line, "Content-Disposition") == 0)
		return parse_disposition(value, part, err);
	if (strcasecmp(line, "Content-Type") == 0)
		part->content_type = value;
	return 0;
}

/* The header lines, each ended by CRLF, become strings. */
static int begin_part(struct multipart *m, struct err *err)
{
	struct multipart_part part = {0};
	char *p = (char *)m->headers.data, *end = p + m->headers.len - 2;
	int r;

	for (char *c = p; c < end; c++)
		if ((unsigned char)*c < ' ' && *c != '\t' && *c != '\n' && (*c != '\r' || c[1] != '\n'))
			return malformed(err, "a header holds a control character");
	while (p < end) {
		char *line = p, *crlf = memmem(p, (size_t)(end + 2 - p), "\r\n", 2);

		/* RFC 5322 section 2.2.3: a line that begins with white space goes on with the one before. */
		while (crlf < end && (crlf[2] == ' ' || crlf[2] == '\t')) {
			crlf[0] = crlf[1] = ' ';
			crlf = memmem(crlf, (size_t)(end + 2 - crlf), "\r\n", 2);
		}
		*crlf = '\0';
		p = crlf + 2;
		r = parse_header(line, &part, err);
		if (r < 0)
			return r;
	}
	if (!part.name)
		return malformed(err, "a part has no name");
	m->state = CONTENT;
	m->in_part = true;
	r = m->events->begin(m->arg, &part, err);
	m->headers.len = 0;
	return r;
}

static int headers_byte(struct multipart *m, char c, struct err *err)
{
	struct buf *h = &m->headers;
	int r = buf_putc(h, c);

	if (r == -ENOBUFS)
		return err_set(err, ERR_TOO_LARGE, INVALID, EMSGSIZE,
			       "the headers of a part are over %d bytes", MULTIPART_HEADER_MAX);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "parse the multipart body");
	if (c != '\n')
		return 0;
	if (h->len < 2 || h->data[h->len - 2] != '\r')
		return malformed(err, "a header line does not end with CRLF");
	if (h->len == 2 || (h->len >= 4 && memcmp(h->data + h->len - 4, "\r\n\r\n", 4) == 0))
		return begin_part(m, err);
	return 0;
}

/* ---- content and delimiters ------------------------------------------------------ */

static int content(struct multipart *m, const void *data, size_t n, struct err *err)
{
	if (n == 0 || !m->in_part)
		return 0;
	return m->events->data(m->arg, data, n, err);
}

/* What looked like a delimiter, and the bytes in `more`, were content after all. */
static int not_a_delimiter(struct multipart *m, size_t n, const char *more, struct err *err)
{
	int r = content(m, m->delimiter, n, err);

	m->state = m->in_part ? CONTENT : PREAMBLE;
	m->matched = 0;
	if (r >= 0)
		r = content(m, more, strlen(more), err);
	return r;
}

static int end_part(struct multipart *m, enum state next, struct err *err)
{
	bool was_in_part = m->in_part;

	m->in_part = false;
	m->matched = 0;
	m->state = next;
	return was_in_part ? m->events->end(m->arg, err) : 0;
}

/* Content up to the next delimiter, or as much as there is. *used is 0 when a byte is to be looked at again.
 */
static int feed_content(struct multipart *m, const uint8_t *data, size_t n, size_t *used, struct err *err)
{
	const uint8_t *cr;

	*used = 0;
	if (m->matched == 0) {
		cr = memchr(data, '\r', n);
		*used = cr ? (size_t)(cr - data) : n;
		if (*used > 0)
			return content(m, data, *used, err);
	}
	if ((char)data[0] != m->delimiter[m->matched])
		return not_a_delimiter(m, m->matched, "", err);
	*used = 1;
	if (++m->matched == m->delimiter_n)
		m->state = AFTER_DELIMITER;
	return 0;
}

/* One byte between a delimiter and what follows it. *used is 0 when the byte is content. */
static int delimiter_byte(struct multipart *m, char c, size_t *used, struct err *err)
{
	*used = 1;
	switch (m->state) {
	case AFTER_DELIMITER:
		if (c == '-')
			m->state = AFTER_HYPHEN;
		else if (c == '\r')
			m->state = PADDING_LF;
		else if (c == ' ' || c == '\t')
			m->state = PADDING;
		else
			*used = 0;
		return *used ? 0 : not_a_delimiter(m, m->delimiter_n, "", err);
	case AFTER_HYPHEN:
		if (c == '-')
			return end_part(m, EPILOGUE, err);
		*used = 0;
		return not_a_delimiter(m, m->delimiter_n, "-", err);
	case PADDING:
		if (c == '\r')
			m->state = PADDING_LF;
		else if (c != ' ' && c != '\t')
			return malformed(err, "a boundary is followed by text");
		return 0;
	default:
		if (c != '\n')
			return malformed(err, "a boundary does not end with CRLF");
		return end_part(m, HEADERS, err);
	}
}

int multipart_feed(struct multipart *m, const void *data, size_t n, struct err *err)
{
	const uint8_t *p = data;

	while (n > 0) {
		size_t used = 1;
		int r = 0;

		switch (m->state) {
		case PREAMBLE:
		case CONTENT:
			r = feed_content(m, p, n, &used, err);
			break;
		case AFTER_DELIMITER:
		case AFTER_HYPHEN:
		case PADDING:
		case PADDING_LF:
			r = delimiter_byte(m, (char)*p, &used, err);
			break;
		case HEADERS:
			r = headers_byte(m, (char)*p, err);
			break;
		case EPILOGUE:
			return 0;
		}
		if (r < 0)
			return r;
		p += used;
		n -= used;
	}
	return 0;
}

int multipart_finish(struct multipart *m, struct err *err)
{
	if (m->state != EPILOGUE)
		return malformed(err, "it ends before the closing boundary");
	return 0;
}

/* ---- life ------------------------------------------------------------------------- */

/* Finds the boundary in a Content-Type, which is changed. */
static const char *find_boundary(char *content_type)
{
	char *text = skip_type(content_type, "multipart/form-data"), *name, *value;
	const char *boundary = NULL;

	if (!text)
		return NULL;
	while (next_param(&text, &name, &value) > 0)
		if (strcasecmp(name, "boundary") == 0 && !boundary)
			boundary = value;
	if (!boundary || !*boundary || strlen(boundary) > BOUNDARY_MAX)
		return NULL;
	for (const char *c = boundary; *c; c++)
		if ((unsigned char)*c < ' ')
			return NULL;
	return boundary;
}

int multipart_new(const char *content_type, const struct multipart_events *events, void *arg,
		  struct multipart **ret, struct err *err)
{
	_cleanup_free_ char *copy = strdup(content_type ? content_type : "");
	const char *boundary = copy ? find_boundary(copy) : NULL;
	struct multipart *m;

	if (!copy)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "parse the multipart body");
	if (!boundary)
		return err_set(
			err, ERR_INVALID, INVALID, EINVAL,
			"the Content-Type must be multipart/form-data with a boundary of 1 to %d characters",
			BOUNDARY_MAX);
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "parse the multipart body");
	m->events = events;
	m->arg = arg;
	m->headers = BUF_INIT(MULTIPART_HEADER_MAX);
	memcpy(m->delimiter, "\r\n--", 4);
	memcpy(m->delimiter + 4, boundary, strlen(boundary) + 1);
	m->delimiter_n = strlen(m->delimiter);
	m->matched = 2; /* the CRLF that is thought before the body */
	*ret = m;
	return 0;
}

void multipart_free(struct multipart *m)
{
	if (!m)
		return;
	buf_done(&m->headers);
	free(m);
}
