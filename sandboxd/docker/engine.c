/*
 * engine.c - owns the connections to the Docker daemon and the calls on them.
 *
 * libcurl's multi interface does the HTTP; its sockets and its one timer are
 * ours (the loop's). libcurl forbids calls from within its callbacks, so these
 * only collect: what came is handed on by settle(), after each of its turns.
 */
#include "sandboxd/docker/engine.h"

#include <ctype.h>
#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/log.h"

#define CONNECT_TIMEOUT_MS 10000
#define VERSION_KNOWN	   "1.47" /* the newest that was looked at */

struct engine {
	struct loop *loop;
	CURLM *multi;
	struct loop_timer timer;
	struct list calls;
	struct list fresh; /* calls with something to hand on */
	unsigned timeout_s;
	char address[256];
	char socket_path[200]; /* or "" */
	char base[280];	       /* "http://host:port" */
	char *ca, *cert, *key; /* files, or NULL: no TLS */
	char version[ENGINE_VERSION_MAX];
};

struct engine_call {
	struct list link, fresh;
	struct engine *engine;
	CURL *easy;
	struct curl_slist *headers;
	const char *what;
	void (*opened)(void *arg);
	void (*data)(void *arg, struct buf *in);
	void (*done)(void *arg, const struct engine_answer *a);
	void *arg;
	struct buf in;
	size_t head_n;
	char version[ENGINE_VERSION_MAX];
	const char *overflow; /* which limit was passed, or NULL */
	int fd;		      /* its connection, libcurl's own */
	const char *out;      /* of engine_send(), what is left of it; NULL: not yet */
	size_t out_n;
	void (*sent)(void *arg); /* NULL: it was told */
	bool opened_due, sent_due, busy, dead;
};

/* ---- sockets and the timer of libcurl --------------------------------------- */

struct watch {
	struct loop_io io;
	struct loop_defer free_soon;
	struct engine *engine;
};

static void settle(struct engine *e);

static void watch_free(struct loop_defer *d)
{
	free(container_of(d, struct watch, free_soon));
}

static void on_socket(struct loop_io *io, uint32_t events)
{
	struct watch *w = container_of(io, struct watch, io);
	struct engine *e = w->engine;
	int running, bits = 0;

	if (events & EPOLLIN)
		bits |= CURL_CSELECT_IN;
	if (events & EPOLLOUT)
		bits |= CURL_CSELECT_OUT;
	if (events & (EPOLLERR | EPOLLHUP))
		bits |= CURL_CSELECT_ERR | CURL_CSELECT_IN;
	(void)curl_multi_socket_action(e->multi, io->fd, bits, &running);
	settle(e);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *watch)
{
	struct engine *e = arg;
	struct watch *w = watch;
	struct engine_call *c = NULL;
	uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);

	(void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&c);
	if (c)
		c->fd = what == CURL_POLL_REMOVE ? -EBADF : fd;
	if (what == CURL_POLL_REMOVE) {
		if (!w)
			return 0;
		loop_io_del(&w->io);
		(void)curl_multi_assign(e->multi, fd, NULL);
		loop_defer(e->loop, &w->free_soon, watch_free);
		return 0;
	}
	if (w)
		return loop_io_set(&w->io, events) < 0 ? -1 : 0;
	w = calloc(1, sizeof(*w));
	if (!w || loop_io_add(e->loop, &w->io, fd, events, on_socket) < 0) {
		free(w);
		return -1;
	}
	w->engine = e;
	(void)curl_multi_assign(e->multi, fd, w);
	return 0;
}

