/*
 * layers.c - the list of layers of a snapshot; no state.
 */
#include "sandboxd/oci/layers.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/fs.h"

void layers_path(const char *state_dir, const char *snapshot, const char *layer, char *out)
{
	(void)snprintf(out, PATH_MAX, "%s/snapshots/%s%s%s", state_dir, snapshot, layer ? "/" : "",
		       layer ? layer : "");
}

int layers_read(const char *state_dir, const char *snapshot, struct layers *ret)
{
	_cleanup_buf_ struct buf text = BUF_INIT((SNAPSHOT_DEPTH_MAX + 1) * RUNTIME_ID_MAX);
	char path[PATH_MAX];

	*ret = (struct layers){0};
	layers_path(state_dir, snapshot, "layers", path);
	int r = fs_read_file(AT_FDCWD, path, &text);
	if (r < 0)
		return r;
	for (const char *p = buf_cstr(&text); p && *p;) {
		size_t n = strcspn(p, "\n");
		if (n == 0 || n >= RUNTIME_ID_MAX || ret->n > SNAPSHOT_DEPTH_MAX)
			return -EBADMSG;
		memcpy(ret->ids[ret->n++], p, n);
		p += n + (p[n] == '\n');
	}
	return ret->n > 0 ? 0 : -EBADMSG;
}

int layers_write(const char *state_dir, const char *snapshot, const struct layers *layers)
{
	_cleanup_buf_ struct buf text = BUF_INIT((SNAPSHOT_DEPTH_MAX + 2) * RUNTIME_ID_MAX);
	char path[PATH_MAX];

	for (size_t i = 0; i < layers->n; i++)
		(void)buf_printf(&text, "%s\n", layers->ids[i]);
	if (text.failed)
		return -ENOMEM;
	layers_path(state_dir, snapshot, "layers", path);
	int r = fs_write_file(AT_FDCWD, path, text.data, text.len, 0600);
	_cleanup_close_ int fd = r < 0 ? -EBADF : open(path, O_RDONLY | O_CLOEXEC);
	if (r == 0 && (fd < 0 || syncfs(fd) < 0))
		r = -errno;
	return r;
}
