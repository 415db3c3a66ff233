/*
 * docker.c - the driver: its table, and what it makes ready before anything is served.
 */
#include "sandboxd/docker/docker.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/random.h"
#include "lib/removal.h"
#include "lib/sha256.h"
#include "sandboxd/agent.h"
#include "sandboxd/docker/box.h"
#include "seccomp/profile.h"

#define ADDRESS_DEFAULT "unix:///var/run/docker.sock"
#define SECCOMP_MAX	(1u << 20) /* bytes of a profile */

/* ---- ready ---------------------------------------------------------------------- */

/* Of this machine and its state directory: also without a store we know what is ours. */
static void name_owner(struct docker *d)
{
	_cleanup_buf_ struct buf machine = BUF_INIT(256);
	struct sha256 sum;
	char hex[SHA256_HEX_MAX];

	(void)fs_read_file(AT_FDCWD, "/etc/machine-id", &machine);
	sha256_init(&sum);
	sha256_add(&sum, machine.data ? machine.data : (const uint8_t *)"", machine.len);
	sha256_add(&sum, d->config->state_dir, strlen(d->config->state_dir));
	(void)snprintf(d->owner, sizeof(d->owner), "%s", sha256_end_hex(&sum, hex));
}

static json_t *parse(const char *begin, const char *end)
{
	return json_loadb(begin, (size_t)(end - begin), 0, NULL);
}

/* The profile of the embedded runtime, with which rooms can be made; what of it is for capabilities is for
 * those that a container here has. */
static int built_in_seccomp(struct docker *d, struct err *err)
{
	const uint64_t caps = 1ULL << CAP_SYS_ADMIN | 1ULL << CAP_SYS_CHROOT;
	json_t *resolved = NULL, *profile = parse(profile_default_start, profile_default_end);
	int r = profile_resolve(profile, caps, "docker.seccomp_profile", &resolved, err);

	d->seccomp = r == 0 ? json_dumps(resolved, JSON_COMPACT) : NULL;
	json_decref(profile);
	json_decref(resolved);
	return r;
}

static int read_seccomp(struct docker *d, struct err *err)
{
	const char *path = d->config->docker.seccomp_profile;
	_cleanup_buf_ struct buf text = BUF_INIT(SECCOMP_MAX);

	if (!path)
		return 0;
	if (strcmp(path, "unconfined") == 0) {
		d->seccomp = strdup(path);
	} else if (strcmp(path, "nested") == 0) {
		int r = built_in_seccomp(d, err);
		if (r < 0)
			return r;
	} else {
		int r = fs_read_file(AT_FDCWD, path, &text);
		if (r < 0)
			return err_sys(err, "CONFIG", -r, "docker.seccomp_profile: read '%s'", path);
		json_t *o = json_loadb((const char *)text.data, text.len, 0, NULL);
		if (!json_is_object(o)) {
			json_decref(o);
			return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
				       "docker.seccomp_profile: '%s' is no JSON object", path);
		}
		d->seccomp = json_dumps(o, JSON_COMPACT);
		json_decref(o);
	}
	return d->seccomp ? 0 : err_sys(err, "CONFIG", ENOMEM, "docker.seccomp_profile");
}

/* A folder for each start: what runs keeps the agent that it was started with. */
static int copy_agent(struct docker *d, struct err *err)
{
	char dir[PATH_MAX];
	char name[17];

	(void)snprintf(d->agents, sizeof(d->agents), "%s/agents", d->config->state_dir);
	if (!*d->agent) /* else this is one more try */
		(void)snprintf(d->agent, sizeof(d->agent), "agent-%s", random_hex(name, 16));
	(void)snprintf(dir, sizeof(dir), "%s/%s", d->agents, d->agent);
	int r = fs_mkdir_p(dir, 0755);
	if (r == 0 && chmod(dir, 0755) < 0)
		r = -errno;
	return r < 0 ? err_sys(err, "SANDBOX::UNAVAILABLE", -r, "make '%s'", dir)
		     : agent_copy(d->config->execd, dir, err);
}

static bool agent_used(const json_t *containers, const char *name)
{
	size_t i = 0;
	json_t *c;

	json_array_foreach(containers, i, c)
	{
		const char *used =
			json_string_value(json_object_get(json_object_get(c, "Labels"), LABEL_AGENT));
		if (used && strcmp(used, name) == 0)
			return true;
	}
	return false;
}

