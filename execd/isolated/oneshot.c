/*
 * oneshot.c - calls, and the rooms that wait for them.
 *
 * A call is a command in a room. Python gets two anonymous files, one to find
 * its call in and one to leave the result in, and begins when its standard
 * input is closed: so a process that waits and one that is just being started
 * are the same, and nothing has to be parsed that user code could have written.
 *
 *   PREPARED (in the list) -> CALLED -> ended, freed
 *
 * A prepared one that ends by itself (no Python in this image) is dropped and not
 * replaced before the next call.
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
	"os.chdir('/tmp')\n"
	"sys.path[0:1] = []\n"
	"os.read(0, 1)\n"
	"try:\n"
	"    with open(4, 'rb') as file:\n"
	"        request = json.load(file)\n"
	"    answer, code = call(request), 0\n"
	"except SystemExit as end:\n"
	"    answer, code = '', end.code if isinstance(end.code, int) else int(end.code is not None)\n"
	"except BaseException as error:\n"
	"    answer, code = json.dumps({'error': {'ename': type(error).__name__, 'evalue': str(error),\n"
	"        'traceback': traceback.format_exception(error)}}), 1\n"
	"try:\n"
	"    with open(3, 'wb') as file:\n"
	"        file.write(answer.encode())\n"
	"        file.truncate()\n"
	"except OSError:\n"
	"    print('the result is longer than 4 MiB', file=sys.stderr)\n"
	"    code = 1\n"
	"try:\n"
	"    sys.stdout.flush()\n"
	"    sys.stderr.flush()\n"
	"finally:\n"
	"    os._exit(code)\n";

struct oneshot {
	struct list link; /* prepared, or called */
	struct oneshots *all;
	struct room *room;
	struct run *run;
	struct run_watch watch;
	int call_fd, result_fd;
	bool called, plain, timed_out; /* plain: of the kind that is prepared */
	struct loop_timer timeout;
	struct loop_defer release;
	struct env_filter env;
	oneshot_done_fn *done;
	void *arg;
};

struct oneshots {
	struct execd *execd;
	struct rooms *rooms;
	struct list prepared, called;
	size_t prepared_n;
	struct loop_defer refill;
};

static const struct room_events no_events = {0};

/* ---- one -------------------------------------------------------------------- */

static void oneshot_release(struct loop_defer *d)
{
	free(container_of(d, struct oneshot, release));
}

/* Out of every list, its room dying. */
static void oneshot_end(struct oneshot *o)
{
	struct loop *loop = o->all->execd->loop;
	loop_timer_del(&o->timeout);
	list_del(&o->link);
	if (!o->called)
		o->all->prepared_n--;
	if (o->run) {
		run_unwatch(&o->watch);
		run_unref(TAKE_PTR(o->run));
	}
	if (o->room) {
		room_kill(o->room);
		room_unref(TAKE_PTR(o->room));
	}
	fd_close(&o->call_fd);
	fd_close(&o->result_fd);
	loop_defer(loop, &o->release, oneshot_release);
}

static void refill(struct loop_defer *d);

static void run_is_over(struct run_watch *w)
{
	struct oneshot *o = container_of(w, struct oneshot, watch);
	struct oneshots *os = o->all;
	bool plain = o->called && o->plain && !room_failure(o->room);
	if (o->done)
		o->done(o->arg, o);
	oneshot_end(o);
	if (plain)
		loop_defer(os->execd->loop, &os->refill, refill);
}

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
				  .joinable = true};
	struct execd *execd = o->all->execd;
	if (given) {
		struct room_spec own = given->room;
		own.joinable = true;
		o->env = given->env;
		return room_new(o->all->rooms, &own, &no_events, NULL, &o->room, err);
	}
	json_t *strict = json_string("strict");
	int r = strict ? confinement_get(execd->confinement, CONFINED_COMMANDS, strict, &plain.confine, err)
		       : err_sys(err, "RUNTIME_ERROR", ENOMEM, "prepare a call");
	json_decref(strict);
	o->env.secrets = true;
	if (r >= 0)
		r = room_new(o->all->rooms, &plain, &no_events, NULL, &o->room, err);
	confine_unref(plain.confine);
	return r;
}

static int make_files(struct oneshot *o, struct err *err)
{
	o->call_fd = memfd_create("call", MFD_CLOEXEC);
	if (o->call_fd >= 0)
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
	const struct spawn_fd extra[] = {{o->result_fd, RESULT_FD}, {o->call_fd, CALL_FD}};
	struct command_spec spec = {
		.stdin_pipe = true, .warm_python = true, .extra = extra, .extra_n = ARRAY_SIZE(extra)};
	spec.argv = json_pack("[s, s, s, s]", "python3", "-u", "-c", runner);
	int r = spec.argv ? start_command(o, &spec, err)
			  : err_sys(err, "RUNTIME_ERROR", ENOMEM, "prepare a call");
	json_decref(spec.argv);
	return r;
}

