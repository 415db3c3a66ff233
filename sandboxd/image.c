/*
 * image.c - owns the image table; no state beyond it, no threads.
 */
#include "sandboxd/image.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "lib/buf.h"

/* What official clients, their examples and quick starts ask for by default. */
static const char *const defaults[] = {
	"host",
	"opensandbox/code-interpreter",
	"*/opensandbox/code-interpreter",
	"python",
	"node",
	"golang",
	"openjdk",
	"eclipse-temurin",
	"ubuntu",
	"debian",
};

bool image_is_path(const char *text)
{
	static const char *const kinds[] = {"dir:/", "oci:/", "oci-archive:/", "docker-archive:/"};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strncmp(text, kinds[i], strlen(kinds[i])) == 0)
			return true;
	return false;
}

int image_table_init(struct image_table *t)
{
	*t = (struct image_table){0};
	for (size_t i = 0; i < ARRAY_SIZE(defaults); i++)
		if (image_table_add(t, defaults[i], IMAGE_HOST, NULL) < 0)
			return -ENOMEM;
	return 0;
}

void image_table_done(struct image_table *t)
{
	for (size_t i = 0; i < t->rows_n; i++) {
		free(t->rows[i].pattern);
		free(t->rows[i].root);
	}
	free(t->rows);
	*t = (struct image_table){0};
}

int image_table_add(struct image_table *t, const char *pattern, const char *root, struct err *err)
{
	if (strcmp(root, IMAGE_HOST) != 0 && strcmp(root, IMAGE_REGISTRY) != 0 &&
	    strncmp(root, IMAGE_PULL, strlen(IMAGE_PULL)) != 0 && !image_is_path(root))
		return err_set(err, ERR_INVALID, "CONFIG", 0,
			       "image '%.100s': '%.100s' is no root; there are: host, registry, "
			       "docker://REFERENCE, dir:/PATH, oci:/PATH[:TAG], oci-archive:/PATH[:TAG], "
			       "docker-archive:/PATH[:REFERENCE]",
			       pattern, root);

	struct image_row *rows = reallocarray(t->rows, t->rows_n + 1, sizeof(*rows));
	if (!rows)
		return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
	t->rows = rows;
	struct image_row row = {.pattern = strdup(pattern), .root = strdup(root)};
	if (!row.pattern || !row.root) {
		free(row.pattern);
		free(row.root);
		return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
	}
	t->rows[t->rows_n++] = row;
	return 0;
}

static const char *skip(const char *s, const char *prefix)
{
	size_t n = strlen(prefix);
	return strncmp(s, prefix, n) == 0 ? s + n : s;
}

static const char *short_reference(const char *uri)
{
	return skip(skip(skip(uri, "docker.io/"), "index.docker.io/"), "library/");
}

bool image_same(const char *a, const char *b)
{
	return strcmp(short_reference(a), short_reference(b)) == 0;
}

/* Where the tag or digest begins: the first '@', or the last ':' behind the last '/'. */
static size_t name_length(const char *uri)
{
	size_t n = strcspn(uri, "@");
	for (size_t i = n; i > 0 && uri[i - 1] != '/'; i--)
		if (uri[i - 1] == ':')
			return i - 1;
	return n;
}

/* Bounded text: the sandbox's owner reads it in one line. */
static void list_patterns(const struct image_table *t, char *out, size_t size)
{
	size_t n = 0;
	out[0] = '\0';
	for (size_t i = 0; i < t->rows_n; i++) {
		int r = snprintf(out + n, size - n, "%s%s", i ? ", " : "", t->rows[i].pattern);
		if (r < 0 || (size_t)r >= size - n) {
			memcpy(out + MIN(n, size - 4), "...", 4);
			return;
		}
		n += (size_t)r;
	}
}

int image_resolve(const struct image_table *t, const char *uri, const char **ret_root, struct err *err)
{
	char name[IMAGE_URI_MAX];
	const char *ref = short_reference(uri);
	size_t n = name_length(ref);

	if (strlen(uri) < sizeof(name)) {
		memcpy(name, ref, n);
		name[n] = '\0';
		for (size_t i = t->rows_n; i > 0; i--) {
			const struct image_row *row = &t->rows[i - 1];
			bool whole = row->pattern[name_length(row->pattern)] != '\0';
			if (fnmatch(row->pattern, whole ? ref : name, 0) == 0) {
				*ret_root = row->root;
				return 0;
			}
		}
	}
	char known[ERR_MESSAGE_MAX - 128];
	list_patterns(t, known, sizeof(known));
	(void)err_set(err, ERR_INVALID, "SANDBOX::INVALID_PARAMETER", 0,
		      "image '%.64s' is not configured here; configured are: %s", uri, known);
	return -ENOENT;
}
