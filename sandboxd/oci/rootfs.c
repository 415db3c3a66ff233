/*
 * rootfs.c - builds the skeleton of the `host` image; no state, no threads.
 *
 * /etc is an allow-list: what programs under /usr need to work and what any
 * Debian image of a public registry would show too. Whatever is not named here
 * does not exist inside: no shadow, no keys, no host names, no credentials of
 * package managers or registries, no proxies.
 */
#include "sandboxd/oci/rootfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "lib/fs.h"

#define COPY_DEPTH_MAX 8
#define COPY_FILE_MAX  (8 << 20) /* bytes of one file in /etc; over it the file is left out */

/* Copied from the host's /etc where present: globs over the first path component, or an exact path. */
static const char *const etc_copied[] = {
	/* which program a name means, where libraries and fonts are */
	"alternatives",
	"ld.so.cache",
	"ld.so.conf",
	"ld.so.conf.d",
	"fonts",
	/* trust anchors, without keys */
	"ssl/certs",
	"ssl/openssl.cnf",
	"ca-certificates",
	"ca-certificates.conf",
	"pki/tls/certs",
	/* what the system is */
	"os-release",
	"debian_version",
	"lsb-release",
	"localtime",
	"timezone",
	"locale.alias",
	"locale.conf",
	"default/locale",
	/* name services and protocol numbers */
	"nsswitch.conf",
	"protocols",
	"services",
	"rpc",
	"ethertypes",
	"gai.conf",
	"host.conf",
	/* file types */
	"mime.types",
	"magic",
	"magic.mime",
	/* shells, terminals and languages */
	"bash.bashrc",
	"inputrc",
	"shells",
	"terminfo",
	"login.defs",
	"python3*",
	"java-*",
	"perl",
	"php",
	"lua",
	"sgml",
	"xml",
};

