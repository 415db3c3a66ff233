"""SIGKILL in the middle of work: what worked with it is told, nothing else is harmed, and it can be done again."""

import contextlib
import json
import os
import select
import signal

import pytest

import code_cells
import faults
from daemon import Execd, events
from test_pty import Terminal

WAIT_S = 20  # a hang, not a measure
LANGUAGES = {"python": "import time\nprint('on', flush=True)\ntime.sleep(1000)",
             "javascript": "console.log('on'); await new Promise(() => setTimeout(() => {}, 1e9))",
             "bash": "echo on; sleep 1000"}  # Go and Java: test_code_go.py, test_code_java.py


def kill(pid):
    """It has ended when this returns."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], WAIT_S)[0]
    os.close(pidfd)


def until(stream, type):
    for event in stream:
        if event["type"] == type:
            return event
    raise AssertionError(f"no {type}")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_kernel_within_a_cell(execd, language):
    one, other = (code_cells.Context(execd, code_cells.create(execd, language).id, language) for _ in range(2))
    with one.stream(LANGUAGES[language]) as response:
        stream = events(response)
        until(stream, "stdout")
        kill(one.info()["pid"])
        end = list(stream)[-1]
    assert end["type"] == "error", end
    assert "SIGKILL" in json.dumps(end) or "signal 9" in json.dumps(end) or "killed" in json.dumps(end), end
    assert other.run("1" if language != "bash" else "echo 1").error is None
    one.delete()
    other.delete()


@pytest.mark.parametrize("again", [False, True])
def test_the_shell_of_a_session_within_a_run(execd, again):
    id = json.loads(faults.ask(execd, "POST", "/session", {}))["session_id"]
    with execd.stream("POST", f"/session/{id}/run", json={"command": "sleep 1000 & echo $$; while :; do :; done"}) as response:
        stream = events(response)
        kill(int(until(stream, "stdout")["text"]))
        end = list(stream)[-1]
    assert end["type"] == "error" and end["end"]["signal"] == "SIGKILL", end
    if again:
        assert faults.text_of(faults.run(execd, f"/session/{id}/run", command="echo again")) == "again"
    faults.ask(execd, "DELETE", f"/session/{id}")  # and with it the sleep: the end of the test looks for it


def test_the_shell_of_a_terminal(execd):
    id = json.loads(faults.ask(execd, "POST", "/pty", {}))["session_id"]
    terminal = Terminal(execd, id)
    terminal.text("connected")
    terminal.type("sleep 1000 & echo pid''=$$\n")
    kill(int(terminal.until(rb"pid=(\d+)")[0]))
    end = terminal.end()
    assert end["signal"] == "SIGKILL", end
    assert terminal.close[0] in (1000, 1001), terminal.close
    faults.ask(execd, "DELETE", f"/pty/{id}")


def test_the_agent_within_its_work(start, tmp_path):
    """No kernel survives it, and no file is half there under its name."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "old").write_bytes(b"old")
    (here / "many").mkdir()
    for n in range(200):
        (here / f"many/{n}").write_bytes(b"%d" % n * 5000)
    agent = start(Execd)
    agent.expect_exit = None
    pids = []
    connections = []
    for path, body in [
        ("/command", {"command": "echo $$; exec sleep 1000"}),
        ("/command", {"command": "setsid sh -c 'echo $$; exec sleep 1000'"}),
    ]:
        context = agent.stream("POST", path, json=body)
        stream = events(context.__enter__())
        pids.append(int(until(stream, "stdout")["text"]))
        connections.append((context, stream))
    python = code_cells.create(agent)
    kernel = os.pidfd_open(python.info()["pid"])
    # An upload that has all but its end, and a copy of a tree of which nobody knows how far it is.
    body, fields = faults.form(
        (b'name="metadata"; filename="m"', json.dumps({"path": f"{here}/old"}).encode()),
        (b'name="file"; filename="f"', b"new" * 100000),
    )
    upload = agent.raw()
    request = f"POST /files/upload HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {agent.token}\r\n"
    upload.sendall(f"{request}Content-Type: {fields['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-9])
    copy = agent.raw()
    text = json.dumps([{"src": f"{here}/many", "dest": f"{here}/copy", "recursive": True}]).encode()
    copy.sendall(f"POST /files/copy HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {agent.token}\r\n"
                 f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
    kill(agent.pid)
    agent.process.wait()
    assert select.select([kernel], [], [], WAIT_S)[0]
    os.close(kernel)
    for pid in pids:  # commands are nobody's now: in a container they end with its init
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert (here / "old").read_bytes() == b"old"
    for path in (here / "copy").rglob("*") if (here / "copy").exists() else ():
        if not path.name.startswith(".execd-"):
            assert path.read_bytes() == (here / "many" / path.name).read_bytes(), path
    again = start(Execd)
    faults.command(again, here)
    faults.ask(again, "POST", "/files/copy", [{"src": f"{here}/many", "dest": f"{here}/copy", "recursive": True, "overwrite": True}])
    assert {path.name: path.read_bytes() for path in (here / "many").iterdir()} == {
        path.name: path.read_bytes() for path in (here / "copy").iterdir() if not path.name.startswith(".execd-")}
    upload.close(), copy.close()
