/*
 * toml_text.c - characters, comments and strings of a document. No state but the parser's.
 */
#include <string.h>

#include "lib/buf.h"
#include "lib/scan.h"
#include "sandboxd/toml_priv.h"

int toml_fail(struct toml_parser *ps, const char *problem)
{
	return err_set(ps->err, ERR_INVALID, "INVALID_CONFIG", EINVAL, "line %u: %s", ps->line, problem);
}

int toml_no_memory(struct toml_parser *ps)
{
	return err_sys(ps->err, "INVALID_CONFIG", ENOMEM, "line %u", ps->line);
}

/* ---- characters --------------------------------------------------------------- */

bool toml_at_text(const struct toml_parser *ps, const char *text)
{
	size_t n = strlen(text);
	return (size_t)(ps->end - ps->p) >= n && memcmp(ps->p, text, n) == 0;
}

bool toml_accept(struct toml_parser *ps, char c)
{
	if (!toml_at(ps, c))
		return false;
	ps->p++;
	return true;
}

static bool is_control(char c)
{
	return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f;
}

void toml_skip_blanks(struct toml_parser *ps)
{
	while (toml_at(ps, ' ') || toml_at(ps, '\t'))
		ps->p++;
}

bool toml_accept_newline(struct toml_parser *ps)
{
	if (toml_at_text(ps, "\r\n"))
		ps->p++;
	if (!toml_accept(ps, '\n'))
		return false;
	ps->line++;
	return true;
}

int toml_skip_comment(struct toml_parser *ps)
{
	if (!toml_accept(ps, '#'))
		return 0;
	while (ps->p < ps->end && *ps->p != '\n' && !toml_at_text(ps, "\r\n")) {
		if (is_control(*ps->p))
			return toml_fail(ps, "a comment holds a control character");
		ps->p++;
	}
	return 0;
}

int toml_skip_space(struct toml_parser *ps)
{
	int r;
	do {
		toml_skip_blanks(ps);
		r = toml_skip_comment(ps);
	} while (r >= 0 && toml_accept_newline(ps));
	return r;
}

/* ---- strings ------------------------------------------------------------------ */

static int put_code_point(struct toml_parser *ps, struct buf *out, int digits)
{
	uint32_t c = 0;
	for (int i = 0; i < digits; i++) {
		int v = ps->p < ps->end ? scan_digit(*ps->p, 16) : -1;
		if (v < 0)
			return toml_fail(ps, "an escape needs more hexadecimal digits");
		c = c << 4 | (uint32_t)v;
		ps->p++;
	}
	if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return toml_fail(ps, "an escape names no Unicode scalar value");
	if (c < 0x80)
		return buf_putc(out, (char)c);
	if (c < 0x800)
		(void)buf_putc(out, (char)(0xc0 | c >> 6));
	else if (c < 0x10000)
		(void)buf_putc(out, (char)(0xe0 | c >> 12));
	else
		(void)buf_putc(out, (char)(0xf0 | c >> 18));
	if (c >= 0x10000)
		(void)buf_putc(out, (char)(0x80 | (c >> 12 & 0x3f)));
	if (c >= 0x800)
		(void)buf_putc(out, (char)(0x80 | (c >> 6 & 0x3f)));
	return buf_putc(out, (char)(0x80 | (c & 0x3f)));
}

/* A backslash that ends a line joins it with the next that is not empty. */
static bool skip_line_joint(struct toml_parser *ps)
{
	const char *before = ps->p;
	toml_skip_blanks(ps);
	if (!toml_accept_newline(ps)) {
		ps->p = before;
		return false;
	}
	do
		toml_skip_blanks(ps);
	while (toml_accept_newline(ps));
	return true;
}

static int escape(struct toml_parser *ps, struct buf *out, bool multi)
{
	static const char from[] = "btnfr\"\\", to[] = "\b\t\n\f\r\"\\";
	const char *known;
	if (multi && skip_line_joint(ps))
		return 0;
	if (ps->p == ps->end)
		return toml_fail(ps, "the document ends inside a string");
	known = *ps->p ? strchr(from, *ps->p) : NULL;
	ps->p++;
	if (known)
		return buf_putc(out, to[known - from]);
	if (ps->p[-1] == 'u')
		return put_code_point(ps, out, 4);
	if (ps->p[-1] == 'U')
		return put_code_point(ps, out, 8);
	return toml_fail(ps, "an unknown escape in a string");
}

/* At the closing run of a multi-line string: up to two quotes before it belong to the text. */
static bool close_multi(struct toml_parser *ps, struct buf *out, char quote)
{
	int n = 0;
	while (n < 5 && ps->p + n < ps->end && ps->p[n] == quote)
		n++;
	if (n < 3)
		return false;
	ps->p += n;
	while (n-- > 3)
		(void)buf_putc(out, quote);
	return true;
}

static int string_body(struct toml_parser *ps, struct buf *out, char quote, bool multi)
{
	if (multi)
		(void)toml_accept_newline(ps);
	for (;;) {
		if (ps->p == ps->end)
			return toml_fail(ps, "the document ends inside a string");
		if (multi && close_multi(ps, out, quote))
			return 0;
		if (!multi && toml_accept(ps, quote))
			return 0;
		if (quote == '"' && toml_accept(ps, '\\')) {
			int r = escape(ps, out, multi);
			if (r < 0)
				return r;
			continue;
		}
		if (multi && toml_accept_newline(ps)) {
			(void)buf_putc(out, '\n');
			continue;
		}
		if (is_control(*ps->p))
			return toml_fail(ps, *ps->p == '\n' || *ps->p == '\r'
						     ? "a line ends inside a string"
						     : "a string holds a control character");
		(void)buf_putc(out, *ps->p++);
	}
}

int toml_quoted(struct toml_parser *ps, bool allow_multi, char **ret_text, size_t *ret_n)
{
	struct buf out = BUF_INIT(TOML_SIZE_MAX);
	char quote = *ps->p;
	bool multi = toml_at_text(ps, quote == '"' ? "\"\"\"" : "'''");
	int r;
	if (multi && !allow_multi)
		return toml_fail(ps, "a key cannot be a multi-line string");
	ps->p += multi ? 3 : 1;
	r = string_body(ps, &out, quote, multi);
	if (r >= 0 && (!buf_cstr(&out) || out.failed))
		r = toml_no_memory(ps);
	if (r < 0) {
		buf_done(&out);
		return r;
	}
	*ret_text = (char *)out.data;
	*ret_n = out.len;
	return 0;
}
