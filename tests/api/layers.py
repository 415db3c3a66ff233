"""What the tests of layers share: sessions, trees as comparable text, and the rules of an OCI layer by hand."""

import hashlib
import io
import os
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from daemon import events


def create(execd, path, **fields):
    """A session with an overlay over the workspace; its id."""
    body = {"workspace": {"path": str(path), "mode": "overlay"}, "idle_timeout_seconds": 0, **fields}
    response = execd.http.post("/v1/isolated/session", json=body)
    if response.status_code in (501, 403):
        pytest.skip(f"no isolated sessions here: {response.text}")
    assert response.status_code == 201, response.text
    return response.json()["session_id"]


def run(execd, session, code, **fields):
    """Runs code to its end; the events. It must succeed, unless a test looks at the end itself (ok=False)."""
    ok = fields.pop("ok", True)
    with execd.stream("POST", f"/v1/isolated/session/{session}/run", json={"code": code, **fields}) as response:
        told = [event for event in events(response) if event["type"] != "ping"]
    if ok:
        assert told[-1]["type"] == "execution_complete", told
    return told


def text(told):
    return "".join(event.get("text", "") for event in told if event["type"] == "stdout")


def call(execd, method, session, what, **request):
    return execd.http.request(method, f"/v1/isolated/session/{session}/{what}", **request)


def good(response):
    assert response.status_code == 200, response.text
    return response.json()


def tree(root, seconds=False):
    """{path: what it is}, comparable: type, mode, owner, content, link, times."""
    told = {}
    for here, dirs, files in os.walk(os.fsencode(root)):
        for name in dirs + files:
            path = os.path.join(here, name)
            st = os.lstat(path)
            time = st.st_mtime_ns // 10**9 if seconds else st.st_mtime_ns
            content = b""
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).digest()
            elif stat.S_ISLNK(st.st_mode):
                content = os.readlink(path)
                time = 0 if seconds else time  # Python's tarfile gives links no time
            told[os.path.relpath(path, os.fsencode(root))] = (st.st_mode, st.st_uid, st.st_gid, time, content)
    return told


def apply_diff(data, target):
    """What is deleted goes first, then plain tar."""
    target = os.fsencode(target)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*", errors="surrogateescape") as archive:
        members = archive.getmembers()
        for member in members:
            path = os.fsencode(member.name)
            base = os.path.basename(path)
            if base == b".wh..wh..opq":
                shutil.rmtree(os.path.join(target, os.path.dirname(path)), ignore_errors=True)
            elif base.startswith(b".wh."):
                gone = os.path.join(target, os.path.dirname(path), base[4:])
                if os.path.isdir(gone) and not os.path.islink(gone):
                    shutil.rmtree(gone)
                elif os.path.lexists(gone):
                    os.unlink(gone)
        left = [member for member in members if not os.path.basename(member.name).startswith(".wh.")]
        archive.extractall(os.fsdecode(target), members=left, numeric_owner=True)


@pytest.fixture
def workspace(tmp_path):
    """A directory that a room can see: the tests' own temporary directory may be hidden by its /tmp."""
    path = Path("/var/tmp") / f"layers-{os.getpid()}-{tmp_path.name}"
    path.mkdir()
    yield path
    shutil.rmtree(path)
