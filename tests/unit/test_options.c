/* Flags and variables, those of the reference included. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "execd/options.h"
#include "lib/fs.h"

#define WORDS_MAX 16

static struct options o;
static struct err err;
/* Copies, as the secrets in them are overwritten. */
static char words[WORDS_MAX][128];

#define parse(...) parse_words((const char *[]){"execd", ##__VA_ARGS__, NULL})

static int parse_words(const char **given)
{
	static char *argv[WORDS_MAX + 1];
	int n = 0;

	memset(&o, 0, sizeof(o));
	for (; given[n]; n++) {
		assert_true(n < WORDS_MAX && strlen(given[n]) < sizeof(words[n]));
		argv[n] = memcpy(words[n], given[n], strlen(given[n]) + 1);
	}
	argv[n] = NULL;
	return options_parse(n, argv, &o, &err);
}

static void assert_refused(int r, const char *named)
{
	assert_int_equal(r, -EINVAL);
	if (!strstr(err.message, named))
		fail_msg("'%s' does not name %s", err.message, named);
}

static void test_defaults(void **state)
{
	(void)state;
	assert_int_equal(parse(), OPTIONS_RUN);
	assert_int_equal(o.port, 44772);
	assert_string_equal(o.host, "0.0.0.0");
	assert_int_equal(o.listen_fd, -1);
	assert_null(o.token);
	assert_null(o.env_file);
	assert_null(o.log_file);
	assert_null(o.entrypoint);
	assert_int_equal(o.log_level, LOG_INFO);
	assert_int_equal(o.grace_ms, 1000);
	assert_int_equal(o.kernel_spares, 1);
	assert_int_equal(o.kernel_idle_ms, 0);
	assert_false(o.init);
}

static void test_ways_to_write_a_flag(void **state)
{
	(void)state;
	assert_int_equal(parse("--port", "1"), OPTIONS_RUN);
	assert_int_equal(o.port, 1);
	assert_int_equal(parse("--port=2"), OPTIONS_RUN);
	assert_int_equal(o.port, 2);
	assert_int_equal(parse("-port", "3"), OPTIONS_RUN);
	assert_int_equal(o.port, 3);
	assert_int_equal(parse("-port=4", "-host=::1", "--log-file", "", "--env-file=/e"), OPTIONS_RUN);
	assert_int_equal(o.port, 4);
	assert_string_equal(o.host, "::1");
	assert_null(o.log_file);
	assert_string_equal(o.env_file, "/e");
}

static void test_refused(void **state)
{
	(void)state;
	assert_refused(parse("--bogus", "1"), "--bogus");
	assert_refused(parse("-bogus=1"), "-bogus");
	assert_refused(parse("--portx", "1"), "--portx");
	assert_refused(parse("--por", "1"), "--por");
	assert_refused(parse("--port"), "--port");
	assert_refused(parse("--port", "65536"), "65536");
	assert_refused(parse("--port", "-1"), "-1");
	assert_refused(parse("--port", "1x"), "1x");
	assert_refused(parse("--port", ""), "--port");
	assert_refused(parse("--listen-fd", "x"), "--listen-fd");
	assert_refused(parse("--log-level", "loud"), "loud");
	assert_refused(parse("--graceful-shutdown-timeout", "soon"), "soon");
	assert_refused(parse("--graceful-shutdown-timeout", "5"), "5");
	assert_refused(parse("--init=no"), "--init");
	assert_refused(parse("serve"), "serve");
	assert_refused(parse("--", "serve"), "serve");
}

