"""Frames on the control socket: see proto/kernel-protocol.md.

A frame is a 4-byte length of the payload (big-endian), one byte that names its kind, and the payload.
One lock keeps frames of several threads apart; a signal handler must not break one off in the middle,
so signals wait while a frame is on its way.
"""

import array
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import threading

FRAME_MAX = 64 << 20  # bytes of a payload
FDS_MAX = 5  # descriptors that come with one frame
HIGH_FD = 100  # out of the way of what cells do with small descriptors

EXECUTE, FORK, BEGIN, SYNCED = b"X", b"F", b"C", b"Y"  # from execd
HELLO, STARTED, INTERRUPTED, RESULT, END, FORKED, SYNC = b"H", b"S", b"I", b"R", b"E", b"K", b"Y"  # to execd

_HEADER = struct.Struct(">Ic")
_ALL_SIGNALS = signal.valid_signals()
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # an escaped NUL, not an escaped backslash before "u0000"


class ProtocolError(Exception):
    pass


class Wire:
    def __init__(self, fd):
        self.socket = None
        self.sending = False  # the main thread is inside send()
        self.on_sent = None  # called on the main thread when it has left send()
        self._lock = threading.RLock()
        self._waiting = []  # frames that a signal handler wanted to send meanwhile
        self._owner = 0
        self._syncs = 0
        self.attach(fd)

    def attach(self, fd):
        """Talks on fd from now on; closes the old one."""
        if self.socket is not None:
            self.socket.close()
        high = copy_high(fd)
        os.close(fd)
        self.socket = socket.socket(fileno=high)
        self._lock = threading.RLock()

    def fileno(self):
        return self.socket.fileno()

    def receive(self):
        """The next frame as (kind, payload, descriptors), or None at the end."""
        head, fds = b"", array.array("i")
        while len(head) < _HEADER.size:
            data, ancillary, _, _ = self.socket.recvmsg(
                _HEADER.size - len(head), socket.CMSG_SPACE(FDS_MAX * fds.itemsize), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
            if not data:
                if head:
                    raise ProtocolError("the stream ends inside a frame")
                return None
            head += data
        size, kind = _HEADER.unpack(head)
        if size > FRAME_MAX:
            raise ProtocolError("a frame of %d bytes" % size)
        payload = bytearray(size)
        view = memoryview(payload)
        while view:
            n = self.socket.recv_into(view)
            if not n:
                raise ProtocolError("the stream ends inside a frame")
            view = view[n:]
        return kind, payload, list(fds)

    def sync(self):
        """Returns when execd has taken what was written and sent before. On the main thread, in a cell."""
        self._syncs += 1
        self.send(SYNC, {"sync": self._syncs})
        while True:
            # A signal may break off the waiting, but not the reading of a frame. Its answer is then
            # still to come, and passed over by whoever reads next.
            select.select([self.socket], [], [])
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
            try:
                self.sending = True
                frame = self.receive()
            finally:
                self.sending = False
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if frame is None:
                os._exit(0)
            if frame[0] == SYNCED and json.loads(frame[1])["sync"] == self._syncs:
                break
        if self.on_sent is not None:
            self.on_sent()

    def send(self, kind, message):
        self.send_bytes(kind, encode(message))

    def send_bytes(self, kind, payload):
        if len(payload) > FRAME_MAX:
            raise ValueError("%d bytes do not fit into a frame of %d" % (len(payload), FRAME_MAX))
        frame = _HEADER.pack(len(payload), kind) + payload
        me = threading.get_ident()
        if self._owner == me:  # a signal handler on top of send()
            self._waiting.append(frame)
            return
        main = me == threading.main_thread().ident
        if main:
            self.sending = True
        try:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
            try:
                with self._lock:
                    self._owner = me
                    try:
                        self.socket.sendall(frame)
                        while self._waiting:
                            self.socket.sendall(self._waiting.pop(0))
                    finally:
                        self._owner = 0
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        finally:
            if main:
                self.sending = False
        if main and self.on_sent is not None:
            self.on_sent()


def copy_high(fd):
    """A copy out of the way, as far as the limit of descriptors allows."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
    except OSError:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def encode(message):
    """JSON that execd accepts: UTF-8 without lone surrogates, no NUL, no NaN."""
    text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if "\\u0000" in text:
        text = _NUL.sub(r"\1\\ufffd", text)
    return text.encode("utf-8", "replace")
