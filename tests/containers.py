"""Agents in containers of several kinds, for what must hold in each of them."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager

import httpx

from daemon import END_TIMEOUT_S, ROOT, TOKEN, Execd, Sandboxd

AGENT = ROOT / "build/execd"  # static: the sanitized one needs libraries
LINKS = ["bin", "sbin", "lib", "lib64"]  # into /usr, which is this machine's
CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "SYS_CHROOT"]
PRIVILEGES = ["SYS_ADMIN", "NET_ADMIN"]  # the second for the loopback of rooms without network
MASKED = ["/proc/keys", "/proc/timer_list", "/proc/kcore", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@contextmanager
def empty_procfs(folder):
    """As the README tells operators to: a procfs of nobody's processes, with nothing else in it."""
    folder.mkdir()
    subprocess.run(["unshare", "--pid", "--fork", "--propagation", "unchanged", "mount", "-t", "proc",
                    "-o", "ro,nosuid,nodev,noexec,subset=pid", "proc", folder], check=True)  # fmt: skip
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


class Contained:
    """What the tests use of an Execd; place: a folder that is the same inside and outside."""

    stream, run = Execd.stream, Execd.run

    def __init__(self, kind, place, url, pid, token):
        self.filtered = kind != "crun"  # has a seccomp profile of its own
        self.kind, self.place, self.pid, self.token = kind, place, pid, token
        self.host, self.port = url.removeprefix("http://").split(":")[0], int(url.rsplit(":", 1)[1])
        self.http = httpx.Client(base_url=url, headers={"X-EXECD-ACCESS-TOKEN": token}, timeout=END_TIMEOUT_S)


@contextmanager
def in_sandbox(folder, place, runtime=None, settings_of_docker=""):
    """Of a sandboxd with its own settings, made by crun or by the daemon `runtime`"""
    settings = folder / "sandboxd.toml"
    allowed = json.dumps([str(place), "/usr"])
    settings.write_text(f"[storage]\nallowed_host_paths = {allowed}\n[sandboxd]\nimage_pull = false\n"
                        f"[docker]\n{settings_of_docker}\n")
    sandboxd = Sandboxd(folder / "sandboxd.log", folder / "state", args=["--config", settings], docker=runtime)
    try:
        if runtime:
            runtime.load("usr:1", {"etc/passwd": (b"root:x:0:0::/root:/bin/sh\n", 0o644)}, links(), folders=("usr", "tmp", "root"))
        volumes = [{"name": "place", "host": {"path": str(place)}, "mountPath": str(place)}]
        if runtime:
            volumes.append({"name": "usr", "host": {"path": "/usr"}, "mountPath": "/usr", "readOnly": True})
        made = sandboxd.http.post("/sandboxes", json={
            "image": {"uri": "usr:1" if runtime else "python:3.11"}, "entrypoint": ["tail", "-f", "/dev/null"],
            "timeout": 3600, "resourceLimits": {}, "secureAccess": True, "volumes": volumes})
        assert made.status_code == 202, made.text
        path = f"/sandboxes/{made.json()['id']}"
        status = sandboxd.http.get(path, params={"wait": "Running"}, timeout=END_TIMEOUT_S).json()["status"]
        assert status["state"] == "Running", status
        endpoint = sandboxd.http.get(f"{path}/endpoints/44772").json()
        pid = (runtime.inspect(made.json()["id"])["State"]["Pid"] if runtime
               else int((folder / "state" / path.removeprefix("/") / "pid").read_text()))
        yield Contained("docker sandbox" if runtime else "sandbox", place, f"http://{endpoint['endpoint']}", pid,
                        endpoint["headers"]["X-EXECD-ACCESS-TOKEN"])
    finally:
        sandboxd.stop()


def links():
    return [(name, f"usr/{name}") for name in LINKS]


