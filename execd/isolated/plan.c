/*
 * plan.c - what a room's view of the files is made of.
 *
 * The order is the whole of it. Sources first, while they are still to be
 * seen; then the seal; then what the room has of its own, over it; then the
 * workspaces and binds, those with the shorter path first, so that what lies
 * within another comes to lie on top; what must never show comes last.
 */
#include "execd/isolated/plan.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "seccomp/apply.h"

#define RUN_OPTIONS "mode=0755,size=67108864,nr_inodes=16384"
#define TMP_INODES  262144
#define CPUSET_MAX  64

struct plan_out {
	const struct room_spec *spec;
	const struct room_place *place;
	struct buf steps, text;
	uint32_t steps_n, sources_n;
};

static uint32_t put_text(struct plan_out *p, const char *s)
{
	uint32_t at = (uint32_t)p->text.len;
	(void)buf_append(&p->text, s, strlen(s) + 1);
	return at;
}

static void put_step(struct plan_out *p, struct view_step step)
{
	(void)buf_append(&p->steps, &step, sizeof(step));
	p->steps_n++;
}

static uint32_t put_source(struct plan_out *p, const char *path, uint32_t flags)
{
	put_step(p, (struct view_step){
			    .kind = VIEW_SOURCE, .flags = flags, .n = p->sources_n, .a = put_text(p, path)});
	return p->sources_n++;
}

static void put_tmpfs(struct plan_out *p, const char *path, const char *options, uint32_t flags)
{
	uint32_t a = put_text(p, path), b = put_text(p, options);
	put_step(p, (struct view_step){.kind = VIEW_TMPFS, .flags = flags, .a = a, .b = b});
}

/* ---- sources and places ----------------------------------------------------- */

/* Where something comes to lie, sorted by path. */
struct target {
	const char *path;
	struct view_step step; /* without its path */
};

static int compare_targets(const void *a, const void *b)
{
	const struct target *x = a, *y = b;
	return strcmp(x->path, y->path);
}

static size_t put_mounts(struct plan_out *p, struct target *targets)
{
	const struct room_spec *spec = p->spec;
	for (size_t i = 0; i < spec->mounts_n; i++) {
		const struct room_mount *m = &spec->mounts[i];
		uint32_t n = (uint32_t)i;
		targets[i].path = m->path;
		if (m->mode == ROOM_OVERLAY) {
			targets[i].step = (struct view_step){
				.kind = VIEW_OVERLAY, .n = n, .flags = m->userxattr ? VIEW_USERXATTR : 0};
			continue;
		}
		n = put_source(p, m->path, m->mode == ROOM_RO ? VIEW_READONLY : 0);
		targets[i].step = (struct view_step){.kind = VIEW_PLACE, .n = n};
	}
	return spec->mounts_n;
}

static size_t put_binds(struct plan_out *p, struct target *targets)
{
	const struct room_spec *spec = p->spec;
	size_t n = 0;
	if (spec->profile == ROOM_BALANCED) {
		targets[n].path = "/tmp";
		targets[n].step =
			(struct view_step){.kind = VIEW_PLACE, .n = put_source(p, "/tmp", VIEW_OPTIONAL)};
		n++;
	}
	for (size_t i = 0; i < spec->binds_n; i++) {
		const struct room_bind *b = &spec->binds[i];
		uint32_t flags = (b->readonly ? VIEW_READONLY : 0) | (b->optional ? VIEW_OPTIONAL : 0);
		targets[n].path = b->dest ? b->dest : b->source;
		targets[n].step =
			(struct view_step){.kind = VIEW_PLACE, .n = put_source(p, b->source, flags)};
		n++;
	}
	return n;
}

/* The layers must be sources before the seal, and mounts of the cellar after it. */
static void put_stacks(struct plan_out *p, struct view_step *stacks, size_t *ret_n)
{
	const struct room_spec *spec = p->spec;
	*ret_n = 0;
	for (size_t i = 0; i < spec->mounts_n; i++) {
		const struct room_mount *m = &spec->mounts[i];
		if (m->mode != ROOM_OVERLAY)
			continue;
		struct view_step s = {.kind = VIEW_STACK, .n = (uint32_t)i, .b = VIEW_NO_SOURCE};
		s.a = put_source(p, m->path, VIEW_ALONE);
		if (p->place->stacks[i])
			s.b = put_source(p, p->place->stacks[i], VIEW_ALONE);
		else
			s.size = m->size_max;
		stacks[(*ret_n)++] = s;
	}
}

/* ---- what a profile gives and takes ---------------------------------------------- */

/* A private /run takes away what names are resolved by, where that is a link into it. */
static size_t put_resolver(struct plan_out *p, struct target *target)
{
	static char path[PATH_MAX]; /* borrowed by the target until the plan is made */
	if (p->spec->profile != ROOM_STRICT || !realpath("/etc/resolv.conf", path) ||
	    strncmp(path, "/run/", 5) != 0)
		return 0;
	target->path = path;
	target->step = (struct view_step){.kind = VIEW_PLACE, .n = put_source(p, path, VIEW_READONLY)};
	return 1;
}

