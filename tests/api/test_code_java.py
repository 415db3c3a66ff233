"""Java cells."""

import os
import shutil
import signal
import subprocess
import threading

import pytest

from code_cells import Context, create, stop
from daemon import events


@pytest.fixture
def java(execd):
    return create(execd, "java")


# ---- values and state ---------------------------------------------------------------


def test_state_stays_and_the_last_value_is_the_result(java):
    assert java.run("int x = 41;").results == []
    assert java.value("x + 1") == "42"
    assert java.value('String s = "text";\ns') == "text"
    assert java.value("int f(int a) {\n  return a * 2;\n}\nf(x)") == "82"
    assert java.value("record P(int a, String b) {}\nnew P(1, \"z\")") == "P[a=1, b=z]"
    assert java.value("new P(2, s).a() + f(1)") == "4"
    assert java.value("new int[] {1, 2}") == "int[2] { 1, 2 }"
    assert java.run("x = 5;").results == []
    assert java.run("void g() {}\ng()").results == []
    assert java.value("String x = \"another type\"; x") == "another type"


def test_what_jshell_imports_is_there_and_imports_stay(java):
    assert java.value("var l = List.of(1, 2, 3);\nl.stream().map(i -> i * 2).collect(Collectors.toList())") == "[2, 4, 6]"
    assert java.run("import java.time.Duration;").error is None
    assert java.value("Duration.ofMinutes(2)") == "PT2M"
    assert java.value('new BigDecimal("1.10").add(BigDecimal.ONE)') == "2.10"


def test_snippets_span_lines_and_share_them(java):
    cell = java.run(
        "int n = 3; for (int i = 0; i < n; i++)\n"
        "  System.out.println(i);\n"
        "if (n > 5) {\n  System.out.println(\"more\");\n} else {\n  System.out.println(\"less\");\n}\n"
        "// a comment\n/* and\n another */ n"
    )
    assert cell.out == ["0", "1", "2", "less"]
    assert cell.results[0]["text"] == "3"


def test_cells_are_counted(java):
    assert [java.run("1").count, java.run("int q = 1;").count, java.run("1 / 0").count] == [1, 2, 3]


@pytest.mark.parametrize("code", ["", "   \n", "// nothing", "/* nothing */"])
def test_nothing_to_run_is_no_error(java, code):
    answer = java.agent.http.post("/code", json={"code": code, "context": {"id": java.id, "language": "java"}})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert java.run(code).results == []


# ---- errors ---------------------------------------------------------------------------


def test_an_uncaught_exception_is_an_eval_exception(java):
    error = java.run("10 / 0").error
    assert error["ename"] == "EvalException"
    assert error["evalue"] == "java.lang.ArithmeticException: / by zero"
    assert error["traceback"][0] == "java.lang.ArithmeticException: / by zero"
    assert "cell 1, line 1" in error["traceback"][1] and "10 / 0" in error["traceback"][2]


def test_a_traceback_shows_the_users_lines_of_all_cells_and_the_cause(java):
    java.run('\nvoid fail(int a) {\n  throw new IllegalStateException("outer", new RuntimeException("inner"));\n}')
    error = java.run("int before = 1;\nfail(before)").error
    text = "\n".join(error["traceback"])
    assert error["evalue"] == "java.lang.IllegalStateException: outer"
    assert "at fail (cell 1, line 3)" in text and "(cell 2, line 2)" in text
    assert "Caused by: java.lang.RuntimeException: inner" in text
    assert "REPL" not in text and "ExecdKernel" not in text
    assert java.value("before") == "1"


def test_what_does_not_compile_says_where(java):
    error = java.run("int a = 1;\n  int b = a + zz;").error
    assert error["ename"] == "CompilationException"
    assert error["evalue"] == "line 2, column 15: cannot find symbol"
    assert error["traceback"][-2:] == ["    int b = a + zz;", "                ^"]
    assert java.value("a") == "1"
    assert java.run("class A { void m() {").error["ename"] == "CompilationException"


