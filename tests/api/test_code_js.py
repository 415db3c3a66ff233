"""JavaScript and TypeScript cells."""

import json
import os
import threading

import pytest

from code_cells import Context, create, gate, hold, release, wait_for_end, stop
from daemon import events


@pytest.fixture
def js(execd):
    return create(execd, "javascript")


@pytest.fixture
def ts(execd):
    return create(execd, "typescript")


# ---- values and state -------------------------------------------------------------


def test_state_stays_and_the_last_value_is_the_result(js):
    assert js.run("const x = 41; let y = [1], z; var w = {a: 1}").results == []
    assert js.value("x + 1") == "42"
    assert js.value("_") == "42"
    assert js.value("'text'") == "'text'"
    assert js.value("[y, z, w]") == "[ [ 1 ], undefined, { a: 1 } ]"
    assert js.run("function f(a) { return a * 2 }\nclass A { b() { return f(4) } }").results == []
    assert js.value("new A().b() + f(x)") == "90"
    assert js.run("undefined").results == [] and js.run("if (x) { 5 }").results == []
    assert js.value("{ a: 1, b: { c: 2 } }") == "{ a: 1, b: { c: 2 } }"
    assert js.value("x; // that is it\n") == "41"


@pytest.mark.parametrize("first", ["const a = 1", "let a = 1", "var a = 1", "function a() {}", "class a {}", "import a from 'fs'", "a = 1"])
@pytest.mark.parametrize("second", ["const a = 2", "let a = 2", "var a = 2", "function a() { return 2 }", "class a {}"])
def test_every_declaration_may_come_again(execd, first, second):
    context = Context(execd, language="javascript")
    assert context.run(first).error is None
    cell = context.run(second)
    assert cell.error is None, cell.error
    kind = "function" if "()" in second or "class" in second else "number"
    assert context.value("typeof a") == f"'{kind}'"


def test_patterns_and_names(js):
    cell = js.run(
        "const { a, b: [c, ...d], ...e } = { a: 1, b: [2, 3, 4], f: 5 }, g = 6\n"
        "let [h = await Promise.resolve(7)] = []\n"
        "var { i } = { i: 8 }, j\n"
        "for (var k = 0, l; k < 2; k++) { var m = k }\n"
        "for (var n of [1, 2]);\n"
        "for (const o of [1]) if (o) var p = 9; else var q = 1\n"
    )
    assert cell.error is None, cell.error
    assert json.loads(js.run("console.log(JSON.stringify([a, c, d, e, g, h, i, j, k, l, m, n, p, q, typeof o]))").out[0]) == (
        [1, 2, [3, 4], {"f": 5}, 6, 7, 8, None, 2, None, 1, 2, 9, None, "undefined"]
    )
    assert js.run("const arrow = () => {}, K = class {}").error is None
    assert js.value("[arrow.name, K.name]") == "[ 'arrow', 'K' ]"


def test_a_constant_is_one_until_it_is_declared_again(js):
    js.run("const c = 1")
    cell = js.run("c = 2")
    assert cell.error["ename"] == "TypeError" and cell.error["evalue"] == "Assignment to constant variable."
    assert js.value("c") == "1"
    assert js.value("let c = 3; c = 4; c") == "4"


def test_functions_are_there_before_the_cell_and_see_later_ones(js):
    assert js.value("early()\nfunction early() { return 'hoisted' }\nearly()") == "'hoisted'"
    js.run("function outer() { return inner() }\nfunction inner() { return 'old' }")
    js.run("function inner() { return 'new' }")
    assert js.value("outer()") == "'new'"
    assert js.value("function fact(n) { return n < 2 ? 1 : n * fact(n - 1) }\n[fact(5), fact.name]") == "[ 120, 'fact' ]"
    js.run("async function* numbers() { yield 1; yield 2 }")
    assert js.value("const seen = []; for await (const n of numbers()) seen.push(n)\nseen") == "[ 1, 2 ]"


