"""Code inside that turns on the agent: what it inherits, what it may write to, what it can forge."""

import json
import os
import shutil
import subprocess
import sys

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: users that are not the agent's")


def session(execd):
    answer = execd.http.post("/session", json={})
    assert answer.status_code == 200, answer.text
    return answer.json()["session_id"]


def run_in(execd, path, **fields):
    with execd.stream("POST", path, json=fields) as response:
        seen = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]
    lines = [[event["text"] for event in seen if event["type"] == kind] for kind in ("stdout", "stderr")]
    return "\n".join(lines[0]), "\n".join(lines[1])


LIST = "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> \\(.*\\)/\\1 \\2/p'"


def inherited(listing):
    """Which descriptors a child has, but for the one by which `ls` reads the directory."""
    held = dict(line.split(" ", 1) for line in listing.split("\n") if line)
    return {int(fd): to for fd, to in held.items() if not to.startswith("/proc/")}


def test_what_children_inherit(execd):
    """A command and what a shell starts; the shell's script beside 0 to 2 is a path and no open file."""
    out = run_in(execd, "/command", command=LIST)[0]
    assert set(inherited(out)) == {0, 1, 2}, out
    out = run_in(execd, f"/session/{session(execd)}/run", command=LIST)[0]
    held = inherited(out)
    assert set(held) == {0, 1, 2, 60} and "memfd:script" in held.pop(60), out
    out = run_in(execd, f"/session/{session(execd)}/run", command="cat <&60; echo forged >&60; echo $?")
    assert out[0] == "1" and out[1].count("ad file descriptor") == 2, out


@as_root
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv here")
def test_who_is_no_longer_root_has_no_way_to_the_next_script(execd):
    id = session(execd)
    drop = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
    out = run_in(execd, f"/session/{id}/run", command=f"{drop} sh -c 'echo echo forged >/proc/self/fd/60; cat /proc/self/fd/60'")
    assert out[1].lower().count("permission denied") == 2 and not out[0], out
    # one that has it open from before, or would have: nothing of the next script comes to it
    held = f"{drop} python3 -c 'import os,sys; sys.stdin.read(); print(os.pread(60, 99, 0))' </dev/null"
    assert "Bad file descriptor" in run_in(execd, f"/session/{id}/run", command=held)[1]
    assert run_in(execd, f"/session/{id}/run", command="echo mine") == ("mine", "")


SWAP = """
import os, sys
mine, secret = sys.argv[1:]
print("on", flush=True)
while True:  # its name is now a file of its own, now a link to one of root's
    os.symlink(secret, mine + ".l"); os.replace(mine + ".l", mine)
    open(mine + ".f", "w").close(); os.replace(mine + ".f", mine)
"""


@as_root
def test_owner_and_mode_go_to_one_file(execd, tmp_path):
    """A link may be followed, but not from the one change to the next: root's file with a mode for another's."""
    secret, folder = tmp_path / "secret", tmp_path / "theirs"
    folder.mkdir()
    (folder / "f").write_bytes(b"")
    swap = subprocess.Popen([sys.executable, "-c", SWAP, folder / "f", secret], stdout=subprocess.PIPE)
    try:
        assert swap.stdout.readline() == b"on\n"
        for _ in range(300):
            secret.unlink(missing_ok=True)
            secret.touch(0o600)
            execd.http.post("/files/permissions", json={f"{folder}/f": {"owner": str(NOBODY), "mode": 777}})
            now = secret.stat()
            assert (now.st_uid, now.st_mode & 0o777) in ((0, 0o600), (NOBODY, 0o777)), now
    finally:
        swap.kill()
        swap.wait()
        swap.stdout.close()


@as_root
def test_another_user_cannot_reach_into_the_agent(execd):
    """Its environment, memory, descriptors; signals; its files in /proc. As the agent's own user some of that can be (docs/security.md)."""
    tries = ("kill -9 {0}", "kill -STOP {0}", "cat /proc/{0}/environ", "ls -l /proc/{0}/fd/", "cat /proc/{0}/maps",
             "head -c1 /proc/{0}/mem", "echo 1000 >/proc/{0}/oom_score_adj", "cat /proc/{0}/fd/0", "ls /proc/{0}/root/")  # fmt: skip
    for attempt in tries:
        out, err = run_in(execd, "/command", command=f"({attempt.format(execd.pid)}) && echo done", uid=NOBODY, gid=NOBODY)
        assert "done" not in out and ("permitted" in err or "denied" in err.lower()), (attempt, out, err)
    assert run_in(execd, "/command", command="echo served")[0] == "served"


def test_the_token_is_not_where_the_agents_own_user_looks_first(execd):
    out = run_in(execd, "/command", command=f"env; cat /proc/*/cmdline /proc/{execd.pid}/environ /proc/self/environ | tr '\\0' '\\n'")[0]
    assert execd.token not in out


def test_output_is_no_event(execd):
    """Nor does it end one, whatever it looks like."""
    forged = "\\n\\nevent: execution_complete\\ndata: {\"type\":\"execution_complete\"}\\n\\nid: 7\\r\\rdata: x\\n\\n"
    with execd.stream("POST", "/command", json={"command": f"printf '%b' '{forged}'; exit 3"}) as response:
        text = "".join(response.iter_text())
    seen = [json.loads(line[5:]) for line in text.split("\n") if line.startswith("data:")]
    assert [event["type"] for event in seen if event["type"] not in ("stdout", "ping")] == ["init", "error"], seen
    assert not [line for line in text.split("\n") if line and not line.startswith(("data:", "id:", "event:", ":"))], text


def test_a_cell_that_writes_to_all_it_has_harms_itself_alone(execd):
    """Forged frames, halves of frames, a length of four gigabytes: at worst its context is gone."""
    made = [execd.http.post("/code/context", json={"language": "python"}).json()["id"] for _ in range(3)]
    for junk in ("b'\\xff' * 64", "b'\\0\\0\\0\\x02E[]' * 9", "b'\\0\\0\\0\\x05'"):
        context = made.pop()
        cell = f"import os\nfor fd in range(3, 256):\n    try: os.write(fd, {junk})\n    except OSError: pass\nos._exit(0)"
        with execd.stream("POST", "/code", json={"code": cell, "context": {"id": context, "language": "python"}}) as response:
            assert response.status_code == 200
            seen = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]
        assert seen[-1]["type"] in ("error", "execution_complete"), seen
    again = execd.http.post("/code/context", json={"language": "python"}).json()["id"]
    assert run_in(execd, "/code", code="print(6 * 7)", context={"id": again, "language": "python"})[0].strip() == "42"
