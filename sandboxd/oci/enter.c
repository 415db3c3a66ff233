/*
 * enter.c - a short life of its own: one thread, no loop, ends in exec.
 */
#include "sandboxd/oci/enter.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "lib/fs.h"
#include "lib/util.h"
#include "sandboxd/oci/enter_step.h"

#define UNIFIED	       "/sys/fs/cgroup/unified"
#define CGROUP2_MAGIC  0x63677270
#define MOUNT_DATA_MAX 4096

int enter_complain(const char *what, const char *object, int errnum)
{
	fprintf(stderr, "oci-enter: %s%s%s%s: %s\n", what, object ? " '" : "", object ? object : "",
		object ? "'" : "", strerror(errnum));
	return ENTER_FAILED;
}

static int own_mounts(void)
{
	if (unshare(CLONE_NEWNS) < 0)
		return enter_complain("make a mount namespace", NULL, errno);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return enter_complain("make mounts private", "/", errno);
	return 0;
}

/*
 * crun before 1.9 refuses to work where controllers of cgroup v1 and v2 are
 * mixed. In our own namespace the v2 half can be put out of its sight.
 */
static void hide_unified(void)
{
	struct statfs fs;

	if (statfs(UNIFIED, &fs) == 0 && fs.f_type == CGROUP2_MAGIC)
		(void)umount2(UNIFIED, MNT_DETACH);
}

static int join(const char *file)
{
	_cleanup_close_ int fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || fs_write_all(fd, "0", 1) < 0)
		return enter_complain("join control group", file, errno);
	return 0;
}

/*
 * `volatile`: the layer is thrown away with its sandbox, so a sync inside need
 * not reach the disk. Kernels before 5.10 do not know the option.
 */
