"""System calls of sandboxd that fail within a sandbox's life: it is told, and afterwards nothing is left and all works."""

import os
import sqlite3
from contextlib import closing

import httpx
import pytest

import faults
from conftest import SANITIZED
from daemon import Sandboxd
from faults import Order
from test_lifecycle import body, create, delete, nothing_left, running, wait
from test_lifecycle_crash import NOTHING, all_of, census, stop

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root"),
    pytest.mark.skipif(SANITIZED, reason="runs on the other build: the filter is the same, and the sanitizers' own calls are many"),
]

# (call, errno, of which ones). FOR_GOOD: all of them until the fault is over.
FOR_GOOD = None
FAULTS = [
    ("pwrite64", "ENOSPC", (FOR_GOOD, 0, 3)),
    ("pwrite64", "EIO", (FOR_GOOD, 1)),
    ("clone", "EAGAIN", (FOR_GOOD, 0)),
    ("openat", "EMFILE", (0, 3, 9)),
    ("mkdirat", "ENOSPC", (FOR_GOOD, 0, 2)),
    ("mkdir", "ENOSPC", (FOR_GOOD, 0)),
    ("mount", "ENOMEM", (FOR_GOOD, 0)),
]
CALLS = {call for call, _, _ in FAULTS}


def struck(sandboxd):
    """Creates and ends a sandbox; how far it came. What is answered is an answer."""
    try:
        made = sandboxd.http.post("/sandboxes", json=body())
    except httpx.TransportError:  # what failed was the connection's
        return "no connection"
    if made.status_code != 202:
        said = made.json()
        assert made.status_code >= 500 and said["code"] and said["message"], made.text
        return made.status_code
    sandbox = wait(sandboxd, made.json()["id"], "Running", "Failed", "Terminated")
    if sandbox["status"]["state"] != "Running":
        assert sandbox["status"]["reason"] and sandbox["status"]["message"], sandbox
    return sandbox["status"]["state"]


def test_faults_within_the_life_of_a_sandbox(start, tmp_path):
    order = Order.make(tmp_path / "order")
    sandboxd = start(Sandboxd, wrap=[faults.DENY, f"@{tmp_path}/order", ",".join(CALLS)])
    delete(sandboxd, running(sandboxd))
    ends = {}
    for call, error, moments in FAULTS:
        for moment in moments:
            with order.fail(call, error, moment or 0, times=1 << 30 if moment is FOR_GOOD else 1):
                end = struck(sandboxd)
            ends[call, error, moment] = end, order.hits
            for sandbox in all_of(sandboxd, "/sandboxes"):
                if sandbox["status"]["state"] not in ("Terminated", "Failed"):
                    delete(sandboxd, sandbox["id"])
            delete(sandboxd, running(sandboxd))
    assert ends["pwrite64", "ENOSPC", FOR_GOOD][0] == 507, ends
    assert sum(hits > 0 for _, hits in ends.values()) > len(ends) / 2, ends
    stop(sandboxd)
    assert census(sandboxd) == NOTHING


def test_a_store_that_cannot_note_that_it_runs(sandboxd):
    """It fails, with its reason, and its container goes; the next one is well."""
    with closing(sqlite3.connect(sandboxd.state / "sandboxd.db", timeout=60)) as db:
        db.execute("CREATE TRIGGER refuse BEFORE UPDATE OF state ON sandboxes WHEN new.reason = 'running'"
                   " BEGIN SELECT RAISE(FAIL, 'not today'); END")
        db.commit()
        id = create(sandboxd)
        status = wait(sandboxd, id, "Failed")["status"]
        assert (status["reason"], status["message"]) == ("store_error", "The store could not note that the sandbox runs.")
        db.execute("DROP TRIGGER refuse")
        db.commit()
    assert "not today" in sandboxd.logs()
    delete(sandboxd, id)
    nothing_left(sandboxd, id)
    delete(sandboxd, running(sandboxd))
