/*
 * source.c - looks up references; no state.
 *
 * A path is opened once, here, and read through that descriptor ever after:
 * what is renamed or linked meanwhile leads nowhere else.
 */
#include "sandboxd/oci/source.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "sandboxd/volume.h"

#define CODE "SANDBOX::INVALID_PARAMETER"

#define refuse(err, ...) err_set(err, ERR_INVALID, CODE, EINVAL, __VA_ARGS__)

void source_done(struct source *s)
{
	fd_close(&s->fd);
}

/* ---- registries ----------------------------------------------------------------- */

/* The part before the first '/' is a host when it looks like one; else it is a name on docker.io. */
static void find_registry(const char *ref, char *out, size_t size)
{
	size_t n = strcspn(ref, "/");
	bool host = ref[n] == '/' && (memchr(ref, '.', n) || memchr(ref, ':', n) ||
				      (n == strlen("localhost") && memcmp(ref, "localhost", n) == 0));
	(void)snprintf(out, size, "%.*s", host ? (int)n : (int)strlen("docker.io"), host ? ref : "docker.io");
}

static int from_registry(const char *ref, struct source *s, struct err *err)
{
	struct sha256 sum;

	for (const char *c = ref; *c; c++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/:@-+", *c))
			return refuse(err, "image '%.128s': a reference holds no '%c'", ref, *c);
	s->kind = SOURCE_FETCH;
	(void)snprintf(s->shown, sizeof(s->shown), "%s", ref);
	(void)snprintf(s->name, sizeof(s->name), IMAGE_PULL "%s", ref);
	find_registry(ref, s->registry, sizeof(s->registry));
	sha256_init(&sum);
	sha256_add(&sum, s->name, strlen(s->name));
	(void)sha256_end_hex(&sum, s->identity);
	return 0;
}

/* ---- paths ------------------------------------------------------------------------ */

static bool is_within(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	while (n > 0 && dir[n - 1] == '/')
		n--;
	return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool is_plain(const char *path)
{
	return !strstr(path, "//") && !strstr(path, "/./") && !strstr(path, "/../") &&
	       !(strlen(path) >= 3 && strcmp(path + strlen(path) - 3, "/..") == 0);
}

/* allowed: what the path must lie below, or NULL: the operator has named it. */
static int open_path(const char *path, char *const *allowed, struct err *err)
{
	int fd = -EACCES;

	if (!allowed) {
		fd = open(path, O_PATH | O_CLOEXEC);
		return fd < 0 ? err_sys(err, CODE, errno, "open image '%.256s'", path) : fd;
	}
	if (!is_plain(path))
		return refuse(err, "image '%.256s': the path must hold no '.', '..' or doubled slashes",
			      path);
	for (; fd < 0 && *allowed; allowed++) {
		if (!is_within(path, *allowed))
			continue;
		const char *rest = path + strlen(*allowed);
		_cleanup_close_ int root = open(*allowed, O_PATH | O_DIRECTORY | O_CLOEXEC);
		fd = root < 0 ? -errno : volume_open_below(root, rest + strspn(rest, "/"), false);
	}
	if (fd == -EACCES || fd == -EXDEV)
		return refuse(err, "image '%.256s' does not lie below one of sandboxd.image_paths", path);
	return fd < 0 ? err_sys(err, CODE, -fd, "open image '%.256s'", path) : fd;
}

/* An image in a layout is another one as soon as its index is; an archive as soon as it is written. */
static int identify(struct source *s, bool layout, struct err *err)
{
	struct sha256 sum;
	struct stat st;

	if (fstatat(s->fd, layout ? "index.json" : "", &st, layout ? 0 : AT_EMPTY_PATH) < 0 ||
	    !S_ISREG(st.st_mode))
		return refuse(err, "image '%.200s': there is no %s", s->name,
			      layout ? "OCI layout (no index.json)" : "regular file");
	const uint64_t what[] = {st.st_dev,
				 st.st_ino,
				 (uint64_t)st.st_size,
				 (uint64_t)st.st_mtim.tv_sec,
				 (uint64_t)st.st_mtim.tv_nsec,
				 (uint64_t)st.st_ctim.tv_sec,
				 (uint64_t)st.st_ctim.tv_nsec};
	sha256_init(&sum);
	sha256_add(&sum, s->name, strlen(s->name));
	sha256_add(&sum, what, sizeof(what));
	(void)sha256_end_hex(&sum, s->identity);
	return 0;
}

/* "KIND:/PATH[:NAME]" */
static int from_path(const char *text, char *const *allowed, struct source *s, struct err *err)
{
	const char *path = strchr(text, ':') + 1;
	size_t n = strcspn(path, ":");
	char plain[PATH_MAX];
	struct stat st;

	(void)snprintf(plain, sizeof(plain), "%.*s", (int)n, path);
	s->fd = open_path(plain, allowed, err);
	if (s->fd < 0)
		return s->fd;
	if (strncmp(text, "dir:", 4) == 0) {
		s->kind = SOURCE_DIR;
		return fstat(s->fd, &st) == 0 && S_ISDIR(st.st_mode)
			       ? 0
			       : refuse(err, "image '%.256s' is no directory", text);
	}
	s->kind = SOURCE_FETCH;
	(void)snprintf(s->shown, sizeof(s->shown), "%s", text);
	(void)snprintf(s->name, sizeof(s->name), "%.*s:/proc/self/fd/%d%s", (int)(path - text - 1), text,
		       SOURCE_FD, path + n);
	return identify(s, strncmp(text, "oci:", 4) == 0, err);
}

/* ---- the lookup ---------------------------------------------------------------------- */

static int from_root(const char *root, const char *uri, struct source *s, struct err *err)
{
	if (strcmp(root, IMAGE_HOST) == 0)
		return 0;
	if (strcmp(root, IMAGE_REGISTRY) == 0)
		return from_registry(uri, s, err);
	if (strncmp(root, IMAGE_PULL, strlen(IMAGE_PULL)) == 0)
		return from_registry(root + strlen(IMAGE_PULL), s, err);
	return from_path(root, NULL, s, err);
}

int source_find(const struct config *config, const char *uri, struct source *ret, struct err *err)
{
	static char *const nowhere[] = {NULL};
	struct source s = {.kind = SOURCE_HOST, .fd = -EBADF};
	const char *root;
	int r;

	if (image_is_path(uri)) {
		r = from_path(uri, config->image_paths ? config->image_paths : nowhere, &s, err);
	} else {
		r = image_resolve(&config->images, uri, &root, err);
		if (r == 0)
			r = from_root(root, uri, &s, err);
		else if (r == -ENOENT && config->pull_images)
			r = from_registry(uri, &s, err);
	}
	if (r < 0)
		source_done(&s);
	else
		*ret = s;
	return r;
}

void source_kept(const char *name, struct source *ret)
{
	struct sha256 sum;

	*ret = (struct source){.kind = SOURCE_KEPT, .fd = -EBADF};
	(void)snprintf(ret->name, sizeof(ret->name), "%s", name);
	(void)snprintf(ret->shown, sizeof(ret->shown), "%s", name);
	sha256_init(&sum);
	sha256_add(&sum, name, strlen(name));
	(void)sha256_end_hex(&sum, ret->identity);
}
