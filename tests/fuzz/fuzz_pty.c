/*
 * A client of a terminal: the WebSocket and the frames in it, whatever they hold, against a shell that says
 * what it hears. What it gets is frames of a server, the connection ends, and the terminal is gone after it.
 *
 * The first byte: whether there is a terminal or pipes, and how the bytes are cut. Then messages: a byte of
 * kind, one of length, and as many of payload; kind 0xff sends the rest as it is.
 */
#include <signal.h>

#include "execd/api/api.h"
#include "execd/confinement.h"
#include "execd/env.h"
#include "execd/pty.h"
#include "execd/run.h"
#include "proto/ws_frame.h"
#include "tests/fuzz/drive.h"
#include "tests/fuzz/jail.h"

#define ANSWER_TURNS 6 /* of a millisecond at most */

static struct drive drive;
static struct execd agent;

static void agent_new(void)
{
	static const struct http_config config = {.routes = execd_routes, .app = &agent};
	struct err err;

	(void)signal(SIGPIPE, SIG_IGN);
	jail_program("/bin/bash");
	must(mkdir("/dev/pts", 0755) == 0);
	must(mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666") == 0);
	must(symlink("pts/ptmx", "/dev/ptmx") == 0 && setenv("PATH", "/bin", 1) == 0);
	must(env_init(NULL) == 0);
	drive_new(&drive, &config);
	agent.loop = drive.loop;
	agent.http = drive.http;
	must(reaper_new(agent.loop, &agent.reaper) == 0 && runs_new(agent.loop, NULL, &agent.runs) == 0);
	must(ptys_new(&agent, &agent.ptys) == 0);
	must(confinement_new(NULL, NULL, &agent.confinement, &err) == 0);
}

static void put_message(struct buf *out, uint8_t kind, const uint8_t *data, size_t n)
{
	static const uint8_t mask[4] = {1, 2, 3, 4};
	uint8_t head[2] = {kind, (uint8_t)(0x80 | n)};
	size_t at;

	(void)buf_append(out, head, sizeof(head));
	(void)buf_append(out, mask, sizeof(mask));
	at = out->len;
	(void)buf_append(out, data, n);
	ws_mask(out->data + at, n, mask, 0);
}

static void put_messages(struct buf *out, const uint8_t *data, size_t n)
{
	while (n >= 2 && data[0] != 0xff) {
		size_t size = MIN((size_t)(data[1] % 126), n - 2);

		put_message(out, data[0], data + 2, size);
		data += 2 + size;
		n -= 2 + size;
	}
	if (n > 1 && data[0] == 0xff)
		(void)buf_append(out, data + 1, n - 1);
}

/* A head, and then whole frames: not masked, of a kind that there is. */
static void must_be_frames(const struct buf *out)
{
	const uint8_t *at = out->len > 0 ? memmem(out->data, out->len, "\r\n\r\n", 4) : NULL;
	const uint8_t *end = out->data + out->len;

	if (!at || memcmp(out->data, "HTTP/1.1 101", 12) != 0)
		return;
	for (at += 4; end - at >= 2;) {
		size_t n = at[1] & 0x7f, head = n == 126 ? 4 : n == 127 ? 10 : 2;

		must(!(at[1] & 0x80) && !(at[0] & 0x70) && n != 127);
		must((at[0] & 0x0f) <= WS_BINARY || (at[0] & 0x8f) >= (0x80 | WS_CLOSE));
		if ((size_t)(end - at) < head)
			return;
		if (n == 126)
			n = (size_t)at[2] << 8 | at[3];
		if ((size_t)(end - at) < head + n)
			return;
		at += head + n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf in = BUF_INIT(FUZZ_OUT_MAX), out = BUF_INIT(FUZZ_OUT_MAX);
	const struct pty_spec spec = {.cols = 80};
	struct pty *p;
	const char *id;
	struct err err;
	int fd, left;

	if (n == 0 || !jail())
		return 0;
	if (!drive.loop)
		agent_new();
	must(pty_create(agent.ptys, &spec, &id, &err) == 0 && pty_get(agent.ptys, id, &p, &err) == 0);
	(void)buf_printf(&in,
			 "GET /pty/%s/ws?pty=%d&since=%d HTTP/1.1\r\nHost: a\r\nConnection: "
			 "Upgrade\r\nUpgrade: websocket\r\n"
			 "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
			 id, data[0] & 1, data[0] & 2);
	put_messages(&in, data + 1, n - 1);
	fd = drive_connect(&drive);
	drive.wait_ms = 0;
	drive_write(&drive, fd, in.data, in.len, (size_t)(data[0] >> 2) * 16, &out);
	drive.wait_ms = 1;
	for (left = ANSWER_TURNS; left > 0 && drive_read(fd, &out); left--)
		drive_turns(&drive, 1);
	must_be_frames(&out);
	must(close(fd) == 0);
	pty_delete(p);
	drive_gone(&drive, NULL);
	drive_turns(&drive, 2);
	return 0;
}
