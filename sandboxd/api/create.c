/*
 * create.c - checks a CreateSandboxRequest before anything is made of it.
 *
 * What this runtime cannot do yet is refused by name. A field asks for nothing
 * when it is absent, null, false or empty: that is what clients send who do not
 * want it.
 */
#include "sandboxd/api/lifecycle.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>

#include "proto/json.h"

#define INVALID		 "SANDBOX::INVALID_PARAMETER"
#define LABEL_NAME_MAX	 63
#define LABEL_PREFIX_MAX 253
#define RESERVED_PREFIX	 "opensandbox.io/"
#define ARG_MAX_BYTES	 (128 * 1024 - 1) /* of the kernel, one argument or variable */
#define ARGS_MAX_BYTES	 (1024 * 1024)	  /* entrypoint and env together */
#define AUTH_MAX_BYTES	 (16 * 1024)
#define CPU_MAX_MILLIS	 (4096ull * 1000)
#define MEMORY_MIN	 (8ull << 20) /* execd itself must fit */
#define MEMORY_MAX	 (1ull << 50)
#define DISK_MAX	 (8ull << 40) /* of a file, on any file system */

#define invalid(err, ...) err_set(err, ERR_INVALID, INVALID, EINVAL, __VA_ARGS__)

/* ---- quantities --------------------------------------------------------------- */

/* Digits with at most one point; nothing else that strtod would take. */
static int decimal(const char *text, const char **ret_end, double *ret)
{
	size_t n = strspn(text, "0123456789.");
	char digits[32];

	if (n == 0 || n >= sizeof(digits) || !isdigit((unsigned char)text[0]))
		return -EINVAL;
	memcpy(digits, text, n);
	digits[n] = '\0';
	if (strchr(digits, '.') != strrchr(digits, '.') || digits[n - 1] == '.')
		return -EINVAL;
	*ret = strtod(digits, NULL);
	*ret_end = text + n;
	return 0;
}

int quantity_cpu(const char *text, uint64_t *ret_millis)
{
	const char *unit;
	double n;

	if (decimal(text, &unit, &n) < 0 || (*unit && strcmp(unit, "m") != 0))
		return -EINVAL;
	n = *unit ? n : n * 1000;
	if (n < 1 || n > (double)CPU_MAX_MILLIS)
		return -ERANGE;
	*ret_millis = (uint64_t)(n + 0.5);
	return 0;
}

int quantity_bytes(const char *text, uint64_t *ret_bytes)
{
	static const struct {
		const char *name;
		double factor;
	} units[] = {
		{"", 1},
		{"b", 1},
		{"k", 1e3},
		{"kb", 1e3},
		{"ki", 1024.},
		{"m", 1e6},
		{"mb", 1e6},
		{"mi", 1024. * 1024},
		{"g", 1e9},
		{"gb", 1e9},
		{"gi", 1024. * 1024 * 1024},
		{"t", 1e12},
		{"tb", 1e12},
		{"ti", 1024. * 1024 * 1024 * 1024},
	};
	const char *unit;
	double n;

	if (decimal(text, &unit, &n) < 0)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (strcasecmp(unit, units[i].name) == 0) {
			n *= units[i].factor;
			if (n < (double)MEMORY_MIN || n > (double)MEMORY_MAX)
				return -ERANGE;
			*ret_bytes = (uint64_t)n;
			return 0;
		}
	return -EINVAL;
}

static int parse_limit(const char *key, const char *value, struct sandbox_spec *spec,
		       struct create_keep *keep, struct err *err)
{
	struct runtime_limits *l = &spec->runtime.limits;
	size_t n = strlen(keep->notes);
	int r = 0;

