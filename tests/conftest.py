"""Fixtures of the black-box tests: each test has a daemon of its own, on a real socket."""

import pytest

from daemon import Execd, Sandboxd


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
def start_sandboxd(start):
    """start_sandboxd(key=None, args=[...], env={...}, state=...)"""
    return lambda **options: start(Sandboxd, **options)


@pytest.fixture
def execd(start_execd):
    """An agent with a token; .http is a client that has it."""
    return start_execd()


@pytest.fixture
def sandboxd(start_sandboxd):
    """A control plane with a key and its own state; .http is a client that has the key."""
    return start_sandboxd()
