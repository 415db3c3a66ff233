"""What the container uses."""

import re

from daemon import events


def check(sample):
    assert set(sample) >= {"cpu_count", "cpu_used_pct", "mem_total_mib", "mem_used_mib", "timestamp"}
    assert sample["cpu_count"] > 0 and 0 <= sample["cpu_used_pct"] <= 100
    assert 0 < sample["mem_used_mib"] < sample["mem_total_mib"]
    assert sample["source"] in ("cgroup2", "cgroup1", "system")


def test_now(execd):
    first = execd.http.get("/metrics").json()
    check(first)
    # Work shows: the counter that the percentage is made of moves.
    execd.run("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    second = execd.http.get("/metrics").json()
    check(second)
    assert second["cpu_usage_usec"] > first["cpu_usage_usec"]


def test_watch(execd):
    def samples(n):
        with execd.stream("GET", "/metrics/watch") as response:
            found = response.iter_lines()
            return [next(line for line in found if line) for _ in range(n)]

    for line in samples(2):
        assert line.startswith("data: {")
    with execd.stream("GET", "/metrics/watch") as one, execd.stream("GET", "/metrics/watch") as two:
        a, b = events(one), events(two)
        check(next(a))
        check(next(b))
        one.close()
        check(next(b))



def test_prometheus(execd):
    execd.run("true")
    answer = execd.http.get("/metrics/prometheus")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(re.findall(r"^(\w+) ([\d.e+]+)$", answer.text, re.M))
    assert int(values["execd_runs_total"]) == 1 and int(values["execd_runs_live"]) == 0
    assert 0 < float(values["execd_resident_memory_bytes"]) < float(values["sandbox_memory_limit_bytes"])
    for name in values:
        assert f"# HELP {name} " in answer.text and f"# TYPE {name} " in answer.text
