"""Operations on an agent. What each has to bring is known before it is asked for."""

import hashlib
import io
import json
import os
import socket
import struct
import tarfile
import time
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from load import Book
from wire import TIMEOUT_S, check, same

BOOK = Book()
VANISHED = []  # folders that clients were writing to when they went away
operation = BOOK.operation


def seq(first, n):
    return b"".join(b"%d\n" % i for i in range(first, first + n))


def sha(data):
    return hashlib.sha256(data).hexdigest()


def new(client, rng):
    """A path that is nobody's yet."""
    path = client.place / f"{rng.getrandbits(64):016x}"
    client.owe(f"/directories?path={path}")
    return path


def lines_of(seen, kind="stdout"):
    return "".join(event["text"] + "\n" for event in seen if event["type"] == kind).encode()


def ended(event, **fields):
    """The last event of a stream and its end."""
    check(event["type"] in ("execution_complete", "error"), "no end:", event)
    for key, value in fields.items():
        check(event["end"].get(key) == value, f"{key} is not {value}:", event)


def init_of(stream):
    first = next(stream)
    check(first["type"] == "init", first)
    return first["text"]


def run(client, command, path="/command", **fields):
    """(id, every event)"""
    with client.stream("POST", path, {"command": command, **fields}) as stream:
        seen = list(stream.events())
    check(seen and seen[0]["type"] == "init", seen[:1])
    return seen[0]["text"], seen


def background(client, command, **fields):
    id, seen = run(client, command, background=True, **fields)
    check([event["type"] for event in seen] == ["init", "execution_complete"], seen)
    return id


def attached(client, id, last=None, **options):
    return client.stream("GET", f"/command/{id}/stream", headers={} if last is None else {"Last-Event-ID": str(last)}, **options)


def wait_for(client, id):
    with attached(client, id) as stream:
        for event in stream.events():
            pass
    check(event["type"] in ("execution_complete", "error"), event)
    return event


def output(client, rng, id, stream):
    """The exact bytes of a command that has ended, piece by piece."""
    data = b""
    while True:
        data += client.call(
            "GET", f"/command/{id}/output", params={"stream": stream, "offset": len(data), "limit": rng.randrange(1, 200_000)}
        )
        check(client.answered["Execd-Output-Begin"] == "0", "bytes were dropped")
        if int(client.answered["Execd-Output-Next"]) == int(client.answered["Execd-Output-End"]):
            check(client.answered["Execd-Output-Ended"] == "true", "it has ended, and its output not")
            return data


# ---- commands -----------------------------------------------------------------------------


@operation(12)
def foreground(client, rng):
    first, n, code = rng.randrange(10**6), rng.choice((10, 300, 2000, 10000)), rng.choice((0, 0, 3))
    id, seen = run(client, f"seq {first} {first + n - 1}; exit {code}")
    expected = seq(first, n)
    same(lines_of(seen), expected, "events")
    ended(seen[-1], reason="exited", exit_code=code)
    same(output(client, rng, id, "stdout"), expected, "output")
    return 2 * len(expected)


@operation(6)
def both_streams(client, rng):
    n, k = rng.randrange(1, 200), rng.randrange(1, 20)
    id, seen = run(client, f"for i in $(seq {k}); do seq {n}; seq $i {n} >&2; done")
    out, err = seq(1, n) * k, b"".join(seq(i, n - i + 1) for i in range(1, k + 1))
    same(lines_of(seen), out, "stdout")
    same(lines_of(seen, "stderr"), err, "stderr")
    same(output(client, rng, id, "stdout"), out, "bytes of stdout")
    same(output(client, rng, id, "stderr"), err, "bytes of stderr")
    return 2 * (len(out) + len(err))


@operation(6)
def any_bytes(client, rng):
    """A background command's exact bytes, by offsets and by cursors."""
    id = background(client, f"cat {client.blob}; cat {client.blob} >&2")
    wait_for(client, id)
    for stream in ("stdout", "stderr"):
        same(output(client, rng, id, stream), client.blob_bytes, stream)
    logs, cursor = b"", 0
    while piece := client.call("GET", f"/command/{id}/logs", params={"cursor": cursor}):
        logs += piece
        cursor = int(client.answered["EXECD-COMMANDS-TAIL-CURSOR"])
    check(len(logs) == 2 * len(client.blob_bytes), "logs:", len(logs))
    return 4 * len(client.blob_bytes)


