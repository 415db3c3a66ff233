"""Rows about the agent: requests, commands, output, files, idle streams, its own size."""

import json
import os
import re
import resource
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from daemon import EXECD, Execd
from measure import row, take_turns, timed

TRUE = '{"command":"true"}'
BASH_TRUE = "fork, exec, wait of `bash -c true`"


def nginx(bench, root=None):
    """The URL of one worker that answers 200, or with the files of a folder."""
    conf = bench.folder / "nginx.conf"
    answer = f"root {root}; sendfile on;" if root else "return 200;"
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port, fd = listener.getsockname()[1], listener.fileno()
    conf.write_text(
        f"user root; worker_processes 1; daemon off; pid {bench.folder}/nginx.pid; error_log stderr crit;\n"
        "events { worker_connections 256; }\n"
        "http { access_log off; keepalive_requests 1000000000;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ {answer} }} }} }}\n"
    )
    process = subprocess.Popen(
        ["nginx", "-p", bench.folder, "-c", conf], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        pass_fds=[fd], env=os.environ | {"NGINX": f"{fd};"},  # listens already: no race with the first request
    )  # fmt: skip
    listener.close()
    bench.stack.callback(process.wait)
    bench.stack.callback(process.terminate)
    return f"http://127.0.0.1:{port}/"


def requests_per_second(url, token=""):
    out = subprocess.run(
        ["wrk", "-t1", "-c16", "-d1s", "-H", f"X-EXECD-ACCESS-TOKEN: {token}", url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(out)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))


@row("ping, 16 connections")
def ping(bench):
    """/ping with 16 kept connections; floor: one nginx worker that answers 200."""
    floor = nginx(bench)
    probes = {"floor": lambda: requests_per_second(floor)}
    for name, agent in bench.agents().items():
        probes[name] = lambda agent=agent: requests_per_second(agent.url + "/ping", agent.token)
    bench.figure("ping, 16 connections", "requests/s", ">= 0.9", take_turns(6, probes), "nginx, one worker, `return 200`")


def to(agent):
    return agent.host, str(agent.port), agent.token


@row("command `true`, round trip")
def command(bench):
    """POST /command of `true` until its stream ends; floor: fork, exec and wait of `bash -c true`."""
    probes = {"floor": bench.probe("exec", "bash", "-c", "true")}
    for name, agent in bench.agents().items():
        probes[name] = bench.probe("http", *to(agent), TRUE)
    bench.figure("command `true`, round trip", "ms", "<= 1.25", take_turns(300, probes), BASH_TRUE)


@row("command under `default`", "command under `strict`")
def confined(bench):
    """POST /command of `true` under a confinement; floor: the same command without one."""
    agent = bench.agents()["ours"]
    probes = {
        name: bench.probe("http", *to(agent), json.dumps({"command": "true", "confinement": profile}))
        for name, profile in (("floor", "off"), ("default", "default"), ("strict", "strict"))
    }
    taken = take_turns(300, probes)
    for name in ("default", "strict"):
        pair = {"ours": taken[name], "floor": taken["floor"]}
        bench.figure(f"command under `{name}`", "ms", None, pair, "the same command without a confinement")


@row("commands, 16 clients")
def commands(bench):
    """Commands/s of 16 clients; floor: the same by `xargs -P 16`."""
    count = 800

    def xargs():
        began = time.monotonic()
        numbers = "\n".join(map(str, range(count)))
        subprocess.run(["xargs", "-P", "16", "-n", "1", "bash", "-c", "true"], input=numbers, text=True, check=True)
        return count / (time.monotonic() - began)

    probes, rate = {"floor": xargs}, lambda probe: lambda: count / (probe() / 1000)
    for name, agent in bench.agents().items():
        probes[name] = rate(bench.probe("load", *to(agent), TRUE, "16", str(count)))
    bench.figure("commands, 16 clients", "1/s", ">= 0.9", take_turns(7, probes), "`xargs -P 16` of `bash -c true`")


