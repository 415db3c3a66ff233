/*
 * message.h - messages with descriptors over SOCK_SEQPACKET, on both sides of the wall.
 *
 * how: MSG_DONTWAIT (-EAGAIN instead of waiting: always on the loop) or 0.
 */
#pragma once

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#define MESSAGE_FDS_MAX 24

/* Whole or not at all. */
int message_send(int socket, struct iovec *iov, size_t iov_n, const int *fds, size_t fds_n, int how);
/*
 * Bytes of the message, 0 at the end, -errno. fds: MESSAGE_FDS_MAX, close-on-exec; what is more is closed by
 * the kernel.
 */
ssize_t message_receive(int socket, void *data, size_t size, int *fds, size_t *ret_fds_n, int how);
