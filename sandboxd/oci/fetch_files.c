/*
 * fetch_files.c - reads what skopeo has brought and keeps what umoci has made
 * of it; no state. What comes from an image is bounded before it is read.
 */
#include "sandboxd/oci/fetch_files.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "lib/base64.h"
#include "lib/fs.h"
#include "lib/random.h"
#include "proto/json.h"
#include "sandboxd/oci/output.h"
#include "sandboxd/oci/weigh.h"

#define CODE	      "DOCKER::SANDBOX_IMAGE_PULL_FAILED"
#define JSON_MAX      (4 << 20) /* of an index, a manifest, a configuration */
#define LAYERS_MAX    512
#define DIGEST_DIGITS 64
#define RANDOM_DIGITS 16
#define POLICY	      "/etc/containers/policy.json"
#define LOGIN_MAX     (64 * 1024)

static int broken(struct fetch_files *f, const char *what)
{
	return err_set(&f->err, ERR_BAD_GATEWAY, CODE, EBADMSG, "the image is broken: %s", what);
}

/* ---- logins ----------------------------------------------------------------------- */

/* {"auths":{"HOST":{"auth":"BASE64"}}} */
static int write_login(struct fetch_files *f, const char *registry, const struct runtime_image *login)
{
	_cleanup_buf_ struct buf plain = BUF_INIT(LOGIN_MAX), coded = BUF_INIT(2 * LOGIN_MAX);

	(void)buf_printf(&plain, "%s:%s", login->username, login->password);
	int r = plain.failed ? -ENOMEM : base64_encode(&coded, plain.data, plain.len);
	json_t *o = r < 0 || !buf_cstr(&coded)
			    ? NULL
			    : json_pack("{s:{s:{s:s}}}", "auths", registry, "auth", buf_cstr(&coded));
	f->auth = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (plain.data)
		explicit_bzero(plain.data, plain.len);
	if (coded.data)
		explicit_bzero(coded.data, coded.len);
	return f->auth ? 0 : -ENOMEM;
}

int fetch_files_init(struct fetch_files *f, const char *state_dir, const struct source *source,
		     const struct runtime_image *login)
{
	char name[RANDOM_DIGITS + 1];

	memcpy(f->identity, source->identity, sizeof(f->identity));
	if (source->kind == SOURCE_KEPT)
		(void)snprintf(f->key, sizeof(f->key), "%.*s", BASE_NAME_MAX - 1, source->name);
	if (snprintf(f->images, sizeof(f->images), "%s/images", state_dir) >= (int)sizeof(f->images) - 128)
		return -ENAMETOOLONG;
	(void)snprintf(f->tmp, sizeof(f->tmp), "%.*s/tmp.%s", PATH_MAX - 64, f->images,
		       random_hex(name, RANDOM_DIGITS));
	return login->username && *source->registry ? write_login(f, source->registry, login) : 0;
}

void fetch_files_forget_login(struct fetch_files *f)
{
	char path[PATH_MAX + 16];

	if (!f->auth)
		return;
	explicit_bzero(f->auth, strlen(f->auth));
	free(f->auth);
	f->auth = NULL;
	(void)snprintf(path, sizeof(path), "%s/auth.json", f->tmp);
	(void)unlink(path);
}

void fetch_files_done(struct fetch_files *f)
{
	fetch_files_forget_login(f);
	base_config_done(&f->config);
}

bool fetch_files_auth(const struct fetch_files *f, const char *other, char *out, size_t size)
{
	if (f->auth)
		(void)snprintf(out, size, "%.*s/auth.json", PATH_MAX - 16, f->tmp);
	else if (other)
		(void)snprintf(out, size, "%s", other);
	return f->auth || other;
}

bool fetch_policy_is_there(void)
{
	return access(POLICY, F_OK) == 0;
}

/* ---- what is here --------------------------------------------------------------------- */

static bool is_key(const char *name)
{
	return strncmp(name, "sha256-", 7) == 0 && strlen(name + 7) == DIGEST_DIGITS &&
	       strspn(name + 7, "0123456789abcdef") == DIGEST_DIGITS;
}