@row("first output of a command")
def first_byte(bench):
    """First output of `echo x; sleep 1`; floor: one fork, exec and wait of `bash -c true`."""
    probes = {"floor": bench.probe("exec", "bash", "-c", "true")}
    for name, agent in bench.agents().items():
        probes[name] = bench.probe("first", *to(agent), '{"command":"echo x; sleep 1"}')
    bench.figure("first output of a command", "ms", "<= floor + 1", take_turns(15, probes), BASH_TRUE)


@row("output as events")
def lines(bench):
    """A command's output as events, MB/s of what it wrote; floor: `cat` of the same through a pipe and a socket."""
    file = bench.folder / "lines"
    with file.open("w") as out:
        out.writelines(f"line {i} {'x' * (i % 110)}\n" for i in range(2_000_000))
    megabytes, rate = file.stat().st_size / 1e6, lambda probe: lambda: megabytes / (probe() / 1000)
    probes = {"floor": rate(bench.probe("cat", file))}
    for name, agent in bench.agents().items():
        probes[name] = rate(bench.probe("http", *to(agent), json.dumps({"command": f"cat {file}"})))
    bench.figure("output as events", "MB/s", ">= 0.4", take_turns(7, probes), "`cat` through a pipe and a socket")


@row("download of 1 GiB", "upload of 1 GiB")
def files(bench):
    """1 GiB down and up; floors: nginx with sendfile, and a socket copied into a file."""
    size, file, copy = 1 << 30, bench.folder / "gigabyte", bench.folder / "copy"
    with file.open("wb") as out:
        for i in range(size >> 20):
            out.write(i.to_bytes(4, "little") * (1 << 18))
    rate = lambda probe: lambda: size / 1e6 / (probe() / 1000)  # noqa: E731
    server = urlsplit(nginx(bench, root=bench.folder))
    down = {"floor": rate(bench.probe("get", "127.0.0.1", str(server.port), "-", "/gigabyte"))}
    up = {"floor": rate(bench.probe("sink", file, copy))}
    for name, agent in bench.agents().items():
        down[name] = rate(bench.probe("get", *to(agent), f"/files/download?path={file}"))
        up[name] = rate(bench.probe("put", *to(agent), file, bench.folder / f"copy-{name}"))
    bench.figure("download of 1 GiB", "MB/s", ">= 0.8", take_turns(5, down), "nginx with sendfile")
    bench.figure("upload of 1 GiB", "MB/s", ">= 0.8", take_turns(5, up), "a socket copied into a file")


@row("commit", "diff")
def layers(bench):
    """256 MiB that an isolated session has written: diff as a tar and commit; floors: tar and cp -a of the same files."""
    place = bench.folder / "layers"
    source, target, workspace = place / "source", place / "target", place / "workspace"
    workspace.mkdir(parents=True)
    source.mkdir()
    megabytes = 256
    for i in range(megabytes):
        (source / f"file{i}").write_bytes(i.to_bytes(2, "little") * (1 << 19))
    agent = bench.agents()["ours"]
    http = httpx.Client(base_url=agent.url, headers={"X-EXECD-ACCESS-TOKEN": agent.token}, timeout=300)
    body = {"workspace": {"path": str(workspace), "mode": "overlay"}, "idle_timeout_seconds": 0}
    session = http.post("/v1/isolated/session", json=body).json()["session_id"]
    path = f"/v1/isolated/session/{session}"
    assert http.post(f"{path}/run", json={"code": f"cp {source}/* {workspace}"}).status_code == 200

    def rate(fn, before=None):
        def probe():
            if before:
                before()
            return megabytes * 1.048576 / (timed(fn)[0] / 1000)

        return probe

    def empty(folder):
        return lambda: subprocess.run(["sh", "-c", f"rm -rf {folder}/*; mkdir -p {folder}; sync {folder}"], check=True)

    def commit():
        assert http.post(f"{path}/commit", json={"force": True}).json()["added"] == megabytes

    copy = ["cp", "-a", f"{source}/.", target]
    bench.figure("commit", "MB/s", None, take_turns(5, {
        "floor": rate(lambda: subprocess.run(copy, check=True), empty(target)), "ours": rate(commit, empty(workspace))
    }), "`cp -a` of the same files")  # fmt: skip
    header = f"X-EXECD-ACCESS-TOKEN: {agent.token}"
    diff = ["curl", "-sf", "-o", "/dev/null", "-H", header, f"{agent.url}{path}/diff?format=tar"]
    bench.figure("diff", "MB/s", None, take_turns(5, {
        "floor": rate(lambda: subprocess.run(f"tar -C {source} -c . | cat >/dev/null", shell=True, check=True)),
        "ours": rate(lambda: subprocess.run(diff, check=True)),
    }), "`tar` of the same files")  # fmt: skip


