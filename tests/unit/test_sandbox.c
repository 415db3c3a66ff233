/* Sandboxes over a driver that does what the test says: every way through the states. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/clock.h"
#include "sandboxd/sandbox.h"

#define BOXES_MAX 8

/* ---- a driver without containers ------------------------------------------- */

static struct fake {
	struct runtime rt;
	struct runtime_box *boxes[BOXES_MAX];
	size_t created, destroyed, forced;
	int create_result, adopt_result, freeze_result, probe_result;
	size_t probes;
	size_t freezes;
	const char *leftover;
	struct runtime_found found;
	char adopted[RUNTIME_HANDLE_MAX];
	struct loop_defer later;
	int listen_fd;
	struct loop_io io;
	int answers[BOXES_MAX];
	size_t answered;
} fake;

static struct loop *loop;
static struct store *store;
static struct sandboxes *all;
static struct config config;
static char path[64];

static int fake_probe(struct runtime *rt, struct err *err)
{
	(void)rt;
	fake.probes++;
	return fake.probe_result < 0 ? err_sys(err, "X", -fake.probe_result, "probe") : 0;
}

static int fake_create(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec,
		       struct err *err)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);

	(void)rt;
	assert_string_equal(spec->image.uri, "python:3.11");
	if (fake.create_result < 0)
		return err_set(err, ERR_INTERNAL, "X", -fake.create_result, "no");
	assert_int_equal(getsockname(fake.listen_fd, (struct sockaddr *)&a, &len), 0);
	box->port = ntohs(a.sin_port);
	fake.boxes[fake.created++ % BOXES_MAX] = box;
	return 0;
}

static int fake_adopt(struct runtime *rt, struct runtime_box *box, const char *handle)
{
	(void)rt;
	(void)snprintf(fake.adopted, sizeof(fake.adopted), "%s", handle);
	fake.boxes[fake.created++ % BOXES_MAX] = box;
	return fake.adopt_result;
}

static int fake_freeze(struct runtime *rt, struct runtime_box *box, bool on, struct err *err)
{
	(void)rt;
	(void)box;
	(void)on;
	if (fake.freeze_result < 0)
		return err_set(err, ERR_INTERNAL, "X", -fake.freeze_result, "no ice");
	fake.freezes++;
	return 0;
}

static void fake_destroy(struct runtime *rt, struct runtime_box *box, bool force)
{
	(void)rt;
	(void)box;
	fake.destroyed++;
	fake.forced += force;
}

static int fake_leftovers(struct runtime *rt, const struct runtime_finder *finder)
{
	(void)rt;
	if (fake.leftover)
		finder->sandbox(finder->arg, &fake.found);
	return 0;
}

static const struct runtime_ops fake_ops = {
	.name = "fake",
	.probe = fake_probe,
	.create = fake_create,
	.adopt = fake_adopt,
	.freeze = fake_freeze,
	.destroy = fake_destroy,
	.leftovers = fake_leftovers,
};

/* The agent's part: answers whoever connects, at once; closing would cut off what the other still sends. */
static void on_connection(struct loop_io *io, uint32_t events)
{
	static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC);

	(void)events;
	assert_true(fd >= 0 && fake.answered < BOXES_MAX);
	fake.answers[fake.answered++] = fd;
	assert_int_equal(write(fd, ok, strlen(ok)), strlen(ok));
}

static void agent_up(void)
{
	assert_int_equal(loop_io_add(loop, &fake.io, fake.listen_fd, EPOLLIN, on_connection), 0);
}

/* ---- the house around it ------------------------------------------------------ */

static void new_sandboxes(void)
{
	struct sandboxes_env env = {.loop = loop, .store = store, .runtime = &fake.rt, .config = &config};
	assert_int_equal(sandboxes_new(&env, &all), 0);
}

