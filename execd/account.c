/*
 * account.c - a snapshot of /etc/passwd and /etc/group.
 *
 * Owns the text of both files and two arrays of entries that point into it.
 * Nothing here is shared: each caller loads and frees its own snapshot, on
 * whichever thread it runs. Both files belong to whoever is root in the
 * sandbox, so a fifo in their place, a missing newline or an endless line must
 * do no harm.
 */
#include "execd/account.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fs.h"

struct user {
	const char *name, *home;
	uid_t uid;
	gid_t gid;
};

struct group {
	const char *name;
	char *members; /* "a,b,c" */
	gid_t gid;
};

struct accounts {
	char *passwd, *group; /* the texts, cut into fields in place */
	struct user *users;
	struct group *groups;
	size_t users_n, groups_n;
};

static int read_text(const char *path, char **ret)
{
	/* Without O_NONBLOCK a fifo in its place would stop the agent. */
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 && errno != ENOENT && errno != ENOTDIR)
		return -errno;
	struct stat st = {0};
	if (fd >= 0 && fstat(fd, &st) < 0)
		return -errno;
	if (fd >= 0 && !S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size > ACCOUNT_FILE_MAX)
		return -EFBIG;

	size_t size = (size_t)st.st_size;
	_cleanup_free_ char *text = malloc(size + 1);
	if (!text)
		return -ENOMEM;
	ssize_t n = fd >= 0 ? fs_read_full(fd, text, size) : 0;
	if (n < 0)
		return (int)n;
	text[n] = '\0';
	*ret = TAKE_PTR(text);
	return 0;
}

static size_t count_lines(const char *text)
{
	size_t n = 1;
	for (; (text = strchr(text, '\n')); text++)
		n++;
	return n;
}

static int parse_id(const char *s, uint32_t *ret)
{
	uint64_t v = 0;
	if (!*s)
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -EINVAL;
		v = v * 10 + (uint64_t)(*s - '0');
		if (v >= UINT32_MAX) /* (uid_t)-1 means "leave it" to the kernel */
			return -EINVAL;
	}
	*ret = (uint32_t)v;
	return 0;
}

/* Cuts one line at its colons; returns how many fields there are, at most max. */
static size_t cut_fields(char *line, char **fields, size_t max)
{
	size_t n = 0;
	for (char *field; n < max && (field = strsep(&line, ":"));)
		fields[n++] = field;
	return n;
}

/* name:password:uid:gid:gecos:home:shell */
static int parse_passwd(struct accounts *a)
{
	a->users = calloc(count_lines(a->passwd), sizeof(*a->users));
	if (!a->users)
		return -ENOMEM;
	char *rest = a->passwd, *f[7];
	for (char *line; (line = strsep(&rest, "\n"));) {
		struct user *u = &a->users[a->users_n];
		size_t n = cut_fields(line, f, ARRAY_SIZE(f));
		if (n < 4 || !*f[0] || parse_id(f[2], &u->uid) < 0 || parse_id(f[3], &u->gid) < 0)
			continue;
		u->name = f[0];
		u->home = n > 5 && *f[5] ? f[5] : NULL;
		a->users_n++;
	}
	return 0;
}

/* name:password:gid:member,member */
static int parse_group(struct accounts *a)
{
	a->groups = calloc(count_lines(a->group), sizeof(*a->groups));
	if (!a->groups)
		return -ENOMEM;
	char *rest = a->group, *f[4];
	for (char *line; (line = strsep(&rest, "\n"));) {
		struct group *g = &a->groups[a->groups_n];
		size_t n = cut_fields(line, f, ARRAY_SIZE(f));
		if (n < 3 || !*f[0] || parse_id(f[2], &g->gid) < 0)
			continue;
		g->name = f[0];
		g->members = n > 3 ? f[3] : NULL;
		a->groups_n++;
	}
	return 0;
}

int accounts_load_from(const char *passwd_path, const char *group_path, struct accounts **ret)
{
	struct accounts *a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	int r = read_text(passwd_path, &a->passwd);
	if (r >= 0)
		r = read_text(group_path, &a->group);
	if (r >= 0)
		r = parse_passwd(a);
	if (r >= 0)
		r = parse_group(a);
	if (r < 0) {
		accounts_free(a);
		return r;
	}
	*ret = a;
	return 0;
}

int accounts_load(struct accounts **ret)
{
	return accounts_load_from("/etc/passwd", "/etc/group", ret);
}

void accounts_free(struct accounts *a)
{
	if (!a)
		return;
	free(a->users);
	free(a->groups);
	free(a->passwd);
	free(a->group);
	free(a);
}

static const struct user *user_by_id(const struct accounts *a, uid_t uid)
{
	for (size_t i = 0; i < a->users_n; i++)
		if (a->users[i].uid == uid)
			return &a->users[i];
	return NULL;
}

const char *accounts_user_name(const struct accounts *a, uid_t uid)
{
	const struct user *u = user_by_id(a, uid);
	return u ? u->name : NULL;
}

const char *accounts_user_home(const struct accounts *a, uid_t uid)
{
	const struct user *u = user_by_id(a, uid);
	return u ? u->home : NULL;
}

const char *accounts_group_name(const struct accounts *a, gid_t gid)
{
	for (size_t i = 0; i < a->groups_n; i++)
		if (a->groups[i].gid == gid)
			return a->groups[i].name;
	return NULL;
}

int accounts_user_id(const struct accounts *a, const char *name, uid_t *ret)
{
	for (size_t i = 0; i < a->users_n; i++)
		if (strcmp(a->users[i].name, name) == 0) {
			*ret = a->users[i].uid;
			return 0;
		}
	return parse_id(name, ret) < 0 ? -ENOENT : 0;
}

int accounts_group_id(const struct accounts *a, const char *name, gid_t *ret)
{
	for (size_t i = 0; i < a->groups_n; i++)
		if (strcmp(a->groups[i].name, name) == 0) {
			*ret = a->groups[i].gid;
			return 0;
		}
	return parse_id(name, ret) < 0 ? -ENOENT : 0;
}

int accounts_primary_group(const struct accounts *a, uid_t uid, gid_t *ret)
{
	const struct user *u = user_by_id(a, uid);
	if (!u)
		return -ENOENT;
	*ret = u->gid;
	return 0;
}

static bool is_member(const char *members, const char *name)
{
	size_t len = strlen(name);
	for (const char *p = members; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (strncmp(p, name, len) == 0 && (p[len] == ',' || p[len] == '\0'))
			return true;
	}
	return false;
}

static int compare_gid(const void *a, const void *b)
{
	gid_t x = *(const gid_t *)a, y = *(const gid_t *)b;
	return (x > y) - (x < y);
}

int accounts_groups(const struct accounts *a, uid_t uid, gid_t **ret, size_t *ret_n)
{
	const struct user *u = user_by_id(a, uid);
	if (!u) {
		*ret = NULL;
		*ret_n = 0;
		return 0;
	}
	gid_t *groups = calloc(a->groups_n + 1, sizeof(*groups));
	if (!groups)
		return -ENOMEM;
	size_t n = 0, unique = 0;
	groups[n++] = u->gid;
	for (size_t i = 0; i < a->groups_n && n < ACCOUNT_GROUPS_MAX; i++)
		if (is_member(a->groups[i].members, u->name))
			groups[n++] = a->groups[i].gid;
	qsort(groups, n, sizeof(*groups), compare_gid);
	for (size_t i = 0; i < n; i++)
		if (i == 0 || groups[i] != groups[unique - 1])
			groups[unique++] = groups[i];
	*ret = groups;
	*ret_n = unique;
	return 0;
}