@operation(8)
def come_back(client, rng):
    """The reader leaves in the middle, again and again, and goes on after the last event it had."""
    n, last, text, visits = rng.choice((50, 500, 4000)), None, b"", 0
    id = background(client, f"for i in 1 2 3 4 5; do seq {n}; done")
    while True:
        visits += 1
        leave = rng.randrange(1, 2 * n) if visits < 6 else 10**9
        with attached(client, id, last) as stream:
            events = stream.events(rng.choice((500, 4096, 65536)))
            init_of(events)
            for event in events:
                if event["type"] == "stdout":
                    text += event["text"].encode() + b"\n"
                last = stream.last
                leave -= 1
                if leave == 0:
                    break
            if rng.random() < 0.5:
                stream.vanish()
        if event["type"] == "execution_complete":
            break
        check(event["type"] == "stdout", event)
    same(text, seq(1, n) * 5, f"{visits} visits")
    return len(text)


@operation(2, at_once=4)
def slow_reader(client, rng):
    """It takes little at a time and does other things in between; the command waits for it and nothing is lost."""
    n = 40000
    with client.stream("POST", "/command", {"command": f"seq {n}"}, receive_buffer=4096) as stream:
        seen = list(stream.events(16384, between=lambda: client.call("GET", "/ping")))
    same(lines_of(seen), seq(1, n), "slow reader")
    return n * 6


@operation(6)
def standard_input(client, rng):
    data = rng.randbytes(rng.choice((0, 1, 5000, 300_000, 2_000_000)))
    with client.stream("POST", "/command", {"argv": ["sha256sum"], "stdin": True}) as stream:
        events = stream.events()
        id = init_of(events)
        half = rng.randrange(len(data) + 1)
        check(client.json("POST", f"/command/{id}/stdin", data[:half])["written"] == half)
        rest = client.json("POST", f"/command/{id}/stdin", data[half:], params={"close": "true"})
        check(rest["written"] == len(data) - half, rest)
        seen = list(events)
    same(lines_of(seen), f"{sha(data)}  -\n".encode(), "hash of what was put in")
    return len(data)


@operation(5)
def ends(client, rng):
    """Every way to end a command that would not by itself."""
    way = rng.choice(("signal", "delete", "timeout", "limit"))
    if way == "signal":
        command = {"command": "trap 'echo got; exit 5' USR1; echo ready; read x", "stdin": True}
    elif way == "limit":
        command = {"command": "echo ready; yes", "limits": {"output_bytes": 100_000, "processes": 50}}
    else:
        command = {"command": "echo ready; sleep 1000 & sleep 1000", **({"timeout": 300} if way == "timeout" else {})}
    with client.stream("POST", "/command", command) as stream:
        events = stream.events()
        id = init_of(events)
        if way != "timeout":
            check(next(events)["text"] == "ready")
        if way == "signal":
            client.call("POST", f"/command/{id}/signal", {"signal": "USR1"})
        elif way == "delete":
            client.call("DELETE", "/command", params={"id": id})
        *_, last = events
    reason = {"signal": "exited", "delete": "interrupted", "timeout": "timeout", "limit": "output_limit"}[way]
    ended(last, reason=reason)
    status = client.json("GET", f"/command/status/{id}")
    check(not status["running"] and status["end"]["reason"] == reason, status)


@operation(3)
def confined(client, rng):
    n = rng.randrange(1, 1000)
    _, seen = run(client, f"unshare -U true 2>/dev/null || seq {n}", confinement="strict")
    same(lines_of(seen), seq(1, n), "confined")
    return len(seq(1, n))


@operation(3, at_once=4)
def undoable(client, rng):
    root = new(client, rng)
    root.mkdir()
    (root / "a").write_text("before\n")
    id, seen = run(client, "seq 100; echo after >a; mkdir d; echo x >d/x", undoable=True, undo_root=str(root), cwd=str(root))
    same(lines_of(seen), seq(1, 100), "undoable")
    check((root / "a").read_text() == "after\n" and (root / "d/x").read_text() == "x\n", "not merged")
    client.call("POST", f"/command/{id}/undo", {})
    check((root / "a").read_text() == "before\n" and os.listdir(root) == ["a"], "not taken back:", os.listdir(root))
    remove(client, root)


