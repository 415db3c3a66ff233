/*
 * spec.c - writes what the daemon is asked for; no state.
 */
#include <stdio.h>
#include <string.h>

#include "lib/base64.h"
#include "sandboxd/agent.h"
#include "sandboxd/docker/box.h"

#define CPU_PERIOD_USEC 100000
#define CPU_QUOTA_MIN	1000
#define MEMORY_NO_LIMIT (1ull << 62)
#define LOG_MAX_SIZE	"8m" /* of a container's output the daemon keeps */
#define TAR_BLOCK	512

/* ---- what runs --------------------------------------------------------------- */

static bool on_host_network(const struct config *c)
{
	return strcmp(c->docker.network_mode, "host") == 0;
}

/* The agent before the user's program: PID 1, needing nothing of the image. */
static json_t *entrypoint_json(const struct docker *d, const struct runtime_spec *spec)
{
	static const char *const any_port[] = {"--host", "127.0.0.1", "--port", "0"};
	json_t *a = json_pack("[s, s, s, s, s]", EXECD_INSIDE, "--init", "--announce", "--log-level", "warn");

	for (size_t i = 0; on_host_network(d->config) && i < ARRAY_SIZE(any_port); i++)
		(void)json_array_append_new(a, json_string(any_port[i]));
	if (spec->spare) { /* it is told the rest */
		(void)json_array_append_new(a, json_string("--claim-fd"));
		(void)json_array_append_new(a, json_string("0"));
		return a;
	}
	if (spec->token) {
		(void)json_array_append_new(a, json_string("--access-token-once"));
		(void)json_array_append_new(a, json_string(TOKEN_FILE));
	}
	(void)json_array_append_new(a, json_string("--"));
	(void)json_array_extend(a, (json_t *)spec->entrypoint);
	return a;
}

static json_t *env_json(const struct docker *d, const struct runtime_spec *spec)
{
	json_t *a = json_array(), *value;
	const char *key = NULL;

	for (char *const *e = d->config->docker.sandbox_env; e && *e; e++) {
		char name[256];
		(void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(*e, "="), *e);
		if (!json_object_get(spec->env, name))
			(void)json_array_append_new(a, json_string(*e));
	}
	json_object_foreach((json_t *)spec->env, key, value)(void)
		json_array_append_new(a, json_sprintf("%s=%s", key, json_string_value(value)));
	return a;
}

static json_t *labels_json(const struct docker *d, const struct runtime_box *box,
			   const struct runtime_spec *spec)
{
	json_t *o =
		json_pack("{s:s, s:s, s:s}", LABEL_ID, box->id, LABEL_OWNER, d->owner, LABEL_AGENT, d->agent);

	if (spec->record)
		(void)json_object_set_new(o, LABEL_RECORD, json_string(spec->record));
	(void)json_object_set_new(o, LABEL_SNAPSHOT, json_string(spec->snapshot ? spec->snapshot : ""));
	return o;
}

/* ---- how it is confined --------------------------------------------------------- */

static json_t *security_json(const struct docker *d)
{
	const struct config_docker *c = &d->config->docker;
	json_t *a = json_array();

	if (c->no_new_privileges)
		(void)json_array_append_new(a, json_string("no-new-privileges"));
	if (c->apparmor_profile)
		(void)json_array_append_new(a, json_sprintf("apparmor=%s", c->apparmor_profile));
	if (d->seccomp)
		(void)json_array_append_new(a, json_sprintf("seccomp=%s", d->seccomp));
	return a;
}

static json_t *strings(char *const *list)
{
	json_t *a = json_array();
	for (; list && *list; list++)
		(void)json_array_append_new(a, json_string(*list));
	return a;
}

static json_t *ports_json(const struct config *c)
{
	char key[16], range[24] = ""; /* "": whichever the engine likes */

	(void)snprintf(key, sizeof(key), "%d/tcp", EXECD_PORT_INSIDE);
	if (c->docker.port_range_min && c->docker.port_range_max)
		(void)snprintf(range, sizeof(range), "%u-%u", c->docker.port_range_min,
			       c->docker.port_range_max);
	return json_pack("{s:[{s:s, s:s}]}", key, "HostIp", c->docker.publish_host, "HostPort", range);
}

