/*
 * enter_volume.c - mounts volumes into the root of a sandbox, in oci-enter.
 *
 * The source is a descriptor, so it is what was checked. The target is a path
 * within an image or a snapshot, which may hold any link: it is looked up with
 * the image as its root.
 */
#include "sandboxd/oci/enter_step.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "sandboxd/volume.h"

static struct {
	const char *target;
	int tree;
	bool file;
} volumes[VOLUMES_MAX];
static unsigned volumes_n;

int enter_volume_open(const char *arg, bool readonly)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
				  .propagation = MS_PRIVATE};
	char source[64];
	struct stat st;
	const char *eq = strchr(arg, '=');

	if (!eq || volumes_n == VOLUMES_MAX ||
	    snprintf(source, sizeof(source), "%.*s", (int)(eq - arg), arg) >= (int)sizeof(source))
		return enter_complain("understand volume", arg, EINVAL);
	if (readonly)
		attr.attr_set |= MOUNT_ATTR_RDONLY;
	int fd = open(source, O_PATH | O_CLOEXEC);
	int tree = fd < 0 ? -1
			  : open_tree(fd, "",
				      AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0 || fstat(fd, &st) < 0 ||
	    mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0)
		return enter_complain("open the volume for", eq + 1, errno);
	fd_close(&fd);
	volumes[volumes_n].target = eq + 1;
	volumes[volumes_n].tree = tree;
	volumes[volumes_n++].file = !S_ISDIR(st.st_mode);
	return 0;
}

/* The place of a file; its directories are there or made. */
static int open_file(int root, const char *path)
{
	char dir[VOLUME_PATH_MAX + 2];

	int fd = volume_open_inside(root, path, false);
	if (fd != -ENOENT)
		return fd;
	const char *name = strrchr(path, '/');
	(void)snprintf(dir, sizeof(dir), "%.*s", name ? (int)(name - path) : 0, path);
	_cleanup_close_ int parent = volume_open_inside(root, dir, true);
	if (parent < 0)
		return parent;
	fd = openat(parent, name ? name + 1 : path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		    0644);
	if (fd < 0)
		return -errno;
	fd_close(&fd);
	return volume_open_inside(root, path, false);
}

/* A link of the image may have led to what is not to be covered. */
static bool is_reserved(int root, int place)
{
	char link[32], base[PATH_MAX], path[PATH_MAX];

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", root);
	ssize_t m = readlink(link, base, sizeof(base) - 1);
	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", place);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (m <= 0 || n < m || memcmp(base, path, (size_t)m) != 0)
		return true;
	path[n] = '\0';
	return volume_target_reserved(path + m);
}

static int mount_one(int root, unsigned i)
{
	const char *target = volumes[i].target + 1;
	struct stat st;
	int place = volumes[i].file ? open_file(root, target) : volume_open_inside(root, target, true);

	if (place < 0 || fstat(place, &st) < 0)
		return enter_complain("make the place of volume", volumes[i].target,
				      place < 0 ? -place : errno);
	if (volumes[i].file == !!S_ISDIR(st.st_mode))
		return enter_complain("mount a file and a directory over each other, volume",
				      volumes[i].target, volumes[i].file ? EISDIR : ENOTDIR);
	if (is_reserved(root, place))
		return enter_complain("mount over what the sandbox needs itself, volume", volumes[i].target,
				      EINVAL);
	if (move_mount(volumes[i].tree, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return enter_complain("mount the volume at", volumes[i].target, errno);
	fd_close(&place);
	return 0;
}

int enter_volumes_mount(void)
{
	if (volumes_n == 0)
		return 0;
	_cleanup_close_ int root = open("rootfs", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = root < 0 ? enter_complain("open", "rootfs", errno) : 0;
	for (unsigned i = 0; r == 0 && i < volumes_n; i++)
		r = mount_one(root, i);
	return r;
}
