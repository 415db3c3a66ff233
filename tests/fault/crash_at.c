/*
 * crash_at.c - kills the program it is loaded into (LD_PRELOAD) at an exact point.
 *
 * CRASH_AT_FILE names a file of one int32_t, mapped shared. While it is 0 nothing
 * happens; the test writes N, and the Nth of these points is the end of the process:
 * before and after each step of a database statement, each change of a directory,
 * each child; with CRASH_AT_SENDS also whatever is sent to a socket.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct sqlite3_stmt;

static _Atomic int32_t *left;
static bool sends;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("CRASH_AT_FILE");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

	sends = getenv("CRASH_AT_SENDS");
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*left), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (fd >= 0)
		(void)close(fd);
	if (p != MAP_FAILED)
		left = p;
}

static void point(void)
{
	if (left && atomic_load(left) > 0 && atomic_fetch_sub(left, 1) == 1)
		(void)kill(getpid(), SIGKILL);
}

/* The function that we stand before, looked up once. */
#define REAL(name)                                                                                           \
	({                                                                                                   \
		static __typeof__(&name) real;                                                               \
		if (!real)                                                                                   \
			real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                   \
		real;                                                                                        \
	})

#define AROUND(call)                                                                                         \
	({                                                                                                   \
		point();                                                                                     \
		int around_result = (call);                                                                  \
		point();                                                                                     \
		around_result;                                                                               \
	})

int sqlite3_step(struct sqlite3_stmt *st);
int sqlite3_step(struct sqlite3_stmt *st)
{
	return AROUND(REAL(sqlite3_step)(st));
}

int mkdir(const char *path, mode_t mode)
{
	return AROUND(REAL(mkdir)(path, mode));
}

int mkdirat(int dir, const char *path, mode_t mode)
{
	return AROUND(REAL(mkdirat)(dir, path, mode));
}

int symlinkat(const char *target, int dir, const char *path)
{
	return AROUND(REAL(symlinkat)(target, dir, path));
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	return sends ? AROUND(REAL(linkat)(from_dir, from, to_dir, to, flags))
		     : REAL(linkat)(from_dir, from, to_dir, to, flags);
}

ssize_t send(int fd, const void *text, size_t n, int flags)
{
	if (sends)
		point();
	ssize_t r = REAL(send)(fd, text, n, flags);
	if (sends)
		point();
	return r;
}

int rename(const char *from, const char *to)
{
	return AROUND(REAL(rename)(from, to));
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	return AROUND(REAL(renameat)(from_dir, from, to_dir, to));
}

int rmdir(const char *path)
{
	return AROUND(REAL(rmdir)(path));
}

int unlinkat(int dir, const char *path, int flags)
{
	return AROUND(REAL(unlinkat)(dir, path, flags));
}

int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	va_list more;

	va_start(more, arg);
	void *a = va_arg(more, void *), *b = va_arg(more, void *), *c = va_arg(more, void *);
	va_end(more);
	return AROUND(REAL(clone)(fn, stack, flags, arg, a, b, c));
}
