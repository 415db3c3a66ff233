"""The networks of sandboxes: none, a bridge, the host's.

A bridge and its rules belong to a whole network namespace, so each test brings
one for its sandboxd, and a second one as the world around it.
"""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from daemon import END_TIMEOUT_S, SANDBOXD, events
from test_lifecycle import body, container_pid, crash, create, delete, get, nothing_left, snapshot_of, wait
from test_lifecycle_crash import NOTHING, census, stop
from test_lifecycle_snapshot import restore

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root")

PLUGINS = Path("/usr/lib/cni")
HOST, WORLD, METADATA = "192.0.2.1", "192.0.2.2", "169.254.169.254"
PORT = 8080

# Says who asks; lives until its stdin ends.
WHO = """
import socket, sys, threading
listener = socket.create_server(("0.0.0.0", 8080))
def serve():
    while True:
        connection, peer = listener.accept()
        connection.sendall(peer[0].encode() + b"\\n")
        connection.close()
threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

SERVER = """
from http.server import SimpleHTTPRequestHandler
from socketserver import TCPServer
server = TCPServer(("0.0.0.0", {port}), SimpleHTTPRequestHandler)
print("up", file=open("/run/up", "w"))
server.serve_forever()
"""


class Namespace:
    """A network namespace, which is held by a process that serves WHO in it."""

    def __init__(self):
        script = f'ip link set lo up && exec "{sys.executable}" -c "$1"'
        self.process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", script, "sh", WHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"
        self.enter = ["nsenter", "-t", str(self.process.pid), "--net", "--"]

    def run(self, *argv):
        return subprocess.run([*self.enter, *argv], check=True, capture_output=True, text=True).stdout

    def links(self):
        return sorted(link["ifname"] for link in json.loads(self.run("ip", "-j", "link")))

    def rules(self):
        return [entry["table"]["name"] for entry in json.loads(self.run("nft", "-j", "list", "tables"))["nftables"] if "table" in entry]

    def close(self):
        self.process.communicate("")


@pytest.fixture
def house():
    """Where sandboxd lives; uplink leads to the world."""
    house, world = Namespace(), Namespace()
    house.run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "downlink", "netns", str(world.process.pid))
    for here, link, address in ((house, "uplink", HOST), (world, "downlink", WORLD)):
        here.run("ip", "address", "add", f"{address}/24", "dev", link)
        here.run("ip", "link", "set", link, "up")
    house.run("ip", "route", "add", "default", "via", WORLD)
    world.run("ip", "address", "add", f"{METADATA}/32", "dev", "lo")
    world.run("ip", "route", "add", "10.44.0.0/16", "via", HOST)
    house.world = world
    yield house
    assert house.links() == ["lo", "uplink"] and house.rules() == []
    house.close()
    world.close()


@pytest.fixture
def start(house, tmp_path, start_sandboxd):
    """start(mode="bridge", key="value as TOML", ...)"""

    def start_daemon(mode="bridge", **settings):
        config = tmp_path / "sandbox.toml"
        config.write_text("[network]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
        return start_sandboxd(args=["--config", config], network=mode, wrap=house.enter)

    return start_daemon


def sh(sandboxd, id, command):
    """What a command inside prints on stdout; the agent's own port is in the namespace of sandboxd."""
    url = f"/sandboxes/{id}/proxy/44772/command"
    with sandboxd.http.stream("POST", url, json={"command": command}, timeout=END_TIMEOUT_S) as response:
        return "\n".join(event["text"] for event in events(response) if event["type"] == "stdout")


def running(sandboxd, **fields):
    id = create(sandboxd, **fields)
    wait(sandboxd, id, "Running")
    return id


def address(sandboxd, id):
    text = sandboxd.http.get(f"/sandboxes/{id}/diagnostics/logs", params={"scope": "network"}).json()["content"]
    [line] = [line.split() for line in text.splitlines() if line.startswith("address ")]
    return line[1].split("/")[0]


def asks(sandboxd, id, host, port=PORT):
    """Who the server there says we are; "" when there is no connection."""
    return sh(sandboxd, id, f"timeout 2 bash -c 'cat </dev/tcp/{host}/{port}' 2>/dev/null; true")


