/*
 * oneshot.c - calls, and the rooms that wait for them.
 *
 * A call is a command in a room. Python gets two anonymous files, one to find
 * its call in and one to leave the result in, and begins when its standard
 * input is closed: so a process that waits and one that is just being started
 * are the same, and nothing has to be parsed that user code could have written.
 * It has rehearsed by then, so that the memory it works on is its own already.
 *
 *   PREPARED (in the list of its kind) -> CALLED -> its run ends: answered -> its room is killed, freed
 *
 * A prepared one is a room, and for a function a Python that waits in it. One that
 * ends by itself (no Python in this image) is dropped and not replaced before the
 * next call.
 */
#include "execd/isolated/oneshot.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "execd/command.h"
#include "execd/confinement.h"
#include "execd/execd.h"
#include "execd/feed.h"
#include "execd/run.h"
#include "lib/fs.h"
#include "proto/json.h"

#define RESULT_FD     3
#define CALL_FD	      4
#define SPARES_FACTOR 4

static const char runner[] =
	"import json, os, sys, traceback\n"
	"def call(request):\n"
	"    names = {'__name__': '__handler__'}\n"
	"    if 'path' in request:\n"
	"        names['__file__'] = request['path']\n"
	"        sys.path.insert(0, os.path.dirname(os.path.abspath(request['path'])))\n"
	"        with open(request['path'], 'rb') as file:\n"
	"            source = file.read()\n"
	"    else:\n"
	"        source = request['code']\n"
	"    exec(compile(source, request.get('path', '<handler>'), 'exec'), names)\n"
	"    name = request.get('handler', 'handler')\n"
	"    if not callable(names.get(name)):\n"
	"        raise NameError(\"there is no function '%s'\" % name)\n"
	"    return json.dumps({'result': names[name](request.get('event'))})\n"
	"def read_call():\n"
	"    with open(4, 'rb', buffering=0) as file:\n"
	"        return file.read()\n"
	"def answer(text):\n"
	"    try:\n"
	"        return call(json.loads(text)), 0\n"
	"    except SystemExit as end:\n"
	"        return '', end.code if isinstance(end.code, int) else int(end.code is not None)\n"
	"    except BaseException as error:\n"
	"        return json.dumps({'error': {'ename': type(error).__name__, 'evalue': str(error),\n"
	"            'traceback': traceback.format_exception(error)}}), 1\n"
	"os.chdir('/tmp')\n"
	"sys.path[0:1] = []\n"
	"answer(b'{\"code\": \"def handler(event):\\\\n return event\", \"event\": {}}')\n"
	"os.read(0, 1)\n"
	"text, code = answer(read_call())\n"
	"try:\n"
	"    rest = text = text.encode()\n"
	"    while rest:\n"
	"        rest = rest[os.write(3, rest):]\n"
	"    os.ftruncate(3, len(text))\n"
	"except OSError:\n"
	"    os.ftruncate(3, 0)\n"
	"    print('the result is longer than 4 MiB', file=sys.stderr)\n"
	"    code = 1\n"
	"try:\n"
	"    sys.stdout.flush()\n"
	"    sys.stderr.flush()\n"
	"finally:\n"
	"    os._exit(code)\n";

/* The first two are prepared. */
enum kind { FUNCTION, COMMAND, OWN, KINDS = OWN };

struct oneshot {
	struct list link; /* prepared, or called */
	struct oneshots *all;
	struct room *room;
	struct run *run;
	struct run_watch watch;
	int call_fd, result_fd;
	enum kind kind;
	bool called, timed_out;
	struct loop_timer timeout;
	struct loop_defer over;
	struct env_filter env;
	oneshot_done_fn *done;
	void *arg;
};

struct oneshots {
	struct execd *execd;
	struct rooms *rooms;
	struct list called;
	struct pool {
		struct list prepared;
		size_t n;
		bool wanted; /* it has served, and nothing has failed since */
	} pools[KINDS];
	struct loop_defer refill;
};

/* ---- one -------------------------------------------------------------------- */

static void oneshot_free(struct loop_defer *d)
{
	free(container_of(d, struct oneshot, over));
}

/* Out of every list, its room dying. */
static void oneshot_end(struct oneshot *o)
{
	struct loop *loop = o->all->execd->loop;
	loop_timer_del(&o->timeout);
	list_del(&o->link);
	if (!o->called && o->kind != OWN)
		o->all->pools[o->kind].n--;
	if (o->run) {
		run_unwatch(&o->watch);
		run_unref(TAKE_PTR(o->run));
	}
	if (o->room) {
		room_set_events(o->room, NULL, NULL);
		room_kill(o->room);
		room_unref(TAKE_PTR(o->room));
	}
	fd_close(&o->call_fd);
	fd_close(&o->result_fd);
	loop_defer_cancel(&o->over);
	loop_defer(loop, &o->over, oneshot_free);
}

static void refill(struct loop_defer *d);

static void called_over(struct loop_defer *d)
{
	struct oneshot *o = container_of(d, struct oneshot, over);
	struct oneshots *os = o->all;
	if (o->kind != OWN && !room_failure(o->room)) {
		os->pools[o->kind].wanted = true;
		loop_defer(os->execd->loop, &os->refill, refill);
	}
	oneshot_end(o);
}

