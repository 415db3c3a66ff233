"""Archives, copies, searches in contents and watches: what the agent does with files beyond the reference."""

import gzip
import io
import json
import os
import random
import socket
import subprocess
import tarfile

import pytest

from daemon import SANITIZED, events

ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def refused(response, status, *words):
    body = response.json()
    assert response.status_code == status, response.text
    assert set(body) == {"code", "message"}
    for word in words:
        assert str(word) in body["message"], body
    return body["message"]


def tree(folder):
    """What is below a folder: path -> (type and mode, content or target, time)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        st = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (st.st_mode, content, int(st.st_mtime))
    return found


@pytest.fixture
def sample(tmp_path):
    folder = tmp_path / "sample"
    (folder / "empty dir").mkdir(parents=True)
    (folder / "sub" / ("deep" * 40) / ("er" * 60)).mkdir(parents=True)
    (folder / "plain.txt").write_text("hello\n")
    (folder / "empty").touch()
    (folder / "sub" / "script.sh").write_text("#!/bin/sh\n")
    (folder / "sub" / "script.sh").chmod(0o751)
    (folder / "sub" / ("deep" * 40) / ("er" * 60) / ("n" * 200)).write_bytes(os.urandom(70_001))
    (folder / "link").symlink_to("sub/script.sh")
    (folder / "dangling").symlink_to("/nowhere/" + "x" * 150)
    os.link(folder / "plain.txt", folder / "sub" / "second name")
    (folder / "ünï\ncode").write_text("odd")
    (folder / "sub").chmod(0o500)
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    return folder


# ---- archives --------------------------------------------------------------------------------


def down(execd, path, **query):
    return execd.http.get("/directories/archive", params={"path": str(path), **query})


def up(execd, path, content, **query):
    return execd.http.post("/directories/archive", params={"path": str(path), **query}, content=content)


def packed(*members, mode="w", format=tarfile.PAX_FORMAT):
    """members: (TarInfo or name, content)"""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=format) as tar:
        for info, content in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
            info.size = len(content) if content else 0
            tar.addfile(info, io.BytesIO(content) if content else None)
    return out.getvalue()


def member(name, kind, link="", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("format", ["tar", "tar.gz"])
def test_archive_down_is_what_tar_unpacks(execd, sample, tmp_path, format):
    os.mkfifo(sample / "fifo")
    response = down(execd, sample, format=format)
    assert response.status_code == 200
    assert response.headers["content-type"] == ("application/x-tar" if format == "tar" else "application/gzip")
    target = tmp_path / "target"
    target.mkdir()
    # GNU tar itself is the judge.
    subprocess.run(["tar", "-xp" + ("z" if format == "tar.gz" else "") + "f", "-", "-C", target],
                   input=response.content, check=True)
    (sample / "fifo").unlink()
    os.utime(sample, (1, 1))
    assert tree(target) == tree(sample)
    assert (target / "plain.txt").samefile(target / "sub" / "second name")


@pytest.mark.parametrize("format", ["tar", "tar.gz"])
def test_archive_down_and_up_again(execd, sample, tmp_path, format):
    target = tmp_path / "new" / "target"
    response = up(execd, target, down(execd, sample, format=format).content)
    assert response.status_code == 200, response.text
    counts = response.json()
    assert (counts["files"], counts["links"], counts["skipped"]) == (5, 3, 0)
    assert counts["entries"] == len(tree(sample))
    assert tree(target) == tree(sample)
    assert (target / "plain.txt").samefile(target / "sub" / "second name")


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pieces", [1, 37])
def test_archive_of_others_up(execd, tmp_path, format, pieces):
    name = "d" * 90 + "/" + "f" * 90 if format == tarfile.USTAR_FORMAT else "d" * 150 + "/" + "f" * 210
    content = os.urandom(3_000)
    archive = gzip.compress(packed((member("d" * 90, tarfile.DIRTYPE, mode=0o755), None), (name, content),
                                   ("./after", b"x"), format=format))
    cut = (archive[i : i + len(archive) // pieces + 1] for i in range(0, len(archive), len(archive) // pieces + 1))
    response = up(execd, tmp_path / "t", cut)
    assert response.status_code == 200, response.text
    assert (tmp_path / "t" / name).read_bytes() == content
    assert (tmp_path / "t" / "after").read_bytes() == b"x"


def test_archive_large_in_constant_memory(execd, tmp_path):
    big = tmp_path / "from" / "big"
    big.parent.mkdir()
    with big.open("wb") as out:
        for i in range(200):
            out.write(bytes([i]) * (1 << 20))
    with execd.stream("GET", "/directories/archive", params={"path": str(big.parent)}) as response:
        assert response.status_code == 200
        answer = up(execd, tmp_path / "to", response.iter_raw())
    assert answer.json()["bytes"] == 200 << 20
    subprocess.run(["cmp", big, tmp_path / "to" / "big"], check=True)
    peak = next(line for line in open(f"/proc/{execd.pid}/status") if line.startswith("VmHWM"))
    if not SANITIZED:
        assert int(peak.split()[1]) < 24 * 1024


@pytest.mark.parametrize("evil, word", [
    ([("../escaped", b"x")], "'..'"),
    ([("a/../../escaped", b"x")], "'..'"),
    ([("/tmp/escaped-absolute", b"x")], "absolute"),
    ([(member("way", tarfile.SYMTYPE, ".."), None), ("way/escaped", b"x")], "a link"),
    ([(member("hard", tarfile.LNKTYPE, "../secret"), None)], "'..'"),
    ([(member("way", tarfile.SYMTYPE, ".."), None), (member("hard", tarfile.LNKTYPE, "way/secret"), None)], "hard"),
])
def test_archive_does_not_escape(execd, tmp_path, evil, word):
    (tmp_path / "secret").write_text("secret")
    target = tmp_path / "target"
    message = refused(up(execd, target, packed(("first", b"1"), *evil)), 409 if word == "a link" else 400, word)
    assert f"({len(evil)} entries are unpacked)" in message
    assert not (tmp_path / "escaped").exists() and not os.path.exists("/tmp/escaped-absolute")
    assert not (target / "hard").exists()
    assert (target / "first").read_text() == "1"
    assert not [name for name in os.listdir(target) if name.startswith(".execd")]


def test_archive_replaces_links_instead_of_following(execd, tmp_path):
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.write_text("untouched")
    (target / "f").symlink_to(outside)
    assert up(execd, target, packed(("f", b"new"))).status_code == 200
    assert outside.read_text() == "untouched"
    assert (target / "f").read_text() == "new" and not (target / "f").is_symlink()


def test_archive_devices_are_passed_over(execd, tmp_path):
    archive = packed((member("null", tarfile.CHRTYPE, devmajor=1, devminor=3), None),
                     (member("pipe", tarfile.FIFOTYPE), None), ("file", b"x"))
    answer = up(execd, tmp_path / "t", archive).json()
    assert (answer["files"], answer["skipped"]) == (1, 2)
    assert os.listdir(tmp_path / "t") == ["file"]


@ROOT_ONLY
def test_archive_owners(execd, tmp_path):
    archive = packed((member("f", tarfile.REGTYPE, uid=1234, gid=2345, mode=0o4755), b"x"))
    assert up(execd, tmp_path / "kept", archive).status_code == 200
    st = (tmp_path / "kept" / "f").stat()
    assert (st.st_uid, st.st_gid, st.st_mode & 0o7777) == (1234, 2345, 0o4755)
    assert up(execd, tmp_path / "own", archive, owner="false").status_code == 200
    st = (tmp_path / "own" / "f").stat()
    assert (st.st_uid, st.st_mode & 0o7777) == (os.getuid(), 0o755)


def test_archive_limits_and_conflicts(execd, tmp_path):
    archive = packed(("a", b"x" * 10), ("b", b"x" * 10))
    refused(up(execd, tmp_path / "t", archive, max_bytes=15), 413, "max_bytes", "(1 entries are unpacked)")
    assert os.listdir(tmp_path / "t") == ["a"]
    (tmp_path / "t" / "a").write_text("old")
    refused(up(execd, tmp_path / "t", archive, overwrite="false"), 409, "'a'")
    assert (tmp_path / "t" / "a").read_text() == "old"
    (tmp_path / "t" / "b").mkdir()
    refused(up(execd, tmp_path / "t", archive), 400, "'b'")


@pytest.mark.parametrize("content", [
    b"", b"x" * 100, b"x" * 512, os.urandom(5000), packed(("f", b"x" * 3000))[:1500],
    gzip.compress(packed(("f", b"x" * 3000)))[:-20], b"\x1f\x8b" + b"z" * 700, gzip.compress(b"no tar" * 200),
], ids=["empty", "short", "a block", "noise", "cut", "cut gzip", "no gzip", "no tar"])
def test_archive_garbage(execd, tmp_path, content):
    refused(up(execd, tmp_path / "t", content), 400)
    assert not (tmp_path / "t").exists() or os.listdir(tmp_path / "t") == []
    assert execd.http.get("/ping").status_code == 200


def test_archive_sparse_is_refused(execd, tmp_path):
    (tmp_path / "holes").write_bytes(b"")
    os.truncate(tmp_path / "holes", 1 << 20)
    for format in ("gnu", "pax"):
        archive = subprocess.run(["tar", "-S", f"--format={format}", "-cf", "-", "-C", tmp_path, "holes"],
                                 capture_output=True, check=True).stdout
        refused(up(execd, tmp_path / "t", archive), 501, "holes")


@pytest.mark.parametrize("query, status, word", [
    ({}, 400, "path"), ({"path": ""}, 400, "path"), ({"path": "/", "format": "zip"}, 400, "format"),
    ({"path": "/no/such"}, 404, "/no/such"),
    ({"path": "/etc/passwd"}, 400, "not a directory"),
])
def test_archive_down_refused(execd, query, status, word):
    refused(execd.http.get("/directories/archive", params=query), status, word)


@pytest.mark.parametrize("query, word", [
    ({}, "path"), ({"path": "/t", "owner": "me"}, "owner"), ({"path": "/t", "max_bytes": "-1"}, "max_bytes"),
    ({"path": "/t", "overwrite": ""}, "overwrite"), ({"path": "/t", "format": "rar"}, "format"),
])
def test_archive_up_refused(execd, query, word):
    refused(execd.http.post("/directories/archive", params=query, content=b"x"), 400, word)


def zstd(content, *options):
    return subprocess.run(["zstd", "-q", "-c", *options], input=content, capture_output=True, check=True).stdout


def test_archive_zstandard(execd, sample, tmp_path):
    """What the zstd program unpacks and packs, at its fastest, its best within the window, and in two frames."""
    down = execd.http.get("/directories/archive", params={"path": str(sample), "format": "tar.zst"})
    assert down.headers["content-type"] == "application/zstd"
    plain = subprocess.run(["zstd", "-q", "-dc"], input=down.content, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        assert archive.getnames()
    assert up(execd, tmp_path / "back", down.content).status_code == 200
    assert sorted(p.name for p in (tmp_path / "back").rglob("*")) == sorted(p.name for p in sample.rglob("*"))
    content = packed(("f", random.Random(1).randbytes(3_000_000)), ("g", b"y" * 3_000_000))
    for n, body in enumerate((zstd(content, "-1"), zstd(content, "-19"), zstd(content[:999_999]) + zstd(content[999_999:]))):
        assert up(execd, tmp_path / str(n), body).status_code == 200
        assert (tmp_path / str(n) / "g").read_bytes() == b"y" * 3_000_000


def test_archive_zstandard_garbage(execd, tmp_path):
    good = zstd(packed(("f", b"x" * 3000)))
    for bad in (b"\x28\xb5\x2f\xfd" + b"x" * 100, good[:-3], good[:-1] + bytes([good[-1] ^ 1]), good + b"more"):
        refused(up(execd, tmp_path / "t", bad), 400, "Zstandard")
    # One that asks for 128 MB is refused by its window's limit.
    refused(up(execd, tmp_path / "t", zstd(bytes(200 << 20), "--ultra", "--long=27")), 413, "window")


def test_archive_clients_that_vanish(execd, sample, tmp_path):
    (sample / "big").write_bytes(bytes(64 << 20))
    for _ in range(8):
        connection = execd.raw()
        connection.sendall(f"GET /directories/archive?path={sample} HTTP/1.1\r\nHost: x\r\n"
                           f"X-EXECD-ACCESS-TOKEN: {execd.token}\r\n\r\n".encode())
        assert connection.recv(100)
        connection.close()
        connection = execd.raw()
        connection.sendall(f"POST /directories/archive?path={tmp_path}/cut HTTP/1.1\r\nHost: x\r\n"
                           f"X-EXECD-ACCESS-TOKEN: {execd.token}\r\nContent-Length: 99999\r\n\r\n".encode()
                           + packed(("half", b"x" * 90_000))[:70_000])
        connection.close()
    assert up(execd, tmp_path / "t", packed(("f", b"x"))).status_code == 200


# ---- copies ----------------------------------------------------------------------------------


def copy(execd, src, dest, **fields):
    return execd.http.post("/files/copy", json=[{"src": str(src), "dest": str(dest), **fields}])


def test_copy_a_file(execd, tmp_path):
    src = tmp_path / "src"
    src.write_bytes(os.urandom(300_000))
    src.chmod(0o640)
    os.utime(src, (1_500_000_000, 1_500_000_000))
    answer = copy(execd, src, tmp_path / "new" / "dest")
    assert answer.status_code == 200, answer.text
    assert answer.json()[0] | {"src": 0, "dest": 0} == {
        "src": 0, "dest": 0, "files": 1, "directories": 0, "links": 0, "skipped": 0, "bytes": 300_000}
    dest = tmp_path / "new" / "dest"
    assert dest.read_bytes() == src.read_bytes()
    assert (dest.stat().st_mode, dest.stat().st_mtime) == (src.stat().st_mode, src.stat().st_mtime)
    refused(copy(execd, src, dest), 409, str(dest))
    src.write_text("second")
    assert copy(execd, src, dest, overwrite=True).status_code == 200
    assert dest.read_text() == "second"


def test_copy_a_file_that_has_no_size(execd, tmp_path):
    assert copy(execd, "/proc/version", tmp_path / "v").status_code == 200
    assert (tmp_path / "v").read_text() == open("/proc/version").read()


def test_copy_a_tree(execd, sample, tmp_path):
    os.mkfifo(sample / "fifo")
    refused(copy(execd, sample, tmp_path / "dest"), 400, "recursive")
    answer = copy(execd, sample, tmp_path / "dest", recursive=True)
    assert answer.status_code == 200, answer.text
    assert answer.json()[0]["skipped"] == 1
    (sample / "fifo").unlink()
    assert tree(tmp_path / "dest") == tree(sample)
    (sample / "empty").write_text("no more")
    refused(copy(execd, sample, tmp_path / "dest", recursive=True), 409)
    assert copy(execd, sample, tmp_path / "dest", recursive=True, overwrite=True).status_code == 200
    assert (tmp_path / "dest" / "empty").read_text() == "no more"


def test_copy_links_as_links(execd, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    assert copy(execd, tmp_path / "link", tmp_path / "other").status_code == 200
    assert os.readlink(tmp_path / "other") == "secret"
    (tmp_path / "new").write_text("new")
    assert copy(execd, tmp_path / "new", tmp_path / "other", overwrite=True).status_code == 200
    assert (tmp_path / "secret").read_text() == "secret" and (tmp_path / "other").read_text() == "new"


def test_copy_into_itself(execd, sample):
    refused(copy(execd, sample, sample / "sub" / "again", recursive=True), 400, "into itself")
    refused(copy(execd, sample, sample, recursive=True, overwrite=True), 400, "the same")


@pytest.mark.parametrize("body, word", [
    ({}, "array"), ([1], "item 0"), ([{"src": "/a"}], "dest"), ([{"dest": "/a"}], "src"),
    ([{"src": "/a", "dest": "/b", "recursive": "yes"}], "recursive"),
    ([{"src": "/etc/passwd", "dest": "/tmp/never"}, {"src": 1, "dest": "/b"}], "item 1"),
])
def test_copy_refused(execd, body, word):
    refused(execd.http.post("/files/copy", json=body), 400, word)
    assert not os.path.exists("/tmp/never")


def test_copy_errors(execd, tmp_path):
    refused(copy(execd, tmp_path / "none", tmp_path / "dest"), 404, "none")
    refused(copy(execd, "/dev/null", tmp_path / "dest"), 400, "a character device")
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    refused(copy(execd, tmp_path / "f", tmp_path / "d", overwrite=True), 409, "a directory")
    refused(copy(execd, tmp_path / "d", tmp_path / "f", overwrite=True, recursive=True), 409, "a file")


# ---- watches ---------------------------------------------------------------------------------


class Watcher:
    """An open watch: next() gives (type, path below the folder[, from])."""

    def __init__(self, execd, folder, **query):
        self.folder = folder
        self.context = execd.stream("GET", "/files/watch", params={"path": str(folder), **query})
        self.response = self.context.__enter__()
        self.events = events(self.response)
        self.ready = next(self.events)
        assert self.ready["type"] == "ready" and self.ready["path"] == str(folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.__exit__(None, None, None)

    def next(self):
        event = next(self.events)
        assert event["timestamp"] > 1_600_000_000_000
        names = [os.path.relpath(event[key], self.folder) for key in ("path", "from") if key in event]
        return (event["type"], *names)

    def until(self, *last):
        """Everything up to and without this event."""
        found = []
        while (event := self.next()) != last:
            found.append(event)
        return found


def test_watch_tells_what_happens(execd, tmp_path):
    (tmp_path / "old").write_text("x")
    with Watcher(execd, tmp_path) as watch:
        (tmp_path / "f").write_text("x")
        assert [watch.next(), watch.next()] == [("created", "f"), ("modified", "f")]
        (tmp_path / "f").chmod(0o600)
        assert watch.next() == ("attrib", "f")
        (tmp_path / "f").rename(tmp_path / "g")
        assert watch.next() == ("moved", "g", "f")
        (tmp_path / "old").unlink()
        assert watch.next() == ("deleted", "old")


def test_watch_moves_across_the_border(execd, tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir(), outside.mkdir()
    (outside / "in" / "deep").mkdir(parents=True)
    with Watcher(execd, inside, recursive="true") as watch:
        (outside / "in").rename(inside / "in")
        assert [watch.next(), watch.next()] == [("created", "in"), ("created", "in/deep")]
        (inside / "in" / "deep" / "f").touch()
        assert watch.next() == ("created", "in/deep/f")
        (inside / "in").rename(outside / "out")
        assert watch.until("deleted", "in") == []
        (outside / "out" / "deep" / "unseen").touch()
        (inside / "end").touch()
        assert watch.next() == ("created", "end")


def test_watch_not_recursive(execd, tmp_path):
    (tmp_path / "d").mkdir()
    with Watcher(execd, tmp_path) as watch:
        (tmp_path / "d" / "unseen").touch()
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "unseen").touch()
        (tmp_path / "end").touch()
        assert watch.until("created", "end") == [("created", "new")]


def test_watch_new_directories_lose_nothing_and_repeat_nothing(execd, tmp_path):
    with Watcher(execd, tmp_path, recursive="true") as watch:
        wanted = set()
        for i in range(60):
            folder = tmp_path / f"d{i}" / "a" / "b"
            folder.mkdir(parents=True)
            for name in "xyz":
                (folder / name).touch()
            wanted |= {f"d{i}", f"d{i}/a", f"d{i}/a/b", *(f"d{i}/a/b/{name}" for name in "xyz")}
        (tmp_path / "end").touch()
        found = [event[1] for event in watch.until("created", "end") if event[0] == "created"]
        # What comes after the end of the scan of a directory may still be on its way.
        while len(found) < len(wanted):
            event = watch.next()
            if event[0] == "created":
                found.append(event[1])
        assert sorted(found) == sorted(wanted)


def test_watch_follows_renamed_directories(execd, tmp_path):
    (tmp_path / "a" / "sub").mkdir(parents=True)
    with Watcher(execd, tmp_path, recursive="true") as watch:
        assert watch.ready["directories"] == 3
        (tmp_path / "a").rename(tmp_path / "b")
        assert watch.next() == ("moved", "b", "a")
        (tmp_path / "b" / "sub" / "f").touch()
        assert watch.next() == ("created", "b/sub/f")
        (tmp_path / "b" / "sub" / "f").unlink()
        assert watch.next() == ("deleted", "b/sub/f")
        (tmp_path / "b" / "sub").rmdir()
        assert watch.next() == ("deleted", "b/sub")


def test_watch_pattern(execd, tmp_path):
    with Watcher(execd, tmp_path, recursive="true", pattern="**/*.py") as watch:
        (tmp_path / "x.txt").touch()
        (tmp_path / "x.txt").rename(tmp_path / "x.py")
        assert watch.next() == ("moved", "x.py", "x.txt")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "y.py").mkdir()
        assert watch.next() == ("created", "sub/y.py")


def test_watch_ends_with_its_directory(execd, tmp_path):
    for end in (lambda d: d.rmdir(), lambda d: d.rename(tmp_path / "elsewhere")):
        folder = tmp_path / "d"
        folder.mkdir()
        with Watcher(execd, folder, pattern="*.none") as watch:
            end(folder)
            assert watch.next() == ("deleted", ".")
            assert list(watch.events) == []


def test_watch_slow_reader_gets_an_overflow(execd, tmp_path):
    folder = tmp_path.joinpath(*["d" * 250] * 10)  # long paths make long events: 10 MB, more than sockets take
    folder.mkdir(parents=True)
    connection = execd.raw()
    # Fixed, so that it does not grow; larger than loopback's segments, or the window opens only by timer.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
    connection.sendall(f"GET /files/watch?path={folder} HTTP/1.1\r\nHost: x\r\n"
                       f"X-EXECD-ACCESS-TOKEN: {execd.token}\r\n\r\n".encode())
    text = b""
    while b'"ready"' not in text:
        text += connection.recv(4096)
    with Watcher(execd, folder, pattern="marker*") as other:  # the same kernel watches, another queue
        for turn in range(40):
            for i in range(100):
                os.mkdir(folder / f"{turn}-{i}")
            os.mkdir(folder / f"marker{turn}")
            assert other.next() == ("created", f"marker{turn}")
    text = b""
    while b'"overflow"' not in text:
        piece = connection.recv(65536)
        assert piece
        text = text[-100:] + piece
    connection.close()


def test_watch_many_of_one_directory_cost_one_instance(execd, tmp_path):
    watchers = [Watcher(execd, tmp_path) for _ in range(60)]
    instances = [fd for fd in os.listdir(f"/proc/{execd.pid}/fd")
                 if os.readlink(f"/proc/{execd.pid}/fd/{fd}") == "anon_inode:inotify"]
    assert len(instances) == 1
    (tmp_path / "f").touch()
    for watch in watchers:
        assert watch.next() == ("created", "f")
        watch.__exit__()


@pytest.mark.parametrize("query, status, word", [
    ({}, 400, "path"), ({"path": "/no/such"}, 404, "/no/such"), ({"path": "/etc/passwd"}, 400, "/etc/passwd"),
    ({"path": "/", "recursive": "maybe"}, 400, "recursive"), ({"path": "/tmp", "pattern": "[a"}, 400, "pattern"),
])
def test_watch_refused(execd, query, status, word):
    refused(execd.http.get("/files/watch", params=query), status, word)


# ---- searches --------------------------------------------------------------------------------


def grep(execd, path, pattern, **fields):
    """(matches, the last line)"""
    response = execd.http.post("/files/grep", json={"path": str(path), "pattern": pattern, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    *matches, end = [json.loads(line) for line in response.text.splitlines()]
    assert end["type"] == "end" and end["matches"] == len(matches)
    assert all(match.pop("type") == "match" for match in matches)
    return matches, end


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "lib" / "deep").mkdir(parents=True)
    (folder / "node_modules" / "x").mkdir(parents=True)
    (folder / "a.py").write_text("import os\n\ndef foo(x):\n    return x.foo\n# Foo\n")
    (folder / "lib" / "b.c").write_text("int foo;\r\nint bar(foo);")
    (folder / "lib" / "deep" / "c.txt").write_text("héllo foo\n")
    (folder / "node_modules" / "x" / "index.js").write_text("foo()\n")
    (folder / "binary").write_bytes(b"foo\0foo\n")
    (folder / "link.py").symlink_to("a.py")
    (folder / "empty").touch()
    return folder


def places(matches, folder):
    return sorted((os.path.relpath(m["path"], folder), m["line"], m["column"], m["length"]) for m in matches)


def test_grep_literal(execd, source):
    matches, end = grep(execd, source, "foo", literal=True)
    assert places(matches, source) == [
        ("a.py", 3, 5, 3), ("a.py", 4, 14, 3), ("lib/b.c", 1, 5, 3), ("lib/b.c", 2, 9, 3),
        ("lib/deep/c.txt", 1, 8, 3), ("node_modules/x/index.js", 1, 1, 3)]
    assert (end["files"], end["files_matched"], end["skipped_binary"], end["truncated"]) == (5, 4, 1, False)
    assert {m["text"] for m in matches if m["path"].endswith("a.py")} == {"def foo(x):", "    return x.foo"}


def test_grep_regex_and_case(execd, source):
    matches, _ = grep(execd, source, r"^# fo{2}$|x\.f", ignore_case=True)
    assert places(matches, source) == [("a.py", 4, 12, 3), ("a.py", 5, 1, 5)]
    matches, _ = grep(execd, source, "FOO(", literal=True, ignore_case=True)
    assert places(matches, source) == [("a.py", 3, 5, 4), ("node_modules/x/index.js", 1, 1, 4)]
    matches, _ = grep(execd, source, "h.llo")
    assert places(matches, source) == [("lib/deep/c.txt", 1, 1, 6)]


def test_grep_globs(execd, source):
    matches, end = grep(execd, source, "foo", include=["*.py", "lib/**"], exclude=["deep"])
    assert {os.path.relpath(m["path"], source) for m in matches} == {"a.py", "lib/b.c"}
    assert end["files"] == 2
    matches, _ = grep(execd, source, "foo", exclude=["node_modules", "*.c", "*.py"])
    assert {os.path.relpath(m["path"], source) for m in matches} == {"lib/deep/c.txt"}


def test_grep_one_file_context_and_binary(execd, source):
    [first, second], end = grep(execd, source / "a.py", "foo", context=1)
    assert (first["before"], first["after"]) == ([""], ["    return x.foo"])
    assert (second["before"], second["after"]) == (["def foo(x):"], ["# Foo"])
    [match], _ = grep(execd, source / "binary", "foo", binary=True)
    assert match["path"] == str(source / "binary")


def test_grep_limits(execd, source):
    (source / "many").write_text("foo\n" * 5000)
    matches, end = grep(execd, source, "foo", max_results=100)
    assert len(matches) == 100 and end["truncated"]
    matches, end = grep(execd, source, "foo", max_file_bytes=1000)
    assert len(matches) == 6 and end["skipped_large"] == 1
    (source / "long").write_text("x" * 5000 + "foo" + "y" * 5000)
    [match], _ = grep(execd, source / "long", "foo")
    assert match["column"] == 5001 and "foo" in match["text"] and len(match["text"]) == 1024
    assert match["text"].index("foo") == 5000 - match["text_start"]


def test_grep_much(execd, tmp_path):
    tmp_path = tmp_path / "much"
    tmp_path.mkdir()
    for i in range(300):
        (tmp_path / f"d{i % 20}").mkdir(exist_ok=True)
        (tmp_path / f"d{i % 20}" / f"f{i}").write_text("".join(f"line {n} needle\nhay\n" for n in range(100)))
    matches, end = grep(execd, tmp_path, "needle$", max_results=1000000)
    assert (len(matches), end["files"]) == (30_000, 300)
    for name in {m["path"] for m in matches}:
        assert [m["line"] for m in matches if m["path"] == name] == list(range(1, 200, 2))


def test_grep_clients_that_vanish(execd, tmp_path):
    (tmp_path / "big").write_text("needle in hay\n" * 1_000_000)
    body = json.dumps({"path": str(tmp_path), "pattern": "n.*y", "max_results": 1000000}).encode()
    for _ in range(8):
        connection = execd.raw()
        connection.sendall(f"POST /files/grep HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                           f"X-EXECD-ACCESS-TOKEN: {execd.token}\r\n\r\n".encode() + body)
        connection.recv(1000)
        connection.close()
    assert execd.http.get("/ping").status_code == 200


@pytest.mark.parametrize("fields, status, word", [
    ({"path": 1}, 400, "path"), ({"pattern": ""}, 400, "pattern"), ({"pattern": "a\nb"}, 400, "newline"),
    ({"pattern": "(a"}, 400, "pattern"), ({"pattern": r"(a)\1"}, 400, "backreferences"),
    ({"include": "*.c"}, 400, "include"), ({"exclude": ["[a"]}, 400, "exclude"),
    ({"max_results": 0}, 400, "max_results"), ({"context": 51}, 400, "context"),
    ({"max_file_bytes": 1 << 40}, 400, "max_file_bytes"), ({"literal": 1}, 400, "literal"),
    ({"path": "/no/such"}, 404, "/no/such"),
])
def test_grep_refused(execd, fields, status, word):
    refused(execd.http.post("/files/grep", json={"path": "/tmp", "pattern": "x", **fields}), status, word)


@ROOT_ONLY
def test_a_full_disk_is_named_and_leaves_no_half_file(execd, tmp_path):
    small, big = tmp_path / "small", tmp_path / "big"
    small.mkdir()
    big.write_bytes(b"x" * 5_000_000)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", small], check=True)
    try:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(big, "sub/big")
        for answer in (
            execd.http.post("/files/copy", json=[{"src": str(big), "dest": str(small / "big")}]),
            execd.http.post("/directories/archive", params={"path": str(small)}, content=packed.getvalue()),
        ):
            assert answer.status_code == 507 and "no space left" in answer.json()["message"], answer.text
        assert not [path for path in small.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", small], check=True)
