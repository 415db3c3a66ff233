/*
 * asset.c - the table of embedded files. The Makefile assembles kernels/<folder>/<name>.<ext> as
 * kernel_<folder>_<name>_start .. _end, and kernel.<ext> as kernel_<folder>_start .. _end.
 */
#include "execd/asset.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/fs.h"

struct asset {
	const char *folder, *name;
	const char *start, *end;
};

#define EMBEDDED(symbol) extern const char symbol##_start[], symbol##_end[]

EMBEDDED(kernel_node);
EMBEDDED(kernel_node_acorn_min);
EMBEDDED(kernel_node_display);
EMBEDDED(kernel_node_errors);
EMBEDDED(kernel_node_streams);
EMBEDDED(kernel_node_sucrase_min);
EMBEDDED(kernel_node_transform);
EMBEDDED(kernel_node_typescript);
EMBEDDED(kernel_node_wire);
EMBEDDED(kernel_java);
EMBEDDED(kernel_python);
EMBEDDED(kernel_python_cell);
EMBEDDED(kernel_python_display);
EMBEDDED(kernel_python_figures);
EMBEDDED(kernel_python_magics);
EMBEDDED(kernel_python_streams);
EMBEDDED(kernel_python_wire);

#define ASSET(folder, name, symbol)                                                                          \
	{                                                                                                    \
		folder, name, symbol##_start, symbol##_end                                                   \
	}

static const struct asset assets[] = {
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
	ASSET("python", "kernel.py", kernel_python),
	ASSET("python", "cell.py", kernel_python_cell),
	ASSET("python", "display.py", kernel_python_display),
	ASSET("python", "figures.py", kernel_python_figures),
	ASSET("python", "magics.py", kernel_python_magics),
	ASSET("python", "streams.py", kernel_python_streams),
	ASSET("python", "wire.py", kernel_python_wire),
};

static int write_asset(int fd, const struct asset *a)
{
	size_t n = (size_t)(a->end - a->start);
	char head[128];
	int len = snprintf(head, sizeof(head), "%s %zu\n", a->name, n);
	int r = fs_write_all(fd, head, (size_t)len);
	return r < 0 ? r : fs_write_all(fd, a->start, n);
}

int asset_open(const char *folder, int *ret_fd, struct err *err)
{
	_cleanup_close_ int fd = memfd_create("kernel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r = fd < 0 ? -errno : 0;
	for (size_t i = 0; i < ARRAY_SIZE(assets) && r >= 0; i++)
		if (strcmp(assets[i].folder, folder) == 0)
			r = write_asset(fd, &assets[i]);
	if (r >= 0 && (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0 ||
		       lseek(fd, 0, SEEK_SET) < 0))
		r = -errno;
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "unpack the %s kernel", folder);
	*ret_fd = TAKE_FD(fd);
	return 0;
}
