/*
 * hardening.h - what every container of this driver is kept from, read once at start.
 *
 * Capabilities: those that containers usually have, without AUDIT_WRITE and
 * MKNOD, NET_RAW only where the sandbox has a network of its own; less what
 * docker.drop_capabilities names. Nothing adds any: there is no device control
 * group here, so a container that can make device nodes would own the machine.
 *
 * System calls: a profile in the OCI seccomp JSON format, docker.seccomp_profile
 * or the one built in. With sandboxd.nested_isolation (the default) it also lets
 * the calls through by which an ordinary user makes namespaces: isolated sessions
 * inside need them, and a /proc that they may mount (bundle.c). The profile is compiled here; crun takes the
 * program as it is, which saves each start the time to compile it.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "sandboxd/config.h"

struct hardening {
	json_t *capabilities; /* array of "CAP_..." */
	bool no_new_privileges;
	bool nested;	      /* namespaces may be made within */
	json_t *seccomp;      /* linux.seccomp, or NULL: unconfined */
	char *filter;	      /* the same as a BPF program in base64 */
	const char *apparmor; /* borrowed from the settings; or NULL */
};

/* Blocks. own_network: nobody else is in the sandbox's network. */
int hardening_load(const struct config *config, bool own_network, struct hardening *ret, struct err *err);
void hardening_done(struct hardening *h);
