/*
 * names.c - names of system calls: libseccomp's tables, and what is newer than them.
 */
#include "seccomp/names.h"

#include <linux/audit.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stdbool.h>
#include "lib/util.h"

#define X32_BIT 0x40000000

/* Numbers from 403 on are the same on all architectures. Linux 6.5 to 6.17. */
static const struct {
	const char *name;
	int nr;
} newer[] = {
	{"cachestat", 451},	    {"fchmodat2", 452},	       {"map_shadow_stack", 453},
	{"futex_wake", 454},	    {"futex_wait", 455},       {"futex_requeue", 456},
	{"statmount", 457},	    {"listmount", 458},	       {"lsm_get_self_attr", 459},
	{"lsm_set_self_attr", 460}, {"lsm_list_modules", 461}, {"mseal", 462},
	{"setxattrat", 463},	    {"getxattrat", 464},       {"listxattrat", 465},
	{"removexattrat", 466},	    {"open_tree_attr", 467},   {"file_getattr", 468},
	{"file_setattr", 469},
};

uint32_t native_arch(void)
{
#if defined(__x86_64__)
	return AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
	return AUDIT_ARCH_AARCH64;
#elif defined(__riscv) && __riscv_xlen == 64
	return AUDIT_ARCH_RISCV64;
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
	return AUDIT_ARCH_PPC64LE;
#elif defined(__s390x__)
	return AUDIT_ARCH_S390X;
#else
	_Static_assert(0, "an architecture that nobody has tried");
	return 0;
#endif
}

static bool is_x32(uint32_t arch, int nr)
{
	return arch == AUDIT_ARCH_X86_64 && nr >= 0 && (nr & X32_BIT);
}

const char *arch_name(uint32_t arch, int nr)
{
	switch (arch) {
	case AUDIT_ARCH_X86_64:
		return is_x32(arch, nr) ? "x32" : "x86_64";
	case AUDIT_ARCH_I386:
		return "i386";
	case AUDIT_ARCH_AARCH64:
		return "aarch64";
	case AUDIT_ARCH_ARM:
		return "arm";
	case AUDIT_ARCH_RISCV64:
		return "riscv64";
	case AUDIT_ARCH_PPC64LE:
		return "ppc64le";
	case AUDIT_ARCH_S390X:
		return "s390x";
	default:
		return "unknown";
	}
}

static const char *newer_name(int nr)
{
	for (size_t i = 0; i < ARRAY_SIZE(newer); i++)
		if (newer[i].nr == nr)
			return newer[i].name;
	return NULL;
}

int newer_syscall(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(newer); i++)
		if (strcmp(newer[i].name, name) == 0)
			return newer[i].nr;
	return -1;
}

const char *syscall_name(uint32_t arch, int nr, char out[SYSCALL_NAME_MAX])
{
	/* libseccomp has one token for both kinds of calls of this processor. */
	uint32_t token = is_x32(arch, nr) ? SCMP_ARCH_X32 : arch;
	_cleanup_free_ char *known = nr < 0 ? NULL : seccomp_syscall_resolve_num_arch(token, nr);
	const char *name = known ? known : newer_name(is_x32(arch, nr) ? nr & ~X32_BIT : nr);

	if (name)
		(void)snprintf(out, SYSCALL_NAME_MAX, "%s", name);
	else
		(void)snprintf(out, SYSCALL_NAME_MAX, "syscall_%d", nr);
	return out;
}
