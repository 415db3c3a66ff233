/*
 * answer.c - requests that are done once. No state but the store's.
 */
#include "sandboxd/api/answer.h"

#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/sha256.h"

#define KEY_HEADER "Idempotency-Key"

static void send(struct http_req *req, struct answer *a)
{
	if (*a->location)
		(void)http_add_header(req, "Location", a->location);
	if (a->body.len > 0)
		http_reply_buf(req, a->status, "application/json", &a->body);
	else
		http_reply_empty(req, a->status);
}

static int check_key(const char *key, struct err *err)
{
	size_t n = strlen(key);
	bool good = n > 0 && n < ANSWER_KEY_MAX;

	for (size_t i = 0; good && i < n; i++)
		good = key[i] >= ' ' && key[i] < 127;
	return good ? 0
		    : err_set(err, ERR_INVALID, "SANDBOX::INVALID_PARAMETER", EINVAL,
			      KEY_HEADER ": a key is 1 to %d printable ASCII characters", ANSWER_KEY_MAX - 1);
}

/* Method, path without the prefix, and the body as a value: spaces and order do not matter. */
static int digest(struct http_req *req, char out[SHA256_HEX_MAX], struct err *err)
{
	const char *path = http_path(req);
	_cleanup_free_ char *body =
		http_json(req) ? json_dumps(http_json(req), JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY)
			       : strdup("");
	struct sha256 s;

	if (!body)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	if (strncmp(path, "/v1/", 4) == 0)
		path += 3;
	sha256_init(&s);
	sha256_add(&s, http_method(req), strlen(http_method(req)) + 1);
	sha256_add(&s, path, strlen(path) + 1);
	sha256_add(&s, body, strlen(body));
	(void)sha256_end_hex(&s, out);
	return 0;
}

struct again {
	const char *request;
	struct answer *answer;
	struct err *err;
};

static int take_stored(const struct store_answer *stored, void *arg)
{
	struct again *a = arg;

	if (strcmp(stored->request, a->request) != 0)
		return err_set(a->err, ERR_CONFLICT, "IDEMPOTENCY_KEY_REUSED", EEXIST,
			       KEY_HEADER ": this key came with another request before");
	a->answer->status = stored->status;
	(void)snprintf(a->answer->location, sizeof(a->answer->location), "%s",
		       stored->location ? stored->location : "");
	return buf_puts(&a->answer->body, stored->body);
}

/* The change and its answer are stored together: killed at any moment, we have both or neither. */
static int do_and_store(struct http_req *req, const char *key, const char *request, answer_fn *fn,
			struct answer *a, struct err *err)
{
	struct store *store = sandboxes_store(((const struct lifecycle *)http_app(req))->sandboxes);
	struct err other;

	int r = store_begin(store, err);
	if (r < 0)
		return r;
	r = fn(req, a, err);
	if (r < 0) {
		(void)store_end(store, 0, &other); /* what it has noted of its failure stays */
		return r;
	}
	const char *body = buf_cstr(&a->body);
	const struct store_answer stored = {
		.request = request, .status = a->status, .location = a->location, .body = body ? body : ""};
	r = store_end(store, store_answer_put(store, key, &stored, clock_real_ms(), err), err);
	if (r < 0)
		sandboxes_undone(((const struct lifecycle *)http_app(req))->sandboxes);
	return r;
}

static int once(struct http_req *req, const char *key, answer_fn *fn, struct answer *a, struct err *err)
{
	struct store *store = sandboxes_store(((const struct lifecycle *)http_app(req))->sandboxes);
	char request[SHA256_HEX_MAX];
	struct again again = {.request = request, .answer = a, .err = err};

	int r = check_key(key, err);
	if (r == 0)
		r = digest(req, request, err);
	if (r == 0)
		r = store_answer_get(store, key, clock_real_ms(), take_stored, &again, err);
	if (r > 0)
		(void)http_add_header(req, "Idempotency-Replayed", "true");
	return r != 0 ? r : do_and_store(req, key, request, fn, a, err);
}

int answer_once(struct http_req *req, answer_fn *fn, struct err *err)
{
	const char *key = http_header(req, KEY_HEADER);
	struct answer a = {.body = BUF_INIT(ANSWER_BODY_MAX)};

	int r = key ? once(req, key, fn, &a, err) : fn(req, &a, err);
	if (r >= 0 && a.body.failed)
		r = err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "the answer is too large");
	if (r >= 0)
		send(req, &a);
	buf_done(&a.body);
	return MIN(r, 0);
}
