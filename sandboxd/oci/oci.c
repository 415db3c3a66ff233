/*
 * oci.c - the embedded driver: its table, its making and its end. Loop thread.
 *
 * box.h says what a container is and which file does what to it.
 */
#include "sandboxd/oci/oci.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "lib/random.h"
#include "sandboxd/oci/named.h"

/* A sandbox's directory is the first thing that is made and the last that goes. */
static int oci_leftovers(struct runtime *rt, const struct runtime_finder *finder)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/sandboxes", oci_of(rt)->config->state_dir);
	DIR *d = opendir(path);
	if (!d)
		return errno == ENOENT ? 0 : -errno;
	struct dirent *e;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && strlen(e->d_name) < RUNTIME_ID_MAX)
			finder->sandbox(finder->arg, &(struct runtime_found){.id = e->d_name});
	(void)closedir(d);
	named_clean(oci_of(rt));
	return 0;
}

static int oci_network(struct runtime *rt, const char *id, struct buf *out)
{
	char dir[PATH_MAX];

	if (snprintf(dir, sizeof(dir), "%s/sandboxes/%s", oci_of(rt)->config->state_dir, id) >=
	    (int)sizeof(dir))
		return -ENAMETOOLONG;
	return network_describe(dir, out);
}

static void free_environments(struct oci *oci)
{
	for (char **e = oci->fetch_envp; *e; e++)
		free(*e);
}

static void oci_free(struct runtime *rt)
{
	struct oci *oci = oci_of(rt);

	if (list_empty(&oci->boxes))
		network_done(&oci->network);
	list_foreach_safe (l, &oci->boxes)
		box_free(list_entry(l, struct oci_box, link));
	fetches_done(&oci->fetches);
	logs_done(&oci->logs);
	hardening_done(&oci->hardening);
	bases_done(&oci->bases);
	cgroups_done(&oci->cgroups);
	free_environments(oci);
	free(oci);
}

static const struct runtime_ops ops = {
	.name = "oci",
	.probe = oci_probe,
	.create = oci_create,
	.claim = oci_claim,
	.adopt = oci_adopt,
	.freeze = oci_freeze,
	.snapshot = oci_snapshot,
	.snapshot_delete = oci_snapshot_delete,
	.destroy = oci_destroy,
	.log = oci_log,
	.network = oci_network,
	.leftovers = oci_leftovers,
	.free = oci_free,
};

/* PATH, and how to get out of here: registries may lie behind a proxy with certificates of its own. */
static int make_environments(struct oci *oci)
{
	static const char *const passed[] = {"HTTP_PROXY",  "HTTPS_PROXY", "NO_PROXY",	    "http_proxy",
					     "https_proxy", "no_proxy",	   "SSL_CERT_FILE", "SSL_CERT_DIR"};
	const char *path = getenv("PATH");
	size_t n = 0;

	if (asprintf(&oci->fetch_envp[n++], "PATH=%s", path && *path ? path : DEFAULT_PATH) < 0)
		return -ENOMEM;
	oci->envp[0] = oci->fetch_envp[0];
	for (size_t i = 0; i < ARRAY_SIZE(passed); i++) {
		const char *value = getenv(passed[i]);
		if (value && asprintf(&oci->fetch_envp[n++], "%s=%s", passed[i], value) < 0)
			return -ENOMEM;
	}
	return 0;
}

int oci_new(const struct runtime_env *env, const struct config *config, struct runtime **ret, struct err *err)
{
	struct oci *oci = calloc(1, sizeof(*oci));
	char name[17];

	if (!oci || make_environments(oci) < 0) {
		free(oci);
		return err_sys(err, "CONFIG", ENOMEM, "start");
	}
	oci->rt.ops = &ops;
	oci->env = *env;
	oci->config = config;
	list_init(&oci->boxes);
	bases_init(&oci->bases, oci);
	fetches_init(&oci->fetches, oci);
	if (network_init(&oci->network, config, oci->envp) < 0) {
		free_environments(oci);
		free(oci);
		return err_sys(err, "CONFIG", ENAMETOOLONG, "start: the paths of the network");
	}
	logs_init(&oci->logs, oci);
	(void)snprintf(oci->root_name, sizeof(oci->root_name), "host-%s", random_hex(name, 16));
	*ret = &oci->rt;
	return 0;
}
