"""What holds of isolated sessions anywhere, in containers: a sandbox of sandboxd, one of crun's, one of Docker's."""

import shutil
import tempfile
from pathlib import Path

import pytest

import containers
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
    folder = Path(tempfile.mkdtemp(dir=agent.place))
    folder.chmod(0o755)
    yield folder
    for session in agent.http.get("/v1/isolated/sessions").json()["sessions"]:
        agent.http.delete(f"/v1/isolated/session/{session['session_id']}")
    shutil.rmtree(folder)


def test_a_filter_of_the_container_is_told(agent):
    assert agent.http.get("/confinement").json()["seccomp"]["inherited"] == agent.filtered
