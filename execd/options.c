/*
 * options.c - one table of flags, and what each does.
 *
 * Parsing stops at "--" or at the first word that is no flag; what follows is
 * the entrypoint of --init.
 */
#include "execd/options.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "execd/env.h"

enum flag_id {
	FLAG_PORT,
	FLAG_HOST,
	FLAG_LISTEN_FD,
	FLAG_TOKEN_FILE,
	FLAG_TOKEN_ONCE,
	FLAG_TOKEN,
	FLAG_LOG_LEVEL,
	FLAG_LOG_FILE,
	FLAG_ENV_FILE,
	FLAG_GRACE,
	FLAG_SPARES,
	FLAG_KERNEL_IDLE,
	FLAG_CONFINEMENT,
	FLAG_PROFILES,
	FLAG_ISOLATION,
	FLAG_INIT,
	FLAG_CLAIM_FD,
	FLAG_ANNOUNCE,
	FLAG_VERSION,
	FLAG_HELP,
	FLAG_IGNORED,
};

struct flag {
	const char *name;
	enum flag_id id;
	const char *arg; /* NULL: takes none */
	bool secret;	 /* its value is wiped from argv */
	const char *help;
};

static const struct flag flags[] = {
	{"port", FLAG_PORT, "N", false, "TCP port to serve (44772)"},
	{"host", FLAG_HOST, "ADDR", false, "address to bind (0.0.0.0)"},
	{"listen-fd", FLAG_LISTEN_FD, "FD", false,
	 "serve this inherited listening socket (also: LISTEN_FDS)"},
	{"access-token-file", FLAG_TOKEN_FILE, "FILE", false, "read the access token from FILE"},
	{"access-token-once", FLAG_TOKEN_ONCE, "FILE", false,
	 "the same, and remove FILE, and its folder when that is empty"},
	{"access-token", FLAG_TOKEN, "TOKEN", true, "the access token itself; EXECD_ACCESS_TOKEN is better"},
	{"log-level", FLAG_LOG_LEVEL, "LEVEL", false, "error, warn, info, debug, or 0 to 7 (info)"},
	{"log-file", FLAG_LOG_FILE, "FILE", false, "append the log to FILE (EXECD_LOG_FILE; stderr)"},
	{"env-file", FLAG_ENV_FILE, "FILE", false,
	 "KEY=VALUE lines for every command (EXECD_ENVS; with --init " ENV_FILE_DEFAULT ")"},
	{"graceful-shutdown-timeout", FLAG_GRACE, "TIME", false,
	 "what commands get to end in at shutdown (EXECD_API_GRACE_SHUTDOWN; 1s)"},
	{"kernel-spares", FLAG_SPARES, "N", false,
	 "warm processes kept for the next code contexts (EXECD_KERNEL_SPARES; 1)"},
	{"kernel-idle-timeout", FLAG_KERNEL_IDLE, "TIME", false,
	 "end the kernel of a context that is idle so long (EXECD_KERNEL_IDLE_TIMEOUT; 0: never)"},
	{"confinement", FLAG_CONFINEMENT, "[KIND=]NAME,..", false,
	 "what commands, sessions, ptys and contexts are confined by: off, default, strict, or a profile "
	 "(EXECD_CONFINEMENT; off)"},
	{"seccomp-profiles", FLAG_PROFILES, "NAME=FILE,..", false,
	 "OCI seccomp profiles that can be named (EXECD_SECCOMP_PROFILES)"},
	{"isolation-upper-root", FLAG_ISOLATION, "DIR", false,
	 "where isolated sessions keep the layers of their overlays (EXECD_ISOLATION_UPPER_ROOT; "
	 "/var/lib/execd/isolation)"},
	{"init", FLAG_INIT, NULL, false, "be the init process; what follows \"--\" is the entrypoint"},
	{"claim-fd", FLAG_CLAIM_FD, "FD", false,
	 "be a spare: wait until this descriptor says entrypoint, environment and token"},
	{"announce", FLAG_ANNOUNCE, NULL, false, "say on stdout where it listens, once it does"},
	{"version", FLAG_VERSION, NULL, false, "print the version"},
	{"help", FLAG_HELP, NULL, false, "print this"},
	{"h", FLAG_HELP, NULL, false, NULL},
	{"jupyter-host", FLAG_IGNORED, "URL", false, NULL},
	{"jupyter-token", FLAG_IGNORED, "TOKEN", true, NULL},
	{"jupyter-idle-poll-interval", FLAG_IGNORED, "TIME", false, NULL},
};

