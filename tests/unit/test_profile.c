/* Profiles: what they come to, call by call, and that nothing of a hostile one gets through unseen. */
#include <linux/audit.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "lib/buf.h"
#include "lib/random.h"
#include "seccomp/confine.h"
#include "seccomp/kernel.h"
#include "seccomp/names.h"
#include "seccomp/privileges.h"
#include "seccomp/profile.h"

#define ALLOW	  SECCOMP_RET_ALLOW
#define NOTIFY	  SECCOMP_RET_USER_NOTIF
#define DENY(err) (SECCOMP_RET_ERRNO | (err))

static int compile(const char *text, uint64_t caps, struct filter *f, struct err *err)
{
	json_t *json = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
	struct profile_warnings warnings;

	assert_non_null(json);
	*err = (struct err){0};
	int r = profile_compile(json, caps, "p", f, &warnings, err);
	json_decref(json);
	return r;
}

static struct filter compiled(const char *text, uint64_t caps)
{
	struct filter f = {0};
	struct err err;

	assert_int_equal(compile(text, caps, &f, &err), 0);
	return f;
}

static uint32_t ask_arch(const struct filter_program *p, uint32_t arch, int nr, uint64_t a, uint64_t b)
{
	const struct seccomp_data data = {.nr = nr, .arch = arch, .args = {a, b}};

	return filter_run(p, &data);
}

static uint32_t ask(const struct filter_program *p, int nr, uint64_t a, uint64_t b)
{
	return ask_arch(p, native_arch(), nr, a, b);
}

/* ---- what a profile comes to ------------------------------------------------------ */

static void test_allow_list(void **state)
{
	struct filter f =
		compiled("{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"defaultErrnoRet\": 13, \"syscalls\": ["
			 "{\"names\": [\"execve\", \"read\", \"statx\"], \"action\": \"SCMP_ACT_ALLOW\"},"
			 "{\"names\": [\"bpf\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 95}]}",
			 0);

	(void)state;
	assert_int_equal(ask(&f.plain, SYS_read, 0, 0), ALLOW);
	assert_int_equal(ask(&f.notify, SYS_read, 0, 0), ALLOW);
	assert_int_equal(ask(&f.plain, SYS_openat, 0, 0), DENY(EACCES));
	assert_int_equal(ask(&f.notify, SYS_openat, 0, 0), NOTIFY);
	assert_int_equal(ask(&f.plain, SYS_bpf, 0, 0), DENY(EOPNOTSUPP));
	/* Newer than anything that the profile knows: not there, rather than forbidden. */
	assert_int_equal(ask(&f.plain, 100000, 0, 0), DENY(ENOSYS));
	assert_int_equal(ask(&f.notify, 100000, 0, 0), NOTIFY);
	filter_done(&f);
}

static void test_what_a_start_needs(void **state)
{
	struct filter f =
		compiled("{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"syscalls\": ["
			 "{\"names\": [\"execve\", \"futex_waitv\"], \"action\": \"SCMP_ACT_ALLOW\"}]}",
			 0);

	(void)state;
	for (int i = 0; i < FILTER_START_CALLS_N; i++)
		assert_int_equal(ask(&f.notify, filter_start_calls[i], 0, 0), ALLOW);
	assert_int_equal(ask(&f.rest, SYS_sendmsg, 0, 0), DENY(EPERM));
	assert_int_equal(ask(&f.rest, SYS_write, 0, 0), DENY(EPERM));
	assert_int_equal(ask(&f.rest, SYS_execve, 0, 0), ALLOW);
	assert_int_equal(ask(&f.rest, SYS_openat, 0, 0), ALLOW); /* that is notify's to tell */
	assert_int_equal(ask_arch(&f.rest, AUDIT_ARCH_I386, SYS_sendmsg, 0, 0), ALLOW);
	filter_done(&f);
	/* Where the profile lets all of it pass there is nothing to make good. */
	f = compiled("{\"defaultAction\": \"SCMP_ACT_ALLOW\"}", 0);
	assert_int_equal(f.rest.n, 0);
	filter_done(&f);
	/* A condition on one of them counts. */
	f = compiled(
		"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"write\"], \"action\": "
		"\"SCMP_ACT_ERRNO\", \"args\": [{\"index\": 0, \"value\": 7, \"op\": \"SCMP_CMP_EQ\"}]}]}",
		0);
	assert_int_equal(ask(&f.notify, SYS_write, 7, 0), ALLOW);
	assert_int_equal(ask(&f.rest, SYS_write, 7, 0), DENY(EPERM));
	assert_int_equal(ask(&f.rest, SYS_write, 6, 0), ALLOW);
	filter_done(&f);
}

