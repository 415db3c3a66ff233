/*
 * config.h - what sandboxd was told: the settings with their defaults.
 *
 * Filled by flags.c (command line, environment); a reader of ~/.sandbox.toml
 * fills the same struct. Strings are owned by the struct; lists end with NULL.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"
#include "lib/log.h"
#include "sandboxd/image.h"

enum network_mode {
	NETWORK_AUTO, /* bridge where the CNI plugins are, else none */
	NETWORK_NONE,
	NETWORK_BRIDGE,
	NETWORK_HOST,
};

/* Started sandboxes that are kept for creates of this image. */
struct config_pool {
	char *image;
	uint32_t size;
};

#define POOL_SIZE_MAX 1000

struct runtime_kind;

/* [docker] and [secure_runtime]; see settings.c. NULL: the daemon's default, but where a note says else. */
struct config_docker {
	char *network_mode;			 /* "bridge", "host" or the name of a network of the daemon */
	char *publish_host;			 /* on which the agent's port is published */
	uint32_t port_range_min, port_range_max; /* 0: any */
	uint32_t api_timeout_s;
	char **drop_capabilities; /* NULL: ours (docker/spec.c) */
	bool no_new_privileges;
	char *seccomp_profile; /* a file, or "unconfined" */
	char *apparmor_profile;
	char **sandbox_env;   /* "NAME=value" */
	char **sandbox_binds; /* "host:container[:mode]" */
	char *secure_type;    /* "gvisor", "kata", ...: says that runtime must be there; NULL: none */
	char *runtime;	      /* by the daemon's name for it */
};

struct config {
	char *listen_host;
	uint16_t listen_port; /* 0: any */
	int listen_fd;	      /* handed in instead, or -EBADF; owned until taken */
	bool insecure;	      /* listen beyond loopback without a key */

	char *api_key;				 /* NULL: every request is let through */
	char *state_dir;			 /* absolute */
	char *execd;				 /* absolute path of the agent's binary */
	const struct runtime_kind *runtime_kind; /* what makes the containers */
	char *runtime;				 /* OCI runtime: absolute path or bare name */
	struct config_docker docker;

	struct image_table images;
	char **image_paths;	       /* under which clients may name dir:, oci: and archives; NULL: none */
	uint32_t container_log_max_kb; /* of what a sandbox says on its stdout and stderr */
	bool nested_isolation;	       /* sandboxes may make namespaces in themselves */
	bool pull_images;	       /* those that no row of images names, from their registries */
	char *registry_auth;	       /* file of logins for registries, or NULL */
	char **insecure_registries;    /* HOST[:PORT]: HTTP and unverified certificates are good enough */
	uint32_t image_max_mb;	       /* one image, unpacked */
	uint32_t image_max_s;	       /* fetching and unpacking one */
	uint32_t images_max;	       /* kept at once */
	uint32_t image_keep_s;	       /* an image nobody uses is removed after; 0: never */
	uint32_t image_pulls_max;      /* fetched at once */
	char **allowed_host_paths;     /* under which volumes may lie; NULL: none */

	enum network_mode network; /* of the sandboxes of the oci runtime */
	char *network_bridge;	   /* interface and table of rules */
	char *network_subnet;	   /* "10.44.0.0/16" */
	char *cni_path;		   /* directory of the plugins */
	char **nameservers;	   /* in place of the host's; NULL: those */
	bool reach_host;	   /* sandboxes may talk to the host's own addresses */
	bool reach_sandboxes;	   /* and to each other */
	struct config_pool *pools; /* [pool] */
	size_t pools_n;
	uint32_t pool_starts; /* spares that start at once */

	uint32_t timeout_max_s;	  /* longest `timeout` of a create, 0: no limit but TIMEOUT_MAX_S */
	uint32_t provision_max_s; /* Pending for longer is a failure */
	uint32_t stop_max_s;	  /* Stopping for longer is forced */
	uint32_t tombstone_s;	  /* an ended sandbox is remembered this long */
	uint32_t sandboxes_max;	  /* not yet ended, at once */
	uint32_t pids_max;	  /* processes in one sandbox */
	uint32_t disk_mib;	  /* room of a sandbox that asks for no other, 0: no limit */
	uint32_t free_min_mib;	  /* below the state directory, else no sandbox is made */

	bool kill_on_exit; /* end every sandbox at SIGTERM */
	enum log_level log_level;
};

/* A timeout beyond this cannot be meant. */
#define TIMEOUT_MIN_S 60
#define TIMEOUT_MAX_S (100u * 366 * 24 * 3600)

/* A second row for the same image replaces the first. */
int config_add_pool(struct config *c, const char *image, uint32_t size);

/* Defaults; -ENOMEM. */
int config_init(struct config *c);
void config_done(struct config *c);
const char *network_mode_name(enum network_mode mode);
/* -EINVAL: there is no such mode. */
int network_mode_parse(const char *name, enum network_mode *ret);
/* Strings up to a NULL; or NULL. */
void config_free_list(char **list);

/* Completes what was left out and refuses what cannot go together. */
int config_check(struct config *c, struct err *err);
