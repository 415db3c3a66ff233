/* The store: rows survive, move only from allowed states, and every deadline is found. */
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "sandboxd/store.h"

static char path[64];
static struct store *store;

static void remove_files(void)
{
	char other[80];
	(void)unlink(path);
	(void)snprintf(other, sizeof(other), "%s-wal", path);
	(void)unlink(other);
	(void)snprintf(other, sizeof(other), "%s-shm", path);
	(void)unlink(other);
}

static int set_up(void **state)
{
	struct err err;
	(void)state;
	(void)snprintf(path, sizeof(path), "/tmp/test_store.%d.db", getpid());
	remove_files();
	return store_open(path, &store, &err);
}

static int tear_down(void **state)
{
	(void)state;
	store_close(store);
	store = NULL;
	remove_files();
	return 0;
}

static struct record base(const char *id)
{
	return (struct record){
		.id = id,
		.state = SANDBOX_PENDING,
		.reason = "provisioning",
		.message = "m",
		.created_ms = 1000,
		.transition_ms = 1000,
		.expires_ms = 60000,
		.deadline_ms = 5000,
		.image = "python:3.11",
		.entrypoint = "[\"sh\"]",
		.metadata = "{\"a\":\"1\",\"team\":\"x y\"}",
		.runtime = "oci",
		.port = 4711,
	};
}

static void insert(const struct record *row)
{
	struct err err;
	assert_int_equal(store_insert(store, row, &err), 0);
}

static int move(const char *id, unsigned from, enum sandbox_state to, uint64_t deadline)
{
	struct transition t = {.from = from,
			       .to = to,
			       .reason = "r",
			       .message = "n",
			       .now_ms = 2000,
			       .deadline_ms = deadline};
	return store_move(store, id, &t, NULL);
}

static int check_base(const struct record *row, void *arg)
{
	assert_string_equal(row->id, arg);
	assert_int_equal(row->state, SANDBOX_PENDING);
	assert_string_equal(row->reason, "provisioning");
	assert_int_equal(row->expires_ms, 60000);
	assert_string_equal(row->image, "python:3.11");
	assert_string_equal(row->entrypoint, "[\"sh\"]");
	assert_string_equal(row->metadata, "{\"a\":\"1\",\"team\":\"x y\"}");
	assert_null(row->platform);
	assert_null(row->handle);
	assert_int_equal(row->port, 4711);
	return 42;
}

static void test_round_trip(void **state)
{
	struct err err;
	struct record row = base("one");

	(void)state;
	insert(&row);
	assert_int_equal(store_get(store, "one", check_base, "one", &err), 42);
	assert_int_equal(store_get(store, "two", check_base, "two", &err), -ENOENT);
	assert_int_equal(err.kind, ERR_NOT_FOUND);
	assert_string_equal(err.code, "DOCKER::SANDBOX_NOT_FOUND");
	assert_int_equal(store_insert(store, &row, &err), -EEXIST);
	/* the failed insert has left nothing of its transaction open */
	struct record other = base("two");
	insert(&other);
}

static void test_survives_reopening(void **state)
{
	struct err err;
	struct record row = base("one");

	(void)state;
	insert(&row);
	store_close(store);
	store = NULL;
	assert_int_equal(store_open(path, &store, &err), 0);
	assert_int_equal(store_get(store, "one", check_base, "one", &err), 42);
}

static int check_moved(const struct record *row, void *arg)
{
	const struct record *want = arg;
	assert_int_equal(row->state, want->state);
	assert_string_equal(row->reason, want->reason);
	assert_string_equal(row->message, want->message);
	assert_int_equal(row->transition_ms, want->transition_ms);
	assert_int_equal(row->deadline_ms, want->deadline_ms);
	assert_int_equal(row->expires_ms, want->expires_ms);
	if (want->handle)
		assert_string_equal(row->handle, want->handle);
	return 0;
}

static void is(const char *id, struct record want)
{
	struct err err;
	assert_int_equal(store_get(store, id, check_moved, &want, &err), 0);
}

