/*
 * parts.h - an input that is several files, parted by a line "%%".
 */
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include "lib/fs.h"
#include "tests/fuzz/fuzz.h"

#define PARTS_MAX 10

struct part {
	const uint8_t *data;
	size_t n;
};

static inline size_t part_them(const uint8_t *data, size_t n, struct part parts[PARTS_MAX])
{
	static const char parting[] = "\n%%\n";
	size_t count = 0;

	while (count < PARTS_MAX) {
		const uint8_t *cut = n > 0 ? memmem(data, n, parting, sizeof(parting) - 1) : NULL;
		size_t part_n = cut ? (size_t)(cut - data) : n;

		parts[count++] = (struct part){data, part_n};
		if (!cut)
			break;
		data += part_n + sizeof(parting) - 1;
		n -= part_n + sizeof(parting) - 1;
	}
	return count;
}

/* Part i in that file; no file where there is no such part. */
static inline void put(const char *path, const struct part *parts, size_t n, size_t i)
{
	(void)unlink(path);
	if (i < n)
		must(fs_write_file(AT_FDCWD, path, parts[i].n > 0 ? parts[i].data : (const uint8_t *)"",
				   parts[i].n, 0644) == 0);
}
