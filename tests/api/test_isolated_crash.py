"""The agent is killed in the midst of a commit, of an undo, of a call: what holds afterwards, and for the next agent."""

import fcntl
import json
import os
import shutil
import signal
import struct
import threading
from pathlib import Path

import httpx
import pytest

from daemon import children, see_ends
from layers import call, create, good, run

F_SETOWN_EX, F_OWNER_TID = 15, 0
FILES, SIZE = 200, 4000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the agent needs root for layers on disk")


def content(word, n):
    return f"{word} {n} ".encode() * (SIZE // 10)


def descendants(pid):
    try:
        kids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(kid) for kid in kids] + [below for kid in kids for below in descendants(kid)]


def crash(execd):
    """Kills the agent; what it had started has to end of itself."""
    left, others = descendants(execd.pid), children()
    execd.expect_exit = None
    execd.process.kill()
    execd.process.wait()
    # What was forked since comes to us: a room's init ends only when whoever entered it has been collected.
    for _ in range(60):
        left = see_ends({*left, *children() - others}, 1000)
        if not left:
            break
    assert not left, "something outlives the agent"
    return execd


class Changes:
    """wait(n): until something was done to the names in a directory, n times: made or moved in, moved in it, removed."""

    def __init__(self, folder, what=fcntl.DN_CREATE):
        # Not inotify: of its instances there are few on a machine.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
        self.fd = os.open(folder, os.O_RDONLY)
        # To this thread: others have not blocked it, and would be the end of the process.
        fcntl.fcntl(self.fd, F_SETOWN_EX, struct.pack("=ii", F_OWNER_TID, threading.get_native_id()))
        fcntl.fcntl(self.fd, fcntl.F_SETSIG, signal.SIGRTMIN)
        fcntl.fcntl(self.fd, fcntl.F_NOTIFY, what | fcntl.DN_MULTISHOT)

    def wait(self, n):
        for _ in range(n):
            assert signal.sigtimedwait([signal.SIGRTMIN], 60), "nothing is changed"
        os.close(self.fd)
        while signal.sigtimedwait([signal.SIGRTMIN], 0):
            pass
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGRTMIN])


def cgroups(agent):
    """Those that it has made: the machine may have other agents."""
    return [str(path) for path in Path("/sys/fs/cgroup").rglob(f"execd.*-{agent.pid}") if path.is_dir()]


def mounts(*folders):
    return [line for line in open("/proc/self/mounts") if any(str(folder) in line for folder in folders)]


@pytest.fixture
def state(tmp_path, request):
    """The folder of an agent's layers, where overlays may lie."""
    folder = Path("/var/tmp") / f"execd-crash-{os.getpid()}"
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    return folder


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "workspace"
    folder.mkdir()
    for n in range(FILES):
        (folder / f"f{n}").write_bytes(content("old", n))
    return folder


def ask_and_lose(execd, path, body):
    """A request whose answer never comes."""

    def ask():
        try:
            execd.http.post(path, json=body)
        except httpx.HTTPError:
            pass

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def check_whole(workspace, beside=0):
    """Each name has its old or its new content; beside them at most what a commit was making things in."""
    names = set(os.listdir(workspace))
    left = {name for name in names if name.startswith(".execd-commit-")}
    assert len(left) <= beside and names - left == {f"f{n}" for n in range(FILES)}
    seen = {"old": 0, "new": 0}
    for n in range(FILES):
        data = (workspace / f"f{n}").read_bytes()
        assert data in (content("old", n), content("new", n)), f"f{n} is neither of both"
        seen[data[:3].decode()] += 1
    return seen


