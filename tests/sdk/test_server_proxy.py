"""The official clients with every request through the server, and with secure access."""

import os
import subprocess
from datetime import timedelta

import pytest
from opensandbox import SandboxSync
from opensandbox.models import WriteEntry

from daemon import ROOT

READY = timedelta(seconds=60)


@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize("secure", [False, True])
def test_python(server, config, proxy, secure):
    config = config.model_copy(update={"use_server_proxy": proxy})
    sandbox = SandboxSync.create("ubuntu", connection_config=config, ready_timeout=READY, secure_access=secure)
    try:
        endpoint = sandbox.get_endpoint(44772)
        assert ("/proxy/44772" in endpoint.endpoint) == proxy
        assert bool(endpoint.headers) == secure
        execution = sandbox.commands.run("echo through; exit 3")
        assert [message.text for message in execution.logs.stdout] == ["through"] and execution.exit_code == 3
        sandbox.files.write_files([WriteEntry(path="/tmp/there", data="text\n" * 50000)])
        assert sandbox.files.read_file("/tmp/there") == "text\n" * 50000
        assert sandbox.get_metrics().memory_total_in_mib > 0
        sandbox.pause()
        assert sandbox.get_info().status.state in ("Pausing", "Paused")
    finally:
        sandbox.kill()
        sandbox.close()


def test_pause_and_resume(server, config):
    sandbox = SandboxSync.create("ubuntu", connection_config=config, ready_timeout=READY)
    sandbox.pause()
    server.http.get(f"/sandboxes/{sandbox.id}", params={"wait": "Paused"})
    assert sandbox.get_info().status.state == "Paused"
    resumed = SandboxSync.resume(sandbox.id, connection_config=config, resume_timeout=READY)
    assert resumed.commands.run("echo again").logs.stdout[0].text == "again"
    resumed.kill()
    for one in (sandbox, resumed):
        one.close()


JAVASCRIPT = """
import { ConnectionConfig, Sandbox } from "@alibaba-group/opensandbox";
const sandbox = await Sandbox.create({
  connectionConfig: new ConnectionConfig({ useServerProxy: true }), image: "ubuntu", timeoutSeconds: 600,
});
const execution = await sandbox.commands.run("echo through");
console.log(execution.logs.stdout[0]?.text);
await sandbox.files.writeFiles([{ path: "/tmp/x", data: "content", mode: 644 }]);
console.log(await sandbox.files.readFile("/tmp/x"));
await sandbox.kill();
await sandbox.close();
"""


def test_javascript(server, tmp_path):
    script = tmp_path / "proxy.mjs"
    script.write_text(JAVASCRIPT)
    (tmp_path / "node_modules").symlink_to(ROOT / "build/npm/node_modules")
    environment = dict(os.environ, OPEN_SANDBOX_DOMAIN=f"{server.host}:{server.port}", OPEN_SANDBOX_API_KEY=server.key)
    environment["PATH"] = f"{ROOT / 'build/venv/bin'}:{environment['PATH']}"
    ran = subprocess.run(["node", script], capture_output=True, text=True, timeout=120, env=environment)
    assert (ran.stdout, ran.returncode) == ("through\ncontent\n", 0), ran.stderr
