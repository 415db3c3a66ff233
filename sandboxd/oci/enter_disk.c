/*
 * enter_disk.c - makes the file system of a sandbox whose disk is limited, or
 * mounts it once more, in oci-enter.
 *
 * The loop device clears itself when nothing has it mounted any more, so it
 * goes with the mount namespace.
 */
#include "sandboxd/oci/enter_step.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "lib/fs.h"
#include "sandboxd/oci/disk.h"
#include "sandboxd/oci/run.h"

#define TRIES_MAX    64 /* another one may take the device that was free a moment ago */
#define OPTIONS	     "discard"
#define SIZE_DIGITS  20
#define OUTPUT_MAX   1024
#define DEVICE_MAX   32
#define MOUNT_FLAGS  (MS_NODEV | MS_NOATIME)
#define MKFS_FEATURE "^has_journal,^resize_inode" /* it is thrown away with its sandbox */

static bool limited;

const char *enter_disk_prefix(void)
{
	return limited ? DISK_DIR "/" : "";
}

static int make_image(const char *size)
{
	char *end;
	unsigned long long bytes = strtoull(size, &end, 10);
	_cleanup_close_ int fd = open(DISK_IMAGE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (*end || strlen(size) > SIZE_DIGITS || bytes == 0)
		return enter_complain("understand the size of the disk", size, EINVAL);
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return enter_complain("make", DISK_IMAGE, errno);

	char *const argv[] = {(char *)"mkfs.ext4",  (char *)"-q", (char *)"-F",
			      (char *)"-m",	    (char *)"0",  (char *)"-O",
			      (char *)MKFS_FEATURE, (char *)"-E", (char *)"lazy_itable_init=1,nodiscard",
			      (char *)DISK_IMAGE,   NULL};
	_cleanup_buf_ struct buf out = BUF_INIT(OUTPUT_MAX);
	const struct run run = {.path = "mkfs.ext4", .argv = argv, .envp = environ, .with_stderr = true};
	struct err err;
	if (run_program(&run, &out, &err) == 0)
		return 0;
	/* On one line: the last one is what is told. */
	for (size_t i = 0; i < out.len; i++)
		if (out.data[i] == '\n')
			out.data[i] = ' ';
	fprintf(stderr, "oci-enter: make the file system of the disk: %s: %.*s\n", err.message, (int)out.len,
		out.data ? (const char *)out.data : "");
	return ENTER_FAILED;
}

/* Open on success: closed before it is mounted, the device would clear itself. */
static int attach(char device[DEVICE_MAX])
{
	_cleanup_close_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	_cleanup_close_ int image = open(DISK_IMAGE, O_RDWR | O_CLOEXEC);
	struct loop_config config = {.fd = (uint32_t)image, .info.lo_flags = LO_FLAGS_AUTOCLEAR};

	if (control < 0 || image < 0)
		return -errno;
	for (int i = 0; i < TRIES_MAX; i++) {
		int n = ioctl(control, LOOP_CTL_GET_FREE);
		if (n < 0)
			return -errno;
		(void)snprintf(device, DEVICE_MAX, "/dev/loop%d", n);
		int fd = open(device, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		if (ioctl(fd, LOOP_CONFIGURE, &config) == 0)
			return fd;
		int e = errno;
		fd_close(&fd);
		if (e != EBUSY)
			return -e;
	}
	return -EBUSY;
}

static int mount_device(const char *device)
{
	if (mkdir(DISK_DIR, 0700) < 0 && errno != EEXIST)
		return enter_complain("make", DISK_DIR, errno);
	if (mount(device, DISK_DIR, "ext4", MOUNT_FLAGS, OPTIONS) < 0)
		return enter_complain("mount the disk of the sandbox by", device, errno);
	limited = true;
	return 0;
}

int enter_disk_make(const char *size)
{
	char device[DEVICE_MAX];

	int r = make_image(size);
	if (r != 0)
		return r;
	_cleanup_close_ int loop = attach(device);
	if (loop < 0)
		return enter_complain("get a loop device for", DISK_IMAGE, -loop);
	int e = fs_write_file(AT_FDCWD, DISK_LOOP, device, strlen(device), 0600);
	return e < 0 ? enter_complain("write", DISK_LOOP, -e) : mount_device(device);
}

/* The device may be another one's by now. */
static bool is_ours(int loop)
{
	struct loop_info64 info;
	struct stat st;

	return ioctl(loop, LOOP_GET_STATUS64, &info) == 0 && stat(DISK_IMAGE, &st) == 0 &&
	       info.lo_device == st.st_dev && info.lo_inode == st.st_ino;
}

int enter_disk_again(void)
{
	_cleanup_buf_ struct buf device = BUF_INIT(DEVICE_MAX);

	int r = fs_read_file(AT_FDCWD, DISK_LOOP, &device);
	if (r < 0 || !buf_cstr(&device))
		return enter_complain("read", DISK_LOOP, r < 0 ? -r : ENOMEM);
	_cleanup_close_ int loop = open((const char *)device.data, O_RDWR | O_CLOEXEC);
	if (loop < 0 || !is_ours(loop))
		return enter_complain("find the disk of the sandbox at", (const char *)device.data,
				      loop < 0 ? errno : ESTALE);
	return mount_device((const char *)device.data);
}
