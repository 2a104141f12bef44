"""`schema`: what an editor needs to complete and check a spec."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from abstractvision_batch.cli.command import JsonOption
from abstractvision_batch.cli.output import print_json, print_lines
from abstractvision_batch.errors import SpecError


def schema(
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the JSON Schema of a job spec.

    With it an editor completes and checks specs; each of them names it in its first line.
    """
    text = Path(schema_path()).read_text(encoding="utf-8")
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


def schema_path() -> str:
    """Return where the schema is installed."""
    return str(files("abstractvision_batch") / "avbatch.schema.json")
