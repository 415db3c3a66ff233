/*
 * peer.c - a socket whose sender the system names. Owns nothing.
 */
#include "execd/peer.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

ssize_t peer_receive(int fd, void *to, size_t n, pid_t *peer)
{
	/* No room for descriptors: the system closes them. */
	union {
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = to, .iov_len = n};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	ssize_t got;
	do
		got = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	const struct cmsghdr *c = got > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS && *peer == 0) {
		struct ucred from;
		memcpy(&from, CMSG_DATA(c), sizeof(from));
		*peer = from.pid;
	}
	return got;
}