def test_a_method_may_name_what_comes_later(java):
    cell = java.run("int early() { return late(); }")
    assert cell.error is None and "late()" in "".join(cell.err)
    assert java.run("early()").error["ename"] == "UnresolvedReferenceException"
    assert java.run("int late() { return 9; }").error is None
    assert java.value("early()") == "9"


def test_a_value_that_cannot_be_shown_is_the_cells_error(java):
    error = java.run('class Bad { public String toString() { throw new RuntimeException("no"); } }\nnew Bad()').error
    assert error["ename"] == "EvalException" and error["evalue"] == "java.lang.RuntimeException: no"
    assert java.value("1") == "1"


def test_stdin_is_closed(java):
    assert java.value("System.in.read()") == "-1"


# ---- output ---------------------------------------------------------------------------


def test_output_comes_in_the_order_it_was_written(java):
    cell = java.run('System.out.println("a"); System.err.println("b"); System.out.println("c"); "d"')
    assert cell.order == [("stdout", "a"), ("stderr", "b"), ("stdout", "c"), ("result", "d")]


def test_all_output_comes_before_the_end(java):
    cell = java.run('for (int i = 0; i < 20000; i++) System.out.println("line " + i);\nSystem.out.print("rest");')
    assert cell.out == [f"line {i}" for i in range(20000)] + ["rest"]


def test_what_a_subprocess_writes_is_output(java):
    cell = java.run('new ProcessBuilder("sh", "-c", "echo out; echo err >&2").inheritIO().start().waitFor()')
    assert (cell.out, cell.err) == (["out"], ["err"])


def test_text_is_unicode(java):
    cell = java.run('System.out.println("h\u00e9 \U0001f600");\n"\\0\u4e2d"')
    assert cell.out == ["h\u00e9 \U0001f600"]
    assert cell.results[0]["text"] == "\ufffd\u4e2d"


# ---- interrupts and ends --------------------------------------------------------------------


@pytest.mark.parametrize(
    "loop",
    [
        "while (true);",
        "Thread.sleep(Long.MAX_VALUE);",
        "while (true) { System.out.print(1); System.err.print(2); }",
        "new Object() { void go() { while (true) { try { Thread.sleep(10); } catch (InterruptedException e) { } } } }.go();",
    ],
)
def test_an_interrupt_stops_the_cell_and_keeps_the_state(java, loop):
    java.run("int kept = 7;")
    end = stop(java, f'System.out.println("begun");\n{loop}\nSystem.out.println("after");')
    assert end["error"]["ename"] == "KeyboardInterrupt" and end["end"]["reason"] == "interrupted"
    assert java.value("kept") == "7"


def test_a_timeout_stops_the_cell(java):
    cell = java.run("while (true);", timeout=300)
    assert cell.error["ename"] == "TimeoutError" and cell.reason == "timeout"
    assert java.value("1") == "1"


def test_threads_go_on_between_cells(java):
    java.run("var q = new LinkedBlockingQueue<String>(); var back = new LinkedBlockingQueue<String>();")
    java.run("new Thread(() -> { try { while (true) back.put(q.take() + \"!\"); } catch (InterruptedException e) { } }).start();")
    assert java.value('q.put("x"); back.take()') == "x!"


def test_exit_ends_the_kernel_and_says_so(java):
    cell = java.run("System.exit(3);")
    assert cell.error["ename"] == "KernelDied" and "exited with code 3" in cell.error["evalue"]
    assert java.info()["state"] == "dead"


def test_a_killed_kernel_ends_its_own_context_only(execd):
    one, two = create(execd, "java"), create(execd, "java")
    two.run("int x = 2;")
    with one.stream('System.out.println("begun"); Thread.sleep(Long.MAX_VALUE);') as response:
        stream = events(response)
        assert next(e for e in stream if e["type"] == "stdout")
        os.kill(one.info()["pid"], signal.SIGKILL)
        end = [e for e in stream][-1]
    assert end["error"]["ename"] == "KernelDied" and "signal 9" in end["error"]["evalue"]
    assert two.value("x") == "2"
    answer = execd.http.post(f"/code/contexts/{one.id}/restart")
    assert answer.status_code == 200, answer.text
    assert one.value("1 + 1") == "2"


