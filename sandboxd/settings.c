/*
 * settings.c - the table of settings and the reader that it drives.
 *
 * A row says where a value goes and which values are allowed. Rows without a
 * place are names of the known server that mean nothing here: a configuration
 * written for it is read without noise.
 */
#include "sandboxd/settings.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "lib/fs.h"
#include "sandboxd/runtimes.h"
#include "sandboxd/toml.h"

#define FILE_MAX_BYTES (1U << 20)

enum kind {
	SET_STRING,
	SET_U16,
	SET_U32,
	SET_BOOL,
	SET_LOG_LEVEL,
	SET_RUNTIME, /* the one word it may be */
	SET_PATH,    /* "~/" is the home directory */
	SET_PATHS,   /* an array of absolute paths */
	SET_STRINGS, /* an array of strings */
	SET_NETWORK, /* a word of network_mode_parse() */
	SET_PAIRS,   /* a table of strings, kept as "NAME=value" */
	SET_SECURE,  /* "", or a kind of runtime */
	SET_NOTHING, /* known, and without a meaning here */
};

struct setting {
	const char *section, *key;
	enum kind kind;
	size_t offset; /* in struct config */
	uint32_t min, max;
	const char *example; /* the default as it is written */
	const char *help;
};

#define AT(field) offsetof(struct config, field)

