"""/files and /directories over real sockets: happy, unhappy, cut into pieces, broken off, huge and strange."""

import contextlib
import hashlib
import json
import os
import resource
import socket
import stat
import struct
import subprocess
import urllib.parse
from pathlib import Path

import pytest

from daemon import SANITIZED, read_head

ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="needs root")
MIB = 1 << 20
AGENT_MEMORY_MAX = 16 * MIB  # whatever goes through it

WEIRD_NAMES = ["with space", "tab\tnewline\n", "ünïcödé 文件 🎉", "quote\"back\\slash", "a;b&c=d+e%41", "-rf", "*?[x]", "'$(x)'"]


# ---- helpers ---------------------------------------------------------------------------------


def pair(path, content, **fields):
    metadata = json.dumps({"path": str(path), **fields})
    return [
        ("metadata", ("metadata", metadata, "application/json")),
        ("file", ("file", content, "application/octet-stream")),
    ]


def upload(execd, *pairs):
    return execd.http.post("/files/upload", files=[part for each in pairs for part in each])


def uploaded(execd, path, content, **fields):
    response = upload(execd, pair(path, content, **fields))
    assert (response.status_code, response.content) == (200, b""), response.text
    return path


def download(execd, path, headers=None, **query):
    return execd.http.get("/files/download", params={"path": str(path), **query}, headers=headers)


def refused(response, status, code, *words):
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), response.text
    assert set(body) == {"code", "message"}
    for word in words:
        assert str(word) in body["message"], body
    return body["message"]


def everything_below(directory):
    return sorted(str(path.relative_to(directory)) for path in Path(directory).rglob("*"))


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def settle(execd):
    """What reached the agent before this is dealt with: the second answer comes from a later turn of its loop."""
    for _ in range(2):
        assert execd.http.get("/ping").status_code == 200


def files_held_open(execd, below):
    """Paths below a directory, also nameless ones, that the agent has open."""
    held = []
    for fd in os.listdir(f"/proc/{execd.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{execd.pid}/fd/{fd}")
            if target.startswith(str(below)):
                held.append(target)
    return held