def test_contexts_are_apart(execd):
    one, two = create(execd, "java"), create(execd, "java")
    one.run("int x = 1;")
    assert two.run("x").error["ename"] == "CompilationException"
    with one.stream('System.out.println("one"); Thread.sleep(Long.MAX_VALUE);') as response:
        stream = events(response)
        assert next(e for e in stream if e["type"] == "stdout")["text"] == "one"
        assert two.run('System.out.println("two");').out == ["two"]
        one.interrupt()
        assert "two" not in "".join(e.get("text", "") for e in stream)


def test_a_context_stands_in_its_directory(execd, tmp_path):
    execd.http.post("/code/context", json={"language": "java"})  # leaves a spare, which stands elsewhere
    context = create(execd, "java", cwd=str(tmp_path))
    assert context.value('new File("").getAbsolutePath()') == str(tmp_path)
    assert context.value('Files.writeString(Path.of("made"), "x"); new File("made").length()') == "1"
    assert (tmp_path / "made").read_text() == "x"


def test_many_contexts_at_once(execd):
    values = {}

    def use(n):
        context = create(execd, "java")
        context.run(f"int mine = {n};")
        values[n] = context.value("mine")

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {n: str(n) for n in range(4)}


def test_a_context_of_java_cannot_be_forked(java):
    answer = java.agent.http.post(f"/code/contexts/{java.id}/fork")
    assert answer.status_code >= 400 and "java" in answer.json()["message"]


@pytest.mark.skipif(not shutil.which("javac"), reason="there is no JDK on this machine")
def test_what_is_in_classpath_can_be_imported(start_execd, tmp_path):
    folder, jars = tmp_path / "classes", tmp_path / "jars"
    jars.mkdir()
    for name, where in (("One", folder), ("Two", tmp_path / "two")):
        (tmp_path / f"{name}.java").write_text(f'package lib; public class {name} {{ public static String name() {{ return "{name}"; }} }}')
        subprocess.run(["javac", "-d", where, tmp_path / f"{name}.java"], check=True)
    subprocess.run(["jar", "cf", jars / "two.jar", "-C", tmp_path / "two", "."], check=True)
    java = create(start_execd(env={"CLASSPATH": f"{folder}:{jars}/*"}), "java")
    assert java.value("import lib.*;\nOne.name() + Two.name()") == "OneTwo"


# ---- bad input ------------------------------------------------------------------------------


def test_without_java_the_error_names_it(start_execd, tmp_path):
    execd = start_execd(env={"PATH": str(tmp_path)})
    answer = execd.http.post("/code/context", json={"language": "java"})
    assert answer.status_code >= 400 and "'java'" in answer.json()["message"]


def test_a_java_that_is_too_old_says_so(start_execd, tmp_path):
    (tmp_path / "java").write_text("#!/bin/sh\necho 'error: invalid source release: 17' >&2\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    execd = start_execd(env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    answer = execd.http.post("/code/context", json={"language": "java"})
    assert answer.status_code >= 400 and "invalid source release: 17" in answer.json()["message"]


def test_a_nul_in_the_code_is_refused_or_an_error(java):
    answer = java.agent.http.post("/code", json={"code": "int a\0 = 1;", "context": {"id": java.id, "language": "java"}})
    assert answer.status_code == 400 or '"error"' in answer.text
    assert java.value("1") == "1"


def test_what_the_clients_examples_run(execd):
    cell = Context(execd, language="java").run(
        'System.out.println("Hello from Java!");\nint result = 2 + 2;\nSystem.out.println("2 + 2 = " + result);\nresult'
    )
    assert cell.out == ["Hello from Java!", "2 + 2 = 4"]
    assert cell.results[0]["text"] == "4"
