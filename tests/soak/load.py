"""Clients that do operations until the time is over, and what became of each."""

import random
import threading
import time
import traceback
from collections import Counter, defaultdict
from contextlib import suppress

from wire import Refused

SHOWN = 20  # failures told in full


class Operation:
    def __init__(self, fn, weight, at_once):
        self.fn, self.name, self.weight = fn, fn.__name__, weight
        self.room = threading.BoundedSemaphore(at_once)  # so many of it at once, however many clients there are


class Book:
    """The table of operations: @book.operation(weight, at_once) def name(client, rng): -> bytes checked."""

    def __init__(self):
        self.operations = []
        self.lock = threading.Lock()
        self.times = defaultdict(list)
        self.bytes, self.refused, self.failed = Counter(), Counter(), Counter()
        self.refusals, self.failures = Counter(), []

    def operation(self, weight=4, at_once=1000):
        def add(fn):
            self.operations.append(Operation(fn, weight, at_once))
            return fn

        return add

    def do(self, operation, client, seed):
        start = time.monotonic()
        try:
            n = operation.fn(client, random.Random(seed)) or 0
        except Refused as why:
            with self.lock:
                self.refused[operation.name] += 1
                self.refusals[str(why)] += 1
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)
            place = next((frame for frame in reversed(last) if frame.name == operation.name), last[-1])
            with self.lock:
                self.failed[operation.name] += 1
                self.failures.append(
                    f"{operation.name} (seed {seed}, line {place.lineno}: {place.line}): {type(error).__name__}: {error}"
                )
        else:
            with self.lock:
                self.bytes[operation.name] += n
                self.times[operation.name].append(time.monotonic() - start)
            client.owed.clear()
        with suppress(Exception):  # if it cannot be had now, what is left is found in the end
            client.pay()

    def once_each(self, client, seed, times=1):
        for operation in self.operations:
            for _ in range(times):
                self.do(operation, client, seed)

    def run(self, clients, seconds, seed):
        """Every client on a thread of its own, until the time is over and each has ended what it did."""
        deadline = time.monotonic() + seconds
        weights = [operation.weight for operation in self.operations]

        def work(n, client):
            rng = random.Random(f"{seed} {n}")
            while time.monotonic() < deadline:
                operation = rng.choices(self.operations, weights)[0]
                if operation.room.acquire(blocking=False):
                    try:
                        self.do(operation, client, f"{seed} {n} {rng.random()}")
                    finally:
                        operation.room.release()
            client.close()

        threads = [threading.Thread(target=work, args=each, daemon=True) for each in enumerate(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def table(self):
        lines = [f"{'operation':22} {'done':>7} {'refused':>8} {'failed':>7} {'checked':>10} {'median':>9} {'longest':>9}"]
        for operation in self.operations:
            name, times = operation.name, sorted(self.times[operation.name])
            lines.append(
                f"{name:22} {len(times):7} {self.refused[name]:8} {self.failed[name]:7} "
                f"{self.bytes[name] / 1e6:7.1f} MB "
                + (f"{times[len(times) // 2] * 1e3:6.0f} ms {times[-1] * 1e3:6.0f} ms" if times else "")
            )
        done = sum(map(len, self.times.values()))
        lines.append(
            f"{'all':22} {done:7} {self.refused.total():8} {self.failed.total():7} {self.bytes.total() / 1e6:7.1f} MB"
        )
        lines += [f"refused {count} times: {why}" for why, count in self.refusals.most_common(SHOWN)]
        lines += [f"FAILED {failure}" for failure in self.failures[:SHOWN]]
        return "\n".join(lines)
