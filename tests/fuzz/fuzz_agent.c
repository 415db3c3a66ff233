/*
 * Requests to the agent as it is, every route of it but those that make rooms, in a place without programs:
 * whatever comes is answered or refused, nothing stays open once the client has gone, and nothing is a fault
 * of the server.
 *
 * The first byte decides how the rest is cut.
 */
#include <signal.h>

#include "execd/api/api.h"
#include "execd/command.h"
#include "execd/confinement.h"
#include "execd/context.h"
#include "execd/env.h"
#include "execd/isolated/isolated.h"
#include "execd/isolated/undoable.h"
#include "execd/metrics.h"
#include "execd/pty.h"
#include "execd/run.h"
#include "execd/session.h"
#include "proto/http_priv.h"
#include "tests/fuzz/drive.h"
#include "tests/fuzz/jail.h"

#define ANSWER_TURNS 20 /* of a millisecond at most, for a worker to have answered */
#define GONE_TURNS   5000

static struct drive drive;
static struct execd agent;
static struct http_route routes[128];

/* Those that fork the program that they are in, which is not the agent here. */
static bool is_left_out(const struct http_route *r)
{
	return r->fn == isolated_post || r->fn == isolated_oneshot_post || r->fn == isolated_capabilities_get;
}

static void agent_new(void)
{
	struct http_config config = {.routes = routes, .app = &agent, .json_max = 65536};
	size_t n = 0;
	struct err err;

	for (const struct http_route *r = execd_routes; r->method; r++)
		if (!is_left_out(r))
			routes[n++] = *r;
	must(n < ARRAY_SIZE(routes));
	(void)signal(SIGPIPE, SIG_IGN);
	must(env_init(NULL) == 0);
	drive_new(&drive, &config);
	agent.loop = drive.loop;
	agent.http = drive.http;
	must(reaper_new(agent.loop, &agent.reaper) == 0 && pool_new(agent.loop, 2, 64, &agent.pool) == 0);
	must(metrics_new(&agent.metrics) == 0 && runs_new(agent.loop, NULL, &agent.runs) == 0);
	must(commands_new(&agent, &agent.commands) == 0 && sessions_new(&agent, 16, &agent.sessions) == 0);
	must(ptys_new(&agent, &agent.ptys) == 0 && contexts_new(&agent, &agent.contexts) == 0);
	must(isolateds_new(&agent, &agent.isolateds) == 0 && undoables_new(&agent, &agent.undoables) == 0);
	must(confinement_new(NULL, NULL, &agent.confinement, &err) == 0);
}

/* What the last input may have removed. */
static void make_files(void)
{
	(void)mkdir("/w/d", 0777);
	(void)fs_write_file(AT_FDCWD, "/w/a", "hello world\n", 12, 0666);
	(void)fs_write_file(AT_FDCWD, "/w/d/b.txt", "one\ntwo\n", 8, 0644);
	(void)symlink("/w/a", "/w/d/link");
	(void)symlink("loop", "/w/loop");
	(void)mkfifo("/w/fifo", 0666);
}

static void must_be_no_fault(const struct buf *out)
{
	/* 501 and 503 are: there is no such thing here. 500 would be ours, unless the system said no. */
	must(out->len < 12 || memcmp(out->data, "HTTP/1.1 500", 12) != 0 ||
	     memmem(out->data, out->len, "RUNTIME_ERROR", 13) || memmem(out->data, out->len, "_ERROR", 6));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf out = BUF_INIT(FUZZ_OUT_MAX), request = BUF_INIT(FUZZ_OUT_MAX);
	int fd, left;

	if (n == 0 || !jail())
		return 0;
	jail_begin();
	if (!drive.loop)
		agent_new();
	make_files();
	fd = drive_connect(&drive);
	drive.wait_ms = 0;
	drive_fill_length(data + 1, n - 1, &request);
	drive_write(&drive, fd, request.data, request.len, (size_t)data[0] * 16, &out);
	drive.wait_ms = 1;
	(void)shutdown(fd, SHUT_WR);
	for (left = ANSWER_TURNS; left > 0 && drive_read(fd, &out); left--)
		drive_turns(&drive, 1);
	must(close(fd) == 0);
	must_be_no_fault(&out);
	for (left = GONE_TURNS; drive.http->conns_n > 0; left--) {
		must(left > 0);
		drive_turns(&drive, 1);
	}
	jail_end();
	return 0;
}
