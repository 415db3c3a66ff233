/*
 * claim.c - waits to be taken into use; nothing else of the agent exists yet.
 */
#include "execd/claim.h"

#include <jansson.h>
#include <string.h>

#include "lib/buf.h"
#include "proto/json.h"

#define READ_SIZE (64u << 10)

/* 1: the line is there, without its end. 0: it was never said to its end. What comes behind it is nobody's.
 */
static int read_line(int fd, struct buf *out)
{
	for (;;) {
		int r = buf_reserve(out, READ_SIZE);
		if (r < 0)
			return r;
		ssize_t n = read(fd, buf_tail(out), READ_SIZE);
		if (n == 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n < 0)
			continue;
		const uint8_t *end = memchr(buf_tail(out), '\n', (size_t)n);
		out->len += (size_t)n;
		if (end) {
			out->len = (size_t)(end - out->data);
			return 1;
		}
	}
}

static int take_env(const json_t *env)
{
	const char *key = NULL;
	json_t *value;

	json_object_foreach((json_t *)env, key,
			    value) if (setenv(key, json_string_value(value), 1) < 0) return -errno;
	return 0;
}

static int take_entrypoint(const json_t *words, char ***ret)
{
	size_t n = json_array_size(words);
	char **list = calloc(n + 1, sizeof(*list));

	if (!list)
		return -ENOMEM;
	*ret = list;
	for (size_t i = 0; i < n; i++) {
		list[i] = strdup(json_string_value(json_array_get(words, i)));
		if (!list[i])
			return -ENOMEM;
	}
	return 0;
}

static int take(json_t *root, struct claim *c, struct err *err)
{
	json_t *words = NULL, *env = NULL;
	const char *token = NULL;

	int r = json_need_obj(root, JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_str_arr(root, "entrypoint", JSON_REQUIRED, &words, err);
	if (r >= 0)
		r = json_get_str_map(root, "env", JSON_OPTIONAL, &env, err);
	if (r >= 0)
		r = json_get_str(root, "accessToken", JSON_OPTIONAL, &token, err);
	if (r < 0)
		return r;
	r = take_entrypoint(words, &c->entrypoint);
	if (r == 0)
		r = take_env(env);
	if (r == 0 && token && !(c->token = strdup(token)))
		r = -ENOMEM;
	return r < 0 ? err_sys(err, "CLAIM", -r, "be claimed") : 1;
}

int claim_wait(int fd, struct claim *ret, struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(CLAIM_MAX);
	struct claim c = {0};
	json_t *root = NULL;

	*ret = c;
	int r = read_line(fd, &text);
	if (r < 0)
		(void)err_sys(err, "CLAIM", -r, "wait on descriptor %d", fd);
	(void)close(fd);
	if (r <= 0)
		return r;
	r = json_parse(text.data, text.len, &root, err);
	if (r >= 0)
		r = take(root, &c, err);
	json_decref(root);
	explicit_bzero(text.data, text.len); /* it may have held secrets */
	if (r < 0)
		claim_done(&c);
	else
		*ret = c;
	return r;
}

void claim_done(struct claim *c)
{
	for (size_t i = 0; c->entrypoint && c->entrypoint[i]; i++)
		free(c->entrypoint[i]);
	free(c->entrypoint);
	if (c->token)
		explicit_bzero(c->token, strlen(c->token));
	free(c->token);
	*c = (struct claim){0};
}
