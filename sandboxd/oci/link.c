/*
 * link.c - a few requests of rtnetlink; no state, any thread.
 */
#include "sandboxd/oci/link.h"

#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "lib/util.h"

#define REPLY_MAX 16384

struct request {
	struct nlmsghdr head;
	struct ifinfomsg info;
	char attrs[1024];
};

static struct request request_of(uint16_t type, uint16_t flags)
{
	return (struct request){
		.head = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
			 .nlmsg_type = type,
			 .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags)},
		.info = {.ifi_family = AF_UNSPEC},
	};
}

/* Texts are names of at most 255 bytes, so that all attributes of a request fit. */
static struct rtattr *put(struct request *q, uint16_t type, const void *data, size_t n)
{
	struct rtattr *a = (struct rtattr *)((char *)q + NLMSG_ALIGN(q->head.nlmsg_len));

	a->rta_type = type;
	a->rta_len = (uint16_t)RTA_LENGTH(n);
	if (n)
		memcpy(RTA_DATA(a), data, n);
	q->head.nlmsg_len = (uint32_t)(NLMSG_ALIGN(q->head.nlmsg_len) + RTA_ALIGN(a->rta_len));
	return a;
}

static void close_nest(struct request *q, struct rtattr *nest)
{
	nest->rta_len = (uint16_t)((char *)q + q->head.nlmsg_len - (char *)nest);
}

static int put_name(struct request *q, const char *name)
{
	size_t n = strlen(name) + 1;
	if (n > IFNAMSIZ)
		return -ENAMETOOLONG;
	(void)put(q, IFLA_IFNAME, name, n);
	return 0;
}

static void read_alias(const struct nlmsghdr *h, char *ret, size_t size)
{
	const struct ifinfomsg *info = NLMSG_DATA(h);
	int left = (int)IFLA_PAYLOAD(h);

	for (const struct rtattr *a = IFLA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == IFLA_IFALIAS) {
			size_t n = MIN((size_t)RTA_PAYLOAD(a), size - 1);
			memcpy(ret, RTA_DATA(a), n);
			ret[n] = '\0';
		}
}

/* The acknowledgement comes last; an interface may come before it. alias: or NULL. */
static int read_reply(int fd, char *alias, size_t size)
{
	_Alignas(struct nlmsghdr) char reply[REPLY_MAX];

	for (;;) {
		ssize_t n = recv(fd, reply, sizeof(reply), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		for (struct nlmsghdr *h = (struct nlmsghdr *)reply; NLMSG_OK(h, (size_t)n);
		     h = NLMSG_NEXT(h, n)) {
			if (h->nlmsg_type == NLMSG_ERROR)
				return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
			if (h->nlmsg_type == RTM_NEWLINK && alias)
				read_alias(h, alias, size);
		}
	}
}

static int ask(const struct request *q, char *alias, size_t size)
{
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0 || send(fd, q, q->head.nlmsg_len, 0) < 0)
		return -errno;
	return read_reply(fd, alias, size);
}

/* Not heeded in the request that makes an interface. */
static int set_alias(const char *name, const char *alias)
{
	struct request q = request_of(RTM_SETLINK, 0);

	int r = put_name(&q, name);
	if (r < 0)
		return r;
	(void)put(&q, IFLA_IFALIAS, alias, strnlen(alias, LINK_ALIAS_MAX - 1));
	return ask(&q, NULL, 0);
}

int link_make_bridge(const char *name, const char *alias)
{
	struct request q = request_of(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);

	int r = put_name(&q, name);
	if (r < 0)
		return r;
	struct rtattr *info = put(&q, IFLA_LINKINFO, NULL, 0);
	(void)put(&q, IFLA_INFO_KIND, "bridge", strlen("bridge"));
	close_nest(&q, info);
	r = ask(&q, NULL, 0);
	return r < 0 ? r : set_alias(name, alias);
}

int link_alias(const char *name, char *ret, size_t size)
{
	struct request q = request_of(RTM_GETLINK, 0);

	ret[0] = '\0';
	int r = put_name(&q, name);
	return r < 0 ? r : ask(&q, ret, size);
}

int link_delete(const char *name)
{
	struct request q = request_of(RTM_DELLINK, 0);

	int r = put_name(&q, name);
	return r < 0 ? r : ask(&q, NULL, 0);
}

int link_isolate(const char *name)
{
	struct request q = request_of(RTM_SETLINK, 0);
	uint8_t on = 1;

	q.info.ifi_family = AF_BRIDGE;
	q.info.ifi_index = (int)if_nametoindex(name);
	if (q.info.ifi_index == 0)
		return -errno;
	struct rtattr *port = put(&q, IFLA_PROTINFO | NLA_F_NESTED, NULL, 0);
	(void)put(&q, IFLA_BRPORT_ISOLATED, &on, sizeof(on));
	close_nest(&q, port);
	return ask(&q, NULL, 0);
}

int link_loopback_up(void)
{
	struct ifreq lo = {.ifr_name = "lo"};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &lo) < 0)
		return -errno;
	lo.ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, &lo) < 0 ? -errno : 0;
}