/* The answer is on its way before anything is taken apart, or made for the next. */
static void run_is_over(struct run_watch *w)
{
	struct oneshot *o = container_of(w, struct oneshot, watch);
	if (!o->called) {
		oneshot_end(o);
		return;
	}
	loop_timer_del(&o->timeout);
	if (o->done)
		o->done(o->arg, o);
	loop_defer(o->all->execd->loop, &o->over, called_over);
}

/* Nothing runs in it yet that would tell. */
static void bare_ended(void *arg)
{
	struct oneshot *o = arg;
	if (!o->run)
		oneshot_end(o);
}

static void bare_ready(void *arg, int r, const struct err *err)
{
	(void)err;
	if (r < 0)
		bare_ended(arg);
}

static const struct room_events bare_events = {.ready = bare_ready, .ended = bare_ended};

static void timed_out(struct loop_timer *timer)
{
	struct oneshot *o = container_of(timer, struct oneshot, timeout);
	o->timed_out = true;
	room_kill(o->room);
}

static int make_room(struct oneshot *o, const struct isolated_spec *given, struct err *err)
{
	struct room_spec plain = {.profile = ROOM_STRICT,
				  .uid = (uid_t)-1,
				  .gid = (gid_t)-1,
				  .share_net = true,
				  .joinable = o->kind == FUNCTION};
	struct execd *execd = o->all->execd;
	if (given) {
		struct room_spec own = given->room;
		own.joinable = true;
		o->env = given->env;
		return room_new(o->all->rooms, &own, &bare_events, o, &o->room, err);
	}
	json_t *strict = json_string("strict");
	int r = strict ? confinement_get(execd->confinement, CONFINED_COMMANDS, strict, &plain.confine, err)
		       : err_sys(err, "RUNTIME_ERROR", ENOMEM, "prepare a call");
	json_decref(strict);
	o->env.secrets = true;
	if (r >= 0)
		r = room_new(o->all->rooms, &plain, &bare_events, o, &o->room, err);
	confine_unref(plain.confine);
	return r;
}

static int make_call_file(struct oneshot *o, struct err *err)
{
	o->call_fd = memfd_create("call", MFD_CLOEXEC);
	return o->call_fd < 0 ? err_sys(err, "RUNTIME_ERROR", errno, "prepare a call") : 0;
}

static int make_result_file(struct oneshot *o, struct err *err)
{
	o->result_fd = memfd_create("result", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	/* It is never longer than it is now, whoever writes to it. */
	bool bound = o->result_fd >= 0 && ftruncate(o->result_fd, ONESHOT_RESULT_MAX) == 0 &&
		     fcntl(o->result_fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL) == 0;
	return bound ? 0 : err_sys(err, "RUNTIME_ERROR", errno, "prepare a call");
}

static int start_command(struct oneshot *o, struct command_spec *spec, struct err *err)
{
	spec->room = o->room;
	spec->env = &o->env;
	spec->background = true;
	int r = command_start(o->all->execd->commands, spec, &o->run, err);
	if (r < 0)
		return r;
	o->run->command = false; /* it is not one of the client's list */
	run_watch(o->run, &o->watch, run_is_over);
	return 0;
}

static int start_python(struct oneshot *o, struct err *err)
{
	struct command_spec spec = {.stdin_pipe = true, .warm_python = true};
	int r = make_call_file(o, err);
	if (r >= 0)
		r = make_result_file(o, err);
	if (r < 0)
		return r;
	const struct spawn_fd extra[] = {{o->result_fd, RESULT_FD}, {o->call_fd, CALL_FD}};
	spec.extra = extra;
	spec.extra_n = ARRAY_SIZE(extra);
	spec.argv = json_pack("[s, s, s, s]", "python3", "-u", "-c", runner);
	r = spec.argv ? start_command(o, &spec, err)
		      : err_sys(err, "RUNTIME_ERROR", ENOMEM, "prepare a call");
	json_decref(spec.argv);
	return r;
}

/* given: the room that was asked for; NULL: one of the kind that is prepared. */
static int oneshot_new(struct oneshots *os, enum kind kind, const struct isolated_spec *given,
		       struct oneshot **ret, struct err *err)
{
	struct oneshot *o = calloc(1, sizeof(*o));
	if (!o)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "prepare a call");
	o->all = os;
	o->kind = kind;
	o->call_fd = o->result_fd = -EBADF;
	list_init(&o->link);
	if (kind != OWN) {
		list_add_tail(&os->pools[kind].prepared, &o->link);
		os->pools[kind].n++;
	}
	int r = make_room(o, given, err);
	if (r >= 0 && kind == FUNCTION)
		r = start_python(o, err);
	if (r < 0) {
		oneshot_end(o);
		return r;
	}
	*ret = o;
	return 0;
}

/* ---- those that wait -------------------------------------------------------------- */

