"""Terminal sessions, and the WebSocket under them: with a client library, and frame by frame."""

import base64
import concurrent.futures
import hashlib
import json
import os
import re
import select
import socket
import struct
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from daemon import TOKEN

STDOUT, STDERR, REPLAY = 1, 2, 3
AUTH = {"X-EXECD-ACCESS-TOKEN": TOKEN}
WAIT_S = 20  # a hang, not a measure


def create(agent, **fields):
    answer = agent.http.post("/pty", json=fields) if fields else agent.http.post("/pty")
    assert answer.status_code == 201, answer.text
    assert set(answer.json()) == {"session_id"}
    return answer.json()["session_id"]


def info(agent, id):
    answer = agent.http.get(f"/pty/{id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


class Terminal:
    """A client of the `websockets` library that knows the frames."""

    def __init__(self, agent, id, query="", **options):
        options.setdefault("max_size", None)
        self.ws = connect(
            f"ws://{agent.host}:{agent.port}/pty/{id}/ws{query}", additional_headers=AUTH, open_timeout=WAIT_S, **options
        ).__enter__()
        self.seen = b""  # output, replayed or live
        self.errors_seen = b""
        self.texts = []
        self.replays = []  # (offset, bytes)
        self.close = None
        self.offset = None

    def take(self):
        """One frame; False once the connection is closed."""
        try:
            frame = self.ws.recv(timeout=WAIT_S)
        except ConnectionClosed as end:
            self.close = (end.rcvd.code, end.rcvd.reason) if end.rcvd else None
            return False
        if isinstance(frame, str):
            self.texts.append(json.loads(frame))
        elif frame[0] == REPLAY:
            offset = int.from_bytes(frame[1:9], "big")
            self.replays.append((offset, frame[9:]))
            self.offset = offset + len(frame) - 9
            self.seen += frame[9:]
        else:
            assert frame[0] in (STDOUT, STDERR)
            if frame[0] == STDOUT:
                self.seen += frame[1:]
            else:
                self.errors_seen += frame[1:]
        return True

    def text(self, type):
        """The next text frame of that type."""
        while True:
            for i, text in enumerate(self.texts):
                if text["type"] == type:
                    return self.texts.pop(i)
            assert self.take(), f"closed without '{type}': {self.close}, {self.texts}, {self.seen[-200:]}"

    def until(self, pattern):
        """Output up to a match, which is consumed; its groups or all of it."""
        while not (match := re.search(pattern, self.seen)):
            assert self.take(), f"closed without {pattern}: {self.close}, {self.texts}, {self.seen[-500:]}"
        self.seen = self.seen[match.end() :]
        return match.groups() or match.group()

    def type(self, text):
        self.ws.send(b"\0" + (text.encode() if isinstance(text, str) else text))

    def command(self, **frame):
        self.ws.send(json.dumps(frame))

    def end(self):
        """The exit frame and the close."""
        frame = self.text("exit")
        while self.take():
            pass
        return frame

    def leave(self):
        self.ws.close()


@pytest.fixture
def terminal(execd):
    """terminal(query="", **fields of POST /pty): a session and a client on it. max_queue: as in `websockets`."""
    made = []

    def make(query="", id=None, max_queue=16, **fields):
        id = id or create(execd, **fields)
        made.append(Terminal(execd, id, query, max_queue=max_queue))
        made[-1].id = id
        return made[-1]

    yield make
    for one in made:
        one.ws.close()


def prompt(t):
    """An interactive shell that has come up and answers to a marker; echo is off."""
    t.text("connected")
    t.type("PS1=@@; stty -echo; bind 'set enable-bracketed-paste off' 2>/dev/null; echo rea''dy\n")
    t.until(rb"[\r\n]ready\r\n@@")


# ---- a terminal ---------------------------------------------------------------


def test_a_shell_on_a_terminal(terminal, execd):
    t = terminal()
    assert info(execd, t.id)["running"]
    connected = t.text("connected")
    assert connected == {"type": "connected", "session_id": t.id, "mode": "pty", "offset": 0}
    t.type("tty; stty size; echo $TERM; test -t 0 -a -t 1 -a -t 2 && echo all''three\n")
    kind = os.environ.get("TERM", "xterm-256color")  # the agent's own goes before
    t.until(rb"/dev/\S+\r\n24 80\r\n%s\r\nallthree" % kind.encode())
    t.type("tput cols\n")
    t.until(rb"[\r\n]80\r\n")


def test_size_at_creation_and_resize(terminal, execd):
    t = terminal(cols=100, rows=30)
    prompt(t)
    t.type("stty size\n")
    t.until(rb"30 100\r\n")
    t.type("trap 'stty size' WINCH; echo se''t\n")
    t.until(rb"set\r\n")
    t.command(type="resize", cols=120, rows=40)
    t.until(rb"40 120\r\n")
    assert (info(execd, t.id)["cols"], info(execd, t.id)["rows"]) == (120, 40)
    t.command(type="resize", cols=0, rows=0)  # a window that is not shown
    t.command(type="resize", cols=70000, rows=1)
    assert t.text("error")["code"] == "INVALID_FRAME"
    t.type("stty size\n")
    t.until(rb"40 120\r\n")


@pytest.mark.parametrize("way", ["key", "signal"])
def test_an_interrupt_reaches_the_foreground_job_only(terminal, way):
    t = terminal()
    prompt(t)
    t.type("kept=yes; sh -c 'echo be''gun; exec sleep 1000'\n")
    t.until(rb"begun\r\n")
    if way == "key":
        t.type("\x03")
    else:
        t.command(type="signal", signal="SIGINT")
    t.until(rb"@@")
    t.type("echo $kept $?\n")
    t.until(rb"yes 130\r\n")


def test_job_control(terminal):
    t = terminal()
    prompt(t)
    t.type("sh -c 'echo be''gun; exec sleep 1000'\n")
    t.until(rb"begun\r\n")
    t.type("\x1a")
    t.until(rb"Stopped[^@]*@@")
    t.type("bg; jobs -r | wc -l; kill %1; wait %1; echo $?\n")
    t.until(rb"\r\n1\r\n")
    t.until(rb"143\r\n")
    assert b"no job control" not in t.seen


def test_a_program_that_draws(terminal):
    t = terminal(command="stty raw -echo; printf '\\033[2J\\033[H\\033[7mhello\\033[0m'; dd bs=1 count=3 2>/dev/null | od -An -tx1")
    t.until(rb"\x1b\[2J\x1b\[H\x1b\[7mhello\x1b\[0m")
    t.type(b"\x1b[A")
    t.until(rb"1b 5b 41")
    assert t.end()["exit_code"] == 0


@pytest.mark.parametrize(
    ["way", "code", "signal"], [("exit 7\n", 7, None), ("kill -9 $$\n", -1, "SIGKILL"), ("\x04", 0, None)]
)
def test_the_shells_end_is_told_at_once(terminal, execd, way, code, signal):
    t = terminal()
    prompt(t)
    t.type(way)
    end = t.end()
    assert end == {"type": "exit", "exit_code": code} | ({"signal": signal} if signal else {})
    assert t.close == (1000, "process exited")
    state = info(execd, t.id)
    assert (state["running"], state["exit_code"], state["signal"]) == (False, code, signal)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGHUP"])
def test_a_signal_to_the_shell(terminal, name):
    t = terminal()
    prompt(t)
    t.type("{ echo be''gun; sleep 1000; }\n")
    t.until(rb"begun\r\n")
    t.command(type="signal", signal=name)
    assert t.end()["signal"] == name


def test_what_the_shell_leaves_behind_does_not_hold_its_end(terminal, execd):
    t = terminal(command="(trap '' HUP; echo $BASHPID; exec sleep 1000) & sleep 1000 < /dev/null & read x; kill $!; exit 5")
    pid = int(t.until(rb"(\d+)\r\n")[0])
    pidfd = os.pidfd_open(pid)
    t.type("go\n")
    assert t.end()["exit_code"] == 5
    assert execd.http.delete(f"/pty/{t.id}").status_code == 200
    assert select.select([pidfd], [], [], WAIT_S)[0], "a process of the session outlived it"
    os.close(pidfd)


def test_input_as_text_and_pings(terminal):
    t = terminal(command="stty -echo; read -r line; echo \"[$line]\"; read -r rest; echo \"<$rest>\"")
    t.text("connected")
    t.command(type="ping")
    assert t.text("pong") == {"type": "pong"}
    t.command(type="stdin", data="grüße\n")
    t.until("\\[grüße\\]".encode())
    t.type("more\n")
    t.until(rb"<more>")
    assert t.end()["exit_code"] == 0


def test_a_megabyte_is_pasted(terminal):
    t = terminal(command="stty raw -echo; echo go; head -c 1000000 | sha256sum")
    t.until(rb"go")
    data = os.urandom(1000000)
    for at in range(0, len(data), 100000):
        t.type(data[at : at + 100000])
    t.until(hashlib.sha256(data).hexdigest().encode())
    assert t.end()["exit_code"] == 0


@pytest.mark.parametrize(
    "frame",
    ["{", "[]", "{}", '{"type":"dance"}', '{"type":"stdin"}', '{"type":"stdin","data":5}', '{"type":"signal"}',
     '{"type":"signal","signal":"SIGDANCE"}', '{"type":"resize","cols":"x","rows":1}', '{"type":"ping","type":"ping"}', b"\x05x"],
)
def test_frames_that_mean_nothing_are_named_and_survived(terminal, frame):
    t = terminal(command="read x; exit 3")
    t.text("connected")
    t.ws.send(frame)
    error = t.text("error")
    assert error["code"] == "INVALID_FRAME" and error["error"]
    t.ws.send(b"")
    t.type("\n")
    assert t.end()["exit_code"] == 3


def test_many_errors_are_all_told(terminal):
    t = terminal(command="read x")
    for _ in range(2000):
        t.command(type="dance")
    for _ in range(2000):
        t.text("error")
    t.type("\n")
    assert t.end()["exit_code"] == 0


# ---- pipes --------------------------------------------------------------------


def test_pipe_mode_keeps_stderr_apart(terminal, execd):
    t = terminal("?pty=0", envs={"A": "one"}, cwd="/usr")
    assert t.text("connected")["mode"] == "pipe"
    t.type("echo $A; pwd; tty; echo bad >&2; echo done\n")
    t.until(rb"^one\n/usr\nnot a tty\ndone\n$")
    while t.errors_seen != b"bad\n":
        assert t.take()
    assert info(execd, t.id)["mode"] == "pipe"
    t.command(type="resize", cols=1, rows=1)  # has no meaning here
    t.command(type="signal", signal="SIGINT")
    assert t.end()["signal"] == "SIGINT"


def test_input_nobody_reads_is_an_error_and_not_the_end(terminal):
    t = terminal("?pty=0", command="exec 0<&-; echo closed; exec sleep 1000")
    t.until(rb"closed\n")
    t.type("x\n")
    assert t.text("error")["code"] == "STDIN_WRITE_FAILED"
    t.command(type="signal", signal="SIGTERM")
    assert t.end()["signal"] == "SIGTERM"


# ---- coming back ----------------------------------------------------------------


def test_output_goes_on_without_a_client_and_is_replayed(terminal, execd, tmp_path):
    go, done = tmp_path / "go", tmp_path / "done"
    os.mkfifo(go)
    os.mkfifo(done)
    t = terminal("?pty=0", command=f"echo first; read x < {go}; echo second; echo > {done}; read x; echo third; exit 4")
    t.until(rb"first\n")
    t.leave()
    go.write_text("\n")
    done.read_text()
    t = terminal("?pty=1&since=0", id=t.id)
    connected = t.text("connected")
    assert connected["mode"] == "pipe" and connected["offset"] == 13  # what was sent before it is replay
    assert b"".join(data for _, data in t.replays) == b"first\nsecond\n" and t.replays[0][0] == 0
    t.leave()
    t = terminal("?since=6", id=t.id)
    t.text("connected")
    assert t.replays == [(6, b"second\n")]
    t.leave()
    t = terminal("?since=13", id=t.id)
    t.type("\n")
    assert t.end()["exit_code"] == 4 and t.replays == [] and t.seen == b"third\n"


def test_an_end_that_nobody_saw_is_told_to_who_comes_next(terminal, execd, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    t = terminal("?pty=0", command=f"echo $$; read x < {go}; echo last; exit 9")
    pidfd = os.pidfd_open(int(t.until(rb"(\d+)\n")[0]))
    t.leave()
    go.write_text("\n")
    assert select.select([pidfd], [], [], WAIT_S)[0]
    os.close(pidfd)
    t = terminal(id=t.id)
    assert t.end()["exit_code"] == 9 and t.seen.endswith(b"last\n")
    # Once told, a client starts another shell in the same session, as with the reference.
    end = info(execd, t.id)["output_offset"]
    t = terminal(f"?pty=0&since={end}", id=t.id)
    t.until(rb"\d+\n")
    assert t.replays == []
    go.write_text("\n")
    assert t.end()["exit_code"] == 9
    assert info(execd, t.id)["output_offset"] > end


def test_five_megabytes_arrive_whole(terminal, tmp_path):
    data = base64.encodebytes(os.urandom(5_000_000)).replace(b"\n", b"\r\n")
    (tmp_path / "data").write_bytes(data.replace(b"\r\n", b"\n"))
    t = terminal(command=f"cat {tmp_path}/data")
    assert t.end()["exit_code"] == 0
    assert t.replays == []
    assert hashlib.sha256(t.seen).digest() == hashlib.sha256(data).digest()


def test_five_megabytes_over_many_connections(terminal, tmp_path):
    """Ten pieces; the client leaves in the middle of each, and what it misses is replayed to the next."""
    data = os.urandom(5_000_000)
    (tmp_path / "data").write_bytes(data)
    piecewise = f"exec 5<{tmp_path}/data; while read x; do dd bs=500000 count=1 status=none <&5; done; exit 6"
    t = terminal("?pty=0", command=piecewise, max_queue=None)  # with a full queue a close waits for 10 s
    whole, id = b"", t.id
    for piece in range(10):
        t.text("connected")
        t.type("\n")
        while len(whole) + len(t.seen) < 500_000 * piece + 250_000:
            assert t.take()
        whole += t.seen
        t.ws.close()
        t = terminal(f"?since={len(whole)}", id=id, max_queue=None)
        assert not t.replays or t.replays[0][0] == len(whole)
    while len(whole) + len(t.seen) < len(data):
        assert t.take()
    assert whole + t.seen == data


def test_the_replay_holds_the_newest_megabyte(terminal, execd, tmp_path):
    data = os.urandom(5_000_000)
    (tmp_path / "data").write_bytes(data)
    done = tmp_path / "done"
    os.mkfifo(done)
    t = terminal("?pty=0", command=f"read x; cat {tmp_path}/data; echo > {done}; read x")
    t.text("connected")
    t.type("\n")
    t.leave()
    done.read_text()
    t = terminal(id=t.id)
    t.text("connected")
    while t.offset != len(data):
        assert t.take()
    assert 1 << 20 <= len(t.seen) < 3 << 19
    assert t.replays[0][0] == len(data) - len(t.seen) and t.seen == data[-len(t.seen) :]
    assert all(len(piece) <= 32768 for _, piece in t.replays)
    assert info(execd, t.id)["replay_offset"] == t.replays[0][0]
    for since, first in ((0, t.replays[0][0]), (len(data) - 5, len(data) - 5), (10**12, None)):
        u = terminal(f"?takeover=1&since={since}", id=t.id)
        assert u.text("connected")["offset"] == len(data)
        assert (u.replays[0][0] if u.replays else None) == first
    assert execd.http.get(f"/pty/{t.id}/ws?since=-1").status_code == 400
    assert execd.http.get(f"/pty/{t.id}/ws?since=1x").status_code == 400


def test_many_bytes_one_at_a_time_stay_bounded_and_whole(terminal):
    t = terminal("?pty=0", command="for i in {1..3000}; do echo -n x; echo -n y >&2; done; echo")
    assert t.end()["exit_code"] == 0
    assert t.seen == b"x" * 3000 + b"\n" and t.errors_seen == b"y" * 3000


# ---- one client at a time ---------------------------------------------------------


def test_a_second_client_is_refused_before_the_upgrade(terminal, execd):
    t = terminal()
    prompt(t)
    with pytest.raises(InvalidStatus) as refusal:
        Terminal(execd, t.id)
    assert refusal.value.response.status_code == 409
    assert json.loads(refusal.value.response.body)["code"] == "ALREADY_CONNECTED"
    # Nor does a request that is no handshake evict anyone.
    answer = execd.http.get(f"/pty/{t.id}/ws?takeover=1")
    assert answer.status_code == 426 and answer.headers["upgrade"] == "websocket"
    t.type("echo st''ill\n")
    t.until(rb"still\r\n")


def test_takeover_keeps_the_shell(terminal, execd):
    t = terminal()
    prompt(t)
    t.type("kept=yes; echo be''fore\n")
    t.until(rb"before\r\n")
    u = terminal("?takeover=1", id=t.id)
    u.text("connected")
    assert b"before\r\n" in u.seen
    while t.take():
        pass
    assert t.close == (4001, "TAKEN_OVER")
    u.type("echo $kept\n")
    u.until(rb"yes\r\n")
    assert info(execd, t.id)["connected"]


def test_takeovers_at_the_same_time_leave_one_holder(terminal, execd):
    t = terminal()
    prompt(t)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        others = list(pool.map(lambda _: Terminal(execd, t.id, "?takeover=1"), range(10)))
    live = []
    for one in [t, *others]:
        one.command(type="ping") if one.ws.protocol.state is one.ws.protocol.state.OPEN else None
        while True:
            if any(text["type"] == "pong" for text in one.texts):
                live.append(one)
                break
            try:
                if not one.take():
                    break
            except ConnectionClosed:
                break
    assert len(live) == 1
    assert all(one.close == (4001, "TAKEN_OVER") for one in [t, *others] if one not in live)
    live[0].type("exit 6\n")
    assert live[0].end()["exit_code"] == 6
    for one in others:
        one.ws.close()


def test_a_holder_that_takes_nothing_does_not_stop_a_takeover(execd, terminal):
    id = create(execd, command="yes")
    stuck = Raw(execd, f"/pty/{id}/ws?pty=0", receive_buffer=4096)
    stuck.message()  # connected; and no more
    while info(execd, id)["output_offset"] < 1 << 20:
        pass
    t = terminal("?takeover=1", id=id)
    t.until(rb"y\ny\n")
    t.command(type="signal", signal="SIGKILL")
    assert t.end()["signal"] == "SIGKILL"
    stuck.socket.close()


def test_a_slow_client_holds_the_shell_and_misses_nothing(terminal):
    t = terminal(command="yes")
    t.text("connected")
    while len(t.seen) < 3 << 20:
        assert t.take()
    t.type("\x03")
    assert t.end()["signal"] == "SIGINT"
    assert len(set(t.seen.split(b"\r\n"))) <= 3 and t.replays == []


def test_a_slow_client_is_heard(start_execd, monkeypatch):
    """Ctrl-C gets through to `yes` although the socket is full again whenever it has had room."""
    make = socket.create_server

    def make_narrow(*args, **options):
        listener = make(*args, **options)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)  # what is accepted inherits it
        return listener

    monkeypatch.setattr(socket, "create_server", make_narrow)
    agent = start_execd()
    id = create(agent, command="yes")
    ws = Raw(agent, f"/pty/{id}/ws", receive_buffer=4096)
    while info(agent, id)["output_offset"] < 400_000:
        pass
    ws.send(frame(2, b"\0\x03"))
    taken = 0
    while (message := ws.message())[0] != 1 or b"exit" not in message[1]:
        taken += len(message[1])
        assert taken < 16 << 20
    assert json.loads(message[1]) == {"type": "exit", "exit_code": -1, "signal": "SIGINT"}
    ws.socket.close()


# ---- requests ---------------------------------------------------------------------


def test_sessions_are_listed_and_deleted(execd, terminal):
    ids = [create(execd) for _ in range(3)]
    listed = execd.http.get("/pty").json()
    assert [one["session_id"] for one in listed] == ids
    assert listed[0] | {"created_at": 0} == {
        "session_id": ids[0], "running": False, "output_offset": 0, "replay_offset": 0, "connected": False, "mode": None,
        "exit_code": None, "signal": None, "cols": 80, "rows": 24, "command": None, "cwd": None, "created_at": 0,
    }
    t = terminal(id=ids[1])
    prompt(t)
    # setsid forks when it leads a process group: $! would be the parent, which is gone at once.
    t.type("setsid sh -c 'echo pid $$; exec sleep 1000' &\n")
    pidfd = os.pidfd_open(int(t.until(rb"pid (\d+)\s")[0]))
    assert execd.http.delete(f"/pty/{ids[1]}").status_code == 200
    assert t.end() == {"type": "exit", "exit_code": -1, "code": "SESSION_GONE"}
    assert t.close == (1000, "session deleted")
    assert select.select([pidfd], [], [], WAIT_S)[0], "a process of the session outlived it"
    os.close(pidfd)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/ws")):
        answer = execd.http.request(method, f"/pty/{ids[1]}{path}")
        assert answer.status_code == 404 and answer.json()["code"] == "CONTEXT_NOT_FOUND"
    assert [one["session_id"] for one in execd.http.get("/pty").json()] == [ids[0], ids[2]]


def test_bad_requests(execd, tmp_path):
    (tmp_path / "file").write_text("")
    for body in (
        [], {"cwd": 5}, {"command": 5}, {"envs": {"A": 1}}, {"envs": {"": "x"}}, {"cols": 0}, {"rows": 65536}, {"gid": 1}, {"uid": -1},
    ):
        answer = execd.http.post("/pty", json=body)
        assert answer.status_code == 400 and answer.json()["code"] == "INVALID_REQUEST_BODY", (body, answer.text)
    assert execd.http.post("/pty", json={"cwd": str(tmp_path / "file")}).status_code in (400, 409)
    assert execd.http.post("/pty", json={"command": "x" * 200_000}).status_code == 413
    assert execd.http.post("/pty", json={"envs": {"PATH": "/nowhere"}}).status_code == 501
    assert execd.http.get("/pty").json() == []


def test_cwd_is_made_when_it_is_not_there(execd, terminal, tmp_path):
    t = terminal("?pty=0", cwd=f"{tmp_path}/new/dir", command="pwd")
    t.end()
    assert t.seen == f"{tmp_path}/new/dir\n".encode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes as somebody else")
def test_as_another_user(terminal):
    t = terminal(uid=65534, gid=65534, command="id -u; echo by-name > $(tty); stat -c %u $(tty)")
    assert t.end()["exit_code"] == 0
    assert t.seen == b"65534\r\nby-name\r\n65534\r\n"


def test_a_start_that_fails_is_told_on_the_socket(execd, terminal, tmp_path):
    cwd = tmp_path / "gone"
    id = create(execd, cwd=str(cwd))
    cwd.rmdir()
    t = terminal(id=id)
    error = t.text("error")
    assert error["code"] == "START_FAILED" and str(cwd) in error["error"]
    assert not t.take() and t.close == (1011, "START_FAILED")
    cwd.mkdir()
    t = terminal(id=id)
    t.type("exit 2\n")
    assert t.end()["exit_code"] == 2


def test_a_token_is_needed(execd):
    id = create(execd)
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"ws://{execd.host}:{execd.port}/pty/{id}/ws").__enter__()
    assert refusal.value.response.status_code == 401


