/*
 * volume.c - the policy of volumes; no state, any thread.
 *
 * First the words are checked, then what they name is opened step by step with
 * openat2(RESOLVE_BENEATH): "..", links and mounts that change meanwhile can
 * make that fail, but not lead elsewhere.
 */
#include "sandboxd/volume.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "proto/json.h"

#define MADE_MODE 0755

#define refuse(err, suffix, ...) err_set(err, ERR_INVALID, VOLUME_CODE(suffix), EINVAL, __VA_ARGS__)

/* ---- words ---------------------------------------------------------------------- */

/* Lowercase letters and digits, hyphens within. */
static bool is_label(const char *s, size_t max)
{
	size_t n = strlen(s);

	return n > 0 && n <= max && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == n && s[0] != '-' &&
	       s[n - 1] != '-';
}

static bool has_control(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			return true;
	return false;
}

/* Every component that says something, joined by one slash: "/" + "a/b". False when one is "..". */
static bool normalise(const char *path, char *out)
{
	size_t len = 0;

	while (*path) {
		size_t n = strcspn(path, "/");
		if (n == 2 && path[0] == '.' && path[1] == '.')
			return false;
		if (n > 0 && !(n == 1 && path[0] == '.')) {
			if (len)
				out[len++] = '/';
			memcpy(out + len, path, n);
			len += n;
		}
		path += n + (path[n] == '/');
	}
	out[len] = '\0';
	return true;
}

