"""Rows of bench about sandboxd: sandboxes from the pool, in crowds, their end, their memory, lists, the proxy."""

import http.client
import json
import sqlite3
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dockerd
from daemon import KEY, Sandboxd

ROWS = {}
IMAGE = "python:3.11"
CROWD = 50
LIVE = 500  # the bar asks for 200
LISTED = 10_000


def row(fn):
    ROWS[fn.__name__] = fn
    return fn


class Server:
    """A sandboxd of its own, and bare connections to it: what is measured is not the client."""

    def __init__(self, bench, name, pool=0, docker=None):
        folder = bench.folder / name
        folder.mkdir()
        settings = folder / "sandbox.toml"
        settings.write_text((f'[pool]\n"{IMAGE}" = {pool}\n' if pool else "") + "[sandboxd]\npool_starts = 4\n")
        self.start = lambda: Sandboxd(folder / "log", folder / "state", env={"SANDBOX_CONFIG_PATH": str(settings)},
                                      args=["--log-level", "warn"], docker=docker)  # fmt: skip
        self.daemon = self.start()
        bench.stack.callback(self.stop)
        self.connection = self.connect()
        self.stocked(pool)

    def restart(self, between):
        self.daemon.stop()
        between()
        self.daemon = self.start()
        self.connection = self.connect()

    def stop(self):
        """At once what is left, then the server."""
        self.connection = self.connect()  # the kept one has idled since the last row
        items = True
        while items:
            items = self.ask("GET", "/sandboxes?pageSize=200&state=Running&state=Paused&state=Pending")["items"]
            self.end(item["id"] for item in items)
        self.daemon.stop()

    def connect(self):
        return http.client.HTTPConnection(self.daemon.host, self.daemon.port, timeout=120)

    def ask(self, method, path, body=None, connection=None):
        connection = connection or self.connection
        connection.request(method, path, json.dumps(body) if body else None,
                           {"OPEN-SANDBOX-API-KEY": KEY, "Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        assert response.status < 300, data
        return json.loads(data) if data else None

    def stocked(self, started):
        """Waits until the pool has started so many in all."""
        if started:
            self.ask("GET", f"/pool?started={started}")

    def create(self, connection=None):
        """A sandbox whose agent has answered."""
        made = self.ask("POST", "/sandboxes", {
            "image": {"uri": IMAGE}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 3600, "env": {"A": "b"},
            "resourceLimits": {"cpu": "1", "memory": "512Mi"}, "metadata": {"bench": "1"}}, connection)  # fmt: skip
        endpoint = self.ask("GET", f"/sandboxes/{made['id']}/endpoints/44772", connection=connection)["endpoint"]
        agent = http.client.HTTPConnection(endpoint, timeout=120)
        agent.request("GET", "/ping")
        assert agent.getresponse().status == 200
        agent.close()
        return made["id"]

    def crowd(self, n):
        """n at once: milliseconds until all have answered."""
        connections = [self.connect() for _ in range(n)]
        with ThreadPoolExecutor(n) as threads:
            list(threads.map(lambda c: self.ask("GET", "/health", connection=c), connections))  # all are there
            began = time.monotonic()
            ids = list(threads.map(self.create, connections))
            taken = time.monotonic() - began
        for connection in connections:
            connection.close()
        return taken * 1000, ids

    def end(self, ids):
        ids = list(ids)
        for id in ids:
            self.ask("DELETE", f"/sandboxes/{id}")
        for id in ids:
            self.ask("GET", f"/sandboxes/{id}?wait=Terminated")


def take_turns(rounds, probes):
    taken = {name: [] for name in probes}
    for _ in range(rounds):
        for name, probe in probes.items():
            taken[name].append(probe())
    return {name: statistics.median(values) for name, values in taken.items()}


def timed(fn):
    began = time.monotonic()
    result = fn()
    return (time.monotonic() - began) * 1000, result


@row
def claim(bench):
    """A create from the pool until its agent answers; floor: a cold one on the same server."""
    warm, cold = Server(bench, "warm", pool=2), Server(bench, "cold")
    taken = {"ours": [], "floor": []}
    for n in range(25):
        warm.stocked(2 + n)
        for name, server in (("ours", warm), ("floor", cold)):
            ms, id = timed(server.create)
            taken[name].append(ms)
            server.end([id])
    bench.figure("sandbox from the pool until it answers", "ms", "<= 5 absolute",
                 {name: statistics.median(values) for name, values in taken.items()})


@row
def crowd(bench):
    """50 creates at once, cold and from the pool, until the last has answered; floor: 50 cold ones in a row."""
    cold = Server(bench, "crowd-cold")
    floor = 0
    for _ in range(CROWD):
        ms, id = timed(cold.create)
        floor += ms
        cold.end([id])
    ms, ids = cold.crowd(CROWD)
    bench.figure(f"{CROWD} sandboxes at once, cold", "ms", "<= 1", {"ours": ms, "floor": floor})
    cold.end(ids)
    warm = Server(bench, "crowd-warm", pool=CROWD)
    ms, ids = warm.crowd(CROWD)
    bench.figure(f"{CROWD} sandboxes at once, from the pool", "ms", "<= 0.2", {"ours": ms, "floor": floor})
    warm.end(ids)


@row
def delete(bench):
    """DELETE until nothing of the sandbox is left; floor: its cold creation."""
    server = Server(bench, "delete")
    ends, starts = [], []
    for _ in range(15):
        ms, id = timed(server.create)
        starts.append(ms)
        ends.append(timed(lambda id=id: server.end([id]))[0])
    bench.figure("end of a sandbox", "ms", "<= 1",
                 {"ours": statistics.median(ends), "floor": statistics.median(starts)})


def memory_mb(pid, *fields):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in fields) / 1024


def inside(server, id):
    """The processes of a sandbox."""
    first = int((server.daemon.state / "sandboxes" / id / "pid").read_text())
    found, rest = [], [first]
    while rest:
        pid = rest.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").iterdir():
            rest += map(int, (task / "children").read_text().split())
    return found


@row
def memory(bench):
    """What 500 live sandboxes cost: each of its own (not shared), and the server."""
    server = Server(bench, "memory")
    idle = memory_mb(server.daemon.pid, "Rss")
    connections = [server.connect() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        chunks = threads.map(lambda c: [server.create(c) for _ in range(LIVE // 4)], connections)
        ids = [id for chunk in chunks for id in chunk]
    own = [sum(memory_mb(pid, "Private_Clean", "Private_Dirty") for pid in inside(server, id)) for id in ids[::10]]
    bench.figure(f"memory of an idle sandbox, of {LIVE}", "MB", "<= 5 absolute", {"ours": statistics.mean(own), "floor": 5})
    bench.figure(f"memory of sandboxd with {LIVE} sandboxes", "MB", "<= 50 absolute",
                 {"ours": memory_mb(server.daemon.pid, "Rss"), "floor": idle})


def fill(database, n):
    """So many sandboxes that have failed: they are listed, and nothing is looked for on the machine."""
    now = int(time.time() * 1000)
    with sqlite3.connect(database) as db:
        db.executemany(
            "INSERT INTO sandboxes (id, state, reason, message, created_ms, transition_ms, deadline_ms, image, entrypoint,"
            " runtime, port) VALUES (?, 7, 'x', 'made up', ?, ?, ?, 'python:3.11', '[\"true\"]', 'oci', 1)",
            ((f"made-up-{i}", now - n + i, now, now + 86_400_000) for i in range(n)),
        )
        db.executemany("INSERT INTO metadata (sandbox, key, value) VALUES (?, ?, ?)",
                       ((f"made-up-{i}", key, str(i % m)) for i in range(n) for key, m in (("n", 100), ("odd", 2))))


@row
def listed(bench):
    """Pages of 200 of 10,000 sandboxes: the first, the last, and by metadata; floor: /health."""
    server = Server(bench, "listed")
    server.restart(lambda: fill(server.daemon.state / "sandboxd.db", LISTED))
    assert server.ask("GET", "/sandboxes")["pagination"]["totalItems"] == LISTED
    pages = {
        "the first page": "page=1&pageSize=200",
        "the last page": f"page={LISTED // 200}&pageSize=200",
        "a page by metadata": "pageSize=200&metadata=n%3D7%26odd%3D1",
    }
    for name, query in pages.items():
        probe = lambda query=query: timed(lambda: server.ask("GET", f"/sandboxes?{query}"))[0]
        floor = lambda: timed(lambda: server.ask("GET", "/health"))[0]
        bench.figure(f"{name} of {LISTED:,} sandboxes", "ms", "<= 20 absolute", take_turns(30, {"floor": floor, "ours": probe}))


@row
def proxy(bench):
    """Through the server's proxy; floor: the agent itself. 64 MB down at a time, and /ping on a kept connection."""
    server = Server(bench, "proxy")
    id = server.create()
    host, port = server.ask("GET", f"/sandboxes/{id}/endpoints/44772")["endpoint"].split(":")
    server.ask("GET", f"/sandboxes/{id}?wait=Running")
    agent = http.client.HTTPConnection(host, int(port))
    agent.request("POST", "/command", json.dumps({"command": "head -c 64M /dev/zero >/tmp/zeros"}),
                  {"Content-Type": "application/json"})
    agent.getresponse().read()
    agent.close()
    ways = {"floor": (host, port, ""), "ours": (server.daemon.host, str(server.daemon.port), f"/sandboxes/{id}/proxy/44772")}
    get = {name: bench.probe("get", h, p, "", f"{prefix}/files/download?path=/tmp/zeros") for name, (h, p, prefix) in ways.items()}
    ping = {name: bench.probe("get", h, p, "", f"{prefix}/ping") for name, (h, p, prefix) in ways.items()}
    rate = {name: (lambda probe=probe: 67.1 / (probe() / 1000)) for name, probe in get.items()}
    bench.figure("download through the proxy", "MB/s", ">= 0.6", take_turns(15, rate))
    bench.figure("/ping through the proxy", "ms", "<= floor + 0.3", take_turns(300, ping))


@row
def docker(bench):
    """A create on Docker until its agent answers; floor: what `docker run -d` of the same image takes."""
    try:
        daemon = dockerd.Dockerd(bench.folder / "dockerd")
    except dockerd.Unavailable as why:
        raise LookupError(str(why))
    bench.stack.callback(daemon.close)
    server = Server(bench, "docker", docker=daemon)
    run = ["docker", "-H", daemon.url, "run", "-d", "-p", "127.0.0.1::44772", "-m", "512m", "--cpus", "1",
           IMAGE, "tail", "-f", "/dev/null"]  # fmt: skip

    def ours():
        ms, id = timed(server.create)
        server.end([id])
        return ms

    def floor():
        ms, done = timed(lambda: subprocess.run(run, capture_output=True, text=True, check=True))
        daemon.http.delete(f"/containers/{done.stdout.strip()}", params={"force": 1, "v": 1})
        return ms

    bench.figure("sandbox on Docker until it answers", "ms", "<= 1.2", take_turns(15, {"ours": ours, "floor": floor}))
