/*
 * sink.c - pipes whose command has ended. Owns each pipe until its end of file.
 */
#include "execd/sink.h"

#include <stdlib.h>

#include "execd/pump.h"
#include "lib/util.h"

struct sink {
	struct list link;
	struct pump pump;
	struct sinks *sinks;
};

static void tidy(struct loop_defer *d)
{
	struct sinks *ss = container_of(d, struct sinks, tidy);
	list_foreach_safe (node, &ss->dead) {
		struct sink *s = list_entry(node, struct sink, link);
		list_del(&s->link);
		free(s);
	}
}

static void sink_close(struct sink *s)
{
	struct sinks *ss = s->sinks;
	pump_close(&s->pump);
	list_del(&s->link);
	list_add_tail(&ss->dead, &s->link);
	ss->n--;
	loop_defer(ss->loop, &ss->tidy, tidy);
}

static void sink_ended(struct pump *p)
{
	sink_close(container_of(p, struct sink, pump));
}

static const struct pump_ops sink_ops = {.ended = sink_ended};

void sinks_add(struct sinks *ss, int fd)
{
	struct sink *s = calloc(1, sizeof(*s));
	if (ss->n >= SINKS_MAX)
		sink_close(list_entry(ss->live.next, struct sink, link));
	if (s)
		pump_init(&s->pump, &sink_ops, OUTPUT_STDOUT);
	if (!s || pump_start(&s->pump, ss->loop, fd, NULL) < 0) {
		free(s);
		fd_close(&fd);
		return;
	}
	s->sinks = ss;
	list_add_tail(&ss->live, &s->link);
	ss->n++;
}

void sinks_init(struct sinks *ss, struct loop *loop)
{
	*ss = (struct sinks){.loop = loop};
	list_init(&ss->live);
	list_init(&ss->dead);
}

void sinks_done(struct sinks *ss)
{
	list_foreach_safe (node, &ss->live)
		sink_close(list_entry(node, struct sink, link));
	loop_defer_cancel(&ss->tidy);
	tidy(&ss->tidy);
}
