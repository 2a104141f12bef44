"""The `avbatch` command: parsing and printing only; what it does is a call into the library."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line, the process's own where none is given. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A prompt in a script that the terminal's encoding lacks is shown escaped; it does not end the command.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    from abstractvision_batch.cli.app import app
    from abstractvision_batch.cli.command import INTERRUPTED
    from abstractvision_batch.cli.output import NotesHandler

    logging.lastResort = NotesHandler(logging.WARNING)  # of warnings that nobody else takes

    try:
        app(args=args, prog_name="avbatch")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = INTERRUPTED
    else:
        code = 0
    if code == INTERRUPTED and args is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the key may still be down, and libraries clean up at exit
    return code
