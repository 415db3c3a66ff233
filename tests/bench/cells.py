"""Rows of bench about code: contexts, cells, their memory, beside the known road, ipykernel with jupyter_client."""

import json
import re
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from daemon import ROOT, Execd
from measure import row, take_turns, timed

# A trivial cell; a program of the language that does as little, the floor; bars of a warm context and of a cell in ms.
LANGUAGES = {
    "python": ("1", ["python3", "-c", "1"], 5, 1.5),
    "javascript": ("1", ["node", "-e", "1"], 40, None),
    "typescript": ("1", ["node", "-e", "1"], 40, None),
    "java": ("1", ["java", "-version"], 150, None),
    "go": ("1", ["go", "version"], 100, None),
    "bash": (":", ["bash", "-c", ":"], None, None),
}
FIGURES = ("context, cold", "cell, cold", "context, warm", "cell, warm")
KNOWN = "ipykernel through jupyter_client"

# Seconds between contexts: a spare that is still on its way is no warm one.
REST_S = {"java": 4}


class Cells:
    """The code contexts of an agent of their own."""

    def __init__(self, bench):
        self.bench, self.execd = bench, Execd(bench.folder / "cells.log")
        self.stack = bench.stack.enter_context(ExitStack())
        self.stack.callback(self.execd.stop)
        self.http = self.execd.client({"X-EXECD-ACCESS-TOKEN": self.execd.token}, timeout=120)

    def close(self):
        self.stack.close()

    def create(self, language="python"):
        """The context, and milliseconds."""
        taken, answer = timed(lambda: self.http.post("/code/context", json={"language": language}))
        if answer.status_code == 501:
            raise LookupError(answer.json()["message"])
        assert answer.status_code == 200, answer.text
        return answer.json(), taken

    def run(self, context, code):
        """Milliseconds, and how many lines came."""
        body = {"code": code, "context": {"id": context["id"], "language": context["language"]}}
        lines, rest, began = 0, b"", time.monotonic()
        with self.http.stream("POST", "/code", json=body) as response:
            for chunk in response.iter_raw():
                rest += chunk
                cut = rest.rfind(b"\n\n") + 1
                lines += rest.count(b'"type":"stdout"', 0, cut)
                last, rest = rest[max(0, cut - 1000) : cut], rest[cut:]
        if b'"execution_complete"' not in last:
            raise RuntimeError(last)
        return (time.monotonic() - began) * 1000, lines

    def probe(self, context, code):
        """A call of it is milliseconds of a cell, without those that a client takes in Python."""
        body = json.dumps({"code": code, "context": {"id": context["id"], "language": context["language"]}})
        return self.bench.probe("code", self.execd.host, str(self.execd.port), self.execd.token, body)

    def delete(self, context):
        self.http.delete(f"/code/contexts/{context['id']}")


