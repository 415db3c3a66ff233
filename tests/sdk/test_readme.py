"""README.md, README_zh.md and the pages beside them are true: their commands run, what they name is there."""

import json
import os
import re
import signal
import subprocess
from collections import Counter
from html import unescape
from urllib.parse import urlsplit

import pytest
import yaml

from daemon import EXECD, ROOT, SANDBOXD, children, end_orphans

READMES = ["README.md", "README_zh.md"]
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("build", ".git"))
PAGES = sorted(str(page.relative_to(ROOT)) for top in ("", *FOLDERS) for page in ROOT.glob(f"{top}/**/*.md" if top else "*.md"))


def read(page):
    return (ROOT / page).read_text()


def blocks(text):
    """Fenced and indented code: (kind, lines); kind is what follows the fence, or ""."""
    found, lines, fence = [], [], None
    for line in [*text.splitlines(), "end"]:
        if fence is not None:
            if line.startswith("```"):
                found.append((fence, lines))
                fence, lines = None, []
            else:
                lines.append(line)
        elif line.startswith("```"):
            fence = line[3:]
        elif line.startswith("    ") or (lines and not line.strip()):
            lines.append(line[4:])
        elif lines:
            while not lines[-1].strip():
                lines.pop()
            found.append(("", lines))
            lines = []
    return found


