"""Rows about isolated sessions; floors: bubblewrap that does the same isolation, in the same run."""

import http.client
import json
import shlex
import subprocess
import threading
import time

from daemon import Execd
from measure import row, take_turns

SESSIONS = 1000
PARTS = 5  # memory is taken after each
BWRAP = "`bwrap` of `true`, same isolation"
CALL = {"code": "def handler(event):\n    return event", "event": {"n": 1}}


def bwrap(folder, *argv, net=False):
    """What a strict session has: read-only container, /tmp, /run, /dev, /proc and namespaces of its own, an overlay's like."""
    own = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"] + (["--unshare-net"] if net else [])
    return ["bwrap", "--ro-bind", "/", "/", "--tmpfs", "/tmp", "--tmpfs", "/run", "--dev", "/dev", "--proc", "/proc",
            "--bind", str(folder), str(folder), *own, "--die-with-parent", *argv]  # fmt: skip


class Client:
    def __init__(self, host, port, token=""):
        self.connection = http.client.HTTPConnection(host, port)
        self.headers = {"X-EXECD-ACCESS-TOKEN": token, "Content-Type": "application/json"}

    @classmethod
    def of(cls, execd):
        return cls(execd.host, execd.port, execd.token)

    def ask(self, method, path, body=None):
        self.connection.request(method, path, json.dumps(body) if body is not None else None, self.headers)
        response = self.connection.getresponse()
        text = response.read()
        assert response.status < 300, text
        return text

    def timed(self, *request):
        began = time.perf_counter()
        text = self.ask(*request)
        return (time.perf_counter() - began) * 1000, text


def used_kb():
    """Memory that could not be given to somebody else."""
    lines = dict(line.split(":") for line in open("/proc/meminfo"))
    return int(lines["MemTotal"].split()[0]) - int(lines["MemAvailable"].split()[0])


@row("isolated session, creation", "run of `true` in a session")
def room(bench):
    """An isolated session: made, used; a call in a room of its own."""
    execd = Execd(bench.folder / "rooms.log")
    bench.stack.callback(execd.stop)
    workspace = bench.folder / "workspace"
    workspace.mkdir()
    client, spec = Client.of(execd), {"workspace": {"path": str(workspace), "mode": "rw"}}
    isolated, made = "/v1/isolated/session", []

    def create():
        ms, text = client.timed("POST", isolated, spec)
        made.append(json.loads(text)["session_id"])
        return ms

    wrapped = bench.probe("exec", *bwrap(workspace, "true"))
    bench.figure("isolated session, creation", "ms", "<= 0.5", take_turns(50, {"ours": create, "floor": wrapped}), BWRAP)

    run = f"{isolated}/{made[0]}/run"
    client.ask("POST", run, {"code": "true"})
    probes = {"ours": lambda: client.timed("POST", run, {"code": "/bin/true"})[0], "floor": wrapped}
    bench.figure("run of `true` in a session", "ms", None, take_turns(100, probes), BWRAP)
    for id in made:
        client.ask("DELETE", f"{isolated}/{id}")


# In a sandbox: root takes itself for privileged there, without a user namespace; a procfs of its own it is refused
BWRAP_INSIDE = ["bwrap", "--unshare-user", "--ro-bind", "/", "/", "--tmpfs", "/tmp", "--tmpfs", "/run", "--dev", "/dev",
                "--bind", "/root", "/root", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "true"]  # fmt: skip
SPAWN = f"""import os, time
argv = {BWRAP_INSIDE}
began = time.perf_counter()
pid = os.posix_spawnp(argv[0], argv, os.environ)
code = os.waitpid(pid, 0)[1]
print(code or (time.perf_counter() - began) * 1000)
assert code == 0
"""


@row("isolated session in a sandbox, creation")
def room_inside(bench):
    """An isolated session made by the agent of a sandbox of sandboxd's; floor: bwrap in that sandbox."""
    from sandboxes import Server  # here, so that the rows keep their order

    server = Server(bench, "inside")
    id = server.create()
    endpoint = server.ask("GET", f"/sandboxes/{id}/endpoints/44772")["endpoint"]
    client, isolated = Client(*endpoint.split(":")), "/v1/isolated/session"

    def wrapped():
        stream = client.ask("POST", "/command", {"command": f"python3 -c {shlex.quote(SPAWN)}"}).decode()
        said = [json.loads(line[5:]) for line in stream.splitlines() if line.startswith("data:")]
        assert said[-1]["type"] == "execution_complete", stream
        return float(next(event["text"] for event in said if event["type"] == "stdout"))

    def create():
        ms, text = client.timed("POST", isolated, {"workspace": {"path": "/root", "mode": "rw"}})
        client.ask("DELETE", f"{isolated}/{json.loads(text)['session_id']}")
        return ms

    probes = {"ours": create, "floor": wrapped}
    floor = "`bwrap` of `true` in that sandbox, without a /proc of its own"
    bench.figure("isolated session in a sandbox, creation", "ms", None, take_turns(30, probes), floor)


