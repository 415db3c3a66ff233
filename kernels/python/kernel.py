"""A Python kernel: the warm process that contexts are forked from, and the contexts themselves.

execd starts `python3 -c <boot>` with the control socket as descriptor 3 and the sources of this folder,
one after the other, as descriptor 4; the boot code reads those into SOURCES and runs this file. The
process loads what contexts usually need and then waits for frames (proto/kernel-protocol.md). FORK makes
a child that is the same kernel on another socket, with other pipes, reparented to execd; EXECUTE runs a
cell. A process that has run no cell is the zygote; nothing else tells the two apart, so a context can be
forked as well.

The modules here have a private copy of the builtins: a cell that deletes or replaces some of them
breaks its own code and not the kernel.
"""

import gc
import importlib.abc
import importlib.util
import json
import os
import sys

SOURCES = globals().get("SOURCES", {})

CONTROL_FD, NATIVE_FD = 3, 5
PRELOAD_VAR = "EXECD_PYTHON_PRELOAD"  # names separated by commas; replaces the list below
PRELOAD = (
    "argparse ast asyncio base64 bisect calendar collections concurrent.futures contextlib copy csv ctypes "
    "dataclasses datetime decimal enum fractions functools glob hashlib heapq html http.client inspect io "
    "itertools json linecache logging math operator os pathlib pickle platform pprint queue random re "
    "secrets shlex shutil signal socket statistics string struct subprocess sys tempfile textwrap threading "
    "time timeit tokenize traceback types typing unicodedata urllib.parse urllib.request uuid warnings "
    "weakref zipfile zlib"
)
PR_SET_PDEATHSIG = 1
SIGKILL = 9


class Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports _execd.x from SOURCES."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "_execd":
            return importlib.util.spec_from_loader(fullname, self, is_package=True)
        if fullname.startswith("_execd.") and fullname[7:] + ".py" in SOURCES:
            return importlib.util.spec_from_loader(fullname, self, origin="<execd>/%s.py" % fullname[7:])
        return None

    def is_package(self, fullname):
        return fullname == "_execd"

    def get_source(self, fullname):
        return SOURCES.get(fullname[7:] + ".py", "")

    def exec_module(self, module):
        vars(module)["__builtins__"] = __builtins__
        source = self.get_source(module.__name__)
        exec(compile(source, "<execd>/%s.py" % module.__name__[7:], "exec"), vars(module))


def preload():
    """What is imported here is shared by all contexts and costs none of them anything."""
    names = os.environ.get(PRELOAD_VAR, PRELOAD).replace(",", " ").split()
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a module that is not there, or is broken, is the user's to meet
            sys.stderr.write("preload %s: %s: %s\n" % (name, type(error).__name__, error))


def die_with_parent():
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    except Exception:
        pass  # the end of the control socket says the same a little later


def load_native():
    """The library that confines a process (native.c), or None where there is no such thing."""
    try:
        import ctypes

        library = ctypes.CDLL("/proc/self/fd/%d" % NATIVE_FD)
    except Exception:  # a Python without ctypes, a container without /proc
        library = None
    try:
        os.close(NATIVE_FD)
    except OSError:
        pass
    return library


class Kernel:
    def __init__(self, wire):
        self.wire = wire
        self.native = load_native()
        self.session = Session(wire)

    def serve(self):
        while True:
            if self.session.started:
                self.session.idle(self.wire.fileno())
            frame = self.wire.receive()
            if frame is None:
                os._exit(0)
            kind, payload, fds = frame
            if kind == EXECUTE:
                self.execute(json.loads(payload))
            elif kind == FORK:
                self.fork(json.loads(payload), fds)
            elif kind == BEGIN:
                self.hello(self.enter(json.loads(payload)["cwd"]))
            elif kind == SYNCED:
                pass  # the cell that waited for it was interrupted
            else:
                raise ProtocolError("a frame of the unknown kind %r" % kind)

    def hello(self, error=None):
        message = {"protocol": 1, "language": "python", "version": "%d.%d.%d" % sys.version_info[:3]}
        if self.native is not None:
            message["confine"] = True
        if error:
            message["error"] = error
        self.wire.send(HELLO, message)

    def execute(self, request):
        if not self.session.started:
            self.session.start()
        self.session.execute(request["cell"], request["code"])

    def fork(self, request, fds):
        """The parent answers FORKED; the child comes back as the new kernel and says HELLO."""
        refusal = self.session.fork_refusal() if self.session.started else None
        parent = True
        try:
            if refusal is None:
                parent = self._fork_orphan()
        except OSError as error:
            refusal = "fork: %s" % error.strerror
        if not parent:
            self.become(request, fds)
            return
        for fd in fds:
            os.close(fd)
        self.wire.send(FORKED, {"error": refusal} if refusal else {})

    def _fork_orphan(self):
        """Forks a grandchild that execd inherits. False in that process, true here."""
        ready, held = os.pipe()
        try:
            child = os.fork()
        except OSError:
            os.close(ready)
            os.close(held)
            raise
        if child:
            os.close(ready)
            try:
                _, status = os.waitpid(child, 0)
            except ChildProcessError:
                status = 0
            os.close(held)  # the middle process is gone by now, and the orphan has its new parent
            if status:
                code = status >> 8
                raise OSError(code, os.strerror(code))
            return True
        try:
            if os.fork():
                os._exit(0)
        except OSError as error:
            os._exit(error.errno)
        os.close(held)
        os.read(ready, 1)
        os.close(ready)
        return False

    def become(self, request, fds):
        """The forked child: takes its own socket and pipes, leaves its parent's."""
        control, out, err, *confinement = fds
        self.wire.attach(control)
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, place in ((null, 0), (out, 1), (err, 2)):
            os.dup2(fd, place)
            if fd > 2:
                os.close(fd)
        die_with_parent()
        os.environ.update(request.get("env") or {})
        error = self.enter(request.get("cwd"))
        self.session.start()
        self.hello_confined(error, *confinement) if confinement else self.hello(error)

    def hello_confined(self, error, plan_fd, socket=-1):
        """From here on like every process of the context; what answers for the filter is execd's alone."""
        import ctypes

        plan, listener = os.pread(plan_fd, os.fstat(plan_fd).st_size, 0), ctypes.c_int(-1)
        os.close(plan_fd)
        r = self.native.execd_confine(plan, socket, ctypes.byref(listener))
        self.hello("confine: %s" % os.strerror(-r) if r < 0 else error)
        for fd in (socket, listener.value):
            if fd >= 0:
                os.close(fd)

    def enter(self, cwd):
        """Goes there; says why it cannot."""
        try:
            if cwd:
                os.chdir(cwd)
        except OSError as failure:
            return "chdir '%s': %s" % (cwd, failure.strerror)
        return None


def main():
    global BEGIN, EXECUTE, FORK, FORKED, HELLO, SYNCED, ProtocolError, Session
    while "" in sys.path:  # a file of the user's must not stand in for a module that the kernel needs
        sys.path.remove("")
    sys.meta_path.insert(0, Finder())
    from _execd.cell import Session
    from _execd.wire import BEGIN, EXECUTE, FORK, FORKED, HELLO, SYNCED, ProtocolError, Wire

    preload()
    kernel = Kernel(Wire(CONTROL_FD))
    gc.collect()
    gc.freeze()  # the collector leaves these pages alone, so that they stay shared
    kernel.hello()
    try:
        kernel.serve()
    except (ConnectionError, ProtocolError) as error:
        os.write(2, ("kernel: %s\n" % error).encode())
        os._exit(1)


main()
