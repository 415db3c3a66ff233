"""The agent as a file: no loader, small, and all it needs in a root that holds nothing else."""

import os
import shutil
import socket
import struct
import subprocess

import pytest

from daemon import BUILD, EXECD, ROOT, Daemon

pytestmark = pytest.mark.skipif(BUILD.name == "san", reason="the sanitized agent is dynamic: only the real one is static")

PT_DYNAMIC, PT_INTERP = 2, 3


def program_headers(image):
    assert image[:5] == b"\x7fELF\x02"
    at, size, count = struct.unpack_from("<Q14xHH", image, 32)
    return {struct.unpack_from("<I", image, at + i * size)[0] for i in range(count)}


def test_it_has_no_dynamic_loader():
    with open(EXECD, "rb") as file:
        headers = program_headers(file.read())
    assert not headers & {PT_DYNAMIC, PT_INTERP}
    assert subprocess.run(["ldd", EXECD], capture_output=True).returncode != 0


def test_it_is_under_two_megabytes():
    assert os.path.getsize(EXECD) < 2 * 1000 * 1000


@pytest.mark.skipif(os.getuid() != 0, reason="chroot needs root")
def test_it_serves_in_an_empty_root(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(EXECD, root / "execd")
    agent = Daemon([shutil.which("chroot"), root, "/execd", "--listen-fd", "{fd}"], tmp_path / "log", env={})
    try:
        http = agent.client()
        assert http.get("/ping").status_code == 200
        assert http.post("/files/upload", files=[
            ("metadata", ("metadata", b'{"path": "/new/file"}', "application/json")),
            ("file", ("file", b"bytes")),
        ]).status_code == 200  # fmt: skip
        assert (root / "new/file").read_bytes() == b"bytes"
        # A command needs a shell, and the refusal says so.
        refused = http.post("/command", json={"command": "true"})
        assert refused.status_code >= 400 and "sh" in refused.json()["message"]
    finally:
        agent.stop()


def test_bootstrap_hands_over_to_the_agent_beside_it(tmp_path):
    """/bootstrap.sh ENTRYPOINT...: the agent runs it and ends as it ends."""
    shutil.copy(EXECD, tmp_path / "execd")
    script = shutil.copy(ROOT / "tools/bootstrap.sh", tmp_path / "bootstrap.sh")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        # As systemd hands a socket over, so that the agent takes no port of the machine.
        handed = f'exec 3<&{fd}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        entrypoint = ["sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", "a b", ""]
        agent = subprocess.run(["bash", "-c", handed, "bash", script, *entrypoint], pass_fds=[fd],
                               capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (agent.returncode, agent.stdout) == (7, "a b||"), agent.stderr
