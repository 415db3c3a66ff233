/*
 * attack.c - makes the system calls that a confined program must not have.
 *
 *   attack NAME...            makes each call once: "NAME ok" or "NAME EPERM" on a line of standard output
 *   attack list               the names
 *   attack -n N -t T NAME     T threads make the call N times each; says nothing
 *
 * Arguments are such that a call that is let through does no harm: it fails for another reason, or acts on
 * this process alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define X32_BIT 0x40000000

static char room[256];

/* A raw call with six arguments; -1 and errno. */
static long call(long nr, long a, long b, long c, long d, long e)
{
	return syscall(nr, a, b, c, d, e, 0L);
}

/* A child that a clone has made ends at once. */
static long cloned(long pid)
{
	if (pid == 0)
		_exit(0);
	if (pid > 0)
		(void)waitpid((pid_t)pid, NULL, 0);
	return pid;
}

static long clone_newuser(void)
{
	return cloned(call(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
}

static long clone3_newuser(void)
{
	static uint64_t args[8] = {[0] = CLONE_NEWUSER, [4] = SIGCHLD};

	return cloned(call(SYS_clone3, (long)args, sizeof(args), 0, 0, 0));
}

static long clone3_plain(void)
{
	static uint64_t args[8] = {[4] = SIGCHLD};

	return cloned(call(SYS_clone3, (long)args, sizeof(args), 0, 0, 0));
}

static long fork_plain(void)
{
	return cloned(fork());
}

static long traceme(void)
{
	return call(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0, 0);
}

static long raw_socket(void)
{
	return socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
}

/* The kernel looks at the low half only; a filter that compares the whole could be led by the nose. */
static long raw_socket_high_bits(void)
{
	return call(SYS_socket, AF_INET, (long)(1ULL << 32 | SOCK_RAW), IPPROTO_ICMP, 0, 0);
}

static long packet_socket(void)
{
	return socket(AF_PACKET, SOCK_RAW, 0);
}

static long alg_socket(void)
{
	return socket(AF_ALG, SOCK_SEQPACKET, 0);
}

static long vsock_socket(void)
{
	return socket(AF_VSOCK, SOCK_STREAM, 0);
}

static long tcp_socket(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static long change_personality(void)
{
	return personality(ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC);
}

#ifdef __x86_64__
/* The other two doors into this kernel: their numbers mean other calls than ours. */
static long int80(long nr, long a, long b, long c)
{
	long r;

	__asm__ volatile("int $0x80"
			 : "=a"(r)
			 : "a"(nr), "b"(a), "c"(b), "d"(c)
			 : "memory", "r8", "r9", "r10", "r11");
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

static long i386_ptrace(void)
{
	return int80(26, PTRACE_TRACEME, 0, 0);
}

static long i386_io_uring_setup(void)
{
	return int80(425, 1, 8, 0);
}

static long i386_getpid(void)
{
	return int80(20, 0, 0, 0);
}

static long x32_ptrace(void)
{
	return call(X32_BIT | 521, PTRACE_TRACEME, 0, 0, 0, 0);
}

static long x32_getpid(void)
{
	return call(X32_BIT | SYS_getpid, 0, 0, 0, 0, 0);
}
#endif

static const struct {
	const char *name;
	long (*fn)(void);
	long nr, args[5];
} attacks[] = {
	{"ptrace", traceme, 0, {0}},
	{"process_vm_readv", NULL, SYS_process_vm_readv, {1, 0, 0, 0, 0}},
	{"kcmp", NULL, SYS_kcmp, {1, 1, 0, 0, 0}},
	{"pidfd_getfd", NULL, SYS_pidfd_getfd, {-1, 0, 0}},
	{"keyctl", NULL, SYS_keyctl, {0, -3, 0}},
	{"add_key", NULL, SYS_add_key, {8, 8, 8, 0, 0}},
	{"request_key", NULL, SYS_request_key, {8, 8, 0, 0}},
	{"bpf", NULL, SYS_bpf, {0, 8, 0}},
	{"perf_event_open", NULL, SYS_perf_event_open, {8, 0, 0, 0, 0}},
	{"io_uring_setup", NULL, SYS_io_uring_setup, {1, 8}},
	{"io_uring_enter", NULL, SYS_io_uring_enter, {-1, 0, 0, 0, 0}},
	{"io_uring_register", NULL, SYS_io_uring_register, {-1, 0, 0, 0}},
	{"userfaultfd", NULL, SYS_userfaultfd, {-1}},
	{"unshare", NULL, SYS_unshare, {CLONE_NEWUSER}},
	{"clone", clone_newuser, 0, {0}},
	{"clone3", clone3_newuser, 0, {0}},
	{"setns", NULL, SYS_setns, {-1, 0}},
	{"mount", NULL, SYS_mount, {8, 8, 8, 0, 0}},
	{"umount2", NULL, SYS_umount2, {8, -1}},
	{"pivot_root", NULL, SYS_pivot_root, {8, 8}},
	{"chroot", NULL, SYS_chroot, {8}},
	{"open_tree", NULL, SYS_open_tree, {-1, 8, 0}},
	{"move_mount", NULL, SYS_move_mount, {-1, 8, -1, 8, 0}},
	{"fsopen", NULL, SYS_fsopen, {8, 0}},
	{"fsconfig", NULL, SYS_fsconfig, {-1, 0, 0, 0, 0}},
	{"fsmount", NULL, SYS_fsmount, {-1, 0, 0}},
	{"fspick", NULL, SYS_fspick, {-1, 8, 0}},
	{"mount_setattr", NULL, SYS_mount_setattr, {-1, 8, 0, 8, 0}},
	{"name_to_handle_at", NULL, SYS_name_to_handle_at, {-1, 8, 8, 8, 0}},
	{"open_by_handle_at", NULL, SYS_open_by_handle_at, {-1, 8, 0}},
	{"raw", raw_socket, 0, {0}},
	{"raw_high_bits", raw_socket_high_bits, 0, {0}},
	{"packet", packet_socket, 0, {0}},
	{"alg", alg_socket, 0, {0}},
	{"vsock", vsock_socket, 0, {0}},
	{"personality", change_personality, 0, {0}},
	{"kexec_load", NULL, SYS_kexec_load, {0, 99999, 8, -1}},
	{"init_module", NULL, SYS_init_module, {8, 0, 8}},
	{"finit_module", NULL, SYS_finit_module, {-1, 8, 0}},
	{"delete_module", NULL, SYS_delete_module, {8, 0}},
	{"swapon", NULL, SYS_swapon, {8, 0}},
	{"swapoff", NULL, SYS_swapoff, {8}},
	{"reboot", NULL, SYS_reboot, {0, 0, 0, 0}},
	{"settimeofday", NULL, SYS_settimeofday, {8, 8}},
	{"clock_settime", NULL, SYS_clock_settime, {99, 8}},
	{"sethostname", NULL, SYS_sethostname, {8, -1}},
	{"setdomainname", NULL, SYS_setdomainname, {8, -1}},
	{"acct", NULL, SYS_acct, {8}},
	{"quotactl", NULL, SYS_quotactl, {-1, 8, 0, 8}},
	{"syslog", NULL, SYS_syslog, {99, 0, 0}},
	{"fanotify_init", NULL, SYS_fanotify_init, {-1, 0}},
#ifdef __x86_64__
	{"kexec_file_load", NULL, SYS_kexec_file_load, {-1, -1, 0, 8, -1}},
	{"iopl", NULL, SYS_iopl, {99}},
	{"ioperm", NULL, SYS_ioperm, {-1, 1, 1}},
	{"modify_ldt", NULL, SYS_modify_ldt, {99, 8, 0}},
	{"i386_ptrace", i386_ptrace, 0, {0}},
	{"i386_io_uring_setup", i386_io_uring_setup, 0, {0}},
	{"i386_getpid", i386_getpid, 0, {0}},
	{"x32_ptrace", x32_ptrace, 0, {0}},
	{"x32_getpid", x32_getpid, 0, {0}},
#endif
	/* What must go on working. */
	{"fork", fork_plain, 0, {0}},
	{"clone3_plain", clone3_plain, 0, {0}},
	{"tcp", tcp_socket, 0, {0}},
	{"getpid", NULL, SYS_getpid, {0}},
};

#define ATTACKS_N (sizeof(attacks) / sizeof(attacks[0]))

static long attack(size_t i)
{
	const long *a = attacks[i].args;

	return attacks[i].fn ? attacks[i].fn() : call(attacks[i].nr, a[0], a[1], a[2], a[3], a[4]);
}

static size_t find(const char *name)
{
	size_t i = 0;

	while (i < ATTACKS_N && strcmp(attacks[i].name, name) != 0)
		i++;
	if (i == ATTACKS_N)
		_exit(2);
	return i;
}

struct flood {
	size_t attack;
	long times;
};

static void *flood(void *arg)
{
	const struct flood *f = arg;

	for (long i = 0; i < f->times; i++)
		(void)attack(f->attack);
	return NULL;
}

static void many(long times, long threads, const char *name)
{
	pthread_t ids[64];
	struct flood f = {find(name), times};

	for (long i = 0; i < threads && i < 64; i++)
		if (pthread_create(&ids[i], NULL, flood, &f) != 0)
			_exit(3);
	for (long i = 0; i < threads && i < 64; i++)
		(void)pthread_join(ids[i], NULL);
}

/* No exit handlers: the sanitizers' would want to trace us. */
int main(int argc, char **argv)
{
	(void)setvbuf(stdout, room, _IOLBF, sizeof(room));
	if (argc == 6 && strcmp(argv[1], "-n") == 0) {
		many(atol(argv[2]), atol(argv[4]), argv[5]);
		_exit(0);
	}
	for (size_t i = 0; argc == 2 && strcmp(argv[1], "list") == 0 && i < ATTACKS_N; i++)
		printf("%s\n", attacks[i].name);
	for (int i = 1; i < argc && strcmp(argv[1], "list") != 0; i++) {
		errno = 0;
		long r = attack(find(argv[i]));
		printf("%s %s\n", argv[i], r >= 0 ? "ok" : strerrorname_np(errno));
	}
	(void)fflush(stdout);
	_exit(0);
}
