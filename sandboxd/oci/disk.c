/*
 * disk.c - looks whether there is room, and whether it can be limited. No state.
 */
#include "sandboxd/oci/disk.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#define FILES_MIN 1024 /* free inodes, where the file system counts them */

static bool in_path(const char *path, const char *name)
{
	char full[PATH_MAX];

	while (*path) {
		size_t n = strcspn(path, ":");
		if (snprintf(full, sizeof(full), "%.*s/%s", (int)n, path, name) < (int)sizeof(full) &&
		    access(full, X_OK) == 0)
			return true;
		path += n + (path[n] == ':');
	}
	return false;
}

int disk_check(const char *path, struct err *err)
{
	if (access("/dev/loop-control", R_OK | W_OK) < 0)
		return err_set(err, ERR_INVALID, "SANDBOX::API_NOT_SUPPORTED", errno,
			       "a limit of the disk cannot be held here: there are no loop devices "
			       "(/dev/loop-control): `modprobe loop`, or in a container hand them in");
	if (!in_path(path, "mkfs.ext4"))
		return err_set(err, ERR_INVALID, "SANDBOX::API_NOT_SUPPORTED", ENOENT,
			       "a limit of the disk cannot be held here: mkfs.ext4 is not there; `apt-get "
			       "install e2fsprogs` brings it");
	return 0;
}

int disk_room(const char *dir, uint64_t bytes_min, struct err *err)
{
	struct statvfs fs;

	if (statvfs(dir, &fs) < 0)
		return err_sys(err, "SANDBOX::INSUFFICIENT_STORAGE", errno, "look at the room in '%s'", dir);
	uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (left < bytes_min)
		return err_set(err, ERR_STORAGE, "SANDBOX::INSUFFICIENT_STORAGE", ENOSPC,
			       "'%s' has %llu MiB left, and %llu must be free for a sandbox to be made "
			       "(sandboxd.min_free_mib)",
			       dir, (unsigned long long)(left >> 20), (unsigned long long)(bytes_min >> 20));
	if (bytes_min && fs.f_files && fs.f_favail < FILES_MIN)
		return err_set(err, ERR_STORAGE, "SANDBOX::INSUFFICIENT_STORAGE", ENOSPC,
			       "'%s' has room for %llu more files only", dir,
			       (unsigned long long)fs.f_favail);
	return 0;
}
