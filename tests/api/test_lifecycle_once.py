"""Requests that are done once, the timing of a creation, and what diagnostics tell."""

import json
import os
import sqlite3
from datetime import datetime, timedelta, timezone

import pytest

from test_lifecycle import body, crash, create, delete, get, running, sh, wait

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")


def keyed(sandboxd, path, key, json=None):
    return sandboxd.http.post(path, json=json, headers={"Idempotency-Key": key})


def all_ids(sandboxd):
    return {item["id"] for item in sandboxd.http.get("/sandboxes").json()["items"]}


def test_created_once(sandboxd):
    first = keyed(sandboxd, "/sandboxes", "one", body(metadata={"a": "b", "c": "d"}))
    assert first.status_code == 202 and "idempotency-replayed" not in first.headers
    wait(sandboxd, first.json()["id"], "Running")
    # with and without the prefix, in another order: the same request
    again = keyed(sandboxd, "/v1/sandboxes", "one", dict(reversed(body(metadata={"c": "d", "a": "b"}).items())))
    assert (again.status_code, again.text) == (202, first.text)
    assert again.headers["location"] == first.headers["location"] and again.headers["idempotency-replayed"] == "true"
    other = keyed(sandboxd, "/sandboxes", "one", body(metadata={"a": "x"}))
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert keyed(sandboxd, f"/sandboxes/{first.json()['id']}/pause", "one").status_code == 409
    assert all_ids(sandboxd) == {first.json()["id"]}
    second = keyed(sandboxd, "/sandboxes", "two", body())
    assert all_ids(sandboxd) == {first.json()["id"], second.json()["id"]}


def test_what_failed_may_be_tried_again(sandboxd):
    assert keyed(sandboxd, "/sandboxes", "k", {"image": {"uri": "no-such"}}).status_code == 400
    assert keyed(sandboxd, "/sandboxes", "k", body()).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, b"a\xe9"])
def test_keys_that_are_none(sandboxd, key):
    response = sandboxd.http.post("/sandboxes", json=body(), headers={"Idempotency-Key": key})
    assert response.status_code == 400
    assert all_ids(sandboxd) == set()


def test_every_post(sandboxd):
    id = running(sandboxd)
    later = {"expiresAt": (datetime.now(timezone.utc) + timedelta(hours=2)).isoformat()}
    for _ in range(2):
        response = keyed(sandboxd, f"/sandboxes/{id}/renew-expiration", "renew", later)
        assert response.status_code == 200 and set(response.json()) == {"expiresAt"}
    assert keyed(sandboxd, f"/sandboxes/{id}/pause", "pause").status_code == 202
    wait(sandboxd, id, "Paused")
    assert keyed(sandboxd, f"/sandboxes/{id}/pause", "pause").headers["idempotency-replayed"] == "true"
    assert keyed(sandboxd, f"/sandboxes/{id}/pause", "other").status_code == 409
    assert keyed(sandboxd, f"/sandboxes/{id}/resume", "resume").status_code == 202
    wait(sandboxd, id, "Running")
    assert keyed(sandboxd, f"/sandboxes/{id}/resume", "resume").status_code == 202  # and not 409
    assert get(sandboxd, id)["status"]["state"] == "Running"


def test_answers_outlive_a_crash_and_are_forgotten_after_a_day(start_sandboxd):
    first = start_sandboxd()
    made = keyed(first, "/sandboxes", "one", body())
    wait(first, made.json()["id"], "Running")
    crash(first)
    second = start_sandboxd()
    assert keyed(second, "/sandboxes", "one", body()).text == made.text
    assert all_ids(second) == {made.json()["id"]}
    with sqlite3.connect(second.state / "sandboxd.db") as db:
        db.execute("UPDATE answers SET at_ms = at_ms - 24 * 3600 * 1000")
    assert keyed(second, "/sandboxes", "one", body()).json()["id"] != made.json()["id"]
    with sqlite3.connect(second.state / "sandboxd.db") as db:
        assert db.execute("SELECT count(*) FROM answers").fetchone() == (1,)


# ---- timing ------------------------------------------------------------------------