def check_next(start_execd, state, workspace):
    """Another agent with the same state: it takes away what was left, and does the same work to its end."""
    execd = start_execd(args=["--isolation-upper-root", str(state)])
    # Of one that lives: in another container over the same volume, it may be.
    living = workspace / ".execd-commit-7"
    living.mkdir(mode=0o700)
    (living / "new").write_text("half")
    fd = os.open(living, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    session = create(execd, workspace, limits={"processes": 100})
    run(execd, session, REWRITE)
    good(call(execd, "POST", session, "commit", json={"force": True}))
    assert (living / "new").read_text() == "half"
    shutil.rmtree(living)
    os.close(fd)
    assert check_whole(workspace) == {"old": 0, "new": FILES}
    assert execd.http.delete(f"/v1/isolated/session/{session}").status_code == 204
    end(execd)
    assert not state.exists() or os.listdir(state) == []
    assert not mounts(state, workspace)


def end(execd):
    execd.stop()
    execd.expect_exit = None  # that it is no more is right


REWRITE = f"""t=$(printf 'new @ %.0s' $(seq {SIZE // 10}))
for ((n = 0; n < {FILES}; n++)); do printf %s "${{t//@/$n}}" >f$n; done"""


@needs_root
@pytest.mark.parametrize("after", [1, 40])
def test_killed_in_the_midst_of_a_commit(start_execd, state, workspace, after):
    execd = start_execd(args=["--isolation-upper-root", str(state)])
    session = create(execd, workspace, limits={"processes": 100})
    run(execd, session, REWRITE)
    changes = Changes(workspace)
    lost = ask_and_lose(execd, f"/v1/isolated/session/{session}/commit", {})
    changes.wait(1 + after)  # what it makes them in is one
    killed = crash(execd)
    lost.join()
    assert check_whole(workspace, beside=1)["new"] >= after
    check_next(start_execd, state, workspace)
    assert not cgroups(killed)


@needs_root
def test_killed_in_the_midst_of_an_undo(start_execd, state, workspace):
    execd = start_execd(args=["--isolation-upper-root", str(state)])
    told = execd.run(REWRITE, cwd=str(workspace), undoable=True)
    assert told[-1]["type"] == "execution_complete" and check_whole(workspace)["new"] == FILES
    changes = Changes(workspace)
    lost = ask_and_lose(execd, f"/command/{told[0]['text']}/undo", {})
    changes.wait(21)
    crash(execd)
    lost.join()
    assert check_whole(workspace, beside=1)["old"] >= 20
    check_next(start_execd, state, workspace)


@needs_root
@pytest.mark.parametrize("after", [1, 5])
def test_killed_in_the_midst_of_a_session_s_undo(start_execd, state, workspace, after):
    """Its layers go with it: the workspace is as it was, whatever of the undo was done."""
    execd = start_execd(args=["--isolation-upper-root", str(state)])
    session = create(execd, workspace, undoable=True, limits={"processes": 100})
    for n in range(6):
        run(execd, session, f"for ((i = 0; i < {FILES}; i++)); do echo {n} >f$i; done; mkdir d{n}")
    [stack] = state.glob("rooms.*/*/0")
    first = good(call(execd, "GET", session, "undo"))["points"][0]["run_id"]
    changes = Changes(stack, fcntl.DN_RENAME)
    lost = ask_and_lose(execd, f"/v1/isolated/session/{session}/undo", {"run_id": first})
    changes.wait(after)
    killed = crash(execd)
    lost.join()
    assert check_whole(workspace) == {"old": FILES, "new": 0}
    check_next(start_execd, state, workspace)
    assert not cgroups(killed)


@needs_root
def test_what_a_killed_commit_has_left_goes_with_the_next_session(start_execd, state, workspace):
    left = workspace / ".execd-commit-0"
    (left / "new" / "d").mkdir(parents=True)
    left.chmod(0o700)
    execd = start_execd(args=["--isolation-upper-root", str(state)])
    removed = Changes(workspace, fcntl.DN_DELETE)
    create(execd, workspace, limits={"processes": 100})
    removed.wait(1)
    end(execd)
    assert check_whole(workspace) == {"old": FILES, "new": 0}


@needs_root
@pytest.mark.skipif(shutil.which("python3") is None, reason="there is no python3 here")
def test_killed_in_the_midst_of_a_call(start_execd, state, workspace):
    execd = start_execd(args=["--isolation-upper-root", str(state)])
    assert execd.http.post("/v1/isolated/run", json={"code": "def handler(e):\n    return e"}).status_code == 200
    fifo = workspace.parent / "fifo"
    os.mkfifo(fifo)
    code = f"""import os, subprocess, time
def handler(event):
    subprocess.Popen(['setsid', 'sleep', '1000'])
    open('{fifo}', 'w').write('on')
    time.sleep(1000)
"""
    body = {"code": code, "workspace": {"path": str(workspace.parent), "mode": "rw"}, "limits": {"processes": 100}}
    lost = ask_and_lose(execd, "/v1/isolated/run", body)
    assert fifo.read_text() == "on"
    killed = crash(execd)
    lost.join()
    os.unlink(fifo)
    assert check_whole(workspace) == {"old": FILES, "new": 0}
    execd = start_execd(args=["--isolation-upper-root", str(state)])
    answer = execd.http.post("/v1/isolated/run", json={"code": "def handler(e):\n    return e", "event": 5})
    assert json.loads(answer.text)["result"] == 5
    end(execd)
    check_next(start_execd, state, workspace)
    assert not cgroups(killed)
