"""Beside the reference: stdin, signals, bounds, lists and exact output of commands."""

import hashlib
import os
import select
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commands import last, running, text
from daemon import TOKEN, events

root_only = pytest.mark.skipif(os.getuid() != 0, reason="cgroups and users need root")


def own_cgroup(controller):
    """The directory below which an agent of ours makes the cgroups of its commands, or None."""
    for line in open("/proc/self/cgroup"):
        number, names, path = line.rstrip("\n").split(":", 2)
        if controller in names.split(","):
            base = Path(f"/sys/fs/cgroup/{controller}{path}")
        elif number == "0" and not names:
            base = Path(f"/sys/fs/cgroup{path}")
            listed = base / "cgroup.controllers"
            if not listed.exists() or controller not in listed.read_text().split():
                continue
        else:
            continue
        if os.access(base, os.W_OK) and not os.statvfs(base).f_flag & os.ST_RDONLY:
            return base
    return None


def cgroups():
    """Those of commands, of whatever agent."""
    bases = [base for base in (own_cgroup("memory"), own_cgroup("pids")) if base]
    return {path for base in bases for path in base.glob("execd.*")}


def cgroups_left(execd):
    """Those of this agent's commands."""
    ids = {item["id"] for item in execd.http.get("/command").json()["items"]}
    return [path for path in cgroups() if path.name.removeprefix("execd.").rpartition("-")[0] in ids]


def start(execd, command, **fields):
    """A command in the background; its id."""
    return execd.run(command, background=True, **fields)[0]["text"]


def ended(execd, id):
    """Waits for the end: the last event."""
    with execd.stream("GET", f"/command/{id}/stream") as response:
        return last([event for event in events(response) if event["type"] != "ping"])


def status(execd, id):
    return execd.http.get(f"/command/status/{id}").json()


def refused(response, code, word=""):
    assert response.status_code == code, (response.status_code, response.text)
    assert set(response.json()) == {"code", "message"}
    assert word in response.json()["message"], response.json()["message"]


# ---- standard input


def test_stdin_is_empty_unless_asked_for(execd):
    assert text(execd.run("cat; echo end")) == ["end"]
    assert text(execd.run("readlink /proc/self/fd/0", stdin=False)) == ["/dev/null"]
    assert text(execd.run("readlink /proc/self/fd/0", stdin="null")) == ["/dev/null"]


@pytest.mark.parametrize("stdin", [True, "pipe"])
def test_stdin_interactive(execd, stdin):
    with running(execd, "while read -r line; do echo got $line; done; echo end", stdin=stdin) as command:
        for word in ("one", "two"):
            answer = execd.http.post(f"/command/{command.id}/stdin", content=word + "\n")
            assert (answer.status_code, answer.json()) == (200, {"written": 4})
            assert command.line() == f"got {word}"
        assert execd.http.delete(f"/command/{command.id}/stdin").status_code == 200
        evs = command.rest()
    assert text(evs) == ["end"] and last(evs)["end"]["exit_code"] == 0


def test_stdin_of_any_size_byte_for_byte(execd):
    data = os.urandom(1 << 20) * 8
    id = start(execd, "sha256sum", stdin=True)
    # Chunked, in pieces that fit nothing.
    pieces = (data[i : i + 70001] for i in range(0, len(data), 70001))
    answer = execd.http.post(f"/command/{id}/stdin", content=pieces, params={"close": "true"})
    assert answer.json() == {"written": len(data)}
    assert ended(execd, id)["end"]["exit_code"] == 0
    out = execd.http.get(f"/command/{id}/output", params={"stream": "stdout"}).text
    assert out.split()[0] == hashlib.sha256(data).hexdigest()


def test_stdin_close_with_nothing(execd):
    id = start(execd, "cat; echo end", stdin=True)
    assert execd.http.post(f"/command/{id}/stdin?close=true").json() == {"written": 0}
    assert ended(execd, id)["end"]["exit_code"] == 0


