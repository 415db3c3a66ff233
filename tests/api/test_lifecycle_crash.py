"""SIGKILL within every operation, at exact points, and crowds; before and after everything is counted."""

import mmap
import os
import sqlite3
import struct
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest

from daemon import BUILD, END_TIMEOUT_S, KEY, ROOT, children
from images import Image, file, layer, shell
from test_lifecycle import IMAGE, body, delete, get, groups, running, sh, snapshot_of, wait

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")

SHIM = BUILD / "fault/crash_at.so"


class Fuse:
    """Kills the sandboxd that was started with its environment: at the Nth point after burn(N)."""

    def __init__(self, folder):
        self.file = folder / "fuse"
        self.file.write_bytes(bytes(4))
        self.env = {"LD_PRELOAD": str(SHIM), "CRASH_AT_FILE": str(self.file)}
        if "ASAN_OPTIONS" in os.environ:
            self.env["ASAN_OPTIONS"] = os.environ["ASAN_OPTIONS"] + ":verify_asan_link_order=0"
        with self.file.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 4)

    def burn(self, n):
        self.memory[:4] = struct.pack("i", n)

    def out(self):
        """The point has not come; it will not come any more. False: it has."""
        (left,) = struct.unpack("i", self.memory[:4])
        self.burn(0)
        return left > 0


def census(sandboxd, ids=()):
    """What there is of sandboxes on the machine: all of this is empty when nothing is left of them."""
    state = str(sandboxd.state)
    database = sqlite3.connect(f"file:{state}/sandboxd.db?mode=ro", uri=True)
    rows = [row for row in database.execute("SELECT id, state FROM sandboxes WHERE state < 6")]
    orphans = database.execute("SELECT count(*) FROM metadata WHERE sandbox NOT IN (SELECT id FROM sandboxes)").fetchone()
    database.close()
    ids = set(ids) | set(os.listdir(f"{state}/sandboxes"))
    return {
        "containers": os.listdir(f"{state}/runtime"),
        "files": os.listdir(f"{state}/sandboxes"),
        "snapshots": os.listdir(f"{state}/snapshots"),
        "volumes": os.listdir(f"{state}/volumes"),
        "half images": [name for name in os.listdir(f"{state}/images") if name.startswith("tmp.")],
        "mounts": [line for line in open("/proc/self/mountinfo") if state in line],
        "groups": [group for id in ids for group in groups(id)],
        "processes": [pid for pid in Path("/proc").glob("[0-9]*") if of_state(pid, state)],
        "rows": rows,
        "orphans": [n for n in orphans if n],
    }


def of_state(process, state):
    """A container's first process has its root below our state; what runs in it has the namespaces of that."""
    try:
        return any(state in line for line in (process / "mountinfo").open()) or (
            f"{state}/sandboxes" in (process / "cmdline").read_text(errors="replace")
        )
    except OSError:
        return False


NOTHING = {"containers": [], "files": [], "snapshots": [], "volumes": [], "half images": [], "mounts": [], "groups": [], "processes": [], "rows": [], "orphans": []}


def stop(sandboxd):
    """It ends when nothing is on its way any more."""
    sandboxd.process.terminate()
    assert sandboxd.process.wait(END_TIMEOUT_S) == 0
    sandboxd.expect_exit = None


def all_of(sandboxd, path, **params):
    return sandboxd.http.get(path, params={"pageSize": 200, **params}).json()["items"]


# ---- a kill within every operation -------------------------------------------------


class Case:
    """One operation: prepare() before the fuse burns, do() while it does, check() by the successor."""

    settings = ""  # of both servers; {0}: an OCI layout
    args = []

    def __init__(self, sandboxd):
        self.ids = []
        self.prepare(sandboxd)

    def prepare(self, sandboxd):
        self.ids.append(running(sandboxd, metadata={"old": "1"}))

    def do(self, sandboxd):
        raise NotImplementedError

    def check(self, sandboxd, done):
        for id in self.ids:
            self.usable(sandboxd, id)

    def usable(self, sandboxd, id):
        """It says what it is, and is what it says."""
        state = wait(sandboxd, id, "Running", "Paused", "Failed", "Terminated")["status"]
        if state["state"] == "Paused":
            assert sandboxd.http.post(f"/sandboxes/{id}/resume").status_code == 202
            wait(sandboxd, id, "Running")
        if state["state"] in ("Running", "Paused"):
            assert sh(sandboxd, id, "echo up") == "up"
        else:
            assert state["reason"] in ("interrupted", "user_delete"), state
        return state


