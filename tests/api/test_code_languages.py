"""What holds of the cells of every language: bad ones, limits, idleness, death. One context serves for much of it."""

import os
import shutil

import pytest

from code_cells import Context, create, fork, hold, wait_for_end
from daemon import BUILD, EXECD, TOKEN, Daemon, children, events

KERNELS = os.path.dirname(os.environ.get("EXECD_BIN", str(BUILD / "execd"))) + "/kernels"
PROGRAMS = {"python": "python3", "javascript": "node", "typescript": "node", "java": "java", "go": KERNELS + "/go", "bash": "bash"}

# {} is filled in; where a language has nothing of the kind, the word is missing.
SAY = {
    "python": "print({!r})", "javascript": "console.log({!r})", "typescript": "console.log({!r} as string)",
    "java": 'System.out.println("{}");', "go": 'fmt.Println("{}")', "bash": "echo '{}'",
}  # fmt: skip
KEEP = {"python": "kept = 7", "javascript": "const kept = 7", "typescript": "const kept: number = 7", "java": "int kept = 7;",
        "go": "kept := 7", "bash": "kept=7"}  # fmt: skip
KEPT = {"python": "print(kept)", "javascript": "console.log(kept)", "typescript": "console.log(kept)",
        "java": "System.out.println(kept);", "go": "fmt.Println(kept)", "bash": "echo $kept"}  # fmt: skip
COMMENT = {"python": "#", "bash": "#"}
CLOSE = {
    "python": "import os; os.close(1); os.close(2)",
    "javascript": "require('fs').closeSync(1); require('fs').closeSync(2)",
    "java": "System.out.close(); System.err.close();",
    "go": "os.Stdout.Close()\nos.Stderr.Close()",
    "bash": "exec >&- 2>&-",
}
FLOOD = {
    "python": "import sys\nfor i in range(100): sys.stdout.write(('x' * 99 + '\\n') * 1000)",
    "javascript": "for (let i = 0; i < 100; i++) process.stdout.write(('x'.repeat(99) + '\\n').repeat(1000))",
    "java": 'for (int i = 0; i < 100; i++) System.out.print(("x".repeat(99) + "\\n").repeat(1000));',
    "go": 'for i := 0; i < 100; i++ {\n\tfmt.Print(strings.Repeat(strings.Repeat("x", 99)+"\\n", 1000))\n}',
    "bash": "for i in {1..100}; do yes " + "x" * 99 + " | head -1000; done",
}
# A daemon that keeps the cell's output and a FIFO open.
DAEMON = {
    "python": "import subprocess; d = subprocess.Popen(['setsid', 'sh', '-c', {!r}])",
    "javascript": "require('child_process').spawn('setsid', ['sh', '-c', {!r}], {{stdio: 'inherit', detached: true}}).unref(); 0",
    "java": 'var d = new ProcessBuilder("setsid", "sh", "-c", "{}").inheritIO().start();',
    "go": 'd := exec.Command("setsid", "sh", "-c", "{}")\nd.Stdout = os.Stdout\nd.Start()',
    "bash": "setsid sh -c '{}' &",
}
# How it says exit, and the error: a kernel that outlives it has a name of its own for that.
EXIT = {
    "python": ("import sys; sys.exit(3)", "SystemExit"), "javascript": ("process.exit(3)", "SystemExit"),
    "typescript": ("process.exit(3)", "SystemExit"), "java": ("System.exit(3);", "KernelDied"),
    "go": ("os.Exit(3)", "ExitError"), "bash": ("exit 3", "KernelDied"),
}  # fmt: skip
BAD_REPR = {
    "python": "class B:\n  def __repr__(self): raise ValueError('no form')\nB()",
    "javascript": "({ [Symbol.for('nodejs.util.inspect.custom')]() { throw new Error('no form') } })",
    "java": 'new Object() { public String toString() { throw new IllegalStateException("no form"); } }',
}
BREAK = {
    "python": "import builtins\nfor n in ('print', 'len', 'isinstance', 'Exception'): delattr(builtins, n)",
    "javascript": "for (const n of ['console', 'Object', 'Promise', 'Buffer', 'process', 'JSON']) delete globalThis[n]",
    "bash": "enable -n printf echo cd export enable eval",
}
# Against everything that it may signal; itself is spared by kill(2), and init by the system.
MASSACRE = {
    "python": "import os; os.killpg(os.getpgid(os.getppid()), 9); os.kill(os.getppid(), 9)",
    "javascript": "process.kill(-1, 'SIGKILL'); process.kill(process.ppid, 'SIGKILL')",
    "java": "ProcessHandle.current().parent().get().pid()",
    "go": "syscall.Kill(-1, syscall.SIGKILL)\nsyscall.Kill(os.Getppid(), syscall.SIGKILL)",
    "bash": "kill -9 -1; kill -9 $PPID",
}
HOARD = {
    "python": "b = bytearray(2 << 30)\nfor i in range(0, len(b), 4096): b[i] = 1",
    "javascript": "const all = []; for (let i = 0; i < 100; i++) all.push(Buffer.alloc(20 << 20, 1))",
    "java": "import java.nio.*;\nvar all = new ArrayList<ByteBuffer>();\nfor (int i = 0; i < 100; i++) "
            "{ var b = ByteBuffer.allocateDirect(20 << 20); for (int j = 0; j < b.capacity(); j += 4096) b.put(j, (byte) 1); all.add(b); }",
    "go": "var all [][]byte\nfor i := 0; i < 100; i++ {\n\tall = append(all, bytes.Repeat([]byte{1}, 20<<20))\n}",
    "bash": 'x=$(head -c 20000000 /dev/zero | tr "\\0" x); for i in {1..100}; do all[i]=$x; done',
}  # fmt: skip
SPIN = {"python": "while True: pass", "javascript": "for (;;);", "java": "while (true);", "go": "for {\n}", "bash": "while :; do :; done"}


