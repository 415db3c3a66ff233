/*
 * base.c - owns the bases that something stands on, or has stood on. Loop thread.
 *
 * A snapshot holds a reference too: its link says so, and is counted when it is
 * made, when it goes, and at start.
 */
#include "sandboxd/oci/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/random.h"
#include "lib/removal.h"
#include "sandboxd/oci/box.h"
#include "sandboxd/oci/enter.h"

#define RANDOM_DIGITS 16

static void on_sweep(struct loop_timer *timer);

static void base_free(struct base *base)
{
	list_del(&base->link);
	fd_close(&base->fd);
	base_config_done(&base->config);
	free(base);
}

static struct base *base_new(struct bases *all, const char *name, const char *lower)
{
	struct base *base = calloc(1, sizeof(*base));

	if (!base)
		return NULL;
	base->fd = -EBADF;
	(void)snprintf(base->name, sizeof(base->name), "%s", name);
	rootfs_of_image(all->oci->root_name, lower, &base->fs);
	list_add_tail(&all->list, &base->link);
	return base;
}

struct base *base_ref(struct base *base)
{
	base->users++;
	return base;
}

static void image_path(const struct bases *all, const char *name, char out[PATH_MAX])
{
	(void)snprintf(out, PATH_MAX, "%.*s/images/%s", PATH_MAX - 256, all->oci->config->state_dir, name);
}

/* ---- removing ------------------------------------------------------------------------ */

/* Under its name it is whole or not there; what a removal leaves, the next start removes. */
static void remove_image(struct bases *all, struct base *base)
{
	char path[PATH_MAX], gone[PATH_MAX], name[RANDOM_DIGITS + 1], dead[RANDOM_DIGITS + 8];

	log_info("image %s: nobody uses it, removed", base->name);
	image_path(all, base->name, path);
	base_free(base);
	(void)snprintf(dead, sizeof(dead), "tmp.%s", random_hex(name, RANDOM_DIGITS));
	image_path(all, dead, gone);
	if (rename(path, gone) == 0)
		(void)remove_later(all->oci->env.pool, gone);
}

static void set_sweep(struct bases *all)
{
	const uint64_t keep_ms = (uint64_t)all->oci->config->image_keep_s * 1000;
	uint64_t now = clock_real_ms(), first = UINT64_MAX;
	struct loop *loop = all->oci->env.loop;

	if (!keep_ms)
		return;
	list_foreach_safe (l, &all->list) {
		const struct base *base = list_entry(l, struct base, link);
		if (base->kept && base->users == 0)
			first = MIN(first, base->idle_ms + keep_ms);
	}
	if (first == UINT64_MAX)
		loop_timer_del(&all->sweep);
	else
		(void)loop_timer_set(loop, &all->sweep, loop_now_ms(loop) + (first > now ? first - now : 0),
				     on_sweep);
}

static void on_sweep(struct loop_timer *timer)
{
	struct bases *all = container_of(timer, struct bases, sweep);
	const uint64_t keep_ms = (uint64_t)all->oci->config->image_keep_s * 1000;

	list_foreach_safe (l, &all->list) {
		struct base *base = list_entry(l, struct base, link);
		if (base->kept && base->users == 0 && base->idle_ms + keep_ms <= clock_real_ms())
			remove_image(all, base);
	}
	set_sweep(all);
}

int bases_make_room(struct bases *all, struct err *err)
{
	const uint32_t max = all->oci->config->images_max;
	struct base *oldest = NULL;
	uint32_t n = 0;

	list_foreach_safe (l, &all->list) {
		struct base *base = list_entry(l, struct base, link);
		n += base->kept;
		if (base->kept && base->users == 0 && (!oldest || base->idle_ms < oldest->idle_ms))
			oldest = base;
	}
	if (n < max)
		return 0;
	if (!oldest)
		return err_set(err, ERR_LIMIT, "SANDBOX::LIMIT", ENOSPC,
			       "%u images are in use, the limit is sandboxd.images_max (%u)", n, max);
	remove_image(all, oldest);
	return 0;
}

/* A directory is opened anew for each sandbox; an image stays, and is told when it was used last. */
void base_unref(struct bases *all, struct base *base)
{
	char path[PATH_MAX];

	if (!base || --base->users > 0)
		return;
	if (!base->kept) {
		base_free(base);
		return;
	}
	base->idle_ms = clock_real_ms();
	image_path(all, base->name, path);
	(void)utimensat(AT_FDCWD, path, NULL, 0);
	set_sweep(all);
}

/* ---- finding -------------------------------------------------------------------------- */

struct base *base_of_directory(struct bases *all, int fd)
{
	char lower[48];

	(void)snprintf(lower, sizeof(lower), "/proc/self/fd/%d", ENTER_BASE_FD);
	struct base *base = base_new(all, BASE_DIR, lower);
	if (!base)
		return NULL;
	base->fd = fd;
	base->loaded = true;
	return base_ref(base);
}

static struct base *base_of_image(struct bases *all, const char *name)
{
	char lower[BASE_NAME_MAX + 32];

	(void)snprintf(lower, sizeof(lower), "../../images/%s/rootfs", name);
	struct base *base = base_new(all, name, lower);
	if (base)
		base->kept = true;
	return base;
}