static int read_config(struct fetch_files *f, int dir)
{
	_cleanup_buf_ struct buf text = BUF_INIT(JSON_MAX);
	_cleanup_close_ int rootfs = openat(dir, "rootfs", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (rootfs < 0)
		return broken(f, "it has no root");
	int r = fs_read_file(dir, "config.json", &text);
	if (r < 0)
		return err_sys(&f->err, CODE, -r, "read the image's configuration");
	return base_config_read(text.data, text.len, rootfs, &f->config, &f->err);
}

/* 1: it is here. */
static int load(struct fetch_files *f)
{
	char path[PATH_MAX + BASE_NAME_MAX];

	(void)snprintf(path, sizeof(path), "%s/%s", f->images, f->key);
	_cleanup_close_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (dir < 0)
		return errno == ENOENT ? 0 : err_sys(&f->err, CODE, errno, "open image '%s'", f->key);
	int r = read_config(f, dir);
	f->stored = r == 0;
	return r < 0 ? r : 1;
}

/* It replaces what the source was before. Losing it costs another fetch. */
static void link_ref(const struct fetch_files *f)
{
	char target[BASE_NAME_MAX + 4], path[PATH_MAX + 128], made[PATH_MAX + 128], name[RANDOM_DIGITS + 1];

	(void)snprintf(target, sizeof(target), "../%s", f->key);
	(void)snprintf(path, sizeof(path), "%s/refs/%s", f->images, f->identity);
	(void)snprintf(made, sizeof(made), "%s/refs/tmp.%s", f->images, random_hex(name, RANDOM_DIGITS));
	if (symlink(target, made) == 0 && rename(made, path) < 0)
		(void)unlink(made);
}

static int look(struct fetch_files *f)
{
	char path[PATH_MAX + 128], target[BASE_NAME_MAX + 4];

	if (*f->key) {
		int r = load(f);
		return r != 0 ? MIN(r, 0)
			      : err_set(&f->err, ERR_GONE, CODE, ENOENT,
					"the image that the snapshot was taken of is gone");
	}
	(void)snprintf(path, sizeof(path), "%s/refs/%s", f->images, f->identity);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	target[MAX(n, (ssize_t)0)] = '\0';
	if (n > 3 && is_key(target + 3)) {
		(void)snprintf(f->key, sizeof(f->key), "%.*s", BASE_NAME_MAX - 1, target + 3);
		int r = load(f);
		if (r != 0)
			return MIN(r, 0);
		f->key[0] = '\0';
	}
	if (mkdir(f->tmp, 0700) < 0)
		return err_sys(&f->err, CODE, errno, "make '%s'", f->tmp);
	if (!f->auth)
		return 0;
	(void)snprintf(path, sizeof(path), "%s/auth.json", f->tmp);
	int r = fs_write_file(AT_FDCWD, path, f->auth, strlen(f->auth), 0600);
	return r < 0 ? err_sys(&f->err, CODE, -r, "write the login for the registry") : 0;
}

void fetch_files_look(struct fetch_files *f)
{
	f->result = look(f);
}

/* ---- what has come ------------------------------------------------------------------------ */

/* The object `digest` ("sha256:HEX") of the layout. */
static int open_blob(struct fetch_files *f, const char *digest)
{
	char path[PATH_MAX + 128];
	struct stat st;

	if (!digest || strncmp(digest, "sha256:", 7) != 0 || strlen(digest + 7) != DIGEST_DIGITS ||
	    strspn(digest + 7, "0123456789abcdef") != DIGEST_DIGITS)
		return broken(f, "a digest in its manifest is none");
	(void)snprintf(path, sizeof(path), "%s/layout/blobs/sha256/%s", f->tmp, digest + 7);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return broken(f, "a part that its manifest names is not there");
	return TAKE_FD(fd);
}

static int read_json(struct fetch_files *f, const char *path, json_t **ret)
{
	_cleanup_buf_ struct buf text = BUF_INIT(JSON_MAX);

	int r = fs_read_file(AT_FDCWD, path, &text);
	if (r == 0)
		r = json_parse(text.data, text.len, ret, NULL);
	return r < 0 ? broken(f, "an index, a manifest or a configuration cannot be read") : 0;
}

static int read_blob(struct fetch_files *f, const char *digest, json_t **ret)
{
	char path[32];
	_cleanup_close_ int fd = open_blob(f, digest);

	if (fd < 0)
		return fd;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return read_json(f, path, ret);
}

static const char *digest_of(json_t *object)
{
	return json_string_value(json_object_get(object, "digest"));
}

static int weigh_layers(struct fetch_files *f, json_t *layers)
{
	uint64_t total = 0;
	json_t *layer;
	size_t i = 0;

	if (json_array_size(layers) > LAYERS_MAX)
		return broken(f, "it has too many layers");
	json_array_foreach(layers, i, layer)
	{
		const char *type = json_string_value(json_object_get(layer, "mediaType"));
		size_t n = type ? strlen(type) : 0;
		bool gzip = n > 4 && strcmp(type + n - 4, "gzip") == 0;
		if (!gzip && !(n > 4 && strcmp(type + n - 4, ".tar") == 0))
			return err_set(&f->err, ERR_NOT_SUPPORTED, CODE, ENOTSUP,
				       "a layer of the image is of type '%.80s', which umoci does not unpack",
				       type ? type : "");
		_cleanup_close_ int fd = open_blob(f, digest_of(layer));
		int r = fd < 0 ? fd : weigh_layer(fd, gzip, f->max_bytes, &f->stop, &total, &f->err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_machine(struct fetch_files *f, json_t *config)
{
	const char *os = json_string_value(json_object_get(config, "os"));
	const char *arch = json_string_value(json_object_get(config, "architecture"));
	struct utsname host;

	(void)uname(&host);
	const char *here = strcmp(host.machine, "aarch64") == 0 ? "arm64" : "amd64";
	if ((!os || !*os || strcmp(os, "linux") == 0) && (!arch || !*arch || strcmp(arch, here) == 0))
		return 0;
	return err_set(&f->err, ERR_INVALID, CODE, ENOEXEC,
		       "the image is for %.16s/%.16s, this machine is linux/%s", os ? os : "",
		       arch ? arch : "", here);
}

static int weigh_manifest(struct fetch_files *f, const char *digest)
{
	json_t *manifest = NULL, *config = NULL;

	int r = read_blob(f, digest, &manifest);
	if (r == 0)
		r = read_blob(f, digest_of(json_object_get(manifest, "config")), &config);
	if (r == 0)
		r = check_machine(f, config);
	if (r == 0)
		r = weigh_layers(f, json_object_get(manifest, "layers"));
	json_decref(config);
	json_decref(manifest);
	return r;
}

/* The digest of the one manifest in the layout, "sha256:HEX"; out has BASE_NAME_MAX bytes. */
static int read_index(struct fetch_files *f, char *out)
{
	char path[PATH_MAX + 32];
	json_t *index = NULL;

	(void)snprintf(path, sizeof(path), "%s/layout/index.json", f->tmp);
	int r = read_json(f, path, &index);
	if (r < 0)
		return r;
	const char *digest = digest_of(json_array_get(json_object_get(index, "manifests"), 0));
	(void)snprintf(out, BASE_NAME_MAX, "%s", digest ? digest : "");
	json_decref(index);
	return 0;
}

void fetch_files_weigh(struct fetch_files *f)
{
	char digest[BASE_NAME_MAX];

	f->result = read_index(f, digest);
	if (f->result < 0)
		return;
	(void)snprintf(f->key, sizeof(f->key), "sha256-%.*s", DIGEST_DIGITS,
		       strlen(digest) > 7 ? digest + 7 : "");
	f->result = is_key(f->key) ? load(f) : broken(f, "its index names no manifest");
	if (f->result == 1)
		link_ref(f);
	else if (f->result == 0)
		f->result = weigh_manifest(f, digest);
}

/* ---- keeping it ------------------------------------------------------------------------------- */

/* The configuration is copied beside the root: the layout goes. */
static int copy_config(struct fetch_files *f)
{
	_cleanup_buf_ struct buf text = BUF_INIT(JSON_MAX);
	char digest[BASE_NAME_MAX], path[PATH_MAX + 32];
	json_t *manifest = NULL;

	int r = read_index(f, digest);
	if (r == 0)
		r = read_blob(f, digest, &manifest);
	_cleanup_close_ int fd = r < 0 ? r : open_blob(f, digest_of(json_object_get(manifest, "config")));
	json_decref(manifest);
	if (fd < 0)
		return fd;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = fs_read_file(AT_FDCWD, path, &text);
	(void)snprintf(path, sizeof(path), "%s/config.json", f->tmp);
	if (r == 0)
		r = fs_write_file(AT_FDCWD, path, text.data, text.len, 0600);
	return r < 0 ? err_sys(&f->err, CODE, -r, "keep the image's configuration") : 0;
}

static int keep(struct fetch_files *f)
{
	char path[PATH_MAX + BASE_NAME_MAX];
	int r = copy_config(f);
	_cleanup_close_ int dir = r < 0 ? -EBADF : open(f->tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (r < 0)
		return r;
	r = dir < 0 ? err_sys(&f->err, CODE, errno, "open '%s'", f->tmp) : read_config(f, dir);
	if (r < 0)
		return r;
	(void)fs_remove_tree(dir, "layout");
	(void)unlinkat(dir, "log", 0);
	/* What has the name of an image is whole, also after the machine has lost its power. */
	if (syncfs(dir) < 0)
		return err_sys(&f->err, CODE, errno, "write the image");
	(void)snprintf(path, sizeof(path), "%s/%s", f->images, f->key);
	if (rename(f->tmp, path) < 0)
		return err_sys(&f->err, CODE, errno, "keep the image");
	f->stored = true;
	link_ref(f);
	return 0;
}

void fetch_files_keep(struct fetch_files *f)
{
	f->result = keep(f);
}

void fetch_files_remove(struct fetch_files *f)
{
	(void)fs_remove_tree(AT_FDCWD, f->tmp);
}

/* ---- what the programs say ----------------------------------------------------------------------- */

int fetch_files_log(const struct fetch_files *f)
{
	char path[PATH_MAX + 8];

	(void)snprintf(path, sizeof(path), "%s/log", f->tmp);
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

void fetch_files_why(const struct fetch_files *f, char *out, size_t size)
{
	char path[PATH_MAX + 8], line[1024];

	(void)snprintf(path, sizeof(path), "%s/log", f->tmp);
	output_last_line(path, line, sizeof(line));
	/* time="..." level=fatal msg="..." */
	const char *from = strstr(line, " msg=\"");
	size_t n = 0;
	from = from ? from + strlen(" msg=\"") : line;
	for (const char *c = from; *c && n < size - 1; c++) {
		if (*c == '\\' && (c[1] == '"' || c[1] == '\\'))
			c++;
		else if (*c == '"' && from != line && !c[1])
			break;
		out[n++] = *c;
	}
	out[n] = '\0';
}
