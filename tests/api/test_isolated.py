"""Isolated sessions: what one can reach from within, tried as somebody would who wants out."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from daemon import BUILD, EXECD, events

SESSION = "/v1/isolated/session"
ATTACK = BUILD / "api/attack"


def can_userns():
    return subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode == 0


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change users")
needs_userns = pytest.mark.skipif(not can_userns(), reason="no user namespaces here: unshare -Ur true fails")


class Session:
    def __init__(self, execd, **fields):
        self.execd = execd
        response = execd.http.post(SESSION, json=fields)
        assert response.status_code == 201, response.text
        self.info = response.json()
        self.path = f"{SESSION}/{self.info['session_id']}"

    def events(self, code, **fields):
        with self.execd.stream("POST", f"{self.path}/run", json={"code": code, **fields}) as response:
            return [event for event in events(response) if event["type"] != "ping"]

    def run(self, code, **fields):
        """(exit code, standard output)"""
        seen = self.events(code, **fields)
        end = seen[-1]
        code = 0 if end["type"] == "execution_complete" else end["end"]["exit_code"]
        return code, "\n".join(event["text"].rstrip("\n") for event in seen if event["type"] == "stdout")

    def out(self, code, **fields):
        return self.run(code, **fields)[1].strip()

    def fails(self, code):
        return self.run(f"({code}) 2>/dev/null")[0] != 0

    def delete(self):
        return self.execd.http.delete(self.path)


@pytest.fixture
def tmp_path():
    """Where an ordinary user gets too: pytest's own is closed to others with each pytest that starts."""
    folder = Path(tempfile.mkdtemp(prefix="execd-rooms-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "workspace"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "below").write_text("below\n")
    return folder


@pytest.fixture(params=["setpriv", "userns", "user"])
def agent(request, start_execd, monkeypatch):
    """The agent as root with CAP_SYS_ADMIN, as root without it, and as an ordinary user."""
    if request.param != "setpriv" and not can_userns():
        pytest.skip("no user namespaces here: unshare -Ur true fails")
    if os.geteuid() != 0 and request.param != "user":
        pytest.skip("needs root")
    if request.param != "setpriv" and os.geteuid() == 0:
        drop = {
            "userns": ["--inh-caps=-all", "--bounding-set=-sys_admin,-sys_ptrace"],
            "user": ["--reuid=65533", "--regid=65533", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"],
        }[request.param]
        place = Path("/tmp") / f"execd-test-{os.getpid()}-{request.param}"
        place.mkdir(exist_ok=True)
        place.chmod(0o755)
        request.addfinalizer(lambda: shutil.rmtree(place))
        shutil.copy(EXECD, place / "execd")
        wrapper = place / "start"
        wrapper.write_text(f'#!/bin/sh\nexec setpriv {" ".join(drop)} {place}/execd "$@"\n')
        wrapper.chmod(0o755)
        monkeypatch.setattr("daemon.EXECD", str(wrapper))
    daemon = start_execd()
    daemon.kind = request.param
    return daemon


@pytest.fixture
def session(agent, workspace):
    return Session(agent, workspace={"path": str(workspace)})


# ---- what a session sees -------------------------------------------------------


def test_namespaces_are_its_own(agent, session):
    for name in ("mnt", "pid", "ipc", "uts", "cgroup"):
        assert session.out(f"readlink /proc/self/ns/{name}") != os.readlink(f"/proc/{agent.pid}/ns/{name}"), name
    assert session.out("readlink /proc/self/ns/net") == os.readlink(f"/proc/{agent.pid}/ns/net")


def test_without_network_there_is_only_loopback(agent, workspace):
    session = Session(agent, workspace={"path": str(workspace)}, share_net=False)
    assert session.out("ls /proc/self/net/route && tail -n +2 /proc/self/net/route | wc -l").split()[-1] == "0"
    assert session.out("tail -n +3 /proc/self/net/dev | cut -d: -f1").split() == ["lo"]
    reach = f"exec 3<>/dev/tcp/127.0.0.1/{agent.port}"
    assert session.fails(reach)


def test_processes_of_others_are_not_there(agent, session):
    other = Session(agent, overlays=session.info["overlays"])
    other.run("sleep 1000 & ")
    pids = session.out("cd /proc; ls -d [0-9]*").split()
    names = session.out("cat /proc/[0-9]*/comm 2>/dev/null").split()
    assert "sleep" not in names and len(pids) < 10
    assert session.fails(f"kill -0 {agent.pid}")


def test_no_privilege_is_left(session):
    status = session.out("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status")
    values = dict(line.split(":\t") for line in status.split("\n") if line)
    assert all(int(values[name], 16) == 0 for name in values if name.startswith("Cap")), status
    assert values["NoNewPrivs"] == "1" and values["Seccomp"] == "2"


def test_descriptors_of_the_agent_are_not_there(session):
    """The shell has what its protocol needs; what it starts has nothing but the three."""
    fds = session.out("ls /proc/self/fd").split()
    assert sorted(fds, key=int) == ["0", "1", "2", "3", "60"]  # 3 is the directory ls reads, 60 the script
    assert session.out("for fd in /proc/self/fd/*; do readlink $fd; done | grep -c socket") == "0"


def test_the_init_cannot_be_looked_into(session):
    assert session.fails("readlink /proc/1/exe")
    assert session.fails("cat /proc/1/environ")
    assert session.fails("cat /proc/1/mem")
    assert session.fails("cat /proc/1/maps")
    assert session.fails("ls /proc/1/root/")
    assert session.fails("ls /proc/1/cwd/")
    assert session.fails("head -c1 /proc/1/exe")
    assert session.fails("readlink /proc/1/fd/3")


def test_the_init_cannot_be_ended_from_within(session):
    for name in ("KILL", "STOP", "TERM", "SEGV", "INT", "HUP", "CHLD"):
        session.run(f"kill -{name} 1")
    assert session.out("echo alive") == "alive"


def test_programs_of_the_agent_are_out_of_reach(agent, session):
    """Neither by /proc/PID/exe, nor by its root, nor where the container has it."""
    own = session.out("for p in /proc/[0-9]*/exe; do readlink $p; done | grep -E 'execd|memfd' | wc -l")
    assert own == "0"
    roots = "for p in /proc/[0-9]*/root; do ls $p/ >/dev/null 2>&1 && { [ -e $p/tmp/own ] && echo own || echo other; }; done"
    assert set(session.out(f"touch /tmp/own; {roots}").split()) == {"own"}
    for path in ("/proc/1/exe", "/proc/self/exe", "/.execd/execd", "/execd"):
        assert session.fails(f"[ ! -e {path} ] || echo x >> {path}") or session.fails(f"[ -e {path} ]"), path
    assert session.fails("exec 3<>/proc/1/mem") and session.fails("ls /proc/1/map_files/")
    assert agent.http.get("/ping").status_code == 200


def test_no_core_is_dumped(session):
    """A handler in core_pattern would be started outside."""
    assert session.out("ulimit -Hc") == "0" and session.fails("ulimit -c unlimited")
    assert session.fails(": >> /proc/sys/kernel/core_pattern")
    assert session.run("sh -c 'kill -SEGV $$'")[0] != 0 and session.out("ls | sort") == "below"


def test_everything_may_be_killed_and_the_next_run_works(agent, session):
    session.run("kill -9 -1")
    assert session.out("echo alive") == "alive"
    assert agent.http.get("/ping").status_code == 200


# ---- files ----------------------------------------------------------------------


def test_the_container_is_read_only(session, tmp_path):
    for path in ("/etc/passwd", "/usr/bin/env", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
                 "/sys/kernel/uevent_helper", "/proc/self/oom_score_adj"):
        assert session.fails(f"echo x >> {path}"), path
    for folder in ("/", "/etc", "/usr", "/root", "/var", "/dev", "/sys"):
        assert session.fails(f"touch {folder}/execd-was-here"), folder
    session.run(f"touch {tmp_path}/execd-was-here")  # in a /tmp of its own
    assert not list(Path("/etc").glob("execd-was-here")) and not list(tmp_path.glob("execd-was-here"))


def test_writing_stays_in_the_overlay(session, workspace):
    session.run("echo changed > below; echo new > new; mkdir d; rm -f below")
    assert sorted(p.name for p in workspace.iterdir()) == ["below"]
    assert (workspace / "below").read_text() == "below\n"


def test_sessions_do_not_see_each_others_files(agent, workspace):
    one = Session(agent, workspace={"path": str(workspace)})
    other = Session(agent, workspace={"path": str(workspace)})
    one.run("echo secret-of-one > mine; echo secret-of-one > /tmp/mine; echo secret-of-one > /dev/shm/mine")
    assert other.fails("cat mine") and other.fails("cat /tmp/mine") and other.fails("cat /dev/shm/mine")
    assert other.out("cd /var/lib/execd/isolation || cd /var/tmp/execd-isolation-$(id -u); ls") == ""
    assert other.out("cat /proc/*/root/tmp/mine /proc/*/cwd/mine 2>/dev/null") == ""


def test_an_environment_is_not_readable_by_another(agent, workspace):
    one = Session(agent, workspace={"path": str(workspace)})
    other = Session(agent, workspace={"path": str(workspace)})
    one.run("sleep 1000 &", envs={"HIDDEN": "value-of-one"})
    assert other.out("cat /proc/*/environ 2>/dev/null | grep -c value-of-one") == "0"
    assert agent.token not in other.out("cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")


def test_the_token_is_nowhere(agent, session):
    assert session.out("env | grep -c EXECD_ACCESS") == "0"


def test_cgroups_and_release_agents_are_out_of_reach(session):
    assert session.out("ls /sys/fs") == ""
    assert session.out("find / -xdev -name release_agent 2>/dev/null | head -1") == ""
    assert session.out("grep -c cgroup /proc/self/mounts || true") is not None
    assert session.fails("mkdir /sys/fs/cgroup/x") and session.fails("ls /sys/fs/cgroup/*")


def test_files_api_follows_links_inside_only(agent, session, workspace, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("outside\n")
    outside.chmod(0o666)
    session.run(f"ln -s /etc/hostname link; ln -s {outside} out; ln -s ../../../../../../../.. up")
    read = agent.http.get(f"{session.path}/files/download", params={"path": f"{workspace}/up/tmp/x"})
    assert read.status_code == 404
    files = [("metadata", ("metadata", '{"path": "%s/out"}' % workspace, "application/json")),
             ("file", ("out", b"overwritten", "application/octet-stream"))]
    written = agent.http.post(f"{session.path}/files/upload", files=files)
    assert written.status_code in (200, 403, 404), written.text  # it may have made one in a /tmp of its own
    assert outside.read_text() == "outside\n"


def test_a_race_of_links_gets_nobody_out(agent, session, workspace, tmp_path):
    """A process swaps a directory for a link to a place outside while files are written through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    run = agent.http.post(
        f"{session.path}/run",
        json={
            "code": f"cd {workspace}; mkdir d; while :; do mv d e; ln -sfn {outside} d; rm d; mv e d; done 2>/dev/null",
            "background": True,
        },
    )
    assert run.status_code == 202
    for i in range(50):
        files = [("metadata", ("metadata", '{"path": "%s/d/f%d"}' % (workspace, i), "application/json")),
                 ("file", ("f", b"x", "application/octet-stream"))]
        agent.http.post(f"{session.path}/files/upload", files=files)
        agent.http.get(f"{session.path}/files/download", params={"path": f"{workspace}/d/../../outside/f"})
    assert list(outside.iterdir()) == [] and sorted(p.name for p in workspace.iterdir()) == ["below"]


def test_hidden_paths_are_empty(agent, workspace, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("key\n")
    open_place = Path("/usr/share/doc")
    session = Session(agent, workspace={"path": str(workspace)}, hide=[str(open_place)])
    assert open_place.is_dir() and session.out(f"ls {open_place} | wc -l") == "0"


# ---- calls -------------------------------------------------------------------------

PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"


@pytest.mark.parametrize(
    "call",
    [
        "unshare --user true",
        "unshare --mount true",
        "mount -t tmpfs none /mnt",
        "umount /tmp",
        "umount /proc",
        "mount -o remount,rw /",
        "chroot / true",
        "nsenter --target 1 --mount true",
        "mknod /tmp/disk b 8 0 && head -c1 /tmp/disk",
        "hostname other",
        "date -s 2001-01-01",
    ],
)
def test_calls_that_are_refused(execd, workspace, call):
    session = Session(execd, workspace={"path": str(workspace)})
    assert session.fails(call)


@pytest.mark.parametrize("number", ["ptrace", "keyctl", "bpf", "io_uring_setup", "userfaultfd", "kexec_load"])
def test_system_calls_that_are_denied_are_named(execd, workspace, number):
    numbers = {"ptrace": 101, "keyctl": 250, "bpf": 321, "io_uring_setup": 425, "userfaultfd": 323, "kexec_load": 246}
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers here are those of x86-64")
    session = Session(execd, workspace={"path": str(workspace)})
    code = f"{PYTHON} -c 'import ctypes; c = ctypes.CDLL(None, use_errno=True); exit(c.syscall({numbers[number]}, 0, 0, 0, 0, 0) >= 0)'"
    seen = session.events(code)
    assert number in [denied["syscall"] for denied in seen[-1]["end"]["denied"]]


def test_each_call_of_an_attacker_is_denied(execd, workspace):
    tool = workspace / "attack"
    shutil.copy(ATTACK, tool)
    session = Session(execd, workspace={"path": str(workspace)})
    seen = session.events("./attack $(./attack list)")
    came = dict(line.split() for event in seen if event["type"] == "stdout" for line in event["text"].split("\n") if line)
    assert {name for name, word in came.items() if word == "ok"} == {"fork", "tcp", "getpid"}, came
    assert len(came) > 40 and {word for word in came.values()} <= {"ok", "EPERM", "ENOSYS"}, came
    told = {denied["syscall"] for denied in seen[-1]["end"]["denied"]}
    # what a filter of the container's denies before ours is not told to anybody
    beyond = {"keyctl", "bpf", "io_uring_setup", "userfaultfd"} if not getattr(execd, "filtered", False) else set()
    assert {"ptrace", "mount", "setns"} | beyond <= told, told


@needs_root
def test_setuid_programs_gain_nothing(execd, tmp_path, workspace):
    tool = workspace / "id"
    shutil.copy("/usr/bin/id", tool)
    os.chown(tool, 0, 0)
    tool.chmod(0o4755)
    session = Session(execd, workspace={"path": str(workspace), "mode": "rw"}, uid=12345, gid=12345)
    assert session.out("./id -u") == "12345"


@needs_root
def test_ids_are_the_session_s(execd, workspace):
    session = Session(execd, workspace={"path": str(workspace), "mode": "rw"}, uid=12345, gid=23456)
    assert session.out("id -u; id -g; touch made").split() == ["12345", "23456"]
    made = (workspace / "made").stat()
    assert (made.st_uid, made.st_gid) == (12345, 23456)


# ---- bounds -------------------------------------------------------------------------


BOMB = """
import os, signal
n = 0
try:
    while n < 200:
        if os.fork() == 0:
            os.closerange(0, 100)
            signal.pause()
        n += 1
except BlockingIOError:
    print("bounded")
"""


def test_a_fork_bomb_is_bounded(execd, workspace):
    uid = 20000 + os.getpid() % 40000  # others run this test at the same time
    response = execd.http.post(
        SESSION, json={"workspace": {"path": str(workspace)}, "uid": uid, "limits": {"processes": 40}}
    )
    if response.status_code == 501:
        pytest.skip(response.json()["message"])
    session = Session.__new__(Session)
    session.execd, session.info = execd, response.json()
    session.path = f"{SESSION}/{session.info['session_id']}"
    seen = session.events(f"{PYTHON} -c '{BOMB}'")
    assert [event["text"].strip() for event in seen if event["type"] == "stdout"] == ["bounded"], seen
    mine = [p for p in Path("/proc").glob("[0-9]*/status") if f"\nUid:\t{uid}\t" in read(p)]
    assert 0 < len(mine) <= 41
    assert execd.run("echo alive")[-1]["type"] == "execution_complete"
    assert session.delete().status_code == 204
    assert [p for p in Path("/proc").glob("[0-9]*/status") if f"\nUid:\t{uid}\t" in read(p)] == []


def read(path):
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_full_disk_is_the_session_s_own(execd, workspace):
    session = Session(
        execd,
        overlays=[{"path": str(workspace), "persist": False, "size_bytes": 1 << 20}],
        tmp_bytes=1 << 20,
    )
    assert session.fails("head -c 3000000 /dev/zero > big")
    assert session.fails("head -c 3000000 /dev/zero > /tmp/big")
    assert session.out("rm -f big /tmp/big; echo small > small; cat small") == "small"


def test_a_size_is_held_while_a_run_is_on(execd, workspace):
    """Whoever names a size gets one that the kernel holds; the answer says so, and others do not feel it."""
    other = Session(execd, overlays=[{"path": str(workspace)}])
    session = Session(execd, overlays=[{"path": str(workspace), "size_bytes": 1 << 20}])
    mount = session.info["overlays"][0]
    assert mount["size_bound"] == "at_once" and mount["size_bytes"] == 1 << 20 and mount["persist"] is False
    assert other.info["overlays"][0]["size_bound"] in ("none", "at_once")  # on disk, where it can hold layers
    assert "No space left" in session.run("yes 2>&1 >big")[1]
    assert other.out("head -c 3000000 /dev/zero >big; stat -c %s big") == "3000000"
    assert execd.http.get(session.path).json()["overlays"] == session.info["overlays"]
    bounds = execd.http.get("/v1/isolated/capabilities").json()["size_bound"]
    assert bounds == {"memory": "at_once", "disk": "after_run"}


@pytest.mark.skipif(shutil.which("python3") is None, reason="there is no python3 here")
def test_a_call_is_forked_into_a_room_of_any_kind(agent):
    """As root with and without CAP_SYS_ADMIN, and as an ordinary user: always by the warm Python."""
    code = """import os, sys
def handler(event):
    caps = [line for line in open('/proc/self/status') if line.startswith('CapEff')][0].split()[1]
    return [event, sys.flags.isolated, int(caps, 16), os.getpid() < 10]
"""
    for n in range(4):
        response = agent.http.post("/v1/isolated/run", json={"code": code, "event": n})
        assert response.json().get("result") == [n, 1, 0, True], response.text


# ---- the agent ------------------------------------------------------------------------


def test_an_unknown_session_is_404(execd):
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/run"), ("GET", "/runs/x"), ("GET", "/files/info")]:
        response = execd.http.request(method, f"{SESSION}/none{path}", json={"code": "true"} if method == "POST" else None)
        assert response.status_code == 404, (method, path, response.text)


@pytest.mark.parametrize(
    "fields, word",
    [
        ({}, "workspace"),
        ({"workspace": {"path": "relative"}}, "workspace"),
        ({"workspace": {"path": "/a/../b"}}, "workspace"),
        ({"workspace": {"path": "/proc/x"}}, "/proc"),
        ({"workspace": {"path": "/w", "mode": "wild"}}, "mode"),
        ({"workspace": {"path": "/w"}, "profile": "loose"}, "profile"),
        ({"workspace": {"path": "/w"}, "uid_mode": "magic"}, "uid_mode"),
        ({"workspace": {"path": "/w"}, "env_passthrough": {"mode": "some"}}, "env_passthrough"),
        ({"workspace": {"path": "/w"}, "binds": [{"source": "x"}]}, "binds"),
        ({"workspace": {"path": "/w"}, "idle_timeout_seconds": -1}, "idle_timeout_seconds"),
        ({"overlays": [{"path": "/w"}, {"path": "/w"}]}, "twice"),
        ({"overlays": [{"path": "/w", "mode": "ro", "persist": True}]}, "persist"),
    ],
)
def test_what_is_wrong_is_named(execd, fields, word):
    response = execd.http.post(SESSION, json=fields)
    assert response.status_code == 400 and word in response.json()["message"], response.text
    assert not Path("/w").exists()


def test_idle_sessions_go(execd, workspace):
    session = Session(execd, workspace={"path": str(workspace)}, idle_timeout_seconds=1)
    with execd.stream("POST", "/command", json={"command": "true"}) as response:
        list(events(response))
    while execd.http.get(session.path).status_code == 200:
        pass
    assert execd.http.get(session.path).status_code == 404


def test_a_room_that_dies_is_told_and_spares_the_others(execd, workspace):
    session, other = (Session(execd, workspace={"path": str(workspace)}) for _ in range(2))
    init = int(session.out("exec 3</proc/self/status; grep NSpid <&3 | cut -f2") or 0)
    with execd.stream("POST", f"{session.path}/run", json={"code": "echo on; sleep 1000"}) as response:
        seen = events(response)
        while next(seen)["type"] != "stdout":
            pass
        children = Path(f"/proc/{execd.pid}/task/{execd.pid}/children").read_text().split()
        rooms = [pid for pid in children if read(Path(f"/proc/{pid}/comm")).strip() == "execd-nursery"]
        sleepers = [pid for pid in rooms if Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()]
        assert len(sleepers) == 1 and init >= 0
        os.kill(int(sleepers[0]), signal.SIGKILL)
        assert list(seen)[-1]["type"] == "error"
    assert execd.http.get(session.path).json()["status"] == "dead"
    assert execd.http.post(f"{session.path}/run", json={"code": "true"}).status_code == 410
    assert other.out("echo well") == "well"


def test_the_nursery_is_started_anew(execd, workspace):
    Session(execd, workspace={"path": str(workspace)})
    children = Path(f"/proc/{execd.pid}/task/{execd.pid}/children").read_text().split()
    nursery = [pid for pid in children if read(Path(f"/proc/{pid}/cmdline")).startswith("execd-nursery")
               and os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{execd.pid}/ns/pid")]
    assert len(nursery) == 1
    os.kill(int(nursery[0]), signal.SIGKILL)
    assert Session(execd, workspace={"path": str(workspace)}).out("echo again") == "again"


def test_nothing_is_left_behind(start_execd, workspace, tmp_path):
    root = tmp_path / "isolation"
    execd = start_execd(args=["--isolation-upper-root", str(root)])
    first = Session(execd, workspace={"path": str(workspace)})
    first.run("sleep 1000 & echo x > x")
    first.delete()
    fds = len(os.listdir(f"/proc/{execd.pid}/fd"))
    for i in range(20):
        session = Session(execd, workspace={"path": str(workspace)}, share_net=i % 5 != 0)
        session.run("sleep 1000 & (setsid sleep 1000 &) ; echo x > x")
        execd.http.get(f"{session.path}/files/info", params={"path": str(workspace)})
        assert session.delete().status_code == 204
    assert execd.http.get("/v1/isolated/sessions").json() == {"sessions": []}
    assert len(os.listdir(f"/proc/{execd.pid}/fd")) <= fds + 2
    execd.stop()
    execd.expect_exit = None  # it has been looked at
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not root.exists() or list(root.iterdir()) == []


def test_many_at_once(execd, workspace):
    made, failed = [], []

    def make():
        client = execd.client(headers={"X-EXECD-ACCESS-TOKEN": execd.token}, timeout=120)
        for _ in range(25):
            response = client.post(SESSION, json={"workspace": {"path": str(workspace)}})
            (made if response.status_code == 201 else failed).append(response.json())

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len({item["session_id"] for item in made}) == 100
    assert len(execd.http.get("/v1/isolated/sessions").json()["sessions"]) == 100


def test_capabilities_name_what_is_missing(agent):
    told = agent.http.get("/v1/isolated/capabilities").json()
    assert told["available"]
    privileged = agent.kind in ("setpriv", "crun", "docker")
    assert told["setpriv_available"] == privileged and told["overlay"]["available"] and told["network"]["available"]
    session = Session(agent, overlays=[{"path": "/usr/share", "mode": "ro"}], profile="balanced")
    assert session.fails("echo 500 > /proc/self/oom_score_adj") != told["writable_proc"]["available"]
    assert session.fails(": >> /proc/sys/kernel/sysrq") and session.fails(": >> /proc/sysrq-trigger")
    if not privileged:
        assert "CAP_SYS_ADMIN" in told["setpriv"]["message"]
        response = agent.http.post(SESSION, json={"workspace": {"path": "/tmp"}, "uid_mode": "setpriv"})
        assert response.status_code == 501 and "CAP_SYS_ADMIN" in response.json()["message"]


def test_a_client_that_vanishes_leaves_no_session(execd, workspace):
    body = b'{"workspace": {"path": "%s"}}' % str(workspace).encode()
    with execd.raw() as connection:
        connection.sendall(
            b"POST /v1/isolated/session HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: %s\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (execd.token.encode(), len(body), body)
        )
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    while sessions := execd.http.get("/v1/isolated/sessions").json()["sessions"]:
        for item in sessions:  # it may have been answered before it vanished: then it is an ordinary one
            execd.http.delete(f"{SESSION}/{item['session_id']}")


def test_the_balanced_profile_shares_the_workspace(agent, workspace):
    session = Session(agent, workspace={"path": str(workspace)}, profile="balanced")
    assert session.run("echo here > written")[0] == 0
    assert (workspace / "written").read_text() == "here\n"
    assert session.fails("touch /etc/execd-was-here")


def test_the_balanced_profile_shares_tmp(agent, workspace):
    session = Session(agent, workspace={"path": str(workspace)}, profile="balanced")
    shared = Path("/tmp") / f"execd-balanced-{os.getpid()}-{agent.kind}"
    try:
        assert session.run(f"echo there > {shared}")[0] == 0
        assert shared.read_text() == "there\n"
    finally:
        shared.unlink(missing_ok=True)
