"""Volumes: host paths that are allowed, named volumes, and no way from either to anything else."""

import ctypes
import os
import threading
from pathlib import Path

import httpx
import pytest

from daemon import END_TIMEOUT_S
from test_lifecycle import body, crash, create, delete, endpoint, nothing_left, running, sh, snapshot_of, wait
from test_lifecycle_snapshot import restore

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")


@pytest.fixture
def data(tmp_path):
    """The one directory of the host under which volumes may lie."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def configured(tmp_path, data, start_sandboxd):
    config = tmp_path / "sandbox.toml"
    config.write_text(f'[storage]\nallowed_host_paths = ["{data}/"]\n')
    return lambda **options: start_sandboxd(args=["--config", config], **options)  # its end looks for mounts


@pytest.fixture
def sandboxd(configured):
    return configured()


def host(path, target, name="v", **fields):
    return {"name": name, "host": {"path": str(path)}, "mountPath": target, **fields}


def named(claim, target, name="v", **fields):
    pvc = {"claimName": claim, **fields.pop("pvc", {})}
    return {"name": name, "pvc": pvc, "mountPath": target, **fields}


def kept(sandboxd):
    """The named volumes there are."""
    return sorted(path.name for path in (sandboxd.state / "volumes").iterdir() if path.name[0] != ".")


def end(sandboxd):
    sandboxd.expect_exit = None
    sandboxd.process.terminate()
    assert sandboxd.process.wait(END_TIMEOUT_S) == 0


def refused(sandboxd, code, *volumes):
    response = sandboxd.http.post("/sandboxes", json=body(volumes=list(volumes)))
    assert (response.status_code, response.json()["code"]) == (400, code), response.text
    return response.json()["message"]


def failed(sandboxd, *volumes):
    """What the creation says that was taken and did not succeed."""
    id = create(sandboxd, volumes=list(volumes))
    status = wait(sandboxd, id, "Failed")["status"]
    delete(sandboxd, id)
    return status["message"]


# ---- host paths -----------------------------------------------------------------------


def test_host_path(sandboxd, data):
    (data / "in").write_text("from the host\n")
    id = running(sandboxd, volumes=[host(data, "/mnt/work")])
    assert sh(sandboxd, id, "cat /mnt/work/in; echo from inside >/mnt/work/out") == "from the host"
    assert (data / "out").read_text() == "from inside\n"
    # neither devices nor set-uid programs come in by a volume
    options = sh(sandboxd, id, "grep ' /mnt/work ' /proc/self/mountinfo").split()[5].split(",")
    assert {"rw", "nosuid", "nodev"} <= set(options)
    delete(sandboxd, id)
    nothing_left(sandboxd, id)
    assert (data / "out").exists()


def test_host_path_is_made(sandboxd, data):
    id = running(sandboxd, volumes=[host(data / "a/b", "/m", subPath="c/./d/")])
    assert sh(sandboxd, id, "touch /m/x && ls /m") == "x"
    assert (data / "a/b/c/d/x").exists()


def test_read_only(sandboxd, data):
    (data / "x").write_text("kept\n")
    (data / "below").mkdir()
    id = running(sandboxd, volumes=[host(data, "/m", readOnly=True), named("c", "/n", "w", readOnly=True)])
    assert "Read-only file system" in sh(sandboxd, id, "(echo lost >/m/x) 2>&1; cat /m/x")
    assert sh(sandboxd, id, "touch /m/below/y 2>/dev/null; touch /n/z 2>/dev/null; ls /m/below /n | grep -c [yz]") == "0"
    assert (data / "x").read_text() == "kept\n"


def test_a_file(sandboxd, data):
    (data / "settings").write_text("one\n")
    volumes = [host(data / "settings", "/etc/app/settings"), host(data / "settings", "/etc/hosts", "w", readOnly=True)]
    id = running(sandboxd, volumes=volumes)
    assert sh(sandboxd, id, "cat /etc/app/settings /etc/hosts; echo two >/etc/app/settings") == "one\none"
    assert (data / "settings").read_text() == "two\n"


def test_one_within_another(sandboxd, data):
    """In whatever order they are named, what contains the other is mounted first."""
    volumes = [named("deep", "/m/a/b", "deep"), host(data, "/m", "top"), named("mid", "/m/a", "mid")]
    id = running(sandboxd, volumes=volumes)
    sh(sandboxd, id, "touch /m/top /m/a/mid /m/a/b/deep")
    store = sandboxd.state / "volumes"
    assert (data / "top").exists() and (store / "mid/data/mid").exists() and (store / "deep/data/deep").exists()


def test_not_allowed(sandboxd, data, tmp_path):
    not_allowed = "VOLUME::HOST_PATH_NOT_ALLOWED"
    (data / "absolute").symlink_to("/etc")
    (data / "up").symlink_to("../state")
    (data / "stays").symlink_to("a/b")
    os.mkfifo(data / "pipe")
    for path in ("/etc", "/", data.parent, f"{data}x", sandboxd.state, data / "absolute", data / "up", data / "up/volumes"):
        refused(sandboxd, not_allowed, host(path, "/m"))
    for path in (f"{data}/../state", f"{data}/.", "etc", f"{data}//a", "C:\\data", data / "pipe"):
        refused(sandboxd, "VOLUME::INVALID_HOST_PATH", host(path, "/m"))
    refused(sandboxd, not_allowed, host(data, "/m", subPath="absolute"))
    refused(sandboxd, not_allowed, host(data, "/m", subPath="up/store"))
    refused(sandboxd, "VOLUME::INVALID_SUB_PATH", host(data, "/m", subPath="a/../../state"))
    assert not (tmp_path / "state/store").exists() and kept(sandboxd) == []
    id = running(sandboxd, volumes=[host(data / "a/b", "/m"), host(data / "stays", "/n", "w")])
    assert sh(sandboxd, id, "touch /m/x; ls /n") == "x"


def test_no_host_path_without_a_setting(start_sandboxd, tmp_path):
    message = refused(start_sandboxd(), "VOLUME::HOST_PATH_NOT_ALLOWED", host(tmp_path, "/m"))
    assert "storage.allowed_host_paths" in message


# ---- named volumes -----------------------------------------------------------------------


def test_named_volume_stays(configured):
    sandboxd = configured()
    first = running(sandboxd, volumes=[named("models", "/m")])
    sh(sandboxd, first, "mkdir -p /m/sub; echo kept >/m/sub/file")
    second = running(sandboxd, volumes=[named("models", "/m", subPath="sub", pvc={"createIfNotExists": False})])
    assert sh(sandboxd, second, "cat /m/file; touch /m/also") == "kept"
    assert sh(sandboxd, first, "ls /m/sub") == "also\nfile"
    for id in (first, second):
        delete(sandboxd, id)
    nothing_left(sandboxd, first, second)
    assert kept(sandboxd) == ["models"]
    end(sandboxd)
    sandboxd = configured()
    third = running(sandboxd, volumes=[named("models", "/m")])
    assert sh(sandboxd, third, "cat /m/sub/file") == "kept"


def test_named_volume_must_be_there(sandboxd):
    refused(sandboxd, "VOLUME::PVC_NOT_FOUND", named("none", "/m", pvc={"createIfNotExists": False}))
    assert kept(sandboxd) == []


def test_ephemeral_volume_goes_with_its_last_sandbox(sandboxd):
    goes = {"deleteOnSandboxTermination": True}
    stays = running(sandboxd, volumes=[named("stays", "/m")])
    first = running(sandboxd, volumes=[named("goes", "/m", pvc=goes), named("stays", "/n", "w", pvc=goes)])
    second = running(sandboxd, volumes=[named("goes", "/m")])
    sh(sandboxd, first, "touch /m/x")
    delete(sandboxd, first)
    assert sh(sandboxd, second, "ls /m") == "x"
    assert kept(sandboxd) == ["goes", "stays"]
    delete(sandboxd, second)
    assert kept(sandboxd) == ["stays"]  # it was there before whoever wanted it gone
    delete(sandboxd, stays)
    third = running(sandboxd, volumes=[named("goes", "/m")])
    assert sh(sandboxd, third, "ls /m") == ""


def test_ephemeral_volume_of_a_creation_that_fails(sandboxd, data):
    goes = named("goes", "/m", pvc={"deleteOnSandboxTermination": True})
    refused(sandboxd, "VOLUME::PVC_NOT_FOUND", goes, named("none", "/n", "w", pvc={"createIfNotExists": False}))
    (data / "file").touch()
    assert "a file and a directory" in failed(sandboxd, goes, host(data / "file", "/srv", "w"))
    assert "place of volume" in failed(sandboxd, goes, named("x", "/etc/passwd/x", "x"))
    assert kept(sandboxd) == ["x"]


def test_ephemeral_volume_after_a_crash(configured):
    sandboxd = configured()
    goes = {"deleteOnSandboxTermination": True}
    first = running(sandboxd, volumes=[named("one", "/m", pvc=goes)])
    second = running(sandboxd, volumes=[named("two", "/m", pvc=goes)])
    crash(sandboxd)
    ghost = sandboxd.state / "volumes/ghost"  # made for a sandbox that did not come to be
    (ghost / "data").mkdir(parents=True)
    (ghost / "ephemeral").touch()
    (sandboxd.state / "volumes/.gone-0123/data").mkdir(parents=True)  # half removed
    sandboxd = configured()
    assert kept(sandboxd) == ["one", "two"]
    delete(sandboxd, first)
    assert kept(sandboxd) == ["two"]
    delete(sandboxd, second)
    nothing_left(sandboxd, first, second)
    end(sandboxd)
    assert kept(sandboxd) == []


def test_a_snapshot_leaves_volumes_out(sandboxd, data):
    id = running(sandboxd, volumes=[host(data, "/m"), named("c", "/n", "w")])
    sh(sandboxd, id, "touch /m/x /n/y /root/z")
    snapshot = snapshot_of(sandboxd, id)
    restored = restore(sandboxd, snapshot)
    assert sh(sandboxd, restored, "ls /root /m /n") == "/m:\n\n/n:\n\n/root:\nz"


# ---- tricks -------------------------------------------------------------------------------


BAD = [
    ("VOLUME::INVALID_BACKEND", {"name": "v", "mountPath": "/m"}),
    ("VOLUME::INVALID_BACKEND", {"name": "v", "mountPath": "/m", "pvc": {"claimName": "c"}, "host": {"path": "/"}}),
    ("VOLUME::INVALID_BACKEND", {"name": "v", "mountPath": "/m", "pvc": {"claimName": "c"}, "sort": "x"}),
    ("VOLUME::INVALID_NAME", {"name": "No", "mountPath": "/m", "pvc": {"claimName": "c"}}),
    ("VOLUME::INVALID_PVC_NAME", named("../c", "/m")),
    ("VOLUME::INVALID_PVC_NAME", named(".gone-1", "/m")),
    ("VOLUME::INVALID_PVC_NAME", named("c" * 254, "/m")),
    ("VOLUME::INVALID_MOUNT_PATH", named("c", "/")),
    ("VOLUME::INVALID_MOUNT_PATH", named("c", "m")),
    ("VOLUME::INVALID_MOUNT_PATH", named("c", "/m/../..")),
    ("VOLUME::INVALID_MOUNT_PATH", named("c", "/proc/1")),
    ("VOLUME::INVALID_MOUNT_PATH", named("c", "/dev/shm")),
    ("VOLUME::INVALID_MOUNT_PATH", named("c", "/.execd")),
    ("VOLUME::INVALID_SUB_PATH", named("c", "/m", subPath="/etc")),
    ("VOLUME::INVALID_SUB_PATH", named("c", "/m", subPath="..")),
    ("VOLUME::UNSUPPORTED_BACKEND", {"name": "v", "mountPath": "/m", "ossfs": {
        "bucket": "bbb", "endpoint": "e", "accessKeyId": "k", "accessKeySecret": "s"}}),
]


def test_bad_volumes(sandboxd):
    for code, volume in BAD:
        refused(sandboxd, code, volume)
    assert "ossfs is not supported" in refused(sandboxd, *BAD[-1])
    refused(sandboxd, "VOLUME::DUPLICATE_NAME", named("c", "/m"), named("d", "/n"))
    refused(sandboxd, "VOLUME::INVALID_MOUNT_PATH", named("c", "/m"), named("d", "/m/", "w"))
    refused(sandboxd, "VOLUME::INVALID_BACKEND", *[named(f"c{i}", f"/m{i}", f"v{i}") for i in range(33)])
    assert kept(sandboxd) == []
    nothing_left(sandboxd)


def test_links_planted_in_a_volume(sandboxd):
    id = running(sandboxd, volumes=[named("c", "/m")])
    sh(sandboxd, id, "ln -s / /m/root; ln -s /etc /m/etc; ln -s ../../.. /m/up; ln -s /proc/self/root /m/magic; mkdir /m/dir; ln -s dir /m/good")
    for path in ("root", "etc", "up", "magic", "root/etc", "up/store", "etc/made"):
        refused(sandboxd, "VOLUME::INVALID_SUB_PATH", named("c", "/m", subPath=path))
    assert not Path("/etc/made").exists()
    other = running(sandboxd, volumes=[named("c", "/n", subPath="good")])
    assert sh(sandboxd, other, "touch /n/x; ls /n") == "x"
    assert sh(sandboxd, id, "ls /m/dir") == "x"


def test_links_planted_in_a_snapshot(sandboxd):
    """The place of a mount is looked up within the image."""
    id = running(sandboxd)
    sh(sandboxd, id, "ln -s /etc/made /to-etc; ln -s ../../../../../tmp /up; ln -s /.execd /agent; ln -s /srv /srv-link")
    snapshot = snapshot_of(sandboxd, id)

    def restore(*volumes):
        request = body(snapshotId=snapshot, volumes=list(volumes))
        del request["image"]
        return sandboxd.http.post("/sandboxes", json=request).json()["id"]

    good = restore(named("a", "/srv-link/new", "a"), named("b", "/up", "b"))
    wait(sandboxd, good, "Running")
    assert sh(sandboxd, good, "touch /srv/new/x /tmp/y; ls /srv/new /tmp") == "/srv/new:\nx\n\n/tmp:\ny"
    for target, words in (("/agent", "needs itself"), ("/agent/new", "place of volume"), ("/to-etc", "place of volume")):
        status = wait(sandboxd, restore(named("a", target)), "Failed")["status"]
        assert words in status["message"]
    assert not Path("/etc/made").exists()


RENAME_EXCHANGE = 2
AT_FDCWD = -100


def test_a_path_that_changes_all_the_time(sandboxd, data):
    """Whoever exchanges a directory for a link meanwhile gets a refusal or the directory, nothing else."""
    (data / "a").mkdir()
    (data / "a/inside").touch()
    (data / "b").symlink_to("/etc")
    libc = ctypes.CDLL(None)
    a, b = os.fsencode(data / "a"), os.fsencode(data / "b")
    stop = threading.Event()

    def exchange():
        while not stop.is_set():
            libc.renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE)

    thread = threading.Thread(target=exchange)
    thread.start()
    codes = []
    try:
        for _ in range(40):
            response = sandboxd.http.post("/sandboxes", json=body(volumes=[host(data / "a", "/m"), host(data, "/n", "w", subPath="a")]))
            codes.append(response.status_code)
            if response.status_code == 202 and codes.count(202) <= 3:
                id = response.json()["id"]
                wait(sandboxd, id, "Running")
                assert sh(sandboxd, id, "ls /m /n") == "/m:\ninside\n\n/n:\ninside"
            elif response.status_code == 202:
                delete(sandboxd, response.json()["id"])
            else:
                assert response.json()["code"] == "VOLUME::HOST_PATH_NOT_ALLOWED", response.text
    finally:
        stop.set()
        thread.join()
    assert set(codes) <= {202, 400}


def test_layers_of_isolated_sessions_on_a_volume(sandboxd, data):
    """A sandbox's own files are an overlay, which cannot hold the layers of another: the refusal says what can."""
    (data / "layers").mkdir()
    spec = {"overlays": [{"path": "/home", "mode": "overlay", "persist": True}]}
    for volumes in ([], [host(data / "layers", "/var/lib/execd/isolation")]):
        url = f"http://{endpoint(sandboxd, running(sandboxd, volumes=volumes))}"
        response = httpx.post(f"{url}/v1/isolated/session", json=spec, timeout=60)
        if not volumes:
            assert response.status_code == 501 and "mount a volume there" in response.json()["message"], response.text
            continue
        assert response.status_code == 201 and response.json()["overlays"][0]["persist"], response.text
        session = f"{url}/v1/isolated/session/{response.json()['session_id']}"
        told = httpx.post(f"{session}/run", json={"code": "echo kept >/home/f; cat /home/f"}, timeout=60).text
        assert "kept" in told and "execution_complete" in told
        assert [path.read_text() for path in (data / "layers").glob("rooms.*/*/0/0/f")] == ["kept\n"]
        assert httpx.post(f"{session}/commit", json={}, timeout=60).json()["added"] == 1
        assert httpx.delete(session, timeout=60).status_code == 204
