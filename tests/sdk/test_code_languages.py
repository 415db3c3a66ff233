"""The official code interpreter client: JavaScript, TypeScript and Bash."""

from code_interpreter import CodeInterpreterSync, SupportedLanguage


def stdout(execution):
    return [message.text for message in execution.logs.stdout]


def test_javascript_cells(sandbox):
    codes = CodeInterpreterSync.create(sandbox=sandbox).codes
    context = codes.create_context(SupportedLanguage.JAVASCRIPT)
    execution = codes.run("console.log('Hello from JavaScript!');\nconst result = 2 + 2;\nresult", context=context)
    assert stdout(execution) == ["Hello from JavaScript!"] and execution.result[0].text == "4"
    assert codes.run("await Promise.resolve(result * 10)", context=context).result[0].text == "40"
    failed = codes.run("null.x", context=context)
    assert failed.error.name == "TypeError" and failed.error.traceback
    assert codes.run("[1, 2].map(n => n * 2)", language=SupportedLanguage.JAVASCRIPT).result[0].text == "[ 2, 4 ]"


def test_typescript_cells(sandbox):
    codes = CodeInterpreterSync.create(sandbox=sandbox).codes
    context = codes.create_context(SupportedLanguage.TYPESCRIPT)
    code = "interface P { name: string }\nconst p: P = { name: 'ts' };\nconsole.log(`Hello from ${p.name}`);\nconst n: number = 6;\nn"
    execution = codes.run(code, context=context)
    assert stdout(execution) == ["Hello from ts"] and execution.result[0].text == "6"
    assert codes.run("enum E { A = 7 }\n(E.A as number) + n", context=context).result[0].text == "13"
    assert codes.run("const s: string = 'x'; s", language=SupportedLanguage.TYPESCRIPT).result[0].text == "'x'"


def test_bash_cells(sandbox):
    codes = CodeInterpreterSync.create(sandbox=sandbox).codes
    context = codes.create_context(SupportedLanguage.BASH)
    codes.run("greet() { echo \"Hello from $1\"; }; cd /tmp", context=context)
    assert stdout(codes.run("greet Bash; pwd", context=context)) == ["Hello from Bash", "/tmp"]
    assert codes.run("exit_with() { return 3; }; exit_with", context=context).error.value == "3"
    assert stdout(codes.run("echo $((1 + 1))", language=SupportedLanguage.BASH)) == ["2"]
