/*
 * headers.c - the request head parser. No state, no allocation: the text is cut
 * into strings where it lies.
 */
#include "proto/headers.h"

#include <string.h>
#include <strings.h>

#define LENGTH_DIGITS_MAX 18

static bool is_token_char(unsigned char c)
{
	static const char others[] = "!#$%&'*+-.^_`|~";

	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
		return true;
	return c && strchr(others, c);
}

bool is_token(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!is_token_char((unsigned char)s[i]))
			return false;
	return n > 0;
}

ssize_t head_find(const uint8_t *data, size_t n, size_t *scanned)
{
	size_t i = *scanned;

	for (;;) {
		const uint8_t *lf = i < n ? memchr(data + i, '\n', n - i) : NULL;

		if (!lf)
			break;
		i = (size_t)(lf - data);
		if (i == 0 || data[i - 1] != '\r')
			return -EINVAL;
		i++;
		if (i >= 4 && data[i - 3] == '\n')
			return (ssize_t)i;
	}
	*scanned = n;
	return 0;
}

/* The next line without its CRLF as a string; *text moves behind it. */
static char *next_line(char **text, const char *end)
{
	char *line = *text, *lf = memchr(line, '\n', (size_t)(end - line));

	lf[-1] = '\0';
	*text = lf + 1;
	return line;
}

static unsigned parse_target(struct head *h, char *target, const char **why)
{
	for (const char *c = target; *c; c++) {
		if ((unsigned char)*c <= ' ' || *c == 0x7f) {
			*why = "the request target holds a control character";
			return 400;
		}
	}
	if (strncasecmp(target, "http://", 7) == 0) {
		target += strcspn(target + 7, "/?") + 7;
		if (*target != '/') {
			/* "http://host" and "http://host?query": the byte before is part of the authority. */
			*--target = '/';
		}
	}
	if (*target != '/' && strcmp(target, "*") != 0) {
		*why = "the request target is not a path";
		return 400;
	}
	h->target = target;
	return 0;
}

static unsigned parse_request_line(struct head *h, char *line, size_t n, const char **why)
{
	char *target = memchr(line, ' ', n), *version = target ? strchr(target + 1, ' ') : NULL;

	*why = "the request line is not \"METHOD target HTTP/1.1\"";
	if (strlen(line) != n || !version || !is_token(line, (size_t)(target - line)))
		return 400;
	*target++ = '\0';
	*version++ = '\0';
	h->method = line;
	if (strncmp(version, "HTTP/", 5) != 0 || strlen(version) != 8 || version[6] != '.')
		return 400;
	if (version[5] != '1' || version[7] < '0' || version[7] > '9') {
		*why = "only HTTP/1.0 and HTTP/1.1 are spoken here";
		return 505;
	}
	h->minor = version[7] == '0' ? 0 : 1;
	h->keep_alive = h->minor == 1;
	return parse_target(h, target, why);
}

/* Splits "Name: value" in place; the value without the white space around it. */
static unsigned parse_field(struct head *h, char *line, size_t n, const char **why)
{
	char *colon = memchr(line, ':', n), *value, *end = line + n;

	*why = "a header line is not \"Name: value\"";
	if (!colon || !is_token(line, (size_t)(colon - line)))
		return 400;
	for (value = colon + 1; value < end; value++)
		if (((unsigned char)*value < ' ' && *value != '\t') || *value == 0x7f) {
			*why = "a header value holds a control character";
			return 400;
		}
	*colon = '\0';
	value = colon + 1;
	while (*value == ' ' || *value == '\t')
		value++;
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = '\0';
	if (h->fields_n == HEAD_FIELDS_MAX) {
		*why = "more than 100 headers";
		return 431;
	}
	h->fields[h->fields_n++] = (struct head_field){line, value};
	return 0;
}

