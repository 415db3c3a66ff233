"""What holds of every operation and in every state: a POST is done once under its key, DELETE is legal."""

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from uuid import UUID

import jsonschema_rs
import pytest

from daemon import END_TIMEOUT_S
from images import Image, Registry
from test_lifecycle import body, crash, create, entered, get, go, running, slow_runtime, wait  # noqa: F401
from test_lifecycle_crash import NOTHING, census, stop
from test_lifecycle_images import named

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")

CROWD = 6


def keyed(sandboxd, path, key, json):
    return sandboxd.http.post(path, json=json, headers={"Idempotency-Key": key})


def events(sandboxd, id):
    with sqlite3.connect(f"file:{sandboxd.state}/sandboxd.db?mode=ro", uri=True) as db:
        return [row[0] for row in db.execute("SELECT state FROM events WHERE object = ? ORDER BY seq", (id,))]


@pytest.mark.runtimes
def test_each_post_is_done_once(start_sandboxd):
    """One key: at once by many, again, with another request, and of the successor of a server that was killed."""
    first = start_sandboxd()
    now = datetime.now(timezone.utc)
    later, latest = ((now + timedelta(hours=hours)).isoformat() for hours in (2, 3))
    id = running(first)
    of = f"/sandboxes/{id}"
    posts = {  # what is asked, and another request under the same key
        "create": ("/sandboxes", body(metadata={"made": "once"}), "/sandboxes", body(metadata={"made": "twice"})),
        "renew": (f"{of}/renew-expiration", {"expiresAt": later}, f"{of}/renew-expiration", {"expiresAt": latest}),
        "snapshot": (f"{of}/snapshots", {"name": "one"}, f"{of}/snapshots", {"name": "two"}),
        "pause": (f"{of}/pause", None, f"{of}/resume", None),
        "resume": (f"{of}/resume", None, f"{of}/pause", None),
    }
    settled = {"pause": "Paused", "resume": "Running"}
    told = {}
    for name, (path, json, *other) in posts.items():
        with ThreadPoolExecutor(CROWD) as pool:
            answers = list(pool.map(lambda _: keyed(first, path, name, json), range(CROWD)))
        assert {answer.status_code for answer in answers} <= {200, 202}, (name, [answer.text for answer in answers])
        assert len({answer.text for answer in answers}) == 1, name
        assert len({answer.headers.get("location") for answer in answers}) == 1, name
        assert ["idempotency-replayed" in answer.headers for answer in answers].count(False) == 1, name
        told[name] = answers[0]
        refused = keyed(first, other[0], name, other[1])
        assert (refused.status_code, refused.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED"), name
        if name == "snapshot":
            snapshot = answers[0].json()["id"]
            assert first.http.get(f"/snapshots/{snapshot}", params={"wait": ""}).json()["status"]["state"] == "Ready"
        if name in settled:
            wait(first, id, settled[name])
    crash(first)
    second = start_sandboxd(state=first.state)
    for name, (path, json, *other) in posts.items():
        again = keyed(second, path, name, json)
        assert (again.status_code, again.text) == (told[name].status_code, told[name].text), name
        assert again.headers["idempotency-replayed"] == "true", name
        assert keyed(second, other[0], name, other[1]).status_code == 409, name
    # and each was done once, the last of them too
    made = second.http.get("/sandboxes", params={"metadata": "made=once"}).json()["items"]
    assert [item["id"] for item in made] == [told["create"].json()["id"]]
    assert second.http.get("/sandboxes", params={"metadata": "made=twice"}).json()["items"] == []
    assert [item["id"] for item in second.http.get("/snapshots").json()["items"]] == [snapshot]
    assert datetime.fromisoformat(get(second, id)["expiresAt"]) == datetime.fromisoformat(later).replace(
        microsecond=datetime.fromisoformat(later).microsecond // 1000 * 1000)
    assert events(second, id) == ["Pending", "Running", "Pausing", "Paused", "Resuming", "Running"]
    assert second.http.delete(f"/snapshots/{snapshot}").status_code == 204


# ---- diagnostics --------------------------------------------------------------------

SCOPES = ("container", "lifecycle", "runtime", "network", "process", "all")
TEXTS = {  # what diagnostic-api.yml says of them, and nothing more
    "type": "object",
    "required": ["sandboxId", "kind", "scope", "delivery", "contentType", "truncated"],
    "additionalProperties": False,
    "properties": {
        **{name: {"type": "string"} for name in ("sandboxId", "scope", "contentType", "content")},
        "kind": {"enum": ["logs", "events"]},
        "delivery": {"enum": ["inline", "url"]},
        "contentUrl": {"type": "string", "format": "uri"},
        "contentLength": {"type": "integer", "minimum": 0},
        "expiresAt": {"type": "string", "format": "date-time"},
        "truncated": {"type": "boolean"},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
    "oneOf": [
        {"required": ["content"], "properties": {"delivery": {"const": "inline"}, "contentUrl": False, "expiresAt": False}},
        {"required": ["contentUrl", "expiresAt"], "properties": {"delivery": {"const": "url"}, "content": False}},
    ],
}
REFUSAL = {"type": "object", "required": ["code", "message"], "additionalProperties": False,
           "properties": {"code": {"type": "string"}, "message": {"type": "string"}}}


@pytest.mark.runtimes
def test_diagnostics_of_every_state(start_sandboxd):
    """Both kinds, every scope, in each state in which a sandbox rests; and what is refused."""
    sandboxd = start_sandboxd()
    texts, refusal = (jsonschema_rs.validator_for(schema, validate_formats=True) for schema in (TEXTS, REFUSAL))
    ids = {"Running": running(sandboxd), "Failed": create(sandboxd, entrypoint=["/no/such/program"])}
    ids["Paused"], ids["Terminated"] = running(sandboxd), create(sandboxd, entrypoint=["true"])
    assert sandboxd.http.post(f"/sandboxes/{ids['Paused']}/pause").status_code == 202
    for state, id in ids.items():
        wait(sandboxd, id, state)
    requests = [(id, state, kind, scope) for state, id in ids.items() for kind in ("logs", "events") for scope in SCOPES]
    for id, state, kind, scope in requests:
        answer = sandboxd.http.get(f"/sandboxes/{id}/diagnostics/{kind}", params={"scope": scope})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json", (state, kind, scope, answer.text)
        UUID(answer.headers["x-request-id"])
        said = answer.json()
        texts.validate(said)
        assert (said["sandboxId"], said["kind"], said["scope"]) == (id, kind, scope)
        assert scope != "lifecycle" or f" lifecycle {state}" in said["content"]
    for path, status in ((f"/sandboxes/{ids['Running']}/diagnostics/logs?scope=everything", 400),
                         (f"/sandboxes/{ids['Running']}/diagnostics/events?scope=", 400),
                         ("/sandboxes/no-such/diagnostics/logs?scope=all", 404),
                         ("/sandboxes/no-such/diagnostics/events?scope=all", 404)):  # fmt: skip
        answer = sandboxd.http.get(path)
        assert answer.status_code == status, path
        refusal.validate(answer.json())
    answer = sandboxd.client().get(f"/sandboxes/{ids['Running']}/diagnostics/logs?scope=all")
    assert answer.status_code == 401
    refusal.validate(answer.json())


# ---- DELETE ------------------------------------------------------------------------


def gone(sandboxd, ids):
    """Asked for twice at once, each ends, and nothing is left."""
    def end(id):
        return [sandboxd.http.delete(f"/sandboxes/{id}").status_code for _ in range(2)]

    with ThreadPoolExecutor(len(ids)) as pool:
        assert set(map(tuple, pool.map(end, ids))) == {(204, 204)}


def test_delete_is_legal_in_every_state(start_sandboxd):
    """Those in which a sandbox can be held, or rests; in the others it is asked for on the way."""
    sandboxd = start_sandboxd()
    post = lambda id, what: sandboxd.http.post(f"/sandboxes/{id}/{what}").status_code
    pausing, paused, resuming, snapshotting, plain = (running(sandboxd) for _ in range(5))
    failed = create(sandboxd, entrypoint=["/no/such/program"])
    exited = create(sandboxd, entrypoint=["true"])
    wait(sandboxd, failed, "Failed"), wait(sandboxd, exited, "Terminated")
    for id in (paused, resuming):
        assert post(id, "pause") == 202
        wait(sandboxd, id, "Paused")
    pending = create(sandboxd)
    wanted = create(sandboxd)
    assert [post(wanted, "pause"), post(pausing, "pause"), post(resuming, "resume"), post(snapshotting, "snapshots")] == [202] * 4
    ids = [pending, wanted, pausing, paused, resuming, snapshotting, plain, failed, exited]
    gone(sandboxd, ids)
    for id in ids:
        assert wait(sandboxd, id, "Terminated")["status"]["reason"] == ("container_exited" if id == exited else "user_delete")
        assert sandboxd.http.delete(f"/sandboxes/{id}").status_code == 204  # and of what is no more
    for snapshot in sandboxd.http.get("/snapshots").json()["items"]:
        sandboxd.http.get(f"/snapshots/{snapshot['id']}", params={"wait": ""})
        assert sandboxd.http.delete(f"/snapshots/{snapshot['id']}").status_code == 204
        assert sandboxd.http.get(f"/snapshots/{snapshot['id']}", params={"wait": ""}).status_code == 404
    stop(sandboxd)
    assert census(sandboxd, ids) == NOTHING


@pytest.mark.parametrize("phase", ["image", "runtime", "agent"])
def test_delete_in_each_phase_of_a_creation(start_sandboxd, slow_runtime, tmp_path, phase):
    """While its image comes, while the runtime starts it, while its agent has not answered; the reason says which it is."""
    hold = threading.Event()
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    mute.chmod(0o755)
    with Registry({"slow": Image()}, hold=hold) as registry:
        (tmp_path / "sandbox.toml").write_text(f'[sandboxd]\ninsecure_registries = ["{registry.host}"]\n')
        args = {"image": [], "runtime": ["--runtime", slow_runtime], "agent": ["--execd", mute]}[phase]
        sandboxd = start_sandboxd(args=["--config", tmp_path / "sandbox.toml", *args])
        id = create(sandboxd, **({"image": named(f"{registry.host}/slow")} if phase == "image" else {}))
        if phase == "image":
            assert registry.asked.wait(END_TIMEOUT_S)
        elif phase == "runtime":
            entered(slow_runtime)
        else:  # it runs, and says nothing
            for _ in range(END_TIMEOUT_S * 20):
                if (sandboxd.state / "sandboxes" / id / "pid").exists():
                    break
                threading.Event().wait(0.05)
        status = get(sandboxd, id)["status"]
        assert status["state"] == "Pending"
        assert status["reason"] == ("image_pulling" if phase == "image" else "provisioning"), status
        gone(sandboxd, [id])
        if phase == "runtime":
            go(slow_runtime)
        assert wait(sandboxd, id, "Terminated")["status"]["reason"] == "user_delete"
        hold.set()
        # what had come of the image goes behind the end of the sandbox; one that is stopped leaves it to the next
        for _ in range(END_TIMEOUT_S * 20):
            if not census(sandboxd)["half images"]:
                break
            threading.Event().wait(0.05)
        stop(sandboxd)
        assert census(sandboxd, [id]) == NOTHING
