"""The official Java and Kotlin client, from the Maven registry."""

import shutil
import subprocess

import pytest

from daemon import ROOT

HERE = ROOT / "tests/sdk/java"


@pytest.fixture(scope="module")
def jars(tmp_path_factory):
    if missing := [name for name in ("mvn", "javac") if not shutil.which(name)]:
        pytest.skip(f"there is no {' and no '.join(missing)} here")
    folder = tmp_path_factory.mktemp("java")
    shutil.copy(HERE / "pom.xml", folder)
    fetched = subprocess.run(
        ["mvn", "--batch-mode", "--quiet", "dependency:copy-dependencies", "-DoutputDirectory=jars"],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if fetched.returncode:
        pytest.skip(f"Maven cannot have the client: {fetched.stdout.strip().splitlines()[0]}")
    return folder / "jars"


def test_lifecycle_commands_files(server, jars):
    argv = ["java", "-cp", f"{jars}/*", HERE / "Main.java", f"{server.host}:{server.port}", server.key]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=110)
    assert (run.returncode, run.stdout) == (0, "ok\n"), run.stdout + run.stderr
