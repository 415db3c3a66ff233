"""OCI images made by hand, and a registry that serves them: none is reachable where tests run."""

import base64
import gzip
import hashlib
import io
import json
import platform
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUSYBOX = shutil.which("busybox")
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def file(name, data=b"", mode=0o644, **fields):
    return name, data, {"mode": mode, **fields}


def directory(name, mode=0o755, **fields):
    return name, b"", {"mode": mode, "type": tarfile.DIRTYPE, **fields}


def link(name, target):
    return name, b"", {"type": tarfile.SYMTYPE, "linkname": target, "mode": 0o777}


def layer(entries):
    """A tar archive of entries as the three above make them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data, fields in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def shell():
    """A root in which sh and a few others work."""
    tools = ("sh", "cat", "echo", "id", "ls", "pwd", "sleep", "stat", "tail", "env", "mount", "touch", "mknod", "rm")
    with open(BUSYBOX, "rb") as program:
        data = program.read()
    return [
        directory("bin"),
        file("bin/busybox", data, 0o755),
        *(link(f"bin/{tool}", "busybox") for tool in tools),
        directory("etc"),
        file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1234:1235::/home/user:/bin/sh\n"),
        file("etc/group", b"root:x:0:\nuser:x:1235:\nwheel:x:77:root,user\nother:x:88:root\n"),
        directory("root", 0o700),
        directory("home/user", uid=1234, gid=1235),
    ]


class Image:
    """Blobs by digest, and the manifest that names them."""

    def __init__(self, *layers, config=None, os="linux", arch=ARCH, compress=True):
        self.blobs = {}
        layers = layers or (layer(shell()),)
        described = []
        for data in layers:
            blob = gzip.compress(data, 1) if compress else data
            described.append(self.add(blob, LAYER + ("+gzip" if compress else "")))
        diffs = ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]
        whole = {
            "os": os,
            "architecture": arch,
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        }
        self.config = self.add(json.dumps(whole).encode(), "application/vnd.oci.image.config.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.config, "layers": described}
        self.manifest = self.add(json.dumps(manifest).encode(), MANIFEST)

    def add(self, data, media_type):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    @property
    def digest(self):
        return self.manifest["digest"]

    def layout(self, path, tag="latest"):
        """Writes an OCI layout; returns its path."""
        (path / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        for digest, data in self.blobs.items():
            (path / "blobs/sha256" / digest.split(":")[1]).write_bytes(data)
        named = {**self.manifest, "annotations": {"org.opencontainers.image.ref.name": tag}}
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return path

    def archive(self, path):
        """The same as one tar file."""
        directory = self.layout(path.with_suffix(".layout"))
        with tarfile.open(path, "w") as tar:
            for name in ("oci-layout", "index.json", "blobs"):
                tar.add(directory / name, name)
        return path

    def docker_archive(self, path, reference):
        """What `docker save` writes."""
        manifest = json.loads(self.blobs[self.digest])
        layers = [gzip.decompress(self.blobs[entry["digest"]]) for entry in manifest["layers"]]
        names = [f"{hashlib.sha256(data).hexdigest()}/layer.tar" for data in layers]
        config = self.config["digest"].split(":")[1] + ".json"
        listing = [{"Config": config, "RepoTags": [reference], "Layers": names}]
        entries = [file(config, self.blobs[self.config["digest"]])]
        entries += [file(name, data) for name, data in zip(names, layers)]
        entries += [file("manifest.json", json.dumps(listing).encode())]
        path.write_bytes(layer(entries))
        return path


class Registry:
    """/v2/ on loopback, without TLS. hold: an Event that manifests wait for; wrong: what goes wrong."""

    def __init__(self, images, login=None, wrong=None, hold=None):
        registry = self
        self.images = images
        self.requests = []
        self.logins = []
        self.asked = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, status, data=b"", kind="application/json", **headers):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                registry.requests.append(self.path)
                if login:
                    given = self.headers.get("Authorization")
                    registry.logins.append(given)
                    if given != "Basic " + base64.b64encode(":".join(login).encode()).decode():
                        return self.answer(401, b'{"errors":[]}', Www_Authenticate='Basic realm="test"')
                if self.path == "/v2/":
                    return self.answer(200, b"{}")
                _, _, *name, kind, which = self.path.split("/")
                image = registry.images.get("/".join(name))
                if not image:
                    return self.answer(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"no such name"}]}')
                if kind == "manifests":
                    registry.asked.set()
                    if hold:
                        hold.wait(60)
                    data = b"\x00garbage" if wrong == "garbage" else image.blobs[image.digest]
                    return self.answer(200, data, MANIFEST, Docker_Content_Digest=image.digest)
                if wrong == "missing":
                    return self.answer(404, b"{}")
                data = image.blobs[which]
                if wrong == "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return None
                if wrong == "other":
                    data = data[:-1] + bytes([data[-1] ^ 1])
                return self.answer(200, data, "application/octet-stream")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()

    def pulls(self):
        """How often an image was asked for."""
        return sum("/blobs/" in path for path in self.requests)
