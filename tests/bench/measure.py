"""What the rows share: how something is measured, and what a figure is.

A figure and its floor take turns; medians are compared. Its noise is what a
second run may differ by: half the interquartile range of what was taken (of
fewer than ten, half the range), or half of what lies between the medians of
its first, middle and last third where that is more, for a machine is not as
fast all the time; never less than a hundredth. What was taken once is
uncertain by a tenth.
"""

import re
import statistics
import subprocess
import time

from daemon import BUILD

ROWS = {}
ONCE = 0.1
LEAST = 0.01


def row(*figures):
    """@row("a figure", ...) registers a function as a row and says which figures it makes; @row alone says none."""

    def register(fn):
        fn.figures = [] if figures and callable(figures[0]) else list(figures)
        ROWS[fn.__name__] = fn
        return fn

    return register(figures[0]) if figures and callable(figures[0]) else register


class Bar:
    """What a figure has to reach: `>= 0.9` of its ratio, `<= floor + 1`, or `<= 5 absolute`."""

    def __init__(self, text):
        parts = re.fullmatch(r"(>=|<=) (floor \+ )?([\d.]+)( absolute)?", text)
        if not parts:
            raise ValueError(f"no bar: {text!r}")
        self.op, self.relative, self.limit, self.absolute = parts.groups()

    def ok(self, value, floor):
        return value >= self.at(floor) if self.op == ">=" else value <= self.at(floor)

    def at(self, floor):
        """The value that is just good enough."""
        limit = float(self.limit)
        return limit if self.absolute else floor + limit if self.relative else floor * limit

    def text(self, unit):
        """As a reader wants it."""
        if self.absolute:
            return f"{self.op} {self.limit} {unit}".strip()
        return f"{self.op} floor + {self.limit} {unit}" if self.relative else f"{self.op} {self.limit} x floor"


def middle(taken):
    """Median and noise of a list of numbers, or of one number."""
    taken = list(taken) if isinstance(taken, (list, tuple)) else [taken]
    median = statistics.median(taken)
    if len(taken) == 1:
        return median, abs(median) * ONCE
    if len(taken) < 10:
        spread = max(taken) - min(taken)
    else:
        quarters = statistics.quantiles(taken, n=4)
        spread = quarters[2] - quarters[0]
    third = len(taken) // 3
    if third > 1:
        parts = [statistics.median(part) for part in (taken[:third], taken[third:-third], taken[-third:])]
        spread = max(spread, max(parts) - min(parts))
    return median, max(spread / 2, abs(median) * LEAST)


def digits(number):
    """Four that count."""
    return float(f"{number:.4g}")


def make_figure(name, unit, bar, taken, floor_name=None, exact=False):
    """taken: what was measured, by "ours" and perhaps "floor" and "peer": lists in the order of the turns.

    bar: as Bar reads it; None: nobody has set one. exact: measured once, and the same every time.
    """
    value, noise = middle(taken["ours"])
    figure = {"name": name, "value": digits(value), "unit": unit, "noise": 0 if exact else digits(noise)}
    figure |= {"floor": None, "floor_noise": None, "floor_name": floor_name, "ratio": None, "ratio_noise": None}
    floor = None
    if "floor" in taken:
        floor, floor_noise = middle(taken["floor"])
        pairs = isinstance(taken["ours"], list) and isinstance(taken["floor"], list)
        pairs = pairs and len(taken["ours"]) == len(taken["floor"]) > 1
        ratio_noise = value / floor * (noise / value + floor_noise / floor) if value and floor else 0
        if pairs:  # they took turns: what slowed one down has slowed down the other
            ratio_noise = min(ratio_noise, middle([ours / theirs for ours, theirs in zip(taken["ours"], taken["floor"])])[1])
        figure |= {"floor": digits(floor), "floor_noise": digits(floor_noise),
                   "ratio": digits(value / floor), "ratio_noise": digits(ratio_noise)}  # fmt: skip
    figure |= {"bar": None, "limit": None, "ok": None}
    if bar:
        bar = Bar(bar)
        figure |= {"bar": bar.text(unit), "limit": digits(bar.at(floor)), "ok": bar.ok(value, floor)}
    if "peer" in taken:
        figure["peer"], figure["peer_noise"] = map(digits, middle(taken["peer"]))
    return figure


def differs(now, before):
    """Why a figure of one run is not that of another, or None. A machine that was slower as a whole is no difference."""
    said = []
    for key, noise in (("ratio", "ratio_noise"), ("value", "noise")):
        if now.get(key) is None or before.get(key) is None:
            continue
        apart, room = abs(now[key] - before[key]), now[noise] + (before.get(noise) or 0)
        if apart <= room:
            return None
        said.append(f"{key} {before[key]:g} then, {now[key]:g} now: {apart:.3g} apart, the noise is {room:.3g}")
    return "; ".join(said) or None


class Probe:
    """probe.c: one measurement a call, in milliseconds."""

    def __init__(self, *argv, before=()):
        """before: a command that ends in exec of what follows it."""
        self.process = subprocess.Popen(
            [*before, BUILD / "bench/probe", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __call__(self):
        try:
            self.process.stdin.write("\n")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the probe ended: {' '.join(map(str, self.process.args[1:]))[:200]}")
        return int(line) / 1000

    def close(self):
        self.process.kill()  # perhaps it waits for somebody; it holds nothing
        self.process.wait()
        self.process.stdout.close()


def take_turns(rounds, probes):
    """What probes say that are called one after the other, rounds times."""
    taken = {name: [] for name in probes}
    for _ in range(rounds):
        for name, probe in probes.items():
            taken[name].append(probe())
    return taken


def timed(fn):
    """Milliseconds and the result."""
    began = time.monotonic()
    result = fn()
    return (time.monotonic() - began) * 1000, result
