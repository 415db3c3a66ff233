/*
 * init.c - who gets a signal, and what the end of the entrypoint means.
 *
 * Owns the entrypoint's process and the dispositions of the signals below. While
 * the entrypoint runs they are passed on to its process group; without one,
 * those that mean "end" stop the agent. Loop thread only.
 */
#include "execd/init.h"

#include <signal.h>
#include <sys/wait.h>

#include "execd/env.h"
#include "lib/log.h"

struct handled {
	int signo;
	bool stops;	/* without an entrypoint: end the agent */
	bool init_only; /* left alone when execd is not the init process */
};

static const struct handled handled[] = {
	{SIGTERM, true, false}, {SIGINT, true, false},	{SIGQUIT, true, false},
	{SIGHUP, false, true},	{SIGUSR1, false, true}, {SIGUSR2, false, true},
};

struct init {
	struct init_config config;
	struct loop *loop;
	struct reaper *reaper;
	struct child child;
	struct init_signal {
		struct loop_signal sig;
		struct init *init;
		bool stops;
	} signals[ARRAY_SIZE(handled)];
};

static void on_signal(struct loop_signal *sig, const struct signalfd_siginfo *info)
{
	const struct init_signal *s = container_of(sig, struct init_signal, sig);
	struct init *i = s->init;
	(void)info;
	/* -ESRCH: it has ended and the reaper is about to say so. */
	if (i->child.pid > 0)
		(void)child_kill_group(&i->child, sig->signo);
	else if (s->stops)
		i->config.stop(i->config.arg, 0);
}

static void on_exit_status(struct child *child, int wstatus, const struct rusage *usage)
{
	struct init *i = container_of(child, struct init, child);
	int code = WIFSIGNALED(wstatus) ? 128 + WTERMSIG(wstatus) : WEXITSTATUS(wstatus);
	(void)usage;
	if (code == 128 + SIGKILL && i->config.out_of_memory(i->config.arg))
		log_warn("the entrypoint '%s' " INIT_OUT_OF_MEMORY, i->config.entrypoint[0]);
	else
		log_info("the entrypoint '%s' has ended with code %d", i->config.entrypoint[0], code);
	i->config.stop(i->config.arg, code);
}

int init_new(struct loop *loop, struct reaper *reaper, const struct init_config *config, struct init **ret)
{
	struct init *i = calloc(1, sizeof(*i));
	if (!i)
		return -ENOMEM;
	i->config = *config;
	i->loop = loop;
	i->reaper = reaper;
	for (size_t k = 0; k < ARRAY_SIZE(handled); k++) {
		struct init_signal *s = &i->signals[k];
		list_init(&s->sig.link);
		s->init = i;
		s->stops = handled[k].stops;
		if (handled[k].init_only && !config->init)
			continue;
		int r = loop_signal_add(loop, &s->sig, handled[k].signo, on_signal);
		if (r < 0) {
			init_free(i);
			return r;
		}
	}
	*ret = i;
	return 0;
}

int init_start(struct init *i, struct err *err)
{
	char **envp;
	if (!i->config.entrypoint)
		return 0;
	int r = env_build(NULL, NULL, &envp, err);
	if (r < 0)
		return r;
	struct spawn spec = {
		.path = i->config.entrypoint[0],
		.argv = i->config.entrypoint,
		.envp = envp,
		.fds = {{STDIN_FILENO, STDIN_FILENO},
			{STDOUT_FILENO, STDOUT_FILENO},
			{STDERR_FILENO, STDERR_FILENO}},
		.fds_n = 3,
		.new_session = true,
	};
	r = child_spawn(i->reaper, &i->child, &spec, on_exit_status, err);
	env_free(envp);
	return r;
}

void init_free(struct init *i)
{
	if (!i)
		return;
	for (size_t k = 0; k < ARRAY_SIZE(handled); k++)
		loop_signal_del(&i->signals[k].sig);
	if (i->child.pid > 0)
		(void)child_kill_group(&i->child, SIGKILL);
	child_forget(&i->child);
	free(i);
}

int init_exit_code(const struct err *err)
{
	return err->errnum == ENOENT || err->errnum == ENOTDIR ? 127 : 126;
}
