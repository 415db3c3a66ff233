/*
 * main.c - builds the agent, runs its loop, takes it apart.
 *
 * Nothing is done at start that can wait: from exec to the first answer is a
 * few system calls. SIGTERM and SIGINT (or the end of the entrypoint) ask the
 * commands to end, give them --graceful-shutdown-timeout for it, and stop the
 * loop; then everything is freed in the opposite order.
 */
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "execd/api/api.h"
#include "execd/api/auth.h"
#include "execd/claim.h"
#include "execd/command.h"
#include "execd/confinement.h"
#include "execd/context.h"
#include "execd/env.h"
#include "execd/execd.h"
#include "execd/init.h"
#include "execd/identity.h"
#include "execd/isolated/isolated.h"
#include "execd/isolated/undoable.h"
#include "execd/isolated/warden.h"
#include "execd/metrics.h"
#include "execd/options.h"
#include "execd/pty.h"
#include "execd/ready.h"
#include "execd/run.h"
#include "execd/session.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/random.h"
#include "lib/spawn.h"

/* Ten thousand streams and the pipes of their commands; libwebsockets sizes its tables by it. */
#define FDS_SOFT     16384
#define POOL_THREADS 4
#define POOL_QUEUE   1024
#define EXIT_USAGE   2

struct agent {
	struct execd execd;
	struct options options;
	struct init *init;
	struct ready *ready;
	int log_fd;
	int bound_fd; /* until it is served, or -EBADF */
	uint16_t port;
	int exit_code;
	bool stopping;
	uint64_t oom_kills; /* in the container, before there was anything of ours */
};

/* ---- stopping ---------------------------------------------------------- */

static void commands_stopped(void *arg)
{
	struct agent *a = arg;
	loop_stop(a->execd.loop, a->exit_code);
}

static void agent_stop(void *arg, int code)
{
	struct agent *a = arg;
	if (a->stopping) { /* asked twice: no more waiting */
		loop_stop(a->execd.loop, a->exit_code);
		return;
	}
	log_info("shutting down");
	a->stopping = true;
	a->exit_code = code;
	ptys_stop(a->execd.ptys); /* while the loop still runs: their clients are told */
	commands_stop(a->execd.commands, a->options.grace_ms, commands_stopped, a);
}

static bool agent_out_of_memory(void *arg)
{
	const struct agent *a = arg;
	uint64_t kills;

	return metrics_oom_kills(a->execd.metrics, &kills) >= 0 && kills > a->oom_kills;
}

/* ---- starting ---------------------------------------------------------- */

/* Descriptors 0, 1 and 2 must be somebody's, or a socket of ours would be taken for one of them. */
static void fill_stdio(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			(void)open("/", O_PATH);
}

