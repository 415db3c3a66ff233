"""Every method of the official Python client that no other file here calls: its answers and its exceptions.

Directly and through the server: what a client gets is the same. Quick calls, many in one test; one sandbox for all.
"""

import io
import time
import urllib.request
from datetime import datetime, timedelta, timezone

import pytest
from opensandbox import AcquirePolicy, InMemoryPoolStateStore, PoolCreationSpec, SandboxManagerSync, SandboxPoolSync, SandboxSync
from opensandbox.exceptions import InvalidArgumentException, SandboxApiException, SandboxException
from opensandbox.models import WriteEntry
from opensandbox.models.execd import RunCommandOpts
from opensandbox.models.execd_sync import ExecutionHandlersSync
from opensandbox.models.filesystem import ContentReplaceEntry, DirectoryListEntry, MoveEntry, SearchEntry, SetPermissionEntry
from opensandbox.models.sandboxes import NetworkPolicy, SandboxFilter, SnapshotFilter
from opensandbox.transport import RetryPolicy

READY = timedelta(seconds=60)


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "proxy"])
def config(config, request):
    # what is refused with 502 or 503 is to be seen, not tried again
    return config.model_copy(update={"use_server_proxy": request.param, "retry_policy": RetryPolicy.disabled()})


@pytest.fixture(scope="module")
def sandbox(config):
    sandbox = SandboxSync.create("ubuntu", connection_config=config, ready_timeout=READY, env={"GIVEN": "1"})
    yield sandbox
    sandbox.destroy()


def refused(call, status, word=""):
    with pytest.raises(SandboxApiException) as refusal:
        call()
    assert refusal.value.status_code == status and word in str(refusal.value), refusal.value


# ---- commands -----------------------------------------------------------------


def test_a_program_and_its_arguments(sandbox):
    arguments = ["", "two words", "$HOME", "'", "ü\n"]
    assert sandbox.commands.run(["printf", "%s|", *arguments]).text == "|two words|$HOME|'|ü\n|"
    refused(lambda: sandbox.commands.run(["/no/such"]), 400, "/no/such")
    with pytest.raises(InvalidArgumentException):
        sandbox.commands.run([])


def test_variables_that_stay(sandbox):
    for name, value in ("PLAIN", "a $HOME b"), ("QUOTED", "it's \"so\"\t\\ \n end"), ("PLAIN", "again"):
        sandbox.commands.set_env(name, value)
    session = sandbox.commands.create_session()
    for run in sandbox.commands.run, lambda command: sandbox.commands.run_in_session(session, command):
        assert run('printf "%s|" "$PLAIN" "$QUOTED" "$GIVEN"').text == "again|it's \"so\"\t\\ \n end|1|"
    sandbox.commands.delete_session(session)
    own = RunCommandOpts(envs={"PLAIN": "own"})
    assert sandbox.commands.run("echo $PLAIN", opts=own).text == "own"


def test_what_handlers_are_told(sandbox):
    seen = []
    handlers = ExecutionHandlersSync(
        on_init=lambda init: seen.append(("init", init.id)),
        on_stdout=lambda message: seen.append(("out", message.text)),
        on_stderr=lambda message: seen.append(("err", message.text)),
        on_execution_complete=lambda complete: seen.append(("complete", complete.execution_time_in_millis >= 0)),
        on_error=lambda error: seen.append(("error", error.value)),
        skip_accumulation=True,
    )
    began = time.time() * 1000
    execution = sandbox.commands.run("echo one; echo two >&2", handlers=handlers)
    assert seen[0] == ("init", execution.id) and seen[-1] == ("complete", True)
    assert sorted(seen[1:-1]) == [("err", "two"), ("out", "one")]
    assert not execution.logs.stdout and execution.exit_code == 0
    assert abs(execution.complete.timestamp - began) < 60_000
    seen.clear()
    sandbox.commands.run("exit 7", handlers=handlers)
    assert seen[-1] == ("error", "7")


@pytest.mark.parametrize("command, value, words", [
    ("kill -9 $$", "-1", "signal: killed"), ("kill -TERM $$", "-1", "signal: terminated"), ("nosuch", "127", "exit status 127"),
])  # fmt: skip
def test_how_a_command_ended(sandbox, command, value, words):
    execution = sandbox.commands.run(command)
    assert (execution.error.name, execution.error.value) == ("CommandExecError", value)
    assert words in execution.error.traceback and execution.exit_code == int(value)


