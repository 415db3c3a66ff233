"""A context: the user's __main__, and the running of cells in it.

A cell runs on the main thread. The event loop of the context runs while a cell awaits and between cells,
so tasks go on; while a cell runs synchronous code the loop stands still, and asyncio.run() works there as
it does in a script. SIGINT means KeyboardInterrupt while the user's code runs and nothing at other times.
"""

import ast
import asyncio
import builtins
import functools
import inspect
import linecache
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
import types

import __future__
from _execd import display, magics
from _execd.streams import Stream
from _execd.wire import END, INTERRUPTED, STARTED, copy_high

TEXT_MAX = 256 << 10  # characters of an error's value, and of its traceback
NO_INPUT = "input() is not available: a cell has no standard input"
FUTURE_FLAGS = 0
for _name in __future__.all_feature_names:
    FUTURE_FLAGS |= getattr(__future__, _name).compiler_flag

try:
    import ctypes

    fflush = ctypes.CDLL(None).fflush
except (ImportError, OSError, AttributeError):  # a Python without ctypes
    fflush = None


class Session:
    """Made in the zygote, so that its contexts share it; start() is what each of them does for itself."""

    def __init__(self, wire):
        self.wire = wire
        self.pid = 0
        self.flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self.running = False  # a cell
        self.interruptible = False  # the user's code is running
        self.interrupted = False  # SIGINT came while a frame was being written
        self.task = None  # of the cell that is being awaited
        self.cancelled = False  # the task, by SIGINT
        self.loop = self.out = self.err = None
        self.old_loops = []  # of the processes this one was forked from
        self.spare_fds = {}  # copies of 1 and 2, for when a cell has closed them
        self._make_main()
        self.magics = magics.Magics(self)
        self.display = display.Display(self)
        self.display.install()
        self._patch()
        self.builtins = dict(vars(builtins))
        wire.on_sent = self._after_send

    def start(self):
        """This process is a context from now on; again after it was forked from one."""
        if self.out is None:
            self._make_streams()
            if "" not in sys.path:
                sys.path.insert(0, "")
        self.pid = os.getpid()
        self.main_thread = threading.get_ident()
        self._keep_fds()
        if self.loop is not None:
            self.old_loops.append(self.loop)  # its epoll is shared with the parent: neither used nor closed
        self._make_loop()
        signal.signal(signal.SIGINT, self._on_sigint)

    @property
    def started(self):
        return self.out is not None

    # ---- what a cell finds -------------------------------------------------

    def _make_main(self):
        self.main = types.ModuleType("__main__")
        self.ns = vars(self.main)
        self.ns["__builtins__"] = builtins
        sys.modules["__main__"] = self.main
        sys.argv = [""]

    def _make_streams(self):
        self.turn = None  # the stream that this cell wrote to last
        self.out = sys.stdout = sys.__stdout__ = Stream(1, "<stdout>", self)
        self.err = sys.stderr = sys.__stderr__ = Stream(2, "<stderr>", self)
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="replace", closefd=False)

    def _keep_fds(self):
        for fd in (1, 2):
            if fd in self.spare_fds:
                os.close(self.spare_fds[fd])
            self.spare_fds[fd] = copy_high(fd)

    def _make_loop(self):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.readable = False

    def _patch(self):
        """The few places where the plain interpreter would act against the purpose of a cell."""
        session = self
        popen, running_loop = subprocess.Popen.__init__, asyncio.get_running_loop
        main_thread = threading.get_ident()

        def no_input(prompt=""):
            raise RuntimeError(NO_INPUT)

        def start_popen(self, *args, **options):
            session.flush_text()  # what was printed before comes before what the program prints
            popen(self, *args, **options)

        def flush_first(module, name):
            real = getattr(module, name, None)
            if real is None:
                return

            @functools.wraps(real)
            def call(*args, **options):
                session.flush_text()
                return real(*args, **options)

            setattr(module, name, call)

        def write_to(name):
            real = getattr(os, name)

            @functools.wraps(real)
            def call(fd, data):
                if fd == 1 or fd == 2:
                    session.flush_text()
                return real(fd, data)

            setattr(os, name, call)

        def get_running_loop():
            # create_task() and the like work in a cell that does not await: its loop runs on afterwards.
            try:
                return running_loop()
            except RuntimeError:
                if session.running and threading.get_ident() == main_thread:
                    return session.loop
                raise

        for new, old in ((no_input, input), (start_popen, popen)):
            new.__doc__, new.__name__, new.__qualname__ = old.__doc__, old.__name__, old.__qualname__
        start_popen.__wrapped__ = popen
        builtins.input = no_input
        subprocess.Popen.__init__ = start_popen
        for name in ("system", "posix_spawn", "posix_spawnp", "execv", "execve", "_exit"):
            flush_first(os, name)
        for name in ("write", "writev"):
            write_to(name)
        self._patch_ctypes()
        asyncio.get_running_loop = asyncio.events.get_running_loop = get_running_loop
        os.register_at_fork(before=self.settle, after_in_child=self._forked)

    def _patch_ctypes(self):
        """A C function that a cell calls may print."""
        try:
            import ctypes
        except ImportError:
            return
        session, plain = self, ctypes._CFuncPtr

        class Function(plain):
            _flags_ = plain._flags_ if hasattr(plain, "_flags_") else 0

            def __call__(self, *args, **options):
                session.flush_text()
                return plain.__call__(self, *args, **options)

        ctypes._CFuncPtr = Function

    def settle(self):
        """Before a fork: no helper thread, nothing in the buffers that the child would write again."""
        for stream in (self.out, self.err) if self.started else ():
            try:
                stream.settle()
            except (OSError, ValueError):
                pass

    def _forked(self):
        for stream in (self.out, self.err) if self.started else ():
            stream.forked()

    def take_turn(self, stream):
        """Two pipes have no common order: a change from one to the other waits until execd has read the first."""
        before, self.turn = self.turn, stream
        if before is not None and before is not stream:
            self.sync()

    def sync(self):
        """What was written so far comes before what follows. Other threads' order means nothing."""
        if (
            self.interruptible
            and not self.wire.sending
            and threading.get_ident() == self.main_thread
            and os.getpid() == self.pid
        ):
            self.flush()
            self.wire.sync()

    def flush_text(self):
        for stream in (sys.stdout, sys.stderr, self.out, self.err):
            try:
                stream.flush()
            except Exception:  # closed, or not a stream at all: the cell's doing
                pass

    def flush(self):
        """Everything this process has written is in the pipes afterwards."""
        self.flush_text()
        if fflush is not None:
            fflush(None)

    # ---- between cells -------------------------------------------------------

    def idle(self, fd):
        """Runs the event loop until fd is readable."""
        if self.loop.is_closed():
            self._make_loop()
        self.readable = False
        self.loop.add_reader(fd, self._on_readable)
        while not self.readable:
            try:
                self.loop.run_forever()
            except KeyboardInterrupt:
                pass  # a task that did not let go of the loop
            except BaseException:
                traceback.print_exc()
        self.loop.remove_reader(fd)

    def _on_readable(self):
        self.readable = True
        self.loop.stop()

    def fork_refusal(self):
        """Why this context cannot be forked now, or None."""
        self.settle()
        names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        # Threads that libraries keep below Python see to themselves (pthread_atfork).
        if names:
            return "the context has %d other thread(s): %s" % (len(names), ", ".join(names))
        tasks = asyncio.all_tasks(self.loop)
        if tasks:
            return "the context has %d asyncio task(s) under way" % len(tasks)
        return None

    # ---- a cell ----------------------------------------------------------------

    def execute(self, number, source):
        name = "<cell %d>" % number
        source = magics.dedent(source)
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        self._prepare()
        failure = None
        try:
            try:
                self.interrupted = False
                self.turn = None
                self.running = self.interruptible = True
                self.wire.send(STARTED, {"cell": number})
                self.run(source, name)
                self.display.flush_figures()
            finally:
                self.interruptible = False
        except BaseException as error:
            self.interruptible = False
            failure = error
        if os.getpid() != self.pid:
            self._leave_fork(failure)
        end = describe(failure)
        end["cell"] = number
        del failure
        for key, value in self.builtins.items():
            if key not in vars(builtins):
                setattr(builtins, key, value)
        self.running = False
        self.flush()
        self.wire.send(END, end)

    def run(self, source, name):
        """Runs source in the context and shows the value of its last expression."""
        value = self.evaluate(source, name)
        hook = getattr(sys, "displayhook", None) or self.display.hook
        hook(value)

    def evaluate(self, source, name):
        """Runs source in the context; the value of its last expression, or None."""
        cell_magic = magics.CELL.match(source)
        if cell_magic:
            return self.magics.cell(*cell_magic.groups(), name)
        tree, source = self._parse(source, name)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr) and not silenced(source, last):
            tree.body.pop()
            last = ast.copy_location(ast.Expression(last.value), last)
        else:
            last = None
        # Both are compiled before either runs: what is wrong with the last line stops the first one.
        parts = [(part, mode) for part, mode in ((tree, "exec"), (last, "eval")) if part and getattr(part, "body", 1)]
        codes = [compile(part, name, mode, self.flags, True) for part, mode in parts]
        for code in codes:
            self.flags |= code.co_flags & FUTURE_FLAGS
        value = None
        for code in codes:
            value = eval(code, self.ns)
            if code.co_flags & inspect.CO_COROUTINE:
                value = self._await(value)
        return value if last is not None else None

    def _parse(self, source, name):
        flags = self.flags | ast.PyCF_ONLY_AST
        try:
            return compile(source, name, "exec", flags, True), source
        except SyntaxError:
            plain = magics.transform(source)
            if plain is None:
                raise
        return compile(plain, name, "exec", flags, True), plain

    def _await(self, coroutine):
        self.cancelled = False
        self.task = self.loop.create_task(coroutine)
        try:
            return self.loop.run_until_complete(self.task)
        except asyncio.CancelledError as error:
            if not self.cancelled:
                raise
            raise KeyboardInterrupt().with_traceback(error.__traceback__) from None
        finally:
            if not self.task.done():
                self.task.cancel()
            self.task = None

    def _prepare(self):
        """A cell finds its streams, its loop and its interrupt in order, whatever the last one did."""
        for fd, spare in self.spare_fds.items():
            try:
                os.set_blocking(fd, True)
            except OSError:
                os.dup2(spare, fd)
        for fd, name, mine in ((1, "stdout", "out"), (2, "stderr", "err")):
            try:
                usable = not getattr(sys, name).closed
            except Exception:
                usable = False
            if not usable:
                stream = Stream(fd, "<%s>" % name, self)
                setattr(sys, name, stream)
                setattr(self, mine, stream)
        self.ns["__builtins__"] = builtins
        if self.loop.is_closed():
            self._make_loop()
        asyncio.set_event_loop(self.loop)
        signal.signal(signal.SIGINT, self._on_sigint)

    def _leave_fork(self, failure):
        """A child that the cell forked has come to the cell's end: it is not the kernel."""
        code = 0
        if isinstance(failure, SystemExit):
            code = failure.code if isinstance(failure.code, int) else int(failure.code is not None)
        elif failure is not None:
            self.err.write("\n".join(describe(failure)["traceback"]) + "\n")
            code = 1
        self.flush()
        os._exit(code & 255)

    # ---- interrupt ----------------------------------------------------------------

    def _on_sigint(self, signum, frame):
        if self.wire.sending:
            self.interrupted = True
            return
        current = asyncio.current_task(self.loop)
        if not self.interruptible:
            if current is not None and not self.running:
                raise KeyboardInterrupt  # a task that keeps the next cell from being read
            return
        if os.getpid() == self.pid:
            self.wire.send(INTERRUPTED, {})
        if self.task is not None and current is not self.task and not self.cancelled:
            self.cancelled = True
            self.loop.call_soon_threadsafe(self.task.cancel)
            return
        raise KeyboardInterrupt

    def _after_send(self):
        if self.interrupted:
            self.interrupted = False
            self._on_sigint(signal.SIGINT, None)


