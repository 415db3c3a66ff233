"""Pages of other sites, in the browser of somebody who reaches a server that asks for no key: what they cannot do."""

import pytest

COMMAND = {"command": "echo done"}
FOREIGN = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9"},  # another port of this host
    {"Origin": "http://evil.example"},  # a browser that does not trust our address says no more
    {"Origin": "null"},  # a sandboxed frame
]


def is_refused(response):
    return response.status_code == 403 and response.json()["code"] == "CROSS_SITE"


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda h: "-".join(h.values()))
def test_agent_without_token(start_execd, headers, tmp_path):
    execd = start_execd(token=None)
    kept = tmp_path / "kept"
    kept.write_text("here")
    for method, path, request in (
        ("POST", "/command", {"json": COMMAND}),
        ("POST", "/command", {"content": b'{"command": "true"}', "headers": {"Content-Type": "text/plain"}}),
        ("DELETE", "/files", {"params": {"path": str(kept)}}),
    ):
        request["headers"] = {**request.get("headers", {}), **headers}
        assert is_refused(execd.http.request(method, path, **request))
    assert kept.read_text() == "here"
    assert execd.http.get("/command").json()["items"] == []
    assert execd.http.get("/ping", headers=headers).status_code == 200  # which it cannot read


def test_agent_own_pages(start_execd):
    execd = start_execd(token=None)
    authority = execd.http.base_url.netloc.decode()
    for headers in (
        {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{authority}"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": f"http://{authority}"},
        {"Origin": "https://agent.example", "X-Forwarded-Host": "agent.example"},
        {},
    ):
        assert execd.http.post("/command", json=COMMAND, headers=headers).status_code == 200, headers


def test_agent_with_token(execd):
    """Who sends the token has been given it: a page, too."""
    assert execd.http.post("/command", json=COMMAND, headers=FOREIGN[0]).status_code == 200
    assert execd.http.post("/command", json=COMMAND, headers={**FOREIGN[0], "X-EXECD-ACCESS-TOKEN": ""}).status_code == 401


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda h: "-".join(h.values()))
def test_sandboxd_without_key(start_sandboxd, headers):
    sandboxd = start_sandboxd(key=None)
    body = {"image": {"uri": "host"}, "entrypoint": ["true"], "resourceLimits": {}}
    assert is_refused(sandboxd.http.post("/sandboxes", json=body, headers=headers))
    assert is_refused(sandboxd.http.delete("/sandboxes/some", headers=headers))
    assert sandboxd.http.get("/sandboxes").json()["items"] == []
    assert sandboxd.http.delete("/sandboxes/some").status_code == 404


def test_sandboxd_with_key(sandboxd):
    assert sandboxd.http.delete("/sandboxes/some", headers=FOREIGN[0]).status_code == 404


def test_no_cors(start_execd, start_sandboxd):
    """A preflight is answered by no permission."""
    ask = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for response in (
        start_execd(token=None).http.options("/command", headers=ask),
        start_sandboxd(key=None).http.options("/sandboxes", headers=ask),
    ):
        assert response.status_code == 405
        assert not any(name.startswith("access-control") for name in response.headers)
