/*
 * privileges.c - probes. What is found is kept: neither changes while we run.
 */
#include "seccomp/privileges.h"

#include <ctype.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "seccomp/apply.h"
#include "seccomp/kernel.h"

#define CAP(name) (1ULL << (name))

const uint64_t CAPS_OF_CONTAINERS =
	CAP(CAP_CHOWN) | CAP(CAP_DAC_OVERRIDE) | CAP(CAP_FSETID) | CAP(CAP_FOWNER) | CAP(CAP_MKNOD) |
	CAP(CAP_NET_RAW) | CAP(CAP_SETGID) | CAP(CAP_SETUID) | CAP(CAP_SETFCAP) | CAP(CAP_SETPCAP) |
	CAP(CAP_NET_BIND_SERVICE) | CAP(CAP_SYS_CHROOT) | CAP(CAP_KILL) | CAP(CAP_AUDIT_WRITE);

uint64_t caps_held(void)
{
	uint64_t held = 0;
	cap_t caps = cap_get_proc();

	if (!caps)
		return 0;
	for (cap_value_t cap = 0; cap < 64; cap++) {
		cap_flag_value_t set = CAP_CLEAR;

		if (cap_get_flag(caps, cap, CAP_PERMITTED, &set) < 0)
			break;
		held |= set == CAP_SET ? CAP(cap) : 0;
	}
	(void)cap_free(caps);
	return held;
}

json_t *caps_describe(uint64_t caps)
{
	json_t *names = json_array();

	for (cap_value_t cap = 0; cap < 64; cap++) {
		char *name = caps & CAP(cap) ? cap_to_name(cap) : NULL;

		if (!name)
			continue;
		for (char *c = name; *c; c++)
			*c = (char)toupper((unsigned char)*c);
		(void)json_array_append_new(names, json_string(name));
		(void)cap_free(name);
	}
	return names;
}

bool filter_possible(void)
{
	uint32_t action = SECCOMP_RET_ERRNO;

	return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

bool listener_possible(void)
{
	static atomic_int known;
	uint32_t action = SECCOMP_RET_USER_NOTIF;

	if (atomic_load(&known) == 0)
		atomic_store(&known,
			     syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0 ? 1 : -1);
	return atomic_load(&known) > 0;
}

int landlock_version(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return version < 0 ? 0 : (int)version;
}

void landlock_rights(struct confine_plan *plan)
{
	int version = landlock_version();

	plan->landlock_fs = LANDLOCK_ALL_1 | (version >= 2 ? LANDLOCK_REFER : 0) |
			    (version >= 3 ? LANDLOCK_TRUNCATE : 0) | (version >= 5 ? LANDLOCK_IOCTL_DEV : 0);
	plan->landlock_read = LANDLOCK_READS;
	plan->landlock_write = plan->landlock_fs;
	if (version >= 6)
		plan->landlock_scope = LANDLOCK_SCOPE_ABSTRACT_SOCKETS | LANDLOCK_SCOPE_SIGNALS;
}
