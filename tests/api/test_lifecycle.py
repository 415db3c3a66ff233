"""Sandboxes from the outside: created, used, ended in every way, and nothing of them left behind."""

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest

from daemon import END_TIMEOUT_S, KEY, SANDBOXD, children, events, process_ended

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")

IMAGE = "python:3.11"
FOREVER = ["tail", "-f", "/dev/null"]


def body(**fields):
    return {"image": {"uri": IMAGE}, "entrypoint": FOREVER, "timeout": 600, "resourceLimits": {}, **fields}


def create(sandboxd, **fields):
    response = sandboxd.http.post("/sandboxes", json=body(**fields))
    assert response.status_code == 202, response.text
    return response.json()["id"]


def get(sandboxd, id):
    response = sandboxd.http.get(f"/sandboxes/{id}")
    assert response.status_code == 200, response.text
    return response.json()


def wait(sandboxd, id, *states):
    """The sandbox when it is in one of these states or has ended: the server answers at that moment."""
    response = sandboxd.http.get(f"/sandboxes/{id}", params={"wait": states}, timeout=END_TIMEOUT_S)
    assert response.status_code == 200, response.text
    sandbox = response.json()
    assert not states or sandbox["status"]["state"] in states, sandbox["status"]
    return sandbox


def running(sandboxd, **fields):
    id = create(sandboxd, **fields)
    wait(sandboxd, id, "Running")
    return id


def delete(sandboxd, id):
    response = sandboxd.http.delete(f"/sandboxes/{id}")
    assert response.status_code == 204, response.text
    return wait(sandboxd, id, "Terminated")


def held(tmp_path, tool):
    """A tool that begins when `go` has been written to, and the environment in which sandboxd finds it."""
    go, place = tmp_path / "go", tmp_path / "bin"
    os.mkfifo(go)
    place.mkdir()
    (place / tool).write_text(f'#!/bin/sh\nread x <{go}\nexec {shutil.which(tool)} "$@"\n')
    (place / tool).chmod(0o755)
    return go, {"PATH": f"{place}:{os.environ['PATH']}"}


def snapshot_of(sandboxd, id):
    """A snapshot that is Ready: the server answers at that moment."""
    snapshot = sandboxd.http.post(f"/sandboxes/{id}/snapshots", json={}).json()["id"]
    assert sandboxd.http.get(f"/snapshots/{snapshot}", params={"wait": ""}).json()["status"]["state"] == "Ready"
    return snapshot


def endpoint(sandboxd, id, port=44772):
    response = sandboxd.http.get(f"/sandboxes/{id}/endpoints/{port}")
    assert response.status_code == 200, response.text
    return response.json()["endpoint"]


def agent(sandboxd, id):
    return httpx.Client(base_url=f"http://{endpoint(sandboxd, id)}", timeout=END_TIMEOUT_S)


def sh(sandboxd, id, command):
    """What a command inside prints on stdout."""
    with agent(sandboxd, id) as client, client.stream("POST", "/command", json={"command": command}) as response:
        lines = [event["text"] for event in events(response) if event["type"] == "stdout"]
    return "\n".join("" if line == "\n" else line for line in lines)


def container_pid(sandboxd, id):
    if sandboxd.docker:
        return sandboxd.docker.inspect(id)["State"]["Pid"]
    return int((sandboxd.state / "sandboxes" / id / "pid").read_text())


def groups(id):
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"sandboxd/{id}")] + [
        str(path) for path in Path("/sys/fs/cgroup").glob(f"*/sandboxd/{id}")
    ]


def nothing_left(sandboxd, *ids):
    if sandboxd.docker:
        assert sandboxd.docker.containers() == []
        return
    assert os.listdir(sandboxd.state / "sandboxes") == []
    assert os.listdir(sandboxd.state / "runtime") == []
    assert [group for id in ids for group in groups(id)] == []
    assert children(sandboxd.pid) == set(), "processes are left"


def crash(daemon):
    daemon.expect_exit = None
    daemon.process.kill()
    daemon.process.wait()


# ---- the life -----------------------------------------------------------------


