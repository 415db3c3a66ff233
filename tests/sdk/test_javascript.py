"""The official JavaScript client, beyond its quick start."""

import os
import shutil
import subprocess

from daemon import ROOT


def test_commands_sessions_files(server):
    env = {**os.environ, "OPEN_SANDBOX_DOMAIN": f"{server.host}:{server.port}", "OPEN_SANDBOX_API_KEY": server.key}
    # Modules are looked for beside the program: it is run from where the packages are.
    program = shutil.copy(ROOT / "tests/sdk/client.mjs", ROOT / "build/npm")
    done = subprocess.run(["node", program], env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "every value was right\n"), done.stdout + done.stderr