static int mount_overlay(const char *target, const char *lower, unsigned n)
{
	const char *disk = enter_disk_prefix();
	char data[MOUNT_DATA_MAX];
	int len = snprintf(data, sizeof(data), "lowerdir=%s,upperdir=%supper.%u,workdir=%swork.%u,volatile",
			   lower, disk, n, disk, n);
	if (len < 0 || (size_t)len >= sizeof(data))
		return -ENAMETOOLONG;
	if (mount("overlay", target, "overlay", MS_NODEV, data) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	data[len - (int)strlen(",volatile")] = '\0';
	return mount("overlay", target, "overlay", MS_NODEV, data) < 0 ? -errno : 0;
}

/* Layers without an upper one: nothing can be written there. */
static int mount_layers(const char *target, const char *lower)
{
	char data[MOUNT_DATA_MAX];
	int len = snprintf(data, sizeof(data), "lowerdir=%s", lower);

	if (len < 0 || (size_t)len >= sizeof(data))
		return -ENAMETOOLONG;
	return mount("overlay", target, "overlay", MS_RDONLY | MS_NODEV | MS_NOSUID, data) < 0 ? -errno : 0;
}

/* Below rootfs, or that itself; what an image or a snapshot has made a link is not followed. */
static int open_target(const char *path, size_t n)
{
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
	char name[256];

	if (snprintf(name, sizeof(name), "rootfs%s%.*s", n ? "/" : "", (int)n, path) >= (int)sizeof(name))
		return -ENAMETOOLONG;
	int fd = (int)syscall(SYS_openat2, AT_FDCWD, name, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

/* Those in the bundle itself are made before. */
static int make_layer(unsigned n)
{
	char path[32];

	(void)snprintf(path, sizeof(path), "%supper.%u", enter_disk_prefix(), n);
	if (mkdir(path, 0755) < 0)
		return -errno;
	(void)snprintf(path, sizeof(path), "%swork.%u", enter_disk_prefix(), n);
	return mkdir(path, 0700) < 0 ? -errno : 0;
}

/* "TARGET=LOWER"; n: which upper layer, or -1 for none. */
static int overlay_argument(const char *arg, int n)
{
	char target[32];
	const char *eq = strchr(arg, '=');

	if (!eq)
		return enter_complain("understand overlay", arg, EINVAL);
	_cleanup_close_ int fd = open_target(arg, (size_t)(eq - arg));
	if (fd < 0)
		return enter_complain("open the place of overlay", arg, -fd);
	(void)snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
	int r = n >= 0 && *enter_disk_prefix() ? make_layer((unsigned)n) : 0;
	if (r == 0)
		r = n < 0 ? mount_layers(target, eq + 1) : mount_overlay(target, eq + 1, (unsigned)n);
	return r < 0 ? enter_complain("mount overlay", arg, -r) : 0;
}

/*
 * A descriptor of our parent, by its path in /proc. It is open in the mount
 * namespace that we have left, which overlayfs does not accept: so the same
 * directory is opened in ours, and is refused when it has become another.
 */
static int base_argument(const char *arg)
{
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS};
	char path[PATH_MAX];
	struct stat then, now;

	ssize_t n = readlink(arg, path, sizeof(path) - 1);
	path[MAX(n, (ssize_t)0)] = '\0';
	_cleanup_close_ int fd = n < 0 ? -1 : (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
	if (fd < 0 || stat(arg, &then) < 0 || fstat(fd, &now) < 0)
		return enter_complain("open the image", path, errno);
	if (then.st_dev != now.st_dev || then.st_ino != now.st_ino)
		return enter_complain("find the image again at", path, ESTALE);
	return dup3(fd, ENTER_BASE_FD, O_CLOEXEC) < 0 ? enter_complain("open the image", path, errno) : 0;
}

/* ---- the check ------------------------------------------------------------ */

static int check_namespaces(void)
{
	static const struct {
		int flag;
		const char *name;
	} kinds[] = {
		{CLONE_NEWNS, "mount"}, {CLONE_NEWPID, "pid"},	   {CLONE_NEWIPC, "ipc"},
		{CLONE_NEWUTS, "uts"},	{CLONE_NEWNET, "network"}, {CLONE_NEWCGROUP, "cgroup"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (unshare(kinds[i].flag) < 0) {
			int e = errno;
			fprintf(stderr, "no %s namespace can be made: %s. ", kinds[i].name, strerror(e));
			if (e == EPERM)
				fprintf(stderr, "sandboxd needs root with CAP_SYS_ADMIN; inside a container "
						"start that one with --privileged\n");
			else
				fprintf(stderr, "This kernel is built or configured without them (see "
						"/proc/sys/user/max_*_namespaces)\n");
			return ENTER_FAILED;
		}
	return 0;
}

static int check_overlay(const char *bundle)
{
	int r = mount_overlay("rootfs", "lower", 0);
	_cleanup_close_ int fd = r < 0 ? -EBADF : open("rootfs/probe", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd >= 0)
		return 0;
	if (r == -ENODEV)
		fprintf(stderr, "this kernel has no overlay file system: `modprobe overlay` loads it where "
				"it is a module\n");
	else if (r == -EPERM)
		fprintf(stderr, "overlayfs may not be mounted here: sandboxd needs root with CAP_SYS_ADMIN; "
				"inside a container start that one with --privileged\n");
	else
		fprintf(stderr,
			"overlayfs cannot keep its upper layer in '%s': %s. Put --state on ext4, xfs, btrfs "
			"or "
			"tmpfs; another overlay (the root of a container) and network file systems will not "
			"do\n",
			bundle, strerror(r < 0 ? -r : errno));
	return ENTER_FAILED;
}

static int check(const char *bundle)
{
	int r = check_namespaces();
	if (r == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		r = enter_complain("make mounts private", "/", errno);
	return r == 0 ? check_overlay(bundle) : r;
}

/* ---- arguments --------------------------------------------------------------- */

/* What is done while the mount namespace is still that of sandboxd. */
static const char *const outside[] = {"--volume", "--volume-ro", "--bridge", "--unbridge", "--share"};

static bool is_outside(const char *option)
{
	for (size_t i = 0; i < ARRAY_SIZE(outside); i++)
		if (strcmp(option, outside[i]) == 0)
			return true;
	return false;
}

static int outside_argument(const char *option, const char *value)
{
	if (strcmp(option, "--volume") == 0 || strcmp(option, "--volume-ro") == 0)
		return enter_volume_open(value, strcmp(option, "--volume-ro") == 0);
	if (strcmp(option, "--bridge") == 0)
		return enter_network_add(value);
	if (strcmp(option, "--unbridge") == 0)
		enter_network_del(value);
	else if (strcmp(option, "--share") == 0)
		enter_network_share();
	return 0;
}

int oci_enter(int argc, char **argv)
{
	int overlays = 0, i, r;

	if (argc < 3)
		return enter_complain("understand the arguments", NULL, EINVAL);
	if (chdir(argv[1]) < 0)
		return enter_complain("enter", argv[1], errno);
	if (strcmp(argv[2], "--check") == 0)
		return check(argv[1]);
	for (i = 2, r = 0; r == 0 && i + 1 < argc && strcmp(argv[i], "--") != 0; i += 2)
		r = outside_argument(argv[i], argv[i + 1]);
	if (r == 0)
		r = own_mounts();
	for (i = 2; r == 0 && i + 1 < argc && strcmp(argv[i], "--") != 0; i += 2)
		if (strcmp(argv[i], "--overlay") == 0)
			r = overlay_argument(argv[i + 1], overlays++);
		else if (strcmp(argv[i], "--layers") == 0)
			r = overlay_argument(argv[i + 1], -1);
		else if (strcmp(argv[i], "--base") == 0)
			r = base_argument(argv[i + 1]);
		else if (strcmp(argv[i], "--join") == 0)
			r = join(argv[i + 1]);
		else if (strcmp(argv[i], "--disk") == 0)
			r = enter_disk_make(argv[i + 1]);
		else if (strcmp(argv[i], "--disk-of") == 0)
			r = enter_disk_again();
		else if (!is_outside(argv[i]))
			r = enter_complain("understand", argv[i], EINVAL);
	if (r == 0)
		r = enter_network_names();
	if (r == 0)
		r = enter_volumes_mount();
	if (r != 0)
		return r;
	if (i + 1 >= argc)
		return enter_complain("find a program in the arguments", NULL, EINVAL);
	hide_unified();
	execvp(argv[i + 1], argv + i + 1);
	return enter_complain("start", argv[i + 1], errno);
}
