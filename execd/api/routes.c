/*
 * routes.c - the one table of what execd answers, in the order of the OpenAPI document.
 */
#include "execd/api/api.h"

/* What a clerk answers, too. */
#define FILE_ROUTES                                                                                          \
	{"GET", "/files/info", files_info_get, HTTP_BODY_NONE, false},                                       \
		{"DELETE", "/files", files_delete, HTTP_BODY_NONE, false},                                   \
		{"POST", "/files/permissions", files_permissions_post, HTTP_BODY_JSON, false},               \
		{"POST", "/files/mv", files_mv_post, HTTP_BODY_JSON, false},                                 \
		{"POST", "/files/grep", files_grep_post, HTTP_BODY_JSON, false},                             \
		{"GET", "/files/watch", files_watch_get, HTTP_BODY_NONE, false},                             \
		{"POST", "/files/copy", files_copy_post, HTTP_BODY_JSON, false},                             \
		{"GET", "/files/search", files_search_get, HTTP_BODY_NONE, false},                           \
		{"POST", "/files/replace", files_replace_post, HTTP_BODY_JSON, false},                       \
		{"POST", "/files/upload", files_upload_post, HTTP_BODY_STREAM, false},                       \
		{"GET", "/files/download", files_download_get, HTTP_BODY_NONE, false},                       \
		{"GET", "/directories/list", directories_list_get, HTTP_BODY_NONE, false},                   \
		{"POST", "/directories", directories_post, HTTP_BODY_JSON, false},                           \
		{"DELETE", "/directories", directories_delete, HTTP_BODY_NONE, false},                       \
		{"GET", "/directories/archive", directories_archive_get, HTTP_BODY_NONE, false},             \
		{"POST", "/directories/archive", directories_archive_post, HTTP_BODY_STREAM, false},

const struct http_route clerk_routes[] = {
	FILE_ROUTES{NULL, NULL, NULL, HTTP_BODY_NONE, false},
};

