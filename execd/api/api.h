/*
 * api.h - the handlers, one file a resource; routes.c puts them into the one table.
 */
#pragma once

#include "execd/execd.h"
#include "proto/http.h"

extern const struct http_route execd_routes[], clerk_routes[];

/*
 * stream.c: replies with the event stream of a run. Holds its own reference.
 *
 * stream_reply: everything from offset on (0, or the id of the last event the
 * client has seen) to the terminal event. -ERANGE, ERR_RANGE: offset is beyond
 * the end of the log.
 * stream_reply_detached: what POST /command answers for a background command,
 * init and execution_complete at once.
 * stream_told: the end of a handler that has started a run; r is what its reply
 * returned, and is returned. Consumes the reference; a run that nobody has
 * learnt of is interrupted.
 */
struct run;
int stream_reply(struct http_req *req, struct run *run, uint64_t offset, struct err *err);
int stream_reply_detached(struct http_req *req, struct run *run, struct err *err);
int stream_told(struct run *run, int r);

/* ping.c */
http_handler_fn ping_get;
/* command.c */
http_handler_fn command_post, command_delete, command_status_get, command_logs_get;
http_handler_fn command_list_get, command_output_get;
/* confinement.c */
http_handler_fn confinement_get_all, command_profile_get;
/* command_io.c */
http_handler_fn command_stdin_post, command_stdin_delete, command_signal_post;
/*
 * command.c, for whatever else shows a run: its output from ?cursor= on, the next cursor in a header;
 * the reference's words for an end that is not exit code 0, empty when there is nothing to say.
 */
struct run_end;
int logs_reply(struct http_req *req, struct run *run, const char *header, struct err *err);
void run_end_message(const struct run_end *end, char *out, size_t size);
/*
 * clerk.c: serves the files as this process has them, to the connections that come over the socket. Until
 * that is closed and they are, or something else comes; returns an exit code.
 */
int clerk_main(int socket);
/* clerk_files.c */
http_handler_fn isolated_files_any, identity_files_any;
/* isolated.c, isolated_run.c, isolated_oneshot.c */
http_handler_fn isolated_oneshot_post;
http_handler_fn isolated_post, isolated_get_one, isolated_delete_one, isolated_list_get,
	isolated_capabilities_get;
http_handler_fn isolated_run_post, isolated_run_status_get, isolated_run_logs_get;
/* layer.c */
http_handler_fn isolated_diff_get, isolated_changes_get, isolated_commit_post, isolated_undo_get,
	isolated_undo_post;
/* undo.c */
http_handler_fn undo_list_get, command_changes_get, command_undo_post;
/* batch.c */
http_handler_fn batch_post;
/* stream.c */
http_handler_fn command_stream_get;
/* session.c */
http_handler_fn session_post, session_run_post, session_delete_one, sessions_get;
/* metrics.c */
http_handler_fn metrics_get, metrics_watch_get, metrics_prometheus_get;
/* proxy.c */
http_handler_fn proxy_any;
/* files.c, upload.c, download.c */
http_handler_fn files_info_get, files_delete, files_permissions_post, files_mv_post, files_replace_post,
	files_upload_post, files_download_get;
/* grep.c, watch.c, copy.c, archive.c */
http_handler_fn files_grep_post, files_watch_get, files_copy_post, directories_archive_get,
	directories_archive_post;
/* ports.c */
http_handler_fn ports_get, ports_watch_get;
/* listing.c, directories.c */
http_handler_fn files_search_get, directories_list_get, directories_post, directories_delete;
/* pty.c */
http_handler_fn ptys_get, pty_post, pty_get_one, pty_delete_one, pty_ws_get;
/* code.c */
http_handler_fn code_post, code_delete, code_context_post, code_contexts_get, code_contexts_delete,
	code_context_get, code_context_delete, code_context_restart_post, code_context_fork_post;
