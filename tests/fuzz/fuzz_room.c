/*
 * Isolated sessions and calls, up to the wall and from behind it: what is asked for over HTTP, what the
 * nursery and a room's init are told, and what an init and a shell that are somebody else's answer. Each
 * message is one that its reader takes, each room ends, and nothing of it stays.
 *
 * The input is lines:
 *
 *   P PATH BODY, G PATH, D PATH   a request; "@" in it is the id of the session made last, "$" that of the
 * run B                             the room asked for last is born; "b" and a byte: it is not, that is why
 *   E, six bytes                  an event of its init: kind, how many descriptors, step, errnum, status, and
 *                                 whose: "s" of what was started last, "c" of what was cleared
 *   X                             the rest to the agent's end of its socket, as it is
 *   W, a digit                    the rest into that descriptor of what was started last
 *   C, K, O                       these are closed; the init dies; the room before it is the one that is
 * meant M, m                          an overlay that was to be mounted is, or is not
 */
#include <sys/socket.h>
#include <sys/uio.h>

#include "execd/isolated/room_priv.h"
#include "tests/fuzz/agent.h"
#include "tests/fuzz/dead.h"

#define CLIENTS	   6
#define SEATS	   16
#define LINE_TURNS 4
#define LINES_MAX  64

static struct agent agent;
static pid_t dead[DEAD_N];
static size_t dead_at;

/* The other side of the wall: of each room its init. */
static struct seat {
	uint64_t tag, started, cleared;
	int socket;
	int fds[MESSAGE_FDS_MAX]; /* of what was to be started last */
	size_t fds_n;
} seats[SEATS];
static size_t seats_n, seat_at;

static struct {
	struct room *room;
	size_t index;
	unsigned top;
	room_done_fn *done;
	void *arg;
} mounting;

static struct {
	int fds[CLIENTS];
	size_t n;
	char session[ISOLATED_ID_MAX], run[40];
} clients;

static struct rooms *rooms(void)
{
	return isolateds_rooms(agent.execd.isolateds);
}

/* ---- the nursery ------------------------------------------------------------------ */

static void must_be_in_text(const struct wire_plan *head, const char *text, uint32_t at)
{
	must(at < head->text_n && memchr(text + at, '\0', head->text_n - at));
}

static void must_be_a_step(const struct wire_plan *head, const char *text, const struct view_step *step)
{
	must(step->kind <= VIEW_OVERLAY);
	if (step->kind == VIEW_STACK) { /* numbers of sources */
		must(step->n < ROOM_MOUNTS_MAX && step->a < VIEW_SOURCES_MAX);
		must(step->b < VIEW_SOURCES_MAX || step->b == VIEW_NO_SOURCE);
		return;
	}
	must_be_in_text(head, text, step->a);
	must_be_in_text(head, text, step->b);
	must(step->kind != VIEW_SOURCE || step->n < VIEW_SOURCES_MAX);
}

/* As nursery.c and view.c take it. */
static const struct wire_plan *must_be_a_plan(const struct buf *message)
{
	const struct wire_plan *head = (const void *)message->data;
	const struct view_step *steps = (const void *)(message->data + sizeof(*head));
	const char *text;

	must(message->len >= sizeof(*head) && message->len <= WIRE_MAX && head->text_n > 0);
	must(sizeof(*head) + head->steps_n * sizeof(*steps) + head->confine_n + head->text_n == message->len);
	text = (const char *)message->data + message->len - head->text_n;
	must(text[head->text_n - 1] == '\0' && head->groups_n <= ARRAY_SIZE(head->groups));
	must(head->rlimits_n <= ARRAY_SIZE(head->rlimits));
	must_be_in_text(head, text, head->cwd);
	must_be_in_text(head, text, head->hostname);
	for (uint32_t i = 0; i < head->steps_n; i++) {
		must_be_a_step(head, text, &steps[i]);
	}
	return head;
}

