"""Images that the Docker daemon fetches: how far it is, for how long, and with whose login; a real registry."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import threading
import warnings

import pytest

from conftest import SANITIZED
from daemon import END_TIMEOUT_S, ROOT
from images import Image, Registry, directory, file, layer, shell
from test_lifecycle import create, delete, get, running, sh, wait

with warnings.catch_warnings():  # it goes with Python 3.13
    warnings.simplefilter("ignore", DeprecationWarning)
    import crypt

pytestmark = [
    pytest.mark.skipif(SANITIZED, reason="the docker runtime has its smoke test there"),
    pytest.mark.skipif(os.getuid() != 0, reason="dockerd needs root"),
]

def configured(tmp_path, text):
    path = tmp_path / "sandbox.toml"
    path.write_text(text)
    return {"args": ["--config", path]}


def forget(docker, uri):
    docker.http.delete(f"/images/{uri}", params={"force": 1})


# ---- how far it is ------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["docker"], indirect=True)
def test_progress(start_sandboxd, tmp_path):
    """The bound of a fetch is a setting of its own, and what has come is told while it lasts."""
    image = Image(layer(shell()), layer([directory("data"), file("data/more", os.urandom(3 << 20))]), compress=False)
    held = json.loads(image.blobs[image.digest])["layers"][1]["digest"]
    go = threading.Event()

    class Blobs(dict):
        def __getitem__(self, digest):
            if digest == held:
                go.wait(END_TIMEOUT_S)
            return super().__getitem__(digest)

    image.blobs = Blobs(image.blobs)
    with Registry({"large": image}) as registry:
        sandboxd = start_sandboxd()
        uri = f"{registry.host}/large:v1"
        id = create(sandboxd, image={"uri": uri})
        for _ in range(100000):
            status = get(sandboxd, id)["status"]
            if "1 of 2 layers" in status["message"]:
                break
        assert (status["state"], status["reason"]) == ("Pending", "image_pulling"), status
        assert re.search(r"1 of 2 layers, \d+\.\d of \d+\.\d MB", status["message"]), status
        go.set()
        assert wait(sandboxd, id, "Running")["timing"]["pulledMs"] > 0
        assert sh(sandboxd, id, "wc -c </data/more") == str(3 << 20)
        delete(sandboxd, id)
        forget(sandboxd.docker, uri)


@pytest.mark.parametrize("runtime", ["docker"], indirect=True)
def test_bounds(start_sandboxd, tmp_path):
    hold = threading.Event()
    with Registry({"slow": Image()}, hold=hold) as registry:
        uri = f"{registry.host}/slow:v1"
        one = start_sandboxd(state=tmp_path / "one", **configured(tmp_path, "[sandboxd]\nimage_timeout_seconds = 1\n"))
        assert "image_timeout_seconds (1)" in wait(one, create(one, image={"uri": uri}), "Failed")["status"]["message"]
        # that of any start does not hold for it
        (tmp_path / "two").mkdir()
        two = start_sandboxd(state=tmp_path / "two/state", args=["--provision-timeout", "30"])
        id = create(two, image={"uri": uri})
        for _ in range(100000):
            if get(two, id)["status"]["reason"] == "image_pulling":
                break
        database = sqlite3.connect(f"file:{two.state}/sandboxd.db?mode=ro", uri=True)
        ((left_ms,),) = database.execute("SELECT deadline_ms - transition_ms FROM sandboxes WHERE id = ?", (id,))
        database.close()
        assert 800_000 < left_ms < 1_000_000
        delete(two, id)  # breaks it off
        hold.set()


@pytest.mark.parametrize("runtime", ["docker"], indirect=True)
def test_not_too_many_at_once(start_sandboxd, tmp_path):
    """Another image waits for its turn; one that is on its way for somebody else does not."""
    hold = threading.Event()

    def told(id, reason):
        for _ in range(100000):
            status = get(sandboxd, id)["status"]
            if status["reason"] == reason:
                return
        raise AssertionError(status)

    with Registry({name: Image(layer(shell())) for name in ("one", "two", "three")}, hold=hold) as registry:
        sandboxd = start_sandboxd(**configured(tmp_path, "[sandboxd]\nimage_pulls_max = 1\n"))
        uri = lambda name: {"uri": f"{registry.host}/{name}:v1"}
        first = create(sandboxd, image=uri("one"))
        told(first, "image_pulling")
        second, goes = create(sandboxd, image=uri("two")), create(sandboxd, image=uri("three"))
        told(second, "image_waiting")
        told(goes, "image_waiting")
        same = create(sandboxd, image=uri("one"))
        told(same, "image_pulling")
        delete(sandboxd, goes)
        assert not [path for path in registry.requests if "two" in path or "three" in path]
        hold.set()
        for id in (first, second, same):
            wait(sandboxd, id, "Running")
            delete(sandboxd, id)
        assert not [path for path in registry.requests if "three" in path]
        for name in ("one", "two"):
            forget(sandboxd.docker, uri(name)["uri"])


@pytest.mark.parametrize("runtime", ["docker"], indirect=True)
def test_nothing_is_pulled_by_setting(start_sandboxd, tmp_path):
    with Registry({"listed": Image()}) as registry:
        sandboxd = start_sandboxd(**configured(tmp_path, "[sandboxd]\nimage_pull = false\n"))
        uri = f"{registry.host}/listed:v1"
        assert uri in wait(sandboxd, create(sandboxd, image={"uri": uri}), "Failed")["status"]["message"]
        assert registry.requests == []
        running(sandboxd)


# ---- Debian's registry -----------------------------------------------------------------


class Real:
    """docker-registry on loopback, with a login."""

    program = ROOT / "build/deps/registry/usr/bin/docker-registry"
    user, password = "someone", "s3cret-4f1e"

    def __init__(self, folder):
        config = folder / "config.yml"
        passwords = folder / "htpasswd"
        passwords.write_text(f"{self.user}:{crypt.crypt(self.password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))}\n")
        config.write_text(json.dumps({  # which is YAML
            "version": 0.1, "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": "127.0.0.1:0"}, "auth": {"htpasswd": {"realm": "test", "path": str(passwords)}}}))
        self.process = subprocess.Popen([self.program, "serve", config], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for line in self.process.stderr:
            if found := re.search(rb"listening on (127\.0\.0\.1:\d+)", line):
                self.host = found[1].decode()
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def registry(tmp_path):
    if not Real.program.exists():
        pytest.skip("Debian's docker-registry is not there (tools/registry.sh brings it)")
    (tmp_path / "registry").mkdir()
    real = Real(tmp_path / "registry")
    yield real
    real.close()


def push(registry, tmp_path, name):
    """An image of one file system, by skopeo."""
    layout = Image(layer(shell())).layout(tmp_path / "layout")
    logins = tmp_path / "logins.json"
    logins.write_text(json.dumps({"auths": {registry.host: {"auth": "c29tZW9uZTpzM2NyZXQtNGYxZQ=="}}}))
    subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--authfile", logins, f"oci:{layout}:latest",
                    f"docker://{registry.host}/{name}"], check=True, timeout=END_TIMEOUT_S)
    logins.unlink()
    return f"{registry.host}/{name}"


@pytest.mark.runtimes
@pytest.mark.skipif(not shutil.which("skopeo"), reason="there is no skopeo here")
def test_logins(start_sandboxd, tmp_path, registry):
    uri = push(registry, tmp_path, "private/tools:v1")
    sandboxd = start_sandboxd(**configured(tmp_path, f'[sandboxd]\ninsecure_registries = ["{registry.host}"]\n'))
    with_login = lambda password: {"uri": uri, "auth": {"username": registry.user, "password": password}}
    seen = []
    for image in ({"uri": uri}, with_login("guess-77aa")):
        status = wait(sandboxd, create(sandboxd, image=image), "Failed")["status"]
        assert re.search("auth|denied|unauthorized", status["message"]), status
        seen.append(status)
    id = running(sandboxd, image=with_login(registry.password), entrypoint=["tail", "-f", "/dev/null"])
    assert sh(sandboxd, id, "echo works") == "works"
    seen.append(get(sandboxd, id))
    if sandboxd.docker:
        seen.append(sandboxd.docker.inspect(id))
        # what the daemon has now, whoever may use it has: as with the daemon's own client
        forget(sandboxd.docker, uri)
    text = json.dumps(seen) + sandboxd.logs()
    for path in sandboxd.state.rglob("*"):
        if path.is_file() and not path.is_symlink():
            text += path.read_bytes().decode(errors="replace")
    for secret in (registry.password, "guess-77aa", "c29tZW9uZTpzM2NyZXQtNGYxZQ"):
        assert secret not in text
    delete(sandboxd, id)
    if sandboxd.docker:
        forget(sandboxd.docker, uri)
