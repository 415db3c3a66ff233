"""Images: where they come from, what they say, and what hostile ones try."""

import io
import json
import os
import shutil
import stat
import struct
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon import BUILD, ROOT
from images import BUSYBOX, Image, Registry, file, layer, link, shell
from test_lifecycle import crash, create, delete, get, held, nothing_left, running, sh, snapshot_of, wait

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="the oci runtime needs root"),
    pytest.mark.skipif(not BUSYBOX, reason="no busybox here to put into images"),
    pytest.mark.skipif(
        not (shutil.which("skopeo") and shutil.which("umoci")), reason="no skopeo and umoci here"
    ),
]


def config(tmp_path, images=(), **settings):
    """args for a sandboxd that has these settings and this image table."""
    lines = ["[sandboxd]"] + [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    lines += ["[images]"] + [f"{json.dumps(name)} = {json.dumps(root)}" for name, root in images]
    path = tmp_path / f"config-{os.urandom(4).hex()}.toml"
    path.write_text("\n".join(lines) + "\n")
    # The sanitized agent is not static: it needs what no image has.
    return {"args": ["--config", path, *(["--execd", ROOT / "build/execd"] if BUILD.name == "san" else [])]}


def named(image):
    return {"uri": str(image)}


def kept(sandboxd):
    """The images that are unpacked."""
    return sorted(name for name in os.listdir(sandboxd.state / "images") if name.startswith("sha256-"))


def half_done(sandboxd):
    return [name for name in os.listdir(sandboxd.state / "images") if name.startswith("tmp.")]


def failure(sandboxd, image, **fields):
    """Why a sandbox of this image failed; nothing is left of it."""
    id = create(sandboxd, image=named(image) if isinstance(image, str) else image, **fields)
    status = wait(sandboxd, id, "Failed")["status"]
    delete(sandboxd, id)
    return status["message"]


# ---- where they come from ---------------------------------------------------------


def test_directory(tmp_path, start_sandboxd):
    root = tmp_path / "images" / "tools"
    with tarfile.open(fileobj=io.BytesIO(layer([*shell(), file("marker", b"here\n")]))) as tar:
        tar.extractall(root)
    sandboxd = start_sandboxd(
        **config(tmp_path, [("tools", f"dir:{root}")], image_paths=[str(tmp_path / "images")])
    )
    one = running(sandboxd, image=named("tools:any"))
    other = running(sandboxd, image=named(f"dir:{root}"))
    assert sh(sandboxd, one, "cat /marker; echo changed > /marker; cat /marker; pwd; id -u; echo $HOME") == (
        "here\nchanged\n/\n0\n/"
    )
    assert sh(sandboxd, other, "cat /marker") == "here"
    assert (root / "marker").read_text() == "here\n"
    assert sorted(os.listdir(root)) == ["bin", "etc", "home", "marker", "root"]
    for id in (one, other):
        delete(sandboxd, id)
    nothing_left(sandboxd, one, other)


@pytest.mark.parametrize(
    "image, words",
    [
        ("dir:/etc", "image_paths"),
        ("dir:{allowed}-beside", "image_paths"),
        ("dir:{allowed}/../outside", "'..'"),
        ("dir:{allowed}/out", "image_paths"),
        ("dir:{allowed}/absent", "no such file"),
        ("dir:{allowed}/file", "no directory"),
        ("oci:{allowed}/file", "OCI layout"),
        ("oci-archive:{allowed}", "regular file"),
        ("docker-archive:/etc/passwd", "image_paths"),
    ],
)
def test_paths_that_are_refused(tmp_path, start_sandboxd, image, words):
    allowed = tmp_path / "allowed"
    for path in (allowed, tmp_path / "outside", tmp_path / "allowed-beside"):
        path.mkdir()
    (allowed / "out").symlink_to(tmp_path / "outside")
    (allowed / "file").write_text("x")
    sandboxd = start_sandboxd(**config(tmp_path, image_paths=[str(allowed)]))
    body = {
        "image": named(image.format(allowed=allowed)),
        "entrypoint": ["sh"],
        "timeout": 600,
        "resourceLimits": {},
    }
    answer = sandboxd.http.post("/sandboxes", json=body)
    assert answer.status_code == 400 or answer.status_code == 404, answer.text
    assert words in answer.json()["message"]
    nothing_left(sandboxd)


def test_layout_and_archives(tmp_path, start_sandboxd):
    image = Image(layer(shell()), layer([file("marker", b"one")]))
    roots = [
        f"oci:{image.layout(tmp_path / 'layout', 'v1')}:v1",
        f"oci-archive:{image.archive(tmp_path / 'image.tar')}",
        f"docker-archive:{image.docker_archive(tmp_path / 'docker.tar', 'example.com/x:1')}",
    ]
    sandboxd = start_sandboxd(**config(tmp_path, [(f"image-{n}", root) for n, root in enumerate(roots)]))
    with ThreadPoolExecutor() as pool:
        ids = list(pool.map(lambda n: running(sandboxd, image=named(f"image-{n % 3}")), range(6)))
    for id in ids:
        assert sh(sandboxd, id, "cat /marker") == "one"
    # the two OCI ones are one image; docker's has another manifest of the same layers
    assert f"sha256-{image.digest.split(':')[1]}" in kept(sandboxd)
    assert len(kept(sandboxd)) == 2
    # whichever came first has brought it; another may have pulled the same and found it unpacked
    timing = next(timing for timing in (get(sandboxd, id)["timing"] for id in ids) if "unpackedMs" in timing)
    assert timing["pulledMs"] <= timing["unpackedMs"] <= timing["preparedMs"] <= timing["totalMs"]
    again = running(sandboxd, image=named("image-0"))
    assert "pulledMs" not in get(sandboxd, again)["timing"]
    for id in [*ids, again]:
        delete(sandboxd, id)
    nothing_left(sandboxd, *ids)
    assert half_done(sandboxd) == []


def test_changed_layout_is_another_image(tmp_path, start_sandboxd):
    Image(layer([*shell(), file("marker", b"one")])).layout(tmp_path / "layout")
    sandboxd = start_sandboxd(**config(tmp_path, [("mine", f"oci:{tmp_path}/layout:latest")]))
    old = running(sandboxd, image=named("mine"))
    (tmp_path / "layout/index.json").unlink()
    Image(layer([*shell(), file("marker", b"two")])).layout(tmp_path / "layout")
    new = running(sandboxd, image=named("mine"))
    assert sh(sandboxd, old, "cat /marker") == "one"
    assert sh(sandboxd, new, "cat /marker") == "two"
    assert len(kept(sandboxd)) == 2


def test_configuration_of_the_image(tmp_path, start_sandboxd):
    said = {
        "Env": ["PATH=/bin:/extra", "GREETING=from the image", "OVER=image", "broken", "=x"],
        "WorkingDir": "/home/user",
        "User": "user",
        "Entrypoint": ["/bin/never"],
        "Cmd": ["never"],
    }
    Image(config=said).layout(tmp_path / "layout")
    sandboxd = start_sandboxd(**config(tmp_path, [("mine", f"oci:{tmp_path}/layout")]))
    id = running(sandboxd, image=named("mine"), env={"OVER": "request"})
    assert sh(sandboxd, id, "pwd; id; echo $PATH $GREETING $OVER $HOME") == (
        "/home/user\nuid=1234(user) gid=1235(user) groups=77(wheel)\n"
        "/bin:/extra from the image request /home/user"
    )


@pytest.mark.parametrize(
    "user, answer",
    [
        ("1234:88", "1234 88"),
        ("4321", "4321 0"),
        ("user:wheel", "1234 77"),
        ("nobody", "'nobody'"),
        ("user:nobodies", "'nobodies'"),
    ],
)
def test_user_of_the_image(tmp_path, start_sandboxd, user, answer):
    Image(config={"User": user, "WorkingDir": "/"}).layout(tmp_path / "layout")
    sandboxd = start_sandboxd(**config(tmp_path, [("mine", f"oci:{tmp_path}/layout")]))
    if "'" in answer:
        assert answer in failure(sandboxd, "mine")
        assert kept(sandboxd) == half_done(sandboxd) == []
    else:
        id = running(sandboxd, image=named("mine"))
        assert sh(sandboxd, id, "echo $(id -u) $(id -g)") == answer


# ---- registries --------------------------------------------------------------------


def test_pulled_once(tmp_path, start_sandboxd):
    image, hold = Image(), threading.Event()
    with Registry({"team/tools": image}, hold=hold) as registry:
        sandboxd = start_sandboxd(**config(tmp_path, insecure_registries=[registry.host]))
        reference = f"{registry.host}/team/tools:v1"
        ids = [create(sandboxd, image=named(reference)) for _ in range(5)]
        assert registry.asked.wait(30)
        status = get(sandboxd, ids[0])["status"]
        assert (status["state"], status["reason"]) == ("Pending", "image_pulling")
        late = create(sandboxd, image=named(reference))
        hold.set()
        for id in [*ids, late]:
            assert wait(sandboxd, id, "Running")["timing"]["pulledMs"] > 0
        assert registry.pulls() == len(image.blobs) - 1, registry.requests
        assert kept(sandboxd) == [f"sha256-{image.digest.split(':')[1]}"]
        # another name for the same is asked for, and not unpacked again
        other = running(sandboxd, image=named(f"{registry.host}/team/tools@{image.digest}"))
        assert len(kept(sandboxd)) == 1
        assert sh(sandboxd, other, "echo works") == "works"
    # and what is known is not asked for
    assert sh(sandboxd, running(sandboxd, image=named(reference)), "echo works") == "works"


def test_login(tmp_path, start_sandboxd):
    image = Image()
    with Registry({"private": image}, login=("someone", "s3cret:pass")) as registry:
        sandboxd = start_sandboxd(**config(tmp_path, insecure_registries=[registry.host]))
        uri = f"{registry.host}/private"
        assert "authentication required" in failure(sandboxd, uri)
        wrong = {"uri": uri, "auth": {"username": "someone", "password": "guess"}}
        assert "unauthorized" in failure(sandboxd, wrong)
        assert kept(sandboxd) == []
        right = {"uri": uri, "auth": {"username": "someone", "password": "s3cret:pass"}}
        id = running(sandboxd, image=right)
        assert sh(sandboxd, id, "echo works") == "works"
        # nothing of it is kept, and nobody was told
        for folder, _, names in os.walk(sandboxd.state):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as content:
                        data = content.read()
                    assert b"s3cret" not in data, path
                    assert b"c29tZW9uZTpzM2NyZXQ6cGFzcw" not in data, path
    assert "s3cret" not in sandboxd.logs()


def test_login_of_the_operator(tmp_path, start_sandboxd):
    with Registry({"private": Image()}, login=("robot", "token")) as registry:
        logins = tmp_path / "logins.json"
        logins.write_text(json.dumps({"auths": {registry.host: {"auth": "cm9ib3Q6dG9rZW4="}}}))
        settings = {"insecure_registries": [registry.host], "registry_auth_file": str(logins)}
        sandboxd = start_sandboxd(**config(tmp_path, **settings))
        running(sandboxd, image=named(f"{registry.host}/private"))


@pytest.mark.parametrize("wrong", ["garbage", "missing", "cut", "other"])
def test_registry_that_fails(tmp_path, start_sandboxd, wrong):
    with Registry({"broken": Image()}, wrong=wrong) as registry:
        sandboxd = start_sandboxd(**config(tmp_path, insecure_registries=[registry.host]))
        assert failure(sandboxd, f"{registry.host}/broken").startswith("skopeo: ")
        assert "unknown" in failure(sandboxd, f"{registry.host}/absent")
        assert kept(sandboxd) == half_done(sandboxd) == []
        nothing_left(sandboxd)


def test_registry_must_speak_tls(tmp_path, start_sandboxd):
    with Registry({"plain": Image()}) as registry:
        sandboxd = start_sandboxd()
        assert "tls: " in failure(sandboxd, f"{registry.host}/plain")
        assert registry.pulls() == 0


def test_pulling_by_setting(tmp_path, start_sandboxd):
    with Registry({"listed": Image(), "other": Image()}) as registry:
        images = [("mine", f"docker://{registry.host}/listed"), (f"{registry.host}/listed", "registry")]
        settings = {"image_pull": False, "insecure_registries": [registry.host]}
        sandboxd = start_sandboxd(**config(tmp_path, images, **settings))
        running(sandboxd, image=named("mine:any"))
        running(sandboxd, image=named(f"{registry.host}/listed:v2"))
        body = {"image": named(f"{registry.host}/other"), "entrypoint": ["sh"], "resourceLimits": {}}
        answer = sandboxd.http.post("/sandboxes", json={**body, "timeout": 600})
        assert answer.status_code == 400
        assert "configured are: host" in answer.json()["message"]


def test_missing_program_is_named(tmp_path, start_sandboxd):
    tools = tmp_path / "bin"
    tools.mkdir()
    for program in ("crun", "cp", "skopeo"):
        (tools / program).symlink_to(shutil.which(program))
    sandboxd = start_sandboxd(env={"PATH": str(tools)})
    body = {"image": named("nginx"), "entrypoint": ["sh"], "timeout": 600, "resourceLimits": {}}
    answer = sandboxd.http.post("/sandboxes", json=body)
    assert answer.status_code == 503
    assert "`apt-get install umoci`" in answer.json()["message"]
    nothing_left(sandboxd)


# ---- what is told meanwhile ----------------------------------------------------------------


def told(sandboxd, id, reason):
    """The status, once it has this reason; it must come to that before it is anything but Pending."""
    while True:
        status = get(sandboxd, id)["status"]
        assert status["state"] == "Pending", status
        if status["reason"] == reason:
            return status
        threading.Event().wait(0.02)


def test_waits_for_its_turn(tmp_path, start_sandboxd):
    hold = threading.Event()
    with Registry({"one": Image(layer([*shell(), file("n", b"1")])), "two": Image()}, hold=hold) as registry:
        sandboxd = start_sandboxd(**config(tmp_path, image_pulls_max=1, insecure_registries=[registry.host]))
        first = create(sandboxd, image=named(f"{registry.host}/one"))
        assert registry.asked.wait(30)
        told(sandboxd, first, "image_pulling")
        second = create(sandboxd, image=named(f"{registry.host}/two"))
        assert told(sandboxd, second, "image_waiting")["message"] == "The image waits until others have been fetched."
        assert not [path for path in registry.requests if "/two/" in path]
        third = create(sandboxd, image=named(f"{registry.host}/two"))
        told(sandboxd, third, "image_waiting")
        hold.set()
        for id in (first, second, third):
            assert wait(sandboxd, id, "Running")["timing"]["pulledMs"] > 0


def test_is_told_that_it_unpacks(tmp_path, start_sandboxd):
    """Also to one that came later and stands behind the same work."""
    Image().layout(tmp_path / "layout")
    go, env = held(tmp_path, "umoci")
    settings = config(tmp_path, [("mine", f"oci:{tmp_path}/layout"), ("same", f"oci:{tmp_path}/layout:latest")])
    sandboxd = start_sandboxd(**settings, env=env)
    first = create(sandboxd, image=named("mine"))
    assert told(sandboxd, first, "image_unpacking")["message"] == "The image is being unpacked."
    second = create(sandboxd, image=named("same"))
    told(sandboxd, second, "image_unpacking")
    assert kept(sandboxd) == []
    go.write_text("now\n")
    for id in (first, second):
        wait(sandboxd, id, "Running")
    assert len(kept(sandboxd)) == 1


# ---- what ends before it is done ---------------------------------------------------------


def test_delete_breaks_off_a_pull(tmp_path, start_sandboxd):
    hold = threading.Event()
    with Registry({"slow": Image()}, hold=hold) as registry:
        sandboxd = start_sandboxd(**config(tmp_path, insecure_registries=[registry.host]))
        ids = [create(sandboxd, image=named(f"{registry.host}/slow")) for _ in range(2)]
        assert registry.asked.wait(30)
        for id in ids:
            delete(sandboxd, id)
        hold.set()
        assert kept(sandboxd) == []
        # one that comes now begins anew
        running(sandboxd, image=named(f"{registry.host}/slow"))
        assert len(kept(sandboxd)) == 1 and half_done(sandboxd) == []


def test_time_limit(tmp_path, start_sandboxd):
    hold = threading.Event()
    with Registry({"slow": Image()}, hold=hold) as registry:
        settings = {"image_timeout_seconds": 1, "insecure_registries": [registry.host]}
        sandboxd = start_sandboxd(**config(tmp_path, **settings))
        assert "image_timeout_seconds (1)" in failure(sandboxd, f"{registry.host}/slow")
        hold.set()


def test_killed_in_the_middle_of_a_pull(tmp_path, start_sandboxd):
    hold = threading.Event()
    with Registry({"slow": Image()}, hold=hold) as registry:
        settings = config(tmp_path, insecure_registries=[registry.host])
        first = start_sandboxd(**settings)
        id = create(first, image=named(f"{registry.host}/slow"))
        assert registry.asked.wait(30)
        assert len(half_done(first)) == 1
        crash(first)
        hold.set()
        second = start_sandboxd(state=first.state, **settings)
        assert half_done(second) == []
        status = wait(second, id, "Failed")["status"]
        assert status["reason"] == "interrupted"
        running(second, image=named(f"{registry.host}/slow"))


def test_images_outlive_us(tmp_path, start_sandboxd):
    said = {"Env": ["A=image"], "User": "user"}
    with Registry({"tools": Image(config=said)}) as registry:
        settings = config(tmp_path, insecure_registries=[registry.host])
        first = start_sandboxd(**settings)
        id = running(first, image=named(f"{registry.host}/tools"))
        crash(first)
    second = start_sandboxd(state=first.state, **settings)
    assert sh(second, id, "echo $A") == "image"
    again = running(second, image=named(f"{registry.host}/tools"))
    assert sh(second, again, "echo $A $(id -u)") == "image 1234"


# ---- limits --------------------------------------------------------------------------------


def test_number_of_images(tmp_path, start_sandboxd):
    roots = []
    for n in range(3):
        Image(layer([*shell(), file("n", b"%d" % n)])).layout(tmp_path / f"layout-{n}")
        roots.append((f"image-{n}", f"oci:{tmp_path}/layout-{n}"))
    sandboxd = start_sandboxd(**config(tmp_path, roots, images_max=2))
    ids = [running(sandboxd, image=named(f"image-{n}")) for n in range(2)]
    assert "images_max (2)" in failure(sandboxd, "image-2")
    before = kept(sandboxd)
    delete(sandboxd, ids[0])
    last = running(sandboxd, image=named("image-2"))
    assert sh(sandboxd, last, "cat /n") == "2"
    assert sh(sandboxd, ids[1], "cat /n") == "1"
    assert len(kept(sandboxd)) == 2 and kept(sandboxd) != before
    # the one that went comes again
    delete(sandboxd, ids[1])
    assert sh(sandboxd, running(sandboxd, image=named("image-0")), "cat /n") == "0"


def test_unused_images_go(tmp_path, start_sandboxd):
    Image().layout(tmp_path / "layout")
    roots = [("mine", f"oci:{tmp_path}/layout")]
    sandboxd = start_sandboxd(**config(tmp_path, roots, image_keep_seconds=1))
    id = running(sandboxd, image=named("mine"))
    snapshot = snapshot_of(sandboxd, id)
    delete(sandboxd, id)
    # the snapshot stands on it
    copy = sandboxd.http.post("/sandboxes", json={"snapshotId": snapshot, "timeout": 600, "resourceLimits": {}})
    copy = copy.json()["id"]
    wait(sandboxd, copy, "Running")
    delete(sandboxd, copy)
    assert sandboxd.http.delete(f"/snapshots/{snapshot}").status_code == 204
    wait_log(sandboxd, "nobody uses it, removed")
    assert kept(sandboxd) == []
    running(sandboxd, image=named("mine"))


@pytest.mark.parametrize("kind", ["size", "sparse", "many", "bomb"])
def test_size_of_an_image(tmp_path, start_sandboxd, kind):
    if kind == "size":
        layers = [layer([file(f"file-{n}", b"x" * (900 << 10))]) for n in range(3)]
    elif kind == "many":
        layers = [layer([file(f"file-{n}") for n in range(600)])]
    elif kind == "bomb":
        layers = [layer([file("zeros", bytes(16 << 20))])]
    else:
        layers = [sparse_layer(1 << 40)]
    Image(*layers).layout(tmp_path / "layout")
    roots = [("mine", f"oci:{tmp_path}/layout")]
    sandboxd = start_sandboxd(**config(tmp_path, roots, image_max_mb=2))
    assert "image_max_mb (2 MiB)" in failure(sandboxd, "mine")
    assert kept(sandboxd) == half_done(sandboxd) == []


def sparse_layer(size):
    """A file of which only the first block is there: GNU tar's own format."""
    header = bytearray(tarfile.TarInfo("holes").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"00000001000\0"
    header[156:157] = b"S"
    header[386:410] = b"00000000000\0" + b"00000001000\0"
    header[483:495] = struct.pack(">B3xQ", 0x80, size)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(512) + bytes(1024)


def wait_log(sandboxd, words):
    done = threading.Event()
    for _ in range(600):
        if words in sandboxd.logs():
            return
        done.wait(0.05)
    raise AssertionError(f"'{words}' is not in the log:\n{sandboxd.logs()}")


# ---- hostile images ----------------------------------------------------------------------------


def test_hostile_image(tmp_path, start_sandboxd):
    """Nothing of it is written, followed or started outside, and its sandbox works as any other."""
    outside = tmp_path / "outside"
    outside.mkdir()
    evil = [
        *shell(),
        file("../../../../../../../../../../escaped-up", b"x"),
        file(f"{outside}/escaped-absolute", b"x"),
        link("way", str(outside)),
        file("way/escaped-link", b"x"),
        ("dev/memory", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 1, "mode": 0o666}),
        ("disk", b"", {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0, "mode": 0o666}),
        ("memory", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5, "mode": 0o666}),
        file("bin/setuid", open(BUSYBOX, "rb").read(), 0o4755),
        ("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/shadow"}),
    ]
    # the directories that something of ours is put into are links
    links = [".wh.etc", ".wh.proc", ".wh.dev"]
    second = [file(name) for name in links] + [
        link("etc", str(outside)),
        link("proc", str(outside)),
        link("dev", str(outside)),
        link("sys", str(outside)),
        link("tmp", str(outside)),
        link(".execd", str(outside)),
    ]
    Image(layer([e for e in evil if e[0] != "hard"]), layer(second)).layout(tmp_path / "layout")
    sandboxd = start_sandboxd(**config(tmp_path, [("evil", f"oci:{tmp_path}/layout")]))
    id = running(sandboxd, image=named("evil"))
    assert sh(sandboxd, id, "cat /etc/hostname; stat -c %F /proc /.execd /etc /tmp; echo > /tmp/x; cat /disk; /bin/busybox head -c 1 /memory") == (
        "sandbox\n" + "directory\n" * 3 + "directory"
    )
    assert "0000000000000000" in sh(sandboxd, id, "cat /proc/self/status | /bin/busybox grep CapInh")
    assert os.listdir(outside) == []
    assert not os.path.exists("/escaped-up")
    (name,) = kept(sandboxd)
    inside = sandboxd.state / "images" / name / "rootfs"
    assert (inside / "escaped-up").exists()
    assert stat.S_IMODE(os.stat(sandboxd.state).st_mode) == 0o700
    delete(sandboxd, id)
    nothing_left(sandboxd, id)


def test_hard_link_out_of_the_image(tmp_path, start_sandboxd):
    evil = [*shell(), ("stolen", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/shadow"})]
    Image(layer(evil)).layout(tmp_path / "layout")
    sandboxd = start_sandboxd(**config(tmp_path, [("evil", f"oci:{tmp_path}/layout")]))
    assert failure(sandboxd, "evil").startswith("umoci: ")
    assert kept(sandboxd) == half_done(sandboxd) == []


@pytest.mark.parametrize(
    "image, words",
    [
        (lambda: Image(b"this is no tar archive" * 100), "not a tar"),
        (lambda: Image(layer(shell())[:70000]), "too early"),
        (lambda: Image(arch="s390x"), "linux/s390x"),
        (lambda: Image(os="plan9"), "plan9/"),
    ],
)
def test_broken_images(tmp_path, start_sandboxd, image, words):
    image().layout(tmp_path / "layout")
    sandboxd = start_sandboxd(**config(tmp_path, [("broken", f"oci:{tmp_path}/layout")]))
    assert words in failure(sandboxd, "broken")
    assert kept(sandboxd) == half_done(sandboxd) == []