static const struct setting settings[] = {
	{"server", "host", SET_STRING, AT(listen_host), 0, 0, "\"127.0.0.1\"", "address to listen on"},
	{"server", "port", SET_U16, AT(listen_port), 0, 65535, "8080", "port to listen on; 0: any"},
	{"server", "api_key", SET_STRING, AT(api_key), 0, 0, NULL,
	 "what requests must carry in OPEN-SANDBOX-API-KEY; keep this file private"},
	{"server", "max_sandbox_timeout_seconds", SET_U32, AT(timeout_max_s), 60, TIMEOUT_MAX_S, NULL,
	 "longest timeout that a create may ask for"},
	{"log", "level", SET_LOG_LEVEL, AT(log_level), 0, 0, "\"INFO\"", "ERROR, WARN, INFO or DEBUG"},
	{"runtime", "type", SET_RUNTIME, 0, 0, 0, "\"oci\"",
	 "what makes the containers: oci, the embedded runtime, or docker, the daemon that DOCKER_HOST "
	 "names"},
	{"network", "mode", SET_NETWORK, AT(network), 0, 0, "\"auto\"",
	 "of sandboxes (oci): none, bridge, host, or auto: bridge where the CNI plugins are, else none"},
	{"network", "bridge", SET_STRING, AT(network_bridge), 0, 0, "\"sandboxd0\"",
	 "name of the bridge; each sandboxd of a host needs one of its own"},
	{"network", "subnet", SET_STRING, AT(network_subnet), 0, 0, "\"10.44.0.0/16\"",
	 "addresses of the bridge; each sandboxd of a host needs some of its own"},
	{"network", "nameservers", SET_STRINGS, AT(nameservers), 0, 0, "[]",
	 "that sandboxes on the bridge ask; none: those that the host asks, but for its own loopback"},
	{"network", "reach_host", SET_BOOL, AT(reach_host), 0, 0, "false",
	 "sandboxes on the bridge may open connections to addresses of the host and link-local ones"},
	{"network", "reach_sandboxes", SET_BOOL, AT(reach_sandboxes), 0, 0, "false",
	 "sandboxes on the bridge may open connections to each other"},
	{"network", "cni_path", SET_PATH, AT(cni_path), 0, 0, "\"/usr/lib/cni\"",
	 "directory of the CNI plugins"},
	{"docker", "pids_limit", SET_U32, AT(pids_max), 1, 4194304, "4096", "processes in one sandbox"},
	{"docker", "network_mode", SET_STRING, AT(docker.network_mode), 0, 0, "\"bridge\"",
	 "bridge, host, or a network that the daemon has"},
	{"docker", "publish_host", SET_STRING, AT(docker.publish_host), 0, 0, "\"127.0.0.1\"",
	 "address on which the daemon publishes the agents' ports; 0.0.0.0: all"},
	{"docker", "port_range_min", SET_U32, AT(docker.port_range_min), 1024, 65535, NULL,
	 "with port_range_max: the ports it may choose from; default: any"},
	{"docker", "port_range_max", SET_U32, AT(docker.port_range_max), 1024, 65535, NULL, "see above"},
	{"docker", "api_timeout", SET_U32, AT(docker.api_timeout_s), 1, 86400, "180",
	 "seconds that the daemon may take for an answer"},
	{"docker", "drop_capabilities", SET_STRINGS, AT(docker.drop_capabilities), 0, 0,
	 "[\"AUDIT_WRITE\", \"MKNOD\", \"NET_ADMIN\", \"NET_RAW\", \"SYS_ADMIN\", \"SYS_MODULE\", "
	 "\"SYS_PTRACE\", \"SYS_TIME\", \"SYS_TTY_CONFIG\"]",
	 "capabilities that no container has; with oci, of the usual ones, AUDIT_WRITE and MKNOD never are"},
	{"docker", "no_new_privileges", SET_BOOL, AT(docker.no_new_privileges), 0, 0, "true",
	 "no program in a container gains privileges by its file's bits"},
	{"docker", "seccomp_profile", SET_PATH, AT(docker.seccomp_profile), 0, 0, NULL,
	 "file of a seccomp profile, unconfined, or nested: the one built in, with which rooms can be made; "
	 "default: with docker the daemon's, with oci the one built in"},
	{"docker", "apparmor_profile", SET_STRING, AT(docker.apparmor_profile), 0, 0, NULL,
	 "name of an AppArmor profile; default: the daemon's"},
	{"docker", "sandbox_env", SET_PAIRS, AT(docker.sandbox_env), 0, 0, "{}",
	 "variables of every container; those of a request win"},
	{"docker", "sandbox_binds", SET_STRINGS, AT(docker.sandbox_binds), 0, 0, "[]",
	 "mounts of every container, as host_path:container_path[:mode]"},
	{"secure_runtime", "type", SET_SECURE, AT(docker.secure_type), 0, 0, "\"\"",
	 "gvisor or kata, with docker_runtime"},
	{"secure_runtime", "docker_runtime", SET_STRING, AT(docker.runtime), 0, 0, NULL,
	 "the daemon's name of the runtime, such as runsc"},
	{"storage", "allowed_host_paths", SET_PATHS, AT(allowed_host_paths), 0, 0, "[]",
	 "paths of this host under which volumes of the kind host may lie; none: such volumes are refused"},
	{"sandboxd", "state", SET_PATH, AT(state_dir), 0, 0, "\"/var/lib/sandboxd\"",
	 "directory of the store, images and sandboxes"},
	{"sandboxd", "execd", SET_PATH, AT(execd), 0, 0, NULL, "the agent; default: execd beside sandboxd"},
	{"sandboxd", "oci_runtime", SET_STRING, AT(runtime), 0, 0, "\"crun\"", "OCI runtime: path or name"},
	{"sandboxd", "nested_isolation", SET_BOOL, AT(nested_isolation), 0, 0, "true",
	 "let sandboxes make namespaces in themselves (oci), which isolated sessions and commands inside "
	 "need; false: "
	 "the seccomp profile forbids it"},
	{"sandboxd", "image_pull", SET_BOOL, AT(pull_images), 0, 0, "true",
	 "fetch images that [images] does not name from their registries (with skopeo and umoci)"},
	{"sandboxd", "image_paths", SET_PATHS, AT(image_paths), 0, 0, "[]",
	 "directories below which clients may name images as dir:/PATH, oci:/PATH, oci-archive:/PATH and "
	 "docker-archive:/PATH"},
	{"sandboxd", "image_max_mb", SET_U32, AT(image_max_mb), 1, 1048576, "20480",
	 "largest image, unpacked, in MiB"},
	{"sandboxd", "image_timeout_seconds", SET_U32, AT(image_max_s), 1, 86400, "900",
	 "how long fetching and unpacking an image may take"},
	{"sandboxd", "image_pulls_max", SET_U32, AT(image_pulls_max), 1, 64, "3", "images fetched at once"},
	{"sandboxd", "images_max", SET_U32, AT(images_max), 1, 100000, "256",
	 "unpacked images kept; for one more, one that nobody uses goes"},
	{"sandboxd", "image_keep_seconds", SET_U32, AT(image_keep_s), 0, 31622400, "0",
	 "an unpacked image that nobody uses is removed after; 0: it is kept"},
	{"sandboxd", "registry_auth_file", SET_PATH, AT(registry_auth), 0, 0, NULL,
	 "logins of registries, as docker's config.json has them; used where a request brings none"},
	{"sandboxd", "insecure_registries", SET_STRINGS, AT(insecure_registries), 0, 0, "[]",
	 "HOST or HOST:PORT of registries from which plain HTTP and unverified certificates are accepted"},
	{"sandboxd", "container_log_max_kb", SET_U32, AT(container_log_max_kb), 512, 16777216, "16384",
	 "what is kept of a sandbox's own output, in KiB; the oldest is dropped"},
	{"sandboxd", "max_sandboxes", SET_U32, AT(sandboxes_max), 1, 1000000, "4096", "live at once"},
	{"sandboxd", "pool_starts", SET_U32, AT(pool_starts), 1, 64, "2",
	 "sandboxes of the pool that start at once"},
	{"sandboxd", "disk_mib", SET_U32, AT(disk_mib), 0, 8u << 20, "0",
	 "room on disk of a sandbox whose resourceLimits name none, 8 or more; 0: not limited"},
	{"sandboxd", "min_free_mib", SET_U32, AT(free_min_mib), 0, 1u << 30, "64",
	 "room that must be left below state for a sandbox to be made"},
	{"sandboxd", "provision_timeout_seconds", SET_U32, AT(provision_max_s), 1, 86400, "60",
	 "how long a start may take"},
	{"sandboxd", "stop_timeout_seconds", SET_U32, AT(stop_max_s), 1, 86400, "30",
	 "how long an end may take before it is forced"},
	{"sandboxd", "tombstone_seconds", SET_U32, AT(tombstone_s), 0, 31622400, "3600",
	 "how long an ended sandbox is remembered"},
	{"sandboxd", "kill_on_exit", SET_BOOL, AT(kill_on_exit), 0, 0, "false",
	 "end every sandbox when sandboxd ends"},
	{"sandboxd", "insecure", SET_BOOL, AT(insecure), 0, 0, "false",
	 "allow listening beyond loopback without a key"},

	{"docker", "host_ip", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"secure_runtime", "k8s_runtime_class", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"server", "timeout_keep_alive", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"server", "limit_concurrency", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"server", "timeout_graceful_shutdown", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"server", "backlog", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"server", "thread_pool_size", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"server", "loop", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"server", "http", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"runtime", "execd_image", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"runtime", "execd_run_as_init", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"proxy", "resolve_internal", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"storage", "volume_default_size", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"store", "type", SET_NOTHING, 0, 0, 0, NULL, NULL},
	{"store", "path", SET_NOTHING, 0, 0, 0, NULL, NULL},
};