static int bad(struct err *err, const char *name, const char *value, const char *expected)
{
	return err_set(err, ERR_INVALID, "OPTIONS", EINVAL, "%s: '%s' is not %s", name, value, expected);
}

static int parse_number(const char *name, const char *s, unsigned long max, unsigned long *ret,
			const char *expected, struct err *err)
{
	char *end;
	errno = 0;
	unsigned long v = strtoul(s, &end, 10);
	if (errno || *s < '0' || *s > '9' || *end || v > max)
		return bad(err, name, s, expected);
	*ret = v;
	return 0;
}

/* The reference's levels: up to 3 errors, 4 warnings, 5 and 6 information, 7 debug. */
static int parse_level(const char *name, const char *s, enum log_level *ret, struct err *err)
{
	static const enum log_level numbered[] = {LOG_ERROR, LOG_ERROR, LOG_ERROR, LOG_ERROR,
						  LOG_WARN,  LOG_INFO,	LOG_INFO,  LOG_DEBUG};
	unsigned long v = 0;
	if (log_level_parse(s, ret) == 0)
		return 0;
	if (parse_number(name, s, ULONG_MAX, &v, "error, warn, info, debug or a number", err) < 0)
		return -EINVAL;
	*ret = numbered[MIN(v, ARRAY_SIZE(numbered) - 1)];
	return 0;
}

/* A duration as Go writes it: "1s", "1m30s", "1.5s", "250ms"; "0". */
static int parse_duration(const char *name, const char *s, uint64_t *ret_ms, struct err *err)
{
	static const struct {
		const char *name;
		double ms;
	} units[] = {{"ns", 1e-6}, {"us", 1e-3}, {"µs", 1e-3}, {"ms", 1},
		     {"s", 1e3},   {"m", 6e4},	 {"h", 36e5}};
	const char *p = s;
	double total = 0;
	do {
		char *end;
		if (!((*p >= '0' && *p <= '9') || *p == '.'))
			return bad(err, name, s, "a duration such as 1s or 250ms");
		double v = strtod(p, &end);
		size_t unit = 0, len = strcspn(end, "0123456789.");
		while (unit < ARRAY_SIZE(units) &&
		       (strlen(units[unit].name) != len || memcmp(units[unit].name, end, len) != 0))
			unit++;
		if (unit < ARRAY_SIZE(units))
			total += v * units[unit].ms;
		else if (v != 0 || *end)
			return bad(err, name, s, "a duration such as 1s or 250ms");
		p = end + len;
	} while (*p);
	if (!(total < 1e12))
		return bad(err, name, s, "a duration of a sane length");
	*ret_ms = (uint64_t)total;
	return 0;
}

static int parse_spares(const char *name, const char *s, unsigned *ret, struct err *err)
{
	unsigned long v = 0;
	int r = parse_number(name, s, KERNEL_SPARES_MAX, &v, "a number of processes from 0 to 16", err);
	*ret = (unsigned)v;
	return r;
}

static int read_token_file(const char *path, char **ret, struct err *err)
{
	char text[TOKEN_FILE_MAX + 1];
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (n < 0)
		return err_sys(err, "OPTIONS", errno, "--access-token-file: read '%s'", path);
	if (n > TOKEN_FILE_MAX)
		return err_set(err, ERR_INVALID, "OPTIONS", EFBIG,
			       "--access-token-file: '%s' is longer than %d bytes", path, TOKEN_FILE_MAX);
	while (n > 0 && strchr(" \t\r\n", text[n - 1]))
		n--;
	text[n] = '\0';
	char *token = n > 0 && strlen(text) == (size_t)n ? strdup(text) : NULL;
	explicit_bzero(text, sizeof(text));
	if (!token)
		return err_set(err, ERR_INVALID, "OPTIONS", EINVAL,
			       "--access-token-file: '%s' holds no token", path);
	*ret = token;
	return 0;
}

static int set_token(struct options *o, const char *value, struct err *err)
{
	if (o->token) {
		explicit_bzero(o->token, strlen(o->token));
		free(o->token);
	}
	o->token = NULL;
	if (!*value)
		return 0; /* as in the reference: no token, every request is let through */
	o->token = strdup(value);
	return o->token ? 0 : err_sys(err, "OPTIONS", ENOMEM, "access token");
}

static int set_token_file(struct options *o, const char *path, struct err *err)
{
	char *token;
	int r = read_token_file(path, &token, err);
	if (r < 0)
		return r;
	r = set_token(o, token, err);
	explicit_bzero(token, strlen(token));
	free(token);
	return r;
}