static void on_timer(struct loop_timer *t)
{
	struct engine *e = container_of(t, struct engine, timer);
	int running;

	(void)curl_multi_socket_action(e->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	settle(e);
}

static int set_timer(CURLM *multi, long timeout_ms, void *arg)
{
	struct engine *e = arg;

	(void)multi;
	if (timeout_ms < 0) {
		loop_timer_del(&e->timer);
		return 0;
	}
	return loop_timer_set(e->loop, &e->timer, loop_now_ms(e->loop) + (uint64_t)timeout_ms, on_timer) < 0
		       ? -1
		       : 0;
}

/* ---- what comes ----------------------------------------------------------------- */

static void mark_fresh(struct engine_call *c)
{
	if (list_empty(&c->fresh))
		list_add_tail(&c->engine->fresh, &c->fresh);
}

static long status_of(const struct engine_call *c)
{
	long status = 0;
	(void)curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

static bool is_good(long status)
{
	return status >= 200 && status < 300;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct engine_call *c = arg;

	n *= size;
	if (buf_append(&c->in, data, n) < 0) {
		c->overflow = "its answer is too large";
		return 0;
	}
	mark_fresh(c);
	return n;
}

static size_t on_head(char *line, size_t size, size_t n, void *arg)
{
	static const char name[] = "api-version:";
	struct engine_call *c = arg;

	n *= size;
	c->head_n += n;
	if (c->head_n > ENGINE_HEAD_MAX) {
		c->overflow = "the head of its answer is too large";
		return 0;
	}
	if (n > strlen(name) && strncasecmp(line, name, strlen(name)) == 0) {
		const char *value = line + strlen(name);
		size_t left = n - strlen(name);
		while (left > 0 && isspace((unsigned char)*value))
			value++, left--;
		while (left > 0 && isspace((unsigned char)value[left - 1]))
			left--;
		(void)snprintf(c->version, sizeof(c->version), "%.*s", (int)left, value);
	}
	if (n <= 2 && is_good(status_of(c))) { /* the empty line; of a 1xx it is not the last */
		c->opened_due = true;
		mark_fresh(c);
	}
	return n;
}

/* ---- what is sent into a call that is under way ----------------------------------------- */

/* It is asked for more when what it was given before has been written. */
static size_t on_input(char *to, size_t size, size_t n, void *arg)
{
	struct engine_call *c = arg;

	if (c->out_n > 0) {
		n = MIN(size * n, c->out_n);
		memcpy(to, c->out, n);
		c->out += n;
		c->out_n -= n;
		return n;
	}
	if (c->out && c->sent) {
		c->sent_due = true;
		mark_fresh(c);
	}
	return CURL_READFUNC_PAUSE;
}

/* Past libcurl, which has nothing of its own to send there before it is given something. */
static ssize_t send_now(const struct engine_call *c, const void *text, size_t n)
{
	if (c->engine->ca || c->fd < 0)
		return 0;
	ssize_t sent = send(c->fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return sent;
}

int engine_send(struct engine_call *c, const void *text, size_t n, void (*sent)(void *arg))
{
	ssize_t r = send_now(c, text, n);
	if (r < 0)
		return (int)r;
	if ((size_t)r == n)
		return 1;
	c->out = (const char *)text + r;
	c->out_n = n - (size_t)r;
	c->sent = sent;
	(void)curl_easy_pause(c->easy, CURLPAUSE_CONT);
	return 0;
}

/* ---- calls ---------------------------------------------------------------------------- */

static void call_free(struct engine_call *c)
{
	list_del(&c->link);
	list_del(&c->fresh);
	if (c->easy) {
		(void)curl_multi_remove_handle(c->engine->multi, c->easy);
		curl_easy_cleanup(c->easy);
		c->easy = NULL;
	}
	curl_slist_free_all(c->headers);
	c->headers = NULL;
	buf_done(&c->in);
	if (!c->busy)
		free(c);
	else
		c->dead = true; /* it stands in a callback of its own */
}

void engine_cancel(struct engine_call **call)
{
	if (*call)
		call_free(*call);
	*call = NULL;
}

static enum err_kind kind_of(long status)
{
	switch (status) {
	case 400:
		return ERR_INVALID;
	case 401:
	case 403:
		return ERR_FORBIDDEN;
	case 404:
		return ERR_NOT_FOUND;
	case 409:
		return ERR_CONFLICT;
	case 503:
		return ERR_UNAVAILABLE;
	}
	return ERR_BAD_GATEWAY;
}

/* What the daemon says of a failure: {"message": "..."}. */
static void refused(const struct engine_call *c, long status, struct err *err)
{
	json_t *o = json_loadb((const char *)c->in.data, c->in.len, 0, NULL);
	const char *message = json_string_value(json_object_get(o, "message"));
	char text[384];

	(void)snprintf(text, sizeof(text), "%s", message && *message ? message : "it does not say why");
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	(void)err_set(err, kind_of(status), ENGINE_CODE, EREMOTEIO, "%s: %s (status %ld)", c->what, text,
		      status);
	json_decref(o);
}

static void broken(const struct engine_call *c, CURLcode code, struct err *err)
{
	enum err_kind kind = ERR_UNAVAILABLE;
	int errnum = ECONNREFUSED;

	if (c->overflow)
		kind = ERR_BAD_GATEWAY;
	else if (code == CURLE_OPERATION_TIMEDOUT)
		errnum = ETIMEDOUT;
	(void)err_set(err, kind, "SANDBOX::UNAVAILABLE", errnum, "%s: the Docker daemon at %s %s%s%s",
		      c->what, c->engine->address,
		      c->overflow ? "cannot be understood: " : "does not answer: ",
		      c->overflow ? c->overflow : curl_easy_strerror(code), "");
}

static void finish(struct engine_call *c, CURLcode code)
{
	struct engine_answer a = {.status = status_of(c), .body = &c->in};
	struct err err;

	memcpy(a.version, c->version, sizeof(a.version));
	if (code != CURLE_OK) {
		a.status = 0;
		a.err = &err;
		broken(c, code, &err);
	} else if (!is_good(a.status)) {
		a.err = &err;
		refused(c, a.status, &err);
	}
	c->busy = true;
	c->done(c->arg, &a);
	c->busy = false;
	if (!c->dead)
		call_free(c);
	else
		free(c);
}

static void hand_on(struct engine_call *c)
{
	c->busy = true;
	if (c->opened_due) {
		c->opened_due = false;
		if (c->opened)
			c->opened(c->arg);
	}
	if (!c->dead && c->data && c->in.len > 0 && is_good(status_of(c)))
		c->data(c->arg, &c->in);
	if (!c->dead && c->sent_due) {
		void (*sent)(void *arg) = c->sent;
		c->sent_due = false;
		c->sent = NULL;
		sent(c->arg);
	}
	c->busy = false;
	if (c->dead)
		free(c);
}

static void settle(struct engine *e)
{
	CURLMsg *m;
	int left;

	while (!list_empty(&e->fresh)) {
		struct engine_call *c = list_entry(e->fresh.next, struct engine_call, fresh);
		list_del(&c->fresh);
		hand_on(c);
	}
	while ((m = curl_multi_info_read(e->multi, &left))) {
		struct engine_call *c = NULL;
		if (m->msg != CURLMSG_DONE)
			continue;
		CURLcode code = m->data.result;
		(void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&c);
		finish(c, code);
	}
}

static bool add_header(struct engine_call *c, const char *name, const char *value)
{
	char line[8192];

	if (snprintf(line, sizeof(line), "%s: %s", name, value) >= (int)sizeof(line))
		return false;
	struct curl_slist *more = curl_slist_append(c->headers, line);
	explicit_bzero(line, sizeof(line));
	if (more)
		c->headers = more;
	return more;
}

static bool set_up(struct engine_call *c, const struct engine_request *r)
{
	const struct engine *e = c->engine;
	char url[ENGINE_PATH_MAX + 320];
	CURL *h = c->easy;
	long timeout_ms = r->endless ? 0 : (long)e->timeout_s * 1000;
	bool body = r->body || strcmp(r->method, "POST") == 0 || strcmp(r->method, "PUT") == 0;

	if (snprintf(url, sizeof(url), "%s%s%s%s", e->base, r->plain || !*e->version ? "" : "/v",
		     r->plain ? "" : e->version, r->path) >= (int)sizeof(url))
		return false;
	bool ok = curl_easy_setopt(h, CURLOPT_URL, url) == CURLE_OK &&
		  curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, r->method) == CURLE_OK &&
		  add_header(c, "Expect", "") && add_header(c, "User-Agent", "sandboxd") &&
		  (!r->registry_auth || add_header(c, "X-Registry-Auth", r->registry_auth)) &&
		  (!r->input || add_header(c, "Transfer-Encoding", "")) && /* as it is, and not in chunks */
		  (!body || add_header(c, "Content-Type", r->type ? r->type : "application/json"));
	if (ok && *e->socket_path)
		ok = curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, e->socket_path) == CURLE_OK;
	if (ok && r->input) {
		(void)curl_easy_setopt(h, CURLOPT_UPLOAD, 1L);
		(void)curl_easy_setopt(h, CURLOPT_READFUNCTION, on_input);
		(void)curl_easy_setopt(h, CURLOPT_READDATA, c);
	} else if (ok && body) {
		(void)curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_n);
		ok = curl_easy_setopt(h, CURLOPT_COPYPOSTFIELDS, r->body ? r->body : "") == CURLE_OK;
	}
	(void)curl_easy_setopt(h, CURLOPT_HTTPHEADER, c->headers);
	(void)curl_easy_setopt(h, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	if (ok && e->ca)
		ok = curl_easy_setopt(h, CURLOPT_CAINFO, e->ca) == CURLE_OK &&
		     curl_easy_setopt(h, CURLOPT_SSLCERT, e->cert) == CURLE_OK &&
		     curl_easy_setopt(h, CURLOPT_SSLKEY, e->key) == CURLE_OK;
	(void)curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, e->ca ? "https" : "http");
	(void)curl_easy_setopt(h, CURLOPT_PROXY, "");
	(void)curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
	(void)curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
	(void)curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, timeout_ms);
	(void)curl_easy_setopt(h, CURLOPT_TCP_KEEPALIVE, 1L);
	(void)curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
	(void)curl_easy_setopt(h, CURLOPT_WRITEDATA, c);
	(void)curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_head);
	(void)curl_easy_setopt(h, CURLOPT_HEADERDATA, c);
	(void)curl_easy_setopt(h, CURLOPT_PRIVATE, c);
	return ok;
}

