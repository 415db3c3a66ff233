"""What is Docker's own: its settings, its faults, and what a lost store is rebuilt from."""

import json
import os
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress

import httpx
import pytest

import dockerd
from conftest import SANITIZED
from daemon import END_TIMEOUT_S, SANDBOXD
from test_lifecycle import agent, body, container_pid, crash, create, delete, endpoint, get, nothing_left, running, sh, snapshot_of, wait
from test_lifecycle_crash import Case, Claim, Fuse, burned
from test_lifecycle_pool import pool, settings, spares

pytestmark = [
    pytest.mark.skipif(SANITIZED, reason="the docker runtime has its smoke test there"),
    pytest.mark.skipif(os.getuid() != 0, reason="dockerd needs root"),
]

BARE = {"image": {"uri": dockerd.BARE}}


@pytest.fixture
def runtime(docker_daemon):
    return docker_daemon


@pytest.fixture
def configured(start_sandboxd, tmp_path):
    """configured("[docker]...") is a sandboxd with these settings."""

    def start(text, **options):
        file = tmp_path / "sandbox.toml"
        file.write_text(text)
        return start_sandboxd(args=["--config", file], **options)

    return start


# ---- how it is made ----------------------------------------------------------------


def test_image_without_a_shell(sandboxd):
    id = running(sandboxd, **BARE, entrypoint=["/busybox", "sleep", "1000"], secureAccess=True)
    box = sandboxd.docker.inspect(id)
    token = sandboxd.http.get(f"/sandboxes/{id}/endpoints/44772").json()["headers"]["X-EXECD-ACCESS-TOKEN"]
    assert token not in json.dumps(box) and token not in sandboxd.logs()
    with agent(sandboxd, id) as client:
        assert client.get("/command/status/x").status_code == 401
        client.headers["X-EXECD-ACCESS-TOKEN"] = token
        assert client.get("/files/info", params={"path": "/.execd-token/token"}).status_code == 404
        info = client.get("/files/info", params={"path": "/busybox"})
        assert info.status_code == 200, info.text
    assert box["Config"]["Entrypoint"][0] == "/.execd/execd"
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


def test_confined(sandboxd):
    id = running(sandboxd, resourceLimits={"cpu": "250m", "memory": "64Mi"}, env={"GIVEN": "yes"})
    box = sandboxd.docker.inspect(id)
    host = box["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (64 << 20, 64 << 20, 4096)
    assert (host["CpuQuota"], host["CpuPeriod"]) == (25000, 100000)
    assert {"NET_RAW", "SYS_ADMIN", "MKNOD"} <= set(host["CapDrop"])
    assert host["SecurityOpt"] == ["no-new-privileges"] and not host["Privileged"]
    assert {binding["HostIp"] for binding in box["NetworkSettings"]["Ports"]["44772/tcp"]} == {"127.0.0.1"}
    status = dict(line.split(":", 1) for line in sh(sandboxd, id, "cat /proc/1/status").splitlines() if ":" in line)
    assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"
    assert int(status["CapEff"], 16) & (1 << 13 | 1 << 21 | 1 << 27) == 0
    assert sh(sandboxd, id, "cat /proc/1/comm; echo $GIVEN") == "execd\nyes"
    for command in ("rm /.execd/execd", "echo x >/.execd/execd", "mount -t tmpfs none /mnt"):
        assert sh(sandboxd, id, f"{command} 2>/dev/null && echo done") == "", command


def test_settings(configured, tmp_path):
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}))
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("from the host\n")
    sandboxd = configured(f"""
[runtime]
type = "docker"
[docker]
network_mode = "host"
drop_capabilities = ["CHOWN"]
no_new_privileges = false
pids_limit = 100
seccomp_profile = "{profile}"
sandbox_env = {{ EVERYWHERE = "yes", OWN = "no" }}
sandbox_binds = ["{shared}:/shared:ro"]
""")
    id = running(sandboxd, env={"OWN": "mine"})
    host = sandboxd.docker.inspect(id)["HostConfig"]
    assert (host["NetworkMode"], host["CapDrop"], host["PidsLimit"]) == ("host", ["CHOWN"], 100)
    assert sh(sandboxd, id, "echo $EVERYWHERE $OWN; cat /shared/file; mkdir /x 2>/dev/null || echo no") == (
        "yes mine\nfrom the host\nno")
    second = running(sandboxd)  # with the host's network, each has a port of its own
    assert endpoint(sandboxd, id) != endpoint(sandboxd, second)
    assert sh(sandboxd, second, "echo up") == "up"