@pytest.mark.runtimes
@pytest.mark.smoke
def test_life(sandboxd):
    response = sandboxd.http.post("/v1/sandboxes", json=body(metadata={"name": "first", "team": "red"}))
    assert response.status_code == 202
    made = response.json()
    id = made["id"]
    assert response.headers["location"] == f"/v1/sandboxes/{id}"
    assert made["status"]["state"] == "Pending"
    assert made["metadata"] == {"name": "first", "team": "red"}
    assert made["entrypoint"] == FOREVER
    assert "image" not in made
    created = datetime.fromisoformat(made["createdAt"])
    assert datetime.fromisoformat(made["expiresAt"]) - created == timedelta(seconds=600)

    # the endpoint is good at once: the first request waits until the agent is up
    host = endpoint(sandboxd, id)
    assert httpx.get(f"http://{host}/ping", timeout=END_TIMEOUT_S).status_code == 200
    assert sh(sandboxd, id, "echo hello; pwd; id -u") == "hello\n/\n0"

    sandbox = wait(sandboxd, id, "Running")
    assert sandbox["image"] == {"uri": IMAGE}
    assert {key: sandbox[key] for key in ("id", "metadata", "entrypoint", "createdAt", "expiresAt")} == {
        key: made[key] for key in ("id", "metadata", "entrypoint", "createdAt", "expiresAt")
    }
    assert sandboxd.http.get(f"/v1/sandboxes/{id}").json() == get(sandboxd, id)

    status = delete(sandboxd, id)["status"]
    assert status["reason"] == "user_delete"
    nothing_left(sandboxd, id)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{host}/ping", timeout=END_TIMEOUT_S)

    # a second delete does no harm, and the tombstone shows only to who asks for it
    assert sandboxd.http.delete(f"/sandboxes/{id}").status_code == 204
    assert sandboxd.http.get("/sandboxes").json()["items"] == []
    items = sandboxd.http.get("/sandboxes", params={"state": "Terminated"}).json()["items"]
    assert [item["id"] for item in items] == [id]
    response = sandboxd.http.get(f"/sandboxes/{id}/endpoints/44772")
    assert (response.status_code, response.json()["code"]) == (409, "DOCKER::SANDBOX_NOT_RUNNING")


@pytest.mark.runtimes
def test_without_timeout(sandboxd):
    id = running(sandboxd, timeout=None)
    assert "expiresAt" not in get(sandboxd, id)


@pytest.mark.runtimes
def test_endpoints(sandboxd):
    id = running(sandboxd)
    execd = endpoint(sandboxd, id)
    assert execd.startswith("127.0.0.1:")
    assert endpoint(sandboxd, id, 8080) == f"{execd}/proxy/8080"
    # whatever name the client has for us is the name it gets
    get_named = lambda host: sandboxd.http.get(f"/sandboxes/{id}/endpoints/44772", headers={"Host": host}).json()
    assert get_named("localhost:1234")["endpoint"] == execd.replace("127.0.0.1", "localhost")
    assert get_named("box.example")["endpoint"] == execd.replace("127.0.0.1", "box.example")
    for host in ("[::1]:8080", "[::1]", "a b", 'x"y', ""):  # sandboxes are on 127.0.0.1, and nonsense is not repeated
        response = sandboxd.http.get(f"/sandboxes/{id}/endpoints/44772", headers={"Host": host})
        assert response.status_code == 400 or response.json()["endpoint"] == execd, host


# ---- what shows inside ----------------------------------------------------------


def test_nothing_private_shows(start_sandboxd, tmp_path):
    secret = "hush-5b1f"
    planted = Path("/tmp") / f"planted-{os.getpid()}"
    planted.write_text(secret)
    try:
        sandboxd = start_sandboxd(env={"MY_SECRET": secret})
        id = running(sandboxd, env={"GIVEN": "yes"})
        environment = sh(sandboxd, id, "env; tr '\\0' '\\n' </proc/1/environ")
        assert "GIVEN=yes" in environment
        assert secret not in environment
        assert sh(sandboxd, id, "ls -A /root /tmp; find /var -type f; find /home -type f").split() == ["/root:", "/tmp:"]
        for path in ("/etc/shadow", "/etc/gshadow", "/etc/ssh", "/etc/ssl/private", "/etc/apt", "/etc/netrc",
                     "/etc/pip.conf", "/etc/npmrc", "/etc/machine-id", "/root/.ssh", str(tmp_path), "/work", "/boot",
                     "/.dockerenv", "/var/lib/dpkg", "/run/crun", str(planted)):
            assert sh(sandboxd, id, f"test -e {path} && echo there") == "", path
        assert sh(sandboxd, id, "hostname; cat /etc/hostname") == "sandbox\nsandbox"
        # nor does the path of our state, in any mount
        assert str(sandboxd.state) not in sh(sandboxd, id, "cat /proc/self/mountinfo /proc/self/mounts")
    finally:
        planted.unlink()


def test_own_processes_only(sandboxd):
    id = running(sandboxd)
    names = sh(sandboxd, id, "cat /proc/[0-9]*/comm").split()
    assert set(names) <= {"execd", "tail", "bash", "sh", "cat"}, names
    assert sh(sandboxd, id, "cat /proc/1/comm") == "execd"


def test_network_is_its_own(sandboxd):
    id = running(sandboxd)
    assert sh(sandboxd, id, "ls /sys/class/net") == "lo"
    port = sandboxd.port
    out = sh(sandboxd, id, f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo reached || echo refused")
    assert out == "refused"
    assert sh(sandboxd, id, "python3 -c 'import socket; socket.create_server((\"127.0.0.1\", 0)); print(1)'") == "1"


def test_confined(sandboxd):
    id = running(sandboxd)
    status = dict(line.split(":", 1) for line in sh(sandboxd, id, "cat /proc/1/status").splitlines() if ":" in line)
    assert status["NoNewPrivs"].strip() == "1"
    # CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT SETFCAP
    for capabilities in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[capabilities], 16) & ~0x800425FB == 0, status[capabilities]
    assert int(status["CapInh"], 16) == 0
    for command in ("mount -t tmpfs none /mnt", "mknod /tmp/disk b 254 0", "echo 1 >/proc/sys/vm/drop_caches",
                    "rm /.execd/execd", "echo x >/.execd/execd", "hostname evil", "mkdir /sys/fs/cgroup/x"):
        assert sh(sandboxd, id, f"{command} 2>/dev/null && echo done") == "", command


