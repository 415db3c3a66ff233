/*
 * What sandboxd reads back of its own and of others: rows, records and handles after a start, what a CNI
 * plugin has said, what a container has said. Whatever stands there, the start is made, each sandbox is shown
 * and can be ended, and what is shown is text.
 *
 * The first byte says which; the parts of the rest are parted by a line "%%".
 *
 *   r  rows, a line each: state, handle, image, entrypoint, platform, timing, snapshot, volumes, metadata,
 *      parted by tabs; then what is found, a line each: id, handle, port, record; then snapshots: id, of,
 * record n  network.json, network, bridge.json l  the output of a container h  a handle, the stat of its
 * process, the id of the boot
 */
#include <jansson.h>
#include <signal.h>

#include "lib/utf8.h"
#include "proto/json.h"
#include "sandboxd/api/lifecycle.h"
#include "sandboxd/oci/enter_step.h"
#include "sandboxd/oci/handle.h"
#include "sandboxd/oci/network.h"
#include "sandboxd/oci/output.h"
#include "sandboxd/store_priv.h"
#include "tests/fuzz/drive.h"
#include "tests/fuzz/driver.h"
#include "tests/fuzz/jail.h"
#include "tests/fuzz/parts.h"

#define COLUMNS	     9
#define ROWS_MAX     16
#define ANSWER_TURNS 4

static struct drive drive;
static struct config config;
static struct lifecycle lifecycle;
static struct part found, snapshots;

static void control_new(void)
{
	const struct http_config http = {.routes = lifecycle_routes, .app = &lifecycle, .prefix = "/v1"};

	(void)signal(SIGPIPE, SIG_IGN);
	must(config_init(&config) == 0);
	config.tombstone_s = 1;
	fake.rt.ops = &fake_ops;
	drive_new(&drive, &http);
	fake.loop = drive.loop;
	must(pool_new(drive.loop, 1, 16, &lifecycle.pool) == 0);
	lifecycle.config = &config;
	lifecycle.loop = drive.loop;
}

/* ---- rows ------------------------------------------------------------------------- */

/* One line, cut at its tabs; what is not there is NULL. Freed with the first. */
static size_t cut(struct part *rest, char *columns[COLUMNS])
{
	const uint8_t *lf = rest->n > 0 ? memchr(rest->data, '\n', rest->n) : NULL;
	size_t n = lf ? (size_t)(lf - rest->data) : rest->n, count = 0;
	char *text = fuzz_copy(rest->data, n);

	memset(columns, 0, COLUMNS * sizeof(*columns));
	for (char *at = text; at && count < COLUMNS; count++) {
		char *column = strsep(&at, "\t");

		columns[count] = *column || count == 0 ? column : NULL;
	}
	rest->data += n + (lf != NULL);
	rest->n -= n + (lf != NULL);
	return count;
}

/* Only JSON is ever written there. */
static char *of_kind(char *text, char kind)
{
	json_t *value = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
	bool is = kind == '[' ? json_is_array(value) : json_is_object(value);

	json_decref(value);
	return is ? text : NULL;
}

static void put_rows(struct store *store, struct part rest)
{
	char *c[COLUMNS], id[RANDOM_UUID_MAX];
	struct err err;

	for (unsigned i = 0; rest.n > 0 && i < ROWS_MAX; i++) {
		(void)cut(&rest, c);
		(void)snprintf(id, sizeof(id), "%08x-0000-4000-8000-000000000000", i);
		const struct record row = {
			.id = id,
			.state = (enum sandbox_state)(c[0][0] % SANDBOX_STATES + SANDBOX_STATES) %
				 SANDBOX_STATES,
			.reason = "r",
			.message = "m",
			.created_ms = 1,
			.transition_ms = 1,
			.expires_ms = c[0][0] ? (uint64_t)c[0][1] << 40 : 0,
			.image = c[2] ? c[2] : "",
			.entrypoint = of_kind(c[3], '[') ? c[3] : "[]",
			.metadata = of_kind(c[8], '{'),
			.platform = of_kind(c[4], '{'),
			.runtime = "fake",
			.handle = c[1],
			.port = fake.port,
			.snapshot = c[6],
			.volumes = of_kind(c[7], '['),
		};
		if (store_insert(store, &row, &err) == 0 && of_kind(c[5], '{'))
			(void)store_run(store, ST_TIMING, "tt", id, c[5]);
		free(c[0]);
	}
}

static void tell(const struct runtime_finder *finder)
{
	char *c[COLUMNS];

	for (unsigned i = 0; found.n > 0 && i < ROWS_MAX; i++) {
		(void)cut(&found, c);
		const struct runtime_found it = {.id = c[0],
						 .handle = c[1],
						 .port = c[2] ? (uint16_t)c[2][0] : 0,
						 .paused = c[2] && c[2][0] == 'p',
						 .record = c[3]};
		if (*c[0] && strlen(c[0]) < RUNTIME_ID_MAX)
			finder->sandbox(finder->arg, &it);
		free(c[0]);
	}
	for (unsigned i = 0; snapshots.n > 0 && i < ROWS_MAX; i++) {
		(void)cut(&snapshots, c);
		const struct runtime_found it = {.id = c[0], .of = c[1], .record = c[2]};

		if (*c[0] && strlen(c[0]) < RUNTIME_ID_MAX)
			finder->snapshot(finder->arg, &it);
		free(c[0]);
	}
}

