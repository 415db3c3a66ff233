/*
 * enter_network.c - the network of one sandbox, in oci-enter: a namespace of its
 * own, an interface in it by the CNI plugin, names in its /etc.
 *
 * The namespace is held by this process and then by the container, and by
 * nothing else: however this ends, it goes with the last of them, and both ends
 * of the interface with it. What stays is the address, which DEL gives back.
 */
#include "sandboxd/oci/enter_step.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fs.h"
#include "sandboxd/oci/link.h"
#include "sandboxd/oci/run.h"
#include "sandboxd/volume.h"

#define RESULT	   "network.json"
#define RESULT_MAX 65536
#define INTERFACE  "eth0"
#define RESOLV_MAX 65536

static char address[INET6_ADDRSTRLEN]; /* of the sandbox; "" without a bridge */
static json_t *servers;		       /* that the setting names */
static bool shares_host;

/* ---- the plugin -------------------------------------------------------------------------- */

static json_t *read_json(const char *path)
{
	_cleanup_buf_ struct buf text = BUF_INIT(RESULT_MAX);

	return fs_read_file(AT_FDCWD, path, &text) < 0
		       ? NULL
		       : json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, NULL);
}

/* A plugin says on stdout what is wrong: {"code":7,"msg":"...","details":"..."}. */
static void plugin_error(const struct buf *out, const struct err *err)
{
	json_t *said = out->data ? json_loadb((const char *)out->data, out->len, 0, NULL) : NULL;
	const char *msg = json_string_value(json_object_get(said, "msg"));
	const char *details = json_string_value(json_object_get(said, "details"));

	fprintf(stderr, "oci-enter: the CNI plugin: %s%s%s\n", msg ? msg : err->message,
		details && *details ? ": " : "", details ? details : "");
	json_decref(said);
}

/* config: with prevResult where there is one. netns: a path, or "" when it is gone. */
static int call_plugin(const char *command, const json_t *setup, const json_t *config, const char *netns,
		       struct buf *out)
{
	const char *dir = json_string_value(json_object_get(setup, "plugins"));
	char cwd[PATH_MAX], path[PATH_MAX], env[6][PATH_MAX + 32];
	char *const argv[] = {path, NULL};
	char *const envp[] = {env[0], env[1], env[2], env[3], env[4], env[5], NULL};
	const char *search = getenv("PATH");
	struct err err;

	if (!dir || !getcwd(cwd, sizeof(cwd)))
		return enter_complain("read what the network is to be", NULL, EINVAL);
	(void)snprintf(path, sizeof(path), "%s/bridge", dir);
	(void)snprintf(env[0], sizeof(env[0]), "PATH=%s", search ? search : "");
	(void)snprintf(env[1], sizeof(env[1]), "CNI_COMMAND=%s", command);
	(void)snprintf(env[2], sizeof(env[2]), "CNI_CONTAINERID=%s", strrchr(cwd, '/') + 1);
	(void)snprintf(env[3], sizeof(env[3]), "CNI_NETNS=%s", netns);
	(void)snprintf(env[4], sizeof(env[4]), "CNI_IFNAME=%s", INTERFACE);
	(void)snprintf(env[5], sizeof(env[5]), "CNI_PATH=%s", dir);
	char *text = json_dumps(config, JSON_COMPACT);
	const struct run run = {.path = path, .argv = argv, .envp = envp, .input = text};
	int r = text ? run_program(&run, out, &err) : err_sys(&err, "", ENOMEM, "write its configuration");
	if (r < 0)
		plugin_error(out, &err);
	free(text);
	return r < 0 ? ENTER_FAILED : 0;
}

/* The end on the host: the only one of the result that is in no sandbox and no bridge. */
static const char *host_end(const json_t *result, const json_t *config)
{
	const char *bridge = json_string_value(json_object_get(config, "bridge"));
	size_t i = 0;
	json_t *x;

	json_array_foreach(json_object_get(result, "interfaces"), i, x)
	{
		const char *name = json_string_value(json_object_get(x, "name"));
		if (name && json_string_length(json_object_get(x, "sandbox")) == 0 &&
		    !(bridge && strcmp(name, bridge) == 0))
			return name;
	}
	return NULL;
}

