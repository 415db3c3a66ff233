"""Rows about sandboxd: sandboxes one at a time and in crowds, cold and from the pool, their end, their memory, lists, the proxy."""

import http.client
import json
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dockerd
from daemon import KEY, Sandboxd
from measure import row, take_turns, timed

IMAGE = "python:3.11"
CROWD = 50
LIVE = 500  # the bar asks for 200
LISTED = 10_000


class Server:
    """A sandboxd of its own, and bare connections to it: what is measured is not the client."""

    def __init__(self, bench, name, pool=0, docker=None, **options):
        folder, self.pool = bench.folder / name, pool
        folder.mkdir()
        settings = folder / "sandbox.toml"
        settings.write_text((f'[pool]\n"{IMAGE}" = {pool}\n' if pool else "") + "[sandboxd]\npool_starts = 4\n")
        self.start = lambda: Sandboxd(folder / "log", folder / "state", env={"SANDBOX_CONFIG_PATH": str(settings)},
                                      args=["--log-level", "warn"], docker=docker, **options)  # fmt: skip
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
        """At once what is left, then the server. Harmless when it has ended."""
        if self.daemon.process.poll() is not None:
            return
        self.connection = self.connect()  # the kept one has idled, or is in the midst of an answer
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

    def running(self, **limits):
        """A sandbox that the server says runs: for those whose agent is in a namespace that is not ours."""
        made = self.ask("POST", "/sandboxes", {
            "image": {"uri": IMAGE}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 3600, "resourceLimits": limits})  # fmt: skip
        assert self.ask("GET", f"/sandboxes/{made['id']}?wait=Running")["status"]["state"] == "Running"
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


def crun_true(bench, server):
    """A probe of `crun run` of /bin/true: the bundle of a sandbox of ours, with its overlays mounted beforehand."""
    id = server.create()
    state = server.daemon.state
    made = state / "sandboxes" / id
    config = json.loads((made / "config.json").read_text())
    pid = (made / "pid").read_text().strip()
    mounts = [line.split() for line in open(f"/proc/{pid}/mountinfo") if " - overlay " in line]
    server.end([id])

    bundle = state / "bench" / "floor"  # as deep as theirs: the layers are relative to the bundle
    (bundle / "rootfs").mkdir(parents=True)
    config["process"]["args"] = ["/bin/true"]
    (bundle / "config.json").write_text(json.dumps(config))
    script = ["set -e", f"cd {bundle}", "umount -l /sys/fs/cgroup/unified 2>/dev/null || true"]
    for n, fields in enumerate(mounts):
        options = dict(option.partition("=")[::2] for option in fields[-1].split(","))
        layers = f"lowerdir={options['lowerdir']}"
        if "upperdir" in options:
            layers += f",upperdir=upper.{n},workdir=work.{n}"
            script.append(f"mkdir upper.{n} work.{n}")
        script.append(f"mount -t overlay -o {layers} overlay rootfs{fields[4].rstrip('/')}")
    script.append('exec "$@"')
    runtime = ["crun", "--cgroup-manager=disabled", "--root", bundle / "runtime", "run", "--bundle", bundle, "bench"]
    return bench.probe("exec", *runtime, before=["unshare", "-m", "sh", "-c", "\n".join(script), "sh"])


def one(server):
    """A create until its agent answers; the sandbox ends outside of the measured time."""
    ms, id = timed(server.create)
    server.end([id])
    return ms


@row("sandbox until it answers")
def create(bench):
    """Creation of a sandbox until its agent answers; floor: `crun run` of /bin/true on the same bundle."""
    server = Server(bench, "cold")
    taken = take_turns(25, {"floor": crun_true(bench, server), "ours": lambda: one(server)})
    bench.figure("sandbox until it answers", "ms", "<= floor + 40", taken, "bare `crun run` of `true` on the same bundle")


@row("sandbox from the pool until it answers")
def claim(bench):
    """A create from the pool until its agent answers; floor: a cold one on the same server."""
    warm, cold = Server(bench, "warm", pool=2), Server(bench, "cold")
    taken = {"ours": [], "floor": []}
    for n in range(25):
        warm.stocked(2 + n)
        taken["ours"].append(one(warm))
        taken["floor"].append(one(cold))
    bench.figure("sandbox from the pool until it answers", "ms", "<= 5 absolute", taken, "a cold one")


def crowd_rounds(server, floor, ours, rounds=3):
    """Turns of 50 one after the other on a server without a pool, and of crowds on others; the crowds end unmeasured."""
    taken = {"floor": [], **{name: [] for name in ours}}
    for n in range(rounds):
        taken["floor"].append(sum(floor(server) for _ in range(CROWD)))
        for name, other in ours.items():
            other.stocked(other.pool * (n + 1))
            ms, ids = other.crowd(CROWD)
            other.end(ids)
            taken[name].append(ms)
    return taken


