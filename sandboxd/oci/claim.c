/*
 * claim.c - spares: containers whose execd waits at a pipe until it is told what it is for.
 *
 * What is in the pipe stays there when we die; an empty one that ends tells the
 * spare that nobody can want it any more. Loop thread.
 */
#include <fcntl.h>

#include "lib/fs.h"
#include "sandboxd/oci/box.h"

#define PIPE_SIZE (64u << 10) /* that any pipe holds */

int spare_begin(struct oci_box *b, struct err *err)
{
	int ends[2];

	int r = fs_pipe(ends, 0, 1);
	if (r < 0)
		return err_sys(err, OCI_START_CODE, -r, "make a pipe for the claim");
	b->token_fd = ends[0];
	b->claim_fd = ends[1];
	return 0;
}

int oci_claim(struct runtime *rt, struct runtime_box *box, const struct runtime_spec *spec, const char *text,
	      size_t n, const char **ret_notes, struct err *err)
{
	struct oci_box *b = box->priv;

	if (b->phase != OCI_RUNNING || b->claim_fd < 0)
		return err_set(err, ERR_INTERNAL, OCI_START_CODE, ESRCH, "the spare does not run");
	cgroups_limit(&oci_of(rt)->cgroups, box->id, &spec->limits, b->notes);
	if (n > PIPE_SIZE && fcntl(b->claim_fd, F_SETPIPE_SZ, (int)n) < 0)
		return err_sys(err, OCI_START_CODE, errno, "claim a spare with %zu bytes", n);
	int r = fs_write_all(b->claim_fd, text, n);
	if (r < 0)
		return err_sys(err, OCI_START_CODE, -r, "claim a spare");
	fd_close(&b->claim_fd);
	*ret_notes = b->notes;
	return 0;
}