static void remove_files(void)
{
	static const char *const ends[] = {"", "-wal", "-shm"};
	char file[80];
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		(void)snprintf(file, sizeof(file), "%s%s", path, ends[i]);
		(void)unlink(file);
	}
}

static int set_up(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct err err;

	(void)state;
	log_max = LOG_ERROR;
	(void)snprintf(path, sizeof(path), "/tmp/test_sandbox.%d.db", getpid());
	remove_files();
	memset(&fake, 0, sizeof(fake));
	fake.rt.ops = &fake_ops;
	fake.io.fd = -EBADF;
	fake.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(fake.listen_fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fake.listen_fd, 8) < 0)
		return -1;
	if (config_init(&config) < 0 || loop_new(&loop) < 0 || store_open(path, &store, &err) < 0)
		return -1;
	new_sandboxes();
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	loop_io_del(&fake.io);
	sandboxes_free(all);
	store_close(store);
	loop_free(loop);
	config_done(&config);
	while (fake.answered > 0)
		(void)close(fake.answers[--fake.answered]);
	(void)close(fake.listen_fd);
	remove_files();
	return 0;
}

/* ---- what tests say -------------------------------------------------------------- */

static void create(char id[RANDOM_UUID_MAX], uint64_t timeout_s)
{
	struct err err;
	json_t *entrypoint = json_pack("[s]", "sh"), *metadata = json_pack("{s:s}", "k", "v");
	struct sandbox_spec spec = {
		.image = "python:3.11",
		.entrypoint = entrypoint,
		.metadata = metadata,
		.timeout_s = timeout_s,
		.runtime = {.image.uri = "python:3.11", .entrypoint = entrypoint},
		.notes = "",
	};
	int r = sandboxes_create(all, &spec, id, &err);
	json_decref(entrypoint);
	json_decref(metadata);
	assert_int_equal(r, 0);
}

struct look {
	enum sandbox_state state;
	char reason[64], message[512];
	uint64_t deadline_ms, expires_ms, transition_ms;
};

static int fill(const struct record *row, void *arg)
{
	struct look *l = arg;
	l->state = row->state;
	l->deadline_ms = row->deadline_ms;
	l->expires_ms = row->expires_ms;
	l->transition_ms = row->transition_ms;
	(void)snprintf(l->reason, sizeof(l->reason), "%s", row->reason);
	(void)snprintf(l->message, sizeof(l->message), "%s", row->message);
	return 0;
}

static struct look look(const char *id)
{
	struct look l;
	struct err err;
	assert_int_equal(store_get(store, id, fill, &l, &err), 0);
	return l;
}

static void is(const char *id, enum sandbox_state state, const char *reason)
{
	struct look l = look(id);
	assert_string_equal(sandbox_state_name(l.state), sandbox_state_name(state));
	assert_string_equal(l.reason, reason);
}

/* Runs the loop until `id` is in that state; the test's own time limit ends a hang. */
static struct watch {
	struct loop_prepare hook;
	const char *id;
	enum sandbox_state state;
} watch;

static int on_prepare(struct loop_prepare *p)
{
	(void)p;
	if (look(watch.id).state == watch.state)
		loop_stop(loop, 0);
	return -1;
}

static void run_until(const char *id, enum sandbox_state state)
{
	watch.id = id;
	watch.state = state;
	loop_prepare_add(loop, &watch.hook, on_prepare);
	assert_int_equal(loop_run(loop), 0);
	loop_prepare_del(&watch.hook);
}

static struct runtime_box *box(size_t i)
{
	assert_true(i < fake.created);
	return fake.boxes[i];
}

static void started(size_t i)
{
	box(i)->events->started(box(i), "12 34 boot", "");
}

static void destroyed(size_t i)
{
	box(i)->events->destroyed(box(i));
}

static void running(char id[RANDOM_UUID_MAX], uint64_t timeout_s)
{
	size_t i = fake.created;
	create(id, timeout_s);
	if (fake.io.fd < 0)
		agent_up();
	started(i);
	run_until(id, SANDBOX_RUNNING);
}

