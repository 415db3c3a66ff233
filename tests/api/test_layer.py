"""diff, changes and commit of isolated sessions, with workspaces that nobody would want to have."""

import base64
import io
import os
import shutil
import subprocess
import tarfile
import threading

import pytest

from layers import apply_diff, call, create, good, run, text, tree, workspace  # noqa: F401


def changes(execd, session, **params):
    return {c["path"]: c["change"] for c in good(call(execd, "GET", session, "changes", params=params))["changes"]}


def test_changes_are_told_with_sizes(execd, workspace):
    (workspace / "keep").write_text("1")
    (workspace / "grow").write_text("12345")
    (workspace / "gone").mkdir()
    (workspace / "gone" / "x").write_text("x")
    session = create(execd, workspace)
    run(execd, session, "echo more >>grow; rm -r gone; mkdir new; printf 123 >new/file; chmod 600 keep")
    told = good(call(execd, "GET", session, "changes"))
    by_path = {change.pop("path"): change for change in told["changes"]}
    assert by_path["grow"] | {"mode": 0} == {
        "change": "modified", "type": "file", "size": 10, "mode": 0, "type_before": "file", "size_before": 5
    }  # fmt: skip
    assert {path: change["change"] for path, change in by_path.items()} == {
        "gone": "deleted", "grow": "modified", "keep": "metadata", "new": "added", "new/file": "added"
    }  # fmt: skip
    assert told["summary"] == {"added": 2, "modified": 1, "metadata": 1, "deleted": 1, "bytes": 13}
    # In pieces.
    first = good(call(execd, "GET", session, "changes", params={"limit": 2}))
    rest = good(call(execd, "GET", session, "changes", params={"after": first["next"]}))
    assert [c["path"] for c in first["changes"] + rest["changes"]] == sorted(by_path)
    assert "next" not in rest and rest["summary"] == told["summary"]


def test_the_diff_is_an_oci_layer(execd, workspace):
    (workspace / "old").mkdir()
    (workspace / "old" / "x").write_text("x")
    (workspace / "file").write_text("f")
    session = create(execd, workspace)
    run(execd, session, "rm -r old file; mkdir old; echo y >old/y; ln -s /etc link; mkfifo pipe; echo h >h; ln h h2")
    response = call(execd, "GET", session, "diff", params={"format": "tar"})
    assert response.headers["content-type"] == "application/vnd.oci.image.layer.v1.tar"
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        members = {member.name: member for member in archive.getmembers()}
    assert set(members) == {".", ".wh.file", "h", "h2", "link", "old", "old/.wh..wh..opq", "old/y", "pipe"}
    assert members["h2"].islnk() and members["pipe"].isfifo() and members["link"].linkname == "/etc"
    compressed = call(execd, "GET", session, "diff").content
    assert compressed[:2] == b"\x1f\x8b"
    with tarfile.open(fileobj=io.BytesIO(compressed), mode="r:gz") as archive:
        assert {member.name for member in archive} == set(members)
    assert call(execd, "GET", session, "diff", params={"format": "zip"}).status_code == 400


def test_a_diff_over_its_limit_is_an_error_and_no_beginning(execd, workspace):
    session = create(execd, workspace)
    run(execd, session, "truncate -s 1T huge")
    response = call(execd, "GET", session, "diff")
    assert response.status_code == 413 and "huge" not in response.text
    assert call(execd, "GET", session, "diff", params={"max_bytes": 1000}).status_code == 413
    assert good(call(execd, "POST", session, "commit"))["bytes"] == 0  # a hole is no bytes
    assert (workspace / "huge").stat().st_size == 1 << 40 and (workspace / "huge").stat().st_blocks < 100


def test_a_name_that_would_be_a_deletion_elsewhere(execd, workspace):
    session = create(execd, workspace)
    run(execd, session, "mkdir d; touch d/.wh.passwd")
    response = call(execd, "GET", session, "diff")
    assert response.status_code == 409 and "d/.wh.passwd" in response.json()["message"]
    good(call(execd, "POST", session, "commit"))
    assert (workspace / "d" / ".wh.passwd").exists()


