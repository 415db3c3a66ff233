"""The embedded runtime: what its containers are kept from, other OCI runtimes, and ones that fail."""

import io
import json
import os
import shutil
import tarfile
import threading

import pytest

from daemon import process_ended
from test_lifecycle import (
    body,
    container_pid,
    crash,
    create,
    delete,
    nothing_left,
    running,
    sh,
    snapshot_of,
    wait,
)
from test_lifecycle_images import config, named

from images import BUSYBOX, layer, shell

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")

RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"no {name} here"))
    for name in ("crun", "runc")
]


def started_with(tmp_path, runtime="crun", **docker):
    """args of a sandboxd with these settings of [docker]."""
    lines = ["[sandboxd]", f"oci_runtime = {json.dumps(str(runtime))}", "[docker]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in docker.items()]
    path = tmp_path / f"settings-{os.urandom(4).hex()}.toml"
    path.write_text("\n".join(lines) + "\n")
    return ["--config", path]


def refused(sandboxd):
    """Why no sandbox can be made; the same was said at start."""
    response = sandboxd.http.post("/sandboxes", json=body())
    assert response.status_code == 503, response.text
    message = response.json()["message"]
    assert message in sandboxd.logs()
    return message


def status_of(sandboxd, id):
    """The agent's own /proc/PID/status."""
    lines = (line.split(":\t") for line in open(f"/proc/{container_pid(sandboxd, id)}/status"))
    return {line[0]: line[1].strip() for line in lines}


# ---- the life, with any runtime ---------------------------------------------------------


@pytest.mark.parametrize("program", RUNTIMES)
def test_life_with(tmp_path, start_sandboxd, program):
    args = started_with(tmp_path, program)
    first = start_sandboxd(args=args)
    id = running(first, resourceLimits={"cpu": "500m", "memory": "256Mi"}, secureAccess=False, env={"A": "b c"})
    assert sh(first, id, "echo $A; echo kept > /usr/kept; hostname") == "b c\nsandbox"
    assert first.http.post(f"/sandboxes/{id}/pause").status_code == 202
    wait(first, id, "Paused")
    assert first.http.post(f"/sandboxes/{id}/resume").status_code == 202
    wait(first, id, "Running")
    snapshot = snapshot_of(first, id)
    crash(first)

    second = start_sandboxd(state=first.state, args=args)
    assert sh(second, id, "cat /usr/kept") == "kept"
    made = second.http.post("/sandboxes", json={"snapshotId": snapshot, "timeout": 600, "resourceLimits": {}})
    copy = made.json()["id"]
    wait(second, copy, "Running")
    assert sh(second, copy, "cat /usr/kept") == "kept"
    pid = container_pid(second, copy)
    os.kill(pid, 9)
    assert wait(second, copy, "Failed")["status"]["reason"] == "container_killed"
    process_ended(pid)
    exits = create(second, entrypoint=["sh", "-c", "echo last words; exit 3"])
    status = wait(second, exits, "Failed")["status"]
    assert "code 3" in status["message"] and "last words" in status["message"]
    for each in (id, copy, exits):
        delete(second, each)
    nothing_left(second, id, copy, exits)


@pytest.mark.parametrize("program", RUNTIMES)
def test_confined_with(tmp_path, start_sandboxd, program):
    sandboxd = start_sandboxd(args=started_with(tmp_path, program, pids_limit=64))
    id = running(sandboxd)
    status = status_of(sandboxd, id)
    assert status["NoNewPrivs"] == "1"
    assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "1")
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0x425FB | 1 << 31
    assert int(status["CapAmb"], 16) == int(status["CapInh"], 16) == 0
    # what is masked says nothing, what is read-only stays so, and the root has no devices
    assert sh(sandboxd, id, "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c") == "0"
    assert sh(sandboxd, id, "echo 1 > /proc/sys/kernel/sysrq; echo $?") == "1"
    assert sh(sandboxd, id, "mknod /tmp/disk b 8 0 || echo refused; unshare --ipc true || echo refused") == (
        "refused\nrefused"
    )
    roots = [line.split() for line in sh(sandboxd, id, "grep ' / / ' /proc/self/mountinfo").split("\n")]
    assert all("nodev" in fields[5].split(",") for fields in roots), roots
    # calls that nobody needs: EPERM; and what isolated sessions need: an ordinary user's namespaces
    call = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall({}, 0, 0, 0, 0, 0), ctypes.get_errno())"
    assert sh(sandboxd, id, f"python3 -c '{call.format(250)}'") == "-1 1"  # keyctl
    assert sh(sandboxd, id, "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs x /mnt && echo made'") == "made"
    # the limit counts processes: a bomb ends at it (bash would try again for a while)
    assert "ork" in sh(sandboxd, id, "sh -c 'for n in $(seq 100); do sleep 1000 >/dev/null 2>&1 & done' 2>&1")
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


