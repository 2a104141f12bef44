"""A process that has imported everything and forks a driver on request: one in milliseconds instead of a second.

Requests come as lines of JSON on stdin, answers go to stdout. It stays single-threaded, so a fork is whole.

    {"start": {...}}   →  {"pid": 17}
    {"wait": 17}       →  {"status": 9}      as of `os.waitpid`
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import botocore.session
import pyarrow.dataset  # noqa: F401  what Arrow imports when a table is filtered
import typer
from botocore.loaders import JSONFileLoader
from PIL import Image

# What commands import when they are called.
from abstractvision_batch.backends.table import list_backends
from abstractvision_batch.cli.app import app
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.runs.environment import describe_driver
from tests.support.crash.faults import FAULTS
from tests.support.crash.points import Points


def main() -> None:
    """Answer requests until stdin ends."""
    # What is read once a process, before there are many.
    dict(load_cards())
    list_backends()
    describe_driver()
    Image.init()
    _keep_what_botocore_reads()
    command = typer.main.get_command(app)
    gc.collect()
    gc.freeze()  # else the first collection of every fork copies all of it
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = {"status": os.waitpid(request["wait"], 0)[1]}
        else:
            pid = os.fork()
            if pid == 0:
                _drive(command, **request["start"])
            answer = {"pid": pid}
        answers.write(json.dumps(answer) + "\n")


def _drive(
    command: Any,
    commands: list[list[str]],
    folder: str,
    root: str,
    environment: dict[str, str],
    faults: list[str],
    **points: Any,
) -> NoReturn:
    """Run commands one after the other, and end this process.

    Args:
        command: The command line.
        commands: Arguments of each.
        folder: Gets `<number>.json` of each command that ended, and `<number>.log` with the points that it reached.
        root: Of the run, as `Points` has it.
        environment: Set here.
        faults: Names of `FAULTS`.
        points: What happens at points of the first command.
    """
    os.environ.update(environment)
    for fault in faults:
        FAULTS[fault]()
    watched = Points(root, Path(folder, "0.log"), **points)
    if root.startswith("/"):
        watched.watch_disk()
    else:
        watched.watch_s3()
    for number, arguments in enumerate(commands):
        if number > 0:
            watched.turn_to(Path(folder, f"{number}.log"))
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                command.main(args=arguments, prog_name="avbatch")
            except SystemExit as ended:
                code = int(ended.code or 0)
        watched.reach("end")
        said = {"exit_code": code, "out": out.getvalue(), "err": err.getvalue()}
        Path(folder, f"{number}.json").write_text(json.dumps(said))
    os._exit(0)


def _keep_what_botocore_reads() -> None:
    """A client is made of 1 MB of JSON, which every fork would parse again."""
    load, found = JSONFileLoader.load_file, dict[str, Any]()

    def load_file(loader: JSONFileLoader, path: str) -> Any:
        if path not in found:
            found[path] = load(loader, path)
        return found[path]

    JSONFileLoader.load_file = load_file
    botocore.session.get_session().create_client("s3", region_name="us-east-1")


if __name__ == "__main__":
    main()
