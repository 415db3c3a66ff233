/*
 * Files of the container that the agent reads of itself, and whoever is root there writes: accounts, the env
 * file, what stands in /proc and in cgroups, sockets and whose they are.
 *
 * The first byte says which; the parts of the rest, parted by a line "%%", are the files.
 */
#include <sys/socket.h>
#include <sys/syscall.h>

#include "execd/account.h"
#include "execd/cgroup.h"
#include "execd/env.h"
#include "execd/metrics.h"
#include "execd/ports.h"
#include "tests/fuzz/jail.h"
#include "tests/fuzz/parts.h"

static void accounts(void)
{
	static const uint32_t ids[] = {0, 1, 1000, 65534, UINT32_MAX};
	static const char *const names[] = {"root", "a", "", "0", "4294967296", "-1", "00", "x:y"};
	struct accounts *a;
	size_t groups_n;
	gid_t *groups, gid;
	uid_t uid;

	must(accounts_load_from("/w/passwd", "/w/group", &a) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		const char *name = accounts_user_name(a, ids[i]), *home = accounts_user_home(a, ids[i]);

		must(!name || !strpbrk(name, ":\n"));
		must(!home || !strpbrk(home, ":\n"));
		(void)accounts_group_name(a, ids[i]);
		(void)accounts_primary_group(a, ids[i], &gid);
		groups = NULL;
		groups_n = 0;
		if (accounts_groups(a, ids[i], &groups, &groups_n) == 0)
			must(groups_n <= ACCOUNT_GROUPS_MAX && (groups_n == 0) == (groups == NULL));
		free(groups);
	}
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		(void)accounts_user_id(a, names[i], &uid);
		(void)accounts_group_id(a, names[i], &gid);
	}
	accounts_free(a);
}

static void environment(void)
{
	struct err err = {0};
	char **envp = NULL, *path = NULL;
	size_t n = 0;

	if (env_build("/w/env", NULL, &envp, &err) < 0) {
		must_be_told(&err);
		return;
	}
	for (; envp[n]; n++)
		must(strchr(envp[n], '=') > envp[n]);
	must(n <= ENV_ENTRIES_MAX + 1024);
	(void)env_get(envp, "A");
	if (env_expand_path("~/$A/${B}/c", envp, &path, &err) < 0)
		must_be_told(&err);
	free(path);
	env_free(envp);
}

static void measure(void)
{
	struct metrics_sample sample = {0};
	struct metrics_agent agent;
	enum cgroup_version version;
	char path[CGROUP_PATH_MAX];
	struct metrics *m;
	uint64_t kills;

	if (cgroup_find("memory", path, &version) == 0)
		must(memchr(path, '\0', sizeof(path)) && !strstr(path, "/../"));
	must(metrics_new(&m) == 0);
	for (int i = 0; i < 2; i++)
		if (metrics_read(m, &sample) == 0)
			must(sample.cpu_used_pct >= 0 && sample.cpu_used_pct <= 100 && sample.cpu_count > 0);
	(void)metrics_oom_kills(m, &kills);
	metrics_agent(&agent);
	metrics_free(m);
}

/* ---- ports: two tables, a process's name, and its sockets, one in a line ---- */

/* sock_diag is not there, so that the tables are read; libFuzzer has no sockets. */
int socket(int domain, int type, int protocol)
{
	if (domain == AF_NETLINK) {
		errno = EACCES;
		return -1;
	}
	return (int)syscall(SYS_socket, domain, type, protocol);
}

static void put_links(const struct part *part)
{
	char path[32], link[64];
	int n = 0;

	for (const uint8_t *at = part->data, *end = at + part->n, *next; at < end && n < 4; at = next, n++) {
		const uint8_t *lf = memchr(at, '\n', (size_t)(end - at));

		next = lf ? lf + 1 : end;
		(void)snprintf(path, sizeof(path), "/proc/7/fd/%d", n);
		(void)snprintf(link, sizeof(link), "%.*s", (int)((lf ? lf : end) - at), (const char *)at);
		(void)symlink(link, path);
	}
}

static void ports(const struct part *parts, size_t n)
{
	struct port_list first, again;
	struct err err;

	(void)fs_remove_tree(AT_FDCWD, "/proc/7");
	must(fs_mkdir_p("/proc/7/fd", 0755) == 0 && fs_mkdir_p("/proc/net", 0755) == 0);
	put("/proc/net/tcp", parts, n, 0);
	put("/proc/net/tcp6", parts, n, 1);
	put("/proc/7/comm", parts, n, 2);
	if (n > 3)
		put_links(&parts[3]);
	if (ports_read(&first, NULL, &err) < 0)
		return;
	for (size_t i = 0; i < first.n; i++) {
		must(memchr(first.v[i].address, '\0', sizeof(first.v[i].address)));
		must(memchr(first.v[i].process, '\0', sizeof(first.v[i].process)));
		must(i == 0 || port_compare(&first.v[i - 1], &first.v[i]) < 0);
	}
	/* With what is known nothing is different. */
	must(ports_read(&again, &first, &err) == 0 && again.n == first.n);
	for (size_t i = 0; i < first.n; i++)
		must(port_compare(&first.v[i], &again.v[i]) == 0 && first.v[i].pid == again.v[i].pid);
	port_list_done(&first);
	port_list_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char *const measured[] = {"/proc/self/cgroup",
					       "/proc/stat",
					       "/proc/meminfo",
					       "/proc/self/statm",
					       "/sys/fs/cgroup/cpu.stat",
					       "/sys/fs/cgroup/cpu.max",
					       "/sys/fs/cgroup/memory.current",
					       "/sys/fs/cgroup/memory.stat",
					       "/sys/fs/cgroup/memory.max",
					       "/sys/fs/cgroup/memory.events"};
	struct part parts[PARTS_MAX];
	static bool begun;
	size_t parts_n;

	if (n == 0 || !jail())
		return 0;
	if (!begun) {
		must(fs_mkdir_p("/proc/self", 0755) == 0 && fs_mkdir_p("/sys/fs/cgroup", 0755) == 0);
		must(env_init("/w/env") == 0);
		begun = true;
	}
	parts_n = part_them(data + 1, n - 1, parts);
	switch (data[0]) {
	case 'p':
		put("/w/passwd", parts, parts_n, 0);
		put("/w/group", parts, parts_n, 1);
		accounts();
		break;
	case 'e':
		put("/w/env", parts, parts_n, 0);
		environment();
		break;
	case 'm':
		for (size_t i = 0; i < ARRAY_SIZE(measured); i++)
			put(measured[i], parts, parts_n, i);
		measure();
		break;
	case 't':
		ports(parts, parts_n);
		break;
	default:
		break;
	}
	return 0;
}
