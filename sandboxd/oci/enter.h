/*
 * enter.h - the step between sandboxd and the OCI runtime, in a process of its own.
 *
 *   sandboxd oci-enter BUNDLE [--base DESCRIPTOR | --overlay TARGET=LOWER | --layers TARGET=LOWER | --join
 * FILE |
 *            --volume SOURCE=TARGET | --volume-ro SOURCE=TARGET |
 *            --bridge FILE | --unbridge FILE | --share network |
 *            --disk BYTES | --disk-of sandbox]... -- PROGRAM ARG...
 *
 * Makes a mount namespace that nobody else sees, joins the control groups whose
 * cgroup.procs are named, mounts the overlays into BUNDLE/rootfs and becomes
 * PROGRAM. So every mount of a sandbox dies with its last process, and none can
 * be left on the host. LOWER is as overlayfs takes it, relative to BUNDLE; the
 * upper layer of the Nth overlay is BUNDLE/upper.N, its work directory work.N;
 * --layers has none and is read-only. Volumes come last. --base opens a directory
 * that a LOWER behind it names as /proc/self/fd/ENTER_BASE_FD.
 * --disk, before the layers, puts the upper ones on a disk of that size (disk.h).
 * --bridge makes the network namespace and its interface first (network.h),
 * --unbridge gives back what that took, --share network leaves it the host's.
 *
 *   sandboxd oci-enter BUNDLE --check
 *
 * Tries namespaces and an overlay of BUNDLE/lower with BUNDLE/upper.0; says on
 * stderr what is missing and how to get it.
 */
#pragma once

#define OCI_ENTER     "oci-enter"
#define ENTER_BASE_FD 100 /* behind those that are handed on */

/* argv[0] is OCI_ENTER. Returns an exit code when it has not become PROGRAM. */
int oci_enter(int argc, char **argv);
