"""POST /v1/isolated/run: one call in a room of its own."""

import os
import shutil
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from daemon import see_ends

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at the namespaces of rooms")
needs_python = pytest.mark.skipif(shutil.which("python3") is None, reason="there is no python3 here")
RUN = "/v1/isolated/run"


def call(execd, **fields):
    response = execd.http.post(RUN, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


@needs_python
def test_a_function_gets_its_event_and_returns_a_value(execd):
    code = "def handler(event):\n    print('seen', event['n'])\n    return {'twice': event['n'] * 2, 'ü': None}"
    for n in (1, 2, 3):  # the first is cold, the others may find a Python that waits
        answer = call(execd, code=code, event={"n": n})
        assert answer["result"] == {"twice": 2 * n, "ü": None}
        assert answer["stdout"] == f"seen {n}\n" and answer["exit_code"] == 0


@needs_python
def test_another_name_and_a_file(execd, tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "helper.py").write_text("value = 7\n")
    (folder / "app.py").write_text("import helper\ndef main(event):\n    return [event, helper.value]\n")
    answer = call(execd, path=f"{folder}/app.py", handler="main", event="x",
                  workspace={"path": str(folder), "mode": "ro"})
    assert answer["result"] == ["x", 7]


@needs_python
def test_an_exception_is_told(execd):
    answer = call(execd, code="def handler(event):\n    raise ValueError('no such thing')")
    assert answer["error"]["ename"] == "ValueError" and answer["error"]["evalue"] == "no such thing"
    assert "result" not in answer and answer["exit_code"] == 1
    assert call(execd, code="x = 1")["error"]["ename"] == "NameError"
    assert call(execd, code="def handler(event")["error"]["ename"] == "SyntaxError"
    assert call(execd, code="def handler(event):\n    return {1, 2}")["error"]["ename"] == "TypeError"
    assert call(execd, code="import sys\ndef handler(event):\n    sys.exit(3)")["exit_code"] == 3


@needs_python
def test_calls_leave_nothing_to_each_other(execd):
    code = """
import os
def handler(event):
    seen = os.listdir('/tmp'), os.path.exists('/dev/shm/left')
    open('/tmp/left', 'w').close(); open('/dev/shm/left', 'w').close()
    if os.fork() == 0:
        os.setsid()
        import time
        time.sleep(1000)
    return seen
"""
    for _ in range(4):
        assert call(execd, code=code)["result"] == [[], False]


@needs_python
def test_too_long_a_result_is_none(execd):
    answer = call(execd, code="def handler(event):\n    return 'x' * (5 << 20)")
    assert "result" not in answer and answer["exit_code"] == 1 and "longer" in answer["stderr"]


@needs_python
def test_a_result_that_cannot_be_told_says_why(execd):
    answer = call(execd, code="def handler(event):\n    print('ran')\n    return float('nan')")
    assert answer["error"]["ename"] == "ResultError" and "NaN" in answer["error"]["evalue"], answer
    assert "result" not in answer and answer["stdout"] == "ran\n"
    answer = call(execd, code="def handler(event):\n    return [[]] * 1000000")
    assert answer["error"]["ename"] == "ResultError" and "too many values" in answer["error"]["evalue"], answer
    answer = call(execd, code="import os\ndef handler(event):\n    os._exit(4)")
    assert answer["exit_code"] == 4 and "result" not in answer and "error" not in answer


def test_a_command_gets_its_event_on_standard_input(execd):
    answer = call(execd, command="cat; echo problem >&2; echo $X; exit 3", event={"a": [1]}, envs={"X": "y"})
    assert answer["stdout"] == '{"a":[1]}y\n' and answer["stderr"] == "problem\n" and answer["exit_code"] == 3


def test_a_command_in_a_workspace(execd, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "f").write_text("below\n")
    answer = call(execd, command="cat f; echo x > g; ls", workspace={"path": str(folder), "mode": "overlay"})
    assert answer["stdout"].split() == ["below", "f", "g"] and os.listdir(folder) == ["f"]


def test_a_timeout_ends_everything(execd):
    answer = call(execd, command="echo begun; sleep 1000 & sleep 1000", timeout_seconds=1)
    assert answer["timed_out"] and answer["stdout"] == "begun\n"


@pytest.mark.parametrize(
    "fields",
    [{}, {"code": "x", "command": "y"}, {"command": "true", "timeout_seconds": -1}, {"code": 5},
     {"code": "x", "envs": {"A": "b"}}, {"command": "true", "profile": "loose"}],
)
def test_what_is_wrong_is_400(execd, fields):
    assert execd.http.post(RUN, json=fields).status_code == 400


LOOK = """
import os, sys
def handler(event):
    status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
    fds = {int(fd) for fd in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + fd)}
    pids = sorted(int(p) for p in os.listdir('/proc') if p.isdigit())
    keeper = {}
    if len(pids) > 2:
        keeper = {'status': open('/proc/%d/status' % pids[2]).read(), 'fds': os.listdir('/proc/%d/fd' % pids[2])}
    return {'fds': sorted(fds), 'status': {k: v.strip() for k, v in status.items()}, 'env': dict(os.environ),
            'first': open('/proc/self/environ').read().replace(chr(0), ' '), 'isolated': sys.flags.isolated,
            'pids': pids, 'keeper': keeper, 'uid': os.getuid(),
            'uts': os.readlink('/proc/self/ns/uts'), 'mnt': os.readlink('/proc/self/ns/mnt')}
"""


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zygote(execd):
    """The warm Python; not what it has forked, which is in a room."""
    for pid in children(execd.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"zygote.py" in words and os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid"):
            return pid
    return None


@needs_python
def test_a_forked_call_has_nothing_but_its_room(start_execd):
    execd = start_execd(env={"SOME_API_KEY": "secret-of-the-agent", "PLAIN": "seen"})
    for _ in range(3):
        seen = call(execd, code=LOOK)["result"]
        assert seen["isolated"] == 1, "it was not forked from the warm Python"
        assert seen["fds"] == [0, 1, 2, 3]  # the last is for its result
        assert seen["pids"][:2] == [1, int(seen["status"]["Pid"])] and len(seen["pids"]) == 3
        # Who keeps its memory is nobody's child there, holds nothing and is no more than the call is.
        keeper = dict(line.split(":\t", 1) for line in seen["keeper"]["status"].splitlines() if ":\t" in line)
        assert keeper["PPid"] == "0" and seen["keeper"]["fds"] == []
        for name in ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups"):
            assert keeper[name].split() == seen["status"][name].split(), name
        for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
            assert int(seen["status"][name], 16) == 0, name
        assert seen["status"]["NoNewPrivs"] == "1" and seen["status"]["Seccomp"] == "2"
        assert seen["env"]["PLAIN"] == "seen" and "SOME_API_KEY" not in seen["env"]
        assert "secret-of-the-agent" not in seen["first"] and "PLAIN" not in seen["first"]
        assert seen["uts"] != os.readlink("/proc/self/ns/uts") and seen["mnt"] != os.readlink("/proc/self/ns/mnt")


WHICH = "readlink /proc/self/ns/mnt; ls -A /tmp /dev/shm; echo /proc/[0-9]*; touch /tmp/left /dev/shm/left"
WHICH_CODE = f"import subprocess\ndef handler(event):\n    print(subprocess.check_output({WHICH!r}, shell=True, text=True), end='')"
KINDS = pytest.mark.parametrize("fields", [{"command": WHICH}, pytest.param({"code": WHICH_CODE}, marks=needs_python)], ids=["command", "function"])


def rooms(execd):
    """The mount namespaces of those that live, by the pid of the init."""
    found = {}
    for pid in children(execd.pid):
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid") and "NSpid:\t%d\t1\n" % pid in Path(f"/proc/{pid}/status").read_text():
                found[pid] = os.readlink(f"/proc/{pid}/ns/mnt")
        except OSError:
            pass  # it has ended
    return found


@needs_root
@KINDS
def test_a_call_finds_a_room_that_was_there_and_nobody_else_gets_it(execd, fields):
    found = 0
    for _ in range(9):
        before = rooms(execd).values()
        lines = call(execd, **fields)["stdout"].splitlines()
        assert lines[1:4] == ["/dev/shm:", "", "/tmp:"]
        if "command" in fields:
            assert lines[4] == "/proc/1 /proc/2"  # its init and the shell
        found += lines[0] in before
    assert found > 0  # in fact all but the first


@needs_root
@KINDS
def test_rooms_that_wait_may_die(execd, fields):
    for _ in range(3):
        call(execd, **fields)
    for _ in range(3):
        killed = rooms(execd)
        for pid in killed:
            with suppress(ProcessLookupError):  # that of the last call is on its way already
                os.kill(pid, signal.SIGKILL)
        see_ends(killed, 60_000)
        execd.http.get("/ping")  # it has heard of them, too
        for _ in range(3):
            assert call(execd, **fields)["stdout"].splitlines()[1:4] == ["/dev/shm:", "", "/tmp:"]


@needs_python
def test_a_call_may_do_without_the_keeper_of_its_memory(execd):
    code = """import os, signal
def handler(event):
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        os.kill(-1, signal.SIGKILL)
        return 'nobody'
"""
    for _ in range(3):
        answer = call(execd, code=code)
        assert answer["result"] == "nobody" and answer["end"]["reason"] == "exited"


@needs_python
def test_what_a_forked_call_is_denied_is_told(execd):
    code = "import ctypes, os\ndef handler(event):\n    r = ctypes.CDLL(None, use_errno=True).unshare(0x20000)\n" \
           "    return [r, ctypes.get_errno()]"
    for _ in range(2):
        answer = call(execd, code=code)
        assert answer["result"] == [-1, 1]
        assert {"syscall": "unshare", "count": 1, "errno": "EPERM"} in answer["end"]["denied"]


@needs_python
def test_a_forked_call_as_somebody_else_and_in_bounds(execd):
    code = "import resource, sys\ndef handler(event):\n    return [*resource.getrlimit(resource.RLIMIT_NOFILE), sys.flags.isolated]"
    assert call(execd, code=code, limits={"open_files": 77})["result"] == [77, 77, 1]
    # Where the warm Python's modules are not for that user, it is another one.
    seen = call(execd, code=LOOK, uid=12345)["result"]
    assert seen["status"]["Uid"].split() == ["12345"] * 4 and seen["status"]["Groups"] in ("", "0")
    assert call(execd, code=code, uid=12345, limits={"open_files": 77})["result"][:2] == [77, 77]
    seen = call(execd, code=LOOK, uid_mode="userns")["result"]
    assert seen["isolated"] == 1 and int(seen["status"]["CapEff"], 16) == 0


@needs_python
def test_the_warm_python_may_die(execd):
    assert call(execd, code="def handler(event):\n    return 1")["result"] == 1
    for _ in range(3):
        pid = zygote(execd)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        for n in range(4):
            assert call(execd, code="def handler(event):\n    return event", event=n)["result"] == n


@needs_python
def test_without_a_warm_python_calls_are_started(start_execd, tmp_path):
    """A Python that cannot be one: what a room's init starts does all the same."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or os.path.realpath(shutil.which("python3"))
    shim = Path("/var/tmp") / f"execd-shim-{os.getpid()}"  # where rooms can see it
    shim.mkdir()
    try:
        (shim / "python3").write_text(f'#!/bin/sh\n[ "$1" = -I ] && exit 1\nexec {python} "$@"\n')
        (shim / "python3").chmod(0o755)
        execd = start_execd(env={"PATH": f"{shim}:{os.environ['PATH']}"})
        for n in range(4):
            answer = call(execd, code="import sys\ndef handler(event):\n    return [event, sys.flags.isolated]", event=n)
            assert answer["result"] == [n, 0]
    finally:
        shutil.rmtree(shim)


@needs_python
def test_a_result_with_a_nul(execd):
    assert call(execd, code="def handler(event):\n    return 'a\\0b'")["result"] == "a\0b"


@needs_python
def test_many_clients(execd):
    wrong = []

    def work(client, base):
        for n in range(base, base + 5):
            answer = client.post(RUN, json={"code": "def handler(event):\n    return event + 1", "event": n}).json()
            if answer.get("result") != n + 1:
                wrong.append(answer)

    clients = [execd.client(headers={"X-EXECD-ACCESS-TOKEN": execd.token}, timeout=120) for _ in range(4)]
    threads = [threading.Thread(target=work, args=(client, 100 * i)) for i, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_python
def test_nothing_stays_behind(execd):
    for _ in range(3):
        call(execd, code="def handler(event):\n    return 1")
        call(execd, command="true")
    fds = len(os.listdir(f"/proc/{execd.pid}/fd"))
    for _ in range(10):
        call(execd, code="def handler(event):\n    return 1")
        call(execd, command="sleep 1000 & true")
    assert len(os.listdir(f"/proc/{execd.pid}/fd")) <= fds + 20  # rooms that wait are being made
