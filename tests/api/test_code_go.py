"""Go cells."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from code_cells import Context, create, stop
from daemon import BUILD, events

KERNEL = Path(os.environ.get("EXECD_BIN", str(BUILD / "execd"))).parent / "kernels" / "go"
pytestmark = pytest.mark.skipif(
    not KERNEL.exists(), reason="kernels/go is not built: there was no Go compiler (1.21 or later)"
)


@pytest.fixture
def go(execd):
    return create(execd, "go")


# ---- values and state ---------------------------------------------------------------


def test_state_stays_and_the_last_value_is_the_result(go):
    assert go.run("x := 41").results == []
    assert go.value("x + 1") == "42"
    assert go.value("func f(a int) int {\n\treturn a * 2\n}\nf(x)") == "82"
    assert go.value("func f(a int) int { return a * 3 }\nf(x)") == "123"
    assert go.value("type P struct{ A, B int }\nfunc (p P) Sum() int { return p.A + p.B }\nP{1, 2}.Sum()") == "3"
    assert go.value("P{1, 2}") == "{A:1 B:2}"
    assert go.value("const K = 3\nvar arr []int\nfor i := 0; i < K; i++ {\n\tarr = append(arr, i)\n}\narr") == "[0 1 2]"
    assert go.value("a, b := 1, 2\na + b") == "3"
    assert go.run("x = 5").results == []
    assert go.value("x := \"another type\"\nx") == "another type"


def test_packages_need_no_import_and_may_have_one(go):
    assert go.run('fmt.Println("plain")').out == ["plain"]
    assert go.run('import "fmt"\nfmt.Println("one")').out == ["one"]
    assert go.value('import (\n\t"sort"\n\tstr "strings"\n)\nw := str.Fields("b a")\nsort.Strings(w)\nw') == "[a b]"
    assert go.value('str.ToUpper("later")') == "LATER"


def test_what_a_call_without_a_value_returns_is_nothing(go):
    assert go.run('fmt.Println("x")').results == []
    assert go.run("func v() {}\nv()").results == []
    assert go.value('strconv.Atoi("12")') == "12"
    assert go.value('strconv.Atoi("z")') == '0 strconv.Atoi: parsing "z": invalid syntax'


def test_closures_channels_maps_and_generics(go):
    assert go.value("add := func(n int) func(int) int { return func(m int) int { return n + m } }\nadd(2)(3)") == "5"
    cell = go.run("ch := make(chan int)\ngo func() {\n\tfor i := 0; i < 3; i++ {\n\t\tch <- i\n\t}\n\tclose(ch)\n}()\n"
                  "for v := range ch {\n\tfmt.Println(v)\n}")
    assert cell.out == ["0", "1", "2"]
    assert go.value('m := map[string]int{"a": 1}\nm["b"] = 2\nm') == "map[a:1 b:2]"
    assert go.value("type Stack[T any] struct{ items []T }\nfunc (s *Stack[T]) Push(v T) { s.items = append(s.items, v) }\n"
                    "s := &Stack[int]{}\ns.Push(3)\ns.items") == "[3]"
    assert go.value("func Keys[K comparable, V any](m map[K]V) []K {\n\tr := []K{}\n\tfor k := range m {\n\t\tr = append(r, k)\n"
                    "\t}\n\treturn r\n}\nlen(Keys(m))") == "2"
    assert go.value("type Shape interface{ Area() float64 }\ntype Sq struct{ s float64 }\n"
                    "func (q Sq) Area() float64 { return q.s * q.s }\nvar sh Shape = Sq{3}\nsh.Area()") == "9"
    assert go.value("var wg sync.WaitGroup\nvar mu sync.Mutex\nn := 0\nfor i := 0; i < 10; i++ {\n\twg.Add(1)\n"
                    "\tgo func() {\n\t\tdefer wg.Done()\n\t\tmu.Lock()\n\t\tn++\n\t\tmu.Unlock()\n\t}()\n}\nwg.Wait()\nn") == "10"


def test_a_literal_that_is_called_runs_once(go):
    assert go.run('func() { fmt.Println("once") }()').out == ["once"]
    assert go.run('defer fmt.Println("last")\nfmt.Println("first")').out == ["first", "last"]
    assert go.run("1").out == []


def test_whole_programs_run_and_leave_their_functions(go):
    program = 'package main\n\nimport "fmt"\n\nfunc helper() int { return %d }\n\nfunc main() {\n\tfmt.Println("whole", helper())\n}\n'
    assert go.run(program % 1).out == ["whole 1"]
    assert go.run(program % 2).out == ["whole 2"]
    assert go.value("helper()") == "2"


def test_a_notebooks_mark_is_passed_over(go):
    assert go.run('%%\nfmt.Println("body")').out == ["body"]


@pytest.mark.skipif(not shutil.which("go"), reason="there is no Go toolchain on this machine")
def test_a_program_beyond_the_interpreter_is_left_to_the_toolchain(go):
    program = ('package main\n\nimport "fmt"\n\nfunc Map[T, U any](s []T, f func(T) U) []U {\n\tvar r []U\n'
               "\tfor _, v := range s {\n\t\tr = append(r, f(v))\n\t}\n\treturn r\n}\n\n"
               "func main() {\n\tfmt.Println(Map([]int{1, 2}, func(i int) string { return fmt.Sprint(i * i, \"!\") }))\n%s}\n")
    cell = go.run(program % "")
    assert cell.error is None and cell.out == ["[1! 4!]"]
    error = go.run(program % "\tmissing()\n").error
    assert error["ename"] == "CompileError" and error["evalue"] == "15:2: undefined: missing"
    error = go.run(program.replace('"fmt"', '(\n"fmt"\n"os"\n)') % "\tos.Exit(4)\n").error
    assert (error["ename"], error["evalue"]) == ("ExitError", "4")


def test_without_a_toolchain_a_cell_needs_none(start_execd, tmp_path):
    context = create(start_execd(env={"PATH": str(tmp_path)}), "go")
    assert context.run('package main\nimport "fmt"\nfunc main() { fmt.Println("bare") }').out == ["bare"]


# ---- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, where",
    [
        ("a := 1\nb := missing + a", "2:6: undefined: missing"),
        ('\n  var c int = "s"', '2:15: cannot convert "s" to int'),
        ("if true {", "2:2: expected '}', found 'EOF'"),
        ('fmt.Println("x', "1:13: string literal not terminated"),
        ("package main\n\nfunc main() {\n\tnothing()\n}", "4:2: undefined: nothing"),
    ],
)
def test_what_does_not_compile_says_where(go, code, where):
    error = go.run(code).error
    assert (error["ename"], error["evalue"]) == ("CompileError", where)
    assert error["traceback"][0] == where
    assert go.value("1") == "1"


def test_a_panic_is_an_error_with_a_traceback(go):
    go.run("func deep() {\n\tpanic(\"boom\")\n}")
    error = go.run("y := 1\ndeep()").error
    assert (error["ename"], error["evalue"]) == ("panic", "boom")
    assert error["traceback"] == ["panic: boom", "    2:2 main.deep(...)", "    2:1 main(...)"]
    error = go.run("z := 0\n10 / z").error
    assert error["evalue"] == "runtime error: integer divide by zero"
    assert go.value("y") == "1"


def test_exit_ends_the_cell_and_not_the_kernel(go):
    go.run("kept := 1")
    error = go.run("os.Exit(3)").error
    assert (error["ename"], error["evalue"]) == ("ExitError", "3")
    assert go.run("os.Exit(0)").error is None
    assert go.value("kept") == "1"


def test_a_panic_in_a_goroutine_ends_the_kernel_and_says_so(go):
    cell = go.run('go func() { panic("loose") }()\nselect {}')
    assert cell.error["ename"] == "KernelDied" and "exited with code 2" in cell.error["evalue"]
    assert "panic: loose" in "\n".join(cell.err)
    assert go.info()["state"] == "dead"


# ---- output ---------------------------------------------------------------------------


def test_output_comes_in_the_order_it_was_written(go):
    cell = go.run('fmt.Println("a")\nfmt.Fprintln(os.Stderr, "b")\nfmt.Println("c")\n"d"')
    assert cell.order == [("stdout", "a"), ("stderr", "b"), ("stdout", "c"), ("result", "d")]


def test_all_output_comes_before_the_end(go):
    cell = go.run('for i := 0; i < 20000; i++ {\n\tfmt.Println("line", i)\n}\nfmt.Print("rest")')
    assert cell.out == [f"line {i}" for i in range(20000)] + ["rest"]


def test_what_a_subprocess_writes_is_output(go):
    cell = go.run('c := exec.Command("sh", "-c", "echo out; echo err >&2")\nc.Stdout, c.Stderr = os.Stdout, os.Stderr\nc.Run()')
    assert (cell.out, cell.err) == (["out"], ["err"])


def test_a_value_need_not_be_text(go):
    assert go.value('"a\\x00\\xffb"') == "a\ufffd\ufffdb"


def test_stdin_is_closed(go):
    assert go.value("bufio.NewScanner(os.Stdin).Scan()") == "false"


# ---- interrupts and ends --------------------------------------------------------------------


@pytest.mark.parametrize(
    "loop",
    ["for {\n}", "time.Sleep(time.Hour)", "select {}", "<-make(chan int)", "var l sync.Mutex\nl.Lock()\nl.Lock()",
     "for {\n\tfmt.Print(1)\n\tfmt.Fprint(os.Stderr, 2)\n}"],
)
def test_an_interrupt_stops_the_cell_and_keeps_the_state(go, loop):
    go.run("kept := 7")
    end = stop(go, f'fmt.Println("begun")\n{loop}\nfmt.Println("after")')
    assert end["error"]["ename"] == "KeyboardInterrupt" and end["end"]["reason"] == "interrupted"
    assert go.value("kept") == "7"


@pytest.mark.skipif(not shutil.which("go"), reason="there is no Go toolchain on this machine")
def test_an_interrupt_stops_a_program_of_the_toolchain(go):
    program = ('package main\n\nimport "fmt"\n\nfunc apply[T, U any](v T, f func(T) U) U { return f(v) }\n\n'
               'func main() {\n\tfmt.Println(apply(1, func(i int) string { return "begun" }))\n\tfor {\n\t}\n}\n')
    end = stop(go, program)
    assert end["error"]["ename"] == "KeyboardInterrupt"
    assert go.value("1") == "1"


def test_a_timeout_stops_the_cell(go):
    cell = go.run("for {\n}", timeout=300)
    assert cell.error["ename"] == "TimeoutError" and cell.reason == "timeout"
    assert go.value("1") == "1"


def test_goroutines_go_on_between_cells(go):
    go.run('q, back := make(chan string), make(chan string)\ngo func() {\n\tfor s := range q {\n\t\tback <- s + "!"\n\t}\n}()')
    assert go.value('q <- "x"\n<-back') == "x!"


def test_a_killed_kernel_ends_its_own_context_only(execd):
    one, two = create(execd, "go"), create(execd, "go")
    two.run("x := 2")
    with one.stream('fmt.Println("begun")\nselect {}') as response:
        stream = events(response)
        assert next(e for e in stream if e["type"] == "stdout")
        os.kill(one.info()["pid"], signal.SIGKILL)
        end = [e for e in stream][-1]
    assert end["error"]["ename"] == "KernelDied" and "signal 9" in end["error"]["evalue"]
    assert two.value("x") == "2"
    answer = execd.http.post(f"/code/contexts/{one.id}/restart")
    assert answer.status_code == 200, answer.text
    assert one.value("1 + 1") == "2"


def test_contexts_are_apart(execd, tmp_path):
    one, two = create(execd, "go", cwd=str(tmp_path)), create(execd, "go")
    one.run("x := 1")
    assert two.run("x").error["ename"] == "CompileError"
    assert one.value("d, _ := os.Getwd()\nd") == str(tmp_path)


def test_many_contexts_at_once(execd):
    values = {}

    def use(n):
        context = create(execd, "go")
        context.run(f"mine := {n}")
        values[n] = context.value("mine")

    threads = [threading.Thread(target=use, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {n: str(n) for n in range(6)}


# ---- bad input ------------------------------------------------------------------------------


def test_a_kernel_that_is_not_there_is_named(start_execd, tmp_path):
    execd = start_execd(env={"EXECD_KERNELS": str(tmp_path)})
    answer = execd.http.post("/code/context", json={"language": "go"})
    assert answer.status_code >= 400
    assert "kernels/go" in answer.json()["message"] and str(tmp_path) in answer.json()["message"]


def test_the_kernel_may_lie_elsewhere(start_execd, tmp_path):
    (tmp_path / "go").symlink_to(KERNEL.resolve())
    assert create(start_execd(env={"EXECD_KERNELS": str(tmp_path)}), "go").value("1 + 1") == "2"


def test_the_kernel_needs_no_library():
    headers = subprocess.run(["readelf", "-lW", KERNEL], capture_output=True, check=True).stdout
    assert b"INTERP" not in headers


def test_what_the_clients_examples_run(execd):
    context = Context(execd, language="go")
    cell = context.run('package main\nimport "fmt"\nfunc main() {\n    fmt.Println("3 + 4 =", 3+4)\n}')
    assert cell.out == ["3 + 4 = 7"]
    cell = context.run('package main\nfunc main() { println("Running in Go") }')
    assert cell.out == ["Running in Go"]