def test_statements_without_semicolons(js):
    cell = js.run("let a = 1\nconst b = 2\nvar c\nclass D {}\nfunction e() {}\nconsole.log(a, b, c)\nvar f = 3\n;[1].forEach(x => console.log(x))\nf")
    assert cell.out == ["1 2 undefined", "1"] and cell.results == [{"text": "3"}]
    assert js.run("'use strict'\nconst s = 1\nlet t = (function () { return this })()\nt").results == []


def test_top_level_await_and_promises(js):
    assert js.value("await new Promise(r => setTimeout(r, 5, 'waited'))") == "'waited'"
    assert js.value("const v = await Promise.all([1, Promise.resolve(2)])\nv") == "[ 1, 2 ]"
    assert js.value("Promise.resolve(5)") == "5"
    assert js.value("async function main() { await null; console.log('in main'); return 6 }\nmain()") == "6"
    assert js.value("[Promise.resolve(1)]") == "[ Promise { 1 } ]"
    assert js.value("(await Promise.resolve({ a: [1] })).a[0] + await 2") == "3"


def test_modules(js, tmp_path):
    cell = js.run(
        "import fs, { readFileSync as read } from 'node:fs'\nimport * as path from 'path'\nimport 'os'\n"
        "const { createHash } = require('crypto')\nconst os = await import('os');\n"
        "[typeof fs.statSync, read === fs.readFileSync, path.sep, typeof createHash, typeof os.cpus, typeof os.default]"
    )
    assert cell.error is None, cell.error
    assert cell.results[0]["text"].split() == "[ 'function', true, '/', 'function', 'function', 'object' ]".split()
    assert js.value("path.join('a', 'b')") == "'a/b'"
    error = js.run("import { nosuch } from 'fs'").error
    assert error["ename"] == "SyntaxError" and "'nosuch'" in error["evalue"]
    assert "nosuchmodule" in js.run("import x from 'nosuchmodule'").error["evalue"]
    assert "nosuchmodule" in js.run("require('nosuchmodule')").error["evalue"]
    assert js.run("export const e = 5\nexport function g() { return e }").error is None
    assert js.value("g()") == "5"


def test_modules_of_the_users_are_found_from_the_cwd(execd, tmp_path):
    (tmp_path / "a.cjs").write_text("exports.a = 'cjs'")
    (tmp_path / "b.mjs").write_text("export default 'mjs'; export const at = import.meta.url")
    package = tmp_path / "node_modules" / "only-esm"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"name": "only-esm", "exports": {"import": "./i.mjs"}}')
    (package / "i.mjs").write_text("export const esm = 'package'")
    (tmp_path / "d.json").write_text('{"d": 1}')
    for _ in range(2):  # the second one is a spare
        context = create(execd, "javascript", cwd=str(tmp_path))
        code = "import b from './b.mjs'\nimport { esm } from 'only-esm'\n[require('./a.cjs').a, b, esm, require('./d.json').d, process.cwd(), __dirname]"
        text = context.value(code)
        assert text.split() == f"[ 'cjs', 'mjs', 'package', 1, '{tmp_path}', '{tmp_path}' ]".split()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "here.js").write_text("module.exports = 'moved'")
    assert context.value("process.chdir('sub'); require('./here.js')") == "'moved'"
    assert context.value("(await import('./here.js')).default") == "'moved'"


def test_timers_and_servers_survive(js, tmp_path):
    js.run(
        "const http = require('http')\n"
        "const server = http.createServer((q, a) => a.end('served')).listen(0, '127.0.0.1')\n"
        "await new Promise(r => server.once('listening', r))\nlet ticks = 0\nconst timer = setInterval(() => ticks++, 1)"
    )
    assert js.value("await (await fetch(`http://127.0.0.1:${server.address().port}`)).text()") == "'served'"
    assert js.value("await new Promise(r => setTimeout(r, 20)); clearInterval(timer); server.close(); ticks > 2") == "true"
    fifo = gate(tmp_path)
    assert js.run(f"require('fs').readFile({json.dumps(str(fifo))}, () => console.log('between cells'))\nnull").out == []
    held, fd = hold(tmp_path)
    js.run(f"const w = require('fs').openSync({json.dumps(str(held))}, 'w')")
    release(fifo)
    cell = js.run("await new Promise(r => setImmediate(r)); 1")
    for _ in range(100):
        if cell.out:
            break
        cell = js.run("await new Promise(r => setImmediate(r)); 1")
    assert cell.out == ["between cells"]
    os.close(fd)


