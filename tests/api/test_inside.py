"""Code inside that turns on the agent: what it inherits, what it may write to, what it can forge."""

import json
import os
import shutil

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
