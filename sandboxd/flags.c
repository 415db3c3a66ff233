/*
 * flags.c - reads flags and environment into the settings.
 *
 * A secret has no flag: what stands in argv is seen by every process of the
 * machine. The key comes from a file or from the environment.
 */
#include "sandboxd/flags.h"

#include <ctype.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "lib/fs.h"
#include "sandboxd/runtimes.h"
#include "sandboxd/settings.h"

#define API_KEY_ENV "OPENSANDBOX_SERVER_API_KEY" /* the known server's name for it */
#define API_KEY_MAX 4096

enum {
	OPT_CONFIG = 256,
	OPT_LISTEN,
	OPT_LISTEN_FD,
	OPT_INSECURE,
	OPT_STATE,
	OPT_KEY_FILE,
	OPT_EXECD,
	OPT_RUNTIME,
	OPT_IMAGE,
	OPT_NETWORK,
	OPT_KILL,
	OPT_LOG,
	OPT_TOMBSTONE,
	OPT_PROVISION,
};

static const struct option known[] = {
	{"config", required_argument, NULL, OPT_CONFIG},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"listen-fd", required_argument, NULL, OPT_LISTEN_FD},
	{"insecure", no_argument, NULL, OPT_INSECURE},
	{"state", required_argument, NULL, OPT_STATE},
	{"api-key-file", required_argument, NULL, OPT_KEY_FILE},
	{"execd", required_argument, NULL, OPT_EXECD},
	{"runtime", required_argument, NULL, OPT_RUNTIME},
	{"image", required_argument, NULL, OPT_IMAGE},
	{"network", required_argument, NULL, OPT_NETWORK},
	{"kill-on-exit", no_argument, NULL, OPT_KILL},
	{"log-level", required_argument, NULL, OPT_LOG},
	{"tombstone", required_argument, NULL, OPT_TOMBSTONE},
	{"provision-timeout", required_argument, NULL, OPT_PROVISION},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

static const char help[] =
	"sandboxd - makes, watches and ends sandboxes; the OpenSandbox lifecycle API\n"
	"\n"
	"  sandboxd init-config [FILE] [--force]   writes a file with every setting\n"
	"\n"
	"  --config FILE          settings (SANDBOX_CONFIG_PATH, or ~/.sandbox.toml); flags win over them\n"
	"  --listen HOST:PORT     where to serve (127.0.0.1:8080; port 0: any, printed on stdout)\n"
	"  --listen-fd N          serve this listening socket instead\n"
	"  --insecure             allow listening beyond loopback without a key\n"
	"  --state DIR            store, images and sandboxes (/var/lib/sandboxd)\n"
	"  --api-key-file FILE    the key that requests must carry; also " API_KEY_ENV "\n"
	"  --execd FILE           the agent put into every sandbox (execd beside sandboxd)\n"
	"  --runtime RUNTIME      docker, or oci, or the OCI runtime by which that works (crun)\n"
	"  --image NAME=ROOT      let image NAME (a glob) run on ROOT: host, registry, dir:/PATH, oci:/PATH "
	"...\n"
	"  --network MODE         of sandboxes: none, bridge, host or auto (bridge where it can be)\n"
	"  --kill-on-exit         end every sandbox at SIGTERM instead of leaving them running\n"
	"  --tombstone SECONDS    how long an ended sandbox is remembered (3600)\n"
	"  --provision-timeout S  how long a start may take (60)\n"
	"  --log-level LEVEL      error, warn, info or debug (info)\n";

static int replace(char **slot, const char *value)
{
	char *copy = strdup(value);
	if (!copy)
		return -ENOMEM;
	free(*slot);
	*slot = copy;
	return 0;
}

static int parse_number(const char *name, const char *text, uint32_t max, uint32_t *ret, struct err *err)
{
	char *end;
	errno = 0;
	unsigned long n = strtoul(text, &end, 10);
	if (errno || end == text || *end || !isdigit((unsigned char)*text) || n > max)
		return err_set(err, ERR_INVALID, "CONFIG", 0, "%s: '%s' is not a number from 0 to %u", name,
			       text, max);
	*ret = (uint32_t)n;
	return 0;
}

/* "HOST:PORT" or "[V6]:PORT". */
static int parse_listen(struct config *c, const char *value, struct err *err)
{
	const char *colon = strrchr(value, ':');
	size_t n = colon ? (size_t)(colon - value) : 0;
	uint32_t port;

	if (n == 0)
		return err_set(err, ERR_INVALID, "CONFIG", 0, "--listen: '%s' is not HOST:PORT", value);
	int r = parse_number("--listen", colon + 1, 65535, &port, err);
	if (r < 0)
		return r;
	if (value[0] == '[' && value[n - 1] == ']') {
		value++;
		n -= 2;
	}
	char *host = strndup(value, n);
	if (!host)
		return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
	free(c->listen_host);
	c->listen_host = host;
	c->listen_port = (uint16_t)port;
	return 0;
}