def test_a_background_command_and_its_log(sandbox):
    commands = sandbox.commands
    sandbox.commands.run("mkfifo /tmp/go")
    started = commands.run("echo one; read x </tmp/go; echo two >&2; exit 4", opts=RunCommandOpts(background=True))
    assert started.id and started.exit_code is None and started.complete
    while not (logs := commands.get_background_command_logs(started.id)).content:
        pass  # it says "one" and waits for us
    status = commands.get_command_status(started.id)
    assert status.running and status.exit_code is None and "echo one" in status.content and status.finished_at is None
    commands.run("echo >/tmp/go")
    while (status := commands.get_command_status(started.id)).running:
        pass
    assert (status.exit_code, logs.content, logs.cursor) == (4, "one\n", 4)
    assert datetime.now(timezone.utc) - status.started_at < timedelta(minutes=5) and status.finished_at >= status.started_at
    rest = commands.get_background_command_logs(started.id, logs.cursor)
    assert rest.content == "two\n" and commands.get_background_command_logs(started.id, rest.cursor).content == ""
    for call in commands.get_command_status, commands.get_background_command_logs, commands.interrupt:
        refused(lambda call=call: call("nobody"), 404, "nobody")


def test_who_a_command_is(sandbox):
    assert sandbox.commands.run("id -u; id -g", opts=RunCommandOpts(uid=1234, gid=2345)).text == "1234\n2345"
    assert sandbox.commands.run("id -u; id -g", opts=RunCommandOpts(uid=65534)).text == "65534\n65534"
    refused(lambda: sandbox.commands.run("true", opts=RunCommandOpts(working_directory="/nowhere")), 400, "/nowhere")


def test_a_session_is_a_shell(sandbox):
    commands = sandbox.commands
    session = commands.create_session(working_directory="/tmp")
    assert commands.run_in_session(session, "export Q=1; pwd; cd /usr").text == "/tmp"
    assert commands.run_in_session(session, "pwd; echo $Q").text == "/usr\n1"
    assert commands.run_in_session(session, "pwd", working_directory="/etc").text == "/etc"
    late = commands.run_in_session(session, "sleep 600", timeout=timedelta(milliseconds=100))
    assert late.error and late.exit_code != 0
    assert commands.run_in_session(session, "echo $Q; exit 5").exit_code == 5
    assert commands.run_in_session(session, "echo still there").text == "still there"
    commands.delete_session(session)
    refused(lambda: commands.delete_session(session), 404)
    refused(lambda: commands.run_in_session(session, "true"), 404)
    refused(lambda: commands.create_session(working_directory="/nowhere"), 400)


# ---- files --------------------------------------------------------------------


@pytest.fixture
def files(sandbox):
    sandbox.files.create_directories([WriteEntry(path="/tmp/d", mode=755)])
    yield sandbox.files
    sandbox.files.delete_directories(["/tmp/d"])


def test_files_of_streams_and_encodings(files):
    data = bytes(range(256)) * 1000
    files.write_file("/tmp/d/stream", io.BytesIO(data), mode=640, owner="nobody", group="nogroup")
    assert b"".join(files.read_bytes_stream("/tmp/d/stream", chunk_size=1000)) == data
    info = files.get_file_info(["/tmp/d/stream", "/tmp/d"])
    entry = info["/tmp/d/stream"]
    assert (entry.entry_type, entry.mode, entry.owner, entry.group, entry.size) == ("file", 640, "nobody", "nogroup", len(data))
    assert info["/tmp/d"].entry_type == "directory" and info["/tmp/d"].mode == 755
    for when in entry.modified_at, entry.created_at:
        assert abs(datetime.now(timezone.utc) - when) < timedelta(minutes=5)
    files.write_file("/tmp/d/wide", "häß", encoding="utf-16")
    assert files.read_file("/tmp/d/wide", encoding="utf-16") == "häß"
    files.write_file("/tmp/d/empty", "")
    assert files.read_bytes("/tmp/d/empty") == b"" and files.get_file_info(["/tmp/d/empty"])["/tmp/d/empty"].mode == 755
    refused(lambda: files.write_file("/tmp/d/x", "x", owner="nosuch"), 400, "nosuch")
    refused(lambda: files.get_file_info(["/tmp/d/x"]), 404)
    refused(lambda: files.read_bytes_stream("/tmp/d/x"), 404)
    refused(lambda: files.read_file("/tmp/d"), 400, "directory")