void docker_agents_clean(struct docker *d, const json_t *containers)
{
	char path[PATH_MAX + 256];
	DIR *dir = opendir(d->agents);
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		if (e->d_name[0] == '.' || strcmp(e->d_name, d->agent) == 0 ||
		    agent_used(containers, e->d_name))
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", d->agents, e->d_name);
		(void)remove_later(d->env.pool, path);
	}
	if (dir)
		(void)closedir(dir);
}

static int docker_probe(struct runtime *rt, struct err *err)
{
	struct docker *d = docker_of(rt);

	int r = read_seccomp(d, err);
	if (r == 0)
		r = copy_agent(d, err);
	return r;
}

/* Told as the daemon lists them: from the loop, also later. */
static int docker_leftovers(struct runtime *rt, const struct runtime_finder *finder)
{
	struct docker *d = docker_of(rt);

	d->finder = *finder;
	docker_link_start(d);
	return 0;
}

/* ---- the driver ---------------------------------------------------------------------- */

static void docker_free(struct runtime *rt)
{
	struct docker *d = docker_of(rt);

	list_foreach_safe (l, &d->boxes)
		docker_box_free(list_entry(l, struct docker_box, link));
	docker_removals_free(d);
	docker_logs_free(d);
	loop_defer_cancel(&d->turns);
	loop_timer_del(&d->retry);
	engine_free(d->engine);
	free(d->seccomp);
	free(d);
}

static const struct runtime_ops ops = {
	.name = "docker",
	.probe = docker_probe,
	.create = docker_create,
	.claim = docker_claim,
	.adopt = docker_adopt,
	.freeze = docker_freeze,
	.snapshot = docker_snapshot,
	.snapshot_delete = docker_snapshot_delete,
	.destroy = docker_destroy,
	.log = docker_log,
	.leftovers = docker_leftovers,
	.free = docker_free,
};

/* As the known client has it: TLS when it is told to, with the files of a folder. */
static int certificates_of(const char *address, char **ret, struct err *err)
{
	const char *verify = getenv("DOCKER_TLS_VERIFY"), *path = getenv("DOCKER_CERT_PATH");
	const char *home = getenv("HOME");
	bool given = path && *path;

	if (!verify || !*verify || strncmp(address, "tcp://", 6) != 0)
		return 0;
	if (asprintf(ret, "%s%s", given ? path : home ? home : "", given ? "" : "/.docker") < 0) {
		*ret = NULL;
		return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
	}
	return 0;
}

int docker_check(const struct config *config, struct err *err)
{
	const struct config_docker *d = &config->docker;
	struct in_addr v4;

	if (inet_pton(AF_INET, d->publish_host, &v4) != 1)
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
			       "docker.publish_host: '%s' is no IPv4 address", d->publish_host);
	if (v4.s_addr != INADDR_ANY && (ntohl(v4.s_addr) >> 24) != 127)
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
			       "docker.publish_host: '%s' is not where this server looks for agents: "
			       "127.0.0.1 or 0.0.0.0",
			       d->publish_host);
	if (!d->port_range_min != !d->port_range_max || d->port_range_min > d->port_range_max)
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
			       "docker.port_range_min and docker.port_range_max: %u to %u is no range",
			       d->port_range_min, d->port_range_max);
	if (strcmp(d->network_mode, "none") == 0)
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
			       "docker.network_mode: with 'none' nobody could reach the agent");
	if (!d->secure_type != !d->runtime)
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
			       "secure_runtime.type and secure_runtime.docker_runtime go together");
	return 0;
}

int docker_new(const struct runtime_env *env, const struct config *config, struct runtime **ret,
	       struct err *err)
{
	struct docker *d = calloc(1, sizeof(*d));
	const char *address = getenv("DOCKER_HOST");
	_cleanup_free_ char *certificates = NULL;

	if (!d)
		return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
	d->rt.ops = &ops;
	d->env = *env;
	d->config = config;
	list_init(&d->boxes);
	list_init(&d->removals);
	list_init(&d->logs);
	name_owner(d);
	if (!address || !*address)
		address = ADDRESS_DEFAULT;
	int r = certificates_of(address, &certificates, err);
	if (r == 0)
		r = engine_new(env->loop, address, certificates, config->docker.api_timeout_s, &d->engine,
			       err);
	if (r < 0) {
		free(d);
		return r;
	}
	*ret = &d->rt;
	return 0;
}
