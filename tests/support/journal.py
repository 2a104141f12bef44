"""What the procedural backend wrote down of its work: which process began which request when."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WAIT_S = 60.0


@dataclass(frozen=True, slots=True, order=True)
class Begun:
    """A request that a worker began to generate; the seed is its own among the requests of these tests."""

    begun_at: float
    """Seconds since the epoch."""
    pid: int
    seed: int


def read_journal(path: Path) -> list[Begun]:
    """What was begun, in order; nothing where nothing was."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return sorted(Begun(line["begun_at"], line["pid"], line["seed"]) for line in lines)


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = WAIT_S) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.01)
