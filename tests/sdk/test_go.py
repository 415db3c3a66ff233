"""The official Go client. It is a Go module; OPENSANDBOX_GO_SDK may name a folder that holds its source."""

import os
import shutil
import subprocess

import pytest

from daemon import ROOT, Execd

MODULE = "github.com/alibaba/OpenSandbox/sdks/sandbox/go"


def go(*args, cwd, **env):
    environ = {**os.environ, "GOFLAGS": "-mod=mod", **env}
    return subprocess.run(["go", *args], cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if not shutil.which("go"):
        pytest.skip("there is no go here")
    folder = tmp_path_factory.mktemp("go")
    shutil.copy(ROOT / "tests/sdk/go/main.go", folder)
    (folder / "go.mod").write_text("module sdktest\n\ngo 1.20\n")
    source = os.environ.get("OPENSANDBOX_GO_SDK")
    if source:
        go("mod", "edit", f"-require={MODULE}@v0.0.0", f"-replace={MODULE}={source}", cwd=folder)
    elif (fetched := go("get", f"{MODULE}@latest", cwd=folder)).returncode:
        pytest.skip(f"the module proxy has no {MODULE}: {fetched.stderr.strip().splitlines()[-1]}")
    built = go("build", "-o", "program", ".", cwd=folder)
    assert built.returncode == 0, built.stderr
    return folder / "program"


def test_commands_sessions_files(program, tmp_path):
    agent = Execd(tmp_path / "execd.log")
    work = tmp_path / "work"
    work.mkdir()
    os.mkfifo(work / "go")
    try:
        env = {"EXECD_URL": agent.url, "EXECD_TOKEN": agent.token, "EXECD_DIR": str(work)}
        done = subprocess.run([program], env=env, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (0, "every value was right\n"), done.stdout + done.stderr
    finally:
        agent.stop()
