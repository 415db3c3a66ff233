"""!command, %magic and %%magic without IPython; with it where it is installed and the magic is not one of ours.

A cell is transformed only when it is not Python as it stands. Lines keep their numbers.
"""

import importlib
import importlib.util
import inspect
import os
import pydoc
import re
import shlex
import shutil
import subprocess
import sys
import time
import timeit

CELL = re.compile(r"\s*%%([A-Za-z_]\w*)[ \t]*([^\n]*)\n?(.*)\Z", re.S)
_LINE = re.compile(r"(?P<indent>\s*)(?:(?P<target>[A-Za-z_][\w., \[\]'\"]*?)\s*=\s*)?(?:%(?P<name>[A-Za-z_]\w*)(?P<rest>.*)|!(?P<command>.*))\Z")
_HELP = re.compile(r"(?P<indent>\s*)(?:\?{1,2}(?P<before>[A-Za-z_][\w.]*)|(?P<after>[A-Za-z_][\w.]*)\?{1,2})\s*\Z")
_EXPAND = re.compile(r"\{([^{}\n]+)\}|\$\$|\$([A-Za-z_]\w*)")


class UsageError(Exception):
    pass


def dedent(source):
    """A cell may be indented as a whole: what its first line is indented by is taken from every line."""
    first = re.match(r"(?:[ \t]*\r?\n)*([ \t]*)(?=\S)", source)
    if not first or not first.group(1):
        return source
    return re.sub(r"(?m)^" + first.group(1), "", source)


def transform(source):
    """The source with its magic lines as calls, or None when it has none."""
    found = False
    scanner = Scanner()
    result = []
    lines = source.split("\n")
    while lines:
        line = lines.pop(0)
        if scanner.at_statement():
            taken = 1
            while line.endswith("\\") and lines and _LINE.match(line):
                line = line[:-1] + lines.pop(0).lstrip()
                taken += 1
            call = _call(line)
            if call is not None:
                found = True
                result.append(call)
                result += [""] * (taken - 1)
                continue
        scanner.feed(line)
        result.append(line)
    return "\n".join(result) if found else None


def _call(line):
    match = _HELP.match(line)
    if match:
        return "%s__execd__.help(%r)" % (match["indent"], match["before"] or match["after"])
    match = _LINE.match(line)
    if not match:
        return None
    if match["name"]:
        call = "__execd__.line(%r, %r)" % (match["name"], match["rest"].strip())
    elif match["target"]:
        call = "__execd__.capture(%r)" % match["command"]
    elif match["command"].startswith("!"):
        call = "__execd__.capture(%r)" % match["command"][1:]
    else:
        call = "__execd__.shell(%r)" % match["command"]
    return match["indent"] + (match["target"] + " = " if match["target"] else "") + call


class Scanner:
    """Knows whether a line begins a statement: not inside brackets, a long string or a continued line."""

    _TOKEN = re.compile(r"#.*|'''|\"\"\"|'(?:\\.|[^'\\])*'?|\"(?:\\.|[^\"\\])*\"?|[()\[\]{}]|\\\Z")

    def __init__(self):
        self.depth = 0
        self.quote = None
        self.continued = False

    def at_statement(self):
        return not (self.depth or self.quote or self.continued)

    def feed(self, line):
        self.continued = False
        at = 0
        while at <= len(line):
            if self.quote:
                end = re.compile(r"(?:\\.|(?!%s).)*?%s" % (self.quote, self.quote)).match(line, at)
                if not end:
                    return
                self.quote = None
                at = end.end()
            token = self._TOKEN.search(line, at)
            if not token:
                return
            at = token.end()
            text = token.group()
            if text in ("'''", '"""'):
                self.quote = text
            elif text in "([{":
                self.depth += 1
            elif text in ")]}":
                self.depth = max(0, self.depth - 1)
            elif text == "\\":
                self.continued = True


