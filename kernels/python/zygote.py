"""The warm Python for calls in rooms: what `python3 -u -c CODE` would be, forked instead of started.

execd (execd/isolated/zygote.c) asks over the socket that is descriptor 3 (struct wire_fork): for a process in
the namespaces that come along, with these descriptors and variables, that runs CODE. Native.c forks it by way of
one in between that has ended by then, so that it is execd's own child. It becomes what the room is, says so on its
own socket, and runs CODE when it is told to.

Nothing of a user's ever runs in this process, and what is forked from it ends in its room: it has no variables
but those that Python needs to start, no descriptors but its socket, and takes nothing back from its children.
"""

import array
import ctypes
import errno
import fcntl
import gc
import importlib
import os
import site
import socket
import struct
import sys
import types

SOCKET_FD, NATIVE_FD = 3, 5
MESSAGE_MAX, FDS_MAX, PLACES_MAX = 128 << 10, 24, 16
HIGH_FD = 128  # above any place that a descriptor is to get
FORK = struct.Struct("=8I%di" % PLACES_MAX)  # struct wire_fork
ANSWER = struct.Struct("=QiI")  # struct wire_answer
PRELOAD = (
    "base64 collections datetime decimal functools hashlib inspect io itertools json linecache logging math random re "
    "string subprocess tempfile threading time traceback typing urllib.parse urllib.request uuid"
)


class Zygote:
    def __init__(self):
        self.native = ctypes.PyDLL("/proc/self/fd/%d" % NATIVE_FD)  # it forks: under the interpreter's lock
        os.close(NATIVE_FD)
        self.socket = socket.socket(fileno=SOCKET_FD)
        self.codes = {}  # by source

    def serve(self):
        while True:
            fds = array.array("i")
            data, ancillary, _, _ = self.socket.recvmsg(MESSAGE_MAX, socket.CMSG_SPACE(FDS_MAX * fds.itemsize))
            for _, _, payload in ancillary:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
            if not data:
                os._exit(0)
            try:
                self.fork(Request(data, list(fds), self.codes))
            except OSError:
                pass  # no more processes or descriptors: the end of the request's socket says so
            finally:
                for fd in fds:
                    os.close(fd)

    def fork(self, request):
        told, tell = os.pipe()
        ctypes.pythonapi.PyOS_BeforeFork()
        pid = self.native.execd_fork((ctypes.c_int * len(request.namespaces))(*request.namespaces), len(request.namespaces))
        if pid:
            ctypes.pythonapi.PyOS_AfterFork_Parent()
            os.close(told)
            try:
                if pid > 0:
                    os.write(tell, struct.pack("=i", pid))
                else:
                    request.answer(pid)
            finally:
                os.close(tell)
            return
        ctypes.pythonapi.PyOS_AfterFork_Child()
        try:
            os.close(tell)
            pid = struct.unpack("=i", os.read(told, 4))[0]  # what execd knows it by
            code = self.become(request, pid)
        except BaseException:  # the end of its socket says that it has come to nothing
            os._exit(1)
        run(code)

    def become(self, request, pid):
        os.setsid()
        os.umask(0o22)
        request.place()
        os.environ.clear()
        for name, _, value in request.variables:
            os.environb[name] = value
        listener = ctypes.c_int(-1)
        r = self.native.execd_become(request.plan, request.socket, ctypes.byref(listener))
        if r == 0 and not os.access(os.__file__, os.R_OK):
            r = -errno.EACCES  # this Python's modules are not for the room: its own Python is another one
        request.answer(r or pid)
        if r or os.read(request.sync, 1) == b"":
            os._exit(1)
        for fd in (request.sync, request.socket, listener.value):
            if fd >= 0:
                os.close(fd)  # or it ends: nothing of a user's runs beside them
        try:
            os.chdir(request.cwd)
        except OSError:
            os.chdir("/")
        find_packages()
        if request.kept:
            self.native.execd_keep()
        return request.code


class Request:
    def __init__(self, data, fds, codes):
        namespaces_n, places_n, listens, kept, plan_n, argc, envc, _text_n, *places = FORK.unpack_from(data)
        self.sync = fds.pop(0)
        self.socket = fds.pop(0) if listens else -1
        self.kept = bool(kept)
        self.namespaces = fds[:namespaces_n]
        self.places = list(zip(fds[namespaces_n:], places[:places_n]))
        self.plan = bytes(data[FORK.size : FORK.size + plan_n])
        words = data[FORK.size + plan_n :].split(b"\0")
        self.cwd = words[1]
        self.variables = [word.partition(b"=") for word in words[2 + argc : 2 + argc + envc]]
        source = words[1 + argc]  # the last argument
        if source not in codes:  # execd's own, so there are not many
            codes[source] = compile(source, "<string>", "exec")
        self.code = codes[source]

    def answer(self, pid):
        os.write(self.sync, ANSWER.pack(0, pid, 0))

    def place(self):
        """The descriptors at their places, and no others but the two that are needed a little longer."""
        high = [(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD), place) for fd, place in self.places]
        self.sync = fcntl.fcntl(self.sync, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
        if self.socket >= 0:
            self.socket = fcntl.fcntl(self.socket, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
        os.closerange(0, HIGH_FD)
        for fd, place in high:
            os.dup2(fd, place)
            os.close(fd)
        for place in range(3):
            if place not in [other for _, other in high]:
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free


def find_packages():
    """What this Python was started without, as it is nobody's: what the user's own variables and home name."""
    sys.path[0:0] = [""] + [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    if not os.environ.get("PYTHONNOUSERSITE"):
        site.USER_BASE = site.USER_SITE = None
        packages = site.getusersitepackages()
        if os.path.isdir(packages):
            site.addsitedir(packages)


def run(code):
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv = ["-c"]
    try:
        exec(code, vars(main))
    finally:
        os._exit(1)  # CODE ends the process itself


def main():
    for name in PRELOAD.split():
        importlib.import_module(name)
    zygote = Zygote()
    gc.collect()
    gc.freeze()  # the collector leaves these pages alone, so that they stay shared
    zygote.serve()


main()