def remove(client, *paths):
    client.call("DELETE", "/directories", params={"path": [str(path) for path in paths]})
    check(not any(path.exists() for path in paths), "still there")


@operation(5)
def batch(client, rng):
    folder, text = new(client, rng), f"{rng.random()} ü\n"
    answer = client.json("POST", "/batch", {"operations": [
        {"op": "write", "path": f"{folder}/d/f", "content": text},
        {"op": "run", "argv": ["sha256sum", f"{folder}/d/f"]},
        {"op": "read", "path": f"{folder}/d/f"},
        {"op": "stat", "path": f"{folder}/d/f"},
        {"op": "remove", "path": f"{folder}", "recursive": True},
    ]})  # fmt: skip
    check(answer["ok"], answer)
    _, ran, read, stat, _ = answer["results"]
    check(ran["stdout"].split()[0] == sha(text.encode()) and read["content"] == text, ran, read)
    check(stat["info"]["size"] == len(text.encode()) and not folder.exists(), stat)
    return len(text)


@operation(6)
def session(client, rng):
    id = client.json("POST", "/session", {"cwd": str(client.place)})["session_id"]
    client.owe(f"/session/{id}")
    for turn in range(1, rng.randrange(2, 5)):
        n = rng.randrange(1, 3000)
        _, seen = run(client, f"turn=$((turn + 1)); seq {n}; echo $turn", path=f"/session/{id}/run")
        same(lines_of(seen), seq(1, n) + b"%d\n" % turn, "session")
    if rng.random() < 0.3:  # deleted under a run
        with client.stream("POST", f"/session/{id}/run", {"command": "echo ready; sleep 1000"}) as stream:
            events = stream.events()
            init_of(events)
            check(next(events)["text"] == "ready")
            client.call("DELETE", f"/session/{id}")
            *_, last = events
        ended(last, reason="cancelled")
    else:
        client.call("DELETE", f"/session/{id}")
    client.call("DELETE", f"/session/{id}", want=(404,))
    return 3 * n


# ---- terminals ----------------------------------------------------------------------------


class Terminal:
    def __init__(self, client, id, query):
        self.ws = connect(
            f"ws://{client.host}:{client.port}/pty/{id}/ws{query}", additional_headers=client.headers,
            open_timeout=TIMEOUT_S, max_size=None, max_queue=None,
        )  # fmt: skip
        self.offset = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.close()

    def take(self, offset):
        """("output", bytes) or (type, frame) of the next frame; None when it is closed. offset: of the next byte."""
        try:
            frame = self.ws.recv(timeout=TIMEOUT_S)
        except ConnectionClosed:
            return None
        if isinstance(frame, str):
            text = json.loads(frame)
            return text["type"], text
        if frame[0] == 3:
            check(int.from_bytes(frame[1:9], "big") == offset, "replayed from", frame[1:9], "instead of", offset)
            return "output", frame[9:]
        check(frame[0] == 1, frame[:20])
        return "output", frame[1:]


@operation(6, at_once=24)
def terminal(client, rng):
    """Output over several connections, each left in the middle; what one has missed is the next one's replay."""
    pipe = rng.random() < 0.5
    n = rng.choice((20, 2000, 40000))
    id = client.json("POST", "/pty", {"command": f"read x; seq {n}; read x; exit 7"}, want=(201,))["session_id"]
    client.owe(f"/pty/{id}")
    middle = seq(1, n) if pipe else b"\r\n" + seq(1, n).replace(b"\n", b"\r\n")
    expected = middle if pipe else middle + b"\r\n"  # the echo of what is typed
    got, last, visits, typed = b"", None, 0, 0
    while last is None:
        visits += 1
        stay = visits == 4 or len(got) >= len(middle)
        leave = 10**9 if stay else min(len(got) + rng.randrange(1, len(middle)), len(middle))
        connected = False
        with Terminal(client, id, f"?since={len(got)}" + ("&pty=0" if pipe else "")) as t:
            while len(got) < leave and last is None:
                frame = t.take(len(got))
                check(frame, "closed without an exit frame")
                connected = connected or frame[0] == "connected"
                if frame[0] == "output":
                    got += frame[1]
                elif frame[0] == "exit":
                    last = frame[1]
                if connected and (typed == 0 or typed == 1 and stay and len(got) >= len(middle)):
                    t.ws.send(b"\0\n")
                    typed += 1
    same(got, expected, f"terminal, {visits} visits")
    check(last["exit_code"] == 7, last)
    client.call("DELETE", f"/pty/{id}")
    return len(got)


