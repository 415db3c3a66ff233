"""The official Python client (the synchronous one; the quick start is asynchronous)."""

import os
from datetime import datetime, timedelta, timezone

import pytest
from code_interpreter import CodeInterpreterSync, SupportedLanguage
from opensandbox import SandboxManagerSync, SandboxSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.models import WriteEntry
from opensandbox.models.execd import RunCommandOpts
from opensandbox.models.execd_sync import ExecutionHandlersSync
from opensandbox.models.sandboxes import PVC, Host, SandboxFilter, Volume

from daemon import BUILD


def stdout(execution):
    return [message.text for message in execution.logs.stdout]


# ---- lifecycle ----------------------------------------------------------------


def test_info_and_renewal(sandbox):
    info = sandbox.get_info()
    assert info.id == sandbox.id and info.status.state == "Running"
    assert info.image.image == "ubuntu"
    renewed = sandbox.renew(timedelta(minutes=30))
    left = renewed.expires_at - datetime.now(timezone.utc)
    assert timedelta(minutes=29) < left <= timedelta(minutes=30)
    assert sandbox.get_info().expires_at == renewed.expires_at


def test_metadata_is_listed_and_filtered(config, sandbox):
    with SandboxSync.create("python:3.12", connection_config=config, metadata={"team": "blue"}) as other:
        with SandboxManagerSync.create(config) as manager:
            found = manager.list_sandbox_infos(SandboxFilter(metadata={"team": "blue"}))
            assert [info.id for info in found.sandbox_infos] == [other.id]
            running = manager.list_sandbox_infos(SandboxFilter(states=["Running"]))
            assert {other.id, sandbox.id} <= {info.id for info in running.sandbox_infos}
        other.kill()


def test_a_killed_sandbox_is_gone(config):
    sandbox = SandboxSync.create("ubuntu", connection_config=config)
    sandbox.kill()
    with pytest.raises(SandboxApiException):
        SandboxSync.connect(sandbox.id, connection_config=config, connect_timeout=timedelta(seconds=1))
    sandbox.close()


def test_volumes(config):
    volume = lambda **options: Volume(name="data", pvc=PVC(claim_name="kept"), mount_path="/data", **options)
    with SandboxSync.create("ubuntu", connection_config=config, volumes=[volume(sub_path="a")]) as writer:
        writer.commands.run("echo kept >/data/file")
        writer.kill()
    with SandboxSync.create("ubuntu", connection_config=config, volumes=[volume(read_only=True)]) as reader:
        assert stdout(reader.commands.run("cat /data/a/file; touch /data/x 2>/dev/null || echo no")) == ["kept", "no"]
        reader.kill()
    outside = Volume(name="host", host=Host(path="/etc"), mount_path="/data")
    with pytest.raises(SandboxApiException) as refusal:
        SandboxSync.create("ubuntu", connection_config=config, volumes=[outside])
    assert refusal.value.status_code == 400 and "allowed_host_paths" in str(refusal.value)


def test_connect_from_another_client(config, sandbox):
    with SandboxSync.connect(sandbox.id, connection_config=config) as again:
        assert stdout(again.commands.run("echo there")) == ["there"]


def test_an_unknown_image_is_refused_by_name(config):
    with pytest.raises(SandboxApiException) as refusal:
        SandboxSync.create("no/such-image:1", connection_config=config)
    assert "no/such-image:1" in str(refusal.value)


def test_a_wrong_key_is_refused(config):
    wrong = config.model_copy(update={"api_key": "wrong"})
    with pytest.raises(SandboxApiException) as refusal:
        SandboxSync.create("ubuntu", connection_config=wrong)
    assert refusal.value.status_code == 401


# ---- commands -----------------------------------------------------------------


def test_output_of_both_streams_and_the_exit_code(sandbox):
    execution = sandbox.commands.run("echo out; echo err >&2; echo; printf 'no end'; exit 3")
    assert stdout(execution) == ["out", "\n", "no end"]
    assert [message.text for message in execution.logs.stderr] == ["err"]
    assert execution.exit_code == 3
    assert execution.error.name == "CommandExecError" and execution.error.value == "3"


def test_a_command_that_ends_well(sandbox):
    execution = sandbox.commands.run("true")
    assert execution.exit_code == 0 and execution.error is None


def test_events_arrive_while_the_command_runs(sandbox):
    """The command waits for what the handler of its first line writes."""

    def answer(message):
        if message.text == "ready":
            sandbox.files.write_file("/tmp/answer.new", "go\n")
            sandbox.commands.run("cat /tmp/answer.new > /tmp/answer")

    execution = sandbox.commands.run(
        "rm -f /tmp/answer; mkfifo /tmp/answer; echo ready; read word < /tmp/answer; echo $word",
        handlers=ExecutionHandlersSync(on_stdout=answer),
    )
    assert stdout(execution) == ["ready", "go"]


