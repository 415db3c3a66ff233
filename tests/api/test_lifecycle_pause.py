"""Metadata that changes, and sandboxes that stand still."""

import os
import signal
from datetime import datetime, timedelta, timezone

import httpx
import pytest

from daemon import END_TIMEOUT_S, process_ended
from test_lifecycle import agent, container_pid, crash, create, delete, endpoint, get, nothing_left, running, sh, wait

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")


def post(sandboxd, id, what):
    return sandboxd.http.post(f"/sandboxes/{id}/{what}")


def pause(sandboxd, id):
    response = post(sandboxd, id, "pause")
    assert response.status_code == 202 and response.headers["x-request-id"], response.text
    return wait(sandboxd, id, "Paused")


def patch(sandboxd, id, body):
    return sandboxd.http.patch(f"/sandboxes/{id}/metadata", json=body)


# ---- metadata -------------------------------------------------------------------


def test_merge_patch(sandboxd):
    id = running(sandboxd, metadata={"name": "first", "team": "red"})
    response = patch(sandboxd, id, {"team": None, "stage": "two", "absent": None})
    assert response.status_code == 200
    assert response.json()["metadata"] == {"name": "first", "stage": "two"}
    assert response.json() == get(sandboxd, id)
    assert patch(sandboxd, id, {}).json()["metadata"] == {"name": "first", "stage": "two"}
    assert patch(sandboxd, id, {"example.com/tier": "a.b_c"}).json()["metadata"]["example.com/tier"] == "a.b_c"
    found = lambda query: [item["id"] for item in sandboxd.http.get("/sandboxes", params={"metadata": query}).json()["items"]]
    assert found("stage=two") == [id] and found("team=red") == []


@pytest.mark.parametrize("bad", [{"opensandbox.io/x": "y"}, {"opensandbox.io/x": None}, {"-a": "b"}, {"a": "b c"},
                                 {"a": "x" * 64}, {"a": 1}, {"a": {}}, {"": "x"}, [], "x", None])
def test_bad_patches_change_nothing(sandboxd, bad):
    id = create(sandboxd, metadata={"name": "first"})
    response = patch(sandboxd, id, bad)
    assert response.status_code == 400 and set(response.json()) == {"code", "message"}
    assert get(sandboxd, id)["metadata"] == {"name": "first"}


def test_patch_where_there_is_nothing_to_patch(sandboxd):
    assert patch(sandboxd, "no-such", {"a": "b"}).status_code == 404
    id = running(sandboxd)
    delete(sandboxd, id)
    assert patch(sandboxd, id, {"a": "b"}).status_code == 409
    id = running(sandboxd)
    crowd = {f"k{i}": "v" for i in range(64)}
    assert patch(sandboxd, id, crowd).status_code == 200
    assert patch(sandboxd, id, {"one-more": "v"}).status_code == 400
    assert get(sandboxd, id)["metadata"] == crowd


# ---- standing still ----------------------------------------------------------------


def frozen(sandboxd, id):
    """What the kernel says of the sandbox's first process."""
    groups = open(f"/proc/{container_pid(sandboxd, id)}/cgroup").read()
    for line in groups.splitlines():
        number, controllers, path = line.split(":", 2)
        for root, file, word in ((f"/sys/fs/cgroup/unified{path}", "cgroup.events", "frozen 1"),
                                 (f"/sys/fs/cgroup{path}", "cgroup.events", "frozen 1"),
                                 (f"/sys/fs/cgroup/freezer{path}", "freezer.state", "FROZEN")):
            if os.path.exists(f"{root}/{file}") and word in open(f"{root}/{file}").read():
                return True
    return False


@pytest.mark.runtimes
def test_pause_and_resume(sandboxd):
    id = running(sandboxd)
    sh(sandboxd, id, "echo kept >/tmp/file")
    status = pause(sandboxd, id)["status"]
    assert status["reason"] == "paused" and status["lastTransitionAt"]
    assert frozen(sandboxd, id)
    # a request waits in the agent's queue, and is answered once it runs again
    with agent(sandboxd, id) as client:
        with pytest.raises(httpx.TimeoutException):
            client.get("/ping", timeout=0.2)
        again = post(sandboxd, id, "pause")
        assert (again.status_code, again.json()["code"]) == (409, "DOCKER::SANDBOX_NOT_RUNNING")
        assert post(sandboxd, id, "resume").status_code == 202
        assert wait(sandboxd, id, "Running")["status"]["reason"] == "running"
        assert client.get("/ping").status_code == 200
    assert not frozen(sandboxd, id)
    assert sh(sandboxd, id, "cat /tmp/file") == "kept"
    again = post(sandboxd, id, "resume")
    assert (again.status_code, again.json()["code"]) == (409, "DOCKER::SANDBOX_NOT_PAUSED")
    assert post(sandboxd, "no-such", "pause").status_code == 404
    assert post(sandboxd, "no-such", "resume").status_code == 404
    delete(sandboxd, id)
    assert post(sandboxd, id, "pause").status_code == 409
    assert post(sandboxd, id, "resume").status_code == 409
    nothing_left(sandboxd, id)