static json_t *mounts_json(const struct docker *d)
{
	return json_pack("[{s:s, s:o, s:s, s:b}]", "Type", "bind", "Source",
			 json_sprintf("%s/%s", d->agents, d->agent), "Target", "/.execd", "ReadOnly", 1);
}

/* As the known server drops them. */
static const char *const dropped[] = {
	"AUDIT_WRITE", "MKNOD",	     "NET_ADMIN", "NET_RAW",	    "SYS_ADMIN",
	"SYS_MODULE",  "SYS_PTRACE", "SYS_TIME",  "SYS_TTY_CONFIG", NULL,
};

/* Swap counts too: a limit that swapping gets around is none. */
static void put_memory(json_t *o, uint64_t bytes)
{
	if (!bytes)
		return;
	(void)json_object_set_new(o, "Memory", json_integer((json_int_t)bytes));
	(void)json_object_set_new(o, "MemorySwap", json_integer((json_int_t)bytes));
}

static void put_cpu(json_t *o, uint64_t millis)
{
	json_int_t quota = (json_int_t)(millis * CPU_PERIOD_USEC / 1000);

	(void)json_object_set_new(o, "CpuPeriod", json_integer(CPU_PERIOD_USEC));
	(void)json_object_set_new(o, "CpuQuota", json_integer(MAX(quota, CPU_QUOTA_MIN)));
}

/* 0 would mean that nothing changes. */
char *spec_update(const struct runtime_limits *has, const struct runtime_limits *wanted)
{
	json_t *o = json_object();

	if (wanted->memory_bytes != has->memory_bytes)
		put_memory(o, wanted->memory_bytes ? wanted->memory_bytes : MEMORY_NO_LIMIT);
	if (wanted->cpu_millis != has->cpu_millis && wanted->cpu_millis)
		put_cpu(o, wanted->cpu_millis);
	else if (wanted->cpu_millis != has->cpu_millis)
		(void)json_object_set_new(o, "CpuQuota", json_integer(-1));
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	return text;
}

static json_t *host_json(const struct docker *d, const struct runtime_spec *spec, json_t *mounts)
{
	const struct config *c = d->config;
	const struct runtime_limits *l = &spec->limits;
	json_t *o = json_pack(
		"{s:o, s:o, s:o, s:s, s:b, s:{s:s}, s:{s:s, s:{s:s}}}", "CapDrop",
		strings(c->docker.drop_capabilities ? c->docker.drop_capabilities : (char *const *)dropped),
		"SecurityOpt", security_json(d), "Mounts", mounts, "NetworkMode", c->docker.network_mode,
		"Init", 0, "RestartPolicy", "Name", "no", "LogConfig", "Type", "json-file", "Config",
		"max-size", LOG_MAX_SIZE);

	if (!on_host_network(c))
		(void)json_object_set_new(o, "PortBindings", ports_json(c));
	if (c->docker.sandbox_binds)
		(void)json_object_set_new(o, "Binds", strings(c->docker.sandbox_binds));
	if (c->docker.runtime)
		(void)json_object_set_new(o, "Runtime", json_string(c->docker.runtime));
	put_memory(o, l->memory_bytes);
	if (l->cpu_millis)
		put_cpu(o, l->cpu_millis);
	if (l->pids)
		(void)json_object_set_new(o, "PidsLimit", json_integer(l->pids));
	return o;
}

int spec_container(const struct docker *d, const struct runtime_box *box, const struct runtime_spec *spec,
		   char **ret, struct err *err)
{
	char port[16];

	json_t *mounts = mounts_json(d);
	int r = docker_volumes_mount(d, spec->volumes, mounts, err);
	if (r < 0) {
		json_decref(mounts);
		return r;
	}
	(void)snprintf(port, sizeof(port), "%d/tcp", EXECD_PORT_INSIDE);
	json_t *image = spec->snapshot ? json_sprintf("%s:%s", SNAPSHOT_REPO, spec->snapshot)
				       : json_string(spec->image.uri);
	json_t *o = json_pack("{s:o, s:o, s:[], s:o, s:s, s:o, s:{s:{}}, s:{s:[s]}, s:o}", "Image", image,
			      "Entrypoint", entrypoint_json(d, spec), "Cmd", "Env", env_json(d, spec),
			      "Hostname", "sandbox", "Labels", labels_json(d, box, spec), "ExposedPorts",
			      port, "Healthcheck", "Test", "NONE", "HostConfig", host_json(d, spec, mounts));
	if (spec->spare) { /* its input is ours, and ends with the one connection that ever has it */
		(void)json_object_set_new(o, "OpenStdin", json_true());
		(void)json_object_set_new(o, "StdinOnce", json_true());
	}
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	if (!text)
		return err_set(err, ERR_INVALID, START_CODE, EINVAL,
			       "the container cannot be described: an argument or variable is no text");
	*ret = text;
	return 0;
}

