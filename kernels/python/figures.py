"""The matplotlib backend of a context: Agg, and show() shows the open figures where the cell stands."""

from _execd import display
from matplotlib.backend_bases import _Backend
from matplotlib.backends.backend_agg import _BackendAgg


@_Backend.export
class _Figures(_BackendAgg):
    @staticmethod
    def show(*args, **options):
        display.current.flush_figures()
