/*
 * ports.c - listening ports.
 *
 * Owns the one sampler: it exists while there is a watcher or its job runs.
 *
 *   WAITING (timer, destroy events) -> SAMPLING (worker) -> WAITING
 *
 * While SAMPLING the worker reads `now` and owns `next`.
 */
#include "execd/ports.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "lib/buf.h"
#include "lib/fs.h"
#include "lib/scan.h"

#define LISTEN_STATE 10 /* TCP_LISTEN; <netinet/tcp.h> and <linux/tcp.h> exclude each other */
#define REPLY_SIZE   65536
#define TABLE_MAX    (32U << 20) /* bytes of /proc/net/tcp that are read */
#define DESTROY_MS   5		 /* from the end of a socket to the sample: several end at once */

void port_list_done(struct port_list *l)
{
	free(l->v);
	*l = (struct port_list){0};
}

int port_compare(const struct port *a, const struct port *b)
{
	if (a->number != b->number)
		return a->number < b->number ? -1 : 1;
	if (a->family != b->family)
		return a->family < b->family ? -1 : 1;
	return strcmp(a->address, b->address);
}

static int compare(const void *a, const void *b)
{
	int r = port_compare(a, b);

	/* The oldest of several sockets of one port stands for it. */
	return r ? r : memcmp(&((const struct port *)a)->inode, &((const struct port *)b)->inode, 4);
}

/* Sorted, and one entry a port. */
static void tidy(struct port_list *l)
{
	size_t n = 0;

	if (l->n > 0)
		qsort(l->v, l->n, sizeof(*l->v), compare);
	for (size_t i = 0; i < l->n; i++)
		if (n == 0 || port_compare(&l->v[n - 1], &l->v[i]) != 0)
			l->v[n++] = l->v[i];
	l->n = n;
}

static struct port *port_add(struct port_list *l)
{
	return l->n < PORTS_MAX ? &l->v[l->n++] : NULL;
}

/* ---- sock_diag ------------------------------------------------------------------ */

static void take_diag(struct port_list *l, const struct inet_diag_msg *m)
{
	struct port *p = port_add(l);

	if (!p)
		return;
	*p = (struct port){
		.family = m->idiag_family,
		.number = ntohs(m->id.idiag_sport),
		.uid = m->idiag_uid,
		.inode = m->idiag_inode,
		.cookie = (uint64_t)m->id.idiag_cookie[1] << 32 | m->id.idiag_cookie[0],
	};
	(void)inet_ntop(m->idiag_family, m->id.idiag_src, p->address, sizeof(p->address));
}

