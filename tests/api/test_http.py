"""proto/http.h through the little server http_echo: framing, limits, and clients that misbehave."""

import contextlib
import json
import select
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from daemon import BUILD

ECHO = BUILD / "api/http_echo"
TIMEOUT_S = 30  # a hang, not a measure
HOST = b"Host: h\r\n"
PIECE = 262144


class Echo:
    def __init__(self, log, **options):
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [ECHO, *(f"{name}={value}" for name, value in options.items())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out,
            )
        self.pid = self.process.pid
        self.port = int(self.line())
        self.connections = []

    def line(self):
        """The next line it prints."""
        assert select.select([self.process.stdout], [], [], TIMEOUT_S)[0], "it says nothing"
        line = b""
        while not line.endswith(b"\n"):
            byte = self.process.stdout.read1(1)
            assert byte, f"it ended: {self.log.read_text()}"
            line += byte
        return line.decode().strip()

    def connect(self, **options):
        connection = Connection(self.port, **options)
        self.connections.append(connection)
        return connection

    def get(self, path, headers=b""):
        with contextlib.closing(Connection(self.port)) as connection:
            return connection.ask("GET", path, headers=headers)

    def turns(self):
        return json.loads(self.get("/turns").body)

    def memory(self):
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096

    def descriptors(self):
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def stop(self):
        self.process.stdin.close()
        lines = self.process.stdout.read().decode().split("\n")[:-1]
        code = self.process.wait(TIMEOUT_S)
        for connection in self.connections:
            connection.close()
        assert code == 0, self.log.read_text()
        return lines


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.headers} {self.body[:200]}"


class Connection:
    """A client that does exactly what it is told."""

    def __init__(self, port, receive_buffer=None, path=None):
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(str(path) if path else ("127.0.0.1", port))
        if not path:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.interim = 0  # 1xx replies skipped

    def send(self, data):
        self.socket.sendall(data)

    def request(self, method, path, body=None, headers=b"", version=b"1.1"):
        if isinstance(path, str):
            path = path.encode()
        head = method.encode() + b" " + path + b" HTTP/" + version + b"\r\n" + HOST + headers
        if body is not None:
            head += b"Content-Length: %d\r\n" % len(body)
        self.send(head + b"\r\n" + (body or b""))

    def ask(self, method, path, body=None, **options):
        self.request(method, path, body, **options)
        return self.reply(method)

    def head(self):
        """Status and headers of the next reply; interim ones are counted and skipped."""
        while True:
            line = self.file.readline()
            assert line.endswith(b"\r\n"), f"no status line: {line}"
            version, status, _ = line.split(b" ", 2)
            assert version == b"HTTP/1.1"
            headers = {}
            while (line := self.file.readline()) != b"\r\n":
                assert line.endswith(b"\r\n"), f"cut in the headers: {line}"
                name, value = line[:-2].decode().split(": ", 1)
                assert name.lower() not in headers
                headers[name.lower()] = value
            if not status.startswith(b"1"):
                return int(status), headers
            self.interim += 1

    def chunks(self):
        while True:
            line = self.file.readline()
            assert line.endswith(b"\r\n"), f"cut before a chunk: {line}"
            n = int(line, 16)
            data = self.file.read(n)
            assert len(data) == n and self.file.read(2) == b"\r\n", "cut in a chunk"
            if n == 0:
                return
            yield data

    def reply(self, method="GET"):
        status, headers = self.head()
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            body = b"".join(self.chunks())
        elif "content-length" in headers:
            n = int(headers["content-length"])
            body = self.file.read(n)
            assert len(body) == n, f"cut after {len(body)} of {n} bytes"
        else:
            assert headers["connection"] == "close"
            body = self.file.read()
        return Reply(status, headers, body)

    def at_end(self):
        """The server has closed it, and has nothing more to say."""
        return self.file.read() == b""

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()


@pytest.fixture
def start(tmp_path):
    running = []

    def start_echo(**options):
        echo = Echo(tmp_path / f"echo-{len(running)}.log", **options)
        running.append(echo)
        return echo

    yield start_echo
    for echo in running:
        if echo.process.returncode is None:
            echo.stop()


@pytest.fixture
def echo(start):
    return start()


@pytest.fixture
def wait(start):
    """wait(ms): by the timer of another server, for tests of what must not happen."""
    clock = start()
    return lambda ms: clock.get(f"/late?ms={ms}")


def is_error(reply, status, code, part=""):
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json) == {"code", "message"}
    assert reply.json["code"] == code
    assert part in reply.json["message"]