def test_stdin_waits_for_a_slow_reader(execd, tmp_path):
    """What is sent waits with the client, not in the agent."""
    os.mkfifo(tmp_path / "go")
    id = start(execd, f"read -r _ < {tmp_path}/go; wc -c", stdin=True)
    size = 20 << 20
    with socket.create_connection((execd.host, execd.port)) as client:
        client.sendall(
            f"POST /command/{id}/stdin?close=true HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {TOKEN}\r\n"
            f"Content-Length: {size}\r\n\r\n".encode()
        )
        client.setblocking(False)
        sent, zeros = 0, bytes(1 << 16)
        while True:
            try:
                sent += client.send(zeros[: size - sent])
            except BlockingIOError:
                if not select.select([], [client], [], 1)[1]:
                    break
        assert sent < size
        (tmp_path / "go").write_text("\n")
        client.setblocking(True)
        while sent < size:
            sent += client.send(zeros[: size - sent])
        assert b'{"written":%d}' % size in client.recv(65536)
    assert ended(execd, id)["end"]["exit_code"] == 0
    assert execd.http.get(f"/command/{id}/output").text.strip() == str(size)


def test_stdin_client_that_vanishes_leaves_it_open(execd):
    with running(execd, "while read -r line; do echo got $line; done", stdin=True) as command:
        with execd.raw() as client:
            client.sendall(
                f"POST /command/{command.id}/stdin?close=true HTTP/1.1\r\nHost: x\r\n"
                f"X-EXECD-ACCESS-TOKEN: {TOKEN}\r\nContent-Length: 100\r\n\r\nhalf\n".encode()
            )
            assert command.line() == "got half"
        # Two answers first: what closed before is then known to the agent.
        for _ in range(2):
            assert execd.http.get("/ping").status_code == 200
        answer = execd.http.post(f"/command/{command.id}/stdin?close=true", content="other\n")
        assert answer.json() == {"written": 6}
        assert text(command.rest()) == ["got other"]


def test_stdin_one_writer_at_a_time_and_interrupt_frees_it(execd):
    other = execd.client({"X-EXECD-ACCESS-TOKEN": TOKEN})
    with ThreadPoolExecutor(1) as pool:
        with running(execd, "read -r line; echo $line; exec sleep 100", stdin=True) as command:
            path = f"/command/{command.id}/stdin"
            first = pool.submit(other.post, path, content=b"first\n" + bytes(4 << 20))
            assert command.line() == "first"
            refused(execd.http.post(path, content="x"), 409, "another request")
            assert execd.http.delete("/command", params={"id": command.id}).status_code == 200
            refused(first.result(), 410, "bytes had been written")
            assert last(command.rest())["end"]["reason"] == "interrupted"


def test_stdin_refused(execd):
    without = start(execd, "exec sleep 100")
    refused(execd.http.post(f"/command/{without}/stdin", content="x"), 409, "stdin")
    refused(execd.http.delete(f"/command/{without}/stdin"), 409, "stdin")
    execd.http.delete("/command", params={"id": without})
    refused(execd.http.post(f"/command/{without}/stdin", content="x"), 410, "ended")
    refused(execd.http.post("/command/no-such/stdin", content="x"), 404, "no-such")
    refused(execd.http.delete("/command/no-such/stdin"), 404)

    closed = start(execd, "exec sleep 100", stdin=True)
    refused(execd.http.post(f"/command/{closed}/stdin?close=maybe"), 400, "close")
    assert execd.http.delete(f"/command/{closed}/stdin").status_code == 200
    refused(execd.http.post(f"/command/{closed}/stdin", content="x"), 410, "closed")
    execd.http.delete("/command", params={"id": closed})

    deaf = start(execd, "exec <&-; echo deaf; exec sleep 100", stdin=True)
    with execd.stream("GET", f"/command/{deaf}/stream") as response:
        assert next(event for event in events(response) if event["type"] == "stdout")["text"] == "deaf"
    refused(execd.http.post(f"/command/{deaf}/stdin", content=bytes(1 << 20)), 410, "nobody reads")
    execd.http.delete("/command", params={"id": deaf})

    for bad in (1, "yes", [], {}):
        refused(execd.http.post("/command", json={"command": "true", "stdin": bad}), 400, "stdin")