/* ---- tests --------------------------------------------------------------------------- */

/* Started is not enough, and neither is an answer alone. */
static void test_running_needs_both(void **state)
{
	char id[RANDOM_UUID_MAX];

	(void)state;
	create(id, 600);
	is(id, SANDBOX_PENDING, "provisioning");
	started(0);
	is(id, SANDBOX_PENDING, "provisioning");
	agent_up();
	run_until(id, SANDBOX_RUNNING);
	struct look l = look(id);
	assert_int_equal(l.deadline_ms, l.expires_ms);
	assert_string_equal(l.message, "Sandbox is running.");
}

static void test_pause(void **state)
{
	char id[RANDOM_UUID_MAX];
	struct err err, why = {.message = "too warm"};

	(void)state;
	running(id, 600);
	assert_int_equal(sandboxes_resume(all, id, &err), -ESTALE);
	assert_int_equal(sandboxes_pause(all, id, &err), 0);
	is(id, SANDBOX_PAUSING, "user_pause");
	assert_int_equal(sandboxes_pause(all, id, &err), -ESTALE);
	box(0)->events->frozen(box(0), true, &why);
	is(id, SANDBOX_RUNNING, "pause_failed");
	assert_string_equal(look(id).message, "too warm");
	assert_int_equal(sandboxes_pause(all, id, &err), 0);
	box(0)->events->frozen(box(0), true, NULL);
	is(id, SANDBOX_PAUSED, "paused");
	assert_int_equal(look(id).deadline_ms, look(id).expires_ms);
	assert_int_equal(sandboxes_resume(all, id, &err), 0);
	is(id, SANDBOX_RESUMING, "user_resume");
	box(0)->events->frozen(box(0), false, &why);
	is(id, SANDBOX_PAUSED, "resume_failed");
	fake.freeze_result = -EAGAIN;
	assert_int_equal(sandboxes_resume(all, id, &err), -EAGAIN);
	is(id, SANDBOX_PAUSED, "runtime_error");
	assert_int_equal(sandboxes_delete(all, id, &err), 0);
	is(id, SANDBOX_STOPPING, "user_delete");
	assert_int_equal(sandboxes_pause(all, "no-such", &err), -ENOENT);
}

/* What a predecessor had begun is done again. */
static void test_recover_pausing(void **state)
{
	char id[RANDOM_UUID_MAX];
	struct err err;

	(void)state;
	running(id, 600);
	assert_int_equal(sandboxes_pause(all, id, &err), 0);
	sandboxes_free(all);
	new_sandboxes();
	assert_int_equal(sandboxes_recover(all, &err), 0);
	assert_int_equal(fake.freezes, 2);
	size_t last = fake.created - 1;
	box(last)->events->frozen(box(last), true, NULL);
	is(id, SANDBOX_PAUSED, "paused");
}

static void test_delete(void **state)
{
	char id[RANDOM_UUID_MAX];
	struct err err;

	(void)state;
	running(id, 600);
	assert_int_equal(sandboxes_delete(all, id, &err), 0);
	is(id, SANDBOX_STOPPING, "user_delete");
	assert_int_equal(fake.destroyed, 1);
	assert_int_equal(sandboxes_delete(all, id, &err), 0); /* again: nothing more happens */
	assert_int_equal(fake.destroyed, 1);
	destroyed(0);
	is(id, SANDBOX_TERMINATED, "user_delete");
	assert_int_equal(sandboxes_delete(all, id, &err), 0); /* and once more, of the tombstone */
	is(id, SANDBOX_TERMINATED, "user_delete");
	assert_int_equal(sandboxes_delete(all, "no-such", &err), -ENOENT);
}

