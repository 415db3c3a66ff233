"""POST /command and what can be asked about a command: on real sockets, with real processes."""

import hashlib
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore

import httpx
import pytest

from commands import last, running, text
from daemon import TOKEN, Execd, events, process_ended

CURSOR = "EXECD-COMMANDS-TAIL-CURSOR"
root_only = pytest.mark.skipif(os.getuid() != 0, reason="changing the user needs root")


def status(execd, command_id):
    response = execd.http.get(f"/command/status/{command_id}")
    assert response.status_code == 200, response.text
    return response.json()


def ended(execd, command_id):
    """Its status, once the agent knows of its end, which is after its processes have gone."""
    with execd.http.stream("GET", f"/command/{command_id}/stream") as response:
        response.read()
    return status(execd, command_id)


def logs(execd, command_id, cursor=None):
    response = execd.http.get(f"/command/{command_id}/logs", params={} if cursor is None else {"cursor": cursor})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain")
    return response.content, int(response.headers[CURSOR])


def refused(execd, body, code=400, **request):
    """POST /command with this body is refused; the message."""
    content = body if isinstance(body, bytes) else json.dumps(body)
    response = execd.http.post("/command", content=content, headers={"Content-Type": "application/json"}, **request)
    assert response.status_code == code, (response.status_code, response.text)
    assert set(response.json()) == {"code", "message"}
    return response.json()["message"]


@pytest.fixture
def fifo(tmp_path):
    """fifo(name): a path; whoever opens it waits for the other side."""

    def make(name):
        os.mkfifo(tmp_path / name)
        (tmp_path / name).chmod(0o666)
        return tmp_path / name

    return make


def descriptors(execd):
    """Open descriptors of the agent. Two answers first: what closed before is then known to it."""
    for _ in range(2):
        assert execd.http.get("/ping").status_code == 200
    return sorted(os.readlink(f"/proc/{execd.pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{execd.pid}/fd"))


# ---- how a command runs and ends


def test_output_and_success(execd):
    evs = execd.run("echo one; echo two >&2; printf three")
    assert evs[0]["type"] == "init"
    assert text(evs) == ["one", "three"]
    assert text(evs, "stderr") == ["two"]
    assert last(evs)["type"] == "execution_complete"
    assert last(evs)["execution_time"] >= 0
    now = status(execd, evs[0]["text"])
    assert now["id"] == evs[0]["text"]
    assert now["content"] == "echo one; echo two >&2; printf three"
    assert (now["running"], now["exit_code"]) == (False, 0)
    assert "error" not in now
    assert now["started_at"] <= now["finished_at"]
    assert now["end"]["reason"] == "exited"


def test_exit_code(execd):
    evs = execd.run("echo before; exit 3")
    assert text(evs) == ["before"]
    error = last(evs)["error"]
    assert (error["ename"], error["evalue"], error["traceback"]) == ("CommandExecError", "3", ["exit status 3"])
    now = status(execd, evs[0]["text"])
    assert (now["running"], now["exit_code"], now["error"]) == (False, 3, "exit status 3")


def test_no_such_program_is_the_shells_127(execd):
    evs = execd.run("no-such-program-here")
    assert last(evs)["error"]["evalue"] == "127"
    assert "not found" in text(evs, "stderr")[0]


def test_killed_by_a_signal(execd):
    evs = execd.run("kill -KILL $$")
    assert last(evs)["type"] == "error"
    assert last(evs)["error"]["ename"] == "CommandExecError"
    now = status(execd, evs[0]["text"])
    assert (now["exit_code"], now["error"]) == (-1, "signal: killed")
    assert (now["end"]["reason"], now["end"]["signal"]) == ("signalled", "SIGKILL")


def test_stdin_is_empty(execd):
    evs = execd.run("cat; readlink /proc/self/fd/0")
    assert text(evs) == ["/dev/null"]


def test_only_the_standard_descriptors(execd):
    evs = execd.run("ls /proc/self/fd")
    assert text(evs) == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


def test_signals_are_at_their_defaults(execd):
    evs = execd.run("grep -E '^Sig(Blk|Ign)' /proc/self/status")
    assert [line.split()[1] for line in text(evs)] == ["0" * 16, "0" * 16]


