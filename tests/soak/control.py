"""Operations on a control plane and through it on agents in sandboxes."""

import json
import socket
import struct
from pathlib import Path

from agent import ended, lines_of, seq, sha, upload
from load import Book
from wire import TIMEOUT_S, Client, check, same

BOOK = Book()
operation = BOOK.operation
AT_ONCE = 4  # of each operation that makes sandboxes
MADE = set()  # every id there has been


def body(**fields):
    return {
        "image": {"uri": "python:3.11"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 600, "resourceLimits": {},
        "metadata": {"of": "soak"}, **fields,
    }  # fmt: skip


def create(client, headers=None, **fields):
    made = client.json("POST", "/v1/sandboxes", body(**fields), headers=headers, want=(202,))
    MADE.add(made["id"])
    client.owe(f"/v1/sandboxes/{made['id']}")
    return made["id"]


def wait(client, id, *states):
    sandbox = client.json("GET", f"/v1/sandboxes/{id}", params={"wait": states})
    check(sandbox["status"]["state"] in states, sandbox["status"], "instead of", states)
    return sandbox


def running(client, **fields):
    id = create(client, **fields)
    wait(client, id, "Running")
    return id


def delete(client, id):
    client.call("DELETE", f"/v1/sandboxes/{id}", want=(204,))
    wait(client, id, "Terminated")


def inside(client, id):
    """A client of the agent in it, on the port of its own."""
    told = client.json("GET", f"/v1/sandboxes/{id}/endpoints/44772")
    host, port = told["endpoint"].split(":")
    return Client(host, int(port), told.get("headers") or {})


def run(client, command, prefix="", **fields):
    with client.stream("POST", f"{prefix}/command", {"command": command, **fields}) as stream:
        seen = list(stream.events())
    ended(seen[-1], reason="exited", exit_code=0)
    return lines_of(seen)


@operation(8, at_once=AT_ONCE)
def life(client, rng):
    id, n = running(client), rng.randrange(1, 3000)
    sandbox = client.json("PATCH", f"/v1/sandboxes/{id}/metadata", {"of": "another", "n": str(n)})
    check(sandbox["metadata"] == {"of": "another", "n": str(n)}, sandbox["metadata"])
    found = client.json("GET", "/v1/sandboxes", params={"metadata": f"n={n}", "pageSize": 200})["items"]
    check(id in [each["id"] for each in found], "not in the list")
    agent = inside(client, id)
    same(run(agent, f"seq {n}"), seq(1, n), "in a sandbox")
    data = rng.randbytes(100_000)
    upload(agent, ("/root/file", data))
    same(run(agent, "sha256sum </root/file"), f"{sha(data)}  -\n".encode(), "hash in a sandbox")
    same(agent.call("GET", "/files/download", params={"path": "/root/file"}), data, "download")
    agent.close()
    delete(client, id)
    return 4 * n + 2 * len(data)


@operation(3, at_once=AT_ONCE)
def deleted_early(client, rng):
    id = create(client)
    if rng.random() < 0.5:
        client.json("GET", f"/v1/sandboxes/{id}")
    delete(client, id)
    client.call("DELETE", f"/v1/sandboxes/{id}", want=(204,))


@operation(3, at_once=AT_ONCE)
def ends_by_itself(client, rng):
    code = rng.randrange(1, 100)
    id = create(client, entrypoint=["sh", "-c", f"echo last words; exit {code}"])
    status = wait(client, id, "Failed")["status"]
    check(f"code {code}" in status["message"] and "last words" in status["message"], status)
    delete(client, id)


@operation(3, at_once=AT_ONCE)
def paused(client, rng):
    """A command stands still with its sandbox and loses nothing."""
    id, n = running(client), 3000
    agent = inside(client, id)
    with agent.stream("POST", "/command", {"command": f"echo begun; read x; seq {n}", "stdin": True}) as stream:
        events = stream.events()
        command = next(events)["text"]
        check(next(events)["text"] == "begun")
        client.call("POST", f"/v1/sandboxes/{id}/pause", want=(202,))
        wait(client, id, "Paused")
        client.call("POST", f"/v1/sandboxes/{id}/resume", want=(202,))
        wait(client, id, "Running")
        agent.call("POST", f"/command/{command}/stdin", b"\n", params={"close": "true"})
        same(lines_of(list(events)), seq(1, n), "after a pause")
    agent.close()
    if rng.random() < 0.3:  # deleted as it stands
        client.call("POST", f"/v1/sandboxes/{id}/pause", want=(202,))
        wait(client, id, "Paused")
    delete(client, id)
    return 4 * n


@operation(2, at_once=2)
def snapshot(client, rng):
    data = rng.randbytes(50_000)
    id = running(client)
    agent = inside(client, id)
    upload(agent, ("/root/kept", data))
    agent.close()
    taken = client.json("POST", f"/v1/sandboxes/{id}/snapshots", {"name": "soak"}, want=(202,))["id"]
    client.owe(f"/v1/snapshots/{taken}")
    status = client.json("GET", f"/v1/snapshots/{taken}", params={"wait": ""})["status"]
    check(status["state"] == "Ready", status)
    delete(client, id)
    again = body(snapshotId=taken)
    del again["image"], again["entrypoint"]
    copy = client.json("POST", "/v1/sandboxes", again, want=(202,))["id"]
    MADE.add(copy)
    client.owe(f"/v1/sandboxes/{copy}")
    wait(client, copy, "Running")
    same(run(client, "sha256sum </root/kept", prefix=f"/sandboxes/{copy}/proxy/44772"), f"{sha(data)}  -\n".encode(), "restored")
    delete(client, copy)
    client.call("DELETE", f"/v1/snapshots/{taken}", want=(204,))
    client.call("GET", f"/v1/snapshots/{taken}", params={"wait": ""}, want=(200, 404))
    return len(data)


@operation(2, at_once=AT_ONCE)
def once(client, rng):
    """Its client vanishes when it has asked; it asks again with the same key, and there is one sandbox."""
    key = f"{rng.getrandbits(64):x}"
    request = json.dumps(body()).encode()
    head = f"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in client.headers.items()) + f"Content-Length: {len(request)}\r\n\r\n"
    with socket.create_connection((client.host, client.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(head.encode() + request)
        if rng.random() < 0.5:
            connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    id = create(client, headers={"Idempotency-Key": key})
    check(create(client, headers={"Idempotency-Key": key}) == id, "two sandboxes for one key")
    wait(client, id, "Running")
    delete(client, id)


@operation(10)
def through_the_server(client, rng):
    """On a sandbox that all clients have."""
    prefix, n = f"/sandboxes/{rng.choice(client.shared)}/proxy/44772", rng.choice((10, 1000, 5000))
    same(run(client, f"seq {n}", prefix=prefix), seq(1, n), "through the server")
    data = rng.randbytes(rng.choice((10, 100_000, 1_000_000)))
    path = f"/tmp/{rng.getrandbits(64):x}"
    upload(client, (path, data), prefix=prefix)
    same(client.call("GET", f"{prefix}/files/download", params={"path": path}), data, "download through the server")
    client.call("DELETE", f"{prefix}/files", params={"path": path})
    return 4 * n + 2 * len(data)


@operation(3, at_once=16)
def leaves(client, rng):
    """Clients that go away from a stream through the server, and while they wait for a state."""
    id = rng.choice(client.shared)
    way = rng.choice(("stream", "wait", "head"))
    if way == "stream":
        path = f"/sandboxes/{id}/proxy/44772/command"
        with client.stream("POST", path, {"command": "seq 20000"}, receive_buffer=4096) as stream:
            next(stream.events(100))
            stream.vanish()
        return
    request = f"GET /v1/sandboxes/{id}?wait=Terminated HTTP/1.1\r\nHost: x\r\n".encode()
    request += "".join(f"{name}: {value}\r\n" for name, value in client.headers.items()).encode() + b"\r\n"
    with socket.create_connection((client.host, client.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request if way == "wait" else request[: rng.randrange(1, len(request))])


@operation(4)
def look(client, rng):
    id = rng.choice(client.shared)
    check(client.json("GET", f"/v1/sandboxes/{id}")["status"]["state"] == "Running")
    client.json("GET", "/v1/sandboxes", params={"page": 1, "pageSize": 10})
    client.json("GET", "/v1/snapshots")
    client.json("GET", "/v1/pool")
    for kind in ("logs", "events"):
        told = client.json("GET", f"/v1/sandboxes/{id}/diagnostics/{kind}", params={"scope": "all"})
        check(told["sandboxId"] == id, told)
    client.call("GET", "/health")
    client.call("GET", "/v1/sandboxes/none", want=(404,))


def begin(client, n):
    """The sandboxes that all clients have, however long that is."""
    shared = [running(client, timeout=None) for _ in range(n)]
    client.owed.clear()
    return shared


def everything_deleted(client, shared):
    for id in shared:
        delete(client, id)
    for path in ("/v1/sandboxes", "/v1/snapshots"):
        left = [(each["id"], each["status"]) for each in client.json("GET", path, params={"pageSize": 200})["items"]]
        check(not left, f"{path}: still there:", left)


def groups():
    """Control groups of sandboxes that there have been."""
    top = Path("/sys/fs/cgroup")
    return [str(path) for way in ("sandboxd/*", "*/sandboxd/*") for path in top.glob(way) if path.name in MADE]
