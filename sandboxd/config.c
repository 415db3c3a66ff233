/*
 * config.c - owns the settings: defaults, and the rules between them.
 */
#include "sandboxd/config.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

int config_init(struct config *c)
{
	*c = (struct config){
		.listen_host = strdup("127.0.0.1"),
		.listen_port = 8080,
		.listen_fd = -EBADF,
		.state_dir = strdup("/var/lib/sandboxd"),
		.runtime = strdup("crun"),
		.provision_max_s = 60,
		.stop_max_s = 30,
		.tombstone_s = 3600,
		.sandboxes_max = 4096,
		.pids_max = 4096,
		.log_level = LOG_INFO,
	};
	if (c->listen_host && c->state_dir && c->runtime && image_table_init(&c->images) == 0)
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

void config_done(struct config *c)
{
	free(c->listen_host);
	free(c->api_key);
	free(c->state_dir);
	free(c->execd);
	free(c->runtime);
	fd_close(&c->listen_fd);
	image_table_done(&c->images);
	config_free_list(c->allowed_host_paths);
	*c = (struct config){.listen_fd = -EBADF};
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