const struct http_route execd_routes[] = {
	{"GET", "/ping", ping_get, HTTP_BODY_NONE, false},

	{"GET", "/code/contexts", code_contexts_get, HTTP_BODY_NONE, false},
	{"DELETE", "/code/contexts", code_contexts_delete, HTTP_BODY_NONE, false},
	{"GET", "/code/contexts/{id}", code_context_get, HTTP_BODY_NONE, false},
	{"DELETE", "/code/contexts/{id}", code_context_delete, HTTP_BODY_NONE, false},
	{"POST", "/code/contexts/{id}/restart", code_context_restart_post, HTTP_BODY_NONE, false},
	{"POST", "/code/contexts/{id}/fork", code_context_fork_post, HTTP_BODY_NONE, false},
	{"POST", "/code/context", code_context_post, HTTP_BODY_JSON, false},
	{"POST", "/code", code_post, HTTP_BODY_JSON, false},
	{"DELETE", "/code", code_delete, HTTP_BODY_NONE, false},

	{"GET", "/session", sessions_get, HTTP_BODY_NONE, false},
	{"POST", "/session", session_post, HTTP_BODY_JSON, false},
	{"POST", "/session/{id}/run", session_run_post, HTTP_BODY_JSON, false},
	{"DELETE", "/session/{id}", session_delete_one, HTTP_BODY_NONE, false},

	{"GET", "/command", command_list_get, HTTP_BODY_NONE, false},
	{"POST", "/command", command_post, HTTP_BODY_JSON, false},
	{"DELETE", "/command", command_delete, HTTP_BODY_NONE, false},
	{"GET", "/command/status/{id}", command_status_get, HTTP_BODY_NONE, false},
	{"GET", "/command/{id}/logs", command_logs_get, HTTP_BODY_NONE, false},
	{"GET", "/command/{id}/stream", command_stream_get, HTTP_BODY_NONE, false},
	{"GET", "/command/{id}/output", command_output_get, HTTP_BODY_NONE, false},
	{"GET", "/command/{id}/profile", command_profile_get, HTTP_BODY_NONE, false},
	{"POST", "/command/{id}/stdin", command_stdin_post, HTTP_BODY_STREAM, false},
	{"DELETE", "/command/{id}/stdin", command_stdin_delete, HTTP_BODY_NONE, false},
	{"POST", "/command/{id}/signal", command_signal_post, HTTP_BODY_JSON, false},

	{"GET", "/confinement", confinement_get_all, HTTP_BODY_NONE, false},

	{"GET", "/command/{id}/changes", command_changes_get, HTTP_BODY_NONE, false},
	{"POST", "/command/{id}/undo", command_undo_post, HTTP_BODY_JSON, false},
	{"GET", "/undo", undo_list_get, HTTP_BODY_NONE, false},

	{"POST", "/batch", batch_post, HTTP_BODY_JSON, false},

	FILE_ROUTES

	{"GET", "/ports", ports_get, HTTP_BODY_NONE, false},
	{"GET", "/ports/watch", ports_watch_get, HTTP_BODY_NONE, false},

	{"GET", "/metrics", metrics_get, HTTP_BODY_NONE, false},
	{"GET", "/metrics/watch", metrics_watch_get, HTTP_BODY_NONE, false},
	{"GET", "/metrics/prometheus", metrics_prometheus_get, HTTP_BODY_NONE, false},

	{"GET", "/pty", ptys_get, HTTP_BODY_NONE, false},
	{"POST", "/pty", pty_post, HTTP_BODY_JSON, false},
	{"GET", "/pty/{id}", pty_get_one, HTTP_BODY_NONE, false},
	{"DELETE", "/pty/{id}", pty_delete_one, HTTP_BODY_NONE, false},
	{"GET", "/pty/{id}/ws", pty_ws_get, HTTP_BODY_NONE, false},

	{"GET", "/v1/isolated/capabilities", isolated_capabilities_get, HTTP_BODY_NONE, false},
	{"GET", "/v1/isolated/sessions", isolated_list_get, HTTP_BODY_NONE, false},
	{"POST", "/v1/isolated/run", isolated_oneshot_post, HTTP_BODY_JSON, false},
	{"POST", "/v1/isolated/session", isolated_post, HTTP_BODY_JSON, false},
	{"GET", "/v1/isolated/session/{id}", isolated_get_one, HTTP_BODY_NONE, false},
	{"DELETE", "/v1/isolated/session/{id}", isolated_delete_one, HTTP_BODY_NONE, false},
	{"POST", "/v1/isolated/session/{id}/run", isolated_run_post, HTTP_BODY_JSON, false},
	{"*", "/v1/isolated/session/{id}/files", isolated_files_any, HTTP_BODY_STREAM, false},
	{"*", "/v1/isolated/session/{id}/files/*", isolated_files_any, HTTP_BODY_STREAM, false},
	{"*", "/v1/isolated/session/{id}/directories", isolated_files_any, HTTP_BODY_STREAM, false},
	{"*", "/v1/isolated/session/{id}/directories/*", isolated_files_any, HTTP_BODY_STREAM, false},
	{"GET", "/v1/isolated/session/{id}/runs/{run}", isolated_run_status_get, HTTP_BODY_NONE, false},
	{"GET", "/v1/isolated/session/{id}/runs/{run}/logs", isolated_run_logs_get, HTTP_BODY_NONE, false},
	{"GET", "/v1/isolated/session/{id}/diff", isolated_diff_get, HTTP_BODY_NONE, false},
	{"GET", "/v1/isolated/session/{id}/changes", isolated_changes_get, HTTP_BODY_NONE, false},
	{"POST", "/v1/isolated/session/{id}/commit", isolated_commit_post, HTTP_BODY_JSON, false},
	{"GET", "/v1/isolated/session/{id}/undo", isolated_undo_get, HTTP_BODY_NONE, false},
	{"POST", "/v1/isolated/session/{id}/undo", isolated_undo_post, HTTP_BODY_JSON, false},

	{"*", "/v1/filesystem/{uid}/{gid}/files", identity_files_any, HTTP_BODY_STREAM, false},
	{"*", "/v1/filesystem/{uid}/{gid}/files/*", identity_files_any, HTTP_BODY_STREAM, false},
	{"*", "/v1/filesystem/{uid}/{gid}/directories", identity_files_any, HTTP_BODY_STREAM, false},
	{"*", "/v1/filesystem/{uid}/{gid}/directories/*", identity_files_any, HTTP_BODY_STREAM, false},

	{"*", "/proxy/{port}", proxy_any, HTTP_BODY_STREAM, false},
	{"*", "/proxy/{port}/*", proxy_any, HTTP_BODY_STREAM, false},

	{NULL, NULL, NULL, HTTP_BODY_NONE, false},
};