int engine_call(struct engine *e, const struct engine_request *r, struct engine_call **ret, struct err *err)
{
	struct engine_call *c = calloc(1, sizeof(*c));

	if (!c)
		return err_set(err, ERR_INTERNAL, ENGINE_CODE, ENOMEM, "%s: out of memory", r->what);
	c->engine = e;
	c->what = r->what;
	c->opened = r->opened;
	c->data = r->data;
	c->done = r->done;
	c->arg = r->arg;
	c->fd = -EBADF;
	c->in = BUF_INIT(ENGINE_BODY_MAX);
	list_init(&c->fresh);
	list_add_tail(&e->calls, &c->link);
	c->easy = curl_easy_init();
	if (!c->easy || !set_up(c, r) || curl_multi_add_handle(e->multi, c->easy) != CURLM_OK) {
		call_free(c);
		return err_set(err, ERR_INTERNAL, ENGINE_CODE, ENOMEM, "%s: out of memory", r->what);
	}
	if (ret)
		*ret = c;
	return 0;
}

int engine_escape(struct buf *out, const char *text)
{
	for (; *text; text++)
		if (isascii((unsigned char)*text) && (isalnum((unsigned char)*text) || strchr("-._~", *text)))
			(void)buf_putc(out, *text);
		else
			(void)buf_printf(out, "%%%02X", (unsigned char)*text);
	return out->failed ? -ENOBUFS : 0;
}

