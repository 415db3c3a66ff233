/*
 * named.c - keeps named volumes. Loop thread, except the removal of trees.
 *
 * A volume that goes is renamed first, on the loop: who asks for the name from
 * then on gets a new one, while a worker removes the files.
 */
#include "sandboxd/oci/named.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/random.h"
#include "lib/removal.h"

#define GONE_PREFIX ".gone-"

/* ---- opening --------------------------------------------------------------------- */

static int open_store(const struct oci *oci)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/volumes", oci->config->state_dir);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* A directory of ours, made when it may be. *made: it was not there. */
static int open_dir(int parent, const char *name, mode_t mode, bool create, bool *made)
{
	*made = create && mkdirat(parent, name, mode) == 0;
	if (create && !*made && errno != EEXIST)
		return -errno;
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_named(const struct oci *oci, const struct volume *v, struct err *err)
{
	bool made = false, data_made;
	_cleanup_close_ int store = open_store(oci);
	_cleanup_close_ int own = store < 0 ? -errno : open_dir(store, v->source, 0700, v->create, &made);
	if (own == -ENOENT && store >= 0)
		return err_set(err, ERR_INVALID, VOLUME_CODE("PVC_NOT_FOUND"), ENOENT,
			       "volume '%s': there is no volume '%s', and createIfNotExists is false",
			       v->name, v->source);
	/* The mark first: killed in between, what is left goes at the next start. */
	int r = own < 0 ? own : 0;
	if (r == 0 && made && v->ephemeral)
		r = fs_write_file(own, "ephemeral", "", 0, 0600);
	_cleanup_close_ int data = r < 0 ? r : open_dir(own, "data", 0755, true, &data_made);
	if (data < 0)
		return err_sys(err, VOLUME_CODE("PVC_INSPECT_FAILED"), -data, "open or make volume '%s'",
			       v->source);
	if (!*v->sub_path)
		return TAKE_FD(data);
	int fd = volume_open_below(data, v->sub_path, true);
	if (fd == -EXDEV || fd == -ELOOP)
		return err_set(err, ERR_INVALID, VOLUME_CODE("INVALID_SUB_PATH"), EXDEV,
			       "volume '%s': a link in subPath '%.200s' leads out of the volume", v->name,
			       v->sub_path);
	return fd < 0 ? err_sys(err, VOLUME_CODE("INVALID_SUB_PATH"), -fd,
				"volume '%s': open or make subPath '%.200s'", v->name, v->sub_path)
		      : fd;
}

static int take_one(const struct oci *oci, const struct volume *from, struct volume *to, struct err *err)
{
	*to = (struct volume){
		.kind = from->kind,
		.readonly = from->readonly,
		.name = strdup(from->name),
		.source = strdup(from->source),
		.sub_path = strdup(from->sub_path),
		.target = strdup(from->target),
		.fd = -EBADF,
	};
	if (!to->name || !to->source || !to->sub_path || !to->target)
		return err_set(err, ERR_INTERNAL, OCI_START_CODE, ENOMEM, "out of memory");
	to->fd =
		from->kind == VOLUME_NAMED ? open_named(oci, from, err) : fcntl(from->fd, F_DUPFD_CLOEXEC, 3);
	if (to->fd < 0 && from->kind == VOLUME_HOST)
		return err_sys(err, OCI_START_CODE, errno, "open volume '%s'", from->name);
	return MIN(to->fd, 0);
}

int named_take(struct oci_box *b, const struct volumes *given, struct err *err)
{
	if (!given || given->n == 0)
		return 0;
	b->volumes = calloc(1, sizeof(*b->volumes));
	if (!b->volumes)
		return err_set(err, ERR_INTERNAL, OCI_START_CODE, ENOMEM, "out of memory");
	for (size_t i = 0; i < given->n; i++) {
		int r = take_one(b->oci, &given->list[i], &b->volumes->list[b->volumes->n++], err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- who uses what ---------------------------------------------------------------- */

int named_note(int dir, const struct volumes *volumes)
{
	_cleanup_close_ int own = -EBADF;
	bool made;

	for (size_t i = 0; volumes && i < volumes->n; i++) {
		const struct volume *v = &volumes->list[i];
		if (v->kind != VOLUME_NAMED)
			continue;
		if (own < 0)
			own = open_dir(dir, "volumes", 0700, true, &made);
		int r = own < 0 ? own : fs_write_file(own, v->source, "", 0, 0600);
		if (r < 0)
			return r;
	}
	return 0;
}

void named_read(struct oci_box *b)
{
	char path[PATH_MAX + 16];
	struct dirent *e;

	(void)snprintf(path, sizeof(path), "%s/volumes", b->dir);
	DIR *d = opendir(path);
	if (!d)
		return;
	b->volumes = calloc(1, sizeof(*b->volumes));
	while (b->volumes && b->volumes->n < VOLUMES_MAX && (e = readdir(d))) {
		struct volume v = {.kind = VOLUME_NAMED, .fd = -EBADF};
		if (e->d_name[0] != '.' && (v.source = strdup(e->d_name)))
			b->volumes->list[b->volumes->n++] = v;
	}
	(void)closedir(d);
}

static bool in_use(struct oci *oci, const char *name)
{
	list_foreach_safe (l, &oci->boxes) {
		const struct volumes *v = list_entry(l, struct oci_box, link)->volumes;
		for (size_t i = 0; v && i < v->n; i++)
			if (v->list[i].kind == VOLUME_NAMED && strcmp(v->list[i].source, name) == 0)
				return true;
	}
	return false;
}

/* ---- the end ------------------------------------------------------------------------ */

/* What cannot be removed now is removed at the next start. */
static void remove_gone(const struct oci *oci, const char *gone)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s/volumes/%s", oci->config->state_dir, gone) < (int)sizeof(path))
		(void)remove_later(oci->env.pool, path);
}

static void remove_unused(struct oci *oci, int store, const char *name)
{
	char mark[NAME_MAX + 16], gone[32], hex[17];

	(void)snprintf(mark, sizeof(mark), "%s/ephemeral", name);
	if (in_use(oci, name) || faccessat(store, mark, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	(void)snprintf(gone, sizeof(gone), GONE_PREFIX "%s", random_hex(hex, 16));
	if (renameat(store, name, store, gone) < 0) {
		log_warn("volume %s: remove: %s", name, strerror(errno));
		return;
	}
	log_info("volume %s: removed with the last sandbox that used it", name);
	remove_gone(oci, gone);
}

void named_release(struct oci_box *b)
{
	struct volumes *v = TAKE_PTR(b->volumes);

	if (!v)
		return;
	_cleanup_close_ int store = open_store(b->oci);
	for (size_t i = 0; store >= 0 && i < v->n; i++)
		if (v->list[i].kind == VOLUME_NAMED && v->list[i].source)
			remove_unused(b->oci, store, v->list[i].source);
	volumes_done(v);
	free(v);
}

void named_clean(struct oci *oci)
{
	struct dirent *e;
	_cleanup_close_ int store = open_store(oci);
	int again = store < 0 ? -1 : openat(store, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = again < 0 ? NULL : fdopendir(again);

	while (d && (e = readdir(d)))
		if (strncmp(e->d_name, GONE_PREFIX, strlen(GONE_PREFIX)) == 0)
			remove_gone(oci, e->d_name);
		else if (e->d_name[0] != '.')
			remove_unused(oci, store, e->d_name);
	if (d)
		(void)closedir(d);
}
