/*
 * env.c - environments for children, and where their shell is.
 *
 * Owns a list of the agent's own variables, taken once at start and never
 * changed after that. An environment is collected as names and values that
 * are borrowed from where they stand (environ, the env file's text, the
 * request) and copied once at the end, into one block.
 */
#include "execd/env.h"

#include <assert.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "execd/account.h"
#include "lib/buf.h"
#include "lib/fs.h"
#include "lib/log.h"

struct var {
	const char *name, *value;
	size_t name_len, value_len;
};

/* What the agent was told for itself alone. */
static const char *const private_names[] = {"EXECD_ACCESS_TOKEN", "LISTEN_FDS", "LISTEN_PID",
					    "LISTEN_FDNAMES"};

static struct {
	struct var *vars;
	size_t n;
	char *home;
} own;

/* ---- sets of variables ------------------------------------------------- */

/* In order of their first mention, and found by name: an open table of places in vars, at most half full. */
struct env_set {
	struct var *vars;
	size_t n, cap;
	uint32_t *slots; /* place + 1; 0: free */
	size_t slots_n;	 /* a power of two */
};

static void env_set_done(struct env_set *set)
{
	free(set->vars);
	free(set->slots);
}

static struct var *find_var(struct var *vars, size_t n, const char *name, size_t name_len)
{
	for (size_t i = 0; i < n; i++)
		if (vars[i].name_len == name_len && memcmp(vars[i].name, name, name_len) == 0)
			return &vars[i];
	return NULL;
}

/* FNV-1a. Names that collide on purpose cost what a list would: their number is bounded. */
static uint32_t hash_name(const char *name, size_t n)
{
	uint32_t h = 2166136261U;
	for (size_t i = 0; i < n; i++)
		h = (h ^ (uint8_t)name[i]) * 16777619U;
	return h;
}

/* The slot of a name, or the free one where it would go. The table is not empty. */
static uint32_t *env_set_slot(const struct env_set *set, const char *name, size_t name_len)
{
	size_t mask = set->slots_n - 1, i = hash_name(name, name_len) & mask;
	while (set->slots[i] && !find_var(&set->vars[set->slots[i] - 1], 1, name, name_len))
		i = (i + 1) & mask;
	return &set->slots[i];
}

static struct var *env_set_find(const struct env_set *set, const char *name, size_t name_len)
{
	uint32_t place = set->slots_n ? *env_set_slot(set, name, name_len) : 0;
	return place ? &set->vars[place - 1] : NULL;
}