def test_ports_of_a_range(configured):
    sandboxd = configured("[docker]\nport_range_min = 42100\nport_range_max = 42400\npublish_host = '0.0.0.0'\n")
    id = running(sandboxd)
    assert 42100 <= port_of(sandboxd, id) <= 42400


def port_of(sandboxd, id):
    return int(endpoint(sandboxd, id).rsplit(":", 1)[1])


def occupy(stack, first, n):
    """These are in use, by us or by somebody else."""
    for port in range(first, min(first + n, 1 << 16)):
        taken = stack.enter_context(socket.socket())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            taken.bind(("127.0.0.1", port))
            taken.listen()


def test_ports_that_others_have(configured):
    """The daemon counts upwards and gives up after ten: so many and more are taken."""
    sandboxd = configured('[pool]\n"python:3.11" = 1\n')
    pool(sandboxd, started=1)
    with ExitStack() as stack:
        id = running(sandboxd)
        pool(sandboxd, started=2)
        (spare,) = spares(sandboxd, id)
        bindings = sandboxd.docker.inspect(spare)["NetworkSettings"]["Ports"]["44772/tcp"]
        occupy(stack, int(bindings[0]["HostPort"]) + 1, 25)
        assert running(sandboxd) == spare  # the next spare finds them taken
        assert pool(sandboxd, started=3)["failures"] == 0
        last = running(sandboxd)
        assert sh(sandboxd, last, "echo up") == "up"
        occupy(stack, port_of(sandboxd, last) + 1, 25)
        other = running(sandboxd, image={"uri": "ubuntu:latest"})
        assert sh(sandboxd, other, "echo up") == "up"


def test_ports_of_a_range_that_others_have(configured):
    low = 20000 + os.getpid() % 1000 * 8
    with ExitStack() as stack:
        occupy(stack, low, 3)
        sandboxd = configured(f"[docker]\nport_range_min = {low}\nport_range_max = {low + 7}\n")
        id = running(sandboxd)
        assert low + 3 <= port_of(sandboxd, id) < low + 8
        occupy(stack, low + 3, 5)
        status = wait(sandboxd, create(sandboxd), "Failed")["status"]
        assert "start the container" in status["message"], status
        assert sh(sandboxd, id, "echo up") == "up"


def test_a_runtime_of_another_name(configured):
    """The daemon's own is known to it by another name too; one that it does not know is named."""
    runs = configured('[secure_runtime]\ntype = "gvisor"\ndocker_runtime = "io.containerd.runc.v2"\n')
    id = create(runs)
    sandbox = runs.http.get(f"/sandboxes/{id}", params={"wait": ["Running"]}, timeout=END_TIMEOUT_S).json()
    if sandbox["status"]["state"] == "Running":
        assert runs.docker.inspect(id)["HostConfig"]["Runtime"] == "io.containerd.runc.v2"
    else:
        assert "runc" in sandbox["status"]["message"]


def test_a_runtime_that_is_not_there(configured):
    sandboxd = configured('[secure_runtime]\ntype = "kata"\ndocker_runtime = "kata-none"\n')
    assert "kata-none" in wait(sandboxd, create(sandboxd), "Failed")["status"]["message"]


def test_an_image_that_is_not_there(sandboxd):
    secret = "hush-7c1d"
    id = create(sandboxd, image={"uri": "127.0.0.1:1/none:1", "auth": {"username": "u", "password": secret}})
    status = wait(sandboxd, id, "Failed")["status"]
    assert "127.0.0.1:1/none:1" in status["message"] and "pull" in status["message"]
    assert secret not in sandboxd.logs() + json.dumps(status)
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


