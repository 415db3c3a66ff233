"""The pages that are made from the programs are as the programs are."""

import subprocess
import sys

import pytest

from daemon import BUILD, ROOT


@pytest.mark.skipif(BUILD.name == "san", reason="both builds say the same")
def test_configuration_page():
    run = subprocess.run([sys.executable, ROOT / "tools/docs", "--check"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
