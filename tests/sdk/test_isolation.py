"""Isolated sessions through the official clients, unmodified."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from opensandbox.adapters.isolated_adapter import IsolatedSessionsAdapter
from opensandbox.config import ConnectionConfig, ConnectionConfigSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.execd import ExecutionHandlers
from opensandbox.models.filesystem import (
    ContentReplaceEntry,
    DirectoryListEntry,
    MoveEntry,
    SearchEntry,
    SetPermissionEntry,
    WriteEntry,
)
from opensandbox.models.isolated import (
    BindMount,
    CreateIsolatedSessionRequest,
    EnvPassthroughSpec,
    IsolatedOverlaySpec,
    IsolatedRunOpts,
    IsolatedWorkspaceSpec,
)
from opensandbox.models.sandboxes import SandboxEndpoint
from opensandbox.sync.adapters.isolated_adapter import IsolatedSessionsAdapterSync

import containers
from daemon import ROOT, Execd


@pytest.fixture(scope="module", params=["process", "sandbox"])
def agent(request, tmp_path_factory):
    """One beside the tests, and one in a sandbox of sandboxd, which shares the folder `place` with them."""
    folder = tmp_path_factory.mktemp("agent")
    place = tmp_path_factory.mktemp("place")
    if request.param == "process":
        daemon = Execd(folder / "execd.log")
        daemon.place = place
        yield daemon
        daemon.stop()
        return
    if why := containers.kinds()["sandbox"]:
        pytest.skip(why)
    with containers.in_sandbox(folder, place) as daemon:
        yield daemon


@pytest.fixture
def tmp_path(agent):
    folder = Path(tempfile.mkdtemp(dir=agent.place))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def service(agent):
    config = ConnectionConfigSync(request_timeout=timedelta(seconds=60))
    endpoint = SandboxEndpoint(
        endpoint=f"{agent.host}:{agent.port}", headers={"X-EXECD-ACCESS-TOKEN": agent.token}
    )
    return IsolatedSessionsAdapterSync(config, endpoint)


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "a.txt").write_text("from below\n")
    return folder


@pytest.fixture
def create(service, workspace):
    """create(mode="overlay", **fields): a session in the workspace, deleted with the test."""
    made = []

    def make(mode="overlay", **fields):
        request = CreateIsolatedSessionRequest(
            workspace=IsolatedWorkspaceSpec(path=str(workspace), mode=mode), **fields
        )
        made.append(service.create(request))
        return made[-1]

    yield make
    for session in made:
        try:
            session.delete()
        except SandboxApiException as gone:
            assert gone.status_code == 404


def text(messages):
    return "\n".join(message.text for message in messages)


def test_capabilities(service):
    capabilities = service.capabilities()
    assert capabilities.available and capabilities.isolator == "execd"
    assert capabilities.setpriv_available or capabilities.userns_available


def test_a_run_with_live_events(create, workspace):
    seen = []
    session = create()
    result = session.run(
        "cat a.txt; echo new > b.txt; pwd; echo problem >&2; exit 3",
        handlers=ExecutionHandlers(on_stdout=lambda message: seen.append(message.text)),
    )
    assert result.exit_code == 3
    assert text(result.logs.stderr).strip() == "problem"
    assert "from below" in "".join(seen) and str(workspace) in "".join(seen)
    assert not (workspace / "b.txt").exists()
    assert text(session.run("cat b.txt").logs.stdout).strip() == "new"


def test_state_lives_from_run_to_run(create):
    session = create()
    assert session.run("x=5; cd /tmp").exit_code == 0
    result = session.run("echo $x $PWD $EXTRA", opts=IsolatedRunOpts(envs={"EXTRA": "it's"}))
    assert text(result.logs.stdout).strip() == "5 /tmp it's"


def test_background_runs(create):
    session = create("rw")
    run = session.run_background("echo begun; echo more >&2; exit 4")
    while (status := session.run_status(run.run_id)).running:
        pass
    assert status.exit_code == 4 and status.finished_at
    logs = session.run_logs(run.run_id)
    assert sorted(logs.text.split()) == ["begun", "more"]
    assert session.run_logs(run.run_id, cursor=logs.cursor).text == ""


def test_modes(service, create, workspace):
    assert create("rw").run("echo x > written").exit_code == 0
    assert (workspace / "written").read_text() == "x\n"
    assert create("ro").run("echo x > refused").exit_code != 0
    assert not (workspace / "refused").exists()


def test_overlays_and_binds(service, workspace, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "d").write_text("d\n")
    session = service.create(
        CreateIsolatedSessionRequest(
            overlays=[
                IsolatedOverlaySpec(path=str(workspace)),
                IsolatedOverlaySpec(path=str(data), mode="overlay", persist=False),
            ],
            binds=[BindMount(source=str(data), dest="/tmp/elsewhere", readonly=True)],
        )
    )
    code = f"echo 1 > one; echo 2 > {data}/two; cat /tmp/elsewhere/d; echo 3 > /tmp/elsewhere/three"
    result = session.run(code)
    assert text(result.logs.stdout) .strip() == "d" and result.exit_code != 0
    assert session.run(f"cat one {data}/two").exit_code == 0
    assert sorted(p.name for p in data.iterdir()) == ["d"]
    session.delete()


def test_the_environment_is_filtered(start_agent, workspace):
    service = start_agent({"MY_TOKEN": "secret", "AWS_REGION": "x", "PLAIN": "plain", "OTHER": "other"})
    where = IsolatedWorkspaceSpec(path=str(workspace))
    show = "echo ${MY_TOKEN-none} ${AWS_REGION-none} ${PLAIN-none} ${OTHER-none}"

    def shown(**fields):
        with service.session(CreateIsolatedSessionRequest(workspace=where, **fields)) as session:
            return text(session.run(show).logs.stdout).strip()

    assert shown() == "none none plain other"
    assert shown(profile="balanced") == "secret x plain other"
    assert shown(env_passthrough=EnvPassthroughSpec(mode="allow", keys=["PLAIN"])) == "none none plain none"
    assert shown(env_passthrough=EnvPassthroughSpec(mode="deny", keys=["OTH*"])) == "none none plain none"


@pytest.fixture
def start_agent(tmp_path):
    agents = []

    def start(env):
        agents.append(Execd(tmp_path / "other.log", env=env))
        endpoint = SandboxEndpoint(
            endpoint=f"{agents[-1].host}:{agents[-1].port}", headers={"X-EXECD-ACCESS-TOKEN": agents[-1].token}
        )
        return IsolatedSessionsAdapterSync(ConnectionConfigSync(), endpoint)

    yield start
    for agent in agents:
        agent.stop()


def test_files_are_those_of_the_session(create, workspace):
    session = create()
    files = session.files
    here = str(workspace)
    assert files.read_file(f"{here}/a.txt") == "from below\n"
    files.write_file(f"{here}/sub/new.txt", "written\n", mode=640)
    assert text(session.run("cat sub/new.txt; stat -c %a sub/new.txt").logs.stdout).split() == ["written", "640"]
    assert not (workspace / "sub").exists()

    files.create_directories([WriteEntry(path=f"{here}/made", mode=755)])
    files.move_files([MoveEntry(src=f"{here}/sub/new.txt", dest=f"{here}/made/moved.txt")])
    files.replace_contents([ContentReplaceEntry(path=f"{here}/made/moved.txt", old_content="written", new_content="changed")])
    files.set_permissions([SetPermissionEntry(path=f"{here}/made/moved.txt", mode=600)])
    assert text(session.run("cat made/moved.txt").logs.stdout).strip() == "changed"
    found = files.search(SearchEntry(path=here, pattern="*.txt"))
    assert sorted(entry.path for entry in found) == [f"{here}/a.txt", f"{here}/made/moved.txt"]
    listed = files.list_directory(DirectoryListEntry(path=here))
    assert sorted(entry.path for entry in listed) == [f"{here}/a.txt", f"{here}/made", f"{here}/sub"]
    assert files.get_file_info([f"{here}/made/moved.txt"])[f"{here}/made/moved.txt"].mode == 600

    files.delete_files([f"{here}/a.txt"])
    files.delete_directories([f"{here}/made"])
    assert session.run("test ! -e a.txt -a ! -e made").exit_code == 0
    assert (workspace / "a.txt").read_text() == "from below\n"


def test_files_of_tmp_are_private(create):
    one, other = create(), create()
    one.files.write_file("/tmp/mine", "x")
    assert one.run("cat /tmp/mine").exit_code == 0
    with pytest.raises(SandboxApiException) as missing:
        other.files.read_file("/tmp/mine")
    assert missing.value.status_code == 404


def test_a_read_only_workspace_takes_no_files(create, workspace):
    session = create("ro")
    assert session.files.read_file(f"{workspace}/a.txt") == "from below\n"
    with pytest.raises(SandboxApiException) as refused:
        session.files.write_file(f"{workspace}/b", "x")
    assert refused.value.status_code == 403


def test_attach_get_list_delete(service, create):
    session = create(idle_timeout_seconds=100)
    again = service.attach(session.session_id)
    assert again.info.idle_timeout_seconds == 100 and again.info.profile == "strict"
    state = again.get()
    assert state.status == "active" and 0 < state.idle_remaining_seconds <= 100
    assert session.session_id in [item.session_id for item in service.list()]
    session.delete()
    with pytest.raises(SandboxApiException) as gone:
        service.attach(session.session_id)
    assert gone.value.status_code == 404


def test_a_timeout_ends_the_run_and_not_the_session(create):
    session = create()
    result = session.run("sleep 1000", opts=IsolatedRunOpts(timeout_seconds=1))
    assert result.error is not None
    assert session.run("echo still").exit_code == 0


def test_run_once(service, workspace):
    result = service.run_once("echo once", workspace=str(workspace))
    assert text(result.logs.stdout).strip() == "once" and result.exit_code == 0


def test_what_is_wrong_is_said(service, workspace):
    with pytest.raises(SandboxApiException) as wrong:
        service.create(CreateIsolatedSessionRequest(workspace=IsolatedWorkspaceSpec(path="relative")))
    assert wrong.value.status_code == 400


def test_async_client(agent, workspace):
    async def use():
        endpoint = SandboxEndpoint(
            endpoint=f"{agent.host}:{agent.port}", headers={"X-EXECD-ACCESS-TOKEN": agent.token}
        )
        service = IsolatedSessionsAdapter(ConnectionConfig(), endpoint)
        request = CreateIsolatedSessionRequest(workspace=IsolatedWorkspaceSpec(path=str(workspace)))
        async with service.session(request) as session:
            return await session.run("id -u")

    assert asyncio.run(use()).exit_code == 0


def test_javascript_client(agent, workspace):
    script = Path(__file__).with_name("isolated.mjs")
    argv = ["node", script, f"http://{agent.host}:{agent.port}", agent.token, workspace]
    home = {"NODE_HOME": str(ROOT / "build/npm")}
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=os.environ | home)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["available"] and told["exitCode"] == 3 and told["stdout"].strip() == "from below"
    assert told["read"].strip() == "new" and told["again"].strip() == "written" and told["listed"] >= 1