_LINE_END = re.compile("\r\n|\r|\n")


def silenced(source, last):
    """A semicolon after the last expression: its value is not wanted."""
    rest = "\n".join(_LINE_END.split(source)[last.end_lineno - 1 :]).encode("utf-8", "replace")[last.end_col_offset :]
    return rest.lstrip(b") \t\n").startswith(b";")


# ---- errors -------------------------------------------------------------------------


def describe(error):
    """The fields of END."""
    if error is None:
        return {"status": "ok"}
    name = type(error).__name__
    try:
        value = str(error)
    except BaseException:
        value = "<%s: its str() failed>" % name
    try:
        if isinstance(error, SystemExit):
            lines = ["SystemExit: %s" % value]
        else:
            hide_kernel(error)
            lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    except BaseException:
        lines = ["%s: %s" % (name, shorten(value))]
    return {"status": "error", "ename": name, "evalue": shorten(value), "traceback": shorten_lines(lines)}


def hide_kernel(error):
    """Leaves the user's frames, and what they called, in the tracebacks of error and of what led to it."""
    seen = set()
    todo = [error]
    while todo:
        error = todo.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        frames = []
        tb = error.__traceback__
        while tb is not None:
            frames.append(tb)
            tb = tb.tb_next
        names = [tb.tb_frame.f_code.co_filename for tb in frames]
        first = next((i for i, name in enumerate(names) if name.startswith("<cell ")), len(frames))
        kept = [tb for tb, name in zip(frames[first:], names[first:]) if not name.startswith("<execd>")]
        for tb, following in zip(kept, kept[1:] + [None]):
            tb.tb_next = following
        error.__traceback__ = kept[0] if kept else None
        todo += [error.__cause__, error.__context__]


def shorten(text, limit=TEXT_MAX):
    if len(text) <= limit:
        return text
    return "%s... (%d more characters)" % (text[:limit], len(text) - limit)


def shorten_lines(lines):
    total, kept = 0, []
    for line in lines:
        total += len(line)
        if total > TEXT_MAX:
            kept.append(shorten(line, max(0, TEXT_MAX - total + len(line))))
            break
        kept.append(line)
    return kept