class Create(Case):
    def prepare(self, sandboxd):
        self.snapshot = None

    def request(self):
        return body(metadata={"mine": "1"}, env={"GIVEN": "yes"})

    def do(self, sandboxd):
        self.ids.append(sandboxd.http.post("/sandboxes", json=self.request(), headers={"Idempotency-Key": "k"}).json()["id"])
        wait(sandboxd, self.ids[0], "Running", "Failed")

    def check(self, sandboxd, done):
        # told or not: it is made once
        again = sandboxd.http.post("/sandboxes", json=self.request(), headers={"Idempotency-Key": "k"})
        assert again.status_code == 202, again.text
        id = again.json()["id"]
        assert self.ids in ([], [id])
        self.ids = [id]
        items = all_of(sandboxd, "/sandboxes", metadata="mine=1", state=["Pending", "Running", "Failed", "Stopping", "Terminated"])
        assert [item["id"] for item in items] == [id]
        if self.usable(sandboxd, id)["state"] == "Running":
            assert sh(sandboxd, id, "echo $GIVEN") == "yes"


class Claim(Create):
    settings = f'[pool]\n"{IMAGE}" = 1\n'

    def prepare(self, sandboxd):
        assert sandboxd.http.get("/pool", params={"started": 1}, timeout=END_TIMEOUT_S).json()["images"][0]["ready"] == 1

    def usable(self, sandboxd, id):
        state = super().usable(sandboxd, id)
        # who has been told of a claimed one has it, whenever we die; a cold one may have been interrupted
        assert state["state"] == "Running" or "claimed" not in sandboxd.predecessor.logs(), state
        return state


class Restore(Create):
    def prepare(self, sandboxd):
        source = running(sandboxd)
        assert sh(sandboxd, source, "echo kept >/root/note") == ""
        self.snapshot = snapshot_of(sandboxd, source)
        self.source = source

    def request(self):
        request = {**super().request(), "snapshotId": self.snapshot}
        del request["image"]
        return request

    def check(self, sandboxd, done):
        super().check(sandboxd, done)
        if get(sandboxd, self.ids[0])["status"]["state"] == "Running":
            assert sh(sandboxd, self.ids[0], "cat /root/note") == "kept"
        self.ids.append(self.source)


class Unpack(Create):
    # the sanitized agent needs libraries that no image has
    args = ["--execd", ROOT / "build/execd"] if BUILD.name == "san" else []
    settings = '[images]\n"layout" = "oci:{0}:v1"\n'

    def request(self):
        return {**super().request(), "image": {"uri": "layout"}}

    def check(self, sandboxd, done):
        super().check(sandboxd, done)
        # whatever the first attempt has left: a second one has the image, whole and once
        self.ids.append(running(sandboxd, image={"uri": "layout"}))
        assert sh(sandboxd, self.ids[-1], "cat /marker") == "whole"
        assert len([name for name in os.listdir(sandboxd.state / "images") if name.startswith("sha256-")]) == 1


class Volume(Create):
    def request(self):
        volume = {"name": "v", "mountPath": "/v", "pvc": {"claimName": "data", "deleteOnSandboxTermination": True}}
        return {**super().request(), "volumes": [volume]}

    def check(self, sandboxd, done):
        super().check(sandboxd, done)
        if get(sandboxd, self.ids[0])["status"]["state"] == "Running":
            assert sh(sandboxd, self.ids[0], "echo x >/v/x && cat /v/x") == "x"