def get(table, language):
    """TypeScript's code is JavaScript's where it has none of its own."""
    return table.get(language, table.get("javascript") if language == "typescript" else None)


def filled(table, language, text):
    return get(table, language).format(text)


def installed(*languages):
    """Each of them, or of all, as a parameter; the reason to skip it when the machine lacks it."""
    params = []
    for language in languages or PROGRAMS:
        missing = not shutil.which(PROGRAMS[language])
        params.append(pytest.param(language, marks=pytest.mark.skipif(missing, reason=f"there is no {PROGRAMS[language]} here")))
    return pytest.mark.parametrize("language", params)


def alive(context):
    """It runs cells, and its state is as it was."""
    cell = context.run(get(KEPT, context.language))
    assert cell.error is None and cell.out[-1:] == ["7"], cell.events


def kept(agent, language, **fields):
    context = create(agent, language, **fields)
    assert context.run(get(KEEP, language)).error is None
    return context


# ---- bad cells ----------------------------------------------------------------------


@installed()
def test_bad_cells(execd, language, tmp_path):
    context = kept(execd, language)
    body = {"id": context.id, "language": language}

    for code in ("", " \n\t\n"):
        answer = execd.http.post("/code", json={"code": code, "context": body})
        assert answer.status_code == 400 and "empty" in answer.json()["message"]
    assert execd.http.post("/code", json={"code": "a\0b", "context": body}).status_code == 400
    invalid = b'{"code": "\xff\xfe", "context": {"id": "%s"}}' % context.id.encode()
    assert execd.http.post("/code", content=invalid, headers={"Content-Type": "application/json"}).status_code == 400
    mark = get(COMMENT, language) or "//"
    huge = f"{mark}{'x' * (10 << 20)}\n{filled(SAY, language, 'huge')}"
    answer = execd.http.post("/code", json={"code": huge, "context": body})
    assert answer.status_code == 413 and answer.json()["message"]
    large = f"{mark}{'x' * (1 << 20)}\n{filled(SAY, language, 'large')}"
    assert context.run(large).out == ["large"]
    alive(context)

    assert context.run(get(CLOSE, language)).error is None or language == "bash"
    assert context.run(filled(SAY, language, "open again")).out == ["open again"]

    with context.stream(get(FLOOD, language)) as response:
        seen = [(e["type"], len(e.get("text", ""))) for e in events(response)]
    assert seen.count(("stdout", 99)) == 100_000 and seen[-1][0] == "execution_complete"

    fifo, fd = hold(tmp_path)
    writes = tmp_path / "up"
    os.mkfifo(writes)
    reader = os.open(writes, os.O_RDONLY | os.O_NONBLOCK)
    cell = context.run(filled(DAEMON, language, f"exec 9>{fifo}; : >{writes}; exec sleep 1000"))
    assert cell.error is None, cell.error
    wait_for_end(reader)  # it is up
    alive(context)
    context.delete()
    wait_for_end(fd)
    os.close(reader)
    os.close(fd)


