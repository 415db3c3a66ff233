/*
 * asset.c - the table of embedded files. The Makefile assembles kernels/<folder>/<name>.<ext> as
 * kernel_<folder>_<name>_start .. _end, and kernel.<ext> as kernel_<folder>_start .. _end, each a
 * gzip file (RFC 1952): most of what the agent carries is text.
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
	const char *folder, *name;
	const char *start, *end;
};

#define EMBEDDED(symbol) extern const char symbol##_start[], symbol##_end[]

EMBEDDED(kernel_bash_fork);
EMBEDDED(kernel_node);
EMBEDDED(kernel_node_acorn_min);
EMBEDDED(kernel_node_display);
EMBEDDED(kernel_node_errors);
EMBEDDED(kernel_node_streams);
EMBEDDED(kernel_node_sucrase_min);
EMBEDDED(kernel_node_transform);
EMBEDDED(kernel_node_typescript);
EMBEDDED(kernel_node_wire);
EMBEDDED(kernel_python);
EMBEDDED(kernel_python_cell);
EMBEDDED(kernel_python_display);
EMBEDDED(kernel_python_figures);
EMBEDDED(kernel_python_magics);
EMBEDDED(kernel_python_native);
EMBEDDED(kernel_python_streams);
EMBEDDED(kernel_python_wire);
EMBEDDED(kernel_python_zygote);

/* One of both: a build with a JDK has the classes. */
extern const char kernel_java_start[] __attribute__((weak));
extern const char kernel_java_end[] __attribute__((weak));
extern const char kernel_java_classes_start[] __attribute__((weak));
extern const char kernel_java_classes_end[] __attribute__((weak));

#define ASSET(folder, name, symbol)                                                                          \
	{                                                                                                    \
		folder, name, symbol##_start, symbol##_end                                                   \
	}

static const struct asset assets[] = {
	ASSET("bash", "fork.so", kernel_bash_fork),
	ASSET("node", "kernel.js", kernel_node),
	ASSET("node", "acorn.min.js", kernel_node_acorn_min),
	ASSET("node", "display.js", kernel_node_display),
	ASSET("node", "errors.js", kernel_node_errors),
	ASSET("node", "streams.js", kernel_node_streams),
	ASSET("node", "sucrase.min.js", kernel_node_sucrase_min),
	ASSET("node", "transform.js", kernel_node_transform),
	ASSET("node", "typescript.js", kernel_node_typescript),
	ASSET("node", "wire.js", kernel_node_wire),
	ASSET("java", "#!kernel.java", kernel_java), /* java passes over a first line that begins like this */
	ASSET("java-classes", "classes.jar", kernel_java_classes),
	ASSET("python", "kernel.py", kernel_python),
	ASSET("python", "cell.py", kernel_python_cell),
	ASSET("python", "display.py", kernel_python_display),
	ASSET("python", "figures.py", kernel_python_figures),
	ASSET("python", "magics.py", kernel_python_magics),
	ASSET("python", "streams.py", kernel_python_streams),
	ASSET("python", "wire.py", kernel_python_wire),
	ASSET("python-native", "native.so", kernel_python_native),
	ASSET("python-zygote", "zygote.py", kernel_python_zygote),
};

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
	int len = snprintf(head, sizeof(head), "%s %zu\n", a->name, unpacked_size(a));
	int r = fs_write_all(fd, head, (size_t)len);
	return r < 0 ? r : write_content(fd, a);
}

static int seal(int fd)
{
	const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	return fcntl(fd, F_ADD_SEALS, seals) < 0 || lseek(fd, 0, SEEK_SET) < 0 ? -errno : 0;
}

static int make_file(const char *folder, bool headed, int *ret_fd, struct err *err)
{
	_cleanup_close_ int fd = memfd_create("kernel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r = fd < 0 ? -errno : 0;
	for (size_t i = 0; i < ARRAY_SIZE(assets) && r >= 0; i++) {
		const struct asset *a = &assets[i];
		if (strcmp(a->folder, folder) == 0)
			r = headed ? write_asset(fd, a) : write_content(fd, a);
	}
	if (r >= 0)
		r = seal(fd);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "unpack the %s kernel", folder);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

bool asset_there(const char *folder)
{
	for (size_t i = 0; i < ARRAY_SIZE(assets); i++)
		if (strcmp(assets[i].folder, folder) == 0)
			return assets[i].start != NULL;
	return false;
}

int asset_open(const char *folder, int *ret_fd, struct err *err)
{
	return make_file(folder, true, ret_fd, err);
}

int asset_file(const char *folder, int *ret_fd, struct err *err)
{
	return make_file(folder, false, ret_fd, err);
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
