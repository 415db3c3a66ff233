"""The Docker daemon goes away, or sandboxd is killed, at each request that one sends the other: nothing is lost or left."""

import os
import re
import socket
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from conftest import SANITIZED
from daemon import END_TIMEOUT_S
from test_lifecycle import body, crash, create, delete, get, running, sh, snapshot_of, wait
from test_lifecycle_pool import pool, settings

pytestmark = [
    pytest.mark.skipif(SANITIZED, reason="the docker runtime has its smoke test there"),
    pytest.mark.skipif(os.getuid() != 0, reason="dockerd needs root"),
]

REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|DELETE) (\S+) HTTP/1\.1\r\n")


class Gate:
    """Stands between sandboxd and its daemon. Shut, the daemon is away; what the daemon has it knows as ever."""

    def __init__(self, docker):
        self.docker = docker
        self.path = f"/tmp/ost-gate-{os.getpid()}.sock"
        self.url = f"unix://{self.path}"
        self.lock = threading.Lock()
        self.trap = None
        self.open()

    def __getattr__(self, name):
        return getattr(self.docker, name)

    def open(self):
        with self.lock:
            self.ends = []
            self.shut = False
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self.path)
            self.listener.listen(64)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def close(self):
        with self.lock:
            self.shut = True
            for end in [self.listener, *self.ends]:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self.listener.close()

    def set(self, pattern, when, then=lambda: None, shut=True):
        """At the first request that matches, before it has got to the daemon or when that answers: then(), and shut."""
        self.trap = (re.compile(pattern), when, then)
        self.shuts = shut
        self.sprung = threading.Event()

    def spring(self, then):
        then()
        if self.shuts:
            self.close()
        self.sprung.set()

    def accept(self, listener):
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self.docker.socket))
                with self.lock:
                    if self.shut:
                        return
                    self.ends += [client, server]
                caught = []
                threading.Thread(target=self.ask, args=(client, server, caught), daemon=True).start()
                threading.Thread(target=self.answer, args=(client, server, caught), daemon=True).start()

    def ask(self, client, server, caught):
        with suppress(OSError):
            while data := client.recv(65536):
                request = REQUEST.match(data)
                trap = self.trap
                if request and trap and trap[0].match(b" ".join(request.groups()).decode()):
                    self.trap = None
                    if trap[1] == "before":
                        return self.spring(trap[2])
                    caught.append(trap[2])
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def answer(self, client, server, caught):
        with suppress(OSError):
            while data := server.recv(65536):
                if caught:
                    self.spring(caught.pop())
                    if self.shuts:
                        return
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def runtime(docker_daemon):
    gate = Gate(docker_daemon)
    yield gate
    gate.close()
    Path(gate.path).unlink()


@pytest.fixture
def start(runtime, start):
    """The gate is shut after the last of them has ended."""
    return start


def settled(sandboxd, id):
    """It says what it is, and is what it says. The daemon is back."""
    for _ in range(1000):  # what the daemon has done meanwhile is seen when it is asked again
        state = wait(sandboxd, id, "Running", "Paused", "Failed", "Terminated")["status"]["state"]
        if state == "Paused":
            response = sandboxd.http.post(f"/sandboxes/{id}/resume")
            if response.status_code == 503:
                continue
            state = wait(sandboxd, id, "Running", "Paused")["status"]["state"]
        if state != "Running":
            return
        with suppress(httpx.TransportError):
            assert sh(sandboxd, id, "echo up") == "up"
            return
    raise AssertionError(f"never came to rest: {get(sandboxd, id)}")


def back(sandboxd):
    """Until it has noticed that the daemon is there again."""
    for _ in range(2000):
        response = sandboxd.http.post("/sandboxes", json=body())
        if response.status_code == 202:
            status = sandboxd.http.get(f"/sandboxes/{response.json()['id']}", params={"wait": "Running"}).json()["status"]
            delete(sandboxd, response.json()["id"])
            if status["state"] == "Running":
                return
    raise AssertionError(sandboxd.logs())


LOOK = r"GET .*/containers/sandbox-[^/]*/json"
BIRTH = [r"POST .*/containers/create", r"POST .*/attach", r"POST .*/start", LOOK]
LIFE = [("pause", r"POST .*/pause"), ("resume", r"POST .*/unpause"), ("snapshots", r"POST .*/commit"), ("delete", r"DELETE .*/containers/")]