class Magics:
    def __init__(self, session):
        import builtins

        self.session = session
        self.ipython = None
        self.last_dir = None
        builtins.__execd__ = self

    def expand(self, text):
        """{expression} and $name, as far as they mean something in the context."""

        def value(match):
            expression, name = match.groups()
            if expression is not None:
                try:
                    return str(eval(expression, self.session.ns))
                except Exception:
                    return match.group()
            if name is None:
                return "$"
            return str(self.session.ns[name]) if name in self.session.ns else match.group()

        return _EXPAND.sub(value, text)

    # ---- programs ------------------------------------------------------------

    def shell(self, command):
        self._spawn([_shell(), "-c", self.expand(command)])

    def capture(self, command):
        """x = !command: the lines it prints."""
        text = self._spawn([_shell(), "-c", self.expand(command)], stdout=subprocess.PIPE)
        return text.decode("utf-8", "replace").splitlines()

    def _spawn(self, argv, text=None, **options):
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL if text is None else subprocess.PIPE, **options)
        try:
            out, _ = process.communicate(text)
        except BaseException:
            # The interrupt has reached the whole process group.
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        self.session.ns["_exit_code"] = process.returncode
        return out

    # ---- entry ---------------------------------------------------------------

    def line(self, name, rest):
        method = getattr(self, "line_" + name, None)
        if method is None:
            return self._ipython(name).run_line_magic(name, rest)
        if name not in ("time", "timeit"):
            rest = self.expand(rest)
        return method(rest)

    def cell(self, name, rest, body, cell_name):
        method = getattr(self, "cell_" + name, None)
        if method is None:
            return self._ipython(name).run_cell_magic(name, rest, body)
        return method(rest, body, cell_name)

    def help(self, name):
        try:
            obj = eval(name, self.session.ns)
        except Exception:
            print("Object `%s` not found." % name)
            return
        print(pydoc.render_doc(obj, renderer=pydoc.plaintext))

    def _ipython(self, name):
        if self.ipython is None:
            if importlib.util.find_spec("IPython") is None:
                raise UsageError("magic %%%s is not known here, and IPython is not installed" % name) from None
            self.ipython = self._start_ipython()
        return self.ipython

    def _start_ipython(self):
        from IPython.core.displaypub import DisplayPublisher
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        display = self.session.display

        class Publisher(DisplayPublisher):
            def publish(self, data, *args, **options):
                display.publish(data)

        class Shell(InteractiveShell):
            def enable_gui(self, gui=None):
                pass

        config = Config()
        config.HistoryManager.enabled = False
        config.HistoryManager.hist_file = ":memory:"
        saved = sys.stdout, sys.stderr, sys.displayhook, sys.excepthook, signal_handler()
        shell = Shell.instance(config=config, user_module=self.session.main, display_pub_class=Publisher)
        sys.stdout, sys.stderr, sys.displayhook, sys.excepthook, handler = saved
        restore_signal_handler(handler)
        sys.modules["__main__"] = self.session.main
        return shell

    # ---- line magics -----------------------------------------------------------

    def line_pip(self, rest):
        self._spawn([sys.executable, "-m", "pip", *shlex.split(rest)])
        importlib.invalidate_caches()

    def line_cd(self, rest):
        path = rest.strip().strip("'\"") or "~"
        if path == "-":
            if self.last_dir is None:
                raise UsageError("%cd -: no directory before this one")
            path = self.last_dir
        before = os.getcwd()
        os.chdir(os.path.expanduser(os.path.expandvars(path)))
        self.last_dir = before
        print(os.getcwd())

    def line_pwd(self, rest):
        return os.getcwd()

    def line_env(self, rest):
        if not rest:
            return dict(os.environ)
        name, sep, value = rest.partition("=")
        if not sep:
            name, sep, value = rest.partition(" ")
        if not sep:
            if name not in os.environ:
                raise UsageError("environment variable %s is not set" % name)
            return os.environ[name]
        os.environ[name.strip()] = value.strip()
        print("env: %s=%s" % (name.strip(), value.strip()))
        return None

    line_set_env = line_env

    def line_time(self, rest):
        with Timing():
            return self.session.evaluate(rest, "<%time>")

    def line_timeit(self, rest):
        self._timeit(rest, "pass")

    def line_matplotlib(self, rest):
        pass  # figures are shown anyway

    def line_who(self, rest):
        names = [n for n in self.session.ns if not n.startswith("_") and not inspect.ismodule(self.session.ns[n])]
        print("\t".join(sorted(names)) if names else "Interactive namespace is empty.")

    def line_reset(self, rest):
        for name in [n for n in self.session.ns if not n.startswith("__")]:
            del self.session.ns[name]

    def line_run(self, rest):
        argv = shlex.split(rest)
        if not argv:
            raise UsageError("%run: which file?")
        saved = sys.argv
        sys.argv = argv
        try:
            with open(argv[0], "rb") as file:
                exec(compile(file.read(), argv[0], "exec"), self.session.ns)
        finally:
            sys.argv = saved

    def line_lsmagic(self, rest):
        names = [n for n in dir(self) if n.startswith(("line_", "cell_"))]
        print(" ".join(sorted(n.replace("line_", "%").replace("cell_", "%%") for n in names)))

    # ---- cell magics -----------------------------------------------------------

    def cell_time(self, rest, body, name):
        with Timing():
            return self.session.evaluate(body, name)

    def cell_timeit(self, rest, body, name):
        self._timeit(body, rest or "pass")

    def cell_bash(self, rest, body, name):
        self._spawn(["bash", "-s", "--", *shlex.split(rest)], body.encode())
        self._raise_for_exit("bash")

    def cell_sh(self, rest, body, name):
        self._spawn(["sh", "-s", "--", *shlex.split(rest)], body.encode())
        self._raise_for_exit("sh")

    def cell_script(self, rest, body, name):
        self._spawn(shlex.split(rest), body.encode())
        self._raise_for_exit(rest)

    def cell_writefile(self, rest, body, name):
        argv = shlex.split(rest)
        append = "-a" in argv or "--append" in argv
        paths = [a for a in argv if a not in ("-a", "--append")]
        if len(paths) != 1:
            raise UsageError("%%writefile: one file name, please")
        path = os.path.expanduser(self.expand(paths[0]))
        print("%s %s" % ("Appending to" if append else "Overwriting" if os.path.exists(path) else "Writing", path))
        with open(path, "a" if append else "w", encoding="utf-8") as file:
            file.write(body)

    def cell_capture(self, rest, body, name):
        import contextlib
        import io

        out, err, shown = io.StringIO(), io.StringIO(), []
        self.session.display.capture = shown
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                self.session.run(body, name)
        finally:
            self.session.display.capture = None
        if rest:
            self.session.ns[rest.split()[0]] = Captured(out.getvalue(), err.getvalue(), shown)

    def cell_html(self, rest, body, name):
        self.session.display.publish({"text/html": body})

    def cell_markdown(self, rest, body, name):
        self.session.display.publish({"text/markdown": body})

    def cell_latex(self, rest, body, name):
        self.session.display.publish({"text/latex": body})

    def cell_javascript(self, rest, body, name):
        self.session.display.publish({"application/javascript": body})

    cell_HTML, cell_js = cell_html, cell_javascript

    # ---- helpers ---------------------------------------------------------------

    def _raise_for_exit(self, what):
        code = self.session.ns["_exit_code"]
        if code:
            raise subprocess.CalledProcessError(code, what)

    def _timeit(self, statement, setup):
        number, repeat = 0, 7
        while True:  # -n loops, -r runs
            option = re.match(r"\s*-([nr])\s*(\d+)\s*", statement)
            if not option:
                break
            statement = statement[option.end() :]
            if option.group(1) == "n":
                number = int(option.group(2))
            else:
                repeat = max(1, int(option.group(2)))
        timer = timeit.Timer(statement, setup, globals=self.session.ns)
        number = number or timer.autorange()[0]
        runs = [total / number for total in timer.repeat(repeat, number)]
        mean = sum(runs) / len(runs)
        deviation = (sum((run - mean) ** 2 for run in runs) / len(runs)) ** 0.5
        print(
            "%s ± %s per loop (mean ± std. dev. of %d runs, %s loops each)"
            % (seconds(mean), seconds(deviation), len(runs), format(number, ","))
        )


class Captured:
    def __init__(self, stdout, stderr, outputs):
        self.stdout, self.stderr, self.outputs = stdout, stderr, outputs

    def __str__(self):
        return self.stdout

    def show(self):
        sys.stdout.write(self.stdout)
        sys.stderr.write(self.stderr)


class Timing:
    def __enter__(self):
        self.wall, self.cpu = time.perf_counter(), os.times()

    def __exit__(self, *error):
        wall, cpu = time.perf_counter() - self.wall, os.times()
        user, system = cpu.user - self.cpu.user, cpu.system - self.cpu.system
        print("CPU times: user %s, sys: %s, total: %s" % (seconds(user), seconds(system), seconds(user + system)))
        print("Wall time: %s" % seconds(wall))


def seconds(value):
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
        if value * scale >= 1 or unit == "ns":
            return "%.3g %s" % (value * scale, unit)
    return ""


def _shell():
    return shutil.which("bash") or "/bin/sh"


def signal_handler():
    import signal

    return signal.getsignal(signal.SIGINT)


def restore_signal_handler(handler):
    import signal

    signal.signal(signal.SIGINT, handler)
