"""`rerun`: execute the plan of a run again."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, SetOption, StorageOption, TrustOption
from abstractvision_batch.cli.commands.run import summarise_run
from abstractvision_batch.cli.commands.status import RunArgument, locate_run
from abstractvision_batch.cli.output import print_json, print_lines, print_notes
from abstractvision_batch.cli.progress_display import show_progress
from abstractvision_batch.text.to_json import to_json


def rerun(
    path: RunArgument,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="PATH", help="Folder or URL of the new run.", show_default=False)
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse packages, a machine or switches that are not as they were.")
    ] = False,
    accept_weights: Annotated[
        bool, typer.Option("--accept-weights", help="Run with other weights than the run had, which is refused else.")
    ] = False,
    overrides: SetOption = None,
    trust: TrustOption = False,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Execute the frozen plan of a run again, elsewhere; the same command again resumes.

    --set takes fields that change no pixel.
    """
    from abstractvision_batch.runs.opened import open_run
    from abstractvision_batch.verbs.rerun import rerun as execute_again

    folder, options = locate_run(path, storage_options)
    with redirect_stdout(sys.stderr), show_progress(quiet=quiet) as on_progress:
        result = execute_again(
            folder,
            output,
            overrides=overrides or (),
            strict=strict,
            accept_weights=accept_weights,
            trust=trust,
            storage_options=options,
            on_progress=on_progress,
        )
    if as_json:
        print_json({"ok": result.exit_code == 0, **to_json(result)})
    elif not quiet:
        print_lines(*summarise_run(open_run(folder, options).record.spec, result, ()))
        print_lines(f"compare    avbatch diff {folder} {output}")
    if result.incomplete_because:
        print_notes(result.incomplete_because)
    raise typer.Exit(result.exit_code)