static void test_levels_and_durations(void **state)
{
	(void)state;
	assert_int_equal(parse("--log-level", "debug"), OPTIONS_RUN);
	assert_int_equal(o.log_level, LOG_DEBUG);
	assert_int_equal(parse("-log-level", "3"), OPTIONS_RUN);
	assert_int_equal(o.log_level, LOG_ERROR);
	assert_int_equal(parse("-log-level=4"), OPTIONS_RUN);
	assert_int_equal(o.log_level, LOG_WARN);
	assert_int_equal(parse("-log-level=99"), OPTIONS_RUN);
	assert_int_equal(o.log_level, LOG_DEBUG);
	assert_int_equal(parse("-graceful-shutdown-timeout=1m2.5s"), OPTIONS_RUN);
	assert_int_equal(o.grace_ms, 62500);
	assert_int_equal(parse("-graceful-shutdown-timeout=250ms"), OPTIONS_RUN);
	assert_int_equal(o.grace_ms, 250);
	assert_int_equal(parse("-graceful-shutdown-timeout=0"), OPTIONS_RUN);
	assert_int_equal(o.grace_ms, 0);
}

static void test_reference_flags(void **state)
{
	(void)state;
	assert_int_equal(parse("-jupyter-host", "http://localhost:54321", "--jupyter-token=abc",
			       "-jupyter-idle-poll-interval", "100ms", "-port", "7"),
			 OPTIONS_RUN);
	assert_int_equal(o.port, 7);
	assert_int_equal(o.ignored_n, 3);
	assert_string_equal(o.ignored[0], "jupyter-host");
	assert_string_equal(words[3], "--jupyter-token=");
}

static void test_init(void **state)
{
	(void)state;
	assert_int_equal(parse("--init"), OPTIONS_RUN);
	assert_true(o.init);
	assert_null(o.entrypoint);
	assert_int_equal(parse("--init", "--port", "9", "--", "prog", "--port", "8", "--"), OPTIONS_RUN);
	assert_int_equal(o.port, 9);
	assert_string_equal(o.entrypoint[0], "prog");
	assert_string_equal(o.entrypoint[1], "--port");
	assert_string_equal(o.entrypoint[3], "--");
	assert_null(o.entrypoint[4]);
	assert_int_equal(parse("--init", "prog", "--bogus"), OPTIONS_RUN);
	assert_string_equal(o.entrypoint[1], "--bogus");
	assert_int_equal(parse("--init", "--"), OPTIONS_RUN);
	assert_null(o.entrypoint);
}

static void test_token_leaves_argv(void **state)
{
	const char zero[sizeof(words[0])] = {0};

	(void)state;
	assert_int_equal(parse("--access-token", "hush", "--port=1"), OPTIONS_RUN);
	assert_string_equal(o.token, "hush");
	assert_memory_equal(words[2], zero, 5);
	options_done(&o);
	assert_int_equal(parse("-access-token=hush"), OPTIONS_RUN);
	assert_string_equal(o.token, "hush");
	assert_string_equal(words[1], "-access-token=");
	assert_memory_equal(words[1] + 14, zero, 5);
	options_done(&o);
	assert_int_equal(parse("--access-token", ""), OPTIONS_RUN);
	assert_null(o.token);
	/* Also when what follows is wrong. */
	assert_refused(parse("--access-token", "hush", "--bogus"), "--bogus");
	assert_memory_equal(words[2], zero, 5);
}

static void test_token_file(void **state)
{
	char path[] = "/tmp/test_options.XXXXXX", big[TOKEN_FILE_MAX + 2];
	_cleanup_close_ int fd = mkstemp(path);

	(void)state;
	assert_int_equal(fs_write_all(fd, "from file \r\n", 12), 0);
	assert_int_equal(parse("--access-token-file", path), OPTIONS_RUN);
	assert_string_equal(o.token, "from file");
	options_done(&o);
	assert_int_equal(fs_write_file(AT_FDCWD, path, "\n", 1, 0600), 0);
	assert_refused(parse("--access-token-file", path), "holds no token");
	assert_int_equal(fs_write_file(AT_FDCWD, path, "a\0b", 3, 0600), 0);
	assert_refused(parse("--access-token-file", path), "holds no token");
	memset(big, 'x', sizeof(big));
	assert_int_equal(fs_write_file(AT_FDCWD, path, big, sizeof(big), 0600), 0);
	assert_int_equal(parse("--access-token-file", path), -EFBIG);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(parse("--access-token-file", path), -ENOENT);
	assert_non_null(strstr(err.message, path));
}

