"""What holds of isolated sessions anywhere, in containers: a sandbox of sandboxd, one of crun's, one of Docker's."""

import shutil
import tempfile
from contextlib import ExitStack

import pytest

import containers
from test_lifecycle_oci import NESTED
from test_isolated import (  # noqa: F401 - run here with the agents below
    session,
    test_a_fork_bomb_is_bounded,
    test_a_full_disk_is_the_session_s_own,
    test_a_race_of_links_gets_nobody_out,
    test_an_environment_is_not_readable_by_another,
    test_calls_that_are_refused,
    test_capabilities_name_what_is_missing,
    test_cgroups_and_release_agents_are_out_of_reach,
    test_descriptors_of_the_agent_are_not_there,
    test_each_call_of_an_attacker_is_denied,
    test_everything_may_be_killed_and_the_next_run_works,
    test_files_api_follows_links_inside_only,
    test_hidden_paths_are_empty,
    test_ids_are_the_session_s,
    test_namespaces_are_its_own,
    test_no_core_is_dumped,
    test_no_privilege_is_left,
    test_processes_of_others_are_not_there,
    test_programs_of_the_agent_are_out_of_reach,
    test_sessions_do_not_see_each_others_files,
    test_setuid_programs_gain_nothing,
    test_the_balanced_profile_shares_the_workspace,
    test_the_container_is_read_only,
    test_the_init_cannot_be_ended_from_within,
    test_the_init_cannot_be_looked_into,
    test_the_token_is_nowhere,
    test_without_network_there_is_only_loopback,
    test_writing_stays_in_the_overlay,
    workspace,
)


@pytest.fixture(scope="module", params=["sandbox", "crun", "docker"])
def agent(request, tmp_path_factory):
    why = containers.kinds()[request.param]
    if why:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp(request.param)
    place = tmp_path_factory.mktemp("place")
    if request.param == "sandbox":
        made = containers.in_sandbox(folder, place)
    elif request.param == "crun":
        made = containers.with_crun(folder, place)
    else:
        made = containers.with_docker(request.getfixturevalue("docker_daemon"), place)
    with made as agent:
        yield agent


@pytest.fixture
def execd(agent):
    return agent


@pytest.fixture
def tmp_path(agent):
    """One that the container has too."""
    folder = containers.Path(tempfile.mkdtemp(dir=agent.place))
    folder.chmod(0o755)
    yield folder
    for session in agent.http.get("/v1/isolated/sessions").json()["sessions"]:
        agent.http.delete(f"/v1/isolated/session/{session['session_id']}")
    shutil.rmtree(folder)


# ---- sandboxes of Docker: without privileges, and as an operator may set it up ------------------


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
