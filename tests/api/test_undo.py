"""Going back: sessions to before a run, and what stands in the way of it."""

import os
import threading

import httpx

import pytest

from layers import call, create, good, run, text, tree, workspace  # noqa: F401


def runs(execd, session):
    """The first run of each point."""
    return [point["run_id"] for point in good(call(execd, "GET", session, "undo"))["points"]]


def undo(execd, session, **body):
    return call(execd, "POST", session, "undo", json=body)


def look(execd, session, workspace):
    """The session's own view, as one text."""
    script = f"cd {workspace} && find . -printf '%P %y %m %s %T@\\n' | sort; find . -type f -exec md5sum {{}} + | sort"
    return text(run(execd, session, script))


def test_back_to_before_a_run(execd, workspace):
    (workspace / "a").write_text("1\n")
    session = create(execd, workspace, undoable=True)
    run(execd, session, "export KEPT=yes; echo 2 >a; mkdir d; echo x >d/x")
    run(execd, session, "rm -r d; echo 3 >a; echo new >new")
    told = good(call(execd, "GET", session, "undo"))
    assert told["undoable"] and len(told["points"]) == 2
    assert all(point["bytes"] > 0 and point["entries"] > 0 for point in told["points"])
    # The shell stays from run to run.
    assert text(run(execd, session, "echo $KEPT; cat a")).replace("\n", "") == "yes3"
    second = runs(execd, session)[1]
    changed = good(call(execd, "GET", session, "changes", params={"run": second}))["changes"]
    assert [(c["path"], c["change"]) for c in changed] == [("a", "modified"), ("d", "deleted"), ("new", "added")]
    assert good(undo(execd, session, run_id=second)) == {"runs_undone": 2, "points": 1}
    assert text(run(execd, session, "cat a d/x; test ! -e new")).replace("\n", "") == "2x"
    assert (workspace / "a").read_text() == "1\n"
    assert good(undo(execd, session, run_id=runs(execd, session)[0]))["points"] == 0
    assert text(run(execd, session, "cat a; ls")).replace("\n", "") == "1a"


def test_every_state_comes_back(execd, workspace):
    """Random operations in each of six runs; then back to before each of them, from the last on."""
    from test_layer import operations

    session = create(execd, workspace, undoable=True)
    states, ids = [], []
    for seed in range(6):
        states.append(look(execd, session, workspace))
        run(execd, session, operations(seed, 60))
        ids.append(runs(execd, session)[-1])
    for state, run_id in reversed(list(zip(states, ids))):
        good(undo(execd, session, run_id=run_id))
        assert look(execd, session, workspace) == state
        good(undo(execd, session))  # of the looking itself
    assert os.listdir(workspace) == []


def test_the_oldest_points_become_one(execd, workspace):
    session = create(execd, workspace, undoable=True, undo_points_max=3)
    for n in range(8):
        run(execd, session, f"echo {n} >f; echo {n} >only{n}; rm -f only{n - 2}")
    told = good(call(execd, "GET", session, "undo"))
    assert len(told["points"]) == 3 and len(told["points"][0]["run_ids"]) == 6
    # One of the middle cannot be undone without those before it.
    response = undo(execd, session, run_id=told["points"][0]["run_ids"][3])
    assert response.status_code == 409 and told["points"][0]["run_id"] in response.json()["message"]
    good(undo(execd, session, run_id=told["points"][2]["run_id"]))
    assert text(run(execd, session, "cat f; ls")).replace("\n", "") == "6fonly5only6"
    good(undo(execd, session, run_id=told["points"][0]["run_id"]))
    assert text(run(execd, session, "ls")) == ""


def test_processes_that_live_across_runs(execd, workspace):
    """A run beside a process that was left behind shares the point of the run before it."""
    session = create(execd, workspace, undoable=True)
    run(execd, session, "echo 1 >f; mkfifo gate; (read <gate) >/dev/null 2>&1 </dev/null & disown")
    run(execd, session, "echo 2 >f")
    points = good(call(execd, "GET", session, "undo"))["points"]
    assert len(points) == 1 and len(points[0]["run_ids"]) == 2
    response = undo(execd, session, run_id=points[0]["run_ids"][1])
    assert response.status_code == 409 and points[0]["run_ids"][0] in response.json()["message"]
    assert good(undo(execd, session))["runs_undone"] == 2
    assert text(run(execd, session, "ls")) == ""  # and the process is gone with what it stood in