@pytest.mark.parametrize("program", RUNTIMES)
@pytest.mark.skipif(not BUSYBOX, reason="no busybox here to put into images")
def test_devices_of_an_image(tmp_path, start_sandboxd, program):
    root = tmp_path / "root"
    with tarfile.open(fileobj=io.BytesIO(layer(shell()))) as tar:
        tar.extractall(root)
    os.mknod(root / "zero", 0o20666, os.makedev(1, 5))
    os.chmod(root / "zero", 0o666)
    settings = config(tmp_path, [("evil", f"dir:{root}")], oci_runtime=program)
    sandboxd = start_sandboxd(**settings)
    id = running(sandboxd, image=named("evil"))
    said = sh(sandboxd, id, "stat -c %F /zero; /bin/busybox head -c 1 /zero && echo read || echo refused")
    assert said == "character special file\nrefused"


# ---- settings ------------------------------------------------------------------------------


def test_capabilities_by_setting(tmp_path, start_sandboxd):
    sandboxd = start_sandboxd(args=started_with(tmp_path, drop_capabilities=["CHOWN", "cap_kill", "NET_RAW", "MKNOD"]))
    id = running(sandboxd)
    status = status_of(sandboxd, id)
    assert int(status["CapBnd"], 16) == (0x425FB | 1 << 31) & ~(1 << 0 | 1 << 5 | 1 << 13)
    none = start_sandboxd(state=tmp_path / "other", args=started_with(tmp_path, drop_capabilities=["ALL"]))
    assert int(status_of(none, running(none))["CapBnd"], 16) == 0
    wrong = start_sandboxd(state=tmp_path / "third", args=started_with(tmp_path, drop_capabilities=["FLYING"]))
    assert "'FLYING' is not the name of a capability" in refused(wrong)


def test_network_of_others_gives_no_raw_packets(start_sandboxd):
    sandboxd = start_sandboxd(network="host")
    assert not int(status_of(sandboxd, running(sandboxd))["CapBnd"], 16) & 1 << 13


def test_privileges_by_setting(tmp_path, start_sandboxd):
    settings = started_with(tmp_path, no_new_privileges=False, seccomp_profile="unconfined")
    sandboxd = start_sandboxd(args=settings)
    status = status_of(sandboxd, running(sandboxd))
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("0", "0")


@pytest.mark.parametrize("program", RUNTIMES)
def test_profile_by_setting(tmp_path, start_sandboxd, program):
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["sethostname", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_MODULE"]}},
            {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"},
        ],
    }
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    sandboxd = start_sandboxd(args=started_with(tmp_path, program, seccomp_profile=str(path)))
    id = running(sandboxd)
    assert "No space left" in sh(sandboxd, id, "mkdir /x 2>&1")
    assert sh(sandboxd, id, "rmdir /media && echo gone") == "gone"
    assert "no_such_call" in sandboxd.logs()


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "line 1"),
        ("[]", "must be an object"),
        ('{"defaultAction": "SCMP_ACT_SING"}', "defaultAction"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}]}', "execve"),
        (None, "No such file"),
    ],
)
def test_profile_that_is_none(tmp_path, start_sandboxd, text, words):
    path = tmp_path / "profile.json"
    if text is not None:
        path.write_text(text)
    sandboxd = start_sandboxd(args=started_with(tmp_path, seccomp_profile=str(path)))
    message = refused(sandboxd)
    assert words.lower() in message.lower() and "docker.seccomp_profile" in message
    assert sandboxd.http.get("/health").status_code == 200


@pytest.mark.parametrize("program", RUNTIMES)
def test_nested_isolation_by_setting(tmp_path, start_sandboxd, program):
    sandboxd = start_sandboxd(**config(tmp_path, nested_isolation=False, oci_runtime=program))
    id = running(sandboxd)
    assert sh(sandboxd, id, "unshare --user true || echo refused") == "refused"
    assert sh(sandboxd, id, "grep -c ' /dev ' /proc/self/mountinfo") == "1"
    assert sh(sandboxd, id, "python3 -c 'import threading as t; x = t.Thread(target=print, args=[1]); x.start(); x.join()'") == "1"


