"""The warm pool: creates that take a sandbox which runs already, and what becomes of the spares."""

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from daemon import END_TIMEOUT_S, SANDBOXD, process_ended
from test_lifecycle import (  # noqa: F401, a fixture
    IMAGE,
    container_pid,
    crash,
    create,
    delete,
    endpoint,
    entered,
    get,
    go,
    groups,
    running,
    sh,
    slow_runtime,
    wait,
)

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")


def settings(tmp_path, text):
    file = tmp_path / "sandbox.toml"
    file.write_text(text)
    return {"SANDBOX_CONFIG_PATH": str(file)}


@pytest.fixture
def pooled(start_sandboxd, tmp_path):
    """start(size, **options): a sandboxd that keeps spares of IMAGE; they are ready when it returns."""

    def start(size=1, **options):
        sandboxd = start_sandboxd(env=settings(tmp_path, f'[pool]\n"{IMAGE}" = {size}\n'), **options)
        pool(sandboxd, started=size)
        return sandboxd

    return start


def pool(sandboxd, **params):
    """The state of the pool; started=N, failures=N: once so many spares have been started, have failed."""
    response = sandboxd.http.get("/pool", params=params, timeout=END_TIMEOUT_S)
    assert response.status_code == 200, response.text
    (row,) = response.json()["images"]
    return row


def stop(sandboxd):
    sandboxd.process.terminate()
    assert sandboxd.process.wait(END_TIMEOUT_S) == 0
    sandboxd.expect_exit = None


def spares(sandboxd, *known):
    if sandboxd.docker:
        there = {container["Labels"]["opensandbox.io/id"] for container in sandboxd.docker.containers()}
    else:
        there = set(os.listdir(sandboxd.state / "sandboxes"))
    return there - set(known)


@pytest.mark.runtimes
@pytest.mark.smoke
def test_claimed(pooled):
    sandboxd = pooled(1)
    (spare,) = spares(sandboxd)
    # nobody sees it
    assert sandboxd.http.get("/sandboxes").json()["pagination"]["totalItems"] == 0
    for path in (f"/sandboxes/{spare}", f"/sandboxes/{spare}/endpoints/44772", f"/sandboxes/{spare}/diagnostics/logs?scope=all"):
        assert sandboxd.http.get(path).status_code == 404, path
    assert sandboxd.http.delete(f"/sandboxes/{spare}").status_code == 404
    assert sandboxd.http.post(f"/sandboxes/{spare}/pause").status_code == 404
    assert sandboxd.http.post(f"/sandboxes/{spare}/snapshots").status_code == 404

    id = create(sandboxd, env={"GIVEN": "yes", "HOME": "/tmp"}, metadata={"name": "first"},
                entrypoint=["sh", "-c", "echo $GIVEN >/tmp/from-entrypoint; exec tail -f /dev/null"])
    assert id == spare
    # the endpoint is good at once, as that of a cold one
    assert httpx.get(f"http://{endpoint(sandboxd, id)}/ping", timeout=END_TIMEOUT_S).status_code == 200
    sandbox = wait(sandboxd, id, "Running")
    assert sandbox["metadata"] == {"name": "first"} and sandbox["image"] == {"uri": IMAGE}
    assert {"claimedMs", "answeredMs", "totalMs"} <= sandbox["timing"].keys()
    assert "startedMs" not in sandbox["timing"]  # long before
    assert sh(sandboxd, id, "echo $GIVEN $HOME; cat /tmp/from-entrypoint; cat /proc/1/comm") == "yes /tmp\nyes\nexecd"
    row = pool(sandboxd, started=2)
    assert row["ready"] == 1
    assert (row["hits"], row["misses"], row["unfit"]) == (1, 0, 0)
    # its end is that of any sandbox, and the next spare is another
    assert spares(sandboxd, id) != {id}
    delete(sandboxd, id)
    assert groups(id) == []
    second = running(sandboxd)
    assert second != id and pool(sandboxd)["hits"] == 2