def resident_mb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def open_streams(execd, count):
    """So many readers of the output of one command that says nothing."""
    with execd.stream("POST", "/command", json={"command": "sleep 1000", "background": True}) as response:
        id = json.loads(next(line for line in response.iter_lines() if line.startswith("data:"))[5:])["text"]
    head = f"GET /command/{id}/stream HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {execd.token}\r\n\r\n".encode()
    streams = []
    for _ in range(count):
        streams.append(socket.create_connection((execd.host, execd.port)))
        streams[-1].sendall(head)
    for stream in streams:
        assert b"200 OK" in stream.recv(4096)
    return streams


@row("10,000 idle streams: resident", "a command among 10,000 idle streams")
def idle_streams(bench):
    """10,000 event streams that wait: what they cost in memory, and other commands in time; floor: an agent without any."""
    count, rounds = 10_000, 3
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 8192), hard))
    alone = bench.probe("http", *to(bench.agents()["ours"]), TRUE)
    resident, taken = [], {"floor": [], "ours": []}
    for n in range(rounds):
        execd = Execd(bench.folder / f"idle{n}.log")
        bench.stack.callback(execd.stop)
        streams = open_streams(execd, count)
        for name, values in take_turns(200, {"floor": alone, "ours": bench.probe("http", *to(execd), TRUE)}).items():
            taken[name] += values
        resident.append(resident_mb(execd.pid))
        for stream in streams:
            stream.close()
    bench.figure("10,000 idle streams: resident", "MB", "<= 120 absolute", {"ours": resident})
    bench.figure("a command among 10,000 idle streams", "ms", "<= 1.5", taken, "the same without them")


@row("resident when idle", "size of the binary", "start to first answer")
def footprint(bench):
    """The agent before anybody has asked it anything; floor of its start: fork, exec, wait of `true`."""

    def start():
        listener = socket.create_server(("127.0.0.1", 0))
        fd = listener.fileno()
        began = time.monotonic()
        # The socket listens before the agent is there: one request, answered when it is up.
        agent = subprocess.Popen([EXECD, "--listen-fd", str(fd)], pass_fds=[fd], stderr=subprocess.DEVNULL)
        client = socket.create_connection(listener.getsockname())
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in client.recv(4096)
        taken = (time.monotonic() - began) * 1000
        client.close()
        listener.close()
        resident.append(resident_mb(agent.pid))
        agent.terminate()
        agent.wait()
        return taken

    resident = []
    taken = take_turns(30, {"floor": lambda: timed(lambda: subprocess.run(["true"], check=True))[0], "ours": start})
    bench.figure("resident when idle", "MB", "<= 2.5 absolute", {"ours": resident})
    bench.figure("size of the binary", "MB", "<= 2 absolute", {"ours": Path(EXECD).stat().st_size / 1e6}, exact=True)
    bench.figure("start to first answer", "ms", "<= 5 absolute", taken, "fork, exec, wait of `true`")