def test_sessions_are_limited_and_ended_ones_make_room(execd, terminal):
    ids = [create(execd, command="exit 3") for _ in range(256)]
    answer = execd.http.post("/pty")
    assert answer.status_code == 429 and "256" in answer.json()["message"]
    t = terminal(id=ids[7])
    t.end()
    t.leave()
    while info(execd, ids[7])["connected"]:
        pass
    create(execd)
    listed = [one["session_id"] for one in execd.http.get("/pty").json()]
    assert ids[7] not in listed and len(listed) == 256


# ---- handshakes and frames ----------------------------------------------------------


KEY = base64.b64encode(bytes(range(16))).decode()


def frame(opcode, payload=b"", fin=True, mask=b"\x11\x22\x33\x44", rsv=0):
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit, n = (0x80 if mask else 0), len(payload)
    head += bytes([bit | n]) if n < 126 else bytes([bit | 126]) + struct.pack("!H", n) if n < 65536 else bytes([bit | 127]) + struct.pack("!Q", n)
    if not mask:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def handshake(path, **headers):
    fields = {
        "Host": "x", "Upgrade": "websocket", "Connection": "keep-alive, Upgrade", "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13", "X-EXECD-ACCESS-TOKEN": TOKEN,
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    return f"GET {path} HTTP/1.1\r\n".encode() + b"".join(f"{k}: {v}\r\n".encode() for k, v in fields.items() if v is not None) + b"\r\n"


class Raw:
    """A WebSocket by hand."""

    def __init__(self, agent, path, receive_buffer=None, extra=b""):
        self.socket = socket.socket()
        self.socket.settimeout(WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((agent.host, agent.port))
        self.socket.sendall(handshake(path) + extra)
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.data += self.read()
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        digest = hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        assert b"sec-websocket-accept: " + base64.b64encode(digest).lower() in head.lower()

    def read(self):
        piece = self.socket.recv(65536)
        assert piece, f"closed after {self.data}"
        return piece

    def message(self):
        """(opcode, payload) of the next frame; None at the end of the connection."""
        def need(n):
            while len(self.data) < n:
                piece = self.socket.recv(65536)
                if not piece:
                    return False
                self.data += piece
            return True

        if not need(2):
            assert not self.data
            return None
        first, n, at = self.data[0], self.data[1], 2
        assert first & 0x80 and not first & 0x70 and not n & 0x80
        if n >= 126:
            at = 4 if n == 126 else 10
            assert need(at)
            n = int.from_bytes(self.data[2:at], "big")
        assert need(at + n)
        payload, self.data = self.data[at : at + n], self.data[at + n :]
        return first & 0xF, payload

    def output(self, n):
        """n bytes of output."""
        data = b""
        while len(data) < n:
            opcode, payload = self.message()
            if opcode == 2:
                data += payload[1:]
        return data

    def send(self, *frames):
        self.socket.sendall(b"".join(frames))

    def closed_with(self, code, reason=None):
        """Everything up to the Close; then the end."""
        while True:
            message = self.message()
            assert message, "ended without a Close"
            if message[0] == 8:
                break
        assert int.from_bytes(message[1][:2], "big") == code, message
        if reason:
            assert reason in message[1][2:]
        assert self.message() is None
        self.socket.close()


@pytest.fixture
def raw(execd):
    """A by-hand WebSocket on `cat`: what goes in as 0x00 + bytes comes back."""
    made = []

    def make(command="cat", query="?pty=0", **options):
        id = create(execd, command=command)
        made.append(Raw(execd, f"/pty/{id}/ws{query}", **options))
        made[-1].id = id
        opcode, payload = made[-1].message()
        assert opcode == 1 and json.loads(payload)["type"] == "connected"
        return made[-1]

    yield make
    for one in made:
        one.socket.close()
    assert execd.http.get("/ping").status_code == 200


@pytest.mark.parametrize(
    ["status", "headers"],
    [
        (426, {"Upgrade": None}), (426, {"Upgrade": "h2c"}), (426, {"Connection": None}), (426, {"Connection": "keep-alive"}),
        (426, {"Sec_WebSocket_Version": "8"}), (426, {"Sec_WebSocket_Version": None}),
        (400, {"Sec_WebSocket_Key": None}), (400, {"Sec_WebSocket_Key": "short"}), (400, {"Sec_WebSocket_Key": "A" * 24}),
        (400, {"Sec_WebSocket_Key": "AAAAAAAAAAA\tAAAAAAAAAA=="}), (400, {"Content_Length": "3"}), (400, {"Transfer_Encoding": "chunked"}),
    ],
)
def test_a_broken_handshake_is_an_ordinary_error(execd, status, headers):
    id = create(execd)
    with execd.raw() as connection:
        connection.sendall(handshake(f"/pty/{id}/ws", **headers))
        answer = b""
        while b"}" not in answer:
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["code"]
    if status == 426:
        assert b"\r\nUpgrade: websocket\r\n" in answer and b"\r\nSec-WebSocket-Version: 13\r\n" in answer
    state = info(execd, id)
    assert not state["running"] and not state["connected"]
    assert execd.http.head(f"/pty/{id}/ws").status_code in (400, 426)
    assert execd.http.post(f"/pty/{id}/ws").status_code == 405


def test_frames_cut_at_every_byte(raw):
    ws = raw()
    stream = b"".join(
        [
            frame(2, b"\0one", fin=False), frame(9, b"ping"), frame(0, b"-two", fin=False), frame(0, b""[:0], fin=False),
            frame(0, b"-three"), frame(2, b"\0" + b"x" * 200), frame(1, b'{"type":"ping"}'), frame(10, b"unasked"),
        ]
    )
    for i in range(len(stream)):
        ws.send(stream[i : i + 1])
    output, pongs, texts = b"", [], []
    while len(output) < 13 + 200 or not pongs or not texts:
        opcode, payload = ws.message()
        if opcode == 2:
            output += payload[1:]
        elif opcode == 10:
            pongs.append(payload)
        else:
            texts.append(json.loads(payload))
    assert output == b"one-two-three" + b"x" * 200
    assert pongs == [b"ping"] and texts == [{"type": "pong"}]
    ws.send(frame(8, struct.pack("!H", 1000) + b"bye"))
    ws.closed_with(1000)


def test_everything_in_one_packet_behind_the_handshake(execd):
    id = create(execd, command="cat")
    ws = Raw(execd, f"/pty/{id}/ws?pty=0", extra=frame(2, b"\0early") + frame(9, b"p"))
    assert ws.output(5) == b"early"
    ws.socket.close()


def test_a_message_of_the_size_limit_and_one_byte_more(raw):
    data = os.urandom((1 << 20) - 1)
    ws = raw("stty raw -echo 2>/dev/null; cat")
    ws.send(frame(2, b"\0" + data))
    assert ws.output(len(data)) == data
    ws.send(frame(2, b"\0" + data + b"x"))
    ws.closed_with(1009)
    ws = raw()
    for _ in range(16):
        ws.send(frame(2 if _ == 0 else 0, b"\0" + data[: 1 << 16], fin=False))
    ws.closed_with(1009)
    ws = raw()
    ws.send(b"\x82\xff" + b"\x7f" + b"\xff" * 7 + b"mask")  # it is enough to announce it
    ws.closed_with(1009)


@pytest.mark.parametrize(
    ["code", "stream"],
    [
        (1002, frame(2, b"\0x", mask=b"")), (1002, frame(2, b"\0x", rsv=4)), (1002, frame(2, b"\0x", rsv=1)),
        (1002, frame(3, b"x")), (1002, frame(11, b"x")), (1002, frame(9, b"x", fin=False)), (1002, frame(9, b"x" * 126)),
        (1002, frame(0, b"x")), (1002, frame(2, b"\0x", fin=False) + frame(2, b"\0y")), (1002, frame(1, b"x", fin=False) + frame(1, b"y")),
        (1002, b"\x82\xfe\x00\x05mask\0hell"), (1002, b"\x82\xff" + b"\x00" * 7 + b"\x05mask"), (1002, b"\x82\xff\x80" + b"\x00" * 7),
        (1007, frame(1, b'{"type":"\xff"}')), (1007, frame(1, b"\xed\xa0\x80")), (1007, frame(1, b"\xe2\x82", fin=False) + frame(0, b"x")),
        (1002, frame(8, b"\x03")), (1002, frame(8, struct.pack("!H", 1005))), (1002, frame(8, struct.pack("!H", 999))),
        (1002, frame(8, struct.pack("!H", 5000))), (1007, frame(8, struct.pack("!H", 1000) + b"\xc3")),
    ],
)
def test_broken_frames_fail_the_connection_and_nothing_else(execd, raw, terminal, code, stream):
    ws = raw("stty -echo 2>/dev/null; read x; exit 8")
    ws.send(stream + b"what follows is not looked at" * 50000)
    ws.closed_with(code)
    t = terminal(id=ws.id)
    t.type("\n")
    assert t.end()["exit_code"] == 8


def test_a_code_point_may_be_cut_by_fragments(raw):
    ws = raw()
    text = '{"type":"stdin","data":"grüße 🐚"}'.encode()
    ws.send(*(frame(1 if i == 0 else 0, text[i : i + 1], fin=i == len(text) - 1) for i in range(len(text))))
    assert ws.output(len("grüße 🐚".encode())) == "grüße 🐚".encode()


@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 1001), struct.pack("!H", 4321) + "Grüße".encode()])
def test_a_close_is_answered_with_its_code(raw, payload):
    ws = raw()
    ws.send(frame(8, payload))
    opcode, answer = ws.message()
    assert opcode == 8 and answer == payload[:2]
    assert ws.message() is None