# ---- output ------------------------------------------------------------------------


def test_everything_written_comes_in_order_before_the_end(js):
    cell = js.run(
        "const cp = require('child_process')\nconsole.log('log')\nprocess.stdout.write('part ')\n"
        "cp.execSync('echo of a line', { stdio: 'inherit' })\nrequire('fs').writeSync(1, 'written\\n')\n"
        "await new Promise(r => cp.spawn('sh', ['-c', 'echo spawned'], { stdio: 'inherit' }).on('exit', r))\nconsole.info('%d', 5)"
    )
    assert cell.out == ["log", "part of a line", "written", "spawned", "5"]


def test_streams_and_results_keep_their_order(js):
    cell = js.run("for (let i = 0; i < 3; i++) { console.log('o', i); console.error('e', i); display(i) }\nconsole.warn('w')\n'last'")
    expected = []
    for i in range(3):
        expected += [("stdout", f"o {i}"), ("stderr", f"e {i}"), ("result", str(i))]
    assert cell.order == expected + [("stderr", "w"), ("result", "'last'")]


def test_output_comes_while_the_cell_runs(js, tmp_path):
    fifo = gate(tmp_path)
    with js.stream(f"console.log('a'); process.stdout.write('b')\nrequire('fs').readFileSync({json.dumps(str(fifo))})\nconsole.log('c')") as response:
        stream = events(response)
        while next(stream).get("text") != "a":
            pass
        release(fifo)
        assert [e["text"] for e in stream if e["type"] == "stdout"] == ["bc"]


def test_twenty_megabytes(js):
    with js.stream("const line = 'x'.repeat(1023) + '\\n'\nfor (let i = 0; i < 20480; i++) process.stdout.write(line)\n'end'") as response:
        size, last = 0, None
        for event in events(response):
            if event["type"] == "stdout":
                size += len(event["text"]) + 1
            elif event["type"] == "result":
                last = event["results"]["text"]
    assert (size, last) == (20 << 20, "'end'")


def test_a_cell_that_closes_its_output_harms_no_later_cell(js):
    js.run("process.stdout.end(); process.stderr.destroy()")
    assert js.run("console.log('back'); console.error('err')").order == [("stdout", "back"), ("stderr", "err")]
    js.run("require('fs').closeSync(1); require('fs').closeSync(2)")
    cell = js.run("console.log('still')\nrequire('child_process').execSync('echo child; echo err >&2', { stdio: 'inherit' })\n3")
    assert cell.order == [("stdout", "still"), ("stdout", "child"), ("stderr", "err"), ("result", "3")] or (
        cell.out == ["still", "child"] and cell.err == ["err"]
    )


def test_rich_results(js):
    cell = js.run(
        "display({ 'text/html': '<b>x</b>', 'text/plain': 'x' })\n"
        "display({ [Symbol.for('Jupyter.display')]() { return { 'text/markdown': '*m*' } } })\n"
        "class Pic { _toHtml() { return '<i>' } _toPng() { return new Uint8Array([1, 2]) } }\nnew Pic()"
    )
    assert cell.results[0] == {"text/html": "<b>x</b>", "text": "x"}
    assert cell.results[1]["text/markdown"] == "*m*" and "text" in cell.results[1]
    assert cell.results[2] == {"text/html": "<i>", "image/png": "AQI=", "text": "Pic {}"}
    cell = js.run("({ _toHtml() { throw new Error('bad html') } })")
    assert len(cell.results) == 1 and any("bad html" in line for line in cell.err)