	if (strcmp(key, "cpu") == 0) {
		r = quantity_cpu(value, &l->cpu_millis);
		if (r < 0)
			return invalid(err,
				       "resourceLimits.cpu: '%.32s' is not a number of processors such as "
				       "500m, 1 or 1.5 (at most 4096)",
				       value);
	} else if (strcmp(key, "memory") == 0) {
		r = quantity_bytes(value, &l->memory_bytes);
		if (r < 0)
			return invalid(err,
				       "resourceLimits.memory: '%.32s' is not a size such as 512Mi or 2Gi "
				       "(from 8Mi to 1024Ti)",
				       value);
	} else if (strcmp(key, "disk") == 0 || strcmp(key, "ephemeral-storage") == 0) {
		uint64_t bytes = 0;
		r = quantity_bytes(value, &bytes);
		if (r < 0 || bytes > DISK_MAX)
			return invalid(err,
				       "resourceLimits.%s: '%.32s' is not a size such as 512Mi or 10Gi (from "
				       "8Mi to 8Ti)",
				       key, value);
		l->disk_bytes = l->disk_bytes ? MIN(l->disk_bytes, bytes) : bytes;
	} else if (strcmp(key, "gpu") == 0) {
		return invalid(err, "resourceLimits.gpu: GPUs are not supported by this runtime yet");
	} else {
		(void)snprintf(keep->notes + n, sizeof(keep->notes) - n, "%s%.40s",
			       n ? ", " : "Limits this runtime does not know: ", key);
	}
	return 0;
}

static int parse_limits(json_t *body, const struct config *config, struct sandbox_spec *spec,
			struct create_keep *keep, struct err *err)
{
	json_t *limits = NULL, *requests = NULL, *value = NULL;
	const char *key = NULL;

	int r = json_get_str_map(body, "resourceLimits", JSON_REQUIRED, &limits, err);
	if (r < 0)
		return r;
	r = json_get_str_map(body, "resourceRequests", JSON_OPTIONAL, &requests, err);
	if (r < 0)
		return r;
	json_object_foreach(limits, key, value)
	{
		r = parse_limit(key, json_string_value(value), spec, keep, err);
		if (r < 0)
			return r;
	}
	if (!spec->runtime.limits.disk_bytes)
		spec->runtime.limits.disk_bytes = (uint64_t)config->disk_mib << 20;
	if (*keep->notes)
		strncat(keep->notes, ".", sizeof(keep->notes) - strlen(keep->notes) - 1);
	spec->runtime.limits.pids = config->pids_max;
	spec->notes = keep->notes;
	return 0;
}

/* ---- labels --------------------------------------------------------------------- */

static bool is_name(const char *s, size_t n, const char *inner, bool lower)
{
	if (n == 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		bool alnum = isascii((unsigned char)s[i]) && isalnum((unsigned char)s[i]) &&
			     !(lower && isupper((unsigned char)s[i]));
		if (!alnum && (i == 0 || i == n - 1 || !strchr(inner, s[i])))
			return false;
	}
	return true;
}

static bool is_subdomain(const char *s, size_t n)
{
	if (n > LABEL_PREFIX_MAX)
		return false;
	for (const char *end = s + n;; s++) {
		const char *dot = memchr(s, '.', (size_t)(end - s));
		if (!is_name(s, (size_t)((dot ? dot : end) - s), "-", true))
			return false;
		if (!dot)
			return true;
		s = dot;
	}
}

int label_check(const char *key, const char *value, struct err *err)
{
	const char *code = "SANDBOX::INVALID_METADATA_LABEL";
	const char *slash = strchr(key, '/');
	const char *name = slash ? slash + 1 : key;

	if (strncmp(key, RESERVED_PREFIX, strlen(RESERVED_PREFIX)) == 0)
		return err_set(err, ERR_INVALID, code, EINVAL,
			       "metadata key '%.80s': the prefix " RESERVED_PREFIX " is reserved", key);
	if ((slash && !is_subdomain(key, (size_t)(slash - key))) || strlen(name) > LABEL_NAME_MAX ||
	    !is_name(name, strlen(name), "-_.", false))
		return err_set(
			err, ERR_INVALID, code, EINVAL,
			"metadata key '%.80s' must be a name of at most 63 letters, digits, '-', '_', "
			"'.', beginning and ending with a letter or digit, optionally behind a DNS name "
			"and '/'",
			key);
	if (strlen(value) > LABEL_NAME_MAX || (*value && !is_name(value, strlen(value), "-_.", false)))
		return err_set(
			err, ERR_INVALID, code, EINVAL,
			"metadata value '%.80s' of '%.80s' must be at most 63 letters, digits, '-', '_', "
			"'.', beginning and ending with a letter or digit",
			value, key);
	return 0;
}

