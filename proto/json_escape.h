/*
 * json_escape.h - the inside of a JSON string, as fast as the machine copies.
 */
#pragma once

#include "lib/util.h"

#define JSON_ESCAPE_MAX 6 /* bytes out for each byte in, at most */

/*
 * Writes any bytes as the inside of a JSON string (RFC 8259 section 7) and
 * returns the bytes written. out has room for n * JSON_ESCAPE_MAX. What is not
 * UTF-8 becomes U+FFFD. U+0085, U+2028 and U+2029 are escaped although JSON
 * does not ask for it: the Python clients split a stream into lines with
 * str.splitlines(), which takes them for line ends.
 */
size_t json_escape(uint8_t *out, const void *data, size_t n);

/*
 * Writes a JSON text as one line that str.splitlines() too takes for one:
 * control characters, which valid JSON has only between tokens, become spaces;
 * the three above are escaped. The same room.
 */
size_t json_one_line(uint8_t *out, const void *data, size_t n);
