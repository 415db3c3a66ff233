"""Clients that want the agent's memory and time: each is answered as it should be, in bounded memory, and others are served."""

from pathlib import Path

import pytest

from conftest import SANITIZED

MEMORY_MAX_KB = 64 << 10  # of the agent, after all of them


def peak_kb(agent):
    lines = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def envs(n):
    return b'{"command":"true","envs":{' + b",".join(b'"%x":""' % i for i in range(n)) + b"}}"


def parts(n, disposition, content=b""):
    return (b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + content + b"\r\n") * n + b"--b--\r\n"


JSON, FORM = "application/json", "multipart/form-data; boundary=b"
BODIES = {
    "nested": ("/command", JSON, b"[" * 1000000, 400),
    "empty arrays": ("/command", JSON, b"[" + b"[]," * 2600000 + b"1]", 413),
    "empty objects": ("/code", JSON, b'{"a":[' + b"{}," * 2600000 + b"1]}", 413),
    "variables": ("/command", JSON, envs(600000), 413),
    "variables that fit": ("/command", JSON, envs(100000), 413),
    "no JSON": ("/command", JSON, b"\x1f\x8b" + b"\0" * 4000000, 400),
    "parts": ("/files/upload", FORM, parts(100000, b'name="x"'), 400),
    "metadata": ("/files/upload", FORM, parts(9000, b'name="metadata"; filename="m"', b'{"path":"/tmp/x"}'), 413),
    "pattern": ("/files/grep", JSON, b'{"path": "/usr", "pattern": "((a{1,1000}){1,1000}){1,1000}"}', 400),
}
TARGETS = {
    "/files/info?path=/tmp/%00x": 400,
    "/files/info?path=%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd": 404,  # an overlong dot is no dot
    "/files/download?path=/etc/passwd%00.txt": 400,
    f"/files/info?path=/{'a' * 60000}": 400,
    f"/files/info?{'path=/&' * 8000}": 429,
    "/%2e%2e/%2e%2e/files/info?path=/": 404,
}


def test_bodies_and_targets(execd, tmp_path):
    for name, (path, kind, body, status) in BODIES.items():
        answer = execd.http.post(path, content=body, headers={"Content-Type": kind})
        assert answer.status_code == status, (name, answer.status_code, answer.text[:200])
    for target, status in TARGETS.items():
        answer = execd.http.get(target)
        assert answer.status_code == status, (target[:60], answer.status_code, answer.text[:200])
    (tmp_path / "f").write_bytes(b"x" * 1000000)
    for ranges in (["0-0"] * 15000, [f"{n}-" for n in range(10000)], ["-1"] * 15000):
        answer = execd.http.get("/files/download", params={"path": f"{tmp_path}/f"}, headers={"Range": f"bytes={','.join(ranges)}"})
        # the first of them alone: never more than the file
        assert answer.status_code == 206 and len(answer.content) <= 1000000
    assert [event["text"] for event in execd.run("echo still here") if event["type"] == "stdout"] == ["still here"]
    assert SANITIZED or peak_kb(execd) < MEMORY_MAX_KB, peak_kb(execd)


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1", 'a"; filename="b', "a\nb", "\x7f\x1b[31m"])
def test_file_names_are_no_headers(execd, tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    answer = execd.http.get("/files/download", params={"path": f"{tmp_path}/{name}"})
    assert answer.status_code == 200 and "x-evil" not in answer.headers
    value = answer.headers["content-disposition"]
    assert all(0x20 <= ord(c) < 0x7F for c in value) and '"; filename="b"' not in value.replace('\\"', "")


def test_the_token_is_in_no_log(start_execd):
    agent = start_execd(args=["--log-level", "debug"])
    secret = "s3cret-of-another-client"
    for answer in (
        agent.http.get("/no/such", params={"token": secret}, headers={"X-EXECD-ACCESS-TOKEN": secret}),
        agent.http.get("/files/info", params={"path": "/", "X-EXECD-ACCESS-TOKEN": secret}),
        agent.http.post("/command", json={"command": "true", "envs": {"PASSWORD": secret}}),
    ):
        assert secret not in answer.text
    assert secret not in agent.logs() and agent.token not in agent.logs(), agent.logs()
