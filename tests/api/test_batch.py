"""POST /batch: ordered small operations in one round trip."""

import base64
import os
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon import TOKEN, events


def batch(execd, *operations, **fields):
    response = execd.http.post("/batch", json={"operations": operations, **fields})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert len(answer["results"]) == len(operations)
    assert [r["op"] for r in answer["results"]] == [o["op"] for o in operations]
    assert answer["ok"] == all(r["status"] == "ok" for r in answer["results"])
    return answer["results"]


def states(results):
    return [result["status"] for result in results]


def refused(execd, operation, word, code=400):
    body = {"operations": [{"op": "stat", "path": "/"}, operation]}
    response = execd.http.post("/batch", json=body)
    assert response.status_code == code, response.text
    assert "operations[1]" in response.json()["message"] and word in response.json()["message"], response.text


def test_all_kinds_in_order(execd, tmp_path):
    file = f"{tmp_path}/a/b/hello.txt"
    results = batch(
        execd,
        {"op": "mkdir", "path": f"{tmp_path}/d", "mode": 700},
        {"op": "write", "path": file, "content": "grüße\n", "mode": 640},
        {"op": "run", "command": "cat hello.txt; echo $X >&2; pwd", "cwd": f"{tmp_path}/a/b", "envs": {"X": "set"}},
        {"op": "run", "argv": ["sh", "-c", "printf more >> $0", file]},
        {"op": "read", "path": file},
        {"op": "stat", "path": file},
        {"op": "remove", "path": file},
        {"op": "remove", "path": f"{tmp_path}/a", "recursive": True},
    )
    assert states(results) == ["ok"] * 8
    assert stat.S_IMODE(os.stat(tmp_path / "d").st_mode) == 0o700
    assert results[1]["size"] == len("grüße\n".encode())
    run = results[2]
    assert (run["stdout"], run["stderr"], run["exit_code"]) == (f"grüße\n{tmp_path}/a/b\n", "set\n", 0)
    assert run["end"]["reason"] == "exited" and "truncated" not in run
    assert execd.http.get(f"/command/{run['id']}/output?stream=stdout").text == run["stdout"]
    assert results[4]["content"] == "grüße\nmore"
    assert results[5]["info"]["size"] == len("grüße\nmore".encode()) and results[5]["info"]["mode"] == 640
    assert not (tmp_path / "a").exists()


def test_stops_at_the_first_error(execd, tmp_path):
    results = batch(
        execd,
        {"op": "write", "path": f"{tmp_path}/one", "content": ""},
        {"op": "run", "command": "echo out; exit 3"},
        {"op": "write", "path": f"{tmp_path}/two", "content": ""},
        {"op": "run", "command": f"touch {tmp_path}/three"},
    )
    assert states(results) == ["ok", "error", "skipped", "skipped"]
    assert results[1]["error"] == {"code": "COMMAND_FAILED", "message": "exit status 3"}
    assert (results[1]["exit_code"], results[1]["stdout"]) == (3, "out\n")
    assert (tmp_path / "one").exists() and not (tmp_path / "two").exists() and not (tmp_path / "three").exists()

    results = batch(execd, {"op": "read", "path": f"{tmp_path}/none"}, {"op": "stat", "path": "/"})
    assert states(results) == ["error", "skipped"]
    assert results[0]["error"]["code"] == "FILE_NOT_FOUND" and f"{tmp_path}/none" in results[0]["error"]["message"]


def test_continue_on_error(execd, tmp_path):
    results = batch(
        execd,
        {"op": "stat", "path": f"{tmp_path}/none"},
        {"op": "run", "argv": ["/no/such/program"]},
        {"op": "run", "command": "pwd", "cwd": "/no/such/place"},
        {"op": "run", "command": "kill -9 $$"},
        {"op": "run", "command": "sleep 100", "timeout": 50},
        {"op": "read", "path": f"{tmp_path}"},
        {"op": "remove", "path": f"{tmp_path}"},
        {"op": "write", "path": f"{tmp_path}/last", "content": "x"},
        continue_on_error=True,
    )
    assert states(results) == ["error"] * 7 + ["ok"]
    messages = [result.get("error", {}).get("message", "") for result in results]
    for message, word in zip(messages, ["none", "/no/such/program", "cwd", "SIGKILL", "timeout", "directory", ""]):
        assert word in message, (message, word)
    assert (tmp_path / "last").read_text() == "x"


def test_bytes(execd, tmp_path):
    data = bytes(range(256)) * 40
    file = f"{tmp_path}/bytes"
    results = batch(
        execd,
        {"op": "write", "path": file, "content_base64": base64.b64encode(data).decode()},
        {"op": "read", "path": file},
        {"op": "write", "path": file, "content": "text"},
        {"op": "read", "path": file, "encoding": "base64"},
        {"op": "write", "path": file, "content_base64": ""},
        {"op": "read", "path": file},
        {"op": "run", "argv": ["printf", "\\377x"]},
    )
    assert states(results) == ["ok"] * 7
    assert base64.b64decode(results[1]["content_base64"]) == data and "content" not in results[1]
    assert base64.b64decode(results[3]["content_base64"]) == b"text"
    assert (results[5]["content"], results[5]["size"]) == ("", 0)
    assert results[6]["stdout"] == "\ufffdx"


