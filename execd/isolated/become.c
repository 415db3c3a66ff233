/*
 * become.c - a process of the wall's other side becomes what the room is: its ids, and no privilege.
 *
 * Owns nothing. It is also a part of what the warm Python loads (kernels/python/native.c), so it draws on
 * nothing but the C library.
 */
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "execd/isolated/warden.h"
#include "lib/util.h"

#define CAPABILITIES_N 64 /* more than there are */

int warden_limit(const struct wire_plan *head)
{
	for (size_t i = 0; i < MIN((size_t)head->rlimits_n, ARRAY_SIZE(head->rlimits)); i++) {
		const struct rlimit r = {head->rlimits[i].soft, head->rlimits[i].hard};
		if (setrlimit((__rlimit_resource_t)head->rlimits[i].resource, &r) < 0)
			return -errno;
	}
	return 0;
}

static int set_ids(const struct wire_plan *head)
{
	gid_t groups[ARRAY_SIZE(head->groups)];
	size_t n = MIN((size_t)head->groups_n, ARRAY_SIZE(groups));
	for (size_t i = 0; i < n; i++)
		groups[i] = head->groups[i];
	/* With one id mapped there is no setgroups(), and no other id to become. */
	if (head->userns != WIRE_USERNS_ONE && setgroups(n, groups) < 0)
		return -errno;
	if (setresgid(head->gid, head->gid, head->gid) < 0 || setresuid(head->uid, head->uid, head->uid) < 0)
		return -errno;
	return 0;
}

/* Before the ids: it takes a capability to give the others up. */
static int drop_bounding(void)
{
	for (int cap = 0; cap < CAPABILITIES_N; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return errno == EINVAL && cap > 0 ? 0 : -errno;
	return 0;
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {};
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

/* No core: a handler of the machine's would be run outside for it. 1 is refused by both kinds of pattern. */
static void harden(void)
{
	const struct rlimit core = {1, 1};
	(void)setrlimit(RLIMIT_CORE, &core);
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

int warden_become(const struct wire_plan *head, enum wire_stage *ret_stage)
{
	*ret_stage = WIRE_STAGE_CAPABILITIES;
	int r = drop_bounding();
	if (r < 0)
		return r;
	*ret_stage = WIRE_STAGE_IDS;
	r = set_ids(head);
	if (r < 0)
		return r;
	*ret_stage = WIRE_STAGE_CAPABILITIES;
	r = drop_capabilities();
	if (r < 0)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	harden();
	return 0;
}
