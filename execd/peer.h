/*
 * peer.h - a socket whose sender the system names.
 */
#pragma once

#include <sys/types.h>

/*
 * One recvmsg(2), without waiting, of a socket with SO_PASSCRED. *peer, while 0,
 * becomes the sender's process id as the system sees it. Descriptors that come
 * along are dropped. As read(2), but for EINTR.
 */
ssize_t peer_receive(int fd, void *to, size_t n, pid_t *peer);