def test_values_that_json_cannot_say(js):
    assert js.value("'\\0 \\ud800 \\\\u0000'").lower() == "'\\x00 \\ud800 \\\\u0000'"
    assert js.run("display({ 'text/html': 'a\\0b \\ud800', 'x/y': 5n })").results == [{"text/html": "a\ufffdb \ufffd", "x/y": "5"}]
    text = js.value("'z'.repeat(3000000)")
    assert text.endswith("more characters") and 1_000_000 < len(text) < 1_100_000


# ---- errors --------------------------------------------------------------------------


def test_an_exception_shows_the_users_lines(js):
    js.run("let other = 1\nfunction inner(n) {\n  throw new RangeError('too ' + n)\n}")
    cell = js.run("const y = await 1\n\nif (y) inner('far')")
    assert cell.error["ename"] == "RangeError" and cell.error["evalue"] == "too far"
    assert cell.error["traceback"] == [
        "<cell 1>:3",
        "  throw new RangeError('too ' + n)",
        "        ^",
        "",
        "RangeError: too far",
        "    at inner (<cell 1>:3:9)",
        "    at <cell 2>:3:8",
    ]
    assert cell.reason == "failed"


def test_columns_are_the_users(js):
    js.run("function fail() { throw new TypeError('failed') }")
    for code, at in (("const q = 1, r = fail()", "1:18"), ("let a = 5; class B {}; a + await fail()", "1:34"), ("/* c */ fail()", "1:9"), ("import 'fs'; var z = fail()", "1:22")):
        cell = js.run(code)
        assert cell.error["ename"] == "TypeError"
        assert cell.error["traceback"][-1].endswith(f"<cell {cell.count}>:{at}"), cell.error
        assert cell.error["traceback"][0] == "<cell 1>:1"  # where it was thrown


def test_causes_and_thrown_values(js):
    cell = js.run("try { JSON.parse('{') } catch (e) { throw new Error('outer', { cause: e }) }")
    text = "\n".join(cell.error["traceback"])
    assert "[cause]: SyntaxError" in text and "execd:" not in text and "node:internal" not in text
    assert js.run("throw 'a string'").error["evalue"] == "a string"
    assert js.run("throw { code: 5 }").error["traceback"] == ["Uncaught { code: 5 }"]
    assert js.run("throw null").error["evalue"] == "null"
    assert js.run("class MyError extends Error { name = 'MyError' }\nthrow new MyError('m')").error["ename"] == "MyError"
    assert js.run("throw Object.defineProperty(new Error('x'), 'message', { get() { throw 1 } })").error is not None
    assert js.run("function f() { f() }\nf()").error["ename"] == "RangeError"
    assert js.value("1") == "1"


@pytest.mark.parametrize("code, line", [("console.log('not run')\nlet = = 5", 2), ("1\n\nreturn 5", 3), ("const a = 1; const a = 2", 1), ("foo(", 1), ("let x = 'abc", 1)])
def test_syntax_errors(js, code, line):
    cell = js.run(code)
    assert cell.error["ename"] == "SyntaxError" and cell.out == []
    assert f"line {line}" in cell.error["evalue"] and cell.error["traceback"][0] == f"<cell 1>:{line}", cell.error


@pytest.mark.parametrize(
    "code",
    [
        "setTimeout(() => { throw new TypeError('late') }, 1); await new Promise(() => {})",
        "Promise.reject(new TypeError('late')); 1",
        "(async () => { throw new TypeError('late') })(); console.log('printed')",
        "process.nextTick(() => { throw new TypeError('late') }); await new Promise(() => {})",
        "await Promise.reject(new TypeError('late'))",
        "new (require('events'))().emit('error', new TypeError('late'))",
        "queueMicrotask(() => { throw new TypeError('late') })",
    ],
)
def test_what_nobody_catches_is_the_cells_error(js, code):
    js.run("let kept = 1")
    cell = js.run(code)
    assert cell.error["ename"] == "TypeError" and cell.error["evalue"] == "late"
    assert any("<cell 2>:1" in line for line in cell.error["traceback"])
    assert js.value("kept") == "1"