/* True when the comma separated list holds the token, in any case. */
static bool list_has(const char *list, const char *token)
{
	size_t n = strlen(token);

	while (*list) {
		size_t len;

		list += strspn(list, " \t,");
		len = strcspn(list, " \t,");
		if (len == n && strncasecmp(list, token, n) == 0)
			return true;
		list += len;
	}
	return false;
}

/* RFC 9112 section 6.3: a repeated length is one length only if all agree. */
static unsigned parse_length(struct head *h, const char *value, const char **why)
{
	*why = "Content-Length is not one number";
	do {
		size_t digits;
		int64_t n = 0;

		value += strspn(value, " \t");
		digits = strspn(value, "0123456789");
		if (digits == 0 || digits > LENGTH_DIGITS_MAX)
			return 400;
		for (size_t i = 0; i < digits; i++)
			n = n * 10 + (value[i] - '0');
		if (h->length >= 0 && h->length != n)
			return 400;
		h->length = n;
		value += digits;
		value += strspn(value, " \t");
	} while (*value++ == ',');
	return value[-1] ? 400 : 0;
}

static unsigned parse_transfer_encoding(struct head *h, const char *value, const char **why)
{
	if (h->minor == 0) {
		*why = "HTTP/1.0 has no Transfer-Encoding";
		return 400;
	}
	if (strcasecmp(value, "chunked") != 0) {
		*why = "no transfer coding but chunked is known here";
		return 501;
	}
	if (h->chunked) {
		*why = "Transfer-Encoding is given twice";
		return 400;
	}
	h->chunked = true;
	return 0;
}

static unsigned parse_host(struct head *h, const char *value, const char **why)
{
	if (h->host) {
		*why = "Host is given twice";
		return 400;
	}
	h->host = value;
	return 0;
}

/* What a field means for the connection and for the framing of the body. */
static unsigned weigh_field(struct head *h, const struct head_field *f, const char **why)
{
	if (strcasecmp(f->name, "Host") == 0)
		return parse_host(h, f->value, why);
	if (strcasecmp(f->name, "Content-Length") == 0)
		return parse_length(h, f->value, why);
	if (strcasecmp(f->name, "Transfer-Encoding") == 0)
		return parse_transfer_encoding(h, f->value, why);
	if (strcasecmp(f->name, "Connection") == 0) {
		if (list_has(f->value, "close"))
			h->keep_alive = false;
		else if (h->minor == 0 && list_has(f->value, "keep-alive"))
			h->keep_alive = true;
	}
	if (strcasecmp(f->name, "Expect") == 0 && h->minor == 1) {
		if (strcasecmp(f->value, "100-continue") != 0) {
			*why = "no expectation but 100-continue is known here";
			return 417;
		}
		h->expect_continue = true;
	}
	return 0;
}

unsigned head_parse(char *text, size_t n, struct head *h, const char **ret_why)
{
	char *p = text, *end = text + n, *line;
	unsigned status;

	h->method = "";
	h->target = NULL;
	h->host = NULL;
	h->minor = 1;
	h->fields_n = 0;
	h->length = -1;
	h->chunked = h->keep_alive = h->expect_continue = false;

	line = next_line(&p, end);
	status = parse_request_line(h, line, (size_t)(p - line) - 2, ret_why);
	while (!status && end - p > 2) {
		line = next_line(&p, end);
		status = parse_field(h, line, (size_t)(p - line) - 2, ret_why);
		if (!status)
			status = weigh_field(h, &h->fields[h->fields_n - 1], ret_why);
	}
	if (!status && h->chunked && h->length >= 0) {
		*ret_why = "both Content-Length and Transfer-Encoding are given";
		status = 400;
	}
	if (!status && !h->host && h->minor == 1) {
		*ret_why = "the Host header is missing";
		status = 400;
	}
	return status;
}

const char *head_get(const struct head *h, const char *name)
{
	for (size_t i = 0; i < h->fields_n; i++)
		if (strcasecmp(h->fields[i].name, name) == 0)
			return h->fields[i].value;
	return NULL;
}
