"""Room on disk: of one sandbox, where it is limited, and below the state of sandboxd."""

import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from test_lifecycle import body, crash, create, delete, get, nothing_left, refusal, running, sh, snapshot_of, wait
from test_lifecycle_snapshot import restore

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")

LOOPS = os.path.exists("/dev/loop-control")
limited = pytest.mark.skipif(not LOOPS, reason="there are no loop devices here")
FILL = "dd if=/dev/zero of={0} bs=1M 2>&1 | tail -c 200; stat -c %s {0}"


def loops(sandboxd):
    """The loop devices on files of this sandboxd."""
    out = subprocess.run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], check=True, capture_output=True, text=True)
    return [line for line in out.stdout.splitlines() if str(sandboxd.state) in line]


def no_loops(sandboxd):
    """The kernel clears a device when its last mount is gone, which it does behind the end of the process."""
    for _ in range(1000):
        if not loops(sandboxd):
            return
    assert loops(sandboxd) == []


# ---- one sandbox -------------------------------------------------------------------------


@limited
@pytest.mark.parametrize("key", ["disk", "ephemeral-storage"])
def test_a_limit_holds(sandboxd, key):
    id = running(sandboxd, resourceLimits={key: "32Mi"})
    other = running(sandboxd)
    for path in ("/root/x", "/usr/share/x", "/opt/x"):  # one for all its layers
        size = int(sh(sandboxd, id, FILL.format(path)).splitlines()[-1])
        assert size < 32 << 20
    assert "No space left" in sh(sandboxd, id, "echo x >/root/y; dd if=/dev/zero of=/root/y bs=1M 2>&1 | head -1")
    # the agent goes on, and room that is given back can be used again
    assert sh(sandboxd, id, "rm /root/x /usr/share/x /opt/x; echo again >/root/z; cat /root/z") == "again"
    assert sh(sandboxd, other, "dd if=/dev/zero of=/root/x bs=1M count=48 2>/dev/null; stat -c %s /root/x") == str(48 << 20)
    assert (sandboxd.state / "sandboxes" / id / "disk.img").stat().st_size == 32 << 20
    for each in (id, other):
        delete(sandboxd, each)
    nothing_left(sandboxd, id, other)
    no_loops(sandboxd)


@limited
def test_no_more_than_is_used(sandboxd):
    """What is promised is not taken from the host before it is written."""
    id = running(sandboxd, resourceLimits={"disk": "1Ti"})
    image = sandboxd.state / "sandboxes" / id / "disk.img"
    assert image.stat().st_size == 1 << 40 and image.stat().st_blocks * 512 < 1 << 28
    assert sh(sandboxd, id, "echo x >/root/x; cat /root/x") == "x"


@limited
def test_a_limited_snapshot(sandboxd):
    id = running(sandboxd, resourceLimits={"disk": "64Mi"})
    sh(sandboxd, id, "echo one >/root/file; rm /etc/hostname; echo two >/usr/local/bin/tool")
    snapshot = snapshot_of(sandboxd, id)
    delete(sandboxd, id)
    for limits in ({}, {"disk": "16Mi"}):
        restored = restore(sandboxd, snapshot, resourceLimits=limits)
        assert sh(sandboxd, restored, "cat /root/file /usr/local/bin/tool; ls /etc/hostname 2>/dev/null; echo x >/root/x") == "one\ntwo"
        delete(sandboxd, restored)
    no_loops(sandboxd)


@limited
def test_many_disks_and_a_crash(sandboxd, start_sandboxd):
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda n: running(sandboxd, resourceLimits={"disk": f"{16 + n}Mi"}), range(6)))
    assert len(loops(sandboxd)) == 6
    pids = {id: int((sandboxd.state / "sandboxes" / id / "pid").read_text()) for id in ids}
    crash(sandboxd)
    second = start_sandboxd()
    assert len(loops(second)) == 6
    snapshot_of(second, ids[0])
    os.kill(pids[ids[1]], 9)
    assert wait(second, ids[1], "Failed")["status"]["reason"] == "container_lost"
    for id in ids:
        delete(second, id)
    nothing_left(second, *ids)
    no_loops(second)