# ---- signals


@pytest.mark.parametrize("name", ["SIGUSR1", "usr1", int(signal.SIGUSR1)])
def test_signal(execd, name):
    with running(execd, "trap 'echo caught' USR1; echo ready; while :; do read -r -t 0.05 _ <> <(:); done") as command:
        assert command.line() == "ready"
        answer = execd.http.post(f"/command/{command.id}/signal", json={"signal": name})
        assert (answer.status_code, answer.json()) == (200, {"signal": "SIGUSR1", "scope": "group"})
        assert command.line() == "caught"
        execd.http.delete("/command", params={"id": command.id})


def test_signal_ends_it_by_that_signal(execd):
    id = start(execd, "exec sleep 100")
    assert execd.http.post(f"/command/{id}/signal", json={"signal": "TERM"}).status_code == 200
    end = ended(execd, id)["end"]
    assert (end["reason"], end["signal"], end["processes_killed"]) == ("signalled", "SIGTERM", 0)


# A process that takes SIGUSR1 and a child that would die of it; it tells what its child has died of.
FAMILY = """if True:
    import os, signal, sys
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        os.write(tell, b"x")
        signal.pause()
    os.read(ready, 1)
    print("ready", flush=True)
    signal.sigwait([signal.SIGUSR1])
    if sys.argv[1] == "process":
        os.kill(child, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("scope,ends_by", [("process", signal.SIGTERM), ("group", signal.SIGUSR1)])
def test_signal_scope(execd, scope, ends_by):
    with running(execd, None, argv=["python3", "-c", FAMILY, scope], timeout=20000) as command:
        assert command.line() == "ready"
        answer = execd.http.post(f"/command/{command.id}/signal", json={"signal": "USR1", "scope": scope})
        assert answer.json()["scope"] == scope
        assert text(command.rest()) == [str(int(ends_by))]


def test_signal_refused(execd):
    id = start(execd, "exec sleep 100")
    path = f"/command/{id}/signal"
    for body, word in [({}, "signal"), ({"signal": 0}, "signal"), ({"signal": 65}, "signal"), ({"signal": "NOPE"}, "NOPE"),
                       ({"signal": ""}, "signal"), ({"signal": 1.5}, "signal"), ({"signal": "TERM", "scope": "all"}, "scope"),
                       ({"signal": "TERM", "scope": 1}, "scope"), ([], "object")]:  # fmt: skip
        refused(execd.http.post(path, json=body), 400, word)
    assert status(execd, id)["running"]
    execd.http.delete("/command", params={"id": id})
    refused(execd.http.post(path, json={"signal": "TERM"}), 409, "not running")
    refused(execd.http.post("/command/no-such/signal", json={"signal": "TERM"}), 404, "no-such")


# ---- bounds


def test_no_limits_nothing_said(execd):
    evs = execd.run("true", timeout=10000)
    assert "limits" not in evs[0]
    assert "limits" not in status(execd, evs[0]["text"])


def test_limits_say_what_enforces_them(execd):
    asked = {"memory_bytes": 256 << 20, "cpu_seconds": 50, "output_bytes": 10000, "open_files": 99}
    evs = execd.run("ulimit -n; ulimit -Hn; ulimit -t; cat /proc/self/cgroup", limits=asked, timeout=20000)
    limits = evs[0]["limits"]
    assert {name: bound["value"] for name, bound in limits.items()} == asked | {"timeout_ms": 20000}
    assert status(execd, evs[0]["text"])["limits"] == limits
    by = {name: bound["by"] for name, bound in limits.items()}
    memory = "cgroup" if own_cgroup("memory") else "rlimit"
    assert by == {"memory_bytes": memory, "cpu_seconds": "rlimit", "output_bytes": "agent", "open_files": "rlimit",
                  "timeout_ms": "agent"}  # fmt: skip
    assert text(evs)[:3] == ["99", "99", "50"]
    assert any(f"execd.{evs[0]['text']}" in line for line in text(evs)) == (memory == "cgroup")
    assert not cgroups_left(execd)


ALLOCATE = """python3 -c 'import time; x = bytearray(300 << 20); print("had it")'"""


def test_memory_limit(execd):
    evs = execd.run(ALLOCATE, limits={"memory_bytes": 64 << 20})
    assert text(evs) == []
    if evs[0]["limits"]["memory_bytes"]["by"] == "cgroup":
        end = last(evs)["end"]
        assert (end["reason"], end["signal"], end["oom_kills"]) == ("oom", "SIGKILL", 1)
        assert last(evs)["error"]["traceback"][-1] == "ended by its memory limit"
    assert text(execd.run(ALLOCATE)) == ["had it"]
    assert not cgroups_left(execd)


def test_memory_limit_is_that_of_the_whole_tree(execd):
    if not own_cgroup("memory"):
        pytest.skip("no cgroup of ours can be made here")
    hungry = "python3 -c 'x = bytearray(45 << 20); print(1, flush=True); input()'"
    command = f"for i in 1 2 3; do {hungry} < /dev/zero & done; wait -n; wait -n; wait -n; exit 5"
    evs = execd.run(command, limits={"memory_bytes": 100 << 20}, timeout=20000)
    assert last(evs)["end"]["reason"] == "oom" and last(evs)["end"]["oom_kills"] >= 1, evs


@root_only
def test_memory_by_rlimit_where_no_cgroup_can_be_made(start):
    """In a mount namespace without /sys/fs/cgroup."""
    from daemon import Execd

    class Hidden(Execd):
        def __init__(self, log):
            import daemon

            real, wrapper = daemon.EXECD, log.with_suffix(".sh")
            wrapper.write_text(
                f'#!/bin/sh\nexec unshare -m sh -c \'mount -t tmpfs none /sys/fs/cgroup && exec {real} "$@"\' sh "$@"\n'
            )
            wrapper.chmod(0o755)
            daemon.EXECD = str(wrapper)
            try:
                super().__init__(log)
            finally:
                daemon.EXECD = real

    execd = start(Hidden)
    grow = "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'"
    evs = execd.run(grow, limits={"memory_bytes": 128 << 20})
    assert evs[0]["limits"]["memory_bytes"]["by"] == "rlimit"
    assert last(evs)["end"]["reason"] == "oom" and last(evs)["end"]["exit_code"] == 1
    # Root is bound by no rlimit on processes: that is said, not passed over.
    refused(execd.http.post("/command", json={"command": "true", "limits": {"processes": 5}}), 501, "limits.processes")
    evs = execd.run("true", uid=65534, limits={"processes": 5})
    assert evs[0]["limits"]["processes"]["by"] == "rlimit"


def test_process_limit(execd):
    if not own_cgroup("pids"):
        pytest.skip("no cgroup of ours can be made here")
    code = """if True:
        import os, signal
        n = 0
        try:
            while os.fork():
                n += 1
            signal.pause()
        except OSError as e:
            print(n, e.errno, flush=True)
            os.killpg(0, signal.SIGKILL)
    """
    with running(execd, None, argv=["python3", "-c", code], limits={"processes": 7}, timeout=20000) as command:
        evs = command.rest()
    assert text(evs) == ["6 11"], evs
    assert not cgroups_left(execd)


def test_cpu_limit(execd):
    end = last(execd.run("while :; do :; done", limits={"cpu_seconds": 1}))["end"]
    assert (end["reason"], end["signal"]) == ("signalled", "SIGXCPU")
    end = last(execd.run("trap '' XCPU; while :; do :; done", limits={"cpu_seconds": 1}))["end"]
    assert end["signal"] == "SIGKILL"


def test_output_limit(execd):
    evs = execd.run("yes | cat", limits={"output_bytes": 100001})
    end = last(evs)["end"]
    assert end["reason"] == "output_limit" and end["signal"] == "SIGKILL" and end["processes_killed"] >= 2
    assert len(execd.http.get(f"/command/{evs[0]['text']}/output").content) == 100001
    # Both streams count, and as much as is allowed is no offence.
    evs = execd.run("printf 12345; printf 12345 >&2", limits={"output_bytes": 10})
    assert last(evs)["end"]["reason"] == "exited"
    evs = execd.run("printf 12345; printf 123456 >&2; exit 0", limits={"output_bytes": 10})
    assert last(evs)["end"]["reason"] == "output_limit"


def test_killed_processes_are_counted(execd):
    end = last(execd.run("sleep 100 & sleep 100 & setsid sleep 100 & wait", timeout=500))["end"]
    assert (end["reason"], end["processes_killed"]) == ("timeout", 4)
    assert last(execd.run("true"))["end"]["processes_killed"] == 0


def test_cgroup_of_what_is_left_behind_goes_with_it(execd):
    if not own_cgroup("pids"):
        pytest.skip("no cgroup of ours can be made here")
    evs = execd.run("setsid sleep 100 >&- 2>&- & echo $!", limits={"processes": 10})
    pid = int(text(evs)[0])
    pidfd = os.pidfd_open(pid)
    left = cgroups_left(execd)
    os.kill(pid, signal.SIGKILL)
    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)
    assert len(left) == 1
    execd.run("true")  # the agent has collected the orphan by then
    assert not cgroups_left(execd)


def test_limits_refused(execd):
    for bad, word in [({"memory_bytes": 1}, "memory_bytes"), ({"memory_bytes": "1g"}, "memory_bytes"), ({"processes": 0}, "processes"),
                      ({"cpu_seconds": -1}, "cpu_seconds"), ({"cpu_seconds": 1.5}, "cpu_seconds"), ({"output_bytes": 0}, "output_bytes"),
                      ({"open_files": 1}, "open_files"), ({"disk": 1}, "limits.disk"), ({"timeout_ms": 1}, "timeout_ms"),
                      ([], "limits"), (1, "limits")]:  # fmt: skip
        refused(execd.http.post("/command", json={"command": "true", "limits": bad}), 400, word)


def test_failed_start_leaves_no_cgroup(execd):
    body = {"argv": ["/no/such/program"], "limits": {"memory_bytes": 1 << 24, "processes": 5}}
    before = cgroups()
    refused(execd.http.post("/command", json=body), 400, "/no/such/program")
    new = cgroups() - before
    # Other agents of this machine have commands, too; those are not empty.
    assert not [path for path in new if path.exists() and not (path / "cgroup.procs").read_text()]
    assert execd.http.get("/command").json()["items"] == []


# ---- programs without a shell


def test_argv(execd):
    for name in ("argv", "args"):
        with running(execd, None, **{name: ["printf", "%s|", "a b", "$HOME", "*", ""]}) as command:
            evs = command.rest()
        assert text(evs) == ["a b|$HOME|*||"]


# ---- the list


def test_list(execd):
    assert execd.http.get("/command").json() == {"items": [], "next": None}
    ids = [start(execd, f"exit {n}") for n in range(5)]
    for id in ids:
        ended(execd, id)
    ids.append(start(execd, "exec sleep 100"))
    session = execd.http.post("/session").json()["session_id"]
    whole = execd.http.get("/command").json()
    assert [item["id"] for item in whole["items"]] == ids[::-1] and whole["next"] is None
    for item in whole["items"][1:]:
        assert {**item, "limits": None} == {**status(execd, item["id"]), "limits": None}

    pages, before = [], None
    while True:
        page = execd.http.get("/command", params={"limit": 2} | ({"before": before} if before else {})).json()
        assert len(page["items"]) <= 2
        pages += [item["id"] for item in page["items"]]
        before = page["next"]
        if before is None:
            break
    assert pages == ids[::-1]
    only = lambda running: [i["id"] for i in execd.http.get("/command", params={"running": running}).json()["items"]]  # noqa: E731
    assert only("true") == ids[-1:] and only("false") == ids[-2::-1]
    execd.http.delete("/command", params={"id": ids[-1]})
    assert only("true") == []
    execd.http.delete(f"/session/{session}")


def test_list_cuts_long_content(execd):
    command = "true " + "ä" * 2000
    id = start(execd, command)
    item = execd.http.get("/command").json()["items"][0]
    assert item["content_truncated"] and command.startswith(item["content"]) and len(item["content"]) > 500
    assert status(execd, id)["content"] == command and "content_truncated" not in status(execd, id)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "before=0", "before=-1", "running=yes"])
def test_list_refused(execd, query):
    refused(execd.http.get(f"/command?{query}"), 400, query.partition("=")[0])


# ---- exact output


def output(execd, id, **params):
    response = execd.http.get(f"/command/{id}/output", params=params)
    assert response.status_code == 200, response.text
    head = {name: response.headers[f"Execd-Output-{name}"] for name in ("Offset", "Next", "Begin", "End")}
    return response.content, {n: int(v) for n, v in head.items()}, response.headers["Execd-Output-Ended"] == "true"


def test_output_exact(execd):
    id = execd.run(r"printf 'a\r\n\xff\0b'; printf 'e1\n' >&2; sleep 0.1; printf 'c\n'")[0]["text"]
    out, err = b"a\r\n\xff\0bc\n", b"e1\n"
    assert output(execd, id, stream="stdout") == (out, {"Offset": 0, "Next": 8, "Begin": 0, "End": 8}, True)
    assert output(execd, id, stream="stderr") == (err, {"Offset": 0, "Next": 3, "Begin": 0, "End": 3}, True)
    both, head, _ = output(execd, id)
    assert sorted(both) == sorted(out + err) and head["End"] == 11
    assert output(execd, id, stream="stdout", offset=2, limit=3)[:2] == (
        out[2:5],
        {"Offset": 2, "Next": 5, "Begin": 0, "End": 8},
    )
    assert output(execd, id, stream="stdout", offset=8)[0] == b""
    assert output(execd, id, stream="all", offset=10)[0] == both[10:]
    refused(execd.http.get(f"/command/{id}/output?stream=stdout&offset=9"), 416, "9")


def test_output_of_a_running_command(execd):
    with running(execd, "echo one; read -r _; echo two", stdin=True) as command:
        assert command.line() == "one"
        content, head, over = output(execd, command.id, stream="stdout")
        assert (content, head["Next"], over) == (b"one\n", 4, False)
        execd.http.post(f"/command/{command.id}/stdin", content="\n")
        command.rest()
        assert output(execd, command.id, stream="stdout", offset=4)[::2] == (b"two\n", True)


def test_output_dropped(execd):
    """More than is held: the beginning is gone, and the headers say so."""
    id = start(execd, "head -c 80000000 /dev/zero; printf end")
    ended(execd, id)
    content, head, _ = output(execd, id, stream="stdout")
    assert head["End"] == 80000003 and 0 < head["Begin"] == head["Offset"]
    assert len(content) == head["End"] - head["Begin"] and content.endswith(b"\0end")
    assert status(execd, id)["end"]["output_dropped"] == head["Begin"]


@pytest.mark.parametrize("query", ["stream=x", "offset=-1", "offset=x", "limit=0", "limit=x"])
def test_output_refused(execd, query):
    id = start(execd, "true")
    refused(execd.http.get(f"/command/{id}/output?{query}"), 400, query.partition("=")[0])
    refused(execd.http.get("/command/no-such/output"), 404)


# ---- the agent itself


def test_children_have_every_signal_as_by_default(execd):
    """The agent ignores some; none of that is inherited."""
    with running(execd, None, argv=["cat", "/proc/self/status"]) as command:
        lines = [line for line in text(command.rest()) if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
    assert [line.split()[1] for line in lines] == ["0" * 16] * 3, lines


def test_agent_under_a_file_size_limit_lives(start_execd, monkeypatch):
    """A spill over RLIMIT_FSIZE costs the oldest output, not the agent."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        execd = start_execd()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    id = start(execd, "head -c 20000000 /dev/zero; printf end")
    assert ended(execd, id)["end"]["exit_code"] == 0
    content, head, _ = output(execd, id, stream="stdout")
    assert head["End"] == 20000003 and head["Begin"] > 0 and content.endswith(b"end")
