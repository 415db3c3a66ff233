"""/v1/filesystem/{uid}/{gid}: files as some user of the container has them."""

import json
import os
import select
import shutil

import pytest

from daemon import children

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
ANNA, TEAM = 47110, 47111

# Accounts of the agent's own, without touching the machine's.
ACCOUNTS = 'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec "$@"'


@pytest.fixture
def accounts(tmp_path):
    for name, entry in ("passwd", f"anna:x:{ANNA}:{ANNA}::/home/anna:/bin/sh\n"), ("group", f"team:x:{TEAM}:anna\n"):
        shutil.copy(f"/etc/{name}", tmp_path / name)
        with (tmp_path / name).open("a") as file:
            file.write(entry)
    return tmp_path


@pytest.fixture
def agent(start_execd, accounts):
    return start_execd(wrap=("unshare", "--mount", "sh", "-c", ACCOUNTS, str(accounts)))


@pytest.fixture
def folder():
    """Where everybody may go: tmp_path lies below a folder of root's."""
    path = os.path.join("/tmp", f"identity-{os.getpid()}-{os.urandom(4).hex()}")
    os.mkdir(path)
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


def of(uid, gid=None):
    return f"/v1/filesystem/{uid}/{uid if gid is None else gid}"


def upload(agent, prefix, path, data=b"text", **metadata):
    parts = [
        ("metadata", ("metadata", json.dumps({"path": path, **metadata}), "application/json")),
        ("file", ("file", data, "application/octet-stream")),
    ]
    return agent.http.post(f"{prefix}/files/upload", files=parts)


def read(agent, prefix, path, **headers):
    return agent.http.get(f"{prefix}/files/download", params={"path": path}, headers=headers)


def refused(response, status=403):
    assert response.status_code == status, response.text
    assert set(response.json()) == {"code", "message"}


def name(pid):
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().strip()
    except (FileNotFoundError, ProcessLookupError):  # a kernel that was not wanted any more
        return None


def test_what_is_made_is_the_user_s(agent, folder):
    os.chmod(folder, 0o777)
    path = f"{folder}/sub/file"
    assert upload(agent, of(ANNA, TEAM), path, b"x" * 300_000, mode=640).status_code == 200
    for made in (path, os.path.dirname(path)):
        st = os.stat(made)
        assert (st.st_uid, st.st_gid) == (ANNA, TEAM)
    assert read(agent, of(ANNA), path, Range="bytes=10-12").content == b"xxx"
    assert read(agent, of(ANNA), path).content == b"x" * 300_000
    moved = agent.http.post(f"{of(ANNA)}/files/mv", json=[{"src": path, "dest": f"{folder}/moved"}])
    assert moved.status_code == 200
    info = agent.http.get(f"{of(ANNA)}/files/info", params={"path": f"{folder}/moved"}).json()[f"{folder}/moved"]
    assert (info["owner"], info["group"], info["mode"], info["size"]) == ("anna", "team", 640, 300_000)
    assert agent.http.request("DELETE", f"{of(ANNA)}/directories", params={"path": f"{folder}/sub"}).status_code == 200
    assert sorted(os.listdir(folder)) == ["moved"]


def test_what_the_user_may_not_is_refused(agent, folder):
    secret = f"{folder}/secret"
    with open(secret, "w") as file:
        file.write("root's")
    os.chmod(secret, 0o600)
    refused(read(agent, of(ANNA), secret))
    refused(upload(agent, of(ANNA), secret))
    refused(upload(agent, of(ANNA), f"{folder}/new"))
    refused(upload(agent, of(ANNA), f"{folder}/sub/new"))
    refused(agent.http.request("DELETE", f"{of(ANNA)}/files", params={"path": secret}))
    refused(agent.http.post(f"{of(ANNA)}/files/permissions", json={secret: {"mode": 666}}))
    refused(agent.http.post(f"{of(ANNA)}/files/mv", json=[{"src": secret, "dest": "/tmp/stolen"}]))
    refused(agent.http.post(f"{of(ANNA)}/directories", json={f"{folder}/d": {"mode": 755}}))
    # nobody gives files away, and uid 0 is not to be had by asking for it
    os.chmod(folder, 0o777)
    refused(upload(agent, of(ANNA), f"{folder}/mine", owner="root"))
    assert os.listdir(folder) == ["secret"] and open(secret).read() == "root's"
    assert read(agent, of(0), secret).text == "root's"
    assert read(agent, "", secret).text == "root's"