def test_writes_stay_inside(sandboxd):
    one, two = running(sandboxd), running(sandboxd)
    name = f"written-{os.getpid()}"
    for folder in ("/", "/usr/bin", "/usr/local/lib", "/opt", "/etc", "/bin", "/lib", "/var/lib", "/tmp", "/root"):
        assert sh(sandboxd, one, f"echo x >{folder}/{name} && cat {folder}/{name}") == "x", folder
        assert sh(sandboxd, two, f"test -e {folder}/{name} && echo there") == "", folder
        assert not os.path.exists(f"{folder}/{name}"), folder
    tool = os.path.realpath("/usr/bin/awk")
    before = os.stat(tool)
    sh(sandboxd, one, f"rm -f {tool}; echo '# mine' >>/usr/lib/os-release; chmod 777 /usr")
    assert os.stat(tool) == before
    assert "mine" not in Path("/usr/lib/os-release").read_text()
    assert stat.S_IMODE(os.stat("/usr").st_mode) == 0o755


def test_tools_of_the_host_work(sandboxd):
    id = running(sandboxd)
    assert sh(sandboxd, id, "python3 -c 'import ssl, json; print(json.dumps(1 + 1))'") == "2"
    assert sh(sandboxd, id, "echo a b | awk '{print $2}'") == "b"
    assert "PRETTY_NAME" in sh(sandboxd, id, "cat /etc/os-release")
    assert sh(sandboxd, id, "getent passwd root nobody | cut -d: -f1") == "root\nnobody"
    assert sh(sandboxd, id, "test -s /etc/ssl/certs/ca-certificates.crt && echo yes") == (
        "yes" if os.path.exists("/etc/ssl/certs/ca-certificates.crt") else ""
    )
    assert sh(sandboxd, id, "echo x >/dev/null && head -c 4 /dev/urandom | wc -c; echo >/dev/shm/x && echo shm") == "4\nshm"


def test_quick_start_entrypoint(sandboxd):
    """The entrypoint that the quick starts of the code interpreter name."""
    id = running(sandboxd, image={"uri": "opensandbox/code-interpreter:v1.1.0"},
                 entrypoint=["/opt/code-interpreter/code-interpreter.sh"])
    assert sh(sandboxd, id, "echo up") == "up"


# ---- limits -----------------------------------------------------------------------


