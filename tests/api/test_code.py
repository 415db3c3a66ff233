"""Code contexts: Python cells in supervised kernels."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from code_cells import Cell, Context, create, gate, hold, release, wait_for_end
from daemon import ROOT, children, events


@pytest.fixture
def context(execd):
    return create(execd)


@pytest.fixture
def default(execd):
    return Context(execd)


# ---- values and state -------------------------------------------------------------


def test_state_stays_and_the_last_value_is_the_result(context):
    assert context.run("x = 41").results == []
    assert context.value("x + 1") == "42"
    assert context.value("'text'") == "'text'"
    assert context.value("_") == "'text'"
    cell = context.run("def f(a): return a * 2\nimport math\nclass A: pass")
    assert (cell.out, cell.results, cell.error) == ([], [], None)
    assert context.value("f(math.floor(2.5)), A.__module__, __name__") == "(4, '__main__', '__main__')"
    assert context.run("None").results == []
    assert context.run("x;").results == []
    assert context.run("if True:\n    x").results == []


def test_cells_are_counted(context):
    assert [context.run("1").count, context.run("x = 1").count, context.run("1/0").count] == [1, 2, 3]
    assert context.info()["execution_count"] == 3


def test_the_default_context_lives_on_between_calls(default):
    default.run("x = 5")
    assert default.value("x") == "5"
    assert [c["default"] for c in default.agent.http.get("/code/contexts").json()] == [True]


def test_a_cell_may_be_indented_as_a_whole(context):
    assert context.value("\n    import sys\n    if sys:\n        y = 7\n    y\n    ") == "7"


def test_classes_of_a_cell_can_be_pickled(context):
    context.run("import pickle\nclass P:\n    def __init__(self): self.a = 3")
    assert context.value("pickle.loads(pickle.dumps(P())).a") == "3"


def test_future_imports_hold_for_later_cells(context):
    context.run("from __future__ import annotations")
    assert context.value("def f(a: nothing_of_that_name): pass\nf.__annotations__") == (
        "{'a': 'nothing_of_that_name'}"
    )


def test_top_level_await_and_tasks_that_survive(context):
    assert context.value("import asyncio\nawait asyncio.sleep(0, 'slept')") == "'slept'"
    context.run("async def work():\n    await asyncio.sleep(0.01)\n    return 'done'\ntask = asyncio.create_task(work())")
    assert context.value("await task") == "'done'"
    # Between cells the loop goes on: the thread says when the task has been there.
    context.run(
        "import threading\nseen = threading.Event()\n"
        "async def later():\n    await asyncio.sleep(0)\n    await asyncio.sleep(0)\n    seen.set()\n"
        "t2 = asyncio.ensure_future(later())"
    )
    context.run("1")
    context.run("1")
    assert context.value("seen.is_set()") == "True"


def test_asyncio_run_works_as_in_a_script(context):
    assert context.value("import asyncio\nasyncio.run(asyncio.sleep(0, 5))") == "5"
    assert context.value("await asyncio.sleep(0, 6)") == "6"


def test_threads_survive_and_their_output_opens_the_next_cell(context, tmp_path):
    fifo = gate(tmp_path)
    cell = context.run(
        "import threading\n"
        f"def work():\n    open({str(fifo)!r}).read()\n    print('between cells')\n"
        "t = threading.Thread(target=work); t.start()"
    )
    assert cell.error is None and cell.out == []
    release(fifo)  # no cell runs
    cell = context.run("t.join(); 'joined'")
    assert cell.out == ["between cells"] and cell.results[0]["text"] == "'joined'"


def test_cwd_of_a_context_is_made_and_used(execd, tmp_path):
    path = tmp_path / "new" / "folder"
    context = create(execd, cwd=str(path))
    assert path.is_dir()
    assert context.value("import os; os.getcwd()") == repr(str(path))
    (path / "mine.py").write_text("value = 9")
    assert context.value("import mine; mine.value") == "9"
    (tmp_path / "file").write_text("")
    answer = execd.http.post("/code/context", json={"language": "python", "cwd": str(tmp_path / "file")})
    assert answer.status_code == 400 and "not a directory" in answer.json()["message"]


def test_a_module_of_the_users_does_not_break_the_kernel(execd, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('broken')")
    (tmp_path / "asyncio.py").write_text("raise SystemExit('broken')")
    assert create(execd, cwd=str(tmp_path)).value("1 + 1") == "2"


def test_environment_is_read_anew_for_each_context(start_execd, tmp_path):
    env_file = tmp_path / "env"
    env_file.write_text("COLOUR=red\n")
    agent = start_execd(env={"EXECD_ENVS": str(env_file)})
    first = create(agent)
    env_file.write_text("COLOUR=blue\n")
    second = create(agent)
    code = "import os; os.environ['COLOUR']"
    assert [first.value(code), second.value(code)] == ["'red'", "'blue'"]


def test_the_token_is_not_in_the_kernels_environment(context):
    code = "import os; [v for v in os.environ.values() if %r in v]" % context.agent.token
    assert context.value(code) == "[]"


# ---- output ------------------------------------------------------------------------


def test_everything_written_comes_in_order_before_the_end(context):
    cell = context.run(
        "import os, subprocess, sys, ctypes\n"
        "print('print')\n"
        "os.write(1, b'write\\n')\n"
        "os.system('echo system')\n"
        "print('part', end=' ')\n"
        "subprocess.run(['echo', 'of a line'])\n"
        "ctypes.CDLL(None).puts(b'from C')\n"
    )
    assert cell.out == ["print", "write", "system", "part of a line", "from C"]


def test_what_a_large_pipe_holds_comes_before_the_end(context):
    """More than execd reads at once is still in the pipe when the end of the cell arrives."""
    context.run("import fcntl, os\nF_SETPIPE_SZ = 1031\nfcntl.fcntl(1, F_SETPIPE_SZ, 1 << 20)")
    for _ in range(5):
        cell = context.run("os.write(1, (b'y' * 99 + b'\\n') * 10000)")
        assert len(cell.out) == 10000 and cell.events[-3]["type"] == "execution_count"
        assert cell.results == [{"text": "1000000"}]


def test_streams_and_results_keep_their_order(context):
    cell = context.run(
        "import sys\nfor i in range(3):\n"
        "    print('o', i)\n    print('e', i, file=sys.stderr)\n    display(i)\n'last'"
    )
    expected = []
    for i in range(3):
        expected += [("stdout", f"o {i}"), ("stderr", f"e {i}"), ("result", str(i))]
    assert cell.order == expected + [("result", "'last'")]


def test_output_comes_while_the_cell_runs(context, tmp_path):
    fifo = gate(tmp_path)
    with context.stream(f"print('a'); print('b', end='')\nopen({str(fifo)!r}).read()\nprint('c')") as response:
        stream = events(response)
        seen = []
        while "a" not in seen:
            event = next(stream)
            seen.append(event.get("text"))
        release(fifo)
        assert [e["text"] for e in stream if e["type"] == "stdout"] == ["bc"]


def test_what_a_displayhook_of_the_users_prints_comes_after_the_value(context):
    context.run("import sys\nold = sys.displayhook\ndef hook(v):\n    old(v)\n    print('after', file=sys.stderr)\nsys.displayhook = hook")
    for i in range(20):
        assert context.run(f"print({i}); {i}").order == [("stdout", str(i)), ("result", str(i)), ("stderr", "after")]


def test_a_burst_keeps_its_order(context):
    """Lines of a burst are collected; whoever else writes to the same pipe finds them written."""
    context.run("import ctypes, os, subprocess, sys\nlibc = ctypes.CDLL(None)")
    cell = context.run(
        "for i in range(3000):\n"
        "    print(i)\n"
        "    if i % 1000 == 500: os.write(1, b'os\\n')\n"
        "    if i % 1000 == 600: libc.write(1, b'C\\n', 2)\n"
        "    if i % 1000 == 700: subprocess.run(['echo', 'program'])\n"
        "    if i % 1000 == 800: os.system('echo shell')\n"
        "    if i % 1000 == 900: print('error', file=sys.stderr)\n"
        "    if i == 2950: sys.stdout.buffer.write(b'bytes\\n')\n"
    )
    expected = []
    for i in range(3000):
        expected.append(("stdout", str(i)))
        also = {500: "os", 600: "C", 700: "program", 800: "shell"}.get(i % 1000)
        if also:
            expected.append(("stdout", also))
        if i % 1000 == 900:
            expected.append(("stderr", "error"))
        if i == 2950:
            expected.append(("stdout", "bytes"))
    assert cell.order == expected


def test_the_end_of_a_burst_is_shown_while_the_cell_goes_on(context, tmp_path):
    fifo = gate(tmp_path)
    code = f"for i in range(5000): print(i)\nprint('rest', end='')\nopen({str(fifo)!r}).read()"
    with context.stream(code) as response:
        stream = events(response)
        while next(stream).get("text") != "4999":
            pass
        release(fifo)
        assert [e["text"] for e in stream if e["type"] == "stdout"] == ["rest"]


def test_a_burst_before_the_process_ends(context):
    cell = context.run("import os\nfor i in range(5000): print(i)\nos._exit(0)")
    assert cell.out == [str(i) for i in range(5000)] and cell.error["ename"] == "KernelDied"


def test_a_burst_of_many_threads_and_a_fork(context):
    cell = context.run(
        "import os, sys, threading\n"
        "def work(name):\n"
        "    for i in range(2000): sys.stdout.write(f'{name} {i}\\n')\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in 'abcd']\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    work('child')\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)[1]\n"
    )
    assert cell.results == [{"text": "0"}]
    assert sorted(cell.out) == sorted(f"{name} {i}" for name in ("a", "b", "c", "d", "child") for i in range(2000))


def test_fifty_megabytes(context):
    n = 50 << 20
    with context.stream(
        f"import sys\nline = 'x' * 1023 + '\\n'\nfor _ in range({n} // 1024): sys.stdout.write(line)\n'end'"
    ) as response:
        size, last = 0, None
        for event in events(response):
            if event["type"] == "stdout":
                size += len(event["text"]) + 1
            elif event["type"] == "result":
                last = event["results"]["text"]
    assert (size, last) == (n, "'end'")


def test_bytes_that_are_no_text_and_an_unfinished_line(context):
    cell = context.run("import os\nos.write(1, b'\\xff\\xfe ok')\nprint('\\ud800 lone', end='')")
    assert cell.out == ["\ufffd\ufffd ok\\ud800 lone"]


def test_a_cell_that_closes_its_output_harms_no_later_cell(context):
    context.run("import os; os.close(1); os.close(2)")
    assert context.run("print('back'); os.write(2, b'err\\n')").order[:2] == [("stdout", "back"), ("stderr", "err")]
    context.run("import sys; sys.stdout.close(); sys.stderr = None; del sys.displayhook")
    assert context.run("print('still')\n3").order == [("stdout", "still"), ("result", "3")]
    context.run("sys.stdout = None")
    assert context.run("print('again')").out == ["again"]


def test_a_pipe_left_non_blocking_by_a_program(context):
    cell = context.run("import os\nos.set_blocking(1, False)\nfor i in range(20000): print('y' * 50)\n'end'")
    assert cell.error is None and len(cell.out) == 20000
    context.run("os.set_blocking(1, False)")
    assert len(context.run("for i in range(20000): print('y' * 50)").out) == 20000


def test_a_background_process_does_not_hold_the_cell(context, tmp_path):
    fifo, fd = hold(tmp_path)
    cell = context.run(f"import subprocess\np = subprocess.Popen('exec 9>{fifo}; echo up; exec sleep 1000', shell=True)\nopen({str(fifo)!r}, 'w').close()")
    assert cell.error is None
    context.delete()
    wait_for_end(fd)


# ---- results ------------------------------------------------------------------------


def test_rich_results(context):
    context.run(
        "class Rich:\n"
        "    def __repr__(self): return 'plain'\n"
        "    def _repr_html_(self): return '<b>bold</b>'\n"
        "    def _repr_png_(self): return b'\\x89PNG'\n"
        "    def _repr_json_(self): return {'a': [1, None]}\n"
        "    def _repr_svg_(self): return None\n"
        "    def _repr_latex_(self): raise NotImplementedError\n"
        "class Bundle:\n"
        "    def _repr_mimebundle_(self, include=None, exclude=None): return {'text/x': 'y'}, {}\n"
    )
    assert context.run("Rich()").results == [
        {
            "text": "plain",
            "text/html": "<b>bold</b>",
            "image/png": base64.b64encode(b"\x89PNG").decode(),
            "application/json": {"a": [1, None]},
        }
    ]
    bundle = context.run("Bundle()").results[0]
    assert bundle["text/x"] == "y" and "Bundle object" in bundle["text"]
    assert context.run("Rich").results == [{"text": "<class '__main__.Rich'>"}]
    assert context.run("display({'text/plain': 'raw'}, raw=True)").results == [{"text": "raw"}]


def test_a_rich_form_that_fails_costs_only_itself(context):
    cell = context.run("class R:\n    def _repr_html_(self): raise ValueError('bad html')\n    def __repr__(self): return 'r'\nR()")
    assert cell.results == [{"text": "r"}] and "ValueError: bad html" in cell.err


def test_repr_that_fails_is_an_error_with_the_users_lines(context):
    cell = context.run("class R:\n    def __repr__(self):\n        raise ValueError('no repr')\nR()")
    assert cell.error["ename"] == "ValueError" and "    def" not in cell.error["evalue"]
    assert "        raise ValueError('no repr')".strip() in "\n".join(cell.error["traceback"])
    assert context.value("1") == "1"


def test_values_that_json_cannot_say(context):
    assert context.value("'\\0 \\ud800 \\\\u0000'") == "'\\x00 \\ud800 \\\\u0000'"
    cell = context.run("display({'text/html': 'a\\0b \\ud800', 'x/nan': float('nan'), 'x/obj': object()}, raw=True)")
    assert cell.results == [{"text/html": "a\ufffdb ?"}]


def test_large_results(context):
    text = context.value("'z' * 3_000_000")
    assert text.startswith("'zzz") and text.endswith("more characters)") and len(text) < 1_100_000
    cell = context.run("display({'text/html': 'h' * 4_000_000, 'text/plain': 'p'}, raw=True)")
    assert len(cell.results[0]["text/html"]) == 4_000_000 and cell.results[0]["text"] == "p"
    cell = context.run("display({'text/html': 'h' * 20_000_000}, raw=True)")
    assert "too large" in cell.results[0]["text"] and "text/html" not in cell.results[0]


def has_module(name):
    python = shutil.which("python3")
    return subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode == 0


def test_figures_without_any_call(context):
    if not has_module("matplotlib"):
        pytest.skip("python3 in PATH has no matplotlib")
    cell = context.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('between')\nplt.figure(); plt.plot([3]);")
    kinds = [("image/png" if "results" in e and "image/png" in e["results"] else e["type"]) for e in cell.events]
    assert [k for k in kinds if k in ("image/png", "stdout")] == ["image/png", "stdout", "image/png"]
    assert base64.b64decode(cell.results[0]["image/png"]).startswith(b"\x89PNG")
    assert len(context.run("f = plt.figure(); plt.plot([1]); f").results) == 1
    assert context.run("1;").results == []


def test_tables_as_html(context):
    if not has_module("pandas"):
        pytest.skip("python3 in PATH has no pandas")
    cell = context.run("import pandas\npandas.DataFrame({'a': [1]})")
    assert "<table" in cell.results[0]["text/html"] and "a" in cell.results[0]["text"]


# ---- errors --------------------------------------------------------------------------


def test_an_exception_shows_the_users_lines(context):
    context.run("def inner(n):\n    return 1 / n")
    cell = context.run("x = 0\ninner(x)")
    assert cell.error["ename"] == "ZeroDivisionError" and cell.error["evalue"] == "division by zero"
    lines = [line for line in cell.error["traceback"] if "^" not in line]
    assert lines == [
        "Traceback (most recent call last):",
        '  File "<cell 2>", line 2, in <module>',
        "    inner(x)",
        '  File "<cell 1>", line 2, in inner',
        "    return 1 / n",
        "ZeroDivisionError: division by zero",
    ]
    assert cell.reason == "failed"


def test_causes_are_shown_and_the_kernel_is_not(context):
    cell = context.run("import subprocess\ntry:\n    subprocess.run(['/nosuch'])\nexcept OSError as e:\n    raise ValueError('v') from e")
    text = "\n".join(cell.error["traceback"])
    assert "direct cause" in text and "FileNotFoundError" in text and "<execd>" not in text


def test_syntax_errors(context):
    cell = context.run("print('not run')\nfor")
    assert cell.error["ename"] == "SyntaxError" and "line 2" in cell.error["evalue"] and cell.out == []
    assert '  File "<cell 1>", line 2' in cell.error["traceback"]
    cell = context.run("print('not run either')\nreturn 5")
    assert cell.error["ename"] == "SyntaxError" and cell.out == []


def test_system_exit_is_an_error_and_the_context_lives(context):
    context.run("x = 1")
    for code, value in (("raise SystemExit(3)", "3"), ("import sys; sys.exit('why')", "why"), ("exit()", "None"), ("quit(2)", "2")):
        error = context.run(code).error
        assert error["ename"] == "SystemExit" and error["evalue"] == value
    assert context.value("x") == "1"


def test_input_says_why_it_fails(context):
    cell = context.run("input('name? ')")
    assert cell.error["ename"] == "RuntimeError" and "no standard input" in cell.error["evalue"]
    assert context.value("import sys; sys.stdin.read()") == "''"


def test_errors_that_cannot_be_said(context):
    cell = context.run("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E()")
    assert cell.error["ename"] == "E" and "str() failed" in cell.error["evalue"]
    cell = context.run("raise ValueError('v' * 5_000_000)")
    assert cell.error["ename"] == "ValueError" and len(cell.error["evalue"]) < 300_000
    cell = context.run("def f(): f()\nf()")
    assert cell.error["ename"] == "RecursionError"
    assert context.value("1") == "1"


def test_a_cell_that_takes_the_builtins_away(context):
    assert context.run("import builtins\nvars(builtins).clear()").error is None
    assert context.run("print(len([1]))").out == ["1"]
    context.run("del __builtins__")
    assert context.run("print(sorted([2, 1]))").out == ["[1, 2]"]
    context.run("import sys; sys.modules.clear()")
    assert context.value("1 + 1") == "2"


def test_a_forked_child_is_not_the_kernel(context):
    cell = context.run("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('child' if pid == 0 else 'parent')")
    assert cell.out == ["child", "parent"] and cell.error is None
    assert context.run("print('once')").out == ["once"]
    cell = context.run("pid = os.fork()\nif not pid: raise ValueError('in the child')\nos.waitpid(pid, 0)[1] >> 8")
    assert cell.results == [{"text": "1"}] and "ValueError: in the child" in cell.err


# ---- magics ---------------------------------------------------------------------------


def test_shell_lines_and_magics_without_ipython(context, tmp_path):
    assert context.run("name = 'x'\n!echo {name} $name $HOME_NOT_SET.").out == ["x x ."]
    assert context.value("lines = !printf 'a\\nb\\n'\nlines") == "['a', 'b']"
    assert context.run(f"%cd {tmp_path}\n%pwd").results == [{"text": repr(str(tmp_path))}]
    assert context.run("%env MINE=5\n!echo $MINE").out == ["env: MINE=5", "5"]
    cell = context.run("%time sum(range(10))")
    assert cell.results == [{"text": "45"}] and cell.out[-1].startswith("Wall time: ")
    assert context.run("%pip --version").out[0].startswith("pip ")
    assert context.run("%%bash\necho $((1 + 1))\necho e >&2").order == [("stdout", "2"), ("stderr", "e")]
    assert context.run("%%writefile f.txt\none\ntwo").out == ["Writing f.txt"]
    assert (tmp_path / "f.txt").read_text() == "one\ntwo"
    assert context.run("%matplotlib inline\n4").results == [{"text": "4"}]
    assert context.run("for i in range(2):\n    !echo $i").out == ["0", "1"]


def test_what_looks_like_a_magic_and_is_python(context):
    assert context.value("x, y = 7, 4\n(x\n % y)") == "3"
    assert context.value('"""\n%time\n!ls\n"""') == repr("\n%time\n!ls\n")
    assert context.value("x != y") == "True"
    cell = context.run("!true\ns = '''\n!not run\n'''\nlen(s)")
    assert cell.results == [{"text": "10"}] and cell.error is None


@pytest.fixture
def with_ipython(start_execd):
    """A context whose Python has IPython, in a venv that the first test to want it makes."""
    sys.path.insert(0, str(ROOT / "tests/bench"))
    from cells import jupyter_venv

    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build/jupyter.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            venv = jupyter_venv()
        except subprocess.CalledProcessError as problem:
            pytest.skip(f"the wheels of tests/bench/requirements.txt cannot be had: {problem}")
    return create(start_execd(env={"PATH": f"{venv}/bin:{os.environ['PATH']}"}))


def test_magics_and_display_of_ipython(with_ipython):
    cell = with_ipython.run("from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))\nprint('after')\nHTML('<i>y</i>')")
    assert [kind if kind == "stdout" else "result" for kind, _ in cell.order] == ["result", "stdout", "result"]
    assert [result["text/html"] for result in cell.results] == ["<b>x</b>", "<i>y</i>"]
    with_ipython.run("mine = 1")
    assert "'mine'" in with_ipython.value("%who_ls")
    assert with_ipython.run("%cd /\n!pwd").out[-1] == "/"
    assert with_ipython.run("%nosuchmagic").error is not None
    assert with_ipython.value("1 + 1") == "2"


def test_an_unknown_magic_is_named(context):
    cell = context.run("%nosuchmagic 1")
    assert "nosuchmagic" in cell.error["evalue"]
    cell = context.run("%%bash\nexit 3")
    assert cell.error["ename"] == "CalledProcessError" and "3" in cell.error["evalue"]


# ---- interrupt and timeout ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        "while True: pass",
        "import time; time.sleep(1000)",
        "import subprocess; subprocess.run(['sleep', '1000'])",
        "import os; os.read(os.pipe()[0], 1)",
        "!sleep 1000",
        "import asyncio; await asyncio.sleep(1000)",
        "async def f():\n    while True: pass\nawait f()",
        "import threading; threading.Event().wait()",
        "class R:\n    def __repr__(self):\n        while True: pass\nR()",
    ],
)
def test_interrupt(context, wait):
    context.run("kept = 1")
    with context.stream("print('begun')\n" + wait) as response:
        stream = events(response)
        for event in stream:
            if event["type"] == "stdout":
                break
        context.interrupt()
        last = [event for event in stream][-1]
    assert last["type"] == "error" and last["error"]["ename"] == "KeyboardInterrupt", last
    assert last["end"]["reason"] == "interrupted"
    assert context.value("kept") == "1"


def test_interrupt_at_once(context):
    """The id can be interrupted as soon as it is known, whether the code has begun or not."""
    for _ in range(20):
        with context.stream("while True: pass") as response:
            stream = events(response)
            assert next(stream)["type"] == "init"
            context.interrupt()
            assert [event for event in stream][-1]["error"]["ename"] == "KeyboardInterrupt"


def test_interrupt_of_a_flood(context):
    with context.stream("while True: print('x' * 1000)") as response:
        stream = events(response)
        for event in stream:
            if event["type"] == "stdout":
                break
        context.interrupt()
        assert [event for event in stream][-1]["error"]["ename"] == "KeyboardInterrupt"
    with context.stream("while True: display(1)") as response:
        stream = events(response)
        for event in stream:
            if event["type"] == "result":
                break
        context.interrupt()
        assert [event for event in stream][-1]["error"]["ename"] == "KeyboardInterrupt"
    assert context.value("1") == "1"


def test_interrupt_of_an_idle_context_is_nothing(context):
    context.run("x = 1")
    for _ in range(3):
        context.interrupt()
        assert context.value("x") == "1"


def test_interrupt_of_nobody(execd):
    answer = execd.http.delete("/code", params={"id": "nosuch"})
    assert answer.status_code == 404 and answer.json()["code"] == "CONTEXT_NOT_FOUND"
    answer = execd.http.delete("/code")
    assert answer.status_code == 400 and answer.json()["code"] == "MISSING_QUERY"


def test_a_cell_that_overrides_the_interrupt_does_so_for_itself_only(context):
    context.run("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
    with context.stream("print(1)\nwhile True: pass") as response:
        stream = events(response)
        for event in stream:
            if event["type"] == "stdout":
                break
        context.interrupt()
        assert [event for event in stream][-1]["error"]["ename"] == "KeyboardInterrupt"


def test_timeout(context):
    context.run("x = 1")
    cell = context.run("while True: pass", timeout=50)
    assert cell.error["ename"] == "TimeoutError" and "50 ms" in cell.error["evalue"]
    assert cell.reason == "timeout" and '  File "<cell 2>", line 1, in <module>' in cell.error["traceback"]
    assert context.value("x") == "1"


def test_a_cell_that_does_not_heed_its_timeout_loses_its_kernel(context):
    cell = context.run("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", timeout=50)
    assert cell.reason == "timeout" and "killed" in cell.error["evalue"]
    assert context.info()["state"] == "dead"


def test_cells_queue_in_order_and_can_be_taken_back(context, tmp_path):
    fifo = gate(tmp_path)
    with context.stream(f"print('first')\nlog = []\nopen({str(fifo)!r}).read()") as first:
        stream = events(first)
        while next(stream)["type"] != "stdout":
            pass
        with context.stream("log.append(1)") as second, context.stream("log.append('never')") as third:
            third_run = third.headers["x-execd-run-id"]
            with context.stream("log.append(2); log") as fourth:
                assert context.info()["waiting"] == 3 and context.info()["state"] == "busy"
                assert context.agent.http.delete("/code", params={"id": third_run}).status_code == 200
                taken_back = [e for e in events(third)][-1]
                release(fifo)
                assert Cell([e for e in events(second)]).error is None
                assert Cell([e for e in events(fourth)]).results == [{"text": "[1, 2]"}]
                assert taken_back["end"]["reason"] == "interrupted"


# ---- death ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, words",
    [
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("import os; os._exit(3)", "exited with code 3"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
        ("import os; os.killpg(0, 15)", "signal 15"),
        ("import os; os.closerange(0, 1000); import time; time.sleep(1000)", "closed its control socket"),
        ("import os; os.execvp('true', ['true'])", "exited with code 0"),
    ],
)
def test_a_kernel_that_dies_ends_its_cell_and_nothing_else(execd, code, words):
    context, other = create(execd), create(execd)
    other.run("x = 1")
    cell = context.run("print('last words')\n" + code)
    assert cell.out == ["last words"]
    assert cell.error["ename"] == "KernelDied" and words in cell.error["evalue"], cell.error
    assert other.value("x") == "1"
    info = context.info()
    assert info["state"] == "dead" and words in info["reason"]
    answer = execd.http.post("/code", json={"code": "1", "context": {"id": context.id}})
    assert answer.status_code == 409 and "restart" in answer.json()["message"]
    assert execd.http.post(f"/code/contexts/{context.id}/restart").status_code == 200
    assert context.info()["state"] == "idle" and context.value("1") == "1"


def test_cells_that_wait_end_with_the_kernel(context, tmp_path):
    fifo = gate(tmp_path)
    with context.stream(f"print(1)\nopen({str(fifo)!r}).read()\nimport os; os._exit(1)") as first:
        stream = events(first)
        while next(stream)["type"] != "stdout":
            pass
        with context.stream("2") as second:
            release(fifo)
            assert Cell([e for e in events(second)]).error["ename"] == "KernelDied"


def test_the_default_context_comes_back_by_itself_and_says_so(default):
    default.run("x = 1")
    error = default.run("import os; os._exit(1)").error
    assert error["ename"] == "KernelDied" and "new kernel" in error["evalue"]
    cell = default.run("'x' in globals()")
    assert cell.results == [{"text": "False"}] and cell.count == 1
    status = [event for event in cell.events if event["type"] == "status"]
    assert "exited with code 1" in status[0]["text"]
    assert [e for e in default.run("1").events if e["type"] == "status"] == []


def test_contexts_outlive_the_process_they_came_from(start_execd):
    execd = start_execd(args=["--kernel-spares", "0"])  # one that is just being forked looks like the zygote
    first = create(execd)
    pid = int(first.value("import os; os.getpid()"))
    zygotes = [p for p in Path("/proc").glob("[0-9]*") if is_zygote(p, execd.pid)]
    assert len(zygotes) == 1 and int(zygotes[0].name) != pid
    pidfd = os.pidfd_open(int(zygotes[0].name))
    os.kill(int(zygotes[0].name), signal.SIGKILL)
    assert select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)
    assert first.value("1") == "1"
    assert create(execd).value("2") == "2"


def is_zygote(proc, agent):
    """A child of the agent that has run no cell: it stands in / and leads its own session."""
    try:
        parent = int((proc / "stat").read_text().rsplit(")", 1)[1].split()[1])
        return parent == agent and os.readlink(proc / "cwd") == "/" and b"-c" in (proc / "cmdline").read_bytes()
    except OSError:
        return False


def test_deleting_a_context_kills_what_it_started(context, tmp_path):
    plain, plain_fd = hold(tmp_path, "plain")
    daemon, daemon_fd = hold(tmp_path, "daemon")
    cell = context.run(
        f"import subprocess\n"
        f"a = subprocess.Popen('exec 9>{plain}; echo a; exec sleep 1000', shell=True, stdout=subprocess.PIPE)\n"
        f"b = subprocess.Popen('exec 9>{daemon}; echo b; exec sleep 1000', shell=True, stdout=subprocess.PIPE, start_new_session=True)\n"
        f"a.stdout.readline(), b.stdout.readline()"
    )
    assert cell.error is None
    context.delete()
    wait_for_end(plain_fd)
    wait_for_end(daemon_fd)
    assert context.agent.http.get(f"/code/contexts/{context.id}").status_code == 404


def test_deleting_a_context_ends_its_cell(context):
    with context.stream("print(1)\nwhile True: pass") as response:
        stream = events(response)
        while next(stream)["type"] != "stdout":
            pass
        context.delete()
        last = [e for e in stream][-1]
    assert last["error"]["ename"] == "ContextDeleted" and last["end"]["reason"] == "cancelled"


def test_contexts_die_with_the_agent(start_execd, tmp_path):
    agent = start_execd()
    fifo, fd = hold(tmp_path)
    with create(agent).stream(f"f = open({str(fifo)!r}, 'w')\nprint(1)\nwhile True: pass") as response:
        stream = events(response)
        while next(stream)["type"] != "stdout":
            pass
        agent.expect_exit = None
        agent.process.kill()
        wait_for_end(fd)


# ---- contexts ----------------------------------------------------------------------------------


def test_contexts_are_isolated_and_run_at_once(execd):
    contexts = []
    lock = threading.Lock()
    problems = []
    n = 20
    barrier = threading.Barrier(n)

    def work(i):
        try:
            context = create(execd)
            with lock:
                contexts.append(context.id)
            context.run(f"x = {i}")
            barrier.wait(60)
            assert context.value("x") == str(i)
        except Exception as problem:  # shown by the main thread
            problems.append(problem)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems
    assert len(set(contexts)) == n
    assert {c["id"] for c in execd.http.get("/code/contexts").json()} == set(contexts)


def test_random_numbers_differ_between_contexts(execd):
    code = "import random, uuid; (random.random(), uuid.uuid4().hex)"
    assert create(execd).value(code) != create(execd).value(code)


def test_listing_and_deleting_by_language(execd):
    ids = {create(execd).id for _ in range(3)}
    listed = execd.http.get("/code/contexts", params={"language": "python"})
    assert listed.status_code == 200 and {c["id"] for c in listed.json()} == ids
    assert all(c["language"] == "python" for c in listed.json())
    answer = execd.http.delete("/code/contexts")
    assert answer.status_code == 400 and answer.json()["code"] == "MISSING_QUERY"
    assert execd.http.delete("/code/contexts", params={"language": "python"}).status_code == 200
    assert execd.http.get("/code/contexts").json() == []
    assert Context(execd).value("1") == "1"


def test_restart_gives_a_new_kernel_and_ends_what_ran(context):
    context.run("x = 1")
    with context.stream("print(1)\nwhile True: pass") as response:
        stream = events(response)
        while next(stream)["type"] != "stdout":
            pass
        answer = context.agent.http.post(f"/code/contexts/{context.id}/restart")
        assert answer.status_code == 200 and answer.json()["id"] == context.id
        assert [e for e in stream][-1]["error"]["ename"] == "KernelRestarted"
    cell = context.run("'x' in globals()")
    assert cell.results == [{"text": "False"}] and cell.count == 1


def test_fork_has_all_the_state(context):
    context.run("import asyncio\nx = [1]\nclass A: pass\na = A()")
    answer = context.agent.http.post(f"/code/contexts/{context.id}/fork")
    assert answer.status_code == 200, answer.text
    copy = Context(context.agent, answer.json()["id"])
    copy.run("x.append(2)")
    assert (copy.value("x, type(a).__name__"), context.value("x")) == ("([1, 2], 'A')", "[1]")
    assert copy.value("await asyncio.sleep(0, 3)") == "3" and context.value("await asyncio.sleep(0, 4)") == "4"
    context.delete()
    assert copy.run("print(x)").out == ["[1, 2]"]
    assert copy.run("import os; os._exit(1)").error["ename"] == "KernelDied"


def test_fork_is_refused_with_a_reason(context):
    context.run("import threading\ngo = threading.Event()\nt = threading.Thread(target=go.wait, name='waiter'); t.start()")
    answer = context.agent.http.post(f"/code/contexts/{context.id}/fork")
    assert answer.status_code == 409 and "waiter" in answer.json()["message"]
    assert len(context.agent.http.get("/code/contexts").json()) == 1
    context.run("go.set(); t.join()")
    assert context.agent.http.post(f"/code/contexts/{context.id}/fork").status_code == 200


# ---- bad requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, status, words",
    [
        ({}, 400, "code"),
        ({"code": ""}, 400, "empty"),
        ({"code": " \n\t"}, 400, "empty"),
        ({"code": 5}, 400, "code"),
        ({"code": "1", "context": "x"}, 400, "context"),
        ({"code": "1", "context": {"id": 5}}, 400, "id"),
        ({"code": "1", "context": {"language": "cobol"}}, 400, "python"),
        ({"code": "1", "context": {"id": "nosuch"}}, 404, "nosuch"),
        ({"code": "1", "context": {"language": "python"}, "timeout": -1}, 400, "timeout"),
        ({"code": "1" * (10 << 20), "context": {"language": "python"}}, 413, ""),
        ([], 400, ""),
    ],
)
def test_bad_cells(execd, body, status, words):
    answer = execd.http.post("/code", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["message"] and answer.json()["code"]


@pytest.mark.parametrize("raw", [b'{"code": "a\\u0000b"}', b'{"code": "\xff\xfe"}', b'{"code": "1"', b""])
def test_bodies_that_are_not_json(execd, raw):
    answer = execd.http.post("/code", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "body, status, words", [({}, 400, "language"), ({"language": "cobol"}, 400, "python"), ({"language": 1}, 400, "language")]
)
def test_bad_contexts(execd, body, status, words):
    answer = execd.http.post("/code/context", json=body)
    assert answer.status_code == status and words in answer.json()["message"]


def test_a_language_that_is_not_the_contexts(context):
    answer = context.agent.http.post("/code", json={"code": "1", "context": {"id": context.id, "language": "bash"}})
    assert answer.status_code == 400 and "python" in answer.json()["message"]


@pytest.mark.parametrize("method, path", [("GET", ""), ("DELETE", ""), ("POST", "/restart"), ("POST", "/fork")])
def test_unknown_contexts(execd, method, path):
    answer = execd.http.request(method, f"/code/contexts/nosuch{path}")
    assert answer.status_code == 404 and answer.json()["code"] == "CONTEXT_NOT_FOUND"


def test_an_image_without_the_program(start_execd, tmp_path):
    agent = start_execd(env={"PATH": str(tmp_path)})
    for path, body in (("/code/context", {"language": "python"}), ("/code", {"code": "1", "context": {"language": "python"}})):
        answer = agent.http.post(path, json=body)
        assert answer.status_code >= 400 and "python3" in answer.json()["message"], answer.text
        assert answer.json()["code"] == "NOT_SUPPORTED"
    assert agent.http.get("/code/contexts").json() == []


@pytest.mark.parametrize(
    "script, words",
    [
        ("#!/bin/sh\necho 'no such thing as libpython' >&2\nexit 7\n", ("exited with code 7", "libpython")),
        ("#!/bin/sh\nexec sleep 0\n", ("exited with code 0",)),
        ("#!/bin/sh\nprintf 'nonsense' >&3\nexec cat <&3 >/dev/null\n", ("protocol",)),
        ("#!/bin/sh\nprintf '\\000\\000\\000\\002H{}' >&3\nexec cat <&3 >/dev/null\n", ("protocol",)),
    ],
)
def test_a_program_that_is_no_kernel(start_execd, tmp_path, script, words):
    program = tmp_path / "python3"
    program.write_text(script)
    program.chmod(0o755)
    agent = start_execd(env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    answer = agent.http.post("/code/context", json={"language": "python"})
    assert answer.status_code >= 500, answer.text
    for word in words:
        assert word in answer.json()["message"], answer.text
    cell = Context(agent).run("1")
    assert cell.error["ename"] == "KernelStartError" and words[0] in cell.error["evalue"]
    assert agent.http.get("/code/contexts").json() == []


def test_an_old_python_is_named(start_execd, tmp_path):
    (tmp_path / "python3").write_text("#!/bin/sh\necho 'Python 3.8 or later is needed, this is 3.6' >&2\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    agent = start_execd(env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    answer = agent.http.post("/code/context", json={"language": "python"})
    assert "3.8 or later" in answer.json()["message"]


def test_frames_that_a_cell_forges_end_its_kernel_only(context):
    """The control socket is the cell's to find; what it can do with it is to lose its own kernel."""
    context.run("import os, struct, socket, gc\nfd = next(s.fileno() for s in gc.get_objects() if isinstance(s, socket.socket) and s.fileno() >= 100)")
    cell = context.run("os.write(fd, struct.pack('>Ic', 1 << 31, b'R')); import time; time.sleep(1000)")
    assert cell.error["ename"] == "KernelDied" and "protocol" in cell.error["evalue"]
    assert context.agent.http.get("/ping").status_code == 200