def test_groups_are_those_of_now(agent, accounts, folder):
    path = f"{folder}/team"
    with open(path, "w") as file:
        file.write("ours")
    os.chown(path, 0, TEAM)
    os.chmod(path, 0o640)
    assert read(agent, of(ANNA), path).text == "ours"
    refused(read(agent, of(ANNA + 7), path))  # who has no entry has no groups, not the agent's
    assert read(agent, of(ANNA + 7, TEAM), path).text == "ours"
    group = (accounts / "group").read_text()
    (accounts / "group").write_text(group.replace("team:x:47111:anna", "team:x:47111:"))
    refused(read(agent, of(ANNA), path))


def test_paths_begin_at_the_user_s_home_or_at_the_root(agent, folder, accounts):
    passwd = (accounts / "passwd").read_text()
    (accounts / "passwd").write_text(passwd.replace("/home/anna", folder))
    os.chmod(folder, 0o777)
    assert upload(agent, of(ANNA), "~/at home").status_code == 200
    assert read(agent, of(ANNA), "~/at home").text == "text"
    assert read(agent, of(ANNA), f"{folder[1:]}/at home").text == "text"
    assert read(agent, of(ANNA + 7), f"~{folder}/at home").text == "text"
    assert read(agent, of(ANNA), "$EXECD_ACCESS_TOKEN").status_code == 400  # nothing of the agent's environment


@pytest.mark.parametrize("ids", ["-1/0", "+1/0", "0/x", "4294967295/0", "0/99999999999", "1e3/0", "0x0/0", "%200/0"])
def test_ids_that_are_none(execd, ids):
    response = execd.http.get(f"/v1/filesystem/{ids}/files/info", params={"path": "/"})
    refused(response, 400)
    assert "4294967294" in response.json()["message"]


def test_only_files_are_there(execd):
    for path in ("", "/", "/command", "/ping", "/filesx", "/v1/filesystem/0/0/files/info"):
        refused(execd.http.get(f"{of(0)}{path}", params={"path": "/"}), 404)
    assert execd.http.get(f"{of(0)}/files/nothing").status_code == 404
    assert execd.client().get(f"{of(0)}/files/info", params={"path": "/"}).status_code == 401


def test_an_agent_that_is_not_root_is_only_itself(start_execd, folder):
    os.chmod(folder, 0o777)
    agent = start_execd(wrap=("setpriv", f"--reuid={ANNA}", f"--regid={ANNA}", "--clear-groups"))
    assert upload(agent, of(ANNA), f"{folder}/own").status_code == 200
    response = read(agent, of(ANNA + 1), f"{folder}/own")
    assert response.status_code in (403, 501), response.text
    assert upload(agent, of(0), f"{folder}/not").status_code == response.status_code
    assert os.listdir(folder) == ["own"]


def test_a_client_that_vanishes_ends_its_process(agent, folder):
    os.chmod(folder, 0o777)
    with open(f"{folder}/big", "wb") as file:
        file.truncate(1 << 30)
    with agent.http.stream("GET", f"{of(ANNA)}/files/download", params={"path": f"{folder}/big"}) as response:
        next(response.iter_raw())
        (server,) = [pid for pid in children(agent.pid) if name(pid) == "execd-identity"]
        status = open(f"/proc/{server}/status").read()
        assert f"Uid:\t{ANNA}\t{ANNA}\t{ANNA}\t{ANNA}" in status and "CapEff:\t0000000000000000" in status
        assert f"Groups:\t{ANNA} {TEAM}" in status
        ended = os.pidfd_open(server)
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)


def test_streams_of_two_users_at_once(agent, folder):
    """An upload that has not ended, and others meanwhile."""
    os.chmod(folder, 0o777)

    def slow():
        yield (
            b'--b\r\nContent-Disposition: form-data; name="metadata"; filename="m"\r\n\r\n{"path": "%s/slow"}\r\n'
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nbegin' % folder.encode()
        )
        for other in (0, ANNA, ANNA + 1):
            assert upload(agent, of(other), f"{folder}/{other}").status_code == 200
        yield b" end\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert agent.http.post(f"{of(ANNA)}/files/upload", content=slow(), headers=headers).status_code == 200
    assert read(agent, of(ANNA), f"{folder}/slow").text == "begin end"
    owners = {name: os.stat(f"{folder}/{name}").st_uid for name in os.listdir(folder)}
    assert owners == {"slow": ANNA, "0": 0, str(ANNA): ANNA, str(ANNA + 1): ANNA + 1}
