"""sys.stdout and sys.stderr of a context: text on the raw descriptors 1 and 2.

A line is written at once, so that it keeps its place among what C code and subprocesses write. Of a
burst, more than AT_ONCE lines in SOON_S, the rest is collected: a system call a line would cost more than
all else. The rest of a burst and the unfinished rest of a line are written soon, by a helper thread that
lives a few milliseconds; whatever is known to write past Python (cell.py) has them written before. The
helper is gone before a fork, so that a forked child and whoever counts threads never meet it.

The helper never waits for room in a pipe while it holds the lock of the buffer: the main thread cannot be
interrupted while it waits for that.
"""

import _thread
import io
import os
import select
import threading
import time

SOON_S = 0.02
AT_ONCE = 100
BUFFER = 128 << 10  # far more than is ever collected: what is collected is written in pieces of some KB
SURE = 4096  # bytes that a pipe takes without waiting when poll() says it is writable

_write = io.TextIOWrapper.write


class Pipe(io.FileIO):
    helper = None  # identity of the helper thread

    def is_helpers(self):
        return self.helper is not None and self.helper == _thread.get_ident()

    def write(self, data):
        if self.is_helpers():
            return super().write(memoryview(data)[:SURE]) if writable(self.fileno(), 0) else None
        n = super().write(data)
        if n is None:  # a program that shared the pipe has left it non-blocking
            os.set_blocking(self.fileno(), True)
            n = super().write(data)
        return n


class Buffer(io.BufferedWriter):
    """Keeps nothing; it is here to lose nothing when an interrupt breaks off a write."""

    def write(self, data):
        if self.raw.is_helpers():
            self.flush()
        n = super().write(data)
        self.flush()
        return n

    def flush(self):
        while True:
            try:
                return super().flush()
            except BlockingIOError:  # to the helper only; the lock is free
                writable(self.raw.fileno(), None)


def writable(fd, timeout_ms):
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return poll.poll(timeout_ms)


class Stream(io.TextIOWrapper):
    def __init__(self, fd, name, session):
        """session.turn is the stream that was written to last; session.take_turn(self) makes it this one."""
        self._session = session
        self._name = name
        self._pipe = Pipe(fd, "wb", closefd=False)
        self._collecting = False
        self._exact = False  # nothing is ever collected
        self._window = 0.0  # since when lines are counted
        self._left = AT_ONCE
        self._flushed = 0.0
        self._guard = threading.RLock()  # of what follows; nothing under it waits
        self._gone = None  # held while the helper lives
        self._cancel = None  # held while it waits; releasing it ends the wait
        self._again = False  # it is to come round once more
        self._ending = False  # it is not
        super().__init__(Buffer(self._pipe, BUFFER), encoding="utf-8", errors="backslashreplace")
        self.mode = "w"

    @property
    def name(self):
        return self._name

    @property
    def buffer(self):
        """Whoever has this writes past us from now on."""
        self._exact = True
        self._collecting = False
        self.flush()
        return super().buffer

    def write(self, text):
        if self._session.turn is not self:
            self._session.take_turn(self)
        n = _write(self, text)
        if not self._collecting:  # asked after the writing: a helper that ends meanwhile has written it
            self._written(text)
        return n

    def _written(self, text):
        now = time.monotonic()
        if "\n" in text or "\r" in text:
            self.flush()
            if now - self._window > SOON_S:
                self._window, self._left = now, AT_ONCE
            self._left -= 1
            if self._left <= 0 and not self._exact:
                self._left = AT_ONCE
                self._want_helper(True)
        elif now - self._flushed > SOON_S:
            self.flush()
        else:
            self._want_helper(False)

    def flush(self):
        super().flush()
        self._flushed = time.monotonic()

    def close(self):
        self.flush()  # descriptors 1 and 2 outlive the objects that write to them

    def settle(self):
        """Ends the helper and writes what is left."""
        with self._guard:
            gone, self._ending = self._gone, True
            if gone is not None and self._cancel.locked():
                self._cancel.release()  # it is not taken again for long
        try:
            self.flush()  # then there is room for what the helper has
            if gone is not None:
                with gone:
                    pass
        finally:
            self._ending = False
        self.flush()

    def forked(self):
        """In a forked child: there is no helper here."""
        self._guard = threading.RLock()
        self._gone = self._pipe.helper = None
        self._collecting = self._ending = False

    def _want_helper(self, collecting):
        """What is written now, and when collecting what is written next, is the helper's to show."""
        with self._guard:
            if self._gone is not None:
                self._again = True
            elif not self._start_helper():
                collecting = False
            self._collecting = collecting

    def _start_helper(self):
        cancel, gone = _thread.allocate_lock(), _thread.allocate_lock()
        cancel.acquire()
        gone.acquire()
        try:
            _thread.start_new_thread(self._help, (cancel, gone))
        except RuntimeError:  # no more threads
            self.flush()
            return False
        self._cancel, self._gone, self._again = cancel, gone, False
        return True

    def _help(self, cancel, gone):
        pipe = self._pipe
        pipe.helper = _thread.get_ident()
        try:
            while True:
                if cancel.acquire(True, SOON_S):
                    cancel.release()
                with self._guard:
                    self._again = self._collecting = False
                try:
                    self.flush()
                except (OSError, ValueError):
                    pass  # the descriptor has been closed
                with self._guard:
                    if not self._again or self._ending:
                        self._gone = pipe.helper = None
                        break
        finally:
            gone.release()