/* ---- ADD --------------------------------------------------------------------------------- */

static int set_sysctl(const char *path, const char *value)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT) /* a kernel without it needs none */
		return 0;
	return fd < 0 || fs_write_all(fd, value, strlen(value)) < 0 ? enter_complain("set", path, errno) : 0;
}

/* ping without a privilege; no address of version 6, which the bridge does not have either. */
static int set_up_namespace(void)
{
	int r = link_loopback_up();
	if (r < 0)
		return enter_complain("bring up the loopback", NULL, -r);
	r = set_sysctl("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
	if (r == 0)
		r = set_sysctl("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
	return r;
}

/* A new namespace, ready; we are back in the one we came from. */
static int make_namespace(int *ret_own)
{
	_cleanup_close_ int host = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	if (host < 0 || unshare(CLONE_NEWNET) < 0)
		return enter_complain("make a network namespace", NULL, errno);
	int r = set_up_namespace();
	*ret_own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (r == 0 && (*ret_own < 0 || setns(host, CLONE_NEWNET) < 0))
		r = enter_complain("go back to the network namespace of the host", NULL, errno);
	return r;
}

static int take_result(const struct buf *out, const json_t *setup)
{
	json_t *result = out->data ? json_loadb((const char *)out->data, out->len, 0, NULL) : NULL;
	const char *cidr = json_string_value(
		json_object_get(json_array_get(json_object_get(result, "ips"), 0), "address"));
	const char *end = host_end(result, json_object_get(setup, "config"));
	int r = 0;

	if (!out->data || !cidr || !end || strcspn(cidr, "/") >= sizeof(address))
		r = enter_complain("understand what the CNI plugin says", NULL, EBADMSG);
	else
		(void)snprintf(address, sizeof(address), "%.*s", (int)strcspn(cidr, "/"), cidr);
	int e = r != 0 ? 0 : fs_write_file(AT_FDCWD, RESULT, out->data, out->len, 0600);
	if (e < 0)
		r = enter_complain("write", RESULT, -e);
	if (r == 0 && json_is_true(json_object_get(setup, "isolate"))) {
		e = link_isolate(end);
		if (e < 0)
			r = enter_complain("isolate", end, -e);
	}
	json_decref(result);
	return r;
}

static int add_interface(const json_t *setup)
{
	_cleanup_buf_ struct buf out = BUF_INIT(RESULT_MAX);
	_cleanup_close_ int own = -EBADF;
	char path[64];

	/* The note that there may be something to undo comes before it. */
	int e = fs_write_file(AT_FDCWD, RESULT, "{}", 2, 0600);
	if (e < 0)
		return enter_complain("write", RESULT, -e);
	int r = make_namespace(&own);
	/* By a path that the plugin's own children can open, too. */
	(void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", getpid(), own);
	if (r == 0)
		r = call_plugin("ADD", setup, json_object_get(setup, "config"), path, &out);
	if (r == 0)
		r = take_result(&out, setup);
	if (r == 0 && setns(own, CLONE_NEWNET) < 0)
		r = enter_complain("enter the network namespace of the sandbox", NULL, errno);
	return r;
}

int enter_network_add(const char *file)
{
	json_t *setup = read_json(file);

	if (!setup)
		return enter_complain("read", file, EBADMSG);
	int r = add_interface(setup);
	servers = json_incref(json_object_get(setup, "nameservers"));
	json_decref(setup);
	return r;
}

/* ---- DEL --------------------------------------------------------------------------------- */

void enter_network_del(const char *file)
{
	_cleanup_buf_ struct buf out = BUF_INIT(RESULT_MAX);
	json_t *setup = read_json(file), *result = read_json(RESULT);
	json_t *config = json_object_get(setup, "config");
	const char *end = host_end(result, config);

	/* The kernel would remove it with the namespace, some time after its last process. */
	int e = end ? link_delete(end) : 0;
	if (e < 0 && e != -ENODEV)
		(void)enter_complain("remove", end, -e);
	if (json_array_size(json_object_get(result, "ips")) > 0)
		(void)json_object_set(config, "prevResult", result);
	if (!setup)
		(void)enter_complain("read", file, EBADMSG);
	else
		(void)call_plugin("DEL", setup, config, "", &out);
	json_decref(setup);
	json_decref(result);
}

/* ---- names -------------------------------------------------------------------------------- */

/* Loopback addresses are the host's own, and the bridge has no version 6. */
static bool reaches(const char *server, size_t n)
{
	char text[INET6_ADDRSTRLEN];
	struct in_addr v4;

	if (n >= sizeof(text))
		return false;
	(void)snprintf(text, sizeof(text), "%.*s", (int)n, server);
	return inet_pton(AF_INET, text, &v4) == 1 && ntohl(v4.s_addr) >> 24 != 127;
}

/* The lines of a resolv.conf that hold in the sandbox; returns how many servers are among them. */
static unsigned filter_resolv(const char *text, struct buf *out)
{
	unsigned n = 0;

	while (*text) {
		size_t len = strcspn(text, "\n"), word = strcspn(text, " \t\n");
		const char *value = text + word + strspn(text + word, " \t");
		bool server = word == 10 && strncmp(text, "nameserver", 10) == 0;
		bool keep = (word == 6 && strncmp(text, "search", 6) == 0) ||
			    (word == 7 && strncmp(text, "options", 7) == 0) ||
			    (server && reaches(value, strcspn(value, " \t\r\n")));
		if (keep)
			(void)buf_printf(out, "%.*s\n", (int)len, text);
		n += keep && server;
		text += len + (text[len] == '\n');
	}
	return n;
}

/* Where the host asks a resolver of its own, that one's servers are in the second file. */
static void host_resolv(struct buf *out)
{
	static const char *const files[] = {"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_buf_ struct buf text = BUF_INIT(RESOLV_MAX);
		buf_clear(out);
		if (fs_read_file(AT_FDCWD, files[i], &text) == 0 && buf_cstr(&text) &&
		    filter_resolv((const char *)text.data, out) > 0)
			return;
	}
	buf_clear(out);
	(void)buf_puts(out,
		       "# No name server of the host can be reached from here; see network.nameservers.\n");
}

/* A new file in place of whatever the image has of that name, also of a link. */
static int replace_file(int etc, const char *name, const struct buf *text)
{
	if (unlinkat(etc, name, 0) < 0 && errno != ENOENT)
		return enter_complain("replace /etc file", name, errno);
	_cleanup_close_ int fd =
		openat(etc, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0 || fchmod(fd, 0644) < 0)
		return enter_complain("make /etc file", name, errno);
	int r = fs_write_all(fd, text->data, text->len);
	return r < 0 ? enter_complain("write /etc file", name, -r) : 0;
}

static int open_etc(void)
{
	_cleanup_close_ int root = open("rootfs", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	return volume_open_inside(root, "etc", true);
}

static int write_hosts(int etc)
{
	_cleanup_buf_ struct buf text = BUF_INIT(1024);

	(void)buf_printf(&text, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n%s sandbox\n",
			 address);
	return replace_file(etc, "hosts", &text);
}

static int write_resolv(int etc)
{
	_cleanup_buf_ struct buf text = BUF_INIT(RESOLV_MAX);
	size_t i = 0;
	json_t *server;

	json_array_foreach(servers, i, server)(void)
		buf_printf(&text, "nameserver %s\n", json_string_value(server));
	if (i == 0)
		host_resolv(&text);
	return replace_file(etc, "resolv.conf", &text);
}

static int copy_host_resolv(int etc)
{
	_cleanup_buf_ struct buf text = BUF_INIT(RESOLV_MAX);

	return fs_read_file(AT_FDCWD, "/etc/resolv.conf", &text) < 0
		       ? 0
		       : replace_file(etc, "resolv.conf", &text);
}

void enter_network_share(void)
{
	shares_host = true;
}

int enter_network_names(void)
{
	if (!*address && !shares_host)
		return 0;
	_cleanup_close_ int etc = open_etc();
	if (etc < 0)
		return enter_complain("open", "/etc of the sandbox", -etc);
	if (shares_host)
		return copy_host_resolv(etc);
	int r = write_hosts(etc);
	return r == 0 ? write_resolv(etc) : r;
}