/* Whoever comes after us must not find it: when it cannot be removed, nothing is served. */
static int set_token_once(struct options *o, const char *path, struct err *err)
{
	_cleanup_free_ char *folder = strdup(path);
	int r = set_token_file(o, path, err);
	if (r < 0)
		return r;
	if (unlink(path) < 0)
		return err_sys(err, "OPTIONS", errno, "--access-token-once: remove '%s'", path);
	char *slash = folder ? strrchr(folder, '/') : NULL;
	if (slash && slash > folder) {
		*slash = '\0';
		(void)rmdir(folder); /* it may be somebody else's too */
	}
	return 0;
}

static void print_help(void)
{
	printf("usage: execd [flags]\n"
	       "       execd --init [flags] [-- entrypoint args...]\n\n"
	       "Serves commands, files and code of this machine or container over HTTP.\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		char left[48];
		if (!flags[i].help)
			continue;
		(void)snprintf(left, sizeof(left), "--%s %s", flags[i].name,
			       flags[i].arg ? flags[i].arg : "");
		printf("  %-34s %s\n", left, flags[i].help);
	}
}

static int apply(struct options *o, const struct flag *flag, const char *name, const char *value,
		 struct err *err)
{
	unsigned long v = 0;
	int r = 0;
	switch (flag->id) {
	case FLAG_PORT:
		r = parse_number(name, value, UINT16_MAX, &v, "a port", err);
		o->port = (uint16_t)v;
		return r;
	case FLAG_HOST:
		o->host = value;
		return 0;
	case FLAG_LISTEN_FD:
		r = parse_number(name, value, INT32_MAX, &v, "a descriptor", err);
		o->listen_fd = (int)v;
		return r;
	case FLAG_TOKEN_FILE:
		return set_token_file(o, value, err);
	case FLAG_TOKEN_ONCE:
		return set_token_once(o, value, err);
	case FLAG_TOKEN:
		return set_token(o, value, err);
	case FLAG_LOG_LEVEL:
		return parse_level(name, value, &o->log_level, err);
	case FLAG_LOG_FILE:
		o->log_file = *value ? value : NULL;
		return 0;
	case FLAG_ENV_FILE:
		o->env_file = value;
		return 0;
	case FLAG_GRACE:
		return parse_duration(name, value, &o->grace_ms, err);
	case FLAG_SPARES:
		return parse_spares(name, value, &o->kernel_spares, err);
	case FLAG_KERNEL_IDLE:
		return parse_duration(name, value, &o->kernel_idle_ms, err);
	case FLAG_CONFINEMENT:
		o->confinement = *value ? value : NULL;
		return 0;
	case FLAG_PROFILES:
		o->profiles = *value ? value : NULL;
		return 0;
	case FLAG_ISOLATION:
		o->isolation_root = *value ? value : NULL;
		return 0;
	case FLAG_INIT:
		o->init = true;
		return 0;
	case FLAG_CLAIM_FD:
		r = parse_number(name, value, INT32_MAX, &v, "a descriptor", err);
		o->claim_fd = (int)v;
		return r;
	case FLAG_ANNOUNCE:
		o->announce = true;
		return 0;
	case FLAG_VERSION:
		printf("execd %s\n", EXECD_VERSION);
		return OPTIONS_DONE;
	case FLAG_HELP:
		print_help();
		return OPTIONS_DONE;
	case FLAG_IGNORED:
		if (o->ignored_n < ARRAY_SIZE(o->ignored))
			o->ignored[o->ignored_n++] = flag->name;
		return 0;
	}
	return 0;
}

static const struct flag *find_flag(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (strlen(flags[i].name) == len && memcmp(flags[i].name, name, len) == 0)
			return &flags[i];
	return NULL;
}

/* argv[*i] is a flag: applies it and moves *i past it and its value. */
static int parse_flag(struct options *o, char **argv, int argc, int *i, struct err *err)
{
	char *word = argv[*i], *name = word + 1 + (word[1] == '-');
	size_t len = strcspn(name, "=");
	const struct flag *flag = find_flag(name, len);
	char *value = name[len] == '=' ? name + len + 1 : NULL;
	static char none[] = "";
	char shown[48];
	if (!flag)
		return err_set(err, ERR_INVALID, "OPTIONS", EINVAL, "unknown flag %.*s",
			       (int)MIN((size_t)(name - word) + len, (size_t)100), word);
	(void)snprintf(shown, sizeof(shown), "--%s", flag->name);
	++*i;
	if (!flag->arg && value && strcmp(value, "true") != 0)
		return err_set(err, ERR_INVALID, "OPTIONS", EINVAL, "%s takes no value", shown);
	if (flag->arg && !value) {
		if (*i >= argc)
			return err_set(err, ERR_INVALID, "OPTIONS", EINVAL, "%s needs a value", shown);
		value = argv[(*i)++];
	}
	int r = apply(o, flag, shown, value ? value : none, err);
	/* In place: /proc/PID/cmdline shows these very bytes. */
	if (flag->secret && value)
		explicit_bzero(value, strlen(value));
	return r;
}

