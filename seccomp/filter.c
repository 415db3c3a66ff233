/*
 * filter.c - puts programs together from libseccomp's and a prologue of ours.
 *
 *   prologue:  another architecture, or an x32 number: body
 *              one of `passed`: allow
 *              one of the extras: its action
 *              newer than the profile: ENOSYS
 *   body:      libseccomp's program, in `notify` with its denials turned into notifications
 *
 * Jumps of the prologue reach no further than its own end, so 8 bits do.
 */
#include "seccomp/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "lib/util.h"
#include "seccomp/kernel.h"
#include "seccomp/names.h"

#define X32_BIT	     0x40000000
#define PROLOGUE_MAX 96

#define AT_NR	offsetof(struct seccomp_data, nr)
#define AT_ARCH offsetof(struct seccomp_data, arch)
#define AT_FLAGS                                                                                             \
	offsetof(struct seccomp_data, args[2]) /* of sendmsg; the low half on little-endian machines */

/* What apply.c calls with the filter in force, and the end of a child that cannot go on. */
const int filter_start_calls[FILTER_START_CALLS_N] = {SYS_execve, SYS_seccomp, SYS_sendmsg, SYS_write,
						      SYS_exit_group};

/* No program goes without these; a signal's return has nothing to say to anybody. */
const int filter_untold[] = {SYS_execve,	  SYS_write, SYS_exit_group, SYS_exit, SYS_rt_sigreturn,
			     SYS_restart_syscall, -1};

struct prologue {
	struct sock_filter insns[PROLOGUE_MAX];
	size_t n;
};

static void put(struct prologue *p, struct sock_filter insn)
{
	assert(p->n < PROLOGUE_MAX);
	p->insns[p->n++] = insn;
}

/* A is k: the answer. */
static void put_answer(struct prologue *p, uint16_t compare, uint32_t k, uint32_t action)
{
	put(p, (struct sock_filter)BPF_JUMP(BPF_JMP | compare | BPF_K, k, 0, 1));
	put(p, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

/* Leaves the number in A. Returns where the jumps out of it stand: put_body() aims them. */
static void begin(struct prologue *p)
{
	put(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT_ARCH));
	put(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, native_arch(), 0, UINT8_MAX));
	put(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT_NR));
#ifdef __x86_64__
	put(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, UINT8_MAX, 0));
#endif
}

/* The jumps of begin() go to the end of the prologue. */
static void end(struct prologue *p)
{
	for (size_t i = 0; i < 4; i++) {
		struct sock_filter *insn = &p->insns[i];

		if (BPF_CLASS(insn->code) != BPF_JMP)
			continue;
		if (insn->jt == UINT8_MAX)
			insn->jt = (uint8_t)(p->n - i - 1);
		if (insn->jf == UINT8_MAX)
			insn->jf = (uint8_t)(p->n - i - 1);
	}
}

static bool denies(uint32_t action)
{
	action &= SECCOMP_RET_ACTION_FULL;
	return action == SECCOMP_RET_ERRNO || action == SECCOMP_RET_KILL_PROCESS ||
	       action == SECCOMP_RET_KILL_THREAD;
}

static uint32_t told(uint32_t action, bool tell)
{
	return tell && denies(action) ? SECCOMP_RET_USER_NOTIF : action;
}

static void put_profile(struct prologue *p, const struct filter_parts *parts, bool tell)
{
	for (size_t i = 0; i < parts->extras_n; i++)
		put_answer(p, BPF_JEQ, (uint32_t)parts->extras[i].nr, told(parts->extras[i].action, tell));
	if (parts->newest >= 0)
		put_answer(p, BPF_JGT, (uint32_t)parts->newest, told(SECCOMP_RET_ERRNO | ENOSYS, tell));
}

static int join(const struct prologue *p, const struct filter_parts *parts, bool tell,
		struct filter_program *ret)
{
	size_t n = p->n + parts->body_n;

	if (n > BPF_MAXINSNS)
		return -E2BIG;
	ret->insns = calloc(n, sizeof(*ret->insns));
	if (!ret->insns)
		return -ENOMEM;
	ret->n = n;
	memcpy(ret->insns, p->insns, p->n * sizeof(*ret->insns));
	memcpy(ret->insns + p->n, parts->body, parts->body_n * sizeof(*ret->insns));
	for (size_t i = p->n; i < n; i++)
		if (ret->insns[i].code == (BPF_RET | BPF_K))
			ret->insns[i].k = told(ret->insns[i].k, tell);
	return 0;
}