static void test_kernels(void **state)
{
	(void)state;
	setenv("EXECD_KERNEL_SPARES", "3", 1);
	setenv("EXECD_KERNEL_IDLE_TIMEOUT", "90s", 1);
	assert_int_equal(parse(), OPTIONS_RUN);
	assert_int_equal(o.kernel_spares, 3);
	assert_int_equal(o.kernel_idle_ms, 90000);
	assert_int_equal(parse("--kernel-spares", "0", "--kernel-idle-timeout=10m"), OPTIONS_RUN);
	assert_int_equal(o.kernel_spares, 0);
	assert_int_equal(o.kernel_idle_ms, 600000);
	assert_refused(parse("--kernel-spares", "17"), "17");
	setenv("EXECD_KERNEL_IDLE_TIMEOUT", "soon", 1);
	assert_refused(parse(), "EXECD_KERNEL_IDLE_TIMEOUT");
	unsetenv("EXECD_KERNEL_SPARES");
	unsetenv("EXECD_KERNEL_IDLE_TIMEOUT");
}

static void test_environment(void **state)
{
	(void)state;
	setenv("EXECD_ACCESS_TOKEN", "from env", 1);
	setenv("EXECD_ENVS", "/envs", 1);
	setenv("EXECD_LOG_FILE", "/log", 1);
	setenv("EXECD_API_GRACE_SHUTDOWN", "2s", 1);
	assert_int_equal(parse(), OPTIONS_RUN);
	assert_string_equal(o.token, "from env");
	assert_string_equal(o.env_file, "/envs");
	assert_string_equal(o.log_file, "/log");
	assert_int_equal(o.grace_ms, 2000);
	options_done(&o);
	assert_int_equal(parse("--access-token=flag", "--env-file=", "--graceful-shutdown-timeout=1s"),
			 OPTIONS_RUN);
	assert_string_equal(o.token, "flag");
	assert_null(o.env_file);
	assert_int_equal(o.grace_ms, 1000);
	options_done(&o);
	assert_int_equal(parse("--init", "--env-file="), OPTIONS_RUN);
	assert_null(o.env_file);
	options_done(&o);
	setenv("EXECD_ENVS", "", 1);
	assert_int_equal(parse("--init"), OPTIONS_RUN);
	assert_string_equal(o.env_file, "/opt/opensandbox/.env");
	options_done(&o);
	assert_int_equal(parse(), OPTIONS_RUN);
	assert_null(o.env_file);
	options_done(&o);
	setenv("EXECD_API_GRACE_SHUTDOWN", "never", 1);
	assert_refused(parse(), "EXECD_API_GRACE_SHUTDOWN");
	unsetenv("EXECD_ACCESS_TOKEN");
	unsetenv("EXECD_ENVS");
	unsetenv("EXECD_LOG_FILE");
	unsetenv("EXECD_API_GRACE_SHUTDOWN");
}

static void test_listen_fds(void **state)
{
	char pid[16];

	(void)state;
	(void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	assert_int_equal(parse(), OPTIONS_RUN);
	assert_int_equal(o.listen_fd, 3);
	assert_int_equal(parse("--listen-fd=5"), OPTIONS_RUN);
	assert_int_equal(o.listen_fd, 5);
	setenv("LISTEN_FDS", "2", 1);
	assert_refused(parse(), "LISTEN_FDS");
	setenv("LISTEN_FDS", "x", 1);
	assert_refused(parse(), "LISTEN_FDS");
	setenv("LISTEN_PID", "1", 1);
	assert_int_equal(parse(), OPTIONS_RUN);
	assert_int_equal(o.listen_fd, -1);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),	  cmocka_unit_test(test_ways_to_write_a_flag),
		cmocka_unit_test(test_refused),		  cmocka_unit_test(test_levels_and_durations),
		cmocka_unit_test(test_reference_flags),	  cmocka_unit_test(test_init),
		cmocka_unit_test(test_token_leaves_argv), cmocka_unit_test(test_token_file),
		cmocka_unit_test(test_kernels),		  cmocka_unit_test(test_environment),
		cmocka_unit_test(test_listen_fds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