/* path is dir or lies in it; both normalised and absolute. */
static bool is_within(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	while (n > 0 && dir[n - 1] == '/')
		n--;
	return strncmp(path, dir, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* ---- the request --------------------------------------------------------------------- */

static int check_known(json_t *o, const char *what, const char *const *known, size_t n, struct err *err)
{
	const char *key = NULL;
	json_t *value;

	json_object_foreach(o, key, value)
	{
		bool found = false;
		for (size_t i = 0; !found && i < n; i++)
			found = strcmp(key, known[i]) == 0;
		if (!found)
			return refuse(err, "INVALID_BACKEND", "%s: field '%.64s' is not known", what, key);
	}
	return 0;
}

static int keep(char **slot, const char *text, struct err *err)
{
	*slot = strdup(text);
	return *slot ? 0 : err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
}

bool volume_target_reserved(const char *path)
{
	/* What the runtime mounts itself, and what the agent needs. */
	static const char *const reserved[] = {"/proc", "/sys", "/dev", "/.execd"};

	for (size_t i = 0; i < ARRAY_SIZE(reserved); i++)
		if (is_within(path, reserved[i]))
			return true;
	return !path[strspn(path, "/")];
}

static int parse_target(json_t *o, struct volume *v, struct err *err)
{
	char path[VOLUME_PATH_MAX + 2] = "/";
	const char *given = "";

	int r = json_get_str(o, "mountPath", JSON_REQUIRED, &given, err);
	if (r < 0)
		return r;
	if (given[0] != '/')
		return refuse(err, "INVALID_MOUNT_PATH",
			      "volume '%s': mountPath '%.200s' must be an absolute path", v->name, given);
	if (strlen(given) > VOLUME_PATH_MAX || has_control(given))
		return refuse(err, "INVALID_MOUNT_PATH",
			      "volume '%s': mountPath is longer than %d bytes or holds control characters",
			      v->name, VOLUME_PATH_MAX);
	if (!normalise(given, path + 1))
		return refuse(err, "INVALID_MOUNT_PATH",
			      "volume '%s': mountPath '%.200s' must not contain '..'", v->name, given);
	if (volume_target_reserved(path))
		return refuse(
			err, "INVALID_MOUNT_PATH",
			"volume '%s': mountPath '%.200s' is reserved, as are all of /proc, /sys, /dev and "
			"/.execd, and the root itself",
			v->name, path);
	return keep(&v->target, path, err);
}

static int parse_sub_path(json_t *o, struct volume *v, struct err *err)
{
	char path[VOLUME_PATH_MAX + 1];
	const char *given = "";

	int r = json_get_str(o, "subPath", JSON_OPTIONAL, &given, err);
	if (r < 0)
		return r;
	if (given[0] == '/')
		return refuse(err, "INVALID_SUB_PATH",
			      "volume '%s': subPath '%.200s' must be a relative path", v->name, given);
	if (strlen(given) > VOLUME_PATH_MAX || has_control(given))
		return refuse(err, "INVALID_SUB_PATH",
			      "volume '%s': subPath is longer than %d bytes or holds control characters",
			      v->name, VOLUME_PATH_MAX);
	if (!normalise(given, path))
		return refuse(err, "INVALID_SUB_PATH", "volume '%s': subPath '%.200s' must not contain '..'",
			      v->name, given);
	return keep(&v->sub_path, path, err);
}

static bool is_allowed(const char *path, char *const *allowed)
{
	for (; allowed && *allowed; allowed++)
		if (is_within(path, *allowed))
			return true;
	return false;
}

static int parse_host(json_t *host, char *const *allowed, struct volume *v, struct err *err)
{
	static const char *const known[] = {"path"};
	char path[VOLUME_PATH_MAX + 2] = "/";
	const char *given = "";

	v->kind = VOLUME_HOST;
	int r = check_known(host, "host", known, ARRAY_SIZE(known), err);
	if (r == 0)
		r = json_get_str(host, "path", JSON_REQUIRED, &given, err);
	if (r < 0)
		return r;
	if (given[0] != '/' || strlen(given) > VOLUME_PATH_MAX || has_control(given))
		return refuse(err, "INVALID_HOST_PATH",
			      "volume '%s': host.path '%.200s' must be an absolute path of this Linux host, "
			      "of at most %d bytes",
			      v->name, given, VOLUME_PATH_MAX);
	/* As the known server: what has to be read twice is refused. */
	if (!normalise(given, path + 1) || strcmp(given, path) != 0)
		return refuse(err, "INVALID_HOST_PATH",
			      "volume '%s': host.path '%.200s' must be written without '..', '.', doubled "
			      "slashes and a slash at the end",
			      v->name, given);
	if (!is_allowed(path, allowed))
		return refuse(err, "HOST_PATH_NOT_ALLOWED",
			      "volume '%s': host.path '%.200s' is not under any path that "
			      "storage.allowed_host_paths allows",
			      v->name, path);
	return keep(&v->source, path, err);
}

/* "10Gi": what is asked of a claim that is made; here it is only checked, as the API has it for Docker. */
static bool is_quantity(const char *s)
{
	static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
	size_t n = strspn(s, "0123456789");

	if (n > 0 && s[n] == '.') {
		size_t more = strspn(s + n + 1, "0123456789");
		n = more ? n + 1 + more : 0;
	}
	for (size_t i = 0; n > 0 && i < ARRAY_SIZE(units); i++)
		if (strcmp(s + n, units[i]) == 0)
			return true;
	return false;
}

static int parse_named(json_t *pvc, struct volume *v, struct err *err)
{
	static const char *const known[] = {
		"claimName",	"createIfNotExists", "deleteOnSandboxTermination",
		"storageClass", "storage",	     "accessModes",
	};
	const char *claim = "", *text = NULL, *size = NULL;
	json_t *modes = NULL;

	v->kind = VOLUME_NAMED;
	v->create = true;
	int r = check_known(pvc, "pvc", known, ARRAY_SIZE(known), err);
	if (r >= 0)
		r = json_get_str(pvc, "claimName", JSON_REQUIRED, &claim, err);
	if (r >= 0)
		r = json_get_bool(pvc, "createIfNotExists", JSON_OPTIONAL, &v->create, err);
	if (r >= 0)
		r = json_get_bool(pvc, "deleteOnSandboxTermination", JSON_OPTIONAL, &v->ephemeral, err);
	if (r >= 0)
		r = json_get_str(pvc, "storageClass", JSON_OPTIONAL, &text, err);
	if (r >= 0)
		r = json_get_str(pvc, "storage", JSON_OPTIONAL, &size, err);
	if (r >= 0)
		r = json_get_str_arr(pvc, "accessModes", JSON_OPTIONAL, &modes, err);
	if (r < 0)
		return r;
	if (!is_label(claim, VOLUME_CLAIM_MAX))
		return refuse(err, "INVALID_PVC_NAME",
			      "volume '%s': pvc.claimName '%.80s' must be lowercase letters, digits and "
			      "hyphens within, at most %d",
			      v->name, claim, VOLUME_CLAIM_MAX);
	if (size && !is_quantity(size))
		return refuse(err, "INVALID_BACKEND",
			      "volume '%s': pvc.storage '%.32s' is not a size such as 1Gi", v->name, size);
	return keep(&v->source, claim, err);
}

static int parse_backend(json_t *o, char *const *allowed, struct volume *v, struct err *err)
{
	static const char *const backends[] = {"host", "pvc", "ossfs"};
	json_t *found[ARRAY_SIZE(backends)] = {0};
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(backends); i++) {
		int r = json_get_obj(o, backends[i], JSON_OPTIONAL, &found[i], err);
		if (r < 0)
			return r;
		n += r > 0;
	}
	if (n != 1)
		return refuse(err, "INVALID_BACKEND",
			      "volume '%s' must have exactly one of host, pvc and ossfs, it has %zu", v->name,
			      n);
	if (found[2])
		return err_set(err, ERR_INVALID, VOLUME_CODE("UNSUPPORTED_BACKEND"), EOPNOTSUPP,
			       "volume '%s': the backend ossfs is not supported by this server; host and pvc "
			       "are",
			       v->name);
	return found[0] ? parse_host(found[0], allowed, v, err) : parse_named(found[1], v, err);
}

static int parse_one(json_t *o, char *const *allowed, struct volumes *all, struct err *err)
{
	static const char *const known[] = {"name",	 "host",     "pvc",    "ossfs",
					    "mountPath", "readOnly", "subPath"};
	struct volume *v = &all->list[all->n];
	const char *name = "";

	if (!json_is_object(o))
		return refuse(err, "INVALID_BACKEND", "volumes[%zu] must be an object", all->n);
	*v = (struct volume){.fd = -EBADF};
	all->n++; /* what is in it by now is released with the rest */
	int r = json_get_str(o, "name", JSON_REQUIRED, &name, err);
	if (r < 0)
		return r;
	if (!is_label(name, VOLUME_NAME_MAX))
		return refuse(err, "INVALID_NAME",
			      "volume name '%.80s' must be lowercase letters, digits and hyphens within, at "
			      "most %d",
			      name, VOLUME_NAME_MAX);
	for (size_t i = 0; i + 1 < all->n; i++)
		if (strcmp(all->list[i].name, name) == 0)
			return refuse(err, "DUPLICATE_NAME", "two volumes have the name '%s'", name);
	r = keep(&v->name, name, err);
	if (r == 0)
		r = check_known(o, "volume", known, ARRAY_SIZE(known), err);
	if (r >= 0)
		r = parse_backend(o, allowed, v, err);
	if (r >= 0)
		r = parse_target(o, v, err);
	if (r >= 0)
		r = json_get_bool(o, "readOnly", JSON_OPTIONAL, &v->readonly, err);
	if (r >= 0)
		r = parse_sub_path(o, v, err);
	for (size_t i = 0; r >= 0 && i + 1 < all->n; i++)
		if (strcmp(all->list[i].target, v->target) == 0)
			r = refuse(err, "INVALID_MOUNT_PATH",
				   "volumes '%s' and '%s' have the same mountPath '%.200s'",
				   all->list[i].name, v->name, v->target);
	return r;
}

/* What contains another has the shorter path. */
static int by_target(const void *a, const void *b)
{
	const struct volume *x = a, *y = b;
	size_t m = strlen(x->target), n = strlen(y->target);

	return m != n ? (m < n ? -1 : 1) : strcmp(x->target, y->target);
}

int volumes_parse(json_t *array, char *const *allowed, struct volumes *ret, struct err *err)
{
	size_t i = 0;
	json_t *o;

	*ret = (struct volumes){0};
	if (json_array_size(array) > VOLUMES_MAX)
		return refuse(err, "INVALID_BACKEND", "volumes: %zu are too many, the limit is %d",
			      json_array_size(array), VOLUMES_MAX);
	json_array_foreach(array, i, o)
	{
		int r = parse_one(o, allowed, ret, err);
		if (r < 0) {
			volumes_done(ret);
			return r;
		}
	}
	qsort(ret->list, ret->n, sizeof(ret->list[0]), by_target);
	return 0;
}

void volumes_done(struct volumes *v)
{
	for (size_t i = 0; i < v->n; i++) {
		struct volume *x = &v->list[i];
		free(x->name);
		free(x->source);
		free(x->sub_path);
		free(x->target);
		fd_close(&x->fd);
	}
	v->n = 0;
}

/* ---- files --------------------------------------------------------------------------------- */

static int open_step(int root, const char *path, uint64_t scope)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC,
		.resolve = scope | RESOLVE_NO_MAGICLINKS,
	};
	int fd;

	do /* -EAGAIN: something was renamed meanwhile, and the kernel will not guess */
		fd = (int)syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof(how));
	while (fd < 0 && (errno == EAGAIN || errno == EINTR));
	return fd < 0 ? -errno : fd;
}

