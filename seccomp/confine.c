/*
 * confine.c - confinements: profiles by name, the cache of their programs, plans for children.
 *
 * Owns the profiles, and each program as long as a confinement uses it; of those
 * that nobody uses any more the last CONFINE_CACHE_MAX stay. A program depends on
 * its profile and on the capabilities that the process will have, so these two are its key.
 */
#include "seccomp/confine.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "lib/fs.h"
#include "lib/list.h"
#include "lib/log.h"
#include "lib/sha256.h"
#include "seccomp/filter.h"
#include "seccomp/privileges.h"
#include "seccomp/profile.h"
#include "seccomp/request.h"

/* A compiled profile. */
struct program {
	struct list link;	   /* of all, those that nobody uses in the order in which they were left */
	struct confines *confines; /* NULL once that has gone */
	unsigned users;
	char key[SHA256_HEX_MAX];
	struct filter filter;
	struct profile_warnings ignored;
};

struct profile {
	struct list link;
	char name[CONFINE_NAME_MAX + 1];
	json_t *json;
	uint64_t caps;	       /* that a process keeps when nothing else is said */
	struct confine *plain; /* by name alone, as most are; NULL: not asked for so far */
};

struct confines {
	struct list profiles;
	size_t profiles_n;
	struct list programs;
	size_t idle_n;
};

struct confine {
	unsigned refs;
	struct program *program; /* NULL: no filter */
	struct confine_plan *plan;
	json_t *description;
	bool record;
	struct confine_request request; /* its paths, for messages; the rest is in the plan */
};

/* ---- programs ----------------------------------------------------------------------- */

static void program_free(struct program *p)
{
	list_del(&p->link);
	filter_done(&p->filter);
	free(p);
}

static void program_release(struct program *p)
{
	struct confines *cs;

	if (!p || --p->users > 0)
		return;
	cs = p->confines;
	if (!cs) {
		program_free(p);
		return;
	}
	list_del(&p->link);
	list_add_tail(&cs->programs, &p->link);
	if (++cs->idle_n <= CONFINE_CACHE_MAX)
		return;
	list_foreach_safe (node, &cs->programs) {
		struct program *oldest = list_entry(node, struct program, link);

		if (oldest->users > 0)
			continue;
		cs->idle_n--;
		program_free(oldest);
		return;
	}
}

static int program_key(json_t *profile, uint64_t caps, bool record, char key[SHA256_HEX_MAX],
		       const char *where, struct err *err)
{
	_cleanup_free_ char *text = json_dumps(profile, JSON_COMPACT | JSON_SORT_KEYS);
	struct sha256 sum;

	if (!text && !record)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s: must be an object",
			       where);
	if (text && strlen(text) > CONFINE_PROFILE_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_REQUEST_BODY", E2BIG, "%s: over %u bytes", where,
			       CONFINE_PROFILE_MAX);
	sha256_init(&sum);
	sha256_add(&sum, &record, sizeof(record));
	sha256_add(&sum, &caps, sizeof(caps));
	if (!record)
		sha256_add(&sum, text, strlen(text));
	(void)sha256_end_hex(&sum, key);
	return 0;
}

static struct program *program_find(struct confines *cs, const char *key)
{
	list_foreach_safe (node, &cs->programs) {
		struct program *p = list_entry(node, struct program, link);

		if (strcmp(p->key, key) != 0)
			continue;
		cs->idle_n -= p->users == 0;
		p->users++;
		return p;
	}
	return NULL;
}

/* *ret has the caller as a user. */
static int program_get(struct confines *cs, json_t *profile, uint64_t caps, bool record, const char *where,
		       struct program **ret, struct err *err)
{
	char key[SHA256_HEX_MAX];
	int r = program_key(profile, caps, record, key, where, err);

