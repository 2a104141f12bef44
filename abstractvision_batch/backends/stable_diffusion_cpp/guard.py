"""Runs one program, and ends it when the process that started this one is gone.

Run as a script with the program's arguments. Standard input is the leash: its other end closes when the owner closes it
or dies, however it dies. Exits as the program did, or with 128 plus the number of the signal that ended it.
Uses the standard library alone and is never imported.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _end_on_hangup() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)  # the program, and this process with it


def main(command: list[str]) -> int:
    """Run a command to its end."""
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_on_hangup, daemon=True).start()
    status = program.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
