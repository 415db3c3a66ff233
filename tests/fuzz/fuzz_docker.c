/*
 * What a Docker daemon answers, whatever that is: a sandbox's whole life in the driver, over libcurl, with
 * each answer of the input in turn. The driver tells its events in the order that runtime.h promises, and
 * lets go of all.
 *
 * Answers are parted by a line "%%". One that begins with three digits is given a head with that status, one
 * that begins with E a head of one that does not end; any other is sent as it is, and that is the end. The
 * first byte of the input: in what pieces.
 */
#include <signal.h>
#include <sys/epoll.h>
#include <sys/un.h>

#include "sandboxd/docker/docker.h"
#include "tests/fuzz/drive.h"
#include "tests/fuzz/jail.h"

#define SOCKET	  "/tmp/docker.sock"
#define CONNS_MAX 32
#define STEP	  24 /* turns after each thing that is asked */

static struct drive drive;
static struct config config;
static struct reaper *reaper;
static struct pool *pool;

/* ---- the daemon ------------------------------------------------------------- */

static struct {
	struct loop_io io;
	const uint8_t *at, *end; /* answers that are left */
	size_t piece;
	struct conn {
		struct loop_io io;
		int fd; /* 0: free */
	} conns[CONNS_MAX];
} daemon_;

static void conn_close_now(struct conn *c)
{
	loop_io_del(&c->io);
	(void)close(c->fd);
	c->fd = 0;
}

static void answer(struct conn *c)
{
	static const char parting[] = "\n%%\n";
	_cleanup_buf_ struct buf out = BUF_INIT(FUZZ_OUT_MAX);
	const uint8_t *at = daemon_.at, *end = daemon_.end;
	const uint8_t *cut = end > at ? memmem(at, (size_t)(end - at), parting, sizeof(parting) - 1) : NULL;
	size_t n, skip = 0;

	if (at == end) {
		conn_close_now(c);
		return;
	}
	n = (size_t)((cut ? cut : end) - at);
	daemon_.at = cut ? cut + sizeof(parting) - 1 : end;
	if (n >= 3 && at[0] >= '2' && at[0] <= '5' && at[1] >= '0' && at[1] <= '9' && at[2] >= '0' &&
	    at[2] <= '9')
		skip = 3;
	else if (n > 0 && at[0] == 'E')
		skip = 1;
	if (skip == 3)
		(void)buf_printf(&out, "HTTP/1.1 %.3s x\r\nApi-Version: 1.44\r\nContent-Length: %zu\r\n\r\n",
				 at, n - 3);
	else if (skip == 1)
		(void)buf_puts(&out, "HTTP/1.1 200 OK\r\n\r\n");
	(void)buf_append(&out, at + skip, n - skip);
	for (size_t sent = 0; sent < out.len;) {
		size_t part =
			daemon_.piece == 0 || daemon_.piece > out.len - sent ? out.len - sent : daemon_.piece;

		if (send(c->fd, out.data + sent, part, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		sent += part;
	}
	if (skip == 0)
		conn_close_now(c);
}

static void on_request(struct loop_io *io, uint32_t events)
{
	struct conn *c = container_of(io, struct conn, io);
	char request[65536];
	ssize_t n = recv(c->fd, request, sizeof(request), MSG_DONTWAIT);

	(void)events;
	if (n <= 0)
		conn_close_now(c);
	else if (memmem(request, (size_t)n, "\r\n\r\n", 4))
		answer(c);
}

static void on_connection(struct loop_io *io, uint32_t events)
{
	int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	for (size_t i = 0; fd >= 0 && i < CONNS_MAX; i++) {
		struct conn *c = &daemon_.conns[i];

		if (c->fd)
			continue;
		c->fd = fd;
		c->io.fd = -EBADF;
		must(loop_io_add(drive.loop, &c->io, fd, EPOLLIN, on_request) == 0);
		return;
	}
	if (fd >= 0)
		(void)close(fd);
}

static void daemon_new(void)
{
	static const struct http_route none[] = {{NULL, NULL, NULL, HTTP_BODY_NONE, false}};
	static const struct http_config http = {.routes = none};
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = SOCKET};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	(void)signal(SIGPIPE, SIG_IGN);
	must(config_init(&config) == 0 && setenv("DOCKER_HOST", "unix://" SOCKET, 1) == 0);
	free(config.state_dir);
	must((config.state_dir = strdup("/w/state")) && mkdir("/w/state", 0700) == 0);
	drive_new(&drive, &http);
	must(reaper_new(drive.loop, &reaper) == 0 && pool_new(drive.loop, 1, 16, &pool) == 0);
	must(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 16) == 0);
	must(loop_io_add(drive.loop, &daemon_.io, fd, EPOLLIN, on_connection) == 0);
}

/* ---- who owns the sandboxes -------------------------------------------------- */

static struct {
	struct runtime *rt;
	struct runtime_box box, found;
	bool created, adopted, running, over, gone, freezing, taking;
} owner;

static bool is_mine(const struct runtime_box *box)
{
	return box == &owner.box;
}

static void on_started(struct runtime_box *box, const char *handle, const char *notes)
{
	must(is_mine(box) && owner.created && !owner.running && !owner.over && handle && notes &&
	     box->port > 0);
	owner.running = true;
}

