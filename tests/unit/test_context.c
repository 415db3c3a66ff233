/* Contexts without HTTP: who is told what, limits, and what is left when they are taken away early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include <cmocka.h>

#include "execd/confinement.h"
#include "execd/context.h"
#include "execd/env.h"
#include "execd/execd.h"
#include "execd/language.h"
#include "execd/run.h"
#include "lib/fs.h"
#include "lib/spawn.h"

struct fixture {
	struct execd execd;
	char env_file[64];
};

struct told {
	struct context_wait wait;
	struct loop *loop;
	char id[64];
	int count;
	struct err err;
	bool failed;
};

static void told_done(struct context_wait *w, const struct context *c, const struct err *err)
{
	struct told *t = container_of(w, struct told, wait);

	t->count++;
	t->failed = err != NULL;
	if (err)
		t->err = *err;
	else
		(void)snprintf(t->id, sizeof(t->id), "%s", context_id(c));
	if (t->loop)
		loop_stop(t->loop, 0);
}

struct ended {
	struct run_watch watch;
	struct loop *loop;
};

static void run_has_ended(struct run_watch *w)
{
	loop_stop(container_of(w, struct ended, watch)->loop, 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(loop_new(&f->execd.loop), 0);
	assert_int_equal(reaper_new(f->execd.loop, &f->execd.reaper), 0);
	assert_int_equal(runs_new(f->execd.loop, NULL, &f->execd.runs), 0);
	assert_int_equal(confinement_new(NULL, NULL, &f->execd.confinement, NULL), 0);
	assert_int_equal(contexts_new(&f->execd, &f->execd.contexts), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	contexts_free(f->execd.contexts);
	confinement_free(f->execd.confinement);
	runs_free(f->execd.runs);
	reaper_free(f->execd.reaper);
	loop_free(f->execd.loop);
	if (f->env_file[0])
		(void)unlink(f->env_file);
	free(f);
	return 0;
}

static void create(struct fixture *f, struct told *t)
{
	const struct context_spec spec = {.language = "python"};
	struct err err;

	*t = (struct told){.wait.done = told_done, .loop = f->execd.loop};
	if (context_create(f->execd.contexts, &spec, &t->wait, &err) < 0)
		fail_msg("%s", err.message);
	assert_int_equal(t->count, 0);
}

static void create_ready(struct fixture *f, struct told *t)
{
	create(f, t);
	assert_int_equal(loop_run(f->execd.loop), 0);
	assert_int_equal(t->count, 1);
	if (t->failed)
		fail_msg("%s", t->err.message);
}

static struct run *run(struct fixture *f, const char *id, const char *code)
{
	const struct context_cell cell = {.context = id, .code = code};
	struct run *r;
	struct err err;

	if (context_run(f->execd.contexts, &cell, &r, &err) < 0)
		fail_msg("%s", err.message);
	return r;
}

static void wait_for(struct fixture *f, struct run *r)
{
	struct ended e = {.loop = f->execd.loop};

	if (r->state == RUN_ENDED)
		return;
	run_watch(r, &e.watch, run_has_ended);
	assert_int_equal(loop_run(f->execd.loop), 0);
	assert_int_equal(r->state, RUN_ENDED);
}

static void test_languages(void **state)
{
	struct fixture *f = *state;
	const struct context_spec spec = {.language = "cobol"};
	struct told t = {.wait.done = told_done};
	struct err err;

	assert_int_equal(context_create(f->execd.contexts, &spec, &t.wait, &err), -EINVAL);
	assert_non_null(strstr(err.message, "'cobol'"));
	assert_non_null(strstr(err.message, "python"));
	assert_int_equal(contexts_delete(f->execd.contexts, "cobol", &err), -EINVAL);
	assert_int_equal(contexts_delete(f->execd.contexts, "python", &err), 0);
	assert_null(language_find(""));
}

static void test_a_missing_program_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	const struct context_spec spec = {.language = "python"};
	const struct context_cell cell = {.language = "python", .code = "1"};
	static const char env[] = "PATH=/nonexistent\n";
	struct told t = {.wait.done = told_done};
	struct run *r;
	struct err err;

	(void)snprintf(f->env_file, sizeof(f->env_file), "/tmp/test_context.%d", (int)getpid());
	assert_int_equal(fs_write_file(-100, f->env_file, env, sizeof(env) - 1, 0600), 0);
	f->execd.env_file = f->env_file;
	assert_int_equal(context_create(f->execd.contexts, &spec, &t.wait, &err), -ENOENT);
	assert_int_equal(err.kind, ERR_NOT_SUPPORTED);
	assert_non_null(strstr(err.message, "'python3'"));
	assert_int_equal(context_run(f->execd.contexts, &cell, &r, &err), -ENOENT);
	assert_int_equal(t.count, 0);
}

static void test_a_cell_runs_and_its_end_is_told(void **state)
{
	struct fixture *f = *state;
	struct output_slice s;
	struct told t;

	create_ready(f, &t);
	struct run *r = run(f, t.id, "print('out')\n1/0");
	assert_int_equal(r->state, RUN_RUNNING);
	assert_string_equal(r->init_text, t.id);
	wait_for(f, r);
	assert_int_equal(r->end.reason, RUN_FAILED);
	assert_string_equal(r->end.ename, "ZeroDivisionError");
	assert_string_equal(r->end.evalue, "division by zero");
	assert_true(r->end.traceback_n >= 3);
	assert_int_equal(output_read(r->output, 0, 64, &s), 1);
	assert_int_equal(s.stream, OUTPUT_STDOUT);
	assert_int_equal(s.len, 4);
	assert_memory_equal(s.data, "out\n", 4);
	run_unref(r);
}

static void test_cells_wait_in_order(void **state)
{
	struct fixture *f = *state;
	struct told t;

	create(f, &t); /* not ready yet: that is waited for as well */
	const struct context_cell cell = {.language = "python", .code = "1"};
	struct run *other;
	struct err err;
	assert_int_equal(context_run(f->execd.contexts, &cell, &other, &err), 0); /* the default one */
	assert_int_equal(loop_run(f->execd.loop), 0);
	struct run *first = run(f, t.id, "x = 1"), *second = run(f, t.id, "assert x == 1");
	assert_int_equal(second->state, RUN_QUEUED);
	wait_for(f, second);
	assert_int_equal(first->state, RUN_ENDED);
	assert_int_equal(second->end.reason, RUN_EXITED);
	wait_for(f, other);
	run_unref(first);
	run_unref(second);
	run_unref(other);
}

