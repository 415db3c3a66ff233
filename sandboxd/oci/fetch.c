/*
 * fetch.c - owns what is on its way into STATE/images. Loop thread, except run_*().
 */
#include "sandboxd/oci/fetch.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "sandboxd/oci/fetch_files.h"
#include "sandboxd/oci/program.h"

#define CODE	     "DOCKER::SANDBOX_IMAGE_PULL_FAILED"
#define ARGS_MAX     20
#define DEADLINE_ADD 30 /* seconds: our own limit comes first, and says more */

enum fetch_state {
	FETCH_LOOKING,
	FETCH_WAITING, /* for its turn */
	FETCH_PULLING,
	FETCH_WEIGHING,
	FETCH_FOLLOWING, /* another one unpacks the same */
	FETCH_UNPACKING,
	FETCH_FINISHING,
	FETCH_CLEANING,
};

struct fetch {
	struct list link;
	struct fetches *all;
	enum fetch_state state;
	struct list waits;
	struct source source;
	char login[SHA256_HEX_MAX]; /* digest of the credentials: they are shared with nobody else */
	bool turn;		    /* counts in all->pulling */
	bool over;		    /* nobody may join it any more */

	struct child child;
	struct pool_job job;
	struct loop_timer timer;
	struct loop_defer begin, tell_progress;
	const char *reason, *message; /* what is going on, once it takes long */
	struct fetch_files files;     /* the jobs' */
	uint64_t pulled_usec, unpacked_usec;
	struct err err;
};

static void take_turns(struct fetches *all);
static void next_follower(struct fetches *all, const char *key);

/* ---- the end -------------------------------------------------------------------------- */

static void fetch_free(struct fetch *f)
{
	loop_timer_del(&f->timer);
	loop_defer_cancel(&f->begin);
	loop_defer_cancel(&f->tell_progress);
	child_forget(&f->child);
	list_del(&f->link);
	source_done(&f->source);
	fetch_files_done(&f->files);
	free(f);
}

static void run_clean(struct pool_job *job)
{
	struct fetch *f = container_of(job, struct fetch, job);
	fetch_files_remove(&f->files);
}

static void tell(struct fetch *f, struct base *base, const struct err *err)
{
	const struct fetched result = {
		.base = base, .pulled_usec = f->pulled_usec, .unpacked_usec = f->unpacked_usec};

	f->over = true;
	while (!list_empty(&f->waits)) {
		struct fetch_wait *w = list_entry(f->waits.next, struct fetch_wait, link);
		list_del(&w->link);
		w->fetch = NULL;
		if (base)
			(void)base_ref(base);
		w->done(w, &result, err);
	}
}

static void on_cleaned(struct pool_job *job)
{
	struct fetch *f = container_of(job, struct fetch, job);

	if (pool_stopping(job->pool))
		return;
	tell(f, NULL, &f->err);
	fetch_free(f);
}

static void submit(struct fetch *f, enum fetch_state state, void (*run)(struct pool_job *),
		   void (*done)(struct pool_job *));

/* Nothing of it is at work any more. */
static void end(struct fetch *f)
{
	struct fetches *all = f->all;
	char key[BASE_NAME_MAX];

	memcpy(key, f->files.key, sizeof(key));
	if (f->turn)
		all->pulling--;
	f->turn = false;
	loop_timer_del(&f->timer);
	submit(f, FETCH_CLEANING, run_clean, on_cleaned);
	next_follower(all, key);
	take_turns(all);
}

/* Whoever waits hears of it when nothing is left of it. */
static void failed(struct fetch *f)
{
	log_warn("image %s: %s", f->source.shown, f->err.message);
	f->over = true;
	end(f);
}

/* It is in STATE/images. */
static void arrived(struct fetch *f)
{
	struct bases *bases = &f->all->oci->bases;
	struct base *base = base_named(bases, f->files.key);

	if (!base) {
		(void)err_set(&f->err, ERR_INTERNAL, CODE, ENOMEM, "out of memory");
		failed(f);
		return;
	}
	if (!base->loaded) {
		base->config = f->files.config;
		f->files.config = (struct base_config){0};
		base->loaded = true;
	}
	tell(f, base, NULL);
	base_unref(bases, base);
	end(f);
}

/* ---- steps ------------------------------------------------------------------------------ */

static void on_progress(struct loop_defer *d)
{
	struct fetch *f = container_of(d, struct fetch, tell_progress);

	list_foreach_safe (l, &f->waits) {
		struct fetch_wait *w = list_entry(l, struct fetch_wait, link);
		w->progress(w, f->reason, f->message, f->all->oci->config->image_max_s + DEADLINE_ADD);
	}
}

static void progress(struct fetch *f, const char *reason, const char *message)
{
	f->reason = reason;
	f->message = message;
	on_progress(&f->tell_progress);
}

