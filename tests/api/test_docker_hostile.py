"""A daemon that answers as none should: whatever comes, the sandbox fails by name and the server lives on."""

import json
import os
import re
import socket
import threading
from pathlib import Path

import pytest

from daemon import END_TIMEOUT_S, accept_each
from test_lifecycle import create, get, wait

OK = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\n"
ID = "ab" * 32


def answer(status=200, body=b"", head=b""):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return b"HTTP/1.1 %d Word\r\nApi-Version: 1.41\r\n%sContent-Length: %d\r\n\r\n%s" % (status, head, len(body), body)


def frame(text):
    return b"\x01\0\0\0" + len(text).to_bytes(4, "big") + text


class Fake:
    """rules: (a pattern over "METHOD path", what is sent: bytes, or a generator of them; then the connection ends)."""

    def __init__(self, path, agent_port):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        self.url = f"unix://{path}"
        self.seen = []
        self.stop = threading.Event()
        self.rules = []
        self.usual = [
            (r"GET /_ping", answer(body=b"OK")),
            (r"GET /v1.41/events", lambda: self.endless(OK + b"\r\n")),
            (r"GET /v1.41/containers/json", answer(body=[])),
            (r"GET /v1.41/images/json", answer(body=[])),
            (r"GET /v1.41/volumes\?", answer(body={"Volumes": []})),
            (r"POST /v1.41/containers/create", answer(201, {"Id": ID, "Warnings": []})),
            (r"POST .*/attach", lambda: self.endless(OK + b"\r\n" + frame(b"listening on 0.0.0.0:44772\n"))),
            (r"POST .*/start", answer(204)),
            (r"GET .*/containers/sandbox-[^/]*/json", answer(body={
                "State": {"Running": True},
                "NetworkSettings": {"Ports": {"44772/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(agent_port)}]}}})),
            (r"DELETE ", answer(204)),
        ]
        accept_each(self.listener, self.serve)

    def endless(self, first):
        yield first
        self.stop.wait(END_TIMEOUT_S)

    def serve(self, connection):
        try:
            with connection, connection.makefile("rb") as file:
                line = file.readline().decode()
                length = 0
                while (header := file.readline().strip()):
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                file.read(length)
                asked = " ".join(line.split()[:2])
                self.seen.append(asked)
                for pattern, what in [*self.rules, *self.usual]:
                    if re.match(pattern, asked):
                        break
                else:
                    what = answer(404, {"message": "no such thing"})
                for part in [what] if isinstance(what, bytes) else what():
                    connection.sendall(part)
        except OSError:
            pass  # it has heard enough

    def close(self):
        self.stop.set()
        self.listener.close()

    # what Sandboxd asks of a daemon after a test
    def running(self):
        return False


@pytest.fixture
def fake(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as agent:  # takes connections and says nothing
        path = f"/tmp/ost-fake-{os.getpid()}.sock"
        Path(path).unlink(missing_ok=True)
        daemon = Fake(path, agent.getsockname()[1])
        yield daemon
        daemon.close()
        Path(path).unlink()


def forever(head, piece):
    def send():
        yield head
        while True:
            yield piece

    return send


NOISE = bytes(range(256)) * 256
CREATE, ATTACH, START, LOOK = r"POST .*/create\?name", r"POST .*/attach", r"POST .*/start", r"GET .*/sandbox-[^/]*/json"
STEPS = [
    (CREATE, answer(201, b"{"), "names none"),
    (CREATE, answer(201, {"Id": "../../x"}), "names none"),
    (CREATE, answer(201, {"Id": 5}), "names none"),
    (CREATE, answer(201, b"[" * 100000), "names none"),
    (CREATE, answer(500, {"message": "no space left"}), "no space left"),
    (CREATE, answer(500, NOISE), "does not say why"),
    (CREATE, forever(OK + b"\r\n", NOISE), "too large"),
    (CREATE, forever(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"), "too large"),
    (CREATE, b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n{", "does not answer"),
    (CREATE, b"", "does not answer"),
    (CREATE, NOISE, "does not answer"),
    (CREATE, answer(302, head=b"Location: http://127.0.0.1:1/\r\n"), "302"),
    (ATTACH, answer(404, {"message": "gone"}), "gone"),
    (ATTACH, answer(200), ""),
    (START, answer(400, {"message": "no such program"}), "no such program"),
    (START, b"HTTP/1.1 2", "does not answer"),
    (LOOK, answer(200, b"[]"), ""),
    (LOOK, answer(200, {"State": {"Running": True}, "NetworkSettings": {"Ports": {"44772/tcp": None}}}), "published no port"),
    (LOOK, answer(200, {"State": {"Running": True}, "NetworkSettings": {"Ports": {"44772/tcp": [
        {"HostPort": "99999999"}]}}}), "published no port"),
]


def test_at_each_step_of_a_creation(fake, start_sandboxd):
    sandboxd = start_sandboxd(docker=fake, args=["--provision-timeout", "8"])  # the end of what never says more
    for pattern, what, words in STEPS:
        fake.rules[:] = [(pattern, what)]
        id = create(sandboxd)
        status = sandboxd.http.get(f"/sandboxes/{id}", params={"wait": "Failed"}, timeout=END_TIMEOUT_S).json()["status"]
        assert status["state"] == "Failed" and words in status["message"], (pattern, what, status)
        assert sandboxd.http.delete(f"/sandboxes/{id}").status_code == 204
        wait(sandboxd, id, "Terminated")
    fake.rules.clear()
    id = create(sandboxd)  # it is asked for as if nothing had been
    assert get(sandboxd, id)["status"]["state"] in ("Pending", "Running")


TAKEN = "driver failed programming external connectivity: listen tcp4 127.0.0.1:32768: bind: address already in use"


class Ports:
    """A daemon that finds so many ports taken. Each such start ends the attachment before it."""

    def __init__(self, fake, taken):
        self.fake, self.taken = fake, taken
        self.over, self.looked = threading.Event(), threading.Event()
        self.look = next(what for pattern, what in fake.usual if pattern.startswith("GET .*/containers/sandbox"))
        fake.rules[:] = [(ATTACH, self.attach), (START, self.start), (LOOK, self.tell)]

    def attach(self):
        over = self.over = threading.Event()
        yield OK + b"\r\n"
        if self.taken:
            over.wait(END_TIMEOUT_S)
        else:
            yield frame(b"listening on 0.0.0.0:44772\n")
            self.fake.stop.wait(END_TIMEOUT_S)

    def start(self):
        if self.taken:
            self.taken -= 1
            self.over.set()
            yield answer(500, {"message": TAKEN})
        else:
            yield answer(204)

    def tell(self):
        self.looked.set()
        yield self.look


def test_ports_that_are_taken(fake, start_sandboxd, tmp_path):
    count = lambda pattern: len([asked for asked in fake.seen if re.match(pattern, asked)])
    sandboxd = start_sandboxd(docker=fake)
    ports = Ports(fake, 3)
    id = create(sandboxd)
    assert ports.looked.wait(END_TIMEOUT_S)
    assert get(sandboxd, id)["status"]["state"] == "Pending"
    assert (count(CREATE), count(ATTACH), count(START)) == (1, 4, 4)
    fake.seen.clear()
    Ports(fake, 1000)
    status = wait(sandboxd, create(sandboxd), "Failed")["status"]
    assert status["reason"] == "runtime_error" and "already in use" in status["message"], status
    assert (count(CREATE), count(ATTACH), count(START)) == (1, 32, 32)
    # a range is not asked for more often than it has ports
    settings = tmp_path / "sandbox.toml"
    settings.write_text("[docker]\nport_range_min = 42000\nport_range_max = 42004\n")
    (tmp_path / "other").mkdir()
    narrow = start_sandboxd(docker=fake, state=tmp_path / "other/state", args=["--config", settings])
    fake.seen.clear()
    wait(narrow, create(narrow), "Failed")
    assert count(START) == 5


OUTPUT = [NOISE, b"\x01\0\0\0\xff\xff\xff\xff", frame(b"listening on nowhere\n") * 3, frame(b"x" * 100000)]


def test_output_that_cannot_be(fake, start_sandboxd):
    sandboxd = start_sandboxd(docker=fake)
    for output in OUTPUT:
        fake.rules[:] = [(ATTACH, lambda output=output: fake.endless(OK + b"\r\n" + output))]
        id = create(sandboxd)
        sandboxd.http.delete(f"/sandboxes/{id}")
        assert wait(sandboxd, id, "Terminated")["status"]["reason"] == "user_delete"


LINKS = [
    (r"GET /_ping", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"),
    (r"GET /_ping", answer(200, head=b"Api-Version: ../../x\r\n")),
    (r"GET /_ping", answer(500)),
    (r"GET /_ping", b""),
    (r"GET /_ping", NOISE),
    (r"GET .*/events", answer(500, {"message": "no events"})),
    (r"GET .*/containers/json", answer(200, b"{}")),
    (r"GET .*/containers/json", answer(200, b"[")),
    (r"GET .*/containers/json", forever(OK + b"\r\n", b"[" * 65536)),
]


@pytest.mark.parametrize("link", range(len(LINKS)))
def test_a_daemon_that_is_none(fake, start_sandboxd, link):
    """Creations fail or are refused; once it behaves, they succeed."""
    fake.rules.append(LINKS[link])
    sandboxd = start_sandboxd(docker=fake)
    response = sandboxd.http.post("/sandboxes", json={
        "image": {"uri": "x"}, "entrypoint": ["x"], "resourceLimits": {}})
    if response.status_code == 202:
        wait(sandboxd, response.json()["id"], "Failed")
    else:
        assert response.status_code == 503 and fake.url in response.json()["message"]
    del fake.rules[:]
    for _ in range(2000):  # it asks again by and by
        response = sandboxd.http.post("/sandboxes", json={
            "image": {"uri": "x"}, "entrypoint": ["x"], "resourceLimits": {}})
        if response.status_code == 202:
            break
    assert response.status_code == 202, response.text


@pytest.mark.parametrize("listed", [
    [{}], [None], [5], [{"Id": ID, "Labels": {"opensandbox.io/id": "../../etc"}}],
    [{"Id": ID, "Labels": {"opensandbox.io/id": 7}}], [{"Labels": {"opensandbox.io/id": "aa-bb"}}],
    [{"Id": ID, "State": "running", "Labels": {"opensandbox.io/id": "aa-bb", "opensandbox.io/record": "{"}}],
    [{"Id": ID, "State": "running", "Ports": [{"PrivatePort": 44772, "PublicPort": 1 << 40}],
      "Labels": {"opensandbox.io/id": "aa-bb", "opensandbox.io/record": "{\"store\": \"x\"}"}}],
])
def test_strange_lists_and_events(fake, start_sandboxd, listed):
    lines = [{"Action": "die"}, {"Action": 5}, {"Action": "die", "Actor": {"ID": ID, "Attributes": {"opensandbox.io/id": "/"}}},
             {"Action": "commit", "Actor": {"ID": ID, "Attributes": {"opensandbox.io/id": "aa-bb"}}}]
    fake.rules += [
        (r"GET .*/containers/json", answer(body=listed)),
        (r"GET .*/images/json", answer(body=[{}, None, {"RepoTags": ["sandboxd-snapshot:../x", 5, "a:b"]}])),
        (r"GET .*/volumes\?", answer(body={"Volumes": [{}, 5, {"Name": "../x"}]})),
        (r"GET .*/events", lambda: fake.endless(OK + b"\r\n" + b"".join(json.dumps(line).encode() + b"\n" for line in lines))),
    ]
    sandboxd = start_sandboxd(docker=fake)
    id = create(sandboxd)
    sandboxd.http.delete(f"/sandboxes/{id}")
    assert wait(sandboxd, id, "Terminated")["status"]["reason"] == "user_delete"
    assert not [asked for asked in fake.seen if "/../" in asked or "%2F" in asked.split("?")[0] and "/volumes/" not in asked]
