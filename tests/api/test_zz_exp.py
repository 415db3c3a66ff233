import os, httpx
import test_openapi
from test_openapi import *
def test_iso(start_sandboxd, tmp_path):
    sandboxd = start_sandboxd()
    id = running(sandboxd, timeout=600)
    url = f"http://{endpoint(sandboxd, id)}"
    r = httpx.post(url + "/v1/isolated/session", json={"workspace": {"path": "/home", "mode": "overlay"}, "undoable": True, "idle_timeout_seconds": 0}, timeout=60)
    print(r.text)
    s = r.json()["session_id"]
    test_openapi.CONFIG += f'\n[parameters]\n"path.sessionId" = "{s}"\n'
    try:
        check(tmp_path, "execd.yaml", url, {}, "^/(?!v1/isolated/session/[^/]*/)|/watch|/archive")
    finally:
        print(httpx.get(url + f"/v1/isolated/session/{s}").text, httpx.get(url + f"/v1/isolated/session/{s}/undo").text[:300])