static void test_arguments(void **state)
{
	struct filter f =
		compiled("{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": ["
			 "{\"name\": \"socket\", \"action\": \"SCMP_ACT_ERRNO\", \"args\": ["
			 "{\"index\": 0, \"value\": 2, \"op\": \"SCMP_CMP_EQ\"},"
			 "{\"index\": 1, \"value\": 15, \"valueTwo\": 3, \"op\": \"SCMP_CMP_MASKED_EQ\"}]},"
			 /* one index twice: any of both */
			 "{\"names\": [\"personality\"], \"action\": \"SCMP_ACT_ERRNO\", \"args\": ["
			 "{\"index\": 0, \"value\": 5, \"op\": \"SCMP_CMP_EQ\"},"
			 "{\"index\": 0, \"value\": 6, \"op\": \"SCMP_CMP_EQ\"}]}]}",
			 0);

	(void)state;
	assert_int_equal(ask(&f.plain, SYS_socket, 2, 3 | 02000000), DENY(EPERM));
	assert_int_equal(ask(&f.plain, SYS_socket, 2, 1), ALLOW);
	assert_int_equal(ask(&f.plain, SYS_socket, 10, 3), ALLOW);
	assert_int_equal(ask(&f.plain, SYS_personality, 5, 0), DENY(EPERM));
	assert_int_equal(ask(&f.plain, SYS_personality, 6, 0), DENY(EPERM));
	assert_int_equal(ask(&f.plain, SYS_personality, 7, 0), ALLOW);
	filter_done(&f);
}

static void test_for_whom(void **state)
{
	static const char text[] = "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": ["
				   "{\"names\": [\"mount\"], \"action\": \"SCMP_ACT_ERRNO\", \"excludes\": "
				   "{\"caps\": [\"CAP_SYS_ADMIN\"]}},"
				   "{\"names\": [\"reboot\"], \"action\": \"SCMP_ACT_ERRNO\", \"includes\": "
				   "{\"caps\": [\"CAP_SYS_ADMIN\", "
				   "\"CAP_SYS_BOOT\"]}},"
				   "{\"names\": [\"bpf\"], \"action\": \"SCMP_ACT_ERRNO\", \"includes\": "
				   "{\"minKernel\": \"3.0\"}},"
				   "{\"names\": [\"acct\"], \"action\": \"SCMP_ACT_ERRNO\", \"includes\": "
				   "{\"minKernel\": \"999.1\"}},"
				   "{\"names\": [\"swapon\"], \"action\": \"SCMP_ACT_ERRNO\", \"includes\": "
				   "{\"arches\": [\"vax\"]}},"
				   "{\"names\": [\"swapoff\"], \"action\": \"SCMP_ACT_ERRNO\", \"excludes\": "
				   "{\"arches\": [\"vax\"]}}]}";
	const uint64_t admin = 1ULL << 21, boot = 1ULL << 22;
	struct filter f = compiled(text, 0);

	(void)state;
	assert_int_equal(ask(&f.plain, SYS_mount, 0, 0), DENY(EPERM));
	assert_int_equal(ask(&f.plain, SYS_reboot, 0, 0), ALLOW);
	assert_int_equal(ask(&f.plain, SYS_bpf, 0, 0), DENY(EPERM));
	assert_int_equal(ask(&f.plain, SYS_acct, 0, 0), ALLOW);
	assert_int_equal(ask(&f.plain, SYS_swapon, 0, 0), ALLOW);
	assert_int_equal(ask(&f.plain, SYS_swapoff, 0, 0), DENY(EPERM));
	filter_done(&f);
	f = compiled(text, admin);
	assert_int_equal(ask(&f.plain, SYS_mount, 0, 0), ALLOW);
	assert_int_equal(ask(&f.plain, SYS_reboot, 0, 0), ALLOW); /* includes: all of them */
	filter_done(&f);
	f = compiled(text, admin | boot);
	assert_int_equal(ask(&f.plain, SYS_reboot, 0, 0), DENY(EPERM));
	filter_done(&f);
}

static void test_other_doors(void **state)
{
	struct filter f = compiled("{\"defaultAction\": \"SCMP_ACT_ALLOW\"}", 0);

	(void)state;
#ifdef __x86_64__
	assert_int_equal(ask_arch(&f.plain, AUDIT_ARCH_I386, 20, 0, 0), DENY(EPERM));
	assert_int_equal(ask(&f.plain, 0x40000000 | SYS_getpid, 0, 0), DENY(EPERM));
	assert_int_equal(ask_arch(&f.notify, AUDIT_ARCH_I386, SYS_execve, 0, 0), NOTIFY);
	assert_int_equal(ask(&f.notify, 0x40000000 | SYS_execve, 0, 0), NOTIFY);
#endif
	assert_int_equal(ask_arch(&f.plain, 0xdeadbeef, 1, 0, 0), DENY(EPERM));
	filter_done(&f);
#ifdef __x86_64__
	f = compiled("{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": [\"SCMP_ARCH_X86_64\", "
		     "\"SCMP_ARCH_X86\", \"SCMP_ARCH_S390X\"], \"syscalls\": [{\"names\": [\"ptrace\"], "
		     "\"action\": "
		     "\"SCMP_ACT_ERRNO\"}]}",
		     0);
	assert_int_equal(ask_arch(&f.plain, AUDIT_ARCH_I386, 20, 0, 0), ALLOW);
	assert_int_equal(ask_arch(&f.plain, AUDIT_ARCH_I386, 26, 0, 0), DENY(EPERM));
	filter_done(&f);
#endif
}

static void test_newer_than_the_library(void **state)
{
	struct filter f =
		compiled("{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"syscalls\": [{\"names\": [\"execve\", "
			 "\"fchmodat2\", \"no_such_call\"], \"action\": \"SCMP_ACT_ALLOW\"}]}",
			 0);

	(void)state;
	assert_int_equal(ask(&f.plain, 452, 0, 0), ALLOW);
	assert_int_equal(ask(&f.notify, 452, 0, 0), ALLOW);
	assert_int_equal(ask(&f.plain, 451, 0, 0), DENY(EPERM));
	assert_int_equal(ask(&f.plain, 453, 0, 0), DENY(ENOSYS));
	filter_done(&f);
}

static void test_built_in(void **state)
{
	struct confines *cs;
	struct confine *c;
	struct err err;
	int errnum = 0;
	struct seccomp_data data = {.nr = SYS_io_uring_setup, .arch = native_arch()};

	(void)state;
	assert_int_equal(confines_new(&cs), 0);
	for (int i = 0; i < 2; i++) {
		json_t *name = json_string(i ? "strict" : "default");

		assert_int_equal(confine_new(cs, name, "c", &c, &err), 0);
		json_decref(name);
		data.nr = SYS_io_uring_setup;
		assert_int_equal(confine_verdict(c, &data, &errnum), CONFINE_DENY);
		assert_int_equal(errnum, EPERM);
		data.nr = SYS_clone3;
		assert_int_equal(confine_verdict(c, &data, &errnum), CONFINE_DENY);
		assert_int_equal(errnum, ENOSYS);
		assert_int_equal(confine_plan(c)->rest.n, 0);
		assert_int_equal(confine_plan(c)->flags & CONFINE_NO_NEW_PRIVS, CONFINE_NO_NEW_PRIVS);
		confine_unref(c);
	}
	confines_free(cs);
}

/* ---- the wrong and the hostile ------------------------------------------------------- */

static void assert_refused(const char *text, const char *place)
{
	struct filter f = {0};
	struct err err;

	assert_true(compile(text, 0, &f, &err) < 0);
	if (!strstr(err.message, place))
		fail_msg("'%s' does not name %s", err.message, place);
	assert_null(f.plain.insns);
}

#define RULE(rest) "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{" rest "}]}"
#define NAMED	   "\"names\": [\"read\"], \"action\": \"SCMP_ACT_ERRNO\", "

static void test_wrong_shapes(void **state)
{
	static const struct {
		const char *text, *place;
	} wrong[] = {
		{"[]", "p: must be an object"},
		{"{}", "p.defaultAction"},
		{"{\"defaultAction\": 1}", "p.defaultAction"},
		{"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"defaultErrnoRet\": \"1\"}", "p.defaultErrnoRet"},
		{"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"defaultErrnoRet\": 4096}", "p.defaultErrnoRet"},
		{"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"archMap\": 1}", "p.archMap"},
		{"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"archMap\": [1]}", "p.archMap[0].architecture"},
		{"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": [1]}", "p.architectures"},
		{RULE(""), "syscalls[0].action"},
		{RULE("\"action\": \"SCMP_ACT_ERRNO\""), "syscalls[0]"},
		{RULE("\"action\": \"SCMP_ACT_ERRNO\", \"names\": [1]"), "syscalls[0]"},
		{RULE("\"action\": \"SCMP_ACT_ERRNO\", \"names\": [\"\"]"), "syscalls[0]"},
		{RULE("\"action\": \"SCMP_ACT_NOTIFY\", \"names\": [\"read\"]"), "syscalls[0].action"},
		{RULE(NAMED "\"errnoRet\": 1.5"), "syscalls[0].errnoRet"},
		{RULE(NAMED "\"args\": {}"), "syscalls[0].args"},
		{RULE(NAMED "\"args\": [[]]"), "syscalls[0].args[0]"},
		{RULE(NAMED "\"args\": [{}]"), "syscalls[0].args[0].index"},
		{RULE(NAMED "\"args\": [{\"index\": 6, \"op\": \"SCMP_CMP_EQ\"}]"), "args[0].index"},
		{RULE(NAMED "\"args\": [{\"index\": 0, \"value\": -1, \"op\": \"SCMP_CMP_EQ\"}]"),
		 "args[0].value"},
		{RULE(NAMED "\"args\": [{\"index\": 0, \"value\": 1, \"op\": \"EQ\"}]"), "args[0].op"},
		{RULE(NAMED "\"args\": [{},{},{},{},{},{},{}]"), "at most 6"},
		{RULE(NAMED "\"includes\": []"), "syscalls[0].includes"},
		{RULE(NAMED "\"includes\": {\"caps\": 1}"), "syscalls[0].includes.caps"},
		{RULE(NAMED "\"excludes\": {\"arches\": [1]}"), "syscalls[0].excludes.arches"},
		{RULE(NAMED "\"includes\": {\"minKernel\": \"4\"}"), "syscalls[0].includes.minKernel"},
		{RULE(NAMED "\"includes\": {\"moon\": \"full\"}"), "syscalls[0].includes.moon"},
		{RULE("\"names\": [\"execve\"], \"action\": \"SCMP_ACT_ERRNO\""), "must allow execve"},
		{"{\"defaultAction\": \"SCMP_ACT_KILL\"}", "must allow execve"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_refused(wrong[i].text, wrong[i].place);
}

/* n times the same in a list. */
static char *repeated(const char *before, const char *what, size_t n, const char *after)
{
	struct buf b = BUF_INIT(64 << 20);

	(void)buf_puts(&b, before);
	for (size_t i = 0; i < n; i++)
		(void)buf_printf(&b, "%s%s", i ? "," : "", what);
	(void)buf_puts(&b, after);
	assert_non_null(buf_cstr(&b));
	return (char *)b.data;
}

static void test_bounds(void **state)
{
	_cleanup_free_ char *rules = repeated("{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [",
					      "{" NAMED "\"args\": null}", PROFILE_RULES_MAX + 1, "]}");
	_cleanup_free_ char *names =
		repeated("{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"action\": "
			 "\"SCMP_ACT_ERRNO\", \"names\": [",
			 "\"read\"", PROFILE_NAMES_MAX + 1, "]}]}");
	_cleanup_free_ char *args = repeated(
		"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [",
		"{" NAMED
		"\"args\": [{\"index\": 0, \"value\": 1, \"op\": \"SCMP_CMP_GT\"}, {\"index\": 1, \"value\": "
		"1, \"op\": \"SCMP_CMP_LT\"}]}",
		PROFILE_ARGS_MAX / 2 + 1, "]}");

	(void)state;
	assert_refused(rules, "p.syscalls: over");
	assert_refused(names, "names: over");
	assert_refused(args, "conditions on the arguments of 'read'");
}

/* The most that the bounds let through, all different, still compiles, or is refused in words. */
static void test_the_most_there_may_be(void **state)
{
	static const char *const calls[] = {"read",  "pread64", "openat",   "mmap",   "mremap", "futex",
					    "clone", "splice",	"pwrite64", "ioctl",  "fcntl",	"prctl",
					    "bind",  "connect", "kill",	    "madvise"};
	_cleanup_buf_ struct buf text = BUF_INIT(1 << 20);
	struct filter f = {0};
	struct err err;

	(void)state;
	(void)buf_puts(&text, "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [");
	for (int i = 0; i < PROFILE_ARGS_MAX / 2; i++)
		(void)buf_printf(
			&text,
			"%s{\"names\": [\"%s\"], \"action\": \"SCMP_ACT_ERRNO\", \"args\": [{\"index\": %d, "
			"\"value\": %d000000007, \"op\": \"SCMP_CMP_GT\"}, {\"index\": %d, \"value\": %d, "
			"\"op\": "
			"\"SCMP_CMP_NE\"}]}",
			i ? "," : "", calls[i % 16], i % 5, i + 1, 5, i);
	(void)buf_puts(&text, "]}");
	if (compile(buf_cstr(&text), 0, &f, &err) < 0)
		assert_non_null(strstr(err.message, "too "));
	else
		assert_true(f.plain.n <= BPF_MAXINSNS);
	filter_done(&f);
}

/* Bytes of a good profile changed at random: never anything but an answer. */
static void test_garbled(void **state)
{
	static const char good[] = RULE("\"names\": [\"read\", \"write\"], \"action\": \"SCMP_ACT_ERRNO\", "
					"\"errnoRet\": 38, \"args\": "
					"[{\"index\": 1, \"value\": 10, \"valueTwo\": 3, \"op\": "
					"\"SCMP_CMP_MASKED_EQ\"}], \"includes\": "
					"{\"caps\": [\"CAP_KILL\"], \"minKernel\": \"4.8\"}");
	uint8_t noise[4];

	(void)state;
	for (int i = 0; i < 3000; i++) {
		char text[sizeof(good)];
		struct filter f = {0};
		struct err err = {0};

		memcpy(text, good, sizeof(good));
		random_bytes(noise, sizeof(noise));
		text[(noise[0] | noise[1] << 8) % (sizeof(good) - 1)] = (char)noise[2];
		json_t *json = json_loadb(text, sizeof(good) - 1, JSON_REJECT_DUPLICATES, NULL);
		if (json && profile_compile(json, 0, "p", &f, NULL, &err) < 0)
			assert_true(err.message[0]);
		filter_done(&f);
		json_decref(json);
	}
}

/* ---- confinements ------------------------------------------------------------------- */

static int confine(struct confines *cs, const char *text, struct confine **ret, struct err *err)
{
	json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);

	assert_non_null(json);
	int r = confine_new(cs, json, "c", ret, err);
	json_decref(json);
	return r;
}

static void test_compiled_once(void **state)
{
	static const char inl[] =
		"{\"profile\": " RULE("\"names\": [\"bpf\"], \"action\": \"SCMP_ACT_ERRNO\"") "}";
	struct confine *a, *b, *off;
	struct confines *cs;
	struct err err;

	(void)state;
	assert_int_equal(confines_new(&cs), 0);
	assert_int_equal(confine(cs, "\"strict\"", &a, &err), 0);
	assert_int_equal(confine(cs, "\"strict\"", &b, &err), 0);
	assert_ptr_equal(a, b);
	confine_unref(a);
	confine_unref(b);
	assert_int_equal(confine(cs, "\"off\"", &off, &err), 0);
	assert_null(off);
	assert_null(confine_plan(off));
	/* More than the cache holds, and one that outlives its makers. */
	assert_int_equal(confine(cs, inl, &a, &err), 0);
	for (int i = 0; i < CONFINE_CACHE_MAX + 10; i++) {
		char text[512];

		(void)snprintf(text, sizeof(text),
			       "{\"profile\": " RULE("\"names\": [\"bpf\"], \"action\": \"SCMP_ACT_ERRNO\", "
						     "\"errnoRet\": %d") "}",
			       i + 2);
		assert_int_equal(confine(cs, text, &b, &err), 0);
		confine_unref(b);
	}
	confines_free(cs);
	confine_unref(a);
}

static void test_plan(void **state)
{
	struct confines *cs;
	struct confine *c;
	struct err err;

	(void)state;
	assert_int_equal(confines_new(&cs), 0);
	assert_int_equal(
		confine(cs,
			"{\"profile\": \"strict\", \"capabilities\": [\"chown\"], \"rlimits\": [{\"type\": "
			"\"RLIMIT_NOFILE\", \"soft\": 5, \"hard\": -1}]}",
			&c, &err),
		0);
	const struct confine_plan *p = confine_plan(c);
	assert_int_equal(p->version, CONFINE_PLAN_VERSION);
	assert_int_equal(p->caps, 1);
	assert_int_equal(p->rlimits.n, 1);
	const struct confine_rlimit *l = (const void *)((const char *)p + p->rlimits.at);
	assert_int_equal(l->soft, 5);
	assert_true(l->hard == UINT64_MAX);
	assert_true(p->notify.n > 100 && p->plain.n > 100);
	assert_true(p->notify.at % 8 == 0 && p->notify.at + p->notify.n * 8 <= p->size);
	confine_unref(c);
	confines_free(cs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_allow_list),  cmocka_unit_test(test_what_a_start_needs),
		cmocka_unit_test(test_arguments),   cmocka_unit_test(test_for_whom),
		cmocka_unit_test(test_other_doors), cmocka_unit_test(test_newer_than_the_library),
		cmocka_unit_test(test_built_in),    cmocka_unit_test(test_wrong_shapes),
		cmocka_unit_test(test_bounds),	    cmocka_unit_test(test_the_most_there_may_be),
		cmocka_unit_test(test_garbled),	    cmocka_unit_test(test_compiled_once),
		cmocka_unit_test(test_plan),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
