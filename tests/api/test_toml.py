"""sandboxd's TOML reader against the public toml-test cases (a Go module, fetched with the ordinary client)."""

import json
import math
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from daemon import BUILD

MODULE = "github.com/toml-lang/toml-test@v1.6.0"
DECODE = BUILD / "api" / "toml_decode"


def load_cases():
    if not shutil.which("go"):
        return None, "the toml-test cases come as a Go module, and there is no go here"
    done = subprocess.run(["go", "mod", "download", "-json", MODULE], capture_output=True, text=True, cwd="/")
    if done.returncode:
        return None, f"go mod download {MODULE}: {done.stdout}{done.stderr}"
    tests = Path(json.loads(done.stdout)["Dir"]) / "tests"
    names = (tests / "files-toml-1.0.0").read_text().split()
    return [tests / name for name in names if name.endswith(".toml")], None


CASES, MISSING = load_cases()


def decode(path):
    return subprocess.run([DECODE], input=path.read_bytes(), capture_output=True)


def moment(text):
    """A date or time by value: fractions to microseconds, offsets compared as instants."""
    text = re.sub(r"(\.\d{1,6})\d*", lambda m: m[1].ljust(7, "0"), text.upper().replace(" ", "T").replace("Z", "+00:00"))
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return text  # a time alone
    return value.timestamp() if value.tzinfo else value.isoformat()


def same(ours, theirs):
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if set(theirs) == {"type", "value"} and isinstance(theirs["value"], str):
        a, b, kind = ours.get("value"), theirs["value"], theirs["type"]
        if ours.get("type") != kind:
            return False
        if kind == "float":
            return float(a) == float(b) or (math.isnan(float(a)) and math.isnan(float(b)))
        return moment(a) == moment(b) if "date" in kind or "time" in kind else a == b
    return isinstance(ours, dict) and set(ours) == set(theirs) and all(same(ours[k], theirs[k]) for k in theirs)


@pytest.mark.skipif(CASES is None, reason=str(MISSING))
def test_the_public_cases():
    wrong = []
    for path in CASES:
        done = decode(path)
        name = "/".join(path.parts[path.parts.index("tests") + 1 :])
        if "/valid/" in str(path):
            if done.returncode != 0:
                wrong.append(f"{name}: refused: {done.stderr.decode()}")
            elif not same(json.loads(done.stdout), json.loads(path.with_suffix(".json").read_bytes())):
                wrong.append(f"{name}: {done.stdout.decode()[:200]}")
        elif done.returncode != 1 or not re.match(rb"line \d+: ", done.stderr):
            wrong.append(f"{name}: taken ({done.returncode})")
    assert not wrong, f"{len(wrong)} of {len(CASES)}:\n" + "\n".join(wrong)
    assert len(CASES) > 500


def test_the_message_names_line_and_problem():
    done = subprocess.run([DECODE], input=b"a = 1\n[b]\nc = 1\nc = 2\n", capture_output=True)
    assert done.stderr == b"line 4: 'c' is already given on line 3\n"