def test_volumes(configured, tmp_path):
    shared = tmp_path / "data"
    (shared / "sub").mkdir(parents=True)
    (shared / "sub" / "file").write_text("host\n")
    sandboxd = configured(f'[storage]\nallowed_host_paths = ["{shared}"]\n')
    name = f"vol-{os.getpid()}"
    volume = lambda **fields: {"name": "v", "mountPath": "/v", **fields}
    keep = volume(pvc={"claimName": name})
    gone = volume(name="w", mountPath="/w", pvc={"claimName": name + "-e", "deleteOnSandboxTermination": True})
    host = volume(name="h", mountPath="/h", readOnly=True, host={"path": str(shared)}, subPath="sub")
    try:
        id = running(sandboxd, volumes=[keep, gone, host])
        assert sh(sandboxd, id, "echo kept >/v/file; echo x >/w/file; cat /h/file; echo no >/h/file || echo ro") == "host\nro"
        assert {name, name + "-e"} <= set(sandboxd.docker.volumes())
        delete(sandboxd, id)
        other = running(sandboxd, volumes=[keep])
        assert sh(sandboxd, other, "cat /v/file") == "kept"
        assert name + "-e" not in sandboxd.docker.volumes()
        refused = create(sandboxd, volumes=[volume(pvc={"claimName": "no-such", "createIfNotExists": False})])
        assert "no-such" in wait(sandboxd, refused, "Failed")["status"]["message"]
        delete(sandboxd, other)
        assert "no-such" not in sandboxd.docker.volumes()
    finally:
        sandboxd.docker.http.delete(f"/volumes/{name}", params={"force": 1})


def test_out_of_memory(sandboxd):
    """Of the entrypoint, whose end is that of the sandbox. A command alone ends alone."""
    if not sandboxd.docker.http.get("/info").json()["MemoryLimit"]:
        pytest.skip("the daemon cannot limit memory on this machine")
    limits = {"memory": "64Mi"}
    hungry = "head -c 200000000 /dev/zero | tail -c 150000000"  # tail keeps what it will say
    id = create(sandboxd, resourceLimits=limits, entrypoint=["sh", "-c", "exec tail -c 200000000 /dev/zero"])
    status = wait(sandboxd, id, "Failed")["status"]
    assert status["reason"] == "out_of_memory" and "memory limit" in status["message"], status
    delete(sandboxd, id)
    lives = running(sandboxd, resourceLimits=limits)
    sh(sandboxd, lives, hungry + " | wc -c")
    assert sh(sandboxd, lives, "echo alive") == "alive"
    # killed by somebody else is something else, also where memory had been short
    while f"{lives}: its memory limit has killed a process" not in sandboxd.logs():  # it has heard of it
        assert get(sandboxd, lives)["status"]["state"] == "Running"
    os.kill(container_pid(sandboxd, lives), signal.SIGKILL)
    assert wait(sandboxd, lives, "Failed")["status"]["reason"] == "container_killed"
    # but where it is the entrypoint's turn, that is what it was
    eats = "mkfifo /tmp/go; read x </tmp/go; exec tail -c 200000000 /dev/zero"
    last = running(sandboxd, resourceLimits=limits, entrypoint=["sh", "-c", eats])
    sh(sandboxd, last, hungry + " | wc -c")
    while f"{last}: its memory limit has killed a process" not in sandboxd.logs():
        assert get(sandboxd, last)["status"]["state"] == "Running"
    with suppress(httpx.TransportError):  # it may be gone before it has answered
        sh(sandboxd, last, "until [ -p /tmp/go ]; do :; done; echo >/tmp/go")
    assert wait(sandboxd, last, "Failed")["status"]["reason"] == "out_of_memory"


# ---- the store ---------------------------------------------------------------------------


