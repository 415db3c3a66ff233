/*
 * config.c - owns the settings: defaults, and the rules between them.
 */
#include "sandboxd/config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "sandboxd/runtimes.h"

int config_init(struct config *c)
{
	*c = (struct config){
		.listen_host = strdup("127.0.0.1"),
		.listen_port = 8080,
		.listen_fd = -EBADF,
		.state_dir = strdup("/var/lib/sandboxd"),
		.runtime_kind = runtime_kind_default(),
		.runtime = strdup("crun"),
		.network_bridge = strdup("sandboxd0"),
		.network_subnet = strdup("10.44.0.0/16"),
		.cni_path = strdup("/usr/lib/cni"),
		.pool_starts = 2,
		.provision_max_s = 60,
		.stop_max_s = 30,
		.tombstone_s = 3600,
		.sandboxes_max = 4096,
		.pids_max = 4096,
		.container_log_max_kb = 16384,
		.nested_isolation = true,
		.pull_images = true,
		.image_max_mb = 20480,
		.image_max_s = 900,
		.images_max = 256,
		.image_pulls_max = 3,
		.free_min_mib = 64,
		.log_level = LOG_INFO,
		.docker = {.network_mode = strdup("bridge"),
			   .publish_host = strdup("127.0.0.1"),
			   .api_timeout_s = 180,
			   .no_new_privileges = true},
	};
	if (c->listen_host && c->state_dir && c->runtime && c->network_bridge && c->network_subnet &&
	    c->cni_path && c->docker.network_mode && c->docker.publish_host &&
	    image_table_init(&c->images) == 0)
		return 0;
	config_done(c);
	return -ENOMEM;
}

void config_free_list(char **list)
{
	for (char **p = list; p && *p; p++)
		free(*p);
	free(list);
}

static void docker_done(struct config_docker *d)
{
	free(d->network_mode);
	free(d->publish_host);
	config_free_list(d->drop_capabilities);
	free(d->seccomp_profile);
	free(d->apparmor_profile);
	config_free_list(d->sandbox_env);
	config_free_list(d->sandbox_binds);
	free(d->secure_type);
	free(d->runtime);
}

void config_done(struct config *c)
{
	free(c->listen_host);
	free(c->api_key);
	free(c->state_dir);
	free(c->execd);
	free(c->runtime);
	fd_close(&c->listen_fd);
	image_table_done(&c->images);
	for (size_t i = 0; i < c->pools_n; i++)
		free(c->pools[i].image);
	free(c->pools);
	config_free_list(c->allowed_host_paths);
	config_free_list(c->nameservers);
	free(c->network_bridge);
	free(c->network_subnet);
	free(c->cni_path);
	config_free_list(c->image_paths);
	config_free_list(c->insecure_registries);
	free(c->registry_auth);
	docker_done(&c->docker);
	*c = (struct config){.listen_fd = -EBADF};
}

static const char *const network_modes[] = {
	[NETWORK_AUTO] = "auto",
	[NETWORK_NONE] = "none",
	[NETWORK_BRIDGE] = "bridge",
	[NETWORK_HOST] = "host",
};

const char *network_mode_name(enum network_mode mode)
{
	return network_modes[mode];
}

int network_mode_parse(const char *name, enum network_mode *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(network_modes); i++)
		if (strcmp(name, network_modes[i]) == 0) {
			*ret = (enum network_mode)i;
			return 0;
		}
	return -EINVAL;
}