/* ---- reading ------------------------------------------------------------------ */

static int wrong(const struct setting *s, const struct toml *v, struct err *err, const char *wanted)
{
	return err_set(err, ERR_INVALID, "CONFIG", EINVAL, "line %u: %s.%s: expected %s, got %s", v->line,
		       s->section, s->key, wanted, toml_type_name(v->type));
}

static char *home_path(const char *path)
{
	const char *home = getenv("HOME");
	char *full = NULL;
	if (strncmp(path, "~/", 2) != 0)
		return strdup(path);
	return asprintf(&full, "%s%s", home && *home ? home : "/root", path + 1) < 0 ? NULL : full;
}

static int set_text(const struct setting *s, const struct toml *v, struct config *c, struct err *err)
{
	char **slot = (char **)((char *)c + s->offset);
	if (v->type != TOML_STRING)
		return wrong(s, v, err, "a string");
	if (v->string_n == 0 || strlen(v->string) != v->string_n)
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL, "line %u: %s.%s: %s", v->line, s->section,
			       s->key, v->string_n ? "holds a NUL character" : "is empty");
	char *copy = s->kind == SET_PATH ? home_path(v->string) : strdup(v->string);
	if (!copy)
		return err_sys(err, "CONFIG", ENOMEM, "read the configuration");
	free(*slot);
	*slot = copy;
	return 0;
}

