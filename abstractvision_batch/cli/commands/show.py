"""`show`: what a file says of how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abstractvision_batch.cli.command import JsonOption
from abstractvision_batch.cli.output import one_line, print_json, print_lines
from abstractvision_batch.errors import InvalidOutputError, SpecError


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A PNG, JPEG, WebP or MP4 file.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a file says of how it was made, by avbatch or by another tool.

    Prints nothing for a file that says nothing.
    """
    from abstractvision_batch.cli.output_files import read_input
    from abstractvision_batch.media.metadata.embed import read_parameters

    try:
        parameters = read_parameters(read_input(str(file), "FILE"))
    except InvalidOutputError as error:
        raise SpecError(f"{file}: {error}") from error
    if as_json:
        print_json({"ok": True, "path": str(file), "parameters": parameters})
        return
    width = max(map(len, parameters), default=0)
    print_lines(*(f"{one_line(name):{width}}  {one_line(value)}" for name, value in parameters.items()))
