"""execd as the init process, and how it starts and ends."""

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from daemon import EXECD, Daemon, events

SIGNALS = ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"]
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="a process namespace of its own needs root")


def run(*args, env=None, **options):
    """The agent as a program that ends by itself. It gets a socket, so that it takes no port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        return subprocess.run(
            [EXECD, "--listen-fd", str(fd), *args], pass_fds=[fd], env={**os.environ, **(env or {})},
            capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **options,
        )  # fmt: skip


@pytest.fixture
def init(tmp_path):
    """init(args..., wrap=[...]): a running `execd --init`."""
    running = []

    def start(*args, wrap=(), exit_code=0):
        agent = Daemon([*wrap, EXECD, "--listen-fd", "{fd}", "--init", *args], tmp_path / f"log{len(running)}")
        agent.expect_exit = exit_code
        running.append(agent)
        return agent

    yield start
    for agent in running:
        agent.stop()


@pytest.fixture
def fifo(tmp_path):
    def make(name):
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    return make


def command(http, line):
    with http.stream("POST", "/command", json={"command": line}) as response:
        return [event["text"] for event in events(response) if event["type"] == "stdout"]


# ---- the entrypoint


@pytest.mark.parametrize("script, code", [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)])
def test_the_entrypoints_end_is_the_agents(script, code):
    agent = run("--init", "--", "sh", "-c", script)
    assert agent.returncode == code, agent.stderr


def test_the_entrypoints_output_is_ours():
    agent = run("--init", "--", "sh", "-c", 'echo out "$@"; echo err >&2', "sh", "a b", "--port")
    assert agent.stdout == "out a b --port\n"
    assert "err\n" in agent.stderr


@pytest.mark.parametrize("told", ["", '{"entrypoint": ["echo", "mine"]}', '{"entrypoint": ["ec'])
def test_a_spare_that_is_not_told_to_the_end(told):
    """Whoever broke off has gone, and nobody wants it: it ends, and nothing of it has run."""
    told_end, end = os.pipe()
    os.write(end, told.encode())
    os.close(end)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fds = [listener.fileno(), told_end]
        agent = subprocess.run([EXECD, "--listen-fd", str(fds[0]), "--init", "--claim-fd", str(told_end)], pass_fds=fds,
                               capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)  # fmt: skip
    os.close(told_end)
    assert (agent.returncode, agent.stdout, agent.stderr) == (0, "", "")


def test_a_spare_that_is_told_goes_on_at_once():
    """In pieces, and with the other end still open: the newline is the end. What follows is nothing to it."""
    told_end, end = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fds = [listener.fileno(), told_end]
        with subprocess.Popen([EXECD, "--listen-fd", str(fds[0]), "--init", "--claim-fd", str(told_end)], pass_fds=fds,
                              stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as agent:  # fmt: skip
            os.close(told_end)
            for piece in ('{"entrypoint": ["sh", "-c"', ', "env | grep GIVEN"], "env": {"GIVEN": "a b"}}', "\nmore"):
                os.write(end, piece.encode())
            assert agent.communicate(timeout=60)[0] == "GIVEN=a b\n" and agent.returncode == 0
    os.close(end)


def test_the_entrypoints_input_is_ours(tmp_path):
    (tmp_path / "in").write_text("typed\n")
    with (tmp_path / "in").open() as source, socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        agent = subprocess.run([EXECD, "--listen-fd", str(fd), "--init", "--", "cat"], pass_fds=[fd], stdin=source,
                               capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (agent.returncode, agent.stdout) == (0, "typed\n")


def test_the_entrypoint_sees_no_secret_and_no_descriptor_of_ours():
    agent = run("--init", "--", "sh", "-c", "env; ls /proc/self/fd", env={"EXECD_ACCESS_TOKEN": "hush-hush"})
    assert "hush-hush" not in agent.stdout
    assert agent.stdout.splitlines()[-4:] == ["0", "1", "2", "3"]


# A shell can miss a signal between two commands; this cannot.
WAIT = """
import os, signal, sys
signo, ready, told = int(sys.argv[1]), sys.argv[2], sys.argv[3]
signal.pthread_sigmask(signal.SIG_BLOCK, [signo])
child = os.fork()
if child == 0:
    open(ready, "w").write("ready")
    signal.sigwait([signo])
    open(told, "w").write("child")
    os._exit(0)
