/*
 * base_config.c - reads the configuration of an image; no state. Worker threads.
 */
#include "sandboxd/oci/base_config.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "lib/fs.h"
#include "proto/json.h"

#define CODE	       "DOCKER::SANDBOX_START_FAILED"
#define ENV_MAX	       1024
#define ENV_MAX_BYTES  (256 * 1024)
#define FILE_MAX_BYTES (1 << 20) /* of /etc/passwd and /etc/group */
#define FIELDS	       7

void base_config_done(struct base_config *c)
{
	json_decref(c->env);
	free(c->cwd);
	free(c->home);
	*c = (struct base_config){0};
}

/* ---- users ---------------------------------------------------------------------- */

/* A regular file of the image, whatever links lead to it within the image. */
static int read_inside(int rootfs, const char *path, struct buf *out)
{
	struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
			       .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
	struct stat st;
	_cleanup_close_ int fd = (int)syscall(SYS_openat2, rootfs, path, &how, sizeof(how));

	if (fd < 0 || fstat(fd, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : -errno;
	if (!S_ISREG(st.st_mode))
		return 0;
	char self[32];
	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return fs_read_file(AT_FDCWD, self, out);
}

/* The next line, cut at its colons; what is missing is "". */
static bool next_row(char **at, char *fields[FIELDS])
{
	static char none[] = "";
	char *line;

	if (!*at || !**at)
		return false;
	line = *at;
	*at += strcspn(line, "\n");
	if (**at)
		*(*at)++ = '\0';
	for (size_t i = 0; i < FIELDS; i++) {
		fields[i] = line ? line : none;
		line = line ? strchr(line, ':') : NULL;
		if (line)
			*line++ = '\0';
	}
	return true;
}

static bool number(const char *text, uint32_t *ret)
{
	char *end;
	if (!*text || strspn(text, "0123456789") != strlen(text) || strlen(text) > 10)
		return false;
	unsigned long n = strtoul(text, &end, 10);
	if (n > INT32_MAX)
		return false;
	*ret = (uint32_t)n;
	return true;
}

static int find_user(char *passwd, const char *user, struct base_config *c, char **ret_name, struct err *err)
{
	char *fields[FIELDS];
	uint32_t uid, wanted = 0, gid;
	bool by_number = number(user, &wanted);

	while (next_row(&passwd, fields)) {
		if (!number(fields[2], &uid) || !number(fields[3], &gid) ||
		    !(by_number ? uid == wanted : strcmp(fields[0], user) == 0))
			continue;
		c->uid = uid;
		c->gid = gid;
		if (fields[5][0] == '/')
			c->home = strdup(fields[5]);
		*ret_name = fields[0];
		return 0;
	}
	if (!by_number)
		return err_set(err, ERR_INVALID, CODE, ENOENT,
			       "the image wants to run as '%.64s', whom its /etc/passwd does not know", user);
	c->uid = wanted;
	return 0;
}

static bool listed(const char *members, const char *name)
{
	for (size_t n; *members; members += n + (members[n] == ',')) {
		n = strcspn(members, ",");
		if (n == strlen(name) && memcmp(members, name, n) == 0)
			return true;
	}
	return false;
}

/* group: by name or number, or "": the user's own, and those that list the user. */
static int find_groups(char *file, const char *group, const char *name, struct base_config *c,
		       struct err *err)
{
	char *fields[FIELDS];
	uint32_t gid, wanted = 0;
	bool by_number = number(group, &wanted), found = by_number || !*group;

	if (by_number)
		c->gid = wanted;
	while (next_row(&file, fields)) {
		if (!number(fields[2], &gid))
			continue;
		if (!found && strcmp(fields[0], group) == 0) {
			c->gid = gid;
			found = true;
		}
		if (!*group && name && c->groups_n < BASE_GROUPS_MAX && listed(fields[3], name))
			c->groups[c->groups_n++] = gid;
	}
	return found ? 0
		     : err_set(err, ERR_INVALID, CODE, ENOENT,
			       "the image wants to run in the group '%.64s', which its /etc/group does not "
			       "know",
			       group);
}

/* "user", "user:group"; "": root. */
static int read_user(const char *text, int rootfs, struct base_config *c, struct err *err)
{
	_cleanup_buf_ struct buf passwd = BUF_INIT(FILE_MAX_BYTES), group = BUF_INIT(FILE_MAX_BYTES);
	char user[128], *name = NULL;
	size_t n = strcspn(text, ":");

	if (n >= sizeof(user))
		return err_set(err, ERR_INVALID, CODE, ENAMETOOLONG,
			       "the name of the image's user is too long");
	(void)snprintf(user, sizeof(user), "%.*s", n ? (int)n : 1, n ? text : "0");
	int r = read_inside(rootfs, "etc/passwd", &passwd);
	if (r >= 0)
		r = read_inside(rootfs, "etc/group", &group);
	if (r < 0 || !buf_cstr(&passwd) || !buf_cstr(&group))
		return err_sys(err, CODE, r < 0 ? -r : ENOMEM,
			       "read /etc/passwd and /etc/group of the image");
	r = find_user((char *)passwd.data, user, c, &name, err);
	return r < 0 ? r : find_groups((char *)group.data, text[n] ? text + n + 1 : "", name, c, err);
}

/* ---- the rest --------------------------------------------------------------------- */

static int read_env(json_t *list, struct base_config *c)
{
	size_t i = 0, total = 0;
	json_t *value;

	c->env = json_object();
	json_array_foreach(list, i, value)
	{
		const char *text = json_string_value(value), *eq = text ? strchr(text, '=') : NULL;
		if (!eq || eq == text || i >= ENV_MAX)
			continue;
		total += json_string_length(value);
		if (total > ENV_MAX_BYTES)
			break;
		if (json_object_setn_new(c->env, text, (size_t)(eq - text), json_string(eq + 1)) < 0)
			return -ENOMEM;
	}
	return c->env ? 0 : -ENOMEM;
}

int base_config_read(const void *json, size_t n, int rootfs, struct base_config *ret, struct err *err)
{
	struct base_config c = {0};
	json_t *root = NULL, *config = NULL;

	int r = json_parse(json, n, &root, err);
	if (r < 0)
		return err_set(err, ERR_INVALID, CODE, EBADMSG, "the image's configuration is no JSON");
	config = json_object_get(root, "config");
	const char *user = json_string_value(json_object_get(config, "User"));
	const char *cwd = json_string_value(json_object_get(config, "WorkingDir"));
	r = read_env(json_object_get(config, "Env"), &c);
	if (r == 0 && cwd && cwd[0] == '/' && strlen(cwd) < PATH_MAX && !(c.cwd = strdup(cwd)))
		r = -ENOMEM;
	if (r < 0)
		(void)err_sys(err, CODE, -r, "read the image's configuration");
	else
		r = read_user(user ? user : "", rootfs, &c, err);
	json_decref(root);
	if (r < 0)
		base_config_done(&c);
	else
		*ret = c;
	return r;
}