def test_a_lost_store_is_rebuilt(start_sandboxd):
    first = start_sandboxd()
    ids = [running(first, metadata={"team": "red"}), running(first, timeout=None)]
    first.http.post(f"/sandboxes/{ids[1]}/pause")
    wait(first, ids[1], "Paused")
    before = [get(first, id) for id in ids]
    sh(first, ids[0], "echo kept >/root/file")
    snapshot = snapshot_of(first, ids[0])
    crash(first)
    for file in first.state.glob("sandboxd.db*"):
        file.unlink()
    second = start_sandboxd(state=first.state)
    delete(second, running(second))  # by then it has looked at what the daemon has
    for id, old in zip(ids, before):
        new = get(second, id)
        assert new["status"]["reason"] == "rebuilt" and new["status"]["state"] == old["status"]["state"]
        for key in ("metadata", "entrypoint", "image"):
            assert new[key] == old[key], key
        assert new.get("expiresAt", "")[:19] == old.get("expiresAt", "")[:19]
    assert sh(second, ids[0], "echo up") == "up"
    made = second.http.post("/sandboxes", json={"snapshotId": snapshot, "resourceLimits": {}})
    assert made.status_code == 202, made.text
    ids.append(made.json()["id"])
    wait(second, ids[-1], "Running")
    assert sh(second, ids[-1], "cat /root/file") == "kept"
    assert len(os.listdir(second.state / "agents")) <= 2  # that of what runs, and ours
    second.http.post(f"/sandboxes/{ids[1]}/resume")
    wait(second, ids[1], "Running")
    for id in ids:
        delete(second, id)
    nothing_left(second)


def test_two_servers_share_a_daemon(start_sandboxd, tmp_path):
    one, two = start_sandboxd(state=tmp_path / "one"), start_sandboxd(state=tmp_path / "two")
    id = running(one)
    crash(two)
    again = start_sandboxd(state=tmp_path / "two")
    delete(again, running(again))
    assert sh(one, id, "echo up") == "up"
    delete(one, id)


# ---- the daemon goes away -------------------------------------------------------------------


@pytest.fixture
def own_daemon(tmp_path):
    """One that may be stopped: its containers live on meanwhile."""
    try:
        daemon = dockerd.Dockerd(tmp_path / "dockerd", live_restore=True)
    except dockerd.Unavailable as why:
        pytest.skip(f"no Docker daemon can be had here: {why}")
    yield daemon
    if not daemon.running():
        with suppress(dockerd.Unavailable):
            daemon.start()
    daemon.close()


def test_away_and_back(start_sandboxd, own_daemon):
    sandboxd = start_sandboxd(docker=own_daemon)
    lives, dies, goes = running(sandboxd), running(sandboxd), running(sandboxd)
    pid = container_pid(sandboxd, dies)
    own_daemon.kill()
    # what runs goes on; what is asked for is refused, and says why
    response = sandboxd.http.post("/sandboxes", json=body())
    for _ in range(1000):  # until it has noticed: the request itself is no news to it
        if response.status_code == 503:
            break
        sandboxd.http.delete(f"/sandboxes/{response.json()['id']}")
        response = sandboxd.http.post("/sandboxes", json=body())
    assert response.status_code == 503 and own_daemon.url in response.json()["message"], response.text
    refused = sandboxd.http.post(f"/sandboxes/{lives}/pause")
    assert refused.status_code == 503 and "Docker" in refused.json()["message"]
    assert get(sandboxd, lives)["status"]["state"] == "Running"
    assert sandboxd.http.delete(f"/sandboxes/{goes}").status_code == 204
    os.kill(pid, signal.SIGKILL)
    own_daemon.start()
    assert wait(sandboxd, goes, "Terminated")["status"]["reason"] == "user_delete"
    assert wait(sandboxd, dies, "Failed")["status"]["reason"] in ("container_killed", "container_lost")
    assert sh(sandboxd, lives, "echo up") == "up"
    other = running(sandboxd)
    for id in (lives, dies, other):
        delete(sandboxd, id)
    nothing_left(sandboxd)


def test_started_before_the_daemon(start_sandboxd, own_daemon):
    own_daemon.stop()
    sandboxd = start_sandboxd(docker=own_daemon)
    response = sandboxd.http.post("/sandboxes", json=body())
    if response.status_code == 202:  # it had not been refused by then
        wait(sandboxd, response.json()["id"], "Failed")
    own_daemon.start()
    for _ in range(1000):
        response = sandboxd.http.post("/sandboxes", json=body())
        if response.status_code == 202:
            break
    delete(sandboxd, response.json()["id"])