signal.sigwait([signo])
os.waitpid(child, 0)
sys.exit(5)
"""


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_are_passed_on(init, fifo, name):
    """To the whole group: the entrypoint's child gets it too."""
    ready, told = fifo("ready"), fifo("told")
    signo = signal.Signals[f"SIG{name}"]
    agent = init("--", sys.executable, "-S", "-c", WAIT, int(signo), ready, told, exit_code=None)
    assert ready.read_text() == "ready"
    os.kill(agent.pid, signo)
    assert told.read_text() == "child"
    assert agent.process.wait(30) == 5


def test_the_server_listens_before_the_entrypoint_starts(tmp_path):
    ask = 'exec 5<>/dev/tcp/127.0.0.1/$1; printf "GET /ping HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n" >&5; head -1 <&5'
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        agent = subprocess.run(
            [EXECD, "--listen-fd", str(fd), "--init", "--", "bash", "-c", ask, "bash", str(port)],
            pass_fds=[fd], capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert agent.stdout.startswith("HTTP/1.1 200"), agent


def test_an_entrypoint_that_is_not_there(tmp_path):
    agent = run("--init", "--", "no-such-program", "x")
    assert agent.returncode == 127
    assert "no-such-program" in agent.stderr
    agent = run("--init", "--", "/etc/passwd")
    assert agent.returncode == 126
    assert "/etc/passwd" in agent.stderr


def test_commands_end_with_the_entrypoint(init, fifo):
    gate = fifo("gate")
    agent = init("--", "sh", "-c", f"read x <{gate}; exit 3", exit_code=3)
    http = agent.client()
    with http.stream("POST", "/command", json={"command": "echo here; exec sleep 1000"}) as response:
        stream = events(response)
        assert [next(stream)["type"] for _ in range(2)] == ["init", "stdout"]
        gate.write_text("go\n")
        assert list(stream)[-1]["type"] == "error"
    assert agent.process.wait(30) == 3
    agent.expect_exit = None


# ---- without an entrypoint


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT])
def test_without_an_entrypoint_it_serves_until_told_to_end(init, signo):
    agent = init(exit_code=None)
    http = agent.client()
    assert http.get("/ping").status_code == 200  # before it serves it has no handlers
    for name in ("HUP", "USR1", "USR2"):
        os.kill(agent.pid, signal.Signals[f"SIG{name}"])
    assert command(http, "echo alive") == ["alive"]
    os.kill(agent.pid, signo)
    assert agent.process.wait(30) == 0


# ---- PID 1


def test_orphans_are_reaped(init, fifo):
    gate, born = fifo("gate"), fifo("born")
    http = init().client()
    assert command(http, f"(sh -c 'echo $$ >{born}; read x <{gate}' >/dev/null 2>&1 &); echo gone") == ["gone"]
    pid = int(born.read_text())
    pidfd = os.pidfd_open(pid)
    gate.write_text("end\n")
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(20000)
    os.close(pidfd)
    # A command that ends after it is reaped after it.
    assert command(http, "echo x") == ["x"]
    assert not os.path.exists(f"/proc/{pid}")


