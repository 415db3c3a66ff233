"""GET /ports and /ports/watch: who listens where, and when that changes."""

import os
import socket
import subprocess
import sys

import pytest

from daemon import events


def listener(family=socket.AF_INET, host="127.0.0.1", port=0):
    server = socket.socket(family)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    server.listen()
    return server, server.getsockname()[1]


def entries(execd, port):
    answer = execd.http.get("/ports")
    assert answer.status_code == 200, answer.text
    return [entry for entry in answer.json()["ports"] if entry["port"] == port]


def test_ports_with_their_process(execd):
    server, port = listener()
    with server:
        [entry] = entries(execd, port)
        assert entry == {"port": port, "address": "127.0.0.1", "family": "ipv4", "uid": os.getuid(),
                         "pid": os.getpid(), "process": open("/proc/self/comm").read().strip()}
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))  # not listening
        assert entries(execd, bound.getsockname()[1]) == []
        bound.close()
    assert entries(execd, port) == []
    [own] = entries(execd, execd.port)
    assert own["process"] == "execd" or own["pid"] == os.getpid()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ports_ipv6(execd):
    try:
        server, port = listener(socket.AF_INET6, "::1")
    except OSError as error:
        pytest.skip(f"no ::1 here: {error}")
    with server:
        [entry] = entries(execd, port)
        assert (entry["address"], entry["family"]) == ("::1", "ipv6")


def test_ports_of_one_number_and_several_sockets(execd):
    first, second = socket.socket(), socket.socket()
    for server in (first, second):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    first.bind(("127.0.0.1", 0))
    port = first.getsockname()[1]
    second.bind(("127.0.0.1", port))
    first.listen(), second.listen()
    assert len(entries(execd, port)) == 1
    first.close()
    assert len(entries(execd, port)) == 1
    second.close()
    assert entries(execd, port) == []


def of(stream, port):
    return (event for event in stream if event.get("port") == port)


def test_watch_tells_of_opens_and_closes(execd):
    before, port_before = listener()
    with execd.stream("GET", "/ports/watch") as response, before:
        stream = events(response)
        first = []
        while (event := next(stream))["type"] != "ready":
            first.append(event)
        assert {event["type"] for event in first} == {"open"}
        assert port_before in {event["port"] for event in first}
        server, port = listener()
        event = next(of(stream, port))
        assert (event["type"], event["pid"], event["address"]) == ("opened", os.getpid(), "127.0.0.1")
        server.close()
        assert next(of(stream, port))["type"] == "closed"


def test_watch_tells_of_a_dev_server(execd):
    with execd.stream("GET", "/ports/watch") as response:
        stream = events(response)
        while next(stream)["type"] != "ready":
            pass
        code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            port = int(child.stdout.readline())
            event = next(of(stream, port))
            assert (event["type"], event["pid"]) == ("opened", child.pid)
            child.stdin.close()
            assert next(of(stream, port))["type"] == "closed"


def test_watch_of_many_and_after_many(execd):
    for _ in range(3):
        responses = [execd.stream("GET", "/ports/watch") for _ in range(30)]
        streams = [events(response.__enter__()) for response in responses]
        for stream in streams:
            while next(stream)["type"] != "ready":
                pass
        server, port = listener()
        for stream in streams:
            assert next(of(stream, port))["type"] == "opened"
        server.close()
        for response in responses:
            response.__exit__(None, None, None)
    assert execd.http.get("/ping").status_code == 200