def test_pings_behind_each_other_get_the_last_answered(raw):
    ws = raw()
    ws.send(*(frame(9, b"%d" % i) for i in range(100)))
    answers = []
    while not answers or answers[-1] != b"99":
        opcode, payload = ws.message()
        assert opcode == 10
        answers.append(payload)
    assert answers == sorted(answers, key=int)


def descriptors(agent):
    return len(os.listdir(f"/proc/{agent.pid}/fd"))


@pytest.mark.parametrize("way", ["fin", "reset", "half"])
def test_a_client_that_vanishes_leaves_the_session_and_nothing_else(execd, raw, terminal, way):
    ws = raw("stty -echo 2>/dev/null; read x; exit 8")
    before = descriptors(execd)
    if way == "reset":
        ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if way == "half":
        ws.send(frame(2, b"\0unfini")[:-3])
        ws.socket.shutdown(socket.SHUT_WR)
        assert ws.socket.recv(1) == b""
    ws.socket.close()
    while info(execd, ws.id)["connected"]:
        pass
    assert descriptors(execd) <= before  # with the connection that asks
    t = terminal(id=ws.id)
    t.type("\n")
    assert t.end()["exit_code"] == 8


def test_a_client_that_vanishes_amid_much_output(execd, raw):
    ws = raw("yes", receive_buffer=4096)
    ws.output(1000)
    ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ws.socket.close()
    while info(execd, ws.id)["connected"]:
        pass
    assert info(execd, ws.id)["running"]
    assert execd.http.delete(f"/pty/{ws.id}").status_code == 200


