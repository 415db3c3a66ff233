/*
 * network.c - the bridge that sandboxes share, and the rules that keep them
 * apart; made once at start. No state beyond the struct.
 *
 * Of the rules, one nftables table named as the bridge: what a sandbox sends to
 * an address of the host is refused, and so is what it sends to another sandbox
 * (within the bridge its port is isolated as well) and to link-local addresses
 * (where clouds keep their metadata services); what comes from an address that
 * is not of its network is dropped. Nobody opens a connection to a sandbox. The rest goes out
 * under the host's address.
 */
#include "sandboxd/oci/network.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "sandboxd/oci/link.h"
#include "sandboxd/oci/run.h"

#define CODE	    "SANDBOX::UNAVAILABLE"
#define RULES_MAX   4096
#define OUTPUT_MAX  1024
#define RESULT_MAX  65536
#define REFUSE	    "reject with icmpx type admin-prohibited"
#define ALIAS_START "sandboxd "

/* ---- rules ---------------------------------------------------------------------------- */

static void put_rules(const struct config *c, struct buf *out)
{
	const char *br = c->network_bridge;

	/* Added and deleted: whether it was there or not, in one transaction. */
	(void)buf_printf(out, "add table inet %s\ndelete table inet %s\ntable inet %s {\n", br, br, br);
	(void)buf_printf(out,
			 "chain input { type filter hook input priority -10; policy accept;\n"
			 "iifname != \"%s\" accept\nct state established,related accept\n%s}\n",
			 br, c->reach_host ? "" : REFUSE "\n");
	(void)buf_puts(out, "chain forward { type filter hook forward priority -10; policy accept;\n"
			    "ct state established,related accept\n");
	if (!c->reach_sandboxes)
		(void)buf_printf(out, "iifname \"%s\" oifname \"%s\" " REFUSE "\n", br, br);
	(void)buf_printf(out, "iifname \"%s\" ip saddr != %s drop\niifname \"%s\" meta nfproto ipv6 drop\n",
			 br, c->network_subnet, br);
	if (!c->reach_host)
		(void)buf_printf(out, "iifname \"%s\" ip daddr 169.254.0.0/16 " REFUSE "\n", br);
	(void)buf_printf(out, "iifname != \"%s\" oifname \"%s\" drop\n}\n", br, br);
	(void)buf_printf(out,
			 "chain nat { type nat hook postrouting priority 100; policy accept;\n"
			 "ip saddr %s oifname != \"%s\" masquerade\n}\n}\n",
			 c->network_subnet, br);
}

static int nft(const struct network *n, const char *rules, struct err *err)
{
	char *const argv[] = {(char *)"nft", (char *)"-f", (char *)"-", NULL};
	_cleanup_buf_ struct buf out = BUF_INIT(OUTPUT_MAX);
	const struct run run = {
		.path = "nft", .argv = argv, .envp = n->envp, .input = rules, .with_stderr = true};
	struct err why;

	int r = run_program(&run, &out, &why);
	if (r == -ENOENT)
		return err_set(err, ERR_UNAVAILABLE, CODE, ENOENT,
			       "the program nft is not there: `apt-get install nftables` brings it");
	if (r < 0)
		return err_set(err, ERR_UNAVAILABLE, CODE, -r, "%s: %.*s", why.message,
			       (int)MIN(out.len, 300ul), out.data ? (const char *)out.data : "");
	return 0;
}

/* Docker has the host drop what it forwards for others; whose rules they are, we leave to him. */
static void look_at_forwarding(const struct network *n)
{
	char *const argv[] = {(char *)"nft", (char *)"list",   (char *)"chain",
			      (char *)"ip",  (char *)"filter", (char *)"FORWARD",
			      NULL};
	_cleanup_buf_ struct buf out = BUF_INIT(OUTPUT_MAX);
	const struct run run = {.path = "nft", .argv = argv, .envp = n->envp, .with_stderr = true};
	const char *br = n->config->network_bridge;
	struct err err;

	if (run_program(&run, &out, &err) == 0 && buf_cstr(&out) &&
	    strstr((const char *)out.data, "policy drop"))
		log_warn("this host's firewall drops what it forwards: sandboxes get out when it is told "
			 "`iptables "
			 "-I FORWARD -i %s -j ACCEPT` and `iptables -I FORWARD -o %s -j ACCEPT`",
			 br, br);
}