/* ---- images ------------------------------------------------------------------------- */

/* The registry of a reference: its first part, when that looks like a host. */
static void registry_of(const char *image, char *out, size_t size)
{
	size_t n = strcspn(image, "/");

	if (image[n] && (memchr(image, '.', n) || memchr(image, ':', n) ||
			 (n == 9 && strncmp(image, "localhost", n) == 0)))
		(void)snprintf(out, size, "%.*s", (int)n, image);
	else
		(void)snprintf(out, size, "https://index.docker.io/v1/");
}

int spec_registry_auth(const struct runtime_image *image, char **ret, struct err *err)
{
	_cleanup_buf_ struct buf b = BUF_INIT(16384);
	char registry[320];

	registry_of(image->uri, registry, sizeof(registry));
	json_t *o = json_pack("{s:s, s:s, s:s}", "username", image->username, "password", image->password,
			      "serveraddress", registry);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	int r = text ? base64_encode(&b, text, strlen(text)) : -EINVAL;
	if (text) {
		explicit_bzero(text, strlen(text));
		free(text);
	}
	for (size_t i = 0; r == 0 && i < b.len; i++) /* the alphabet for URLs */
		b.data[i] = b.data[i] == '+' ? '-' : b.data[i] == '/' ? '_' : b.data[i];
	char *copy = r == 0 && buf_cstr(&b) ? strdup((char *)b.data) : NULL;
	if (b.data)
		explicit_bzero(b.data, b.len);
	if (!copy)
		return err_set(err, ERR_INVALID, START_CODE, EINVAL, "image.auth cannot be sent");
	*ret = copy;
	return 0;
}

int spec_pull_path(const char *image, struct buf *out)
{
	size_t n = strcspn(image, "@");
	const char *tag = image[n] ? image + n + 1 : NULL;

	for (size_t i = n; !tag && i > 0 && image[i - 1] != '/'; i--)
		if (image[i - 1] == ':') {
			tag = image + i;
			n = i - 1;
		}
	_cleanup_free_ char *name = strndup(image, n);
	if (!name)
		return -ENOMEM;
	(void)buf_puts(out, "/images/create?fromImage=");
	(void)engine_escape(out, name);
	(void)buf_puts(out, "&tag=");
	return engine_escape(out, tag && *tag ? tag : "latest"); /* without one, all of them would come */
}

/* ---- the token ------------------------------------------------------------------------- */

static int tar_head(struct buf *out, const char *name, unsigned mode, unsigned size, char type)
{
	char head[TAR_BLOCK] = "";
	unsigned sum = 0;

	(void)snprintf(head, 100, "%s", name);
	(void)snprintf(head + 100, 8, "%07o", mode);
	(void)snprintf(head + 108, 8, "%07o", 0U);
	(void)snprintf(head + 116, 8, "%07o", 0U);
	(void)snprintf(head + 124, 12, "%011o", size);
	(void)snprintf(head + 136, 12, "%011o", 0U);
	memset(head + 148, ' ', 8);
	head[156] = type;
	memcpy(head + 257, "ustar\00000", 8);
	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += (unsigned char)head[i];
	(void)snprintf(head + 148, 8, "%06o", sum);
	return buf_append(out, head, sizeof(head));
}

/*
 * The image's own user reads and removes it, whoever that is: so everybody may,
 * but nobody is there before the agent.
 */
int spec_token_tar(const char *token, struct buf *out)
{
	static const char zeros[3 * TAR_BLOCK];
	size_t n = strlen(token);

	(void)tar_head(out, ".execd-token/", 0777, 0, '5');
	(void)tar_head(out, TOKEN_FILE + 1, 0644, (unsigned)n, '0');
	(void)buf_append(out, token, n);
	(void)buf_append(out, zeros, TAR_BLOCK - n % TAR_BLOCK + 2 * TAR_BLOCK);
	return out->failed ? -ENOBUFS : 0;
}