static char *item_text(const struct setting *s, const struct toml *e)
{
	char *pair = NULL;
	if (s->kind != SET_PAIRS)
		return strdup(e->string);
	return asprintf(&pair, "%s=%s", e->key, e->string) < 0 ? NULL : pair;
}

static int check_item(const struct setting *s, const struct toml *e, struct err *err)
{
	if (e->type != TOML_STRING)
		return wrong(s, e, err, "a string");
	if (strlen(e->string) != e->string_n || (s->kind == SET_STRINGS && !e->string_n) ||
	    (s->kind == SET_PAIRS && (!*e->key || strchr(e->key, '='))))
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL, "line %u: %s.%s: '%.200s' %s", e->line,
			       s->section, s->key, s->kind == SET_PAIRS ? e->key : e->string,
			       s->kind == SET_PAIRS ? "is not a variable"
						    : "is empty or holds a NUL character");
	if (s->kind == SET_PATHS && (e->string[0] != '/' || strstr(e->string, "/..")))
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
			       "line %u: %s.%s: '%.200s' is not an absolute path without '..'", e->line,
			       s->section, s->key, e->string);
	return 0;
}

static int set_list(const struct setting *s, const struct toml *v, struct config *c, struct err *err)
{
	char ***slot = (char ***)((char *)c + s->offset);
	size_t n = 0;

	if (v->type != (s->kind == SET_PAIRS ? TOML_TABLE : TOML_ARRAY))
		return wrong(s, v, err, s->kind == SET_PAIRS ? "a table of strings" : "an array of strings");
	for (const struct toml *e = v->first; e; e = e->next, n++) {
		int r = check_item(s, e, err);
		if (r < 0)
			return r;
	}
	char **list = calloc(n + 1, sizeof(*list));
	if (!list)
		return err_sys(err, "CONFIG", ENOMEM, "read the configuration");
	n = 0;
	for (const struct toml *e = v->first; e; e = e->next)
		if (!(list[n++] = item_text(s, e))) {
			config_free_list(list);
			return err_sys(err, "CONFIG", ENOMEM, "read the configuration");
		}
	config_free_list(*slot);
	*slot = list;
	return 0;
}

static int set_number(const struct setting *s, const struct toml *v, struct config *c, struct err *err)
{
	if (v->type != TOML_INTEGER)
		return wrong(s, v, err, "an integer");
	if (v->integer < s->min || v->integer > s->max)
		return err_set(err, ERR_INVALID, "CONFIG", ERANGE,
			       "line %u: %s.%s: %lld is not from %u to %u", v->line, s->section, s->key,
			       (long long)v->integer, s->min, s->max);
	if (s->kind == SET_U16)
		*(uint16_t *)((char *)c + s->offset) = (uint16_t)v->integer;
	else
		*(uint32_t *)((char *)c + s->offset) = (uint32_t)v->integer;
	return 0;
}

static int set_log_level(const struct setting *s, const struct toml *v, struct config *c, struct err *err)
{
	char lower[16] = "";
	if (v->type != TOML_STRING)
		return wrong(s, v, err, "a string");
	for (size_t i = 0; i < MIN(v->string_n, sizeof(lower) - 1); i++)
		lower[i] = (char)(v->string[i] | 0x20);
	if (strcmp(lower, "warning") == 0)
		lower[4] = '\0';
	if (log_level_parse(strcmp(lower, "critical") == 0 ? "error" : lower, &c->log_level) < 0)
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
			       "line %u: %s.%s: '%s' is none of ERROR, WARN, INFO, DEBUG", v->line,
			       s->section, s->key, v->string);
	return 0;
}

static int set_runtime(const struct setting *s, const struct toml *v, struct config *c, struct err *err)
{
	if (v->type != TOML_STRING)
		return wrong(s, v, err, "a string");
	const struct runtime_kind *kind = runtime_kind_find(v->string);
	if (kind) {
		c->runtime_kind = kind;
		return 0;
	}
	_cleanup_buf_ struct buf words = BUF_INIT(1024);
	runtime_kind_words(&words);
	return err_set(err, ERR_NOT_SUPPORTED, "CONFIG", EINVAL,
		       "line %u: %s.%s: '%s' is not built into this sandboxd; what there is: %s", v->line,
		       s->section, s->key, v->string, words.failed ? "" : buf_cstr(&words));
}