static void submit(struct fetch *f, enum fetch_state state, void (*run)(struct pool_job *),
		   void (*done)(struct pool_job *))
{
	f->state = state;
	f->job = (struct pool_job){.run = run, .done = done};
	int r = pool_submit(f->all->oci->env.pool, &f->job);
	if (r == 0 || r == -ESHUTDOWN)
		return;
	if (state == FETCH_CLEANING) { /* the next start removes it */
		tell(f, NULL, &f->err);
		fetch_free(f);
		return;
	}
	(void)err_sys(&f->err, "SANDBOX::UNAVAILABLE", -r, "too much is waiting already");
	failed(f);
}

/* True when the job's end is to be acted upon. */
static bool proceed(struct fetch *f)
{
	if (pool_stopping(f->all->oci->env.pool))
		return false;
	if (f->over) {
		end(f);
		return false;
	}
	if (f->files.result < 0) {
		f->err = f->files.err;
		failed(f);
		return false;
	}
	return true;
}

/* A program of ours: nobody's environment, its words in a file, no file larger than an image. */
static int start_program(struct fetch *f, enum fetch_state state, const char *const *argv,
			 child_exit_fn *on_exit, struct err *err)
{
	const struct config *config = f->all->oci->config;
	const rlim_t most = (rlim_t)config->image_max_mb << 20;
	const struct spawn_rlimit limit = {RLIMIT_FSIZE, {most, most}};
	_cleanup_close_ int log_fd = fetch_files_log(&f->files);
	if (log_fd < 0)
		return err_sys(err, CODE, -log_fd, "write a log in the state directory");
	struct spawn spec = {
		.path = argv[0],
		.argv = (char *const *)argv,
		.envp = f->all->oci->fetch_envp,
		.fds = {{log_fd, 1}, {log_fd, 2}, {f->source.fd, SOURCE_FD}},
		.fds_n = f->source.fd < 0 ? 2 : 3,
		.new_session = true,
		.die_with_parent = true,
		.rlimits = &limit,
		.rlimits_n = 1,
	};
	f->state = state;
	return child_spawn(f->all->oci->env.reaper, &f->child, &spec, on_exit, err);
}

/* True when the program did what it was for. */
static bool succeeded(struct fetch *f, const char *program, int wstatus)
{
	char why[256];

	if (f->over) {
		end(f);
		return false;
	}
	if (WIFEXITED(wstatus) && WEXITSTATUS(wstatus) == 0)
		return true;
	fetch_files_why(&f->files, why, sizeof(why));
	if (WIFSIGNALED(wstatus))
		(void)err_set(&f->err, ERR_BAD_GATEWAY, CODE, EIO, "%s was killed by signal %d%s%s", program,
			      WTERMSIG(wstatus), *why ? ": " : "", why);
	else
		(void)err_set(&f->err, ERR_BAD_GATEWAY, CODE, EIO, "%s: %s", program,
			      *why ? why : "it does not say why it failed");
	failed(f);
	return false;
}

static void run_finish(struct pool_job *job)
{
	struct fetch *f = container_of(job, struct fetch, job);
	fetch_files_keep(&f->files);
}

static void on_finished(struct pool_job *job)
{
	struct fetch *f = container_of(job, struct fetch, job);

	if (!proceed(f))
		return;
	f->unpacked_usec = clock_mono_usec();
	log_info("image %s: %s", f->source.shown, f->files.key);
	arrived(f);
}

static void on_unpacked(struct child *c, int wstatus, const struct rusage *usage)
{
	struct fetch *f = container_of(c, struct fetch, child);

	(void)usage;
	if (succeeded(f, "umoci", wstatus))
		submit(f, FETCH_FINISHING, run_finish, on_finished);
}

static void unpack(struct fetch *f)
{
	char image[PATH_MAX], rootfs[PATH_MAX], program[PATH_MAX];
	int r = program_find(f->all->oci, "umoci", program);

	(void)snprintf(image, sizeof(image), "%.*s/layout:image", PATH_MAX - 16, f->files.tmp);
	(void)snprintf(rootfs, sizeof(rootfs), "%.*s/rootfs", PATH_MAX - 16, f->files.tmp);
	const char *const argv[] = {program, "raw", "unpack", "--image", image, rootfs, NULL};
	progress(f, "image_unpacking", "The image is being unpacked.");
	if (r < 0)
		r = err_set(&f->err, ERR_UNAVAILABLE, CODE, ENOENT, "umoci is not there any more");
	else
		r = bases_make_room(&f->all->oci->bases, &f->err);
	if (r == 0)
		r = start_program(f, FETCH_UNPACKING, argv, on_unpacked, &f->err);
	if (r < 0)
		failed(f);
}