def test_timing(start_sandboxd):
    first = start_sandboxd()
    id = create(first)
    timing = wait(first, id, "Running")["timing"]
    assert list(timing) == ["preparedMs", "startedMs", "answeredMs", "totalMs"]
    assert 0 < timing["preparedMs"] <= timing["startedMs"] <= timing["totalMs"]
    assert timing["preparedMs"] <= timing["answeredMs"] <= timing["totalMs"]
    failed = wait(first, create(first, entrypoint=["/no/such/program"]), "Failed", "Running")
    assert "preparedMs" in failed.get("timing", {})
    crash(first)
    assert get(start_sandboxd(), id)["timing"] == timing


# ---- diagnostics ---------------------------------------------------------------------


def diagnostics(sandboxd, id, kind, scope):
    response = sandboxd.http.get(f"/sandboxes/{id}/diagnostics/{kind}", params={"scope": scope})
    assert response.status_code == 200, response.text
    told = response.json()
    assert told.keys() - {"warnings"} == {"sandboxId", "kind", "scope", "delivery", "contentType", "content", "truncated"}
    assert (told["sandboxId"], told["kind"], told["scope"], told["delivery"]) == (id, kind, scope, "inline")
    return told


@pytest.mark.runtimes
def test_logs(sandboxd):
    id = running(sandboxd, entrypoint=[
        "sh", "-c", "echo from the entrypoint; printf '\\377\\n'; mkfifo /tmp/p; echo >/tmp/p; sleep 1000"])
    sh(sandboxd, id, "mkfifo /tmp/p 2>&1; cat /tmp/p")
    told = diagnostics(sandboxd, id, "logs", "container")
    assert "from the entrypoint\n\N{REPLACEMENT CHARACTER}\n" in told["content"] and "warnings" not in told
    assert not told["truncated"]
    assert "from the entrypoint" in diagnostics(sandboxd, id, "logs", "all")["content"]
    assert "lifecycle Running" in diagnostics(sandboxd, id, "logs", "all")["content"]
    delete(sandboxd, id)
    told = diagnostics(sandboxd, id, "logs", "container")
    assert told["content"] == "" and len(told["warnings"]) == 1


def test_events(sandboxd):
    id = running(sandboxd)
    sandboxd.http.post(f"/sandboxes/{id}/pause")
    wait(sandboxd, id, "Paused")
    delete(sandboxd, id)
    told = diagnostics(sandboxd, id, "events", "lifecycle")["content"].splitlines()
    assert [line.split()[2] for line in told] == ["Pending", "Running", "Pausing", "Paused", "Stopping", "Terminated"]
    assert told[4].endswith("Stopping user_delete: Sandbox was deleted by request.")
    assert [datetime.fromisoformat(line.split()[0]) for line in told] == sorted(
        datetime.fromisoformat(line.split()[0]) for line in told)
    assert diagnostics(sandboxd, id, "events", "network")["warnings"]


def test_a_long_log_is_cut(sandboxd):
    id = running(sandboxd)
    (sandboxd.state / "sandboxes" / id / "container.log").write_text("x" * 300_000 + "\nthe end\n")
    told = diagnostics(sandboxd, id, "logs", "container")
    assert told["truncated"] and told["content"].endswith("the end\n") and len(told["content"]) == 256 * 1024


