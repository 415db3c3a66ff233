/*
 * main.c - builds the control plane, runs its loop, takes it apart.
 *
 * At start: settings, the state directory (one sandboxd at a time), the store,
 * the runtime's probe, recovery, and only then the first request. A runtime
 * that lacks something does not keep the server down: it says at once what is
 * missing, and creations answer 503 with the same words.
 *
 * SIGTERM, SIGINT: no more requests; what is on its way arrives, sandboxes live
 * on (--kill-on-exit ends them first). A second signal does not wait.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/spawn.h"
#include "sandboxd/api/lifecycle.h"
#include "sandboxd/flags.h"
#include "sandboxd/oci/enter.h"
#include "sandboxd/runtimes.h"

#define FDS_SOFT     65536
#define POOL_THREADS 4
#define POOL_QUEUE   4096
#define CREATE_BYTES (2u << 20) /* of a request's JSON */
#define EXIT_USAGE   2

struct sandboxd {
	struct config config;
	struct loop *loop;
	struct reaper *reaper;
	struct pool *pool;
	struct store *store;
	struct runtime *runtime;
	struct sandboxes *sandboxes;
	struct http_server *http;
	struct lifecycle lifecycle;
	struct loop_signal sigterm, sigint;
	int lock_fd;
	bool stopping;
};

/* ---- stopping ---------------------------------------------------------------- */

static void on_drained(void *arg)
{
	struct sandboxd *d = arg;
	loop_stop(d->loop, 0);
}

static void on_stop(struct sandboxd *d)
{
	if (d->stopping) {
		log_warn("told to stop twice: not waiting");
		loop_stop(d->loop, 0);
		return;
	}
	d->stopping = true;
	log_info("shutting down; sandboxes %s", d->config.kill_on_exit ? "are ended" : "live on");
	http_server_free(d->http);
	d->http = NULL;
	sandboxes_drain(d->sandboxes, d->config.kill_on_exit, on_drained, d);
}

static void on_sigterm(struct loop_signal *sig, const struct signalfd_siginfo *info)
{
	(void)info;
	on_stop(container_of(sig, struct sandboxd, sigterm));
}

static void on_sigint(struct loop_signal *sig, const struct signalfd_siginfo *info)
{
	(void)info;
	on_stop(container_of(sig, struct sandboxd, sigint));
}

/* ---- starting ----------------------------------------------------------------- */

static int open_state(struct sandboxd *d, struct err *err)
{
	char path[4096];
	const char *dir = d->config.state_dir;

	int r = fs_mkdir_p(dir, 0700);
	if (r < 0)
		return err_sys(err, "CONFIG", -r, "make the state directory '%s'", dir);
	if (snprintf(path, sizeof(path), "%s/lock", dir) >= (int)sizeof(path) - 256)
		return err_set(err, ERR_INVALID, "CONFIG", ENAMETOOLONG, "--state: the path is too long");
	d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (d->lock_fd < 0)
		return err_sys(err, "CONFIG", errno, "open '%s'", path);
	r = fs_lock(d->lock_fd);
	if (r < 0 && r != -EAGAIN)
		return err_sys(err, "CONFIG", -r, "lock '%s'", path);
	if (r < 0)
		return err_set(err, ERR_CONFLICT, "CONFIG", EAGAIN,
			       "the state directory '%s' is in use by another sandboxd", dir);
	(void)snprintf(path, sizeof(path), "%s/sandboxd.db", dir);
	mode_t mask = umask(077);
	r = store_open(path, &d->store, err);
	(void)umask(mask);
	return r;
}

static int build_core(struct sandboxd *d, struct err *err)
{
	int r = loop_new(&d->loop);
	if (r == 0)
		r = reaper_new(d->loop, &d->reaper);
	if (r == 0)
		r = pool_new(d->loop, POOL_THREADS, POOL_QUEUE, &d->pool);
	if (r == 0)
		r = loop_signal_add(d->loop, &d->sigterm, SIGTERM, on_sigterm);
	if (r == 0)
		r = loop_signal_add(d->loop, &d->sigint, SIGINT, on_sigint);
	return r < 0 ? err_sys(err, "CONFIG", -r, "start") : 0;
}