def test_an_error_between_cells_is_told_and_ends_no_cell(js, tmp_path):
    fifo = gate(tmp_path)
    js.run(
        f"const told = new Promise(r => require('fs').readFile({json.dumps(str(fifo))}, () => {{ r(); throw new Error('nobody was there') }}))\n"
        "null"
    )
    release(fifo)
    cell = js.run("await told; await new Promise(r => setImmediate(r)); 1")
    text = "\n".join(cell.err) if cell.error is None else cell.error["evalue"]  # it may have come while this cell ran
    assert "nobody was there" in text
    assert js.value("1") == "1"


def test_exit_is_an_error_and_the_context_lives(js):
    js.run("let x = 1")
    for code, value in (("process.exit(3)", "3"), ("process.exit()", "0"), ("process.exitCode = 4; process.exit()", "4")):
        error = js.run(code).error
        assert error["ename"] == "SystemExit" and error["evalue"] == value
    assert js.value("x") == "1"


# ---- interrupt and timeout ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        "while (true) {}",
        "await new Promise(() => {})",
        "await null; for (;;);",
        "setTimeout(() => { console.log('in a callback'); for (;;); }, 1); await new Promise(() => {})",
        "Promise.resolve().then(() => { for (;;); }); await new Promise(() => {})",
        "for (;;) await new Promise(r => setTimeout(r, 1))",
        "for (;;) await null",
        "require('child_process').execSync('sleep 1000')",
        "await new Promise(r => require('child_process').spawn('sleep', ['1000']).on('exit', () => {}))",
        "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
        ";/(a+)+$/.test('a'.repeat(50) + 'b')",
        ";({ get x() { return 1 }, [require('util').inspect.custom]() { for (;;); } })",
        "try { for (;;); } finally { console.log('never') }",
    ],
)
def test_interrupt(js, wait):
    js.run("let kept = 1")
    last = stop(js, wait if "a callback" in wait else "console.log('begun')\n" + wait)
    assert last["type"] == "error", last
    if "execSync" not in wait:
        assert last["error"]["ename"] == "KeyboardInterrupt", last
    assert last["end"]["reason"] == "interrupted"
    assert js.value("kept") == "1"
    assert js.value("await new Promise(r => setTimeout(r, 2, 'timers go on'))") == "'timers go on'"


def test_a_loop_that_awaits_ends_with_its_cell(js):
    js.run("let n = 0")
    stop(js, "console.log('begun')\nfor (;;) { await new Promise(r => setTimeout(r, 1)); n++ }")
    before = js.value("await new Promise(r => setTimeout(r, 20)); n")
    assert js.value("await new Promise(r => setTimeout(r, 20)); n") == before


def test_interrupt_at_once(js):
    """The id can be interrupted as soon as it is known, whether the code has begun or not."""
    for i in range(10):
        with js.stream("while (true) {}" if i % 2 else "await new Promise(() => {})") as response:
            stream = events(response)
            assert next(stream)["type"] == "init"
            js.interrupt()
            assert [event for event in stream][-1]["error"]["ename"] == "KeyboardInterrupt"


def test_interrupt_of_a_flood(js):
    for code in ("for (;;) console.log('x'.repeat(1000))", "for (;;) display(1)", "for (;;) { console.log(1); console.error(2) }"):
        assert stop(js, code)["error"]["ename"] == "KeyboardInterrupt"
    assert js.value("1") == "1"


def test_interrupt_of_an_idle_context_is_nothing(js):
    js.run("let x = 1")
    for _ in range(3):
        js.interrupt()
        assert js.value("x") == "1"


