/*
 * spec.c - the fields that say what a command is, in POST /command and in a batch.
 */
#include "execd/api/spec.h"

#include <string.h>

#include "proto/json.h"

#define TIMEOUT_MAX_MS ((int64_t)1 << 53)
#define LIMIT_MAX      ((int64_t)1 << 53)

static int invalid(struct err *err, const char *message)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s", message);
}

static int get_id(json_t *body, const char *field, bool *has, uint32_t *ret, struct err *err)
{
	int64_t v = 0;
	/* (uid_t)-1 means "leave it as it is" to the kernel. */
	int r = json_get_int(body, field, JSON_OPTIONAL, 0, UINT32_MAX - 1, &v, err);
	if (r > 0) {
		*has = true;
		*ret = (uint32_t)v;
	}
	return r;
}

/* `argv` is the clients' name, `args` another for the same. */
static int get_program(json_t *body, struct command_spec *spec, struct err *err)
{
	json_t *args = NULL;
	int r = json_get_str(body, "command", JSON_OPTIONAL, &spec->command, err);
	if (r >= 0)
		r = json_get_str_arr(body, "argv", JSON_OPTIONAL, &spec->argv, err);
	if (r >= 0)
		r = json_get_str_arr(body, "args", JSON_OPTIONAL, &args, err);
	if (r < 0)
		return r;
	if (spec->argv && args)
		return invalid(err, "argv, args: only one of them can be given");
	if (args)
		spec->argv = args;
	if (spec->command && !*spec->command && spec->argv)
		spec->command = NULL;
	if (spec->command && spec->argv)
		return invalid(err, "command, argv: only one of them can be given");
	if (!spec->argv && (!spec->command || !*spec->command))
		return invalid(err, spec->command ? "command: must not be empty" : "command: is required");
	return 0;
}

/* true or "pipe"; false, null or "null" is /dev/null. */
static int get_stdin(json_t *body, struct command_spec *spec, struct err *err)
{
	json_t *v = json_object_get(body, "stdin");
	const char *text = json_string_value(v);
	if (json_is_boolean(v) || !v || json_is_null(v))
		spec->stdin_pipe = json_is_true(v);
	else if (text && strcmp(text, "pipe") == 0)
		spec->stdin_pipe = true;
	else if (!text || strcmp(text, "null") != 0)
		return invalid(err, "stdin: must be a boolean, \"pipe\" or \"null\"");
	return 0;
}

static int limit_of(const char *name)
{
	for (enum limit i = 0; i < LIMITS_N; i++)
		if (i != LIMIT_TIMEOUT && strcmp(limit_name(i), name) == 0)
			return (int)i;
	return -ENOENT;
}

/* The message of a field of `limits` says where it stands. */
int limits_parse(json_t *body, struct limits *ret, struct err *err)
{
	json_t *limits = NULL, *value;
	const char *name;
	int r = json_get_obj(body, "limits", JSON_OPTIONAL, &limits, err);
	if (r <= 0)
		return r;
	json_object_foreach(limits, name, value)
	{
		int64_t v = 0;
		int limit = limit_of(name);
		if (limit < 0)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "limits.%.64s: there is no such limit", name);
		r = json_get_int(limits, name, JSON_OPTIONAL, (int64_t)limit_min((enum limit)limit),
				 LIMIT_MAX, &v, err);
		if (r < 0)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "limits: %s",
				       err->message);
		ret->value[limit] = (uint64_t)v;
	}
	return 0;
}

int command_spec_parse(json_t *body, struct command_spec *spec, struct err *err)
{
	int64_t timeout = 0;
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = get_program(body, spec, err);
	if (r >= 0)
		r = json_get_str(body, "cwd", JSON_OPTIONAL, &spec->cwd, err);
	if (r >= 0)
		r = json_get_bool(body, "background", JSON_OPTIONAL, &spec->background, err);
	if (r >= 0)
		r = json_get_int(body, "timeout", JSON_OPTIONAL, 0, TIMEOUT_MAX_MS, &timeout, err);
	if (r >= 0)
		r = get_id(body, "uid", &spec->has_uid, &spec->uid, err);
	if (r >= 0)
		r = get_id(body, "gid", &spec->has_gid, &spec->gid, err);
	if (r >= 0)
		r = json_get_str_map(body, "envs", JSON_OPTIONAL, &spec->envs, err);
	if (r >= 0)
		r = get_stdin(body, spec, err);
	if (r >= 0)
		r = limits_parse(body, &spec->limits, err);
	if (r < 0)
		return r;
	spec->limits.value[LIMIT_TIMEOUT] = (uint64_t)timeout;
	spec->confinement = json_object_get(body, "confinement");
	if (spec->has_gid && !spec->has_uid)
		return invalid(err, "uid: is required when gid is given");
	return 0;
}
