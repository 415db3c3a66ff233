/*
 * hosted.c - processes in a room: a struct child each, with the room as its host.
 *
 * It is on its room's list from room_spawn() until it has ended, known by its
 * tag; the init says when it has started and ended. A signal that comes before
 * the start waits in the tag's highest bits.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "execd/isolated/room_priv.h"
#include "lib/fs.h"

#define TAG_BITS 56 /* of a tag; above: the signal that it gets at its start */
#define TAG_MASK (((uint64_t)1 << TAG_BITS) - 1)

static void hosted_forget(struct child *c)
{
	list_del(&c->link);
	fd_close(&c->pidfd);
	c->pid = 0;
	c->host = NULL;
}

/* It is the leader of its group, and alone in it when it starts. */
static int hosted_kill(struct child *c, int signo, bool group)
{
	(void)group;
	if (c->tag >> TAG_BITS != SIGKILL)
		c->tag = (c->tag & TAG_MASK) | (uint64_t)signo << TAG_BITS;
	return 0;
}

static const struct child_host host = {.forget = hosted_forget, .kill = hosted_kill};

void hosted_ended(struct child *c, int wstatus, const struct rusage *usage)
{
	hosted_forget(c);
	c->on_exit(c, wstatus, usage);
}

struct child *hosted_find(struct room *room, uint64_t tag)
{
	list_foreach_safe (node, &room->children) {
		struct child *c = list_entry(node, struct child, link);
		if ((c->tag & TAG_MASK) == tag)
			return c;
	}
	return NULL;
}

/* "Pid:\t123" of a pidfd is its number for whoever reads. 0: gone, or not to be found. */
static pid_t pid_of(int pidfd)
{
	char path[48], text[512];
	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	const char *p = strstr(text, "\nPid:");
	return p ? (pid_t)MAX(atoi(p + 5), 0) : 0;
}

/* The pidfd is the child's from here on. */
void hosted_started(struct room *room, uint64_t tag, int pidfd)
{
	struct child *c = hosted_find(room, tag);
	if (!c || pidfd < 0) {
		if (pidfd >= 0)
			(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
		fd_close(&pidfd);
		return;
	}
	fd_close(&c->pidfd); /* the init may say so twice */
	c->pidfd = pidfd;
	c->pid = pid_of(pidfd);
	if (c->tag >> TAG_BITS)
		(void)syscall(SYS_pidfd_send_signal, pidfd, (int)(c->tag >> TAG_BITS), NULL, 0);
	c->tag &= TAG_MASK;
}

static size_t envp_count(char *const *envp)
{
	size_t n = 0;
	while (envp && envp[n])
		n++;
	return n;
}

static int text_to_memfd(const struct buf *text)
{
	_cleanup_close_ int fd = memfd_create("spawn", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : fs_write_all(fd, text->data, text->len);
	return r < 0 ? r : TAKE_FD(fd);
}

int hosted_pack(const struct spawn *spec, struct wire_spawn *head, struct buf *text)
{
	head->new_session = spec->new_session;
	head->argc = (uint32_t)envp_count(spec->argv);
	head->envc = (uint32_t)envp_count(spec->envp);
	(void)buf_append(text, spec->path, strlen(spec->path) + 1);
	(void)buf_append(text, spec->cwd ? spec->cwd : "", spec->cwd ? strlen(spec->cwd) + 1 : 1);
	for (char *const *s = spec->argv; *s; s++)
		(void)buf_append(text, *s, strlen(*s) + 1);
	for (char *const *s = spec->envp; s && *s; s++)
		(void)buf_append(text, *s, strlen(*s) + 1);
	for (size_t i = 0; i < spec->fds_n; i++)
		head->fds[head->fds_n++] = spec->fds[i].child_fd;
	head->text_n = (uint32_t)text->len;
	return text->failed || text->len > UINT32_MAX ? -ENOMEM : 0;
}

int hosted_send(struct room *room, struct wire_spawn *head, const struct buf *text, const int *own)
{
	_cleanup_close_ int outside = -EBADF;
	struct iovec iov[] = {{head, sizeof(*head)}, {text->data, text->len}};
	int fds[MESSAGE_FDS_MAX];
	size_t fds_n = 0;
	head->outside = sizeof(*head) + text->len > WIRE_MAX;
	if (head->outside) {
		outside = text_to_memfd(text);
		if (outside < 0)
			return outside;
		fds[fds_n++] = outside;
	}
	for (size_t i = 0; i < head->fds_n; i++)
		fds[fds_n++] = own[i];
	return message_send(room->socket, iov, head->outside ? 1 : 2, fds, fds_n, MSG_DONTWAIT);
}

void hosted_add(struct room *room, struct child *c, uint64_t tag, child_exit_fn *on_exit)
{
	*c = (struct child){.on_exit = on_exit, .pidfd = -EBADF, .host = &host, .tag = tag};
	list_add_tail(&room->children, &c->link);
}

int hosted_take(struct child *c)
{
	int signo = (int)(c->tag >> TAG_BITS);
	hosted_forget(c);
	return signo;
}

int room_spawn(struct room *room, struct child *c, const struct spawn *spec, child_exit_fn *on_exit,
	       struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(SIZE_MAX / 4);
	struct wire_spawn head = {.tag = ++room->rooms->tags};
	int fds[ARRAY_SIZE(head.fds)] = {0};
	if (room->state == ROOM_ENDED || room->killed)
		return err_set(err, ERR_GONE, "RUNTIME_ERROR", ESRCH, "the isolated session has ended");
	for (size_t i = 0; i < spec->fds_n; i++)
		fds[i] = spec->fds[i].parent_fd;
	int r = hosted_pack(spec, &head, &text);
	if (r >= 0)
		r = hosted_send(room, &head, &text, fds);
	if (r == -EAGAIN)
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", EAGAIN,
			       "start '%s': the isolated session is too busy to take it", spec->path);
	/* It could not be made, and why is on its way: who waits for the child hears of that. */
	if (r == -EPIPE && room->state == ROOM_STARTING) {
		room->again = true; /* nor will it be */
		r = 0;
	}
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "start '%s' in the isolated session", spec->path);
	hosted_add(room, c, head.tag, on_exit);
	return 0;
}
