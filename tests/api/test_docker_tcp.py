"""The Docker daemon by TCP: in the clear on loopback, and by TLS with certificates of both ends."""

import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress

import pytest

from conftest import SANITIZED
from daemon import END_TIMEOUT_S, SANDBOXD
from test_lifecycle import body, delete, running, sh, wait
from test_lifecycle_pool import pool, settings

pytestmark = [
    pytest.mark.skipif(SANITIZED, reason="the docker runtime has its smoke test there"),
    pytest.mark.skipif(os.getuid() != 0, reason="dockerd needs root"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here"),
]


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, timeout=END_TIMEOUT_S)


def certify(folder, name, ca=None, extra=()):
    """A key and its certificate: by ca, or its own."""
    key, cert = folder / f"{name}-key.pem", folder / f"{name}.pem"
    sign = ["-CA", ca / "ca.pem", "-CAkey", ca / "ca-key.pem"] if ca else []
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2, "-subj",
            f"/CN={name}", "-keyout", key, "-out", cert, *extra, *sign)  # fmt: skip
    return key, cert


def credentials(folder):
    """What DOCKER_CERT_PATH names, and beside it what the daemon has."""
    folder.mkdir()
    certify(folder, "ca")
    certify(folder, "server", folder, ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
    key, _ = certify(folder, "cert", folder, ["-addext", "basicConstraints=critical,CA:FALSE"])
    key.rename(folder / "key.pem")
    return folder


class Relay:
    """A daemon's TCP address; tls: the folder of its certificates."""

    def __init__(self, docker, tls=None):
        self.docker = docker
        self.context = None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(tls / "server.pem", tls / "server-key.pem")
            self.context.load_verify_locations(tls / "ca.pem")
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def __getattr__(self, name):
        return getattr(self.docker, name)

    def accept(self):
        with suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=self.listener.accept(), daemon=True).start()

    def serve(self, client, _):
        with socket.socket(socket.AF_UNIX) as server, client, suppress(OSError):
            if self.context:
                client = self.context.wrap_socket(client, server_side=True)
            server.connect(str(self.docker.socket))
            self.pump(client, server)
            client.close()

    def pump(self, client, server):
        """By one thread: a TLS connection must not be in two."""
        peers = {client: server, server: client}
        while True:
            pending = self.context and client.pending()
            for source in [client] if pending else select.select(list(peers), [], [])[0]:
                if data := source.recv(65536):
                    peers[source].sendall(data)
                elif source is server:
                    return
                else:
                    server.shutdown(socket.SHUT_WR)
                    del peers[client]
                    peers[server] = client

    def close(self):
        self.listener.close()


@pytest.fixture
def relay(docker_daemon):
    made = []

    def start(tls=None):
        made.append(Relay(docker_daemon, tls))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def start(relay, start):
    """The relays end after those that use them."""
    return start


@pytest.mark.parametrize("tls", [False, True])
def test_life(relay, start_sandboxd, tmp_path, tls):
    folder = credentials(tmp_path / "tls") if tls else None
    env = settings(tmp_path, '[pool]\n"python:3.11" = 1\n')
    if tls:
        env |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(folder)}
    sandboxd = start_sandboxd(docker=relay(folder), env=env)
    cold = running(sandboxd, image={"uri": "ubuntu:latest"})
    assert sh(sandboxd, cold, "echo up") == "up"
    pool(sandboxd, started=1)
    claimed = running(sandboxd, env={f"GIVEN_{n}": "x" * 100_000 for n in range(5)})
    assert pool(sandboxd)["hits"] == 1
    assert sh(sandboxd, claimed, "echo ${#GIVEN_4}") == "100000"
    for id in (cold, claimed):
        delete(sandboxd, id)


def test_who_is_not_who_they_should_be(relay, start_sandboxd, tmp_path):
    ours, theirs = credentials(tmp_path / "ours"), credentials(tmp_path / "theirs")
    for server, client in ((ours, theirs), (None, ours)):
        daemon = relay(server)
        (tmp_path / "x").mkdir(exist_ok=True)
        sandboxd = start_sandboxd(docker=daemon, state=tmp_path / f"x/{daemon.url[-5:]}",
                                  env={"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(client)})
        response = sandboxd.http.post("/sandboxes", json=body())
        if response.status_code == 202:  # it had not been refused by then
            message = wait(sandboxd, response.json()["id"], "Failed")["status"]["message"]
        else:
            assert response.status_code == 503
            message = response.json()["message"]
        assert daemon.url in message


def test_files_that_are_not_there(tmp_path):
    done = subprocess.run([SANDBOXD, "--runtime", "docker", "--state", tmp_path / "state"], capture_output=True, text=True,
                          timeout=END_TIMEOUT_S, env={**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1",
                                                      "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)})
    assert done.returncode != 0 and "ca.pem" in done.stderr, done.stderr
