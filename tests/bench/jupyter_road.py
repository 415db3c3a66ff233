"""The known road to a cell: ipykernel through jupyter_client. Runs in a venv of its own; see bench.

One word a line on stdin, one number a line on stdout: `create` and `cell` milliseconds, `lines` lines a
second of a cell that prints a million, `pss` KiB of a further idle kernel.
"""

import re
import sys
import time

from jupyter_client.manager import start_new_kernel

kernels = []


def create():
    began = time.monotonic()
    kernels.append(start_new_kernel(kernel_name="python3"))
    taken = (time.monotonic() - began) * 1000
    while len(kernels) > 1:
        end(*kernels.pop(0))
    return taken


def end(manager, client):
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(code):
    """Until the kernel is idle again; how many lines it has printed."""
    lines = 0
    client = kernels[-1][1]

    def count(message):
        nonlocal lines
        if message["msg_type"] == "stream":
            lines += message["content"]["text"].count("\n")

    client.execute_interactive(code, output_hook=count, timeout=120)
    return lines


def cell():
    began = time.monotonic()
    run("1")
    return (time.monotonic() - began) * 1000


def lines():
    began = time.monotonic()
    n = run("for i in range(1000000): print(i)")
    return n / (time.monotonic() - began)


def pss():
    pid = kernels[-1][0].provisioner.pid
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return int(re.search(r"^Pss:\s+(\d+)", f.read(), re.M).group(1))


try:
    for line in sys.stdin:
        print({"create": create, "cell": cell, "lines": lines, "pss": pss}[line.strip()](), flush=True)
finally:
    for kernel in kernels:
        end(*kernel)