def leases(sandboxd):
    folder = sandboxd.state / "cni/leases/sandboxd0"
    return sorted(path.name for path in folder.iterdir() if path.name[0].isdigit())


def gone(house, sandboxd, *ids):
    """Nothing is left of them but the bridge that all share."""
    assert house.links() == ["lo", "sandboxd0", "uplink"]
    assert leases(sandboxd) == []
    nothing_left(sandboxd, *ids)


def serve(sandboxd, id, text, port=PORT):
    """An HTTP server inside, that says this."""
    assert sh(sandboxd, id, f"mkfifo /run/up; mkdir -p /srv/www; echo {text} >/srv/www/index.html") == ""
    command = f"cd /srv/www; exec python3 -c '{SERVER.format(port=port)}'"
    response = sandboxd.http.post(f"/sandboxes/{id}/proxy/44772/command", json={"command": command, "background": True})
    assert response.status_code == 200
    assert sh(sandboxd, id, "cat /run/up") == "up"


# ---- bridge -----------------------------------------------------------------------------------


def test_bridge(house, start):
    sandboxd = start(nameservers='["192.0.2.53", "192.0.2.54"]')
    id = running(sandboxd)
    own = address(sandboxd, id)
    assert own.startswith("10.44.0.")
    assert f"inet {own}/16" in sh(sandboxd, id, "ip -4 address show eth0")
    assert "127.0.0.1/8" in sh(sandboxd, id, "ip -4 address show lo")
    assert sh(sandboxd, id, "getent ahostsv4 sandbox | head -1; hostname").split() == [own, "STREAM", "sandbox", "sandbox"]
    assert sh(sandboxd, id, "cat /etc/resolv.conf") == "nameserver 192.0.2.53\nnameserver 192.0.2.54"
    assert sh(sandboxd, id, "ip -6 address show dev eth0") == ""
    # raw packets could be in the name of another
    assert int(sh(sandboxd, id, "grep CapBnd /proc/self/status").split()[1], 16) & (1 << 13 | 1 << 12) == 0
    assert asks(sandboxd, id, WORLD) == HOST  # out under the host's address
    assert len(house.links()) == 4 and leases(sandboxd) == [own]
    delete(sandboxd, id)
    gone(house, sandboxd, id)


def test_bridge_is_the_default(house, start):
    sandboxd = start(mode="auto")
    id = running(sandboxd)
    assert address(sandboxd, id) == "10.44.0.2"
    servers = [line.split()[1] for line in sh(sandboxd, id, "cat /etc/resolv.conf").splitlines() if line.startswith("nameserver")]
    assert not [server for server in servers if server.startswith("127.") or ":" in server]


def test_apart(house, start):
    """Sandboxes on one bridge: the same port in each, none reached from another, nor the host from one."""
    sandboxd = start()
    first, second = running(sandboxd), running(sandboxd)
    for id, text in ((first, "one"), (second, "two")):
        serve(sandboxd, id, text)
    # through the server, every port of each
    for id, text in ((first, "one"), (second, "two")):
        assert sandboxd.http.get(f"/sandboxes/{id}/proxy/{PORT}/").text == f"{text}\n"
        assert sh(sandboxd, id, f"curl -s http://127.0.0.1:{PORT}/; curl -4 -s http://sandbox:{PORT}/") == f"{text}\n{text}"
    one, two = address(sandboxd, first), address(sandboxd, second)
    assert one != two
    assert asks(sandboxd, first, WORLD) == HOST
    assert asks(sandboxd, first, two) == ""
    for host in ("10.44.0.1", HOST, METADATA):  # its own side of the bridge, its other address, link-local
        assert asks(sandboxd, first, host) == ""
    # by way of the host, if a route could be had: the bridge hands nothing back
    url = f"http://{two}:{PORT}/"
    assert house.run("curl", "-s", url) == "two\n"  # the host itself may
    refused = subprocess.run([*house.world.enter, "curl", "-s", "--max-time", "2", url], check=False, capture_output=True)
    assert refused.returncode != 0 and refused.stdout == b""
    for id in (first, second):
        delete(sandboxd, id)
    gone(house, sandboxd, first, second)


