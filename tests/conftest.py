"""Fixtures of the black-box tests: each test has a daemon of its own, on a real socket."""

import shutil

import pytest

import dockerd
from daemon import SANITIZED, Execd, Sandboxd


def pytest_configure(config):
    config.addinivalue_line("markers", "runtimes: the test holds on each runtime, and is run on each")
    config.addinivalue_line("markers", "docker: of the docker runtime; a few run on the sanitized build (smoke)")
    config.addinivalue_line("markers", "smoke: runs on docker also on the sanitized build")


def pytest_generate_tests(metafunc):
    if metafunc.definition.get_closest_marker("runtimes") and "runtime" in metafunc.fixturenames:
        smoke = metafunc.definition.get_closest_marker("smoke")
        names = ["oci"] if SANITIZED and not smoke else ["oci", "docker"]
        metafunc.parametrize("runtime", names, indirect=True)


@pytest.fixture(scope="session")
def docker_daemon(tmp_path_factory):
    """One for each worker; its log is shown when it does not start."""
    folder = tmp_path_factory.mktemp("dockerd")
    try:
        daemon = dockerd.Dockerd(folder)
    except dockerd.Unavailable as why:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"no Docker daemon can be had here: {why}")
    yield daemon
    daemon.close()


@pytest.fixture
def runtime(request):
    """Which runtime the sandboxes of this test are made by: oci, where the test says nothing else."""
    name = getattr(request, "param", "oci")
    return request.getfixturevalue("docker_daemon") if name == "docker" else None


@pytest.fixture
def start(tmp_path):
    """start(Execd, token=None, ...): a daemon as the test wants it, ended and checked with the test."""
    running = []

    def start_daemon(kind, **options):
        log = tmp_path / f"{kind.__name__.lower()}-{len(running)}.log"
        if kind is Sandboxd:
            options.setdefault("state", tmp_path / "state")
        daemon = kind(log, **options)
        running.append(daemon)
        return daemon

    yield start_daemon
    problems = []
    for daemon in reversed(running):
        try:
            daemon.stop()
        except AssertionError as problem:
            problems.append(str(problem))
        else:
            print(f"--- {daemon.log.name}\n{daemon.logs()}")  # pytest shows it when the test failed
    assert not problems, "\n".join(problems)


@pytest.fixture
def start_execd(start):
    """start_execd(token=None, args=[...], env={...})"""
    return lambda **options: start(Execd, **options)


@pytest.fixture
def start_sandboxd(start, runtime):
    """start_sandboxd(key=None, args=[...], env={...}, state=..., docker=a Dockerd)"""

    def start_it(**options):
        options.setdefault("docker", runtime)
        return start(Sandboxd, **options)

    return start_it


@pytest.fixture
def execd(start_execd):
    """An agent with a token; .http is a client that has it."""
    return start_execd()


@pytest.fixture
def sandboxd(start_sandboxd):
    """A control plane with a key and its own state; .http is a client that has the key."""
    return start_sandboxd()
