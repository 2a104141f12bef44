"""A small program in the place of avbatch, which ends with one exit code after the other, and counts its starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: Exit codes of the starts in turn, how many starts there should be, and the exit code of the last one.
ENDINGS = [
    ((0,), 1, 0),
    ((70, 0), 2, 0),
    ((4, 70, 1), 3, 1),
    ((1, 0), 1, 1),
    ((2, 0), 1, 2),
    ((3, 0), 1, 3),
    ((130, 0), 1, 130),
    ((4, 4, 4, 4, 0), 4, 4),
]


def ends_in_turn(folder: Path, codes: Sequence[int]) -> Path:
    """Write the program; returns the folder that it is in."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "avbatch").write_text(
        f"#!/bin/sh\nset -- {' '.join(map(str, codes))}\n"
        f"echo >> '{folder}/starts'\nshift $(($(wc -l < '{folder}/starts') - 1))\nexit $1\n",
        encoding="utf-8",
    )
    (programs / "avbatch").chmod(0o755)
    return programs


def count_starts(folder: Path) -> int:
    """Count how often it was started."""
    return len((folder / "starts").read_text(encoding="utf-8").splitlines())