@operation(3, at_once=16)
def terminal_deleted(client, rng):
    """With a shell and a job in it, its client connected or gone."""
    id = client.json("POST", "/pty", want=(201,))["session_id"]
    client.owe(f"/pty/{id}")
    with Terminal(client, id, "") as t:
        t.ws.send(b"\0sleep 1000 & echo rea''dy\n")
        seen = b""
        while b"ready\r\n" not in seen:
            frame = t.take(len(seen))
            check(frame, "closed")
            seen += frame[1] if frame[0] == "output" else b""
        if rng.random() < 0.5:
            t.ws.socket.shutdown(socket.SHUT_RDWR)
        client.call("DELETE", f"/pty/{id}")
    client.call("GET", f"/pty/{id}", want=(404,))


# ---- files --------------------------------------------------------------------------------


def upload(client, *files, prefix=""):
    """files: (path, bytes)"""
    boundary, parts = "soak-boundary-0", []
    for path, data in files:
        for part, kind, content in (
            ("metadata", "application/json", json.dumps({"path": str(path), "mode": 640}).encode()),
            ("file", "application/octet-stream", data),
        ):
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{part}"; filename="{part}"\r\nContent-Type: {kind}\r\n\r\n'
            parts.append(head.encode() + content + b"\r\n")
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    if not files:
        return body
    client.call("POST", f"{prefix}/files/upload", body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
    return body


@operation(8)
def file_there_and_back(client, rng):
    folder, data = new(client, rng), rng.randbytes(rng.choice((0, 10, 70_000, 1_000_000)))
    upload(client, (folder / "a", data), (folder / "b", b"old text, old text\n"))
    _, seen = run(client, f"sha256sum <{folder}/a")
    same(lines_of(seen), f"{sha(data)}  -\n".encode(), "hash within")
    same(client.call("GET", "/files/download", params={"path": folder / "a"}), data, "download")
    if data:
        begin = rng.randrange(len(data))
        part = client.call("GET", "/files/download", params={"path": folder / "a"}, headers={"Range": f"bytes={begin}-"}, want=(206,))
        same(part, data[begin:], "range")
    info = client.json("GET", "/files/info", params={"path": folder / "a"})[str(folder / "a")]
    check(info["size"] == len(data) and info["mode"] == 640, info)
    answer = client.json("POST", "/files/replace", {f"{folder}/b": {"old": "old", "new": "new"}}, params={"verbose": "true"})
    check(answer[f"{folder}/b"]["replacedCount"] == 2, answer)
    client.call("POST", "/files/mv", [{"src": f"{folder}/b", "dest": f"{folder}/c"}])
    client.call("POST", "/files/copy", [{"src": f"{folder}/c", "dest": f"{folder}/d"}])
    same(client.call("GET", "/files/download", params={"path": folder / "d"}), b"new text, new text\n", "copy")
    client.call("POST", "/files/permissions", {f"{folder}/d": {"mode": 600}})
    found = client.json("GET", "/files/search", params={"path": folder, "pattern": "*"})
    check(sorted(Path(each["path"]).name for each in found) == ["a", "c", "d"], found)
    client.call("DELETE", "/files", params={"path": [folder / "c", folder / "d"]})
    listed = client.json("GET", "/directories/list", params={"path": folder})
    check([Path(each["path"]).name for each in listed] == ["a"], listed)
    remove(client, folder)
    return 2 * len(data)


def members(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {each.name.removeprefix("./"): tar.extractfile(each).read() for each in tar if each.isfile()}


@operation(5, at_once=16)
def archive(client, rng):
    """A tree in as a tar stream, and out again in another format."""
    folder = new(client, rng)
    tree = {f"d{i % 5}/f{i}": rng.randbytes(rng.choice((0, 100, 20_000))) for i in range(rng.randrange(1, 60))}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=rng.choice(("w", "w:gz"))) as tar:
        for path, data in tree.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    done = client.json("POST", "/directories/archive", packed.getvalue(), params={"path": folder}, headers={"Content-Type": "application/x-tar"})
    check(done["files"] == len(tree) and done["bytes"] == sum(map(len, tree.values())), done)
    got = client.call("GET", "/directories/archive", params={"path": folder, "format": rng.choice(("tar", "tar.gz"))})
    check(members(got) == tree, "another tree came back")
    zstd = client.call("GET", "/directories/archive", params={"path": folder, "format": "tar.zst"})
    again = new(client, rng)
    done = client.json("POST", "/directories/archive", zstd, params={"path": again})
    check(done["files"] == len(tree), done)
    check(all((again / path).read_bytes() == data for path, data in tree.items()), "another tree after zstd")
    remove(client, folder, again)
    return 3 * sum(map(len, tree.values()))


@operation(4, at_once=16)
def watch(client, rng):
    folder, n = new(client, rng), rng.randrange(1, 40)
    folder.mkdir()
    with client.stream("GET", "/files/watch", params={"path": folder, "recursive": "true"}) as stream:
        events = stream.events()
        check(next(events)["type"] == "ready")
        wanted = {f"{folder}/d"} | {f"{folder}/d/{i}" for i in range(n)}  # what is in a new directory may be told late
        (folder / "d").mkdir()
        for i in range(n):
            (folder / "d" / str(i)).write_text("x")
        seen = []
        for event in events:
            check(event["type"] != "overflow", event)
            if event["type"] == "created":
                seen.append(event["path"])
            if wanted <= set(seen):
                break
    check(len(seen) == len(wanted), "told twice, or never made:", sorted(seen))
    remove(client, folder)


@operation(5, at_once=16)
def grep(client, rng):
    number = rng.randrange(100)
    lines = client.call("POST", "/files/grep", {"path": str(client.tree), "pattern": f"needle {number}$", "context": 1}).splitlines()
    *matches, end = map(json.loads, lines)
    check(end["type"] == "end" and end["matches"] == len(matches) == client.tree_files, end)
    check({(m["line"], m["text"]) for m in matches} == {(number + 1, f"needle {number}")}, matches[:3])
    check(len({m["path"] for m in matches}) == client.tree_files, "the same file twice")
    return sum(map(len, lines))


# ---- code ---------------------------------------------------------------------------------

LANGUAGES = {
    # set and show; n lines; for ever after "ready"; the text of the variable
    "python": ("x = {n}", "for i in range(1, {n} + 1): print(i)", "print('ready', flush=True)\nwhile True: pass", "print(x)"),
    "bash": ("x={n}", "seq {n}", "echo ready; while :; do :; done", "echo $x"),
    "javascript": (
        "var x = {n}", "for (let i = 1; i <= {n}; i++) console.log(i)", "console.log('ready'); while (true) {{}}", "console.log(x)",
    ),
}  # fmt: skip


def cell(client, context, language, code):
    with client.stream("POST", "/code", {"code": code, "context": {"id": context, "language": language}}) as stream:
        seen = list(stream.events())
    check(seen[0]["type"] == "init" and seen[-1]["type"] == "execution_complete", seen[0], seen[-1])
    return lines_of(seen)


def cells(client, rng, language):
    n = rng.randrange(1, 1000)
    assign, count, forever, show = (text.format(n=n) for text in LANGUAGES[language])
    context = client.json("POST", "/code/context", {"language": language, "cwd": str(client.place)})["id"]
    client.owe(f"/code/contexts/{context}")
    cell(client, context, language, assign)
    same(cell(client, context, language, count), seq(1, n), language)
    if rng.random() < 0.6:
        with client.stream("POST", "/code", {"code": forever, "context": {"id": context, "language": language}}) as stream:
            events = stream.events()
            init = init_of(events)
            for event in events:
                if event["type"] == "stdout":
                    break
            check(event["text"] == "ready", event)
            if rng.random() < 0.2:  # deleted in the middle
                client.call("DELETE", f"/code/contexts/{context}")
                list(events)
                return 3 * n
            client.call("DELETE", "/code", params={"id": init})
            *_, last = events
        check(last["type"] == "error" and last["end"]["reason"] == "interrupted", last)
        same(cell(client, context, language, show), b"%d\n" % n, "after an interrupt")
    if language != "javascript" and rng.random() < 0.3:
        fork = client.json("POST", f"/code/contexts/{context}/fork")["id"]
        client.owe(f"/code/contexts/{fork}")
        same(cell(client, fork, language, show), b"%d\n" % n, "fork")
        client.call("DELETE", f"/code/contexts/{fork}")
    client.call("DELETE", f"/code/contexts/{context}")
    client.call("GET", f"/code/contexts/{context}", want=(404,))
    return 3 * n


@operation(5, at_once=8)
def python_cells(client, rng):
    return cells(client, rng, "python")


@operation(4, at_once=8)
def bash_cells(client, rng):
    return cells(client, rng, "bash")


@operation(2, at_once=3)
def javascript_cells(client, rng):
    return cells(client, rng, "javascript")


# ---- rooms --------------------------------------------------------------------------------


def room_run(client, path, code, **fields):
    with client.stream("POST", f"{path}/run", {"code": code, **fields}) as stream:
        seen = list(stream.events())
    ended(seen[-1], reason="exited", exit_code=0)
    return lines_of(seen)


@operation(4, at_once=8)
def room(client, rng):
    folder, n, data = new(client, rng), rng.randrange(1, 3000), rng.randbytes(rng.choice((10, 100_000)))
    folder.mkdir(mode=0o777)
    (folder / "below").write_text("below\n")
    undo = rng.random() < 0.5
    request = {"workspace": {"path": str(folder), "mode": "overlay"}, "undoable": undo}
    made = client.json("POST", "/v1/isolated/session", request, want=(201,))
    path = f"/v1/isolated/session/{made['session_id']}"
    client.owe(path)
    same(room_run(client, path, f"x=1; cd {folder}; seq {n}"), seq(1, n), "room")
    upload(client, (folder / "up", data), prefix=path)
    same(room_run(client, path, f"sha256sum <{folder}/up; echo $x"), f"{sha(data)}  -\n1\n".encode(), "hash in the room")
    room_run(client, path, "echo more >new; rm below")
    check((folder / "below").exists() and os.listdir(folder) == ["below"], "it has left the room")
    if undo:
        client.call("POST", f"{path}/undo", {})
        same(room_run(client, path, f"cat {folder}/below"), b"below\n", "undone")
    else:
        changes = {c["path"]: c["change"] for c in client.json("GET", f"{path}/changes")["changes"]}
        check(changes == {"new": "added", "up": "added", "below": "deleted"}, changes)
        check(members(client.call("GET", f"{path}/diff", params={"format": "tar"}))["up"] == data, "diff")
        client.call("POST", f"{path}/commit", {})
        check((folder / "up").read_bytes() == data and sorted(os.listdir(folder)) == ["new", "up"], os.listdir(folder))
    if rng.random() < 0.5:
        client.call("POST", f"{path}/run", {"code": "sleep 1000", "background": True}, want=(202,))
    client.call("DELETE", path, want=(204,))
    client.call("GET", path, want=(404,))
    remove(client, folder)
    return 3 * n + 3 * len(data)


@operation(4, at_once=8)
def one_shot(client, rng):
    n = rng.randrange(10**6)
    answer = client.json("POST", "/v1/isolated/run", {"code": "def handler(event):\n    return [event, event * 2]", "event": n})
    check(answer.get("result") == [n, 2 * n], answer)
    answer = client.json("POST", "/v1/isolated/run", {"command": "cat; sleep 1000 & exit 4", "event": n})
    check(answer["stdout"] == str(n) and answer["exit_code"] == 4, answer)


# ---- the rest -----------------------------------------------------------------------------


@operation(3)
def look(client, rng):
    """What only tells."""
    check(client.json("GET", "/metrics")["cpu_count"] > 0)
    check(b"# TYPE" in client.call("GET", "/metrics/prometheus"), "no metrics")
    check(client.json("GET", "/command", params={"limit": 5})["items"], "no commands")
    for path in ("/session", "/pty", "/ports", "/confinement", "/undo", "/v1/isolated/capabilities", "/v1/isolated/sessions"):
        client.json("GET", path)
    client.json("GET", "/code/contexts", params={"language": "python"})
    client.call("GET", "/command/status/none", want=(404,))
    client.call("GET", "/nowhere", want=(404,))


@operation(2, at_once=16)
def metrics_stream(client, rng):
    with client.stream("GET", "/metrics/watch") as stream:
        events = stream.events()
        for _ in range(rng.randrange(1, 3)):
            check(next(events)["cpu_count"] > 0)
        if rng.random() < 0.5:
            stream.vanish()


@operation(2, at_once=8)
def ports_stream(client, rng):
    with client.stream("GET", "/ports/watch") as stream, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for event in stream.events():
            if event.get("port") == port and event["type"] in ("open", "opened"):
                server.close()
            elif event.get("port") == port:
                break


@operation(6)
def proxy(client, rng):
    data = rng.randbytes(rng.choice((0, 100, 50_000, 2_000_000)))
    got = client.call("POST", f"/proxy/{client.echo_port}/any/path?x=1", data)
    check(client.answered["X-Sha256"] == sha(data), "something else went in")
    same(got, data, "proxy")
    return 2 * len(data)


@operation(6)
def vanish(client, rng):
    """A client that goes away: within a request, within an answer; what it has started goes on to its end."""
    way = rng.choice(("head", "upload", "archive", "stream", "download", "proxy", "half"))
    if way == "stream":
        n = rng.choice((100, 30000))
        with client.stream("POST", "/command", {"command": f"seq {n}"}, receive_buffer=4096) as stream:
            id = init_of(stream.events(100))
            stream.vanish()
        wait_for(client, id)
        same(output(client, rng, id, "stdout"), seq(1, n), "after its client went away")
        return n * 5
    token = "".join(f"{key}: {value}\r\n" for key, value in client.headers.items())
    folder = new(client, rng)
    if way in ("upload", "archive"):
        folder.mkdir()
        body = upload(client)  # an end alone
        if way == "upload":
            head = "POST /files/upload HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n"
            body = f'--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{{"path": "{folder}/x"}}\r\n--b\r\n'
            body = body.encode() + b'Content-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + rng.randbytes(200_000)
        else:
            head = f"POST /directories/archive?path={folder} HTTP/1.1\r\nContent-Length: 900000\r\n"
            member = tarfile.TarInfo("x")
            member.size = 800_000
            body = member.tobuf() + rng.randbytes(200_000)
    else:
        body = b""
        head = {
            "head": "POST /command HTTP/1.1\r\nContent-Length: 1000\r\n",
            "download": f"GET /files/download?path={client.blob} HTTP/1.1\r\n",
            "proxy": f"POST /proxy/{client.echo_port}/x HTTP/1.1\r\nContent-Length: 1000\r\n",
            "half": "GET /ping HTTP/1.1\r\n",
        }[way]
    request = f"{head}Host: x\r\n{token}\r\n".encode() + body
    with socket.create_connection((client.host, client.port), timeout=TIMEOUT_S) as connection:
        if way == "half":  # it has said all and listens still
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            check(connection.recv(100).startswith(b"HTTP/1.1 200"), "no answer to a half-closed client")
        else:
            connection.sendall(request[: rng.randrange(1, len(request) + 1)])
            if way == "download":
                connection.settimeout(0.05)
                try:
                    connection.recv(10)
                except TimeoutError:  # its head was not whole
                    pass
            if rng.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # What came whole may still be on its way to a worker: looked at once all clients have gone.
    VANISHED.append(folder)


def flush(client, n):
    """Ended commands are kept, the newest 1024 of them: as many that have said nothing take their place."""
    for _ in range(n):
        client.call("POST", "/batch", {"operations": [{"op": "run", "argv": ["true"]}] * 64})


def parts_deleted(client):
    """What never came whole was never there, and its part file is gone as soon as its client is known to be."""
    deadline = time.monotonic() + TIMEOUT_S
    for folder in VANISHED:
        while (left := os.listdir(folder) if folder.exists() else []) and time.monotonic() < deadline:
            time.sleep(0.1)
        check(not left, "left of what did not come whole:", left)
        client.call("DELETE", "/directories", params={"path": folder})
    VANISHED.clear()


def everything_deleted(client):
    """Whatever an operation has left when it failed is told by the operation; nothing may be left by the others."""
    for path in ("/session", "/pty", *(f"/code/contexts?language={language}" for language in LANGUAGES)):
        left = client.json("GET", path)
        check(not left, f"{path}: still there:", left)
    left = client.json("GET", "/v1/isolated/sessions")["sessions"]
    check(not left, "rooms still there:", left)
