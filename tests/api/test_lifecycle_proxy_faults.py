"""The server's proxy where somebody does not do what he should: client, agent or the service behind it."""

import hashlib
import os
import signal
import socket
import threading

import httpx
import pytest
from conftest import SANITIZED

from daemon import END_TIMEOUT_S, read_head
from test_lifecycle import container_pid, delete, running
from test_proxy import Upstream, answer, read_all, upstream  # noqa: F401, a fixture

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")


@pytest.fixture
def place(start_sandboxd):
    """A sandboxd, and a sandbox on the network of this machine: what the test listens on is behind its agent."""
    sandboxd = start_sandboxd(network="host")
    return sandboxd, running(sandboxd)


def path(id, up, rest="/"):
    return f"/sandboxes/{id}/proxy/{up.port}{rest}"


def request(sandboxd, head, body=b""):
    """An open connection on which this has been sent."""
    connection = sandboxd.raw()
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return connection


def test_as_it_was_sent(place, upstream):
    """Path and order as sent; what belongs to one connection, or to us, stays here."""
    sandboxd, id = place
    up = upstream(answer(b"hi"))
    target = path(id, up, "/a%2Fb/./../c//d;x=1&y?q=%20+&&=%zz;k")
    with request(sandboxd, f"GET {target} HTTP/1.1\nHost: my.host:1\nX-B: 1\nx-a:  two words \nKeep-Alive: 3\nTE: trailers\n"
                 f"OPEN-SANDBOX-API-KEY: {sandboxd.key}\nAuthorization: Basic x\nCookie: a=b\nX-Mine: 5\n"
                 "Proxy-Connection: x\nX-Hop: 1\nConnection: close, X-Hop\nConnection: host, content-length") as connection:  # fmt: skip
        reply = read_all(connection)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n") and reply.endswith(b"\r\n\r\nhi")
    lines = up.heads[0].decode().split("\r\n")
    assert lines[0] == f"GET {target.split(str(up.port), 1)[1]} HTTP/1.1"
    # nobody who names the fields that a request is read by takes them out
    assert lines[1:4] == ["Host: my.host:1", "X-B: 1", "x-a: two words"]
    names = [line.split(":")[0].lower() for line in lines[1:]]
    assert sorted(names[3:]) == ["connection", "x-forwarded-host", "x-forwarded-proto", "x-mine"]
    assert names.count("connection") == 1 and "Connection: close" in lines


