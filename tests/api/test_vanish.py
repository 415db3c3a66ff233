"""Clients that leave at every byte of a request and of an answer, that read byte by byte, or close one half."""

import base64
import json
import os
import socket
import struct
import threading

import pytest

import faults
from conftest import SANITIZED

STEP = 7 if SANITIZED else 1  # the sanitized build takes every seventh byte
WAIT_S = 20  # a hang, not a measure


# ---- connections -------------------------------------------------------------------------------


def connect(agent, receive_buffer=None):
    connection = socket.socket()
    connection.settimeout(WAIT_S)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((agent.host, agent.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def leave(connection, how):
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def head(agent, method, path, *fields):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"X-EXECD-ACCESS-TOKEN: {agent.token}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def with_length(agent, method, path, body, kind="application/json"):
    return head(agent, method, path, f"Content-Type: {kind}", f"Content-Length: {len(body)}") + body


def take(connection):
    """All that comes up to the end of the connection."""
    got = b""
    while piece := connection.recv(65536):
        got += piece
    return got


class Upstream:
    """A server behind the agent: answers a POST with its body, and knows how many connections are open."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.changed = threading.Condition()
        self.open = 0
        self.whole = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.changed:
                self.open += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        got = b""
        try:
            while piece := connection.recv(65536):
                got += piece
                if got.endswith(b"END"):
                    with self.changed:
                        self.whole += 1
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + b"u" * 300)
                    got = b""
        except OSError:
            pass
        connection.close()
        with self.changed:
            self.open -= 1
            self.changed.notify_all()

    def close(self):
        """Fails when a connection of a client that has left is still open."""
        with self.changed:
            ended = self.changed.wait_for(lambda: self.open == 0, WAIT_S)
        self.listener.close()
        assert ended, f"{self.open} connections to the server behind are left open"


@pytest.fixture
def upstream():
    server = Upstream()
    yield server
    server.close()


# ---- within a request ------------------------------------------------------------------------------


def command_request(agent, here, chunked):
    body = json.dumps({"command": f"echo ran >> {here}/ran"}).encode()
    if not chunked:
        return with_length(agent, "POST", "/command", body)
    pieces = [body[:9], body[9:20], body[20:]]
    coded = b"".join(b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nX-T: 1\r\n\r\n"
    return head(agent, "POST", "/command", "Content-Type: application/json", "Transfer-Encoding: chunked") + coded


def upload_request(agent, here):
    metadata = json.dumps({"path": f"{here}/new/file"}).encode()
    body, fields = faults.form((b'name="metadata"; filename="m"', metadata), (b'name="file"; filename="f"', b"content"))
    return with_length(agent, "POST", "/files/upload", body, fields["Content-Type"])


def terminal_request(agent, id):
    """The upgrade, and a frame that types a line."""
    key = base64.b64encode(os.urandom(16)).decode()
    fields = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
    text = b"\0echo typed\n"
    frame = bytes([0x82, 0x80 | len(text)]) + b"\0\0\0\0" + text
    return head(agent, "GET", f"/pty/{id}/ws", *fields) + frame


def vanish_within(agent, request, how):
    """A client for every length of what it has sent before it leaves."""
    for n in [*range(0, len(request), STEP), len(request)]:
        connection = connect(agent)
        connection.sendall(request[:n])
        leave(connection, how)


@pytest.fixture
def agent(execd):
    """One that has done each kind of thing before, so that what it keeps for the next is there."""
    execd.run("true")
    execd.held = faults.held(execd)
    return execd


def nothing_left(agent, but=None):
    left = faults.left_over(agent, agent.held, but)
    assert not left, left


def ended_runs(agent):
    """How many commands there are, all of which come to their end."""
    listed = json.loads(faults.ask(agent, "GET", "/command"))
    runs = listed if isinstance(listed, list) else next(value for value in listed.values() if isinstance(value, list))
    for run in runs:
        faults.finished(faults.events_of(faults.ask(agent, "GET", f"/command/{run['id']}/stream")))
    return len(runs)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("chunked", [False, True])
def test_within_a_command(agent, tmp_path, how, chunked):
    request = command_request(agent, tmp_path, chunked)
    before = ended_runs(agent)
    vanish_within(agent, request, how)
    nothing_left(agent)
    ran = ended_runs(agent) - before
    # Only the last one was whole; with a reset the system may drop what the agent had not read.
    assert ran == 1 if how == "close" else ran <= 1
    assert ((tmp_path / "ran").read_text() if ran else "ran\n") == "ran\n"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_within_an_upload(agent, tmp_path, how):
    here = tmp_path / "here"
    here.mkdir()
    request = upload_request(agent, here)
    vanish_within(agent, request[:-1], how)
    nothing_left(agent)
    assert os.listdir(here) == []
    connection = connect(agent)
    connection.sendall(request)
    assert b" 200 " in connection.recv(65536)
    leave(connection, how)
    assert (here / "new/file").read_bytes() == b"content"
    assert os.listdir(here / "new") == ["file"]
    nothing_left(agent)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_within_the_frames_of_a_terminal(agent, how):
    id = json.loads(faults.ask(agent, "POST", "/pty", {}))["session_id"]
    vanish_within(agent, terminal_request(agent, id), how)
    for _ in range(1000):
        now = json.loads(faults.ask(agent, "GET", f"/pty/{id}"))
        if not now["connected"]:
            break
    assert not now["connected"], now
    faults.ask(agent, "DELETE", f"/pty/{id}")
    nothing_left(agent)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_within_a_request_to_a_port(agent, upstream, how):
    body = b"b" * 100 + b"END"
    request = with_length(agent, "POST", f"/proxy/{upstream.port}/x", body, "text/plain")
    vanish_within(agent, request, how)
    nothing_left(agent)
    assert upstream.whole <= 1


# ---- within an answer ------------------------------------------------------------------------------


@pytest.fixture
def answers(agent, tmp_path, upstream):
    """Requests with answers of each kind; each closes its connection at the end."""
    here = tmp_path / "answers"
    (here / "d").mkdir(parents=True)
    (here / "d/file").write_bytes(b"0123456789" * 60)
    seen = faults.run(agent, "/command", command="echo out; echo err >&2")
    get = lambda path: head(agent, "GET", path, "Connection: close")  # noqa: E731
    made = {
        "plain": get("/ping"),
        "error": get("/no/such/path"),
        "json": get(f"/files/info?path={here}/d/file"),
        "file": get(f"/files/download?path={here}/d/file"),
        "range": head(agent, "GET", f"/files/download?path={here}/d/file", "Range: bytes=5-99", "Connection: close"),
        "listing": get(f"/directories/list?path={here}&depth=2"),
        "archive": get(f"/directories/archive?path={here}/d"),
        "events": get(f"/command/{seen[0]['text']}/stream"),
        "port": head(agent, "POST", f"/proxy/{upstream.port}/x", "Content-Length: 3", "Connection: close") + b"END",
    }
    agent.held = faults.held(agent)
    return made


def whole_answer(agent, request):
    connection = connect(agent)
    connection.sendall(request)
    got = take(connection)
    connection.close()
    return got


@pytest.mark.parametrize("how", ["close", "reset"])
def test_within_an_answer(agent, answers, how):
    for name, request in answers.items():
        length = min(len(whole_answer(agent, request)), 700)
        for n in range(0, length, STEP):
            connection = connect(agent)
            connection.sendall(request)
            got = 0
            while got < n:
                piece = connection.recv(n - got)
                assert piece, f"{name}: the answer ends after {got} of {length} bytes"
                got += len(piece)
            leave(connection, how)
        nothing_left(agent)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_within_an_answer_that_does_not_fit_the_socket(agent, tmp_path, how):
    """The agent is in the middle of it, and waits for the client."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    agent.held = faults.held(agent)
    requests = [
        head(agent, "GET", f"/files/download?path={large}"),
        head(agent, "GET", f"/directories/archive?path={tmp_path}"),
        with_length(agent, "POST", "/command", b'{"command": "yes %s | head -c 3000000"}' % (b"0123456789" * 400)),
    ]
    for request in requests:
        for n in (1, 4096, 300000):
            connection = connect(agent, receive_buffer=4096)
            connection.sendall(request)
            got = 0
            while got < n:
                piece = connection.recv(n - got)
                assert piece
                got += len(piece)
            leave(connection, how)
    ended_runs(agent)  # they go on without their clients
    nothing_left(agent, but="(deleted)")  # what the log of a run has spilled stays as long as the log


def same(got, want):
    """But for times and measures in them; an interim answer finds out whether the client listens."""
    got = got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    return got[:15] == want[:15] and abs(len(got) - len(want)) < 60 and got[-3:] == want[-3:]


def test_read_byte_by_byte(agent, answers):
    for name, request in answers.items():
        want = whole_answer(agent, request)
        connection = connect(agent, receive_buffer=1)
        connection.sendall(request)
        got = b""
        while byte := connection.recv(1):
            got += byte
        connection.close()
        assert same(got, want), (name, got, want)
    nothing_left(agent)


def test_a_client_that_has_said_all_gets_its_answer(agent, answers):
    """It closes its half with the request."""
    for name, request in answers.items():
        want = whole_answer(agent, request)
        connection = connect(agent)
        connection.sendall(request.replace(b"Connection: close\r\n", b""))
        connection.shutdown(socket.SHUT_WR)
        got = take(connection)
        connection.close()
        assert same(got, want), (name, got, want)
    connection = connect(agent)
    connection.sendall(with_length(agent, "POST", "/command", b'{"command": "cat /dev/null; echo late"}'))
    connection.shutdown(socket.SHUT_WR)
    got = take(connection)
    connection.close()
    assert b'"text":"late"' in got and b'"execution_complete"' in got, got
    nothing_left(agent)


SLOW = {  # what the server behind tells of its reply, and the reply in two parts
    "sized": (b"Content-Length: 8\r\n", b"firs", b"rest"),
    "chunked": (b"Transfer-Encoding: chunked\r\n", b"4\r\nfirs\r\n", b"4\r\nrest\r\n0\r\n\r\n"),
    "within a chunk": (b"Transfer-Encoding: chunked\r\n", b"8\r\nfirs", b"rest\r\n0\r\n\r\n"),
    "to the end": (b"", b"firs", b"rest"),
}


@pytest.mark.parametrize("framing", SLOW)
@pytest.mark.parametrize("when", ["before the head", "before the rest"])
def test_a_client_that_has_said_all_waits_for_a_slow_server(agent, framing, when):
    """The agent sees the FIN while the server behind has nothing to give yet."""
    head_of, first, rest = SLOW[framing]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = connect(agent)
        client.sendall(head(agent, "GET", f"/proxy/{listener.getsockname()[1]}/"))
        server, _ = listener.accept()
        while not server.recv(65536).endswith(b"\r\n\r\n"):
            pass
        answer = b"HTTP/1.1 200 OK\r\n" + head_of + b"\r\n" + first
        got = b""
        if when == "before the rest":
            server.sendall(answer)
            while not got.endswith(first):
                got += client.recv(65536)
            answer = b""
        client.shutdown(socket.SHUT_WR)
        faults.ask(agent, "GET", "/ping")
        faults.ask(agent, "GET", "/ping")
        server.sendall(answer + rest)
        server.close()
        while piece := client.recv(65536):
            got += piece
        client.close()
    # a size may have got a leading zero, by which a client that is gone is found out
    assert got.replace(b"\r\n04\r\n", b"\r\n4\r\n").endswith(first + rest), got
    nothing_left(agent)


def test_a_client_that_has_said_all_before_the_protocol_is_switched(agent):
    """What it sent reaches the other side, and that it sends no more: also when the answer comes later."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = connect(agent)
        client.sendall(head(agent, "GET", f"/proxy/{listener.getsockname()[1]}/", "Upgrade: raw", "Connection: Upgrade") + b"all")
        client.shutdown(socket.SHUT_WR)
        server, _ = listener.accept()
        server.settimeout(WAIT_S)
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += server.recv(65536)
        faults.ask(agent, "GET", "/ping")
        server.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n")
        while piece := server.recv(65536):
            asked += piece
        assert asked.endswith(b"\r\n\r\nall")
        server.sendall(b"heard")
        server.close()
        assert take(client).endswith(b"\r\n\r\nheard")
        client.close()
    nothing_left(agent)