def test_limits(sandboxd):
    id = running(sandboxd, resourceLimits={"cpu": "500m", "memory": "64Mi", "bandwidth": "1G"})
    message = get(sandboxd, id)["status"]["message"]
    assert "bandwidth" in message  # not enforced, and told so
    paths = {}
    for line in Path(f"/proc/{container_pid(sandboxd, id)}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(",") if names else ["unified"]:
            paths[name] = path
    root = Path("/sys/fs/cgroup")
    v2 = not (root / "memory").exists()
    looked = [
        ("memory", "memory.max" if v2 else "memory.limit_in_bytes", str(64 << 20)),
        ("cpu", "cpu.max" if v2 else "cpu.cfs_quota_us", "50000 100000" if v2 else "50000"),
        ("pids", "pids.max", "4096"),
    ]
    for controller, file, value in looked:
        group = root / paths["unified"].strip("/") if v2 else root / controller / paths[controller].strip("/")
        if controller in message:
            print(f"{controller}: cannot be limited on this machine, and the sandbox says so: {message}")
            continue
        assert (group / file).read_text().strip() == value
        assert id in str(group)


def test_memory_limit_kills_the_command_alone(sandboxd):
    id = running(sandboxd, resourceLimits={"memory": "64Mi"})
    if "memory" in get(sandboxd, id)["status"]["message"]:
        pytest.skip("memory cannot be limited on this machine")
    assert "survived" not in sh(sandboxd, id, "exec python3 -c 'x = bytearray(200 << 20); print(\"survived\")'")
    assert sh(sandboxd, id, "echo alive") == "alive"
    assert get(sandboxd, id)["status"]["state"] == "Running"


def test_memory_limit_of_the_entrypoint(sandboxd):
    limits = {"memory": "64Mi"}
    if "memory" in get(sandboxd, running(sandboxd, resourceLimits=limits))["status"]["message"]:
        pytest.skip("memory cannot be limited on this machine")
    id = create(sandboxd, resourceLimits=limits, entrypoint=["python3", "-c", "x = bytearray(200 << 20)"])
    assert wait(sandboxd, id, "Failed")["status"]["reason"] == "out_of_memory"
    # and one that is killed by somebody else is not told so
    other = create(sandboxd, resourceLimits=limits, entrypoint=["sh", "-c", "kill -9 $$"])
    assert wait(sandboxd, other, "Failed")["status"]["reason"] in ("container_exited", "start_failed")


# ---- ends ---------------------------------------------------------------------------


@pytest.mark.runtimes
def test_entrypoint_ends(sandboxd):
    good, bad = create(sandboxd, entrypoint=["true"]), create(sandboxd, entrypoint=["sh", "-c", "exit 3"])
    status = wait(sandboxd, bad, "Failed")["status"]
    assert status["reason"] in ("container_exited", "start_failed")
    assert "code 3" in status["message"]
    status = wait(sandboxd, good, "Terminated")["status"]
    assert status["reason"] == "container_exited"
    assert "code 0" in status["message"]
    for id in good, bad:
        delete(sandboxd, id)
    nothing_left(sandboxd, good, bad)


@pytest.mark.runtimes
def test_entrypoint_that_ends_later(sandboxd):
    id = running(sandboxd, entrypoint=["sh", "-c", "mkfifo /tmp/go; read line </tmp/go"])
    with suppress(httpx.TransportError, AssertionError):  # the agent may go while it still answers
        sh(sandboxd, id, "until [ -p /tmp/go ]; do :; done; echo >/tmp/go")
    status = wait(sandboxd, id, "Terminated")["status"]
    assert status["reason"] == "container_exited"


@pytest.mark.runtimes
def test_entrypoint_that_is_not_there(sandboxd):
    id = create(sandboxd, entrypoint=["/no/such/program", "-x"])
    status = wait(sandboxd, id, "Failed")["status"]
    assert "/no/such/program" in status["message"]
    assert [item["id"] for item in sandboxd.http.get("/sandboxes").json()["items"]] == [id]  # a failure shows
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


@pytest.mark.runtimes
def test_killed_from_outside(sandboxd):
    id = running(sandboxd)
    os.kill(container_pid(sandboxd, id), signal.SIGKILL)
    status = wait(sandboxd, id, "Failed")["status"]
    assert (status["reason"], "signal 9" in status["message"]) == ("container_killed", True)
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


@pytest.mark.runtimes
def test_expiry(sandboxd):
    id = running(sandboxd)
    soon = datetime.now(timezone.utc) + timedelta(seconds=1)
    response = sandboxd.http.post(f"/sandboxes/{id}/renew-expiration", json={"expiresAt": soon.isoformat()})
    assert response.status_code == 200, response.text
    assert abs(datetime.fromisoformat(response.json()["expiresAt"]) - soon) < timedelta(milliseconds=2)
    status = wait(sandboxd, id, "Terminated")["status"]
    assert status["reason"] == "ttl_expiry"
    assert datetime.fromisoformat(status["lastTransitionAt"]) >= soon - timedelta(milliseconds=2)
    nothing_left(sandboxd, id)
    response = sandboxd.http.post(f"/sandboxes/{id}/renew-expiration",
                                  json={"expiresAt": (soon + timedelta(hours=1)).isoformat()})
    assert response.status_code == 409


@pytest.mark.runtimes
def test_renew(sandboxd):
    id, endless = running(sandboxd), create(sandboxd, timeout=None)
    renew = lambda id, text: sandboxd.http.post(f"/sandboxes/{id}/renew-expiration", json={"expiresAt": text})
    later = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=5)
    assert renew(id, later.isoformat()).status_code == 200
    assert datetime.fromisoformat(get(sandboxd, id)["expiresAt"]) == later
    for text in ("2020-01-01T00:00:00Z", "soon", "", "2030-13-01T00:00:00Z", "99999-01-01T00:00:00Z"):
        assert renew(id, text).status_code == 400, text
    assert datetime.fromisoformat(get(sandboxd, id)["expiresAt"]) == later
    response = renew(endless, later.isoformat())
    assert (response.status_code, response.json()["code"]) == (409, "DOCKER::INVALID_EXPIRATION")


# ---- a runtime under the control of the test -------------------------------------------


@pytest.fixture
def slow_runtime(tmp_path):
    """A crun whose `run` waits until the test writes to a pipe: (program, go)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    os.mkfifo(folder / "entered")
    os.mkfifo(folder / "go")
    program = folder / "crun"
    program.write_text(f"""#!/bin/sh
