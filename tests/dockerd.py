"""A Docker daemon for the tests: its own data, socket and bridge, and nothing of it left afterwards."""

import fcntl
import io
import os
import select
import shutil
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import httpx

from daemon import END_TIMEOUT_S, children

# By these names the tests know one image; a daemon without a registry has none but what is imported.
NAMES = ["python:3.11", "ubuntu:latest", "busybox:latest"]
BARE = "bare:1"  # a single static program and no shell
PASSWD = "root:x:0:0:root:/root:/bin/sh\nsandbox:x:1000:1000::/tmp:/bin/sh\n"


class Unavailable(Exception):
    """Why no daemon can be had here."""


def _run(*argv, **options):
    done = subprocess.run(argv, capture_output=True, text=True, **options)
    if done.returncode:
        raise Unavailable(f"{' '.join(map(str, argv))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Dockerd:
    """live_restore: containers live on while the daemon is away."""

    def __init__(self, folder: Path, live_restore=False):
        for program in ("dockerd", "tini", "ip"):
            if not shutil.which(program):
                raise Unavailable(f"there is no {program} here (Debian: docker.io)")
        self.folder = folder
        # A socket's path is short: the folders of pytest are not.
        self.short = Path(f"/tmp/ost-{os.getpid()}-{id(self) & 0xFFFFFF:x}")
        self.socket = self.short / "sock"
        self.url = f"unix://{self.socket}"
        self.bridge = f"ost{os.getpid() % 10**7:x}{id(self) >> 4 & 0xFFFF:x}"[:15]
        self.log = folder / "dockerd.log"
        self.live_restore = live_restore
        self.process = None
        self.http = None
        folder.mkdir(parents=True, exist_ok=True)
        self.short.mkdir()
        try:
            self._make_bridge()
            self.start()
            self._import_images()
        except BaseException:
            self.close()
            raise

    def _make_bridge(self):
        """A network nobody on this machine has; who else looks for one waits."""
        with open("/tmp/ost-bridge.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            taken = _run("ip", "-4", "-o", "addr")
            net = next(n for n in range(256) if f" 10.231.{n}.1/24" not in taken)
            _run("ip", "link", "add", self.bridge, "type", "bridge")
            _run("ip", "addr", "add", f"10.231.{net}.1/24", "dev", self.bridge)
            _run("ip", "link", "set", self.bridge, "up")

    def start(self, tries=3):
        # tini adopts and reaps the shims: else they would become children of the test.
        argv = ["tini", "-s", "--", "dockerd", "--data-root", self.folder / "data", "--exec-root", self.short / "exec",
                "--pidfile", self.short / "pid", "-H", self.url, "--iptables=false", "--ip-forward=false",
                "--ip-masq=false", f"--bridge={self.bridge}", "--containerd-namespace", f"ost-{os.getpid()}"]  # fmt: skip
        if self.live_restore:
            argv.append("--live-restore")
        with self.log.open("ab") as out:
            self.process = subprocess.Popen([str(arg) for arg in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://docker", timeout=END_TIMEOUT_S
        )
        if self._answers():
            return
        if tries > 1 and "containerd" in self.log.read_text(errors="replace")[-800:]:
            self.start(tries - 1)  # dockerd gives its containerd 15 s, which a busy machine may need
            return
        raise Unavailable(f"dockerd does not start:\n{self.log.read_text(errors='replace')[-800:]}")

    def _answers(self):
        """False: it has ended. It has no way to tell that it serves."""
        while self.process.poll() is None:
            with suppress(httpx.TransportError):
                if self.http.get("/_ping").status_code == 200:
                    return True
            time.sleep(0.02)
        return False

    @property
    def pid(self):
        return int((self.short / "pid").read_text())

    def stop(self):
        """As its service manager would; without live_restore that is the end of its containers."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(END_TIMEOUT_S)

    def kill(self):
        """The daemon and its containerd, whose data the next one locks; the containers live on."""
        containerd = int((self.short / "exec/containerd/containerd.pid").read_text())
        pidfd = os.pidfd_open(containerd)
        os.kill(self.pid, signal.SIGKILL)
        self.http.close()
        self.process.wait(END_TIMEOUT_S)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], END_TIMEOUT_S)
        with suppress(ChildProcessError):  # an orphan of tini's comes to us
            os.waitpid(containerd, 0)
        os.close(pidfd)

    def close(self):
        with suppress(Exception):
            for container in self.containers():
                self.http.delete(f"/containers/{container['Id']}", params={"force": 1, "v": 1})
        if self.process:
            self.stop()
        self._end_shims()
        left = [line.split()[4] for line in open("/proc/self/mountinfo") if str(self.folder) in line or str(self.short) in line]
        for mount in reversed(left):
            subprocess.run(["umount", "-l", mount], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
        shutil.rmtree(self.short, ignore_errors=True)
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def _end_shims(self):
        """Of a daemon that could not be started again: what it would have ended itself."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if str(self.short).encode() in path.read_bytes():
                    shim = int(path.parent.name)
                    for pid in [*children(shim), shim]:
                        os.kill(pid, signal.SIGKILL)

    # ---- images ------------------------------------------------------------------

    def load(self, name, files, links=(), folders=("tmp", "root", "etc", "srv", "var/log", "usr/share/doc", "usr/local/bin")):
        """An image from nothing: files {path: (content, mode)}."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for folder in folders:
                info = tarfile.TarInfo(folder)
                info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
                tar.addfile(info)
            for path, (content, mode) in files.items():
                info = tarfile.TarInfo(path)
                info.size, info.mode = len(content), mode
                tar.addfile(info, io.BytesIO(content))
            for path, target in links:
                info = tarfile.TarInfo(path)
                info.type, info.linkname = tarfile.SYMTYPE, target
                tar.addfile(info)
        repo, tag = name.rsplit(":", 1)
        response = self.http.post("/images/create", params={"fromSrc": "-", "repo": repo, "tag": tag},
                                  headers={"Content-Type": "application/x-tar"}, content=out.getvalue())
        assert response.status_code == 200 and b"error" not in response.content, response.text

    def _import_images(self):
        busybox = shutil.which("busybox") or "/bin/busybox"
        applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        links = [(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"]
        self.load(NAMES[0], {"bin/busybox": (Path(busybox).read_bytes(), 0o755),
                             "etc/passwd": (PASSWD.encode(), 0o644), "etc/debian_version": (b"12\n", 0o644)}, links)
        for name in NAMES[1:]:
            repo, tag = name.split(":")
            self.http.post(f"/images/{NAMES[0]}/tag", params={"repo": repo, "tag": tag}).raise_for_status()
        self.load(BARE, {"busybox": (Path(busybox).read_bytes(), 0o755)}, folders=())

    # ---- what it has ---------------------------------------------------------------

    def containers(self):
        return self.http.get("/containers/json", params={"all": 1}).json()

    def inspect(self, id):
        """The container of a sandbox."""
        return self.http.get(f"/containers/sandbox-{id}/json").json()

    def snapshots(self):
        images = self.http.get("/images/json", params={"all": 1}).json()
        tags = [tag.rsplit(":", 1) for image in images for tag in image.get("RepoTags") or []]
        return [tag for repo, tag in tags if repo == "sandboxd-snapshot"]

    def remove_snapshots(self):
        for snapshot in self.snapshots():
            self.http.delete(f"/images/sandboxd-snapshot:{snapshot}")

    def running(self):
        return self.process.poll() is None

    def volumes(self):
        return [volume["Name"] for volume in self.http.get("/volumes").json()["Volumes"] or []]
