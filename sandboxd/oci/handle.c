/*
 * handle.c - pid, start time and boot: together they name one process for ever. No state.
 */
#include "sandboxd/oci/handle.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

static uint64_t process_start_time(pid_t pid)
{
	char path[48], text[1024];

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	char *p = strrchr(text, ')'); /* the name before may hold anything */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

static void boot_id(char out[40])
{
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, out, 36);
	out[MAX(n, (ssize_t)0)] = '\0';
}

void handle_write(pid_t pid, char out[RUNTIME_HANDLE_MAX])
{
	char boot[40];

	boot_id(boot);
	(void)snprintf(out, RUNTIME_HANDLE_MAX, "%d %" PRIu64 " %s", pid, process_start_time(pid), boot);
}

int handle_open(const char *handle, pid_t *ret_pid)
{
	char boot[40], then[40] = "";
	uint64_t start;
	int pid;

	boot_id(boot);
	if (sscanf(handle, "%d %" SCNu64 " %39s", &pid, &start, then) != 3 || strcmp(boot, then) != 0)
		return -ESRCH;
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return -errno;
	if (process_start_time(pid) != start) /* read after the open: the pidfd is this process */
		return -ESRCH;
	*ret_pid = pid;
	return TAKE_FD(pidfd);
}
