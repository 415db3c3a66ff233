"""The quick starts of the official SDKs, as make demo runs them."""

import subprocess
import sys

from daemon import ROOT


def test_quick_starts():
    demo = subprocess.run([sys.executable, ROOT / "tools/demo"], capture_output=True, text=True, timeout=300)
    assert demo.returncode == 0, demo.stdout + demo.stderr