/* 1: the dump is complete; 0: there is more; -errno. */
static int take_reply(struct port_list *l, const void *data, size_t n)
{
	for (const struct nlmsghdr *h = data; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
		if (h->nlmsg_type == NLMSG_DONE)
			return 1;
		if (h->nlmsg_type == NLMSG_ERROR) {
			const struct nlmsgerr *e = NLMSG_DATA(h);

			return h->nlmsg_len >= NLMSG_LENGTH(sizeof(*e)) && e->error < 0 ? e->error : -EPROTO;
		}
		if (h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
			take_diag(l, NLMSG_DATA(h));
	}
	return 0;
}

static int diag_family(int fd, struct port_list *l, sa_family_t family)
{
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 r;
	} request = {
		.h = {.nlmsg_len = sizeof(request),
		      .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		      .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.r = {.sdiag_family = (uint8_t)family,
		      .sdiag_protocol = IPPROTO_TCP,
		      .idiag_states = 1U << LISTEN_STATE},
	};
	_cleanup_free_ char *reply = malloc(REPLY_SIZE);
	int r = 0;

	if (!reply)
		return -ENOMEM;
	if (send(fd, &request, sizeof(request), 0) < 0)
		return -errno;
	while (r == 0) {
		/* The kernel answers a dump while it is asked: this does not wait. */
		ssize_t n = recv(fd, reply, REPLY_SIZE, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPROTO;
		r = take_reply(l, reply, (size_t)n);
	}
	return r < 0 ? r : 0;
}

static int read_diag(struct port_list *l)
{
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	int r;

	if (fd < 0)
		return -errno;
	r = diag_family(fd, l, AF_INET);
	if (r >= 0) {
		r = diag_family(fd, l, AF_INET6);
		/* A kernel without IPv6. */
		if (r == -ENOENT || r == -EINVAL)
			r = 0;
	}
	l->diag = r >= 0;
	return r;
}

/* ---- /proc/net/tcp ----------------------------------------------------------------- */

/* Addresses are words of the host's byte order, each as eight hexadecimal digits. */
static bool take_address(struct scan *s, sa_family_t family, char out[INET6_ADDRSTRLEN])
{
	uint32_t words[4] = {0};
	int n = family == AF_INET ? 1 : 4;

	for (int i = 0; i < n; i++)
		words[i] = (uint32_t)scan_digits(s, 16, 8);
	return scan_ok(s) && inet_ntop(family, words, out, INET6_ADDRSTRLEN) != NULL;
}

/* proc_net_tcp in the kernel's documentation: "sl: address:port remote state queues timer retransmits uid
 * timeout inode". */
static void take_line(struct port_list *l, const char *line, sa_family_t family)
{
	struct port p = {.family = family}, *to;
	struct scan s = SCAN(line);
	uint64_t state;

	scan_skip(&s, 1);
	scan_text(&s, " ");
	if (!take_address(&s, family, p.address))
		return;
	scan_text(&s, ":");
	p.number = (uint16_t)scan_digits(&s, 16, 4);
	scan_skip(&s, 1);
	state = scan_number(&s, 16, UINT8_MAX);
	scan_skip(&s, 3);
	p.uid = (uid_t)scan_number(&s, 10, UINT32_MAX);
	scan_skip(&s, 1);
	p.inode = (uint32_t)scan_number(&s, 10, UINT32_MAX);
	if (!scan_ok(&s) || state != LISTEN_STATE)
		return;
	to = port_add(l);
	if (to)
		*to = p;
}

static int read_table(struct port_list *l, const char *path, sa_family_t family)
{
	_cleanup_buf_ struct buf text = BUF_INIT(TABLE_MAX);
	char *line, *rest;
	int r = fs_read_file(AT_FDCWD, path, &text);

	if (r < 0)
		return r;
	if (!buf_cstr(&text))
		return -ENOMEM;
	for (line = strtok_r((char *)text.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		take_line(l, line, family);
	return 0;
}

static int read_tables(struct port_list *l)
{
	int r = read_table(l, "/proc/net/tcp", AF_INET);

	if (r >= 0)
		(void)read_table(l, "/proc/net/tcp6", AF_INET6); /* a kernel without IPv6 */
	return r;
}

/* ---- processes ----------------------------------------------------------------------- */

static void take_process(struct port_list *l, int proc, pid_t pid, uint32_t inode, size_t *missing)
{
	for (size_t i = 0; i < l->n; i++) {
		_cleanup_buf_ struct buf name = BUF_INIT(PORT_NAME_MAX - 1);
		struct port *p = &l->v[i];
		char path[32];

		if (p->inode != inode || p->pid != 0)
			continue;
		(void)snprintf(path, sizeof(path), "%d/comm", (int)pid);
		(void)fs_read_file(proc, path, &name);
		p->pid = pid;
		(void)snprintf(p->process, sizeof(p->process), "%.*s", (int)(name.len > 0 ? name.len - 1 : 0),
			       (const char *)name.data);
		(*missing)--;
	}
}

static void search_process(struct port_list *l, int proc, pid_t pid, size_t *missing)
{
	_cleanup_close_ int fd = -EBADF;
	const struct dirent *e;
	char path[32];
	DIR *dir;

	(void)snprintf(path, sizeof(path), "%d/fd", (int)pid);
	fd = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir)
		return;
	(void)TAKE_FD(fd);
	while (*missing > 0 && (e = readdir(dir))) {
		char link[64];
		ssize_t n = readlinkat(dirfd(dir), e->d_name, link, sizeof(link) - 1);
		struct scan s = SCAN(link);
		uint32_t inode;

		if (n <= 0)
			continue;
		link[n] = '\0';
		scan_text(&s, "socket:[");
		inode = (uint32_t)scan_number(&s, 10, UINT32_MAX);
		if (scan_ok(&s))
			take_process(l, proc, pid, inode, missing);
	}
	(void)closedir(dir);
}

/* /proc lists processes by their number: the first that has a socket is the lowest. */
static void find_processes(struct port_list *l, size_t missing)
{
	DIR *dir = opendir("/proc");
	const struct dirent *e;

	if (!dir)
		return;
	while (missing > 0 && (e = readdir(dir)))
		if (isdigit((unsigned char)e->d_name[0]))
			search_process(l, dirfd(dir), (pid_t)strtol(e->d_name, NULL, 10), &missing);
	(void)closedir(dir);
}

/* What is known of the same socket; how many are not known. */
static size_t take_known(struct port_list *l, const struct port_list *known)
{
	size_t missing = 0;

	for (size_t i = 0; i < l->n; i++) {
		struct port *p = &l->v[i];
		const struct port *k =
			known && known->n ? bsearch(p, known->v, known->n, sizeof(*p), compare) : NULL;

		if (k) {
			p->pid = k->pid;
			memcpy(p->process, k->process, sizeof(p->process));
		} else {
			missing++;
		}
	}
	return missing;
}

int ports_read(struct port_list *ret, const struct port_list *known, struct err *err)
{
	/* Not cleared: what is not used is never touched. */
	struct port_list l = {.v = malloc(PORTS_MAX * sizeof(*l.v))};
	size_t missing;
	int r;

	if (!l.v)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list the ports");
	r = read_diag(&l);
	if (r < 0) {
		l.n = 0;
		r = read_tables(&l);
	}
	if (r < 0) {
		port_list_done(&l);
		return err_sys(err, "RUNTIME_ERROR", -r,
			       "list the ports: neither sock_diag nor /proc/net/tcp");
	}
	tidy(&l);
	missing = take_known(&l, known);
	if (missing > 0)
		find_processes(&l, missing);
	*ret = l;
	return 0;
}

/* ---- the sampler ----------------------------------------------------------------------- */

struct sampler {
	struct loop *loop;
	struct pool *pool;
	struct list watchers;
	struct loop_timer timer;
	struct pool_job job;
	struct loop_io io; /* destroy events */
	int fd;
	struct port_list now, next;
	uint64_t fast_until_ms, interval_ms;
	bool have, sampling, again, ran;
	int result;
	struct err err;
};

static struct sampler *sampler; /* NULL: nobody watches */

static void sampler_free(struct sampler *s)
{
	loop_timer_del(&s->timer);
	loop_io_del(&s->io);
	fd_close(&s->fd);
	port_list_done(&s->now);
	port_list_done(&s->next);
	if (sampler == s)
		sampler = NULL;
	free(s);
}

static void sample_run(struct pool_job *job)
{
	struct sampler *s = container_of(job, struct sampler, job);

	s->result = ports_read(&s->next, s->have ? &s->now : NULL, &s->err);
	s->ran = true;
}

static void sample_due(struct loop_timer *timer);
static void sample_done(struct pool_job *job);

static void arm(struct sampler *s, uint64_t ms)
{
	(void)loop_timer_set(s->loop, &s->timer, loop_now_ms(s->loop) + ms, sample_due);
}

static int sample(struct sampler *s)
{
	int r;

	s->job = (struct pool_job){.run = sample_run, .done = sample_done};
	s->ran = false;
	s->again = false;
	r = pool_submit(s->pool, &s->job);
	if (r == 0)
		s->sampling = true;
	return r;
}

static void sample_due(struct loop_timer *timer)
{
	struct sampler *s = container_of(timer, struct sampler, timer);

	if (sample(s) < 0) /* many other jobs wait */
		arm(s, PORTS_SLOW_MS);
}

static bool same(const struct port_list *a, const struct port_list *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (port_compare(&a->v[i], &b->v[i]) != 0)
			return false;
	return true;
}

/* Fast while something happens, then slower and slower. */
static void pace(struct sampler *s, bool changed)
{
	uint64_t now_ms = loop_now_ms(s->loop);

	if (changed)
		s->fast_until_ms = now_ms + PORTS_FAST_FOR_MS;
	s->interval_ms = now_ms < s->fast_until_ms
				 ? PORTS_FAST_MS
				 : MIN(s->interval_ms + PORTS_FAST_MS, (uint64_t)PORTS_SLOW_MS);
	arm(s, s->again ? DESTROY_MS : s->interval_ms);
}

static void tell(struct sampler *s, bool changed)
{
	list_foreach_safe (at, &s->watchers) {
		struct port_watch *w = list_entry(at, struct port_watch, link);
		bool begun = w->begun;

		w->begun = true;
		if (!begun)
			w->changed(w, NULL, &s->next);
		else if (changed)
			w->changed(w, &s->now, &s->next);
	}
}

static void tell_failed(struct sampler *s)
{
	list_foreach_safe (at, &s->watchers) {
		struct port_watch *w = list_entry(at, struct port_watch, link);

		if (!w->begun)
			w->failed(w, &s->err);
	}
}

static void sample_done(struct pool_job *job)
{
	struct sampler *s = container_of(job, struct sampler, job);
	bool changed = false;

	if (!s->ran)
		s->result = err_set(&s->err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED,
				    "the agent is stopping");
	/* Still `sampling`: who leaves now does not free it. */
	if (s->result < 0) {
		tell_failed(s);
	} else {
		changed = s->have && !same(&s->now, &s->next);
		tell(s, changed);
		port_list_done(&s->now);
		s->now = s->next;
		s->next = (struct port_list){0};
		s->have = true;
	}
	s->sampling = false;
	if (list_empty(&s->watchers))
		sampler_free(s);
	else
		pace(s, changed);
}

/* ---- the end of a socket ----------------------------------------------------------------- */

static bool is_known(const struct sampler *s, const struct inet_diag_msg *m)
{
	uint64_t cookie = (uint64_t)m->id.idiag_cookie[1] << 32 | m->id.idiag_cookie[0];

	for (size_t i = 0; i < s->now.n; i++)
		if (s->now.v[i].cookie == cookie)
			return true;
	return false;
}

/* Connections end all the time; only the end of a listener we know of is a reason to look. */
static void on_destroyed(struct loop_io *io, uint32_t events)
{
	struct sampler *s = container_of(io, struct sampler, io);
	_Alignas(struct nlmsghdr) char data[8192];
	ssize_t got = recv(s->fd, data, sizeof(data), MSG_DONTWAIT);
	size_t n = got > 0 ? (size_t)got : 0;
	bool ours = got < 0 && errno == ENOBUFS;

	(void)events;
	for (const struct nlmsghdr *h = (const struct nlmsghdr *)data; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n))
		if (h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct inet_diag_msg)) && is_known(s, NLMSG_DATA(h)))
			ours = true;
	if (!ours)
		return;
	if (s->sampling)
		s->again = true;
	else
		arm(s, DESTROY_MS);
}

