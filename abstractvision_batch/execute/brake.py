"""The brake: a run of which every request fails in the same way from the start stops after a few.

A wrong path, a model that the server cannot load, a pipeline that refuses every request: a hundred thousand rows would
be burnt in minutes. Counts are of one invocation and of all its workers. One success, or failures of two kinds, show
that not everything is wrong, and let the run go for good; policy refusals and passing failures say nothing.

Not covered: errors that no request survives and that say so (`DependencyError`), which end a run at once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass

#: Requests that fail in the same way, with none that succeeds, before the run stops. As many are sent before more are.
BRAKE_ROWS = 16
#: Of a message: what tells one kind of failure from another stands in front.
_SHAPE_CHARACTERS = 160
#: Quotations, and what looks like an id: hexadecimal, after a prefix, or letters and digits in one word.
_VARYING = re.compile(
    r"\[[^\]]*\]|'[^']*'|\"[^\"]*\"|\b[0-9a-f][0-9a-f-]{7,}\b|\b[a-z]{2,5}[_-][A-Za-z0-9_-]{6,}"
    r"|\b(?=\w*\d)(?=\w*[A-Za-z])\w{6,}\b|\d+(\.\d+)?"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed that would fail again."""

    kind: str
    message: str
    prompt: str = ""

    @property
    def shape(self) -> tuple[str, str]:
        """What failures of one cause share: no numbers, ids and quotations, and nothing of the prompt."""
        message = self.message
        if self.prompt.strip():
            message = re.sub(rf"(?<!\w){re.escape(self.prompt.strip())}(?!\w)", "", message)
            for word in self.prompt.split():  # a message may quote a part of it
                message = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "", message) if len(word) > 2 else message
        return self.kind, " ".join(_VARYING.sub("#", message).split())[:_SHAPE_CHARACTERS]


class Brake:
    """Counts what became of a run's first requests, for all threads of a process.

    Args:
        on: False where the run never stops.
    """

    def __init__(self, *, on: bool = True) -> None:
        self.released = not on
        """Whether the run may go, for good."""
        self.heard = False
        """Whether anything was counted."""
        self._failures = 0
        self._shape: tuple[str, str] | None = None
        self._stopped: str | None = None
        self._lock = threading.Lock()

    @property
    def calm(self) -> bool:
        """Whether there is no sign so far that everything fails."""
        return self.released or (self.heard and not self._failures)

    def note(self, succeeded: int, failures: Sequence[Failure]) -> str | None:
        """Take further requests; returns why the run stops, from when it does on."""
        with self._lock:
            self.heard = True
            for failure in failures:
                self._shape = self._shape or failure.shape
                if failure.shape != self._shape:
                    self.released = True
            self._failures += len(failures)
            if succeeded:
                self.released = True
            if not self.released and self._stopped is None and self._failures >= BRAKE_ROWS:
                last = failures[-1]
                self._stopped = (
                    f"stopped: the first {self._failures:,} requests all failed in the same way, {last.kind}: "
                    f"{last.message} (fix the cause, then avbatch retry runs these again and the same command the "
                    "others; or execution.stop_when_all_fail: false)"
                )
            return self._stopped