def test_a_file_that_the_shell_keeps_open(execd, workspace):
    """Through it later runs write to the layer of the one that has opened it: they share its point."""
    session = create(execd, workspace, undoable=True)
    run(execd, session, "exec 9>>f; echo 1 >&9")
    run(execd, session, "echo 2 >&9; exec 9>&-")
    run(execd, session, "echo 3 >>f")
    assert [len(point["run_ids"]) for point in good(call(execd, "GET", session, "undo"))["points"]] == [2, 1]
    good(undo(execd, session))
    assert text(run(execd, session, "cat f")).replace("\n", "") == "12"
    good(undo(execd, session))
    assert good(undo(execd, session))["runs_undone"] == 2
    assert text(run(execd, session, "ls")) == ""


def test_a_shell_that_does_not_go_along(execd, workspace):
    """One that stays where it was, in the mount that is no longer there, writes nothing any more."""
    session = create(execd, workspace, undoable=True)
    stay = 'builtin() { [ "$1" = cd ] || command builtin "$@"; }; cd() { :; }'
    run(execd, session, f"echo 1 >f; {stay}")
    run(execd, session, "echo 2 >f", ok=False)
    second = runs(execd, session)[-1]
    good(undo(execd, session, run_id=second))
    assert text(run(execd, session, f"cat {workspace}/f")).strip() == "1"


def test_runs_begin_where_only_the_session_has_a_directory(execd, workspace):
    for undoable in (True, False):
        session = create(execd, workspace, undoable=undoable)
        run(execd, session, "mkdir only; cd only; echo 1 >f")
        assert text(run(execd, session, "echo $PWD:$(cat f); cd ..")).strip() == f"{workspace}/only:1"
        assert text(run(execd, session, "pwd", cwd=f"{workspace}/only")).strip() == f"{workspace}/only"
        told = run(execd, session, "echo not here", cwd="/no/such", ok=False)
        assert told[-1]["type"] == "error" and "/no/such" in str(told) and "not here" not in text(told)
        # One that is gone, by its own hand or by an undo.
        run(execd, session, "mkdir gone; cd gone; rmdir ../gone")
        assert text(run(execd, session, "cd /; pwd")).strip() == "/"
    session = create(execd, workspace, undoable=True)
    run(execd, session, "mkdir gone; cd gone")
    good(undo(execd, session))
    assert text(run(execd, session, "cd /; pwd")).strip() == "/"


def test_runs_that_never_begin_and_their_points(execd, workspace):
    """Two that fail while the first one's point is still being made; what was asked for is told all the same."""
    session = create(execd, workspace, undoable=True)
    run(execd, session, "echo 1 >f")
    for _ in range(20):
        for _ in range(3):
            response = execd.http.post(f"/v1/isolated/session/{session}/run", json={"code": ":", "envs": {"A=B": ""}})
            assert response.status_code == 400
        response = undo(execd, session, run_id="")
        assert response.status_code in (200, 409), response.text
        run(execd, session, "echo 2 >>f")
        assert undo(execd, session).status_code == 200