def prose(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(text):
    """What stands between backticks, outside of fenced code."""
    return re.findall(r"`([^`\n]+)`", prose(text).replace("\n", " "))


def settings_blocks(text):
    return ["\n".join(lines) + "\n" for kind, lines in blocks(text) if kind == "" and lines[0].startswith("[")]


def script(text):
    [lines] = [lines for kind, lines in blocks(text) if kind == "sh"]
    return "\n".join(lines) + "\n"


# ---- commands ------------------------------------------------------------------


@pytest.fixture
def make_run(tmp_path):
    """`make run`, but for the port and the folder: the address it prints and its folder."""
    run = subprocess.Popen(
        ["make", "--no-print-directory", "-C", ROOT, "run"], stdout=subprocess.PIPE, text=True, process_group=0,
        env={**os.environ, "LISTEN": "127.0.0.1:0", "RUN": str(tmp_path / "run")},
    )  # fmt: skip
    others = children()
    try:
        address = next((m for line in run.stdout if (m := re.search(r"127\.0\.0\.1:[1-9]\d*", line))), None)
        assert address, "it has not said where it listens"
        yield f"http://{address[0]}", tmp_path / "run"
    finally:
        os.killpg(run.pid, signal.SIGINT)  # as Ctrl-C does
        run.stdout.close()
        run.wait(60)
        end_orphans(children() - others)


def test_by_hand(make_run):
    """What is to be pasted. The Chinese page has the same, see test_readmes_are_of_a_piece()."""
    url, folder = make_run
    block = script(read("README.md"))
    assert block.count("http://127.0.0.1:8080") == 1 and block.count("build/run/key") == 1
    pasted = subprocess.run(
        ["bash", "-euo", "pipefail", "-c",
         block.replace("http://127.0.0.1:8080", url).replace("build/run/key", f"{folder}/key")],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert pasted.returncode == 0, pasted.stderr
    rest = pasted.stdout
    for said in re.findall(r"^# -> (.*)$", block, re.MULTILINE):
        assert said in rest, f"{said!r} is not in the output, or not in this order:\n{pasted.stdout}"
        rest = rest[rest.index(said) + len(said) :]


def test_curl_of_the_agent(start_execd):
    """Lines of code that begin with curl; one that begins with dots is of what comes back."""
    agent = start_execd(token=None)
    seen = 0
    for _, lines in blocks(read("README.md")):
        for command, answer in zip(lines, [*lines[1:], ""]):
            if not command.startswith("curl") or "$EXECD" not in command:
                continue
            done = subprocess.run(["bash", "-euc", command], env={**os.environ, "EXECD": agent.url},
                                  capture_output=True, text=True, timeout=60)  # fmt: skip
            assert done.returncode == 0, done.stderr
            if answer.startswith("... "):
                told = re.search(r"\{.*\}", answer)[0].replace(" ", "")
                events = done.stdout.replace(" ", "")
                for part in re.findall(r'"\w+":(?:\[\{[^]]*\}\]|\d+)', told):
                    assert part in events, f"{part} is not in {done.stdout}"
                seen += 1
    assert seen


def test_what_is_made():
    """Every `make` of every page: its target is one, and its variables have values that something knows."""
    lines = [span for page in PAGES for span in spans(read(page))]
    lines += [line for page in PAGES for kind, block in blocks(read(page)) if kind in ("", "sh") for line in block]
    said = {m[0] for line in lines if (m := re.match(r"make(?: .*|$)", line.split("  #")[0].strip()))}
    suites = re.findall(r'^    "([\w-]+)": ', read("tools/test"), re.MULTILINE)
    for command in said:
        words = re.findall(r'[A-Z]+="[^"]*"|\S+', command)[1:]
        values = dict(word.split("=", 1) for word in words if "=" in word)
        targets = [word for word in words if "=" not in word]
        done = subprocess.run(["make", "-n", "-C", ROOT, *targets, "SECONDS=1"], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        for word in values.pop("SUITE", "").strip('"').split():
            assert word in suites, f"{command}: there is no suite {word}"
        for row in values.pop("ROW", "").strip('"').split():
            assert re.search(rf"^def {row}\(bench\)", bench_rows(), re.MULTILINE), f"{command}: there is no row {row}"
        unknown = set(values) - set(re.findall(r"\$\((?:if \$\()?([A-Z]+)\b", read("Makefile")))
        assert not unknown, f"{command}: the Makefile does not know {unknown}"


def bench_rows():
    return "\n".join(path.read_text() for path in (ROOT / "tests/bench").glob("*.py"))


def test_settings_are_accepted(tmp_path, start_sandboxd):
    """Each file that is shown, with the files that it names: read without a warning, and served with."""
    found = settings_blocks(read("README.md"))
    assert found
    for n, text in enumerate(found):
        (tmp_path / "seccomp.json").write_text(read("seccomp/profiles/default.json"))
        (tmp_path / "auth.json").write_text('{"auths": {}}')
        file = tmp_path / f"{n}.toml"
        file.write_text(text.replace("/etc/sandboxd/", f"{tmp_path}/"))
        server = start_sandboxd(args=["--config", file], state=tmp_path / f"state{n}")
        assert "is not a se" not in server.logs(), server.logs()


# ---- what is named -----------------------------------------------------------------


def test_readmes_are_of_a_piece():
    """The Chinese one has the same code, tables, figures, names and links, under the same headings."""
    english, chinese = map(read, READMES)
    assert [line.count("#") for line in headings(english)] == [line.count("#") for line in headings(chinese)]
    assert [code(*block) for block in blocks(english)] == [code(*block) for block in blocks(chinese)]
    assert links(english) - {"README_zh.md"} == links(chinese) - {"README.md"}
    assert Counter(spans(english)) == Counter(spans(chinese))
    assert [figures(row) for row in rows(english)] == [figures(row) for row in rows(chinese)]


def headings(text):
    return re.findall(r"^#+ .*", prose(text), re.MULTILINE)


def code(kind, lines):
    """Of a block, what is not for readers only."""
    if any(line.startswith("lib/ ") for line in lines):
        return re.findall(r"\w+/[\w/.*]*|\w+\.\w+", "\n".join(lines), re.ASCII)
    kept = [re.sub(r"\s+# .*", "", line) for line in lines if line.startswith("# ->") or not line.lstrip().startswith("# ")]
    return kind, [line for line in kept if line.strip()]


def links(text):
    return set(re.findall(r"\]\(([^)]+)\)", text))


def rows(text):
    return re.findall(r"^\|.*\|$", text, re.MULTILINE)


def figures(row):
    """A row's numbers, cell by cell."""
    return [re.findall(r"\d[\d,.]*\d|\d", cell) for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    for link in links(read(page)):
        if urlsplit(link).scheme:
            assert link.startswith("https://"), link
        else:
            assert ((ROOT / page).parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page):
    """Paths in backticks and in code that begin with a folder of this one."""
    text = read(page)
    said = [*spans(text), *(line for _, lines in blocks(text) for line in lines)]
    here = (ROOT / page).parent
    for word in {word for line in said for word in re.findall(r"(?<![\w/.$~-])[\w.*/-]+", line)}:
        word = word.rstrip("./")
        if word.split("/")[0] not in FOLDERS or "/" not in word:
            continue
        if re.search(r"[A-Z]{3}|test_x", word):  # a place for a name: kernels/NAME
            continue
        found = [*ROOT.glob(word), *here.glob(word), *ROOT.glob(word + ".[ch]")]
        assert found, f"{page}: there is no {word}"


def help_of(program):
    return subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", [page for page in PAGES if "/" not in page or page.startswith("docs/")])
def test_flags_settings_and_endpoints_exist(tmp_path, page):
    said = spans(read(page))
    flags = {flag for span in said if not re.match(r"make|docker|crun|bwrap|tools|pip|apt", span)
             for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}  # fmt: skip
    known = help_of(EXECD) + help_of(SANDBOXD) + "".join(path.read_text() for path in (ROOT / "tools").iterdir() if path.is_file())
    unknown = {flag for flag in flags if flag not in known}
    assert not unknown, f"{page}: no program here takes {unknown}"
    subprocess.run([SANDBOXD, "init-config", tmp_path / "c.toml"], check=True, capture_output=True)
    settings = (tmp_path / "c.toml").read_text()
    sections = re.findall(r"^#? ?\[(\w+)\]", settings, re.MULTILINE)
    for section, key in {m.groups() for span in said if (m := re.fullmatch(r"(\w+)\.(\w+)(?: = .*)?", span))}:
        if section in sections and key not in ("c", "h", "json", "toml", "py"):
            part = re.split(rf"^#? ?\[{section}\]$", settings, flags=re.MULTILINE)[1]
            part = re.split(r"^#? ?\[", part, flags=re.MULTILINE)[0]
            assert re.search(rf"^#? ?{key} =", part, re.MULTILINE), f"{page}: there is no setting {section}.{key}"
    asked = {m.groups() for span in said if (m := re.match(r"(GET|POST|PUT|PATCH|DELETE) (/[\w/{}.*-]*)", span))}
    for method, path in asked:
        assert any(matches(path, known_path) for known_path in paths()[method]), f"{page}: there is no {method} {path}"


def paths():
    found = {}
    for document in ("execd", "lifecycle"):
        for path, operations in yaml.safe_load(read(f"proto/{document}.yaml"))["paths"].items():
            for method in operations:
                found.setdefault(method.upper(), []).append(path)
    return found


def matches(path, known):
    pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(known))
    return re.fullmatch(rf"(/v1)?{pattern}", path.rstrip("/").replace("...", "x"))


def test_the_picture():
    """It is there, harmless, and of figures that make bench has."""
    picture, rows = read("docs/bench.svg"), bench_rows()
    names = [unescape(name) for name in re.findall(r"<g><title>(.*?): ", picture)]
    assert picture.startswith("<svg ") and "<script" not in picture
    assert len(names) == len(set(names)) > 40
    assert {"command `true`, round trip", "/ping through the proxy", "isolated session, creation"} <= set(names)
    assert all(f'"{name}"' in rows for name in names if name.startswith(("command ", "sandbox")))


# ---- the image -------------------------------------------------------------------------


def test_image_has_what_it_copies():
    """What the Dockerfile takes from here is here; the build itself is the next test's."""
    for source in re.findall(r"^COPY (?!--from)(?:--\S+ )*(\S+) \S+$", read("Dockerfile"), re.MULTILINE):
        assert (ROOT / source).exists(), source


def test_docker_build():
    images = re.findall(r"^FROM (\S+)", read("Dockerfile"), re.MULTILINE)
    try:
        have = subprocess.run(["docker", "image", "inspect", *images], capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("there is no docker here")
    if have.returncode != 0:
        pytest.skip(f"no docker that has {', '.join(images)}: no test asks a registry of the world")
    names = {entry["Id"] for entry in json.loads(have.stdout)}
    assert len(names) == len(set(images))
    [command] = {span for span in spans(read("README.md")) if span.startswith("docker build")}
    built = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert built.returncode == 0, built.stdout + built.stderr
