"""Event streams: live, resumable by the id of the last event, for any number of readers and every kind of client."""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import pytest

from daemon import SANITIZED, TOKEN, events


class Event:
    """One event as it stood on the wire."""

    def __init__(self, block):
        self.fields = []
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            self.fields.append((name, value))
        fields = dict(self.fields)
        self.id = int(fields["id"]) if "id" in fields else None
        self.name = fields.get("event")
        self.data = json.loads(fields["data"])
        self.type = self.data["type"]
        self.text = self.data.get("text")

    def same(self, other):
        return (self.id, self.type, self.text) == (other.id, other.type, other.text)


def wire(response):
    """The events of an open stream, pings left out."""
    assert response.status_code == 200, (response.status_code, response.read())
    rest = ""
    for chunk in response.iter_text():
        *blocks, rest = (rest + chunk).split("\n\n")
        for block in blocks:
            event = Event(block)
            if event.type != "ping":
                yield event
    assert rest == ""


@contextmanager
def post(execd, command, **fields):
    with execd.stream("POST", "/command", json={"command": command, **fields}) as response:
        yield wire(response)


@contextmanager
def attach(execd, command_id, last=None, client=None):
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with (client or execd.http).stream("GET", f"/command/{command_id}/stream", headers=headers) as response:
        yield wire(response)


def whole(execd, command_id, last=None, client=None):
    with attach(execd, command_id, last, client) as stream:
        return list(stream)


def start(execd, command):
    """A background command; its id."""
    with post(execd, command, background=True) as stream:
        first, second = list(stream)
    assert (first.type, second.type) == ("init", "execution_complete")
    return first.text


@pytest.fixture
def gate(tmp_path):
    """A command that runs `cat gate` waits there until the test calls gate()."""
    path = tmp_path / "gate"
    os.mkfifo(path)

    def open_gate():
        path.open("w").close()

    open_gate.path = path
    return open_gate


def test_a_line_arrives_while_the_command_runs(execd, gate):
    with post(execd, f"echo first; cat {gate.path}; echo second") as stream:
        assert [next(stream).type, next(stream).text] == ["init", "first"]
        gate()  # would block if the command had ended
        second, end = list(stream)
    assert (second.text, end.type) == ("second", "execution_complete")


def test_both_streams_keep_their_order(execd):
    script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done; printf tail; printf tail >&2"
    with post(execd, script) as stream:
        got = list(stream)
    for kind in ("out", "err"):
        lines = [event.text for event in got if event.type == f"std{kind}"]
        assert lines == [f"{kind}1", f"{kind}2", f"{kind}3", "tail"]
    ids = [event.id for event in got]
    assert ids == sorted(ids)


def test_pings_while_nothing_happens(execd, gate):
    with execd.stream("POST", "/command", json={"command": f"cat {gate.path}"}) as response:
        stream = events(response)
        assert next(stream)["type"] == "init"
        for _ in range(2):
            ping = next(stream)
            assert (ping["type"], ping["text"]) == ("ping", "pong")
            assert ping["timestamp"] > 0
        gate()
        assert [event["type"] for event in stream][-1] == "execution_complete"


def test_ten_readers_see_the_same(execd, gate):
    command_id = start(execd, f"echo one; cat {gate.path}; seq 1000; printf 'no end'")
    clients = [execd.client(headers={"X-EXECD-ACCESS-TOKEN": TOKEN}) for _ in range(10)]

    def read(client):
        with attach(execd, command_id, client=client) as stream:
            got = [next(stream), next(stream)]
            everyone.wait()
            return got + list(stream)

    everyone = Barrier(len(clients), action=gate)
    with ThreadPoolExecutor(len(clients)) as pool:
        results = list(pool.map(read, clients))
    expected = ["one", *map(str, range(1, 1001)), "no end"]
    for got in results:
        assert [event.text for event in got if event.type == "stdout"] == expected
        assert got[-1].type == "execution_complete"


def test_every_id_resumes_exactly(execd):
    script = "for i in 1 2 3 4; do printf a$i; printf b$i >&2; printf 'c\\n'; done; printf '\\r\\n\\rx' >&2"
    with post(execd, script + "; exit 3") as stream:
        got = list(stream)
    for i, event in enumerate(got[:-1]):
        init, *rest = whole(execd, got[0].text, event.id)
        assert init.type == "init"
        assert len(rest) == len(got) - i - 1
        assert all(a.same(b) for a, b in zip(rest, got[i + 1 :]))
    assert got[-1].data["error"]["evalue"] == "3"


def test_a_client_that_lost_its_connection_goes_on(execd, gate):
    client = execd.client(headers={"X-EXECD-ACCESS-TOKEN": TOKEN})
    with client.stream(
        "POST", "/command", json={"command": f"seq 100; printf begun; cat {gate.path}; echo ' and ended'; seq 100"}
    ) as response:
        stream = wire(response)
        seen = [next(stream) for _ in range(51)]
    client.close()  # in the middle of it
    with attach(execd, seen[0].text, seen[-1].id) as stream:
        assert next(stream).type == "init"
        seen += [next(stream) for _ in range(50)]
        gate()
        seen += list(stream)
    numbers = list(map(str, range(1, 101)))
    assert [event.text for event in seen if event.type == "stdout"] == [*numbers, "begun and ended", *numbers]