static const struct {
	const char *path, *text;
} etc_written[] = {
	{"passwd", "root:x:0:0:root:/root:/bin/bash\n"
		   "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
		   "bin:x:2:2:bin:/bin:/usr/sbin/nologin\n"
		   "sys:x:3:3:sys:/dev:/usr/sbin/nologin\n"
		   "man:x:6:12:man:/var/cache/man:/usr/sbin/nologin\n"
		   "mail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n"
		   "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
		   "sandbox:x:1000:1000:sandbox:/home/sandbox:/bin/bash\n"
		   "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
	{"group", "root:x:0:\n"
		  "daemon:x:1:\n"
		  "bin:x:2:\n"
		  "sys:x:3:\n"
		  "adm:x:4:\n"
		  "tty:x:5:\n"
		  "man:x:12:\n"
		  "mail:x:8:\n"
		  "www-data:x:33:\n"
		  "shadow:x:42:\n"
		  "utmp:x:43:\n"
		  "staff:x:50:\n"
		  "users:x:100:\n"
		  "sandbox:x:1000:\n"
		  "nogroup:x:65534:\n"},
	{"hosts", "127.0.0.1 localhost\n"
		  "127.0.1.1 sandbox\n"
		  "::1 localhost ip6-localhost ip6-loopback\n"},
	{"hostname", "sandbox\n"},
	{"resolv.conf", "# This sandbox has no network but its own loopback.\n"},
	{"profile", "# Login shells keep the environment that the sandbox was given.\n"
		    "if [ -n \"$BASH\" ] && [ -r /etc/bash.bashrc ]; then . /etc/bash.bashrc; fi\n"},
};

static const struct {
	const char *path;
	mode_t mode;
} directories[] = {
	{"dev", 0755},	     {"etc", 0755},	  {"home", 0755},	  {"media", 0755},
	{"mnt", 0755},	     {"opt", 0755},	  {"proc", 0555},	  {"root", 0700},
	{"run", 0755},	     {"srv", 0755},	  {"sys", 0555},	  {"tmp", 01777},
	{"usr", 0755},	     {"var", 0755},	  {"var/cache", 0755},	  {"var/lib", 0755},
	{"var/log", 0755},   {"var/spool", 0755}, {"var/tmp", 01777},	  {"var/mail", 0755},
	{"run/lock", 01777}, {"workspace", 0755}, {"home/sandbox", 0755}, {".execd", 0755},
};

static const struct {
	const char *path, *target;
} links[] = {
	{"var/run", "/run"},
	{"var/lock", "/run/lock"},
	{"etc/mtab", "/proc/self/mounts"},
};

/*
 * What lies above an image, below the sandbox's own layer: the directories that
 * something is mounted on, and the generated files of /etc. Whatever an image
 * has under these names, a link among them, is out of sight.
 */
static const struct {
	const char *path;
	mode_t mode;
} above_image[] = {
	{".execd", 0755}, {"dev", 0755}, {"etc", 0755}, {"proc", 0555}, {"sys", 0555}, {"tmp", 01777},
};

static const char *const etc_above_image[] = {"hosts", "hostname", "resolv.conf"};

/* The entrypoint that the quick starts of code interpreters name: here execd does that work itself. */
static const char interpreter[] = "#!/bin/sh\nexec tail -f /dev/null\n";

/* ---- copying ------------------------------------------------------------------ */

static int copy_entry(int from, int to, const char *name, unsigned depth);

static int copy_file(int from, int to, const char *name, const struct stat *st)
{
	/* Only what everybody on the host may read, and owned by the system. */
	if (!(st->st_mode & S_IROTH) || st->st_uid != 0 || st->st_size > COPY_FILE_MAX)
		return 0;
	_cleanup_close_ int in = openat(from, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (in < 0)
		return errno == ENOENT || errno == ELOOP ? 0 : -errno;
	_cleanup_close_ int out =
		openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (out < 0)
		return errno == EEXIST ? 0 : -errno;
	for (off_t left = st->st_size; left > 0;) {
		ssize_t n = sendfile(out, in, NULL, (size_t)left);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		left -= n;
	}
	return fchmod(out, st->st_mode & 0755) < 0 ? -errno : 0;
}

static int copy_link(int from, int to, const char *name)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(from, name, target, sizeof(target) - 1);
	if (n < 0)
		return errno == ENOENT || errno == EINVAL ? 0 : -errno;
	target[n] = '\0';
	return symlinkat(target, to, name) < 0 && errno != EEXIST ? -errno : 0;
}

static int copy_directory(int from, int to, const char *name, unsigned depth)
{
	int in = openat(from, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (in < 0)
		return errno == ENOENT || errno == EACCES ? 0 : -errno;
	if (mkdirat(to, name, 0755) < 0 && errno != EEXIST) {
		int e = errno;
		(void)close(in);
		return -e;
	}
	_cleanup_close_ int out = openat(to, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *d = out < 0 ? NULL : fdopendir(in);
	if (!d) {
		int e = errno;
		(void)close(in);
		return -e;
	}
	int r = 0;
	struct dirent *e;
	while (r == 0 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = copy_entry(in, out, e->d_name, depth + 1);
	(void)closedir(d);
	return r;
}

static int copy_entry(int from, int to, const char *name, unsigned depth)
{
	struct stat st;

	if (depth > COPY_DEPTH_MAX)
		return 0;
	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (S_ISREG(st.st_mode))
		return copy_file(from, to, name, &st);
	if (S_ISLNK(st.st_mode))
		return copy_link(from, to, name);
	/* A directory that is closed to others on the host has no business inside. */
	if (S_ISDIR(st.st_mode) && (st.st_mode & S_IXOTH))
		return copy_directory(from, to, name, depth);
	return 0;
}

/* "ssl/certs": the parents are made, and only this is copied into them. */
static int copy_path(int from, int to, const char *path)
{
	const char *slash = strchr(path, '/');
	if (!slash)
		return copy_entry(from, to, path, 0);

	char head[NAME_MAX + 1];
	(void)snprintf(head, sizeof(head), "%.*s", (int)(slash - path), path);
	_cleanup_close_ int in = openat(from, head, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (in < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : -errno;
	if (mkdirat(to, head, 0755) < 0 && errno != EEXIST)
		return -errno;
	_cleanup_close_ int out = openat(to, head, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return out < 0 ? -errno : copy_path(in, out, slash + 1);
}

static int copy_matching(int from, int to, const char *pattern)
{
	_cleanup_close_ int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = again < 0 ? NULL : fdopendir(again);
	if (!d)
		return -errno;
	(void)TAKE_FD(again);
	int r = 0;
	struct dirent *e;
	while (r == 0 && (e = readdir(d)))
		if (fnmatch(pattern, e->d_name, FNM_PERIOD) == 0)
			r = copy_entry(from, to, e->d_name, 0);
	(void)closedir(d);
	return r;
}

static int copy_etc(int host, int root, struct err *err)
{
	_cleanup_close_ int from = openat(host, "etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int to = openat(root, "etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (from < 0 || to < 0)
		return err_sys(err, "CONFIG", errno, "open /etc");
	for (size_t i = 0; i < ARRAY_SIZE(etc_copied); i++) {
		const char *path = etc_copied[i];
		int r = strchr(path, '*') ? copy_matching(from, to, path) : copy_path(from, to, path);
		if (r < 0)
			return err_sys(err, "CONFIG", -r, "copy /etc/%s", path);
	}
	return 0;
}

/* ---- the skeleton ------------------------------------------------------------------ */

static int write_skeleton(int root, struct err *err)
{
	char path[64];
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
		const char *dir = directories[i].path;
		if (mkdirat(root, dir, 0755) < 0 || fchmodat(root, dir, directories[i].mode, 0) < 0)
			return err_sys(err, "CONFIG", errno, "make /%s of the image", dir);
	}
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlinkat(links[i].target, root, links[i].path) < 0)
			return err_sys(err, "CONFIG", errno, "make /%s of the image", links[i].path);
	for (size_t i = 0; i < ARRAY_SIZE(etc_written); i++) {
		(void)snprintf(path, sizeof(path), "etc/%s", etc_written[i].path);
		r = fs_write_file(root, path, etc_written[i].text, strlen(etc_written[i].text), 0644);
		if (r < 0)
			return err_sys(err, "CONFIG", -r, "write /%s of the image", path);
	}
	if (fchownat(root, "home/sandbox", 1000, 1000, 0) < 0)
		return err_sys(err, "CONFIG", errno, "give /home/sandbox to its owner");
	return 0;
}

static bool is_above_image(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(etc_above_image); i++)
		if (strcmp(etc_above_image[i], name) == 0)
			return true;
	return false;
}

static int write_above_image(int dir, struct err *err)
{
	char path[64];
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(above_image); i++)
		if (mkdirat(dir, above_image[i].path, 0755) < 0 ||
		    fchmodat(dir, above_image[i].path, above_image[i].mode, 0) < 0)
			return err_sys(err, "CONFIG", errno, "make /%s above images", above_image[i].path);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(etc_written); i++) {
		(void)snprintf(path, sizeof(path), "etc/%s", etc_written[i].path);
		if (is_above_image(etc_written[i].path))
			r = fs_write_file(dir, path, etc_written[i].text, strlen(etc_written[i].text), 0644);
	}
	return r < 0 ? err_sys(err, "CONFIG", -r, "write /etc above images") : 0;
}

static int write_opt(int opt, struct err *err)
{
	int r = mkdirat(opt, "code-interpreter", 0755) < 0 ? -errno : 0;
	if (r == 0)
		r = fs_write_file(opt, "code-interpreter/code-interpreter.sh", interpreter,
				  strlen(interpreter), 0755);
	return r < 0 ? err_sys(err, "CONFIG", -r, "write /opt of the image") : 0;
}

static void add_overlay(struct rootfs *fs, const char *target, const char *name, const char *part,
			const char *host)
{
	struct rootfs_overlay *o = &fs->overlays[fs->overlays_n++];

	(void)snprintf(o->target, sizeof(o->target), "%s", target);
	if (part)
		(void)snprintf(o->lower, sizeof(o->lower), "../../roots/%s/%s%s%s", name, part,
			       host ? ":" : "", host ? host : "");
	else
		(void)snprintf(o->lower, sizeof(o->lower), "%s", host);
}

/* Two layers, the second one empty: with one alone overlayfs wants an upper one. A bind mount would show the
 * path of the state directory inside. */
static void add_agent(struct rootfs *fs, const char *name)
{
	struct rootfs_overlay *agent = &fs->overlays[fs->overlays_n++];
	*agent = (struct rootfs_overlay){.target = ".execd", .readonly = true};
	(void)snprintf(agent->lower, sizeof(agent->lower), "../../roots/%s/agent:../../roots/%s/none", name,
		       name);
}

/* /bin, /lib and their like: links where the host has merged them into /usr, else overlays too. */
static int add_system_directory(int host, int root, const char *name, struct rootfs *fs, struct err *err)
{
	char target[PATH_MAX], path[32];
	struct stat st;

	if (fstatat(host, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (S_ISLNK(st.st_mode)) {
		ssize_t n = readlinkat(host, name, target, sizeof(target) - 1);
		if (n < 0)
			return err_sys(err, "CONFIG", errno, "read link /%s", name);
		target[n] = '\0';
		return symlinkat(target, root, name) < 0 ? err_sys(err, "CONFIG", errno, "make /%s", name)
							 : 0;
	}
	if (mkdirat(root, name, 0755) < 0)
		return err_sys(err, "CONFIG", errno, "make /%s", name);
	(void)snprintf(path, sizeof(path), "/%s", name);
	add_overlay(fs, name, NULL, NULL, path);
	return 0;
}

static int fill(int root, int opt, const char *name, struct rootfs *fs, struct err *err)
{
	static const char *const system[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};
	_cleanup_close_ int host = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	int r = write_skeleton(root, err);
	if (r == 0)
		r = write_opt(opt, err);
	if (r == 0)
		r = copy_etc(host, root, err);
	if (r < 0)
		return r;
	add_overlay(fs, "", name, "root", NULL);
	add_overlay(fs, "usr", NULL, NULL, "/usr");
	add_overlay(fs, "opt", name, "opt", stat("/opt", &st) == 0 && S_ISDIR(st.st_mode) ? "/opt" : NULL);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(system); i++)
		r = add_system_directory(host, root, system[i], fs, err);
	add_agent(fs, name);
	return r;
}

static int make_part(int base, const char *name)
{
	return mkdirat(base, name, 0755) < 0 ? -1 : openat(base, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int rootfs_build_host(const char *state_dir, const char *name, struct rootfs *ret, struct err *err)
{
	char path[PATH_MAX];
	mode_t mask = umask(022);
	struct rootfs fs = {0};

	(void)snprintf(path, sizeof(path), "%s/roots/%s", state_dir, name);
	int r = fs_mkdir_p(path, 0755);
	_cleanup_close_ int base = r < 0 ? -EBADF : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int root = base < 0 ? -EBADF : make_part(base, "root");
	_cleanup_close_ int opt = root < 0 ? -EBADF : make_part(base, "opt");
	_cleanup_close_ int agent = opt < 0 ? -EBADF : make_part(base, "agent");
	_cleanup_close_ int none = agent < 0 ? -EBADF : make_part(base, "none");
	_cleanup_close_ int above = none < 0 ? -EBADF : make_part(base, "image");

	if (above < 0)
		r = err_sys(err, "CONFIG", r < 0 ? -r : errno, "make '%s'", path);
	else
		r = fill(root, opt, name, &fs, err);
	if (r == 0)
		r = write_above_image(above, err);
	(void)umask(mask);
	if (r < 0)
		return r;
	(void)snprintf(fs.path, sizeof(fs.path), "%s%s", DEFAULT_PATH,
		       access("/usr/local/go/bin/go", X_OK) == 0 ? ":/usr/local/go/bin" : "");
	*ret = fs;
	return 0;
}

void rootfs_of_image(const char *name, const char *lower, struct rootfs *ret)
{
	*ret = (struct rootfs){0};
	add_overlay(ret, "", name, "image", lower);
	add_agent(ret, name);
}