def test_bounded(execd, tmp_path):
    """Output is cut, a file that is too large is an error, and what one batch brings is bounded in all."""
    (tmp_path / "large").write_bytes(b"x" * (20 << 20))
    (tmp_path / "half").write_bytes(b"x" * (9 << 20))
    results = batch(
        execd,
        {"op": "run", "command": "head -c 3000000 /dev/zero | tr '\\0' y; echo z >&2"},
        {"op": "read", "path": f"{tmp_path}/large"},
        {"op": "read", "path": f"{tmp_path}/half"},
        {"op": "read", "path": f"{tmp_path}/half"},
        continue_on_error=True,
    )
    assert states(results) == ["ok", "error", "ok", "error"]
    assert results[0]["stdout"] == "y" * (1 << 20) and results[0]["stderr"] == "z\n" and results[0]["truncated"]
    assert len(results[2]["content"]) == 9 << 20
    assert "/files/download" in results[1]["error"]["message"]


def test_limits_apply(execd):
    result = batch(execd, {"op": "run", "command": "yes", "limits": {"output_bytes": 1000}})[0]
    assert result["status"] == "error" and result["end"]["reason"] == "output_limit" and len(result["stdout"]) == 1000


def test_client_that_vanishes_cancels_the_rest(execd, tmp_path):
    os.mkfifo(tmp_path / "started")
    body = (
        '{"operations": [{"op": "run", "command": "echo $$ > %s/started; exec sleep 100"},'
        '{"op": "write", "path": "%s/never", "content": ""}]}' % (tmp_path, tmp_path)
    )
    with execd.raw() as client:
        client.sendall(
            f"POST /batch HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        pid = int((tmp_path / "started").read_text())
        pidfd = os.pidfd_open(pid)
    id = execd.http.get("/command").json()["items"][0]["id"]
    with execd.stream("GET", f"/command/{id}/stream") as response:
        end = list(events(response))[-1]["end"]
    assert (end["reason"], end["signal"]) == ("interrupted", "SIGTERM")
    os.close(pidfd)
    # The batch after it is done when this one is answered.
    batch(execd, {"op": "stat", "path": "/"})
    assert not (tmp_path / "never").exists()


def test_the_loop_goes_on(execd, tmp_path):
    """While a command of a batch runs, others are served."""
    os.mkfifo(tmp_path / "go")
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(batch, execd, {"op": "run", "command": f"read -r x < {tmp_path}/go; echo $x"})
        other = execd.client({"X-EXECD-ACCESS-TOKEN": TOKEN})
        assert other.get("/ping").status_code == 200
        answer = other.post("/batch", json={"operations": [{"op": "run", "command": "echo quick"}]}).json()
        assert answer["results"][0]["stdout"] == "quick\n"
        (tmp_path / "go").write_text("now\n")
        assert pending.result()[0]["stdout"] == "now\n"


def test_agent_that_stops_ends_a_batch(start_execd, tmp_path):
    os.mkfifo(tmp_path / "started")
    execd = start_execd()
    with ThreadPoolExecutor(1) as pool:
        command = f"echo > {tmp_path}/started; exec sleep 100"
        body = {"operations": [{"op": "run", "command": command}, {"op": "stat", "path": "/"}]}
        pending = pool.submit(execd.http.post, "/batch", json=body)
        (tmp_path / "started").read_text()
        execd.process.send_signal(signal.SIGTERM)
        assert execd.process.wait(30) == 0
        try:
            assert states(pending.result().json()["results"])[0] == "error"
        except Exception as gone:  # the agent may go before its answer is out
            assert "disconnected" in str(gone) or "reset" in str(gone)
    execd.expect_exit = None


@pytest.mark.parametrize(
    "operation,word",
    [
        ({}, "op"),
        ({"op": "link"}, "link"),
        ({"op": 5}, "op"),
        (5, "object"),
        ({"op": "stat"}, "path"),
        ({"op": "read", "path": 5}, "path"),
        ({"op": "read", "path": ""}, "path"),
        ({"op": "read", "path": "/x", "encoding": "hex"}, "encoding"),
        ({"op": "write", "path": "/x"}, "content"),
        ({"op": "write", "path": "/x", "content": 5}, "content"),
        ({"op": "write", "path": "/x", "content": "a", "content_base64": "YQ=="}, "content"),
        ({"op": "write", "path": "/x", "content_base64": "YQ="}, "content_base64"),
        ({"op": "write", "path": "/x", "content": "", "mode": 888}, "mode"),
        ({"op": "mkdir", "path": "/x", "owner": "no such user"}, "no such user"),
        ({"op": "remove", "path": "/x", "recursive": 1}, "recursive"),
        ({"op": "run"}, "command"),
        ({"op": "run", "command": "x", "argv": ["x"]}, "argv"),
        ({"op": "run", "command": "x", "timeout": -1}, "timeout"),
        ({"op": "run", "command": "x", "limits": {"memory_bytes": 1}}, "memory_bytes"),
        ({"op": "run", "command": "x", "background": True}, "background"),
        ({"op": "run", "command": "x", "stdin": True}, "stdin"),
    ],
)
def test_refused_before_anything_is_done(execd, operation, word):
    refused(execd, operation, word)
    assert execd.http.get("/command").json()["items"] == []


def test_refused_as_a_whole(execd):
    many = [{"op": "stat", "path": "/"}] * 257
    for body in ({}, {"operations": []}, {"operations": {}}, {"operations": many}, {"operations": many[:1], "continue_on_error": 1}, []):
        response = execd.http.post("/batch", json=body)
        assert response.status_code == 400 and set(response.json()) == {"code", "message"}, response.text
    assert len(batch(execd, *many[:256])) == 256
    assert not Path("/x").exists()
