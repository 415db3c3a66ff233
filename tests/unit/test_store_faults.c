/*
 * The store when its disk fails: what was acknowledged is there, what was refused is not, also for who opens
 * the files as a killed process leaves them; and it works again when the disk does.
 *
 * SQLite's system calls are replaced by its own table of them, those that are not in it by ours of that name.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <cmocka.h>

#include "sandboxd/store.h"

#define ROWS 10
#define LARGE                                                                                                \
	(96 << 10) /* of a message: two dozen pages, so that all rows are more than a checkpoint needs */

enum call { NONE, PREAD, PWRITE, FALLOCATE, FTRUNCATE, SYNC, OPEN, CALLS };

/* ---- faults ---------------------------------------------------------------- */

static _Atomic enum call failing;
static atomic_int seen, skip, errnum, struck;

static bool strikes(enum call call)
{
	if (failing != call || atomic_fetch_add(&seen, 1) < skip)
		return false;
	atomic_fetch_add(&struck, 1);
	errno = errnum;
	return true;
}

static ssize_t failing_pread(int fd, void *data, size_t n, off_t at)
{
	return strikes(PREAD) ? -1 : pread(fd, data, n, at);
}

static ssize_t failing_pwrite(int fd, const void *data, size_t n, off_t at)
{
	return strikes(PWRITE) ? -1 : pwrite(fd, data, n, at);
}

static int failing_fallocate(int fd, off_t at, off_t n)
{
	return strikes(FALLOCATE) ? errno : posix_fallocate(fd, at, n);
}

static int failing_ftruncate(int fd, off_t size)
{
	return strikes(FTRUNCATE) ? -1 : ftruncate(fd, size);
}

static int failing_open(const char *path, int flags, int mode)
{
	return strikes(OPEN) ? -1 : open(path, flags, mode);
}

int fdatasync(int fd)
{
	return strikes(SYNC) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
	return strikes(SYNC) ? -1 : (int)syscall(SYS_fsync, fd);
}

static int replace_calls(void **state)
{
	static const struct {
		const char *name;
		sqlite3_syscall_ptr fn;
	} calls[] = {
		{"pread", (sqlite3_syscall_ptr)failing_pread},
		{"pread64", (sqlite3_syscall_ptr)failing_pread},
		{"pwrite", (sqlite3_syscall_ptr)failing_pwrite},
		{"pwrite64", (sqlite3_syscall_ptr)failing_pwrite},
		{"fallocate", (sqlite3_syscall_ptr)failing_fallocate},
		{"ftruncate", (sqlite3_syscall_ptr)failing_ftruncate},
		{"open", (sqlite3_syscall_ptr)failing_open},
	};
	sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);

	(void)state;
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		(void)vfs->xSetSystemCall(vfs, calls[i].name, calls[i].fn);
	return 0;
}

static void arm(enum call call, int error, int after)
{
	seen = struck = 0;
	skip = after;
	errnum = error;
	failing = call;
}

/* ---- what is there ------------------------------------------------------------- */

static char folder[] = "/dev/shm/test_store_faults.XXXXXX"; /* memory: it is the faults that matter */
static char path[64], as_killed[64];
static struct store *store;
static char text[LARGE + 1];
static bool acked[ROWS], moved[ROWS];

static void remove_files(const char *of)
{
	static const char *const ends[] = {"", "-wal", "-shm"};
	char file[80];

	for (size_t i = 0; i < 3; i++) {
		(void)snprintf(file, sizeof(file), "%s%s", of, ends[i]);
		(void)unlink(file);
	}
}

static void copy(const char *end)
{
	char from[80], to[80], piece[65536];
	ssize_t n;

	(void)snprintf(from, sizeof(from), "%s%s", path, end);
	(void)snprintf(to, sizeof(to), "%s%s", as_killed, end);
	int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(in >= 0 && out >= 0);
	while ((n = read(in, piece, sizeof(piece))) > 0)
		assert_int_equal(write(out, piece, (size_t)n), n);
	assert_int_equal(n, 0);
	(void)close(in);
	(void)close(out);
}

static int check_row(const struct record *row, void *arg)
{
	const size_t *i = arg;

	assert_string_equal(row->metadata, "{\"a\":\"1\"}");
	assert_int_equal(strlen(row->message), moved[*i] ? 1 : LARGE);
	assert_int_equal(row->state, moved[*i] ? SANDBOX_RUNNING : SANDBOX_PENDING);
	return 0;
}