def test_together_by_setting(house, start):
    sandboxd = start(reach_host="true", reach_sandboxes="true")
    first, second = running(sandboxd), running(sandboxd)
    serve(sandboxd, second, "two")
    two = address(sandboxd, second)
    assert sh(sandboxd, first, f"curl -s --max-time 60 http://{two}:{PORT}/") == "two"
    assert asks(sandboxd, first, "10.44.0.1") == asks(sandboxd, first, HOST) == address(sandboxd, first)
    assert asks(sandboxd, first, METADATA) == HOST


def test_many_at_once(house, start):
    sandboxd = start()
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: running(sandboxd), range(8)))
        addresses = {address(sandboxd, id) for id in ids}
        assert len(addresses) == 8 and sorted(addresses) == leases(sandboxd)
        list(pool.map(lambda id: delete(sandboxd, id), ids))
    gone(house, sandboxd, *ids)


def held_namespaces(sandboxd):
    """What could keep one of them when its processes are gone: descriptors and mounts of the server."""
    process = Path(f"/proc/{sandboxd.pid}")
    found = [line for line in (process / "mountinfo").read_text().splitlines() if " nsfs " in line and str(sandboxd.state) in line]
    for fd in (process / "fd").iterdir():
        with suppress(OSError):
            found += [name for name in [os.readlink(fd)] if name.startswith("net:")]
    return found


def test_a_crowd_comes_and_goes(house, start):
    """Some are deleted at once, some when they run, some are killed from outside: then there is nothing of any."""
    sandboxd = start()
    delete(sandboxd, running(sandboxd))  # what all share is there
    links, rules = house.links(), house.run("nft", "list", "ruleset")
    held = held_namespaces(sandboxd)

    def live(n):
        id = create(sandboxd, metadata={"n": str(n)})
        if n % 3 == 0:  # on its way
            assert sandboxd.http.delete(f"/sandboxes/{id}").status_code == 204
            return id
        wait(sandboxd, id, "Running")
        if n % 3 == 1:
            os.kill(container_pid(sandboxd, id), signal.SIGKILL)
            assert wait(sandboxd, id, "Failed")["status"]["reason"] == "container_killed"
        delete(sandboxd, id)
        return id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(live, range(24)))
    for id in ids:
        wait(sandboxd, id, "Terminated")
    gone(house, sandboxd, *ids)
    assert house.links() == links and house.run("nft", "list", "ruleset") == rules
    assert held_namespaces(sandboxd) == held
    stop(sandboxd)
    assert census(sandboxd, ids) == NOTHING
    assert house.links() == ["lo", "uplink"] and house.rules() == []


def test_no_address_left(house, start):
    sandboxd = start(subnet='"10.44.7.0/29"')  # five beside the bridge
    ids = [running(sandboxd) for _ in range(5)]
    sixth = create(sandboxd)
    assert "no IP addresses available" in wait(sandboxd, sixth, "Failed")["status"]["message"]
    delete(sandboxd, ids[0])
    running(sandboxd)
    for sandbox in sandboxd.http.get("/sandboxes").json()["items"]:
        delete(sandboxd, sandbox["id"])
    gone(house, sandboxd, sixth, *ids)


def test_a_snapshot_has_an_address_of_its_own(house, start):
    sandboxd = start()
    id = running(sandboxd)
    sh(sandboxd, id, "rm /etc/resolv.conf /etc/hosts; ln -s /etc/made /etc/hosts; ln -s /../made /etc/resolv.conf")
    snapshot = snapshot_of(sandboxd, id)
    restored = restore(sandboxd, snapshot)
    own = address(sandboxd, restored)
    assert own != address(sandboxd, id)
    assert own in sh(sandboxd, restored, "cat /etc/hosts")
    assert not Path("/etc/made").exists() and not Path("/made").exists()


# ---- lives and ends ------------------------------------------------------------------------------


