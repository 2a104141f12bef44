"""A fault of avbatch itself: one line for a person, and the traceback in a file that is there to be reported."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from datetime import UTC, datetime

from abstractvision_batch.version import __version__

#: Exit code: schedulers may start the same command again.
FAULT = 70


def write_fault(error: BaseException) -> str:
    """Write an unexpected exception's traceback where only its user reads it. Returns the line that says so."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    lines = traceback.format_exception(error)
    head = f"avbatch {__version__}, Python {sys.version.split()[0]}, {datetime.now(UTC).isoformat(timespec='seconds')}"
    text = f"{head}\n{' '.join(sys.argv)}\n\n{''.join(lines)}"
    try:
        handle, path = tempfile.mkstemp(prefix="avbatch-fault-", suffix=".txt")  # of this user alone
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as exc:
        where = f"its traceback cannot be written: {exc.strerror or exc}"
    else:
        where = f"traceback: {path}"
    return f"avbatch: a fault of its own, please report it: {said} ({where}; running the same command again resumes)"