	if (r < 0)
		return r;
	*ret = program_find(cs, key);
	if (*ret)
		return 0;
	struct program *p = calloc(1, sizeof(*p));
	if (!p)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "compile a profile");
	list_init(&p->link);
	if (!record)
		r = profile_compile(profile, caps, where, &p->filter, &p->ignored, err);
	else if (filter_build_recorder(&p->filter) < 0)
		r = err_sys(err, "RUNTIME_ERROR", ENOMEM, "compile a profile");
	if (r < 0) {
		program_free(p);
		return r;
	}
	if (p->ignored.n > 0)
		log_warn("%s: system calls that are not known here, ignored: %s", where, p->ignored.text);
	memcpy(p->key, key, sizeof(key));
	p->confines = cs;
	p->users = 1;
	list_add_tail(&cs->programs, &p->link);
	*ret = p;
	return 0;
}

/* ---- profiles ------------------------------------------------------------------------ */

static struct profile *find_profile(struct confines *cs, const char *name)
{
	list_foreach_safe (node, &cs->profiles) {
		struct profile *p = list_entry(node, struct profile, link);

		if (strcmp(p->name, name) == 0)
			return p;
	}
	return NULL;
}

static void profile_free(struct profile *p)
{
	list_del(&p->link);
	confine_unref(p->plain);
	json_decref(p->json);
	free(p);
}

/* Takes json. */
static int add_profile(struct confines *cs, const char *name, json_t *json, uint64_t caps)
{
	struct profile *p = calloc(1, sizeof(*p));

	if (!p) {
		json_decref(json);
		return -ENOMEM;
	}
	list_init(&p->link);
	(void)snprintf(p->name, sizeof(p->name), "%s", name);
	p->json = json;
	p->caps = caps;
	list_add_tail(&cs->profiles, &p->link);
	cs->profiles_n++;
	return 0;
}

static int add_built_in(struct confines *cs, const char *name, const char *from, const char *end,
			uint64_t caps)
{
	json_t *json = json_loadb(from, (size_t)(end - from), JSON_REJECT_DUPLICATES, NULL);

	return json ? add_profile(cs, name, json, caps) : -ENOMEM;
}

int confines_new(struct confines **ret)
{
	struct confines *cs = calloc(1, sizeof(*cs));

	if (!cs)
		return -ENOMEM;
	list_init(&cs->profiles);
	list_init(&cs->programs);
	int r = add_built_in(cs, "default", profile_default_start, profile_default_end, CAPS_OF_CONTAINERS);
	if (r >= 0)
		r = add_built_in(cs, "strict", profile_strict_start, profile_strict_end, 0);
	if (r < 0) {
		confines_free(cs);
		return r;
	}
	*ret = cs;
	return 0;
}

void confines_free(struct confines *cs)
{
	if (!cs)
		return;
	list_foreach_safe (node, &cs->profiles)
		profile_free(list_entry(node, struct profile, link));
	list_foreach_safe (node, &cs->programs) {
		struct program *p = list_entry(node, struct program, link);

		if (p->users > 0) {
			list_del(&p->link);
			p->confines = NULL;
		} else {
			program_free(p);
		}
	}
	free(cs);
}

static bool good_name(const char *name)
{
	size_t n = strlen(name);

	return n > 0 && n <= CONFINE_NAME_MAX &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n &&
	       strcmp(name, "off") != 0;
}

int confines_load(struct confines *cs, const char *name, const char *path, struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(CONFINE_PROFILE_MAX);
	struct program *program;
	json_error_t at;

	if (!good_name(name) || find_profile(cs, name) || cs->profiles_n >= CONFINE_PROFILES_MAX)
		return err_set(err, ERR_INVALID, "OPTIONS", EINVAL,
			       cs->profiles_n >= CONFINE_PROFILES_MAX
				       ? "profile '%.80s': there are too many profiles"
				       : "profile '%.80s': the name is taken, or is none",
			       name);
	int r = fs_read_file(AT_FDCWD, path, &text);
	if (r < 0)
		return err_sys(err, "OPTIONS", -r, "read the profile '%s'", path);
	json_t *json = json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, &at);
	if (!json)
		return err_set(err, ERR_INVALID, "OPTIONS", EINVAL, "profile '%s', line %d: %s", path,
			       at.line, at.text);
	r = program_get(cs, json, CAPS_OF_CONTAINERS, false, path, &program, err);
	if (r < 0) {
		json_decref(json);
		return r;
	}
	program_release(program);
	r = add_profile(cs, name, json, CAPS_OF_CONTAINERS);
	return r < 0 ? err_sys(err, "OPTIONS", -r, "profile '%s'", path) : 0;
}

