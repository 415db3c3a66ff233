/* The command line and the environment of sandboxd: defaults, flags, the key, and what is refused. */
#include <netinet/in.h>
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/fs.h"
#include "sandboxd/flags.h"

static struct config config;
static struct err err;

static int set_up(void **state)
{
	(void)state;
	(void)unsetenv("OPENSANDBOX_SERVER_API_KEY");
	return config_init(&config);
}

static int tear_down(void **state)
{
	(void)state;
	config_done(&config);
	return 0;
}

#define FLAGS(...)                                                                                           \
	({                                                                                                   \
		char *_argv[] = {(char *)"sandboxd", ##__VA_ARGS__, NULL};                                   \
		flags_parse((int)ARRAY_SIZE(_argv) - 1, _argv, &config, &err);                               \
	})

#define REFUSED(words, ...)                                                                                  \
	do {                                                                                                 \
		assert_true(FLAGS(__VA_ARGS__) < 0);                                                         \
		if (!strstr(err.message, words))                                                             \
			fail_msg("%s", err.message);                                                         \
	} while (0)

static void test_defaults(void **state)
{
	(void)state;
	assert_int_equal(FLAGS(), 0);
	assert_string_equal(config.listen_host, "127.0.0.1");
	assert_int_equal(config.listen_port, 8080);
	assert_null(config.api_key);
	assert_string_equal(config.runtime, "crun");
	/* beside our own binary */
	const char *name = strrchr(config.execd, '/');
	assert_non_null(name);
	assert_string_equal(name, "/execd");
	assert_false(config.kill_on_exit);
}

static void test_flags(void **state)
{
	const char *root;
	(void)state;
	assert_int_equal(FLAGS("--listen", "[::1]:0", "--state", "here", "--execd=/x/execd", "--kill-on-exit",
			       "--runtime", "runc", "--image", "my/app:v1=host", "--log-level", "debug",
			       "--tombstone", "5", "--provision-timeout", "7"),
			 0);
	assert_string_equal(config.listen_host, "::1");
	assert_int_equal(config.listen_port, 0);
	assert_int_equal(config.state_dir[0], '/'); /* made absolute */
	assert_string_equal(strrchr(config.state_dir, '/'), "/here");
	assert_string_equal(config.execd, "/x/execd");
	assert_string_equal(config.runtime, "runc");
	assert_true(config.kill_on_exit);
	assert_int_equal(config.log_level, LOG_DEBUG);
	assert_int_equal(config.tombstone_s, 5);
	assert_int_equal(config.provision_max_s, 7);
	assert_int_equal(image_resolve(&config.images, "my/app:v1", &root, &err), 0);
}

static void test_refused(void **state)
{
	(void)state;
	REFUSED("HOST:PORT", "--listen", "8080");
	REFUSED("HOST:PORT", "--listen", ":8080");
	REFUSED("65535", "--listen", "localhost:65536");
	REFUSED("65535", "--listen", "localhost:-1");
	REFUSED("65535", "--listen", "localhost:");
	REFUSED("--help", "--no-such-flag");
	REFUSED("--help", "--state");
	REFUSED("'word'", "word");
	REFUSED("NAME=ROOT", "--image", "python");
	REFUSED("'ubuntu' is no root", "--image", "python=ubuntu");
	REFUSED("debug", "--log-level", "loud");
	REFUSED("descriptor", "--listen-fd", "777");
	REFUSED("descriptor", "--listen-fd", "1");
	REFUSED("/no/such/file", "--api-key-file", "/no/such/file");
}

static void test_key_environment(void **state)
{
	(void)state;
	assert_int_equal(setenv("OPENSANDBOX_SERVER_API_KEY", "s3cret", 1), 0);
	assert_int_equal(FLAGS(), 0);
	assert_string_equal(config.api_key, "s3cret");
	assert_null(getenv("OPENSANDBOX_SERVER_API_KEY")); /* no child finds it */
}

static void test_key_file(void **state)
{
	char path[64];
	(void)state;
	(void)snprintf(path, sizeof(path), "/tmp/test_flags.%d", getpid());
	assert_int_equal(fs_write_file(-1, path, " key-1 \n", 8, 0600), 0);
	assert_int_equal(FLAGS("--api-key-file", path), 0);
	assert_string_equal(config.api_key, "key-1");
	assert_int_equal(fs_write_file(-1, path, "\n", 1, 0600), 0);
	REFUSED("holds no key", "--api-key-file", path);
	(void)unlink(path);
}

/* Beyond loopback only with a key, however the socket comes. */
static void test_open_to_the_world(void **state)
{
	struct sockaddr_in any = {.sin_family = AF_INET};
	char fd[16];

	(void)state;
	REFUSED("without an API key", "--listen", "0.0.0.0:8080");
	REFUSED("without an API key", "--listen", "[::]:8080");
	REFUSED("without an API key", "--listen", "some.host:8080");
	assert_int_equal(FLAGS("--listen", "127.8.9.1:8080"), 0);
	assert_int_equal(FLAGS("--listen", "localhost:8080"), 0);
	assert_int_equal(FLAGS("--listen", "0.0.0.0:8080", "--insecure"), 0);
	config.insecure = false;

	int s = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(s, (struct sockaddr *)&any, sizeof(any)), 0);
	(void)snprintf(fd, sizeof(fd), "%d", s);
	REFUSED("without an API key", "--listen-fd", fd);
	assert_int_equal(setenv("OPENSANDBOX_SERVER_API_KEY", "k", 1), 0);
	assert_int_equal(FLAGS("--listen-fd", fd), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_defaults),	    TEST(test_flags),	 TEST(test_refused),
		TEST(test_key_environment), TEST(test_key_file), TEST(test_open_to_the_world),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