@pytest.mark.runtimes
def test_plain_text_as_the_command_line_asks_for_it(sandboxd):
    id = running(sandboxd, entrypoint=["sh", "-c", "seq 200; mkfifo /tmp/p; echo >/tmp/p; sleep 1000"], metadata={"team": "blue"})
    sh(sandboxd, id, "mkfifo /tmp/p 2>&1; cat /tmp/p")
    path = f"/sandboxes/{id}/diagnostics"
    lines = [str(n) for n in range(1, 201)]
    for query, wanted in (({}, lines[-100:]), ({"tail": 3}, lines[-3:]), ({"tail": 200}, lines)):
        answer = sandboxd.http.get(f"{path}/logs", params=query)
        assert (answer.headers["content-type"], answer.headers["deprecation"]) == ("text/plain; charset=utf-8", "true")
        assert answer.text.splitlines() == wanted
    events = sandboxd.http.get(f"{path}/events").text.splitlines()
    assert [line.split()[2] for line in events] == ["Pending", "Running"]
    assert sandboxd.http.get(f"{path}/events", params={"limit": 1}).text.splitlines() == events[-1:]
    inspected = sandboxd.http.get(f"{path}/inspect")
    assert inspected.headers["content-type"] == "text/plain; charset=utf-8"
    assert json.loads(inspected.text) == sandboxd.http.get(f"/sandboxes/{id}").json()
    summary = sandboxd.http.get(f"{path}/summary", params={"tail": 2}).text
    assert summary == "\n".join([inspected.text, "EVENTS", *events, "", "LOG", "199", "200", ""])
    context = sandboxd.http.get(f"{path}/context").json()
    assert context.pop("backendIdentifiers").keys() == {"handle"}
    assert context == {"sandboxId": id, "state": "Running", "backendType": "docker" if sandboxd.docker else "oci"}
    delete(sandboxd, id)
    assert sandboxd.http.get(f"{path}/logs").text.startswith("(the container's log: ")
    assert sandboxd.http.get("/sandboxes/no-such/diagnostics/inspect").status_code == 404
    assert sandboxd.http.get("/sandboxes/no-such/diagnostics/context").status_code == 404


@pytest.mark.parametrize("kind", ["logs", "events"])
def test_scopes_that_are_none(sandboxd, kind):
    id = create(sandboxd)
    for query in ({"scope": ""}, {"scope": "everything"}, {"tail": 0}, {"limit": 501}, {"since": "10m"}):
        if kind == ("events" if "limit" not in query else "logs") and "scope" not in query:
            continue
        assert sandboxd.http.get(f"/sandboxes/{id}/diagnostics/{kind}", params=query).status_code == 400
    missing = sandboxd.http.get(f"/sandboxes/no-such/diagnostics/{kind}", params={"scope": "all"})
    assert (missing.status_code, missing.json()["code"]) == (404, "DOCKER::SANDBOX_NOT_FOUND")


def test_events_go_with_the_tombstone(start_sandboxd):
    sandboxd = start_sandboxd(args=["--tombstone", "0"])
    id = running(sandboxd)
    sandboxd.http.delete(f"/sandboxes/{id}")
    assert sandboxd.http.get(f"/sandboxes/{id}", params={"wait": "Terminated"}).status_code in (200, 404)
    running(sandboxd)  # the sweeper has been round since
    with sqlite3.connect(sandboxd.state / "sandboxd.db") as db:
        assert db.execute("SELECT count(*) FROM events WHERE object = ?", (id,)).fetchone() == (0,)


# ---- databases of earlier days ------------------------------------------------------------

VERSION_1 = """
CREATE TABLE sandboxes (id TEXT PRIMARY KEY, state INTEGER NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
 created_ms INTEGER NOT NULL, transition_ms INTEGER NOT NULL, expires_ms INTEGER, deadline_ms INTEGER, image TEXT NOT NULL,
 entrypoint TEXT NOT NULL, platform TEXT, runtime TEXT NOT NULL, handle TEXT, port INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE metadata (sandbox TEXT NOT NULL REFERENCES sandboxes(id) ON DELETE CASCADE, key TEXT NOT NULL,
 value TEXT NOT NULL, PRIMARY KEY (sandbox, key)) WITHOUT ROWID;
CREATE INDEX sandboxes_deadline ON sandboxes(deadline_ms) WHERE deadline_ms IS NOT NULL;
CREATE INDEX sandboxes_created ON sandboxes(created_ms DESC, id);
CREATE INDEX sandboxes_state ON sandboxes(state);
CREATE INDEX metadata_pair ON metadata(key, value);
INSERT INTO sandboxes VALUES ('old', 7, 'x', 'It failed.', 1, 1, NULL, NULL, 'ubuntu', '["sh"]', NULL, 'oci', NULL, 0);
INSERT INTO metadata VALUES ('old', 'a', 'b');
PRAGMA user_version = 1;
"""


def test_a_database_of_version_1(start_sandboxd, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    with sqlite3.connect(state / "sandboxd.db") as db:
        db.executescript(VERSION_1)
    sandboxd = start_sandboxd()
    old = get(sandboxd, "old")
    assert old["status"]["message"] == "It failed." and old["metadata"] == {"a": "b"} and "timing" not in old
    running(sandboxd)