class Forget(Case):
    def prepare(self, sandboxd):
        super().prepare(sandboxd)
        self.snapshot = snapshot_of(sandboxd, self.ids[0])

    def do(self, sandboxd):
        assert sandboxd.http.delete(f"/snapshots/{self.snapshot}").status_code == 204
        assert sandboxd.http.get(f"/snapshots/{self.snapshot}", params={"wait": ""}).status_code == 404

    def check(self, sandboxd, done):
        seen = sandboxd.http.get(f"/snapshots/{self.snapshot}")
        assert seen.status_code == 404 or (not done and seen.json()["status"]["state"] in ("Ready", "Deleting")), seen.text
        super().check(sandboxd, done)


class Pause(Case):
    def do(self, sandboxd):
        assert sandboxd.http.post(f"/sandboxes/{self.ids[0]}/pause").status_code == 202
        wait(sandboxd, self.ids[0], "Paused")


class Resume(Pause):
    def prepare(self, sandboxd):
        super().prepare(sandboxd)
        super().do(sandboxd)

    def do(self, sandboxd):
        assert sandboxd.http.post(f"/sandboxes/{self.ids[0]}/resume").status_code == 202
        wait(sandboxd, self.ids[0], "Running")


class Renew(Case):
    new = datetime(2040, 1, 2, tzinfo=timezone.utc)

    def do(self, sandboxd):
        self.old = get(sandboxd, self.ids[0])["expiresAt"]
        assert sandboxd.http.post(f"/sandboxes/{self.ids[0]}/renew-expiration", json={"expiresAt": self.new.isoformat()}).is_success

    def check(self, sandboxd, done):
        expires = get(sandboxd, self.ids[0])["expiresAt"]
        assert datetime.fromisoformat(expires) == self.new or (not done and expires == getattr(self, "old", expires))
        super().check(sandboxd, done)


class Patch(Case):
    def do(self, sandboxd):
        assert sandboxd.http.patch(f"/sandboxes/{self.ids[0]}/metadata", json={"old": None, "a": "1", "b": "2"}).is_success

    def check(self, sandboxd, done):
        metadata = get(sandboxd, self.ids[0])["metadata"]
        assert metadata == {"a": "1", "b": "2"} or (not done and metadata == {"old": "1"})
        super().check(sandboxd, done)


class Snapshot(Case):
    def do(self, sandboxd):
        snapshot_of(sandboxd, self.ids[0])

    def check(self, sandboxd, done):
        snapshots = all_of(sandboxd, "/snapshots")
        assert len(snapshots) == 1 if done else len(snapshots) <= 1
        for snapshot in snapshots:
            status = sandboxd.http.get(f"/snapshots/{snapshot['id']}", params={"wait": ""}).json()["status"]
            assert status["state"] == "Ready" or (not done and status["reason"] == "interrupted"), status
        super().check(sandboxd, done)


class Delete(Case):
    def do(self, sandboxd):
        assert sandboxd.http.delete(f"/sandboxes/{self.ids[0]}").status_code == 204
        wait(sandboxd, self.ids[0], "Terminated")


# Of the points that each of them has on its way (the numbers behind): spread over the steps that differ.
POINTS = [
    (Create, (1, 9, 22, 40, 60)),  # 66
    (Claim, (1, 5, 9, 13, 20, 35)),  # 51, with the start of the next spare
    (Restore, (15, 45)),  # 70
    (Unpack, (25, 60, 95)),  # 126
    (Volume, (8, 40)),  # 72
    (Forget, (5, 12)),  # 22
    (Pause, (3, 9, 15)),  # 22
    (Resume, (3, 9, 15)),  # 20
    (Renew, (2, 5)),  # 10
    (Patch, (3, 6, 10)),  # 14
    (Snapshot, (3, 12, 24)),  # 32
    (Delete, (3, 12, 40, 70)),  # 86
]


def burned(fuse, n, work, first):
    """Whether the server has answered before it was killed, at its n-th system call that counts or after all of them."""
    fuse.burn(n)
    done = True
    try:
        work.do(first)
    except (httpx.TransportError, AssertionError, KeyError):
        done = False
    if fuse.out():
        assert done, "the operation failed, and not for our sake"
        first.process.kill()
    first.expect_exit = None
    first.process.wait(END_TIMEOUT_S)
    return done


