"""Bash cells: the living shell of the sessions, as a context."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from code_cells import Cell, Context, create, fork, gate, hold, release, stop, wait_for_end
from daemon import events


@pytest.fixture
def bash(execd):
    return create(execd, "bash")


def test_state_stays(bash, tmp_path):
    assert bash.run("x=41; declare -A map=([k]=v); f() { echo \"f $1\"; }; alias hi='echo hello'; set -u").out == []
    assert bash.run("echo $((x + 1)) ${map[k]}; f a; hi").out == ["42 v", "f a", "hello"]
    bash.run(f"cd {tmp_path}; export E=1")
    assert bash.run("pwd; env | grep ^E=").out == [str(tmp_path), "E=1"]
    assert bash.run("echo $-").out[0].count("u") == 1


def test_streams_and_order(bash):
    cell = bash.run("echo out; echo err >&2; printf 'part '; echo line")
    assert cell.out == ["out", "part line"] and cell.err == ["err"] and cell.results == []
    assert [bash.run("true").count, bash.run("true").count] == [2, 3]


def test_a_status_that_is_not_zero_is_an_error(bash):
    cell = bash.run("echo before; (exit 3)")
    assert cell.out == ["before"]
    assert (cell.error["ename"], cell.error["evalue"], cell.error["traceback"]) == ("CommandExecError", "3", ["exit status 3"])
    assert bash.run("if then").error["ename"] == "CommandExecError"
    assert bash.run("echo lives").out == ["lives"]


def test_jobs_survive_between_cells(bash, tmp_path):
    fifo = gate(tmp_path)
    bash.run(f"{{ read -r _ <{fifo}; echo from the job; }} & job=$!")
    release(fifo)
    cell = bash.run("wait $job; echo over")
    assert sorted(cell.out) == ["from the job", "over"]


@pytest.mark.parametrize("wait", ["while :; do :; done", "sleep 1000", "read -r _ < <(sleep 1000)"])
def test_interrupt(bash, wait):
    bash.run("kept=1")
    with bash.stream("echo begun\n" + wait) as response:
        stream = events(response)
        while next(stream)["type"] != "stdout":
            pass
        bash.interrupt()
        last = [event for event in stream][-1]
    assert last["type"] == "error" and last["end"]["reason"] == "interrupted", last
    assert bash.run("echo $kept").out == ["1"]


def test_timeout(bash):
    bash.run("kept=1")
    cell = bash.run("sleep 1000", timeout=50)
    assert cell.error["ename"] == "TimeoutError" and cell.reason == "timeout"
    assert bash.run("echo $kept").out == ["1"]


def test_exit_ends_the_kernel_and_nothing_else(execd):
    context, other = create(execd, "bash"), create(execd, "bash")
    other.run("x=1")
    cell = context.run("echo last words; exit 3")
    assert cell.out == ["last words"]
    assert cell.error["ename"] == "KernelDied" and "exited with code 3" in cell.error["evalue"]
    assert context.info()["state"] == "dead" and other.run("echo $x").out == ["1"]
    assert execd.http.post("/code", json={"code": "true", "context": {"id": context.id}}).status_code == 409
    assert execd.http.post(f"/code/contexts/{context.id}/restart").status_code == 200
    assert context.run("echo ${x-unset}").out == ["unset"]
    cell = context.run("kill -9 $$")
    assert cell.error["ename"] == "KernelDied" and "signal 9" in cell.error["evalue"]


def test_the_default_context_comes_back(execd):
    default = Context(execd, language="bash")
    assert default.run("x=1; exit 1").error["ename"] == "KernelDied"
    cell = default.run("echo ${x-unset}")
    assert cell.out == ["unset"] and any(e["type"] == "status" for e in cell.events)


def test_cwd_and_restart(execd, tmp_path):
    context = create(execd, "bash", cwd=str(tmp_path / "new"))
    assert context.run("pwd; x=1").out == [str(tmp_path / "new")]
    with context.stream("echo 1; sleep 1000") as response:
        stream = events(response)
        while next(stream)["type"] != "stdout":
            pass
        assert execd.http.post(f"/code/contexts/{context.id}/restart").status_code == 200
        assert [e for e in stream][-1]["error"]["ename"] == "KernelRestarted"
    assert context.run("echo ${x-unset}").out == ["unset"]


def test_deleting_a_context_kills_what_it_started(bash, tmp_path):
    fifo, fd = hold(tmp_path)
    assert bash.run(f"setsid bash -c 'exec 9>{fifo}; echo up >{tmp_path}/up; exec sleep 1000' & while ! [ -s {tmp_path}/up ]; do :; done").error is None
    bash.delete()
    wait_for_end(fd)


def test_cells_queue_and_contexts_run_at_once(execd, tmp_path):
    one, two = create(execd, "bash"), create(execd, "bash")
    fifo = gate(tmp_path)
    with one.stream(f"echo first; read -r _ <{fifo}; log=1") as first:
        stream = events(first)
        while next(stream)["type"] != "stdout":
            pass
        assert two.run("echo other").out == ["other"]
        with one.stream("echo second $log") as second:
            release(fifo)
            last = [e for e in stream][-1]
            assert last["type"] in ("execution_complete", "error")
            assert Cell([e for e in events(second)]).out == ["second 1"]


def test_twenty_megabytes(bash):
    with bash.stream("yes 1234567 | head -c 20971520") as response:
        body = response.read()  # 2.6 million events, which need not all be made objects
    assert body.count(b'"text":"1234567"') == (20 << 20) // 8 and b'"execution_complete"' in body[-1000:]


def test_an_image_without_bash(start_execd, tmp_path):
    agent = start_execd(env={"PATH": str(tmp_path)})
    answer = agent.http.post("/code/context", json={"language": "bash"})
    assert answer.status_code >= 400 and "bash" in answer.json()["message"]
    assert answer.json()["code"] == "NOT_SUPPORTED"


# ---- forks --------------------------------------------------------------------------


def test_fork_has_all_the_state(bash, tmp_path):
    state = (
        "x=41; declare -A map=([k]=v); list=(1 '2 3'); readonly r=4; export e=5; f() { echo \"f $1\"; }; alias hi='echo hello'\n"
        f"set -u; shopt -s nullglob; set -- p q; umask 077; trap 'echo trapped' USR1; cd {tmp_path}; exec 7>{tmp_path}/open"
    )
    assert bash.run(state).error is None
    copy = fork(bash)
    cell = copy.run("echo $x ${map[k]} ${#list[@]} $r $1 $2; f a; hi; env | grep ^e=; pwd; umask; shopt -q nullglob && echo on; echo $-")
    assert cell.out[:-1] == ["41 v 2 4 p q", "f a", "hello", "e=5", str(tmp_path), "0077", "on"] and "u" in cell.out[-1]
    assert copy.run("kill -USR1 $$; echo to the file >&7").out == ["trapped"]
    assert (tmp_path / "open").read_text() == "to the file\n"
    assert copy.info()["execution_count"] == 3 and copy.info()["cwd"] == bash.info()["cwd"]


def test_a_fork_is_a_shell_of_its_own(bash):
    bash.run("x=1")
    copy = fork(bash)
    assert copy.run("x=2; echo $$ $BASHPID").out == [f"{copy.info()['pid']} {copy.info()['pid']}"]
    assert bash.run("echo $x $$").out == [f"1 {bash.info()['pid']}"]
    for wait in ("while :; do :; done", "sleep 1000"):
        end = stop(copy, f"echo begun; {wait}")
        assert end["end"]["reason"] == "interrupted" and copy.run("echo $x").out == ["2"]
    bash.run("x=3")
    again = fork(copy)
    bash.delete()
    assert copy.run("echo $x").out == ["2"]
    assert copy.run("kill -9 $$").error["ename"] == "KernelDied"
    assert again.run("echo $x; (exit 3)").out == ["2"]


def test_what_a_fork_starts_ends_with_it_alone(bash, tmp_path):
    copy = fork(bash)
    mine, theirs = hold(tmp_path, "mine"), hold(tmp_path, "theirs")
    for context, (path, _) in ((bash, theirs), (copy, mine)):
        up = gate(tmp_path) if context is bash else tmp_path / "gate"
        assert context.run(f"setsid bash -c 'exec 9>{path}; : >{up}; exec sleep 1000' & read -r _ <{up}; :").error is None
    copy.delete()
    wait_for_end(mine[1])
    assert bash.run("kill -0 %1 && echo lives").out == ["lives"]
    bash.delete()
    wait_for_end(theirs[1])


def test_fork_is_refused_with_background_jobs(bash, tmp_path):
    fifo = gate(tmp_path)
    bash.run(f"read -r _ <{fifo} & x=1")
    answer = fork(bash)
    assert answer.status_code == 409 and "background jobs" in answer.json()["message"], answer.text
    assert len(bash.agent.http.get("/code/contexts").json()) == 1
    release(fifo)
    bash.run("wait")
    assert fork(bash).run("echo $x").out == ["1"]


def test_fork_by_a_bash_that_loads_nothing(bash):
    bash.run("x=1; enable -n enable")
    answer = fork(bash)
    assert answer.status_code == 409 and "enable -f" in answer.json()["message"], answer.text
    assert bash.run("echo $x").out == ["1"]


def test_many_forks_at_once_and_a_cell_behind_them(bash):
    bash.run("x=1")
    with ThreadPoolExecutor(6) as pool:
        copies = [pool.submit(fork, bash) for _ in range(6)]
        copies = [copy.result() for copy in copies]
    assert bash.run("x=2; echo $x").out == ["2"]
    assert [copy.run("echo $x").out for copy in copies] == [["1"]] * 6