/* Makes the table anew, for twice as many names as there are. */
static int env_set_index(struct env_set *set)
{
	size_t n = 64;
	while (n < 4 * set->n)
		n *= 2;
	uint32_t *slots = calloc(n, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(set->slots);
	set->slots = slots;
	set->slots_n = n;
	/* Of a name that is there twice, as a hostile parent may have it, the first one counts. */
	for (size_t i = 0; i < set->n; i++) {
		uint32_t *slot = env_set_slot(set, set->vars[i].name, set->vars[i].name_len);
		*slot = *slot ? *slot : (uint32_t)i + 1;
	}
	return 0;
}

static int env_set_put(struct env_set *set, const struct var *var)
{
	struct var *old = env_set_find(set, var->name, var->name_len);
	if (old) {
		*old = *var;
		return 0;
	}
	if (set->n >= own.n + ENV_ENTRIES_MAX)
		return -E2BIG;
	if (2 * (set->n + 1) > set->slots_n && env_set_index(set) < 0)
		return -ENOMEM;
	if (set->n == set->cap) {
		size_t cap = MAX(set->cap * 2, (size_t)32);
		struct var *vars = reallocarray(set->vars, cap, sizeof(*vars));
		if (!vars)
			return -ENOMEM;
		set->vars = vars;
		set->cap = cap;
	}
	assert(set->vars);
	set->vars[set->n++] = *var;
	*env_set_slot(set, var->name, var->name_len) = (uint32_t)set->n;
	return 0;
}

/* Begins a set with the agent's own variables. */
static int env_set_base(struct env_set *set)
{
	set->cap = own.n + 32;
	set->vars = malloc(set->cap * sizeof(*set->vars));
	if (!set->vars)
		return -ENOMEM;
	memcpy(set->vars, own.vars, own.n * sizeof(*set->vars));
	set->n = own.n;
	return env_set_index(set);
}

/* One block: the pointers, then the strings they point to. */
static int env_set_export(const struct env_set *set, char ***ret_envp)
{
	size_t size = (set->n + 1) * sizeof(char *);
	for (size_t i = 0; i < set->n; i++)
		size += set->vars[i].name_len + set->vars[i].value_len + 2;
	char **envp = malloc(size);
	if (!envp)
		return -ENOMEM;
	char *p = (char *)(envp + set->n + 1);
	for (size_t i = 0; i < set->n; i++) {
		const struct var *v = &set->vars[i];
		envp[i] = p;
		p = mempcpy(p, v->name, v->name_len);
		*p++ = '=';
		p = mempcpy(p, v->value, v->value_len);
		*p++ = '\0';
	}
	envp[set->n] = NULL;
	*ret_envp = envp;
	return 0;
}

/* ---- references to variables ------------------------------------------- */

static bool is_name_start(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_name(char c)
{
	return is_name_start(c) || (c >= '0' && c <= '9');
}

/* p stands at '$': the name in $NAME or ${NAME} and the length of the whole; 0 when it is just a dollar. */
static size_t parse_reference(const char *p, const char *end, const char **ret_name, size_t *ret_len)
{
	bool braces = p + 1 < end && p[1] == '{';
	const char *name = p + 1 + braces, *q = name;
	if (q < end && is_name_start(*q))
		while (q < end && is_name(*q))
			q++;
	if (q == name || (braces && (q == end || *q != '}')))
		return 0;
	*ret_name = name;
	*ret_len = (size_t)(q - name);
	return (size_t)(q - p) + braces;
}

/* ---- the env file ------------------------------------------------------ */

/* Values of the file that had to be rewritten. Fixed in size: what refers to it never moves. */
struct arena {
	char *data;
	size_t len, size;
};

static int arena_add(struct arena *a, const char *s, size_t n)
{
	if (n > a->size - a->len)
		return -ENOBUFS;
	memcpy(a->data + a->len, s, n);
	a->len += n;
	return 0;
}

/* As in the reference the agent's own variables come first; earlier lines of the file only fill what it
 * lacks. */
static int arena_add_var(struct arena *a, const struct env_set *set, const char *name, size_t len)
{
	const struct var *v = find_var(own.vars, own.n, name, len);
	if (!v)
		v = env_set_find(set, name, len);
	return v ? arena_add(a, v->value, v->value_len) : 0;
}

static int arena_add_escape(struct arena *a, char c)
{
	static const char from[] = "\\\"$nrt", to[] = "\\\"$\n\r\t";
	const char *known = c ? strchr(from, c) : NULL;
	return known ? arena_add(a, &to[known - from], 1) : arena_add(a, (char[]){'\\', c}, 2);
}

/* The value between s and end with its references, and escapes when it was quoted, replaced. */
static int expand_value(struct arena *a, const struct env_set *set, const char *s, const char *end,
			bool escapes, struct var *var)
{
	size_t start = a->len;
	while (s < end) {
		const char *name;
		size_t name_len, skip = 1;
		int r;
		if (escapes && *s == '\\' && s + 1 < end) {
			r = arena_add_escape(a, s[1]);
			skip = 2;
		} else if (*s == '$' && (skip = parse_reference(s, end, &name, &name_len)) > 0) {
			r = arena_add_var(a, set, name, name_len);
		} else {
			skip = 1;
			r = arena_add(a, s, 1);
		}
		if (r < 0)
			return r;
		s += skip;
	}
	var->value = a->data + start;
	var->value_len = a->len - start;
	return 0;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static const char *line_end(const char *p, const char *end)
{
	const char *nl = memchr(p, '\n', (size_t)(end - p));
	return nl ? nl : end;
}

/*
 * p stands at an opening quote: the closing one, when only blanks follow it on
 * its line, else NULL. A quote that is not closed so is an ordinary character,
 * as it is in the reference.
 */
static const char *closing_quote(const char *p, const char *end)
{
	char quote = *p++;
	while (p < end && *p != quote)
		p += quote == '"' && *p == '\\' && p + 1 < end ? 2 : 1;
	if (p >= end)
		return NULL;
	for (const char *q = p + 1; q < line_end(p, end); q++)
		if (!is_blank(*q))
			return NULL;
	return p;
}

/* p stands at the first character of a line that is neither empty nor a comment. Returns where it ends. */
static int parse_entry(struct env_set *set, struct arena *arena, const char **pos, const char *end)
{
	const char *p = *pos, *eol = line_end(p, end);
	const char *eq = memchr(p, '=', (size_t)(eol - p)), *name_end = eq;
	*pos = eol;
	while (eq && name_end > p && is_blank(name_end[-1]))
		name_end--;
	/* A NUL would end the name early, and what is left would be no variable. */
	if (!eq || name_end == p || memchr(p, '\0', (size_t)(name_end - p)))
		return 0;

	struct var var = {.name = p, .name_len = (size_t)(name_end - p)};
	const char *value = eq + 1, *close = NULL;
	if (value < eol && (*value == '\'' || *value == '"'))
		close = closing_quote(value, end);
	int r = 0;
	if (close) {
		*pos = line_end(close, end);
		if (*value == '"')
			r = expand_value(arena, set, value + 1, close, true, &var);
		else
			var.value = value + 1, var.value_len = (size_t)(close - value - 1);
	} else {
		while (eol > value && is_blank(eol[-1]))
			eol--;
		r = expand_value(arena, set, value, eol, false, &var);
	}
	return r < 0 ? r : env_set_put(set, &var);
}

static int parse_file(struct env_set *set, struct arena *arena, const char *text, size_t len)
{
	const char *p = text, *end = text + len;
	while (p < end) {
		int r = 0;
		if (*p == '\n' || is_blank(*p))
			p++;
		else if (*p == '#')
			p = line_end(p, end);
		else
			r = parse_entry(set, arena, &p, end);
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_env_file(const char *path, struct buf *text)
{
	/* It lies in the sandbox: a fifo in its place must not stop the agent. */
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -errno;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size > ENV_FILE_MAX)
		return -EFBIG;
	/* One byte more shows a file that has grown meanwhile. */
	int r = buf_reserve(text, (size_t)st.st_size + 1);
	ssize_t n = r < 0 ? r : fs_read_full(fd, buf_tail(text), (size_t)st.st_size + 1);
	if (n < 0)
		return (int)n;
	text->len += (size_t)n;
	return 0;
}

/* Fills file with the variables of the env file; they point into text and arena. */
static int load_env_file(const char *env_file, struct env_set *file, struct buf *text, struct arena *arena)
{
	_cleanup_free_ char *path = NULL;
	int r = env_expand_path(env_file, NULL, &path, NULL);
	if (r >= 0)
		r = read_env_file(path, text);
	if (r == -ENOENT || (r >= 0 && text->len == 0))
		return 0; /* it appears with the first variable that is set */
	if (r < 0)
		return r;
	arena->size = ENV_FILE_MAX;
	arena->data = malloc(arena->size);
	if (!arena->data)
		return -ENOMEM;
	return parse_file(file, arena, (const char *)text->data, text->len);
}

/* ---- building ---------------------------------------------------------- */

static int put_overrides(struct env_set *set, json_t *overrides, struct err *err)
{
	const char *name;
	json_t *value;
	json_object_foreach(overrides, name, value)
	{
		struct var var = {.name = name,
				  .name_len = strlen(name),
				  .value = json_string_value(value),
				  .value_len = json_string_length(value)};
		if (!*name || strchr(name, '='))
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "envs: '%s' cannot be the name of a variable", name);
		if (!var.value)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "envs: the value of '%s' must be a string", name);
		int r = env_set_put(set, &var);
		if (r < 0)
			return r;
	}
	return 0;
}

static int build_failed(int r, struct err *err)
{
	if (r == -E2BIG)
		return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG,
			       "envs: there are more than %d variables", ENV_ENTRIES_MAX);
	return err_sys(err, "RUNTIME_ERROR", -r, "build the environment");
}

/* Names that give away what they hold. */
static const char *const secret_names[] = {
	"*_API_KEY",	 "*_APIKEY",	  "*_TOKEN", "*_SECRET", "*_SECRET_KEY", "*_PASSWORD", "*_PASSWD",
	"*_CREDENTIALS", "*_ACCESS_KEY*", "AWS_*",   "ALI_*",	 "ALIYUN_*",	 "K8S_*",      "KUBE_*"};

static bool name_matches(const char *pattern, const struct var *v)
{
	char name[256];
	if (v->name_len >= sizeof(name))
		return false;
	memcpy(name, v->name, v->name_len);
	name[v->name_len] = '\0';
	return fnmatch(pattern, name, FNM_CASEFOLD) == 0;
}

static bool passes(const struct env_filter *f, const struct var *v)
{
	bool named = false;
	for (size_t i = 0; i < json_array_size(f->keys) && !named; i++)
		named = name_matches(json_string_value(json_array_get(f->keys, i)), v);
	if (f->allow)
		return named || name_matches("PATH", v);
	for (size_t i = 0; i < ARRAY_SIZE(secret_names) && f->secrets && !named; i++)
		named = name_matches(secret_names[i], v);
	return !named;
}

static int filter_set(struct env_set *set, const struct env_filter *f)
{
	size_t n = 0;
	for (size_t i = 0; i < set->n; i++)
		if (passes(f, &set->vars[i]))
			set->vars[n++] = set->vars[i];
	set->n = n;
	return env_set_index(set);
}

int env_build_for(const struct env_filter *filter, const char *env_file, json_t *overrides, const char *name,
		  const char *value, char ***ret_envp, struct err *err)
{
	_cleanup_(env_set_done) struct env_set set = {0}, file = {0};
	_cleanup_buf_ struct buf text = BUF_INIT(ENV_FILE_MAX + 1);
	struct arena arena = {0};
	int r = 0;

	if (env_file && (r = load_env_file(env_file, &file, &text, &arena)) < 0)
		log_warn("env file '%s' is passed over: %s", env_file, strerror(-r));
	/* A file that is wrong in its middle counts up to there. */
	r = env_set_base(&set);
	for (size_t i = 0; r >= 0 && i < file.n; i++)
		r = env_set_put(&set, &file.vars[i]);
	if (r >= 0 && filter)
		r = filter_set(&set, filter);
	if (r < 0)
		r = build_failed(r, err);
	else if ((r = put_overrides(&set, overrides, err)) < 0 && r != -EINVAL)
		r = build_failed(r, err);

	if (r >= 0 && name) {
		struct var var = {name, value, strlen(name), strlen(value)};
		r = env_set_put(&set, &var);
		if (r < 0)
			r = build_failed(r, err);
	}
	if (r >= 0 && (r = env_set_export(&set, ret_envp)) < 0)
		r = build_failed(r, err);
	free(arena.data);
	return r;
}

int env_build_with(const char *env_file, json_t *overrides, const char *name, const char *value,
		   char ***ret_envp, struct err *err)
{
	return env_build_for(NULL, env_file, overrides, name, value, ret_envp, err);
}

int env_build(const char *env_file, json_t *overrides, char ***ret_envp, struct err *err)
{
	return env_build_with(env_file, overrides, NULL, NULL, ret_envp, err);
}

void env_free(char **envp)
{
	free(envp);
}

static const char *get_var(char *const *envp, const char *name, size_t len)
{
	for (; envp && *envp; envp++)
		if (strncmp(*envp, name, len) == 0 && (*envp)[len] == '=')
			return *envp + len + 1;
	return NULL;
}

const char *env_get(char *const *envp, const char *name)
{
	return get_var(envp, name, strlen(name));
}

/* ---- paths ------------------------------------------------------------- */

static int path_too_long(const char *path, struct err *err)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", ENAMETOOLONG,
		       "path '%.64s...' is longer than %d bytes", path, PATH_MAX - 1);
}