# ---- killed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["pause", "resume", "snapshots", "delete"])
def test_killed_in_the_middle(start_sandboxd, step):
    first = start_sandboxd()
    id = running(first)
    if step == "resume":
        first.http.post(f"/sandboxes/{id}/pause")
        wait(first, id, "Paused")
    if step == "snapshots":
        sh(first, id, "head -c 30000000 /dev/urandom >/root/big")
    made = first.http.delete(f"/sandboxes/{id}") if step == "delete" else first.http.post(f"/sandboxes/{id}/{step}")
    assert made.status_code in (202, 204), made.text
    crash(first)
    second = start_sandboxd(state=first.state)
    if step == "delete":
        wait(second, id, "Terminated")
    else:
        state = wait(second, id, "Paused" if step == "pause" else "Running")["status"]["state"]
        if state == "Running":
            assert sh(second, id, "echo up") == "up"
    if step == "snapshots":
        status = second.http.get(f"/snapshots/{made.json()['id']}", params={"wait": ""}).json()["status"]
        assert status["reason"] in ("interrupted", "snapshot_ready"), status
        # the daemon may still be at it: its event brings the end
        delete(second, id)
        for _ in range(200):
            if second.docker.snapshots() == [] or status["state"] == "Ready":
                break
            running_again = running(second)
            delete(second, running_again)
        assert second.docker.snapshots() == [] or status["state"] == "Ready"
        return
    delete(second, id)
    nothing_left(second)


class Limited(Claim):
    """Its limits are not the spare's: the daemon is asked to change them before it is told."""

    def request(self):
        return {**super().request(), "resourceLimits": {"memory": "64Mi"}}

    def usable(self, sandboxd, id):
        return Case.usable(self, sandboxd, id)


# Of about 50 points: its record is written (8), it has been told (10), its row is being written (18), its client has been
# answered (26), it is to be Running (36); or its limits are asked for (10), and are so (28).
WITHIN_A_CLAIM = [*((Claim, n) for n in (8, 10, 18, 26, 36)), *((Limited, n) for n in (10, 28))]


@pytest.mark.parametrize("case, n", WITHIN_A_CLAIM)
def test_killed_within_a_claim(start_sandboxd, tmp_path, case, n):
    """Who has been told of a sandbox has it, where nothing but telling was to be done; and nothing is left."""
    fuse = Fuse(tmp_path)
    fuse.env["CRASH_AT_SENDS"] = "1"
    env = settings(tmp_path, case.settings)
    first = start_sandboxd(env={**fuse.env, **env})
    work = case(first)
    done = burned(fuse, n, work, first)
    second = start_sandboxd(state=first.state, env=env)
    second.predecessor = first
    work.check(second, done)
    for id in work.ids:
        delete(second, id)
    second.process.terminate()
    assert second.process.wait(END_TIMEOUT_S) == 0
    second.expect_exit = None
    assert second.docker.containers() == [] and not list(second.state.glob("claimed/*"))


def test_removed_from_outside(sandboxd):
    id = running(sandboxd)
    sandboxd.docker.http.delete(f"/containers/sandbox-{id}", params={"force": 1})
    assert wait(sandboxd, id, "Failed")["status"]["reason"] in ("container_lost", "container_killed")
    delete(sandboxd, id)


def test_settings_that_cannot_be(tmp_path):
    for text, words in (("[docker]\npublish_host = 'box'", "publish_host"), ("[docker]\nnetwork_mode = 'none'", "network_mode"),
                        ("[docker]\nport_range_min = 2000", "port_range"), ("[secure_runtime]\ntype = 'gvisor'", "docker_runtime"),
                        ("[docker]\nsandbox_env = { A = 1 }", "sandbox_env"), ("[docker]\ndrop_capabilities = 'ALL'", "array")):
        file = tmp_path / "bad.toml"
        file.write_text("[runtime]\ntype = 'docker'\n" + text + "\n")
        done = subprocess.run([SANDBOXD, "--config", file, "--state", tmp_path / "state"], capture_output=True, text=True,
                              timeout=END_TIMEOUT_S, env={**os.environ, "DOCKER_HOST": "unix:///nowhere"})
        assert done.returncode == 2 and words in done.stderr, (text, done.stderr)