static void test_delete_pending(void **state)
{
	char id[RANDOM_UUID_MAX];
	struct err err;

	(void)state;
	create(id, 0);
	assert_int_equal(sandboxes_delete(all, id, &err), 0);
	is(id, SANDBOX_STOPPING, "user_delete");
	started(0); /* the driver was just about to say so */
	is(id, SANDBOX_STOPPING, "user_delete");
	destroyed(0);
	is(id, SANDBOX_TERMINATED, "user_delete");
}

/* A step that takes minutes is told, and has a deadline of its own. */
static void test_progress(void **state)
{
	const uint64_t soon_ms = 2000 * 1000;
	char id[RANDOM_UUID_MAX];
	struct err err;

	(void)state;
	create(id, 600);
	box(0)->events->progress(box(0), "image_pulling", "The image is being pulled.", 3000);
	is(id, SANDBOX_PENDING, "image_pulling");
	assert_true(look(id).deadline_ms > clock_real_ms() + soon_ms);
	box(0)->events->progress(box(0), "provisioning", "Sandbox is being created.", 0);
	is(id, SANDBOX_PENDING, "provisioning");
	assert_true(look(id).deadline_ms < clock_real_ms() + soon_ms);
	assert_int_equal(sandboxes_delete(all, id, &err), 0);
	box(0)->events->progress(box(0), "image_pulling", "The image is being pulled.", 3000);
	is(id, SANDBOX_STOPPING, "user_delete");
}

static void test_start_fails(void **state)
{
	char id[RANDOM_UUID_MAX];
	struct err err, why = {.message = "crun says no"};

	(void)state;
	create(id, 0);
	box(0)->events->failed(box(0), &why);
	is(id, SANDBOX_FAILED, "runtime_error");
	assert_string_equal(look(id).message, "crun says no");
	assert_int_equal(fake.destroyed, 1);
	/* deleted while its remains are still being removed */
	assert_int_equal(sandboxes_delete(all, id, &err), 0);
	is(id, SANDBOX_STOPPING, "user_delete");
	assert_int_equal(sandboxes_delete(all, id, &err), 0);
	destroyed(0);
	is(id, SANDBOX_TERMINATED, "user_delete");
}

/* ... or afterwards */
static void test_delete_failed(void **state)
{
	char id[RANDOM_UUID_MAX];
	struct err err, why = {.message = "crun says no"};

	(void)state;
	create(id, 0);
	box(0)->events->failed(box(0), &why);
	destroyed(0);
	is(id, SANDBOX_FAILED, "runtime_error");
	assert_int_equal(sandboxes_delete(all, id, &err), 0);
	is(id, SANDBOX_TERMINATED, "user_delete");
}

/* An entrypoint that is done: code 0 is no failure, whether it was seen to run or not. */
static void test_entrypoint_done(void **state)
{
	char id[RANDOM_UUID_MAX];
	const struct runtime_exit e = {.known = true, .wstatus = 0};

	(void)state;
	running(id, 600);
	create(id, 0);
	for (size_t i = 0; i < 2; i++)
		box(i)->events->exited(box(i), &e);
	is(id, SANDBOX_STOPPING, "container_exited");
	destroyed(0);
	destroyed(1);
	is(id, SANDBOX_TERMINATED, "container_exited");
}

static void ends(const struct runtime_exit *e, enum sandbox_state state, const char *reason)
{
	char id[RANDOM_UUID_MAX];
	size_t i = fake.created;

	running(id, 600);
	box(i)->events->exited(box(i), e);
	is(id, state, reason);
	destroyed(i);
	is(id, state, reason); /* the end stays what it was */
}

static void test_ends_by_itself(void **state)
{
	(void)state;
	ends(&(struct runtime_exit){.known = true, .wstatus = 3 << 8}, SANDBOX_FAILED, "container_exited");
	ends(&(struct runtime_exit){.known = true, .wstatus = 9}, SANDBOX_FAILED, "container_killed");
	ends(&(struct runtime_exit){.known = true, .wstatus = 9, .oom = true}, SANDBOX_FAILED,
	     "out_of_memory");
	ends(&(struct runtime_exit){.known = false}, SANDBOX_FAILED, "container_lost");
}

