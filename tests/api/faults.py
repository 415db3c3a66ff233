"""What the tests of failing system calls share: orders to deny (deny.c), operations, and what an agent holds."""

import collections
import contextlib
import ctypes
import errno
import http.client
import io
import json
import mmap
import os
import re
import select
import tarfile
from pathlib import Path

import websockets.sync.client
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

import daemon

DENY = daemon.BUILD / "api/deny"
WAIT_S = 20  # a hang, not a measure


# ---- orders ---------------------------------------------------------------------------------


class Order(ctypes.Structure):
    """`struct order` of deny.c, in the file that it maps."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("state", "call", "kind", "errnum", "skip", "times", "seen", "hits")] + [
        ("counts", ctypes.c_uint32 * 8 * 512)
    ]

    @classmethod
    def make(cls, path):
        path.write_bytes(bytes(ctypes.sizeof(cls)))
        with path.open("r+b") as file:
            return cls.from_buffer(mmap.mmap(file.fileno(), 0))

    @contextlib.contextmanager
    def fail(self, call, error, skip=0, times=1):
        """Within, that call ("write", or of one kind of descriptor "write:file") fails with that errno; see hits."""
        name, _, kind = call.partition(":")
        self.call, self.kind = NUMBERS[name], KINDS.index(kind) if kind else ANY
        self.errnum, self.skip, self.times = getattr(errno, error), skip, times
        self.seen = self.hits = 0
        self.state = 1
        try:
            yield
        finally:
            self.state = 0

    def struck(self, error):
        return self.hits and self.errnum == getattr(errno, error)

    @contextlib.contextmanager
    def count(self, counted):
        """Within, nothing fails; counted is filled with how often the agent makes each call of PLAUSIBLE."""
        ctypes.memset(self.counts, 0, ctypes.sizeof(self.counts))
        self.call, self.kind, self.errnum = ANY, ANY, 0
        self.state = 1
        try:
            yield
        finally:
            self.state = 0
        for call in PLAUSIBLE:
            name, _, kind = call.partition(":")
            made = self.counts[NUMBERS.get(name, 511)]
            if n := made[KINDS.index(kind)] if kind else sum(made):
                counted[call] = n


KINDS = ["", "file", "pipe", "socket", "terminal", "kernel", "device", "anon"]  # enum kind of deny.c
ANY = 0xFFFFFFFF


def numbers(names):
    """System calls by name; those that this architecture has."""
    lib = ctypes.CDLL("libseccomp.so.2")
    found = {name: lib.seccomp_syscall_resolve_name(name.encode()) for name in names}
    return {name: number for name, number in found.items() if number >= 0}


# What can go wrong where, on a machine that is short of something, old, or fenced in. Signals that strike
# within a call (EINTR) are part of it; what only a bug of the agent could bring about (EBADF, EFAULT) is not.
FULL = ("EMFILE", "ENFILE", "ENOMEM")
DISK = ("ENOSPC", "EIO", "EDQUOT")
OLD = ("ENOSYS", "EPERM")
PLAUSIBLE = {
    "openat": (*FULL, "EACCES", "EIO"),
    "openat2": (*OLD, *FULL, "EAGAIN"),
    "clone": ("EAGAIN", "ENOMEM", "EPERM"),
    "clone3": (*OLD, "EAGAIN", "ENOMEM"),
    "vfork": ("EAGAIN", "ENOMEM"),
    "pidfd_open": (*OLD, *FULL),
    "pidfd_send_signal": OLD,
    "close_range": (*OLD, "ENOMEM", "EMFILE"),
    "pipe2": FULL,
    "socketpair": FULL,
    "socket": (*FULL, "EPERM", "EAFNOSUPPORT"),
    "connect": ("EAGAIN", "ECONNREFUSED", "EINTR", "ENETUNREACH"),
    "accept4": (*FULL, "ECONNABORTED", "EPERM", "EINTR"),
    "eventfd2": FULL,
    "memfd_create": (*OLD, *FULL),
    "timerfd_create": FULL,
    "epoll_create1": FULL,
    "epoll_ctl:anon": ("ENOMEM",),
    "epoll_wait": ("EINTR",),
    "epoll_pwait": ("EINTR",),
    "poll": ("EINTR", "ENOMEM"),
    "ppoll": ("EINTR", "ENOMEM"),
    "inotify_init1": FULL,
    "inotify_add_watch": ("ENOSPC", "ENOMEM", "EACCES"),
    "dup": ("EMFILE",),
    "dup2": ("EMFILE", "EINTR"),
    "dup3": ("EMFILE", "EINTR"),
    **{f"fcntl:{kind}": ("EMFILE",) for kind in ("file", "pipe", "socket", "terminal", "kernel", "device", "anon")},
    "ioctl:pipe": ("ENOTTY",),
    "ioctl:terminal": ("EIO",),
    "ioctl:file": ("ENOTTY", "EOPNOTSUPP"),
    "read:file": ("EINTR", "EIO"),
    "read:pipe": ("EINTR", "EAGAIN"),
    "read:socket": ("EINTR", "EAGAIN", "ECONNRESET"),
    "read:terminal": ("EINTR", "EAGAIN", "EIO"),
    "read:kernel": ("EINTR", "ESRCH", "ENOMEM"),
    "read:anon": ("EINTR", "EAGAIN"),
    "pread64": ("EINTR", "EIO"),
    "recvfrom": ("EINTR", "EAGAIN", "ECONNRESET"),
    "recvmsg": ("EINTR", "EAGAIN", "ECONNRESET"),
    "write:file": ("EINTR", *DISK),
    "write:pipe": ("EINTR", "EAGAIN", "EPIPE"),
    "write:socket": ("EINTR", "EAGAIN", "EPIPE"),
    "write:terminal": ("EINTR", "EAGAIN", "EIO"),
    "write:kernel": ("EACCES", "ENODEV", "EBUSY", "ENOMEM"),
    "write:anon": ("EINTR",),
    "writev:file": ("EINTR", *DISK),
    "pwrite64": ("EINTR", *DISK),
    "pwritev2": ("EINTR", *DISK, "ENOSYS", "EOPNOTSUPP"),
    "sendto": ("EINTR", "EAGAIN", "ECONNRESET"),
    "fallocate": ("ENOSYS", "EOPNOTSUPP", "EINTR", *DISK),
    "ftruncate": ("EINTR", *DISK),
    "fsync": DISK,
    "fdatasync": DISK,
    "syncfs": DISK,
    "copy_file_range": (*OLD, "EXDEV", "EOPNOTSUPP", *DISK),
    "sendfile": ("ENOSYS", "EINVAL", "EAGAIN", "EIO"),
    "splice": ("ENOSYS", "EINVAL", "EAGAIN", "EIO"),
    "statx": (*OLD, "EIO", "EACCES", "ENOMEM"),
    "newfstatat": ("EIO", "EACCES", "ENOMEM"),
    "fstat": ("EIO", "ENOMEM"),
    "fstatfs": ("EIO", "ENOSYS"),
    "statfs": ("EIO", "ENOSYS"),
    "faccessat": ("EIO", "EACCES"),
    "faccessat2": (*OLD, "EIO", "EACCES"),
    "access": ("EIO", "EACCES"),
    "readlink": ("EIO", "EACCES", "ENOMEM"),
    "readlinkat": ("EIO", "EACCES", "ENOMEM"),
    "getdents64": ("EIO", "ENOMEM"),
    "renameat": ("EIO", "ENOSPC", "EPERM"),
    "renameat2": ("ENOSYS", "EINVAL", "EIO", "ENOSPC", "EPERM"),
    "rename": ("EIO", "ENOSPC", "EPERM"),
    "linkat": ("EIO", "ENOSPC", "EPERM", "EMLINK", "ENOENT"),
    "unlinkat": ("EIO", "EROFS", "EBUSY", "EPERM"),
    "unlink": ("EIO", "EROFS", "EBUSY", "EPERM"),
    "mkdirat": ("EIO", "EROFS", "ENOSPC", "EPERM"),
    "mkdir": ("EIO", "EROFS", "ENOSPC", "EPERM"),
    "symlinkat": ("EIO", "EROFS", "ENOSPC", "EPERM"),
    "mknodat": ("EIO", "ENOSPC", "EPERM"),
    "fchmod": ("EIO", "EPERM", "EROFS"),
    "fchmodat": ("EIO", "EPERM", "EROFS"),
    "chmod": ("EIO", "EPERM", "EROFS"),
    "fchown": ("EIO", "EPERM", "EROFS"),
    "fchownat": ("EIO", "EPERM", "EROFS"),
    "utimensat": ("EIO", "EPERM", "EROFS"),
    "fgetxattr": ("EOPNOTSUPP", "EIO"),
    "getxattr": ("EOPNOTSUPP", "EIO"),
    "fsetxattr": ("EOPNOTSUPP", "ENOSPC"),
    "flistxattr": ("EOPNOTSUPP", "EIO"),
    "mmap": ("ENOMEM",),
    "brk": ("ENOMEM",),
    "mremap": ("ENOMEM",),
    "mprotect": ("ENOMEM",),
    "sched_getaffinity": ("EPERM", "ENOSYS"),
    "getrusage": ("EPERM",),
    "prctl": ("EPERM", "EINVAL"),
    "prlimit64": ("EPERM", "ENOSYS"),
    "setsid": ("EPERM",),
    "setgroups": ("EPERM", "ENOMEM"),
    "setresuid": ("EPERM", "EAGAIN"),
    "setresgid": ("EPERM",),
    "kill": ("EPERM",),
    "chdir": ("EACCES", "EIO", "ENOMEM"),
    "fchdir": ("EACCES", "EIO", "ENOMEM"),
    "execve": ("ENOMEM", "EACCES", "EAGAIN", "ENFILE"),
    "execveat": (*OLD, "ENOMEM", "EACCES"),
    "unshare": ("EPERM", "ENOSPC", "ENOMEM", "EINVAL"),
    "setns": ("EPERM", "ENOMEM"),
    "mount": ("EPERM", "ENOMEM", "EINVAL", "ENODEV"),
    "umount2": ("EPERM", "EBUSY"),
    "pivot_root": ("EPERM", "EINVAL"),
    "mount_setattr": (*OLD, "EINVAL"),
    "open_tree": (*OLD, "ENOMEM"),
    "move_mount": (*OLD, "ENOMEM"),
    "fsopen": (*OLD, "ENOMEM", "ENODEV"),
    "fsconfig": (*OLD, "ENOMEM", "EINVAL"),
    "fsmount": (*OLD, "ENOMEM"),
    "sethostname": ("EPERM",),
    "capset": ("EPERM",),
    "capget": ("EPERM",),
    "seccomp": ("ENOSYS", "EPERM", "ENOMEM", "EINVAL"),
    "landlock_create_ruleset": (*OLD, "EOPNOTSUPP", "ENOMEM"),
    "landlock_add_rule": (*OLD, "ENOMEM"),
    "landlock_restrict_self": (*OLD, "E2BIG"),
    "setsockopt": ("ENOMEM", "EPERM"),
    "getsockopt": ("EPERM",),
    "getsockname": ("ENOBUFS",),
    "getpeername": ("ENOBUFS", "ENOTCONN"),
    "bind": ("EADDRINUSE", "EACCES", "ENOMEM"),
    "listen": ("EADDRINUSE", "EPERM"),
    "shutdown": ("ENOTCONN",),
    "flock": ("EINTR", "ENOLCK"),
    "name_to_handle_at": ("EOPNOTSUPP", *OLD),
    "process_vm_readv": OLD,
    "kcmp": OLD,
    "rseq": OLD,
}
NUMBERS = numbers({call.partition(":")[0] for call in PLAUSIBLE})


# ---- requests -----------------------------------------------------------------------------------


class Refused(Exception):
    """An answer of the documented shape that is no success."""

    def __init__(self, status, code, message, stream=False):
        super().__init__(f"{status} {code} {message}")
        self.status, self.code, self.message, self.stream = status, code, message, stream


class Broken(Exception):
    """The connection ended before the answer did."""


def ask(agent, method, path, body=None, headers=None):
    """One request on a connection of its own: the body of a 2xx reply, or Refused."""
    connection = http.client.HTTPConnection(agent.host, agent.port, timeout=WAIT_S)
    try:
        headers = {"X-EXECD-ACCESS-TOKEN": agent.token, "Connection": "close", **(headers or {})}
        if isinstance(body, (dict, list)):
            body, headers["Content-Type"] = json.dumps(body), "application/json"
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        content = response.read()
    except TimeoutError:
        raise
    except (http.client.HTTPException, ConnectionError) as error:
        raise Broken(repr(error)) from None
    finally:
        connection.close()
    if response.status < 300:
        return content
    said = json.loads(content)
    assert {"code", "message"} <= set(said) and isinstance(said["message"], str) and said["message"], said
    raise Refused(response.status, said["code"], said["message"])


def events_of(content):
    """The events of a whole stream; it ends with the end of what ran, or with what went wrong (Refused)."""
    seen = []
    blocks = content.split(b"\n\n")
    if blocks.pop() != b"":
        raise Broken("the stream ends inside an event")
    for block in blocks:
        data = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
        if data:
            seen.append(json.loads(b"\n".join(data)))
    return [event for event in seen if event["type"] != "ping"]


def text_of(seen, kind="stdout"):
    return "".join(event["text"] for event in seen if event["type"] == kind)


def finished(seen):
    """The events of a run that has succeeded."""
    if not seen or seen[-1]["type"] not in ("execution_complete", "error"):
        raise Broken(f"no end: {seen[-3:]}")
    if seen[-1]["type"] == "error":
        error = seen[-1]["error"]
        raise Refused(200, error["ename"], f"{error['evalue']} {error.get('traceback')}", stream=True)
    return seen


def run(agent, path, **fields):
    return finished(events_of(ask(agent, "POST", path, fields)))


def form(*parts):
    body = b""
    for disposition, content in parts:
        body += b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + content + b"\r\n"
    return body + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


# ---- operations: each raises Refused or Broken, or has worked; AssertionError: a wrong answer ------------


def command(agent, here):
    seen = run(agent, "/command", command="echo out; echo err >&2; pwd", cwd=str(here))
    assert (text_of(seen), text_of(seen, "stderr")) == (f"out{here}", "err"), seen


def upload(agent, here):
    content = b"0123456789" * 20000
    (here / "f").write_bytes(b"old")
    parts = [(b'name="metadata"; filename="m"', json.dumps({"path": f"{here}/{name}"}).encode()) for name in ("f", "new/g")]
    body, headers = form(parts[0], (b'name="file"; filename="f"', content), parts[1], (b'name="file"; filename="g"', b"g"))
    try:
        ask(agent, "POST", "/files/upload", body, headers)
        assert ((here / "f").read_bytes(), (here / "new/g").read_bytes()) == (content, b"g")
        assert sorted(os.listdir(here)) == ["f", "new"], os.listdir(here)
    except (Refused, Broken):
        # whole or not at all, and no other file
        assert (here / "f").read_bytes() in (b"old", content)
        names = sorted(str(path.relative_to(here)) for path in here.rglob("*"))
        assert names in (["f"], ["f", "new", "new/g"]), names
        raise


def download(agent, here):
    (here / "f").write_bytes(b"0123456789" * 20000)
    content = ask(agent, "GET", f"/files/download?path={here}/f")
    assert content == b"0123456789" * 20000, len(content)


def replace(agent, here):
    (here / "f").write_bytes(b"one two one")
    try:
        ask(agent, "POST", "/files/replace", {f"{here}/f": {"old": "one", "new": "1"}})
        assert (here / "f").read_bytes() == b"1 two 1"
    except (Refused, Broken):
        assert (here / "f").read_bytes() in (b"one two one", b"1 two 1")
        assert os.listdir(here) == ["f"]
        raise


def files(agent, here):
    (here / "d").mkdir()
    (here / "d/f").write_bytes(b"f")
    info = json.loads(ask(agent, "GET", f"/files/info?path={here}/d/f"))
    assert info[f"{here}/d/f"]["size"] == 1
    found = json.loads(ask(agent, "GET", f"/files/search?path={here}&pattern=*"))
    if agent.order.struck("EACCES") and not found:
        return  # what may not be read is passed over
    assert [each["path"] for each in found] == [f"{here}/d/f"], found
    ask(agent, "POST", "/files/mv", [{"src": f"{here}/d/f", "dest": f"{here}/d/g"}])
    ask(agent, "POST", "/files/permissions", {f"{here}/d/g": {"mode": 600}})
    ask(agent, "POST", "/directories", {f"{here}/x/y": {"mode": 755}})
    found = json.loads(ask(agent, "GET", f"/directories/list?path={here}&depth=3"))
    if not agent.order.struck("EACCES"):
        assert {each["path"] for each in found} >= {f"{here}/d/g", f"{here}/x/y"}, found
    ask(agent, "DELETE", f"/files?path={here}/d/g")
    ask(agent, "DELETE", f"/directories?path={here}/x")
    assert os.listdir(here) == ["d"]


def copy(agent, here):
    (here / "from/sub").mkdir(parents=True)
    (here / "from/sub/f").write_bytes(b"f" * 100000)
    (here / "from/link").symlink_to("sub/f")
    try:
        ask(agent, "POST", "/files/copy", [{"src": f"{here}/from", "dest": f"{here}/to", "recursive": True}])
        assert (here / "to/sub/f").read_bytes() == b"f" * 100000
    except (Refused, Broken):
        assert (here / "from/sub/f").read_bytes() == b"f" * 100000
        raise


def grep(agent, here):
    (here / "f").write_bytes(b"a needle\n")
    said = [json.loads(line) for line in ask(agent, "POST", "/files/grep", {"path": str(here), "pattern": "needle"}).splitlines()]
    if not said or said[-1]["type"] != "end":
        raise Broken(f"no end: {said}")
    if not any(line["type"] == "match" for line in said):
        assert said[-1]["skipped_unreadable"] == 1, said


def archive_down(agent, here):
    (here / "d").mkdir()
    (here / "d/f").write_bytes(b"f" * 100000)
    content = ask(agent, "GET", f"/directories/archive?path={here}/d&format=tar.gz")
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            if agent.order.struck("EACCES"):
                return  # what may not be read is left out
            assert {member.name: tar.extractfile(member).read() for member in tar if member.isfile()} == {"f": b"f" * 100000}
    except (tarfile.TarError, EOFError) as error:
        raise AssertionError(f"a success that is none: {error!r}") from error


def archive_up(agent, here):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in ("d/f", "d/g"):
            member = tarfile.TarInfo(name)
            member.size = 50000
            tar.addfile(member, io.BytesIO(b"x" * 50000))
    try:
        ask(agent, "POST", f"/directories/archive?path={here}/to", out.getvalue())
        assert [(here / "to/d" / name).stat().st_size for name in "fg"] == [50000, 50000]
    except (Refused, Broken):
        for path in (here / "to").rglob("*"):
            assert path.name in ("d", "f", "g"), path
            assert path.is_dir() or path.stat().st_size == 50000, path
        raise


def metrics(agent, here):
    assert json.loads(ask(agent, "GET", "/metrics"))["cpu_count"] > 0
    ask(agent, "GET", "/metrics/prometheus")


def session(agent, here):
    try:
        id = json.loads(ask(agent, "POST", "/session", {"cwd": str(here)}))["session_id"]
        assert text_of(run(agent, f"/session/{id}/run", command="x=1; echo $x")) == "1"
        assert text_of(run(agent, f"/session/{id}/run", command="echo $x")) == "1"
    finally:
        delete_all(agent, "/session", lambda each: f"/session/{each['session_id']}")


def python(agent, here):
    try:
        id = json.loads(ask(agent, "POST", "/code/context", {"language": "python"}))["id"]
        seen = run(agent, "/code", code="40 + 2", context={"id": id, "language": "python"})
        assert [event["results"]["text"] for event in seen if event["type"] == "result"] == ["42"], seen
    finally:
        delete_all(agent, "/code/contexts", lambda each: f"/code/contexts/{each['id']}")


class Terminal:
    """A client of one terminal, by the frames of the WebSocket alone: what breaks it is known by its name."""

    def __init__(self, agent, id):
        try:
            headers = {"X-EXECD-ACCESS-TOKEN": agent.token}
            url = f"ws://{agent.host}:{agent.port}/pty/{id}/ws"
            self.ws = websockets.sync.client.connect(url, additional_headers=headers, open_timeout=WAIT_S)
        except InvalidStatus as refused:
            said = json.loads(refused.response.body)
            raise Refused(refused.response.status_code, said["code"], said["message"]) from None
        except (InvalidHandshake, ConnectionError, EOFError) as error:
            raise Broken(repr(error)) from None

    def frames(self):
        """Output as bytes, the rest as objects; up to the end of the connection."""
        with self.ws:
            while True:
                try:
                    frame = self.ws.recv(timeout=WAIT_S)
                except ConnectionClosed:
                    return
                yield json.loads(frame) if isinstance(frame, str) else frame[9 if frame[0] == 3 else 1 :]


def terminal(agent, here):
    seen, end = b"", None
    try:
        id = json.loads(ask(agent, "POST", "/pty", {"cwd": str(here)}))["session_id"]
        client = Terminal(agent, id)
        for frame in client.frames():
            if isinstance(frame, bytes):
                seen += frame
            elif frame["type"] == "connected":
                client.ws.send(b"\0" + b"echo a$((1+1))b$PWD; exit 7\n")
            elif frame["type"] == "error":
                raise Refused(200, frame["code"], frame["error"], stream=True)
            elif frame["type"] == "exit":
                end = frame["exit_code"]
        if end is None:
            raise Broken("no exit")
        assert end == 7, end
        # a terminal that reads as an error is one that nobody has open any more
        assert b"a2b%s" % bytes(here) in seen or agent.order.struck("EIO"), seen
    finally:
        delete_all(agent, "/pty", lambda each: f"/pty/{each['session_id']}")


def watch(agent, here):
    connection = http.client.HTTPConnection(agent.host, agent.port, timeout=WAIT_S)
    try:
        headers = {"X-EXECD-ACCESS-TOKEN": agent.token}
        connection.request("GET", f"/files/watch?path={here}&recursive=true", headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            said = json.loads(response.read())
            raise Refused(response.status, said["code"], said["message"])
        seen = []
        while line := response.readline():
            event = json.loads(line[5:]) if line.startswith(b"data:") else {}
            seen.append((event.get("type"), event.get("path")))
            if event.get("type") == "ready":
                (here / "d").mkdir()
            elif seen[-1] == ("created", f"{here}/d"):
                (here / "d/f").write_bytes(b"")
                (here / "end").write_bytes(b"")  # is told after what the new directory has
            elif event.get("type") == "overflow":
                return  # it says that it has missed something
            elif seen[-1] == ("created", f"{here}/end"):
                assert ("created", f"{here}/d/f") in seen or agent.order.struck("EACCES"), seen
                return
        raise Broken(f"the stream ends after {seen}")
    except (http.client.HTTPException, ConnectionError) as error:
        raise Broken(repr(error)) from None
    finally:
        connection.close()


def room(agent, here):
    try:
        made = json.loads(ask(agent, "POST", "/v1/isolated/session", {"workspace": {"path": str(here)}}))
        path = f"/v1/isolated/session/{made['session_id']}"
        assert text_of(run(agent, f"{path}/run", code="echo in")) == "in"
    finally:
        delete_all(agent, "/v1/isolated/sessions", lambda each: f"/v1/isolated/session/{each['session_id']}")


def call(agent, here):
    code = "def handler(event):\n    return event + 1"
    said = json.loads(ask(agent, "POST", "/v1/isolated/run", {"code": code, "event": 41}))
    if said.get("error"):
        raise Refused(200, said["error"]["ename"], said["error"]["evalue"], stream=True)
    if said["exit_code"] != 0:
        raise Refused(200, "EXIT", str(said), stream=True)
    assert said["result"] == 42, said


def delete_all(agent, path, path_of):
    """Also those of which the client has not heard: its connection broke before."""
    for _ in range(3):
        with contextlib.suppress(Broken, Refused):  # this, too, may be what the fault strikes
            found = json.loads(ask(agent, "GET", path))
            for each in found if isinstance(found, list) else next(iter(found.values())):
                ask(agent, "DELETE", path_of(each))
            return


# ---- what an agent holds --------------------------------------------------------------------------


def descriptors(pid):
    held = collections.Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            held[re.sub(r"\d+", "N", os.readlink(f"/proc/{pid}/fd/{fd}"))] += 1
    return held


def names(pids):
    """Their names and pids; those that have ended are left out."""
    found = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found


def held(agent):
    """(descriptors, names of children) once nothing is on its way any more."""
    for _ in range(20):
        ask(agent, "GET", "/ping")
    return descriptors(agent.pid), collections.Counter(names(daemon.children(agent.pid)).values())


def left_over(agent, before, but=None):
    """What there is more of than before, when all that is on its way has ended; nothing, as it should be.
    but: descriptors with these words in their name may come."""
    while True:
        now = names(daemon.children(agent.pid))
        more = collections.Counter(now.values()) - before[1]
        if not more:
            break
        if not one_ends([pid for pid, name in now.items() if name in more]):
            return more
    for _ in range(2000):
        ask(agent, "GET", "/ping")
        more = {name: n for name, n in (descriptors(agent.pid) - before[0]).items() if not but or but not in name}
        if not more:
            break
    return more


def one_ends(pids):
    pidfds = []
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                pidfds.append(os.pidfd_open(pid))
        return len(pidfds) < len(pids) or bool(select.select(pidfds, [], [], WAIT_S)[0])
    finally:
        for pidfd in pidfds:
            os.close(pidfd)
