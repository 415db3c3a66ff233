/*
 * link.h - network interfaces of the calling thread's network namespace, by rtnetlink(7).
 *
 * Each call has a socket of its own and returns when the kernel has done it; -errno.
 */
#pragma once

#include <stddef.h>

#define LINK_ALIAS_MAX 256 /* bytes of the text of an interface, with its NUL */

/* A bridge, with a text that says whose it is. -EEXIST: there is something of that name. */
int link_make_bridge(const char *name, const char *alias);
/* The text of an interface, "" without. -ENODEV. */
int link_alias(const char *name, char *ret, size_t size);
/* -ENODEV: it is not there. */
int link_delete(const char *name);
/* A port of a bridge that is to talk to the bridge alone, not to other such ports. */
int link_isolate(const char *name);
int link_loopback_up(void);