def test_names_of_any_bytes(execd, workspace):
    (workspace / "gone\nline").write_text("x")
    session = create(execd, workspace)
    run(execd, session, r"rm $'gone\nline'; echo 1 >$'new\nline'; echo 2 >$'\xff\xfe'; echo 3 >'-rf *'; echo 4 >' '")
    told = good(call(execd, "GET", session, "changes"))["changes"]
    assert [c["path_encoded"] for c in told if "path_encoded" in c] == ["%FF%FE"]
    copy = workspace.with_name(workspace.name + "-copy")
    shutil.copytree(workspace, copy, symlinks=True)
    try:
        apply_diff(call(execd, "GET", session, "diff").content, copy)
        good(call(execd, "POST", session, "commit"))
        assert sorted(os.listdir(os.fsencode(workspace))) == [b" ", b"-rf *", b"new\nline", b"\xff\xfe"]
        assert tree(copy, seconds=True) == tree(workspace, seconds=True)
    finally:
        shutil.rmtree(copy)


def test_a_conflict_is_told_and_can_be_overridden(execd, workspace):
    (workspace / "a").write_text("1")
    (workspace / "b").write_text("1")
    session = create(execd, workspace)
    run(execd, session, "echo session >a; rm b; echo session >c")
    # The session has run a process meanwhile: what is written now is later for every clock.
    (workspace / "a").write_text("someone else")
    (workspace / "c").write_text("someone else")
    response = call(execd, "POST", session, "commit")
    assert response.status_code == 409 and response.json()["code"] == "COMMIT_CONFLICT", response.text
    assert "'a'" in response.json()["message"] and "2 paths" in response.json()["message"]
    assert (workspace / "b").exists()
    # What does not conflict can be had.
    assert good(call(execd, "POST", session, "commit", json={"paths": ["b"]}))["deleted"] == 1
    assert good(call(execd, "POST", session, "commit", json={"force": True}))["modified"] == 2
    assert (workspace / "a").read_text() == (workspace / "c").read_text() == "session\n"
    # And once more it is all there.
    again = good(call(execd, "POST", session, "commit"))
    assert again["modified"] == again["added"] == again["deleted"] == 0


@pytest.mark.parametrize("path", ["../x", "/etc", "a//b", "a/./b", "", "a/.."])
def test_a_selection_stays_inside(execd, workspace, path):
    session = create(execd, workspace)
    response = call(execd, "POST", session, "commit", json={"paths": [path]})
    assert response.status_code == 400 and "paths" in response.json()["message"]


def test_types_that_change_and_change_back(execd, workspace):
    (workspace / "dir").mkdir()
    (workspace / "dir" / "x").write_text("x")
    (workspace / "file").write_text("f")
    session = create(execd, workspace)
    run(execd, session, "rm -r dir; echo now >dir; rm file; mkdir file; echo in >file/in")
    good(call(execd, "POST", session, "commit"))
    assert (workspace / "dir").read_text() == "now\n" and (workspace / "file" / "in").read_text() == "in\n"
    run(execd, session, "rm dir; mkdir dir; echo back >dir/x; rm -r file; echo f >file")
    good(call(execd, "POST", session, "commit"))
    assert (workspace / "dir" / "x").read_text() == "back\n" and (workspace / "file").read_text() == "f\n"
    assert sorted(os.listdir(workspace)) == ["dir", "file"]


def test_what_is_no_overlay(execd, workspace):
    session = create(execd, workspace, workspace={"path": str(workspace), "mode": "rw"})
    for method, what in [("GET", "diff"), ("GET", "changes"), ("POST", "commit")]:
        response = call(execd, method, session, what)
        assert response.status_code == 409 and response.json()["code"] == "NOT_AN_OVERLAY"
    assert call(execd, "GET", "00000000-0000-0000-0000-000000000000", "diff").status_code == 404


def test_not_while_a_run_is_on(execd, workspace):
    session = create(execd, workspace)
    body = {"code": "mkfifo p; read <p", "background": True}
    assert execd.http.post(f"/v1/isolated/session/{session}/run", json=body).status_code == 202
    assert call(execd, "POST", session, "commit").status_code == 409
    assert call(execd, "GET", session, "diff").status_code == 200