@row(f"{CROWD} sandboxes at once, cold", f"{CROWD} sandboxes at once, from the pool")
def crowd(bench):
    """50 creates at once, cold and from the pool, until the last has answered; floor: 50 cold ones in a row."""
    cold, warm = Server(bench, "crowd-cold"), Server(bench, "crowd-warm", pool=CROWD)
    taken = crowd_rounds(cold, one, {"cold": cold, "from the pool": warm})
    for name in ("cold", "from the pool"):
        bench.figure(f"{CROWD} sandboxes at once, {name}", "ms", None,
                     {"ours": taken[name], "floor": taken["floor"]}, f"{CROWD} cold ones in a row")


@row("end of a sandbox")
def delete(bench):
    """DELETE until nothing of the sandbox is left; floor: its cold creation."""
    server = Server(bench, "delete")
    taken = {"ours": [], "floor": []}
    for _ in range(25):
        ms, id = timed(server.create)
        taken["floor"].append(ms)
        taken["ours"].append(timed(lambda id=id: server.end([id]))[0])
    bench.figure("end of a sandbox", "ms", None, taken, "its cold creation")


# A bridge belongs to a whole network: this one is of a sandboxd alone.
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']


@row("sandbox on a disk of 1 GiB until it runs", "sandbox on a bridge until it runs")
def kinds(bench):
    """A creation with a bridge, and with a limited disk, until it runs; floor: one with neither."""
    plain, bridge = Server(bench, "plain"), "sandbox on a bridge until it runs"
    kinds = {"floor": (plain, {}), "disk": (plain, {"disk": "1Gi"})}
    if Path("/usr/lib/cni/bridge").exists():
        kinds["bridge"] = (Server(bench, "bridged", network="bridge", wrap=ALONE), {})

    def life(server, limits):
        ms, id = timed(lambda: server.running(**limits))
        server.end([id])
        return ms

    taken = take_turns(15, {name: (lambda kind=kind: life(*kind)) for name, kind in kinds.items()})
    pair = lambda name: {"ours": taken[name], "floor": taken["floor"]}
    bench.figure("sandbox on a disk of 1 GiB until it runs", "ms", None, pair("disk"), "one without a limit")
    if "bridge" in taken:
        bench.figure(bridge, "ms", None, pair("bridge"), "one without a network")
    else:
        bench.missing(bridge, "the plugins of containernetworking-plugins are not here")


@row("pause and resume of a sandbox", "snapshot of a sandbox")
def standstill(bench):
    """Pause and resume, each until it is so, and a snapshot of a sandbox that has written 1 MB; floor: a creation."""
    server = Server(bench, "standstill")
    id = server.create()
    server.ask("GET", f"/sandboxes/{id}?wait=Running")
    host, port = server.ask("GET", f"/sandboxes/{id}/endpoints/44772")["endpoint"].split(":")
    agent = http.client.HTTPConnection(host, int(port))
    agent.request("POST", "/command", json.dumps({"command": "head -c 1M /dev/urandom >/root/file"}),
                  {"Content-Type": "application/json"})
    agent.getresponse().read()
    agent.close()

    def still():
        for what, state in (("pause", "Paused"), ("resume", "Running")):
            server.ask("POST", f"/sandboxes/{id}/{what}")
            server.ask("GET", f"/sandboxes/{id}?wait={state}")

    def snapshot():
        made = server.ask("POST", f"/sandboxes/{id}/snapshots", {})
        assert server.ask("GET", f"/snapshots/{made['id']}?wait")["status"]["state"] == "Ready"

    probes = {"still": lambda: timed(still)[0], "snapshot": lambda: timed(snapshot)[0], "floor": lambda: one(server)}
    taken = take_turns(15, probes)
    for name, key in (("pause and resume of a sandbox", "still"), ("snapshot of a sandbox", "snapshot")):
        bench.figure(name, "ms", None, {"ours": taken[key], "floor": taken["floor"]}, "its cold creation")


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