def test_without_context_or_language_code_is_a_command(execd):
    with execd.stream("POST", "/code", json={"code": "echo 'Hello from shell'"}) as response:
        seen = [e for e in events(response)]
    assert [e["text"] for e in seen if e["type"] == "stdout"] == ["Hello from shell"]
    assert seen[-1]["type"] == "execution_complete"


def test_a_client_that_vanishes_leaves_the_cell_running(context, tmp_path):
    fifo = gate(tmp_path)
    with context.stream(f"print(1)\nopen({str(fifo)!r}).read()\nx = 'finished'") as response:
        stream = events(response)
        while next(stream)["type"] != "stdout":
            pass
    release(fifo)
    assert context.value("x") == "'finished'"


def test_a_client_that_does_not_read_stops_the_cell_and_nothing_else(execd):
    slow, other = create(execd), create(execd)
    raw = execd.raw()
    body = json.dumps({"code": "while True: print('x' * 1000)", "context": {"id": slow.id, "language": "python"}})
    raw.sendall(
        f"POST /code HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: {execd.token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    assert raw.recv(15) == b"HTTP/1.1 200 OK"
    assert other.value("1 + 1") == "2"
    slow.interrupt()
    data = b""
    while b"KeyboardInterrupt" not in data[-4096:]:
        piece = raw.recv(1 << 20)
        assert piece
        data = data[-4096:] + piece
    raw.close()


# ---- what waits, what is bounded, what is evicted ------------------------------------------------


def parked(agent, context, n):
    """Once n processes wait beside the zygote and the contexts that are there."""
    expected = 1 + len(agent.http.get("/code/contexts").json()) + n
    while len(children(agent.pid)) != expected:
        context.run("1")  # a round trip
    return children(agent.pid)


@pytest.mark.parametrize("spares", [0, 1, 3])
def test_contexts_that_are_made_beforehand(start_execd, tmp_path, spares):
    agent = start_execd(args=["--kernel-spares", str(spares)])
    first = create(agent)
    waiting = parked(agent, first, spares)
    second = create(agent)
    assert (int(second.value("import os; os.getpid()")) in waiting) == (spares > 0)
    while True:  # it counts as soon as it is there, and can be sent elsewhere when it has said hello
        waiting = parked(agent, first, spares)
        third = create(agent, cwd=str(tmp_path))
        assert third.value("import os; os.getcwd()") == repr(str(tmp_path))
        if (third.info()["pid"] in waiting) == (spares > 0):
            break
        third.delete()
    assert second.value("os.getcwd()") == repr(os.getcwd())
    first.run("x = 1")
    assert [c.value("'x' in globals()") for c in (second, third)] == ["False", "False"]
    for context in (first, second, third):
        context.delete()
    assert create(agent).value("1") == "1"


def test_what_was_made_beforehand_has_the_environment_of_now(start_execd, tmp_path):
    env_file = tmp_path / "env"
    env_file.write_text("COLOUR=red\n")
    agent = start_execd(env={"EXECD_ENVS": str(env_file)})
    first = create(agent)
    parked(agent, first, 1)
    env_file.write_text("COLOUR=blue\n")
    code = "import os; os.environ['COLOUR']"
    assert create(agent).value(code) == "'blue'" and first.value(code) == "'red'"


def test_a_spare_that_dies_harms_nobody(start_execd):
    agent = start_execd()
    first = create(agent)
    for _ in range(5):
        parked(agent, first, 1)
        used = {context["pid"] for context in agent.http.get("/code/contexts").json()}
        for pid in children(agent.pid) - used:
            if is_zygote(Path(f"/proc/{pid}"), agent.pid):
                continue
            try:
                pidfd = os.pidfd_open(pid)
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # one in the middle of a double fork
            assert select.select([pidfd], [], [], 30)[0]
            os.close(pidfd)
        first.run("1")  # a round trip: the agent has heard of it, or does not know the process yet
        context = create(agent)
        assert context.value("1") == "1"
        context.delete()


def test_a_context_in_a_folder_that_cannot_be_entered(start_execd, tmp_path):
    agent = start_execd()
    parked(agent, create(agent), 1)
    (tmp_path / "file").write_text("")
    answer = agent.http.post("/code/context", json={"language": "python", "cwd": str(tmp_path / "file" / "x")})
    assert answer.status_code == 400, answer.text
    assert len(agent.http.get("/code/contexts").json()) == 1


def test_idle_kernels_are_evicted(start_execd, tmp_path):
    agent = start_execd(args=["--kernel-idle-timeout", "50ms"])
    explicit, default = create(agent), Context(agent)
    (name, fd), start = hold(tmp_path), {"context": {"id": explicit.id}, "code": "1"}
    while explicit.info()["state"] != "evicted":  # without a cell
        pass
    info = explicit.info()
    assert "50 ms" in info["reason"]
    answer = agent.http.post("/code", json=start)
    assert answer.status_code == 409 and "evicted" in answer.json()["message"] and "restart" in answer.json()["message"]
    assert agent.http.post(f"/code/contexts/{explicit.id}/restart").status_code == 200
    # A cell that takes longer than that is not idle; what it has started goes with the kernel.
    cell = default.run(f"sum(range(10_000_000)); x = 1; f = open({str(name)!r}, 'w')")
    assert cell.error is None, cell.error
    wait_for_end(fd)
    os.close(fd)
    cell = default.run("'x' in globals()")
    assert cell.results == [{"text": "False"}]
    assert "evicted" in [event for event in cell.events if event["type"] == "status"][0]["text"]


def test_limits_of_a_context(execd):
    context = create(execd, limits={"memory_bytes": 400 << 20, "cpu_seconds": 600, "open_files": 64})
    limits = context.info()["limits"]
    assert limits["memory_bytes"]["value"] == 400 << 20 and limits["open_files"] == {"value": 64, "by": "rlimit"}
    assert context.run("files = [open('/dev/null') for _ in range(100)]").error["ename"] == "OSError"
    cell = context.run("b = bytearray(1 << 30)\nfor i in range(0, len(b), 4096): b[i] = 1")
    if limits["memory_bytes"]["by"] == "cgroup":
        assert cell.error["ename"] == "KernelDied" and "out of memory at its limit of 419430400 bytes" in cell.error["evalue"]
        assert cell.reason == "oom" and "out of memory" in context.info()["reason"]
    else:
        assert cell.error["ename"] == "MemoryError" and context.value("1") == "1"
    assert execd.http.post(f"/code/contexts/{context.id}/restart").status_code == 200
    assert context.info()["limits"] == limits
    answer = execd.http.post(f"/code/contexts/{context.id}/fork")
    assert answer.status_code == 200 and answer.json()["limits"] == limits
    copy = Context(execd, answer.json()["id"])
    assert copy.run("files = [open('/dev/null') for _ in range(100)]").error["ename"] == "OSError"
    assert "limits" not in create(execd).info()


def test_a_limit_of_processes(execd):
    answer = execd.http.post("/code/context", json={"language": "python", "limits": {"processes": 5}})
    if answer.status_code != 200:  # no cgroup to write to, and root is not bound otherwise
        assert answer.json()["code"] == "NOT_SUPPORTED" and "processes" in answer.json()["message"]
        return
    context = Context(execd, answer.json()["id"])
    cell = context.run("import subprocess\np = [subprocess.Popen(['sleep', '1000']) for _ in range(10)]")
    assert cell.error["ename"] == "BlockingIOError", cell.error


def test_a_limit_of_cpu_time(execd):
    context = create(execd, limits={"cpu_seconds": 1})
    cell = context.run("while True: pass")
    assert cell.error["ename"] == "KernelDied" and "signal 24" in cell.error["evalue"]


@pytest.mark.parametrize(
    "limits, words",
    [({"memory": 1}, "limits.memory"), ({"memory_bytes": 5}, "memory_bytes"), ({"output_bytes": 0}, "output_bytes"),
     ({"cpu_seconds": "1"}, "cpu_seconds"), (5, "limits")],
)  # fmt: skip
def test_bad_limits(execd, limits, words):
    answer = execd.http.post("/code/context", json={"language": "python", "limits": limits})
    assert answer.status_code == 400 and words in answer.json()["message"], answer.text


def test_a_kill_is_not_called_want_of_memory(context):
    error = context.run("import os; os.kill(os.getpid(), 9)").error
    assert "out of memory" not in error["evalue"]


def test_fork_with_threads_below_python(context):
    """Threads that libraries keep for themselves are theirs to bring through a fork."""
    cell = context.run(
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "start = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)\n"
        "thread = ctypes.c_ulong()\n"
        "entry = ctypes.cast(libc.pause, ctypes.c_void_p)\n"
        "assert libc.pthread_create(ctypes.byref(thread), None, entry, None) == 0\n"
        "len(os.listdir('/proc/self/task'))"
    )
    assert cell.results == [{"text": "2"}], cell.error
    answer = context.agent.http.post(f"/code/contexts/{context.id}/fork")
    assert answer.status_code == 200, answer.text
    assert Context(context.agent, answer.json()["id"]).value("len(os.listdir('/proc/self/task'))") == "1"