@installed()
def test_cells_that_break_their_own_ground(execd, language):
    context = kept(execd, language)
    if code := get(BAD_REPR, language):
        error = context.run(code).error
        assert "no form" in error["evalue"] + "\n".join(error["traceback"]), error
        alive(context)
    if code := get(BREAK, language):
        context.run(code)
        for more in ("x=1", "x=2"):
            assert context.run(more).error is None
    code, name = EXIT[language]
    error = context.run(code).error
    assert error["ename"] == name and "3" in error["evalue"], error
    if name == "KernelDied":
        assert context.info()["state"] == "dead"
        assert execd.http.post(f"/code/contexts/{context.id}/restart").status_code == 200
        assert context.run(filled(SAY, language, "anew")).out == ["anew"]
    elif not get(BREAK, language):
        alive(context)


@installed("python", "javascript", "java", "go", "bash")
@pytest.mark.skipif(os.getuid() != 0, reason="a process namespace of its own needs root")
def test_a_cell_that_kills_whom_it_can_where_the_agent_is_init(tmp_path, language):
    """As PID 1 the agent is safe from its own cells; elsewhere kernels/README.md says what they can do."""
    wrap = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "setsid"]
    agent = Daemon([*wrap, EXECD, "--listen-fd", "{fd}", "--init"], tmp_path / "log", {**os.environ, "EXECD_ACCESS_TOKEN": TOKEN})
    agent.token, agent.expect_exit = TOKEN, None
    agent.http = agent.client({"X-EXECD-ACCESS-TOKEN": TOKEN}, timeout=60)
    agent.stream = agent.http.stream
    try:
        context = kept(agent, language)
        context.run(MASSACRE[language])
        assert agent.http.get("/ping").status_code == 200
        if context.info()["state"] == "idle":
            alive(context)
        else:
            assert agent.http.post(f"/code/contexts/{context.id}/restart").status_code == 200
        assert context.run(filled(SAY, language, "lives")).out == ["lives"]
    finally:
        agent.process.kill()  # of unshare, and so of all within
        agent.process.wait()
        agent.stop()


@installed("javascript", "typescript", "java", "go")
def test_what_cannot_be_forked_says_so(execd, language):
    context = create(execd, language)
    answer = fork(context)
    assert answer.status_code == 501 and f"a {language} context cannot be forked" in answer.json()["message"]
    assert [c["id"] for c in execd.http.get("/code/contexts").json()] == [context.id]


# ---- limits ---------------------------------------------------------------------------