/* What is answered is JSON, whatever the row holds. */
static json_t *get(const char *path)
{
	_cleanup_buf_ struct buf request = BUF_INIT(4096), out = BUF_INIT(FUZZ_OUT_MAX);
	const uint8_t *body;
	json_t *answer = NULL;
	struct err err;

	(void)buf_printf(&request, "GET /v1/%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", path);
	drive_ask(&drive, &request, 0, ANSWER_TURNS, &out);
	must(out.len > 12 && memcmp(out.data, "HTTP/1.1 ", 9) == 0);
	body = memmem(out.data, out.len, "\r\n\r\n", 4);
	must(body && json_parse(body + 4, out.len - (size_t)(body + 4 - out.data), &answer, &err) == 0);
	return answer;
}

static void show_all(const char *what)
{
	char path[128];
	json_t *all, *one;
	size_t i;

	(void)snprintf(path, sizeof(path), "%s?pageSize=200", what);
	all = get(path);
	json_array_foreach(json_object_get(all, "items"), i, one)
	{
		const char *id = json_string_value(json_object_get(one, "id"));

		must(id);
		if (strspn(id, "0123456789abcdef-") != strlen(id))
			continue;
		(void)snprintf(path, sizeof(path), "%s/%.64s", what, id);
		json_decref(get(path));
	}
	json_decref(all);
}

static bool is_due(void)
{
	return fake.due_n > 0;
}

static void recover(const struct part *parts, size_t n)
{
	struct sandboxes_env env = {.loop = drive.loop, .runtime = &fake.rt, .config = &config};
	int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct err err;

	/* In memory; but room is made for a file of that name. */
	must(chdir("/w") == 0 && store_open(":memory:", &env.store, &err) == 0);
	must(fchdir(here) == 0 && close(here) == 0);
	put_rows(env.store, parts[0]);
	found = n > 1 ? parts[1] : (struct part){0};
	snapshots = n > 2 ? parts[2] : (struct part){0};
	fake.tell = tell;
	fake.n = fake.due_n = 0;
	must(sandboxes_new(&env, &lifecycle.sandboxes) == 0);
	if (sandboxes_recover(lifecycle.sandboxes, &err) < 0)
		must_be_told(&err);
	show_all("sandboxes");
	show_all("snapshots");
	for (size_t i = fake.n; i > 0; i--)
		(void)sandboxes_delete(lifecycle.sandboxes, fake.boxes[i - 1]->id, &err);
	drive_gone(&drive, is_due);
	sandboxes_free(lifecycle.sandboxes);
	drive_turns(&drive, 2);
	store_close(env.store);
}

/* ---- files ------------------------------------------------------------------------- */

static void must_be_a_line(const char *text, size_t size)
{
	_cleanup_buf_ struct buf clean = BUF_INIT(65536);
	size_t n = strlen(text);

	must(n < size && utf8_sanitize(&clean, text, n) == 0);
	must(clean.len == n && (n == 0 || memcmp(clean.data, text, n) == 0));
	for (; *text; text++)
		must((unsigned char)*text >= ' ');
}

static void last_line(const struct part *parts, size_t n)
{
	char text[512];

	put("/w/container.log", parts, n, 0);
	for (size_t size = 8; size <= sizeof(text); size *= 8) {
		output_last_line("/w/container.log", text, size);
		must_be_a_line(text, size);
	}
}

static void network(const struct part *parts, size_t n)
{
	_cleanup_buf_ struct buf out = BUF_INIT(FUZZ_OUT_MAX);
	int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

	put("/w/network.json", parts, n, 0);
	put("/w/network", parts, n, 1);
	put("/w/bridge.json", parts, n, 2);
	if (network_describe("/w", &out) == 0)
		must(out.len > 0);
	/* There is no plugin, and no interface; what is said of that goes nowhere. */
	must(chdir("/w") == 0);
	enter_network_del("/w/bridge.json");
	must(fchdir(here) == 0 && close(here) == 0);
}

static void handle(const struct part *parts, size_t n)
{
	char text[RUNTIME_HANDLE_MAX];
	pid_t pid = 0;
	int fd;

	put("/proc/1/stat", parts, n, 1);
	put("/proc/sys/kernel/random/boot_id", parts, n, 2);
	(void)snprintf(text, sizeof(text), "%.*s", (int)MIN(parts[0].n, sizeof(text) - 1),
		       (const char *)parts[0].data);
	fd = handle_open(text, &pid);
	must(fd < 0 || pid > 0);
	fd_close(&fd);
	handle_write(1, text);
	must(memchr(text, '\0', sizeof(text)));
	fd = handle_open(text, &pid);
	must(fd < 0 || pid == 1);
	fd_close(&fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct part parts[PARTS_MAX];
	size_t parts_n;

	if (n == 0 || !jail())
		return 0;
	if (!drive.loop) {
		must(fs_mkdir_p("/proc/1", 0755) == 0 && fs_mkdir_p("/proc/sys/kernel/random", 0755) == 0);
		control_new();
	}
	parts_n = part_them(data + 1, n - 1, parts);
	switch (data[0]) {
	case 'r':
		recover(parts, parts_n);
		break;
	case 'n':
		network(parts, parts_n);
		break;
	case 'l':
		last_line(parts, parts_n);
		break;
	case 'h':
		handle(parts, parts_n);
		break;
	default:
		break;
	}
	return 0;
}