json_t *confines_names(const struct confines *cs)
{
	json_t *names = json_pack("[s]", "off");

	list_foreach_safe (node, &cs->profiles)
		(void)json_array_append_new(names, json_string(list_entry(node, struct profile, link)->name));
	return names;
}

/* ---- plans ------------------------------------------------------------------------------ */

static int put_block(struct buf *out, const void *data, size_t size, size_t n, struct confine_block *ret)
{
	static const char zeros[8];
	size_t odd = out->len % sizeof(zeros);

	if (odd)
		(void)buf_append(out, zeros, sizeof(zeros) - odd);
	*ret = (struct confine_block){.at = (uint32_t)out->len, .n = (uint32_t)n};
	return size > 0 ? buf_append(out, data, size) : 0;
}

static int put_program(struct buf *out, const struct filter_program *p, struct confine_block *ret)
{
	return put_block(out, p->insns, p->n * sizeof(*p->insns), p->n, ret);
}

static uint32_t plan_flags(const struct confine *c, const struct confine_request *q)
{
	return (q->no_new_privs ? CONFINE_NO_NEW_PRIVS : 0) | (q->has_caps ? CONFINE_CAPS : 0) |
	       (q->has_landlock ? CONFINE_LANDLOCK : 0) | (c->program ? CONFINE_NOTIFY : 0) |
	       (c->record ? CONFINE_RECORD : 0);
}

static int make_plan(struct confine *c)
{
	const struct confine_request *q = &c->request;
	struct confine_plan plan = {
		.version = CONFINE_PLAN_VERSION, .flags = plan_flags(c, q), .caps = q->caps};
	struct buf out = BUF_INIT(1 << 20);

	if (q->has_landlock)
		landlock_rights(&plan);
	(void)buf_append(&out, &plan, sizeof(plan));
	(void)put_block(&out, q->rlimits, q->rlimits_n * sizeof(q->rlimits[0]), q->rlimits_n, &plan.rlimits);
	(void)put_block(&out, q->read.text.data, q->read.text.len, q->read.n, &plan.read_paths);
	(void)put_block(&out, q->write.text.data, q->write.text.len, q->write.n, &plan.write_paths);
	plan.read_optional = q->read.optional;
	plan.write_optional = q->write.optional;
	if (c->program) {
		(void)put_program(&out, &c->program->filter.plain, &plan.plain);
		(void)put_program(&out, &c->program->filter.notify, &plan.notify);
		(void)put_program(&out, &c->program->filter.rest, &plan.rest);
	}
	if (out.failed) {
		buf_done(&out);
		return -ENOMEM;
	}
	plan.size = (uint32_t)out.len;
	memcpy(out.data, &plan, sizeof(plan));
	c->plan = (struct confine_plan *)out.data;
	return 0;
}

/* ---- confinements ----------------------------------------------------------------------- */

static void describe(struct confine *c, const char *name)
{
	json_t *d = request_describe(&c->request, name);

	if (d && c->program) {
		(void)json_object_set_new(d, "reported", json_boolean(listener_possible()));
		if (c->program->ignored.n > 0)
			(void)json_object_set_new(d, "ignored_syscalls",
						  json_string(c->program->ignored.text));
	}
	c->description = d;
}

struct confine *confine_ref(struct confine *c)
{
	if (c)
		c->refs++;
	return c;
}

void confine_unref(struct confine *c)
{
	if (!c || --c->refs > 0)
		return;
	program_release(c->program);
	free(c->plan);
	json_decref(c->description);
	request_done(&c->request);
	free(c);
}

static int check_kernel(const struct confine_request *q, bool filter, struct err *err)
{
	if (filter && !filter_possible())
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOSYS,
			       "this kernel has no seccomp filters, or keeps them from us");
	if (q->record && !listener_possible())
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOSYS,
			       "recording needs seccomp notifications (Linux 5.0), and this kernel has none");
	if (q->has_landlock && landlock_version() <= 0)
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOSYS,
			       "landlock: this kernel does not have it (Linux 5.13), or it is not enabled");
	return 0;
}

