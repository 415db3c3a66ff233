"""sys.stdout and sys.stderr of a context: text on the raw descriptors 1 and 2.

A line is written at once, so that it keeps its place among what C code and subprocesses write. Of a
burst, more than AT_ONCE lines in SOON_S, the rest is collected: a system call a line would cost more than
all else. The rest of a burst and the unfinished rest of a line are written soon, by a helper thread that
lives a few milliseconds; whatever is known to write past Python (cell.py) has them written before. The
helper is gone before a fork, so that a forked child and whoever counts threads never meet it.

One lock keeps threads apart, which TextIOWrapper by itself does not in every version. Waiting for it can be
interrupted; waiting for that of a BufferedWriter could not.
"""

import _thread
import io
import os
import threading
import time

SOON_S = 0.02
AT_ONCE = 100
PIECE = 16 << 10  # characters that are collected at most
BUFFER = 128 << 10  # bytes; PIECE always fits, so that a pipe that is full loses nothing

_write = io.TextIOWrapper.write


class Stream(io.TextIOWrapper):
    def __init__(self, fd, name, session):
        """session.turn is the stream that was written to last; session.take_turn(self) makes it this one."""
        self._session = session
        self._fd = fd
        self._name = name
        self._lock = threading.RLock()
        self._collecting = False
        self._room = PIECE
        self._exact = False  # nothing is ever collected
        self._window = 0.0  # since when lines are counted
        self._left = AT_ONCE
        self._flushed = 0.0
        self._gone = None  # held while a helper lives
        self._cancel = None  # held while it waits; releasing it ends the wait
        raw = io.FileIO(fd, "wb", closefd=False)
        super().__init__(io.BufferedWriter(raw, BUFFER), encoding="utf-8", errors="backslashreplace")
        self.mode = "w"

    @property
    def name(self):
        return self._name

    @property
    def buffer(self):
        """Whoever has this writes past us from now on."""
        with self._lock:
            self._exact = True
            self._collecting = False
            self.flush()
        return super().buffer

    def write(self, text):
        if self._session.turn is not self:
            self._session.take_turn(self)
        with self._lock:
            if text.__class__ is str and len(text) > PIECE:
                return self._write_long(text)
            n = _write(self, text)
            if self._collecting:
                self._room -= n
                if self._room < 0:
                    self.flush()
            else:
                self._written(text)
            return n

    def _write_long(self, text):
        for at in range(0, len(text), PIECE):
            _write(self, text[at : at + PIECE])
            self.flush()
        return len(text)

    def _written(self, text):
        now = time.monotonic()
        if "\n" in text or "\r" in text:
            self.flush()
            if now - self._window > SOON_S:
                self._window, self._left = now, AT_ONCE
            self._left -= 1
            if self._left <= 0 and not self._exact:
                self._left = AT_ONCE
                self._collecting = self._have_helper()
        elif now - self._flushed > SOON_S or not self._have_helper():
            self.flush()

    def flush(self):
        with self._lock:
            while True:
                try:
                    super().flush()
                    break
                except BlockingIOError:  # a program that shared the pipe has left it non-blocking
                    os.set_blocking(self._fd, True)
            self._room = PIECE
            self._flushed = time.monotonic()

    def close(self):
        self.flush()  # descriptors 1 and 2 outlive the objects that write to them

    def settle(self):
        """Ends the helper and writes what is left."""
        with self._lock:
            gone = self._gone
            if gone is not None and self._cancel.locked():
                self._cancel.release()
        if gone is not None:
            with gone:
                pass
        self.flush()

    def forked(self):
        """In a forked child: there is no helper here."""
        self._lock = threading.RLock()
        self._gone = None
        self._collecting = False

    def _have_helper(self):
        """False when there can be no more threads."""
        if self._gone is None:
            cancel, gone = _thread.allocate_lock(), _thread.allocate_lock()
            cancel.acquire()
            gone.acquire()
            try:
                _thread.start_new_thread(self._help, (cancel, gone))
            except RuntimeError:
                return False
            self._cancel, self._gone = cancel, gone
        return True

    def _help(self, cancel, gone):
        try:
            cancel.acquire(True, SOON_S)
            with self._lock:
                self._gone = None
                self._collecting = False
                self.flush()
        except (OSError, ValueError):
            pass  # the descriptor has been closed
        finally:
            gone.release()