NESTED = r"""
# Root of a user namespace in the container, with mounts and processes of its own: what comes of each attempt.
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
call = lambda *args: libc.syscall(*[arg.encode() if isinstance(arg, str) else ctypes.c_long(arg) for arg in args])
FSOPEN, FSCONFIG, FSMOUNT, MOVE_MOUNT, OPEN_TREE, MOUNT_SETATTR = 430, 431, 432, 429, 428, 442
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, HERE = 1, 2, 4, 8, 32, 4096, 16384, -100

def tell(name, r):
    print(name, "done" if r >= 0 else errno.errorcode[ctypes.get_errno()])
    return r

def mount(source, target, kind, flags):
    return libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)

def fsmount(attrs):
    fs = call(FSOPEN, "proc", 1)
    call(FSCONFIG, fs, 6, 0, 0, 0)
    return call(FSMOUNT, fs, 1, attrs)

def writes(name, path):  # it is only opened: where that works, the machine is to stay as it is
    try:
        os.close(os.open(path, os.O_WRONLY))
        print(name, "done")
    except OSError as why:
        print(name, errno.errorcode[why.errno])

def setattr(fd, path, flags, clear):
    class attr(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]
    a = attr(0, clear, 0, 0)
    return libc.syscall(MOUNT_SETATTR, fd, path.encode(), flags, ctypes.byref(a), ctypes.sizeof(a))

tell("writable", mount("proc", "/mnt", "proc", NOSUID | NODEV | NOEXEC))
tell("writable, by pieces", fsmount(0))
tell("read-only, then not", setattr(tell("read-only", fsmount(1)), "", 0x1000, 1))
tell("mounted", mount("proc", "/mnt", "proc", RDONLY | NOSUID | NODEV | NOEXEC))
for what, flags in ("remounted", REMOUNT | NOSUID | NODEV | NOEXEC), ("remounted alone", REMOUNT | BIND | NOSUID | NODEV | NOEXEC):
    tell(what, mount("none", "/mnt", "none", flags))
tell("set writable", setattr(HERE, "/mnt", 0, 1))
writes("core_pattern", "/mnt/sys/kernel/core_pattern")
writes("sysrq", "/mnt/sysrq-trigger")
writes("own", "/mnt/self/oom_score_adj")
try:
    open("/mnt/kcore", "rb").read(1)
    print("kcore done")
except OSError as why:
    print("kcore", errno.errorcode[why.errno])
for where in "/dev", "/proc", "/proc/sys", "/proc/keys":
    tell("uncovered " + where, libc.umount2(where.encode(), 2))
for where in "/dev", "/proc", "/dev/null":  # the last has nothing below it
    tell("uncloned " + where, call(OPEN_TREE, HERE, where, 0x80001))
tell("moved", call(MOVE_MOUNT, HERE, "/dev", HERE, "/media", 0))
tell("bound", mount("/", "/media", "none", BIND))
tell("bound as it is", mount("/", "/media", "none", BIND | REC))
tell("uncovered there", libc.umount2(b"/media/dev", 2))
os.chdir("/media")
print("covered", len(os.listdir("/media/dev")) > 5 and not os.path.exists("/media/dev/proc"))
"""

@pytest.mark.parametrize("program", RUNTIMES)
def test_namespaces_within_get_no_writable_proc(tmp_path, start_sandboxd, program):
    """The procfs that lets rooms have theirs is reached by no path, and only read by no trick."""
    sandboxd = start_sandboxd(**config(tmp_path, oci_runtime=program))
    id = running(sandboxd)
    said = sh(sandboxd, id, f"cat > /tmp/n.py <<'E'\n{NESTED}\nE\nunshare -Umpfr python3 /tmp/n.py 2>&1")
    told = dict(line.rsplit(" ", 1) for line in said.strip().split("\n"))
    allowed = {name for name, word in told.items() if word in ("done", "True")}
    # what is allowed is shown to be: else nothing has been tried
    assert allowed == {"read-only", "mounted", "bound as it is", "uncloned /dev/null", "covered"}, said
    assert set(told.values()) <= {"done", "True", "EPERM", "EINVAL", "EROFS", "EACCES", "ENOENT"}, said
    assert sh(sandboxd, id, "ls /dev/proc /dev/fs 2>/dev/null; (: >> /proc/sys/kernel/core_pattern) 2>/dev/null || echo no") == "no"


# ---- its log ----------------------------------------------------------------------------------