/* sd_listen_fds(3): descriptors from 3 on are ours when LISTEN_PID says so. */
static int listen_fds(struct options *o, struct err *err)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	unsigned long v = 0;
	if (!pid || !fds || !*fds)
		return 0;
	if (parse_number("LISTEN_PID", pid, INT32_MAX, &v, "a process id", err) < 0)
		return -EINVAL;
	if (v != (unsigned long)getpid())
		return 0;
	if (parse_number("LISTEN_FDS", fds, INT32_MAX, &v, "a number of descriptors", err) < 0)
		return -EINVAL;
	if (v > 1)
		return err_set(err, ERR_INVALID, "OPTIONS", EINVAL,
			       "LISTEN_FDS: %lu sockets were passed, one can be served", v);
	if (v == 1)
		o->listen_fd = 3;
	return 0;
}

static int parse_environment(struct options *o, struct err *err)
{
	const char *token = getenv("EXECD_ACCESS_TOKEN"), *log_file = getenv("EXECD_LOG_FILE"),
		   *env_file = getenv(ENV_FILE_VAR), *grace = getenv("EXECD_API_GRACE_SHUTDOWN"),
		   *spares = getenv("EXECD_KERNEL_SPARES"), *idle = getenv("EXECD_KERNEL_IDLE_TIMEOUT"),
		   *confinement = getenv("EXECD_CONFINEMENT"), *profiles = getenv("EXECD_SECCOMP_PROFILES"),
		   *isolation = getenv("EXECD_ISOLATION_UPPER_ROOT");
	int r = listen_fds(o, err);
	if (r >= 0 && token)
		r = set_token(o, token, err);
	if (r >= 0 && grace && *grace)
		r = parse_duration("EXECD_API_GRACE_SHUTDOWN", grace, &o->grace_ms, err);
	if (r >= 0 && spares && *spares)
		r = parse_spares("EXECD_KERNEL_SPARES", spares, &o->kernel_spares, err);
	if (r >= 0 && idle && *idle)
		r = parse_duration("EXECD_KERNEL_IDLE_TIMEOUT", idle, &o->kernel_idle_ms, err);
	if (confinement && *confinement)
		o->confinement = confinement;
	if (isolation && *isolation)
		o->isolation_root = isolation;
	if (profiles && *profiles)
		o->profiles = profiles;
	if (log_file && *log_file)
		o->log_file = log_file;
	if (env_file && *env_file)
		o->env_file = env_file;
	return r;
}

int options_parse(int argc, char **argv, struct options *ret, struct err *err)
{
	struct options o = {.host = "0.0.0.0",
			    .port = EXECD_PORT,
			    .listen_fd = -1,
			    .claim_fd = -1,
			    .log_level = LOG_INFO,
			    .grace_ms = 1000,
			    .kernel_spares = 1};
	int r = parse_environment(&o, err), i = 1;
	bool end = false;
	while (r == OPTIONS_RUN && i < argc && !end) {
		if (strcmp(argv[i], "--") == 0) {
			end = true;
			i++;
		} else if (argv[i][0] == '-' && argv[i][1] != '\0') {
			r = parse_flag(&o, argv, argc, &i, err);
		} else {
			end = true;
		}
	}
	if (r == OPTIONS_RUN && i < argc && !o.init)
		r = err_set(err, ERR_INVALID, "OPTIONS", EINVAL,
			    "unexpected word '%.100s': only --init takes an entrypoint", argv[i]);
	if (r != OPTIONS_RUN) {
		options_done(&o);
		return r;
	}
	o.entrypoint = i < argc ? &argv[i] : NULL;
	/* Clients append to the file that this variable names. */
	if (!o.env_file && o.init)
		o.env_file = ENV_FILE_DEFAULT;
	if (o.env_file && !*o.env_file)
		o.env_file = NULL;
	*ret = o;
	return OPTIONS_RUN;
}

void options_done(struct options *o)
{
	if (o->token)
		explicit_bzero(o->token, strlen(o->token));
	free(o->token);
	o->token = NULL;
}
