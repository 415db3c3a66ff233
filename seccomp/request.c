/*
 * request.c - capabilities, noNewPrivileges, rlimits, landlock, record.
 *
 * no_new_privs is set whenever anything is confined, unless the request says no:
 * without it a setuid program would get out of what it is started in, and only a
 * privileged process may install filters.
 */
#include "seccomp/request.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "lib/util.h"
#include "seccomp/privileges.h"
#include "seccomp/profile.h"

static const struct {
	const char *name;
	int resource;
} resources[] = {
	{"RLIMIT_AS", RLIMIT_AS},
	{"RLIMIT_CORE", RLIMIT_CORE},
	{"RLIMIT_CPU", RLIMIT_CPU},
	{"RLIMIT_DATA", RLIMIT_DATA},
	{"RLIMIT_FSIZE", RLIMIT_FSIZE},
	{"RLIMIT_LOCKS", RLIMIT_LOCKS},
	{"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
	{"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE},
	{"RLIMIT_NICE", RLIMIT_NICE},
	{"RLIMIT_NOFILE", RLIMIT_NOFILE},
	{"RLIMIT_NPROC", RLIMIT_NPROC},
	{"RLIMIT_RSS", RLIMIT_RSS},
	{"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
	{"RLIMIT_RTTIME", RLIMIT_RTTIME},
	{"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
	{"RLIMIT_STACK", RLIMIT_STACK},
};

static int bad(struct err *err, const char *where, const char *place, const char *expected)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s.%s: %s", where, place, expected);
}

static int get_bool(json_t *value, const char *field, const char *where, bool *ret, struct err *err)
{
	json_t *v = json_object_get(value, field);

	if (!v || json_is_null(v))
		return 0;
	if (!json_is_boolean(v))
		return bad(err, where, field, "must be a boolean");
	*ret = json_is_true(v);
	return 1;
}

static int get_caps(json_t *value, const char *where, struct confine_request *q, struct err *err)
{
	json_t *list = json_object_get(value, "capabilities"), *v;
	uint64_t caps = 0;
	size_t i;

	if (!list || json_is_null(list))
		return 0;
	if (!json_is_array(list))
		return bad(err, where, "capabilities", "must be an array of names");
	json_array_foreach(list, i, v)
	{
		const char *name = json_string_value(v);
		int cap = name ? capability_number(name) : -1;

		if (name && strcmp(name, "ALL") == 0)
			caps = UINT64_MAX;
		else if (cap < 0)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "%s.capabilities[%zu]: '%.64s' is no capability", where, i,
				       name ? name : "(not a string)");
		else
			caps |= 1ULL << cap;
	}
	q->has_caps = true;
	q->caps = caps;
	return 0;
}

/* ---- rlimits -------------------------------------------------------------------- */

/* -1 is RLIM_INFINITY, as the runtime specification has it. */
static int get_limit(json_t *entry, const char *field, uint64_t *ret)
{
	json_t *v = json_object_get(entry, field);

	if (!json_is_integer(v) || json_integer_value(v) < -1)
		return -EINVAL;
	*ret = json_integer_value(v) == -1 ? RLIM_INFINITY : (uint64_t)json_integer_value(v);
	return 0;
}

static int get_rlimit(json_t *entry, struct confine_rlimit *ret)
{
	const char *type = json_string_value(json_object_get(entry, "type"));

	if (!type || get_limit(entry, "soft", &ret->soft) < 0 || get_limit(entry, "hard", &ret->hard) < 0 ||
	    ret->soft > ret->hard)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(resources); i++)
		if (strcmp(resources[i].name, type) == 0) {
			ret->resource = (uint32_t)resources[i].resource;
			return 0;
		}
	return -EINVAL;
}

static int get_rlimits(json_t *value, const char *where, struct confine_request *q, struct err *err)
{
	json_t *list = json_object_get(value, "rlimits"), *v;
	size_t i;

	if (!list || json_is_null(list))
		return 0;
	if (!json_is_array(list) || json_array_size(list) > CONFINE_RLIMITS_MAX)
		return bad(err, where, "rlimits", "must be an array of at most 16 limits");
	json_array_foreach(list, i, v)
	{
		if (get_rlimit(v, &q->rlimits[i]) < 0)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "%s.rlimits[%zu]: must be {\"type\": \"RLIMIT_NOFILE\", \"soft\": N, "
				       "\"hard\": M} with N not above M",
				       where, i);
		q->rlimits_n++;
	}
	return 0;
}

/* ---- Landlock ------------------------------------------------------------------- */

static int add_path(struct path_list *list, const char *path)
{
	list->n++;
	return buf_append(&list->text, path, strlen(path) + 1);
}

static int get_paths(json_t *landlock, const char *field, const char *where, struct path_list *list,
		     struct err *err)
{
	json_t *paths = json_object_get(landlock, field), *v;
	size_t i;

