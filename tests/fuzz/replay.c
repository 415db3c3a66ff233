/*
 * replay.c - runs a fuzz target over the files named, once each: the corpus as a test.
 */
#include <dirent.h>
#include <errno.h>

#include "tests/fuzz/fuzz.h"

#define FILE_MAX (4U << 20)

static bool replay(const char *dir, const char *name)
{
	char path[4096];
	FILE *file;
	uint8_t *data;
	size_t n;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "rbe");
	data = malloc(FILE_MAX);
	if (!file || !data) {
		(void)fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(1);
	}
	n = fread(data, 1, FILE_MAX, file);
	(void)fclose(file);
	(void)LLVMFuzzerTestOneInput(data, n);
	free(data);
	return true;
}

/* The name last begun stands on stderr when a target aborts. */
int main(int argc, char **argv)
{
	unsigned count = 0;

	for (int i = 1; i < argc; i++) {
		DIR *dir = opendir(argv[i]);
		const struct dirent *entry;

		if (!dir) {
			(void)fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
			return 1;
		}
		while ((entry = readdir(dir)) != NULL) {
			if (entry->d_name[0] == '.')
				continue;
			(void)fprintf(stderr, "%s\n", entry->d_name);
			count += replay(argv[i], entry->d_name);
		}
		(void)closedir(dir);
	}
	(void)printf("%u inputs\n", count);
	return count > 0 ? 0 : 1;
}
