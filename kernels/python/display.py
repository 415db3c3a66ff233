"""What a value looks like: MIME bundles, display(), and the libraries that want to draw."""

import base64
import builtins
import importlib.abc
import io
import os
import sys
import traceback

from _execd.wire import RESULT, encode

TEXT_MAX = 1 << 20  # characters of text/plain
MIME_MAX = 8 << 20  # bytes of one representation as JSON
BUNDLE_MAX = 16 << 20  # bytes of all of them

METHODS = (
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("text/latex", "_repr_latex_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("application/json", "_repr_json_"),
    ("application/javascript", "_repr_javascript_"),
    ("application/pdf", "_repr_pdf_"),
)


class Handle:
    """What display(..., display_id=True) returns: there is nothing to replace, so an update is shown anew."""

    def __init__(self, display_id, show):
        self.display_id = display_id
        self._show = show

    def display(self, obj, **options):
        self._show(obj, **options)

    update = display


class Display:
    def __init__(self, session):
        self.session = session
        self.shown = set()  # figures of this cell that need not be shown at its end
        self.capture = None  # a list takes what would be sent

    def install(self):
        global current
        current = self
        builtins.display = self.display
        sys.displayhook = self.hook
        AfterImport(
            {
                "matplotlib": self._use_figures,
                "IPython.core.display_functions": self._use_display,
            }
        ).install()

    def hook(self, value):
        """sys.displayhook: the value of a cell's last expression."""
        if value is None:
            return
        self.publish(self.bundle(value), last=True)
        builtins._ = value

    def display(
        self,
        *objs,
        include=None,
        exclude=None,
        metadata=None,
        transient=None,
        display_id=None,
        raw=False,
        clear=False,
        **options
    ):
        """Shows objects in their richest forms, where the cell stands."""
        for obj in objs:
            data = dict(obj) if raw else self.bundle(obj)
            if include or exclude:
                data = {k: v for k, v in data.items() if (not include or k in include) and k not in (exclude or ())}
            self.publish(data)
        if display_id:
            return Handle(display_id if isinstance(display_id, str) else "%x" % id(objs), self.display)
        return None

    def publish(self, data, metadata=None, source=None, last=False, **options):
        """last: nothing is expected to be written after it, so who does that waits and not the cell's end."""
        if self.capture is not None:
            self.capture.append(data)
            return
        usable, total = {}, 0
        for mime, value in data.items():
            if isinstance(value, (bytes, bytearray)):
                value = base64.b64encode(value).decode()
            try:
                size = len(encode(value))
            except (TypeError, ValueError):
                continue  # not JSON
            if size > MIME_MAX or total + size > BUNDLE_MAX:
                usable.setdefault("text/plain", "<%s of %d bytes is too large to be shown>" % (mime, size))
                continue
            total += size
            usable[str(mime)] = value
        if usable:
            self.session.flush()
            self.session.wire.send(RESULT, {"data": usable})
            if last:
                self.session.turn = self
            else:
                self.session.sync()

    # ---- bundles -------------------------------------------------------------

    def bundle(self, obj):
        data = {}
        if not isinstance(obj, type):
            figure = sys.modules.get("matplotlib.figure")
            if figure is not None and isinstance(obj, figure.Figure):
                self.shown.add(obj)
                data["image/png"] = png(obj)
            else:
                self._rich(obj, data)
        if "text/plain" not in data:
            data["text/plain"] = shorten(repr(obj))
        return data

    def _rich(self, obj, data):
        bundle = self._call(obj, "_repr_mimebundle_", include=None, exclude=None)
        if isinstance(bundle, tuple):
            bundle = bundle[0]
        if isinstance(bundle, dict):
            data.update(bundle)
        for mime, method in METHODS:
            if mime in data:
                continue
            value = self._call(obj, method)
            if isinstance(value, tuple):
                value = value[0]
            if value is not None:
                data[mime] = value

    def _call(self, obj, name, **options):
        """obj.name(), or None. A rich form that fails is no reason to lose the others."""
        if getattr(type(obj), name, None) is None:
            return None
        try:
            return getattr(obj, name)(**options)
        except NotImplementedError:
            return None
        except Exception:
            traceback.print_exc()
            return None

    # ---- libraries -------------------------------------------------------------

    def _use_figures(self, matplotlib):
        if not os.environ.get("MPLBACKEND"):
            matplotlib.rcParams["backend"] = "module://_execd.figures"

    def flush_figures(self):
        """Shows what pyplot has drawn and not shown yet, and closes it."""
        helpers = sys.modules.get("matplotlib._pylab_helpers")
        pyplot = sys.modules.get("matplotlib.pyplot")
        if helpers is not None and pyplot is not None:
            try:
                for manager in helpers.Gcf.get_all_fig_managers():
                    figure = manager.canvas.figure
                    if figure not in self.shown and (figure.axes or figure.lines or figure.texts):
                        self.publish(self.bundle(figure))
            finally:
                pyplot.close("all")
        self.shown.clear()

    def _use_display(self, module):
        """IPython's own would print repr() where no IPython shell runs."""
        module.display = self.display
        module.publish_display_data = self.publish
        module.clear_output = lambda wait=False: None


current = None  # the Display of this process


def png(figure):
    out = io.BytesIO()
    figure.canvas.print_figure(
        out, format="png", bbox_inches="tight", dpi=figure.dpi, facecolor=figure.get_facecolor()
    )
    return out.getvalue()


def shorten(text):
    if len(text) <= TEXT_MAX:
        return text
    return "%s... (%d more characters)" % (text[:TEXT_MAX], len(text) - TEXT_MAX)


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls hooks[name](module) once the module has been imported."""

    def __init__(self, hooks):
        self.hooks = hooks

    def install(self):
        for name in list(self.hooks):
            if name in sys.modules:
                self.hooks.pop(name)(sys.modules[name])
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname, path=None, target=None):
        hook = self.hooks.get(fullname)
        if hook is None:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find and finder is not self else None
            if spec is not None:
                break
        else:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.hooks.pop(fullname, None)
            hook(module)

        spec.loader.exec_module = exec_module
        return spec