/* Before it has answered. */
static void test_ends_while_pending(void **state)
{
	char id[RANDOM_UUID_MAX];
	const struct runtime_exit e = {.known = true, .wstatus = 1 << 8, .detail = "no such file"};

	(void)state;
	create(id, 0);
	started(0);
	box(0)->events->exited(box(0), &e);
	is(id, SANDBOX_FAILED, "start_failed");
	assert_non_null(strstr(look(id).message, "no such file"));
}

static void test_expiry(void **state)
{
	char id[RANDOM_UUID_MAX];
	struct err err;

	(void)state;
	running(id, 600);
	assert_int_equal(sandboxes_renew(all, id, clock_real_ms() + 1, &err), 0);
	run_until(id, SANDBOX_STOPPING);
	is(id, SANDBOX_STOPPING, "ttl_expiry");
	assert_int_equal(fake.destroyed, 1);
	/* too late */
	assert_int_equal(sandboxes_renew(all, id, clock_real_ms() + 60000, &err), -ESTALE);
	assert_int_equal(err.kind, ERR_CONFLICT);
	destroyed(0);
	is(id, SANDBOX_TERMINATED, "ttl_expiry");
}

static void test_renew(void **state)
{
	char id[RANDOM_UUID_MAX], endless[RANDOM_UUID_MAX];
	struct err err;
	uint64_t far = clock_real_ms() + 3600000;

	(void)state;
	running(id, 60);
	create(endless, 0);
	assert_int_equal(sandboxes_renew(all, id, far, &err), 0);
	assert_int_equal(look(id).deadline_ms, far);
	assert_int_equal(sandboxes_renew(all, endless, far, &err), -ESTALE);
	assert_string_equal(err.code, "DOCKER::INVALID_EXPIRATION");
	assert_int_equal(sandboxes_renew(all, "no-such", far, &err), -ENOENT);
}

static void test_provision_timeout(void **state)
{
	char id[RANDOM_UUID_MAX];

	(void)state;
	config.provision_max_s = 0;
	create(id, 0);
	run_until(id, SANDBOX_FAILED);
	is(id, SANDBOX_FAILED, "provision_timeout");
	assert_non_null(strstr(look(id).message, "did not start"));
	assert_int_equal(fake.forced, 1);
	/* told apart from one whose agent says nothing */
	create(id, 0);
	started(1);
	run_until(id, SANDBOX_FAILED);
	is(id, SANDBOX_FAILED, "provision_timeout");
	assert_non_null(strstr(look(id).message, "did not answer"));
}

/* A stop that does not end is forced, and the reason of the stop stays. */
static void test_stop_forced(void **state)
{
	char id[RANDOM_UUID_MAX], other[RANDOM_UUID_MAX];
	struct err err;

	(void)state;
	running(id, 0);
	config.stop_max_s = 0;
	assert_int_equal(sandboxes_delete(all, id, &err), 0);
	config.stop_max_s = 3600; /* of the next deadline */
	config.provision_max_s = 0;
	create(other, 0);
	run_until(other, SANDBOX_FAILED);
	assert_int_equal(fake.forced, 2); /* this one, and the other that did not start */
	is(id, SANDBOX_STOPPING, "user_delete");
	assert_true(look(id).deadline_ms > clock_real_ms() + 1000000);
}

static void test_tombstone_goes(void **state)
{
	char id[RANDOM_UUID_MAX], other[RANDOM_UUID_MAX];
	struct err err;
	struct look l;

	(void)state;
	running(id, 0);
	running(other, 0);
	config.tombstone_s = 0;
	assert_int_equal(sandboxes_delete(all, id, &err), 0);
	destroyed(0);
	is(id, SANDBOX_TERMINATED, "user_delete");
	config.tombstone_s = 100;
	assert_int_equal(sandboxes_renew(all, other, clock_real_ms() + 1, &err), -ESTALE);
	assert_int_equal(sandboxes_delete(all, other, &err), 0);
	config.provision_max_s = 0;
	create(other, 0);
	run_until(other, SANDBOX_FAILED);
	assert_int_equal(store_get(store, id, fill, &l, &err), -ENOENT);
	assert_int_equal(sandboxes_delete(all, id, &err), -ENOENT);
}