int nursery_tell(struct rooms *all, const struct buf *message, const int *fds, size_t fds_n, struct err *err)
{
	const struct wire_plan *head = must_be_a_plan(message);
	struct seat *s = &seats[seats_n];

	(void)all;
	if (head->op != WIRE_ROOM)
		return 0;
	must(fds_n >= 1);
	if (seats_n == SEATS)
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", EAGAIN, "enough");
	*s = (struct seat){.tag = head->tag, .socket = fcntl(fds[0], F_DUPFD_CLOEXEC, 3)};
	must(s->socket >= 0);
	seat_at = seats_n++;
	return 0;
}

void nursery_lost(struct rooms *all)
{
	(void)all;
}

static void mounted(int r)
{
	struct room *room = TAKE_PTR(mounting.room);
	struct err err;

	if (!room)
		return;
	if (r < 0)
		(void)err_sys(&err, "RUNTIME_ERROR", -r, "mount");
	else
		room->mounts[mounting.index].top = mounting.top;
	mounting.done(mounting.arg, r, r < 0 ? &err : NULL);
	room_unref(room);
}

int room_remount(struct room *room, size_t index, unsigned top, bool last, room_done_fn *done, void *arg,
		 struct err *err)
{
	_cleanup_buf_ struct buf message = BUF_INIT(WIRE_MAX);

	must(index < room->mounts_n && room->mounts[index].mode == ROOM_OVERLAY && top < ROOM_LAYERS_MAX);
	if (room->state != ROOM_READY || mounting.room)
		return err_set(err, ERR_GONE, "RUNTIME_ERROR", ESRCH, "not now");
	must(plan_remount(&room->mounts[index], index, top, last, false, 1, &message) == 0);
	(void)must_be_a_plan(&message);
	mounting.room = room_ref(room);
	mounting.index = index;
	mounting.top = top;
	mounting.done = done;
	mounting.arg = arg;
	return 0;
}

/* ---- an init ----------------------------------------------------------------------- */

static struct room *room_of(const struct seat *s)
{
	list_foreach_safe (l, &rooms()->all) {
		struct room *room = list_entry(l, struct room, link);

		if (s && room->tag == s->tag)
			return room;
	}
	return NULL;
}

static void close_all(struct seat *s)
{
	while (s->fds_n > 0)
		fd_close(&s->fds[--s->fds_n]);
}

static void must_be_a_spawn(const char *message, size_t n, size_t fds_n)
{
	const struct wire_spawn *head = (const void *)message;
	size_t texts = 0;

	must(n >= sizeof(*head) && head->fds_n <= ARRAY_SIZE(head->fds));
	if (head->clear)
		return;
	must(fds_n == head->fds_n + head->outside);
	for (uint32_t i = 0; i < head->fds_n; i++)
		must(head->fds[i] >= 0 && head->fds[i] < 64);
	if (head->outside)
		return;
	must(head->text_n == n - sizeof(*head));
	for (size_t i = sizeof(*head); i < n; i++)
		texts += message[i] == '\0';
	must(texts == 2 + (size_t)head->argc + head->envc && message[n - 1] == '\0');
}

static void hear(struct seat *s)
{
	static _Alignas(8) char message[WIRE_MAX];
	const struct wire_spawn *head = (const void *)message;
	int fds[MESSAGE_FDS_MAX];
	size_t fds_n;
	ssize_t n;

	while (s->socket >= 0 &&
	       (n = message_receive(s->socket, message, sizeof(message), fds, &fds_n, MSG_DONTWAIT)) > 0) {
		must_be_a_spawn(message, (size_t)n, fds_n);
		if (head->clear) {
			s->cleared = head->tag;
			continue;
		}
		close_all(s);
		s->started = head->tag;
		s->fds_n = fds_n;
		memcpy(s->fds, fds, fds_n * sizeof(fds[0]));
	}
}

static void init_ends(struct room *room)
{
	const struct rusage none = {0};
	struct child *c = &room->init;

	if (!room->born) {
		room_born(room, -EPIPE);
	} else if (c->pid > 0) {
		child_forget(c);
		c->on_exit(c, SIGKILL, &none);
	}
}