def test_the_users_own_handler_hears_an_interrupt_too(js):
    js.run("let heard = 0; process.on('SIGINT', () => heard++)")
    assert stop(js, "console.log(1); await new Promise(() => {})")["error"]["ename"] == "KeyboardInterrupt"
    assert js.value("heard") == "1"
    js.run("process.removeAllListeners('SIGINT')")
    assert stop(js, "console.log(1); for (;;);")["error"]["ename"] == "KeyboardInterrupt"


def test_timeout(js):
    js.run("let x = 1")
    for code in ("for (;;);", "await new Promise(() => {})"):
        cell = js.run(code, timeout=50)
        assert cell.error["ename"] == "TimeoutError" and cell.reason == "timeout"
    assert js.value("x") == "1"


# ---- death and contexts --------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, words",
    [
        ("process.kill(process.pid, 9); for (;;);", "signal 9"),
        ("process.abort()", "signal 6"),
        ("process.reallyExit(3)", "exited with code 3"),
        ("process.kill(0, 'SIGTERM'); for (;;);", "signal 15"),
        ("require('fs').closeSync(3); for (;;);", ""),
    ],
)
def test_a_kernel_that_dies_ends_its_cell_and_nothing_else(execd, code, words):
    context, other = create(execd, "javascript"), create(execd, "javascript")
    other.run("let x = 1")
    cell = context.run("console.log('last words')\n" + code)
    assert cell.out == ["last words"]
    assert cell.error["ename"] == "KernelDied" and words in cell.error["evalue"], cell.error
    assert other.value("x") == "1" and context.info()["state"] == "dead"
    assert execd.http.post(f"/code/contexts/{context.id}/restart").status_code == 200
    assert context.value("typeof x") == "'undefined'"


def test_deleting_a_context_kills_what_it_started(execd, tmp_path):
    create(execd, "javascript")
    context = create(execd, "javascript")  # a spare
    fifo, fd = hold(tmp_path)
    cell = context.run(
        "const p = require('child_process').spawn('sh', ['-c', "
        f"'exec 9>{fifo}; echo up; exec sleep 1000'], {{ detached: true }})\nawait new Promise(r => p.stdout.once('data', r))"
    )
    assert cell.error is None, cell.error
    context.delete()
    wait_for_end(fd)


def test_ten_contexts_are_isolated_and_run_at_once(execd):
    problems = []
    barrier = threading.Barrier(10)

    def work(i):
        try:
            context = create(execd, "javascript")
            context.run(f"const mine = {i}")
            barrier.wait(120)
            assert context.value("mine") == str(i)
        except Exception as problem:  # shown by the main thread
            problems.append(problem)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems


def test_an_image_without_the_program(start_execd, tmp_path):
    agent = start_execd(env={"PATH": str(tmp_path)})
    for language in ("javascript", "typescript"):
        for path, body in (("/code/context", {"language": language}), ("/code", {"code": "1", "context": {"language": language}})):
            answer = agent.http.post(path, json=body)
            assert answer.status_code >= 400 and "'node'" in answer.json()["message"], answer.text
            assert answer.json()["code"] == "NOT_SUPPORTED"


def test_a_fork_is_refused(js):
    answer = js.agent.http.post(f"/code/contexts/{js.id}/fork")
    assert answer.status_code >= 400 and "javascript" in answer.json()["message"]


@pytest.mark.parametrize("code", ["delete globalThis.console; delete globalThis.Object; delete globalThis.process", "for (const k of Object.getOwnPropertyNames(globalThis)) try { delete globalThis[k] } catch {}"])
def test_a_cell_that_takes_the_builtins_away(js, code):
    js.run(code)
    assert js.run("1 + 1").results == [{"text": "2"}]


# ---- TypeScript ------------------------------------------------------------------------------