@pytest.mark.runtimes
def test_limits_are_set_by_the_claim(pooled):
    sandboxd = pooled(1)
    id = running(sandboxd, resourceLimits={"cpu": "500m", "memory": "64Mi"})
    assert pool(sandboxd)["hits"] == 1
    if sandboxd.docker:
        host = sandboxd.docker.inspect(id)["HostConfig"]
        assert (host["Memory"], host["MemorySwap"], host["CpuQuota"], host["PidsLimit"]) == (64 << 20, 64 << 20, 50000, 4096)
        # the next is started with these; whoever wants others, or none, has them
        assert pool(sandboxd, started=2)["ready"] == 1
        (spare,) = spares(sandboxd, id)
        assert sandboxd.docker.inspect(spare)["HostConfig"]["Memory"] == 64 << 20
        other = running(sandboxd)
        assert other == spare and pool(sandboxd)["hits"] == 2
        host = sandboxd.docker.inspect(other)["HostConfig"]
        assert host["Memory"] > 1 << 40 and host["CpuQuota"] == -1
        return
    message = get(sandboxd, id)["status"]["message"]
    values = {"memory.max": "67108864", "memory.limit_in_bytes": "67108864", "cpu.max": "50000 100000",
              "cpu.cfs_quota_us": "50000"}
    for file, value in values.items():
        for group in groups(id):
            path = Path(group) / file
            if path.exists() and file.split(".")[0] not in message:
                assert path.read_text().strip() == value, path


@pytest.mark.runtimes
def test_token_comes_with_the_claim(pooled):
    sandboxd = pooled(1)
    id = running(sandboxd, secureAccess=True)
    assert pool(sandboxd)["hits"] == 1
    response = sandboxd.http.get(f"/sandboxes/{id}/endpoints/44772").json()
    command = lambda headers: httpx.post(f"http://{response['endpoint']}/command", json={"command": "true"}, headers=headers)
    assert command({}).status_code == 401
    assert command(response["headers"]).status_code == 200


@pytest.mark.runtimes
def test_large_environment(pooled):
    """More than any pipe holds by itself."""
    sandboxd = pooled(1)
    id = running(sandboxd, env={f"LARGE_{n}": "x" * 100_000 for n in range(5)})
    assert pool(sandboxd)["hits"] == 1
    assert sh(sandboxd, id, "echo ${#LARGE_4}") == "100000"


@pytest.mark.runtimes
def test_what_does_not_fit(pooled):
    sandboxd = pooled(1)
    (spare,) = spares(sandboxd)
    assert running(sandboxd, image={"uri": "ubuntu:latest"}) != spare  # another image is no business of the pool
    assert running(sandboxd, image={"uri": IMAGE, "auth": {"username": "u", "password": "p"}}) != spare
    row = pool(sandboxd)
    assert (row["hits"], row["misses"], row["unfit"], row["ready"]) == (0, 0, 1, 1)
    assert running(sandboxd, image={"uri": f"docker.io/library/{IMAGE}"}) == spare  # the same by another name


@pytest.mark.runtimes
def test_more_creates_than_spares(pooled):
    sandboxd = pooled(2)
    ids = [create(sandboxd) for _ in range(5)]
    for id in ids:
        wait(sandboxd, id, "Running")
    row = pool(sandboxd, started=4)
    assert row["hits"] + row["misses"] == 5 and row["hits"] >= 2
    for id in ids:
        delete(sandboxd, id)


@pytest.mark.runtimes
def test_entrypoint_that_is_not_there(pooled):
    sandboxd = pooled(1)
    id = create(sandboxd, entrypoint=["/no/such/program"])
    status = wait(sandboxd, id, "Failed")["status"]
    assert pool(sandboxd)["hits"] == 1
    assert "/no/such/program" in status["message"]
    delete(sandboxd, id)


@pytest.mark.runtimes
def test_a_spare_that_dies_is_replaced(pooled):
    sandboxd = pooled(1)
    (spare,) = spares(sandboxd)
    os.kill(container_pid(sandboxd, spare), signal.SIGKILL)
    assert pool(sandboxd, failures=1, started=2)["ready"] == 1
    assert running(sandboxd) != spare
    assert "lastError" in pool(sandboxd)


