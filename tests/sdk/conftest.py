"""One sandboxd for the official clients of a test file, and sandboxes in it."""

from datetime import timedelta

import pytest
from opensandbox import SandboxSync
from opensandbox.config import ConnectionConfigSync

from daemon import Sandboxd


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sandboxd")
    settings = folder / "sandboxd.toml"
    settings.write_text("[sandboxd]\nimage_pull = false\n")  # no test asks a registry of the world
    daemon = Sandboxd(folder / "sandboxd.log", folder / "state", args=["--config", settings])
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def config(server):
    return ConnectionConfigSync(
        domain=f"{server.host}:{server.port}", api_key=server.key, request_timeout=timedelta(seconds=60)
    )


@pytest.fixture(scope="module")
def sandbox(config):
    sandbox = SandboxSync.create("ubuntu", connection_config=config, ready_timeout=timedelta(seconds=60))
    yield sandbox
    sandbox.destroy()
