"""`schema`: what an editor needs to complete and check a spec."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from abstractvision_batch.cli.command import JsonOption
from abstractvision_batch.cli.output import print_json, print_lines, print_notes
from abstractvision_batch.errors import DependencyError, SpecError


def schema(
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the JSON Schema of a job spec.

    With it an editor completes and checks specs; each of them names it in its first line. Backends of other installed
    packages are in what is printed, not in the file that a new spec names.
    """
    from abstractvision_batch.backends.table import outside_backends

    text = _schema_of_all() if outside_backends() else Path(schema_path()).read_text(encoding="utf-8")
    if output is None:
        if as_json:
            print_json(json.loads(text))
        else:
            print_lines(text.rstrip("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{output}: cannot be written: {error.strerror}") from error
    if as_json:
        print_json({"ok": True, "path": str(output)})
    else:
        print_lines(f"wrote {output}")


def _schema_of_all() -> str:
    """Return the schema with the sections of other packages' backends; those that are broken are left out."""
    from abstractvision_batch.backends.table import BACKENDS, load_section_class, outside_backends
    from abstractvision_batch.job.schema import schema_text

    kinds = list(BACKENDS)
    for kind in outside_backends().keys() - BACKENDS.keys():
        try:
            load_section_class(kind)
        except DependencyError as error:
            print_notes(f"left out: {error}")
        else:
            kinds.append(kind)
    return schema_text(kinds)


def schema_path() -> str:
    """Return where the schema is installed."""
    return str(files("abstractvision_batch") / "avbatch.schema.json")