static int expand_path_vars(const char *path, char *const *envp, struct buf *out, struct err *err)
{
	const char *end = path + strlen(path);
	for (const char *p = path; p < end;) {
		const char *name;
		size_t len, skip = *p == '$' ? parse_reference(p, end, &name, &len) : 0;
		if (skip == 0) {
			(void)buf_putc(out, *p++);
			continue;
		}
		const struct var *v = envp ? NULL : find_var(own.vars, own.n, name, len);
		const char *value = envp ? get_var(envp, name, len) : v ? v->value : NULL;
		if (!value)
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "path '%s': variable '%.*s' is not set", path, (int)len, name);
		(void)buf_append(out, value, v ? v->value_len : strlen(value));
		p += skip;
	}
	return out->failed ? path_too_long(path, err) : 0;
}

int env_expand_path(const char *path, char *const *envp, char **ret, struct err *err)
{
	_cleanup_buf_ struct buf out = BUF_INIT(PATH_MAX);
	int r = expand_path_vars(path, envp, &out, err);
	if (r < 0)
		return r;
	const char *s = buf_cstr(&out), *home = "";
	if (!s)
		return path_too_long(path, err);
	if (s[0] == '~' && (s[1] == '\0' || s[1] == '/')) {
		home = own.home ? own.home : "/";
		s++;
	}
	if (strlen(home) + strlen(s) >= PATH_MAX)
		return path_too_long(path, err);
	if (asprintf(ret, "%s%s", home, s) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "expand a path");
	return 0;
}