def test_parts_of_a_file(files):
    files.write_file("/tmp/d/lines", "".join(f"l{n}\n" for n in range(1, 11)))
    for asked, got in {
        (("offset", 3), ("limit", 2)): "l3\nl4\n", (("offset", 9),): "l9\nl10\n", (("limit", 1),): "l1\n",
        (("offset", 99),): "", (("range_header", "bytes=-3"),): "10\n", (("range_header", "bytes=25-"),): "9\nl10\n"[-6:],
    }.items():  # fmt: skip
        assert files.read_file("/tmp/d/lines", **dict(asked)) == got
    refused(lambda: files.read_file("/tmp/d/lines", offset=0), 400)
    refused(lambda: files.read_file("/tmp/d/lines", offset=1, range_header="bytes=0-1"), 400)
    refused(lambda: files.read_file("/tmp/d/lines", range_header="bytes=500-"), 416)


def test_lists_and_searches(files):
    files.create_directories([WriteEntry(path="/tmp/d/sub/deep", mode=700), WriteEntry(path="/tmp/d/b")])
    files.write_files([WriteEntry(path=f"/tmp/d/{name}", data="x") for name in ("a.txt", "sub/c.txt", "sub/deep/d.py")])
    names = lambda found: [entry.path.removeprefix("/tmp/d/") for entry in found]
    listed = files.list_directory(DirectoryListEntry(path="/tmp/d"))
    assert names(listed) == ["a.txt", "b", "sub"] and [entry.entry_type for entry in listed] == ["file", "directory", "directory"]
    assert names(files.list_directory(DirectoryListEntry(path="/tmp/d", depth=2))) == ["a.txt", "b", "sub", "sub/c.txt", "sub/deep"]
    assert files.list_directory(DirectoryListEntry(path="/tmp/d", depth=0)) == []
    for pattern, want in {
        "*.txt": ["a.txt", "sub/c.txt"], "**/*.py": ["sub/deep/d.py"], "**": ["a.txt", "sub/c.txt", "sub/deep/d.py"],
        "[ad].*": ["a.txt", "sub/deep/d.py"], "{a,c}.txt": ["a.txt", "sub/c.txt"], "?": [], "none": [],
    }.items():  # fmt: skip
        assert sorted(names(files.search(SearchEntry(path="/tmp/d", pattern=pattern)))) == want, pattern
    refused(lambda: files.list_directory(DirectoryListEntry(path="/tmp/d/none")), 404)
    refused(lambda: files.list_directory(DirectoryListEntry(path="/tmp/d/a.txt")), 400)
    refused(lambda: files.search(SearchEntry(path="/tmp/d/none", pattern="*")), 404)
    refused(lambda: files.search(SearchEntry(path="/tmp/d", pattern="[")), 400)


def sandbox_mode(files, path):
    return files.get_file_info([path])[path].mode


def test_changes_to_files(files):
    files.write_files([WriteEntry(path=f"/tmp/d/{name}", data="one two one") for name in "ab"])
    replaced = files.replace_contents_detailed([
        ContentReplaceEntry(path="/tmp/d/a", old_content="one", new_content="1"),
        ContentReplaceEntry(path="/tmp/d/b", old_content="none", new_content=""),
    ])
    assert {result.path: result.replaced_count for result in replaced} == {"/tmp/d/a": 2, "/tmp/d/b": 0}
    files.replace_contents([ContentReplaceEntry(path="/tmp/d/a", old_content="1", new_content="")])
    assert files.read_file("/tmp/d/a") == " two "
    files.set_permissions([SetPermissionEntry(path="/tmp/d/a", mode=4751, owner="nobody", group="nogroup")])
    entry = files.get_file_info(["/tmp/d/a"])["/tmp/d/a"]
    assert (entry.mode, entry.owner, entry.group) == (4751, "nobody", "nogroup")
    files.move_files([MoveEntry(source="/tmp/d/a", destination="/tmp/d/new/a")])
    assert files.read_file("/tmp/d/new/a") == " two "
    files.create_directories([WriteEntry(path="/tmp/d"), WriteEntry(path="/tmp")])
    assert sandbox_mode(files, "/tmp") == 1777  # what is there is not given the client's default
    files.delete_files(["/tmp/d/b"])
    files.delete_files([])
    files.delete_directories([])
    refused(lambda: files.replace_contents([ContentReplaceEntry(path="/tmp/d/b", old_content="x", new_content="")]), 404)
    refused(lambda: files.set_permissions([SetPermissionEntry(path="/tmp/d/b", mode=600)]), 404)
    refused(lambda: files.set_permissions([SetPermissionEntry(path="/tmp/d/new", mode=999)]), 400)
    refused(lambda: files.move_files([MoveEntry(source="/tmp/d/b", destination="/tmp/d/c")]), 404)


