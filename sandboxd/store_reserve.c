/*
 * store_reserve.c - room on disk that is the store's alone.
 *
 * Where the disk is full, what there is must still be noted to have ended. So
 * the files of the database own more blocks than they use: the write-ahead log
 * as many as it ever needs between two checkpoints, the database some to grow
 * into. They stay when we end, and nobody else can take them.
 */
#include "sandboxd/store_priv.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/log.h"

#define LOG_BYTES   (8 << 20) /* twice of what a checkpoint is made at */
#define GROWTH_STEP (1 << 20) /* of the database */

static void reserve(const char *path, int flags, off_t beyond)
{
	struct stat st;
	_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);

	if (fd < 0 || fstat(fd, &st) < 0 ||
	    (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, MAX(beyond, st.st_size + GROWTH_STEP)) < 0 &&
	     errno != EOPNOTSUPP))
		log_warn("store: no room can be kept for '%s': %s", path, strerror(errno));
}

/* Closing any descriptor of the database lets go of SQLite's locks on it: that is why before. */
void store_reserve_database(const char *path)
{
	reserve(path, O_CREAT, 0);
}

void store_reserve_log(struct store *s)
{
	char path[PATH_MAX];
	int on = 1, step = GROWTH_STEP;

	(void)sqlite3_file_control(s->db, "main", SQLITE_FCNTL_PERSIST_WAL, &on);
	(void)sqlite3_file_control(s->db, "main", SQLITE_FCNTL_CHUNK_SIZE, &step);
	if (snprintf(path, sizeof(path), "%s-wal", s->path) < (int)sizeof(path))
		reserve(path, 0, LOG_BYTES);
}
