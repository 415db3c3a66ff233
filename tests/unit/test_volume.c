/* Volumes of a request: the words that are taken and refused, and that no path leads out. */
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "lib/fs.h"
#include "sandboxd/volume.h"

static char *const none[] = {NULL};
static char *const data_and_srv[] = {(char *)"/data/", (char *)"/srv/a", NULL};

static json_t *parse(const char *text)
{
	char json[2048];
	size_t n = strlen(text);

	assert_true(n < sizeof(json));
	for (size_t i = 0; i <= n; i++)
		json[i] = text[i] == '\'' ? '"' : text[i];
	json_t *o = json_loads(json, JSON_REJECT_DUPLICATES, NULL);
	if (!o)
		fail_msg("not JSON: %s", json);
	return o;
}

static void refused(const char *text, const char *code)
{
	struct volumes v;
	struct err err = {.code = ""};
	json_t *array = parse(text);

	if (volumes_parse(array, data_and_srv, &v, &err) == 0)
		fail_msg("taken: %s", text);
	assert_int_equal(v.n, 0);
	json_decref(array);
	if (err.kind != ERR_INVALID || strcmp(err.code, code) != 0)
		fail_msg("%s: %s: %s", text, err.code, err.message);
}

static void taken(const char *text, struct volumes *ret)
{
	struct err err = {.code = ""};
	json_t *array = parse(text);

	if (volumes_parse(array, data_and_srv, ret, &err) < 0)
		fail_msg("%s: %s: %s", text, err.code, err.message);
	json_decref(array);
}

#define V(fields)     "[{'name':'v'," fields "}]"
#define PVC(fields)   V("'mountPath':'/m','pvc':{" fields "}")
#define HOST(path)    V("'mountPath':'/m','host':{'path':'" path "'}")
#define MOUNT(target) V("'pvc':{'claimName':'c'},'mountPath':'" target "'")
#define SUB(path)     V("'pvc':{'claimName':'c'},'mountPath':'/m','subPath':'" path "'")