SIGNAL_PARENT = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print(os.getpid(), os.getppid(), flush=True)
open(sys.argv[1]).read()
os.kill(1, signal.SIGTERM)
signal.sigwait([signal.SIGTERM])
sys.exit(6)
"""


@needs_root
def test_as_pid_1(init, fifo):
    """In a process namespace of its own: signals reach it, orphans do, and its end ends everything."""
    stop = fifo("stop")
    agent = init(
        "--", sys.executable, "-S", "-c", SIGNAL_PARENT, stop,
        wrap=["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"], exit_code=None,
    )  # fmt: skip
    http = agent.client()
    assert command(http, "readlink /proc/1/exe; echo $PPID") == [os.path.realpath(EXECD), "1"]
    orphan = command(http, "(setsid sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1' &)")[0]
    assert command(http, f"cut -d' ' -f4 /proc/{orphan}/stat") == ["1"]
    stop.write_text("go")
    assert agent.process.wait(30) == 6
    assert "2 1\n" in agent.logs()


@needs_root
def test_memory_that_runs_out_takes_others_first(execd):
    """The agent is the last to be killed where it may; its commands stand where it was started."""
    ours = open("/proc/self/oom_score_adj").read().strip()
    allowed = subprocess.run(["sh", "-c", "echo -999 >/proc/self/oom_score_adj"], capture_output=True).returncode == 0
    assert open(f"/proc/{execd.pid}/oom_score_adj").read().strip() == ("-999" if allowed else ours)
    assert command(execd.http, "cat /proc/self/oom_score_adj") == [ours]


# ---- starting


def test_help_and_version():
    shown = subprocess.run([EXECD, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    for flag in ("--port", "--host", "--listen-fd", "--access-token-file", "--log-level", "--env-file", "--init"):
        assert flag in shown.stdout
    shown = subprocess.run([EXECD, "--version"], capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.startswith("execd ")


@pytest.mark.parametrize(
    "args, named",
    [
        (["--bogus"], "--bogus"),
        (["--port"], "--port"),
        (["--port", "x"], "--port"),
        (["serve"], "serve"),
        (["--access-token-file", "/nonexistent"], "/nonexistent"),
    ],
)
def test_wrong_flags(args, named):
    shown = subprocess.run([EXECD, *args], capture_output=True, text=True, timeout=60)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert named in shown.stderr


def test_what_it_cannot_serve(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as idle:
        port = str(taken.getsockname()[1])
        for args, fd, named in (
            (["--host", "127.0.0.1", "--port", port], None, port),
            (["--host", "not an address"], None, "not an address"),
            (["--listen-fd", "999"], None, "999"),
            (["--listen-fd", str(idle.fileno())], idle.fileno(), "not a listening"),
            (["--listen-fd", "0"], None, "0"),
            (["--log-file", str(tmp_path / "no" / "log"), "--listen-fd", "999"], None, str(tmp_path / "no" / "log")),
        ):
            agent = subprocess.run([EXECD, *args], capture_output=True, text=True, timeout=60, pass_fds=[fd] if fd else [])
            assert agent.returncode == 1, args
            assert named in agent.stderr, (args, agent.stderr)


def test_flags_of_the_reference(init, tmp_path):
    agent = Daemon(
        [EXECD, "--listen-fd", "{fd}", "-jupyter-host=http://127.0.0.1:54321", "-jupyter-token", "x", "-log-level", "7",
         "--graceful-shutdown-timeout=100ms", f"--log-file={tmp_path}/agent.log"],
        tmp_path / "stderr",
    )  # fmt: skip
    try:
        assert agent.client().get("/ping").status_code == 200
        assert "jupyter-host" in (tmp_path / "agent.log").read_text()
        assert agent.logs() == ""
    finally:
        agent.stop()


def test_closed_standard_descriptors(tmp_path):
    """They must not become a socket of ours."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, address = listener.fileno(), listener.getsockname()
        agent = subprocess.Popen(["sh", "-c", f'exec "$0" --listen-fd {fd} <&- >&- 2>&-', EXECD], pass_fds=[fd])
        try:
            with socket.create_connection(address, timeout=30) as client:
                client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200")
            kinds = {os.readlink(f"/proc/{agent.pid}/fd/{n}") for n in range(3)}
            assert kinds == {"/dev/null"}
        finally:
            agent.terminate()
            assert agent.wait(30) == 0


def test_an_env_file_is_named_to_all(init, fifo):
    """Clients append to what EXECD_ENVS names, whether anything was set or not."""
    said = fifo("said")
    agent = init("--", "sh", "-c", f'echo "$EXECD_ENVS" >{said}; exec sleep infinity', exit_code=None)
    assert said.read_text() == "/opt/opensandbox/.env\n"
    assert command(agent.client(), "echo $EXECD_ENVS") == ["/opt/opensandbox/.env"]
