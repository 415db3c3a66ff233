"""sys.stdout and sys.stderr of a context: text on the raw descriptors 1 and 2.

Line-buffered, so that a line costs one system call. The unfinished rest of a line is shown soon as well:
at once when nothing was written for a while, else by a helper thread that lives a few milliseconds. The
helper is gone before a fork, so that a forked child and whoever counts threads never meet it.
"""

import _thread
import io
import os
import time

SOON_S = 0.02


class Stream(io.TextIOWrapper):
    def __init__(self, fd, name, take_turn):
        """take_turn(self) is called before each write."""
        raw = io.FileIO(fd, "wb", closefd=False)
        super().__init__(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self.mode = "w"
        self._fd = fd
        self._take_turn = take_turn
        self._name = name
        self._flushed = 0.0
        self._cancel = None  # held while a helper waits; releasing it ends the wait
        self._gone = None  # held while the helper lives

    @property
    def name(self):
        return self._name

    def write(self, text):
        self._take_turn(self)
        try:
            n = super().write(text)
        except BlockingIOError:  # a program that shared the pipe has left it non-blocking
            os.set_blocking(self._fd, True)
            super().flush()
            n = len(text)
        now = time.monotonic()
        if "\n" in text or "\r" in text:
            self._flushed = now
        elif now - self._flushed > SOON_S:
            self.flush()
        elif self._gone is None:
            self._start_helper()
        return n

    def flush(self):
        try:
            super().flush()
        except BlockingIOError:
            os.set_blocking(self._fd, True)
            super().flush()
        self._flushed = time.monotonic()

    def close(self):
        self.flush()  # descriptors 1 and 2 outlive the objects that write to them

    def settle(self):
        """Ends the helper and writes what is left."""
        cancel, gone = self._cancel, self._gone
        if gone is not None:
            try:
                cancel.release()
            except RuntimeError:
                pass  # released already
            with gone:
                pass
        self.flush()

    def _start_helper(self):
        cancel, gone = _thread.allocate_lock(), _thread.allocate_lock()
        cancel.acquire()
        gone.acquire()
        self._cancel, self._gone = cancel, gone
        try:
            _thread.start_new_thread(self._help, (cancel, gone))
        except RuntimeError:  # no more threads
            self._gone = None
            self.flush()

    def _help(self, cancel, gone):
        try:
            cancel.acquire(True, SOON_S)
            self._gone = None
            self.flush()
        except (OSError, ValueError):
            pass  # the descriptor has been closed
        finally:
            gone.release()
