"""The agent under valgrind: a dozen operations, no access that is wrong, nothing lost, no descriptor left open."""

import io
import json
import re
import shutil
import tarfile

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from code_cells import create
from daemon import BUILD, SANITIZED, TOKEN, events
from test_files import download, pair, upload

pytestmark = [
    pytest.mark.skipif(SANITIZED, reason="the sanitizers look for the same"),
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind here"),
]
WAIT_S = 100  # everything is thirty times slower


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """The agents that are started from now on run under valgrind; reports() is what it has said of each."""
    start = tmp_path / "start"
    start.write_text(
        f'#!/bin/sh\nLD_PRELOAD={BUILD}/fault/plain_clone.so exec valgrind --track-fds=yes --leak-check=full '
        "--show-leak-kinds=definite --errors-for-leak-kinds=definite --child-silent-after-fork=yes --error-exitcode=77 "
        f'--num-callers=25 --log-file={tmp_path}/valgrind.%p {BUILD}/execd-dynamic "$@"\n'
    )
    start.chmod(0o755)
    monkeypatch.setattr("daemon.EXECD", str(start))
    monkeypatch.setattr("daemon.END_TIMEOUT_S", WAIT_S)
    return lambda: {path.name: path.read_text() for path in tmp_path.glob("valgrind.*")}


# What is open as long as the process lives, by who has opened it.
LIFELONG = (
    "slots_init (spawn.c",  # low numbers that are reserved for starting programs: lib/spawn.c
    "slots_give_back (spawn.c",
    "lws_plat_pipe_create",  # libwebsockets' own wake-up, one, which its end does not close
)


def left_open(report):
    """The descriptors that were open in the end and were neither inherited nor lifelong."""
    blocks = re.findall(r"Open (?:file descriptor|AF_\w+ socket) (\d+)(.*?)(?=\n==\d+== \n|\n==\d+== Open)", report, re.DOTALL)
    return [
        fd + what for fd, what in blocks
        if int(fd) > 2 and not any(reason in what for reason in ("<inherited from parent>", *LIFELONG))
    ]  # fmt: skip


def commands(execd, tmp_path):
    assert [e["text"] for e in execd.run("echo out; echo err >&2; exit 3")[1:3]] == ["out", "err"]
    id = execd.run("seq 1000; seq 1000 >&2", background=True)[0]["text"]
    with execd.stream("GET", f"/command/{id}/stream") as response:
        assert sum(e["type"] == "stdout" for e in events(response)) == 1000
    assert len(execd.http.get(f"/command/{id}/output", params={"stream": "stdout"}).content) == 3893
    with execd.stream("POST", "/command", json={"command": "cat; sleep 1000", "stdin": True}) as response:
        stream = events(response)
        id = next(stream)["text"]
        assert execd.http.post(f"/command/{id}/stdin", content=b"typed\n", params={"close": "true"}).json() == {"written": 6}
        assert next(stream)["text"] == "typed"
        assert execd.http.delete("/command", params={"id": id}).status_code == 200
        assert list(stream)[-1]["end"]["reason"] == "interrupted"
    execd.run("echo; sleep 1000", timeout=100)
    execd.run(f"touch {tmp_path}/left-running", background=True)
    operations = [{"op": "write", "path": f"{tmp_path}/b", "content": "x"}, {"op": "run", "argv": ["cat", f"{tmp_path}/b"]}]
    assert execd.http.post("/batch", json={"operations": operations}).json()["ok"]


def sessions(execd):
    id = execd.http.post("/session", json={}).json()["session_id"]
    for _ in range(2):
        with execd.stream("POST", f"/session/{id}/run", json={"command": "x=$((x + 1)); echo $x"}) as response:
            last = [e["text"] for e in events(response) if e["type"] == "stdout"]
    assert last == ["2"]
    assert execd.http.delete(f"/session/{id}").status_code == 200
    id = execd.http.post("/pty", json={"command": "read x; echo got $x; exit 4"}).json()["session_id"]
    with connect(
        f"ws://{execd.host}:{execd.port}/pty/{id}/ws", additional_headers={"X-EXECD-ACCESS-TOKEN": TOKEN}, open_timeout=WAIT_S
    ) as ws:
        ws.send(b"\0line\n")
        frames = []
        try:
            while True:
                frames.append(ws.recv(WAIT_S))
        except ConnectionClosed:
            pass
    assert b"got line" in b"".join(frame for frame in frames if isinstance(frame, bytes))
    assert json.loads(frames[-1]) == {"type": "exit", "exit_code": 4}
    assert execd.http.delete(f"/pty/{id}").status_code == 200


def files(execd, tmp_path):
    assert upload(execd, pair(tmp_path / "d/one", b"needle\n" * 5000), pair(tmp_path / "d/two", b"\0")).status_code == 200
    assert download(execd, tmp_path / "d/one", headers={"Range": "bytes=7-13"}).content == b"needle\n"
    assert len(execd.http.get("/files/search", params={"path": tmp_path / "d", "pattern": "*"}).json()) == 2
    found = execd.http.post("/files/grep", json={"path": str(tmp_path / "d"), "pattern": "need.e", "context": 1}).text.splitlines()
    assert json.loads(found[-1])["matches"] == 5000
    for kind in ("tar", "tar.gz", "tar.zst"):
        packed = execd.http.get("/directories/archive", params={"path": tmp_path / "d", "format": kind}).content
        done = execd.http.post("/directories/archive", content=packed, params={"path": tmp_path / kind})
        assert done.json()["files"] == 2, done.text
    bad = io.BytesIO()
    with tarfile.open(fileobj=bad, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../out"))
    assert execd.http.post("/directories/archive", content=bad.getvalue(), params={"path": tmp_path / "bad"}).status_code == 400
    assert execd.http.delete("/directories", params={"path": tmp_path / "d"}).status_code == 200


def cells(execd):
    context = create(execd)
    assert context.value("40 + 2") == "42"
    assert context.run("1 / 0").error["ename"] == "ZeroDivisionError"
    context.delete()


def rest(execd):
    assert execd.http.get("/metrics").status_code == 200
    assert execd.http.get("/ports").status_code == 200
    assert execd.http.get("/confinement").status_code == 200
    assert execd.http.get("/nowhere").status_code == 404
    assert execd.http.get(f"/proxy/{execd.port}/ping").status_code == 401  # itself, and the token is not passed on
    assert execd.http.post("/command", content=b"{").status_code == 400
    with execd.stream("GET", "/metrics/watch") as response:
        next(events(response))
    connection = execd.raw()
    connection.sendall(b"POST /command HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    connection.close()


@pytest.mark.timeout(400)
def test_a_dozen_operations(reports, start_execd, tmp_path):
    execd = start_execd()
    execd.http.timeout = WAIT_S
    commands(execd, tmp_path)
    sessions(execd)
    files(execd, tmp_path)
    cells(execd)
    rest(execd)
    execd.run("sleep 1000", background=True)  # ended with the agent
    execd.stop()
    execd.expect_exit = None
    said = "\n".join(reports().values())
    assert execd.process.returncode == 0, said
    assert "ERROR SUMMARY: 0 errors" in said and "FILE DESCRIPTORS:" in said, said
    assert left_open(said) == [], said
