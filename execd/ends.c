/*
 * ends.c - both ends of a shell's descriptors 0, 1 and 2: of a pseudoterminal, or of three pipes.
 *
 * Owns nothing beyond one start. The master of a terminal is open twice, as the
 * loop watches reading and writing apart.
 */
#include "execd/ends.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "lib/fs.h"
#include "lib/util.h"

void ends_done(struct ends *e)
{
	fd_close(&e->out);
	fd_close(&e->error);
	fd_close(&e->in);
	for (size_t i = 0; i < ARRAY_SIZE(e->child); i++)
		fd_close(&e->child[i]);
}

int ends_pipes(struct ends *e)
{
	int fds[2];
	int r = fs_pipe(fds, 0, 1);
	if (r < 0)
		return r;
	e->child[0] = fds[0];
	e->in = fds[1];
	r = fs_pipe(fds, 1, 0);
	if (r < 0)
		return r;
	e->out = fds[0];
	e->child[1] = fds[1];
	r = fs_pipe(fds, 1, 0);
	if (r < 0)
		return r;
	e->error = fds[0];
	e->child[2] = fds[1];
	return 0;
}

int ends_set_size(int fd, unsigned cols, unsigned rows)
{
	struct winsize size = {.ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows};
	return ioctl(fd, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

/* The terminal is its user's, so that it can be opened by its name as well. */
static int open_peer(struct ends *e, uid_t owner)
{
	struct termios t;
	int locked = 0;
	if (ioctl(e->out, TIOCSPTLCK, &locked) < 0)
		return -errno;
	e->child[0] = ioctl(e->out, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->child[0] < 0)
		return -errno;
	if (tcgetattr(e->child[0], &t) == 0) {
		t.c_iflag |= IUTF8;
		(void)tcsetattr(e->child[0], TCSANOW, &t);
	}
	if (owner != (uid_t)-1 && fchown(e->child[0], owner, (gid_t)-1) < 0)
		return -errno;
	for (size_t i = 1; i < ARRAY_SIZE(e->child); i++)
		if ((e->child[i] = fcntl(e->child[0], F_DUPFD_CLOEXEC, 3)) < 0)
			return -errno;
	return 0;
}

/* By ioctl and not by name: a container may see no /dev/pts, or another one. */
int ends_terminal(struct ends *e, unsigned cols, unsigned rows, uid_t owner)
{
	static const int flags = O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
	e->out = open("/dev/ptmx", flags);
	if (e->out < 0 && errno == ENOENT)
		e->out = open("/dev/pts/ptmx", flags);
	if (e->out < 0)
		return -errno;
	e->in = fcntl(e->out, F_DUPFD_CLOEXEC, 3);
	if (e->in < 0)
		return -errno;
	int r = ends_set_size(e->out, cols, rows);
	return r < 0 ? r : open_peer(e, owner);
}