def test_symlink_races_lead_nowhere(execd, workspace):
    """Another process swaps a directory of the workspace for a link to outside while commits run."""
    outside = workspace.with_name(workspace.name + "-outside")
    outside.mkdir()
    (workspace / "d").mkdir()
    os.symlink(outside, workspace / "l")
    session = create(execd, workspace)
    run(execd, session, "for i in $(seq 300); do echo evil >d/$i; done")
    stop = threading.Event()

    def swap():
        here = os.open(workspace, os.O_RDONLY)
        while not stop.is_set():
            for a, b in [("d", "t"), ("l", "d"), ("t", "l")]:
                try:
                    os.rename(a, b, src_dir_fd=here, dst_dir_fd=here)
                except OSError:
                    pass
        os.close(here)

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        for _ in range(10):
            call(execd, "POST", session, "commit", json={"force": True})  # it may fail, but not there
            assert os.listdir(outside) == []
    finally:
        stop.set()
        racer.join()
        shutil.rmtree(outside)


def test_deep_and_wide(execd, workspace):
    """Deeper than a path may be long, and wide: told, streamed and merged."""
    session = create(execd, workspace)
    script = """
import os
os.mkdir("wide")
for i in range(3000):
    os.mknod(f"wide/{i}")
for i in range(300):
    os.mkdir("deeperanddeeper")
    os.chdir("deeperanddeeper")
open("bottom", "w").close()
"""
    run(execd, session, f"python3 - <<'PYTHON'\n{script}\nPYTHON")
    summary = good(call(execd, "GET", session, "changes", params={"limit": 1}))["summary"]
    assert summary["added"] == 300 + 1 + 1 + 3000
    with execd.stream("GET", f"/v1/isolated/session/{session}/diff", params={"format": "tar"}) as response:
        size = sum(len(chunk) for chunk in response.iter_bytes())
    assert size > 3000 * 512
    result = good(call(execd, "POST", session, "commit", timeout=300))
    assert result["added"] == 3001 and result["directories"] == 301
    assert len(os.listdir(workspace / "wide")) == 3000
    subprocess.run(["rm", "-rf", workspace / "deeperanddeeper"], check=True)


OPERATIONS = r"""
import os, random, shutil, stat
r = random.Random(SEED)
names = ["a", "b", "c", "new\nline", "\udcff\udcfe", " ", "-x", "d"]
def any_path():
    return "/".join(r.choice(names) for _ in range(r.randint(1, 3)))
def operate():
    a, b, what = any_path(), any_path(), r.randrange(13)
    if what < 3:
        with open(a, "r+" if os.path.isfile(a) else "x") as file: file.write(str(r.random()))
    elif what < 5: os.mkdir(a)
    elif what == 5: os.unlink(a)
    elif what == 6: shutil.rmtree(a)
    elif what < 9: os.rename(a, b)
    elif what == 9: os.symlink("some/where", a)
    elif what == 10: os.chmod(a, 0o700 | r.randrange(64), follow_symlinks=os.path.islink(a) is False)
    elif what == 11: os.utime(a, ns=(0, r.randrange(10**18)), follow_symlinks=False)
    else:
        shutil.rmtree(a); os.mkdir(a)
for _ in range(COUNT):
    try: operate()
    except (OSError, NotImplementedError): pass
"""


def operations(seed, count=150):
    code = OPERATIONS.replace("SEED", str(seed)).replace("COUNT", str(count))
    return f"python3 - <<'PYTHON'\n{code}\nPYTHON"


@pytest.mark.parametrize("seed", range(4))
def test_diff_commit_and_the_session_agree(execd, workspace, seed):
    """Random operations: the session's own view, the diff applied by plain tools and the commit are one tree."""
    before = workspace.with_name(workspace.name + "-before")
    subprocess.run(["sh", "-c", operations(seed)], cwd=workspace, check=True)
    subprocess.run(["cp", "-a", workspace, before], check=True)
    try:
        session = create(execd, workspace)
        for n in range(2):
            run(execd, session, operations(100 * seed + n))
        run(execd, session, f"tar -C {workspace} --numeric-owner -cf /tmp/all.tar . && base64 -w0 /tmp/all.tar >/tmp/all")
        seen = base64.b64decode(text(run(execd, session, "cat /tmp/all")))
        view = before.with_name(before.name + "-view")
        view.mkdir()
        apply_diff(seen, view)
        expected = tree(view, seconds=True)
        shutil.rmtree(view)
        apply_diff(call(execd, "GET", session, "diff").content, before)
        good(call(execd, "POST", session, "commit"))
        assert tree(workspace, seconds=True) == expected
        assert tree(before, seconds=True) == expected
    finally:
        shutil.rmtree(before, ignore_errors=True)