def letters(n, offset=0):
    alphabet = b"abcdefghijklmnopqrstuvwxyz"
    return (alphabet * (n // 26 + 2))[offset % 26 : offset % 26 + n]


def weigh(data):
    total = 0
    for byte in data:
        total = (total * 31 + byte) & 0xFFFFFFFF
    return total


def chunked(data, size):
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"


# ---- requests ------------------------------------------------------------------


def test_keep_alive(echo):
    connection = echo.connect()
    for _ in range(3):
        reply = connection.ask("GET", "/ping")
        assert (reply.status, reply.body) == (200, b"pong")
        assert reply.headers == {"content-type": "text/plain", "content-length": "4"}
    reply = connection.ask("GET", "/ping", headers=b"Connection: close\r\n")
    assert reply.headers["connection"] == "close"
    assert connection.at_end()


def test_http_1_0(echo):
    connection = echo.connect()
    assert connection.ask("GET", "/ping", version=b"1.0").headers["connection"] == "close"
    assert connection.at_end()
    connection = echo.connect()
    for _ in range(2):
        reply = connection.ask("GET", "/ping", version=b"1.0", headers=b"Connection: keep-alive\r\n")
        assert reply.headers["connection"] == "keep-alive"
    connection.send(b"GET /ping HTTP/1.0\r\n\r\n")
    assert connection.reply().body == b"pong"


def test_head_in_any_two_pieces(echo):
    connection = echo.connect()
    request = b"GET /inspect/a%20b?x=1 HTTP/1.1\r\nHost: h\r\nX-Custom: v\r\n\r\n"
    for cut in range(1, len(request)):
        connection.send(request[:cut])
        connection.send(request[cut:])
        assert connection.reply().json["a"] == "a b"
    for i in range(len(request)):
        connection.send(request[i : i + 1])
    assert connection.reply().json["header"] == "v"


def test_pipelining(echo):
    connection = echo.connect()
    requests, expected = [], []
    for i in range(100):
        body = json.dumps({"i": i}).encode()
        requests += [
            b"GET /inspect?x=%d HTTP/1.1\r\nHost: h\r\n\r\n" % i,
            b"POST /json HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
            b"POST /json HTTP/1.1\r\nHost: h\r\n" + CHUNKED + b"\r\n" + chunked(body, 3),
            b"POST /json HTTP/1.1\r\nHost: h\r\n\r\n\r\n",
            b"GET /late?ms=1 HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /bytes?n=100000&chunked=1 HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /nope HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        ]
        expected += [str(i), {"i": i}, {"i": i}, None, b"late", letters(100000), "NOT_FOUND"]
    connection.send(b"".join(requests[:70]))
    for i, want in enumerate(expected):
        if i == 35:
            connection.send(b"".join(requests[70:]))
        reply = connection.reply()
        got = reply.body if isinstance(want, bytes) else reply.json
        assert (got["x"] if i % 7 == 0 else got["code"] if i % 7 == 6 else got) == want


def test_replies_to_a_client_that_only_sends(echo, wait):
    """The server stops reading when its replies are not read, and goes on when they are."""
    connection = echo.connect(receive_buffer=4096)
    connection.socket.setblocking(False)
    request = b"GET /big?n=50000 HTTP/1.1\r\nHost: h\r\n\r\n" * 100
    sent = before = 0
    memory = echo.memory()
    while True:  # until it takes no more
        try:
            sent += connection.socket.send(request[sent % len(request) :])
        except BlockingIOError:
            wait(50)
            if sent == before:
                break
            before = sent
    turns = echo.turns()
    wait(100)
    assert echo.turns() - turns < 20
    assert echo.memory() - memory < 8 << 20
    connection.socket.settimeout(TIMEOUT_S)
    for _ in range(min(sent // (len(request) // 100), 1000)):
        assert connection.reply().body == b"b" * 50000


def test_routes(echo):
    connection = echo.connect()
    is_error(connection.ask("GET", "/nope"), 404, "NOT_FOUND", "/nope")
    reply = connection.ask("DELETE", "/json", b"{}")
    is_error(reply, 405, "METHOD_NOT_ALLOWED", "POST")
    assert reply.headers["allow"] == "POST, PATCH"
    assert connection.ask("FROBNICATE", "/ping").headers["allow"] == "GET, HEAD"
    is_error(connection.ask("OPTIONS", "*"), 404, "NOT_FOUND")
    is_error(connection.ask("GET", "/ping/"), 404, "NOT_FOUND")
    reply = connection.ask("DELETE", "/empty")
    assert (reply.status, reply.headers) == (204, {})
    assert connection.ask("GET", "/ping").body == b"pong"


def test_prefix(start):
    echo = start(prefix="/v1")
    assert echo.get("/v1/ping").body == echo.get("/ping").body == b"pong"
    assert echo.get("/v1/inspect/7").json["a"] == "7"
    assert echo.get("/v2/ping").status == 404


@pytest.mark.parametrize("path", ["/ping", "/bytes?n=1000", "/bytes?n=1000000", "/bytes?n=9&chunked=1", "/big?n=200000"])
def test_head_method(echo, path):
    connection = echo.connect()
    whole = connection.ask("GET", path)
    reply = connection.ask("HEAD", path)
    assert (reply.status, reply.headers) == (200, whole.headers)
    assert connection.ask("GET", "/ping").body == b"pong"


def test_path(echo):
    def inspect(path):
        return echo.get(path).json

    assert inspect("/inspect/a+b")["a"] == "a+b"
    assert inspect("/inspect/a%2Fb%20c%2500")["a"] == "a/b c%00"
    assert inspect("/inspect/%C3%A4")["path"] == "/inspect/ä"
    assert inspect("/inspect/1/of/2")["b"] == "2"
    assert inspect("/inspect/a&b;c=d")["a"] == "a&b;c=d"
    assert inspect("/rest/1//a/../b/./%2e%2E/")["*"] == "/a/../b/./../"
    assert inspect("http://other/inspect/1?x=2")["path"] == "/inspect/1"
    for path in ("/inspect/%", "/inspect/%4", "/inspect/%zz", "/inspect/%00", "/inspect/a?x=%", "/inspect/a?%00=1"):
        is_error(echo.get(path), 400, "INVALID_REQUEST", "%-escape")


def test_query(echo):
    reply = echo.get("/inspect?x=a+b%2B%2520%26;c&q=1&q=&q&Q=no&%71=4").json
    assert reply["x"] == "a b+%20&;c"
    assert reply["q"] == ["1", "", "", "4"]
    assert echo.get("/inspect?y=1").json["x"] is None
    many = "&".join(f"q={i}" for i in range(2000))
    assert echo.get("/inspect?" + many).json["q"] == [str(i) for i in range(8)]


def test_header_names(echo):
    """Also such as begin like well known ones: lws takes those for the next line."""
    odd = b"Hos: 1\r\nContent: 2\r\nX-Auth: 3\r\nAccept-: 4\r\n"
    assert echo.get("/inspect", odd + b"x-CUSTOM:  value \t\r\n").json["header"] == "value"
    assert echo.get("/inspect", b"X-Custom: \xff\xfe\r\n").json["header"] == "\ufffd\ufffd"
    assert echo.get("/inspect").json["header"] is None
    reply = echo.get("/inspect")
    assert reply.headers["x-seen"] == "yes" and "x-injected" not in reply.headers


def test_host(echo):
    connection = echo.connect()
    assert connection.ask("GET", "/inspect").json["host"] == "h"
    connection.send(b"GET /inspect HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert connection.reply().json["host"] == f"127.0.0.1:{echo.port}"
    connection.send(b"GET /inspect HTTP/1.1\r\n\r\n")
    is_error(connection.reply(), 400, "INVALID_REQUEST", "Host")
    assert connection.at_end()


def test_request_id(start):
    echo = start(request_id=1)
    reply = echo.get("/inspect", b"X-Request-ID: given\r\n")
    assert reply.headers["x-request-id"] == reply.json["request_id"] == "given"
    ids = {echo.get(path).headers["x-request-id"] for path in ("/ping", "/ping", "/nope", "/late?ms=1", "/bytes?n=5")}
    assert len(ids) == 5 and all(len(i) == 36 for i in ids)
    assert len(echo.get("/ping", b"X-Request-ID: " + b"x" * 1000 + b"\r\n").headers["x-request-id"]) == 36
    assert "x-request-id" not in start().get("/ping").headers


@pytest.mark.parametrize(
    "request_, status, part",
    [
        (b"GET / HTTP/1.1\nHost: h\n\n", 400, "CRLF"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400, "CRLF"),
        (b"nonsense\r\n\r\n", 400, "request line"),
        (b"GET / HTTP/2.0\r\n\r\n", 505, "HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1"),
        (b"GET /ping HTTP/1.1\r\nHost : h\r\n\r\n", 400, "header line"),
        (b"GET /ping HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400, "header line"),
        (b"GET /ping HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n", 400, "control"),
        (b"GET /ping HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400, "Host"),
        (b"POST /json HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "both"),
        (b"POST /json HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12", 400, "one number"),
        (b"POST /json HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400, "one number"),
        (b"POST /json HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "chunked"),
        (b"POST /json HTTP/1.1\r\nHost: h\r\nExpect: wonders\r\nContent-Length: 1\r\n\r\n1", 417, "100-continue"),
    ],
)
def test_not_a_request(echo, request_, status, part):
    connection = echo.connect()
    # Nothing behind it is taken for a request.
    connection.send(request_ + b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n")
    reply = connection.reply()
    is_error(reply, status, "INVALID_REQUEST", part)
    assert reply.headers["connection"] == "close"
    assert connection.at_end()


def test_empty_lines_before_a_request(echo):
    connection = echo.connect()
    connection.send(b"\r\n\r\nGET /ping HTTP/1.1\r\nHost: h\r\n\r\n\r\nGET /ping HTTP/1.1\r\nHost: h\r\n\r\n")
    assert connection.reply().body == connection.reply().body == b"pong"


def test_header_limits(start):
    echo = start()
    assert echo.get("/inspect", b"X-Custom: " + b"x" * 60000 + b"\r\n").json["header"] == "x" * 60000
    assert echo.get("/inspect?x=" + "y" * 60000).json["x"] == "y" * 60000
    assert echo.get("/ping", b"A: b\r\n" * 99).status == 200
    is_error(echo.get("/ping", b"A: b\r\n" * 100), 431, "INVALID_REQUEST", "100 headers")
    for headers in (b"X: " + b"x" * 70000 + b"\r\n", b"X: " + b"x" * 3000000):
        connection = echo.connect()
        with contextlib.suppress(ConnectionError):
            connection.request("GET", "/ping", headers=headers)
        is_error(connection.reply(), 431, "HEADERS_TOO_LARGE", "65536")
    echo = start(header_max=200)
    assert echo.get("/ping", b"X: " + b"x" * 100 + b"\r\n").status == 200
    is_error(echo.get("/ping", b"X: " + b"x" * 200 + b"\r\n"), 431, "HEADERS_TOO_LARGE", "200")


def test_authorization(start):
    echo = start(token="secret")
    connection = echo.connect()
    assert connection.ask("GET", "/ping").status == 200
    is_error(connection.ask("GET", "/private"), 401, "UNAUTHORIZED")
    is_error(connection.ask("GET", "/private", headers=b"X-Token: wrong\r\n"), 401, "UNAUTHORIZED")
    assert connection.ask("GET", "/private", headers=b"x-token: secret\r\n").status == 200
    # Without the token it is not told what exists.
    is_error(connection.ask("GET", "/nope"), 401, "UNAUTHORIZED")
    is_error(connection.ask("DELETE", "/private"), 401, "UNAUTHORIZED")
    # The reply does not wait for the body.
    connection.request("POST", "/private/json", headers=b"Content-Length: 1000\r\n")
    is_error(connection.reply(), 401, "UNAUTHORIZED")
    connection.send(b"x" * 1000)
    assert connection.ask("GET", "/ping").status == 200


def test_error_kinds(echo):
    statuses = [500, 400, 401, 403, 404, 405, 409, 410, 413, 416, 429, 503, 501, 502, 504, 507]
    connection = echo.connect()
    for kind, status in enumerate(statuses):
        is_error(connection.ask("GET", f"/fail/{kind}"), status, "CUSTOM_CODE", '"quoted" \ufffd message')


# ---- bodies --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_no_body(echo, method):
    connection = echo.connect()
    for headers in (b"", b"Content-Length: 0\r\n", b"Content-Type: application/json\r\n"):
        assert connection.ask(method, "/json", headers=headers).json is None
    connection.send(method.encode() + b" /json HTTP/1.1\r\nHost: h\r\n" + CHUNKED + b"\r\n0\r\n\r\n")
    assert connection.reply().json is None


def test_body_of_a_route_without_one(echo):
    connection = echo.connect()
    for body in (b"", b"x", b"x" * 60000):
        assert connection.ask("PUT", "/inspect", body).json["length"] == len(body)
        assert connection.ask("DELETE", "/empty", body).status == 204
        connection.send(b"GET /ping HTTP/1.1\r\nHost: h\r\n" + CHUNKED + b"\r\n" + chunked(body, 1000))
        assert connection.reply().body == b"pong"
    # Too much to read for nothing.
    connection.request("PUT", "/inspect", headers=b"Content-Length: 10000000\r\n")
    reply = connection.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    with contextlib.suppress(ConnectionError):
        connection.send(b"x" * 10000000)


def test_reply_reaches_a_client_that_still_sends(echo):
    """Closing at once would be a reset, which may overtake the reply."""
    for path, status in (("/inspect", 200), ("/nope", 404)):
        connection = echo.connect()
        connection.request("PUT", path, b"x" * 3000000)
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"]) == (status, "close")
        assert connection.at_end()
    connection = echo.connect()
    connection.send(b"\n" + b"x" * 3000000)
    is_error(connection.reply(), 400, "INVALID_REQUEST")
    assert connection.at_end()


def test_endless_chunked_body_is_not_drained(echo):
    connection = echo.connect()
    connection.send(b"GET /ping HTTP/1.1\r\nHost: h\r\n" + CHUNKED + b"\r\n")
    assert connection.reply().body == b"pong"
    with pytest.raises(ConnectionError):
        while True:
            connection.send(b"400\r\n" + b"x" * 1024 + b"\r\n")


def test_json(start):
    echo = start(json_max=1000)
    connection = echo.connect()
    assert connection.ask("POST", "/json", b'{"name": "\xc3\xa4", "n": 12345678901234}').json == {"name": "ä", "n": 12345678901234}
    is_error(connection.ask("POST", "/json", b'{"a": 1,\n "b": }'), 400, "INVALID_REQUEST_BODY", "line 2 column 7")
    is_error(connection.ask("POST", "/json", b'{"a": 1, "a": 2}'), 400, "INVALID_REQUEST_BODY", "duplicate")
    is_error(connection.ask("POST", "/json", b"[" * 100), 400, "INVALID_REQUEST_BODY", "64 levels")
    is_error(connection.ask("POST", "/json", b'"\\u0000"'), 400, "INVALID_REQUEST_BODY", "NUL")
    is_error(connection.ask("POST", "/json", b'{"name": 5}'), 400, "INVALID_REQUEST_BODY", "'name' must be a string")
    assert connection.ask("POST", "/json", b'"' + b"x" * 998 + b'"').status == 200
    is_error(connection.ask("POST", "/json", b'"' + b"x" * 999 + b'"'), 413, "PAYLOAD_TOO_LARGE", "1000")
    connection.send(b"POST /json HTTP/1.1\r\nHost: h\r\n" + CHUNKED + b"\r\n" + chunked(b"x" * 1001, 100))
    is_error(connection.reply(), 413, "PAYLOAD_TOO_LARGE", "1000")
    assert connection.ask("GET", "/ping").status == 200
    # Not read first, and too much to drain.
    connection.request("POST", "/json", headers=b"Content-Length: 100000\r\n")
    reply = connection.reply()
    is_error(reply, 413, "PAYLOAD_TOO_LARGE")
    assert reply.headers["connection"] == "close"


def test_chunked_json_in_any_two_pieces(echo):
    connection = echo.connect()
    body = b'5;ext="1"\r\n{"a":\r\n003\r\n 1}\r\n0\r\nTrailer: x\r\n\r\n'
    head = b"POST /json HTTP/1.1\r\nHost: h\r\n" + CHUNKED + b"\r\n"
    for cut in range(1, len(body)):
        connection.send(head + body[:cut])
        connection.send(body[cut:])
        assert connection.reply().json == {"a": 1}


@pytest.mark.parametrize("body", [b"x\r\n", b"5\r\nhellox", b"5\nhello\n0\n\n", b"-1\r\n", b"fffffffffffffffff\r\n"])
def test_malformed_chunks(echo, body):
    for path in ("/json", "/count"):
        connection = echo.connect()
        connection.send(b"POST " + path.encode() + b" HTTP/1.1\r\nHost: h\r\n" + CHUNKED + b"\r\n" + body)
        reply = connection.reply()
        is_error(reply, 400, "INVALID_REQUEST_BODY", "chunked")
        assert reply.headers["connection"] == "close"
    assert echo.line() == "abort"


def test_expect_continue(start):
    echo = start(token="secret", json_max=1000)
    connection = echo.connect()
    expect = b"Expect: 100-continue\r\n"
    for path in ("/json", "/count"):
        for framing, body in ((b"Content-Length: 2\r\n", b"12"), (CHUNKED, chunked(b"12", 1))):
            connection.request("POST", path, headers=expect + framing)
            assert connection.file.readline() == b"HTTP/1.1 100 Continue\r\n"
            assert connection.file.readline() == b"\r\n"
            connection.send(body)
            assert connection.reply().status == 200
    # A client that does not wait is not told to go on, nor is one that has nothing to send.
    connection.request("POST", "/json", b"12", headers=expect)
    assert connection.reply().json == 12
    connection.request("POST", "/json", b"", headers=expect)
    assert connection.reply().json is None
    assert connection.interim == 0
    # Refused before the body is asked for; whether it comes nevertheless cannot be known.
    for path, status, length in (
        ("/private/json", 401, 10), ("/private/count", 401, 10), ("/nope", 401, 10),
        ("/json", 413, 2000), ("/count?refuse=1", 409, 10), ("/ping", 401, 10),
    ):
        connection = echo.connect()
        connection.request("POST", path, headers=expect + b"Content-Length: %d\r\n" % length)
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"], connection.interim) == (status, "close", 0)
        assert connection.at_end()


def test_upgrades_that_are_not_spoken(echo):
    """Java's client offers h2c with every first request; others are ignored just so."""
    connection = echo.connect()
    for _ in range(3):
        for upgrade in (b"h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB", b"unknown\r\nConnection: Upgrade"):
            assert connection.ask("POST", "/json", b'{"a": 1}', headers=b"Upgrade: " + upgrade + b"\r\n").json == {"a": 1}
            assert connection.ask("GET", "/ping", headers=b"Upgrade: " + upgrade + b"\r\n").body == b"pong"


# ---- sinks ---------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 70000, 3000001])
@pytest.mark.parametrize("pause", [False, True])
def test_sink(echo, n, pause):
    data = letters(n)
    want = {"n": n, "sum": weigh(data)}
    path = "/count?pause=1" if pause else "/count"
    connection = echo.connect()
    for _ in range(2):
        reply = connection.ask("POST", path, data).json
        assert {k: reply[k] for k in want} == want
        connection.send(f"POST {path} HTTP/1.1\r\n".encode() + HOST + CHUNKED + b"\r\n" + chunked(data, 10007))
        reply = connection.reply().json
        assert {k: reply[k] for k in want} == want


def test_sink_gets_pieces_as_they_come(echo):
    connection = echo.connect()
    connection.request("POST", "/count", headers=b"Content-Length: 100\r\n")
    for _ in range(100):
        connection.send(b"x")
    assert connection.reply().json["n"] == 100
    assert connection.ask("GET", "/ping").body == b"pong"


def test_paused_sink_holds_the_client_up(echo, wait):
    """While the sink rests the socket is not read, and nothing spins."""
    connection = echo.connect()
    connection.request("POST", "/count?pause=1", headers=b"Content-Length: 100000000\r\n")
    memory, turns = echo.memory(), echo.turns()
    connection.send(b"x" * 1000000)
    wait(100)
    assert echo.memory() - memory < 8 << 20
    connection.close()
    assert echo.line() == "abort"
    assert echo.turns() - turns < 500


def test_sink_that_fails(echo):
    connection = echo.connect()
    is_error(connection.ask("POST", "/count?fail=1", b"x" * 60000), 507, "DISK_FULL", "no space left")
    assert echo.line() == "abort"
    # What it had not read is drained.
    assert connection.ask("GET", "/ping").body == b"pong"
    connection.request("POST", "/count?fail=10", headers=b"Content-Length: 10000000\r\n")
    connection.send(b"x" * 100)
    assert connection.reply().headers["connection"] == "close"
    assert echo.line() == "abort"
    is_error(echo.connect().ask("POST", "/count?refuse=1", b"x" * 100), 409, "REFUSED")


@pytest.mark.parametrize("leave", ["close", "reset", "finish"])
@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n", CHUNKED])
def test_client_leaves_in_its_body(echo, leave, framing):
    connection = echo.connect()
    connection.request("POST", "/count", headers=framing + b"Expect: 100-continue\r\n")
    assert connection.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    connection.send(b"400\r\n" + b"x" * 500)
    getattr(connection, leave)()
    assert echo.line() == "abort"


# ---- sources -------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 15, 16, 65535, 65536, 65537, 5000000])
@pytest.mark.parametrize("query", ["", "&chunked=1"])
def test_source(echo, n, query):
    connection = echo.connect()
    for _ in range(2):
        assert connection.ask("GET", f"/bytes?n={n}{query}").body == letters(n)
        assert echo.line() == "stop 1"
    assert echo.connect().ask("GET", f"/bytes?n={n}{query}", version=b"1.0").body == letters(n)


@pytest.mark.parametrize("n", [0, 65535, 65536, 65537, 10000000])
def test_whole_reply(echo, n):
    connection = echo.connect()
    for _ in range(2):
        assert connection.ask("GET", f"/big?n={n}").body == b"b" * n


def test_slow_reader_costs_one_buffer(echo, wait):
    memory = echo.memory()
    readers = [echo.connect(receive_buffer=4096) for _ in range(20)]
    for reader in readers:
        reader.request("GET", "/bytes?n=1000000000")
        assert reader.head()[0] == 200
    turns = echo.turns()
    wait(100)
    assert echo.turns() - turns < 20
    assert echo.memory() - memory < 16 << 20
    assert readers[0].file.read(1000000) == letters(1000000)
    for reader in readers:
        reader.close()
        assert echo.line() == "stop 0"


def test_wakes_do_not_fill_a_slow_reader(echo, wait):
    """A source that is woken while the socket is full is not asked for more."""
    memory = echo.memory()
    connection = echo.connect(receive_buffer=4096)
    connection.request("GET", "/events?period=1&pad=50000")
    connection.head()
    wait(500)
    assert echo.memory() - memory < 8 << 20
    got = b""
    for chunk in connection.chunks():
        got += chunk
        if len(got) > 10000000:
            break
    # Nothing was left out either.
    assert [int(line) for line in got.split(b"data: ")[1:100]] == list(range(99))


def test_source_that_breaks(echo):
    connection = echo.connect()
    connection.request("GET", "/bytes?n=1000000&break=1")
    connection.head()
    assert len(connection.file.read()) == PIECE
    assert echo.line() == "stop 0"
    connection = echo.connect()
    connection.request("GET", "/bytes?n=1000000&break=1&chunked=1")
    connection.head()
    with pytest.raises(AssertionError, match="cut before a chunk"):
        list(connection.chunks())
    # Here a plain end would look like the end of the reply.
    connection = echo.connect()
    connection.request("GET", "/bytes?n=1000000&break=1&chunked=1", version=b"1.0")
    with pytest.raises(ConnectionError):
        connection.reply()


def test_events_are_not_held_back(echo):
    connection = echo.connect()
    connection.request("GET", "/events?period=10&last=20")
    status, headers = connection.head()
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    assert b"".join(connection.chunks()) == b"".join(b"data: %d\n\n" % i for i in range(20))
    assert echo.line() == "stop 1"
    assert connection.ask("GET", "/ping").body == b"pong"


# ---- clients that leave, or only half ---------------------------------------------


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("path", ["/events", "/events?period=20", "/bytes?n=1000000000", "/late"])
@pytest.mark.parametrize("more", [b"", b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n"], ids=["idle", "pipelining"])
def test_client_leaves(echo, wait, leave, path, more):
    connection = echo.connect()
    connection.request("GET", path)
    if path != "/late":
        connection.head()
    connection.send(more)
    turns = echo.turns()
    getattr(connection, leave)()
    assert echo.line() == ("gone" if path == "/late" else "stop 0")
    wait(50)
    if "bytes" not in path:
        assert echo.turns() - turns < 50


def test_client_leaves_with_http_1_0(echo):
    connection = echo.connect()
    connection.request("GET", "/events", version=b"1.0")
    connection.head()
    connection.close()
    assert echo.line() == "stop 0"


REPLIES = {
    "/ping": b"pong",
    "/late?ms=150": b"late",
    "/bytes?n=20000000": letters(20000000),
    "/bytes?n=20000000&chunked=1": letters(20000000),
    "/big?n=20000000": b"b" * 20000000,
    "/events?period=40&last=4": b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n",
}


@pytest.mark.parametrize("path", REPLIES)
@pytest.mark.parametrize("times", [1, 2])
def test_half_closed_client_gets_its_reply(echo, path, times):
    want = REPLIES[path]
    connection = echo.connect(receive_buffer=65536)
    turns = echo.turns()
    for _ in range(times):
        connection.request("GET", path)
    connection.finish()
    for _ in range(times):
        assert connection.reply().body == want
    assert connection.at_end()
    if len(want) < 1000:
        assert echo.turns() - turns < 100


def test_half_closed_after_the_body(echo):
    connection = echo.connect()
    connection.request("POST", "/count?pause=1", b"x" * 200000)
    connection.finish()
    assert connection.reply().json["n"] == 200000
    assert connection.at_end()
    connection = echo.connect()
    connection.send(b"GET /pi")
    connection.finish()
    assert connection.at_end()


def test_idle_server_sleeps(echo, wait):
    connection = echo.connect()
    assert connection.ask("GET", "/ping").status == 200
    stream = echo.connect()
    stream.request("GET", "/events")
    stream.head()
    late = echo.connect()
    late.request("GET", "/late")
    turns = echo.turns()
    wait(1500)
    # The one connection that asks: accepted, answered, closed.
    assert echo.turns() - turns <= 6


# ---- limits ------------------------------------------------------------------------


def test_timeouts(start):
    echo = start(head_timeout_ms=100, idle_timeout_ms=200)
    connection = echo.connect()
    connection.send(b"GET /ping HTTP/1.1\r\nHos")
    is_error(connection.reply(), 408, "REQUEST_TIMEOUT")
    assert connection.at_end()
    assert echo.connect().at_end()
    connection = echo.connect()
    assert connection.ask("GET", "/ping").status == 200
    assert connection.at_end()
    connection = echo.connect()
    connection.request("POST", "/count", headers=b"Content-Length: 10\r\n")
    connection.send(b"x")
    is_error(connection.reply(), 408, "REQUEST_TIMEOUT")
    assert echo.line() == "abort"
    # No timeout is on those that wait for us.
    connection = echo.connect()
    assert connection.ask("GET", "/late?ms=500").body == b"late"
    connection = echo.connect()
    assert connection.ask("GET", "/events?period=400&last=1").body == b"data: 0\n\n"


def test_idle_connections_give_way(start):
    echo = start(conns_max=4)
    idle = [echo.connect() for _ in range(4)]
    for connection in idle:
        assert connection.ask("GET", "/ping").status == 200
    fresh = [echo.connect() for _ in range(3)]
    for connection in fresh:
        assert connection.ask("GET", "/ping").status == 200
    # The longest idle ones went.
    assert all(connection.at_end() for connection in idle[:3])
    assert idle[3].ask("GET", "/ping").status == 200


@pytest.mark.parametrize("first", [b"GET /pi", b"POST /nope HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nConnection: close\r\n\r\n"])
def test_slow_connections_give_way(start, first):
    """Those who send a byte of a request now and then keep nobody out, nor do those who stay when they have been refused."""
    echo = start(conns_max=4)
    slow = [echo.connect() for _ in range(4)]
    for connection in slow:
        connection.send(first)
    assert echo.connect().ask("GET", "/ping").status == 200
    if b"nope" in first:
        assert slow[0].reply().status == 404
        assert slow[0].at_end()
        return
    assert slow[0].at_end()
    slow[3].send(b"ng HTTP/1.1\r\nHost: h\r\n\r\n")
    assert slow[3].reply().body == b"pong"


def test_busy_connections_do_not(start):
    echo = start(conns_max=2)
    busy = [echo.connect() for _ in range(2)]
    for connection in busy:
        connection.request("GET", "/events")
        connection.head()
    waiting = [echo.connect() for _ in range(3)]
    for connection in waiting:
        connection.request("GET", "/ping", headers=b"Connection: close\r\n")
    busy[0].close()
    for connection in waiting:
        assert connection.reply().body == b"pong"
    busy[1].close()
    assert echo.line() == echo.line() == "stop 0"


def test_out_of_descriptors(start, wait):
    echo = start(nofile=100, conns_max=1000)
    busy = []
    while True:
        connection = echo.connect()
        try:
            connection.request("GET", "/events")
            connection.head()
        except (ConnectionError, AssertionError):
            break
        busy.append(connection)
        assert len(busy) < 100
    assert len(busy) > 15
    others = [echo.connect() for _ in range(50)]
    wait(300)
    for connection in busy:
        connection.close()
        assert echo.line() == "stop 0"
    for connection in others:
        connection.close()
    assert echo.turns() < 2000
    assert echo.get("/ping").body == b"pong"


def test_no_descriptor_is_left_behind(echo):
    assert echo.get("/ping").status == 200
    before = echo.descriptors()
    for i in range(300):
        connection = Connection(echo.port)
        if i % 3:
            assert connection.ask("GET", "/ping").status == 200
        connection.reset() if i % 2 else connection.close()
    # When these have been answered, all before them have been closed; they themselves perhaps not yet.
    for _ in range(3):
        assert echo.get("/ping").status == 200
    assert echo.descriptors() <= before + 3


def test_unix_socket(start, tmp_path):
    path = tmp_path / "socket"
    echo = start(unix=path)
    connection = Connection(None, path=path)
    assert connection.ask("GET", "/ping").body == b"pong"
    assert connection.ask("POST", "/json", b"[1]").json == [1]
    assert connection.ask("GET", "/bytes?n=1000000").body == letters(1000000)
    assert echo.line() == "stop 1"
    connection.request("GET", "/events")
    connection.head()
    connection.close()
    assert echo.line() == "stop 0"
    connection = Connection(None, path=path)
    connection.request("GET", "/late?ms=50")
    connection.finish()
    assert connection.reply().body == b"late"


def test_end_with_all_kinds_of_requests_open(echo):
    for path in ("/events", "/bytes?n=1000000000", "/late", "/events?period=1"):
        connection = echo.connect()
        connection.request("GET", path)
        if path != "/late":
            connection.head()
    connection = echo.connect()
    connection.request("POST", "/count", headers=b"Content-Length: 10\r\nExpect: 100-continue\r\n")
    assert b"100" in connection.file.readline()
    connection = echo.connect()
    connection.send(b"GET /pi")
    assert echo.get("/ping").status == 200
    assert sorted(echo.stop()) == ["abort", "gone", "stop 0", "stop 0", "stop 0"]
