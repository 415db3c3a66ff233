/*
 * What a program behind the proxy answers, that wishes its client ill: the same for the client however it
 * is cut, and over for the client exactly where it is over for us. Otherwise the rest of it would be taken
 * for the answer to the client's next request.
 *
 * The first byte chooses the request, the second how the answer is cut.
 */
#include <strings.h>

#include "proto/headers.h"
#include "proto/proxy.h"
#include "tests/fuzz/drive.h"

#define PONG "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\npong"

static struct drive drive;
static int upstream; /* its end of the next proxied exchange */

static const struct {
	const char *text;
	bool head, upgrade;
} requests[] = {
	{"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", false, false},
	{"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n", true, false},
	{"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", false, false},
	{"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false,
	 false},
	{"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", false, true},
	{"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false, false},
};

static int pass(struct http_req *req, struct err *err)
{
	struct proxy_target t = {.target = http_target(req), .what = "it", .fd = upstream};

	upstream = -1;
	return proxy_pass(drive.loop, req, &t, err);
}

static int pong(struct http_req *req, struct err *err)
{
	(void)err;
	http_reply(req, 200, "text/plain", "pong", 4);
	return 0;
}

static const struct http_route routes[] = {
	{"*", "/x", pass, HTTP_BODY_STREAM, false},
	{"GET", "/ping", pong, HTTP_BODY_NONE, false},
	{NULL, NULL, NULL, HTTP_BODY_NONE, false},
};

static void exchange(unsigned which, const uint8_t *data, size_t n, size_t piece, struct buf *out)
{
	static const char next[] = "GET /ping HTTP/1.1\r\nHost: a\r\n\r\n";
	_cleanup_buf_ struct buf asked = BUF_INIT(FUZZ_OUT_MAX);
	int fds[2], client;

	drive_pair(fds);
	upstream = fds[0];
	client = drive_connect(&drive);
	drive_write(&drive, client, (const uint8_t *)requests[which].text, strlen(requests[which].text), 0,
		    out);
	must(upstream == -1);
	for (size_t at = 0; at < n;) {
		size_t part = piece == 0 || piece > n - at ? n - at : piece;

		if (send(fds[1], data + at, part, MSG_NOSIGNAL) < 0)
			break;
		at += part;
		drive_turns(&drive, DRIVE_PIECE);
		(void)drive_read(client, out);
		(void)drive_read(fds[1], &asked);
	}
	(void)close(fds[1]);
	drive_turns(&drive, DRIVE_PIECE);
	drive_write(&drive, client, (const uint8_t *)next, sizeof(next) - 1, 0, out);
	drive_end(&drive, client, out);
}

/* ---- a client that reads by the letter of RFC 9112 section 6.3, written apart from what is tested ---- */

/* The number of fields of that name; *value is the last one. */
static unsigned field(const char *head, size_t head_n, const char *name, char value[256])
{
	const char *end = head + head_n - 2, *line = (const char *)memchr(head, '\n', head_n) + 1;
	size_t name_n = strlen(name);
	unsigned count = 0;

	for (const char *next; line < end; line = next) {
		next = (const char *)memchr(line, '\n', (size_t)(end - line)) + 1;
		if ((size_t)(next - line) > name_n + 2 && strncasecmp(line, name, name_n) == 0 &&
		    strchr(": \t", line[name_n])) {
			must(line[name_n] == ':');
			count++;
			(void)snprintf(value, 256, "%.*s",
				       (int)MIN((size_t)(next - line) - name_n - 3, (size_t)255),
				       line + name_n + 1 + (line[name_n + 1] == ' '));
			value[strcspn(value, "\r")] = '\0';
		}
	}
	return count;
}

/* The length of a chunked body in n bytes, or -1 when it does not end there. */
static ssize_t chunked_length(const char *p, size_t n)
{
	const char *start = p, *end = p + n;

	for (;;) {
		char *after;
		const char *lf = memchr(p, '\n', (size_t)(end - p));
		unsigned long size;

		if (!lf)
			return -1;
		size = strtoul(p, &after, 16);
		must(after > p && lf[-1] == '\r' &&
		     (*after == '\r' || *after == ';' || *after == ' ' || *after == '\t'));
		p = lf + 1;
		if (size == 0)
			break;
		if (size + 2 > (size_t)(end - p))
			return -1;
		p += size;
		must(p[0] == '\r' && p[1] == '\n');
		p += 2;
	}
	for (;;) { /* trailers */
		const char *lf = memchr(p, '\n', (size_t)(end - p));
		bool last;

		if (!lf)
			return -1;
		last = lf == p + 1;
		p = lf + 1;
		if (last)
			return p - start;
	}
}

/* Where the reply at data ends: its length, -1 when it goes on to the end of the connection, or is broken
 * off. */
static ssize_t reply_length(const char *data, size_t n, bool head_only, unsigned *status, bool *close)
{
	size_t scanned = 0;
	ssize_t head_n = head_find((const uint8_t *)data, n, &scanned), body_n;
	char value[256] = "", length[256];

	if (head_n == 0)
		return -1;
	must(head_n > 0 && strncmp(data, "HTTP/1.1 ", 9) == 0);
	*status = (unsigned)strtoul(data + 9, NULL, 10);
	*close = field(data, (size_t)head_n, "Connection", value) > 0 && strcasecmp(value, "close") == 0;
	if (head_only || *status < 200 || *status == 204 || *status == 304)
		return head_n;
	if (field(data, (size_t)head_n, "Transfer-Encoding", value) > 0) {
		must(field(data, (size_t)head_n, "Content-Length", length) == 0);
		body_n = strcasecmp(value, "chunked") == 0 ? chunked_length(data + head_n, n - (size_t)head_n)
							   : -1;
	} else if (field(data, (size_t)head_n, "Content-Length", value) > 0) {
		body_n = (ssize_t)strtoull(value, NULL, 10);
		if (body_n > (ssize_t)n - head_n)
			return -1;
	} else {
		body_n = -1;
	}
	return body_n < 0 ? -1 : head_n + body_n;
}

/* Whatever the client still gets after the reply is our own answer to its next request. */
static void must_be_answers(unsigned which, const struct buf *out)
{
	const char *data = (const char *)out->data;
	unsigned status = 0;
	size_t at = 0;
	bool close = false;
	ssize_t r;

	do {
		r = reply_length(data + at, out->len - at, requests[which].head, &status, &close);
		at += r > 0 ? (size_t)r : 0;
		must(status != 101 || requests[which].upgrade);
	} while (r > 0 && status < 200 && status != 101 && at < out->len);
	if (r < 0 || status == 101)
		return;
	if (close)
		must(at == out->len);
	else if (at < out->len)
		must(out->len - at == strlen(PONG) && memcmp(data + at, PONG, strlen(PONG)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(FUZZ_OUT_MAX), pieces = BUF_INIT(FUZZ_OUT_MAX);
	static const struct http_config config = {.routes = routes};
	unsigned which;

	if (!drive.loop)
		drive_new(&drive, &config);
	if (n < 2)
		return 0;
	which = data[0] % ARRAY_SIZE(requests);
	exchange(which, data + 2, n - 2, 0, &whole);
	must_be_answers(which, &whole);
	exchange(which, data + 2, n - 2, (size_t)data[1] + 1, &pieces);
	must_be_answers(which, &pieces);
	return 0;
}