@limited
def test_a_limit_by_setting(start_sandboxd, tmp_path):
    config = tmp_path / "sandbox.toml"
    config.write_text("[sandboxd]\ndisk_mib = 16\n")
    sandboxd = start_sandboxd(args=["--config", config])
    id, asked = running(sandboxd), running(sandboxd, resourceLimits={"disk": "24Mi"})
    images = [(sandboxd.state / "sandboxes" / each / "disk.img").stat().st_size >> 20 for each in (id, asked)]
    assert images == [16, 24]


def test_bad_limits(sandboxd):
    for value in ("0", "1Ki", "-1Gi", "lots", "9Ti", "1Gi2"):
        assert "resourceLimits.disk" in refusal(sandboxd.http.post("/sandboxes", json=body(resourceLimits={"disk": value})), 400)
    nothing_left(sandboxd)


def test_a_limit_that_cannot_be_held(start_sandboxd, tmp_path):
    """Said before anything is made: here for want of mkfs.ext4."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "crun").symlink_to(shutil.which("crun"))
    sandboxd = start_sandboxd(env={"PATH": str(programs)})
    message = refusal(sandboxd.http.post("/sandboxes", json=body(resourceLimits={"disk": "1Gi"})), 400)
    assert "cannot be held here" in message
    running(sandboxd)


@limited
@pytest.mark.parametrize("how, reason, words", [
    ("echo 'mkfs: no such luck' >&2; exit 1", "runtime_error", "no such luck"),
    ("exec tail -f /dev/null", "provision_timeout", "did not start in time"),
])
def test_a_disk_that_is_not_made(start_sandboxd, tmp_path, how, reason, words):
    """Between its files and the runtime: the failure says so, and nothing is left of either."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "crun").symlink_to(shutil.which("crun"))
    for name in ("tail", "sh"):
        (programs / name).symlink_to(shutil.which(name))
    (programs / "mkfs.ext4").write_text(f"#!/bin/sh\n{how}\n")
    (programs / "mkfs.ext4").chmod(0o755)
    hangs = ["--provision-timeout", "2"] if reason == "provision_timeout" else []
    sandboxd = start_sandboxd(env={"PATH": str(programs)}, args=hangs)
    id = create(sandboxd, resourceLimits={"disk": "64Mi"})
    status = wait(sandboxd, id, "Failed")["status"]
    assert status["reason"] == reason and words in status["message"], status
    delete(sandboxd, id)
    nothing_left(sandboxd, id)
    no_loops(sandboxd)


# ---- below the state ---------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A file system of 96 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="net-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)
    folder.rmdir()


def fill(folder, left=0):
    """Takes what is there but for `left` bytes."""
    with open(folder / "ballast", "ab", buffering=0) as f:
        try:
            while True:
                free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
                n = min(1 << 20, free - left)
                if n <= 0 or f.write(b"x" * n) < n:
                    return
        except OSError:
            return


def settings(folder, text):
    config = folder / "sandbox.toml"
    config.write_text(text)
    return ["--config", config]


def test_full_below_the_state(small, start_sandboxd, tmp_path):
    """No creation any more, and everything else goes on."""
    args = settings(tmp_path, "[sandboxd]\nmin_free_mib = 8\n")
    sandboxd = start_sandboxd(state=small / "state", args=args)
    ids = [running(sandboxd) for _ in range(4)]
    fill(small)
    response = sandboxd.http.post("/sandboxes", json=body())
    assert "must be free" in refusal(response, 507)
    assert sh(sandboxd, ids[0], "echo lost >/root/x 2>/dev/null; echo $?; echo here").endswith("here")
    for id in ids[:2]:
        assert delete(sandboxd, id)["status"]["reason"] == "user_delete"
    sandboxd.http.post(f"/sandboxes/{ids[2]}/pause")
    assert wait(sandboxd, ids[2], "Paused")
    fill(small)
    crash(sandboxd)  # and a start with the disk full
    second = start_sandboxd(state=small / "state", args=args)
    assert {id: get(second, id)["status"]["state"] for id in ids} == dict(
        zip(ids, ("Terminated", "Terminated", "Paused", "Running"))
    )
    for id in ids[2:]:
        delete(second, id)
    nothing_left(second, *ids)
    assert "must be free" in refusal(second.http.post("/sandboxes", json=body()), 507)
    (small / "ballast").unlink()  # and there is room again: nobody need tell it
    delete(second, running(second))
    nothing_left(second, *ids)