/* Takes the request. name: what the profile is called in answers. */
static int make_confine(struct confines *cs, struct confine_request *q, json_t *profile, const char *name,
			const char *where, struct confine **ret, struct err *err)
{
	struct confine *c = calloc(1, sizeof(*c));
	bool filter = profile || q->record;

	if (!c) {
		request_done(q);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "confinement");
	}
	c->refs = 1;
	c->request = *q;
	c->record = q->record;
	*q = (struct confine_request){0};
	int r = check_kernel(&c->request, filter, err);
	if (r >= 0 && filter)
		r = program_get(cs, profile, c->request.has_caps ? c->request.caps : caps_held(), c->record,
				where, &c->program, err);
	if (r >= 0 && make_plan(c) < 0)
		r = err_sys(err, "RUNTIME_ERROR", ENOMEM, "confinement");
	if (r < 0) {
		confine_unref(c);
		return r;
	}
	describe(c, name);
	*ret = c;
	return 0;
}

static int unknown_profile(struct confines *cs, const char *name, const char *where, struct err *err)
{
	_cleanup_buf_ struct buf names = BUF_INIT(1024);

	list_foreach_safe (node, &cs->profiles)
		(void)buf_printf(&names, ", %s", list_entry(node, struct profile, link)->name);
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
		       "%s: there is no profile '%.64s'; there are off%s", where, name,
		       buf_cstr(&names) ? buf_cstr(&names) : "");
}

static int confine_by_name(struct confines *cs, const char *name, const char *where, struct confine **ret,
			   struct err *err)
{
	struct profile *p = find_profile(cs, name);

	*ret = NULL;
	if (strcmp(name, "off") == 0)
		return 0;
	if (!p)
		return unknown_profile(cs, name, where, err);
	if (!p->plain) {
		struct confine_request q = {.has_caps = true, .caps = p->caps, .no_new_privs = true};
		int r = make_confine(cs, &q, p->json, p->name, where, &p->plain, err);

		if (r < 0)
			return r;
	}
	*ret = confine_ref(p->plain);
	return 0;
}

static int confine_by_object(struct confines *cs, json_t *value, const char *where, struct confine **ret,
			     struct err *err)
{
	struct confine_request q = {0};
	json_t *profile = json_object_get(value, "profile"), *json = NULL;
	const char *name = json_string_value(profile);
	char place[128];

	(void)snprintf(place, sizeof(place), "%.100s.profile", where);
	if (json_is_object(profile)) {
		json = profile;
		name = "custom";
		q.caps = CAPS_OF_CONTAINERS;
	} else if (name && strcmp(name, "off") != 0) {
		const struct profile *p = find_profile(cs, name);

		if (!p)
			return unknown_profile(cs, name, place, err);
		json = p->json;
		q.caps = p->caps;
	} else if (profile && !json_is_null(profile) && !name) {
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "%s: must be the name of a profile or an object", place);
	}
	q.has_caps = json != NULL;
	int r = request_parse(value, where, &q, err);
	if (r < 0)
		return r;
	if (q.record) {
		json = NULL;
		name = "record";
	}
	return make_confine(cs, &q, json, json || q.record ? name : "off", json ? place : where, ret, err);
}

int confine_new(struct confines *cs, json_t *value, const char *where, struct confine **ret, struct err *err)
{
	if (json_is_string(value))
		return confine_by_name(cs, json_string_value(value), where, ret, err);
	if (json_is_object(value))
		return confine_by_object(cs, value, where, ret, err);
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
		       "%s: must be the name of a profile or an object", where);
}

bool confine_records(const struct confine *c)
{
	return c && c->record;
}

json_t *confine_describe(const struct confine *c)
{
	return c ? json_incref(c->description) : json_pack("{s:s}", "profile", "off");
}

const struct confine_plan *confine_plan(const struct confine *c)
{
	return c ? c->plan : NULL;
}

enum confine_answer confine_verdict(const struct confine *c, const struct seccomp_data *data, int *ret_errnum)
{
	uint32_t action;

