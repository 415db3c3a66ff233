/*
 * layer_copy.h - making a second one of anything but a directory or a device, by descriptor and name.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>
#include <sys/stat.h>

/*
 * What *st was at src, and still is, at dst, where nothing is. Removed again when
 * it fails: -ESTALE, -ELOOP, -ENXIO or -EINVAL when it has become something else;
 * -EOPNOTSUPP. The bytes are added to *bytes_sum. Worker.
 */
int layer_copy_node(int src_dirfd, const char *src, const struct stat *st, int dst_dirfd, const char *dst,
		    const atomic_bool *cancel, uint64_t *bytes_sum);

/* chmod(2) of exactly this thing of this type: fchmodat() would follow a link that somebody puts there. */
int layer_chmod_at(int dirfd, const char *name, mode_t type, mode_t mode);