def test_an_upgrade_that_is_refused(place, upstream):
    """Is an answer like any other, and the connection goes on."""
    sandboxd, id = place
    up = upstream(answer(b"not here", b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\n"))
    with request(sandboxd, f"GET {path(id, up)} HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\n"
                 "Sec-WebSocket-Key: k\nSec-WebSocket-Version: 13") as connection:  # fmt: skip
        head, body = read_head(connection)
        while len(body) < 8:
            body += connection.recv(100)
        assert head.startswith(b"HTTP/1.1 403 ") and body == b"not here"
        assert b"Upgrade" in up.heads[0]
        if b"connection: close" not in head.lower():
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_half_closed(place, upstream):
    """A client that has said all and shuts its half gets the answer; on an upgraded connection it is passed on."""
    sandboxd, id = place
    closed = threading.Event()

    def handle(connection, head, rest):
        if b"POST" in head:
            while len(rest) < 4:
                rest += connection.recv(100)
            assert closed.wait(END_TIMEOUT_S)
            answer(b"you said " + rest)(connection, head, rest)
            return
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n")
        connection.sendall(b"you said " + rest + read_all(connection))

    up = upstream(handle)
    with request(sandboxd, f"POST {path(id, up)} HTTP/1.1\nHost: x\nContent-Length: 4\nConnection: close", b"body") as connection:
        connection.shutdown(socket.SHUT_WR)
        closed.set()
        assert read_all(connection).endswith(b"you said body")
    with request(sandboxd, f"GET {path(id, up)} HTTP/1.1\nHost: x\nUpgrade: raw\nConnection: Upgrade", b"one ") as connection:
        assert read_head(connection)[0].startswith(b"HTTP/1.1 101 ")
        connection.sendall(b"two")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"you said one two"


CUTS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "events": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\na\r\ndata: 1\n\n\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\nhalf",
    "waiting": b"",
}


def test_the_agent_goes_in_the_middle(place, upstream):
    """Whatever was on its way is seen to be cut, at once; before the head it is 502."""
    sandboxd, id = place
    here = threading.Semaphore(0)

    def handle(connection, head, rest):
        connection.sendall(CUTS[head.split()[1].decode().strip("/")])
        here.release()
        read_all(connection)  # until it is gone

    up = upstream(handle)
    connections = {
        kind: request(sandboxd, f"GET {path(id, up, '/' + kind)} HTTP/1.1\nHost: x"
                      + ("\nUpgrade: raw\nConnection: Upgrade" if kind == "upgrade" else ""))  # fmt: skip
        for kind in CUTS
    }
    for _ in CUTS:
        assert here.acquire(timeout=END_TIMEOUT_S)
    begun = {kind: read_head(connection) for kind, connection in connections.items() if kind != "waiting"}
    os.kill(container_pid(sandboxd, id), signal.SIGKILL)
    for kind, connection in connections.items():
        with connection:
            try:
                rest = read_all(connection)
            except ConnectionResetError:
                rest = b""
            if kind == "waiting":
                assert rest.startswith(b"HTTP/1.1 502 ") and b"BAD_GATEWAY" in rest
                continue
            text = begun[kind][1] + rest
            assert not text.endswith(b"0\r\n\r\n") and len(text) < 1000, (kind, text)
    assert sandboxd.http.get("/health").status_code == 200
    delete(sandboxd, id)


OK = b"HTTP/1.1 200 OK\r\n"
SAID = {  # what the server behind answers, and how it is asked
    "trailers": (OK + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5;ext=1\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n", "GET"),
    "head": (OK + b"Content-Length: 999\r\nETag: e\r\n\r\n", "HEAD"),
    "no content": (b'HTTP/1.1 204 No Content\r\nX-A: 1\r\nETag: "x"\r\n\r\n', "GET"),
    "not modified": (b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 50\r\n\r\n', "GET"),
    "interim": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nok", "GET"),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /x?y#z\r\nContent-Length: 0\r\n\r\n", "GET"),
    "large head": (OK + b"X-Big: " + b"y" * 30000 + b"\r\nContent-Length: 2\r\n\r\nok", "GET"),
    "to the end": (OK + b"\r\n" + b"x" * 5000, "GET"),
    "dies": (OK + b"Content-Length: 1000\r\n\r\n" + b"x" * 500, "GET"),
    "dies in chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "GET"),
    "before the body": (b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nbig\n", "POST"),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok", "POST"),
}


def test_as_it_is_without_us(place, upstream):
    """The same bytes, but for the fields of the connection and our own."""
    sandboxd, id = place

    def handle(connection, head, rest):
        connection.sendall(SAID[head.split(b"/")[1].split(b" ")[0].decode().replace("_", " ")][0])
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)

    def said(connection, target, method):
        more = "\r\nExpect: 100-continue\r\nContent-Length: 100000" if method == "POST" else ""
        with connection:
            connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close{more}\r\n\r\n".encode())
            lines = read_all(connection).split(b"\r\n")
        return [line for line in lines if not line.lower().startswith((b"connection:", b"x-request-id:"))]

    up = upstream(handle)
    for name, (_, method) in SAID.items():
        target = "/" + name.replace(" ", "_")
        direct = said(socket.create_connection(("127.0.0.1", up.port), timeout=END_TIMEOUT_S), target, method)
        assert said(sandboxd.raw(), path(id, up, target), method) == direct and len(direct) > 2, name


def test_behind_which_a_server_begins_again(place, upstream):
    """One connection of the client: the server behind is there, is not, and is there again."""
    sandboxd, id = place
    up = Upstream(answer(b"ok"))
    with sandboxd.client(limits=httpx.Limits(max_connections=1)) as client:
        assert client.get(path(id, up)).text == "ok"
        up.close()
        assert client.get(path(id, up)).status_code == 502
        upstream(answer(b"ok"), port=up.port)
        assert client.get(path(id, up)).text == "ok"


def memory_kb(pid, field):
    return next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith(field))


def test_bodies_cost_a_bounded_buffer(place, upstream):
    """64 MiB up, whole; as much down to a client that does not read: neither server nor agent holds it."""
    sandboxd, id = place
    size, block = 64 << 20, bytes(range(256)) * 4096
    full = threading.Event()

    def handle(connection, head, rest):
        if b"POST" in head:
            digest, left = hashlib.sha256(rest), size - len(rest)
            while left:
                piece = connection.recv(min(left, 1 << 20))
                assert piece
                digest.update(piece)
                left -= len(piece)
            answer(digest.hexdigest().encode())(connection, head, b"")
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        connection.settimeout(1)  # that long nobody has taken anything: all buffers are full
        view, sent = memoryview(block), 0
        while sent < size:
            try:
                sent += connection.send(view[sent % len(block):])
            except TimeoutError:
                full.set()
                connection.settimeout(END_TIMEOUT_S)

    up = upstream(handle)
    pids = [sandboxd.pid, container_pid(sandboxd, id)]
    before = [memory_kb(pid, "VmHWM") for pid in pids]
    digest = hashlib.sha256()
    with request(sandboxd, f"POST {path(id, up)} HTTP/1.1\nHost: x\nContent-Length: {size}\nConnection: close") as connection:
        for _ in range(size // len(block)):
            connection.sendall(block)
            digest.update(block)
        assert read_all(connection).endswith(digest.hexdigest().encode())
    with request(sandboxd, f"GET {path(id, up)} HTTP/1.1\nHost: x\nConnection: close") as connection:
        assert full.wait(END_TIMEOUT_S), "all of it went somewhere"
        assert sandboxd.http.get("/health").status_code == 200
        head, rest = read_head(connection)
        n, digest = len(rest), hashlib.sha256(rest)
        while piece := connection.recv(1 << 20):
            n += len(piece)
            digest.update(piece)
    whole = hashlib.sha256()
    for _ in range(size // len(block)):
        whole.update(block)
    assert (n, digest.digest()) == (size, whole.digest())
    if not SANITIZED:
        grown = [memory_kb(pid, "VmHWM") - old for pid, old in zip(pids, before)]
        assert max(grown) < 8 << 10, f"kB: {grown}"