static void test_move(void **state)
{
	struct record row = base("one");
	struct transition run = {.from = STATE_BIT(SANDBOX_PENDING),
				 .to = SANDBOX_RUNNING,
				 .reason = "running",
				 .message = "up",
				 .now_ms = 3000,
				 .until_expiry = true,
				 .handle = "77 1 b"};
	(void)state;
	insert(&row);
	assert_int_equal(store_move(store, "one", &run, NULL), 0);
	is("one", (struct record){.state = SANDBOX_RUNNING,
				  .reason = "running",
				  .message = "up",
				  .transition_ms = 3000,
				  .deadline_ms = 60000,
				  .expires_ms = 60000,
				  .handle = "77 1 b"});
	/* not from Pending any more, and nothing has changed */
	assert_int_equal(store_move(store, "one", &run, NULL), -ESTALE);
	assert_int_equal(move("none", STATES_ALL, SANDBOX_FAILED, 0), -ENOENT);

	/* without reason and message they stay, and so does the time when the state does */
	struct transition stop = {.from = STATES_LIVE,
				  .to = SANDBOX_STOPPING,
				  .reason = "why",
				  .message = "m",
				  .now_ms = 4000,
				  .deadline_ms = 9000};
	assert_int_equal(store_move(store, "one", &stop, NULL), 0);
	struct transition again = {
		.from = STATES_LIVE, .to = SANDBOX_STOPPING, .now_ms = 5000, .deadline_ms = 10000};
	assert_int_equal(store_move(store, "one", &again, NULL), 0);
	is("one", (struct record){.state = SANDBOX_STOPPING,
				  .reason = "why",
				  .message = "m",
				  .transition_ms = 4000,
				  .deadline_ms = 10000,
				  .expires_ms = 60000,
				  .handle = "77 1 b"});
}

static void test_expires(void **state)
{
	struct record row = base("one"), endless = base("two");
	struct err err;

	(void)state;
	endless.expires_ms = 0;
	insert(&row);
	insert(&endless);
	/* Pending: the deadline of the start stays */
	assert_int_equal(store_set_expires(store, "one", 70000, &err), 0);
	is("one", (struct record){.state = SANDBOX_PENDING,
				  .reason = "provisioning",
				  .message = "m",
				  .transition_ms = 1000,
				  .deadline_ms = 5000,
				  .expires_ms = 70000});
	assert_int_equal(move("one", STATES_ALL, SANDBOX_RUNNING, 70000), 0);
	assert_int_equal(store_set_expires(store, "one", 80000, &err), 0);
	is("one", (struct record){.state = SANDBOX_RUNNING,
				  .reason = "r",
				  .message = "n",
				  .transition_ms = 2000,
				  .deadline_ms = 80000,
				  .expires_ms = 80000});
	assert_int_equal(store_set_expires(store, "two", 70000, &err), -ESTALE);
	assert_int_equal(store_set_expires(store, "none", 70000, &err), -ENOENT);
	assert_int_equal(move("one", STATES_ALL, SANDBOX_STOPPING, 1), 0);
	assert_int_equal(store_set_expires(store, "one", 90000, &err), -ESTALE);
	assert_int_equal(err.kind, ERR_CONFLICT);
}

static void test_deadlines(void **state)
{
	struct record a = base("a"), b = base("b"), c = base("c");
	uint64_t next = 0;
	char id[64];
	enum sandbox_state s;

	(void)state;
	assert_int_equal(store_next_deadline(store, &next), -ENOENT);
	assert_int_equal(store_due(store, 1u << 30, id, &s), 0);
	a.deadline_ms = 300;
	b.deadline_ms = 200;
	c.deadline_ms = 0;
	insert(&a);
	insert(&b);
	insert(&c);
	assert_int_equal(store_next_deadline(store, &next), 0);
	assert_int_equal(next, 200);
	assert_int_equal(store_due(store, 199, id, &s), 0);
	assert_int_equal(store_due(store, 400, id, &s), 1);
	assert_string_equal(id, "b");
	assert_int_equal(s, SANDBOX_PENDING);
	assert_int_equal(store_forget(store, "b", NULL), 0);
	assert_int_equal(store_forget(store, "b", NULL), -ENOENT);
	assert_int_equal(store_next_deadline(store, &next), 0);
	assert_int_equal(next, 300);
}

struct seen {
	char ids[16][8];
	size_t n;
};

static int see(const struct record *row, void *arg)
{
	struct seen *seen = arg;
	assert_true(seen->n < 16);
	(void)snprintf(seen->ids[seen->n++], sizeof(seen->ids[0]), "%s", row->id);
	return 0;
}