/* ---- the engine ----------------------------------------------------------------------------- */

static int parse_address(struct engine *e, const char *address, struct err *err)
{
	static const char unix_scheme[] = "unix://", tcp_scheme[] = "tcp://";
	size_t n = strlen(address);

	if (n >= sizeof(e->address))
		return err_set(err, ERR_INVALID, "CONFIG", ENAMETOOLONG, "DOCKER_HOST is too long");
	memcpy(e->address, address, n + 1);
	if (strncmp(address, unix_scheme, strlen(unix_scheme)) == 0 && address[strlen(unix_scheme)] == '/' &&
	    n - strlen(unix_scheme) < 108) {
		(void)snprintf(e->socket_path, sizeof(e->socket_path), "%s", address + strlen(unix_scheme));
		(void)snprintf(e->base, sizeof(e->base), "http://docker");
		return 0;
	}
	const char *host = address + strlen(tcp_scheme);
	if (strncmp(address, tcp_scheme, strlen(tcp_scheme)) == 0 && *host && !strpbrk(host, "/?#@ \t\\")) {
		(void)snprintf(e->base, sizeof(e->base), "http%s://%s", e->ca ? "s" : "", host);
		return 0;
	}
	return err_set(err, ERR_INVALID, "CONFIG", EINVAL,
		       "DOCKER_HOST: '%s' is neither unix:///PATH (of at most 107 bytes) nor tcp://HOST:PORT",
		       address);
}