static void listen_for_ends(struct sampler *s)
{
	static const unsigned groups[] = {SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);

	if (fd < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		(void)setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &groups[i], sizeof(groups[i]));
	s->fd = fd;
	if (loop_io_add(s->loop, &s->io, fd, EPOLLIN, on_destroyed) < 0)
		fd_close(&s->fd);
}

int port_watch_add(struct loop *loop, struct pool *pool, struct port_watch *w, struct err *err)
{
	struct sampler *s = sampler;
	int r;

	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "watch ports");
		s->loop = loop;
		s->pool = pool;
		s->fd = s->io.fd = -EBADF;
		list_init(&s->watchers);
		listen_for_ends(s);
		sampler = s;
	}
	s->fast_until_ms = loop_now_ms(loop) + PORTS_FAST_FOR_MS;
	s->interval_ms = PORTS_FAST_MS;
	loop_timer_del(&s->timer);
	r = s->sampling ? 0 : sample(s);
	if (r < 0) {
		if (list_empty(&s->watchers))
			sampler_free(s);
		else
			arm(s, PORTS_FAST_MS);
		return err_sys(err, "RUNTIME_ERROR", -r, "watch ports");
	}
	list_add_tail(&s->watchers, &w->link);
	return 0;
}

void port_watch_del(struct port_watch *w)
{
	list_del(&w->link);
	if (sampler && list_empty(&sampler->watchers) && !sampler->sampling)
		sampler_free(sampler);
}
