/*
 * bundle.c - writes what the OCI runtime is told; no state, no threads.
 *
 * Control groups are not named here: oci-enter has joined them before the
 * runtime starts.
 */
#include "sandboxd/oci/bundle.h"

#include <stdio.h>
#include <string.h>

#include "sandboxd/agent.h"
#include "sandboxd/oci/rootfs.h"

static const char *const masked[] = {
	"/proc/acpi",	       "/proc/asound",	   "/proc/kcore",	"/proc/keys",
	"/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
	"/proc/scsi",	       "/proc/interrupts", "/sys/firmware",	"/sys/devices/virtual/powercap",
	"/sys/dev/block",
};

static const char *const readonly[] = {
	"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
};

static const char *const namespaces[] = {"network", "pid", "mount", "ipc", "uts", "cgroup"};

struct mount_row {
	const char *destination, *type, *source, *options; /* options: separated by commas */
};

static const struct mount_row mounts[] = {
	/* The root again, for some runtimes (crun) forget its nodev; by a name that they do not know for it.
	 */
	{"/.", "none", "/", "remount,bind,nodev"},
	{"/proc", "proc", "proc", "nosuid,noexec,nodev"},
	{"/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"},
	{"/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"},
	{"/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"},
	{"/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"},
	{"/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"},
};

/*
 * Before them, for namespaces within: a user namespace may mount a procfs of its own only where a whole one
 * is mounted already, which that at /proc is not, with what is masked in it. So here is another, below what
 * is then mounted over /dev: no path leads there, and whoever copies the mounts into a user namespace cannot
 * take the cover away. It is read-only, so that nobody can mount one that is not: /proc/sys is uid 0's by its
 * mode alone. The tmpfs under it is there because crun mounts procfs only where a directory is.
 */
static const struct mount_row nested[] = {
	{"/dev", "tmpfs", "tmpfs", "nosuid,noexec,nodev,mode=755,size=4k"},
	{"/dev/proc", "tmpfs", "tmpfs", "nosuid,noexec,nodev,mode=755,size=4k"},
	{"/dev/proc", "proc", "proc", "nosuid,noexec,nodev,ro"},
};

static json_t *strings(const char *const *list, size_t n)
{
	json_t *a = json_array();
	for (size_t i = 0; i < n; i++)
		(void)json_array_append_new(a, json_string(list[i]));
	return a;
}

static json_t *split(const char *text)
{
	json_t *a = json_array();
	while (*text) {
		size_t n = strcspn(text, ",");
		(void)json_array_append_new(a, json_stringn(text, n));
		text += n + (text[n] == ',');
	}
	return a;
}

static json_t *mount_json(const struct mount_row *row)
{
	return json_pack("{s:s, s:s, s:s, s:o}", "destination", row->destination, "type", row->type, "source",
			 row->source, "options", split(row->options));
}

static json_t *mounts_json(bool with_nested)
{
	json_t *a = json_array();

	for (size_t i = 0; i < ARRAY_SIZE(nested) && with_nested; i++)
		(void)json_array_append_new(a, mount_json(&nested[i]));
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++)
		(void)json_array_append_new(a, mount_json(&mounts[i]));
	return a;
}

/* The token comes through a pipe: argv and environment are seen by others. */
static json_t *args_json(const struct bundle_spec *spec)
{
	json_t *args = json_pack("[s, s, s]", EXECD_INSIDE, "--init", "--listen-fd");

	(void)json_array_append_new(args, json_sprintf("%d", BUNDLE_LISTEN_FD));
	(void)json_array_append_new(args, json_string("--log-level"));
	(void)json_array_append_new(args, json_string("warn"));
	if (spec->token) {
		(void)json_array_append_new(args, json_string("--access-token-file"));
		(void)json_array_append_new(args, json_sprintf("/proc/self/fd/%d", BUNDLE_TOKEN_FD));
	}
	if (spec->spare) {
		(void)json_array_append_new(args, json_string("--claim-fd"));
		(void)json_array_append_new(args, json_sprintf("%d", BUNDLE_TOKEN_FD));
		return args;
	}
	(void)json_array_append_new(args, json_string("--"));
	(void)json_array_extend(args, (json_t *)spec->entrypoint);
	return args;
}

