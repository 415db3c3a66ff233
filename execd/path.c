/*
 * path.c - paths as clients write them. No state; any thread.
 *
 * Cleaning is textual, as in the reference: "/a/link/.." is "/a" wherever the
 * link points. Uploads and downloads do not clean, the kernel walks what the
 * client wrote.
 */
#include "execd/path.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "execd/env.h"

int path_absolute(const char *given, char **ret, struct err *err)
{
	_cleanup_free_ char *expanded = NULL;
	char cwd[PATH_MAX], *joined;
	int r;

	if (given[0] == '\0')
		return err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL, "the path is empty");
	r = env_expand_path(given, NULL, &expanded, err);
	if (r < 0)
		return r;
	if (expanded[0] == '\0')
		return err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL, "the path '%s' expands to nothing",
			       given);
	if (expanded[0] == '/') {
		*ret = TAKE_PTR(expanded);
		return 0;
	}
	if (!getcwd(cwd, sizeof(cwd)))
		return err_sys(err, "RUNTIME_ERROR", errno, "the agent's working directory, for '%s'", given);
	if (asprintf(&joined, "%s/%s", strcmp(cwd, "/") == 0 ? "" : cwd, expanded) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "path '%s'", given);
	*ret = joined;
	return 0;
}

int path_canonical(const char *given, char **ret, struct err *err)
{
	int r = path_absolute(given, ret, err);

	if (r >= 0)
		path_clean(*ret);
	return r;
}

void path_clean(char *path)
{
	char *out = path; /* what is kept: "" or "/a/b" */
	const char *in = path;

	while (*in) {
		size_t n = strcspn(in, "/");

		if (n == 2 && in[0] == '.' && in[1] == '.') {
			while (out > path && *--out != '/')
				;
		} else if (n > 0 && !(n == 1 && in[0] == '.')) {
			/* out never passes in: every component kept had a slash before it. */
			*out++ = '/';
			memmove(out, in, n);
			out += n;
		}
		in += n;
		in += strspn(in, "/");
	}
	if (out == path)
		*out++ = '/';
	*out = '\0';
}

const char *path_base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}