/* They are read at each connection; that one is missing is said at once. */
static int take_certificates(struct engine *e, const char *folder, struct err *err)
{
	const struct {
		char **path;
		const char *name;
	} files[] = {{&e->ca, "ca.pem"}, {&e->cert, "cert.pem"}, {&e->key, "key.pem"}};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		if (asprintf(files[i].path, "%s/%s", folder, files[i].name) < 0) {
			*files[i].path = NULL;
			return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
		}
		if (access(*files[i].path, R_OK) < 0)
			return err_sys(err, "CONFIG", errno,
				       "DOCKER_TLS_VERIFY is set, and DOCKER_CERT_PATH gives no '%s'",
				       *files[i].path);
	}
	return 0;
}

int engine_new(struct loop *loop, const char *address, const char *certificates, unsigned timeout_s,
	       struct engine **ret, struct err *err)
{
	struct engine *e = calloc(1, sizeof(*e));

	if (!e || curl_global_init(certificates ? CURL_GLOBAL_SSL : CURL_GLOBAL_NOTHING) != CURLE_OK ||
	    !(e->multi = curl_multi_init())) {
		free(e);
		return err_set(err, ERR_INTERNAL, "CONFIG", ENOMEM, "out of memory");
	}
	e->loop = loop;
	e->timeout_s = timeout_s;
	list_init(&e->calls);
	list_init(&e->fresh);
	(void)curl_multi_setopt(e->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	(void)curl_multi_setopt(e->multi, CURLMOPT_SOCKETDATA, e);
	(void)curl_multi_setopt(e->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	(void)curl_multi_setopt(e->multi, CURLMOPT_TIMERDATA, e);
	int r = certificates ? take_certificates(e, certificates, err) : 0;
	if (r == 0)
		r = parse_address(e, address, err);
	if (r < 0) {
		engine_free(e);
		return r;
	}
	*ret = e;
	return 0;
}

void engine_free(struct engine *e)
{
	if (!e)
		return;
	list_foreach_safe (l, &e->calls)
		call_free(list_entry(l, struct engine_call, link));
	(void)curl_multi_cleanup(e->multi);
	loop_timer_del(&e->timer);
	free(e->ca);
	free(e->cert);
	free(e->key);
	free(e);
}

const char *engine_address(const struct engine *e)
{
	return e->address;
}

int engine_set_version(struct engine *e, const char *version)
{
	unsigned major, minor, known_major, known_minor;
	char rest;

	if (sscanf(version, "%3u.%3u%c", &major, &minor, &rest) != 2)
		return -EINVAL;
	(void)sscanf(VERSION_KNOWN, "%u.%u", &known_major, &known_minor);
	if (major > known_major || (major == known_major && minor > known_minor)) {
		major = known_major;
		minor = known_minor;
	}
	(void)snprintf(e->version, sizeof(e->version), "%u.%u", major, minor);
	return 0;
}

bool engine_has_minor(const struct engine *e, unsigned minor)
{
	unsigned major, has;
	return sscanf(e->version, "%u.%u", &major, &has) == 2 && (major > 1 || has >= minor);
}
