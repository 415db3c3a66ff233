/*
 * asset.c - the embedded files. Their table, kernel_files, is made by the Makefile of what is in kernels/:
 * each is a gzip file (RFC 1952), as most of what the agent carries is text.
 */
#include "execd/asset.h"

#include <fcntl.h>
#include <stdlib.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/fs.h"

struct asset {
	const char *path; /* "python/kernel.py" */
	const char *start, *end;
};

extern const struct asset kernel_files[]; /* the last one has no path */

/* The last four bytes of a gzip file: the size of its content, little-endian. */
static size_t unpacked_size(const struct asset *a)
{
	const uint8_t *size = (const uint8_t *)a->end - 4;
	return (size_t)size[0] | (size_t)size[1] << 8 | (size_t)size[2] << 16 | (size_t)size[3] << 24;
}

static int unpack(const struct asset *a, void *out, size_t n)
{
	z_stream z = {.next_in = (Bytef *)a->start,
		      .avail_in = (uInt)(a->end - a->start),
		      .next_out = out,
		      .avail_out = (uInt)n};
	if (inflateInit2(&z, MAX_WBITS + 16) != Z_OK)
		return -ENOMEM;
	int r = inflate(&z, Z_FINISH);
	(void)inflateEnd(&z);
	return r == Z_STREAM_END && z.total_out == n ? 0 : -EIO;
}

static int write_content(int fd, const struct asset *a)
{
	size_t n = unpacked_size(a);
	_cleanup_free_ char *text = malloc(MAX(n, (size_t)1));
	int r = text ? unpack(a, text, n) : -ENOMEM;
	return r < 0 ? r : fs_write_all(fd, text, n);
}

static int write_asset(int fd, const struct asset *a)
{
	char head[128];
	int len = snprintf(head, sizeof(head), "%s %zu\n", strrchr(a->path, '/') + 1, unpacked_size(a));
	int r = fs_write_all(fd, head, (size_t)len);
	return r < 0 ? r : write_content(fd, a);
}

static int seal(int fd)
{
	const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	return fcntl(fd, F_ADD_SEALS, seals) < 0 || lseek(fd, 0, SEEK_SET) < 0 ? -errno : 0;
}

static const struct asset *find(const char *path)
{
	for (const struct asset *a = kernel_files; a->path; a++)
		if (strcmp(a->path, path) == 0)
			return a;
	return NULL;
}

/* Of what a folder holds, a kernel reads the texts; libraries and the like are for others. */
static bool is_text_of(const struct asset *a, const char *folder)
{
	const char *name = strrchr(a->path, '/') + 1, *dot = strrchr(name, '.'), *end = dot ? dot : "";
	size_t n = strlen(folder);
	return strncmp(a->path, folder, n) == 0 && a->path + n + 1 == name && strcmp(end, ".so") != 0 &&
	       strcmp(end, ".jar") != 0;
}

static int write_folder(int fd, const char *folder)
{
	int r = -ENOENT;
	for (const struct asset *a = kernel_files; a->path; a++) {
		if (!is_text_of(a, folder))
			continue;
		r = write_asset(fd, a);
		if (r < 0)
			return r;
	}
	return r;
}

bool asset_there(const char *path)
{
	return find(path);
}

int asset_open(const char *path, int *ret_fd, struct err *err)
{
	_cleanup_close_ int fd = memfd_create("kernel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	const struct asset *file = find(path);
	int r = fd < 0 ? -errno : file ? write_content(fd, file) : write_folder(fd, path);
	if (r >= 0)
		r = seal(fd);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "unpack the kernel '%s'", path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int asset_program(const char *name, char *path, size_t size)
{
	const char *folder = getenv("EXECD_KERNELS");
	char agent[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", agent, sizeof(agent) - 1);
	if (folder && *folder)
		return (size_t)snprintf(path, size, "%s/%s", folder, name) < size ? 0 : -ENAMETOOLONG;
	if (n < 0)
		return -errno;
	agent[n] = '\0';
	*(strrchr(agent, '/') + 1) = '\0';
	return (size_t)snprintf(path, size, "%skernels/%s", agent, name) < size ? 0 : -ENAMETOOLONG;
}
