"""Snapshots: what a sandbox's file system was, and sandboxes that go on from there."""

import os
import sqlite3

import pytest

from test_lifecycle import FOREVER, body, crash, create, delete, get, held, nothing_left, running, sh, wait

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")


def kept(sandboxd):
    """The snapshots of which there is something on the machine."""
    return sandboxd.docker.snapshots() if sandboxd.docker else os.listdir(sandboxd.state / "snapshots")


def take(sandboxd, id, **fields):
    response = sandboxd.http.post(f"/sandboxes/{id}/snapshots", json=fields)
    assert response.status_code == 202, response.text
    made = response.json()
    assert response.headers["location"] == f"/v1/snapshots/{made['id']}"
    assert made["sandboxId"] == id and made["status"]["state"] == "Creating"
    return made["id"]


def state(sandboxd, snapshot, **query):
    response = sandboxd.http.get(f"/snapshots/{snapshot}", params=query)
    return response.json()["status"] if response.status_code == 200 else {"state": response.status_code}


def settled(sandboxd, snapshot, *wanted):
    """Ready, Failed or gone: the server answers at that moment."""
    status = state(sandboxd, snapshot, wait="")
    assert not wanted or status["state"] in wanted, status
    return status


def restore(sandboxd, snapshot, **fields):
    request = body(snapshotId=snapshot, **fields)
    del request["image"]
    if "entrypoint" not in fields:
        del request["entrypoint"]
    response = sandboxd.http.post("/sandboxes", json=request)
    assert response.status_code == 202, response.text
    id = response.json()["id"]
    wait(sandboxd, id, "Running")
    return id


CHANGES = """
echo one >/root/file; mkdir -p /srv/dir; ln -s /root/file /srv/dir/link; ln /root/file /srv/dir/hard
chmod 640 /root/file; chown 1000:1000 /srv/dir; rm /etc/debian_version; rm -rf /usr/share/doc
mkfifo /srv/pipe; touch -d @86400 /srv/dir/old; rm -rf /var/log; mkdir /var/log; echo new >/var/log/only
echo two >/usr/local/bin/tool
"""
LOOK = """
cat /root/file /srv/dir/link /usr/local/bin/tool; stat -c '%a %U' /root/file; stat -c %u:%g /srv/dir
stat -c %Y /srv/dir/old; ls /var/log; test -e /etc/debian_version || echo no-version; test -e /usr/share/doc || echo no-doc
test -p /srv/pipe && echo pipe; test /root/file -ef /srv/dir/hard && echo linked
"""
SEEN = "one\none\ntwo\n640 root\n1000:1000\n86400\nonly\nno-version\nno-doc\npipe\nlinked"


@pytest.mark.runtimes
def test_taken_and_restored(sandboxd):
    id = running(sandboxd, metadata={"a": "b"})
    sh(sandboxd, id, CHANGES)
    snapshot = take(sandboxd, id, name="checkpoint")
    status = settled(sandboxd, snapshot, "Ready")
    assert status["reason"] == "snapshot_ready" and status["lastTransitionAt"]
    # the source goes on, and what it does now is its own
    assert get(sandboxd, id)["status"]["state"] == "Running"
    sh(sandboxd, id, "echo later >/root/file; rm /var/log/only")
    again = restore(sandboxd, snapshot)
    shown = get(sandboxd, again)
    assert shown["snapshotId"] == snapshot and "image" not in shown and shown["entrypoint"] == FOREVER
    assert sh(sandboxd, again, LOOK) == SEEN
    delete(sandboxd, id)
    # twice at once, each for itself, and with an entrypoint
    other = restore(sandboxd, snapshot, entrypoint=["sleep", "1000"])
    sh(sandboxd, again, "echo mine >/root/file")
    assert get(sandboxd, other)["entrypoint"] == ["sleep", "1000"]
    assert sh(sandboxd, other, LOOK) == SEEN
    for one in (again, other):
        delete(sandboxd, one)
    nothing_left(sandboxd, id, again, other)
    assert sandboxd.http.delete(f"/snapshots/{snapshot}").status_code == 204
    settled(sandboxd, snapshot, 404)
    assert kept(sandboxd) == []


