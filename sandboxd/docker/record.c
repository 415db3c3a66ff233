/*
 * record.c - owns STATE/claimed/ID: the records of those sandboxes that were spares.
 *
 * Of the others it is a label of the container (LABEL_RECORD), which cannot be
 * changed once that is there. A lost store is rebuilt from both.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "sandboxd/docker/box.h"

#define FOLDER	   "claimed"
#define RECORD_MAX (1u << 20)

static void path_of(const struct docker *d, const char *id, char path[PATH_MAX])
{
	(void)snprintf(path, PATH_MAX, "%s/" FOLDER "/%s", d->config->state_dir, id);
}

/* Whole or not at all: what is being written has no name yet. */
int docker_record_write(const struct docker *d, const char *id, const char *record)
{
	char folder[PATH_MAX], path[PATH_MAX], self[64];

	if (!record)
		return 0;
	path_of(d, "", folder);
	path_of(d, id, path);
	if (mkdir(folder, 0700) < 0 && errno != EEXIST)
		return -errno;
	_cleanup_close_ int fd = open(folder, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int r = fs_write_all(fd, record, strlen(record));
	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (r == 0 && linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0)
		r = -errno;
	return r;
}

char *docker_record_read(const struct docker *d, const char *id)
{
	_cleanup_buf_ struct buf text = BUF_INIT(RECORD_MAX);
	char path[PATH_MAX];

	path_of(d, id, path);
	return fs_read_file(AT_FDCWD, path, &text) == 0 && buf_cstr(&text) ? strdup((char *)text.data) : NULL;
}

void docker_record_remove(const struct docker *d, const char *id)
{
	char path[PATH_MAX];

	path_of(d, id, path);
	if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR)
		log_warn("sandbox %s: remove '%s': %s", id, path, strerror(errno));
}

void docker_records_clean(const struct docker *d)
{
	char folder[PATH_MAX];
	struct dirent *e;

	path_of(d, "", folder);
	DIR *dir = opendir(folder);
	while (dir && (e = readdir(dir)))
		if (docker_box_id_ok(e->d_name) && !docker_box_find(d, e->d_name))
			docker_record_remove(d, e->d_name);
	if (dir)
		(void)closedir(dir);
}
