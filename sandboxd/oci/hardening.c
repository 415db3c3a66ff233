/*
 * hardening.c - reads the settings that confine containers; no state, no threads.
 */
#include "sandboxd/oci/hardening.h"

#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/capability.h>

#include "lib/base64.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "seccomp/profile.h"

#define CODE	    "SANDBOX::UNAVAILABLE"
#define PROFILE_MAX (1 << 20)

static const char *const capabilities[] = {
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_FSETID",
	"CAP_FOWNER",
	"CAP_SETGID",
	"CAP_SETUID",
	"CAP_SETFCAP",
	"CAP_SETPCAP",
	"CAP_KILL",
	"CAP_NET_BIND_SERVICE",
	"CAP_SYS_CHROOT",
	/* With raw packets one sandbox could speak in the name of another. */
	"CAP_NET_RAW",
};

static bool is_dropped(char *const *list, const char *name)
{
	for (; list && *list; list++)
		if (strcasecmp(*list, name) == 0 || strcasecmp(*list, name + strlen("CAP_")) == 0 ||
		    strcasecmp(*list, "ALL") == 0)
			return true;
	return false;
}

static int check_names(char *const *list, struct err *err)
{
	for (; list && *list; list++)
		if (strcasecmp(*list, "ALL") != 0 && capability_number(*list) < 0)
			return err_set(err, ERR_INVALID, CODE, EINVAL,
				       "docker.drop_capabilities: '%.64s' is not the name of a capability",
				       *list);
	return 0;
}

static int load_capabilities(char *const *drop, bool own_network, struct hardening *h, uint64_t *ret_mask,
			     struct err *err)
{
	int r = check_names(drop, err);

	h->capabilities = json_array();
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(capabilities); i++) {
		const char *name = capabilities[i];
		if (is_dropped(drop, name) || (!own_network && strcmp(name, "CAP_NET_RAW") == 0))
			continue;
		*ret_mask |= 1ULL << capability_number(name);
		if (json_array_append_new(h->capabilities, json_string(name)) < 0)
			return err_set(err, ERR_INTERNAL, CODE, ENOMEM, "out of memory");
	}
	return r;
}

static int append(struct buf *out, const char *begin, const char *end)
{
	return buf_append(out, begin, (size_t)(end - begin));
}

static int read_profile(const char *path, json_t **ret, struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(PROFILE_MAX);
	json_error_t error;
	int r = path ? fs_read_file(AT_FDCWD, path, &text)
		     : append(&text, profile_default_start, profile_default_end);

	if (r < 0)
		return err_sys(err, CODE, -r, "docker.seccomp_profile: read '%.256s'", path ? path : "");
	*ret = json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, &error);
	return *ret ? 0
		    : err_set(err, ERR_INVALID, CODE, EBADMSG, "docker.seccomp_profile: '%.256s' line %d: %s",
			      path ? path : "", error.line, error.text);
}

static int compile(json_t *profile, uint64_t caps, struct hardening *h, struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(4 * PROFILE_MAX);
	struct profile_warnings warnings;
	struct filter filter;

	int r = profile_compile(profile, caps, "docker.seccomp_profile", &filter, &warnings, err);
	if (r < 0)
		return r;
	if (warnings.n)
		log_warn("docker.seccomp_profile: calls that nobody knows here: %s", warnings.text);
	r = base64_encode(&text, filter.plain.insns, filter.plain.n * sizeof(*filter.plain.insns));
	filter_done(&filter);
	if (r == 0 && buf_cstr(&text))
		h->filter = strdup((const char *)text.data);
	if (!h->filter)
		return err_set(err, ERR_INTERNAL, CODE, ENOMEM, "out of memory");
	return profile_resolve(profile, caps, "docker.seccomp_profile", &h->seccomp, err);
}

int hardening_load(const struct config *config, bool own_network, struct hardening *ret, struct err *err)
{
	const char *path = config->docker.seccomp_profile;
	struct hardening h = {.no_new_privileges = config->docker.no_new_privileges,
			      .nested = config->nested_isolation,
			      .apparmor = config->docker.apparmor_profile};
	json_t *profile = NULL;
	uint64_t caps = 0;

	int r = load_capabilities(config->docker.drop_capabilities, own_network, &h, &caps, err);
	if (path && strcmp(path, "nested") == 0)
		path = NULL; /* it is the one built in, with Docker; here that is by nested_isolation */
	if (config->nested_isolation)
		caps |= 1ULL
			<< CAP_SYS_ADMIN; /* for the profile: those who make namespaces have it in them */
	if (r == 0 && (!path || strcmp(path, "unconfined") != 0)) {
		r = read_profile(path, &profile, err);
		if (r == 0)
			r = compile(profile, caps, &h, err);
	}
	json_decref(profile);
	if (r < 0)
		hardening_done(&h);
	else
		*ret = h;
	return r;
}

void hardening_done(struct hardening *h)
{
	json_decref(h->capabilities);
	json_decref(h->seccomp);
	free(h->filter);
	*h = (struct hardening){0};
}
