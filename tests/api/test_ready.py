"""The port by which the official code interpreter clients know that cells can run."""

import socket

import pytest


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_an_init_agent_opens_it(start_execd, port):
    start_execd(args=["--init"], env={"JUPYTER_PORT": str(port)})
    for _ in range(100):  # more than wait in the queue of a listener that nobody accepts from
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            try:
                assert connection.recv(1) == b"", "nothing is served there"
            except ConnectionResetError:
                pass


def test_a_guest_does_not(start_execd, port):
    start_execd(env={"JUPYTER_PORT": str(port)})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=30)


def test_somebody_else_may_have_it(start_execd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        execd = start_execd(args=["--init"], env={"JUPYTER_PORT": str(taken.getsockname()[1])})
        assert execd.http.get("/ping").status_code == 200
        assert "code interpreter's port" in execd.logs()


@pytest.mark.parametrize("nonsense", ["", "0", "65536", "no", "44771x", "-1", " 1"])
def test_a_port_that_is_none(start_execd, nonsense):
    """The default is taken, as the client's command does with an empty one; the agent runs in any case."""
    assert start_execd(args=["--init"], env={"JUPYTER_PORT": nonsense}).http.get("/ping").status_code == 200