static int parse_metadata(json_t *body, struct sandbox_spec *spec, struct err *err)
{
	const char *key = NULL;
	json_t *value;

	int r = json_get_str_map(body, "metadata", JSON_OPTIONAL, &spec->metadata, err);
	if (r <= 0)
		return r;
	json_object_foreach(spec->metadata, key, value)
	{
		r = label_check(key, json_string_value(value), err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- what this runtime cannot do yet ----------------------------------------------- */

static int refuse(struct err *err, const char *what)
{
	return err_set(err, ERR_INVALID, "SANDBOX::API_NOT_SUPPORTED", EOPNOTSUPP,
		       "%s is not supported by this runtime yet", what);
}

/* Absent, null, or an object that is empty or holds only false and null: nothing is asked for. */
static int refuse_object(json_t *body, const char *field, struct err *err)
{
	json_t *o = NULL, *value;
	const char *key = NULL;

	int r = json_get_obj(body, field, JSON_OPTIONAL, &o, err);
	if (r < 0)
		return r;
	json_object_foreach(o, key, value) if (!json_is_false(value) &&
					       !json_is_null(value)) return refuse(err, field);
	return 0;
}

static int refuse_string(json_t *body, const char *field, struct err *err)
{
	const char *s = "";

	int r = json_get_str(body, field, JSON_OPTIONAL, &s, err);
	if (r < 0)
		return r;
	return s[strspn(s, " \t")] ? refuse(err, field) : 0;
}

static int check_extensions(json_t *body, struct err *err)
{
	json_t *o = NULL;

	int r = json_get_str_map(body, "extensions", JSON_OPTIONAL, &o, err);
	if (r < 0)
		return r;
	if (json_object_get(o, "poolRef"))
		return refuse(err, "extensions.poolRef");
	if (json_object_get(o, "access.renew.extend.seconds"))
		return refuse(err, "extensions[\"access.renew.extend.seconds\"]");
	return 0;
}

/* A field nobody knows may ask for a protection: it is not passed over in silence. */
static int check_unknown(json_t *body, struct err *err)
{
	static const char *const known[] = {
		"image",      "snapshotId",    "templateId",	  "platform",	  "timeout",
		"env",	      "metadata",      "lifecycle",	  "entrypoint",	  "resourceLimits",
		"volumes",    "networkPolicy", "credentialProxy", "secureAccess", "resourceRequests",
		"extensions",
	};
	const char *key = NULL;
	json_t *value;

	json_object_foreach(body, key, value)
	{
		bool found = json_is_null(value);
		for (size_t i = 0; !found && i < ARRAY_SIZE(known); i++)
			found = strcmp(key, known[i]) == 0;
		if (!found)
			return err_set(err, ERR_INVALID, INVALID, EINVAL, "field '%.64s' is not known", key);
	}
	return 0;
}

static int check_unsupported(json_t *body, struct err *err)
{
	int r = refuse_string(body, "templateId", err);
	if (r >= 0)
		r = refuse_object(body, "networkPolicy", err);
	if (r >= 0)
		r = refuse_object(body, "credentialProxy", err);
	if (r >= 0)
		r = refuse_object(body, "lifecycle", err);
	return r < 0 ? r : check_extensions(body, err);
}

/* ---- what it is made of -------------------------------------------------------------- */

struct source {
	struct create_keep *keep;
	struct err *err;
};

static int take_image(const struct snapshot_record *row, void *arg)
{
	struct source *s = arg;

	if (row->state != SNAPSHOT_READY)
		return err_set(s->err, ERR_CONFLICT, "SNAPSHOT::INVALID_STATE", ESTALE,
			       "snapshot '%.64s' is %s: %s", row->id, snapshot_state_name(row->state),
			       row->message);
	(void)snprintf(s->keep->snapshot_image, sizeof(s->keep->snapshot_image), "%s", row->image);
	return 0;
}

static int parse_snapshot(json_t *body, struct store *store, struct sandbox_spec *spec,
			  struct create_keep *keep, struct err *err)
{
	struct source source = {.keep = keep, .err = err};
	const char *id = "";

	int r = json_get_str(body, "snapshotId", JSON_OPTIONAL, &id, err);
	if (r < 0 || !id[strspn(id, " \t")])
		return r;
	spec->runtime.snapshot = id;
	return store ? store_snapshot_get(store, id, take_image, &source, err) : 0;
}

/* One word of bounded length; whether there is such an image is the driver's to say. */
static int check_reference(const char *uri, struct err *err)
{
	if (!uri[strspn(uri, " \t")])
		return invalid(err, "image.uri must not be blank");
	if (strlen(uri) >= IMAGE_URI_MAX)
		return invalid(err, "image.uri is longer than %d bytes", IMAGE_URI_MAX - 1);
	for (const char *c = uri; *c; c++)
		if ((unsigned char)*c <= ' ' || *c == 0x7f)
			return invalid(err, "image.uri holds a blank or control character");
	return 0;
}

/* Neither stands alone: half of a login is a mistake that a registry would tell less clearly. */
static int parse_auth(json_t *auth, struct runtime_image *image, struct err *err)
{
	const char *const *parts[] = {&image->username, &image->password};

	int r = json_get_str(auth, "username", JSON_OPTIONAL, &image->username, err);
	if (r >= 0)
		r = json_get_str(auth, "password", JSON_OPTIONAL, &image->password, err);
	if (r < 0)
		return r;
	if (!image->username != !image->password)
		return invalid(err, "image.auth needs both username and password");
	for (size_t i = 0; image->username && i < ARRAY_SIZE(parts); i++)
		if (strlen(*parts[i]) > AUTH_MAX_BYTES)
			return invalid(err, "image.auth: longer than %d bytes", AUTH_MAX_BYTES);
	if (image->username && strchr(image->username, ':'))
		return invalid(err, "image.auth.username must not hold a colon");
	return 0;
}

static int parse_image(json_t *body, struct sandbox_spec *spec, const char *snapshot_image, struct err *err)
{
	json_t *image = NULL, *auth = NULL;

	int r = json_get_obj(body, "image", JSON_OPTIONAL, &image, err);
	if (r < 0)
		return r;
	if (!image == !spec->runtime.snapshot)
		return invalid(err, "exactly one of image and snapshotId must be given");
	if (spec->runtime.snapshot) {
		spec->image = spec->runtime.image.uri = snapshot_image;
		return 0;
	}
	r = json_get_str(image, "uri", JSON_REQUIRED, &spec->image, err);
	if (r >= 0)
		r = json_get_obj(image, "auth", JSON_OPTIONAL, &auth, err);
	if (r < 0)
		return r;
	spec->runtime.image.uri = spec->image;
	r = check_reference(spec->image, err);
	return r < 0 ? r : parse_auth(auth, &spec->runtime.image, err);
}

static int parse_platform(json_t *body, struct sandbox_spec *spec, struct err *err)
{
	struct utsname host;
	const char *os = NULL, *arch = NULL;

	int r = json_get_obj(body, "platform", JSON_OPTIONAL, &spec->platform, err);
	if (r <= 0)
		return r;
	r = json_get_str(spec->platform, "os", JSON_REQUIRED, &os, err);
	if (r >= 0)
		r = json_get_str(spec->platform, "arch", JSON_REQUIRED, &arch, err);
	if (r < 0)
		return r;
	if (strcasecmp(os, "linux") != 0 && strcasecmp(os, "windows") != 0)
		return invalid(err, "platform.os: '%.32s' is neither linux nor windows", os);
	if (strcasecmp(arch, "amd64") != 0 && strcasecmp(arch, "arm64") != 0)
		return invalid(err, "platform.arch: '%.32s' is neither amd64 nor arm64", arch);
	(void)uname(&host);
	const char *here = strcmp(host.machine, "aarch64") == 0 ? "arm64" : "amd64";
	if (strcasecmp(os, "linux") != 0 || strcasecmp(arch, here) != 0)
		return err_set(err, ERR_INVALID, INVALID, EINVAL,
			       "platform %.16s/%.16s cannot be satisfied: this host is linux/%s", os, arch,
			       here);
	return 0;
}

static int parse_timeout(json_t *body, const struct config *config, struct sandbox_spec *spec,
			 struct err *err)
{
	int64_t seconds = 0;
	int64_t max = config->timeout_max_s ? config->timeout_max_s : TIMEOUT_MAX_S;

	int r = json_get_int(body, "timeout", JSON_OPTIONAL, TIMEOUT_MIN_S, max, &seconds, err);
	spec->timeout_s = (uint64_t)seconds;
	return r;
}

/* The kernel's bounds on what a program is started with, told before it is started. */
static int count_bytes(const char *what, const char *s, size_t *total, struct err *err)
{
	size_t n = strlen(s) + 1;

	*total += n + sizeof(char *);
	if (n > ARG_MAX_BYTES)
		return invalid(err, "%s: '%.32s...' is longer than 128 KiB", what, s);
	if (*total > ARGS_MAX_BYTES)
		return invalid(err, "entrypoint and env together are larger than 1 MiB");
	return 0;
}

static int parse_entrypoint(json_t *body, struct sandbox_spec *spec, struct create_keep *keep, size_t *total,
			    struct err *err)
{
	size_t i = 0;
	json_t *value;

	int r = json_get_str_arr(body, "entrypoint", spec->runtime.snapshot ? JSON_OPTIONAL : JSON_REQUIRED,
				 &spec->entrypoint, err);
	if (r < 0)
		return r;
	if (!spec->entrypoint)
		spec->entrypoint = keep->entrypoint = json_pack("[s, s, s]", "tail", "-f", "/dev/null");
	if (json_array_size(spec->entrypoint) == 0 ||
	    !*json_string_value(json_array_get(spec->entrypoint, 0)))
		return err_set(err, ERR_INVALID, "DOCKER::INVALID_ENTRYPOINT", EINVAL,
			       "entrypoint must name a command");
	json_array_foreach(spec->entrypoint, i, value)
	{
		r = count_bytes("entrypoint", json_string_value(value), total, err);
		if (r < 0)
			return r;
	}
	spec->runtime.entrypoint = spec->entrypoint;
	return 0;
}

/* Values may be null, which means that the variable is not set. */
static int parse_env(json_t *body, struct sandbox_spec *spec, struct create_keep *keep, size_t *total,
		     struct err *err)
{
	json_t *env = NULL, *value;
	const char *key = NULL;

	int r = json_get_obj(body, "env", JSON_OPTIONAL, &env, err);
	if (r <= 0)
		return r;
	keep->env = json_object();
	json_object_foreach(env, key, value)
	{
		if (json_is_null(value))
			continue;
		if (!json_is_string(value))
			return invalid(err, "env: the value of '%.64s' must be a string", key);
		if (!*key || strchr(key, '='))
			return invalid(err, "env: '%.64s' is not the name of a variable", key);
		r = count_bytes("env", key, total, err);
		if (r == 0)
			r = count_bytes("env", json_string_value(value), total, err);
		if (r < 0)
			return r;
		if (json_object_set(keep->env, key, value) < 0)
			return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	}
	spec->env = keep->env;
	spec->runtime.env = keep->env;
	return 0;
}

static int parse_volumes(json_t *body, const struct config *config, struct sandbox_spec *spec,
			 struct create_keep *keep, struct err *err)
{
	json_t *array = NULL;

	int r = json_get_arr(body, "volumes", JSON_OPTIONAL, &array, err);
	if (r >= 0)
		r = volumes_parse(array, config->allowed_host_paths, &keep->volumes, err);
	spec->runtime.volumes = &keep->volumes;
	return r;
}

int create_parse(json_t *body, const struct config *config, struct store *store, struct sandbox_spec *ret,
		 struct create_keep *keep, struct err *err)
{
	size_t total = 0;

	*ret = (struct sandbox_spec){0};
	*keep = (struct create_keep){0};
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = check_unknown(body, err);
	if (r >= 0)
		r = check_unsupported(body, err);
	if (r >= 0)
		r = parse_snapshot(body, store, ret, keep, err);
	if (r >= 0)
		r = parse_image(body, ret, keep->snapshot_image, err);
	if (r >= 0)
		r = parse_entrypoint(body, ret, keep, &total, err);
	if (r >= 0)
		r = parse_env(body, ret, keep, &total, err);
	if (r >= 0)
		r = parse_timeout(body, config, ret, err);
	if (r >= 0)
		r = parse_limits(body, config, ret, keep, err);
	if (r >= 0)
		r = parse_metadata(body, ret, err);
	if (r >= 0)
		r = parse_platform(body, ret, err);
	if (r >= 0)
		r = parse_volumes(body, config, ret, keep, err);
	if (r >= 0)
		r = json_get_bool(body, "secureAccess", JSON_OPTIONAL, &ret->secure, err);
	if (r < 0)
		create_done(keep);
	return MIN(r, 0);
}

void create_done(struct create_keep *keep)
{
	json_decref(keep->env);
	json_decref(keep->entrypoint);
	volumes_done(&keep->volumes);
	keep->env = keep->entrypoint = NULL;
}
