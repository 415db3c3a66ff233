"""Rows of bench about code: contexts, cells, their memory, beside the known road, ipykernel with jupyter_client."""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from daemon import ROOT, Execd

ROWS = {}


def row(fn):
    ROWS[fn.__name__] = fn
    return fn


# A trivial cell; the program's own start, the floor of a cold one; bars of a warm context and of a cell in ms.
LANGUAGES = {
    "python": ("1", ["python3", "-c", "1"], 5, 1.5),
    "javascript": ("1", ["node", "-e", "1"], 40, 20),
    "typescript": ("1", ["node", "-e", "1"], 40, 20),
    "java": ("1", ["java", "-version"], 150, 150),
    "go": ("1", ["go", "version"], 100, 100),
    "bash": (":", ["bash", "-c", ":"], 40, 20),
}


# Run between contexts: a spare that is still on its way is no warm one.
REST = {"java": "Thread.sleep(4000);"}


class Cells:
    """The code contexts of an agent of their own."""

    def __init__(self, bench):
        self.bench, self.execd = bench, Execd(bench.folder / "cells.log")
        bench.stack.callback(self.execd.stop)
        self.http = self.execd.client({"X-EXECD-ACCESS-TOKEN": self.execd.token}, timeout=120)

    def create(self, language="python"):
        """The context, and milliseconds."""
        began = time.monotonic()
        answer = self.http.post("/code/context", json={"language": language})
        taken = (time.monotonic() - began) * 1000
        if answer.status_code != 200:
            raise LookupError(answer.json()["message"])
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
        self.process = subprocess.Popen(
            [jupyter_venv() / "bin/python", ROOT / "tests/bench/jupyter_road.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        bench.stack.callback(self.close)

    def __call__(self, word):
        self.process.stdin.write(word + "\n")
        return float(self.process.stdout.readline())

    def close(self):
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


def median_start(argv):
    taken = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run(argv, check=True, capture_output=True)
        taken.append((time.monotonic() - began) * 1000)
    return statistics.median(taken)


@row
def code(bench):
    """A context and a trivial cell of each language; floors: the program's own start, ipykernel, the bar."""
    known = Jupyter(bench)
    known("create")
    for language, (cell, program, create_bar, cell_bar) in LANGUAGES.items():
        cold, warm, ran, their_creation, their_cell = [], [], [], [], []
        try:
            for _ in range(3):
                cells = Cells(bench)
                cold.append(cells.create(language)[1])
        except LookupError as problem:
            print(f"no {language}: {problem}", file=sys.stderr)
            continue
        for _ in range(9):
            context, taken = cells.create(language)
            cells.run(context, cell)
            warm.append(taken)
            probe = cells.probe(context, cell)
            for _ in range(5):
                ran.append(probe())
                if language == "python":
                    their_cell.append(known("cell"))
            if language in REST:
                cells.run(context, REST[language])
            cells.delete(context)
            their_creation.append(known("create"))  # meanwhile the agent makes ready for the next one
        floors = (their_creation, their_cell or [cell_bar])
        figures = {"context, warm": (warm, floors[0], create_bar), "cell": (ran, floors[1], cell_bar)}
        taken = {"ours": statistics.median(cold), "floor": median_start(program)}
        bench.figure(f"{language} context, cold", "ms", "<= floor + 1000", taken)
        for name, (ours, floor, bar) in figures.items():
            taken = {"ours": statistics.median(ours), "floor": statistics.median(floor)}
            bench.figure(f"{language} {name}", "ms", f"<= {bar} absolute", taken)


def pss_mb(pid):
    """What a process costs: its share of every page."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1)) / 1024


@row
def contexts(bench):
    """50 Python contexts, time and memory of each; floors: one kernel of ipykernel."""
    cells, known = Cells(bench), Jupyter(bench)
    cells.create()
    made = [cells.create() for _ in range(50)]
    memory = statistics.median(pss_mb(context["pid"]) for context, _ in made)
    theirs = known("create"), known("pss") / 1024
    bench.figure("one of 50 Python contexts", "ms", "<= 1", {"ours": sum(t for _, t in made) / 50, "floor": theirs[0]})
    bench.figure("idle Python context, PSS", "MB", "<= 4 absolute", {"ours": memory, "floor": theirs[1]})


@row
def printed(bench):
    """Events/s of a cell that prints a million lines; floor: the same through ipykernel."""
    cells, known = Cells(bench), Jupyter(bench)
    context, _ = cells.create()
    known("create")
    ours, theirs = [], []
    for _ in range(3):
        taken, n = cells.run(context, "for i in range(1000000): print(i)")
        if n != 1000000:
            raise RuntimeError(f"{n} lines came of a million")
        ours.append(n / taken * 1000)
        theirs.append(known("lines"))
    taken = {"ours": statistics.median(ours), "floor": statistics.median(theirs)}
    bench.figure("lines that a cell prints", "1/s", ">= 1", taken)


@row
def fork(bench):
    """A fork of a context that holds 100 MB, until it is ready; floor: the bar."""
    cells = Cells(bench)
    hold = {
        "python": "import numpy; data = numpy.ones(100 << 20, dtype='u1')",
        "bash": "data=$(head -c 100000000 /dev/zero | tr '\\0' x)",
    }
    for language, code in hold.items():
        context, _ = cells.create(language)
        cells.run(context, code)
        taken = []
        for _ in range(21):
            began = time.monotonic()
            answer = cells.http.post(f"/code/contexts/{context['id']}/fork")
            taken.append((time.monotonic() - began) * 1000)
            assert answer.status_code == 200, answer.text
            cells.delete(answer.json())
        taken = {"ours": statistics.median(taken), "floor": 20}
        bench.figure(f"fork of a {language} context that holds 100 MB", "ms", "<= 20 absolute", taken)
