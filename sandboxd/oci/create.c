/*
 * create.c - what a container is made of: FRESH -> (FETCHING) -> PREPARING. Loop thread.
 *
 * The listening socket of the agent is bound here before the container exists
 * and handed through as descriptor 3, so that it serves from within its own
 * network namespace, and clients may connect from the first moment: they wait
 * in its queue.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/fs.h"
#include "sandboxd/oci/box.h"
#include "sandboxd/oci/bundle.h"
#include "sandboxd/oci/disk.h"
#include "sandboxd/oci/named.h"

#define LISTEN_BACKLOG 1024

/* A port of its own on loopback, chosen by the kernel. */
static int listen_any(int *ret_fd, uint16_t *ret_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, LISTEN_BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return -errno;
	*ret_port = ntohs(a.sin_port);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int stand_on(struct oci_box *b, const char *snapshot, struct err *err)
{
	(void)snprintf(b->snapshot, sizeof(b->snapshot), "%s", snapshot);
	int r = layers_read(b->oci->config->state_dir, snapshot, &b->layers);
	return r < 0 ? err_sys(err, OCI_START_CODE, -r, "read snapshot '%.64s'", snapshot) : 0;
}

/* A pipe that holds the text and then ends: it is shorter than any pipe. */
static int pipe_with(const char *text, int *ret_fd, struct err *err)
{
	int ends[2];

	int r = fs_pipe(ends, 0, 0);
	if (r < 0)
		return err_sys(err, OCI_START_CODE, -r, "make a pipe for the token");
	r = fs_write_all(ends[1], text, strlen(text));
	(void)close(ends[1]);
	*ret_fd = ends[0];
	return r < 0 ? err_sys(err, OCI_START_CODE, -r, "write the token") : 0;
}

/* ---- the image ------------------------------------------------------------------------ */

/* A snapshot stands on the very image that it was taken of, whatever its reference names by now. */
static int find_source(const struct oci *oci, const struct runtime_spec *spec, struct source *ret,
		       struct err *err)
{
	char dir[PATH_MAX], name[BASE_NAME_MAX];

	if (spec->snapshot) {
		layers_path(oci->config->state_dir, spec->snapshot, NULL, dir);
		base_read_link(dir, name);
		if (strcmp(name, BASE_HOST) == 0)
			*ret = (struct source){.kind = SOURCE_HOST, .fd = -EBADF};
		else if (strcmp(name, BASE_DIR) != 0)
			source_kept(name, ret);
		if (strcmp(name, BASE_DIR) != 0)
			return 0;
	}
	return source_find(oci->config, spec->image.uri, ret, err);
}

static int prepare_on(struct oci_box *b, struct base *base, struct err *err)
{
	const struct bundle_spec bundle = {
		.image = &base->config,
		.hardening = &b->oci->hardening,
		.entrypoint = b->entrypoint,
		.env = b->env,
		.token = b->token_fd >= 0 && b->claim_fd < 0,
		.spare = b->claim_fd >= 0,
		.own_network = b->oci->network.mode == NETWORK_NONE,
	};
	base_unref(&b->oci->bases, b->base);
	b->base = base;
	int r = bundle_config(&bundle, &b->config_json, err);
	if (r == 0)
		box_prepare(b);
	return r;
}

static void on_fetch_progress(struct fetch_wait *w, const char *reason, const char *message, uint32_t max_s)
{
	struct oci_box *b = container_of(w, struct oci_box, fetch);
	b->box->events->progress(b->box, reason, message, max_s);
}

static void on_fetched(struct fetch_wait *w, const struct fetched *result, const struct err *err)
{
	struct oci_box *b = container_of(w, struct oci_box, fetch);

	b->box->pulled_usec = result->pulled_usec;
	b->box->unpacked_usec = result->unpacked_usec;
	if (!err && result->pulled_usec)
		b->box->events->progress(b->box, "provisioning", "Sandbox is being created.", 0);
	if (err)
		b->err = *err;
	if (err || prepare_on(b, result->base, &b->err) < 0) {
		box_close_inherited(b);
		box_start_failed(b);
	}
}

/* It is prepared at once, or when the image is there. */
static int take_source(struct oci_box *b, struct source *source, const struct runtime_image *login,
		       struct err *err)
{
	struct bases *bases = &b->oci->bases;
	struct base *base = NULL;

	switch (source->kind) {
	case SOURCE_HOST:
		return prepare_on(b, base_ref(&bases->host), err);
	case SOURCE_DIR:
		base = base_of_directory(bases, source->fd);
		if (!base)
			return err_set(err, ERR_INTERNAL, OCI_START_CODE, ENOMEM, "out of memory");
		source->fd = -EBADF;
		return prepare_on(b, base, err);
	case SOURCE_FETCH:
	case SOURCE_KEPT:
		break;
	}
	b->phase = OCI_FETCHING;
	b->fetch = (struct fetch_wait){.progress = on_fetch_progress, .done = on_fetched};
	return fetch_begin(&b->oci->fetches, source, login, &b->fetch, err);
}

int oci_create(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec, struct err *err)
{
	struct oci *oci = oci_of(rt);
	struct source source;
	int r = disk_room(oci->config->state_dir, (uint64_t)oci->config->free_min_mib << 20, err);
	if (r == 0 && spec->limits.disk_bytes)
		r = disk_check(oci->envp[0] + strlen("PATH="), err);
	if (r == 0)
		r = find_source(oci, spec, &source, err);
	if (r < 0)
		return r;
	struct oci_box *b = box_new(oci, box);
	if (!b) {
		source_done(&source);
		return err_set(err, ERR_INTERNAL, OCI_START_CODE, ENOMEM, "out of memory");
	}
	b->limits = spec->limits;
	b->entrypoint = json_incref((json_t *)spec->entrypoint);
	b->env = json_incref((json_t *)spec->env);
	r = spec->snapshot ? stand_on(b, spec->snapshot, err) : 0;
	if (r == 0)
		r = named_take(b, spec->volumes, err);
	if (r == 0 && spec->token)
		r = pipe_with(spec->token, &b->token_fd, err);
	if (r == 0 && spec->spare)
		r = spare_begin(b, err);
	if (r == 0) {
		r = listen_any(&b->listen_fd, &box->port);
		if (r < 0)
			(void)err_sys(err, OCI_START_CODE, -r, "make a listening socket for the sandbox");
	}
	if (r == 0)
		r = take_source(b, &source, &spec->image, err);
	source_done(&source);
	if (r < 0) {
		box->priv = NULL;
		named_release(b);
		box_free(b);
	}
	return r;
}