static int build_sandboxes(struct sandboxd *d, struct err *err)
{
	const struct runtime_env env = {.loop = d->loop, .reaper = d->reaper, .pool = d->pool};
	struct err why;

	int r = d->config.runtime_kind->new (&env, &d->config, &d->runtime, err);
	if (r < 0)
		return r;
	const struct sandboxes_env all = {
		.loop = d->loop, .store = d->store, .runtime = d->runtime, .config = &d->config};
	r = sandboxes_new(&all, &d->sandboxes);
	if (r < 0)
		return err_sys(err, "CONFIG", -r, "start");
	if (d->runtime->ops->probe(d->runtime, &why) < 0) {
		log_error("no sandboxes can be made here: %s", why.message);
		sandboxes_refuse(d->sandboxes, &why);
	}
	return sandboxes_recover(d->sandboxes, err);
}

static int serve(struct sandboxd *d, struct err *err)
{
	const struct http_config http = {
		.routes = lifecycle_routes,
		.app = &d->lifecycle,
		.authorize = lifecycle_authorize,
		.prefix = "/v1",
		.request_id = true,
		.json_max = CREATE_BYTES,
	};
	struct config *c = &d->config;
	uint16_t port = 0;
	int fd = TAKE_FD(c->listen_fd);
	bool given = fd >= 0;

	d->lifecycle =
		(struct lifecycle){.config = c, .sandboxes = d->sandboxes, .loop = d->loop, .pool = d->pool};
	int r = store_secret(d->store, "signing-key", d->lifecycle.sign_key, SIGN_KEY_DIGITS, err);
	if (r == 0)
		r = http_server_new(d->loop, &http, &d->http, err);
	if (r < 0) {
		fd_close(&fd);
		return r;
	}
	if (!given)
		r = http_bind(c->listen_host, c->listen_port, &fd, &port, err);
	if (r == 0)
		r = http_server_listen(d->http, fd, err);
	if (r < 0)
		return r;
	if (!given) {
		bool v6 = strchr(c->listen_host, ':');
		printf("listening on %s%s%s:%u\n", v6 ? "[" : "", c->listen_host, v6 ? "]" : "", port);
		(void)fflush(stdout);
	}
	log_info("sandboxd serves %s, state in %s%s", given ? "the socket it was given" : c->listen_host,
		 c->state_dir, c->api_key ? "" : ", without an API key");
	return 0;
}

static int build(struct sandboxd *d, struct err *err)
{
	int r = build_core(d, err);
	if (r == 0)
		r = open_state(d, err);
	if (r == 0)
		r = build_sandboxes(d, err);
	return r < 0 ? r : serve(d, err);
}

/* The pool first: its jobs still use the boxes. */
static void take_apart(struct sandboxd *d)
{
	http_server_free(d->http);
	if (d->pool)
		pool_free(d->pool);
	if (d->runtime)
		d->runtime->ops->free(d->runtime);
	sandboxes_free(d->sandboxes);
	store_close(d->store);
	reaper_free(d->reaper);
	loop_free(d->loop);
	fd_close(&d->lock_fd);
	config_done(&d->config);
}

int main(int argc, char **argv)
{
	struct sandboxd d = {.lock_fd = -EBADF};
	struct err err;

	if (argc > 0 && strcmp(argv[0], OCI_ENTER) == 0)
		_exit(oci_enter(argc, argv)); /* nothing of a whole program's end is wanted there */
	log_init(STDERR_FILENO, LOG_INFO);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* the first process of a container becomes ours */
	if (spawn_init(FDS_SOFT) < 0 || config_init(&d.config) < 0) {
		log_error("out of memory");
		return EXIT_FAILURE;
	}
	int r = flags_parse(argc, argv, &d.config, &err);
	if (r != 0) {
		config_done(&d.config);
		if (r < 0)
			fprintf(stderr, "sandboxd: %s\n", err.message);
		return r < 0 ? EXIT_USAGE : EXIT_SUCCESS;
	}
	log_init(STDERR_FILENO, d.config.log_level);
	r = build(&d, &err);
	if (r < 0)
		log_error("%s", err.message);
	else
		r = loop_run(d.loop);
	take_apart(&d);
	return r < 0 ? EXIT_FAILURE : r;
}