static int build_plain(const struct filter_parts *parts, struct filter_program *ret)
{
	struct prologue p = {.n = 0};

	begin(&p);
	put_profile(&p, parts, false);
	end(&p);
	return join(&p, parts, false, ret);
}

static int build_notify(const struct filter_parts *parts, struct filter_program *ret)
{
	struct prologue p = {.n = 0};

	begin(&p);
	for (size_t i = 0; i < FILTER_START_CALLS_N; i++)
		put_answer(&p, BPF_JEQ, (uint32_t)filter_start_calls[i], SECCOMP_RET_ALLOW);
	put_profile(&p, parts, true);
	end(&p);
	return join(&p, parts, true, ret);
}

/* Another architecture has its answer from `notify`, as has every call that is not one of a start. */
static int build_rest(const struct filter_parts *parts, struct filter_program *ret)
{
	struct prologue p = {.n = 0};

	begin(&p);
	for (size_t i = 0; i < FILTER_START_CALLS_N; i++) /* over the others of them, and the answer */
		put(&p,
		    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)filter_start_calls[i],
						 (uint8_t)(FILTER_START_CALLS_N - i), 0));
	put(&p, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
	end(&p);
	/* begin()'s jumps mean "not of this architecture": allow, which stands last. */
	for (size_t i = 0; i < 4; i++) {
		if (BPF_CLASS(p.insns[i].code) != BPF_JMP)
			continue;
		p.insns[i].jt -= p.insns[i].jt > 0;
		p.insns[i].jf -= p.insns[i].jf > 0;
	}
	put_profile(&p, parts, false);
	return join(&p, parts, false, ret);
}

int filter_build(const struct filter_parts *parts, struct filter *ret)
{
	struct filter f = {0};
	int r = build_plain(parts, &f.plain);

	if (r >= 0)
		r = build_notify(parts, &f.notify);
	if (r >= 0 && !parts->start_ok)
		r = build_rest(parts, &f.rest);
	if (r < 0)
		filter_done(&f);
	*ret = f;
	return r;
}

int filter_build_recorder(struct filter *ret)
{
	static const struct sock_filter tell[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)};
	const struct filter_parts parts = {.body = tell, .body_n = ARRAY_SIZE(tell)};
	struct prologue p = {.n = 0};
	struct filter f = {0};

	begin(&p);
	for (size_t i = 0; filter_untold[i] >= 0; i++)
		put_answer(&p, BPF_JEQ, (uint32_t)filter_untold[i], SECCOMP_RET_ALLOW);
	/* The listener's own way home. */
	put(&p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sendmsg, 0, 3));
	put(&p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT_FLAGS));
	put_answer(&p, BPF_JEQ, CONFINE_SEND_FLAGS, SECCOMP_RET_ALLOW);
	end(&p);
	int r = join(&p, &parts, true, &f.notify);

	*ret = f;
	return r;
}

void filter_done(struct filter *f)
{
	free(f->plain.insns);
	free(f->notify.insns);
	free(f->rest.insns);
	*f = (struct filter){0};
}

/* ---- running a program ------------------------------------------------------------ */

/* Only forward, so it ends. */
uint32_t filter_run(const struct filter_program *p, const struct seccomp_data *data)
{
	uint32_t a = 0;

	for (size_t pc = 0; pc < p->n; pc++) {
		const struct sock_filter *insn = &p->insns[pc];

		switch (insn->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			if (insn->k > sizeof(*data) - sizeof(a))
				return SECCOMP_RET_KILL_PROCESS;
			memcpy(&a, (const char *)data + insn->k, sizeof(a));
			break;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= insn->k;
			break;
		case BPF_JMP | BPF_JA:
			pc += insn->k;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			pc += a == insn->k ? insn->jt : insn->jf;
			break;
		case BPF_JMP | BPF_JGT | BPF_K:
			pc += a > insn->k ? insn->jt : insn->jf;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			pc += a >= insn->k ? insn->jt : insn->jf;
			break;
		case BPF_JMP | BPF_JSET | BPF_K:
			pc += a & insn->k ? insn->jt : insn->jf;
			break;
		case BPF_RET | BPF_K:
			return insn->k;
		default:
			return SECCOMP_RET_KILL_PROCESS;
		}
	}
	return SECCOMP_RET_KILL_PROCESS;
}