@pytest.mark.runtimes
def test_paused_before_it_runs(sandboxd):
    id = create(sandboxd)
    assert post(sandboxd, id, "pause").status_code == 202
    assert wait(sandboxd, id, "Paused") and frozen(sandboxd, id)
    assert post(sandboxd, id, "resume").status_code == 202
    wait(sandboxd, id, "Running")


@pytest.mark.runtimes
def test_a_paused_one_is_deleted(sandboxd):
    id = running(sandboxd)
    pause(sandboxd, id)
    assert delete(sandboxd, id)["status"]["reason"] == "user_delete"
    nothing_left(sandboxd, id)


@pytest.mark.runtimes
@pytest.mark.parametrize("step", ["pause", "resume"])
def test_deleted_in_between(sandboxd, step):
    ids = [running(sandboxd) for _ in range(4)]
    for id in ids:
        if step == "resume":
            pause(sandboxd, id)
        assert post(sandboxd, id, step).status_code == 202
        assert sandboxd.http.delete(f"/sandboxes/{id}").status_code == 204
    for id in ids:
        assert wait(sandboxd, id, "Terminated")["status"]["reason"] == "user_delete"
    nothing_left(sandboxd, *ids)


@pytest.mark.runtimes
def test_a_paused_one_expires(sandboxd):
    id = running(sandboxd)
    pause(sandboxd, id)
    soon = (datetime.now(timezone.utc) + timedelta(seconds=1)).isoformat()
    assert sandboxd.http.post(f"/sandboxes/{id}/renew-expiration", json={"expiresAt": soon}).status_code == 200
    assert wait(sandboxd, id, "Terminated")["status"]["reason"] == "ttl_expiry"
    nothing_left(sandboxd, id)


def test_nobody_need_wait_between(sandboxd):
    """Each is accepted while the one before is on its way; what was asked for last is what becomes of it."""
    id = create(sandboxd)
    wait(sandboxd, id, "Running")
    for _ in range(5):
        for what in ("pause", "resume", "pause", "resume"):
            assert post(sandboxd, id, what).status_code == 202
        assert sh(sandboxd, id, "echo up") == "up"
        assert wait(sandboxd, id, "Running")
    for what in ("pause", "resume", "pause"):
        assert post(sandboxd, id, what).status_code == 202
    wait(sandboxd, id, "Paused")
    assert post(sandboxd, id, "resume").status_code == 202
    wait(sandboxd, id, "Running")
    assert post(sandboxd, id, "snapshots").status_code == 202  # no wish is left over


def test_a_paused_one_is_killed_from_outside(sandboxd):
    id = running(sandboxd)
    pause(sandboxd, id)
    pid = container_pid(sandboxd, id)
    os.kill(pid, signal.SIGKILL)
    if frozen(sandboxd, id) and not os.path.exists("/sys/fs/cgroup/unified"):
        assert post(sandboxd, id, "resume").status_code == 202  # the old freezer holds even the dead
    assert wait(sandboxd, id, "Failed")["status"]["reason"] == "container_killed"
    assert post(sandboxd, id, "resume").status_code == 409


@pytest.mark.runtimes
def test_paused_over_a_crash(start_sandboxd):
    first = start_sandboxd()
    paused, other = running(first), running(first)
    pause(first, paused)
    assert post(first, other, "pause").status_code == 202  # killed while it does that
    crash(first)
    second = start_sandboxd()
    assert get(second, paused)["status"]["state"] == "Paused" and frozen(second, paused)
    wait(second, other, "Paused")
    for id in (paused, other):
        assert post(second, id, "resume").status_code == 202
        wait(second, id, "Running")
        assert sh(second, id, "echo alive") == "alive"


@pytest.mark.runtimes
def test_a_paused_one_outlives_the_server(start_sandboxd):
    first = start_sandboxd()
    id = running(first)
    pause(first, id)
    pid = container_pid(first, id)
    host = endpoint(first, id)
    first.process.terminate()
    assert first.process.wait(END_TIMEOUT_S) == 0
    first.expect_exit = None
    second = start_sandboxd()
    assert get(second, id)["status"]["state"] == "Paused"
    assert post(second, id, "resume").status_code == 202
    assert httpx.get(f"http://{host}/ping", timeout=END_TIMEOUT_S).status_code == 200
    delete(second, id)
    process_ended(pid)
