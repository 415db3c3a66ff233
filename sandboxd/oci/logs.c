/*
 * logs.c - watches the logs by inotify, and cuts them in the pool. Loop thread, except run_cut().
 */
#include "sandboxd/oci/logs.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "lib/log.h"
#include "sandboxd/oci/box.h"

#define BLOCK	    4096
#define EVENTS_SIZE 4096
#define SLACK	    8 /* a log grows by one part in so many over its limit before it is cut */

struct cut {
	struct pool_job job;
	struct logs *all;
	int watch, fd;
	off_t end;
	int result;
};

static void run_cut(struct pool_job *job)
{
	struct cut *x = container_of(job, struct cut, job);
	x->result = fallocate(x->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, x->end) < 0 ? -errno : 0;
}

static struct oci_box *find_box(struct logs *all, int watch)
{
	list_foreach_safe (l, &all->oci->boxes) {
		struct oci_box *b = list_entry(l, struct oci_box, link);
		if (b->log_watch == watch)
			return b;
	}
	return NULL;
}

static void check(struct logs *all, struct oci_box *b);

static void on_cut(struct pool_job *job)
{
	struct cut *x = container_of(job, struct cut, job);

	(void)close(x->fd);
	if (!pool_stopping(job->pool)) {
		struct oci_box *b = find_box(x->all, x->watch);
		if (b)
			b->log_busy = false;
		if (b && x->result < 0) {
			log_warn("sandbox %s: its log cannot be cut and grows: %s", b->box->id,
				 strerror(-x->result));
			logs_unwatch(x->all, b);
		} else if (b) {
			check(x->all, b); /* what came meanwhile was not looked at */
		}
	}
	free(x);
}

static void check(struct logs *all, struct oci_box *b)
{
	const off_t max = (off_t)all->oci->config->container_log_max_kb << 10;
	char path[PATH_MAX + 16];
	struct stat st;

	if (b->log_busy)
		return;
	(void)snprintf(path, sizeof(path), "%s/container.log", b->dir);
	if (stat(path, &st) < 0 || (off_t)st.st_blocks * 512 <= max + max / SLACK || st.st_size <= max)
		return;
	struct cut *x = calloc(1, sizeof(*x));
	int fd = x ? open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
	if (fd < 0) {
		free(x);
		return;
	}
	*x = (struct cut){.job = {.run = run_cut, .done = on_cut},
			  .all = all,
			  .watch = b->log_watch,
			  .fd = fd,
			  .end = (st.st_size - max) / BLOCK * BLOCK};
	b->log_busy = pool_submit(all->oci->env.pool, &x->job) == 0;
	if (!b->log_busy) { /* the next line brings us here again */
		(void)close(fd);
		free(x);
	}
}

static void on_events(struct loop_io *io, uint32_t events)
{
	struct logs *all = container_of(io, struct logs, io);
	char data[EVENTS_SIZE] __attribute__((aligned(__alignof__(struct inotify_event))));

	(void)events;
	ssize_t n = read(io->fd, data, sizeof(data));
	for (ssize_t at = 0; at < n;) {
		const struct inotify_event *e = (const struct inotify_event *)(data + at);
		struct oci_box *b = find_box(all, e->wd);
		if (b && e->mask & IN_IGNORED)
			b->log_watch = -1;
		else if (b)
			check(all, b);
		at += (ssize_t)sizeof(*e) + (ssize_t)e->len;
	}
}

void logs_init(struct logs *all, struct oci *oci)
{
	*all = (struct logs){.oci = oci, .io.fd = -EBADF};
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fd < 0 || loop_io_add(oci->env.loop, &all->io, fd, EPOLLIN, on_events) < 0) {
		log_warn("logs of sandboxes are not bounded: %s", strerror(errno));
		fd_close(&fd);
	}
}

void logs_done(struct logs *all)
{
	int fd = all->io.fd;

	loop_io_del(&all->io);
	fd_close(&fd);
}

void logs_watch(struct logs *all, struct oci_box *b)
{
	char path[PATH_MAX + 16];

	if (all->io.fd < 0)
		return;
	(void)snprintf(path, sizeof(path), "%s/container.log", b->dir);
	b->log_watch = inotify_add_watch(all->io.fd, path, IN_MODIFY);
	if (b->log_watch < 0)
		log_warn("sandbox %s: its log is not bounded: %s", b->box->id, strerror(errno));
	else
		check(all, b);
}

void logs_unwatch(struct logs *all, struct oci_box *b)
{
	if (b->log_watch >= 0)
		(void)inotify_rm_watch(all->io.fd, b->log_watch);
	b->log_watch = -1;
}