	if (!paths || json_is_null(paths))
		return 0;
	if (!json_is_array(paths) || json_array_size(paths) > CONFINE_PATHS_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "%s.landlock.%s: must be an array of at most %d paths", where, field,
			       CONFINE_PATHS_MAX);
	json_array_foreach(paths, i, v)
	{
		const char *path = json_string_value(v);

		if (!path || path[0] != '/' || strlen(path) != json_string_length(v) ||
		    strlen(path) >= PATH_MAX)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "%s.landlock.%s[%zu]: must be an absolute path", where, field, i);
		if (add_path(list, path) < 0)
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "confinement");
	}
	return 0;
}

/* What every program takes for granted, and nobody means to forbid. */
static int add_devices(struct confine_request *q)
{
	static const char *const read[] = {"/dev/random", "/dev/urandom"};
	static const char *const write[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(read) && r >= 0; i++)
		r = add_path(&q->read, read[i]);
	for (size_t i = 0; i < ARRAY_SIZE(write) && r >= 0; i++)
		r = add_path(&q->write, write[i]);
	q->read.optional = q->read.n;
	q->write.optional = q->write.n;
	return r;
}

static int get_landlock(json_t *value, const char *where, struct confine_request *q, struct err *err)
{
	json_t *landlock = json_object_get(value, "landlock"), *v;
	const char *key;

	if (!landlock || json_is_null(landlock))
		return 0;
	if (!json_is_object(landlock))
		return bad(err, where, "landlock", "must be an object with readOnly and readWrite");
	json_object_foreach(
		landlock, key,
		v) if (strcmp(key, "readOnly") != 0 &&
		       strcmp(key, "readWrite") !=
			       0) return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
						 "%s.landlock.%.64s: is neither readOnly nor readWrite",
						 where, key);
	q->has_landlock = true;
	q->read.text = q->write.text = BUF_INIT((size_t)(CONFINE_PATHS_MAX + 8) * PATH_MAX);
	if (add_devices(q) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "confinement");
	int r = get_paths(landlock, "readOnly", where, &q->read, err);
	return r < 0 ? r : get_paths(landlock, "readWrite", where, &q->write, err);
}

/* ---- the whole ------------------------------------------------------------------- */

static int check_fields(json_t *value, const char *where, struct err *err)
{
	static const char *const fields[] = {"profile", "capabilities", "noNewPrivileges",
					     "rlimits", "landlock",	"record"};
	json_t *v;
	const char *key;

	json_object_foreach(value, key, v)
	{
		size_t i = 0;

		while (i < ARRAY_SIZE(fields) && strcmp(fields[i], key) != 0)
			i++;
		/* A wall that is only wished for is worse than none. */
		if (i == ARRAY_SIZE(fields))
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "%s.%.64s: there is no such field", where, key);
	}
	return 0;
}

int request_parse(json_t *value, const char *where, struct confine_request *q, struct err *err)
{
	int r = check_fields(value, where, err);

	q->no_new_privs = true;
	if (r >= 0)
		r = get_caps(value, where, q, err);
	if (r >= 0)
		r = get_bool(value, "noNewPrivileges", where, &q->no_new_privs, err);
	if (r >= 0)
		r = get_bool(value, "record", where, &q->record, err);
	if (r >= 0)
		r = get_rlimits(value, where, q, err);
	if (r >= 0)
		r = get_landlock(value, where, q, err);
	/* What is recorded runs as it would otherwise. */
	if (r >= 0 && q->record && !json_object_get(value, "capabilities"))
		q->has_caps = false;
	if (r < 0)
		request_done(q);
	return r;
}

void request_done(struct confine_request *q)
{
	buf_done(&q->read.text);
	buf_done(&q->write.text);
}

static json_t *describe_paths(const struct path_list *list)
{
	const char *path = (const char *)list->text.data;
	json_t *paths = json_array();

	for (uint32_t i = 0; i < list->n; i++, path += strlen(path) + 1)
		if (i >= list->optional)
			(void)json_array_append_new(paths, json_string(path));
	return paths;
}

static json_t *describe_rlimits(const struct confine_request *q)
{
	json_t *list = json_array();

	for (size_t i = 0; i < q->rlimits_n; i++) {
		const struct confine_rlimit *l = &q->rlimits[i];
		const char *name = "";

		for (size_t j = 0; j < ARRAY_SIZE(resources); j++)
			if ((uint32_t)resources[j].resource == l->resource)
				name = resources[j].name;
		(void)json_array_append_new(list,
					    json_pack("{s:s, s:I, s:I}", "type", name, "soft",
						      (json_int_t)l->soft, "hard", (json_int_t)l->hard));
	}
	return list;
}

json_t *request_describe(const struct confine_request *q, const char *profile)
{
	json_t *d = json_pack("{s:s, s:b}", "profile", profile, "noNewPrivileges", q->no_new_privs);

	if (!d)
		return NULL;
	if (q->has_caps)
		(void)json_object_set_new(d, "capabilities", caps_describe(q->caps & caps_held()));
	if (q->rlimits_n > 0)
		(void)json_object_set_new(d, "rlimits", describe_rlimits(q));
	if (q->has_landlock)
		(void)json_object_set_new(d, "landlock",
					  json_pack("{s:i, s:o, s:o}", "version", landlock_version(),
						    "readOnly", describe_paths(&q->read), "readWrite",
						    describe_paths(&q->write)));
	if (q->record)
		(void)json_object_set_new(d, "record", json_true());
	return d;
}