def test_files_of_an_identity(sandbox, files):
    files.set_permissions([SetPermissionEntry(path="/tmp/d", mode=777)])
    other = sandbox.files_with_identity(1234, 65534)
    other.write_file("/tmp/d/mine/file", "x" * 100_000, mode=600)
    entry = files.get_file_info(["/tmp/d/mine/file"])["/tmp/d/mine/file"]
    assert (entry.owner, entry.group, entry.mode, entry.size) == ("1234", "nogroup", 600, 100_000)
    assert other.read_file("/tmp/d/mine/file", range_header="bytes=0-2") == "xxx"
    assert [found.path for found in other.search(SearchEntry(path="/tmp/d", pattern="f*"))] == ["/tmp/d/mine/file"]
    another = sandbox.files_with_identity(1235, 1235)
    refused(lambda: another.read_file("/tmp/d/mine/file"), 403)
    refused(lambda: another.delete_directories(["/tmp/d/mine"]), 403)
    refused(lambda: another.write_file("/etc/new", "x"), 403)
    other.delete_directories(["/tmp/d/mine"])


# ---- the sandbox and the server ---------------------------------------------------


def test_what_a_sandbox_says_of_itself(sandbox):
    assert sandbox.is_healthy()
    metrics = sandbox.get_metrics()
    assert metrics.cpu_count > 0 and 0 <= metrics.cpu_used_percentage <= 100 * metrics.cpu_count
    assert 0 < metrics.memory_used_in_mib < metrics.memory_total_in_mib
    assert abs(metrics.timestamp - time.time() * 1000) < 300_000
    info = sandbox.get_info()
    assert info.entrypoint == ["tail", "-f", "/dev/null"] and info.created_at < info.expires_at
    assert sandbox.patch_metadata({"team": "red", "stage": "x"}).metadata == {"team": "red", "stage": "x"}
    assert sandbox.patch_metadata({"team": None}).metadata == {"stage": "x"}
    refused(lambda: sandbox.patch_metadata({"opensandbox.io/x": "y"}), 400)
    for scope in "container", "lifecycle", "runtime":
        for call in sandbox.get_diagnostic_logs, sandbox.get_diagnostic_events:
            content = call(scope)
            assert (content.sandbox_id, content.scope, content.delivery) == (sandbox.id, scope, "inline")
    assert "Running" in sandbox.get_diagnostic_events("lifecycle").content
    refused(lambda: sandbox.get_diagnostic_logs("nothing"), 400)


def test_ports_of_a_sandbox(sandbox):
    page = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8123)"
    sandbox.commands.run("mkdir -p /tmp/page; echo hello >/tmp/page/index.html")
    served = sandbox.commands.run(
        ["python3", "-uc", page], opts=RunCommandOpts(background=True, working_directory="/tmp/page")
    )
    sandbox.commands.run("until echo >/dev/tcp/127.0.0.1/8123; do :; done 2>/dev/null")
    endpoints, headers = [sandbox.get_endpoint(8123)], {}
    if sandbox.connection_config.use_server_proxy:
        headers["OPEN-SANDBOX-API-KEY"] = sandbox.connection_config.api_key
        refused(lambda: sandbox.get_signed_endpoint(8123, int(time.time()) + 600), 400, "use_server_proxy")
    else:
        endpoints.append(sandbox.get_signed_endpoint(8123, int(time.time()) + 600))
        refused(lambda: sandbox.get_signed_endpoint(8123, 5), 400)
    for endpoint in endpoints:
        request = urllib.request.Request(f"http://{endpoint.endpoint}/", headers={**headers, **endpoint.headers})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.read() == b"hello\n"
    sandbox.commands.interrupt(served.id)
    refused(lambda: sandbox.get_endpoint(70000), 400)