static bool unpacked_by_another(const struct fetch *f)
{
	list_foreach_safe (l, &f->all->list) {
		const struct fetch *other = list_entry(l, struct fetch, link);
		if (other != f && !other->over && strcmp(other->files.key, f->files.key) == 0 &&
		    (other->state == FETCH_UNPACKING || other->state == FETCH_FINISHING))
			return true;
	}
	return false;
}

static void run_weigh(struct pool_job *job)
{
	struct fetch *f = container_of(job, struct fetch, job);
	fetch_files_weigh(&f->files);
}

static void on_weighed(struct pool_job *job)
{
	struct fetch *f = container_of(job, struct fetch, job);

	if (!proceed(f))
		return;
	if (f->files.stored) {
		arrived(f);
		return;
	}
	if (unpacked_by_another(f)) {
		f->state = FETCH_FOLLOWING;
		progress(f, "image_unpacking", "The image is being unpacked.");
		return;
	}
	unpack(f);
}

/* The one that unpacked this has ended, well or not: one of those that waited for it looks again. */
static void next_follower(struct fetches *all, const char *key)
{
	list_foreach_safe (l, &all->list) {
		struct fetch *f = list_entry(l, struct fetch, link);
		if (f->state == FETCH_FOLLOWING && strcmp(f->files.key, key) == 0)
			submit(f, FETCH_WEIGHING, run_weigh, on_weighed);
	}
}

static void on_pulled(struct child *c, int wstatus, const struct rusage *usage)
{
	struct fetch *f = container_of(c, struct fetch, child);

	(void)usage;
	fetch_files_forget_login(&f->files);
	if (!succeeded(f, "skopeo", wstatus))
		return;
	f->pulled_usec = clock_mono_usec();
	submit(f, FETCH_WEIGHING, run_weigh, on_weighed);
}

static bool is_insecure(const struct fetch *f)
{
	char *const *list = f->all->oci->config->insecure_registries;

	for (; list && *list; list++)
		if (strcmp(*list, f->source.registry) == 0)
			return true;
	return false;
}

static void pull(struct fetch *f)
{
	char to[PATH_MAX], auth[PATH_MAX], program[PATH_MAX], tmp[PATH_MAX + 16];
	const char *argv[ARGS_MAX], **a = argv;
	int r = program_find(f->all->oci, "skopeo", program);

	(void)snprintf(to, sizeof(to), "oci:%.*s/layout:image", PATH_MAX - 20, f->files.tmp);
	(void)snprintf(tmp, sizeof(tmp), "--tmpdir=%s", f->files.tmp);
	*a++ = program;
	*a++ = tmp;
	if (!fetch_policy_is_there())
		*a++ = "--insecure-policy"; /* else skopeo refuses everything where none was made */
	*a++ = "copy";
	*a++ = "--quiet";
	*a++ = "--remove-signatures";
	if (*f->source.registry) {
		if (fetch_files_auth(&f->files, f->all->oci->config->registry_auth, auth, sizeof(auth))) {
			*a++ = "--src-authfile";
			*a++ = auth;
		} else {
			*a++ = "--src-no-creds"; /* root's own logins are not everybody's */
		}
		*a++ = is_insecure(f) ? "--src-tls-verify=false" : "--src-tls-verify=true";
	}
	*a++ = f->source.name;
	*a++ = to;
	*a = NULL;
	f->turn = true;
	f->all->pulling++;
	progress(f, "image_pulling", "The image is being fetched.");
	r = r < 0 ? err_set(&f->err, ERR_UNAVAILABLE, CODE, ENOENT, "skopeo is not there any more")
		  : start_program(f, FETCH_PULLING, argv, on_pulled, &f->err);
	if (r < 0)
		failed(f);
}

static void take_turns(struct fetches *all)
{
	list_foreach_safe (l, &all->list) {
		struct fetch *f = list_entry(l, struct fetch, link);
		if (all->pulling < all->oci->config->image_pulls_max && f->state == FETCH_WAITING) {
			pull(f);
			return; /* it may have ended and taken others with it, which take their turns
				   themselves */
		}
	}
}

static void run_look(struct pool_job *job)
{
	struct fetch *f = container_of(job, struct fetch, job);
	fetch_files_look(&f->files);
}

static void on_looked(struct pool_job *job)
{
	struct fetch *f = container_of(job, struct fetch, job);

	if (!proceed(f))
		return;
	if (f->files.stored) {
		arrived(f);
		return;
	}
	f->state = FETCH_WAITING;
	progress(f, "image_waiting", "The image waits until others have been fetched.");
	take_turns(f->all);
}

static void on_begin(struct loop_defer *d)
{
	submit(container_of(d, struct fetch, begin), FETCH_LOOKING, run_look, on_looked);
}

