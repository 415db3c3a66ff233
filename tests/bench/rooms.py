"""Rows about isolated sessions; floors: bubblewrap that does the same isolation, in the same run."""

import http.client
import json
import statistics
import subprocess
import threading
import time

from daemon import Execd

ROWS = {}
SESSIONS = 1000
CALL = {"code": "def handler(event):\n    return event", "event": {"n": 1}}


def row(fn):
    ROWS[fn.__name__] = fn
    return fn


def bwrap(folder, *argv, net=False):
    """What a strict session has: read-only container, /tmp, /run, /dev, /proc and namespaces of its own, an overlay's like."""
    own = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"] + (["--unshare-net"] if net else [])
    return ["bwrap", "--ro-bind", "/", "/", "--tmpfs", "/tmp", "--tmpfs", "/run", "--dev", "/dev", "--proc", "/proc",
            "--bind", str(folder), str(folder), *own, "--die-with-parent", *argv]  # fmt: skip


class Client:
    def __init__(self, execd):
        self.connection = http.client.HTTPConnection(execd.host, execd.port)
        self.headers = {"X-EXECD-ACCESS-TOKEN": execd.token, "Content-Type": "application/json"}

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


@row
def room(bench):
    """An isolated session: made, used; a call in a room of its own."""
    execd = Execd(bench.folder / "rooms.log")
    bench.stack.callback(execd.stop)
    workspace = bench.folder / "workspace"
    workspace.mkdir()
    client, spec = Client(execd), {"workspace": {"path": str(workspace), "mode": "rw"}}
    isolated, made = "/v1/isolated/session", []

    def create():
        ms, text = client.timed("POST", isolated, spec)
        made.append(json.loads(text)["session_id"])
        return ms

    wrapped = bench.probe("exec", *bwrap(workspace, "true"))
    taken = {"ours": [], "floor": []}
    for _ in range(50):
        taken["ours"].append(create())
        taken["floor"].append(wrapped())
    medians = {name: statistics.median(values) for name, values in taken.items()}
    bench.figure("isolated session, creation", "ms", "<= 0.5", medians)

    run = f"{isolated}/{made[0]}/run"
    client.ask("POST", run, {"code": "true"})
    ours, floor = [], []
    for _ in range(100):
        ours.append(client.timed("POST", run, {"code": "/bin/true"})[0])
        floor.append(wrapped())
    medians = {"ours": statistics.median(ours), "floor": statistics.median(floor)}
    bench.figure("run of `true` in a session", "ms", "<= 0.5", medians)
    for id in made:
        client.ask("DELETE", f"{isolated}/{id}")


@row
def oneshot(bench):
    """POST /v1/isolated/run of a Python function, warm, and with 4 clients; floor: bwrap of `python3 -c`."""
    execd = Execd(bench.folder / "oneshot.log")
    bench.stack.callback(execd.stop)
    client = Client(execd)
    python = bwrap(bench.folder, "python3", "-c", "import json; print(json.loads('1'))")
    floor = bench.probe("exec", *python)
    for _ in range(3):
        client.ask("POST", "/v1/isolated/run", CALL)
    ours, floors = [], []
    for _ in range(40):
        floors.append(floor())  # meanwhile the next room gets ready
        time.sleep(0.1)
        ours.append(client.timed("POST", "/v1/isolated/run", CALL)[0])
    medians = {"ours": statistics.median(ours), "floor": statistics.median(floors)}
    bench.figure("one-shot handler call, warm", "ms", "<= 3 absolute", medians)

    def rate(work, count=80):
        began = time.monotonic()
        threads = [threading.Thread(target=work, args=(count // 4,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return count / (time.monotonic() - began)

    def calls(n):
        own = Client(execd)
        for _ in range(n):
            own.ask("POST", "/v1/isolated/run", CALL)

    def processes(n):
        for _ in range(n):
            subprocess.run(python, check=True, stdout=subprocess.DEVNULL)

    rates = {"ours": statistics.median(rate(calls) for _ in range(3)), "floor": statistics.median(rate(processes) for _ in range(3))}
    bench.figure("one-shot calls, 4 clients", "1/s", ">= 0.9", rates)


@row
def rooms(bench):
    """1,000 isolated sessions that wait; floor: as many bwraps of `sleep`, measured with a tenth of them."""
    execd = Execd(bench.folder / "many.log")
    bench.stack.callback(execd.stop)
    workspace = bench.folder / "many"
    workspace.mkdir()
    client = Client(execd)
    client.ask("GET", "/v1/isolated/capabilities")
    before = used_kb()
    for _ in range(SESSIONS):
        client.ask("POST", "/v1/isolated/session", {"workspace": {"path": str(workspace)}})
    each = (used_kb() - before) / SESSIONS
    before = used_kb()
    count = SESSIONS // 10
    sleepers = [subprocess.Popen(bwrap(workspace, "sleep", "1000")) for _ in range(count)]
    time.sleep(2)
    floor = (used_kb() - before) / count
    for sleeper in sleepers:
        sleeper.kill()
        sleeper.wait()
    bench.figure("idle isolated session of 1,000", "KiB", "<= 1", {"ours": each, "floor": max(floor, 1)})
