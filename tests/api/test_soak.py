"""The short form of `make soak`: every operation at once from some clients, nothing lost, nothing left."""

import os
import subprocess
import sys

import pytest

from daemon import ROOT


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", ["execd", "sandboxd"])
def test_soak(part):
    if part == "sandboxd" and os.geteuid() != 0:
        pytest.skip("the oci runtime needs root")
    argv = [sys.executable, ROOT / "tests/soak/soak", "--seconds", "4", "--clients", "8", part]
    run = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-12000:] + run.stderr[-4000:]