def prepare(sandboxd, operation):
    id = running(sandboxd)
    if operation == "resume":
        assert sandboxd.http.post(f"/sandboxes/{id}/pause").status_code == 202
        wait(sandboxd, id, "Paused")
    return id


def do(sandboxd, operation, id=None):
    """Asks for it; whether anybody is left to answer is not sure."""
    with suppress(httpx.TransportError):
        if operation == "create":
            return create(sandboxd)
        if operation == "delete":
            assert sandboxd.http.delete(f"/sandboxes/{id}").status_code == 204
        else:
            assert sandboxd.http.post(f"/sandboxes/{id}/{operation}").status_code == 202
    return id


def remove_all(sandboxd):
    for sandbox in sandboxd.http.get("/sandboxes", params={"pageSize": 200}).json()["items"]:
        delete(sandboxd, sandbox["id"])
    for snapshot in sandboxd.http.get("/snapshots").json()["items"]:
        assert sandboxd.http.delete(f"/snapshots/{snapshot['id']}").status_code == 204
        assert sandboxd.http.get(f"/snapshots/{snapshot['id']}", params={"wait": ""}).status_code == 404
    nothing_left(sandboxd)


def nothing_left(sandboxd):
    """What nobody wants goes when it is seen."""
    for _ in range(100):
        if not sandboxd.docker.snapshots() and not sandboxd.docker.containers():
            return
        delete(sandboxd, running(sandboxd))
    raise AssertionError(f"{sandboxd.docker.snapshots()} {sandboxd.docker.containers()}\n{sandboxd.logs()}")


@pytest.mark.parametrize("when", ["before", "after"])
def test_away_in_the_middle(start_sandboxd, runtime, when):
    """One after the other, by one sandboxd."""
    sandboxd = start_sandboxd()
    for operation, pattern in [*(("create", pattern) for pattern in BIRTH), *LIFE]:
        id = None if operation == "create" else prepare(sandboxd, operation)
        runtime.set(pattern, when)
        id = do(sandboxd, operation, id)
        assert runtime.sprung.wait(END_TIMEOUT_S), (operation, pattern)
        if operation == "create":
            assert wait(sandboxd, id, "Failed")["status"]["reason"] == "runtime_error"
        runtime.open()
        if operation == "delete":
            assert wait(sandboxd, id, "Terminated")["status"]["reason"] == "user_delete"
        back(sandboxd)
        settled(sandboxd, id)
        if operation == "snapshots":
            (snapshot,) = sandboxd.http.get("/snapshots").json()["items"]
            snapshot = sandboxd.http.get(f"/snapshots/{snapshot['id']}", params={"wait": ""}).json()
            assert snapshot["status"]["state"] in ("Ready", "Failed"), snapshot
        remove_all(sandboxd)


CASES = [("create", pattern) for pattern in BIRTH] + LIFE
AT = [(case, "after") for case in range(len(CASES))] + [(0, "before"), (2, "before"), (7, "before")]


@pytest.mark.parametrize("case, when", AT)
def test_killed_in_the_middle(start_sandboxd, runtime, case, when):
    operation, pattern = CASES[case]
    first = start_sandboxd()
    id = None if operation == "create" else prepare(first, operation)
    runtime.set(pattern, when, then=lambda: crash(first))
    known = do(first, operation, id) or id
    assert runtime.sprung.wait(END_TIMEOUT_S)
    runtime.open()
    second = start_sandboxd(state=first.state)
    for sandbox in second.http.get("/sandboxes").json()["items"]:
        settled(second, sandbox["id"])
    if operation == "delete":
        assert wait(second, id, "Terminated")["status"]["reason"] == "user_delete"
    elif operation == "create" and known:
        assert wait(second, known, "Failed")["status"]["reason"] == "interrupted"
    elif operation != "create":
        assert wait(second, id, "Running")
    remove_all(second)