static int parse_listen_fd(struct config *c, const char *value, struct err *err)
{
	uint32_t fd;
	int r = parse_number("--listen-fd", value, 65535, &fd, err);
	if (r < 0)
		return r;
	if (fd < 3 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_set(err, ERR_INVALID, "CONFIG", 0, "--listen-fd: %u is not an open descriptor",
			       fd);
	c->listen_fd = (int)fd;
	return 0;
}

static int take_key(struct config *c, const char *from, char *text, struct err *err)
{
	size_t n = strlen(text);
	while (n > 0 && isspace((unsigned char)text[n - 1]))
		text[--n] = '\0';
	while (isspace((unsigned char)*text))
		text++;
	if (!*text)
		return err_set(err, ERR_INVALID, "CONFIG", 0, "%s holds no key", from);
	if (replace(&c->api_key, text) < 0)
		return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
	return 0;
}

static int read_key_file(struct config *c, const char *path, struct err *err)
{
	_cleanup_buf_ struct buf b = BUF_INIT(API_KEY_MAX);
	int r = fs_read_file(AT_FDCWD, path, &b);
	if (r < 0)
		return err_sys(err, "CONFIG", -r, "read the API key from '%s'", path);
	if (!buf_cstr(&b))
		return err_set(err, ERR_INVALID, "CONFIG", 0, "'%s' is too long for a key", path);
	r = take_key(c, path, (char *)b.data, err);
	explicit_bzero(b.data, b.len);
	return r;
}

static int parse_image(struct config *c, const char *value, struct err *err)
{
	const char *eq = strchr(value, '=');
	if (!eq || eq == value)
		return err_set(err, ERR_INVALID, "CONFIG", 0, "--image: '%s' is not NAME=ROOT", value);
	_cleanup_free_ char *name = strndup(value, (size_t)(eq - value));
	if (!name)
		return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
	return image_table_add(&c->images, name, eq + 1, err);
}

/* A driver, or the program by which the embedded one makes its containers. */
static int parse_runtime(struct config *c, const char *value)
{
	const struct runtime_kind *kind = runtime_kind_find(value);
	c->runtime_kind = kind ? kind : runtime_kind_find("oci");
	return kind ? 0 : replace(&c->runtime, value);
}

static int parse_one(struct config *c, int opt, struct err *err)
{
	switch (opt) {
	case OPT_CONFIG:
		return 0; /* read before */
	case OPT_LISTEN:
		return parse_listen(c, optarg, err);
	case OPT_LISTEN_FD:
		return parse_listen_fd(c, optarg, err);
	case OPT_INSECURE:
		c->insecure = true;
		return 0;
	case OPT_STATE:
		return replace(&c->state_dir, optarg);
	case OPT_KEY_FILE:
		return read_key_file(c, optarg, err);
	case OPT_EXECD:
		return replace(&c->execd, optarg);
	case OPT_RUNTIME:
		return parse_runtime(c, optarg);
	case OPT_IMAGE:
		return parse_image(c, optarg, err);
	case OPT_NETWORK:
		if (network_mode_parse(optarg, &c->network) < 0)
			return err_set(err, ERR_INVALID, "CONFIG", 0,
				       "--network: '%s' is none of none, bridge, host, auto", optarg);
		return 0;
	case OPT_KILL:
		c->kill_on_exit = true;
		return 0;
	case OPT_TOMBSTONE:
		return parse_number("--tombstone", optarg, 366u * 24 * 3600, &c->tombstone_s, err);
	case OPT_PROVISION:
		return parse_number("--provision-timeout", optarg, 24u * 3600, &c->provision_max_s, err);
	case OPT_LOG:
		if (log_level_parse(optarg, &c->log_level) < 0)
			return err_set(err, ERR_INVALID, "CONFIG", 0,
				       "--log-level: '%s' is none of error, warn, info, debug", optarg);
		return 0;
	}
	return err_set(err, ERR_INVALID, "CONFIG", 0, "see sandboxd --help");
}

static int init_config(int argc, char **argv, struct err *err)
{
	const char *path = "~/.sandbox.toml";
	bool force = false;
	for (int i = 2; i < argc; i++) {
		if (strcmp(argv[i], "--force") == 0)
			force = true;
		else if (argv[i][0] != '-')
			path = argv[i];
		else
			return err_set(err, ERR_INVALID, "CONFIG", 0, "init-config: '%s' is not a flag",
				       argv[i]);
	}
	int r = settings_write(path, force, err);
	if (r < 0)
		return r;
	(void)printf("wrote %s\n", path);
	return 1;
}

/* The file comes first, wherever its name stands: what is said by hand wins over it. */
static int load_file(int argc, char **argv, struct config *c, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	int opt;
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "h", known, NULL)) != -1)
		if (opt == OPT_CONFIG && replace(&path, optarg) < 0)
			return err_sys(err, "CONFIG", ENOMEM, "--config");
	opterr = 1;
	if (!path)
		path = settings_default_path();
	return path ? settings_load(path, c, err) : 0;
}

int flags_parse(int argc, char **argv, struct config *c, struct err *err)
{
	char *key = getenv(API_KEY_ENV);
	int r, opt;

	if (argc > 1 && strcmp(argv[1], "init-config") == 0)
		return init_config(argc, argv, err);
	r = load_file(argc, argv, c, err);
	if (r < 0)
		return r;
	if (key && *key) {
		r = take_key(c, API_KEY_ENV, key, err);
		explicit_bzero(key, strlen(key)); /* and out of /proc/self/environ */
		unsetenv(API_KEY_ENV);
		if (r < 0)
			return r;
	}
	optind = 1;
	while ((opt = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		if (opt == 'h') {
			fputs(help, stdout);
			return 1;
		}
		r = parse_one(c, opt, err);
		if (r < 0)
			return r;
	}
	if (optind < argc)
		return err_set(err, ERR_INVALID, "CONFIG", 0, "'%s' is not a flag; see sandboxd --help",
			       argv[optind]);
	return config_check(c, err);
}
