/*
 * listing.h - answers with the array of a file_list: whole when it is small, streamed when it is not.
 */
#pragma once

#include "execd/api/api.h"
#include "execd/file_list.h"

/* Consumes list in every case. */
int listing_start(struct http_req *req, struct file_list *list_consumed, struct err *err);