def test_argv_runs_without_a_shell(execd):
    with execd.stream("POST", "/command", json={"argv": ["printf", "%s|", "a b", "$HOME", "", "*"]}) as response:
        evs = list(events(response))
    assert text(evs) == ["a b|$HOME||*|"]
    assert last(evs)["type"] == "execution_complete"
    assert "no-such-program" in refused(execd, {"argv": ["no-such-program"]})
    assert "/etc/passwd" in refused(execd, {"argv": ["/etc/passwd"]})


def test_lines(execd):
    evs = execd.run(r"printf 'a\r\nb\rc\n\n\nd\r\n\r\ne'")
    assert text(evs) == ["a", "b", "c", "\n", "\n", "d", "\n", "e"]


def test_bytes_that_are_no_text(execd):
    evs = execd.run(r"printf 'a\377b\n\303\n'; printf '\342\202'; printf '\254\n'")
    assert text(evs) == ["a\ufffdb", "\ufffd", "\u20ac"]
    assert logs(execd, evs[0]["text"])[0] == b"a\xffb\n\xc3\n\xe2\x82\xac\n"


def test_output_of_64_mib_arrives_whole(execd, tmp_path):
    source = tmp_path / "source"
    expected, received = hashlib.sha256(), hashlib.sha256()
    line_bytes, lines = 1023, 65536
    with source.open("wb") as out:
        for _ in range(lines):
            line = os.urandom(line_bytes // 2 + 1).hex()[:line_bytes].encode() + b"\n"
            expected.update(line)
            out.write(line)
    count = 0
    with execd.stream("POST", "/command", json={"command": f"cat {source}"}) as response:
        for event in events(response):
            if event["type"] == "stdout":
                received.update(event["text"].encode() + b"\n")
                count += 1
    assert count == lines
    assert event["type"] == "execution_complete"
    assert received.hexdigest() == expected.hexdigest()


def test_100_commands_at_once(execd, fifo):
    """All of them run together: each waits for the gate that opens when the last has said hello."""
    gate = fifo("gate")

    def one(n):
        with running(execd, f"echo hello; read x <{gate}; echo {n}; exit {n % 2}") as command:
            assert command.line() == "hello"
            ready.release()
            return command.rest()

    ready = Semaphore(0)
    execd.http = execd.client({"X-EXECD-ACCESS-TOKEN": TOKEN}, limits=httpx.Limits(max_connections=200))
    with ThreadPoolExecutor(100) as pool:
        ended = [pool.submit(one, n) for n in range(100)]
        for _ in range(100):
            assert ready.acquire(timeout=60)
        with gate.open("w") as out:
            out.write("go\n" * 100)
            out.flush()
            results = [future.result(60) for future in ended]
    for n, evs in enumerate(results):
        assert text(evs) == [str(n)]
        assert last(evs)["type"] == ("error" if n % 2 else "execution_complete")


# ---- what outlives a command, and what must not


def test_a_process_that_holds_the_pipe_does_not_hold_the_end(execd, fifo):
    """`server &`: the command ends; the server neither is killed nor dies of writing to nobody."""
    gate, survived = fifo("gate"), fifo("survived")
    evs = execd.run(f"(read x <{gate}; echo late; echo late >&2; echo yes >{survived}) & echo started")
    assert text(evs) == ["started"]
    assert last(evs)["type"] == "execution_complete"
    gate.write_text("go\n")
    assert survived.read_text() == "yes\n"


def test_output_after_the_exit_is_taken_while_it_comes_at_once(execd):
    evs = execd.run("exec > >(cat); echo through cat")
    assert text(evs) == ["through cat"]


TREE = """
echo $$
sh -c 'echo $$; exec sleep 1000' &
setsid sh -c 'echo $$; exec sleep 1000' &
(setsid sh -c 'echo $$; exec sleep 1000' &)
sh -c 'echo $$; trap "" TERM HUP INT; while :; do sleep 1000; done' &
wait
"""


def test_timeout_kills_the_whole_tree(execd):
    with running(execd, TREE, timeout=4000) as command:
        pids = [int(command.line()) for _ in range(5)]
        end = last(command.rest())
    assert end["type"] == "error"
    for pid in pids:
        process_ended(pid)
    now = ended(execd, command.id)
    assert (now["running"], now["exit_code"]) == (False, -1)
    assert (now["end"]["reason"], now["end"]["signal"]) == ("timeout", "SIGKILL")


def test_timeout_of_a_background_command(execd, fifo):
    started = fifo("started")
    evs = execd.run(f"echo $$ >{started}; exec sleep 1000", background=True, timeout=500)
    assert [event["type"] for event in evs] == ["init", "execution_complete"]
    process_ended(int(started.read_text()))
    assert ended(execd, evs[0]["text"])["end"]["reason"] == "timeout"


def test_a_timeout_that_is_not_reached_changes_nothing(execd):
    evs = execd.run("echo fine", timeout=60000)
    assert text(evs) == ["fine"] and last(evs)["type"] == "execution_complete"


def test_interrupt(execd):
    with running(execd, "sh -c 'echo $$; exec sleep 1000' & echo $$; wait") as command:
        pids = [int(command.line()) for _ in range(2)]
        assert status(execd, command.id)["running"] is True
        assert "exit_code" not in status(execd, command.id)
        with ThreadPoolExecutor(1) as pool:
            delete = pool.submit(execd.http.delete, "/command", params={"id": command.id})
            end = last(command.rest())
            assert delete.result(30).status_code == 200
    assert end["type"] == "error"
    now = status(execd, command.id)
    assert now["running"] is False
    assert (now["end"]["reason"], now["end"]["signal"]) == ("interrupted", "SIGTERM")
    for pid in pids:
        process_ended(pid)
    assert execd.http.delete("/command", params={"id": command.id}).status_code == 409


# A shell can miss a signal between two commands; this cannot.
POLITE = f"""exec {sys.executable} -S -c '
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print(os.getpid(), flush=True)
signal.sigwait([signal.SIGTERM])
print("bye")
sys.exit(5)
'"""


def test_interrupt_lets_a_command_end_by_itself(execd):
    with running(execd, POLITE) as command:
        command.line()
        assert execd.http.delete("/command", params={"id": command.id}).status_code == 200
        evs = command.rest()
    assert text(evs) == ["bye"]
    now = status(execd, command.id)
    assert (now["exit_code"], now["end"]["reason"]) == (5, "interrupted")


def test_interrupt_of_a_command_that_will_not_hear(execd):
    stubborn = "trap '' TERM; sh -c 'echo $$; while :; do sleep 1000; done' & echo $$; while :; do sleep 1000; done"
    with running(execd, stubborn) as command:
        pids = [int(command.line()) for _ in range(2)]
        assert execd.http.delete("/command", params={"id": command.id}).status_code == 200
        command.rest()
    for pid in pids:
        process_ended(pid)
    end = ended(execd, command.id)["end"]
    assert (end["reason"], end["signal"]) == ("interrupted", "SIGKILL")


def test_interrupt_finishes_what_outlives_the_shell(execd):
    """The shell ends on SIGTERM, its child ignores it: it is killed when its time is up."""
    with running(execd, "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' & wait") as command:
        pid = int(command.line())
        assert execd.http.delete("/command", params={"id": command.id}).status_code == 200
    process_ended(pid)


def test_a_client_that_vanishes_harms_nothing(execd, fifo, tmp_path):
    gate, done = fifo("gate"), fifo("done")
    execd.run("true")
    before = descriptors(execd)
    body = json.dumps({"command": f"echo here; read x <{gate}; seq 200000; echo $$ >{done}"}).encode()
    client = execd.raw()
    client.sendall(
        b"POST /command HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: %s\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (TOKEN.encode(), len(body), body)
    )
    received = b""
    while b"here" not in received:
        received += client.recv(65536)
    command_id = json.loads(received.split(b"data: ")[1].split(b"\n")[0])["text"]
    client.close()
    assert execd.http.get("/ping").status_code == 200
    gate.write_text("go\n")
    process_ended(int(done.read_text()))
    assert ended(execd, command_id)["exit_code"] == 0
    assert logs(execd, command_id)[0].endswith(b"199999\n200000\n")
    after = descriptors(execd)
    # What the log has spilled to disk stays for as long as the log does.
    assert [path for path in after if "deleted" not in path] == before


# ---- background commands, status and logs


def test_background(execd, fifo):
    started, gate = fifo("started"), fifo("gate")
    evs = execd.run(
        f"readlink /proc/self/fd/0; echo $$ >{started}; read x <{gate}; echo out; echo err >&2; exit 4", background=True
    )
    assert [event["type"] for event in evs] == ["init", "execution_complete"]
    command_id = evs[0]["text"]
    pid = int(started.read_text())
    now = status(execd, command_id)
    assert now["running"] is True
    assert "exit_code" not in now and "finished_at" not in now and "end" not in now
    assert logs(execd, command_id) == (b"/dev/null\n", 10)
    assert logs(execd, command_id, 10) == (b"", 10)
    gate.write_text("go\n")
    process_ended(pid)
    now = ended(execd, command_id)
    assert (now["running"], now["exit_code"], now["error"]) == (False, 4, "exit status 4")
    content, cursor = logs(execd, command_id, 10)
    assert sorted(content.splitlines()) == [b"err", b"out"]
    assert cursor == 18


def test_logs_of_a_foreground_command(execd):
    evs = execd.run("printf 'no newline'; seq 3 >&2")
    command_id = evs[0]["text"]
    content, cursor = logs(execd, command_id)
    assert sorted([content[:10], content[10:]]) == sorted([b"no newline", b"1\n2\n3\n"]) or content == b"1\n2\n3\nno newline"
    assert logs(execd, command_id, 0) == (content, cursor)
    assert logs(execd, command_id, 4) == (content[4:], cursor)
    assert logs(execd, command_id, 10**15) == (b"", cursor)


@pytest.mark.parametrize("cursor", ["-1", "x", "1x", "", "1.5", "99999999999999999999999"])
def test_a_cursor_that_is_no_number(execd, cursor):
    command_id = execd.run("echo x")[0]["text"]
    response = execd.http.get(f"/command/{command_id}/logs", params={"cursor": cursor})
    assert response.status_code == 400
    assert "cursor" in response.json()["message"]


def test_ids_that_are_not_there(execd):
    for response in (
        execd.http.get("/command/status/nope"),
        execd.http.get("/command/nope/logs"),
        execd.http.delete("/command", params={"id": "nope"}),
    ):
        assert response.status_code == 404
        assert "nope" in response.json()["message"]
    for response in (execd.http.delete("/command"), execd.http.delete("/command", params={"id": ""})):
        assert (response.status_code, response.json()["code"]) == (400, "MISSING_QUERY")


def test_methods(execd):
    response = execd.http.put("/command")
    assert response.status_code == 405
    assert {"GET", "POST", "DELETE"} <= {method.strip() for method in response.headers["allow"].split(",")}


# ---- where, as whom and with what


def test_cwd(execd, tmp_path):
    (tmp_path / "a dir").mkdir()
    assert text(execd.run("pwd", cwd=str(tmp_path / "a dir"))) == [f"{tmp_path}/a dir"]
    assert text(execd.run("pwd", cwd="")) == [os.getcwd()]
    assert text(execd.run("pwd", cwd="$BASE/${SUB}", envs={"BASE": str(tmp_path), "SUB": "a dir"})) == [f"{tmp_path}/a dir"]


def test_home(start_execd, tmp_path):
    (tmp_path / "sub").mkdir()
    execd = start_execd(env={"HOME": str(tmp_path)})
    assert text(execd.run("pwd", cwd="~")) == [str(tmp_path)]
    assert text(execd.run("pwd", cwd="~/sub", envs={"HOME": "/elsewhere"})) == [f"{tmp_path}/sub"]


def test_cwd_that_is_not_there(execd, tmp_path):
    (tmp_path / "file").touch()
    assert f"{tmp_path}/nowhere" in refused(execd, {"command": "pwd", "cwd": f"{tmp_path}/nowhere"})
    assert f"{tmp_path}/file" in refused(execd, {"command": "pwd", "cwd": f"{tmp_path}/file"})
    assert "NOT_SET_ANYWHERE" in refused(execd, {"command": "pwd", "cwd": "/$NOT_SET_ANYWHERE"})
    refused(execd, {"command": "pwd", "cwd": "/" + "x" * 5000})


def test_envs(execd):
    evs = execd.run(
        'printf "%s\\n" "$A" "$EMPTY" "${UNSET-unset}" "$PATH"', envs={"A": "b c\n$HOME", "EMPTY": "", "PATH": "/bin:/usr/bin"}
    )
    assert text(evs) == ["b c", "$HOME", "\n", "unset", "/bin:/usr/bin"]


def test_a_command_knows_its_id(execd):
    evs = execd.run("echo $EXECD_COMMAND_ID")
    assert text(evs) == [evs[0]["text"]]


def test_env_file(start_execd, tmp_path):
    """Read at each start, under the request's own; commands find it to add to it."""
    file = tmp_path / "sub" / "envs"
    execd = start_execd(env={"EXECD_ENVS": str(file), "WHO": "me"})
    show = 'echo "${A-unset} ${B-unset}"'
    assert text(execd.run(show)) == ["unset unset"]
    execd.run("""mkdir -p "$(dirname "$EXECD_ENVS")"; printf '%s\\n' '# comment' "A='one \\$WHO'" >>"$EXECD_ENVS" """)
    execd.run("""echo 'B=two $WHO' >>"$EXECD_ENVS" """)
    assert text(execd.run(show)) == ["one $WHO two me"]
    assert text(execd.run(show, envs={"A": "request"})) == ["request two me"]
    file.unlink()
    os.mkfifo(file)
    assert text(execd.run(show)) == ["unset unset"]


@root_only
def test_uid_and_gid(execd):
    show = "id -u; id -g; id -G; umask"
    nobody, group = 65534, 65534
    assert text(execd.run(show, uid=nobody)) == [str(nobody), str(group), str(group), "0022"]
    assert text(execd.run(show, uid=nobody, gid=12))[:2] == [str(nobody), "12"]
    # A uid without an entry has group 0 and no others, as in the reference.
    assert text(execd.run(show, uid=54321))[:3] == ["54321", "0", "0"]
    assert text(execd.run(show, uid=0, gid=0))[:2] == ["0", "0"]


@root_only
def test_groups_come_from_etc_group(execd, tmp_path):
    """In a root of its own the agent reads that root's files: here the groups of a user of this machine."""
    groups = {}
    for line in Path("/etc/group").read_text().splitlines():
        name, _, gid, members = line.split(":")
        for member in filter(None, members.split(",")):
            groups.setdefault(member, set()).add(int(gid))
    users = {line.split(":")[0]: line.split(":")[2:4] for line in Path("/etc/passwd").read_text().splitlines()}
    for user, (uid, gid) in users.items():
        if user != "root":
            shown = {int(word) for word in text(execd.run("id -G", uid=int(uid)))[0].split()}
            assert shown == groups.get(user, set()) | {int(gid)}, user


@root_only
def test_a_directory_that_the_user_may_not_enter(execd, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert str(closed) in refused(execd, {"command": "pwd", "cwd": str(closed), "uid": 65534})


# ---- requests that are wrong


@pytest.mark.parametrize(
    "body, named",
    [
        (b"", ""),
        (b"{", "line 1"),
        (b'{"command": "x"} trailing', "line 1"),
        (b'{"command": "x", "command": "y"}', ""),
        (b'{"command": "a\\u0000b"}', ""),
        (b'{"command": "\xff"}', ""),
        (b"[]", "object"),
        (b'"command"', "object"),
        (b"null", ""),
        ({}, "command"),
        ({"command": ""}, "command"),
        ({"command": None}, "command"),
        ({"command": 7}, "command"),
        ({"command": ["ls"]}, "command"),
        ({"command": "x", "cwd": 7}, "cwd"),
        ({"command": "x", "background": "yes"}, "background"),
        ({"command": "x", "background": 1}, "background"),
        ({"command": "x", "timeout": -1}, "timeout"),
        ({"command": "x", "timeout": "1"}, "timeout"),
        ({"command": "x", "timeout": 1.5}, "timeout"),
        ({"command": "x", "timeout": 10**18}, "timeout"),
        ({"command": "x", "uid": -1}, "uid"),
        ({"command": "x", "uid": 2**32 - 1}, "uid"),
        ({"command": "x", "uid": "root"}, "uid"),
        ({"command": "x", "uid": 0, "gid": -1}, "gid"),
        ({"command": "x", "gid": 0}, "uid"),
        ({"command": "x", "envs": []}, "envs"),
        ({"command": "x", "envs": {"A": 1}}, "envs"),
        ({"command": "x", "envs": {"A": None}}, "envs"),
        ({"command": "x", "envs": {"": "x"}}, "envs"),
        ({"command": "x", "envs": {"A=B": "x"}}, "envs"),
        ({"argv": []}, "argv"),
        ({"argv": [""]}, "argv"),
        ({"argv": "ls"}, "argv"),
        ({"argv": ["ls", 1]}, "argv"),
        ({"command": "x", "argv": ["ls"]}, "argv"),
    ],
    ids=str,
)
def test_malformed(execd, body, named):
    assert named in refused(execd, body)
    assert execd.http.get("/ping").status_code == 200


def test_too_much(execd):
    assert "131071" in refused(execd, {"command": ": " + "x" * 131072}, 413)
    assert "envs" in refused(execd, {"command": "x", "envs": {f"N{n}": "" for n in range(5000)}}, 413)
    refused(execd, {"command": "x", "envs": {f"N{n}": "x" * 100000 for n in range(60)}}, 413)
    refused(execd, b'{"command": "' + b"x" * (9 << 20) + b'"}', 413)
    assert "".join(text(execd.run("echo " + "x" * 100000))) == "x" * 100000


# ---- the token


def test_the_token(execd):
    for headers in ({}, {"X-EXECD-ACCESS-TOKEN": ""}, {"X-EXECD-ACCESS-TOKEN": TOKEN + "x"}, {"X-EXECD-ACCESS-TOKEN": TOKEN[:-1]}):
        client = execd.client(headers)
        for method, path in (("GET", "/ping"), ("POST", "/command"), ("GET", "/nowhere"), ("GET", "/command/x/logs")):
            response = client.request(method, path, json={"command": "touch /tmp/never"} if method == "POST" else None)
            assert response.status_code == 401, (headers, method, path)
            assert response.json()["code"] == "UNAUTHORIZED"
            assert TOKEN not in response.text
    assert execd.http.get("/ping").status_code == 200


def test_without_a_token_everybody_is_let_in(start_execd):
    execd = start_execd(token=None)
    assert text(execd.run("echo open")) == ["open"]
    assert execd.client({"X-EXECD-ACCESS-TOKEN": "whatever"}).get("/ping").status_code == 200


@pytest.mark.parametrize("how", ["environment", "flag", "flag=", "file"])
def test_the_token_stays_with_the_agent(start_execd, tmp_path, how):
    """Neither children nor /proc show it."""
    secret = "s3cret-of-the-agent"
    file = tmp_path / "token"
    file.write_text(secret + "\n")
    ways = {
        "environment": {"env": {"EXECD_ACCESS_TOKEN": secret}},
        "flag": {"args": ["--access-token", secret]},
        "flag=": {"args": [f"-access-token={secret}"]},
        "file": {"args": ["--access-token-file", str(file)]},
    }
    class Agent(Execd):
        def __init__(self, log, **options):
            super().__init__(log, token=None, **options)

        def client(self, headers=None, **options):
            return super().client({"X-EXECD-ACCESS-TOKEN": secret}, **options)

    execd = Agent(tmp_path / "log", **ways[how])
    try:
        assert execd.client().get("/ping").status_code == 200
        evs = execd.run(f"env; tr '\\0' '\\n' </proc/{execd.pid}/cmdline; tr '\\0' '\\n' </proc/{execd.pid}/environ")
        assert any(line.startswith("EXECD_COMMAND_ID=") for line in text(evs))
        assert any(line.endswith("execd") for line in text(evs))
        assert secret not in "\n".join(text(evs))
        assert secret not in execd.logs()
    finally:
        execd.stop()


# ---- the end of the agent


def test_the_end_of_the_agent_is_the_end_of_its_commands(start_execd):
    """SIGTERM: commands are asked to end and their streams say how they did; stop() sees what stays behind."""
    execd = start_execd()
    with running(execd, POLITE) as polite:
        with running(execd, "trap '' TERM; echo $$; while :; do sleep 1000; done") as stubborn:
            pids = [int(polite.line()), int(stubborn.line())]
            os.kill(execd.pid, signal.SIGTERM)
            evs = polite.rest()
            assert text(evs) == ["bye"]
            assert last(evs)["type"] == "error"
            assert last(stubborn.rest())["type"] == "error"
    for pid in pids:
        process_ended(pid)
    assert execd.process.wait(30) == 0
    execd.expect_exit = None
