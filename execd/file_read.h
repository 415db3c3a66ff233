/*
 * file_read.h - opening a file that is to be sent, and finding lines in it.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "lib/err.h"

/*
 * Opens a regular file (links are followed) without ever waiting. Directories,
 * FIFOs, sockets and devices are INVALID_FILE.
 */
int file_read_open(const char *path, int *ret_fd, struct stat *ret_st, struct err *err);

/*
 * The bytes of lines first .. first + count - 1 (first counts from 1), each with
 * its newline: [*ret_begin, *ret_end). Lines after the end are empty.
 */
void lines_find(const void *data, size_t n, uint64_t first, uint64_t count, uint64_t *ret_begin,
		uint64_t *ret_end);
/* The same in a file of any size, on a worker. -ECANCELED when *cancel becomes true. */
int file_find_lines(int fd, uint64_t first, uint64_t count, const atomic_bool *cancel, uint64_t *ret_begin,
		    uint64_t *ret_end);