static void test_words_refused(void **state)
{
	static const char *const cases[][2] = {
		{"['x']", "VOLUME::INVALID_BACKEND"},
		{"[{'mountPath':'/m','pvc':{'claimName':'c'}}]", "INVALID_REQUEST_BODY"},
		{"[{'name':'A','mountPath':'/m','pvc':{'claimName':'c'}}]", "VOLUME::INVALID_NAME"},
		{"[{'name':'-a','mountPath':'/m','pvc':{'claimName':'c'}}]", "VOLUME::INVALID_NAME"},
		{"[{'name':'a_b','mountPath':'/m','pvc':{'claimName':'c'}}]", "VOLUME::INVALID_NAME"},
		{"[{'name':'','mountPath':'/m','pvc':{'claimName':'c'}}]", "VOLUME::INVALID_NAME"},
		{"[{'name':'v','mountPath':'/m','pvc':{'claimName':'c'}},"
		 "{'name':'v','mountPath':'/n','pvc':{'claimName':'c'}}]",
		 "VOLUME::DUPLICATE_NAME"},
		{"[{'name':'v','mountPath':'/m','pvc':{'claimName':'c'}},"
		 "{'name':'w','mountPath':'//m/./','pvc':{'claimName':'c'}}]",
		 "VOLUME::INVALID_MOUNT_PATH"},
		{V("'mountPath':'/m'"), "VOLUME::INVALID_BACKEND"},
		{V("'mountPath':'/m','pvc':{'claimName':'c'},'host':{'path':'/data'}"),
		 "VOLUME::INVALID_BACKEND"},
		{V("'mountPath':'/m','pvc':{'claimName':'c'},'propagation':'shared'"),
		 "VOLUME::INVALID_BACKEND"},
		{V("'mountPath':'/m','ossfs':{'bucket':'bbb','endpoint':'e','accessKeyId':'k',"
		   "'accessKeySecret':'s'}"),
		 "VOLUME::UNSUPPORTED_BACKEND"},
		{V("'mountPath':'/m','pvc':{'claimName':'c'},'readOnly':'yes'"), "INVALID_REQUEST_BODY"},
		{PVC("'claimName':'../c'"), "VOLUME::INVALID_PVC_NAME"},
		{PVC("'claimName':'.'"), "VOLUME::INVALID_PVC_NAME"},
		{PVC("'claimName':''"), "VOLUME::INVALID_PVC_NAME"},
		{PVC("'claimName':'c','storage':'much'"), "VOLUME::INVALID_BACKEND"},
		{PVC("'claimName':'c','driver':'nfs'"), "VOLUME::INVALID_BACKEND"},
		{PVC("'claimName':'c','createIfNotExists':1"), "INVALID_REQUEST_BODY"},
		{HOST("/etc"), "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{HOST("/datax"), "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{HOST("/srv"), "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{HOST("/srv/a/../b"), "VOLUME::INVALID_HOST_PATH"},
		{HOST("/data/.."), "VOLUME::INVALID_HOST_PATH"},
		{HOST("/data/"), "VOLUME::INVALID_HOST_PATH"},
		{HOST("/data//x"), "VOLUME::INVALID_HOST_PATH"},
		{HOST("data"), "VOLUME::INVALID_HOST_PATH"},
		{HOST(""), "VOLUME::INVALID_HOST_PATH"},
		{HOST("C:\\\\data"), "VOLUME::INVALID_HOST_PATH"},
		{HOST("/data/\\u0007"), "VOLUME::INVALID_HOST_PATH"},
		{MOUNT("m"), "VOLUME::INVALID_MOUNT_PATH"},
		{MOUNT(""), "VOLUME::INVALID_MOUNT_PATH"},
		{MOUNT("/"), "VOLUME::INVALID_MOUNT_PATH"},
		{MOUNT("//./"), "VOLUME::INVALID_MOUNT_PATH"},
		{MOUNT("/m/../etc"), "VOLUME::INVALID_MOUNT_PATH"},
		{MOUNT("/proc/1"), "VOLUME::INVALID_MOUNT_PATH"},
		{MOUNT("/./sys"), "VOLUME::INVALID_MOUNT_PATH"},
		{MOUNT("/dev/shm"), "VOLUME::INVALID_MOUNT_PATH"},
		{MOUNT("/.execd"), "VOLUME::INVALID_MOUNT_PATH"},
		{MOUNT("/m\\n"), "VOLUME::INVALID_MOUNT_PATH"},
		{SUB("/a"), "VOLUME::INVALID_SUB_PATH"},
		{SUB("a/../../b"), "VOLUME::INVALID_SUB_PATH"},
		{SUB(".."), "VOLUME::INVALID_SUB_PATH"},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		refused(cases[i][0], cases[i][1]);
}

static void test_too_many(void **state)
{
	struct volumes v;
	struct err err;
	json_t *array = json_array();

	(void)state;
	for (int i = 0; i <= VOLUMES_MAX; i++)
		json_array_append_new(array, json_object());
	assert_int_equal(volumes_parse(array, none, &v, &err), -EINVAL);
	assert_non_null(strstr(err.message, "limit"));
	json_decref(array);
}

static void test_no_path_allowed(void **state)
{
	struct volumes v;
	struct err err;
	json_t *array = parse(HOST("/data"));

	(void)state;
	assert_int_equal(volumes_parse(array, none, &v, &err), -EINVAL);
	assert_string_equal(err.code, "VOLUME::HOST_PATH_NOT_ALLOWED");
	assert_int_equal(volumes_parse(array, NULL, &v, &err), -EINVAL);
	json_decref(array);
}

static void test_taken(void **state)
{
	struct volumes v;

	(void)state;
	assert_int_equal(volumes_parse(NULL, none, &v, NULL), 0);
	assert_int_equal(v.n, 0);
	taken("[{'name':'inner','mountPath':'/m//n/','subPath':'./a//b/','pvc':{'claimName':'c',"
	      "'createIfNotExists':false,'deleteOnSandboxTermination':true,'storageClass':null,"
	      "'storage':'1.5Gi','accessModes':['ReadWriteOnce']},'host':null},"
	      "{'name':'outer','mountPath':'/m','readOnly':true,'host':{'path':'/data/x'}}]",
	      &v);
	assert_int_equal(v.n, 2);
	assert_string_equal(v.list[0].target, "/m"); /* what contains the other is mounted first */
	assert_int_equal(v.list[0].kind, VOLUME_HOST);
	assert_string_equal(v.list[0].source, "/data/x");
	assert_true(v.list[0].readonly);
	assert_string_equal(v.list[1].target, "/m/n");
	assert_string_equal(v.list[1].sub_path, "a/b");
	assert_int_equal(v.list[1].kind, VOLUME_NAMED);
	assert_false(v.list[1].create);
	assert_true(v.list[1].ephemeral);
	volumes_done(&v);
	taken(PVC("'claimName':'c'"), &v);
	assert_true(v.list[0].create);
	assert_false(v.list[0].ephemeral);
	assert_string_equal(v.list[0].sub_path, "");
	volumes_done(&v);
}

/* ---- files ----------------------------------------------------------------------------- */

struct place {
	char base[64], root[80], state[80];
	char *allowed[2];
};

static void make_link(const struct place *p, const char *target, const char *name)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", p->root, name);
	assert_int_equal(symlink(target, path), 0);
}

static int set_up(void **state)
{
	static struct place p;

	strcpy(p.base, "/tmp/test-volume-XXXXXX");
	assert_non_null(mkdtemp(p.base));
	snprintf(p.root, sizeof(p.root), "%s/root", p.base);
	snprintf(p.state, sizeof(p.state), "%s/root/state", p.base);
	assert_int_equal(fs_mkdir_p(p.state, 0755), 0);
	p.allowed[0] = p.root;
	make_link(&p, "/etc", "absolute");
	make_link(&p, "../..", "up");
	make_link(&p, "state/../inside", "relative");
	make_link(&p, "nowhere", "dangling");
	make_link(&p, "state", "to-state");
	*state = &p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;
	return fs_remove_tree(AT_FDCWD, p->base);
}

/* What opening root/path, and sub below it, gives: 0 and where it leads, or -errno. */
static int try(struct place *p, const char *path, const char *sub, char *where, struct err *err)
{
	struct volumes v;
	char text[1024], link[32];

	snprintf(text, sizeof(text), V("'mountPath':'/m','host':{'path':'%s%s'},'subPath':'%s'"), p->root,
		 path, sub);
	json_t *array = parse(text);
	assert_int_equal(volumes_parse(array, p->allowed, &v, err), 0);
	json_decref(array);
	int r = volumes_open(&v, p->allowed, p->state, err);
	if (r == 0) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", v.list[0].fd);
		ssize_t n = readlink(link, where, PATH_MAX - 1);
		assert_true(n > 0);
		where[n] = '\0';
	}
	volumes_done(&v);
	return r;
}

static void test_opened(void **state)
{
	struct place *p = *state;
	char where[PATH_MAX], wanted[PATH_MAX];
	struct err err;
	static const char *const cases[][3] = {
		{"/a/b/c", "", "/a/b/c"}, /* made */
		{"/a/b/c", "", "/a/b/c"}, /* found */
		{"/a", "x/y", "/a/x/y"},
		{"/relative", "", "/inside"}, /* a link that stays */
	};

	assert_int_equal(try(p, "/inside", "", where, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (try(p, cases[i][0], cases[i][1], where, &err) < 0)
			fail_msg("%s %s: %s", cases[i][0], cases[i][1], err.message);
		snprintf(wanted, sizeof(wanted), "%s%s", p->root, cases[i][2]);
		assert_string_equal(where, wanted);
	}
}

static void test_no_way_out(void **state)
{
	struct place *p = *state;
	char where[PATH_MAX];
	struct err err;
	static const char *const cases[][3] = {
		{"/absolute", "", "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{"/absolute/ssl", "", "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{"/up", "", "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{"/up/made", "", "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{"", "absolute", "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{"/state", "", "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{"/state/made", "", "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{"/to-state", "", "VOLUME::HOST_PATH_NOT_ALLOWED"},
		{"", "", "VOLUME::HOST_PATH_NOT_ALLOWED"}, /* the state lies in it */
		{"/dangling", "", "VOLUME::HOST_PATH_CREATE_FAILED"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (try(p, cases[i][0], cases[i][1], where, &err) == 0)
			fail_msg("%s %s leads to %s", cases[i][0], cases[i][1], where);
		if (strcmp(err.code, cases[i][2]) != 0)
			fail_msg("%s %s: %s: %s", cases[i][0], cases[i][1], err.code, err.message);
	}
}

static void test_no_special_files(void **state)
{
	struct place *p = *state;
	char path[PATH_MAX], where[PATH_MAX];
	struct err err;

	snprintf(path, sizeof(path), "%s/fifo", p->root);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_true(try(p, "/fifo", "", where, &err) < 0);
	assert_string_equal(err.code, "VOLUME::INVALID_HOST_PATH");
	snprintf(path, sizeof(path), "%s/file", p->root);
	assert_int_equal(fs_write_file(AT_FDCWD, path, "x", 1, 0600), 0);
	assert_int_equal(try(p, "/file", "", where, &err), 0);
	assert_true(try(p, "/file", "x", where, &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words_refused),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_no_path_allowed),
		cmocka_unit_test(test_taken),
		cmocka_unit_test_setup_teardown(test_opened, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_no_way_out, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_no_special_files, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