/* ---- the shell --------------------------------------------------------- */

static bool is_program(const char *path)
{
	struct stat st;
	return access(path, X_OK) == 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Elements that are not absolute would depend on a working directory and are passed over. */
static int find_program(const char *search, const char *name, char **ret_path)
{
	char path[PATH_MAX];
	for (const char *end; *search; search = *end ? end + 1 : end) {
		end = strchrnul(search, ':');
		int n = snprintf(path, sizeof(path), "%.*s/%s", (int)MIN(end - search, PATH_MAX), search,
				 name);
		if (*search != '/' || n < 0 || (size_t)n >= sizeof(path) || !is_program(path))
			continue;
		*ret_path = strdup(path);
		return *ret_path ? 0 : -ENOMEM;
	}
	return -ENOENT;
}

int env_shell(char *const *envp, char **ret_path, struct err *err)
{
	const char *search = env_get(envp, "PATH");
	if (!search)
		search = ENV_DEFAULT_PATH;
	int r = find_program(search, "bash", ret_path);
	if (r == -ENOENT)
		r = find_program(search, "sh", ret_path);
	if (r == -ENOENT)
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOENT,
			       "there is neither bash nor sh in PATH (%s)", search);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "look for a shell") : 0;
}

/* ---- start ------------------------------------------------------------- */