static void put_own(struct plan_out *p)
{
	const struct room_spec *spec = p->spec;
	bool strict = spec->profile == ROOM_STRICT;
	char options[96];
	(void)snprintf(options, sizeof(options), "mode=1777,size=%llu,nr_inodes=%d",
		       (unsigned long long)(spec->tmp_max ? spec->tmp_max : ROOM_TMP_MAX), TMP_INODES);
	if (strict) {
		put_tmpfs(p, "/tmp", options, 0);
		put_tmpfs(p, "/run", RUN_OPTIONS, VIEW_OPTIONAL); /* there are images without */
	}
	put_step(p, (struct view_step){.kind = VIEW_DEV});
	put_step(p, (struct view_step){.kind = VIEW_PROC, .flags = strict ? VIEW_READONLY : 0});
}

static void put_masks(struct plan_out *p)
{
	static const char *const always[] = {
		"/proc/interrupts",  "/proc/asound",	    "/proc/acpi",	    "/proc/kcore",
		"/proc/keys",	     "/proc/latency_stats", "/proc/timer_list",	    "/proc/sched_debug",
		"/proc/scsi",	     "/proc/kallsyms",	    "/sys/firmware",	    "/sys/fs",
		"/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/kernel/config"};
	static const char *const strict[] = {"/sys/kernel", "/sys/module"};
	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		if (p->spec->profile == ROOM_BALANCED || strncmp(always[i], "/sys/kernel/", 12) != 0)
			put_step(p, (struct view_step){.kind = VIEW_MASK, .a = put_text(p, always[i])});
	for (size_t i = 0; i < ARRAY_SIZE(strict) && p->spec->profile == ROOM_STRICT; i++)
		put_step(p, (struct view_step){.kind = VIEW_MASK, .a = put_text(p, strict[i])});
	if (p->place->hidden)
		put_step(p, (struct view_step){.kind = VIEW_MASK, .a = put_text(p, p->place->hidden)});
	for (size_t i = 0; i < p->spec->hide_n; i++)
		put_step(p, (struct view_step){.kind = VIEW_MASK, .a = put_text(p, p->spec->hide[i])});
}

static void put_view(struct plan_out *p)
{
	struct target targets[2 * VIEW_SOURCES_MAX];
	struct view_step stacks[ROOM_MOUNTS_MAX];
	size_t stacks_n, n = put_mounts(p, targets);
	n += put_binds(p, targets + n);
	n += put_resolver(p, targets + n);
	put_stacks(p, stacks, &stacks_n);
	put_step(p, (struct view_step){.kind = VIEW_SEAL});
	if (stacks_n > 0)
		put_step(p, (struct view_step){.kind = VIEW_CELLAR});
	for (size_t i = 0; i < stacks_n; i++)
		put_step(p, stacks[i]);
	put_own(p);
	put_masks(p);
	qsort(targets, n, sizeof(*targets), compare_targets);
	for (size_t i = 0; i < n; i++) {
		targets[i].step.a = put_text(p, targets[i].path);
		put_step(p, targets[i].step);
	}
}

/* ---- the message ------------------------------------------------------------------ */

static int finish(struct plan_out *p, struct wire_plan *head, const void *confine, size_t confine_n,
		  struct buf *out)
{
	/* What follows the steps begins at a multiple of 8. */
	head->steps_n = p->steps_n;
	head->confine_n = (uint32_t)confine_n;
	head->text_n = (uint32_t)p->text.len;
	(void)buf_append(out, head, sizeof(*head));
	(void)buf_append(out, p->steps.data, p->steps.len);
	if (confine_n > 0)
		(void)buf_append(out, confine, confine_n);
	(void)buf_append(out, p->text.data, p->text.len);
	int r = p->text.failed || p->steps.failed || out->failed ? -ENOMEM : 0;
	buf_done(&p->text);
	buf_done(&p->steps);
	return r;
}

static void put_rlimits(struct wire_plan *head, const struct spawn_rlimit *rlimits, size_t n)
{
	head->rlimits_n = (uint32_t)MIN(n, ARRAY_SIZE(head->rlimits));
	for (uint32_t i = 0; i < head->rlimits_n; i++)
		head->rlimits[i] = (struct wire_rlimit){(uint32_t)rlimits[i].resource,
							rlimits[i].limit.rlim_cur, rlimits[i].limit.rlim_max};
}