@pytest.mark.runtimes
def test_snapshots_of_snapshots(sandboxd):
    id = running(sandboxd)
    sh(sandboxd, id, "echo 0 >/root/0; echo x >/root/gone")
    snapshots = []
    for n in range(1, 4):
        snapshots.append(take(sandboxd, id))
        settled(sandboxd, snapshots[-1], "Ready")
        delete(sandboxd, id)
        id = restore(sandboxd, snapshots[-1])
        sh(sandboxd, id, f"echo {n} >/root/{n}; rm -f /root/gone")
    # each stands alone: those before it may go
    last = take(sandboxd, id)
    settled(sandboxd, last, "Ready")
    delete(sandboxd, id)
    for snapshot in snapshots:
        assert sandboxd.http.delete(f"/snapshots/{snapshot}").status_code == 204
        settled(sandboxd, snapshot, 404)
    assert kept(sandboxd) == [last]
    assert sh(sandboxd, restore(sandboxd, last), "cat /root/*") == "0\n1\n2\n3"


@pytest.mark.runtimes
def test_deleted_while_in_use(sandboxd):
    id = running(sandboxd)
    sh(sandboxd, id, "echo here >/root/file")
    snapshot = take(sandboxd, id)
    settled(sandboxd, snapshot, "Ready")
    user = restore(sandboxd, snapshot)
    assert sandboxd.http.delete(f"/snapshots/{snapshot}").status_code == 204
    assert state(sandboxd, snapshot)["state"] == "Deleting"
    request = {"snapshotId": snapshot, "resourceLimits": {}}
    assert sandboxd.http.post("/sandboxes", json=request).status_code == 409
    assert sh(sandboxd, user, "cat /root/file") == "here"
    delete(sandboxd, user)
    settled(sandboxd, snapshot, 404)
    assert kept(sandboxd) == []


def test_list(sandboxd):
    ids = [running(sandboxd), running(sandboxd)]
    taken = []
    for id in (ids[0], ids[1], ids[0]):
        taken.append(take(sandboxd, id))
        settled(sandboxd, taken[-1], "Ready")
    listed = lambda **query: sandboxd.http.get("/snapshots", params=query).json()
    assert {item["id"] for item in listed()["items"]} == set(taken)
    assert {item["id"] for item in listed(sandboxId=ids[0])["items"]} == {taken[0], taken[2]}
    assert listed(state="Failed")["items"] == [] and len(listed(state=["Failed", "ready"])["items"]) == 3
    assert listed(page=2, pageSize=2)["pagination"] == {
        "page": 2, "pageSize": 2, "totalItems": 3, "totalPages": 2, "hasNextPage": False}
    for bad in ({"state": "Nice"}, {"page": 0}, {"pageSize": "x"}):
        assert sandboxd.http.get("/snapshots", params=bad).status_code == 400


def test_what_is_refused(sandboxd):
    id = running(sandboxd)
    post = lambda id, json: sandboxd.http.post(f"/sandboxes/{id}/snapshots", json=json)
    for bad in ({"name": ""}, {"name": 1}, {"nane": "x"}, [], "x", {"name": "x" * 1025}):
        assert post(id, bad).status_code == 400, bad
    assert post("no-such", {}).status_code == 404
    for missing in (sandboxd.http.get, sandboxd.http.delete):
        response = missing("/snapshots/no-such")
        assert (response.status_code, response.json()["code"]) == (404, "SNAPSHOT::NOT_FOUND")
    create_with = lambda **fields: sandboxd.http.post("/sandboxes", json={"resourceLimits": {}, **fields})
    assert create_with(snapshotId="no-such").status_code == 404
    assert create_with(snapshotId="../../etc").status_code == 404
    assert create_with().status_code == 400
    sandboxd.http.post(f"/sandboxes/{id}/pause")
    wait(sandboxd, id, "Paused")
    paused = post(id, {})
    assert (paused.status_code, paused.json()["code"]) == (409, "SNAPSHOT::INVALID_SOURCE_STATE")
    sandboxd.http.post(f"/sandboxes/{id}/resume")
    wait(sandboxd, id, "Running")
    snapshot = take(sandboxd, id)
    settled(sandboxd, snapshot, "Ready")
    assert create_with(snapshotId=snapshot, image={"uri": "ubuntu"}, entrypoint=["sh"]).status_code == 400
    delete(sandboxd, id)
    assert post(id, {}).status_code == 409


