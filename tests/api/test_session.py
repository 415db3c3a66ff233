"""Shell sessions: one living bash each."""

import os
import select
import threading

import pytest

from daemon import events


class Session:
    def __init__(self, agent, **options):
        self.agent = agent
        answer = agent.http.post("/session", json=options) if options else agent.http.post("/session")
        assert answer.status_code == 200, answer.text
        self.id = answer.json()["session_id"]

    def stream(self, command, **fields):
        return self.agent.stream("POST", f"/session/{self.id}/run", json={"command": command, **fields})

    def run(self, command, **fields):
        """(stdout lines, stderr lines, exit code, terminal event)"""
        with self.stream(command, **fields) as response:
            seen = [event for event in events(response) if event["type"] != "ping"]
        assert seen[0]["type"] == "init" and seen[0]["text"] == self.id
        out = [event["text"] for event in seen if event["type"] == "stdout"]
        err = [event["text"] for event in seen if event["type"] == "stderr"]
        last = seen[-1]
        assert last["type"] in ("execution_complete", "error")
        code = 0 if last["type"] == "execution_complete" else int(last["error"]["evalue"])
        return out, err, code, seen

    def out(self, command, **fields):
        return self.run(command, **fields)[0]


@pytest.fixture
def session(execd):
    return Session(execd)


def reason(seen):
    return seen[-1]["end"]["reason"]


def test_the_state_of_the_shell_stays(session):
    session.run("x=5; f() { echo f$x; }; alias q='echo quoted'; set -o pipefail; cd /usr; declare -a a=(1 2)")
    assert session.out("f; q; pwd; echo ${a[1]}; false | true; echo $?") == ["f5", "quoted", "/usr", "2", "1"]


def test_stdout_and_stderr_are_apart_and_the_exit_code_is_the_scripts(session):
    out, err, code, _ = session.run("echo o; echo e >&2; (exit 7)")
    assert (out, err, code) == (["o"], ["e"], 7)
    assert session.run("nosuchprogram")[1:3] == (["bash: nosuchprogram: command not found"], 127)
    out, err, code, _ = session.run("if then")
    assert code == 2 and "syntax error" in err[0]
    assert session.out("echo $-; return 3") and session.run("return 3")[2] == 3


def test_background_jobs_stay_and_do_not_hold_a_run(session):
    assert session.run("sleep 1000 & echo $!")[1] == []
    assert session.out("jobs -r | wc -l") == ["1"]
    assert session.run("kill %1; wait %1")[2] == 143


def test_what_a_job_writes_between_runs_is_in_the_sessions_log(session, execd):
    fifo = session.out("cd $(mktemp -d) && mkfifo go && pwd")[0]
    session.run("{ read < go; echo late; } &")
    with open(f"{fifo}/go", "w") as go:
        go.write("\n")
    with execd.stream("GET", f"/command/{session.id}/stream") as response:
        assert next(e for e in events(response) if e["type"] == "stdout")["text"] == "late"
    session.run(f"rm -r {fifo}")


def test_a_command_reads_no_input_and_sees_no_private_descriptor(session):
    assert session.run("cat; read x; echo $?")[0] == ["1"]
    listed = session.out("for fd in /proc/self/fd/*; do echo ${fd##*/}; done; ls /proc/self/fd")
    child = [int(line) for line in session.out("ls /proc/self/fd")]
    assert not {61, 62, 63} & set(child), listed


def test_runs_of_one_session_wait_for_each_other(session):
    results = {}
    gate = session.out("d=$(mktemp -d); mkfifo $d/go; echo $d")[0]

    def run(n, command):
        results[n] = session.out(command)

    with session.stream(f"echo begun; read < {gate}/go; order=first") as first:
        it = events(first)
        while next(it)["type"] != "stdout":
            pass
        second = threading.Thread(target=run, args=(2, "echo $order"))
        second.start()
        with open(f"{gate}/go", "w") as go:
            go.write("\n")
        second.join(30)
    assert results == {2: ["first"]}


@pytest.mark.parametrize("command", ["sleep 1000; echo no", "while :; do :; done; echo no", "f() { sleep 1000; echo no; }; f; echo no"])
def test_an_interrupt_gives_the_script_up_and_keeps_the_state(execd, session, command):
    session.run("kept=yes")
    with session.stream("echo begun; " + command) as response:
        it = events(response)
        while next(it)["type"] != "stdout":
            pass
        assert execd.http.delete("/command", params={"id": session.id}).status_code == 200
        rest = [e for e in it if e["type"] != "ping"]
    assert [e["type"] for e in rest] == ["error"] and reason(rest) == "interrupted"
    assert session.out("echo $kept") == ["yes"]


