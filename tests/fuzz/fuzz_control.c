/*
 * Requests to the control plane as it is, over a driver without containers: whatever comes is answered or
 * refused, no answer is a fault of the server, and nothing stays open once the client has gone.
 *
 * The first byte decides how the rest is cut. "@" in it stands for the id of the sandbox made last.
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/ioctl.h>

#include "sandboxd/api/lifecycle.h"
#include "tests/fuzz/drive.h"
#include "tests/fuzz/driver.h"
#include "tests/fuzz/jail.h"

#define ANSWER_TURNS 20 /* of a millisecond at most */

static struct drive drive;
static struct config config;
static struct lifecycle lifecycle;

/* ---- the agents: one for all ---- */

static int agent_any(struct http_req *req, struct err *err)
{
	(void)err;
	http_reply(req, 200, "text/plain", "pong", 4);
	return 0;
}

static void agents_new(void)
{
	static const struct http_route routes[] = {{"*", "/*", agent_any, HTTP_BODY_NONE, false},
						   {NULL, NULL, NULL, HTTP_BODY_NONE, false}};
	static const struct http_config agents = {.routes = routes};
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	static struct http_server *server;
	struct err err;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	must(fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &lo) == 0 && close(fd) == 0);
	must(http_server_new(drive.loop, &agents, &server, &err) == 0);
	must(http_bind("127.0.0.1", 0, &fd, &fake.port, &err) == 0);
	must(http_server_listen(server, fd, &err) == 0);
}

static void control_new(void)
{
	const struct http_config http = {.routes = lifecycle_routes,
					 .app = &lifecycle,
					 .authorize = lifecycle_authorize,
					 .prefix = "/v1",
					 .request_id = true,
					 .json_max = 65536};
	static struct sandboxes_env env = {.runtime = &fake.rt, .config = &config};
	struct err err;

	(void)signal(SIGPIPE, SIG_IGN);
	must(config_init(&config) == 0);
	config.sandboxes_max = 32;
	config.tombstone_s = 1;
	must((config.image_paths = calloc(2, sizeof(char *))) && (config.image_paths[0] = strdup("/srv")));
	must((config.allowed_host_paths = calloc(2, sizeof(char *))));
	must((config.allowed_host_paths[0] = strdup("/w")));
	fake.rt.ops = &fake_ops;
	drive_new(&drive, &http);
	fake.loop = drive.loop;
	must(pool_new(drive.loop, 2, 64, &lifecycle.pool) == 0);
	must(store_open("/tmp/db", &env.store, &err) == 0);
	env.loop = drive.loop;
	must(sandboxes_new(&env, &lifecycle.sandboxes) == 0);
	must(store_secret(env.store, "signing-key", lifecycle.sign_key, SIGN_KEY_DIGITS, &err) == 0);
	lifecycle.config = &config;
	lifecycle.loop = drive.loop;
	agents_new();
}

static bool is_due(void)
{
	return fake.due_n > 0;
}

static void must_be_no_fault(const struct buf *out)
{
	static const char *const faults[] = {"HTTP/1.1 500", "HTTP/1.1 502"};

	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		must(out->len < 12 || memcmp(out->data, faults[i], 12) != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf out = BUF_INIT(FUZZ_OUT_MAX), request = BUF_INIT(FUZZ_OUT_MAX),
				 named = BUF_INIT(FUZZ_OUT_MAX);
	struct err err;

	if (n == 0 || !jail())
		return 0;
	jail_begin();
	if (!drive.loop)
		control_new();
	for (size_t i = 1; i < n; i++) {
		if (data[i] == '@')
			(void)buf_puts(&named, fake.last_id);
		else
			(void)buf_append(&named, data + i, 1);
	}
	drive_fill_length(named.data, named.len, &request);
	drive_ask(&drive, &request, (size_t)data[0] * 16, ANSWER_TURNS, &out);
	must_be_no_fault(&out);
	/* One is left for the next input, so that it finds something. */
	for (size_t i = fake.n; i > 1; i--)
		(void)sandboxes_delete(lifecycle.sandboxes, fake.boxes[i - 2]->id, &err);
	drive_gone(&drive, is_due);
	jail_end();
	return 0;
}
