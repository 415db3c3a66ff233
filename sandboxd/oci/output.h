/*
 * output.h - what a program has said into a file of ours.
 */
#pragma once

#include <stddef.h>

/* The last line of the file that says something, as one line of text; "" when there is none. */
void output_last_line(const char *path, char *out, size_t size);
