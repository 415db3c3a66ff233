"""A client as the soak needs it: one kept connection for small calls, one of its own for each stream."""

import http.client
import json
import socket
import struct
from urllib.parse import urlencode

TIMEOUT_S = 120  # a hang, not a measure
# What may be said where a bound is reached (proto/*.yaml, docs/): counted and told, but no failure.
BOUNDS = {"RUNTIME_ERROR", "WATCH_LIMIT", "SANDBOX::LIMIT", "SANDBOX::UNAVAILABLE", "SNAPSHOT::LIMIT"}


class Wrong(Exception):
    """The answer is not what it has to be."""


class Refused(Exception):
    """429 or 503 with a documented code."""


def check(fact, *what):
    if not fact:
        raise Wrong(" ".join(str(part)[:400] for part in what))


def same(got, expected, what):
    """The bytes that came against those that were to come; where they part is told."""
    if got == expected:
        return
    at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
    raise Wrong(
        f"{what}: {len(got)} bytes instead of {len(expected)}, other from byte {at} on: "
        f"{got[at : at + 60]!r} instead of {expected[at : at + 60]!r}"
    )


def judge(status, body, want, what):
    if status in want:
        return
    if status in (429, 503):
        try:
            error = json.loads(body)
        except ValueError:
            error = {}
        if error.get("code") in BOUNDS and error.get("message"):
            raise Refused(f"{status} {error['code']}: {error['message']}")
    raise Wrong(f"{what}: {status} {body[:400]!r}")


class Client:
    def __init__(self, host, port, headers):
        self.host, self.port, self.headers = host, port, headers
        self.kept = None
        self.owed = []  # what is to be deleted if an operation does not come to its end

    def owe(self, path):
        self.owed.append(path)

    def pay(self):
        while self.owed:
            self.call("DELETE", self.owed.pop(), want=range(200, 500))

    def connection(self, receive_buffer=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        if receive_buffer:  # before the connection is made: afterwards the window is what it is
            connection.sock = socket.socket()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.sock.settimeout(TIMEOUT_S)
            connection.sock.connect((self.host, self.port))
        return connection

    def prepare(self, path, body, params, headers):
        if params:
            path += "?" + urlencode(params, doseq=True)
        headers = {**self.headers, **(headers or {})}
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers["Content-Type"] = "application/json"
        return path, body, headers

    def call(self, method, path, body=None, params=None, headers=None, want=(200,)):
        """The body of the answer, whose headers are in .answered then."""
        what = f"{method} {path}"
        path, body, headers = self.prepare(path, body, params, headers)
        if self.kept is None:
            self.kept = self.connection()
        try:
            self.kept.request(method, path, body, headers)
            response = self.kept.getresponse()
            data = response.read()
        except BaseException:
            self.close()
            raise
        self.answered = response.headers
        self.status = response.status
        judge(response.status, data, want, what)
        return data

    def json(self, *args, **options):
        return json.loads(self.call(*args, **options))

    def stream(self, method, path, body=None, params=None, headers=None, want=(200,), receive_buffer=None):
        what = f"{method} {path}"
        path, body, headers = self.prepare(path, body, params, headers)
        connection = self.connection(receive_buffer)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            if response.status not in want:
                judge(response.status, response.read(), want, what)
        except BaseException:
            connection.close()
            raise
        return Stream(connection, response)

    def close(self):
        if self.kept:
            self.kept.close()
            self.kept = None


class Stream:
    """An open answer. As a context: whatever happens, the connection is closed at its end."""

    def __init__(self, connection, response):
        self.connection, self.response = connection, response
        self.socket = connection.sock
        self.last = None  # the id of the last event

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.response.close()
        self.connection.close()

    def vanish(self):
        """No FIN, a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def pieces(self, size=65536):
        while piece := self.response.read1(size):
            yield piece

    def events(self, size=65536, between=lambda: None):
        """Event by event but for pings; their ids have to grow."""
        rest = b""
        for piece in self.pieces(size):
            *blocks, rest = (rest + piece).split(b"\n\n")
            for block in blocks:
                id, data = None, b""
                for line in block.split(b"\n"):
                    if line.startswith(b"data: "):
                        data = line[6:]
                    elif line.startswith(b"id: "):
                        id = int(line[4:])
                event = json.loads(data)
                if event.get("type") == "ping":
                    continue
                if id is not None:
                    check(self.last is None or id >= self.last, "an id goes back:", id, "after", self.last)
                    self.last = id
                yield event
            between()
        check(not rest, "the stream ends inside an event:", rest)
