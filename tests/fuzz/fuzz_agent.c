/*
 * Requests to the agent as it is, every route of it but those that make rooms, in a place without programs:
 * whatever comes is answered or refused, nothing stays open once the client has gone, and nothing is a fault
 * of the server.
 *
 * The first byte decides how the rest is cut.
 */
#include "tests/fuzz/agent.h"

#define ANSWER_TURNS 20 /* of a millisecond at most, for a worker to have answered */

static struct agent agent;

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

	if (n == 0 || !jail())
		return 0;
	jail_begin();
	if (!agent.drive.loop)
		agent_new(&agent, agent_is_of_rooms);
	make_files();
	drive_fill_length(data + 1, n - 1, &request);
	drive_ask(&agent.drive, &request, (size_t)data[0] * 16, ANSWER_TURNS, &out);
	must_be_no_fault(&out);
	drive_gone(&agent.drive, NULL);
	jail_end();
	return 0;
}