@row("one-shot handler call, warm", "one-shot command, warm", "one-shot calls, 4 clients")
def oneshot(bench):
    """POST /v1/isolated/run of a Python function and of `true`, warm, and of the function with 4 clients; floors: bwraps."""
    execd = Execd(bench.folder / "oneshot.log")
    bench.stack.callback(execd.stop)
    client = Client.of(execd)
    python = bwrap(bench.folder, "python3", "-c", "import json; print(json.loads('1'))")
    floor = bench.probe("exec", *python)
    shell = bench.probe("exec", *bwrap(bench.folder, "sh", "-c", "true"))

    def warm(body, floor, rounds=40):
        for _ in range(3):
            client.ask("POST", "/v1/isolated/run", body)
        taken = {"ours": [], "floor": []}
        for _ in range(rounds):
            taken["floor"].append(floor())  # meanwhile the next room gets ready
            time.sleep(0.1)
            taken["ours"].append(client.timed("POST", "/v1/isolated/run", body)[0])
        return taken

    bench.figure("one-shot handler call, warm", "ms", "<= 3 absolute", warm(CALL, floor), "`bwrap` of `python3 -c`")
    bench.figure("one-shot command, warm", "ms", None, warm({"command": "true"}, shell), "`bwrap` of `sh -c true`, same isolation")

    def rate(work, count=80):
        began = time.monotonic()
        threads = [threading.Thread(target=work, args=(count // 4,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return count / (time.monotonic() - began)

    def calls(n):
        own = Client.of(execd)
        for _ in range(n):
            own.ask("POST", "/v1/isolated/run", CALL)

    def processes(n):
        for _ in range(n):
            subprocess.run(python, check=True, stdout=subprocess.DEVNULL)

    rates = take_turns(5, {"ours": lambda: rate(calls), "floor": lambda: rate(processes)})
    bench.figure("one-shot calls, 4 clients", "1/s", None, rates, "`bwrap` of `python3 -c`, 4 at once")


@row("isolated sessions live at once", f"idle isolated session, of {SESSIONS:,}")
def rooms(bench):
    """1,000 isolated sessions that wait; floor: bwraps of `sleep`, a tenth as many."""
    execd = Execd(bench.folder / "many.log")
    bench.stack.callback(execd.stop)
    workspace = bench.folder / "many"
    workspace.mkdir()
    client = Client.of(execd)
    client.ask("GET", "/v1/isolated/capabilities")
    made, sleepers, taken = [], [], {"ours": [], "floor": []}
    for _ in range(PARTS):
        before = used_kb()
        for _ in range(SESSIONS // PARTS):
            made.append(json.loads(client.ask("POST", "/v1/isolated/session", {"workspace": {"path": str(workspace)}})))
        taken["ours"].append((used_kb() - before) / (SESSIONS // PARTS))
        before = used_kb()
        part = [sleeper(bench, workspace) for _ in range(SESSIONS // PARTS // 10)]
        for process in part:
            process.stdout.readline()  # it sleeps now
        taken["floor"].append((used_kb() - before) / len(part))
        sleepers += part
    for session in (made[0], made[-1]):
        run = f"/v1/isolated/session/{session['session_id']}/run"
        assert b"execution_complete" in client.ask("POST", run, {"code": "true"})
    live = len(json.loads(client.ask("GET", "/v1/isolated/sessions"))["sessions"])
    bench.figure("isolated sessions live at once", "", f">= {SESSIONS} absolute", {"ours": live}, exact=True)
    bench.figure(f"idle isolated session, of {SESSIONS:,}", "KiB", None, taken, "`bwrap` of `sleep`")


def sleeper(bench, workspace):
    argv = bwrap(workspace, "sh", "-c", "echo; exec sleep 1000")
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    bench.stack.callback(process.wait)
    bench.stack.callback(process.kill)
    return process
