"""/proxy/{port}: what listens inside, through the agent, byte for byte."""

import hashlib
import http.client
import json
import socket
import struct
import threading

import pytest

from daemon import TOKEN, accept_each


class Upstream:
    """A server of scripted conversations: handle(connection, head, rest) for each connection."""

    def __init__(self, handle, host="127.0.0.1", port=0):
        self.listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = self.listener.getsockname()[1]
        self.heads = []
        self.handle = handle
        self.thread = accept_each(self.listener, self.talk)

    def talk(self, connection):
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = connection.recv(65536)
                if not piece:
                    return
                data += piece
            head, rest = data.split(b"\r\n\r\n", 1)
            self.heads.append(head)
            self.handle(connection, head, rest)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


@pytest.fixture
def upstream():
    made = []

    def make(handle, **options):
        made.append(Upstream(handle, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def answer(body, head=b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"):
    def handle(connection, _head, _rest):
        connection.sendall((head % len(body) if b"%d" in head else head) + body)

    return handle


def read_all(connection):
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def ask(agent, text):
    """One raw request; everything that comes until the agent closes."""
    with agent.raw() as connection:
        connection.sendall(text)
        return read_all(connection)


AUTH = b"X-EXECD-ACCESS-TOKEN: " + TOKEN.encode() + b"\r\n"


def test_path_query_and_fields_arrive_as_sent(execd, upstream):
    up = upstream(answer(b"hi"))
    target = b"/a%2Fb/./../c//d;x=1&y?q=%20+&&=%zz;k"
    reply = ask(
        execd,
        b"GET /proxy/%d%s HTTP/1.1\r\nHost: my.host:1\r\nX-B: 1\r\nx-a:  two words \r\nConnection: close\r\n%s\r\n" % (up.port, target, AUTH),
    )
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n") and reply.endswith(b"\r\n\r\nhi")
    lines = up.heads[0].split(b"\r\n")
    assert lines[0] == b"GET " + target + b" HTTP/1.1"
    assert lines[1:] == [b"Host: my.host:1", b"X-B: 1", b"x-a: two words", b"Connection: close"]


def test_the_bare_port_is_the_root(execd, upstream):
    up = upstream(answer(b"root"))
    for path in ("", "/", "?a=b", "/?a=b"):
        assert execd.http.get(f"/proxy/{up.port}{path}").text == "root"
    assert [head.split(b" ")[1] for head in up.heads] == [b"/", b"/", b"/?a=b", b"/?a=b"]


def test_the_connection_serves_the_next_request(execd, upstream):
    up = upstream(answer(b"x"))
    connection = http.client.HTTPConnection("127.0.0.1", execd.port, timeout=30)
    for path in (f"/proxy/{up.port}/a", "/ping", f"/proxy/{up.port}/b"):
        connection.request("GET", path, headers={"X-EXECD-ACCESS-TOKEN": TOKEN})
        first = connection.sock
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 200
        assert connection.sock is first and first is not None
    connection.close()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_large_reply_streams_whole(execd, upstream, framing):
    data = bytes(range(256)) * 40000
    heads = {"length": b"Content-Length: %d\r\n" % len(data), "chunked": b"Transfer-Encoding: chunked\r\n", "close": b""}

    def handle(connection, _head, _rest):
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + heads[framing] + b"\r\n")
        for i in range(0, len(data), 100001):
            piece = data[i : i + 100001]
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        if framing == "chunked":
            connection.sendall(b"0\r\n\r\n")

    up = upstream(handle)
    assert execd.http.get(f"/proxy/{up.port}/").content == data
    assert execd.http.get("/ping").status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_request_streams_whole(execd, upstream, chunked):
    data = bytes(range(256)) * 40000

    def handle(connection, head, rest):
        hash_, left = hashlib.sha256(), len(data)
        file = connection.makefile("rb")
        body = rest
        if b"chunked" in head:
            raw = rest
            while not raw.endswith(b"0\r\n\r\n"):
                raw += connection.recv(1 << 20)
            while True:
                size, raw = raw.split(b"\r\n", 1)
                n = int(size, 16)
                if n == 0:
                    break
                hash_.update(raw[:n])
                raw = raw[n + 2 :]
        else:
            hash_.update(body + file.read(left - len(body)))
        answer(hash_.hexdigest().encode())(connection, head, rest)

    up = upstream(handle)
    content = (data[i : i + 70001] for i in range(0, len(data), 70001)) if chunked else data
    assert execd.http.post(f"/proxy/{up.port}/", content=content).text == hashlib.sha256(data).hexdigest()


def test_events_are_not_held_back(execd, upstream):
    go = threading.Event()

    def handle(connection, _head, _rest):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"a\r\ndata: 1\n\n\n\r\n")
        go.wait(30)
        connection.sendall(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    up = upstream(handle)
    with execd.stream("GET", f"/proxy/{up.port}/events") as response:
        pieces = response.iter_raw()
        assert next(pieces) == b"data: 1\n\n\n"
        go.set()
        assert b"".join(pieces) == b"data: 2\n\n"


def test_a_switched_protocol_is_relayed_both_ways(execd, upstream):
    def handle(connection, head, rest):
        assert b"\r\nUpgrade: websocket" in head and b"\r\nConnection: Upgrade" in head
        assert b"\r\nSec-WebSocket-Key: k" in head
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        data = rest
        while piece := connection.recv(65536):
            data += piece
        connection.sendall(b"you said " + data)

    up = upstream(handle)
    with execd.raw() as connection:
        connection.sendall(b"GET /proxy/%d/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k\r\n%s\r\nfirst " % (up.port, AUTH))
        got = b""
        while not got.endswith(b"hello"):
            got += connection.recv(65536)
        assert got.startswith(b"HTTP/1.1 101 ") and b"\r\nConnection: Upgrade\r\n" in got
        connection.sendall(b"\x81\x00second")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"you said first \x81\x00second"


def test_interim_replies_and_no_body_statuses(execd, upstream):
    up = upstream(answer(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"))
    reply = ask(execd, b"GET /proxy/%d/ HTTP/1.1\r\nHost: x\r\n%s\r\n" % (up.port, AUTH) + b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n" % AUTH)
    assert reply.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n")
    assert reply.count(b"HTTP/1.1 ") == 3, "the ping behind it is answered too"


def test_head_and_other_methods(execd, upstream):
    up = upstream(answer(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: x\r\n\r\n"))
    reply = execd.http.head(f"/proxy/{up.port}/")
    assert reply.headers["content-length"] == "12345" and reply.headers["etag"] == "x"
    echo = upstream(lambda connection, head, _rest: answer(head.split(b" ")[0])(connection, head, b""))
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
        assert execd.http.request(method, f"/proxy/{echo.port}/").text == method


def test_a_server_on_the_other_loopback_address(execd, upstream):
    try:
        up = upstream(answer(b"six"), host="::1")
    except OSError:
        pytest.skip("this machine has no ::1")
    assert execd.http.get(f"/proxy/{up.port}/").text == "six"


def test_what_does_not_answer_is_a_bad_gateway(execd, upstream):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reply = execd.http.get(f"/proxy/{port}/")
    assert (reply.status_code, reply.json()["code"]) == (502, "BAD_GATEWAY")
    assert f"port {port}" in reply.json()["message"] and "refused" in reply.json()["message"].lower()
    assert execd.http.post(f"/proxy/{port}/", content=b"x" * 300000).status_code == 502
    for text in (b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200000):
        up = upstream(answer(b"", text))
        reply = execd.http.get(f"/proxy/{up.port}/")
        assert (reply.status_code, reply.json()["code"]) == (502, "BAD_GATEWAY"), text[:30]


def test_a_reply_that_breaks_off_is_broken_off(execd, upstream):
    for text in (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive5", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfive5\r\n"):
        up = upstream(answer(b"", text))
        with pytest.raises(Exception, match="(?i)peer closed|incomplete|reset|disconnect"):
            execd.http.get(f"/proxy/{up.port}/")
    assert execd.http.get("/ping").status_code == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 300000", b"Transfer-Encoding: chunked", b"Connection: close"])
def test_what_came_before_the_cut_arrives(execd, upstream, framing):
    """As without us: all of it, then the end; only where the end would look like the reply's own, a reset."""
    body = b"x" * 200000
    body = b"%x\r\n%s\r\n" % (len(body), body) if b"chunked" in framing else body
    read = threading.Event()

    def handle(connection, _head, _rest):
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body)
        if framing == b"Connection: close":
            assert read.wait(30)  # a reset overtakes what is on its way
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    up = upstream(handle)
    with execd.raw() as connection:
        connection.sendall(b"GET /proxy/%d/ HTTP/1.1\r\nHost: x\r\n%s\r\n" % (up.port, AUTH))
        got = b""
        while not got.endswith(b"\r\n\r\n" + body):
            piece = connection.recv(65536)
            assert piece, len(got)
            got += piece
        read.set()
        if framing == b"Connection: close":
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        else:
            assert connection.recv(1) == b""


def test_a_client_that_leaves_takes_the_upstream_with_it(execd, upstream):
    gone = threading.Event()

    def handle(connection, _head, _rest):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        if connection.recv(1) == b"":
            gone.set()

    up = upstream(handle)
    with execd.stream("GET", f"/proxy/{up.port}/") as response:
        assert next(response.iter_raw()) == b"x"
    assert gone.wait(30)


def test_a_slow_client_costs_a_bounded_buffer(execd, upstream):
    """The upstream is stopped by the client's pace, not by the agent's memory."""
    sent = []

    def handle(connection, _head, _rest):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.settimeout(2)
        try:
            while sum(sent) < 200_000_000:
                sent.append(connection.send(b"x" * 65536))
        except (TimeoutError, OSError):
            pass

    up = upstream(handle)
    with execd.raw() as connection:
        connection.sendall(b"GET /proxy/%d/ HTTP/1.1\r\nHost: x\r\n%s\r\n" % (up.port, AUTH))
        connection.recv(1)
        up.talkers = None
        import time  # the upstream's own timeout is what ends this

        deadline = time.monotonic() + 20
        before = -1
        while sum(sent) != before and time.monotonic() < deadline:
            before = sum(sent)
            threading.Event().wait(0.5)
        assert 0 < sum(sent) < 50_000_000
        assert execd.http.get("/ping").status_code == 200


def test_the_token_and_the_port_are_checked(execd, upstream):
    up = upstream(answer(b"secret"))
    assert execd.client().get(f"/proxy/{up.port}/").status_code == 401
    assert not up.heads
    for port in ("0", "65536", "x", "-1", "99999999999"):
        assert execd.http.get(f"/proxy/{port}/").status_code == 400
    assert b"execd" not in json.dumps(execd.http.get(f"/proxy/{up.port}/").text).encode()
    assert TOKEN.encode() not in up.heads[0]


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 101 Switching\r\n\r\n" + EVIL,
        b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\nContent-Length: 2\r\n\r\nhi" + EVIL,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" + EVIL,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi" + EVIL,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL,
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi" + EVIL,
        b"HTTP/1.1 200 OK\r\nX: y\r\n Content-Length: 2\r\n\r\nhi" + EVIL,
        b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nhi" + EVIL,
    ],
    ids=["upgrade", "lengths", "both", "coded", "twice", "space", "folded", "status"],
)
def test_reply_that_can_be_read_in_two_ways(execd, upstream, reply):
    """What runs inside must not answer the client's next request, nor get it."""

    def handle(connection, _head, _rest):
        connection.sendall(reply)
        read_all(connection)  # a request that is not its own would be here

    up = upstream(handle)
    first = b"GET /proxy/%d/ HTTP/1.1\r\nHost: h\r\n%s\r\n" % (up.port, AUTH)
    second = b"GET /ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n%s\r\n" % AUTH
    got = ask(execd, first + second)
    assert got.startswith(b"HTTP/1.1 502 Bad Gateway\r\n") and b"evil" not in got
    assert len(up.heads) == 1


def test_version_is_ours(execd, upstream):
    """A gateway speaks for itself; or the client would not know that the connection goes on."""
    up = upstream(answer(b"hi", b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n"))
    target = b"GET /proxy/%d/ HTTP/1.1\r\nHost: h\r\n%s" % (up.port, AUTH)
    got = ask(execd, (target + b"\r\n") + target + b"Connection: close\r\n\r\n")
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 2 and b"HTTP/1.0" not in got
