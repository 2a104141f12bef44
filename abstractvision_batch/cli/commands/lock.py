"""`lock`: pin what a spec names from outside of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, SpecArgument
from abstractvision_batch.cli.output import print_json, print_lines, print_notes
from abstractvision_batch.cli.spec_options import TimedOptions


def lock(
    spec: SpecArgument,
    given: TimedOptions,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The lock file (SPEC with .lock.json).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pin the prompts, weights, model card and packages of a job in a file that `run --locked` enforces."""
    from abstractvision_batch.verbs.lock import lock as write_lock

    job = given.load(spec)
    programs = {name: program for own in job.specs for name, program in own.backend.asked_programs.items()}
    for name, program in programs.items():
        print_notes(f"asks the program {program} for its version ({name})")
    target = write_lock(job, output)
    if as_json:
        print_json({"ok": True, "path": str(target)})
    else:
        print_lines(f"locked     {target}", f"enforce    avbatch run {spec} --locked")