def test_points_beside_listings(execd, workspace):
    session = create(execd, workspace, undoable=True)
    seen, over = [], threading.Event()

    def look_on():
        with httpx.Client(base_url=execd.http.base_url, headers=execd.http.headers, timeout=60) as http:
            while not over.is_set():
                seen.append(http.get(f"/v1/isolated/session/{session}/undo"))

    threads = [threading.Thread(target=look_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(30):
        run(execd, session, f"echo {n} >f")
    over.set()
    for thread in threads:
        thread.join()
    assert {response.status_code for response in seen} <= {200, 409}, [r.text for r in seen if r.status_code > 409]
    assert len(good(call(execd, "GET", session, "undo"))["points"]) == 30


def test_not_while_a_run_is_on(execd, workspace):
    session = create(execd, workspace, undoable=True)
    response = execd.http.post(
        f"/v1/isolated/session/{session}/run", json={"code": "mkfifo p; read <p", "background": True}
    )
    assert response.status_code == 202
    assert undo(execd, session).status_code == 409


def test_what_cannot_be_undone(execd, workspace):
    session = create(execd, workspace)
    run(execd, session, "echo 1 >f")
    response = undo(execd, session)
    assert response.status_code == 409 and response.json()["code"] == "NOT_UNDOABLE"
    body = {"workspace": {"path": str(workspace), "mode": "rw"}, "undoable": True}
    response = execd.http.post("/v1/isolated/session", json=body)
    assert response.status_code == 400 and "undoable" in response.json()["message"]
    session = create(execd, workspace, undoable=True)
    assert undo(execd, session).status_code == 409  # nothing yet
    assert undo(execd, session, run_id="0" * 32).status_code in (404, 409)
    run(execd, session, "echo 1 >g")
    assert undo(execd, session, run_id="0" * 32).status_code == 404
    good(call(execd, "POST", session, "commit"))
    response = undo(execd, session)
    assert response.status_code == 409 and "committed" in response.json()["message"]
    run(execd, session, "echo 2 >g; rm -f f")
    assert good(undo(execd, session))["runs_undone"] == 1
    assert text(run(execd, session, "cat g")).strip() == "1"


def test_two_overlays_go_back_together(execd, workspace):
    one, two = workspace / "one", workspace / "two"
    one.mkdir()
    two.mkdir()
    overlays = [{"path": str(one), "mode": "overlay"}, {"path": str(two), "mode": "overlay", "persist": False}]
    session = create(execd, one, workspace=None, overlays=overlays, undoable=True)
    run(execd, session, f"echo 1 >{one}/f; echo 1 >{two}/f")
    run(execd, session, f"echo 2 >{one}/f; echo 2 >{two}/f")
    changed = good(call(execd, "GET", session, "changes", params={"workspace": str(two)}))
    assert [c["path"] for c in changed["changes"]] == ["f"]
    good(undo(execd, session))
    assert text(run(execd, session, f"cat {one}/f {two}/f")).replace("\n", "") == "11"
    assert call(execd, "GET", session, "changes", params={"workspace": "/nowhere"}).status_code == 404


def test_a_limit_on_size(execd, workspace):
    """In memory the kernel holds it; on disk a run may pass it, and the next one is refused until that is undone."""
    spec = {"path": str(workspace), "mode": "overlay", "persist": False, "size_bytes": 1 << 20}
    session = create(execd, workspace, workspace=None, overlays=[spec])
    told = run(execd, session, "head -c 2000000 /dev/zero >big", ok=False)
    assert "No space left" in "".join(event.get("text", "") for event in told)
    spec["persist"] = True
    session = create(execd, workspace, workspace=None, overlays=[spec], undoable=True)
    run(execd, session, "echo fine >small")
    run(execd, session, "head -c 2000000 /dev/zero >big")
    response = execd.http.post(f"/v1/isolated/session/{session}/run", json={"code": "true"})
    if response.status_code == 200:  # it came before the measuring was over, and waited for that
        response = execd.http.post(f"/v1/isolated/session/{session}/run", json={"code": "true"})
    assert response.status_code == 413 and "size_bytes" in response.json()["message"]
    good(undo(execd, session, run_id=runs(execd, session)[1]))
    assert text(run(execd, session, "ls")).strip() == "small"


def test_a_session_that_has_gone_takes_its_work_along(execd, workspace):
    session = create(execd, workspace, undoable=True)
    run(execd, session, "echo 1 >f")
    run(execd, session, "echo 2 >f")
    assert execd.http.delete(f"/v1/isolated/session/{session}").status_code == 204
    assert undo(execd, session).status_code == 404


# ---- single commands -----------------------------------------------------------------


def command(execd, workspace, code, **fields):
    """An undoable command, run to its end; its id."""
    told = execd.run(code, cwd=str(workspace), undoable=True, **fields)
    if told[-1]["type"] == "error" and "namespace" in str(told):
        pytest.skip(f"no rooms here: {told}")
    return told[0]["text"], told


def test_a_command_is_taken_back(execd, workspace):
    (workspace / "d").mkdir()
    (workspace / "d" / "x").write_text("x")
    (workspace / "a").write_text("1")
    os.symlink("a", workspace / "l")
    before = tree(workspace)
    command_id, told = command(execd, workspace, "echo 2 >a; rm -r d l; mkdir new; echo n >new/n; echo done")
    assert told[-1]["type"] == "execution_complete", told
    # Whoever has seen the end sees the files.
    assert (workspace / "a").read_text() == "2\n" and (workspace / "new" / "n").exists()
    assert not (workspace / "d").exists()
    shown = execd.http.get(f"/command/{command_id}/changes").json()
    assert shown["state"] == "merged" and shown["root"] == str(workspace) and shown["bytes_kept"] > 0
    assert {c["path"]: c["change"] for c in shown["changed"]["changes"]} == {
        "a": "modified", "d": "deleted", "l": "deleted", "new": "added", "new/n": "added"
    }  # fmt: skip
    assert [c["id"] for c in execd.http.get("/undo").json()["commands"]] == [command_id]
    assert execd.http.post(f"/command/{command_id}/undo").status_code == 200
    assert tree(workspace) == before
    assert execd.http.post(f"/command/{command_id}/undo").status_code == 409
    assert execd.http.get(f"/command/{command_id}/changes").json()["state"] == "undone"


def test_commands_are_taken_back_one_after_the_other(execd, workspace):
    from test_layer import operations

    states, ids = [], []
    for seed in range(4):
        states.append(tree(workspace))
        ids.append(command(execd, workspace, operations(seed, 60))[0])
    for state, command_id in reversed(list(zip(states, ids))):
        response = execd.http.post(f"/command/{command_id}/undo")
        assert response.status_code == 200, response.text
        assert tree(workspace) == state


def test_a_command_that_others_have_gone_on_from(execd, workspace):
    (workspace / "a").write_text("1")
    command_id, _ = command(execd, workspace, "echo 2 >a")
    (workspace / "a").write_text("3")
    response = execd.http.post(f"/command/{command_id}/undo")
    assert response.status_code == 409 and response.json()["code"] == "COMMIT_CONFLICT"
    assert (workspace / "a").read_text() == "3"
    assert execd.http.post(f"/command/{command_id}/undo", json={"force": True}).status_code == 200
    assert (workspace / "a").read_text() == "1"


def test_an_undoable_command_leaves_nothing_elsewhere(execd, workspace):
    """What could not be taken back cannot be done; what it leaves running ends with it."""
    outside = workspace.with_name(workspace.name + "-outside")
    try:
        command_id, told = command(
            execd, workspace, f"touch {outside} || echo refused; mkfifo p; (read <p; touch late) >/dev/null 2>&1 & exit 3"
        )
        assert any("refused" in event.get("text", "") for event in told)
        assert told[-1]["type"] == "error" and told[-1]["error"]["evalue"] == "3", told
        assert not outside.exists() and os.listdir(workspace) == ["p"]
        assert execd.http.get(f"/command/{command_id}/changes").json()["state"] == "merged"
    finally:
        outside.unlink(missing_ok=True)


def test_what_an_undoable_command_needs(execd, workspace):
    for body in [{}, {"undo_root": "/"}, {"undo_root": "/proc"}, {"undo_root": "/nowhere/at/all"}]:
        response = execd.http.post("/command", json={"command": "true", "undoable": True, **body})
        assert response.status_code in (400, 501) and "undo" in response.text or "nowhere" in response.text
    assert execd.http.post("/command/nothing/undo").status_code == 404
    assert execd.http.get("/command/nothing/changes").status_code == 404
    told = execd.run("echo 1 >f", undoable=True, undo_root=str(workspace))
    assert told[-1]["type"] == "execution_complete" and (workspace / "f").exists()
