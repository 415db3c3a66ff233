"""The official command line (osb) and the official MCP server, as people and models use them."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from opensandbox_cli.main import cli

MCP_TOOLS = {
    "sandbox_create", "sandbox_connect", "sandbox_kill", "sandbox_get_info", "sandbox_list", "sandbox_renew",
    "sandbox_get_metrics", "sandbox_healthcheck", "sandbox_get_endpoint", "command_run", "command_interrupt",
    "file_read", "file_write", "file_delete", "file_search", "file_create_directories", "file_delete_directories",
    "file_move", "file_replace_contents",
}  # fmt: skip


@pytest.fixture
def osb(server, tmp_path):
    """osb("sandbox", "list") -> what it prints, of JSON where it is JSON; code: how it is to exit."""

    def call(*words, code=0):
        own = ["--config", str(tmp_path / "config.toml"), "--domain", f"{server.host}:{server.port}", "--protocol", "http"]
        done = CliRunner().invoke(cli, [*own, "--api-key", server.key, *words])
        assert done.exit_code == code, (words, done.output, done.exception)
        return json.loads(done.stdout) if "json" in words else done.output if code else done.stdout

    return call


def test_the_command_line(osb, tmp_path):
    created = osb("sandbox", "create", "--image", "python:3.12", "--timeout", "30m", "-o", "json")
    id = created["id"]
    assert osb("sandbox", "get", id, "-o", "json")["status"]["state"] == "Running"
    assert osb("sandbox", "health", id, "-o", "json")["healthy"] is True
    assert osb("sandbox", "metrics", id, "-o", "json")["cpu_count"] > 0
    assert "8080" in osb("sandbox", "endpoint", id, "--port", "8080", "-o", "json")["endpoint"]
    assert id in [one["id"] for one in osb("sandbox", "list", "--state", "running", "-o", "json")["items"]]

    assert osb("command", "run", id, "-o", "raw", "--", "python3", "-c", "print(1 + 1)").strip() == "2"
    assert "3" in osb("command", "run", id, "-o", "raw", "--", "sh", "-c", "exit 3", code=1)
    started = osb("command", "run", id, "--background", "-o", "json", "--", "sh", "-c", "echo done")["execution_id"]
    while osb("command", "status", id, started, "-o", "json")["running"]:
        pass
    assert osb("command", "logs", id, started, "-o", "json")["content"] == "done\n"
    session = osb("command", "session", "create", id, "--workdir", "/usr", "-o", "json")["session_id"]
    assert osb("command", "session", "run", id, session, "-o", "raw", "--", "pwd").strip() == "/usr"
    osb("command", "session", "delete", id, session, "-o", "json")

    osb("file", "write", id, "/workspace/hello.txt", "-c", "hello", "-o", "json")
    assert osb("file", "cat", id, "/workspace/hello.txt", "-o", "raw") == "hello"
    local = tmp_path / "local.txt"
    local.write_text("one two")
    osb("file", "upload", id, str(local), "/workspace/local.txt", "-o", "json")
    osb("file", "replace", id, "/workspace/local.txt", "--old", "one", "--new", "1", "-o", "json")
    osb("file", "chmod", id, "/workspace/local.txt", "--mode", "700", "-o", "json")
    assert osb("file", "info", id, "/workspace/local.txt", "-o", "json")[0]["mode"] == 700
    osb("file", "mkdir", id, "/workspace/sub", "-o", "json")
    osb("file", "mv", id, "/workspace/local.txt", "/workspace/sub/moved.txt", "-o", "json")
    found = osb("file", "search", id, "/workspace", "--pattern", "*.txt", "-o", "json")
    assert sorted(one["path"] for one in found) == ["/workspace/hello.txt", "/workspace/sub/moved.txt"]
    osb("file", "download", id, "/workspace/sub/moved.txt", str(tmp_path / "back"), "-o", "json")
    assert (tmp_path / "back").read_text() == "1 two"
    osb("file", "rm", id, "/workspace/hello.txt", "-o", "json")
    osb("file", "rmdir", id, "/workspace/sub", "-o", "json")

    assert "Running" in osb("diagnostics", "events", id, "--scope", "lifecycle", "-o", "raw")
    assert osb("diagnostics", "logs", id, "--scope", "container", "-o", "json")["sandbox_id"] == id
    assert id in osb("devops", "inspect", id, "-o", "raw")
    assert "EVENTS" in osb("devops", "summary", id, "-o", "raw")
    osb("sandbox", "renew", id, "--timeout", "1h", "-o", "json")
    osb("sandbox", "pause", id, "-o", "json")
    osb("sandbox", "resume", id, "-o", "json")
    osb("sandbox", "kill", id, "-o", "json")
    assert "nobody" in osb("sandbox", "get", "nobody", code=1)


async def every_tool(server):
    argv = ["--domain", f"{server.host}:{server.port}", "--api-key", server.key, "--protocol", "http"]
    program = StdioServerParameters(command=str(Path(sys.executable).parent / "opensandbox-mcp"), args=argv)
    async with stdio_client(program) as streams, ClientSession(*streams) as session:
        await session.initialize()
        assert {tool.name for tool in (await session.list_tools()).tools} >= MCP_TOOLS

        async def call(name, fails=False, **arguments):
            answer = (await session.call_tool(name, arguments)).model_dump(by_alias=True)
            text = answer["content"][0]["text"] if answer["content"] else "null"
            assert bool(answer["isError"]) == fails, (name, text)
            return text if fails else json.loads(text)

        id = (await call("sandbox_create", image="ubuntu", timeout_seconds=600))["sandbox_id"]
        own = {"sandbox_id": id}
        assert (await call("sandbox_connect", **own))["sandbox_id"] == id
        assert (await call("sandbox_get_info", **own))["status"]["state"] == "Running"
        assert id in [one["id"] for one in (await call("sandbox_list"))["sandbox_infos"]]
        assert (await call("sandbox_renew", **own, timeout_seconds=900))["expires_at"]
        assert (await call("sandbox_get_metrics", **own))["memory_total_in_mib"] > 0
        assert (await call("sandbox_healthcheck", **own))["healthy"] is True
        assert "8000" in (await call("sandbox_get_endpoint", **own, port=8000))["endpoint"]
        run = await call("command_run", **own, command="echo hi; exit 3")
        assert run["logs"]["stdout"][0]["text"] == "hi" and run["error"]["value"] == "3"
        started = (await call("command_run", **own, command="sleep 1000", background=True))["id"]
        await call("command_interrupt", **own, execution_id=started)
        await call("file_create_directories", **own, entries=[{"path": "/tmp/q", "mode": 755}])
        await call("file_write", **own, path="/tmp/q/a.txt", content="hello")
        await call("file_replace_contents", **own, entries=[{"path": "/tmp/q/a.txt", "old_content": "hello", "new_content": "bye"}])
        await call("file_move", **own, entries=[{"source": "/tmp/q/a.txt", "destination": "/tmp/q/b.txt"}])
        assert (await call("file_search", **own, path="/tmp/q", pattern="*.txt"))["path"] == "/tmp/q/b.txt"
        assert (await call("file_read", **own, path="/tmp/q/b.txt"))["content"] == "bye"
        await call("file_delete", **own, paths=["/tmp/q/b.txt"])
        await call("file_read", fails=True, **own, path="/tmp/q/b.txt")
        await call("file_delete_directories", **own, paths=["/tmp/q"])
        await call("sandbox_kill", **own)


def test_the_mcp_server(server):
    asyncio.run(every_tool(server))