def peak_memory(execd):
    for line in Path(f"/proc/{execd.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def assert_small(execd):
    if not SANITIZED:
        assert peak_memory(execd) < AGENT_MEMORY_MAX


def form(*parts, boundary=b"the-boundary", close=True):
    """A multipart body by hand: parts are (headers, content)."""
    body = b""
    for disposition, content in parts:
        body += b"--" + boundary + b"\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + content + b"\r\n"
    return body + (b"--" + boundary + b"--\r\n" if close else b"")


def file_form(path, content, **fields):
    metadata = json.dumps({"path": str(path), **fields}).encode()
    return form((b'name="metadata"; filename="metadata"', metadata), (b'name="file"; filename="f"', content))


def post_form(execd, body):
    return execd.http.post(
        "/files/upload", content=body, headers={"Content-Type": "multipart/form-data; boundary=the-boundary"}
    )


def upload_head(execd, framing):
    return (
        f"POST /files/upload HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {execd.token}\r\n"
        f"Content-Type: multipart/form-data; boundary=the-boundary\r\n{framing}\r\n\r\n"
    ).encode()


def status_of(connection):
    head, _ = read_head(connection)
    return int(head.split()[1])


def reset(connection):
    """Vanishes: no FIN, a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextlib.contextmanager
def mounted(*args, at):
    result = subprocess.run(["mount", *map(str, args), str(at)], capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"cannot mount here: {result.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    if os.getuid() != 0:
        pytest.skip("a disk of its own needs root")
    at = tmp_path / "disk"
    at.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", at=at):
        yield at


# ---- upload ----------------------------------------------------------------------------------


def test_upload_and_download(execd, tmp_path):
    content = bytes(range(256)) * 10
    path = uploaded(execd, tmp_path / "new/directories/file.bin", content, mode=640)
    assert path.read_bytes() == content
    assert mode_of(path) == 0o640
    assert everything_below(tmp_path / "new") == ["directories", "directories/file.bin"]
    response = download(execd, path)
    assert response.status_code == 200
    assert response.content == content
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-length"] == str(len(content))
    assert response.headers["content-disposition"] == 'attachment; filename="file.bin"'


def test_upload_of_an_empty_file(execd, tmp_path):
    assert uploaded(execd, tmp_path / "empty", b"").read_bytes() == b""
    response = download(execd, tmp_path / "empty")
    assert (response.status_code, response.content) == (200, b"")


def test_upload_of_many_files_in_one_request(execd, tmp_path):
    """More than wait for the end of the body, so that some are put in place in the middle of it."""
    names = [f"{i % 7}/{i}" for i in range(300)]
    response = upload(execd, *[pair(tmp_path / name, name.encode() * 1000) for name in names])
    assert response.status_code == 200, response.text
    for name in names:
        assert (tmp_path / name).read_bytes() == name.encode() * 1000
    assert len(everything_below(tmp_path)) == 300 + 7 + 1  # and the agent's log


def test_metadata_may_run_ahead_of_the_files(execd, tmp_path):
    (m1, f1), (m2, f2) = pair(tmp_path / "a", b"1"), pair(tmp_path / "b", b"2")
    assert upload(execd, [m1, m2, f1, f2]).status_code == 200
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"1", b"2")


def test_parts_without_file_names_and_unknown_parts(execd, tmp_path):
    metadata = json.dumps({"path": str(tmp_path / "a"), "owner": None, "group": None, "extra": 1}).encode()
    body = form((b"name=other", b"ignored"), (b"name=metadata", metadata), (b"name=file", b"content"))
    assert post_form(execd, body).status_code == 200
    assert (tmp_path / "a").read_bytes() == b"content"


@pytest.mark.parametrize("name", WEIRD_NAMES)
def test_names(execd, tmp_path, name):
    path = uploaded(execd, tmp_path / name.replace("$", "S"), b"content")
    assert path.read_bytes() == b"content"
    assert download(execd, path).content == b"content"
    info = execd.http.get("/files/info", params={"path": str(path)}).json()
    assert list(info) == [str(path)]
    assert info[str(path)]["path"] == str(path)
    listed = execd.http.get("/directories/list", params={"path": str(tmp_path)}).json()
    assert str(path) in [entry["path"] for entry in listed]
    assert execd.http.delete("/files", params={"path": str(path)}).status_code == 200
    assert not path.exists()


def test_new_file_without_a_mode_follows_the_umask(execd, tmp_path):
    umask = int(Path(f"/proc/{execd.pid}/status").read_text().split("Umask:")[1].split()[0], 8)
    assert mode_of(uploaded(execd, tmp_path / "f", b"x")) == 0o777 & ~umask


@pytest.mark.parametrize("digits, mode", [(644, 0o644), (755, 0o755), (7, 0o007), (4755, 0o4755), (400, 0o400)])
def test_mode_is_decimal_that_reads_as_octal(execd, tmp_path, digits, mode):
    path = uploaded(execd, tmp_path / "f", b"x", mode=digits)
    assert mode_of(path) == mode
    assert execd.http.get("/files/info", params={"path": str(path)}).json()[str(path)]["mode"] == digits


def test_overwriting_keeps_the_mode_and_replaces_the_content(execd, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"a longer old content")
    path.chmod(0o604)
    uploaded(execd, path, b"new")
    assert (path.read_bytes(), mode_of(path)) == (b"new", 0o604)
    uploaded(execd, path, b"newer", mode=600)
    assert (path.read_bytes(), mode_of(path)) == (b"newer", 0o600)


@ROOT_ONLY
def test_owner_by_name_by_number_and_kept(execd, tmp_path):
    path = uploaded(execd, tmp_path / "f", b"x", owner="daemon", group="12345", mode=4711)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1, 12345, 0o4711)
    info = execd.http.get("/files/info", params={"path": str(path)}).json()[str(path)]
    assert (info["owner"], info["group"], info["mode"]) == ("daemon", "12345", 4711)
    uploaded(execd, path, b"y")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1, 12345, 0o4711)


def test_a_reader_of_the_old_file_keeps_it(execd, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        uploaded(execd, path, b"new")
        assert reader.read() == b"old"


def test_upload_through_links(execd, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_bytes(b"old")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "real/file")
    (tmp_path / "dangling").symlink_to("real/made")
    (tmp_path / "dir").symlink_to("real")
    uploaded(execd, tmp_path / "one", b"new")
    uploaded(execd, tmp_path / "dangling", b"made")
    uploaded(execd, tmp_path / "dir/x/y", b"deep")
    assert (tmp_path / "one").is_symlink() and (tmp_path / "two").is_symlink() and (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "real/file").read_bytes() == b"new"
    assert (tmp_path / "real/made").read_bytes() == b"made"
    assert (tmp_path / "real/x/y").read_bytes() == b"deep"


def test_relative_and_expanded_paths(start_execd, tmp_path):
    execd = start_execd(env={"HOME": str(tmp_path / "home"), "WHERE": str(tmp_path / "where")})
    uploaded(execd, "~/a", b"1")
    uploaded(execd, "$WHERE/b", b"2")
    uploaded(execd, "${WHERE}/c", b"3")
    assert everything_below(tmp_path / "home") == ["a"]
    assert everything_below(tmp_path / "where") == ["b", "c"]
    assert download(execd, "$WHERE/../home/a").content == b"1"
    assert list(execd.http.get("/files/info", params={"path": "~/a"}).json()) == ["~/a"]
    assert execd.http.get("/files/info", params={"path": "~/a"}).json()["~/a"]["path"] == str(tmp_path / "home/a")
    refused(upload(execd, pair("$NO_SUCH_VARIABLE/x", b"")), 400, "INVALID_FILE_METADATA", "NO_SUCH_VARIABLE")
    relative = os.path.relpath(tmp_path / "where/b", os.getcwd())
    assert download(execd, relative).content == b"2"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("piece", [1, 3, 7, 61])
def test_upload_in_small_packets(execd, tmp_path, framing, piece):
    content = b"\r\n--the-boundar\r\n--the-boundary-not\r\n-" * 8
    body = file_form(tmp_path / "f", content)
    with execd.raw() as connection:
        if framing == "length":
            connection.sendall(upload_head(execd, f"Content-Length: {len(body)}"))
            wire = body
        else:
            connection.sendall(upload_head(execd, "Transfer-Encoding: chunked"))
            wire = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 5]), body[i : i + 5]) for i in range(0, len(body), 5))
            wire += b"0\r\n\r\n"
        for i in range(0, len(wire), piece):
            connection.sendall(wire[i : i + piece])
        assert status_of(connection) == 200
    assert (tmp_path / "f").read_bytes() == content


BAD_UPLOADS = {
    "nothing": ([], 400, "INVALID_FILE_METADATA", "no metadata part"),
    "no metadata": ([(b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "file part 1 has no metadata"),
    "no file": ([(b"name=metadata", b'{"path": "DIR/a"}')], 400, "INVALID_FILE_CONTENT", "DIR/a"),
    "a file too many": (
        [(b"name=metadata", b'{"path": "DIR/a"}'), (b"name=file", b"x"), (b"name=file", b"y")],
        400, "INVALID_FILE", "file part 2 has no metadata",
    ),
    "a metadata too many": (
        [(b"name=metadata", b'{"path": "DIR/a"}'), (b"name=file", b"x"), (b"name=metadata", b'{"path": "DIR/b"}')],
        400, "INVALID_FILE", "DIR/b",
    ),
    "broken JSON": ([(b"name=metadata", b'{"path": "DIR/a"'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "metadata part 1"),
    "JSON that is no object": ([(b"name=metadata", b'["DIR/a"]'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "object"),
    "no path": ([(b"name=metadata", b'{"mode": 644}'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "path"),
    "empty path": ([(b"name=metadata", b'{"path": ""}'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "empty"),
    "path that is no string": ([(b"name=metadata", b'{"path": 7}'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "path"),
    "mode with an 8": ([(b"name=metadata", b'{"path": "DIR/a", "mode": 648}'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "648"),
    "mode too large": ([(b"name=metadata", b'{"path": "DIR/a", "mode": 77777}'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "77777"),
    "negative mode": ([(b"name=metadata", b'{"path": "DIR/a", "mode": -1}'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "mode"),
    "mode as text": ([(b"name=metadata", b'{"path": "DIR/a", "mode": "644"}'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "mode"),
    "unknown owner": ([(b"name=metadata", b'{"path": "DIR/a", "owner": "nobody-here"}'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "nobody-here"),
    "unknown group": ([(b"name=metadata", b'{"path": "DIR/a", "group": "nobody-here"}'), (b"name=file", b"x")], 400, "INVALID_FILE_METADATA", "nobody-here"),
    "another size": ([(b"name=metadata", b'{"path": "DIR/a", "size": 2}'), (b"name=file", b"x")], 400, "INVALID_FILE_CONTENT", "DIR/a"),
    "metadata too large": ([(b"name=metadata", b'"' + b"x" * 70000 + b'"'), (b"name=file", b"x")], 413, "INVALID_FILE_METADATA", "65536"),
    "a directory": ([(b"name=metadata", b'{"path": "DIR/there"}'), (b"name=file", b"x")], 400, "INVALID_FILE", "directory"),
    "a slash at the end": ([(b"name=metadata", b'{"path": "DIR/new/"}'), (b"name=file", b"x")], 400, "INVALID_FILE", "DIR/new/"),
    "below a file": ([(b"name=metadata", b'{"path": "DIR/there/file/x"}'), (b"name=file", b"x")], 400, "INVALID_FILE", "DIR/there/file/x"),
    "a FIFO": ([(b"name=metadata", b'{"path": "DIR/there/fifo"}'), (b"name=file", b"x")], 400, "INVALID_FILE", "FIFO"),
    "a device": ([(b"name=metadata", b'{"path": "/dev/null"}'), (b"name=file", b"x")], 400, "INVALID_FILE", "device"),
    "links in a circle": ([(b"name=metadata", b'{"path": "DIR/there/circle"}'), (b"name=file", b"x")], 400, "INVALID_FILE", "circle"),
    "a name too long": ([(b"name=metadata", b'{"path": "DIR/' + b"n" * 256 + b'"}'), (b"name=file", b"x")], 400, "INVALID_FILE", "nnn"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_UPLOADS)
def test_bad_uploads(execd, tmp_path, case):
    parts, status, code, word = BAD_UPLOADS[case]
    here = tmp_path / "here"
    (here / "there").mkdir(parents=True)
    (here / "there/file").write_bytes(b"")
    (here / "there/circle").symlink_to("circle")
    os.mkfifo(here / "there/fifo")
    before = everything_below(here)
    place = lambda text: text.replace(b"DIR", str(here).encode())  # noqa: E731
    # A good pair first: what fails after it takes it along.
    good = [(b"name=metadata", b'{"path": "DIR/good/one"}'), (b"name=file", b"good")] if parts else []
    if case not in ("no metadata", "no file", "a file too many", "broken JSON"):
        parts = good + parts
    response = post_form(execd, form(*[(name, place(content)) for name, content in parts]))
    refused(response, status, code, word.replace("DIR", str(here)))
    assert everything_below(here) == before
    assert not files_held_open(execd, here)


def test_uploads_that_are_no_forms(execd, tmp_path):
    refused(execd.http.post("/files/upload", content=b"x"), 400, "INVALID_FILE", "multipart/form-data")
    response = execd.http.post("/files/upload", json={"path": "x"})
    assert response.status_code == 400
    body = file_form(tmp_path / "here/f", b"content")
    for cut in (b"", body[: len(body) // 2], body[:-6]):
        response = post_form(execd, cut)
        assert response.status_code == 400, response.text
        assert "message" in response.json()
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("end", ["reset", "close", "shutdown"])
def test_client_that_vanishes_mid_upload_leaves_nothing(execd, tmp_path, end):
    here = tmp_path / "here"
    here.mkdir()
    (here / "old").write_bytes(b"old")
    body = file_form(here / "old", b"new") + file_form(here / "sub/new", b"x" * 300000)
    body = body.replace(b"--the-boundary--\r\n", b"", 1)
    connection = execd.raw()
    connection.sendall(upload_head(execd, f"Content-Length: {len(body)}") + body[:-100000])
    settle(execd)
    # Under way, and still nothing to be seen.
    assert files_held_open(execd, here)
    assert everything_below(here) == ["old"]
    if end == "shutdown":
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    elif end == "reset":
        reset(connection)
    connection.close()
    settle(execd)
    assert everything_below(here) == ["old"]
    assert (here / "old").read_bytes() == b"old"
    assert not files_held_open(execd, here)


def test_killed_agent_leaves_nothing(execd, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    body = file_form(here / "f", b"x" * 100000)
    with execd.raw() as connection:
        connection.sendall(upload_head(execd, f"Content-Length: {len(body)}") + body[:-1000])
        settle(execd)
        if not any("(deleted)" in path for path in files_held_open(execd, here)):
            pytest.skip("the file system of the tests has no O_TMPFILE")
        execd.expect_exit = None
        execd.process.kill()
        execd.process.wait()
    assert everything_below(here) == []


def test_full_disk(execd, small_disk):
    keep = small_disk / "keep"
    keep.write_bytes(b"old")
    free = os.statvfs(small_disk).f_bfree
    response = upload(execd, pair(small_disk / "a/small", b"x"), pair(keep, b"y" * 4 * MIB))
    refused(response, 507, "RUNTIME_ERROR", keep, "No space left on device".lower()[:8])
    assert everything_below(small_disk) == ["keep"]
    assert keep.read_bytes() == b"old"
    settle(execd)
    assert os.statvfs(small_disk).f_bfree == free
    # And there is room again for what fits.
    uploaded(execd, small_disk / "fits", b"z" * 1000)


def test_file_over_the_limit_of_the_process(execd, tmp_path):
    resource.prlimit(execd.pid, resource.RLIMIT_FSIZE, (MIB, MIB))
    refused(upload(execd, pair(tmp_path / "new/f", b"x" * 2 * MIB)), 413, "RUNTIME_ERROR", tmp_path / "new/f", "too large")
    assert not (tmp_path / "new").exists()
    uploaded(execd, tmp_path / "new/f", b"x" * MIB)


@ROOT_ONLY
def test_directories_made_for_a_file_that_fails_are_removed_again(execd, tmp_path):
    at = tmp_path / "disk"
    at.mkdir()
    # Inodes for the root, the content and two directories, not for the third.
    with mounted("-t", "tmpfs", "-o", "nr_inodes=4", "tmpfs", at=at):
        refused(upload(execd, pair(at / "a/b/c/file", b"x")), 507, "RUNTIME_ERROR", at / "a/b/c/file")
        assert everything_below(at) == []
        uploaded(execd, at / "a/file", b"x")


@ROOT_ONLY
def test_upload_onto_a_mount_point_goes_in_place(execd, tmp_path):
    """As /etc/hosts is in most containers: its name cannot be replaced."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"a longer old content")
    source.chmod(0o640)
    target.write_bytes(b"")
    with mounted("--bind", source, at=target):
        inode = source.stat().st_ino
        uploaded(execd, target, b"new")
        assert target.stat().st_ino == inode
        assert source.read_bytes() == b"new"
        assert mode_of(source) == 0o640
    assert everything_below(tmp_path) == ["execd-0.log", "source", "target"]


def test_200_mb_up_and_down(execd, tmp_path):
    """Constant memory, whatever the size; the bytes arrive as they were."""
    block = os.urandom(MIB)
    sha = hashlib.sha256()

    def body():
        yield file_form(tmp_path / "big", b"THE FILE").split(b"THE FILE")[0]
        for i in range(200):
            piece = struct.pack("I", i) + block[4:]
            sha.update(piece)
            yield piece
        yield b"\r\n--the-boundary--\r\n"

    response = execd.http.post(
        "/files/upload", content=body(), headers={"Content-Type": "multipart/form-data; boundary=the-boundary"}
    )
    assert response.status_code == 200, response.text
    written = hashlib.sha256()
    with (tmp_path / "big").open("rb") as file:
        while piece := file.read(MIB):
            written.update(piece)
    assert written.hexdigest() == sha.hexdigest()
    back = hashlib.sha256()
    with execd.http.stream("GET", "/files/download", params={"path": str(tmp_path / "big")}) as response:
        assert response.headers["content-length"] == str(200 * MIB)
        for piece in response.iter_bytes(MIB):
            back.update(piece)
    assert back.hexdigest() == sha.hexdigest()
    assert_small(execd)


# ---- download --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 65536, 65537, 200000])
@pytest.mark.parametrize(
    "header, first, last",
    [("bytes=0-0", 0, 0), ("bytes=2-5", 2, 5), ("bytes=3-", 3, None), ("bytes=-4", -4, None), ("bytes=5-9999999", 5, None),
     ("bytes=1-2,4-5", 1, 2)],
)  # fmt: skip
def test_ranges(execd, tmp_path, size, header, first, last):
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    response = download(execd, tmp_path / "f", headers={"Range": header})
    start = first % size
    end = size - 1 if last is None else last
    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes {start}-{end}/{size}"
    assert response.content == content[start : end + 1]


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=x", "bytes=5-2", "bytes="])
def test_ranges_not_satisfiable(execd, tmp_path, header):
    (tmp_path / "f").write_bytes(b"0123456789")
    response = download(execd, tmp_path / "f", headers={"Range": header})
    refused(response, 416, "UNKNOWN", tmp_path / "f")
    assert response.headers["content-range"] == "bytes */10"


def test_ranges_that_do_not_apply(execd, tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    assert download(execd, tmp_path / "f", headers={"Range": "lines=1-2"}).status_code == 200
    response = download(execd, tmp_path / "f", headers={"Range": "bytes=0-1"})
    modified = response.headers["last-modified"]
    same = download(execd, tmp_path / "f", headers={"Range": "bytes=0-1", "If-Range": modified})
    other = download(execd, tmp_path / "f", headers={"Range": "bytes=0-1", "If-Range": '"another"'})
    assert (same.status_code, same.content) == (206, b"01")
    assert (other.status_code, other.content) == (200, b"0123456789")


@pytest.mark.parametrize(
    "name, disposition",
    [
        ("a b.txt", 'attachment; filename="a b.txt"'),
        ('a"b\\c', 'attachment; filename="a\\"b\\\\c"'),
        ("文件.txt", "attachment; filename=\"%E6%96%87%E4%BB%B6.txt\"; filename*=UTF-8''%E6%96%87%E4%BB%B6.txt"),
        ("a\nb", "attachment; filename=\"a%0Ab\"; filename*=UTF-8''a%0Ab"),
    ],
)
def test_content_disposition(execd, tmp_path, name, disposition):
    (tmp_path / name).write_bytes(b"x")
    assert download(execd, tmp_path / name).headers["content-disposition"] == disposition


def test_names_that_are_not_utf8(execd, tmp_path):
    name = os.fsencode(str(tmp_path)) + b"/\xff\xfename"
    with open(name, "wb") as file:
        file.write(b"content")
    query = "path=" + urllib.parse.quote_from_bytes(name)
    response = execd.http.get("/files/download?" + query)
    assert (response.status_code, response.content) == (200, b"content")
    assert "filename*=UTF-8''%EF%BF%BD" in response.headers["content-disposition"]
    (info,) = execd.http.get("/files/info?" + query).json().values()
    assert info["path"] == f"{tmp_path}/\ufffd\ufffdname"
    assert info["path_encoded"] == urllib.parse.quote_from_bytes(name)
    listed = execd.http.get("/directories/list", params={"path": str(tmp_path)}).json()
    encoded = [entry["path_encoded"] for entry in listed if "path_encoded" in entry]
    assert encoded == [urllib.parse.quote_from_bytes(name)]
    assert execd.http.delete("/files?path=" + encoded[0]).status_code == 200
    assert not os.path.exists(name)


def test_what_cannot_be_downloaded(execd, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "fifo-link").symlink_to("fifo")
    refused(execd.http.get("/files/download"), 400, "MISSING_QUERY", "path")
    refused(execd.http.get("/files/download", params={"path": ""}), 400, "MISSING_QUERY", "path")
    refused(download(execd, tmp_path / "missing"), 404, "FILE_NOT_FOUND", tmp_path / "missing", "no such file")
    refused(download(execd, tmp_path), 400, "INVALID_FILE", tmp_path, "directory")
    refused(download(execd, tmp_path / "fifo"), 400, "INVALID_FILE", "FIFO")
    refused(download(execd, tmp_path / "fifo-link"), 400, "INVALID_FILE", "FIFO")
    refused(download(execd, "/dev/zero"), 400, "INVALID_FILE", "device")
    refused(download(execd, tmp_path / "fifo/x"), 400, "INVALID_FILE", "fifo/x")
    refused(download(execd, tmp_path / ("n" * 300)), 400, "INVALID_FILE", "nnn")
    assert not files_held_open(execd, tmp_path / "fifo")


def test_files_that_lie_about_their_size(execd):
    """/proc says 0 bytes, /sys says 4096."""
    response = download(execd, "/proc/self/status")
    assert response.status_code == 200
    assert f"Pid:\t{execd.pid}\n".encode() in response.content
    assert response.headers["content-length"] == str(len(response.content))
    if os.path.exists("/sys/kernel/mm/transparent_hugepage/enabled"):
        path = "/sys/kernel/mm/transparent_hugepage/enabled"
        assert download(execd, path).content == Path(path).read_bytes()


def test_large_file_that_says_it_is_empty(execd):
    """Sent until it ends, since nobody knows its length."""
    path = Path("/proc/kallsyms")
    if not path.exists() or len(path.read_bytes()) < 100000:
        pytest.skip("no large file in /proc")
    response = download(execd, path)
    assert response.status_code == 200
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.content.count(b"\n") == path.read_bytes().count(b"\n")


def test_file_that_shrinks_breaks_the_download_off(execd, tmp_path):
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    with execd.raw() as connection:
        connection.sendall(
            f"GET /files/download?path={path} HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {execd.token}\r\n\r\n".encode()
        )
        got = len(connection.recv(4096))
        os.truncate(path, MIB)
        while piece := connection.recv(MIB):
            got += len(piece)
    assert 0 < got < 64 * MIB
    settle(execd)
    assert not files_held_open(execd, tmp_path / "f")


def test_file_that_grows_is_sent_as_long_as_it_was(execd, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"a" * 16 * MIB)
    with execd.http.stream("GET", "/files/download", params={"path": str(path)}) as response:
        with path.open("ab") as file:
            file.write(b"b" * MIB)
        assert response.read() == b"a" * 16 * MIB


def test_client_that_vanishes_mid_download(execd, tmp_path):
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    connection = execd.raw()
    connection.sendall(
        f"GET /files/download?path={path} HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {execd.token}\r\n\r\n".encode()
    )
    connection.recv(1)
    assert files_held_open(execd, path)
    reset(connection)
    settle(execd)
    assert not files_held_open(execd, path)


def test_head(execd, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 100000)
    response = execd.http.head("/files/download", params={"path": str(tmp_path / "f")})
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "100000"


LINES = [f"line {i}\n".encode() for i in range(1, 6)]


@pytest.mark.parametrize("scale", [1, 3000])  # in memory, and on a worker
@pytest.mark.parametrize("end", [b"", b"unfinished"])
@pytest.mark.parametrize("offset, limit", [(1, 1), (2, 2), (4, None), (None, 2), (5, 100), (6, None), (7, 1), (99999, 3), (2, 0)])
def test_lines(execd, tmp_path, scale, end, offset, limit):
    lines = [line * scale for line in LINES]
    content = b"".join(lines) + end
    (tmp_path / "f").write_bytes(content)
    every = content.splitlines(keepends=True)
    first = offset or 1
    expected = every[first - 1 : None if limit is None else first - 1 + limit]
    query = {name: value for name, value in (("offset", offset), ("limit", limit)) if value is not None}
    response = download(execd, tmp_path / "f", **query)
    assert response.status_code == 200
    assert response.content == b"".join(expected)
    assert response.headers["content-length"] == str(len(response.content))


def test_lines_refused(execd, tmp_path):
    (tmp_path / "f").write_bytes(b"a\nb\n")
    for query in ({"offset": 0}, {"offset": -1}, {"offset": "x"}, {"limit": -1}, {"limit": "1x"}, {"offset": ""}):
        refused(download(execd, tmp_path / "f", **query), 400, "INVALID_REQUEST_BODY", *query)
    refused(download(execd, tmp_path / "f", headers={"Range": "bytes=0-1"}, offset=1), 400, "INVALID_REQUEST_BODY", "Range")


# ---- info ------------------------------------------------------------------------------------


def test_info(execd, tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "file").chmod(0o604)
    os.utime(tmp_path / "file", ns=(0, 1_600_000_000_123_456_789))
    (tmp_path / "dir").mkdir(mode=0o755)
    (tmp_path / "dir").chmod(0o1777)
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    paths = [str(tmp_path / name) for name in ("file", "dir", "link", "fifo")]
    response = execd.http.get("/files/info", params={"path": [*paths, paths[0]]})
    assert response.status_code == 200
    info = response.json()
    assert list(info) == paths
    assert [info[path]["type"] for path in paths] == ["file", "directory", "symlink", "other"]
    assert [info[path]["path"] for path in paths] == paths
    file = info[paths[0]]
    assert set(file) == {"path", "type", "size", "modified_at", "created_at", "owner", "group", "mode"}
    assert (file["size"], file["mode"]) == (5, 604)
    assert file["modified_at"] == "2020-09-13T12:26:40.123456789Z"
    assert info[paths[1]]["mode"] == 1777
    for entry in info.values():
        assert entry["created_at"].startswith("20") and entry["created_at"].endswith("Z")


def test_info_of_strange_times(execd, tmp_path):
    (tmp_path / "f").write_bytes(b"")
    os.utime(tmp_path / "f", (0, -1))
    assert execd.http.get("/files/info", params={"path": str(tmp_path / "f")}).json()[str(tmp_path / "f")]["modified_at"] == (
        "1969-12-31T23:59:59.000000000Z"
    )


def test_info_shows_the_clean_path_under_the_key_as_given(execd, tmp_path):
    (tmp_path / "f").write_bytes(b"")
    given = f"{tmp_path}//x/../f"
    (tmp_path / "x").mkdir()
    assert execd.http.get("/files/info", params={"path": given}).json()[given]["path"] == str(tmp_path / "f")


def test_info_refused(execd, tmp_path):
    message = refused(
        execd.http.get("/files/info", params={"path": [str(tmp_path), str(tmp_path / "missing")]}), 404, "FILE_NOT_FOUND"
    )
    assert str(tmp_path / "missing") in message
    assert execd.http.get("/files/info").json() == {}
    refused(
        execd.http.get("/files/info", params={"path": "$NO_SUCH_VARIABLE/x"}), 400, "INVALID_REQUEST_BODY", "NO_SUCH_VARIABLE"
    )


def test_info_of_many_paths(execd, tmp_path):
    paths = []
    for i in range(1000):
        paths.append(str(tmp_path / str(i)))
        Path(paths[-1]).touch()
    assert list(execd.http.get("/files/info", params={"path": paths[:500]}).json()) == paths[:500]


# ---- delete ----------------------------------------------------------------------------------


def test_delete_files(execd, tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "keep").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("keep")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir-link").symlink_to("dir")
    names = ["a", "b", "link", "dangling", "dir-link", "missing"]
    response = execd.http.delete("/files", params={"path": [str(tmp_path / name) for name in names]})
    assert (response.status_code, response.content) == (200, b"")
    assert everything_below(tmp_path) == ["dir", "execd-0.log", "keep"]


def test_delete_refused(execd, tmp_path):
    (tmp_path / "dir").mkdir()
    refused(execd.http.delete("/files", params={"path": str(tmp_path / "dir")}), 400, "INVALID_FILE", tmp_path / "dir", "directory")
    assert (tmp_path / "dir").is_dir()
    assert execd.http.delete("/files").status_code == 200  # clients ask so for an empty list


# ---- permissions -----------------------------------------------------------------------------


def test_permissions(execd, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link").symlink_to("b")
    body = {str(tmp_path / "a"): {"mode": 700}, str(tmp_path / "link"): {"mode": 4711, "owner": "", "group": None}}
    response = execd.http.post("/files/permissions", json=body)
    assert (response.status_code, response.content) == (200, b"")
    assert (mode_of(tmp_path / "a"), mode_of(tmp_path / "b")) == (0o700, 0o4711)


@ROOT_ONLY
def test_owner(execd, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"")
    path.chmod(0o600)
    set_to = lambda **perm: execd.http.post("/files/permissions", json={str(path): perm}).status_code  # noqa: E731
    assert set_to(owner="daemon", group="bin") == 200
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (1, 2, 0o600)
    assert set_to(owner="4242", mode=4755) == 200
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (4242, 2, 0o4755)
    # What is not given stays.
    assert set_to(mode=640) == 200
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (4242, 2, 0o640)


@pytest.mark.parametrize(
    "perm, word",
    [({"mode": 999}, "999"), ({"mode": "755"}, "mode"), ({"mode": 1.5}, "mode"), ({"owner": "nobody-here"}, "nobody-here"),
     ({"group": "nobody-here"}, "nobody-here"), ({"owner": 7}, "owner"), ([], "object"), (None, "object")],
)  # fmt: skip
def test_permissions_refused(execd, tmp_path, perm, word):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"")
        (tmp_path / name).chmod(0o600)
    body = {str(tmp_path / "a"): {"mode": 755}, str(tmp_path / "b"): perm}
    refused(execd.http.post("/files/permissions", json=body), 400, "INVALID_REQUEST_BODY", word, tmp_path / "b")
    # Checked whole before anything is done.
    assert mode_of(tmp_path / "a") == 0o600


def test_permissions_of_what_is_missing(execd, tmp_path):
    for perm in ({"mode": 755}, {}):
        response = execd.http.post("/files/permissions", json={str(tmp_path / "missing"): perm})
        refused(response, 404, "FILE_NOT_FOUND", tmp_path / "missing")


# ---- mv --------------------------------------------------------------------------------------


def test_move(execd, tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/x").write_bytes(b"x")
    (tmp_path / "link").symlink_to("nowhere")
    moves = [("a", "new/deep/a"), ("dir", "other"), ("other/x", "y"), ("link", "moved-link")]
    body = [{"src": str(tmp_path / src), "dest": str(tmp_path / dest)} for src, dest in moves]
    response = execd.http.post("/files/mv", json=body)
    assert (response.status_code, response.content) == (200, b"")
    assert everything_below(tmp_path) == ["execd-0.log", "moved-link", "new", "new/deep", "new/deep/a", "other", "y"]
    assert (tmp_path / "new/deep/a").read_bytes() == b"a"
    assert os.readlink(tmp_path / "moved-link") == "nowhere"


def test_move_refused(execd, tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    (tmp_path / "dir").mkdir()
    move = lambda src, dest: execd.http.post("/files/mv", json=[{"src": str(src), "dest": str(dest)}])  # noqa: E731
    refused(move(tmp_path / "a", tmp_path / "b"), 409, "RUNTIME_ERROR", tmp_path / "a", tmp_path / "b")
    refused(move(tmp_path / "a", tmp_path / "dir"), 409, "RUNTIME_ERROR", tmp_path / "dir")
    refused(move(tmp_path / "missing", tmp_path / "not-made/c"), 404, "FILE_NOT_FOUND", tmp_path / "missing")
    refused(move(tmp_path / "dir", tmp_path / "dir/below"), 400, "INVALID_FILE", tmp_path / "dir/below")
    refused(move(tmp_path / "a", tmp_path / "b/c"), 400, "INVALID_FILE", tmp_path / "b/c")
    assert everything_below(tmp_path) == ["a", "b", "dir", "execd-0.log"]
    assert (tmp_path / "b").read_bytes() == b"b"
    for body in ({}, "x", None, [1], [{}], [{"src": "a"}], [{"dest": "a"}], [{"src": 1, "dest": "b"}], [{"src": "", "dest": "b"}]):
        response = execd.http.post("/files/mv", json=body)
        assert response.status_code == 400, (body, response.text)
    assert execd.http.post("/files/mv", json=[]).status_code == 200


def test_move_to_another_file_system(execd, tmp_path, small_disk):
    path = tmp_path / "f"
    path.write_bytes(b"content")
    path.chmod(0o640)
    os.utime(path, (1000, 2000))
    move = lambda src, dest: execd.http.post("/files/mv", json=[{"src": str(src), "dest": str(dest)}])  # noqa: E731
    assert move(path, small_disk / "g").status_code == 200
    assert not path.exists()
    moved = small_disk / "g"
    assert (moved.read_bytes(), mode_of(moved), moved.stat().st_mtime) == (b"content", 0o640, 2000)
    path.write_bytes(b"x" * 4 * MIB)
    refused(move(path, small_disk / "h"), 507, "RUNTIME_ERROR", small_disk / "h")
    assert path.stat().st_size == 4 * MIB
    assert everything_below(small_disk) == ["g"]
    (tmp_path / "dir").mkdir()
    refused(move(tmp_path / "dir", small_disk / "dir"), 400, "INVALID_FILE", "another file system")


# ---- search ----------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name in ("b.py", "a.py", "src/c.py", "src/deep/er/d.py", "src/e.js", ".hidden/f.py", "src/é.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "link.py").symlink_to("a.py")
    (root / "loop").symlink_to(".")
    return root


@pytest.mark.parametrize(
    "pattern, expected",
    [
        (None, [".hidden/f.py", "a.py", "b.py", "link.py", "loop", "src/c.py", "src/deep/er/d.py", "src/e.js", "src/é.py"]),
        ("", [".hidden/f.py", "a.py", "b.py", "link.py", "loop", "src/c.py", "src/deep/er/d.py", "src/e.js", "src/é.py"]),
        ("*.py", [".hidden/f.py", "a.py", "b.py", "link.py", "src/c.py", "src/deep/er/d.py", "src/é.py"]),
        ("**/*.py", [".hidden/f.py", "a.py", "b.py", "link.py", "src/c.py", "src/deep/er/d.py", "src/é.py"]),
        ("?.py", [".hidden/f.py", "a.py", "b.py", "src/c.py", "src/deep/er/d.py", "src/é.py"]),
        ("src/**/*.py", ["src/c.py", "src/deep/er/d.py", "src/é.py"]),
        ("src/*.{js,ts}", ["src/e.js"]),
        ("[ab].py", ["a.py", "b.py"]),
        ("!(*.py)", ["loop", "src/e.js"]),
        ("nothing*", []),
        ("src", []),
    ],
)
def test_search(execd, tree, pattern, expected):
    query = {"path": str(tree)} | ({} if pattern is None else {"pattern": pattern})
    response = execd.http.get("/files/search", params=query)
    assert response.status_code == 200
    assert [entry["path"] for entry in response.json()] == [str(tree / name) for name in expected]


def test_search_tells_all_about_a_file(execd, tree):
    (entry,) = execd.http.get("/files/search", params={"path": str(tree), "pattern": "e.js"}).json()
    assert entry == execd.http.get("/files/info", params={"path": entry["path"]}).json()[entry["path"]]
    (entry,) = execd.http.get("/files/search", params={"path": str(tree), "pattern": "link.py"}).json()
    assert entry["type"] == "symlink"


def test_search_from_a_link_and_from_a_file(execd, tree):
    found = execd.http.get("/files/search", params={"path": str(tree / "loop"), "pattern": "a.py"}).json()
    assert [entry["path"] for entry in found] == [str(tree / "loop/a.py")]
    found = execd.http.get("/files/search", params={"path": str(tree / "a.py")}).json()
    assert [entry["path"] for entry in found] == [str(tree / "a.py")]
    assert execd.http.get("/files/search", params={"path": str(tree / "a.py"), "pattern": "x"}).json() == []


def test_search_refused(execd, tree):
    search = lambda **query: execd.http.get("/files/search", params=query)  # noqa: E731
    refused(search(), 400, "MISSING_QUERY", "path")
    refused(search(path=""), 400, "MISSING_QUERY", "path")
    refused(search(path=str(tree / "missing")), 404, "FILE_NOT_FOUND", tree / "missing")
    for pattern in ("[", "a{b", "a}", "\\", "[z", "{a,b}" * 20, "x" * 5000):
        refused(search(path=str(tree), pattern=pattern), 400, "INVALID_REQUEST_BODY", "pattern")


def test_search_of_proc_comes_to_an_end(execd):
    """What vanishes and what may not be read is passed over."""
    response = execd.http.get("/files/search", params={"path": "/proc/self/task", "pattern": "status"})
    assert response.status_code == 200
    assert response.json()


# ---- replace ---------------------------------------------------------------------------------


def replace(execd, path, old, new, **query):
    return execd.http.post("/files/replace", params=query, json={str(path): {"old": old, "new": new}})


def test_replace(execd, tmp_path):
    (tmp_path / "a").write_text("one two one\n")
    (tmp_path / "a").chmod(0o4640)
    (tmp_path / "b").write_text("nothing here")
    before = (tmp_path / "b").stat()
    body = {str(tmp_path / "a"): {"old": "one", "new": "1"}, str(tmp_path / "b"): {"old": "one", "new": "1"}}
    response = execd.http.post("/files/replace", json=body, params={"verbose": "true"})
    assert response.status_code == 200
    assert response.json() == {str(tmp_path / "a"): {"replacedCount": 2}, str(tmp_path / "b"): {"replacedCount": 0}}
    assert (tmp_path / "a").read_text() == "1 two 1\n"
    assert mode_of(tmp_path / "a") == 0o4640
    # Where nothing is replaced nothing is written.
    after = (tmp_path / "b").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_replace_is_silent_unless_asked(execd, tmp_path):
    for query in ({}, {"verbose": "false"}):
        (tmp_path / "a").write_text("x")
        response = replace(execd, tmp_path / "a", "x", "y", **query)
        assert (response.status_code, response.content) == (200, b"")
        assert (tmp_path / "a").read_text() == "y"


@pytest.mark.parametrize(
    "text, old, new",
    [("aaaa", "aa", "b"), ("aaa", "aa", "b"), ("x", "x", ""), ("abc", "b", "bbb"), ("\r\n\r\n", "\r\n", "\n"), ("é文", "文", "ü"), ("", "x", "y")],
)  # fmt: skip
def test_replace_as_strings_do(execd, tmp_path, text, old, new):
    (tmp_path / "f").write_bytes(text.encode())
    assert replace(execd, tmp_path / "f", old, new, verbose="true").json() == {
        str(tmp_path / "f"): {"replacedCount": text.count(old)}
    }
    assert (tmp_path / "f").read_bytes() == text.replace(old, new).encode()


@pytest.mark.parametrize("shift", range(-3, 3))
def test_replace_across_the_pieces_of_a_large_file(execd, tmp_path, shift):
    """The file is read in pieces of 256 KiB; what is looked for lies across their seams."""
    content = bytearray(b"." * (5 << 18))
    for seam in range(1, 5):
        at = (seam << 18) + shift
        content[at : at + 4] = b"SEAM"
    (tmp_path / "f").write_bytes(content)
    assert replace(execd, tmp_path / "f", "SEAM", "longer than it", verbose="true").json()[str(tmp_path / "f")] == {
        "replacedCount": 4
    }
    assert (tmp_path / "f").read_bytes() == content.replace(b"SEAM", b"longer than it")


def test_replace_in_bytes_that_are_no_text(execd, tmp_path):
    (tmp_path / "f").write_bytes(b"\xff\x00x\xfe" * 1000)
    assert replace(execd, tmp_path / "f", "x", "yy").status_code == 200
    assert (tmp_path / "f").read_bytes() == b"\xff\x00yy\xfe" * 1000


def test_replace_follows_links_and_keeps_them(execd, tmp_path):
    (tmp_path / "f").write_text("x")
    (tmp_path / "link").symlink_to("f")
    assert replace(execd, tmp_path / "link", "x", "y").status_code == 200
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "f").read_text() == "y"


@ROOT_ONLY
def test_replace_keeps_the_owner(execd, tmp_path):
    (tmp_path / "f").write_text("x")
    os.chown(tmp_path / "f", 1234, 5678)
    assert replace(execd, tmp_path / "f", "x", "y").status_code == 200
    assert ((tmp_path / "f").stat().st_uid, (tmp_path / "f").stat().st_gid) == (1234, 5678)


def test_replace_refused(execd, tmp_path):
    (tmp_path / "a").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    first = {str(tmp_path / "a"): {"old": "x", "new": "y"}}
    bad = {
        "empty": {"old": "", "new": "y"},
        "none": {"new": "y"},
        "number": {"old": 1, "new": "y"},
        "new is a number": {"old": "x", "new": 1},
        "no object": "x",
    }
    for item in bad.values():
        response = execd.http.post("/files/replace", json={**first, str(tmp_path / "b"): item})
        refused(response, 400, "INVALID_REQUEST_BODY", tmp_path / "b")
    assert execd.http.post("/files/replace", json=[]).status_code == 400
    assert (tmp_path / "a").read_text() == "x"
    refused(replace(execd, tmp_path / "missing", "x", "y"), 404, "FILE_NOT_FOUND", tmp_path / "missing")
    refused(replace(execd, tmp_path, "x", "y"), 400, "INVALID_FILE", "directory")
    refused(replace(execd, tmp_path / "fifo", "x", "y"), 400, "INVALID_FILE", "FIFO")


def test_replace_on_a_full_disk_keeps_the_old_file(execd, small_disk):
    (small_disk / "f").write_bytes(b"x" * 600000)
    refused(replace(execd, small_disk / "f", "x", "yy"), 507, "RUNTIME_ERROR", small_disk / "f")
    assert (small_disk / "f").read_bytes() == b"x" * 600000
    assert everything_below(small_disk) == ["f"]


# ---- directories -----------------------------------------------------------------------------


def listing(execd, path, **query):
    return execd.http.get("/directories/list", params={"path": str(path), **query})


def names_listed(execd, root, **query):
    response = listing(execd, root, **query)
    assert response.status_code == 200, response.text
    return [os.path.relpath(entry["path"], root) for entry in response.json()]


def test_list(execd, tree):
    direct = [".hidden", "a.py", "b.py", "link.py", "loop", "src"]
    assert names_listed(execd, tree) == direct
    assert names_listed(execd, tree, depth=1) == direct
    assert names_listed(execd, tree, depth="") == direct
    assert names_listed(execd, tree, depth=0) == []
    assert names_listed(execd, tree, depth=2) == [
        ".hidden", ".hidden/f.py", "a.py", "b.py", "link.py", "loop", "src", "src/c.py", "src/deep", "src/e.js", "src/é.py"
    ]  # fmt: skip
    assert names_listed(execd, tree, depth=2147483647) == [
        ".hidden", ".hidden/f.py", "a.py", "b.py", "link.py", "loop", "src", "src/c.py", "src/deep", "src/deep/er",
        "src/deep/er/d.py", "src/e.js", "src/é.py"
    ]  # fmt: skip
    types = {entry["path"]: entry["type"] for entry in listing(execd, tree).json()}
    assert types[str(tree / "loop")] == "symlink"
    assert types[str(tree / "src")] == "directory"
    assert types[str(tree / "a.py")] == "file"
    assert listing(execd, tree / "src/deep/er/../../..").json() == listing(execd, tree).json()


def test_list_of_the_root(execd):
    paths = [entry["path"] for entry in listing(execd, "/").json()]
    assert "/tmp" in paths and paths == sorted(paths)


def test_list_refused(execd, tree):
    refused(execd.http.get("/directories/list"), 400, "MISSING_QUERY", "path")
    refused(listing(execd, ""), 400, "MISSING_QUERY", "path")
    refused(listing(execd, tree / "missing"), 404, "FILE_NOT_FOUND", tree / "missing")
    refused(listing(execd, tree / "a.py"), 400, "INVALID_REQUEST_BODY", tree / "a.py", "not a directory")
    refused(listing(execd, tree / "loop"), 400, "INVALID_REQUEST_BODY", tree / "loop", "symbolic link")
    for depth in (-1, "x", "1x", "99999999999999999999", "1.5", 2147483648):
        refused(listing(execd, tree, depth=depth), 400, "INVALID_REQUEST_BODY", "depth")


def test_make_directories(execd, tmp_path):
    body = {
        str(tmp_path / "a/b/c"): {"mode": 750},
        str(tmp_path / "d"): {},
        str(tmp_path / "e"): {"mode": 1777, "owner": None},
    }
    response = execd.http.post("/directories", json=body)
    assert (response.status_code, response.content) == (200, b"")
    assert [mode_of(tmp_path / name) for name in ("a/b/c", "a/b", "d", "e")] == [0o750, 0o755, 0o755, 0o1777]
    # One that is there stays as it is, with what it holds.
    (tmp_path / "a/b/c/file").write_bytes(b"")
    assert execd.http.post("/directories", json={str(tmp_path / "a/b/c"): {"mode": 700}}).status_code == 200
    assert mode_of(tmp_path / "a/b/c") == 0o750
    assert (tmp_path / "a/b/c/file").exists()


def test_make_directories_refused(execd, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    make = lambda name, perm: execd.http.post("/directories", json={str(tmp_path / name): perm})  # noqa: E731
    refused(make("file", {"mode": 755}), 400, "INVALID_FILE", tmp_path / "file")
    refused(make("file/below", {"mode": 755}), 400, "INVALID_FILE", tmp_path / "file/below")
    refused(make("x", {"mode": 8}), 400, "INVALID_REQUEST_BODY", "8")
    refused(make("x", {"owner": "nobody-here"}), 400, "INVALID_REQUEST_BODY", "nobody-here")
    for body in ([], "x", None):
        assert execd.http.post("/directories", json=body).status_code == 400
    assert everything_below(tmp_path) == ["execd-0.log", "file"]


def test_remove_directories(execd, tree, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"")
    (tree / "src/out").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "file").write_bytes(b"")
    paths = [tree, tmp_path / "missing", tmp_path / "link", tmp_path / "file"]
    response = execd.http.delete("/directories", params={"path": [str(path) for path in paths]})
    assert (response.status_code, response.content) == (200, b"")
    assert everything_below(tmp_path) == ["execd-0.log", "outside", "outside/kept"]


def test_remove_directories_refused(execd):
    assert execd.http.delete("/directories").status_code == 200  # clients ask so for an empty list
    for path in ("/", "//", "/tmp/.."):
        refused(execd.http.delete("/directories", params={"path": path}), 403, "RUNTIME_ERROR", "root")


# ---- large and deep --------------------------------------------------------------------------


def test_deep_tree(execd, tmp_path):
    """Thousands of levels: paths longer than the kernel takes, more levels than descriptors."""
    depth = 2500
    (tmp_path / "deep").mkdir()
    fd = os.open(tmp_path / "deep", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    os.close(fd)
    paths = [entry["path"] for entry in listing(execd, tmp_path / "deep", depth=100000).json()]
    assert len(paths) == depth + 1
    assert paths[-1] == f"{tmp_path}/deep" + "/d" * depth + "/bottom"
    (found,) = execd.http.get("/files/search", params={"path": str(tmp_path / "deep"), "pattern": "bottom"}).json()
    assert found["path"] == paths[-1]
    assert execd.http.delete("/directories", params={"path": str(tmp_path / "deep")}).status_code == 200
    assert not (tmp_path / "deep").exists()
    assert_small(execd)


ENTRIES = 100_000


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    root = tmp_path_factory.mktemp("wide")
    first = root / "first"
    first.mkdir()
    for i in range(ENTRIES):
        # Links cost no inode; a file takes 65000 of them at most.
        base = first / str(i - i % 50000)
        if i % 50000:
            os.link(base, first / str(i))
        else:
            base.touch()
    return root


def test_wide_directory(execd, wide):
    response = listing(execd, wide / "first")
    assert response.status_code == 200
    assert response.headers["transfer-encoding"] == "chunked"
    names = [entry["path"].rsplit("/", 1)[1] for entry in response.json()]
    assert names == sorted(str(i) for i in range(ENTRIES))
    found = execd.http.get("/files/search", params={"path": str(wide), "pattern": "*99"}).json()
    assert len(found) == ENTRIES // 100
    assert_small(execd)


def test_client_that_vanishes_mid_listing(execd, wide):
    for _ in range(3):
        connection = execd.raw()
        connection.sendall(
            f"GET /directories/list?path={wide}&depth=9 HTTP/1.1\r\nHost: x\r\n"
            f"X-EXECD-ACCESS-TOKEN: {execd.token}\r\n\r\n".encode()
        )
        assert connection.recv(1)
        reset(connection)
    # A worker that is in the middle of a piece ends it first: each of these goes behind it on the same workers.
    for _ in range(50):
        assert names_listed(execd, wide) == ["first"]
        settle(execd)
        if not files_held_open(execd, wide):
            break
    assert not files_held_open(execd, wide)


def test_slow_readers_hold_no_worker(execd, wide):
    """More listings that nobody reads than there are workers: others are served all the same."""
    request = (
        f"GET /directories/list?path={wide}&depth=9 HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {execd.token}\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            connection = stack.enter_context(execd.raw())
            connection.sendall(request)
            assert connection.recv(1)
        assert names_listed(execd, wide) == ["first"]
        assert uploaded(execd, wide / "by-the-way", b"x").read_bytes() == b"x"
        (wide / "by-the-way").unlink()


def test_upload_while_a_tree_is_removed_and_listed(execd, wide, tmp_path):
    """The loop is not held up: answers of others come while the workers are busy."""
    with execd.raw() as connection:
        connection.sendall(
            f"GET /files/search?path=/usr&pattern=no-such-name-* HTTP/1.1\r\nHost: x\r\n"
            f"X-EXECD-ACCESS-TOKEN: {execd.token}\r\n\r\n".encode()
        )
        for i in range(20):
            uploaded(execd, tmp_path / str(i), b"x")
        assert status_of(connection) == 200


# ---- for all of them -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, path",
    [("GET", "/files/info"), ("DELETE", "/files"), ("POST", "/files/permissions"), ("POST", "/files/mv"), ("GET", "/files/search"),
     ("POST", "/files/replace"), ("POST", "/files/upload"), ("GET", "/files/download"), ("GET", "/directories/list"),
     ("POST", "/directories"), ("DELETE", "/directories")],
)  # fmt: skip
def test_token_is_needed(execd, method, path):
    response = execd.client().request(method, path, params={"path": "/tmp"})
    assert response.status_code == 401
    assert set(response.json()) == {"code", "message"}


@pytest.mark.parametrize("path", ["/files/permissions", "/files/mv", "/files/replace", "/directories"])
def test_bodies_that_are_no_json(execd, path):
    for body in (b"", b"{", b'{"a": {}, "a": {}}', b"\xff", b"[" * 1000):
        response = execd.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400, (body, response.text)
        assert response.json()["code"] == "INVALID_REQUEST_BODY"