static void check_rows(struct store *s)
{
	char id[16];
	struct err err;

	for (size_t i = 0; i < ROWS; i++) {
		(void)snprintf(id, sizeof(id), "row-%zu", i);
		assert_int_equal(store_get(s, id, check_row, &i, &err), acked[i] ? 0 : -ENOENT);
	}
}

/* As the next sandboxd finds it when this one is killed now. */
static void check_as_killed(void)
{
	enum call armed = atomic_exchange(&failing, NONE);
	struct store *other;
	struct err err;

	remove_files(as_killed);
	copy("");
	copy("-wal");
	assert_int_equal(store_open(as_killed, &other, &err), 0);
	check_rows(other);
	store_close(other);
	failing = armed;
}

static void check_err(const struct err *err, int error)
{
	enum err_kind kind = error == ENOSPC ? ERR_STORAGE : error == EMFILE ? ERR_UNAVAILABLE : ERR_INTERNAL;

	if (err->kind != kind || strcmp(err->code, "STORE_ERROR") != 0)
		fail_msg("after errno %d: kind %d, %s: %s", error, err->kind, err->code, err->message);
}

static void put(size_t i, int error)
{
	char id[16];
	struct err err;
	const struct record row = {.id = id,
				   .state = SANDBOX_PENDING,
				   .reason = "r",
				   .message = text,
				   .image = "i",
				   .entrypoint = "[]",
				   .metadata = "{\"a\":\"1\"}",
				   .runtime = "oci",
				   .created_ms = 1};
	struct transition t = {
		.from = STATE_BIT(SANDBOX_PENDING), .to = SANDBOX_RUNNING, .reason = "r", .message = "m"};

	(void)snprintf(id, sizeof(id), "row-%zu", i);
	acked[i] = store_insert(store, &row, &err) == 0;
	if (!acked[i])
		check_err(&err, error);
	moved[i] = acked[i] && i % 2 && store_move(store, id, &t, &err) == 0;
	if (acked[i] && i % 2 && !moved[i])
		check_err(&err, error);
}

/* Whether it has struck at all. */
static bool strike(enum call call, int error, int after)
{
	struct err err;

	remove_files(path);
	assert_int_equal(store_open(path, &store, &err), 0);
	memset(acked, 0, sizeof(acked));
	memset(moved, 0, sizeof(moved));
	put(0, 0);
	arm(call, error, after);
	for (size_t i = 1; i < ROWS - 1; i++)
		put(i, error);
	check_as_killed();
	/* half of the times what wakes the other thread ends under the fault, too */
	if (after % 2) {
		store_close(store);
		failing = NONE;
		assert_int_equal(store_open(path, &store, &err), 0);
	}
	bool has_struck = struck > 0;
	arm(NONE, 0, 0);
	put(ROWS - 1, 0);
	assert_true(acked[ROWS - 1] && moved[ROWS - 1]);
	check_rows(store);
	check_as_killed();
	store_close(store);
	assert_int_equal(store_open(path, &store, &err), 0);
	check_rows(store);
	store_close(store);
	return has_struck;
}

static void test_disk_that_fails(void **state)
{
	static const struct {
		enum call call;
		int error;
	} faults[] = {
		{PWRITE, ENOSPC}, {PWRITE, EIO},       {PWRITE, EROFS},	 {PREAD, EIO},
		{SYNC, EIO},	  {FALLOCATE, ENOSPC}, {FTRUNCATE, EIO}, {OPEN, EMFILE},
	};
	unsigned kinds = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		for (int after = 0; after < 9; after = after * 2 + 1)
			if (strike(faults[i].call, faults[i].error, after))
				kinds |= 1U << faults[i].call;
	/* the others are only made where a system is as it seldom is */
	assert_int_equal(kinds & (1U << PWRITE | 1U << PREAD | 1U << SYNC),
			 1U << PWRITE | 1U << PREAD | 1U << SYNC);
}

/* ---- all of it ------------------------------------------------------------------ */

static int set_up(void **state)
{
	if (!mkdtemp(folder) && !mkdtemp(strcpy(folder, "/tmp/test_store_faults.XXXXXX")))
		return -1;
	(void)snprintf(path, sizeof(path), "%s/db", folder);
	(void)snprintf(as_killed, sizeof(as_killed), "%s/killed", folder);
	memset(text, 'm', LARGE);
	return replace_calls(state);
}

static int tear_down(void **state)
{
	(void)state;
	remove_files(path);
	remove_files(as_killed);
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_disk_that_fails)};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
