/*
 * kernel_priv.h - what the files of the kernel share: kernel.c (frames, life and
 * death), kernel_birth.c (programs and forks), kernel_shell.c (a shell as a kernel).
 */
#pragma once

#include "execd/confinement.h"
#include "execd/execd.h"
#include "execd/frame.h"
#include "execd/kernel.h"
#include "execd/pump.h"
#include "execd/shell.h"

enum state { STARTING, IDLE, BUSY, DEAD };

struct kernel {
	struct execd *execd;
	const struct language *language;
	const struct kernel_events *events;
	void *owner;
	char *mark, *version;

	enum state state;
	struct child child;
	pid_t peer; /* who sent the first frame */
	int control;
	struct loop_io io;
	struct buf in, out;
	struct pump pumps[2]; /* stdout, stderr */
	struct output *idle_output, *output;
	uint64_t *budget;	 /* of the cells */
	struct loop_timer timer; /* until HELLO; after the end of the socket */

	bool drained; /* the frame at the front of `in` may be handled */
	bool eof;     /* of the control socket */
	bool ended;   /* the process; wstatus and usage are valid */
	bool advancing, freed;
	bool interrupt_frame;	 /* it wants FRAME_INTERRUPT beside the signal */
	struct shell *shell;	 /* of a language that is one; it has the process and the pipes then */
	bool confines;		 /* what is forked from it can confine itself */
	bool confined;		 /* it is, or will be with its HELLO */
	struct confine *confine; /* that it puts on itself: until its HELLO */
	struct confine_start listener;
	struct denials *denials; /* NULL: nothing is told, or it is forked: its parent has it */
	int wstatus;
	struct rusage usage;
	char death[KERNEL_DEATH_MAX]; /* a reason that wstatus does not tell */

	struct kernel *parent; /* until it has answered FORK */
	struct list fork_link; /* in its list */
	struct list forks;     /* of the children to be: the first one has been asked for when `forking` */
	bool forking;
	int child_ends[5]; /* control, stdout, stderr; what it is confined by: to be sent with FORK */
	char *cwd;
	struct loop_defer release, announce;
};

/* kernel.c */
struct kernel *kernel_alloc(struct execd *execd, const struct kernel_spec *spec);
/* It is no kernel any more, and message says why; advance() then tells its owner. */
void kernel_lost(struct kernel *k, const char *message);
void kernel_advance(struct kernel *k);
void kernel_die(struct kernel *k);
loop_io_fn kernel_control_ready;
child_exit_fn kernel_exited;
void kernel_start_timeout(struct loop_timer *timer);

/* kernel_birth.c */
void kernel_ask_next_fork(struct kernel *k);
void kernel_handle_forked(struct kernel *k, json_t *message);
void kernel_fail_forks(struct kernel *k, const char *message);
void kernel_close_child_ends(struct kernel *child);

/* kernel_shell.c */
int kernel_shell_start(struct execd *execd, const struct kernel_spec *spec, struct kernel **ret,
		       struct err *err);
int kernel_shell_fork(struct kernel *parent, const struct kernel_spec *spec, struct kernel **ret,
		      struct err *err);
int kernel_shell_execute(struct kernel *k, const char *code, struct output *out, struct err *err);