/* Who is killed dies. all: and so does who is not. */
static void let_die(bool all)
{
	for (bool again = true; again;) {
		again = false;
		list_foreach_safe (l, &rooms()->all) {
			struct room *room = list_entry(l, struct room, link);

			if (room->state == ROOM_ENDED || !(all || (room->killed && room->born)))
				continue;
			init_ends(room);
			again = true;
			break; /* others may have ended with it */
		}
	}
}

static void be_born(struct seat *s, int errnum)
{
	struct room *room = room_of(s);

	if (room && !room->born)
		room_born(room, errnum ? -errnum : dead[dead_at++ % DEAD_N]);
}

static void say(struct seat *s, const uint8_t *line, size_t n)
{
	struct wire_event e = {0};
	struct iovec iov = {&e, sizeof(e)};
	int fds[MESSAGE_FDS_MAX];
	size_t fds_n;

	if (n < 6 || s->socket < 0)
		return;
	e.kind = line[0] - (uint32_t)'0';
	e.stage = line[2];
	e.step = line[2] - (uint32_t)'0';
	e.errnum = line[3];
	e.wstatus = line[4];
	e.flags = line[4];
	e.tag = line[5] == 's' ? s->started : line[5] == 'c' ? s->cleared : line[5];
	fds_n = (line[1] - (size_t)'0') % 10;
	for (size_t i = 0; i < fds_n; i++)
		fds[i] = open("/w/cellar", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	(void)message_send(s->socket, &iov, 1, fds, fds_n, MSG_DONTWAIT);
	for (size_t i = 0; i < fds_n; i++)
		fd_close(&fds[i]);
}

/* ---- clients ------------------------------------------------------------------------ */

static void see_session(void *arg, struct isolated *s)
{
	(void)arg;
	(void)snprintf(clients.session, sizeof(clients.session), "%s", isolated_id(s));
}

static void see_run(const struct buf *out)
{
	static const char key[] = "\"run_id\":\"";
	const uint8_t *at = out->len > 0 ? memmem(out->data, out->len, key, sizeof(key) - 1) : NULL;
	size_t left = at ? (size_t)(out->data + out->len - at) : 0;

	if (left > sizeof(key) + 36)
		(void)snprintf(clients.run, sizeof(clients.run), "%.36s", (const char *)at + sizeof(key) - 1);
}

static void fill_in(const uint8_t *data, size_t n, struct buf *out)
{
	for (size_t i = 0; i < n; i++) {
		if (data[i] == '@')
			(void)buf_puts(out, clients.session);
		else if (data[i] == '$')
			(void)buf_puts(out, clients.run);
		else
			(void)buf_append(out, data + i, 1);
	}
}

static void leave(size_t i)
{
	(void)close(clients.fds[i]);
	clients.fds[i] = clients.fds[--clients.n];
}

static void ask(const char *method, const uint8_t *line, size_t n)
{
	_cleanup_buf_ struct buf body = BUF_INIT(FUZZ_OUT_MAX), request = BUF_INIT(FUZZ_OUT_MAX),
				 out = BUF_INIT(FUZZ_OUT_MAX);
	const uint8_t *space = n > 0 ? memchr(line, ' ', n) : NULL;
	size_t path_n = space ? (size_t)(space - line) : n;
	int fd;

	if (clients.n == CLIENTS)
		leave(0);
	(void)buf_printf(&request, "%s /v1/isolated/", method);
	fill_in(line, path_n, &request);
	if (space)
		fill_in(space + 1, n - path_n - 1, &body);
	(void)buf_printf(&request, " HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n", body.len);
	(void)buf_append(&request, body.data ? body.data : (const uint8_t *)"", body.len);
	fd = clients.fds[clients.n++] = drive_connect(&agent.drive);
	drive_write(&agent.drive, fd, request.data, request.len, 0, &out);
	see_run(&out);
}

static void listen_to_all(void)
{
	for (size_t i = clients.n; i-- > 0;) {
		_cleanup_buf_ struct buf out = BUF_INIT(FUZZ_OUT_MAX);

		if (!drive_read(clients.fds[i], &out))
			leave(i);
		see_run(&out);
	}
	isolateds_each(agent.execd.isolateds, see_session, NULL);
}

/* ---- the whole ------------------------------------------------------------------------ */

static void do_line(const uint8_t *line, size_t n)
{
	struct seat none = {.socket = -EBADF}, *s = seats_n > 0 ? &seats[seat_at] : &none;
	const uint8_t *rest = line + 1;

	n--;
	switch (line[0]) {
	case 'P':
		ask("POST", rest, n);
		break;
	case 'G':
		ask("GET", rest, n);
		break;
	case 'D':
		ask("DELETE", rest, n);
		break;
	case 'B':
		be_born(s, 0);
		break;
	case 'b':
		be_born(s, n > 0 && rest[0] ? rest[0] : EPERM);
		break;
	case 'E':
		say(s, rest, n);
		break;
	case 'X':
		(void)send(s->socket, rest, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 'W':
		if (n > 1 && (size_t)(rest[0] - '0') < s->fds_n)
			(void)!write(s->fds[rest[0] - '0'], rest + 1, n - 1);
		break;
	case 'C':
		close_all(s);
		break;
	case 'K':
		if (room_of(s))
			init_ends(room_of(s));
		break;
	case 'O':
		seat_at = seat_at > 0 ? seat_at - 1 : 0;
		break;
	case 'M':
	case 'm':
		mounted(line[0] == 'M' ? 0 : -EBUSY);
		break;
	default:
		break;
	}
}

static void delete_it(void *arg, struct isolated *s)
{
	(void)arg;
	isolated_delete(s, NULL, NULL);
}

static void count(void *arg, struct isolated *s)
{
	(void)s;
	++*(size_t *)arg;
}

/* Each time it is asked it does what there is to do. */
static bool is_left(void)
{
	size_t n = 0;

	isolateds_each(agent.execd.isolateds, delete_it, NULL);
	mounted(-EPIPE);
	let_die(true);
	isolateds_each(agent.execd.isolateds, count, &n);
	return n > 0 || !list_empty(&rooms()->all);
}

static void all_begins(void)
{
	if (!agent.drive.loop) {
		jail_program("/bin/bash");
		must(setenv("PATH", "/bin", 1) == 0);
		dead_new(dead);
		jail_begin();
		agent_new(&agent, NULL);
		agent.execd.isolation_root = "/w/rooms";
	}
	jail_begin();
	(void)fs_mkdir_p("/w/d", 0777);
	(void)fs_mkdir_p("/w/cellar/0/stack/0/e", 0777);
	(void)fs_mkdir_p("/w/cellar/1/stack/0", 0777);
	(void)fs_write_file(AT_FDCWD, "/w/cellar/0/stack/0/new", "new", 3, 0644);
	seats_n = seat_at = 0;
	clients.session[0] = clients.run[0] = '\0';
}

static void all_ends(void)
{
	while (clients.n > 0)
		leave(0);
	drive_gone(&agent.drive, is_left);
	for (size_t i = 0; i < seats_n; i++) {
		close_all(&seats[i]);
		fd_close(&seats[i].socket);
	}
	drive_turns(&agent.drive, LINE_TURNS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	unsigned lines = 0;

	if (n == 0 || !jail())
		return 0;
	all_begins();
	agent.drive.wait_ms = 0;
	for (const uint8_t *end = data + n, *next; data < end && lines < LINES_MAX; data = next, lines++) {
		const uint8_t *lf = memchr(data, '\n', (size_t)(end - data));

		next = lf ? lf + 1 : end;
		if ((lf ? lf : end) > data)
			do_line(data, (size_t)((lf ? lf : end) - data));
		for (size_t i = 0; i < seats_n; i++)
			hear(&seats[i]);
		let_die(false);
		drive_turns(&agent.drive, LINE_TURNS);
		listen_to_all();
	}
	agent.drive.wait_ms = 1;
	all_ends();
	jail_end();
	return 0;
}
