/* CreateSandboxRequest: what is taken, what is refused and in which words; labels and quantities. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sandboxd/api/lifecycle.h"

static struct config config;

static int set_up(void **state)
{
	(void)state;
	return config_init(&config);
}

static int tear_down(void **state)
{
	(void)state;
	config_done(&config);
	return 0;
}

/* What the official clients send when nothing is asked of them. */
#define MINIMAL                                                                                              \
	"'image':{'uri':'python:3.11'},'entrypoint':['tail','-f','/dev/null'],"                              \
	"'resourceLimits':{'cpu':'1','memory':'2Gi'}"

static json_t *parse(const char *text)
{
	char json[4096];
	size_t n = strlen(text);

	assert_true(n < sizeof(json));
	for (size_t i = 0; i <= n; i++)
		json[i] = text[i] == '\'' ? '"' : text[i];
	json_t *o = json_loads(json, JSON_REJECT_DUPLICATES, NULL);
	if (!o)
		fail_msg("not JSON: %s", json);
	return o;
}

static void refused(const char *text, const char *code, const char *words)
{
	struct sandbox_spec spec;
	struct create_keep keep;
	struct err err = {.code = ""};
	json_t *body = parse(text);

	if (create_parse(body, &config, NULL, &spec, &keep, &err) == 0)
		fail_msg("taken: %s", text);
	json_decref(body);
	assert_int_equal(err.kind, ERR_INVALID);
	if (strcmp(err.code, code) != 0 || !strstr(err.message, words))
		fail_msg("%s: %s: %s", text, err.code, err.message);
}

static void taken(const char *text, void (*look)(const struct sandbox_spec *spec))
{
	struct sandbox_spec spec;
	struct create_keep keep;
	struct err err = {.message = ""};
	json_t *body = parse(text);

	if (create_parse(body, &config, NULL, &spec, &keep, &err) != 0)
		fail_msg("refused: %s: %s", text, err.message);
	if (look)
		look(&spec);
	create_done(&keep);
	json_decref(body);
}

static void look_minimal(const struct sandbox_spec *s)
{
	assert_string_equal(s->image, "python:3.11");
	assert_string_equal(s->runtime.image.uri, "python:3.11");
	assert_null(s->runtime.image.username);
	assert_int_equal(json_array_size(s->runtime.entrypoint), 3);
	assert_null(s->runtime.env);
	assert_int_equal(s->timeout_s, 0);
	assert_int_equal(s->runtime.limits.cpu_millis, 1000);
	assert_int_equal(s->runtime.limits.memory_bytes, 2ull << 30);
	assert_true(s->runtime.limits.pids > 0);
	assert_string_equal(s->notes, "");
}

static void look_full(const struct sandbox_spec *s)
{
	assert_int_equal(s->timeout_s, 3600);
	assert_int_equal(json_object_size(s->runtime.env), 1); /* the null one is not set */
	assert_string_equal(json_string_value(json_object_get(s->runtime.env, "A")), "1");
	assert_int_equal(json_object_size(s->metadata), 1);
	assert_non_null(s->platform);
	assert_int_equal(s->runtime.limits.cpu_millis, 500);
	assert_string_equal(s->notes, "Limits this runtime does not know: bandwidth.");
	assert_int_equal(s->runtime.limits.disk_bytes, 512 << 20); /* the smaller of the two */
}

static void test_taken(void **state)
{
	(void)state;
	taken("{" MINIMAL "}", look_minimal);
	taken("{" MINIMAL ",'secureAccess':false,'timeout':null,'env':null,'metadata':null,'volumes':null,"
	      "'networkPolicy':null,'credentialProxy':null,'extensions':null,'platform':null,'snapshotId':"
	      "null}",
	      look_minimal);
	taken("{" MINIMAL
	      ",'networkPolicy':{},'credentialProxy':{'enabled':false},'volumes':[],'lifecycle':{},"
	      "'snapshotId':' ','extensions':{'storage.id':'x'},'resourceRequests':{'cpu':'1'},'later':null}",
	      look_minimal);
#if defined(__x86_64__)
	taken("{'image':{'uri':'python:3.11','auth':{'username':'u','password':'p'}},'entrypoint':['sh'],"
	      "'resourceLimits':{'cpu':'500m','ephemeral-storage':'1Gi','disk':'512Mi','bandwidth':'1G'},'"
	      "timeout':3600,"
	      "'env':{'A':'1','B':null},'metadata':{'team':'x'},'platform':{'os':'linux','arch':'amd64'}}",
	      look_full);
#endif
	taken("{'image':{'uri':'host'},'entrypoint':['sh'],'resourceLimits':{}}", NULL);
}