static int open_scoped(int root, const char *path, bool make, uint64_t scope)
{
	char part[VOLUME_PATH_MAX + 1];
	_cleanup_close_ int parent = -EBADF;

	int fd = open_step(root, path, scope);
	if (fd != -ENOENT || !make)
		return fd;
	for (const char *at = path; *at;) {
		size_t n = strcspn(at, "/"), end = (size_t)(at - path) + n;
		char name[NAME_MAX + 1];
		if (n > NAME_MAX || end >= sizeof(part))
			return -ENAMETOOLONG;
		memcpy(part, path, end);
		part[end] = '\0';
		fd = open_step(root, part, scope);
		if (fd == -ENOENT) {
			(void)snprintf(name, sizeof(name), "%.*s", (int)n, at);
			if (mkdirat(parent < 0 ? root : parent, name, MADE_MODE) < 0 && errno != EEXIST)
				return -errno;
			fd = open_step(root, part, scope);
		}
		if (fd < 0)
			return fd;
		fd_close(&parent);
		parent = fd;
		at += n + (at[n] == '/');
	}
	return TAKE_FD(parent);
}

int volume_open_below(int root, const char *path, bool make)
{
	return open_scoped(root, path, make, RESOLVE_BENEATH);
}

int volume_open_inside(int root, const char *path, bool make)
{
	return open_scoped(root, path, make, RESOLVE_IN_ROOT);
}