	if (c->record)
		return CONFINE_LET_PASS;
	action = filter_run(&c->program->filter.plain, data);
	*ret_errnum = (int)(action & SECCOMP_RET_DATA);
	return (action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO ? CONFINE_DENY : CONFINE_KILL;
}

/* ---- one start ---------------------------------------------------------------------------- */

int confine_start_init(struct confine_start *s, const struct confine *c, struct err *err)
{
	int pair[2];

	*s = (struct confine_start){.socket = -EBADF, .child_socket = -EBADF};
	if (!c || !c->program || !listener_possible())
		return 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "open a socket for denied calls");
	s->socket = pair[0];
	s->child_socket = pair[1];
	return 0;
}

int confine_start_listener(struct confine_start *s)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	char byte;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	ssize_t n = -1;
	int fd = -ENOENT;

	if (s->socket < 0)
		return -ENOENT;
	do
		n = recvmsg(s->socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

void confine_start_done(struct confine_start *s)
{
	fd_close(&s->socket);
	fd_close(&s->child_socket);
}

/* ---- failures ------------------------------------------------------------------------------ */

static const char *path_at(const struct path_list *list, uint32_t index)
{
	const char *path = (const char *)list->text.data;

	for (uint32_t i = 0; i < index + list->optional; i++)
		path += strlen(path) + 1;
	return path;
}

int confine_fault_err(const struct confine *c, const struct confine_fault *fault, int errnum,
		      const char *program, struct err *err)
{
	static const struct {
		const char *what, *needs;
	} steps[] = {
		[CONFINE_STEP_PLAN] = {"read the confinement", NULL},
		[CONFINE_STEP_RLIMITS] = {"set rlimits", "CAP_SYS_RESOURCE to raise a hard limit"},
		[CONFINE_STEP_BOUNDING] = {"drop capabilities from the bounding set", "CAP_SETPCAP"},
		[CONFINE_STEP_NO_NEW_PRIVS] = {"set no_new_privs", NULL},
		[CONFINE_STEP_LANDLOCK_RULESET] = {"make a Landlock ruleset", NULL},
		[CONFINE_STEP_LANDLOCK] = {"enforce Landlock", "CAP_SYS_ADMIN, or noNewPrivileges"},
		[CONFINE_STEP_AMBIENT] = {"clear ambient capabilities", NULL},
		[CONFINE_STEP_CAPABILITIES] = {"drop capabilities", NULL},
		[CONFINE_STEP_FILTER] = {"install the seccomp filter", "CAP_SYS_ADMIN, or noNewPrivileges"},
		[CONFINE_STEP_LISTENER] = {"listen for seccomp notifications",
					   "that no filter above us has a listener"},
	};
	bool read = fault->step == CONFINE_STEP_LANDLOCK_READ_PATH;

	if (read || fault->step == CONFINE_STEP_LANDLOCK_WRITE_PATH)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", errnum,
			       "start '%s': landlock.%s: '%s': %s", program, read ? "readOnly" : "readWrite",
			       path_at(read ? &c->request.read : &c->request.write, fault->index),
			       strerror(errnum));
	if (errnum == EMFILE) /* each step needs one or two, and what is started does too */
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", errnum,
			       "start '%s': rlimits: RLIMIT_NOFILE leaves no descriptor to %s with", program,
			       steps[fault->step].what);
	const bool privilege = errnum == EPERM || errnum == EACCES || errnum == EBUSY;
	const char *needs = privilege ? steps[fault->step].needs : NULL;
	return err_set(err, privilege ? ERR_FORBIDDEN : ERR_INTERNAL, "RUNTIME_ERROR", errnum,
		       "start '%s': confinement: %s: %s%s%s%s", program, steps[fault->step].what,
		       strerror(errnum), needs ? " (needs " : "", needs ? needs : "", needs ? ")" : "");
}

json_t *confine_capabilities(void)
{
	return json_pack("{s:{s:b, s:b, s:b}, s:{s:i}, s:o}", "seccomp", "filter", filter_possible(),
			 "reported", listener_possible(), "inherited", prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0,
			 "landlock", "version", landlock_version(), "capabilities",
			 caps_describe(caps_held()));
}