/* Both go into rules and file names. */
static int check_network(const struct config *c, struct err *err)
{
	char net[INET_ADDRSTRLEN];
	struct in_addr address;
	size_t n = strcspn(c->network_subnet, "/");
	unsigned bits;
	char end;

	if (!isalpha((unsigned char)c->network_bridge[0]) || strlen(c->network_bridge) > 15 ||
	    c->network_bridge[strspn(c->network_bridge, "abcdefghijklmnopqrstuvwxyz0123456789_")])
		return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
			       "network.bridge: '%.64s' must be at most 15 lowercase letters, digits and "
			       "underscores, a letter first",
			       c->network_bridge);
	(void)snprintf(net, sizeof(net), "%.*s", (int)MIN(n, sizeof(net) - 1), c->network_subnet);
	if (n >= sizeof(net) || inet_pton(AF_INET, net, &address) != 1 ||
	    sscanf(c->network_subnet + n, "/%u%c", &bits, &end) != 1 || bits < 8 || bits > 29 ||
	    (ntohl(address.s_addr) & (UINT32_MAX >> bits)))
		return err_set(
			err, ERR_INVALID, "CONFIG", EINVAL,
			"network.subnet: '%.64s' is not a network such as 10.44.0.0/16, from /8 to /29",
			c->network_subnet);
	for (char **s = c->nameservers; s && *s; s++)
		if (inet_pton(AF_INET, *s, &address) != 1)
			return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
				       "network.nameservers: '%.64s' is not an IPv4 address", *s);
	return 0;
}

int config_add_pool(struct config *c, const char *image, uint32_t size)
{
	for (size_t i = 0; i < c->pools_n; i++)
		if (image_same(c->pools[i].image, image)) {
			c->pools[i].size = size;
			return 0;
		}
	struct config_pool *pools = reallocarray(c->pools, c->pools_n + 1, sizeof(*pools));
	if (!pools)
		return -ENOMEM;
	c->pools = pools;
	pools[c->pools_n] = (struct config_pool){.image = strdup(image), .size = size};
	return pools[c->pools_n].image ? (c->pools_n++, 0) : -ENOMEM;
}

/* The agent's binary is looked for beside ours. */
static int default_execd(char **ret)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - sizeof("execd"));
	if (n < 0)
		return -errno;
	self[n] = '\0';
	char *slash = strrchr(self, '/');
	if (!slash)
		return -ENOENT;
	memcpy(slash + 1, "execd", sizeof("execd"));
	char *path = strdup(self);
	if (!path)
		return -ENOMEM;
	*ret = path;
	return 0;
}

static bool is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;

	if (strcmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/* The same for a socket that was handed in. */
static bool fd_is_loopback(int fd)
{
	union {
		struct sockaddr sa;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} addr;
	socklen_t len = sizeof(addr);

	if (getsockname(fd, &addr.sa, &len) < 0)
		return false;
	switch (addr.sa.sa_family) {
	case AF_UNIX:
		return true;
	case AF_INET:
		return (ntohl(addr.v4.sin_addr.s_addr) >> 24) == 127;
	case AF_INET6:
		return IN6_IS_ADDR_LOOPBACK(&addr.v6.sin6_addr);
	}
	return false;
}

int config_check(struct config *c, struct err *err)
{
	int e = check_network(c, err);
	if (e < 0)
		return e;
	if (c->runtime_kind->check) {
		e = c->runtime_kind->check(c, err);
		if (e < 0)
			return e;
	}
	if (!c->execd) {
		int r = default_execd(&c->execd);
		if (r < 0)
			return err_sys(err, "CONFIG", -r, "find execd beside sandboxd");
	}
	if (c->state_dir[0] != '/') {
		char *path = realpath(".", NULL);
		char *full = NULL;
		if (!path || asprintf(&full, "%s/%s", path, c->state_dir) < 0)
			full = NULL;
		free(path);
		if (!full)
			return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
		free(c->state_dir);
		c->state_dir = full;
	}
	bool local = c->listen_fd >= 0 ? fd_is_loopback(c->listen_fd) : is_loopback(c->listen_host);
	if (!local && !c->api_key && !c->insecure)
		return err_set(err, ERR_INVALID, "CONFIG", 0,
			       "refusing to listen beyond loopback without an API key: whoever reaches "
			       "this port could run anything here. Give a key with --api-key-file or "
			       "OPENSANDBOX_SERVER_API_KEY, or say --insecure");
	return 0;
}