case " $* " in *" run "*) echo $$ >{folder}/entered; read line <{folder}/go ;; esac
exec /usr/bin/crun "$@"
""")
    program.chmod(0o755)
    return program


def entered(program):
    """Waits until a start is inside the runtime; its process id."""
    return int((program.parent / "entered").read_text())


def go(program):
    (program.parent / "go").write_text("go\n")


def test_delete_while_pending(start_sandboxd, slow_runtime):
    sandboxd = start_sandboxd(args=["--runtime", slow_runtime])
    id = create(sandboxd)
    entered(slow_runtime)
    assert get(sandboxd, id)["status"]["state"] == "Pending"
    assert sandboxd.http.delete(f"/sandboxes/{id}").status_code == 204
    assert get(sandboxd, id)["status"]["state"] == "Stopping"
    assert sandboxd.http.delete(f"/sandboxes/{id}").status_code == 204
    go(slow_runtime)
    assert wait(sandboxd, id, "Terminated")["status"]["reason"] == "user_delete"
    nothing_left(sandboxd, id)


@pytest.mark.runtimes
def test_delete_at_once(sandboxd):
    ids = [create(sandboxd) for _ in range(5)]
    for id in ids:
        assert sandboxd.http.delete(f"/sandboxes/{id}").status_code == 204
    for id in ids:
        wait(sandboxd, id, "Terminated")
    nothing_left(sandboxd, *ids)


def test_start_that_hangs(start_sandboxd, slow_runtime):
    sandboxd = start_sandboxd(args=["--runtime", slow_runtime, "--provision-timeout", "1"])
    id = create(sandboxd)
    pid = entered(slow_runtime)
    status = wait(sandboxd, id, "Failed")["status"]
    assert status["reason"] == "provision_timeout"
    process_ended(pid)
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


@pytest.mark.parametrize("script, words", [
    ("echo 'crun: something is wrong here' >&2; exit 1", "something is wrong here"),
    ("exit 7", "does not say why"),
    ("kill -9 $$", "signal 9"),
])
def test_start_that_fails(start_sandboxd, tmp_path, script, words):
    program = tmp_path / "crun"
    program.write_text(f'#!/bin/sh\ncase " $* " in *" run "*) {script} ;; esac\nexec /usr/bin/crun "$@"\n')
    program.chmod(0o755)
    sandboxd = start_sandboxd(args=["--runtime", program])
    id = create(sandboxd)
    status = wait(sandboxd, id, "Failed")["status"]
    assert (status["reason"], words in status["message"]) == ("runtime_error", True), status
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


def test_runtime_that_is_not_there(start_sandboxd):
    sandboxd = start_sandboxd(args=["--runtime", "no-such-crun"])
    assert "apt-get install crun" in sandboxd.logs()  # said at start
    assert sandboxd.http.get("/health").status_code == 200
    response = sandboxd.http.post("/sandboxes", json=body())
    assert response.status_code == 503
    assert "apt-get install crun" in response.json()["message"]
    assert sandboxd.http.get("/sandboxes").json()["items"] == []


@pytest.mark.parametrize("wrapper, words", [
    (["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"], "start sandboxd as root"),
    (["setpriv", "--bounding-set", "-sys_admin"], "CAP_SYS_ADMIN"),
])
def test_rights_that_are_missing(tmp_path, wrapper, words):
    for folder in (tmp_path, *tmp_path.parents):  # a worker of pytest-xdist has a level more
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 65534, 65534)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*wrapper, SANDBOXD, "--listen", "127.0.0.1:0", "--state", state],
                                   stdout=subprocess.PIPE, stderr=log, text=True)
    line = process.stdout.readline()
    assert line.startswith("listening on "), (tmp_path / "log").read_text()
    url = f"http://{line.split()[2]}"
    assert words in (tmp_path / "log").read_text()
    assert httpx.get(f"{url}/health").status_code == 200
    assert words in refusal(httpx.post(f"{url}/sandboxes", json=body()), 503)
    process.terminate()
    assert process.wait(END_TIMEOUT_S) == 0


def test_state_on_an_overlay(tmp_path):
    """The root of a container will not do as the place for upper layers; that is said at start."""
    script = f"""
    mkdir {tmp_path}/lower {tmp_path}/upper {tmp_path}/work {tmp_path}/merged
    mount -t overlay overlay -o lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work {tmp_path}/merged
    exec {SANDBOXD} --listen 127.0.0.1:0 --state {tmp_path}/merged/state"""
    process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    url = f"http://{process.stdout.readline().split()[2]}"
    assert "Put --state on ext4" in refusal(httpx.post(f"{url}/sandboxes", json=body()), 503)
    process.terminate()
    assert "Put --state on ext4" in process.communicate(timeout=END_TIMEOUT_S)[1]


# ---- crashes and restarts ------------------------------------------------------------------


@pytest.mark.runtimes
def test_kill_and_adopt(start_sandboxd):
    first = start_sandboxd()
    lives, dies, expires = running(first), running(first), running(first)
    host = endpoint(first, lives)
    assert sh(first, lives, "echo kept >/tmp/note") == ""
    soon = datetime.now(timezone.utc) + timedelta(seconds=1)
    assert first.http.post(f"/sandboxes/{expires}/renew-expiration", json={"expiresAt": soon.isoformat()}).is_success
    crash(first)
    # nobody is there, and the sandbox works on
    assert httpx.get(f"http://{host}/ping", timeout=END_TIMEOUT_S).status_code == 200
    gone = container_pid(first, dies)
    os.kill(gone, signal.SIGKILL)
    process_ended(gone)

    second = start_sandboxd(state=first.state)
    assert get(second, lives)["status"]["state"] == "Running"
    assert endpoint(second, lives) == host
    assert sh(second, lives, "cat /tmp/note") == "kept"
    # docker remembers how it ended, and is asked; a bare process is not there to be asked
    reason = "container_killed" if second.docker else "container_lost"
    assert wait(second, dies, "Failed")["status"]["reason"] == reason
    assert wait(second, expires, "Terminated")["status"]["reason"] == "ttl_expiry"

    # an adopted sandbox is watched like any other
    other = running(second)
    os.kill(container_pid(second, lives), signal.SIGKILL)
    assert wait(second, lives, "Failed")["status"]["reason"] == reason
    delete(second, other)
    delete(second, lives)
    delete(second, dies)
    nothing_left(second, lives, dies, expires, other)


@pytest.mark.runtimes
def test_delete_of_an_adopted_one(start_sandboxd):
    first = start_sandboxd()
    id = running(first)
    pid = container_pid(first, id)
    crash(first)
    second = start_sandboxd(state=first.state)
    delete(second, id)
    process_ended(pid)
    nothing_left(second, id)


def test_kill_during_start(start_sandboxd, slow_runtime):
    first = start_sandboxd(args=["--runtime", slow_runtime])
    id = create(first)
    pid = entered(slow_runtime)
    crash(first)
    process_ended(pid)  # a start does not go on behind the back of the next sandboxd
    second = start_sandboxd(state=first.state)
    status = wait(second, id, "Failed")["status"]
    assert status["reason"] == "interrupted"
    delete(second, id)
    running_again = running(second)
    delete(second, running_again)
    nothing_left(second, id, running_again)


@pytest.mark.runtimes
@pytest.mark.parametrize("moment", range(6))
def test_kill_at_any_moment(start_sandboxd, moment):
    """SIGKILL somewhere within creations and deletions: afterwards every row is true, and nothing is left over."""
    first = start_sandboxd()
    before = running(first)
    ids = [before]
    for n in range(moment):
        ids.append(create(first))
        if n % 2:
            first.http.delete(f"/sandboxes/{ids[n]}")
    crash(first)
    second = start_sandboxd(state=first.state)
    for id in ids:
        sandbox = wait(second, id, "Running", "Terminated", "Failed")
        if sandbox["status"]["state"] == "Running":
            assert sh(second, id, "echo up") == "up"
        else:
            assert sandbox["status"]["reason"] in ("interrupted", "user_delete"), sandbox["status"]
    for id in ids:
        delete(second, id)
    nothing_left(second, *ids)


def test_leftovers_are_removed(start_sandboxd):
    """What no row knows, as after a lost database: the container and its files go."""
    first = start_sandboxd()
    id = running(first)
    pid = container_pid(first, id)
    crash(first)
    for file in first.state.glob("sandboxd.db*"):
        file.unlink()
    second = start_sandboxd(state=first.state)
    process_ended(pid)
    other = running(second)
    delete(second, other)
    assert second.http.get(f"/sandboxes/{id}").status_code == 404
    second.process.terminate()
    second.process.wait(END_TIMEOUT_S)  # it ends when all is removed
    second.expect_exit = None
    assert os.listdir(second.state / "sandboxes") == []
    assert groups(id) == []


@pytest.mark.runtimes
def test_stop_leaves_sandboxes(start_sandboxd):
    first = start_sandboxd()
    id = running(first)
    first.process.terminate()
    assert first.process.wait(END_TIMEOUT_S) == 0
    first.expect_exit = None
    second = start_sandboxd(state=first.state)
    assert sh(second, id, "echo up") == "up"


def test_kill_on_exit(start_sandboxd):
    sandboxd = start_sandboxd(args=["--kill-on-exit"])
    ids = [running(sandboxd), create(sandboxd)]
    pid = container_pid(sandboxd, ids[0])
    sandboxd.process.terminate()
    assert sandboxd.process.wait(END_TIMEOUT_S) == 0
    sandboxd.expect_exit = None
    process_ended(pid)
    assert os.listdir(sandboxd.state / "sandboxes") == []
    assert [group for id in ids for group in groups(id)] == []


def test_one_server_a_state(sandboxd):
    second = subprocess.run([SANDBOXD, "--listen", "127.0.0.1:0", "--state", sandboxd.state],
                            capture_output=True, text=True, timeout=END_TIMEOUT_S)
    assert second.returncode == 1
    assert "in use by another sandboxd" in second.stderr
    running(sandboxd)


def test_listen_says_where(tmp_path):
    process = subprocess.Popen([SANDBOXD, "--listen", "127.0.0.1:0", "--state", tmp_path / "state"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    words = process.stdout.readline().split()
    assert words[:2] == ["listening", "on"]
    assert httpx.get(f"http://{words[2]}/health").json() == {"status": "healthy"}
    process.terminate()
    assert process.wait(END_TIMEOUT_S) == 0


def test_wide_open_is_refused(tmp_path):
    process = subprocess.run([SANDBOXD, "--listen", "0.0.0.0:0", "--state", tmp_path / "state"],
                             capture_output=True, text=True, timeout=END_TIMEOUT_S)
    assert process.returncode == 2
    assert "API key" in process.stderr


# ---- many --------------------------------------------------------------------------------------


@pytest.mark.runtimes
def test_ten_at_once(sandboxd):
    with ThreadPoolExecutor(10) as pool:
        ids = list(pool.map(lambda n: running(sandboxd, metadata={"n": str(n)}), range(10)))
        assert len(set(ids)) == 10
        assert list(pool.map(lambda n: sh(sandboxd, ids[n], f"echo {n}"), range(10))) == [str(n) for n in range(10)]
        assert len(set(pool.map(lambda id: endpoint(sandboxd, id), ids))) == 10
        list(pool.map(lambda id: delete(sandboxd, id), ids))
    nothing_left(sandboxd, *ids)


def test_list(sandboxd):
    ids = [create(sandboxd, metadata={"team": "red" if n % 2 else "blue", "note": f"n-{n}"}) for n in range(5)]
    for id in ids:
        wait(sandboxd, id, "Running")

    def listed(**params):
        response = sandboxd.http.get("/v1/sandboxes", params=params)
        assert response.status_code == 200, response.text
        page = response.json()
        return [item["id"] for item in page["items"]], page["pagination"]

    newest_first = ids[::-1]
    found, pagination = listed()
    assert set(found) == set(ids)
    assert pagination == {"page": 1, "pageSize": 20, "totalItems": 5, "totalPages": 1, "hasNextPage": False}
    pages = [listed(page=page, pageSize=2) for page in (1, 2, 3)]
    assert [id for found, _ in pages for id in found] == listed()[0]
    assert [pagination["hasNextPage"] for _, pagination in pages] == [True, True, False]
    assert pages[0][1]["totalPages"] == 3
    assert listed(page=9)[0] == []
    assert set(listed(metadata="team=red")[0]) == {ids[1], ids[3]}
    assert listed(metadata="team=red&note=n-3")[0] == [ids[3]]
    assert listed(metadata="note=n%2D3")[0] == [ids[3]]  # encoded once more within the value
    assert listed(metadata="team=green")[0] == []
    assert set(listed(state="running")[0]) == set(newest_first)
    assert set(listed(state=["Paused", "Running"])[0]) == set(ids)
    assert listed(state="Paused")[0] == []
    delete(sandboxd, ids[0])
    assert listed(state="Terminated")[0] == [ids[0]]
    assert set(listed()[0]) == set(ids[1:])


def test_tombstones_go(start_sandboxd):
    sandboxd = start_sandboxd(args=["--tombstone", "1"])
    id = create(sandboxd, entrypoint=["/no/such/program"])
    wait(sandboxd, id, "Failed")
    with sandboxd.client(headers={"OPEN-SANDBOX-API-KEY": KEY}) as client:
        # whoever waits for what ended long ago is answered at once; when it is forgotten, it is not there
        assert client.get(f"/sandboxes/{id}", params={"wait": "Running"}).json()["status"]["state"] == "Failed"
    other = create(sandboxd)
    soon = datetime.now(timezone.utc) + timedelta(seconds=2)
    wait(sandboxd, other, "Running")
    assert sandboxd.http.post(f"/sandboxes/{other}/renew-expiration", json={"expiresAt": soon.isoformat()}).is_success
    wait(sandboxd, other, "Terminated")  # later than the tombstone of the first
    refusal(sandboxd.http.get(f"/sandboxes/{id}"), 404, "DOCKER::SANDBOX_NOT_FOUND")
    refusal(sandboxd.http.delete(f"/sandboxes/{id}"), 404)


# ---- what is wrong is said -------------------------------------------------------------------------


def refusal(response, status, code=None):
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"].split(";")[0] == "application/json"
    error = response.json()
    assert set(error) == {"code", "message"}, error
    assert error["message"]
    if code:
        assert error["code"] == code, error
    return error["message"]


BAD_BODIES = [
    ({"image": None}, "image"),
    ({"image": {"uri": "dir:/etc"}}, "sandboxd.image_paths"),
    ({"image": {"uri": 5}}, "uri"),
    ({"entrypoint": []}, "entrypoint"),
    ({"entrypoint": None}, "entrypoint"),
    ({"entrypoint": "sh"}, "entrypoint"),
    ({"entrypoint": ["sh", None]}, "entrypoint"),
    ({"entrypoint": ["sh", "a\0b"]}, ""),
    ({"timeout": 59}, "timeout"),
    ({"timeout": "600"}, "timeout"),
    ({"timeout": 1e30}, "timeout"),
    ({"resourceLimits": None}, "resourceLimits"),
    ({"resourceLimits": {"memory": "-1"}}, "memory"),
    ({"resourceLimits": {"cpu": "a lot"}}, "cpu"),
    ({"resourceLimits": {"cpu": 1}}, "resourceLimits"),
    ({"resourceLimits": {"gpu": "1"}}, "GPU"),
    ({"env": {"A": ["b"]}}, "env"),
    ({"env": {"A=B": "c"}}, "env"),
    ({"metadata": {"k": "no spaces"}}, "metadata"),
    ({"metadata": {"opensandbox.io/x": "y"}}, "reserved"),
    ({"platform": {"os": "windows", "arch": "amd64"}}, "platform"),
    ({"platform": {"os": "linux"}}, "arch"),
    ({"volumes": [{"name": "v", "mountPath": "/v", "host": {"path": "/etc"}}]}, "allowed_host_paths"),
    ({"networkPolicy": {"defaultAction": "deny"}}, "networkPolicy"),
    ({"credentialProxy": {"enabled": True}}, "credentialProxy"),
    ({"extensions": {"poolRef": "pool"}}, "poolRef"),
    ({"hostNetwork": True}, "hostNetwork"),
]


def test_bad_bodies(sandboxd):
    for fields, words in BAD_BODIES:
        message = refusal(sandboxd.http.post("/sandboxes", json=body(**fields)), 400)
        assert words in message, (fields, message)
    assert sandboxd.http.get("/sandboxes").json()["items"] == []
    nothing_left(sandboxd)


def test_broken_json(sandboxd):
    post = lambda content: sandboxd.http.post("/sandboxes", content=content, headers={"Content-Type": "application/json"})
    assert "line 2" in refusal(post(b'{"image":\n oops}'), 400)
    for content in (b"", b"null", b"[]", b'"x"', b"{", b'{"image":1,"image":2}', b"\xff\xfe", b"[" * 100000):
        refusal(post(content), 400)
    refusal(post(b'{"env":{"A":"' + b"x" * (3 << 20) + b'"}}'), 413)


def test_unknown_sandbox(sandboxd):
    for id in ("no-such", "0" * 36, "..%2f..%2fetc", "%27%20OR%201=1", "x" * 3000):
        path = f"/sandboxes/{id}"
        soon = {"expiresAt": "2090-01-01T00:00:00Z"}
        for response in (
            sandboxd.http.get(path),
            sandboxd.http.get(path, params={"wait": "Running"}),
            sandboxd.http.delete(path),
            sandboxd.http.get(f"{path}/endpoints/44772"),
            sandboxd.http.post(f"{path}/renew-expiration", json=soon),
        ):
            refusal(response, 404)
    refusal(sandboxd.http.get("/sandboxes/no-such"), 404, "DOCKER::SANDBOX_NOT_FOUND")


def test_bad_queries(sandboxd):
    for params in ({"page": "0"}, {"page": "x"}, {"page": "-1"}, {"pageSize": "0"}, {"pageSize": "201"},
                   {"pageSize": "1e3"}, {"page": "99999999999999999999"}, {"state": "Walking"}, {"state": ""}):
        refusal(sandboxd.http.get("/sandboxes", params=params), 400)
    for metadata in ("broken", "a=1&broken", "a=%zz", "&".join(f"k{n}=v" for n in range(40))):
        refusal(sandboxd.http.get("/sandboxes", params={"metadata": metadata}), 400, "INVALID_METADATA_FORMAT")
    id = running(sandboxd)
    for port in ("0", "65536", "-1", "x", "80x", "99999999999"):
        refusal(sandboxd.http.get(f"/sandboxes/{id}/endpoints/{port}"), 400, "DOCKER::INVALID_PORT")
    for params in ({"use_server_proxy": "maybe"}, {"expires": "soon"}, {"expires": "1", "use_server_proxy": "true"}):
        refusal(sandboxd.http.get(f"/sandboxes/{id}/endpoints/80", params=params), 400, "SANDBOX::INVALID_PARAMETER")
    assert sandboxd.http.get(f"/sandboxes/{id}/endpoints/80", params={"use_server_proxy": "false"}).is_success
    refusal(sandboxd.http.get(f"/sandboxes/{id}", params={"wait": "Walking"}), 400)


def test_routes(sandboxd):
    refusal(sandboxd.http.get("/no/such/route"), 404)
    refusal(sandboxd.http.get("/v1/no"), 404)
    response = sandboxd.http.put("/sandboxes", json={})
    refusal(response, 405)
    assert set(response.headers["allow"].replace(",", " ").split()) >= {"GET", "POST"}
    response = sandboxd.http.patch("/v1/sandboxes/x")
    refusal(response, 405)
    assert set(response.headers["allow"].replace(",", " ").split()) >= {"GET", "DELETE"}


def test_key(sandboxd):
    with sandboxd.client() as nobody:
        assert nobody.get("/health").json() == {"status": "healthy"}
        assert nobody.get("/v1/health").status_code == 200
        for method, path in (("GET", "/sandboxes"), ("POST", "/v1/sandboxes"), ("DELETE", "/sandboxes/x"),
                             ("GET", "/sandboxes/x/endpoints/1")):
            refusal(nobody.request(method, path), 401, "MISSING_API_KEY")
            for wrong in ("wrong", KEY + "x", KEY[:-1], KEY.upper()):
                response = nobody.request(method, path, headers={"OPEN-SANDBOX-API-KEY": wrong})
                refusal(response, 401, "INVALID_API_KEY")
                assert KEY not in response.text
    assert KEY not in sandboxd.logs()
    assert KEY not in Path(f"/proc/{sandboxd.pid}/cmdline").read_text()


def test_without_key(start_sandboxd):
    sandboxd = start_sandboxd(key=None)
    assert sandboxd.http.get("/sandboxes").status_code == 200


def test_request_id(sandboxd):
    made = sandboxd.http.get("/sandboxes").headers["x-request-id"]
    assert made != sandboxd.http.get("/sandboxes").headers["x-request-id"]
    assert sandboxd.http.get("/sandboxes/x", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"


def test_secrets_stay_secret(sandboxd):
    """What a sandbox is given does not show in logs, in the database or to other users of the host."""
    secret = "hush-91aa"
    id = running(sandboxd, env={"TOKEN": secret}, image={"uri": IMAGE, "auth": {"username": "u", "password": secret}})
    assert secret not in json.dumps(get(sandboxd, id))
    assert secret not in sandboxd.logs()
    for file in sandboxd.state.glob("sandboxd.db*"):
        assert secret.encode() not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((sandboxd.state / "sandboxes" / id).stat().st_mode) == 0o700
