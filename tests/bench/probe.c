/*
 * probe.c - takes one measurement a line of its input and prints it in microseconds.
 *
 *   probe exec PROGRAM [ARG...]         fork, exec, wait: the floor of every command
 *   probe http HOST PORT TOKEN BODY     POST /command on one kept connection, until the stream ends
 *
 * The driver writes the lines, so that two probes take turns in one run.
 */
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REPLY_MAX 65536

static uint64_t now_usec(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void run_program(char **argv)
{
	int status;
	pid_t pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (pid == 0) {
		execvp(argv[0], argv);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) < 0 || status != 0)
		errx(1, "%s: status %d", argv[0], status);
}

static int connect_to(const char *host, const char *port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || inet_pton(AF_INET, host, &to.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		err(1, "connect to %s:%s", host, port);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* The last chunk of a chunked body ends every event stream. */
static void exchange(int fd, const char *request, size_t n)
{
	static char reply[REPLY_MAX + 1];
	size_t got = 0;

	if (write(fd, request, n) != (ssize_t)n)
		err(1, "write");
	while (got < 5 || memcmp(reply + got - 5, "0\r\n\r\n", 5) != 0) {
		ssize_t r = read(fd, reply + got, REPLY_MAX - got);
		if (r <= 0)
			errx(1, "the connection ended: %.*s", (int)got, reply);
		got += (size_t)r;
		reply[got] = '\0';
		if (got > 12 && strncmp(reply + 9, "200", 3) != 0)
			errx(1, "%s", reply);
	}
	if (!strstr(reply, "execution_complete"))
		errx(1, "not a command that ended well: %s", reply);
}

int main(int argc, char **argv)
{
	char request[4096];
	size_t n = 0;
	int fd = -1;

	if (argc > 2 && strcmp(argv[1], "exec") == 0) {
		argv += 2;
	} else if (argc == 6 && strcmp(argv[1], "http") == 0) {
		fd = connect_to(argv[2], argv[3]);
		n = (size_t)snprintf(request, sizeof(request),
				     "POST /command HTTP/1.1\r\nHost: %s:%s\r\nX-EXECD-ACCESS-TOKEN: %s\r\n"
				     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
				     argv[2], argv[3], argv[4], strlen(argv[5]), argv[5]);
		if (n >= sizeof(request))
			errx(1, "the body is too long");
	} else {
		errx(2, "usage: probe exec PROGRAM [ARG...] | probe http HOST PORT TOKEN BODY");
	}
	for (int c; (c = getchar()) != EOF;) {
		if (c != '\n')
			continue;
		uint64_t start = now_usec();
		if (fd >= 0)
			exchange(fd, request, n);
		else
			run_program(argv);
		printf("%llu\n", (unsigned long long)(now_usec() - start));
		fflush(stdout);
	}
	return 0;
}