static int open_error(const struct volume *v, const char *path, int r, struct err *err)
{
	if (r == -EXDEV || r == -ELOOP)
		return refuse(err, "HOST_PATH_NOT_ALLOWED",
			      "volume '%s': a link in '%.200s' leads out of what is allowed", v->name, path);
	return err_sys(err, VOLUME_CODE("HOST_PATH_CREATE_FAILED"), -r, "volume '%s': open or make '%.200s'",
		       v->name, path);
}

/* The path as the first of the allowed ones has it that leads there. */
static int open_source(const struct volume *v, char *const *allowed, struct err *err)
{
	int r = -EXDEV;

	for (; *allowed; allowed++) {
		if (!is_within(v->source, *allowed))
			continue;
		const char *rest = v->source + MIN(strlen(*allowed), strlen(v->source));
		_cleanup_close_ int root = open(*allowed, O_PATH | O_DIRECTORY | O_CLOEXEC);
		r = root < 0 ? -errno : volume_open_below(root, rest + strspn(rest, "/"), true);
		if (r >= 0)
			return r;
	}
	return open_error(v, v->source, r, err);
}

static int check_opened(const struct volume *v, const char *private_dir, struct err *err)
{
	char link[32], path[PATH_MAX], own[PATH_MAX];
	struct stat st;

	if (fstat(v->fd, &st) < 0)
		return err_sys(err, VOLUME_CODE("INVALID_HOST_PATH"), errno, "volume '%s'", v->name);
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		return refuse(err, "INVALID_HOST_PATH",
			      "volume '%s': '%.200s' is neither a directory nor a regular file", v->name,
			      v->source);
	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", v->fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n < 0 || !realpath(private_dir, own))
		return err_sys(err, VOLUME_CODE("INVALID_HOST_PATH"), errno, "volume '%s'", v->name);
	path[n] = '\0';
	if (is_within(path, own) || is_within(own, path))
		return refuse(err, "HOST_PATH_NOT_ALLOWED",
			      "volume '%s': host.path '%.200s' holds, or lies in, what belongs to the server",
			      v->name, v->source);
	return 0;
}

bool volumes_need_open(const struct volumes *all)
{
	for (size_t i = 0; i < all->n; i++)
		if (all->list[i].kind == VOLUME_HOST)
			return true;
	return false;
}

int volumes_open(struct volumes *all, char *const *allowed, const char *private_dir, struct err *err)
{
	for (size_t i = 0; i < all->n; i++) {
		struct volume *v = &all->list[i];
		if (v->kind != VOLUME_HOST)
			continue;
		_cleanup_close_ int source = open_source(v, allowed, err);
		if (source < 0)
			return source;
		v->fd = *v->sub_path ? volume_open_below(source, v->sub_path, true) : TAKE_FD(source);
		if (v->fd < 0)
			return open_error(v, v->sub_path, v->fd, err);
		int r = check_opened(v, private_dir, err);
		if (r < 0)
			return r;
	}
	return 0;
}
