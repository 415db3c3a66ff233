"""What a daemon and those below it have: counted before and after, so that what was left is seen."""

import gc
import os
import re
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

SETTLE_S = 90  # the longest that anything may take to be put away; a census that is the same before ends the wait


def tasks(pid):
    return list(Path(f"/proc/{pid}/task").iterdir())


def below(pid):
    """The processes below one: {pid: name}."""
    found, todo = {}, [pid]
    while todo:
        with suppress(OSError):
            for task in tasks(todo.pop()):
                for child in map(int, (task / "children").read_text().split()):
                    with suppress(OSError):
                        found[child] = Path(f"/proc/{child}/comm").read_text().strip()
                        todo.append(child)
    return found


STATES = {"01": "established", "08": "close wait", "0A": "listening"}


def connections(pid):
    """{inode: what kind of socket}"""
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {fields[9]: f"tcp socket, {STATES.get(fields[3], fields[3])}" for fields in lines}


def descriptors(pid):
    """By kind: the numbers in their names change."""
    kinds, tcp = Counter(), connections(pid)
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            target = tcp.get(target.removeprefix("socket:[").removesuffix("]"), target)
            kinds[re.sub(r"/proc/\d+|:\[\d+\]|[0-9a-f]{8}[-0-9a-f]{8,}|\d+", "*", target)] += 1
    return kinds


def resident_kib(pid):
    """What is its own: pages of its program and libraries come and go as the kernel likes."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def files(folders):
    return Counter(
        str(Path(folder, name).relative_to(top))
        for top in folders
        for folder, names, others in os.walk(top)
        for name in names + others
    )


class Census:
    """
    folders: have to be as they were. groups: directories of control groups. more(): names of what else may be left.
    mounts: words of those that count; without, all that came after the census was made, for those of others that were
    there before go when they like.
    """

    def __init__(self, pid, folders=(), groups=(), more=lambda: (), mounts=None):
        self.pid, self.folders, self.groups, self.more, self.words = pid, folders, groups, more, mounts
        self.others = {line.split()[0] for line in self.mountinfo()} if mounts is None else set()

    def mountinfo(self):
        return Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()

    def mounts(self):
        return sum(
            line.split()[0] not in self.others and (self.words is None or any(word in line for word in self.words))
            for line in self.mountinfo()
        )

    def take(self):
        return {
            "descriptors": descriptors(self.pid),
            "threads": Counter(threads=len(tasks(self.pid))),
            "children": Counter(below(self.pid).values()),
            "mounts": Counter(mounts=self.mounts()),
            "cgroups": Counter(name for group in self.groups for name in os.listdir(group) if (group / name).is_dir()),
            "files": files(self.folders),
            "left": Counter(self.more()),
        }

    def settled(self, before=None):
        """The census once it is as it was, or as it is after SETTLE_S; without `before`, once it stands still."""
        gc.collect()
        deadline, last, still = time.monotonic() + SETTLE_S, None, 0
        while time.monotonic() < deadline:
            now = self.take()
            still = still + 1 if now == last else 0
            if still >= (12 if before is None else 2) and (before is None or not difference(before, now)):
                break
            last = now
            time.sleep(0.25)
        return now


def difference(before, after):
    """Lines of what is not as it was."""
    lines = []
    for kind, counts in after.items():
        for name in sorted(counts.keys() | before[kind].keys()):
            # Fewer threads or descriptors are none that were left; a child that is missing is a spare that died.
            if counts[name] > before[kind][name] or kind == "children" and counts[name] < before[kind][name]:
                lines.append(f"{kind}: {name}: {before[kind][name]} before, {counts[name]} after")
    return lines