def test_typescript(ts):
    cell = ts.run(
        "interface Point { x: number; y?: number }\ntype Pair<T> = [T, T]\n"
        "enum Colour { Red, Green = 'g' }\nconst enum Size { Small = 1 }\n"
        "function first<T extends Point>(p: Pair<T>): T { return p[0] }\n"
        "class Box<T> { constructor(private readonly v: T, public n = 1) {} get value(): T { return this.v! } }\n"
        "abstract class Shape { abstract area(): number; protected static count: number = 0 }\n"
        "const p: Point = first([{ x: 1 }, { x: 2 } as Point])\nlet u: unknown = 5 satisfies number"
    )
    assert cell.error is None, cell.error
    code = "JSON.stringify([p.x, Colour.Red, Colour[0], Colour.Green, Size.Small, new Box<string>('v').value, new Box(1).n])"
    assert ts.value(code) == "'[1,0,\"Red\",\"g\",1,\"v\",1]'"
    assert ts.value("const q: Pair<number> = [1, 2]; (<number>q[0]) + (u as number)") == "6"
    assert ts.value("const later = async <T,>(v: T): Promise<T> => v\nawait later<string>('a')") == "'a'"
    assert ts.run("interface Point { z: number }\nenum Colour { Blue = 7 }").error is None


def test_namespaces(ts):
    cell = ts.run(
        "namespace Geo {\n  export const unit: number = 2\n  const hidden = 3\n  export interface P { x: number }\n"
        "  export function area(a: number): number { return a * unit * hidden }\n"
        "  export namespace Inner { export let deep = 'd' }\n  export enum E { A = 4 }\n  export class C<T> {}\n}\n"
        "namespace A.B.C { export const x = 1 }\ndeclare namespace Not { const there: number }\nnamespace Types { export type T = number }"
    )
    assert cell.error is None, cell.error
    code = "JSON.stringify([Geo.unit, Geo.area(2), Geo.Inner.deep, Geo.E.A, typeof Geo.C, A.B.C.x, 'hidden' in Geo])"
    assert ts.value(code) == "'[2,12,\"d\",4,\"function\",1,false]'"
    assert ts.value("const namespace = 1, module = 2\nnamespace + module") == "3"


def test_typescript_errors_are_on_the_users_lines(ts):
    cell = ts.run("interface A {\n  a: string\n}\nenum E {\n  X,\n  Y,\n}\nfunction f(a: A): never {\n  throw new Error(a.a)\n}\nf({ a: 'here' })")
    assert cell.error["evalue"] == "here"
    assert cell.error["traceback"][:2] == ["<cell 1>:9", "  throw new Error(a.a)"]
    assert [line.strip() for line in cell.error["traceback"] if line.startswith("    at")] == ["at f (<cell 1>:9)", "at <cell 1>:11"]
    cell = ts.run("let a: number = 1\nlet b: = 2")
    assert cell.error["ename"] == "SyntaxError" and "line 2" in cell.error["evalue"]
    assert ts.run("namespace N {\n  export const x: number = 1\n\n  throw new Error('line 4')\n}").error["traceback"][0] == "<cell 3>:4"


def test_typescript_modules_and_interrupt(ts):
    code = "import type { Stats } from 'fs'\nimport { readFileSync, type WriteStream } from 'fs'\nimport os = require('os');\n[typeof readFileSync, typeof os.cpus]"
    assert ts.value(code) == "[ 'function', 'function' ]"
    assert ts.value("typeof readFileSync") == "'function'"
    assert stop(ts, "console.log(1)\nwhile (true as boolean) {}")["error"]["ename"] == "KeyboardInterrupt"
    assert ts.info()["language"] == "typescript"


def test_default_contexts_of_both_languages(execd):
    js, ts = Context(execd, language="javascript"), Context(execd, language="typescript")
    js.run("const x = 1")
    assert ts.value("typeof x") == "'undefined'" and js.value("x") == "1"
    with js.stream("process.kill(process.pid, 9); for (;;);") as response:
        assert [e for e in events(response)][-1]["error"]["ename"] == "KernelDied"
    assert js.value("typeof x") == "'undefined'"