/* What the client says counts most, then the image. */
static json_t *env_json(const struct bundle_spec *spec)
{
	const char *home = spec->image->home;
	json_t *all = json_pack("{s:s, s:s, s:s, s:s}", "PATH", DEFAULT_PATH, "HOME", home ? home : "/",
				"HOSTNAME", "sandbox", "container", "oci");
	json_t *array = json_array(), *value;
	const char *key = NULL;

	if (spec->image->env)
		(void)json_object_update(all, spec->image->env);
	if (spec->env)
		(void)json_object_update(all, (json_t *)spec->env);
	json_object_foreach(all, key, value)(void)
		json_array_append_new(array, json_sprintf("%s=%s", key, json_string_value(value)));
	json_decref(all);
	return array;
}

static json_t *user_json(const struct base_config *image)
{
	json_t *groups = json_array();

	for (size_t i = 0; i < image->groups_n; i++)
		(void)json_array_append_new(groups, json_integer(image->groups[i]));
	return json_pack("{s:I, s:I, s:o}", "uid", (json_int_t)image->uid, "gid", (json_int_t)image->gid,
			 "additionalGids", groups);
}

static json_t *capabilities_json(json_t *set)
{
	return json_pack("{s:O, s:O, s:O}", "bounding", set, "effective", set, "permitted", set);
}

static json_t *linux_json(const struct bundle_spec *spec)
{
	json_t *list = json_array();
	for (size_t i = spec->own_network ? 0 : 1; i < ARRAY_SIZE(namespaces); i++)
		(void)json_array_append_new(list, json_pack("{s:s}", "type", namespaces[i]));
	json_t *o = json_pack("{s:o, s:o, s:o}", "namespaces", list, "maskedPaths",
			      strings(masked, ARRAY_SIZE(masked)), "readonlyPaths",
			      strings(readonly, ARRAY_SIZE(readonly)));
	if (spec->hardening->seccomp)
		(void)json_object_set(o, "seccomp", spec->hardening->seccomp);
	return o;
}

static json_t *process_json(const struct bundle_spec *spec)
{
	const struct hardening *h = spec->hardening;
	json_t *o = json_pack("{s:b, s:o, s:o, s:o, s:s, s:o, s:b}", "terminal", 0, "user",
			      user_json(spec->image), "args", args_json(spec), "env", env_json(spec), "cwd",
			      spec->image->cwd ? spec->image->cwd : "/", "capabilities",
			      capabilities_json(h->capabilities), "noNewPrivileges", h->no_new_privileges);
	if (o && h->apparmor)
		(void)json_object_set_new(o, "apparmorProfile", json_string(h->apparmor));
	return o;
}

int bundle_config(const struct bundle_spec *spec, char **ret, struct err *err)
{
	json_t *config =
		json_pack("{s:s, s:o, s:{s:s, s:b}, s:s, s:o, s:o}", "ociVersion", "1.0.2", "process",
			  process_json(spec), "root", "path", "rootfs", "readonly", 0, "hostname", "sandbox",
			  "mounts", mounts_json(spec->hardening->nested), "linux", linux_json(spec));
	/* crun takes the program as it is; whoever does not know this compiles the section. */
	if (config && spec->hardening->filter)
		(void)json_object_set_new(
			config, "annotations",
			json_pack("{s:s}", "run.oci.seccomp_bpf_data", spec->hardening->filter));
	char *text = config ? json_dumps(config, JSON_COMPACT) : NULL;

	json_decref(config);
	if (!text)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "write config.json");
	*ret = text;
	return 0;
}