def run_time_ns(agent):
    return int(Path(f"/proc/{agent.pid}/schedstat").read_text().split()[0])


def test_a_client_that_takes_nothing_misses_output_and_is_told(execd, raw, tmp_path):
    """After PTY_STALL_MS the shell goes on without it; where it goes on reading is in the frame."""
    done = tmp_path / "done"
    os.mkfifo(done)
    total = 16_000_000  # more than the socket and the log hold together
    ws = raw(f"head -c {total} /dev/zero | tr '\\0' x; echo > {done}; read x; exit 5", receive_buffer=4096)
    done.read_text()
    at, gaps = 0, 0
    while at < total:
        opcode, payload = ws.message()
        assert opcode == 2
        if payload[0] == REPLAY:
            offset = int.from_bytes(payload[1:9], "big")
            assert offset > at
            at, gaps, payload = offset, gaps + 1, payload[8:]
        assert set(payload[1:]) == {ord("x")}
        at += len(payload) - 1
    assert at == total and gaps == 1
    ws.send(frame(2, b"\0\n"))
    opcode, payload = ws.message()
    assert json.loads(payload) == {"type": "exit", "exit_code": 5}


def test_fifty_clients_and_what_is_left_of_them(execd, terminal):
    execd.http.get("/ping")
    before = descriptors(execd)
    clients = [terminal("?pty=0" if i % 2 else "", command=f"read x; echo ${{x}}; read x; exit {i}") for i in range(50)]
    for i, t in enumerate(clients):
        t.type(f"hello{i}\n")
    for i, t in enumerate(clients):
        t.until(rb"hello%d\r?\n" % i)
        if not i % 2:
            t.until(rb"hello%d\r?\n" % i)
    # All are idle for as long as this takes; one second of a spinning loop would be 10**9.
    idle = terminal(command="sleep 1")
    idle.text("connected")
    start = run_time_ns(execd)
    idle.end()
    assert run_time_ns(execd) - start < 200_000_000
    for i, t in enumerate(clients):
        t.type("\n")
        assert t.end()["exit_code"] == i
        t.leave()
        assert execd.http.delete(f"/pty/{t.id}").status_code == 200
    idle.leave()
    while descriptors(execd) > before:
        execd.http.get("/ping")


def test_input_waits_while_the_shell_does_not_read(execd, raw):
    """The agent takes some and then leaves the rest in the socket; it all arrives in the end."""
    ws = raw("sleep 1000 & echo $!; wait; exec cat")
    sleep = int(ws.output(2).split()[0])
    data = os.urandom(4 << 20)
    sent = 0
    ws.socket.setblocking(False)
    stream = b"".join(frame(2, b"\0" + data[at : at + 65536]) for at in range(0, len(data), 65536))
    while select.select([], [ws.socket], [], 1)[1]:
        sent += ws.socket.send(stream[sent : sent + 65536])
        if sent == len(stream):
            break
    ws.socket.settimeout(WAIT_S)
    os.kill(sleep, 15)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        rest = pool.submit(ws.socket.sendall, stream[sent:])
        output = ws.output(len(data))
        rest.result(WAIT_S)
    assert output == data


def test_the_agents_end_is_told(start_execd):
    agent = start_execd()
    t = Terminal(agent, create(agent, command="trap '' TERM HUP; read x"))
    t.text("connected")
    agent.process.terminate()
    assert agent.process.wait(WAIT_S) == 0
    assert not t.take() and t.close == (1001, "the agent is shutting down")
    agent.process.poll()
    agent.expect_exit = None