static int start_shell(struct oneshot *o, const struct oneshot_spec *given, struct err *err)
{
	const struct spawn_fd extra[] = {{o->call_fd, STDIN_FILENO}};
	struct command_spec spec = {.command = given->command,
				    .envs = given->envs,
				    .extra = extra,
				    .extra_n = given->event ? 1 : 0};
	int r = given->event ? fs_write_all(o->call_fd, given->event, strlen(given->event)) : 0;
	if (r < 0 || (given->event && lseek(o->call_fd, 0, SEEK_SET) < 0))
		return err_sys(err, "RUNTIME_ERROR", r < 0 ? -r : errno, "hand over the event");
	return start_command(o, &spec, err);
}

/* command: NULL prepares one for a function. */
static int oneshot_new(struct oneshots *os, const struct oneshot_spec *spec, struct oneshot **ret,
		       struct err *err)
{
	struct oneshot *o = calloc(1, sizeof(*o));
	if (!o)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "prepare a call");
	o->all = os;
	o->call_fd = o->result_fd = -EBADF;
	list_add_tail(&os->prepared, &o->link);
	os->prepared_n++;
	o->plain = !spec || (!spec->room && !spec->command);
	int r = make_room(o, spec ? spec->room : NULL, err);
	if (r >= 0)
		r = make_files(o, err);
	if (r >= 0)
		r = spec && spec->command ? start_shell(o, spec, err) : start_python(o, err);
	if (r < 0) {
		oneshot_end(o);
		return r;
	}
	*ret = o;
	return 0;
}

/* ---- those that wait -------------------------------------------------------------- */

static void refill(struct loop_defer *d)
{
	struct oneshots *os = container_of(d, struct oneshots, refill);
	struct oneshot *o;
	if (os->prepared_n < (size_t)os->execd->kernel_spares * SPARES_FACTOR &&
	    oneshot_new(os, NULL, &o, NULL) >= 0 &&
	    os->prepared_n < (size_t)os->execd->kernel_spares * SPARES_FACTOR)
		loop_defer(os->execd->loop, &os->refill, refill);
}

static struct oneshot *take_prepared(struct oneshots *os)
{
	return list_empty(&os->prepared) ? NULL : list_entry(os->prepared.next, struct oneshot, link);
}

/* ---- calls -------------------------------------------------------------------------- */

static int hand_over(struct oneshot *o, json_t *call, struct err *err)
{
	struct feed *feed;
	char *text = json_dumps(call, JSON_COMPACT);
	int r = text ? fs_write_all(o->call_fd, text, strlen(text)) : -ENOMEM;
	free(text);
	if (r < 0 || lseek(o->call_fd, 0, SEEK_SET) < 0)
		return err_sys(err, "RUNTIME_ERROR", r < 0 ? -r : errno, "hand over the call");
	r = command_feed(o->run, &feed, err);
	if (r >= 0)
		feed_close(feed);
	return r;
}

int oneshot_start(struct oneshots *os, const struct oneshot_spec *spec, oneshot_done_fn *done, void *arg,
		  struct oneshot **ret, struct err *err)
{
	struct loop *loop = os->execd->loop;
	struct oneshot *o = spec->command || spec->room ? NULL : take_prepared(os);
	int r = o ? 0 : oneshot_new(os, spec, &o, err);
	if (r < 0)
		return r;
	o->called = true;
	os->prepared_n--;
	list_del(&o->link);
	list_add_tail(&os->called, &o->link);
	if (spec->call)
		r = hand_over(o, spec->call, err);
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

json_t *oneshot_result(struct oneshot *o)
{
	_cleanup_buf_ struct buf text = BUF_INIT(ONESHOT_RESULT_MAX + 1);
	json_t *result = NULL;
	char path[32];
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", o->result_fd);
	if (o->result_fd < 0 || fs_read_file(AT_FDCWD, path, &text) < 0 || text.len == 0)
		return NULL;
	return json_parse_nul(text.data, text.len, &result, NULL) < 0 ? NULL : result;
}

/* ---- all of them ------------------------------------------------------------------------ */

int oneshots_new(struct execd *execd, struct rooms *rooms, struct oneshots **ret)
{
	struct oneshots *os = calloc(1, sizeof(*os));
	if (!os)
		return -ENOMEM;
	os->execd = execd;
	os->rooms = rooms;
	list_init(&os->prepared);
	list_init(&os->called);
	*ret = os;
	return 0;
}

void oneshots_free(struct oneshots *os)
{
	if (!os)
		return;
	loop_defer_cancel(&os->refill);
	while (!list_empty(&os->prepared))
		oneshot_end(list_entry(os->prepared.next, struct oneshot, link));
	while (!list_empty(&os->called))
		oneshot_end(list_entry(os->called.next, struct oneshot, link));
	free(os);
}
