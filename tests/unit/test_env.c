/* Environments: the three layers, the env file, paths and the shell. */
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "execd/env.h"
#include "lib/fs.h"

static char dir[] = "/tmp/test_env.XXXXXX";
static char file[64];
static char secret[] = "EXECD_ACCESS_TOKEN=hush";
static char inherited[] = "EXECD_ENVS=/from/outside";

static void write_file(const char *text)
{
	assert_int_equal(fs_write_file(AT_FDCWD, file, text, strlen(text), 0644), 0);
}

/* The environment that the env file with this text makes. */
static char **with_file(const char *text)
{
	char **envp = NULL;

	write_file(text);
	assert_int_equal(env_build(file, NULL, &envp, NULL), 0);
	return envp;
}

static void assert_file_value(const char *text, const char *name, const char *value)
{
	char **envp = with_file(text);
	const char *got = env_get(envp, name);

	if (value)
		assert_string_equal(got ? got : "(not set)", value);
	else
		assert_null(got);
	env_free(envp);
}

static void test_secrets_stay(void **state)
{
	char **envp;
	const char zero[sizeof(secret)] = {0};

	(void)state;
	assert_int_equal(env_build(NULL, NULL, &envp, NULL), 0);
	assert_null(env_get(envp, "EXECD_ACCESS_TOKEN"));
	assert_null(env_get(envp, "LISTEN_FDS"));
	assert_string_equal(env_get(envp, "HOME"), "/home/me");
	assert_string_equal(env_get(envp, "EXECD_ENVS"), file);
	/* The bytes themselves: /proc/PID/environ shows these. */
	assert_memory_equal(secret, zero, sizeof(secret));
	env_free(envp);
}

static void test_layers(void **state)
{
	json_t *envs = json_pack("{s:s, s:s, s:s}", "FROM", "request", "EMPTY", "", "DOLLAR", "$HOME");
	char **envp;

	(void)state;
	write_file("FROM=file\nHOME=/file\n");
	assert_int_equal(env_build_with(file, envs, "LAST", "word", &envp, NULL), 0);
	assert_string_equal(env_get(envp, "FROM"), "request");
	assert_string_equal(env_get(envp, "HOME"), "/file");
	assert_string_equal(env_get(envp, "EMPTY"), "");
	assert_string_equal(env_get(envp, "DOLLAR"), "$HOME");
	assert_string_equal(env_get(envp, "LAST"), "word");
	assert_null(env_get(envp, "FRO"));
	assert_null(env_get(envp, "NOWHERE"));
	json_decref(envs);
	env_free(envp);
}

static void test_file_lines(void **state)
{
	(void)state;
	assert_file_value("A=1\n", "A", "1");
	assert_file_value("A=1", "A", "1");
	assert_file_value("  A=1  \r\n", "A", "1");
	assert_file_value("A =1\n", "A", "1");
	assert_file_value("# A=1\n", "A", NULL);
	assert_file_value("no equals sign\nA=2\n", "A", "2");
	assert_file_value("=x\nA=2\n", "A", "2");
	assert_file_value("A=1\nA=2\n", "A", "2");
	assert_file_value("A=\n", "A", "");
	assert_file_value("A=a=b\n", "A", "a=b");
	assert_file_value("A=b # c\n", "A", "b # c");
	assert_file_value("A=$HOME/x:${HOME}:$NOWHERE:$1:$:${:${HOME\n", "A",
			  "/home/me/x:/home/me::$1:$:${:${HOME");
	assert_file_value("B=b\nA=$B\n", "A", "b");
}

static void test_file_quotes(void **state)
{
	(void)state;
	assert_file_value("A='$HOME \"x\" \\n'\n", "A", "$HOME \"x\" \\n");
	assert_file_value("A='two\nlines=1'  \nB=3\n", "A", "two\nlines=1");
	assert_file_value("A='two\nlines=1'  \nB=3\n", "B", "3");
	assert_file_value("A='two\nlines=1'\n", "lines", NULL);
	assert_file_value("A=\"it's \\\\ \\\" \\$HOME $HOME\\n\\r\\t\\d\"\n", "A",
			  "it's \\ \" $HOME /home/me\n\r\t\\d");
	assert_file_value("A=''\n", "A", "");
	/* Not a quoted value: as the reference has it, character by character. */
	assert_file_value("A='tis\nB=1\n", "A", "'tis");
	assert_file_value("A='tis\nB=1\n", "B", "1");
	assert_file_value("A='a' b\n", "A", "'a' b");
	assert_file_value("A=\"\n", "A", "\"");
	assert_file_value("A=\"\\\"\nB=1\n", "B", "1");
}

static void test_file_that_is_no_file(void **state)
{
	char **envp;

	(void)state;
	(void)unlink(file);
	assert_int_equal(env_build(file, NULL, &envp, NULL), 0);
	env_free(envp);
	assert_int_equal(mkfifo(file, 0600), 0);
	assert_int_equal(env_build(file, NULL, &envp, NULL), 0);
	assert_string_equal(env_get(envp, "HOME"), "/home/me");
	env_free(envp);
	assert_int_equal(unlink(file), 0);
	write_file("A=1\n");
	assert_int_equal(truncate(file, ENV_FILE_MAX + 1), 0);
	assert_int_equal(env_build(file, NULL, &envp, NULL), 0);
	assert_null(env_get(envp, "A"));
	env_free(envp);
}