static void test_limits(void **state)
{
	struct fixture *f = *state;
	struct context_cell cell = {.code = "1"};
	struct run *r;
	struct err err;
	struct told t;

	assert_int_equal(context_run(f->execd.contexts, &cell, &r, &err), -EINVAL);
	create_ready(f, &t);
	cell.context = t.id;
	struct run *first = run(f, t.id, "import time; time.sleep(1000)");
	for (int i = 0; i < CONTEXT_QUEUE_MAX; i++) {
		assert_int_equal(context_run(f->execd.contexts, &cell, &r, &err), 0);
		run_unref(r);
	}
	assert_int_equal(context_run(f->execd.contexts, &cell, &r, &err), -EAGAIN);
	assert_int_equal(err.kind, ERR_LIMIT);

	char *code = malloc(CONTEXT_CODE_MAX + 2);
	assert_non_null(code);
	memset(code, '1', CONTEXT_CODE_MAX + 1);
	code[CONTEXT_CODE_MAX + 1] = '\0';
	cell.code = code;
	assert_int_equal(context_run(f->execd.contexts, &cell, &r, &err), -E2BIG);
	free(code);
	assert_int_equal(context_delete(f->execd.contexts, t.id, &err), 0);
	assert_int_equal(first->state, RUN_ENDED);
	assert_int_equal(first->end.reason, RUN_CANCELLED);
	assert_string_equal(first->end.ename, "ContextDeleted");
	assert_int_equal(context_delete(f->execd.contexts, t.id, &err), -ENOENT);
	run_unref(first);
}

static void test_taken_away_before_it_was_ready(void **state)
{
	struct fixture *f = *state;
	static struct told last; /* told by the teardown */
	struct told t, gone;
	struct err err;

	create(f, &gone);
	context_unwait(&gone.wait);
	create(f, &t);
	t.loop = NULL;
	assert_int_equal(contexts_delete(f->execd.contexts, "python", &err), 0);
	assert_int_equal(t.count, 1);
	assert_true(t.failed);
	assert_int_equal(gone.count, 0);
	create_ready(f, &t); /* from the same warm process, which has two forks to do for nobody */
	create(f, &last);    /* and one that is still waited for at the end */
	last.loop = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_languages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_missing_program_leaves_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_cell_runs_and_its_end_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cells_wait_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_taken_away_before_it_was_ready, setup, teardown),
	};

	/* As main() does: forked kernels come to the one reaper. */
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
	assert_int_equal(env_init(NULL), 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