def test_what_is_not_to_be_had_is_said(sandbox, config):
    """Egress and vault are a sidecar's, templates another backend's: an exception of the client, at once."""
    for call in sandbox.get_egress_policy, sandbox.credential_vault.get:
        with pytest.raises(SandboxException):
            call()
    refused(
        lambda: SandboxSync.create("ubuntu", connection_config=config, network_policy=NetworkPolicy(default_action="deny")),
        400, "networkPolicy",
    )  # fmt: skip
    with pytest.raises(SandboxException):
        SandboxSync.create_from_template("none", timeout=timedelta(minutes=5), connection_config=config)


def test_the_manager(sandbox, config):
    with SandboxManagerSync.create(config) as manager:
        page = manager.list_sandbox_infos(SandboxFilter(page=1, page_size=1))
        assert page.pagination.page_size == 1 and page.pagination.total_items >= 1 and len(page.sandbox_infos) == 1
        assert manager.get_sandbox_info(sandbox.id).id == sandbox.id
        assert manager.patch_sandbox_metadata(sandbox.id, {"by": "manager"}).metadata["by"] == "manager"
        left = manager.renew_sandbox(sandbox.id, timedelta(hours=1)).expires_at - datetime.now(timezone.utc)
        assert timedelta(minutes=59) < left <= timedelta(hours=1)
        for change, state in (manager.pause_sandbox, "Paused"), (manager.resume_sandbox, "Running"):
            change(sandbox.id)
            while manager.get_sandbox_info(sandbox.id).status.state != state:
                pass
            refused(lambda change=change: change(sandbox.id), 409)
        assert sandbox.commands.run("echo awake").text == "awake"
        assert "Running" in manager.get_diagnostic_events(sandbox.id, "lifecycle").content
        for call in manager.get_sandbox_info, manager.kill_sandbox, manager.pause_sandbox, manager.resume_sandbox:
            refused(lambda call=call: call("nobody"), 404, "nobody")


def test_snapshots(sandbox, config):
    sandbox.files.write_file("/root/kept", "kept")
    with SandboxManagerSync.create(config) as manager:
        snapshot = sandbox.create_snapshot("first")
        assert (snapshot.sandbox_id, snapshot.name) == (sandbox.id, "first")
        while (found := manager.get_snapshot(snapshot.id)).status.state == "Creating":
            pass
        assert found.status.state == "Ready"
        listed = manager.list_snapshots(SnapshotFilter(sandbox_id=sandbox.id))
        assert [info.id for info in listed.snapshot_infos] == [snapshot.id]
        with SandboxSync.create(snapshot_id=snapshot.id, connection_config=config, ready_timeout=READY) as restored:
            assert restored.files.read_file("/root/kept") == "kept"
            restored.kill()
        manager.delete_snapshot(snapshot.id)
        refused(lambda: manager.get_snapshot("nobody"), 404)


def test_the_client_s_own_pool(config):
    pool = SandboxPoolSync(
        pool_name="test", max_idle=1, state_store=InMemoryPoolStateStore(), connection_config=config,
        creation_spec=PoolCreationSpec(image="ubuntu", metadata={"pool": "test"}), warmup_ready_timeout=READY,
        acquire_ready_timeout=READY,
    )  # fmt: skip
    pool.start()
    try:
        sandbox = pool.acquire(timedelta(minutes=5), AcquirePolicy.DIRECT_CREATE)
        assert sandbox.commands.run("echo pooled").text == "pooled"
        sandbox.destroy()
    finally:
        pool.shutdown(graceful=True)
        pool.release_all_idle()
    with SandboxManagerSync.create(config) as manager:
        for info in manager.list_sandbox_infos(SandboxFilter(metadata={"pool": "test"}, states=["Running"])).sandbox_infos:
            manager.kill_sandbox(info.id)