static void refused(enum err_kind kind, const char *words)
{
	char id[RANDOM_UUID_MAX];
	struct err err;
	struct sandbox_spec spec = {.image = "x", .entrypoint = json_array(), .notes = ""};
	uint64_t n;

	spec.runtime = (struct runtime_spec){.image.uri = "python:3.11", .entrypoint = spec.entrypoint};
	assert_true(sandboxes_create(all, &spec, id, &err) < 0);
	json_decref(spec.entrypoint);
	assert_int_equal(err.kind, kind);
	assert_non_null(strstr(err.message, words));
	assert_int_equal(store_count(store, STATES_ALL, &n, &err), 0);
	assert_int_equal(n, 0);
}

static void test_refusals(void **state)
{
	(void)state;
	fake.create_result = -EIO;
	refused(ERR_INTERNAL, "no");
	config.sandboxes_max = 0;
	refused(ERR_LIMIT, "limit");
	config.sandboxes_max = 10;
	struct err why;
	(void)err_set(&why, ERR_UNAVAILABLE, "X", ENOENT, "apt-get install crun");
	sandboxes_refuse(all, &why);
	refused(ERR_UNAVAILABLE, "apt-get install crun");
	assert_int_equal(fake.probes, 0);
}

/* Only what a person can change without us, and changes often: room on the disk. */
static void test_room_again(void **state)
{
	char id[RANDOM_UUID_MAX];
	struct err why;

	(void)state;
	(void)err_sys(&why, "X", ENOSPC, "make 'roots'");
	sandboxes_refuse(all, &why);
	fake.probe_result = -ENOSPC;
	refused(ERR_STORAGE, "o space left");
	assert_int_equal(fake.probes, 1);
	fake.probe_result = 0;
	create(id, 600);
	create(id, 600);
	assert_int_equal(fake.probes, 2);

	sandboxes_refuse(all, &why);
	fake.probe_result = -EPERM; /* of another kind now: it is not tried again */
	struct sandbox_spec spec = {.image = "x", .entrypoint = json_array(), .notes = ""};
	for (int i = 0; i < 2; i++) {
		assert_true(sandboxes_create(all, &spec, id, &why) < 0);
		assert_int_equal(why.kind, ERR_UNAVAILABLE);
		assert_int_equal(fake.probes, 3);
	}
	json_decref(spec.entrypoint);
}

/* What the store takes back, with its answer, has not been: neither a container nor a wrong state is left. */
static void test_undone(void **state)
{
	char kept[RANDOM_UUID_MAX], lost[RANDOM_UUID_MAX];
	struct err err;

	(void)state;
	running(kept, 600);
	assert_int_equal(store_begin(store, &err), 0);
	create(lost, 600);
	assert_int_equal(store_end(store, -EIO, &err), -EIO);
	assert_int_equal(fake.destroyed, 0);
	sandboxes_undone(all);
	assert_int_equal(fake.destroyed, 1);
	sandboxes_undone(all); /* once */
	assert_int_equal(fake.destroyed, 1);
	destroyed(1);
	assert_int_equal(sandboxes_delete(all, lost, &err), -ENOENT);
	is(kept, SANDBOX_RUNNING, "running");

	/* a pause that the store forgot is one all the same */
	assert_int_equal(store_begin(store, &err), 0);
	assert_int_equal(sandboxes_pause(all, kept, &err), 0);
	assert_int_equal(store_end(store, -EIO, &err), -EIO);
	sandboxes_undone(all);
	is(kept, SANDBOX_RUNNING, "running");
	box(0)->events->frozen(box(0), true, NULL);
	is(kept, SANDBOX_PAUSED, "paused");
	assert_int_equal(store_begin(store, &err), 0);
	assert_int_equal(sandboxes_resume(all, kept, &err), 0);
	assert_int_equal(store_end(store, -EIO, &err), -EIO);
	box(0)->events->frozen(box(0), false, NULL);
	is(kept, SANDBOX_RUNNING, "running");
}