static void test_list(void **state)
{
	const struct store_pair team = {"team", "red"}, both[] = {{"team", "red"}, {"n", "3"}};
	struct store_filter all = {.states = STATES_ALL};
	struct seen seen = {.n = 0};
	uint64_t total;
	struct err err;
	char id[8], metadata[64];

	(void)state;
	for (int i = 0; i < 10; i++) {
		(void)snprintf(id, sizeof(id), "s%d", i);
		(void)snprintf(metadata, sizeof(metadata), "{\"team\":\"%s\",\"n\":\"%d\"}",
			       i % 2 ? "red" : "blue", i);
		struct record row = base(id);
		row.created_ms = 1000 + (uint64_t)i;
		row.metadata = metadata;
		insert(&row);
	}
	assert_int_equal(move("s9", STATES_ALL, SANDBOX_FAILED, 0), 0);

	assert_int_equal(store_list(store, &all, 3, 4, see, &seen, &total, &err), 0);
	assert_int_equal(total, 10);
	assert_int_equal(seen.n, 4);
	assert_string_equal(seen.ids[0], "s6"); /* newest first */
	assert_string_equal(seen.ids[3], "s3");

	struct store_filter failed = {.states = STATE_BIT(SANDBOX_FAILED)};
	seen.n = 0;
	assert_int_equal(store_list(store, &failed, 0, 10, see, &seen, &total, &err), 0);
	assert_int_equal(total, 1);
	assert_string_equal(seen.ids[0], "s9");

	struct store_filter red = {.states = STATES_LIVE, .metadata = &team, .metadata_n = 1};
	assert_int_equal(store_list(store, &red, 0, 0, see, &seen, &total, &err), 0);
	assert_int_equal(total, 4);

	struct store_filter one = {.states = STATES_ALL, .metadata = both, .metadata_n = 2};
	seen.n = 0;
	assert_int_equal(store_list(store, &one, 0, 10, see, &seen, &total, &err), 0);
	assert_int_equal(seen.n, 1);
	assert_string_equal(seen.ids[0], "s3");

	assert_int_equal(store_list(store, &all, 100, 10, see, &seen, &total, &err), 0);
	assert_int_equal(total, 10);
	assert_int_equal(store_count(store, STATES_LIVE, &total, &err), 0);
	assert_int_equal(total, 9);
}

/* Values go in as values: nothing a client sends becomes part of a statement. */
static void test_hostile_values(void **state)
{
	const struct store_pair pair = {"k", "' OR 1=1 --"};
	struct store_filter f = {.states = STATES_ALL, .metadata = &pair, .metadata_n = 1};
	struct record row = base("x'); DROP TABLE sandboxes; --");
	struct seen seen = {.n = 0};
	uint64_t total;
	struct err err;

	(void)state;
	insert(&row);
	assert_int_equal(store_get(store, row.id, check_base, (void *)row.id, &err), 42);
	assert_int_equal(store_list(store, &f, 0, 10, see, &seen, &total, &err), 0);
	assert_int_equal(total, 0);
}

/* The log of changes does not grow without end: the thread moves it into the database. */
static void test_checkpoint(void **state)
{
	char id[16];
	uint64_t total;
	struct err err;
	struct stat st;
	sqlite3 *other;

	(void)state;
	/* Somebody else has it open: so closing ours is not the last, which would move the log itself. */
	assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "SELECT count(*) FROM sandboxes", NULL, NULL, NULL), SQLITE_OK);
	for (int i = 0; i < 3000; i++) {
		(void)snprintf(id, sizeof(id), "s%d", i);
		struct record row = base(id);
		insert(&row);
	}
	store_close(store);
	store = NULL;
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_size > 200 * 1024);
	assert_int_equal(store_open(path, &store, &err), 0);
	assert_int_equal(store_count(store, STATES_ALL, &total, &err), 0);
	assert_int_equal(total, 3000);
	assert_int_equal(sqlite3_close(other), SQLITE_OK);
}

static void test_newer_schema(void **state)
{
	struct err err;
	sqlite3 *db;

	(void)state;
	store_close(store);
	store = NULL;
	store = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	assert_true(store_open(path, &store, &err) < 0);
	assert_non_null(strstr(err.message, "newer"));
}

static void test_states(void **state)
{
	enum sandbox_state s;

	(void)state;
	for (unsigned i = 0; i < SANDBOX_STATES; i++) {
		assert_int_equal(sandbox_state_parse(sandbox_state_name(i), &s), 0);
		assert_int_equal(s, i);
	}
	assert_int_equal(sandbox_state_parse("running", &s), 0);
	assert_int_equal(sandbox_state_parse("Run", &s), -EINVAL);
	assert_int_equal(sandbox_state_parse("", &s), -EINVAL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_round_trip),	   TEST(test_survives_reopening), TEST(test_move),
		TEST(test_expires),	   TEST(test_deadlines),	  TEST(test_list),
		TEST(test_hostile_values), TEST(test_checkpoint),	  TEST(test_newer_schema),
		TEST(test_states),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