/* ---- the bridge ------------------------------------------------------------------------- */

/* A bridge of that name may be another sandboxd's, whose addresses we would give away again. */
static int make_bridge(const struct network *n, struct err *err)
{
	const struct config *c = n->config;
	char own[LINK_ALIAS_MAX], other[LINK_ALIAS_MAX];

	(void)snprintf(own, sizeof(own), ALIAS_START "%s", c->state_dir);
	for (;;) {
		int r = link_make_bridge(c->network_bridge, own);
		if (r == 0)
			return 0;
		if (r != -EEXIST)
			return err_sys(err, CODE, -r, "make the bridge '%s'", c->network_bridge);
		r = link_alias(c->network_bridge, other, sizeof(other));
		if (r == 0 && strcmp(own, other) == 0)
			return 0;
		if (r < 0 && r != -ENODEV)
			return err_sys(err, CODE, -r, "look at the interface '%s'", c->network_bridge);
		/* Its state is gone, and so are its sandboxes. */
		if (strncmp(other, ALIAS_START, strlen(ALIAS_START)) != 0 ||
		    access(other + strlen(ALIAS_START), F_OK) == 0)
			return err_set(err, ERR_UNAVAILABLE, CODE, EEXIST,
				       "the interface '%s' is there and not ours ('%.200s'): set "
				       "network.bridge and network.subnet to a name and addresses of our own",
				       c->network_bridge, other);
		r = link_delete(c->network_bridge);
		if (r < 0 && r != -ENODEV)
			return err_sys(err, CODE, -r, "remove the bridge '%s'", c->network_bridge);
	}
}

static int check_plugins(const struct config *c, struct err *err)
{
	static const char *const needed[] = {"bridge", "host-local"};
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", c->cni_path, needed[i]);
		if (access(path, X_OK) < 0)
			return err_set(err, ERR_UNAVAILABLE, CODE, ENOENT,
				       "the CNI plugin '%s' is not there: `apt-get install "
				       "containernetworking-plugins` brings it; network.cni_path names its "
				       "directory",
				       path);
	}
	return 0;
}

static json_t *config_json(const struct config *c)
{
	json_t *servers = json_array();

	for (char **s = c->nameservers; s && *s; s++)
		(void)json_array_append_new(servers, json_string(*s));
	return json_pack("{s:s, s:b, s:o, s:{s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:{s:s, s:[[{s:s}]], s:o}}}",
			 "plugins", c->cni_path, "isolate", !c->reach_sandboxes, "nameservers", servers,
			 "config", "cniVersion", "1.0.0", "name", c->network_bridge, "type", "bridge",
			 "bridge", c->network_bridge, "isGateway", 1, "isDefaultGateway", 1, "ipMasq", 0,
			 "ipam", "type", "host-local", "ranges", "subnet", c->network_subnet, "dataDir",
			 json_sprintf("%s/cni/leases", c->state_dir));
}

static int write_config(const struct network *n, struct err *err)
{
	char dir[PATH_MAX];
	json_t *json = config_json(n->config);
	char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;

	json_decref(json);
	(void)snprintf(dir, sizeof(dir), "%s/cni", n->config->state_dir);
	int r = text ? fs_mkdir_p(dir, 0700) : -ENOMEM;
	if (r == 0)
		r = fs_write_file(AT_FDCWD, n->file, text, strlen(text), 0600);
	free(text);
	return r < 0 ? err_sys(err, CODE, -r, "write '%s'", n->file) : 0;
}

/* An address whose sandbox is gone: its removal was cut short. The first line of a lease is the ID. */
static void drop_old_leases(const struct config *c)
{
	char path[PATH_MAX], sandbox[PATH_MAX + 80];
	struct dirent *e;

	if (snprintf(path, sizeof(path), "%s/cni/leases/%s", c->state_dir, c->network_bridge) >=
	    (int)sizeof(path))
		return;
	DIR *d = opendir(path);
	while (d && (e = readdir(d))) {
		_cleanup_buf_ struct buf text = BUF_INIT(512);
		if (!isdigit((unsigned char)e->d_name[0]) || fs_read_file(dirfd(d), e->d_name, &text) < 0 ||
		    !buf_cstr(&text))
			continue;
		text.data[strcspn((char *)text.data, "\r\n")] = '\0';
		(void)snprintf(sandbox, sizeof(sandbox), "%s/sandboxes/%.64s", c->state_dir,
			       (char *)text.data);
		if (access(sandbox, F_OK) < 0 && errno == ENOENT)
			(void)unlinkat(dirfd(d), e->d_name, 0);
	}
	if (d)
		(void)closedir(d);
}

