"""A comparison of two runs as a page that shows the pairs that differ."""

from __future__ import annotations

from pathlib import Path

from abstractvision_batch.errors import StorageError
from abstractvision_batch.report.diff_page import PagePair, draw_page
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.verbs.diff import DiffReport, Pair


def write_page(report: DiffReport, there: Run, here: Run, path: Path, *, pairs: int) -> None:
    """Write the page of the first `pairs` pairs to a local file.

    Raises:
        StorageError: the file cannot be written.
    """
    page = draw_page(
        [_shown(pair) for pair in report.pairs[:pairs]],
        there=report.there,
        here=report.here,
        total=len(report.pairs),
        counts=report.by_verdict,
        changes=report.changes,
        read_there=there.read_artifact,
        read_here=here.read_artifact,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error} (choose another --html)") from error


def _shown(pair: Pair) -> PagePair:
    figures = pair.verdict if pair.comparison is None else pair.comparison.describe()
    return PagePair(pair.there, pair.here, figures, pair.changed)
