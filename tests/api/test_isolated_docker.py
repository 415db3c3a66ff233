"""Rooms in sandboxes of Docker: without privileges, and as the README tells operators to set it up."""

from contextlib import ExitStack

import pytest

import containers
from test_lifecycle_oci import NESTED


@pytest.mark.docker
def test_docker_says_what_is_missing(docker_daemon, tmp_path_factory):
    folder, place = tmp_path_factory.mktemp("sandboxd"), tmp_path_factory.mktemp("place")
    with containers.in_sandbox(folder, place, docker_daemon) as agent:
        told = agent.http.get("/v1/isolated/capabilities").json()
        assert not told["available"] and "CAP_SYS_ADMIN" in told["message"], told
        session = agent.http.post("/v1/isolated/session", json={"workspace": {"path": str(agent.place)}})
        call = agent.http.post("/v1/isolated/run", json={"command": "true"})
        for refused in (session, call):
            assert refused.status_code == 501, refused.text
            assert "user namespaces are not allowed here" in refused.json()["message"], refused.text


@pytest.mark.docker
def test_docker_set_up_for_rooms(docker_daemon, tmp_path_factory):
    """With the profile and an empty procfs there are rooms, and still nobody gets a /proc to write to."""
    folder, place = tmp_path_factory.mktemp("sandboxd"), tmp_path_factory.mktemp("place")
    with ExitStack() as stack:
        procfs = stack.enter_context(containers.empty_procfs(folder / "procfs"))
        assert list(procfs.glob("[0-9]*")) == [] and not (procfs / "sys").exists()
        settings = f'seccomp_profile = "nested"\nsandbox_binds = ["{procfs}:/.procfs:ro"]'
        agent = stack.enter_context(containers.in_sandbox(folder, place, docker_daemon, settings))
        told = agent.http.get("/v1/isolated/capabilities").json()
        works = [told["available"], told["overlay"]["available"], told["network"]["available"]]
        assert works == [True, True, True] and not told["writable_proc"]["available"], told
        call = agent.http.post("/v1/isolated/run", json={"command": "id -u; ls -d /proc/[0-9]* | wc -l"}).json()
        assert call["exit_code"] == 0 and call["stdout"].startswith("0\n"), call
        (place / "nested.py").write_text(NESTED)
        events = agent.run(f"mkdir -p /mnt /media; unshare -Umpfr /usr/bin/python3 {place}/nested.py 2>&1")
        said = dict(event["text"].strip().rsplit(" ", 1) for event in events if event["type"] == "stdout")
        assert {name for name, word in said.items() if word == "done"} <= {
            "read-only", "mounted", "bound as it is", "uncloned /dev/null"}, said
        assert said["mounted"] == "done" and said["writable"] == "EPERM" and said["core_pattern"] == "EROFS", said
