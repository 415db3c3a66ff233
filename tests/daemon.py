"""Starts and ends the daemons under test, and sees to it that nothing of them stays behind."""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from contract import contract

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / os.environ.get("BUILD", "build")  # BUILD=build/san or build/tsan: another build
SANITIZED = BUILD.name in ("san", "tsan")  # which takes more memory and is dynamic
EXECD = os.environ.get("EXECD_BIN", str(BUILD / "execd"))
SANDBOXD = os.environ.get("SANDBOXD_BIN", str(BUILD / "sandboxd"))
TOKEN = "test-token-7f3a"
KEY = "test-key-91cc"
PASSED_ON = ("/proxy/", "/signed/", "/docs", "/openapi.yaml")
END_TIMEOUT_S = 30  # a hang, not a measure

# Cells run on the Python of the tests, whatever this machine has.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

# Orphans of a daemon come to this process, so that a leak is seen.
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid="self"):
    """The direct children of a process (every thread's)."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.update(int(child) for child in (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # that thread has ended
            continue
    return found


def process_ended(pid):
    """Waits for the end of any process; our own (an orphan of a daemon that was killed) is collected too."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(END_TIMEOUT_S * 1000), f"process {pid} lives on"
        if pid in children():
            os.waitpid(pid, 0)
    finally:
        os.close(pidfd)


def accept_each(listener, serve):
    """serve(connection) on a thread of its own for each connection, until the listener is closed."""

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    return thread


def read_head(connection):
    """The head of an HTTP message from a socket, and what has come behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return data.split(b"\r\n\r\n", 1)


def events(response):
    """The events of an open stream (httpx), as they arrive."""
    assert response.status_code == 200, (response.status_code, response.read())
    assert response.headers["content-type"].split(";")[0] == "text/event-stream"
    rest = b""
    for chunk in response.iter_bytes():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            data = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
            if data:
                yield json.loads(b"\n".join(data))
    assert not rest, f"the stream ends inside an event: {rest}"


class Daemon:
    """A server process on a socket that the test has bound."""

    def __init__(self, argv, log: Path, env=None, host="127.0.0.1", port=0):
        """argv: with {fd} where the number of the listening descriptor goes."""
        listener = socket.create_server((host, port), backlog=1024)
        self.host, self.port = listener.getsockname()[:2]
        self.url = f"http://{self.host}:{self.port}"
        self.log = log
        fd = listener.fileno()
        argv = [str(arg).format(fd=fd) for arg in argv]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=[fd], env=env
            )
        listener.close()
        self.pid = self.process.pid
        self._clients = []
        self.expect_exit = 0  # a test that kills its daemon sets None

    def client(self, headers=None, **options):
        """An httpx client for this server; closed with it."""
        options.setdefault("timeout", 30)
        client = httpx.Client(base_url=self.url, headers=headers, **options)
        self._clients.append(client)
        return client

    def answers(self, path):
        """The first answer; who does not give it is ended here, for nobody else knows of him yet."""
        try:
            assert self.http.get(path).status_code == 200, self.logs()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def raw(self):
        """A bare connection."""
        connection = socket.create_connection((self.host, self.port), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def logs(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        """SIGTERM; fails when it was dead already, does not end, ends badly or leaves a child behind."""
        for client in self._clients:
            client.close()
        others = children()
        died = self.process.poll() is not None
        if not died:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = "none: it did not end on SIGTERM"
        leaked = end_orphans(children() - others)
        problems = []
        if self.expect_exit is not None:
            if died:
                problems.append("it ended by itself")
            if code != self.expect_exit:
                problems.append(f"exit code {code}")
        if leaked:
            problems.append(f"left running: {leaked}")
        if problems:
            raise AssertionError(f"{self.process.args[0]}: {', '.join(problems)}\n{self.logs()}")


def see_ends(pids, timeout_ms):
    """Waits until they have ended, and collects those that are ours; those that have not, by number.

    All at once: the init of a PID namespace ends only when whoever entered that from outside has been collected.
    """
    poll, open_fds = select.poll(), {}
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        open_fds[pidfd] = pid
        poll.register(pidfd, select.POLLIN)
    while open_fds:
        ready = poll.poll(timeout_ms)
        if not ready:
            break
        for pidfd, _ in ready:
            poll.unregister(pidfd)
            os.close(pidfd)
            try:
                os.waitpid(open_fds.pop(pidfd), 0)
            except ChildProcessError:
                pass  # somebody else's
    for pidfd in open_fds:
        os.close(pidfd)
    return list(open_fds.values())


def end_orphans(pids):
    """Waits for those of our adopted children that are dying; names and kills the others."""
    names = {}
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            names[pid] = name.strip() or str(pid)
        except (ProcessLookupError, FileNotFoundError):
            continue
    left = see_ends(names, 2000)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    see_ends(left, 10000)
    return [names[pid] for pid in left]


class Execd(Daemon):
    def __init__(self, log, token=TOKEN, args=(), env=None, wrap=()):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("EXECD_")}
        environ.update(env or {})
        if token:
            environ["EXECD_ACCESS_TOKEN"] = token
        super().__init__([*wrap, EXECD, "--listen-fd", "{fd}", *args], log, environ)
        self.token = token
        self.http = self.client(headers={"X-EXECD-ACCESS-TOKEN": token} if token else None)
        self.answers("/ping")

    def stream(self, method, path, **request):
        """A context: the open response; events(response) yields what it brings."""
        return self.http.stream(method, path, **request)

    def run(self, command, **fields):
        """POST /command and every event of it but the pings."""
        with self.stream("POST", "/command", json={"command": command, **fields}) as response:
            return [event for event in events(response) if event["type"] != "ping"]


class Sandboxd(Daemon):
    """docker: the daemon (dockerd.py) by which it makes sandboxes; None: the embedded runtime."""

    def __init__(self, log, state, key=KEY, args=(), env=None, port=0, network="none", wrap=(), docker=None):
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("EXECD_", "SANDBOX"))}
        environ.update(env or {})
        # a bridge would be one of the whole machine: those tests that want it bring a namespace for it
        argv = [*wrap, SANDBOXD, "--listen-fd", "{fd}", "--state", state, "--network", network]
        self.docker = docker
        if docker:
            environ["DOCKER_HOST"] = docker.url
            # the sanitized agent needs libraries that no image has
            argv += ["--runtime", "docker", "--execd", ROOT / "build/execd"]
        if key:
            key_file = state.parent / "key"
            key_file.write_text(key + "\n")
            key_file.chmod(0o600)
            argv += ["--api-key-file", key_file]
        super().__init__([*argv, *args], log, environ, port=port)
        self.state = state
        self.key = key
        # every answer that a test asks for is held against the document
        told = contract(ROOT / "proto/lifecycle.yaml", apart=PASSED_ON)
        self.http = self.client(headers={"OPEN-SANDBOX-API-KEY": key} if key else None, event_hooks={"response": [told.check]})
        self.answers("/health")

    def stop(self):
        """Sandboxes outlive their control plane: they are ended first."""
        if self.process.poll() is None:
            for sandbox in self.http.get("/sandboxes", params={"pageSize": 200}).json().get("items", []):
                self.http.delete(f"/sandboxes/{sandbox['id']}")
        super().stop()
        if self.docker and self.docker.running():
            self.docker.remove_snapshots()  # they outlive a test that does not remove them
            assert not self.docker.containers(), self.logs()
        left = [line for line in open("/proc/self/mountinfo") if str(self.state) in line]
        assert not left, f"mounts left behind: {left}"
