/*
 * adopt.c - takes over a container of an earlier life. Loop thread.
 *
 * It is not our child: a pidfd tells that it ended, and nobody knows how.
 */
#include <sys/epoll.h>

#include "sandboxd/oci/box.h"
#include "sandboxd/oci/handle.h"

static void on_pidfd(struct loop_io *io, uint32_t events)
{
	struct oci_box *b = container_of(io, struct oci_box, pid_io);

	(void)events;
	loop_io_del(&b->pid_io);
	fd_close(&b->pidfd);
	box_ended(b, false, 0);
}

int oci_adopt(struct runtime *rt, struct runtime_box *box, const char *handle)
{
	struct oci *oci = oci_of(rt);
	pid_t pid = 0;
	_cleanup_close_ int pidfd = handle_open(handle, &pid);
	if (pidfd < 0)
		return -ESRCH;

	struct oci_box *b = box_new(oci, box);
	if (!b)
		return -ENOMEM;
	int r = loop_io_add(oci->env.loop, &b->pid_io, pidfd, EPOLLIN, on_pidfd);
	if (r < 0) {
		box->priv = NULL;
		box_free(b);
		return r;
	}
	b->pidfd = TAKE_FD(pidfd);
	b->pid = pid;
	b->started = true;
	b->phase = OCI_RUNNING;
	logs_watch(&oci->logs, b);
	return 0;
}
