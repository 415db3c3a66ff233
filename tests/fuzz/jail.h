/*
 * jail.h - a place where a fuzz target may do what its input says: a root without programs, in namespaces for
 * mounts and network of its own, with files of nobody's. Needs root; elsewhere the target does nothing and
 * says so.
 */
#pragma once

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fs.h"
#include "tests/fuzz/fuzz.h"

#define JAIL_NOBODY 65534

/* The leak checker reads /proc when all is over; until then there is none, for the input to find. */
static void jail_open_proc(void)
{
	(void)setfsuid(0);
	(void)mkdir("/proc", 0755);
	(void)mount("proc", "/proc", "proc", 0, NULL);
}

/* libFuzzer finds its folders under their names: this one is mounted where it was. */
static inline bool jail_enter(void)
{
	char root[] = "/tmp/fuzz-jail-XXXXXX", here[PATH_MAX], there[PATH_MAX * 2];

	if (unshare(CLONE_NEWNS | CLONE_NEWNET) < 0)
		return false;
	must(getcwd(here, sizeof(here)) && mkdtemp(root));
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	must(mount("tmpfs", root, "tmpfs", 0, "size=64m,mode=0755") == 0);
	(void)snprintf(there, sizeof(there), "%s%s", root, here);
	must(fs_mkdir_p(there, 0755) == 0 && mount(here, there, NULL, MS_BIND, NULL) == 0);
	must(chroot(root) == 0 && chdir(here) == 0);
	must(mkdir("/dev", 0755) == 0 && fs_write_file(AT_FDCWD, "/dev/null", "", 0, 0666) == 0);
	must(mkdir("/tmp", 01777) == 0 || errno == EEXIST);
	must(chmod("/tmp", 01777) == 0);
	must(mkdir("/w", 0777) == 0 && chmod("/w", 0777) == 0);
	(void)atexit(jail_open_proc);
	return true;
}

#ifdef __x86_64__
/* A program that writes what it reads, until there is no more. */
static const uint8_t jail_code[] = {
	0x7f, 'E',  'L',  'F',	2,    1,    1,	  0,	0,    0,    0,	  0,	0,    0,
	0,    0, /* */
	2,    0,    62,	  0,	1,    0,    0,	  0,	0x78, 0x00, 0x40, 0,	0,    0,
	0,    0, /* entry */
	64,   0,    0,	  0,	0,    0,    0,	  0,	0,    0,    0,	  0,	0,    0,
	0,    0, /* program headers */
	0,    0,    0,	  0,	64,   0,    56,	  0,	1,    0,    0,	  0,	0,    0,
	0,    0, /* */
	1,    0,    0,	  0,	5,    0,    0,	  0,	0,    0,    0,	  0,	0,    0,
	0,    0, /* load, r-x */
	0,    0,    0x40, 0,	0,    0,    0,	  0,	0,    0,    0x40, 0,	0,    0,
	0,    0, /* */
	0xaa, 0,    0,	  0,	0,    0,    0,	  0,	0xaa, 0,    0,	  0,	0,    0,
	0,    0,				     /* */
	0,    0x10, 0,	  0,	0,    0,    0,	  0, /* */
	0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00,    /* sub rsp, 4096 */
	0x31, 0xc0, 0x31, 0xff, 0x48, 0x89, 0xe6, 0xba, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x05, /* read */
	0x85, 0xc0, 0x7e, 0x10,								    /* or exit */
	0x89, 0xc2, 0xb8, 0x01, 0x00, 0x00, 0x00, 0xbf, 0x01, 0x00, 0x00, 0x00, 0x0f, 0x05, /* write */
	0xeb, 0xde,									    /* again */
	0xb8, 0x3c, 0x00, 0x00, 0x00, 0x31, 0xff, 0x0f, 0x05,				    /* exit */
};
#else
static const uint8_t jail_code[1]; /* no program: what does not start is what is left to look at */
#endif

/* The one program that there is then. */
static inline void jail_program(const char *path)
{
	must(mkdir("/bin", 0755) == 0 || errno == EEXIST);
	must(fs_write_file(AT_FDCWD, path, jail_code, sizeof(jail_code), 0755) == 0);
}

/* Once, before anything else. */
static inline bool jail(void)
{
	static int state;

	if (state == 0) {
		state = jail_enter() ? 1 : -1;
		if (state < 0)
			(void)fprintf(stderr, "SKIP: this target makes namespaces, and may not here\n");
	}
	return state > 0;
}

/* What the input reaches in between is nobody's; this thread's, and that of those it starts. */
static inline void jail_begin(void)
{
	(void)setfsuid(JAIL_NOBODY);
}

static inline void jail_end(void)
{
	(void)setfsuid(0);
}

/* libFuzzer's own: leaks cannot be looked for without /proc before the end. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static char flag[] = "-detect_leaks=0";
	char **more = calloc((size_t)*argc + 2, sizeof(*more));

	must(more);
	memcpy(more, *argv, (size_t)*argc * sizeof(*more));
	more[(*argc)++] = flag;
	*argv = more;
	return 0;
}