static int set_secure(const struct setting *s, const struct toml *v, struct config *c, struct err *err)
{
	static const char *const words[] = {"gvisor", "kata", "firecracker"};

	if (v->type == TOML_STRING && v->string_n == 0)
		return 0;
	for (size_t i = 0; v->type == TOML_STRING && i < ARRAY_SIZE(words); i++)
		if (strcmp(v->string, words[i]) == 0)
			return set_text(s, v, c, err);
	return wrong(s, v, err, "\"\", \"gvisor\", \"kata\" or \"firecracker\"");
}

static int set_one(const struct setting *s, const struct toml *v, struct config *c, struct err *err)
{
	switch (s->kind) {
	case SET_STRING:
	case SET_PATH:
		return set_text(s, v, c, err);
	case SET_NETWORK:
		if (v->type != TOML_STRING)
			return wrong(s, v, err, "a string");
		if (network_mode_parse(v->string, &c->network) < 0)
			return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
				       "line %u: %s.%s: '%.64s' is none of none, bridge, host, auto", v->line,
				       s->section, s->key, v->string);
		return 0;
	case SET_PATHS:
	case SET_STRINGS:
	case SET_PAIRS:
		return set_list(s, v, c, err);
	case SET_SECURE:
		return set_secure(s, v, c, err);
	case SET_U16:
	case SET_U32:
		return set_number(s, v, c, err);
	case SET_BOOL:
		if (v->type != TOML_BOOL)
			return wrong(s, v, err, "a boolean");
		*(bool *)((char *)c + s->offset) = v->boolean;
		return 0;
	case SET_LOG_LEVEL:
		return set_log_level(s, v, c, err);
	case SET_RUNTIME:
		return set_runtime(s, v, c, err);
	case SET_NOTHING:
		log_info("%s.%s (line %u) has no meaning here and is passed over", s->section, s->key,
			 v->line);
		break;
	}
	return 0;
}

static const struct setting *find(const char *section, const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		if (strcmp(settings[i].section, section) == 0 && strcmp(settings[i].key, key) == 0)
			return &settings[i];
	return NULL;
}

static bool section_known(const char *section)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		if (strcmp(settings[i].section, section) == 0)
			return true;
	return false;
}

/* [images]: the name that clients use (a glob) = the root it runs on */
static int load_images(const struct toml *table, struct config *c, struct err *err)
{
	for (const struct toml *v = table->first; v; v = v->next) {
		struct err why;
		if (v->type != TOML_STRING)
			return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
				       "line %u: images.%s: expected a string, got %s", v->line, v->key,
				       toml_type_name(v->type));
		if (image_table_add(&c->images, v->key, v->string, &why) < 0)
			return err_set(err, ERR_INVALID, "CONFIG", EINVAL, "line %u: images.%s: %.300s",
				       v->line, v->key, why.message);
	}
	return 0;
}

/* [pool]: an image = how many started sandboxes are kept for it */
static int load_pool(const struct toml *table, struct config *c, struct err *err)
{
	for (const struct toml *v = table->first; v; v = v->next) {
		if (v->type != TOML_INTEGER)
			return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
				       "line %u: pool.\"%.200s\": expected an integer, got %s", v->line,
				       v->key, toml_type_name(v->type));
		if (v->integer < 0 || v->integer > POOL_SIZE_MAX)
			return err_set(err, ERR_INVALID, "CONFIG", ERANGE,
				       "line %u: pool.\"%.200s\": %lld is not from 0 to %d", v->line, v->key,
				       (long long)v->integer, POOL_SIZE_MAX);
		if (config_add_pool(c, v->key, (uint32_t)v->integer) < 0)
			return err_sys(err, "CONFIG", ENOMEM, "read the configuration");
	}
	return 0;
}