@row("sandboxes live at once", f"memory of an idle sandbox, of {LIVE}", f"memory of sandboxd with {LIVE} sandboxes")
def memory(bench):
    """What 500 live sandboxes cost: each of its own (not shared), and the server; floor: the server without any."""
    server = Server(bench, "memory")
    idle = memory_mb(server.daemon.pid, "Rss")
    connections = [server.connect() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        chunks = threads.map(lambda c: [server.create(c) for _ in range(LIVE // 4)], connections)
        ids = [id for chunk in chunks for id in chunk]
    own = [sum(memory_mb(pid, "Private_Clean", "Private_Dirty") for pid in inside(server, id)) for id in ids[::10]]
    live = server.ask("GET", "/sandboxes?state=Running")["pagination"]["totalItems"]
    bench.figure("sandboxes live at once", "", ">= 200 absolute", {"ours": live}, exact=True)
    bench.figure(f"memory of an idle sandbox, of {LIVE}", "MB", "<= 5 absolute", {"ours": own})
    bench.figure(f"memory of sandboxd with {LIVE} sandboxes", "MB", None,
                 {"ours": memory_mb(server.daemon.pid, "Rss"), "floor": idle}, "sandboxd without any")


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


PAGES = {
    "the first page": "page=1&pageSize=200",
    "the last page": f"page={LISTED // 200}&pageSize=200",
    "a page by metadata": "pageSize=200&metadata=n%3D7%26odd%3D1",
}


@row(*(f"{name} of {LISTED:,} sandboxes" for name in PAGES))
def listed(bench):
    """Pages of 200 of 10,000 sandboxes: the first, the last, and by metadata; floor: /health."""
    server = Server(bench, "listed")
    server.restart(lambda: fill(server.daemon.state / "sandboxd.db", LISTED))
    assert server.ask("GET", "/sandboxes")["pagination"]["totalItems"] == LISTED
    for name, query in PAGES.items():
        probes = {
            "floor": lambda: timed(lambda: server.ask("GET", "/health"))[0],
            "ours": lambda query=query: timed(lambda: server.ask("GET", f"/sandboxes?{query}"))[0],
        }
        bench.figure(f"{name} of {LISTED:,} sandboxes", "ms", None, take_turns(30, probes), "/health")


@row("download through the proxy", "/ping through the proxy")
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
    bench.figure("download through the proxy", "MB/s", ">= 0.6", take_turns(15, rate), "the agent itself")
    bench.figure("/ping through the proxy", "ms", "<= floor + 0.3", take_turns(300, ping), "the agent itself")


DOCKER = ("sandbox on Docker until it answers", "sandbox on Docker from the pool until it answers",
          "end of a sandbox on Docker", f"{CROWD} sandboxes on Docker at once, cold",
          f"{CROWD} sandboxes on Docker at once, from the pool")  # fmt: skip


@row(*DOCKER)
def docker(bench):
    """On Docker: a create until its agent answers, one and 50 at once, and an end; floors: `docker run -d`, `docker rm -f`."""
    try:
        daemon = dockerd.Dockerd(bench.folder / "dockerd")
    except dockerd.Unavailable as why:
        for name in DOCKER:
            bench.missing(name, str(why))
        return
    bench.stack.callback(daemon.close)
    server = Server(bench, "docker", docker=daemon)
    run = ["docker", "-H", daemon.url, "run", "-d", "-p", "127.0.0.1::44772", "-m", "512m", "--cpus", "1",
           IMAGE, "tail", "-f", "/dev/null"]  # fmt: skip
    ends = {"ours": [], "floor": []}

    def ours(server):
        ms, id = timed(server.create)
        ends["ours"].append(timed(lambda: server.end([id]))[0])
        return ms

    def floor(_):
        ms, done = timed(lambda: subprocess.run(run, capture_output=True, text=True, check=True))
        remove = ["docker", "-H", daemon.url, "rm", "-f", "-v", done.stdout.strip()]
        ends["floor"].append(timed(lambda: subprocess.run(remove, capture_output=True, check=True))[0])
        return ms

    warm = Server(bench, "docker-warm", pool=2, docker=daemon)
    taken = {"floor": [], "ours": [], "pool": []}
    for n in range(15):
        warm.stocked(2 + n)
        taken["floor"].append(floor(server))
        taken["ours"].append(ours(server))
        taken["pool"].append(one(warm))
    bench.figure(DOCKER[0], "ms", "<= 1.2", taken, "`docker run -d` of the same image")
    bench.figure(DOCKER[1], "ms", "<= 5 absolute", {"ours": taken["pool"], "floor": taken["ours"]}, "a cold one")
    bench.figure(DOCKER[2], "ms", None, ends, "`docker rm -f` of it")
    warm.stop()
    crowds = {"cold": server, "from the pool": Server(bench, "docker-crowd", pool=CROWD, docker=daemon)}
    taken = crowd_rounds(server, floor, crowds, rounds=2)
    for figure, name in zip(DOCKER[3:], crowds):
        pair = {"ours": taken[name], "floor": taken["floor"]}
        bench.figure(figure, "ms", None, pair, f"{CROWD} `docker run -d` in a row")
