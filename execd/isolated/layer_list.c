/*
 * layer_list.c - telling changes. One walk: what is listed is bounded, the sums are of all.
 */
#include "execd/isolated/layer_list.h"

#include <string.h>

#include "execd/file_info.h"
#include "execd/inodes.h"
#include "proto/json.h"

struct sums {
	uint64_t n[LAYER_DELETED + 1];
	uint64_t bytes;
	struct inodes links;
};

static void put_change(struct jw *w, const struct layer_entry *e, enum layer_change change)
{
	const struct stat *st = e->deleted ? &e->below : &e->st;
	jw_obj_begin(w);
	file_path_write(w, "path", "path_encoded", e->path[0] ? e->path : ".");
	jw_kstr(w, "change", layer_change_name(change));
	jw_kstr(w, "type", file_type(st->st_mode));
	if (!e->deleted) {
		jw_kint(w, "size", S_ISDIR(st->st_mode) ? 0 : st->st_size);
		jw_kint(w, "mode", file_mode_to_digits(st->st_mode & 07777));
	}
	if (e->has_below) {
		jw_kstr(w, "type_before", file_type(e->below.st_mode));
		jw_kint(w, "size_before", S_ISDIR(e->below.st_mode) ? 0 : e->below.st_size);
	}
	jw_obj_end(w);
}

static void add_up(struct sums *s, const struct layer_entry *e, enum layer_change change)
{
	s->n[change]++;
	if ((change == LAYER_ADDED || change == LAYER_MODIFIED) && S_ISREG(e->st.st_mode) &&
	    (e->st.st_nlink == 1 || !inodes_first(&s->links, &e->st, "")))
		s->bytes += (uint64_t)e->st.st_size;
}

/* The order of a walk: a directory's own entries come before whatever sorts after it. */
static bool comes_after(const char *path, const char *other)
{
	for (; *path && *path == *other; path++, other++)
		;
	if (!*path || !*other)
		return *path != '\0';
	if (*path == '/' || *other == '/')
		return *other == '/';
	return (unsigned char)*path > (unsigned char)*other;
}

int layer_list(const struct layer_view *view, const struct layer_list *list, struct buf *out, struct err *err)
{
	struct jw w = JW_INIT(out);
	struct sums sums = {0};
	struct layer_walk *walk;
	struct layer_entry e;
	uint64_t told = 0;
	_cleanup_free_ char *last = NULL;
	bool more = false;
	int r = layer_walk_new(view, &walk);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "list the changes");
	jw_obj_begin(&w);
	jw_key(&w, "changes");
	jw_arr_begin(&w);
	while ((r = layer_walk_next(walk, &e, err)) > 0) {
		enum layer_change change;
		if (e.leave)
			continue;
		r = layer_change(view, &e, &change, err);
		if (r < 0)
			break;
		if (change == LAYER_SAME)
			continue;
		add_up(&sums, &e, change);
		if (list->after && !comes_after(e.path, list->after))
			continue;
		more |= told == list->limit;
		if (told == list->limit)
			continue;
		put_change(&w, &e, change);
		if (++told == list->limit && !(last = strdup(e.path)))
			r = -ENOMEM;
		if (r < 0)
			break;
	}
	layer_walk_free(walk);
	inodes_done(&sums.links);
	jw_arr_end(&w);
	if (more && last)
		file_path_write(&w, "next", "next_encoded", last);
	jw_key(&w, "summary");
	jw_obj_begin(&w);
	for (enum layer_change c = LAYER_ADDED; c <= LAYER_DELETED; c++)
		jw_kint(&w, layer_change_name(c), (int64_t)sums.n[c]);
	jw_kint(&w, "bytes", (int64_t)sums.bytes);
	jw_obj_end(&w);
	jw_obj_end(&w);
	return r;
}
