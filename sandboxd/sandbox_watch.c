/*
 * sandbox_watch.c - who waits for a change of a sandbox or a snapshot, and is told of it from the loop.
 */
#include "sandboxd/sandbox_priv.h"

#include <stdio.h>
#include <string.h>

void sandboxes_watch(struct sandboxes *all, struct sandbox_watch *w, const char *id,
		     void (*changed)(struct sandbox_watch *w))
{
	*w = (struct sandbox_watch){.changed = changed};
	(void)snprintf(w->id, sizeof(w->id), "%s", id);
	list_add_tail(&all->watches, &w->link);
}

void sandboxes_unwatch(struct sandbox_watch *w)
{
	list_del(&w->link);
}

static void tell_all(struct loop_defer *d)
{
	struct sandboxes *all = container_of(d, struct sandboxes, tell_soon);

	list_foreach_safe (l, &all->watches) {
		struct sandbox_watch *w = list_entry(l, struct sandbox_watch, link);
		if (w->due) {
			w->due = false;
			w->changed(w);
		}
	}
}

void sandboxes_tell(struct sandboxes *all, const char *id)
{
	list_foreach_safe (l, &all->watches) {
		struct sandbox_watch *w = list_entry(l, struct sandbox_watch, link);
		if (strcmp(w->id, id) != 0)
			continue;
		w->due = true;
		loop_defer(all->env.loop, &all->tell_soon, tell_all);
	}
}
