/*
 * names.h - system calls and architectures by name and number. Any thread.
 */
#pragma once

#include <stdint.h>

#define SYSCALL_NAME_MAX 48

/* Of this program's own architecture: AUDIT_ARCH_*. */
uint32_t native_arch(void);
/* "x86_64", "i386", "x32", "aarch64", ...; "unknown". The number tells x32 from x86_64. */
const char *arch_name(uint32_t arch, int nr);
/* Its name, or "syscall_N"; in out, which is returned. */
const char *syscall_name(uint32_t arch, int nr, char out[SYSCALL_NAME_MAX]);
/*
 * A call of this architecture that libseccomp does not know, being older than it:
 * its number, the same on all architectures; -1 when it is none of these.
 */
int newer_syscall(const char *name);