class Jupyter:
    """jupyter_road.py in a venv that is made when it is first needed."""

    def __init__(self, bench):
        self.log = bench.folder / "jupyter.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [jupyter_venv() / "bin/python", ROOT / "tests/bench/jupyter_road.py"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1,
            )  # fmt: skip
        bench.stack.callback(self.close)

    def __call__(self, word):
        self.process.stdin.write(word + "\n")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"jupyter_road.py ended: {self.log.read_text()[-500:]}")
        return float(line)

    def close(self):
        """It ends its kernels itself, when it has heard."""
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def jupyter_venv():
    venv, wanted = ROOT / "build/jupyter", (ROOT / "tests/bench/requirements.txt").read_text()
    stamp = venv / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        pip = [venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([*pip, "-r", ROOT / "tests/bench/requirements.txt"], check=True)
        stamp.write_text(wanted)
    return venv


class Floor:
    """What is measured beside the cells of a language: ipykernel, or the start of a program that does as little."""

    def __init__(self, bench, language):
        program = LANGUAGES[language][1]
        self.known = Jupyter(bench) if language == "python" else None
        self.start = bench.probe("exec", *program) if not self.known else None
        self.name = KNOWN if self.known else f"`{' '.join(program)}`"

    def context(self):
        return self.known("create") if self.known else self.start()

    def cell(self):
        return self.known("cell") if self.known else self.start()


def code(bench, language):
    """A context and a trivial cell, cold (of an agent that has just started) and warm."""
    cell, _, context_bar, cell_bar = LANGUAGES[language]
    taken = {name: {"ours": [], "floor": []} for name in FIGURES}
    floor = Floor(bench, language)

    def take(name, ours, theirs):
        taken[name]["ours"].append(ours)
        taken[name]["floor"].append(theirs)

    for _ in range(5):
        cells = Cells(bench)
        try:
            context, ms = cells.create(language)
        except LookupError as why:
            for name in FIGURES:
                bench.missing(f"{language} {name}", str(why))
            return
        take("context, cold", ms, floor.context())
        take("cell, cold", cells.probe(context, cell)(), floor.cell())
        cells.close()
    cells = Cells(bench)
    cells.delete(cells.create(language)[0])
    time.sleep(REST_S.get(language, 0.5))
    for _ in range(9):
        context, ms = cells.create(language)
        take("context, warm", ms, floor.context())
        probe = cells.probe(context, cell)
        probe(), floor.cell()
        for _ in range(5):
            take("cell, warm", probe(), floor.cell())
        cells.delete(context)
        probe.close()
        time.sleep(REST_S.get(language, 0.5))
    bars = {"context, warm": context_bar, "cell, warm": cell_bar}
    for name in FIGURES:
        bar = f"<= {bars[name]} absolute" if bars.get(name) else None
        bench.figure(f"{language} {name}", "ms", bar, taken[name], floor.name)


def register(language):
    def of_language(bench):
        code(bench, language)

    of_language.__name__ = language
    row(*(f"{language} {name}" for name in FIGURES))(of_language)


for each in LANGUAGES:
    register(each)


def pss_mb(pid):
    """What a process costs: its share of every page."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1)) / 1024


@row("one of 50 Python contexts", "idle Python context, PSS")
def contexts(bench):
    """50 Python contexts, time and memory of each; floor: one kernel of ipykernel."""
    cells, known = Cells(bench), Jupyter(bench)
    cells.create()
    made, ms, theirs = [], [], []
    for _ in range(5):
        batch = [cells.create() for _ in range(10)]
        made += [context for context, _ in batch]
        ms.append(statistics.mean(taken for _, taken in batch))
        theirs.append((known("create"), known("pss") / 1024))
    memory = {"ours": [pss_mb(context["pid"]) for context in made], "floor": [mb for _, mb in theirs]}
    bench.figure("one of 50 Python contexts", "ms", None, {"ours": ms, "floor": [taken for taken, _ in theirs]}, KNOWN)
    bench.figure("idle Python context, PSS", "MB", "<= 4 absolute", memory, KNOWN)


@row("lines that a cell prints")
def printed(bench):
    """Events/s of a cell that prints a million lines; floor: the same through ipykernel."""
    cells, known = Cells(bench), Jupyter(bench)
    context, _ = cells.create()
    known("create")

    def ours():
        taken, n = cells.run(context, "for i in range(1000000): print(i)")
        if n != 1000000:
            raise RuntimeError(f"{n} lines came of a million")
        return n / taken * 1000

    taken = take_turns(3, {"ours": ours, "floor": lambda: known("lines")})
    bench.figure("lines that a cell prints", "1/s", None, taken, KNOWN)


HOLD = {
    "python": "import numpy; data = numpy.ones(100 << 20, dtype='u1')",
    "bash": "data=$(head -c 100000000 /dev/zero | tr '\\0' x)",
}


@row(*(f"fork of a {language} context that holds 100 MB" for language in HOLD))
def fork(bench):
    """A fork of a context that holds 100 MB, until it is ready; floor: a new context."""
    cells = Cells(bench)
    for language, code in HOLD.items():
        context, _ = cells.create(language)
        cells.run(context, code)
        taken = {"ours": [], "floor": []}
        for _ in range(21):
            other, ms = cells.create(language)
            taken["floor"].append(ms)
            cells.delete(other)
            ms, answer = timed(lambda id=context["id"]: cells.http.post(f"/code/contexts/{id}/fork"))
            taken["ours"].append(ms)
            assert answer.status_code == 200, answer.text
            cells.delete(answer.json())
        bench.figure(f"fork of a {language} context that holds 100 MB", "ms", "<= 20 absolute", taken, "a new context")