struct base *base_named(struct bases *all, const char *name)
{
	if (!*name || strcmp(name, BASE_HOST) == 0)
		return base_ref(&all->host);
	if (strcmp(name, BASE_DIR) == 0)
		return base_of_directory(all, -EBADF);
	list_foreach_safe (l, &all->list) {
		struct base *base = list_entry(l, struct base, link);
		if (strcmp(base->name, name) == 0)
			return base_ref(base);
	}
	struct base *base = base_of_image(all, name);
	return base ? base_ref(base) : NULL;
}

void base_read_link(const char *dir, char *out)
{
	char path[PATH_MAX + 16];

	(void)snprintf(path, sizeof(path), "%s/image", dir);
	ssize_t n = readlink(path, out, BASE_NAME_MAX - 1);
	if (n > 0)
		out[n] = '\0';
	else
		(void)snprintf(out, BASE_NAME_MAX, BASE_HOST);
}

void bases_hold(struct bases *all, const char *dir)
{
	char name[BASE_NAME_MAX];

	base_read_link(dir, name);
	if (strcmp(name, BASE_HOST) != 0 && strcmp(name, BASE_DIR) != 0)
		(void)base_named(all, name);
}

void bases_let_go(struct bases *all, const char *dir)
{
	char path[PATH_MAX + 16], name[BASE_NAME_MAX];

	base_read_link(dir, name);
	(void)snprintf(path, sizeof(path), "%s/image", dir);
	if (strcmp(name, BASE_HOST) == 0 || strcmp(name, BASE_DIR) == 0 || unlink(path) < 0)
		return;
	struct base *base = base_named(all, name);
	if (!base)
		return;
	base_unref(all, base);
	base_unref(all, base);
}

int base_write_link(const struct base *base, int dir)
{
	if (strcmp(base->name, BASE_HOST) == 0)
		return 0;
	return symlinkat(base->name, dir, "image") < 0 ? -errno : 0;
}

/* ---- at start ---------------------------------------------------------------------------- */

void bases_init(struct bases *all, struct oci *oci)
{
	all->oci = oci;
	list_init(&all->list);
	(void)snprintf(all->host.name, sizeof(all->host.name), BASE_HOST);
	list_init(&all->host.link);
	all->host.fd = -EBADF;
	all->host.users = 1; /* never the last one's */
}

void bases_done(struct bases *all)
{
	loop_timer_del(&all->sweep);
	list_foreach_safe (l, &all->list)
		base_free(list_entry(l, struct base, link));
	base_config_done(&all->host.config);
}

static int find_images(struct bases *all)
{
	char path[PATH_MAX];
	struct dirent *e;
	struct stat st;
	int r = 0;

	image_path(all, "", path);
	DIR *d = opendir(path);
	while (d && r == 0 && (e = readdir(d))) {
		if (strncmp(e->d_name, "tmp.", 4) == 0)
			(void)fs_remove_tree(dirfd(d), e->d_name);
		if (strncmp(e->d_name, "sha256-", 7) != 0 || strlen(e->d_name) >= BASE_NAME_MAX ||
		    fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		struct base *base = base_of_image(all, e->d_name);
		if (base)
			base->idle_ms =
				(uint64_t)st.st_mtim.tv_sec * 1000 + (uint64_t)st.st_mtim.tv_nsec / 1000000;
		r = base ? 0 : -ENOMEM;
	}
	if (d)
		(void)closedir(d);
	return r;
}

/* Links to images that are gone, and links that were not finished. */
static void clean_refs(struct bases *all)
{
	char path[PATH_MAX];
	struct dirent *e;

	image_path(all, "refs", path);
	DIR *d = opendir(path);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' &&
		    (strncmp(e->d_name, "tmp.", 4) == 0 || faccessat(dirfd(d), e->d_name, F_OK, 0) < 0))
			(void)unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		(void)closedir(d);
}

static void hold_snapshots(struct bases *all)
{
	char path[PATH_MAX], dir[PATH_MAX + NAME_MAX + 2];
	struct dirent *e;

	(void)snprintf(path, sizeof(path), "%.*s/snapshots", PATH_MAX - 16, all->oci->config->state_dir);
	DIR *d = opendir(path);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.') {
			(void)snprintf(dir, sizeof(dir), "%s/%s", path, e->d_name);
			bases_hold(all, dir);
		}
	if (d)
		(void)closedir(d);
}

int bases_host(struct bases *all, struct err *err)
{
	struct base *host = &all->host;

	base_config_done(&host->config);
	host->config.env = json_pack("{s:s, s:s}", "PATH", host->fs.path, "LANG", "C.UTF-8");
	host->config.home = strdup("/root");
	host->loaded = host->config.env && host->config.home;
	return host->loaded ? 0 : err_sys(err, "SANDBOX::UNAVAILABLE", ENOMEM, "look at the host's image");
}

int bases_load(struct bases *all, struct err *err)
{
	int r = find_images(all);
	if (r < 0)
		return err_sys(err, "SANDBOX::UNAVAILABLE", -r, "look through the images");
	hold_snapshots(all);
	clean_refs(all);
	set_sweep(all);
	return 0;
}
