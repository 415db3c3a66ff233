"""Reaching a sandbox through the server: by proxy, by a signed route, and with a token of its own."""

import hashlib
import os
import struct
import time

import httpx
import pytest
from websockets.sync.client import connect

from daemon import END_TIMEOUT_S, events
from test_lifecycle import crash, create, delete, get, running

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")

# Listens inside, tells that it does by its output, and says what it was asked.
ECHO = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = json.dumps({"line": self.requestline, "headers": dict(self.headers), "n": len(body)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    do_GET = do_POST = answer
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
print("listening", flush=True)
server.serve_forever()
"""


def where(sandboxd, id, port=44772, **query):
    response = sandboxd.http.get(f"/sandboxes/{id}/endpoints/{port}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


def proxied(sandboxd, id, port=44772):
    return where(sandboxd, id, port, use_server_proxy=True)["endpoint"]


def started(base, command, headers=None):
    """Starts a server inside and returns once it says that it listens; the stream stays open."""
    client = httpx.Client(timeout=END_TIMEOUT_S, headers=headers)
    stream = client.stream("POST", f"http://{base}/command", json={"command": command})
    response = stream.__enter__()
    assert next(event for event in events(response) if event["type"] == "stdout")["text"] == "listening"
    return stream


def python(source):
    return f"exec python3 - <<'END'\n{source}\nEND\n"


@pytest.fixture
def echo(sandboxd):
    id = running(sandboxd)
    stream = started(proxied(sandboxd, id), python(ECHO))
    yield id
    delete(sandboxd, id)  # ends the stream too
    stream.__exit__(None, None, None)


def test_the_agent_through_the_server(sandboxd):
    id = create(sandboxd)
    base = proxied(sandboxd, id)
    assert base == f"{sandboxd.host}:{sandboxd.port}/sandboxes/{id}/proxy/44772"
    # good at once, and without the key: as on the known server
    assert httpx.get(f"http://{base}/ping", timeout=END_TIMEOUT_S).status_code == 200
    assert httpx.get(f"http://{base.replace('/sandboxes', '/v1/sandboxes')}/ping").status_code == 200
    with httpx.stream("POST", f"http://{base}/command", json={"command": "echo hi; echo no >&2"}) as response:
        kinds = [(event["type"], event.get("text")) for event in events(response)]
    assert ("stdout", "hi") in kinds and ("stderr", "no") in kinds and kinds[-1][0] == "execution_complete"


def test_events_are_not_held_back(sandboxd):
    id = running(sandboxd)
    base = proxied(sandboxd, id)
    with httpx.stream("POST", f"http://{base}/command", json={"command": "mkfifo /tmp/f; echo one; cat /tmp/f"}) as response:
        stream = (event for event in events(response) if event["type"] == "stdout")
        assert next(stream)["text"] == "one"
        with httpx.stream("POST", f"http://{base}/command", json={"command": "echo two >/tmp/f"}) as other:
            assert list(events(other))
        assert next(stream)["text"] == "two"


def test_other_ports(sandboxd, echo):
    base = proxied(sandboxd, echo, 8000)
    assert base.endswith(f"/sandboxes/{echo}/proxy/8000")
    answer = httpx.get(f"http://{base}/a%2Fb/../c?x=1&y=%20", headers={
        "OPEN-SANDBOX-API-KEY": sandboxd.key, "Authorization": "Bearer x", "Cookie": "a=b", "X-Mine": "1"}).json()
    assert answer["line"] == "GET /a%2Fb/../c?x=1&y=%20 HTTP/1.1" or answer["line"] == "GET /c?x=1&y=%20 HTTP/1.1"
    given = {name.lower(): value for name, value in answer["headers"].items()}
    assert given["x-mine"] == "1" and given["x-forwarded-proto"] == "http"
    assert given["x-forwarded-host"] == f"{sandboxd.host}:{sandboxd.port}"
    assert not given.keys() & {"open-sandbox-api-key", "authorization", "cookie"}
    big = os.urandom(3_000_000)
    assert httpx.post(f"http://{base}", content=big).json() | {"headers": 0} == {
        "line": "POST / HTTP/1.1", "headers": 0, "n": len(big)}
    assert httpx.get(f"http://{base}?q").json()["line"] == "GET /?q HTTP/1.1"


def test_websocket(sandboxd):
    id = running(sandboxd)
    base = proxied(sandboxd, id)
    server = """
import base64, hashlib, socket
s = socket.create_server(("127.0.0.1", 9000))
print("listening", flush=True)
c, _ = s.accept()
head = b""
while b"\\r\\n\\r\\n" not in head: head += c.recv(4096)
key = [l for l in head.split(b"\\r\\n") if l.lower().startswith(b"sec-websocket-key")][0].split(b": ")[1]
accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
c.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
c.sendall(b"\\x81\\x05hello")
c.recv(4096)
c.sendall(b"\\x88\\x02\\x03\\xe8")
c.shutdown(socket.SHUT_WR)
c.recv(4096)
"""
    stream = started(base, python(server))
    with connect(f"ws://{proxied(sandboxd, id, 9000)}/socket?x", open_timeout=END_TIMEOUT_S) as socket:
        assert socket.recv(END_TIMEOUT_S) == "hello"
        socket.send("and you")
    stream.__exit__(None, None, None)


def test_what_cannot_be_reached(sandboxd):
    id = running(sandboxd)
    url = f"{sandboxd.url}/sandboxes/{id}/proxy"
    refused = httpx.get(f"{url}/1", headers={"X-Request-ID": "my-own"})
    assert refused.status_code == 502 and set(refused.json()) == {"code", "message"}
    assert refused.headers["x-request-id"] == "my-own"
    for port in ("0", "65536", "x", "-1"):
        assert httpx.get(f"{url}/{port}/x").status_code == 400, port
    assert httpx.get(f"{sandboxd.url}/sandboxes/no-such/proxy/80/").status_code == 404
    assert httpx.get(f"{url}/44772/no/such/path").headers["x-request-id"]
    delete(sandboxd, id)
    gone = httpx.get(f"{url}/44772/ping")
    assert gone.status_code == 409 and gone.headers["x-request-id"]


def test_keep_alive_goes_on(sandboxd):
    """One connection serves proxied requests and the server's own in turn."""
    id = running(sandboxd)
    with sandboxd.client(headers={"OPEN-SANDBOX-API-KEY": sandboxd.key}, limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(3):
            assert client.get(f"/sandboxes/{id}/proxy/44772/ping").status_code == 200
            assert client.get(f"/sandboxes/{id}").status_code == 200
            assert client.get(f"/sandboxes/{id}/proxy/1/").status_code == 502


# ---- signed routes ---------------------------------------------------------------


def base36(n):
    digits = ""
    while n:
        n, rest = divmod(n, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits or "0"


def test_a_signed_route(sandboxd):
    id = running(sandboxd)
    later = int(time.time()) + 600
    signed = where(sandboxd, id, expires=later)
    assert set(signed) == {"endpoint"}
    host, word, sandbox, port, expires, signature = signed["endpoint"].split("/")
    assert (host, word, sandbox, port, expires) == (f"{sandboxd.host}:{sandboxd.port}", "signed", id, "44772", base36(later))
    assert len(signature) == 9
    assert httpx.get(f"http://{signed['endpoint']}/ping").status_code == 200
    for wrong in (f"{id}/44773/{expires}/{signature}", f"{id}/44772/{base36(later + 1)}/{signature}",
                  f"{id}/44772/{expires}/{signature[:-2]}z0", f"no-such/44772/{expires}/{signature}",
                  f"{id}/44772/{expires.upper()}/{signature}", f"{id}/x/{expires}/{signature}"):
        refused = httpx.get(f"http://{host}/signed/{wrong}/ping")
        assert (refused.status_code, refused.json()["code"]) == (401, "INVALID_SIGNATURE"), wrong


def test_a_signed_route_expires(sandboxd):
    id = running(sandboxd)
    assert where(sandboxd, id, expires=int(time.time()) + 600)
    key = sandboxd.state / "sandboxd.db"
    import sqlite3
    with sqlite3.connect(key) as db:
        (secret,) = db.execute("SELECT value FROM settings WHERE name = 'signing-key'").fetchone()
    past = base36(int(time.time()) - 5)
    text = f"v1\nshort\n{id}\n44772\n{past}\n"
    sized = lambda s: struct.pack(">I", len(s)) + s.encode()
    signature = hashlib.sha256(sized(secret) + sized(text)).hexdigest()[:8] + "0"  # as OSEP-0011 writes it
    late = httpx.get(f"{sandboxd.url}/signed/{id}/44772/{past}/{signature}/ping")
    assert (late.status_code, late.json()["code"]) == (401, "SIGNATURE_EXPIRED")


@pytest.mark.parametrize("query", [{"expires": "1"}, {"expires": "x"}, {"expires": ""}, {"expires": "-5"}, {"expires": "01"},
                                   {"expires": "99999999999999999999"}, {"expires": "9999999999", "use_server_proxy": "true"},
                                   {"use_server_proxy": "maybe"}])
def test_ways_that_are_refused(sandboxd, query):
    id = create(sandboxd)
    response = sandboxd.http.get(f"/sandboxes/{id}/endpoints/80", params=query)
    assert response.status_code == 400 and response.json()["code"] == "SANDBOX::INVALID_PARAMETER"


def test_signed_routes_outlive_the_server(start_sandboxd):
    first = start_sandboxd()
    id = running(first)
    route = where(first, id, expires=int(time.time()) + 600)["endpoint"].split("/", 1)[1]
    crash(first)
    second = start_sandboxd()
    assert httpx.get(f"{second.url}/{route}/ping").status_code == 200


# ---- secure access -------------------------------------------------------------------


def test_secure_access(sandboxd):
    id = running(sandboxd, secureAccess=True)
    direct = where(sandboxd, id)
    token = direct["headers"]["X-EXECD-ACCESS-TOKEN"]
    assert len(token) == 48
    for endpoint in (direct, where(sandboxd, id, use_server_proxy=True)):
        assert endpoint["headers"] == direct["headers"]
        url = f"http://{endpoint['endpoint']}/ping"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"X-EXECD-ACCESS-TOKEN": "wrong"}).status_code == 401
        assert httpx.get(url, headers=endpoint["headers"]).status_code == 200
    # ports behind the agent are closed too
    assert httpx.get(f"http://{where(sandboxd, id, 8000, use_server_proxy=True)['endpoint']}").status_code == 401
    # who holds a signed route needs nothing else
    signed = where(sandboxd, id, expires=int(time.time()) + 600)
    assert "headers" not in signed
    assert httpx.get(f"http://{signed['endpoint']}/ping", headers={"X-EXECD-ACCESS-TOKEN": "wrong"}).status_code == 200
    assert token not in get(sandboxd, id).__repr__()


def test_the_token_is_private(start_sandboxd):
    first = start_sandboxd()
    id = running(first, secureAccess=True)
    direct = where(first, id)
    token = direct["headers"]["X-EXECD-ACCESS-TOKEN"]
    look = "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; ls -l /proc/self/fd; timeout 1 cat /proc/1/fd/4"
    with httpx.stream("POST", f"http://{direct['endpoint']}/command", json={"command": look}, headers=direct["headers"],
                      timeout=END_TIMEOUT_S) as response:
        said = repr(list(events(response)))
    assert "--access-token-file" in said and token not in said
    assert token not in first.logs()
    assert not [path for path in (first.state / "sandboxes" / id).rglob("*")
                if path.is_file() and token.encode() in path.read_bytes()]
    crash(first)
    second = start_sandboxd()
    assert where(second, id)["headers"] == direct["headers"]
    other = running(second, secureAccess=True)
    assert where(second, other)["headers"] != direct["headers"]
    assert "headers" not in where(second, running(second))


def test_secure_access_of_a_wrong_type(sandboxd):
    body = {"image": {"uri": "ubuntu"}, "entrypoint": ["sh"], "resourceLimits": {}, "secureAccess": "yes"}
    assert sandboxd.http.post("/sandboxes", json=body).status_code == 400