/* Each line doubles the one before: the bound must hold, and what fits is kept. */
static void test_file_that_explodes(void **state)
{
	struct buf text = BUF_INIT(65536);
	char **envp;

	(void)state;
	(void)buf_puts(&text, "V0=0123456789\n");
	for (int i = 1; i < 64; i++)
		(void)buf_printf(&text, "V%d=$V%d$V%d\n", i, i - 1, i - 1);
	envp = with_file(buf_cstr(&text));
	assert_string_equal(env_get(envp, "V1"), "01234567890123456789");
	assert_null(env_get(envp, "V63"));
	env_free(envp);
	buf_done(&text);
}

static void test_names_that_are_none(void **state)
{
	json_t *equals = json_pack("{s:s}", "A=B", "x"), *empty = json_pack("{s:s}", "", "x");
	json_t *many = json_object();
	struct err err;
	char **envp = NULL, name[16];

	(void)state;
	assert_int_equal(env_build(NULL, equals, &envp, &err), -EINVAL);
	assert_non_null(strstr(err.message, "A=B"));
	assert_int_equal(env_build(NULL, empty, &envp, &err), -EINVAL);
	for (int i = 0; i <= ENV_ENTRIES_MAX; i++) {
		(void)snprintf(name, sizeof(name), "N%d", i);
		(void)json_object_set_new(many, name, json_string(""));
	}
	assert_int_equal(env_build(NULL, many, &envp, &err), -E2BIG);
	assert_int_equal(err.kind, ERR_TOO_LARGE);
	assert_null(envp);
	json_decref(equals);
	json_decref(empty);
	json_decref(many);
}

static void assert_path(const char *given, const char *want)
{
	char *envp[] = {"HOME=/home/child", "DIR=/srv", NULL}, *got = NULL;

	assert_int_equal(env_expand_path(given, envp, &got, NULL), 0);
	assert_string_equal(got, want);
	free(got);
}

static void test_paths(void **state)
{
	struct err err;
	char *got = NULL, *long_path = malloc(PATH_MAX + 1);

	(void)state;
	assert_path("/a/b", "/a/b");
	assert_path("~", "/home/me");
	assert_path("~/x", "/home/me/x");
	assert_path("~x", "~x");
	assert_path("a~", "a~");
	assert_path("$DIR/x", "/srv/x");
	assert_path("${DIR}x", "/srvx");
	assert_path("$HOME", "/home/child");
	assert_path("$", "$");
	assert_path("", "");
	assert_int_equal(env_expand_path("$HOME", NULL, &got, NULL), 0);
	assert_string_equal(got, "/home/me");
	free(got);
	assert_int_equal(env_expand_path("/x/$NOWHERE/y", NULL, &got, &err), -EINVAL);
	assert_non_null(strstr(err.message, "NOWHERE"));
	memset(long_path, 'x', PATH_MAX);
	long_path[PATH_MAX] = '\0';
	assert_int_equal(env_expand_path(long_path, NULL, &got, &err), -ENAMETOOLONG);
	free(long_path);
}

static const char *in_dir(const char *name)
{
	static char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void make_program(const char *name, mode_t mode)
{
	assert_int_equal(fs_write_file(AT_FDCWD, in_dir(name), "", 0, mode), 0);
}

static void assert_shell(const char *search, const char *want)
{
	char path[512], *envp[] = {path, NULL}, *got = NULL, full[128];

	(void)snprintf(path, sizeof(path), "PATH=%s", search);
	(void)snprintf(full, sizeof(full), "%s%s", dir, want ? want : "");
	assert_int_equal(env_shell(envp, &got, NULL), want ? 0 : -ENOENT);
	if (want)
		assert_string_equal(got, full);
	free(got);
}

static void test_shell(void **state)
{
	char search[256], *none[] = {NULL}, *got = NULL;
	struct err err;

	(void)state;
	(void)snprintf(search, sizeof(search), "relative::/nonexistent:%s/a:%s/b", dir, dir);
	assert_int_equal(mkdirat(AT_FDCWD, in_dir("a"), 0755), 0);
	assert_int_equal(mkdirat(AT_FDCWD, in_dir("b"), 0755), 0);
	assert_shell(search, NULL);
	make_program("a/sh", 0755);
	make_program("b/bash", 0644);
	assert_shell(search, "/a/sh");
	assert_int_equal(mkdirat(AT_FDCWD, in_dir("a/bash"), 0755), 0);
	assert_shell(search, "/a/sh");
	make_program("b/sh", 0755);
	assert_int_equal(chmod(in_dir("b/bash"), 0755), 0);
	assert_shell(search, "/b/bash");
	assert_int_equal(env_shell(none, &got, &err), 0); /* the default PATH */
	free(got);
	assert_shell("", NULL);
}

static int set_up(void **state)
{
	static char home[] = "HOME=/home/me", fds[] = "LISTEN_FDS=1", odd[] = "odd", *vars[5];

	(void)state;
	if (!mkdtemp(dir))
		return -1;
	(void)snprintf(file, sizeof(file), "%s/envs", dir);
	memcpy(vars, (char *[]){secret, home, inherited, fds, odd}, 4 * sizeof(char *));
	environ = vars;
	return env_init(strdup(file));
}

static int tear_down(void **state)
{
	(void)state;
	return fs_remove_tree(AT_FDCWD, dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_secrets_stay),
		cmocka_unit_test(test_layers),
		cmocka_unit_test(test_file_lines),
		cmocka_unit_test(test_file_quotes),
		cmocka_unit_test(test_file_that_is_no_file),
		cmocka_unit_test(test_file_that_explodes),
		cmocka_unit_test(test_names_that_are_none),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_shell),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
