/*
 * A kernel that is run by its own code: whatever comes over its socket and its pipes, and whenever it dies,
 * its owner is told what kernel.h promises, in that order, and its cells end once each.
 *
 * The input is lines. "1" and "2" begin what is written on stdout and stderr, "0" bytes of the socket as they
 * are, "D" closes the socket, "K" is death; any other line is a frame: its kind, and its payload.
 */
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>

#include "execd/cell.h"
#include "execd/kernel_priv.h"
#include "execd/run.h"
#include "tests/fuzz/drive.h"
#include "tests/fuzz/jail.h"

#define CELLS	   3
#define LINE_TURNS 6

static struct drive drive;
static struct execd agent;

static struct {
	struct kernel *kernel;
	struct cells cells;
	struct run *run, *cell_runs[CELLS];
	bool ready, dead;
	int control, out, err;
} it;

/* ---- what a context does ------------------------------------------------------ */

static void next_cell(void)
{
	if (list_empty(&it.cells.waiting) || it.cells.current || it.dead)
		return;
	(void)cells_begin(&it.cells);
	(void)cells_send(&it.cells);
}

static void on_ready(void *owner)
{
	(void)owner;
	must(!it.ready && !it.dead);
	it.ready = true;
	next_cell();
}

static void on_started(void *owner)
{
	(void)owner;
	must(it.cells.current);
	cells_started(&it.cells);
}

static void on_interrupted(void *owner)
{
	(void)owner;
	must(it.cells.current);
	cells_interrupted(&it.cells);
}

static void on_overflow(void *owner)
{
	(void)owner;
	cells_overflow(&it.cells);
}

static void on_result(void *owner, json_t *data)
{
	(void)owner;
	must(it.cells.current && json_is_object(data));
	cells_result(&it.cells, data);
}

static void on_done(void *owner, json_t *end)
{
	(void)owner;
	must(it.cells.current);
	cells_ended(&it.cells, end);
	next_cell();
}

static void on_died(void *owner, const char *message, int wstatus, const struct rusage *usage)
{
	(void)owner, (void)wstatus, (void)usage;
	must(!it.dead && *message && strlen(message) < KERNEL_DEATH_MAX);
	it.dead = true;
	cells_end_all(&it.cells, RUN_FAILED, "KernelDied", message);
}

static const struct kernel_events events = {on_ready,  on_started, on_interrupted, on_overflow,
					    on_result, on_done,	   on_died};

/* ---- the kernel ------------------------------------------------------------------ */

static void agent_new(void)
{
	static const struct http_route none[] = {{NULL, NULL, NULL, HTTP_BODY_NONE, false}};
	static const struct http_config http = {.routes = none};

	(void)signal(SIGPIPE, SIG_IGN);
	drive_new(&drive, &http);
	agent.loop = drive.loop;
	must(reaper_new(agent.loop, &agent.reaper) == 0 && runs_new(agent.loop, NULL, &agent.runs) == 0);
}

/* It waits until it is killed. */
static pid_t sleeper(void)
{
	static const char *const argv[] = {"/bin/cat", NULL};
	static posix_spawn_file_actions_t actions;
	static posix_spawnattr_t attr;
	static int never[2];
	pid_t pid;

	if (never[1] == 0) {
		must(fs_pipe(never, 0, 0) == 0 && posix_spawn_file_actions_init(&actions) == 0);
		must(posix_spawn_file_actions_adddup2(&actions, never[0], STDIN_FILENO) == 0);
		must(posix_spawnattr_init(&attr) == 0 && posix_spawnattr_setpgroup(&attr, 0) == 0);
		must(posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP) == 0);
	}
	must(posix_spawn(&pid, argv[0], &actions, &attr, (char *const *)argv, NULL) == 0);
	return pid;
}

static void kernel_begin(void)
{
	struct kernel_spec spec = {.mark = "fuzz", .events = &events};
	struct kernel *k;
	int control[2], out[2], errors[2];
	struct err err;

	must(run_new(agent.runs, "", NULL, NULL, &it.run, &err) == 0);
	spec.output = it.run->output;
	drive_pair(control);
	must(fs_pipe(out, 1, 1) == 0 && fs_pipe(errors, 1, 1) == 0);
	it.control = control[1];
	it.out = out[1];
	it.err = errors[1];
	k = it.kernel = kernel_alloc(&agent, &spec);
	must(k && (k->mark = strdup(spec.mark)));
	k->control = control[0];
	must(pump_start(&k->pumps[0], agent.loop, out[0], spec.output) == 0);
	must(pump_start(&k->pumps[1], agent.loop, errors[0], spec.output) == 0);
	must(loop_io_add(agent.loop, &k->io, k->control, EPOLLIN, kernel_control_ready) == 0);
	must(child_adopt(agent.reaper, &k->child, sleeper(), kernel_exited) == 0);
	cells_init(&it.cells, &agent);
	it.cells.kernel = k;
	for (size_t i = 0; i < CELLS; i++) {
		const struct context_cell cell = {.code = "x", .timeout_ms = i == 1 ? 60000 : 0};

		must(cells_add(&it.cells, "c", &cell, &it.cell_runs[i], &err) == 0);
	}
}

static void send_frame(const uint8_t *line, size_t n)
{
	_cleanup_buf_ struct buf frame = BUF_INIT(FUZZ_OUT_MAX);

	must(frame_append(&frame, (char)line[0], line + 1, n - 1) == 0);
	(void)send(it.control, frame.data, frame.len, MSG_NOSIGNAL);
}

static void do_line(const uint8_t *line, size_t n)
{
	switch (line[0]) {
	case '0':
		(void)send(it.control, line + 1, n - 1, MSG_NOSIGNAL);
		break;
	case '1':
	case '2':
		(void)!write(line[0] == '1' ? it.out : it.err, line + 1, n - 1);
		break;
	case 'D':
		(void)shutdown(it.control, SHUT_RDWR);
		break;
	case 'K':
		kernel_kill(it.kernel);
		if (!it.dead && it.kernel->child.pid)
			(void)child_kill(&it.kernel->child, SIGKILL);
		break;
	default:
		send_frame(line, n);
		break;
	}
}

static void kernel_end(void)
{
	_cleanup_buf_ struct buf ignored = BUF_INIT(FUZZ_OUT_MAX);
	struct run_end end = {.reason = RUN_CANCELLED};

	(void)drive_read(it.control, &ignored);
	kernel_free(it.kernel);
	it.cells.kernel = NULL;
	cells_done(&it.cells, "Deleted", "it is over");
	for (size_t i = 0; i < CELLS; i++) {
		must(it.cell_runs[i]->state == RUN_ENDED);
		run_unref(it.cell_runs[i]);
	}
	run_ended(it.run, &end);
	run_unref(it.run);
	(void)close(it.control);
	(void)close(it.out);
	(void)close(it.err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n == 0 || sizeof(jail_code) == 1 || !jail())
		return 0;
	if (!drive.loop)
		jail_program("/bin/cat");
	jail_begin();
	if (!drive.loop)
		agent_new();
	memset(&it, 0, sizeof(it));
	kernel_begin();
	for (const uint8_t *end = data + n, *next; data < end; data = next) {
		const uint8_t *lf = memchr(data, '\n', (size_t)(end - data));

		next = lf ? lf + 1 : end;
		if ((lf ? lf : end) > data)
			do_line(data, (size_t)((lf ? lf : end) - data));
		drive_turns(&drive, LINE_TURNS);
	}
	kernel_end();
	drive_turns(&drive, LINE_TURNS);
	jail_end();
	return 0;
}
