"""Fixtures of the black-box tests: a daemon of one's own per test, on a real socket.

EXECD_BIN and SANDBOXD_BIN name other binaries; BUILD another build folder (build/san).
"""

import os

import pytest

from daemon import BUILD, Daemon, events

EXECD = os.environ.get("EXECD_BIN", str(BUILD / "execd"))
SANDBOXD = os.environ.get("SANDBOXD_BIN", str(BUILD / "sandboxd"))
TOKEN = "test-token-7f3a"
KEY = "test-key-91cc"


class Execd(Daemon):
    def __init__(self, log, token=TOKEN, args=(), env=None):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("EXECD_")}
        environ.update(env or {})
        if token:
            environ["EXECD_ACCESS_TOKEN"] = token
        super().__init__([EXECD, "--listen-fd", "{fd}", *args], log, environ)
        self.token = token
        self.http = self.client(headers={"X-EXECD-ACCESS-TOKEN": token} if token else None)
        assert self.http.get("/ping").status_code == 200, self.logs()

    def stream(self, method, path, **request):
        """A context: the open response; events(response) yields what it brings."""
        return self.http.stream(method, path, **request)

    def run(self, command, **fields):
        """POST /command and every event of it but the pings."""
        with self.stream("POST", "/command", json={"command": command, **fields}) as response:
            return [event for event in events(response) if event["type"] != "ping"]


class Sandboxd(Daemon):
    def __init__(self, log, state, key=KEY, args=(), env=None):
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("EXECD_", "SANDBOX"))}
        environ.update(env or {})
        argv = [SANDBOXD, "--listen-fd", "{fd}", "--state", state]
        if key:
            key_file = state.parent / "key"
            key_file.write_text(key + "\n")
            key_file.chmod(0o600)
            argv += ["--api-key-file", key_file]
        super().__init__([*argv, *args], log, environ)
        self.state = state
        self.key = key
        self.http = self.client(headers={"OPEN-SANDBOX-API-KEY": key} if key else None)
        assert self.http.get("/health").status_code == 200, self.logs()

    def stop(self):
        """Sandboxes outlive their control plane: they are ended first."""
        if self.process.poll() is None:
            for sandbox in self.http.get("/sandboxes", params={"pageSize": 200}).json().get("items", []):
                self.http.delete(f"/sandboxes/{sandbox['id']}")
        super().stop()
        left = [line for line in open("/proc/self/mountinfo") if str(self.state) in line]
        assert not left, f"mounts left behind: {left}"


@pytest.fixture
def start(tmp_path):
    """start(Execd, token=None, ...): a daemon as the test wants it, ended and checked with the test."""
    running = []

    def start_daemon(kind, **options):
        log = tmp_path / f"{kind.__name__.lower()}-{len(running)}.log"
        if kind is Sandboxd:
            options.setdefault("state", tmp_path / "state")
        daemon = kind(log, **options)
        running.append(daemon)
        return daemon

    yield start_daemon
    problems = []
    for daemon in reversed(running):
        try:
            daemon.stop()
        except AssertionError as problem:
            problems.append(str(problem))
        else:
            print(f"--- {daemon.log.name}\n{daemon.logs()}")  # pytest shows it when the test failed
    assert not problems, "\n".join(problems)


@pytest.fixture
def start_execd(start):
    """start_execd(token=None, args=[...], env={...})"""
    return lambda **options: start(Execd, **options)


@pytest.fixture
def start_sandboxd(start):
    """start_sandboxd(key=None, args=[...], env={...}, state=...)"""
    return lambda **options: start(Sandboxd, **options)


@pytest.fixture
def execd(start_execd):
    """An agent with a token; .http is a client that has it."""
    return start_execd()


@pytest.fixture
def sandboxd(start_sandboxd):
    """A control plane with a key and its own state; .http is a client that has the key."""
    return start_sandboxd()