static int make_all(const struct network *n, struct err *err)
{
	_cleanup_buf_ struct buf rules = BUF_INIT(RULES_MAX);

	int r = check_plugins(n->config, err);
	if (r == 0)
		r = make_bridge(n, err);
	put_rules(n->config, &rules);
	if (r == 0)
		r = buf_cstr(&rules) ? nft(n, (const char *)rules.data, err)
				     : err_sys(err, CODE, ENOMEM, "write the rules");
	if (r == 0)
		r = write_config(n, err);
	if (r == 0)
		look_at_forwarding(n);
	if (r == 0)
		drop_old_leases(n->config);
	return r;
}

int network_init(struct network *n, const struct config *config, char *const *envp)
{
	*n = (struct network){.mode = config->network, .config = config, .envp = envp};
	return snprintf(n->file, sizeof(n->file), "%s/cni/bridge.json", config->state_dir) <
			       (int)sizeof(n->file)
		       ? 0
		       : -ENAMETOOLONG;
}

int network_probe(struct network *n, struct err *err)
{
	struct err why;

	if (n->mode != NETWORK_AUTO && n->mode != NETWORK_BRIDGE)
		return 0;
	int r = make_all(n, &why);
	if (r == 0) {
		n->mode = NETWORK_BRIDGE;
		return 0;
	}
	if (n->mode == NETWORK_AUTO) {
		log_warn("sandboxes have no network: %s", why.message);
		n->mode = NETWORK_NONE;
		return 0;
	}
	if (err)
		*err = why;
	return r;
}

void network_done(const struct network *n)
{
	char rules[64];
	struct err err;

	if (n->mode != NETWORK_BRIDGE)
		return;
	(void)snprintf(rules, sizeof(rules), "delete table inet %s\n", n->config->network_bridge);
	int r = link_delete(n->config->network_bridge);
	if (r < 0 && r != -ENODEV)
		log_warn("bridge %s: remove: %s", n->config->network_bridge, strerror(-r));
	if (nft(n, rules, &err) < 0)
		log_warn("rules of bridge %s: remove: %s", n->config->network_bridge, err.message);
}

/* ---- of one sandbox ----------------------------------------------------------------------- */

bool network_pending(const char *dir)
{
	char path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/network.json", dir) < (int)sizeof(path) &&
	       access(path, F_OK) == 0;
}

static void describe_result(const json_t *result, struct buf *out)
{
	size_t i = 0;
	json_t *x;

	json_array_foreach(json_object_get(result, "interfaces"), i, x)
	{
		const char *name = json_string_value(json_object_get(x, "name"));
		const char *mac = json_string_value(json_object_get(x, "mac"));
		bool inside = json_string_length(json_object_get(x, "sandbox")) > 0;
		(void)buf_printf(out, "interface %s %s %s\n", name ? name : "?", mac ? mac : "?",
				 inside ? "in the sandbox" : "on the host");
	}
	json_array_foreach(json_object_get(result, "ips"), i, x)
	{
		const char *address = json_string_value(json_object_get(x, "address"));
		const char *gateway = json_string_value(json_object_get(x, "gateway"));
		(void)buf_printf(out, "address %s gateway %s\n", address ? address : "?",
				 gateway ? gateway : "?");
	}
}

int network_describe(const char *dir, struct buf *out)
{
	_cleanup_buf_ struct buf mode = BUF_INIT(32), text = BUF_INIT(RESULT_MAX);
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/network.json", dir) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	int r = fs_read_file(AT_FDCWD, path, &text);
	path[strlen(path) - strlen(".json")] = '\0';
	if (fs_read_file(AT_FDCWD, path, &mode) < 0 || !buf_cstr(&mode))
		return -ENOENT;
	(void)buf_printf(out, "network %s\n", (const char *)mode.data);
	json_t *result = r < 0 ? NULL : json_loadb((const char *)text.data, text.len, 0, NULL);
	describe_result(result, out);
	json_decref(result);
	return 0;
}