static int load_section(const struct toml *table, struct config *c, struct err *err)
{
	if (strcmp(table->key, "images") == 0 && table->type == TOML_TABLE)
		return load_images(table, c, err);
	if (strcmp(table->key, "pool") == 0 && table->type == TOML_TABLE)
		return load_pool(table, c, err);
	if (table->type != TOML_TABLE || !section_known(table->key)) {
		log_warn("%s (line %u) is not a section of the configuration", table->key, table->line);
		return 0;
	}
	for (const struct toml *v = table->first; v; v = v->next) {
		const struct setting *s = find(table->key, v->key);
		int r = s ? set_one(s, v, c, err) : 0;
		if (r < 0)
			return r;
		if (!s)
			log_warn("%s.%s (line %u) is not a setting", table->key, v->key, v->line);
	}
	return 0;
}

char *settings_default_path(void)
{
	const char *given = getenv("SANDBOX_CONFIG_PATH");
	char *path = home_path(given && *given ? given : "~/.sandbox.toml");
	/* A file that was named must be there; the one at home may be. */
	if (path && !(given && *given) && access(path, F_OK) < 0) {
		free(path);
		return NULL;
	}
	return path;
}

int settings_load(const char *path, struct config *c, struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(FILE_MAX_BYTES);
	struct toml *root;
	struct err why;
	int r = fs_read_file(AT_FDCWD, path, &text);
	if (r < 0)
		return err_sys(err, "CONFIG", -r, "read the configuration '%s'", path);
	r = toml_parse((const char *)text.data, text.len, &root, &why);
	if (r >= 0) {
		for (const struct toml *t = root->first; t && r >= 0; t = t->next)
			r = load_section(t, c, &why);
		toml_free(root);
	}
	if (text.data)
		explicit_bzero(text.data, text.len); /* it may have held the key */
	return r < 0 ? err_set(err, ERR_INVALID, "CONFIG", EINVAL, "%.200s: %.280s", path, why.message) : 0;
}

/* ---- writing ------------------------------------------------------------------- */

static void put_setting(struct buf *out, const struct setting *s)
{
	(void)buf_printf(out, "# %s\n", s->help);
	if (s->example)
		(void)buf_printf(out, "%s = %s\n", s->key, s->example);
	else if (s->kind == SET_U32)
		(void)buf_printf(out, "# %s = %u\n", s->key, s->max);
	else
		(void)buf_printf(out, "# %s = \"...\"\n", s->key);
}

static void put_all(struct buf *out)
{
	const char *section = "";
	(void)buf_puts(out, "# Configuration of sandboxd. What is left out keeps the value shown here.\n");
	for (size_t i = 0; i < ARRAY_SIZE(settings) && settings[i].kind != SET_NOTHING; i++) {
		if (strcmp(section, settings[i].section) != 0)
			(void)buf_printf(out, "\n[%s]\n", settings[i].section);
		section = settings[i].section;
		put_setting(out, &settings[i]);
	}
	(void)buf_puts(out, "\n# The names that clients use for images (globs), and the root each runs on.\n"
			    "[images]\n# \"my-team/*\" = \"host\"\n"
			    "# \"tools\" = \"dir:/srv/tools\"\n# \"alpine\" = \"registry\"\n"
			    "\n# How many started sandboxes are kept ready, by image: a create takes one.\n"
			    "[pool]\n# \"python:3.11\" = 4\n");
}

int settings_write(const char *path, bool force, struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(FILE_MAX_BYTES);
	_cleanup_free_ char *full = home_path(path);
	put_all(&text);
	if (!full || text.failed)
		return err_sys(err, "CONFIG", ENOMEM, "write the configuration");
	int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (force ? O_TRUNC : O_EXCL);
	_cleanup_close_ int fd = open(full, flags, 0600);
	if (fd < 0)
		return errno == EEXIST ? err_set(err, ERR_CONFLICT, "CONFIG", EEXIST,
						 "'%s' is there already; --force overwrites it", full)
				       : err_sys(err, "CONFIG", errno, "write the configuration '%s'", full);
	int r = fs_write_all(fd, text.data, text.len);
	return r < 0 ? err_sys(err, "CONFIG", -r, "write the configuration '%s'", full) : 0;
}
