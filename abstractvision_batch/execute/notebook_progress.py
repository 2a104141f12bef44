"""Show how far a run is, below the cell of a notebook that runs it.

The notebook's own display does it, so it needs no package and no widget. Not covered: terminals (`cli`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abstractvision_batch.execute.progress import Progress

SECONDS_BETWEEN_UPDATES = 0.2


def find_notebook() -> Callable[[Progress], None] | None:
    """Return what draws a bar in the notebook that this process is the kernel of; None where it is of none."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return NotebookBar() if hasattr(get_ipython(), "kernel") else None


class NotebookBar:
    """A bar that draws itself again."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last: Progress | None = None
        self._next_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Draw the progress, unless that was done a moment ago."""
        last, self._last = self._last, progress
        new = last is None or (last.phase, last.executor) != (progress.phase, progress.executor)
        if not new and progress.done < progress.requests and time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + SECONDS_BETWEEN_UPDATES
        shown = {"text/plain": _describe(progress), "text/html": _draw(progress)}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


def _describe(progress: Progress) -> str:
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    executor = f", {progress.executor}" if progress.executor else ""
    return f"{progress.phase}: {progress.done:,} of {progress.requests:,} requests{failed}{executor}"


def _draw(progress: Progress) -> str:
    bar = f'<progress value="{progress.done}" max="{max(1, progress.requests)}" style="width: 20em"></progress>'
    return f"{bar} {escape(_describe(progress))}"