static void test_shape(void **state)
{
	(void)state;
	refused("{}", "SANDBOX::INVALID_PARAMETER", "image");
	refused("[]", "INVALID_REQUEST_BODY", "object");
	refused("{'image':'python','entrypoint':['x'],'resourceLimits':{}}", "INVALID_REQUEST_BODY", "image");
	refused("{'image':{},'entrypoint':['x'],'resourceLimits':{}}", "INVALID_REQUEST_BODY", "uri");
	refused("{'image':{'uri':' '},'entrypoint':['x'],'resourceLimits':{}}", "SANDBOX::INVALID_PARAMETER",
		"blank");
	refused("{'image':{'uri':'a b'},'entrypoint':['x'],'resourceLimits':{}}",
		"SANDBOX::INVALID_PARAMETER", "blank or control");
	refused("{'image':{'uri':'a','auth':{'username':'u'}},'entrypoint':['x'],'resourceLimits':{}}",
		"SANDBOX::INVALID_PARAMETER", "both username and password");
	refused("{'image':{'uri':'a','auth':{'username':'u:v','password':''}},'entrypoint':['x'],'"
		"resourceLimits':{}}",
		"SANDBOX::INVALID_PARAMETER", "colon");
	refused("{'image':{'uri':'host'},'resourceLimits':{}}", "INVALID_REQUEST_BODY", "entrypoint");
	refused("{'image':{'uri':'host'},'entrypoint':[],'resourceLimits':{}}", "DOCKER::INVALID_ENTRYPOINT",
		"command");
	refused("{'image':{'uri':'host'},'entrypoint':[''],'resourceLimits':{}}",
		"DOCKER::INVALID_ENTRYPOINT", "command");
	refused("{'image':{'uri':'host'},'entrypoint':'sh','resourceLimits':{}}", "INVALID_REQUEST_BODY",
		"entrypoint");
	refused("{'image':{'uri':'host'},'entrypoint':['sh',1],'resourceLimits':{}}", "INVALID_REQUEST_BODY",
		"entrypoint");
	refused("{'image':{'uri':'host'},'entrypoint':['sh']}", "INVALID_REQUEST_BODY", "resourceLimits");
	refused("{'image':{'uri':'host'},'entrypoint':['sh'],'resourceLimits':{'cpu':1}}",
		"INVALID_REQUEST_BODY", "resourceLimits");
	refused("{" MINIMAL ",'privileged':true}", "SANDBOX::INVALID_PARAMETER", "privileged");
}

static void test_values(void **state)
{
	static const char *const timeouts[] = {"59", "0", "-1", "60.5", "'600'", "true", "99999999999999"};
	char text[512];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(timeouts); i++) {
		(void)snprintf(text, sizeof(text), "{%s,'timeout':%s}", MINIMAL, timeouts[i]);
		refused(text, "INVALID_REQUEST_BODY", "timeout");
	}
	config.timeout_max_s = 120;
	refused("{" MINIMAL ",'timeout':121}", "INVALID_REQUEST_BODY", "120");
	taken("{" MINIMAL ",'timeout':120}", NULL);
	refused("{" MINIMAL ",'env':{'A':1}}", "SANDBOX::INVALID_PARAMETER", "'A'");
	refused("{" MINIMAL ",'env':{'A=B':'1'}}", "SANDBOX::INVALID_PARAMETER", "A=B");
	refused("{" MINIMAL ",'env':{'':'1'}}", "SANDBOX::INVALID_PARAMETER", "env");
	refused("{" MINIMAL ",'env':['A']}", "INVALID_REQUEST_BODY", "env");
	refused("{" MINIMAL ",'metadata':{'a':1}}", "INVALID_REQUEST_BODY", "metadata");
	refused("{" MINIMAL ",'metadata':{'opensandbox.io/id':'x'}}", "SANDBOX::INVALID_METADATA_LABEL",
		"reserved");
	refused("{" MINIMAL ",'platform':{'os':'linux'}}", "INVALID_REQUEST_BODY", "arch");
	refused("{" MINIMAL ",'platform':{'os':'plan9','arch':'amd64'}}", "SANDBOX::INVALID_PARAMETER",
		"plan9");
	refused("{" MINIMAL ",'platform':{'os':'windows','arch':'amd64'}}", "SANDBOX::INVALID_PARAMETER",
		"cannot be satisfied");
	refused("{'image':{'uri':'host'},'entrypoint':['sh'],'resourceLimits':{'cpu':'many'}}",
		"SANDBOX::INVALID_PARAMETER", "many");
	refused("{'image':{'uri':'host'},'entrypoint':['sh'],'resourceLimits':{'memory':'1Ki'}}",
		"SANDBOX::INVALID_PARAMETER", "1Ki");
	refused("{'image':{'uri':'host'},'entrypoint':['sh'],'resourceLimits':{'gpu':'1'}}",
		"SANDBOX::INVALID_PARAMETER", "GPU");
}

