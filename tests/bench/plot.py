#!/usr/bin/env python3
"""plot.py - the figures of build/bench.json as a picture, docs/bench.svg, and those with a bar as a table in the READMEs.

A lane a figure: what was measured as a bar, its floor as a thinner one below, the
place where its bar is met as a mark. Figures of one unit share a logarithmic
axis. Nothing but text goes into the file; its colours follow the reader's.
"""

import json
import math
import time
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIDTH, NAMES, NUMBERS, LANE, TOP = 1060, 300, 310, 24, 92
LEFT, RIGHT = NAMES + 10, WIDTH - NUMBERS - 14
UNITS = {"ms": "milliseconds, shorter is better", "requests/s": "requests a second, longer is better",
         "1/s": "a second, longer is better", "MB/s": "megabytes a second, longer is better",
         "MB": "megabytes, shorter is better", "KiB": "KiB, shorter is better", "": "how many, longer is better"}  # fmt: skip
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 } .unit { font-weight: 600 } .quiet { fill: #59636e } .axis { font-size: 10px; fill: #59636e }
.page { fill: #ffffff } .grid { stroke: #d1d9e0; stroke-width: 1 } .floor { fill: #9aa4af } .mark { stroke: #1f2328; stroke-width: 2 }
.ok { fill: #2f81d6 } .missed { fill: #d1552f } .none { fill: #7a6fc4 } .red { fill: #b8401c }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .quiet, .axis { fill: #9198a1 } .page { fill: #0d1117 } .grid { stroke: #2d343c } .floor { fill: #6a737d }
.mark { stroke: #e6edf3 } .ok { fill: #4493f8 } .missed { fill: #f0764c } .none { fill: #9d8ff2 } .red { fill: #f0764c }
}
"""


def number(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


class Scale:
    """Powers of ten around all that is drawn of one unit."""

    def __init__(self, figures):
        values = [f[key] for f in figures for key in ("value", "floor", "limit") if f.get(key)]
        self.low = math.floor(math.log10(min(values) * 0.8))
        self.high = max(math.ceil(math.log10(max(values) * 1.1)), self.low + 1)

    def x(self, value):
        part = (math.log10(max(value, 10**self.low)) - self.low) / (self.high - self.low)
        return round(LEFT + part * (RIGHT - LEFT), 1)


def lane(f, scale, y):
    """One figure."""
    verdict = {True: "ok", False: "missed", None: "none"}[f["ok"]]
    parts = [f'<text x="{NAMES}" y="{y + 15}" text-anchor="end">{escape(f["name"])}</text>']
    bars = [(verdict, f["value"], y + 3, 11)] + ([("floor", f["floor"], y + 15, 5)] if f.get("floor") else [])
    for kind, value, top, height in bars:
        width = max(scale.x(value) - LEFT, 1)
        parts.append(f'<rect class="{kind}" x="{LEFT}" y="{top}" width="{width:.1f}" height="{height}" rx="1"/>')
    if f.get("limit"):
        at = scale.x(f["limit"])
        parts.append(f'<path class="mark" d="M{at} {y + 1}V{y + 22}"/>')
    said = f"{number(f['value'])} {f['unit'].removeprefix('requests').removeprefix('1')}".strip()
    said += f"; floor {number(f['floor'])}" if f.get("floor") else ""
    bar = (f["bar"] or "").replace("<=", "\u2264").replace(">=", "\u2265").replace(" x ", " \u00d7 ")
    said += f"; bar {bar}" if bar else ""
    red = ' class="red"' if f["ok"] is False else ""
    parts.append(f'<text{red} x="{RIGHT + 14}" y="{y + 15}">{escape(said)}</text>')
    # Shown by what shows titles, and read out.
    return f"<g><title>{escape(f['name'] + ': ' + said + floor_name(f))}</title>{''.join(parts)}</g>"


def floor_name(f):
    return f"; the floor is {f['floor_name']}" if f.get("floor_name") else ""


def group(unit, figures, y):
    """Figures of one unit, their axis below; the parts and where the next begins."""
    scale, parts = Scale(figures), []
    parts.append(f'<text class="unit" x="{LEFT}" y="{y + 14}">{escape(UNITS.get(unit, unit))}</text>')
    y, end = y + 20, y + 20 + LANE * len(figures)
    for power in range(scale.low, scale.high + 1):
        at = scale.x(10**power)
        parts.append(f'<path class="grid" d="M{at} {y}V{end + 3}"/>')
        label = f"{10**power:,}" if power >= 0 else f"{10**power:g}"
        parts.append(f'<text class="axis" x="{at}" y="{end + 14}" text-anchor="middle">{label}</text>')
    parts += [lane(f, scale, y + LANE * i) for i, f in enumerate(figures)]
    return parts, end + 30


def legend():
    items = [("ok", "reaches its bar"), ("missed", "misses it"), ("none", "has no bar"), ("floor", "floor, measured in the same run")]
    parts, x = [], 20
    for kind, text in items:
        parts.append(f'<rect class="{kind}" x="{x}" y="62" width="14" height="{5 if kind == "floor" else 11}" rx="1"/>')
        parts.append(f'<text x="{x + 20}" y="72">{text}</text>')
        x += 34 + 7 * len(text)
    return [*parts, f'<path class="mark" d="M{x} 58V76"/>', f'<text x="{x + 8}" y="72">the bar</text>']


def picture(figures):
    shown = [f for f in figures if f.get("value")]
    parts, y = legend(), TOP
    for unit in dict.fromkeys([*UNITS, *(f["unit"] for f in shown)]):
        of_unit = [f for f in shown if f["unit"] == unit]
        if of_unit:
            more, y = group(unit, of_unit, y)
            parts += more
    day = time.strftime("%Y-%m-%d", time.gmtime(max(f["when"] for f in shown)))
    loads = [f["load"] for f in shown]
    about = f"make bench, {day}; {shown[0]['machine']}; load {min(loads):.0f} to {max(loads):.0f}; medians; logarithmic axes"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">',
        "<title>Figures of execd and sandboxd beside their floors</title>",
        f'<style>{STYLE}</style><rect class="page" width="100%" height="100%"/>',
        '<text class="title" x="20" y="28">Figures beside their floors</text>',
        f'<text class="quiet" x="20" y="48">{escape(about)}</text>',
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


HEADS = {
    "README.md": ("figure", "ours", "floor", "ratio", "bar", "", "missed"),
    "README_zh.md": ("指标", "实测", "下限", "比值", "目标", "", "未达到"),
}
BEGIN, END = "<!-- figures: made by make plot -->\n", "<!-- end of figures -->\n"


def table(figures, head):
    """Markdown: every figure that has a bar."""
    lines = [head[:6], ("---",) * 6]
    for f in figures:
        if not f.get("bar"):
            continue
        floor = f"{f['floor_name']}: {number(f['floor'])}" if f.get("floor_name") else ""
        verdict = "ok" if f["ok"] else f"**{head[6]}**"
        lines.append((f["name"], f"{number(f['value'])} {f['unit']}".strip(), floor,
                      f"{f['ratio']:.2f}" if f["ratio"] is not None else "", f["bar"], verdict))  # fmt: skip
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main():
    figures = json.loads((ROOT / "build/bench.json").read_text())
    (ROOT / "docs/bench.svg").write_text(picture(figures))
    for page, head in HEADS.items():
        before, _, rest = (ROOT / page).read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        (ROOT / page).write_text(before + BEGIN + table(figures, head) + END + after)


if __name__ == "__main__":
    main()
