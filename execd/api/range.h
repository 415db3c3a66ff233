/*
 * range.h - the Range header of a download (RFC 9110 section 14).
 */
#pragma once

#include "lib/util.h"

/*
 * 1 and the first satisfiable range of a body of `size` bytes; 0 for a unit
 * other than bytes, which is to be ignored; -ERANGE when no range can be
 * satisfied or the header makes no sense (as the reference answers).
 */
int range_parse(const char *header, uint64_t size, uint64_t *ret_offset, uint64_t *ret_n);