static void test_not_supported(void **state)
{
	static const char *const fields[] = {
		"'templateId':'t1'",
		"'networkPolicy':{'defaultAction':'deny'}",
		"'credentialProxy':{'enabled':true}",
		"'lifecycle':{'preStart':{}}",
		"'extensions':{'poolRef':'p'}",
		"'extensions':{'access.renew.extend.seconds':'300'}",
	};
	char text[512];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		(void)snprintf(text, sizeof(text), "{%s,%s}", MINIMAL, fields[i]);
		refused(text, "SANDBOX::API_NOT_SUPPORTED", "not supported by this runtime yet");
	}
	refused("{" MINIMAL ",'volumes':[{'name':'a','mountPath':'/a'}]}", "VOLUME::INVALID_BACKEND",
		"exactly one");
}

static void test_too_long(void **state)
{
	struct sandbox_spec spec;
	struct create_keep keep;
	struct err err;
	static char big[200 * 1024];
	json_t *body = parse("{" MINIMAL "}");

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	(void)json_object_set_new(body, "entrypoint", json_pack("[s,s]", "sh", big));
	assert_true(create_parse(body, &config, NULL, &spec, &keep, &err) < 0);
	assert_non_null(strstr(err.message, "128 KiB"));
	big[100 * 1024] = '\0';
	json_t *many = json_pack("[s]", "sh");
	for (int i = 0; i < 11; i++)
		(void)json_array_append_new(many, json_string(big));
	(void)json_object_set_new(body, "entrypoint", many);
	assert_true(create_parse(body, &config, NULL, &spec, &keep, &err) < 0);
	assert_non_null(strstr(err.message, "1 MiB"));
	json_decref(body);
}

static void test_labels(void **state)
{
	static const char *const good[] = {"a", "A-b_c.9", "example.com/a", "a.b-c.d/X", "0"};
	static const char *const bad[] = {"",	   "-a",   "a-",    "a b",  "a/",     "/a",
					  "A.b/c", "a//b", "a/b/c", "-a/b", "a..b/c", "\xc3\xa4"};
	char longest[65];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(label_check(good[i], "", NULL), 0);
		if (!strchr(good[i], '/'))
			assert_int_equal(label_check("k", good[i], NULL), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		if (label_check(bad[i], "v", NULL) == 0)
			fail_msg("key '%s' is taken", bad[i]);
		if (*bad[i] && label_check("k", bad[i], NULL) == 0)
			fail_msg("value '%s' is taken", bad[i]);
	}
	memset(longest, 'a', sizeof(longest) - 1);
	longest[64] = '\0';
	assert_true(label_check(longest, "v", NULL) < 0);
	assert_true(label_check("k", longest, NULL) < 0);
	longest[63] = '\0';
	assert_int_equal(label_check(longest, longest, NULL), 0);
}

static void test_quantities(void **state)
{
	static const struct {
		const char *text;
		uint64_t n;
	} cpu[] = {{"500m", 500}, {"1", 1000}, {"1.5", 1500}, {"0.1", 100}, {"4096", 4096000}, {"1m", 1}},
	  memory[] = {{"512Mi", 512ull << 20},	{"2Gi", 2ull << 30},	  {"1g", 1000000000},
		      {"1.5Gi", 3ull << 29},	{"134217728", 134217728}, {"64mb", 64000000},
		      {"1048576Ki", 1ull << 30}};
	static const char *const bad[] = {
		"",    "m",   "-1",  "+1", " 1", "1 ",	  "1x", "0x10",
		"1e3", "inf", "nan", ".5", "1.", "1.2.3", "0",	"99999999999999999999999999999999999999"};
	uint64_t n = 7;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cpu); i++) {
		assert_int_equal(quantity_cpu(cpu[i].text, &n), 0);
		assert_int_equal(n, cpu[i].n);
	}
	for (size_t i = 0; i < ARRAY_SIZE(memory); i++) {
		assert_int_equal(quantity_bytes(memory[i].text, &n), 0);
		assert_int_equal(n, memory[i].n);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (quantity_cpu(bad[i], &n) == 0 || quantity_bytes(bad[i], &n) == 0)
			fail_msg("'%s' is taken", bad[i]);
	assert_true(quantity_cpu("4097", &n) < 0);
	assert_true(quantity_bytes("4Mi", &n) < 0);
	assert_true(quantity_bytes("2000Ti", &n) < 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_taken),    TEST(test_shape),	TEST(test_values),     TEST(test_not_supported),
		TEST(test_too_long), TEST(test_labels), TEST(test_quantities),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