/* ---- breaking off -------------------------------------------------------------------------- */

/* Whatever is at work ends soon, and its end cleans up. */
static void break_off(struct fetch *f)
{
	atomic_store(&f->files.stop, true);
	f->over = true;
	switch (f->state) {
	case FETCH_PULLING:
	case FETCH_UNPACKING:
		(void)child_kill_group(&f->child, SIGKILL);
		break;
	case FETCH_WAITING:
	case FETCH_FOLLOWING:
		end(f);
		break;
	case FETCH_LOOKING:
		if (!f->job.pool) { /* not begun */
			loop_defer_cancel(&f->begin);
			end(f);
		}
		break;
	default:
		break;
	}
}

static void on_timer(struct loop_timer *t)
{
	struct fetch *f = container_of(t, struct fetch, timer);

	(void)err_set(&f->err, ERR_TIMEOUT, CODE, ETIMEDOUT,
		      "fetching and unpacking the image took longer than sandboxd.image_timeout_seconds (%u)",
		      f->all->oci->config->image_max_s);
	log_warn("image %s: %s", f->source.shown, f->err.message);
	break_off(f);
}

void fetch_cancel(struct fetch_wait *w)
{
	struct fetch *f = w->fetch;

	if (!f)
		return;
	list_del(&w->link);
	w->fetch = NULL;
	if (list_empty(&f->waits) && !f->over)
		break_off(f);
}

/* ---- beginning ------------------------------------------------------------------------------- */

static int need_programs(const struct oci *oci, struct err *err)
{
	static const char *const programs[] = {"skopeo", "umoci"};
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		if (program_find(oci, programs[i], path) < 0)
			return err_set(err, ERR_UNAVAILABLE, "SANDBOX::UNAVAILABLE", ENOENT,
				       "images are fetched and unpacked by skopeo and umoci, and %s is not "
				       "there: `apt-get install %s` brings it",
				       programs[i], programs[i]);
	return 0;
}

static void hash_login(const struct runtime_image *login, char out[SHA256_HEX_MAX])
{
	struct sha256 sum;

	out[0] = '\0';
	if (!login->username)
		return;
	sha256_init(&sum);
	sha256_add(&sum, login->username, strlen(login->username) + 1);
	sha256_add(&sum, login->password, strlen(login->password));
	(void)sha256_end_hex(&sum, out);
}

static struct fetch *find_same(struct fetches *all, const struct source *source, const char *login)
{
	list_foreach_safe (l, &all->list) {
		struct fetch *f = list_entry(l, struct fetch, link);
		if (!f->over && strcmp(f->source.identity, source->identity) == 0 &&
		    strcmp(f->login, login) == 0)
			return f;
	}
	return NULL;
}

static struct fetch *fetch_new(struct fetches *all, const struct runtime_image *login, const struct source *s)
{
	const struct config *config = all->oci->config;
	struct fetch *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->all = all;
	f->source = *s;
	f->child.pidfd = -EBADF;
	list_init(&f->waits);
	list_init(&f->link);
	if (fetch_files_init(&f->files, config->state_dir, s, login) < 0 ||
	    loop_timer_set(all->oci->env.loop, &f->timer,
			   loop_now_ms(all->oci->env.loop) + (uint64_t)config->image_max_s * 1000,
			   on_timer) < 0) {
		f->source.fd = -EBADF; /* stays the caller's */
		fetch_free(f);
		return NULL;
	}
	f->files.max_bytes = (uint64_t)config->image_max_mb << 20;
	list_add_tail(&all->list, &f->link);
	return f;
}

int fetch_begin(struct fetches *all, struct source *source, const struct runtime_image *login,
		struct fetch_wait *w, struct err *err)
{
	char digest[SHA256_HEX_MAX];
	int r = source->kind == SOURCE_FETCH ? need_programs(all->oci, err) : 0;

	if (r < 0)
		return r;
	hash_login(login, digest);
	struct fetch *f = find_same(all, source, digest);
	if (f) {
		source_done(source);
		if (f->reason)
			loop_defer(all->oci->env.loop, &f->tell_progress, on_progress);
	} else {
		f = fetch_new(all, login, source);
		if (!f)
			return err_set(err, ERR_INTERNAL, CODE, ENOMEM, "out of memory");
		source->fd = -EBADF;
		memcpy(f->login, digest, sizeof(digest));
		loop_defer(all->oci->env.loop, &f->begin, on_begin);
	}
	w->fetch = f;
	list_add_tail(&f->waits, &w->link);
	return 0;
}

void fetches_init(struct fetches *all, struct oci *oci)
{
	all->oci = oci;
	list_init(&all->list);
}

void fetches_done(struct fetches *all)
{
	list_foreach_safe (l, &all->list)
		fetch_free(list_entry(l, struct fetch, link));
}