static void on_progress(struct runtime_box *box, const char *reason, const char *message, uint32_t max_s)
{
	(void)max_s;
	must(is_mine(box) && !owner.running && !owner.over && reason && message);
}

static void on_failed(struct runtime_box *box, const struct err *err)
{
	must(is_mine(box) && owner.created && !owner.running && !owner.over);
	must_be_told(err);
	owner.over = true;
}

static void on_exited(struct runtime_box *box, const struct runtime_exit *exit)
{
	must(memchr(exit->detail, '\0', sizeof(exit->detail)));
	if (is_mine(box)) {
		must(owner.created && !owner.over); /* also while it was coming */
		owner.over = true;
	}
}

static void on_frozen(struct runtime_box *box, bool on, const struct err *err)
{
	(void)on;
	must(is_mine(box) && owner.freezing && !owner.over);
	owner.freezing = false;
	if (err)
		must_be_told(err);
}

static void on_snapshotted(struct runtime_box *box, const char *snapshot, const struct err *err)
{
	must(is_mine(box) && owner.taking && !owner.over && strcmp(snapshot, "snap") == 0);
	owner.taking = false;
	if (err)
		must_be_told(err);
}

static void on_destroyed(struct runtime_box *box)
{
	if (is_mine(box))
		owner.gone = true;
}

static const struct runtime_events events = {on_started, on_progress,	 on_failed,   on_exited,
					     on_frozen,	 on_snapshotted, on_destroyed};

static void on_found(void *arg, const struct runtime_found *found)
{
	(void)arg;
	must(found->id && strlen(found->id) < RUNTIME_ID_MAX);
	if (owner.adopted || !found->handle || (owner.created && strcmp(found->id, owner.box.id) == 0))
		return;
	owner.adopted = true;
	owner.found.events = &events;
	owner.found.port = found->port;
	(void)snprintf(owner.found.id, sizeof(owner.found.id), "%s", found->id);
	(void)owner.rt->ops->adopt(owner.rt, &owner.found, found->handle);
}

static void on_found_snapshot(void *arg, const struct runtime_found *found)
{
	(void)arg;
	must(found->id && strlen(found->id) < RUNTIME_ID_MAX);
}

static void on_away(void *arg, bool away)
{
	(void)arg, (void)away;
}

static void on_log(void *arg, const struct buf *text, bool cut, int result)
{
	(void)cut;
	*(bool *)arg = true;
	must((result == 0) == (text != NULL) && (!text || text->len <= RUNTIME_LOG_MAX));
}

static void on_removed(void *arg, const char *snapshot)
{
	(void)arg, (void)snapshot;
}

static void create(void)
{
	static json_t *entrypoint;
	struct runtime_spec spec = {
		.image.uri = "python:3.11", .record = "{}", .token = "t", .limits = {.cpu_millis = 500}};
	struct err err;

	if (!entrypoint)
		entrypoint = json_pack("[s]", "sh");
	spec.entrypoint = entrypoint;
	owner.box.events = &events;
	(void)snprintf(owner.box.id, sizeof(owner.box.id), "one");
	owner.created = true; /* events come from the loop, but the driver may look at it now */
	if (owner.rt->ops->create(owner.rt, &owner.box, &spec, &err) < 0) {
		must_be_told(&err);
		owner.created = false;
		return;
	}
	drive_turns(&drive, STEP * 2);
}

static void live(void)
{
	bool logged = false;
	struct err err;

	if (owner.rt->ops->log(owner.rt, "one", on_log, &logged) == 0)
		drive_turns(&drive, STEP);
	if (owner.running && !owner.over) {
		owner.freezing = true;
		if (owner.rt->ops->freeze(owner.rt, &owner.box, true, &err) < 0)
			owner.freezing = false;
		drive_turns(&drive, STEP);
	}
	if (owner.running && !owner.over) {
		owner.taking = true;
		if (owner.rt->ops->snapshot(owner.rt, &owner.box, "snap", &err) < 0)
			owner.taking = false;
		drive_turns(&drive, STEP);
	}
	(void)owner.rt->ops->snapshot_delete(owner.rt, "snap", on_removed, NULL);
	drive_turns(&drive, STEP / 2);
	if (owner.created && !owner.gone)
		owner.rt->ops->destroy(owner.rt, &owner.box, false);
	drive_turns(&drive, STEP);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct runtime_finder finder = {
		.sandbox = on_found, .snapshot = on_found_snapshot, .away = on_away};
	struct runtime_env env;
	struct err err;

	if (n == 0 || !jail())
		return 0;
	jail_begin();
	if (!drive.loop)
		daemon_new();
	env = (struct runtime_env){.loop = drive.loop, .reaper = reaper, .pool = pool};
	memset(&owner, 0, sizeof(owner));
	daemon_.piece = data[0];
	daemon_.at = data + 1;
	daemon_.end = data + n;
	must(docker_new(&env, &config, &owner.rt, &err) == 0);
	must(owner.rt->ops->leftovers(owner.rt, &finder) == 0);
	drive_turns(&drive, STEP * 2);
	create();
	live();
	owner.rt->ops->free(owner.rt);
	for (size_t i = 0; i < CONNS_MAX; i++)
		if (daemon_.conns[i].fd)
			conn_close_now(&daemon_.conns[i]);
	drive_turns(&drive, STEP / 2);
	jail_end();
	return 0;
}
