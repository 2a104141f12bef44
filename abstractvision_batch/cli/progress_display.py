"""Shows how far a run is, on stderr: a bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from abstractvision_batch.cli.output import format_duration, format_rate, print_notes

if TYPE_CHECKING:
    from abstractvision_batch.execute.progress import Progress, ProgressListener

SECONDS_BETWEEN_LINES = 5.0
#: The rate is of this long before now: a model that took minutes to load, or a machine that joined, stops counting.
RATE_WINDOW_S = 120.0


class RateMeter:
    """Requests per second over the last `RATE_WINDOW_S` seconds; what an earlier run did does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])

    def update(self, generated: int) -> None:
        """Note that `generated` requests are done by now."""
        now = self._clock()
        self._samples.append((now, generated))
        while len(self._samples) > 2 and self._samples[1][0] < now - RATE_WINDOW_S:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        """0 until something was generated."""
        (since, before), (until, after) = self._samples[0], self._samples[-1]
        return (after - before) / (until - since) if until > since else 0.0


class ProgressLines:
    """A line of text now and then: for logs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._meter = RateMeter(clock)
        self._next_line_at = -1.0
        self._last: Progress | None = None
        self._shown: Progress | None = None

    def update(self, progress: Progress) -> None:
        """Take note of `progress`, and print it if a line is due."""
        if progress.skipped == progress.requests:
            return  # nothing to do, as the summary says
        self._meter.update(progress.generated)
        new_phase = self._last is None or progress.phase != self._last.phase
        if progress.executor and (self._last is None or progress.executor != self._last.executor):
            print_notes(f"executor: {progress.executor}")
        self._last = progress
        if new_phase or self._clock() >= self._next_line_at:
            self._print(progress)

    def close(self) -> None:
        """Print what is not printed yet."""
        if self._last is not None and self._last != self._shown:
            self._print(self._last)

    def _print(self, progress: Progress) -> None:
        self._shown = progress
        self._next_line_at = self._clock() + SECONDS_BETWEEN_LINES
        try:
            print_notes(f"{progress.phase}: {describe_progress(progress, self._meter.per_second)}")
        except BrokenPipeError:
            self._next_line_at = float("inf")  # whoever read the lines is gone; the run goes on


def describe_progress(progress: Progress, per_second: float) -> str:
    """Counts, failures, rate and time left, as one line."""
    share = progress.done / progress.requests if progress.requests else 1.0
    parts = [f"{progress.done:,}/{progress.requests:,} requests ({share:.0%})"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if per_second > 0:
        parts.append(format_rate(per_second))
        remaining = progress.requests - progress.done
        if remaining:
            parts.append(f"about {format_duration(remaining / per_second)} left")
    return ", ".join(parts)


class ProgressBar:
    """A bar that redraws itself."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._meter = RateMeter()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._executor = ""
        self._task: Any = self._bar.add_task("prepare", total=None, text="")
        self._bar.start()

    def update(self, progress: Progress) -> None:
        """Draw `progress`."""
        self._meter.update(progress.generated)
        if progress.executor != self._executor:
            self._executor = progress.executor
            self._bar.console.print(f"executor: {progress.executor}", markup=False, highlight=False)
        self._bar.update(
            self._task,
            description=progress.phase,
            total=progress.requests,
            completed=progress.done,
            text=describe_progress(progress, self._meter.per_second),
        )

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[ProgressListener | None]:
    """What a run reports to; None if nothing is to be shown."""
    if quiet:
        yield None
        return
    on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    display = ProgressBar() if on_terminal else ProgressLines()
    try:
        yield display.update
    finally:
        display.close()