static int open_log(struct agent *a, struct err *err)
{
	const struct options *o = &a->options;
	if (o->log_file) {
		a->log_fd = open(o->log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
		if (a->log_fd < 0)
			return err_sys(err, "OPTIONS", errno, "open the log file '%s'", o->log_file);
	}
	log_init(a->log_fd >= 0 ? a->log_fd : STDERR_FILENO, o->log_level);
	for (size_t i = 0; i < o->ignored_n; i++)
		log_debug("flag --%s has no meaning here and is ignored", o->ignored[i]);
	return 0;
}

/* What does no harm when it is refused. */
static void harden(const struct agent *a)
{
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGXFSZ, SIG_IGN); /* a file over RLIMIT_FSIZE is an error, not the end */
	/* Orphans of commands come back to the one reaper. */
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	(void)spawn_protect();
	/* No descendant without CAP_SYS_PTRACE may read the token from our memory. */
	if (a->options.token)
		(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/* An inherited socket must be what it is said to be before a client is let in through it. */
static int take_socket(int fd, struct err *err)
{
	int listening = 0, type = 0;
	socklen_t len = sizeof(listening);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return err_sys(err, "OPTIONS", errno, "descriptor %d", fd);
	len = sizeof(type);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM || !listening)
		return err_set(err, ERR_INVALID, "OPTIONS", EINVAL,
			       "descriptor %d is not a listening stream socket", fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, "OPTIONS", errno, "descriptor %d", fd);
	int r = fs_set_nonblock(fd);
	return r < 0 ? err_sys(err, "OPTIONS", -r, "descriptor %d", fd) : 0;
}

/* From here on clients may connect: they wait in its queue until we serve. */
static int agent_bind(struct agent *a, struct err *err)
{
	const struct options *o = &a->options;

	if (o->listen_fd >= 0) {
		a->bound_fd = o->listen_fd;
		return take_socket(o->listen_fd, err);
	}
	int r = http_bind(o->host, o->port, &a->bound_fd, &a->port, err);
	if (r >= 0 && o->announce &&
	    (printf("listening on %s:%u\n", o->host, a->port) < 0 || fflush(stdout) != 0))
		return err_sys(err, "OPTIONS", errno, "--announce");
	return r;
}

static int agent_listen(struct agent *a, struct err *err)
{
	const struct options *o = &a->options;

	int r = a->bound_fd < 0 ? agent_bind(a, err) : 0;
	if (r >= 0)
		r = http_server_listen(a->execd.http, TAKE_FD(a->bound_fd), err);
	if (r >= 0 && o->listen_fd >= 0)
		log_info("execd %s serves descriptor %d", EXECD_VERSION, o->listen_fd);
	else if (r >= 0)
		log_info("execd %s listens on %s port %u", EXECD_VERSION, o->host, a->port);
	return r;
}

/* Only where the sandbox is ours: the port belongs to it, not to a machine that execd is a guest on. */
static void agent_ready(struct agent *a)
{
	int r = a->options.init ? ready_new(a->execd.loop, &a->ready) : 0;
	if (r < 0)
		log_info("the code interpreter's port is not opened: %s", strerror(-r));
}

static int agent_build(struct agent *a, struct err *err)
{
	struct execd *e = &a->execd;
	const struct http_config http = {.routes = execd_routes, .app = e, .authorize = auth_check};
	const struct init_config init = {.init = a->options.init,
					 .entrypoint = a->options.entrypoint,
					 .out_of_memory = agent_out_of_memory,
					 .stop = agent_stop,
					 .arg = a};
	e->token = a->options.token;
	e->env_file = (char *)a->options.env_file;
	e->isolation_root = a->options.isolation_root;
	e->kernel_spares = a->options.kernel_spares;
	e->kernel_idle_ms = a->options.kernel_idle_ms;

	int r = env_init(e->env_file);
	if (r >= 0)
		r = loop_new(&e->loop);
	if (r >= 0)
		r = reaper_new(e->loop, &e->reaper);
	if (r >= 0)
		r = init_new(e->loop, e->reaper, &init, &a->init);
	if (r >= 0)
		r = pool_new(e->loop, POOL_THREADS, POOL_QUEUE, &e->pool);
	if (r >= 0)
		r = metrics_new(&e->metrics);
	if (r >= 0)
		(void)metrics_oom_kills(e->metrics, &a->oom_kills);
	if (r >= 0)
		r = runs_new(e->loop, NULL, &e->runs);
	if (r >= 0)
		r = commands_new(e, &e->commands);
	if (r >= 0)
		r = sessions_new(e, SESSIONS_MAX, &e->sessions);
	if (r >= 0)
		r = ptys_new(e, &e->ptys);
	if (r >= 0)
		r = contexts_new(e, &e->contexts);
	if (r >= 0)
		r = isolateds_new(e, &e->isolateds);
	if (r >= 0)
		r = identities_new(e, &e->identities);
	if (r >= 0)
		r = undoables_new(e, &e->undoables);
	if (r < 0)
		return err_sys(err, "START", -r, "build the agent");
	r = confinement_new(a->options.confinement, a->options.profiles, &e->confinement, err);
	if (r < 0)
		return r;
	return http_server_new(e->loop, &http, &e->http, err);
}

/* What still shows runs goes first, then what feeds them, then what they stand on. */
static void agent_free(struct agent *a)
{
	struct execd *e = &a->execd;
	pool_stop(e->pool);
	ready_free(a->ready);
	isolateds_free(e->isolateds);
	identities_free(e->identities);
	contexts_free(e->contexts);
	ptys_free(e->ptys);
	sessions_free(e->sessions);
	commands_free(e->commands);
	undoables_free(e->undoables);
	http_server_free(e->http);
	pool_free(e->pool);
	runs_free(e->runs);
	confinement_free(e->confinement);
	metrics_free(e->metrics);
	init_free(a->init);
	reaper_free(e->reaper);
	loop_free(e->loop);
	options_done(&a->options);
	fd_close(&a->log_fd);
	fd_close(&a->bound_fd);
}

static int agent_run(struct agent *a)
{
	struct err err = {0};
	int r = open_log(a, &err);
	uint8_t probe;
	random_bytes(&probe, sizeof(probe)); /* ends us without: now, and not at the first request */
	if (r >= 0 && (r = spawn_init(FDS_SOFT)) < 0)
		r = err_sys(&err, "START", -r, "lower the limit of descriptors");
	if (r >= 0) {
		harden(a);
		r = agent_build(a, &err);
	}
	if (r >= 0)
		r = agent_listen(a, &err);
	if (r >= 0)
		agent_ready(a);
	if (r < 0) {
		(void)fprintf(stderr, "execd: %s\n", err.message);
		return EXIT_FAILURE;
	}
	r = init_start(a->init, &err);
	if (r < 0) {
		(void)fprintf(stderr, "execd: entrypoint: %s\n", err.message);
		return init_exit_code(&err);
	}
	r = loop_run(a->execd.loop);
	if (r < 0)
		log_error("the event loop has failed: %s", strerror(-r));
	return r < 0 ? EXIT_FAILURE : r;
}

/* What it is told is to count as if it had been there from the start: the options are read again. */
static int agent_wait(struct agent *a, int argc, char **argv, struct claim *claim, struct err *err)
{
	int r = agent_bind(a, err);
	if (r < 0)
		return r;
	r = claim_wait(a->options.claim_fd, claim, err);
	if (r <= 0)
		return r < 0 ? r : OPTIONS_DONE;
	fill_stdio(); /* it may have come as descriptor 0 */
	options_done(&a->options);
	r = options_parse(argc, argv, &a->options, err);
	if (r != OPTIONS_RUN)
		return r;
	a->options.entrypoint = claim->entrypoint;
	if (claim->token) {
		free(a->options.token);
		a->options.token = TAKE_PTR(claim->token);
	}
	return OPTIONS_RUN;
}

int main(int argc, char **argv)
{
	struct agent agent = {.log_fd = -EBADF, .bound_fd = -EBADF};
	struct claim claim = {0};
	struct err err = {0};
	/* The agent has started itself for it: nothing of what follows is for that process. */
	if (argc == 1 && strcmp(argv[0], NURSERY_NAME) == 0)
		return nursery_main(clerk_main);
	if (argc == 1 && strcmp(argv[0], IDENTITY_NAME) == 0)
		return identity_main(clerk_main);
	fill_stdio();
	/* What is large goes back when it is freed. Left to itself the threshold grows with what was freed
	 * once, and the heap keeps what many bodies at once have taken. */
	(void)mallopt(M_MMAP_THRESHOLD, 256 << 10);
	(void)mallopt(M_TRIM_THRESHOLD, 1 << 20);
	int r = options_parse(argc, argv, &agent.options, &err);
	if (r == OPTIONS_RUN && agent.options.claim_fd >= 0)
		r = agent_wait(&agent, argc, argv, &claim, &err);
	if (r == OPTIONS_DONE)
		return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
	if (r < 0) {
		(void)fprintf(stderr, "execd: %s\n", err.message);
		return EXIT_USAGE;
	}
	r = agent_run(&agent);
	agent_free(&agent);
	claim_done(&claim);
	return r;
}
