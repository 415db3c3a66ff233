"""What proto/*.yaml say against what is answered: schemathesis makes requests from the schemas, right and wrong ones.

The agent that is asked is in a sandbox: its requests delete files by any path and run any command.

OPENAPI_EXAMPLES=240 OPENAPI_SEED=7 and pytest -o timeout=20000 for more, by hand.
"""

import os
import re
import subprocess
import sys

import httpx
import yaml

from daemon import KEY, ROOT
from test_lifecycle import endpoint, pytestmark, running  # noqa: F401, root only

SEED = os.environ.get("OPENAPI_SEED", "1")  # the same requests in every run
EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "12"))
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501, 507]
"""
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
IN_A_SESSION = "/v1/isolated/session/[^/]+/"
CHECKS = "not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance"


def check(tmp_path, document, url, headers, exclude, config=""):
    (tmp_path / "schemathesis.toml").write_text(CONFIG + config)
    argv = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", tmp_path / "schemathesis.toml",
        "run", ROOT / "proto" / document, "--url", url, "--checks", CHECKS, "--phases", "coverage,fuzzing",
        "--max-examples", str(EXAMPLES), "--exclude-path-regex", exclude, "--request-timeout", "60",
        "--generation-database", "none", "--seed", SEED, "--no-color", "--continue-on-failure",
        "--suppress-health-check", "all",
    ]  # fmt: skip
    for header in headers.items():
        argv += ["-H", ": ".join(header)]
    run = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=50 * EXAMPLES)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout, run.stdout[-2000:]


def test_execd(start_sandboxd, tmp_path):
    """All but streams without an end, tunnels, tar bodies, files behind a prefix, and /files/replace, whose answer is empty or not by a flag."""
    sandboxd = start_sandboxd()
    id = running(sandboxd, timeout=max(600, 10 * EXAMPLES))
    check(tmp_path, "execd.yaml", f"http://{endpoint(sandboxd, id)}", {},
          f"watch|/pty|/proxy|^/directories/archive|^/files/replace|^/v1/filesystem/|{IN_A_SESSION}")  # fmt: skip


def test_an_isolated_session(start_sandboxd, tmp_path):
    """What is asked of one session, which is there: no id that is made up would be. It lives through it all."""
    sandboxd = start_sandboxd()
    id = running(sandboxd, timeout=max(600, 10 * EXAMPLES))
    url = f"http://{endpoint(sandboxd, id)}"
    body = {"workspace": {"path": "/home", "mode": "overlay"}, "undoable": True, "idle_timeout_seconds": 0}
    response = httpx.post(f"{url}/v1/isolated/session", json=body, timeout=60)
    assert response.status_code == 201, response.text
    session = response.json()["session_id"]
    config = f'\n[parameters]\n"path.sessionId" = "{session}"\n'
    check(tmp_path, "execd.yaml", url, {}, f"^(?!{IN_A_SESSION})", config)
    assert httpx.get(f"{url}/v1/isolated/session/{session}", timeout=60).json()["status"] == "active"


def test_sandboxd(start_sandboxd, tmp_path):
    """All but what passes through to a sandbox. Images of any name are refused, not fetched."""
    settings = tmp_path / "sandboxd.toml"
    settings.write_text("[sandboxd]\nimage_pull = false\n")
    sandboxd = start_sandboxd(args=["--config", settings])
    check(tmp_path, "lifecycle.yaml", f"http://127.0.0.1:{sandboxd.port}/v1", {"OPEN-SANDBOX-API-KEY": KEY}, "proxy|signed|/pool")


def test_every_route_of_the_agent_is_written_down():
    """The table in the program and the document name the same operations; what takes any method is described by its GET."""
    table = re.findall(r'\{"([A-Z*]+)", "([^"]+)"', (ROOT / "execd/api/routes.c").read_text())
    document = yaml.safe_load((ROOT / "proto/execd.yaml").read_text())
    plain = lambda path: re.sub(r"\{\w+\}|\*", "{}", path)
    written = {
        (method.upper(), plain(path)) for path, item in document["paths"].items() for method in item if method in METHODS
    }
    routes = {(method, plain(path)) for method, path in table}
    whole = {path for method, path in routes if method == "*"}
    assert {route for route in routes if route[0] != "*"} == {operation for operation in written if operation[1] not in whole}