@pytest.mark.parametrize("verb", ["kill", "remove"])
def test_meddled_with_at_each_step(start_sandboxd, runtime, verb):
    """Somebody else kills or removes the container between two of our requests."""
    sandboxd = start_sandboxd()
    done = []

    def meddle():
        (container,) = runtime.containers()
        path = f"/containers/{container['Id']}"
        done.append(runtime.http.post(f"{path}/kill") if verb == "kill" else runtime.http.delete(path, params={"force": 1}))

    for pattern in BIRTH:
        runtime.set(pattern, "after", meddle, shut=False)
        id = create(sandboxd)
        assert runtime.sprung.wait(END_TIMEOUT_S)
        if done.pop().is_success:
            status = wait(sandboxd, id, "Failed")["status"]
            assert status["reason"] in ("container_killed", "container_lost", "runtime_error"), (pattern, status)
        else:  # what does not run yet cannot be killed
            assert verb == "kill" and wait(sandboxd, id, "Running")
            assert sh(sandboxd, id, "echo up") == "up"
        delete(sandboxd, id)
        nothing_left(sandboxd)


def test_sigterm_while_it_is_away(start_sandboxd, runtime):
    """What cannot be finished now is finished by the next: it does not take a second signal."""
    first = start_sandboxd()
    lives, goes = running(first), running(first)
    runtime.set(r"DELETE .*/containers/", "before")
    assert first.http.delete(f"/sandboxes/{goes}").status_code == 204
    assert runtime.sprung.wait(END_TIMEOUT_S)
    first.process.terminate()
    assert first.process.wait(END_TIMEOUT_S) == 0
    first.expect_exit = None
    assert "next start" in first.logs()
    # the same where it goes away only then
    runtime.open()
    second = start_sandboxd(state=first.state, args=["--kill-on-exit"])
    wait(second, goes, "Terminated")
    runtime.set(r"DELETE .*/containers/", "before")
    second.process.terminate()
    assert second.process.wait(END_TIMEOUT_S) == 0
    second.expect_exit = None
    runtime.open()
    third = start_sandboxd(state=first.state)
    assert wait(third, lives, "Terminated")["status"]["reason"] == "shutdown"
    back(third)
    nothing_left(third)


def test_spares_of_a_daemon_that_goes_away(start_sandboxd, runtime, tmp_path):
    """They are replaced: nobody could tell the old ones anything."""
    sandboxd = start_sandboxd(env=settings(tmp_path, '[pool]\n"python:3.11" = 1\n'))
    pool(sandboxd, started=1)
    (old,) = runtime.containers()
    assert old["Command"].endswith("--claim-fd 0")
    runtime.close()
    pool(sandboxd, failures=1)
    runtime.open()
    assert pool(sandboxd, started=2)["ready"] == 1
    id = running(sandboxd)
    assert id not in old["Names"][0] and pool(sandboxd)["hits"] == 1
    # while it is being told
    pool(sandboxd, started=3)
    runtime.set(r"POST .*/update", "before")
    other = create(sandboxd, resourceLimits={"memory": "64Mi"})
    assert runtime.sprung.wait(END_TIMEOUT_S)
    assert wait(sandboxd, other, "Failed")["status"]["reason"] == "runtime_error"
    runtime.open()
    back(sandboxd)
    assert sh(sandboxd, id, "echo up") == "up"


def test_a_claimed_one_is_rebuilt(start_sandboxd, runtime, tmp_path):
    """Its labels are a spare's; what it was claimed for is kept elsewhere."""
    env = settings(tmp_path, '[pool]\n"python:3.11" = 1\n')
    first = start_sandboxd(env=env)
    pool(first, started=1)
    id = running(first, metadata={"team": "red"})
    assert pool(first, started=2)["hits"] == 1
    sh(first, id, "echo kept >/root/file")
    snapshot = snapshot_of(first, id)
    crash(first)
    for file in first.state.glob("sandboxd.db*"):
        file.unlink()
    second = start_sandboxd(state=first.state)
    back(second)
    sandbox = get(second, id)
    assert (sandbox["status"]["reason"], sandbox["metadata"]) == ("rebuilt", {"team": "red"})
    made = second.http.post("/sandboxes", json={"snapshotId": snapshot, "resourceLimits": {}})
    assert made.status_code == 202, made.text
    wait(second, made.json()["id"], "Running")
    assert sh(second, made.json()["id"], "cat /root/file") == "kept"
    remove_all(second)
    assert os.listdir(second.state / "claimed") == []