@pytest.mark.runtimes
def test_while_it_is_taken(sandboxd):
    """Nothing else begins meanwhile; the end of the sandbox is the end of its snapshot."""
    id = running(sandboxd)
    sh(sandboxd, id, "head -c 60000000 /dev/urandom >/root/big")
    snapshot = take(sandboxd, id)
    refused = [sandboxd.http.delete(f"/snapshots/{snapshot}").status_code,
               sandboxd.http.post(f"/sandboxes/{id}/snapshots").status_code,
               sandboxd.http.post(f"/sandboxes/{id}/pause").status_code]
    assert state(sandboxd, snapshot)["state"] == "Ready" or refused == [409, 409, 409]
    sandboxd.http.delete(f"/sandboxes/{id}")
    wait(sandboxd, id, "Terminated")
    assert settled(sandboxd, snapshot)["reason"] in ("sandbox_ended", "snapshot_ready", "snapshot_capture_failed")
    nothing_left(sandboxd, id)


def test_what_waits_for_a_snapshot(start_sandboxd, tmp_path):
    """Held in the middle of the copy: nothing else begins, and afterwards all of it may."""
    go, env = held(tmp_path, "cp")
    sandboxd = start_sandboxd(env=env)
    id = running(sandboxd)
    snapshot = take(sandboxd, id)
    post = lambda what: sandboxd.http.post(f"/sandboxes/{id}/{what}").status_code
    assert [post("pause"), post("snapshots"), sandboxd.http.delete(f"/snapshots/{snapshot}").status_code] == [409, 409, 409]
    assert state(sandboxd, snapshot)["state"] == "Creating" and get(sandboxd, id)["status"]["state"] == "Running"
    go.write_text("now\n")
    settled(sandboxd, snapshot, "Ready")
    assert post("pause") == 202
    wait(sandboxd, id, "Paused")
    assert post("snapshots") == 409  # only of one that runs
    assert sandboxd.http.delete(f"/snapshots/{snapshot}").status_code == 204
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


@pytest.mark.runtimes
def test_taken_before_it_runs(sandboxd):
    id = create(sandboxd)
    snapshot = take(sandboxd, id)
    settled(sandboxd, snapshot, "Ready")
    failed = create(sandboxd, entrypoint=["/no/such/program"])
    response = sandboxd.http.post(f"/sandboxes/{failed}/snapshots")
    if response.status_code == 202:
        assert settled(sandboxd, response.json()["id"], "Failed")["reason"]


@pytest.mark.runtimes
def test_over_a_crash(start_sandboxd):
    first = start_sandboxd()
    id = running(first)
    sh(first, id, "echo kept >/root/file; head -c 60000000 /dev/urandom >/root/big")
    ready = take(first, id)
    settled(first, ready, "Ready")
    user = restore(first, ready)
    half = take(first, id)
    crash(first)
    second = start_sandboxd()
    assert state(second, ready)["state"] == "Ready"
    assert settled(second, half)["reason"] in ("interrupted", "snapshot_ready")
    assert sh(second, id, "echo alive") == "alive"  # and not frozen
    assert sh(second, user, "cat /root/file") == "kept"
    assert second.http.delete(f"/snapshots/{ready}").status_code == 204  # still in use, also for the new one
    assert state(second, ready)["state"] == "Deleting"
    third = restore(second, take_and_wait(second, user))
    assert sh(second, third, "cat /root/file") == "kept"
    with sqlite3.connect(second.state / "sandboxd.db") as db:
        assert db.execute("SELECT count(*) FROM snapshots WHERE state = 0").fetchone() == (0,)


def take_and_wait(sandboxd, id):
    snapshot = take(sandboxd, id)
    settled(sandboxd, snapshot, "Ready")
    return snapshot