def test_an_ended_command_is_replayed(execd):
    with post(execd, "seq 5; kill -9 $$") as stream:
        got = list(stream)
    again = whole(execd, got[0].text)
    assert all(a.same(b) for a, b in zip(again, got, strict=True))
    assert again[-1].data == got[-1].data
    assert got[-1].data["error"] == {"ename": "CommandExecError", "evalue": "-1", "traceback": ["signal: killed"]}
    assert got[-1].data["end"]["reason"] == "signalled"
    assert got[-1].data["end"]["signal"] == "SIGKILL"


def test_a_reader_that_does_not_read_loses_nothing(execd):
    n = 400_000  # ten times what the sockets and the log's reader may lag
    with execd.stream("POST", "/command", json={"command": f"seq {n}"}) as response:
        chunks = response.iter_text()
        got = next(chunks)
        # The command must wait now, others need not.
        with post(execd, "echo other") as other:
            assert [event.text for event in other][1] == "other"
        got += "".join(chunks)
    numbers = re.findall('{"type":"stdout","text":"([0-9]+)"', got)
    assert numbers == list(map(str, range(1, n + 1)))
    assert "execution_complete" in got[-400:]
    peak = re.search(r"VmHWM:\s+(\d+) kB", open(f"/proc/{execd.pid}/status").read())
    assert int(peak[1]) < (100_000 if SANITIZED else 12_000)


def test_what_was_dropped_is_said(execd):
    size = 70 << 20
    line = "x" * 1023
    with execd.stream("POST", "/command", json={"command": f"yes {line} | head -c {size}"}) as response:
        chunks = response.iter_text()
        command_id = Event(next(chunks).split("\n\n")[0]).text
        for _ in chunks:
            pass
    got = whole(execd, command_id)
    assert [event.type for event in got[:2]] == ["init", "status"]
    dropped = got[1].data["dropped_bytes"]
    assert 0 < dropped < 16 << 20
    assert got[1].id == dropped
    lines = [event.text for event in got if event.type == "stdout"]
    assert sum(len(text.strip("\n")) + 1 for text in lines) == size - dropped
    assert got[-1].data["end"]["output_dropped"] == dropped


def test_nothing_in_a_line_ends_it(execd):
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\x00j"
    data = "".join(f"\\{byte:03o}" for byte in text.encode())
    with execd.stream("POST", "/command", json={"command": f"printf '{data}\\n'"}) as response:
        body = response.read().decode()
    # The Python clients take what str.splitlines() gives them for lines.
    lines = [line for line in body.splitlines() if line]
    assert all(line.startswith(("id: ", "data: {")) for line in lines)
    assert json.loads([line for line in lines if '"stdout"' in line][0][6:])["text"] == text


@pytest.mark.parametrize(
    "agent, first",
    [
        ("curl/8", ["id", "data"]),
        ("OpenSandbox-Go-SDK/1.0.0", ["event", "id", "data"]),
        ("OpenSandbox-Kotlin-SDK/1.0.12", None),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_the_form_each_client_needs(execd, agent, first, background):
    request = {"command": "echo hi", "background": background}
    response = execd.http.post("/command", json=request, headers={"User-Agent": agent})
    *blocks, rest = response.text.split("\n\n")
    assert rest == ""
    types = ["init", "execution_complete"] if background else ["init", "stdout", "execution_complete"]
    if first is None:
        assert [json.loads(block)["type"] for block in blocks] == types
        return
    got = [Event(block) for block in blocks]
    assert [event.type for event in got] == types
    for event in got:
        assert [name for name, _ in event.fields] == first
        assert event.name in (None, event.type)


def test_headers(execd):
    response = execd.http.post("/command", json={"command": "true"})
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "", "99999999999999999999999", " 1"])
def test_an_offset_that_is_no_number(execd, bad):
    command_id = start(execd, "true")
    response = execd.http.get(f"/command/{command_id}/stream", params={"offset": bad})
    assert response.status_code == 400, response.text
    assert "offset" in response.json()["message"]


def test_offsets_that_are_not_there(execd):
    with post(execd, "echo hello") as stream:
        command_id = list(stream)[0].text
    response = execd.http.get(f"/command/{command_id}/stream", params={"offset": 1000})
    assert response.status_code == 416, response.text
    assert set(response.json()) == {"code", "message"}
    response = execd.http.get("/command/none/stream")
    assert response.status_code == 404, response.text
    response = execd.http.get(f"/command/{command_id}/stream", params={"offset": 2})
    assert [Event(block).text for block in response.text.split("\n\n")[:2]] == [command_id, "hello"]


def test_the_end_of_the_agent_ends_the_streams(start_execd, gate):
    execd = start_execd()
    with post(execd, f"echo up; cat {gate.path}") as stream:
        assert [next(stream).type, next(stream).text] == ["init", "up"]
        execd.process.send_signal(signal.SIGTERM)
        end = list(stream)[-1]
        assert end.type == "error"
        assert end.data["end"]["reason"] == "cancelled"
    execd.process.wait()
    execd.expect_exit = None