@installed("javascript", "java", "go", "bash")
def test_want_of_memory_ends_the_cell_and_says_so(execd, language):
    other = kept(execd, "bash")
    context = kept(execd, language, limits={"memory_bytes": 600 << 20})
    by = context.info()["limits"]["memory_bytes"]["by"]
    error = context.run(get(HOARD, language)).error
    if by != "cgroup":  # an address space that ends: what the language makes of that
        assert error is not None
    elif error["ename"] == "KernelDied":
        assert "out of memory at its limit of 629145600 bytes" in error["evalue"], error
        info = context.info()
        assert info["state"] == "dead" and "out of memory" in info["reason"]
        answer = execd.http.post("/code", json={"code": "1", "context": {"id": context.id}})
        assert answer.status_code == 409 and "out of memory" in answer.json()["message"]
    else:  # the JVM has a bound of its own that comes first
        assert language == "java" and "OutOfMemoryError" in error["evalue"], error
    alive(other)
    if context.info()["state"] == "dead":
        assert execd.http.post(f"/code/contexts/{context.id}/restart").status_code == 200
        assert context.run(filled(SAY, language, "anew")).out == ["anew"]
        assert context.info()["limits"]["memory_bytes"]["value"] == 600 << 20


@installed()
def test_limits_of_time_and_output(execd, language):
    context = kept(execd, language, limits={"output_bytes": 100_000, "open_files": 256})
    assert context.info()["limits"]["output_bytes"] == {"value": 100_000, "by": "agent"}
    with context.stream(get(FLOOD, language)) as response:
        seen = list(events(response))
    assert sum(len(e["text"]) + 1 for e in seen if e["type"] == "stdout") == 100_000
    assert seen[-1]["error"]["ename"] == "OutputLimitError" and seen[-1]["end"]["reason"] == "output_limit", seen[-1]
    assert "100000 bytes" in seen[-1]["error"]["evalue"]
    alive(context)  # and has all of its budget again
    cell = context.run(get(SPIN, language), timeout=200)
    assert cell.error["ename"] == "TimeoutError" and cell.reason == "timeout", cell.error
    alive(context)


@installed("javascript", "go", "bash")
def test_a_limit_of_cpu_time(execd, language):
    other = kept(execd, "bash")
    context = kept(execd, language, limits={"cpu_seconds": 1})
    error = context.run(get(SPIN, language)).error
    assert error["ename"] == "KernelDied" and ("signal 24" in error["evalue"] or "signal 9" in error["evalue"]), error
    assert context.info()["state"] == "dead"
    alive(other)


# ---- what waits -----------------------------------------------------------------------------


@installed("javascript", "java")
def test_a_spare_serves_a_context_in_another_directory(execd, tmp_path, language):
    first = create(execd, language, **({"cwd": str(tmp_path)} if language == "java" else {}))
    while True:  # it can be sent elsewhere once it has said hello
        used = {context["pid"] for context in execd.http.get("/code/contexts").json()}
        while not (waiting := children(execd.pid) - used):
            first.run(filled(SAY, language, "a round trip"))
        context = create(execd, language, cwd=str(tmp_path))
        if context.info()["pid"] in waiting:
            break
        context.delete()
    (tmp_path / "here").write_text("")
    look = {"javascript": "console.log(process.cwd(), fs.existsSync('here'))",
            "java": 'System.out.println(new File("").getAbsolutePath() + " " + new File("here").exists());'}
    assert context.run(look[language]).out == [f"{tmp_path} true"]


# ---- idleness -----------------------------------------------------------------------------


@installed("javascript", "java", "go", "bash")
def test_idle_kernels_are_evicted(start_execd, tmp_path, language):
    """The default context, as one that is idle for too long before its first cell begins anew by itself."""
    agent = start_execd(args=["--kernel-idle-timeout", "300ms"])
    context = Context(agent, language=language)
    fifo, fd = hold(tmp_path)
    assert context.run(filled(DAEMON, language, f"exec 9>{fifo}; exec sleep 1000")).error is None
    wait_for_end(fd)
    os.close(fd)
    (info,) = agent.http.get("/code/contexts", params={"language": language}).json()
    assert info["state"] == "evicted" and "300 ms" in info["reason"] and "pid" not in info
    cell = context.run(filled(SAY, language, "back"))
    assert cell.out == ["back"] and "evicted" in next(e for e in cell.events if e["type"] == "status")["text"]
