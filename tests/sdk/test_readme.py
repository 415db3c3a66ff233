"""The commands of README.md do what it says, when pasted."""

import re
import subprocess

from daemon import ROOT


def test_by_hand(server):
    text = (ROOT / "README.md").read_text()
    [block] = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block.count("http://127.0.0.1:8080") == 1 and block.count("build/run/key") == 1
    script = block.replace("http://127.0.0.1:8080", server.url).replace("build/run/key", f"{server.state.parent}/key")
    pasted = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert pasted.returncode == 0, pasted.stderr
    rest = pasted.stdout
    for said in re.findall(r"^# -> (.*)$", block, re.MULTILINE):
        assert said in rest, f"{said!r} is not in the output, or not in this order:\n{pasted.stdout}"
        rest = rest[rest.index(said) + len(said) :]