@pytest.mark.parametrize("case, n", [(case, n) for case, points in POINTS for n in points])
def test_kill_within(start_sandboxd, tmp_path, case, n):
    fuse = Fuse(tmp_path)
    layout = Image(layer(shell()), layer([file("marker", b"whole")])).layout(tmp_path / "layout", "v1")
    (tmp_path / "sandbox.toml").write_text(case.settings.replace("{0}", str(layout)))
    own = {"SANDBOX_CONFIG_PATH": str(tmp_path / "sandbox.toml")}
    first = start_sandboxd(env={**fuse.env, **own}, args=case.args)
    work = case(first)
    done = burned(fuse, n, work, first)

    second = start_sandboxd(state=first.state, env=own, args=case.args)
    second.predecessor = first
    work.check(second, done)
    ids = {item["id"] for item in all_of(second, "/sandboxes")} | set(work.ids)
    for id in ids:
        delete(second, id)
    for snapshot in all_of(second, "/snapshots"):
        assert second.http.delete(f"/snapshots/{snapshot['id']}").status_code == 204
        assert second.http.get(f"/snapshots/{snapshot['id']}", params={"wait": ""}).status_code == 404
    stop(second)
    assert census(second, ids) == NOTHING


# ---- crowds and races ------------------------------------------------------------------


@pytest.mark.runtimes
def test_crowd(start_sandboxd):
    """200 creates at once, each deleted by who made it, a third of them before they run; then nothing is left."""
    sandboxd = start_sandboxd()
    size = int(os.environ.get("CROWD_DOCKER", 24)) if sandboxd.docker else 200
    headers = {"OPEN-SANDBOX-API-KEY": KEY}

    def life(n):
        with httpx.Client(base_url=sandboxd.url, headers=headers, timeout=4 * END_TIMEOUT_S) as client:
            response = client.post("/sandboxes", json=body(metadata={"n": str(n)}))
            assert response.status_code == 202, response.text
            id = response.json()["id"]
            if n % 3:
                state = client.get(f"/sandboxes/{id}", params={"wait": "Running"}).json()["status"]
                assert state["state"] == "Running", state
            assert client.delete(f"/sandboxes/{id}").status_code == 204
            assert client.delete(f"/sandboxes/{id}").status_code == 204
            state = client.get(f"/sandboxes/{id}", params={"wait": "Terminated"}).json()["status"]
            assert (state["state"], state["reason"]) == ("Terminated", "user_delete")
            return id

    with ThreadPoolExecutor(40) as pool:
        ids = list(pool.map(life, range(size)))
    assert len(set(ids)) == size
    assert children(sandboxd.pid) == set()
    if sandboxd.docker:
        assert sandboxd.docker.containers() == []
        return
    stop(sandboxd)
    assert census(sandboxd, ids) == NOTHING


def test_renew_against_expiry(sandboxd):
    """Whoever is told that it is renewed has it, whenever it would have ended; who is told 409 has not."""
    ids = [running(sandboxd) for _ in range(4)]
    far = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    renew = lambda id, text: sandboxd.http.post(f"/sandboxes/{id}/renew-expiration", json={"expiresAt": text})

    def race(id):
        soon = datetime.now(timezone.utc) + timedelta(milliseconds=300)
        assert renew(id, soon.isoformat()).is_success
        # one renewal after another until the moment has passed: the last one that counts is the far one
        last = None
        while datetime.now(timezone.utc) < soon + timedelta(milliseconds=50):
            last = renew(id, soon.isoformat() if last is None or last.is_success else far)
            if last.status_code == 400:  # the moment has come while we spoke of it
                break
        return id, renew(id, far)

    with ThreadPoolExecutor(len(ids)) as pool:
        for id, told in pool.map(race, ids):
            if told.is_success:
                assert get(sandboxd, id)["status"]["state"] == "Running"
                assert sh(sandboxd, id, "echo up") == "up"
            else:
                assert told.status_code == 409, told.text
                assert wait(sandboxd, id, "Terminated")["status"]["reason"] == "ttl_expiry"