/* The process is gone at any state; the next one finds the rows. */
static void test_recovery(void **state)
{
	char pending[RANDOM_UUID_MAX], runs[RANDOM_UUID_MAX], stops[RANDOM_UUID_MAX];
	struct err err;

	(void)state;
	running(runs, 600);
	running(stops, 600);
	create(pending, 600);
	assert_int_equal(sandboxes_delete(all, stops, &err), 0);
	sandboxes_free(all);

	fake.created = fake.destroyed = 0;
	fake.leftover = fake.found.id = "stranger";
	new_sandboxes();
	assert_int_equal(sandboxes_recover(all, &err), 0);
	is(runs, SANDBOX_RUNNING, "running");
	assert_string_equal(fake.adopted, "12 34 boot");
	is(pending, SANDBOX_FAILED, "interrupted");
	is(stops, SANDBOX_STOPPING, "user_delete");
	assert_int_equal(fake.destroyed, 3); /* pending, stops and the stranger */
}

static void test_recovery_of_the_lost(void **state)
{
	char id[RANDOM_UUID_MAX];
	struct err err;

	(void)state;
	running(id, 600);
	sandboxes_free(all);
	fake.adopt_result = -ESRCH;
	new_sandboxes();
	assert_int_equal(sandboxes_recover(all, &err), 0);
	is(id, SANDBOX_FAILED, "container_lost");
}

static void on_drained(void *arg)
{
	*(bool *)arg = true;
	loop_stop(loop, 0);
}

static void test_drain(void **state)
{
	char runs[RANDOM_UUID_MAX], pending[RANDOM_UUID_MAX];
	bool drained = false;

	(void)state;
	running(runs, 600);
	create(pending, 600);
	sandboxes_drain(all, false, on_drained, &drained);
	assert_false(drained);
	started(1);
	assert_int_equal(loop_run(loop), 0);
	assert_true(drained);
	is(runs, SANDBOX_RUNNING, "running");
	is(pending, SANDBOX_RUNNING, "running");
	assert_int_equal(fake.destroyed, 0);
}

static void test_drain_kills(void **state)
{
	char runs[RANDOM_UUID_MAX], pending[RANDOM_UUID_MAX];
	bool drained = false;

	(void)state;
	running(runs, 600);
	create(pending, 600);
	sandboxes_drain(all, true, on_drained, &drained);
	is(runs, SANDBOX_STOPPING, "shutdown");
	is(pending, SANDBOX_STOPPING, "shutdown");
	destroyed(0);
	destroyed(1);
	assert_int_equal(loop_run(loop), 0);
	assert_true(drained);
	is(runs, SANDBOX_TERMINATED, "shutdown");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_delete_failed),
		TEST(test_pause),
		TEST(test_recover_pausing),
		TEST(test_entrypoint_done),
		TEST(test_running_needs_both),
		TEST(test_delete),
		TEST(test_delete_pending),
		TEST(test_progress),
		TEST(test_start_fails),
		TEST(test_ends_by_itself),
		TEST(test_ends_while_pending),
		TEST(test_expiry),
		TEST(test_renew),
		TEST(test_provision_timeout),
		TEST(test_stop_forced),
		TEST(test_tombstone_goes),
		TEST(test_refusals),
		TEST(test_room_again),
		TEST(test_undone),
		TEST(test_recovery),
		TEST(test_recovery_of_the_lost),
		TEST(test_drain),
		TEST(test_drain_kills),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