def test_a_timeout_ends_the_run_at_once_and_the_session_goes_on(session):
    session.run("kept=yes")
    _, _, code, seen = session.run("sleep 1000; echo no", timeout=100)
    assert code != 0 and reason(seen) == "timeout"
    assert session.out("echo $kept") == ["yes"]


def test_a_script_that_heeds_no_signal_is_killed(session):
    _, _, _, seen = session.run("trap '' INT TERM; while :; do :; done", timeout=100)
    assert reason(seen) == "timeout"
    out, _, _, seen = session.run("echo again")
    assert out == ["again"] and any(e["type"] == "status" and "signal 9" in e["text"] for e in seen)


def test_a_shell_that_ends_is_said_to_have_and_replaced(session):
    out, _, code, seen = session.run("cd /usr; echo bye; exit 3")
    assert (out, code, reason(seen)) == (["bye"], 3, "exited")
    out, _, _, seen = session.run("pwd")
    assert out == ["/usr"] or out  # the directory of the last report
    assert [e["text"] for e in seen if e["type"] == "status"] == [
        "the session's shell had ended (exit code 3); this is a new one in the same directory"
    ]
    _, _, _, seen = session.run("kill -9 $$")
    assert reason(seen) == "signalled" and seen[-1]["end"]["signal"] == "SIGKILL"
    assert session.run("true")[2] == 0


def test_cwd_at_creation_and_per_run(execd, tmp_path):
    odd = tmp_path / "it's a dir"
    odd.mkdir()
    session = Session(execd, cwd="/usr")
    assert session.out("pwd") == ["/usr"]
    assert session.out("pwd", cwd=str(odd)) == [str(odd)]
    assert session.out("pwd") == [str(odd)]
    for body in ({"cwd": "/no/such"}, {"cwd": 5}, {"cwd": "/etc/passwd"}):
        assert execd.http.post("/session", json=body).status_code == 400


def test_environments(execd):
    session = Session(execd, envs={"A": "1"})
    assert session.out("echo $A ${EXECD_ACCESS_TOKEN:-none}") == ["1 none"]


def test_much_output_arrives_whole(session):
    out, _, code, _ = session.run("seq 1 200000")
    assert code == 0 and out == [str(n) for n in range(1, 200001)]


def test_a_client_that_leaves_does_not_end_the_run(session, tmp_path):
    with session.stream(f"echo begun; echo done > {tmp_path}/mark") as response:
        it = events(response)
        next(it)
    assert session.out(f"cat {tmp_path}/mark") == ["done"]


def test_delete_ends_everything_in_it(execd, session):
    pid = int(session.out("setsid sleep 1000 & echo $!")[0])
    pidfd = os.pidfd_open(pid)
    with session.stream("echo begun; sleep 1000") as response:
        it = events(response)
        while next(it)["type"] != "stdout":
            pass
        assert execd.http.delete(f"/session/{session.id}").status_code == 200
        rest = [e for e in it if e["type"] != "ping"]
    assert reason(rest) == "cancelled"
    assert select.select([pidfd], [], [], 10)[0], "a process of the session outlived it"
    os.close(pidfd)
    assert execd.http.delete(f"/session/{session.id}").status_code == 404
    assert execd.http.post(f"/session/{session.id}/run", json={"command": "true"}).status_code == 404


def test_bad_requests(execd, session):
    run = f"/session/{session.id}/run"
    for body in ({}, {"command": ""}, {"command": 5}, {"command": "x", "timeout": -1}, {"command": "x", "cwd": "/no/such"}, []):
        answer = execd.http.post(run, json=body)
        assert answer.status_code == 400, body
        assert answer.json()["code"] == "INVALID_REQUEST_BODY"
    assert execd.http.post("/session/none/run", json={"command": "true"}).status_code == 404
    assert execd.http.delete("/session/none").json()["code"] == "CONTEXT_NOT_FOUND"


def test_sessions_are_listed_and_limited(execd):
    ids = [Session(execd).id for _ in range(3)]
    assert [s["session_id"] for s in execd.http.get("/session").json()] == ids
    # Without bash there is a reason given.
    assert execd.http.post("/session", json={"envs": {"PATH": "/nowhere"}}).status_code == 501