def test_log_is_bounded(tmp_path, start_sandboxd):
    talk = "seq -f 'line %.0f of many that are written here' 100000; echo the last line; exec tail -f /dev/null"
    settings = config(tmp_path, container_log_max_kb=512)
    first = start_sandboxd(**settings)
    id = running(first, entrypoint=["sh", "-c", talk])
    log = first.state / "sandboxes" / id / "container.log"
    assert wait_for(lambda: b"the last line" in log.read_bytes())
    assert log.stat().st_size > 2 << 20
    assert wait_for(lambda: log.stat().st_blocks * 512 < 700 << 10), log.stat()
    answer = first.http.get(f"/sandboxes/{id}/diagnostics/logs", params={"scope": "container"}).json()
    assert answer["truncated"] is True
    assert answer["content"].rstrip().endswith("the last line"), answer["content"][-200:]
    assert "\0" not in answer["content"]
    # what is said while nobody looks is cut when somebody does
    crash(first)
    with log.open("ab") as out:
        out.write(b"more\n" * (1 << 19))
    second = start_sandboxd(state=first.state, **settings)
    assert wait_for(lambda: log.stat().st_blocks * 512 < 700 << 10), log.stat()
    delete(second, id)


def wait_for(condition):
    """Within the time that a hang is given; nothing tells us of a file."""
    for _ in range(600):
        if condition():
            return True
        threading.Event().wait(0.05)
    return False


# ---- runtimes that fail -------------------------------------------------------------------------


def wrapper(tmp_path, run="", delete="", after=""):
    """A crun that does this before (or after) what it is asked for."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "crun"
    crun = shutil.which("crun")
    tail = f'{crun} "$@"; code=$?; {after}; exit $code' if after else f'exec {crun} "$@"'
    program.write_text(
        "#!/bin/sh\n"
        f'[ "$4" = run ] || [ "$4" = delete ] || exec {crun} "$@"\n'
        f'case "$4" in run) {run or ":"} ;; delete) {delete or ":"}; exec {crun} "$@" ;; esac\n{tail}\n'
    )
    program.chmod(0o755)
    return program


def test_runtime_that_started_it_and_says_no(tmp_path, start_sandboxd):
    program = wrapper(tmp_path, after="echo changed my mind >&2; code=1")
    sandboxd = start_sandboxd(args=started_with(tmp_path, program))
    id = create(sandboxd)
    assert "changed my mind" in wait(sandboxd, id, "Failed")["status"]["message"]
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


def test_runtime_that_tells_no_pid(tmp_path, start_sandboxd):
    program = wrapper(tmp_path, after='shift 4; while [ "$1" != --pid-file ]; do shift; done; rm "$2"')
    sandboxd = start_sandboxd(args=started_with(tmp_path, program))
    id = create(sandboxd)
    assert wait(sandboxd, id, "Failed")["status"]["reason"] == "container_lost"
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


def test_runtime_that_spoils_the_bundle(tmp_path, start_sandboxd):
    program = wrapper(tmp_path, run='for last; do :; done; echo "{" > config.json')
    sandboxd = start_sandboxd(args=started_with(tmp_path, program))
    id = create(sandboxd)
    assert wait(sandboxd, id, "Failed")["status"]["reason"] == "runtime_error"
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


@pytest.mark.parametrize("how", ["exit 1", "kill -9 $$"])
def test_runtime_that_does_not_delete(tmp_path, start_sandboxd, how):
    program = wrapper(tmp_path, delete=how)
    sandboxd = start_sandboxd(args=started_with(tmp_path, program))
    id = running(sandboxd)
    pid = container_pid(sandboxd, id)
    delete(sandboxd, id)
    process_ended(pid)
    assert os.listdir(sandboxd.state / "sandboxes") == []
    assert sandboxd.http.get("/health").status_code == 200


def test_runtime_whose_delete_hangs(tmp_path, start_sandboxd):
    program = wrapper(tmp_path, delete="exec tail -f /dev/null")
    settings = config(tmp_path, oci_runtime=str(program), stop_timeout_seconds=1)
    sandboxd = start_sandboxd(**settings)
    id = running(sandboxd)
    delete(sandboxd, id)
    assert os.listdir(sandboxd.state / "sandboxes") == []


def test_runtime_that_goes_away(tmp_path, start_sandboxd):
    program = wrapper(tmp_path)
    sandboxd = start_sandboxd(args=started_with(tmp_path, program))
    living = running(sandboxd)
    program.unlink()
    id = create(sandboxd)
    assert str(program) in wait(sandboxd, id, "Failed")["status"]["message"]
    delete(sandboxd, id)
    wrapper(tmp_path)
    delete(sandboxd, living)
    nothing_left(sandboxd, id, living)


def test_runtime_that_hands_nothing_on(tmp_path, start_sandboxd):
    program = tmp_path / "runsc"
    program.write_text("#!/bin/sh\necho 'run [flags] <container id> - create and run a secure container.'\n")
    program.chmod(0o755)
    sandboxd = start_sandboxd(args=["--runtime", program])
    assert "--preserve-fds" in refused(sandboxd)