def test_a_bridge_outlives_its_sandboxd(house, start):
    first = start()
    id = running(first)
    own = address(first, id)
    first.expect_exit = None
    first.process.terminate()
    assert first.process.wait(END_TIMEOUT_S) == 0
    assert "sandboxd0" in house.links() and house.rules() == ["sandboxd0"]
    second = start()
    assert address(second, id) == own and asks(second, id, WORLD) == HOST
    other = running(second)
    assert address(second, other) != own
    for each in (id, other):
        delete(second, each)
    gone(house, second, id, other)


def test_a_crash_and_another_mode(house, start):
    first = start()
    running_on = running(first)
    ended = running(first)
    pid = int((first.state / "sandboxes" / ended / "pid").read_text())
    crash(first)
    os.kill(pid, signal.SIGKILL)
    second = start(mode="none")
    assert get(second, running_on)["status"]["state"] == "Running"
    assert wait(second, ended, "Failed")["status"]["reason"] == "container_lost"
    delete(second, running_on)
    delete(second, ended)
    gone(house, second, running_on, ended)
    second.expect_exit = None
    second.process.terminate()
    assert second.process.wait(END_TIMEOUT_S) == 0
    start()  # whose end removes the bridge


WRAPPER = """#!/bin/sh
if [ "$CNI_COMMAND" = ADD ]; then
	{before}
	{plugins}/bridge
	{after}
else
	exec {plugins}/bridge
fi
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_an_interface_is_made(house, start, tmp_path, moment):
    """The plugin has not begun, or has done its work and nobody has heard of it."""
    plugins = tmp_path / "cni"
    plugins.mkdir()
    (plugins / "host-local").symlink_to(PLUGINS / "host-local")
    here, on = tmp_path / "here", tmp_path / "on"
    os.mkfifo(here)
    os.mkfifo(on)
    stop = f"echo >{here}; read x <{on}"
    (plugins / "bridge").write_text(WRAPPER.format(plugins=PLUGINS, **{"before": "", "after": "", moment: stop}))
    (plugins / "bridge").chmod(0o755)
    first = start(cni_path=f'"{plugins}"')
    id = create(first)
    here.read_text()
    crash(first)
    second = start()
    assert wait(second, id, "Failed")["status"]["reason"] == "interrupted"
    delete(second, id)
    gone(house, second, id)
    assert address(second, running(second))


def test_a_plugin_that_fails(house, start, tmp_path):
    plugins = tmp_path / "cni"
    plugins.mkdir()
    (plugins / "host-local").symlink_to(PLUGINS / "host-local")
    said = '{"code": 11, "msg": "try again", "details": "in spring"}'
    for script, words in (
        (f"echo '{said}'; exit 1", "the CNI plugin: try again: in spring"),
        ("echo oops; exit 0", "understand what the CNI plugin says"),
        ("kill -9 $$", "the CNI plugin"),
        ('echo \'{"ips":[{"address":"x"}]}\'', "understand what the CNI plugin says"),
    ):
        (plugins / "bridge").write_text(f"#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\n{script}\n")
        (plugins / "bridge").chmod(0o755)
        sandboxd = start(cni_path=f'"{plugins}"')
        id = create(sandboxd)
        assert words in wait(sandboxd, id, "Failed")["status"]["message"]
        delete(sandboxd, id)
        assert house.links() == ["lo", "sandboxd0", "uplink"]
        nothing_left(sandboxd, id)
        sandboxd.expect_exit = None
        sandboxd.process.terminate()
        assert sandboxd.process.wait(END_TIMEOUT_S) == 0


# ---- the other modes, and what is refused -----------------------------------------------------------


def test_none(house, start):
    sandboxd = start(mode="none")
    id = running(sandboxd)
    assert sh(sandboxd, id, "ls /sys/class/net") == "lo"
    assert asks(sandboxd, id, WORLD) == asks(sandboxd, id, HOST) == ""
    text = sandboxd.http.get(f"/sandboxes/{id}/diagnostics/logs", params={"scope": "network"}).json()["content"]
    assert text == "network none\n"
    serve(sandboxd, id, "none")
    assert sandboxd.http.get(f"/sandboxes/{id}/proxy/{PORT}/").text == "none\n"
    assert house.links() == ["lo", "uplink"]


def test_host(house, start):
    sandboxd = start(mode="host")
    id = running(sandboxd)
    assert f"inet {HOST}/24" in sh(sandboxd, id, "ip -4 address show uplink")
    assert asks(sandboxd, id, WORLD) == HOST
    assert asks(sandboxd, id, "127.0.0.1") == "127.0.0.1"  # the host's own service
    assert sh(sandboxd, id, "cat /etc/resolv.conf").split() == Path("/etc/resolv.conf").read_text().split()
    assert int(sh(sandboxd, id, "grep CapBnd /proc/self/status").split()[1], 16) & (1 << 13 | 1 << 12) == 0
    serve(sandboxd, id, "host", 8081)
    assert sandboxd.http.get(f"/sandboxes/{id}/proxy/8081/").text == "host\n"
    assert house.run("curl", "-s", f"http://{HOST}:8081/") == "host\n"
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


def refusal(sandboxd):
    response = sandboxd.http.post("/sandboxes", json=body())
    assert response.status_code == 503, response.text
    return response.json()["message"]


def test_without_plugins(house, start, tmp_path):
    assert "apt-get install containernetworking-plugins" in refusal(start(cni_path=f'"{tmp_path}"'))


def test_without_plugins_by_default(house, start, tmp_path):
    sandboxd = start(mode="auto", cni_path=f'"{tmp_path}"')
    assert "sandboxes have no network" in sandboxd.logs()
    assert sh(sandboxd, running(sandboxd), "ls /sys/class/net") == "lo"


def test_a_host_that_forwards_nothing(house, start):
    """As where Docker is: said, and left to whose rules they are."""
    house.run("nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
    sandboxd = start()
    assert "-I FORWARD -i sandboxd0 -j ACCEPT" in sandboxd.logs()
    id = running(sandboxd)
    assert asks(sandboxd, id, WORLD) == ""
    house.run("nft", "flush table ip filter; delete table ip filter")
    assert asks(sandboxd, id, WORLD) == HOST


def test_a_bridge_of_somebody_else(house, start):
    house.run("ip", "link", "add", "sandboxd0", "type", "bridge")
    house.run("ip", "link", "set", "sandboxd0", "alias", "sandboxd /proc")  # a state that is there
    assert "set network.bridge" in refusal(start())
    house.run("ip", "link", "delete", "sandboxd0")


def test_a_bridge_whose_state_is_gone(house, start):
    house.run("ip", "link", "add", "sandboxd0", "type", "bridge")
    house.run("ip", "link", "set", "sandboxd0", "alias", "sandboxd /no/such/state")
    sandboxd = start()
    assert asks(sandboxd, running(sandboxd), WORLD) == HOST


@pytest.mark.parametrize(
    "settings, words",
    [
        ('mode = "bridged"', "line 2: network.mode: 'bridged' is none of"),
        ("mode = 1", "line 2: network.mode: expected a string, got an integer"),
        ('bridge = "a b"', "network.bridge"),
        ('bridge = "abcdefghijklmnop"', "network.bridge"),
        ('subnet = "10.44.0.1/16"', "network.subnet"),
        ('subnet = "10.44.0.0"', "network.subnet"),
        ('subnet = "10.44.0.0/30"', "network.subnet"),
        ('subnet = "fd00::/64"', "network.subnet"),
        ('nameservers = ["one.example"]', "network.nameservers: 'one.example'"),
        ('nameservers = "192.0.2.1"', "line 2: network.nameservers: expected an array of strings, got a string"),
    ],
)
def test_bad_settings(tmp_path, settings, words):
    config = tmp_path / "sandbox.toml"
    config.write_text(f"[network]\n{settings}\n")
    done = subprocess.run([SANDBOXD, "--config", config], check=False, capture_output=True, text=True, timeout=END_TIMEOUT_S)
    assert done.returncode == 2 and words in done.stderr, (done.returncode, done.stderr)
