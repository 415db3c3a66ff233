/*
 * message.c - messages with descriptors. Owns nothing.
 */
#include "execd/isolated/message.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(MESSAGE_FDS_MAX * sizeof(int))];
};

int message_send(int socket, struct iovec *iov, size_t iov_n, const int *fds, size_t fds_n, int how)
{
	union control control = {};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = iov_n};
	if (fds_n > 0) {
		msg.msg_control = control.space;
		msg.msg_controllen = CMSG_SPACE(fds_n * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(fds_n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, fds_n * sizeof(int));
	}
	ssize_t r;
	do
		r = sendmsg(socket, &msg, MSG_NOSIGNAL | how);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

ssize_t message_receive(int socket, void *data, size_t size, int *fds, size_t *ret_fds_n, int how)
{
	union control control;
	struct iovec iov = {data, size};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.space,
			     .msg_controllen = sizeof(control.space)};
	ssize_t n;
	*ret_fds_n = 0;
	do
		n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC | how);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		*ret_fds_n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(c), *ret_fds_n * sizeof(int));
	}
	return n;
}