static bool is_private(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(private_names); i++)
		if (strlen(private_names[i]) == len && memcmp(private_names[i], name, len) == 0)
			return true;
	return false;
}

static char *find_home(void)
{
	const struct var *home = find_var(own.vars, own.n, "HOME", 4);
	if (home && home->value_len > 0)
		return strdup(home->value);
	struct accounts *accounts = NULL;
	if (accounts_load(&accounts) < 0)
		return NULL;
	const char *dir = accounts_user_home(accounts, geteuid());
	char *copy = dir ? strdup(dir) : NULL;
	accounts_free(accounts);
	return copy;
}

int env_init(const char *env_file)
{
	size_t n = 0;
	while (environ && environ[n])
		n++;
	own.vars = calloc(n + 1, sizeof(*own.vars));
	if (!own.vars)
		return -ENOMEM;

	for (size_t i = 0; i < n; i++) {
		char *entry = environ[i], *eq = strchr(entry, '=');
		size_t name_len = eq ? (size_t)(eq - entry) : 0;
		if (name_len == 0)
			continue;
		if (is_private(entry, name_len)) {
			explicit_bzero(entry, strlen(entry));
			continue;
		}
		if (env_file && name_len == strlen(ENV_FILE_VAR) &&
		    memcmp(entry, ENV_FILE_VAR, name_len) == 0)
			continue;
		own.vars[own.n++] = (struct var){entry, eq + 1, name_len, strlen(eq + 1)};
	}
	if (env_file)
		own.vars[own.n++] =
			(struct var){ENV_FILE_VAR, env_file, strlen(ENV_FILE_VAR), strlen(env_file)};
	/* Wiped entries are empty strings now: nobody reads environ any more. */
	own.home = find_home();
	return 0;
}