int plan_room(const struct room_spec *spec, const struct room_place *place, struct buf *out, struct err *err)
{
	struct plan_out p = {
		.spec = spec, .place = place, .steps = BUF_INIT(WIRE_MAX), .text = BUF_INIT(WIRE_MAX)};
	struct wire_plan head = {.op = WIRE_ROOM, .userns = place->userns, .tag = place->tag};
	if (2 * spec->mounts_n + spec->binds_n + 2 > VIEW_SOURCES_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "binds: with the workspaces more than %d places, the most of one session",
			       VIEW_SOURCES_MAX);
	head.namespaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
	if (!spec->share_net) {
		head.namespaces |= CLONE_NEWNET;
		head.flags |= WIRE_LOOPBACK;
	}
	if (place->userns && spec->profile == ROOM_STRICT)
		head.flags |= WIRE_NO_USERNS;
	if (spec->joinable)
		head.flags |= WIRE_JOINABLE;
	head.uid = place->uid;
	head.gid = place->gid;
	head.groups_n = (uint32_t)MIN(place->groups_n, ARRAY_SIZE(head.groups));
	for (uint32_t i = 0; i < head.groups_n; i++)
		head.groups[i] = place->groups[i];
	put_rlimits(&head, place->rlimits, place->rlimits_n);
	(void)put_text(&p, ""); /* 0 is none */
	head.hostname = put_text(&p, place->name);
	head.cwd = put_text(&p, spec->mounts_n > 0 ? spec->mounts[0].path : "/");
	put_view(&p);
	int r = finish(&p, &head, place->confine, place->confine ? place->confine->size : 0, out);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "plan a room") : 0;
}

int plan_remount(const struct room_mount *mount, size_t index, unsigned top, bool last, bool userns,
		 uint64_t tag, struct buf *out)
{
	struct plan_out p = {.steps = BUF_INIT(WIRE_MAX), .text = BUF_INIT(WIRE_MAX)};
	struct wire_plan head = {.op = WIRE_REMOUNT, .userns = userns, .tag = tag};
	(void)put_text(&p, "");
	put_step(&p, (struct view_step){.kind = VIEW_OVERLAY,
					.n = (uint32_t)index,
					.a = put_text(&p, mount->path),
					.size = top,
					.flags = (mount->userxattr ? VIEW_USERXATTR : 0) |
						 (last ? VIEW_LAST : 0)});
	return finish(&p, &head, NULL, 0, out);
}

static struct wire_plan head_of(const struct room_ids_in_force *ids, enum wire_op op, uint64_t tag)
{
	struct wire_plan head = {.op = op,
				 .userns = ids->userns,
				 .uid = ids->uid,
				 .gid = ids->gid,
				 .groups_n = ids->groups_n,
				 .tag = tag};
	memcpy(head.groups, ids->groups, sizeof(head.groups));
	return head;
}

int plan_clerk(const struct room_ids_in_force *ids, const char *cwd, uint64_t tag, struct buf *out)
{
	struct plan_out p = {.steps = BUF_INIT(WIRE_MAX), .text = BUF_INIT(WIRE_MAX)};
	struct wire_plan head = head_of(ids, WIRE_CLERK, tag);
	(void)put_text(&p, "");
	head.cwd = put_text(&p, cwd);
	return finish(&p, &head, NULL, 0, out);
}

int plan_fork(const struct room_ids_in_force *ids, const struct confine_plan *confine,
	      const struct spawn_rlimit *rlimits, size_t rlimits_n, struct buf *out)
{
	struct plan_out p = {.steps = BUF_INIT(WIRE_MAX), .text = BUF_INIT(WIRE_MAX)};
	struct wire_plan head = head_of(ids, WIRE_FORK, 0);
	put_rlimits(&head, rlimits, rlimits_n);
	return finish(&p, &head, confine, confine ? confine->size : 0, out);
}

/* ---- words ---------------------------------------------------------------------------- */

static const char *const verbs[] = {[VIEW_SOURCE] = "open",
				    [VIEW_CELLAR] = "mount a tmpfs for overlays",
				    [VIEW_STACK] = "put the layers of an overlay in place",
				    [VIEW_SEAL] = "make the container's files read-only",
				    [VIEW_TMPFS] = "mount a tmpfs at",
				    [VIEW_DEV] = "make a /dev",
				    [VIEW_PROC] = "mount a /proc",
				    [VIEW_MASK] = "hide",
				    [VIEW_PLACE] = "mount",
				    [VIEW_OVERLAY] = "mount an overlay at"};

int plan_step_kind(const struct buf *plan, uint32_t i)
{
	const struct wire_plan *head = (const void *)plan->data;
	const struct view_step *steps = (const void *)(plan->data + sizeof(*head));
	return plan->len > 0 && i < head->steps_n ? (int)steps[i].kind : -1;
}

const char *plan_step_text(const struct buf *plan, uint32_t i, char *out, size_t size)
{
	const struct wire_plan *head = (const void *)plan->data;
	const struct view_step *steps = (const void *)(plan->data + sizeof(*head));
	const char *text = (const char *)plan->data + plan->len - head->text_n;
	if (i >= head->steps_n || steps[i].kind >= ARRAY_SIZE(verbs)) {
		(void)snprintf(out, size, "build the view of the files");
		return out;
	}
	const struct view_step *s = &steps[i];
	bool path = s->kind != VIEW_STACK && s->a != 0;
	(void)snprintf(out, size, "%s%s%s%s", verbs[s->kind], path ? " '" : "", path ? text + s->a : "",
		       path ? "'" : "");
	return out;
}