def test_starts_that_fail(start_sandboxd, tmp_path):
    """Creates go on without a pool, and the pool does not try again and again."""
    program = tmp_path / "crun"
    (tmp_path / "broken").touch()
    program.write_text(f"""#!/bin/sh
case " $* " in *" run "*) test -e {tmp_path}/broken && {{ echo x >>{tmp_path}/tries; echo 'crun: broken' >&2; exit 1; }} ;; esac
exec /usr/bin/crun "$@"
""")
    program.chmod(0o755)
    sandboxd = start_sandboxd(env=settings(tmp_path, f'[pool]\n"{IMAGE}" = 3\n'), args=["--runtime", program])
    assert "broken" in pool(sandboxd, failures=3)["lastError"]
    assert len((tmp_path / "tries").read_text().split()) < 20
    (tmp_path / "broken").unlink()
    running(sandboxd)
    assert pool(sandboxd)["misses"] == 1
    assert pool(sandboxd, started=3)["ready"] == 3


def test_a_start_that_hangs(start_sandboxd, tmp_path, slow_runtime):
    sandboxd = start_sandboxd(env=settings(tmp_path, f'[pool]\n"{IMAGE}" = 1\n[sandboxd]\nprovision_timeout_seconds = 1\n'),
                              args=["--runtime", slow_runtime])
    first = entered(slow_runtime)
    process_ended(first)  # given up
    entered(slow_runtime)
    assert "in time" in pool(sandboxd)["lastError"]
    go(slow_runtime)
    assert pool(sandboxd, started=1)["ready"] == 1


# ---- crashes and ends ---------------------------------------------------------------


@pytest.mark.runtimes
def test_spares_end_with_their_server(pooled):
    first = pooled(2)
    pids = [container_pid(first, id) for id in spares(first)]
    old = spares(first)
    crash(first)
    for pid in pids:  # nobody has to come back for that
        process_ended(pid)
    second = pooled(2, state=first.state)
    stop(second)  # it ends when all is removed
    assert spares(second) == set()
    assert [group for id in old for group in groups(id)] == []


@pytest.mark.runtimes
def test_claimed_ones_are_adopted(pooled):
    first = pooled(1)
    id = create(first, env={"GIVEN": "yes"})
    crash(first)
    second = pooled(1, state=first.state)
    assert wait(second, id, "Running")["status"]["state"] == "Running"
    assert sh(second, id, "echo $GIVEN") == "yes"
    pid = container_pid(second, id)
    delete(second, id)
    process_ended(pid)


@pytest.mark.runtimes
@pytest.mark.parametrize("how", [[], ["--kill-on-exit"]])
def test_drained_at_the_end(pooled, how):
    sandboxd = pooled(2, args=how)
    ids = [*spares(sandboxd)]
    pids = [container_pid(sandboxd, id) for id in ids]
    stop(sandboxd)
    for pid in pids:
        process_ended(pid)
    assert spares(sandboxd) == set()
    assert [group for id in ids for group in groups(id)] == []


@pytest.mark.parametrize("text, words", [
    ('[pool]\n"python:3.11" = -1\n', 'line 2: pool."python:3.11": -1 is not from 0 to 1000'),
    ('[pool]\n"python:3.11" = "two"\n', 'line 2: pool."python:3.11": expected an integer, got a string'),
    ("[sandboxd]\npool_starts = 0\n", "line 2: sandboxd.pool_starts: 0 is not from 1 to 64"),
])
def test_settings_that_are_wrong(tmp_path, text, words):
    file = tmp_path / "sandbox.toml"
    file.write_text(text)
    done = subprocess.run([SANDBOXD, "--config", file, "--state", tmp_path / "state"], capture_output=True, text=True,
                          timeout=END_TIMEOUT_S)
    assert done.returncode == 2 and words in done.stderr, done.stderr
