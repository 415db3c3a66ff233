"""System calls that fail: on old kernels, behind old filters, and for want of anything at any single moment."""

import collections
import errno
import os
import shutil

import pytest

import faults
from conftest import SANITIZED
from daemon import Execd
from faults import PLAUSIBLE, Broken, Order, Refused

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a filter without no_new_privs")

# What Linux 4.19 does not have, and what the filters of old container engines do not know.
NEW = (
    "statx", "clone3", "pidfd_open", "pidfd_send_signal", "pidfd_getfd", "close_range", "openat2", "faccessat2",
    "epoll_pwait2", "rseq", "copy_file_range", "renameat2", "landlock_create_ruleset", "landlock_add_rule",
    "landlock_restrict_self", "io_uring_setup", "process_madvise", "execveat", "membarrier",
)  # fmt: skip
NEW_MOUNTS = ("open_tree", "move_mount", "mount_setattr", "fsopen", "fsconfig", "fsmount", "fspick")
OPERATIONS = [
    faults.command, faults.upload, faults.download, faults.replace, faults.files, faults.copy, faults.grep,
    faults.archive_down, faults.archive_up, faults.metrics, faults.session, faults.python, faults.terminal,
    faults.watch, faults.room,
]  # fmt: skip


@pytest.fixture
def here(tmp_path):
    """here(): an empty folder."""
    folder = tmp_path / "here"

    def make():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    return make


@pytest.mark.skipif(SANITIZED, reason="the C library of a dynamic program makes no threads where clone3 is EPERM")
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_all_works_where_new_calls_are_missing(start, here, error):
    agent = start(Execd, wrap=[faults.DENY, ",".join(f"{call}={error}" for call in NEW)])
    agent.order = Order()
    for operation in OPERATIONS:
        operation(agent, here())


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_a_room_without_the_calls_for_mounts_says_so(start, here, error):
    agent = start(Execd, wrap=[faults.DENY, ",".join(f"{call}={error}" for call in NEW_MOUNTS)])
    with pytest.raises(Refused) as refused:
        faults.room(agent, here())
    assert refused.value.status == 501, refused.value
    assert ("Linux 5.12" if error == "ENOSYS" else "seccomp filter") in refused.value.message
    faults.command(agent, here())


@pytest.mark.skipif(SANITIZED, reason="the sanitizers make these calls before the agent does")
def test_an_agent_that_cannot_serve_says_so_at_its_start(start, tmp_path):
    for spec, named in [
        ("epoll_create1=EMFILE", "too many open files"),
        ("prlimit64=EPERM", "limit of descriptors: operation not permitted"),
        ("getrandom=ENOSYS", "no random numbers"),
    ]:
        with pytest.raises(Exception):
            start(Execd, wrap=[faults.DENY, spec])
        logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
        assert named in logs.lower(), (spec, logs)


# ---- each call, once ----------------------------------------------------------------------------

# These the client's own connection is made of: what strikes them may break it.
CONNECTION = ("accept4", "epoll_ctl:anon", "recvfrom", "sendto", "read:socket", "fcntl:socket")
STATUS = {
    "ENOSPC": (507, 503), "EDQUOT": (507,), "EMFILE": (503,), "ENFILE": (503,), "ENOMEM": (503,), "EIO": (500,),
    "EACCES": (403, 400, 501), "EROFS": (403, 500), "ENOSYS": (500, 501), "EPERM": (403, 501, 500), "EAGAIN": (503,),
}  # fmt: skip
MEMORY = ("mmap", "brk", "mremap", "mprotect")
SLOW = ("session", "python", "room", "metrics", "terminal")


def moments(errors, count, slow):
    """Which of so many calls fail, and how: the first ones, the last one, and one between; of slow ones fewer."""
    for i, error in enumerate(errors):
        chosen = [count // 2 if i else 0] if slow else [0, 1, 2, 3, count // 2, count - 1]
        for skip in sorted({n for n in chosen if 0 <= n < count}):
            yield error, skip


def outcome(operation, agent, folder):
    try:
        operation(agent, folder)
    except (Refused, Broken) as failure:
        return failure


def wrong(failure, call, error, skip):
    """What is not as it should be about the end of an operation that was struck."""
    if failure is None:
        return None
    if isinstance(failure, Broken):
        # but for its first piece, a file that cannot be read is too late for a status
        return None if call in CONNECTION or (call == "pread64" and skip > 0) else f"the connection broke: {failure}"
    if failure.stream or failure.status in (400, 404, 409) or failure.code == "WATCH_LIMIT":
        return None
    if failure.status not in STATUS.get(error, range(400, 600)):
        return f"status {failure}"
    if call != "recvmsg" and os.strerror(getattr(errno, error)).lower() not in failure.message.lower():
        return f"not named: {failure}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_each_call_fails_once(start, here, tmp_path, operation):
    if SANITIZED and operation.__name__ not in ("command", "upload", "download", "archive_up"):
        pytest.skip("takes long on the sanitized build, and runs on the other one")
    order = Order.make(tmp_path / "order")
    agent = start(Execd, wrap=[faults.DENY, f"@{tmp_path}/order", ",".join(faults.NUMBERS)])
    agent.order = order
    before, counts = (collections.Counter(), collections.Counter()), {}
    for _ in range(4):  # what is made once is there from here on, and warm kernels come and go
        operation(agent, here())
        before = tuple(a | b for a, b in zip(before, faults.held(agent)))
    with order.count(counts):
        operation(agent, here())
    if SANITIZED:  # whose own allocator ends the program for want of memory
        counts = {call: count for call, count in counts.items() if call not in MEMORY}
    problems, struck = [], 0
    for call, count in counts.items():
        for error, skip in moments(PLAUSIBLE[call], count, operation.__name__ in SLOW):
            try:
                with order.fail(call, error, skip):
                    failure = outcome(operation, agent, here())
                problem = wrong(failure, call, error, skip)
            except Exception as strange:
                problem = repr(strange)
            struck += order.hits
            if problem:
                problems.append(f"{call} {error} after {skip}: {problem}")
        try:
            operation(agent, here())
            if faults.left_over(agent, before):
                operation(agent, here())  # once more: a warm kernel may just be on its way
                if left := faults.left_over(agent, before):
                    problems.append(f"{call}: left behind {left}")
                    before = faults.held(agent)
        except Exception as strange:
            problems.append(f"{call}, and afterwards: {strange!r}")
        assert agent.process.poll() is None, f"{call} ended the agent"
    assert not problems, "\n".join(problems)
    assert struck > len(counts)


@pytest.mark.skipif(SANITIZED, reason="runs on the other build")
def test_a_call_without_files_in_memory_says_why(start, here, tmp_path):
    order = Order.make(tmp_path / "order")
    agent = start(Execd, wrap=[faults.DENY, f"@{tmp_path}/order", "memfd_create"])
    agent.order = order
    for moment in (0, 1, 1):  # of the filter, which is kept from there on; of the call; of its result
        with order.fail("memfd_create", "EMFILE", moment), pytest.raises(Refused) as refused:
            faults.call(agent, here())
        assert refused.value.status == 503 and "too many open files" in refused.value.message.lower(), refused.value
    faults.call(agent, here())