@contextmanager
def with_crun(folder, place):
    """A container with CAP_SYS_ADMIN and a masked /proc, in the machine's network."""
    root = folder / "rootfs"
    for name in ("usr", "etc", "tmp", "root"):
        (root / name).mkdir(parents=True)
    for name, target in links():
        (root / name).symlink_to(target)
    (root / "execd").touch()
    bind = lambda path, to, *options: {"destination": to, "source": str(path), "type": "none", "options": ["rbind", *options]}
    capabilities = ["CAP_" + name for name in CAPABILITIES + PRIVILEGES]
    config = {
        "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "hostname": "container",
        "process": {"args": ["/execd", "--listen-fd", "3"], "cwd": "/", "noNewPrivileges": True,
                    "env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin", f"EXECD_ACCESS_TOKEN={TOKEN}"],
                    "user": {"uid": 0, "gid": 0},
                    "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
            {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]},
            bind("/usr", "/usr", "ro"), bind("/etc", "/etc", "ro"), bind(AGENT, "/execd", "ro"), bind(place, str(place)),
        ],
        "linux": {"namespaces": [{"type": name} for name in ("pid", "mount", "ipc", "uts", "cgroup")],
                  "maskedPaths": MASKED, "readonlyPaths": READONLY},
    }
    (folder / "config.json").write_text(json.dumps(config))
    crun = ["crun", "--root", str(folder / "runtime"), "--cgroup-manager=disabled"]
    name = f"ost-{os.getpid()}-{folder.name}"
    start = folder / "start"
    # crun before 1.9 refuses to work where control groups of both kinds are mounted
    start.write_text('#!/bin/bash\nexec 3<&"$3"\nexec unshare --mount sh -c "umount -l /sys/fs/cgroup/unified 2>/dev/null; '
                     f'exec {" ".join(crun)} run --preserve-fds 1 -b {folder} {name}"\n')
    start.chmod(0o755)
    daemon = Execd(folder / "execd.log", wrap=[start])
    try:
        state = json.loads(subprocess.run([*crun, "state", name], capture_output=True, check=True).stdout)
        yield Contained("crun", place, daemon.url, state["pid"], TOKEN)
    finally:
        daemon.stop()


@contextmanager
def with_docker(docker, place):
    """A container with CAP_SYS_ADMIN of the daemon, in the machine's network."""
    docker.load("usr:1", {"etc/passwd": (b"root:x:0:0::/root:/bin/sh\n", 0o644)}, links(), folders=("usr", "tmp", "root"))
    binds = ["/usr:/usr:ro", f"{AGENT}:/execd:ro", f"{place}:{place}"]
    body = {"Image": "usr:1", "Entrypoint": ["/execd", "--host", "127.0.0.1", "--port", "0", "--announce"], "Cmd": [],
            "Env": [f"EXECD_ACCESS_TOKEN={TOKEN}"],
            "HostConfig": {"NetworkMode": "host", "Binds": binds, "CapAdd": PRIVILEGES,
                           "SecurityOpt": ["apparmor=unconfined", "no-new-privileges"]}}
    made = docker.http.post("/containers/create", json=body)
    assert made.status_code == 201, made.text
    path = f"/containers/{made.json()['Id']}"
    try:
        started = docker.http.post(f"{path}/start")
        assert started.status_code == 204, started.text
        said = b""
        with docker.http.stream("GET", f"{path}/logs", params={"follow": 1, "stdout": 1, "stderr": 1}) as output:
            for chunk in output.iter_raw():
                said += chunk
                if b"listening on" in said and said.endswith(b"\n"):
                    break
        address = said.split(b"listening on ")[1].split()[0].decode()
        yield Contained("docker", place, f"http://{address}", docker.http.get(f"{path}/json").json()["State"]["Pid"], TOKEN)
    finally:
        docker.http.delete(path, params={"force": 1})


def kinds():
    """Those that can be had here: {name: reason why not, or None}."""
    root = None if os.getuid() == 0 else "needs root"
    return {"sandbox": root, "crun": root if shutil.which("crun") else "no crun here", "docker": root}