def test_directory_and_environment(sandbox):
    execution = sandbox.commands.run(
        "pwd; echo $COLOUR", opts=RunCommandOpts(working_directory="/usr", envs={"COLOUR": "blue"})
    )
    assert stdout(execution) == ["/usr", "blue"]


def test_text_that_is_not_ascii(sandbox):
    text = "grüße 世界 🎉 \u2028 end"
    assert stdout(sandbox.commands.run(f"printf '%s\\n' '{text}'")) == [text]


def test_much_output(sandbox):
    assert stdout(sandbox.commands.run("seq 20000")) == [str(n) for n in range(1, 20001)]


def test_a_timeout_ends_the_command(sandbox):
    execution = sandbox.commands.run(
        "echo before; sleep 600", opts=RunCommandOpts(timeout=timedelta(milliseconds=200))
    )
    assert stdout(execution) == ["before"] and execution.error


# ---- files --------------------------------------------------------------------


def test_files_keep_every_byte(sandbox):
    data = os.urandom(3 * 1024 * 1024) + b"\r\n--boundary\r\n\0"
    sandbox.files.write_files([
        WriteEntry(path="/tmp/deep/er/binary", data=data, mode=600),
        WriteEntry(path="/tmp/deep/ünï çode.txt", data="text ✓", mode=644),
    ])
    assert sandbox.files.read_bytes("/tmp/deep/er/binary") == data
    assert sandbox.files.read_file("/tmp/deep/ünï çode.txt") == "text ✓"
    info = sandbox.files.get_file_info(["/tmp/deep/er/binary"])["/tmp/deep/er/binary"]
    assert info.size == len(data) and info.mode == 600


def test_a_range_of_a_file(sandbox):
    sandbox.files.write_file("/tmp/digits", "0123456789")
    assert sandbox.files.read_bytes("/tmp/digits", range_header="bytes=2-5") == b"2345"


def test_a_missing_file(sandbox):
    with pytest.raises(SandboxApiException) as missing:
        sandbox.files.read_file("/tmp/not there")
    assert missing.value.status_code == 404


# ---- code ---------------------------------------------------------------------


def test_python_contexts_keep_their_state_apart(sandbox):
    codes = CodeInterpreterSync.create(sandbox=sandbox).codes
    one = codes.create_context(SupportedLanguage.PYTHON)
    two = codes.create_context(SupportedLanguage.PYTHON)
    codes.run("x = 40", context=one)
    codes.run("x = 'two'", context=two)
    assert codes.run("x + 2", context=one).result[0].text == "42"
    assert codes.run("x", context=two).result[0].text == "'two'"


def test_python_output_and_errors(sandbox):
    codes = CodeInterpreterSync.create(sandbox=sandbox).codes
    context = codes.create_context(SupportedLanguage.PYTHON)
    assert stdout(codes.run("for i in range(2):\n    print('line', i)", context=context)) == ["line 0", "line 1"]
    failed = codes.run("1 / 0", context=context)
    assert failed.error.name == "ZeroDivisionError" and failed.error.value == "division by zero"
    assert codes.run("'still here'", context=context).result[0].text == "'still here'"


def test_java_cells_keep_their_state_and_tell_their_exceptions(sandbox):
    codes = CodeInterpreterSync.create(sandbox=sandbox).codes
    context = codes.create_context(SupportedLanguage.JAVA)
    execution = codes.run(
        'System.out.println("Hello from Java!");\nint result = 2 + 2;\nresult',
        context=context,
    )
    assert stdout(execution) == ["Hello from Java!"] and execution.result[0].text == "4"
    assert codes.run("result * 10", context=context).result[0].text == "40"
    failed = codes.run("10 / 0", context=context)
    assert failed.error.name == "EvalException"
    assert failed.error.value == "java.lang.ArithmeticException: / by zero" and failed.error.traceback


@pytest.mark.skipif(not (BUILD / "kernels" / "go").exists(), reason="kernels/go is not built: there was no Go compiler")
def test_go_cells_keep_their_state_and_whole_programs_run(sandbox):
    codes = CodeInterpreterSync.create(sandbox=sandbox).codes
    context = codes.create_context(SupportedLanguage.GO)
    assert codes.run("x := 20\nx + 1", context=context).result[0].text == "21"
    assert codes.run("x * 2", context=context).result[0].text == "40"
    program = 'package main\nimport "fmt"\nfunc main() { fmt.Println("3 + 4 =", 3+4) }'
    assert stdout(codes.run(program, language=SupportedLanguage.GO)) == ["3 + 4 = 7"]
    assert stdout(codes.run('package main\nfunc main() { println("Running in Go") }', language="go")) == ["Running in Go"]
    failed = codes.run("y := missing", context=context)
    assert failed.error.name == "CompileError" and failed.error.value == "1:6: undefined: missing"