/* One a turn. */
static void refill(struct loop_defer *d)
{
	struct oneshots *os = container_of(d, struct oneshots, refill);
	size_t most = (size_t)os->execd->kernel_spares * SPARES_FACTOR;
	struct oneshot *o;
	for (enum kind kind = 0; kind < KINDS; kind++) {
		struct pool *pool = &os->pools[kind];
		if (!pool->wanted || pool->n >= most)
			continue;
		pool->wanted = oneshot_new(os, kind, NULL, &o, NULL) >= 0;
		loop_defer(os->execd->loop, &os->refill, refill);
		return;
	}
}

static struct oneshot *take_prepared(struct pool *pool)
{
	return list_empty(&pool->prepared) ? NULL : list_entry(pool->prepared.next, struct oneshot, link);
}

/* ---- calls -------------------------------------------------------------------------- */

static int call_python(struct oneshot *o, json_t *call, struct err *err)
{
	struct feed *feed;
	int r = o->run ? 0 : start_python(o, err);
	if (r < 0)
		return r;
	char *text = json_dumps(call, JSON_COMPACT);
	r = text ? fs_write_all(o->call_fd, text, strlen(text)) : -ENOMEM;
	free(text);
	if (r < 0 || lseek(o->call_fd, 0, SEEK_SET) < 0)
		return err_sys(err, "RUNTIME_ERROR", r < 0 ? -r : errno, "hand over the call");
	r = command_feed(o->run, &feed, err);
	if (r >= 0)
		feed_close(feed);
	return r;
}

static int call_shell(struct oneshot *o, const struct oneshot_spec *given, struct err *err)
{
	struct command_spec spec = {.command = given->command, .envs = given->envs};
	int r = given->event ? make_call_file(o, err) : 0;
	if (r < 0)
		return r;
	const struct spawn_fd extra[] = {{o->call_fd, STDIN_FILENO}};
	if (given->event) {
		spec.extra = extra;
		spec.extra_n = 1;
		r = fs_write_all(o->call_fd, given->event, strlen(given->event));
		if (r < 0 || lseek(o->call_fd, 0, SEEK_SET) < 0)
			return err_sys(err, "RUNTIME_ERROR", r < 0 ? -r : errno, "hand over the event");
	}
	return start_command(o, &spec, err);
}

int oneshot_start(struct oneshots *os, const struct oneshot_spec *spec, oneshot_done_fn *done, void *arg,
		  struct oneshot **ret, struct err *err)
{
	struct loop *loop = os->execd->loop;
	enum kind kind = spec->room ? OWN : spec->command ? COMMAND : FUNCTION;
	struct oneshot *o = kind == OWN ? NULL : take_prepared(&os->pools[kind]);
	int r = o ? 0 : oneshot_new(os, kind, spec->room, &o, err);
	if (r < 0)
		return r;
	if (kind != OWN)
		os->pools[kind].n--;
	o->called = true;
	list_del(&o->link);
	list_add_tail(&os->called, &o->link);
	r = spec->command ? call_shell(o, spec, err) : call_python(o, spec->call, err);
	if (r >= 0 && spec->timeout_ms &&
	    (r = loop_timer_set(loop, &o->timeout, loop_now_ms(loop) + spec->timeout_ms, timed_out)) < 0)
		(void)err_sys(err, "RUNTIME_ERROR", -r, "call");
	if (r < 0) {
		oneshot_end(o);
		return r;
	}
	o->done = done;
	o->arg = arg;
	*ret = o;
	return 0;
}

void oneshot_cancel(struct oneshot *o)
{
	oneshot_end(o);
}

const struct err *oneshot_failure(const struct oneshot *o)
{
	return room_failure(o->room);
}

struct run *oneshot_run(struct oneshot *o)
{
	return o->run;
}

bool oneshot_timed_out(const struct oneshot *o)
{
	return o->timed_out;
}

int oneshot_result(struct oneshot *o, json_t **ret, struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(ONESHOT_RESULT_MAX + 1);
	char path[32];
	*ret = NULL;
	if (o->result_fd < 0)
		return 0;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", o->result_fd);
	int r = fs_read_file(AT_FDCWD, path, &text);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "read what the function has left");
	if (text.len == 0 || text.data[0] == '\0')
		return 0;
	return json_parse_nul(text.data, text.len, ret, err);
}

/* ---- all of them ------------------------------------------------------------------------ */

int oneshots_new(struct execd *execd, struct rooms *rooms, struct oneshots **ret)
{
	struct oneshots *os = calloc(1, sizeof(*os));
	if (!os)
		return -ENOMEM;
	os->execd = execd;
	os->rooms = rooms;
	for (enum kind kind = 0; kind < KINDS; kind++)
		list_init(&os->pools[kind].prepared);
	list_init(&os->called);
	*ret = os;
	return 0;
}

void oneshots_free(struct oneshots *os)
{
	if (!os)
		return;
	loop_defer_cancel(&os->refill);
	for (enum kind kind = 0; kind < KINDS; kind++)
		while (!list_empty(&os->pools[kind].prepared))
			oneshot_end(take_prepared(&os->pools[kind]));
	while (!list_empty(&os->called))
		oneshot_end(list_entry(os->called.next, struct oneshot, link));
	free(os);
}
