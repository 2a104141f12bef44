"""`show-backend`: what a spec may say of a backend, and what its requests may."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abstractvision_batch.cli.command import JsonOption, RegistryOption
from abstractvision_batch.cli.output import print_json, print_lines, print_notes, print_table

if TYPE_CHECKING:
    from abstractvision_batch.backends.choices import Choice, SchedulerFacts
    from abstractvision_batch.verbs.show_backend import ShownField


def show_backend(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="`diffusers`, `sdcpp`, `openai`, ... or one installed.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Also what requests for this model may say: its id, a folder or a file."),
    ] = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the fields of a backend, its extra parameters and schedulers.

    No weights are loaded: what a model takes is read from its configuration and from signatures.
    """
    from abstractvision_batch.text.to_json import to_json
    from abstractvision_batch.verbs.show_backend import show_backend

    shown = show_backend(kind, model, registry_paths=registry or ())
    if as_json:
        print_json(to_json(shown))
        return
    print_lines(shown.kind + (f"  ({shown.package})" if shown.package else ""), f"  {shown.about}", "")
    print_table(
        ("FIELD", "DEFAULT", "TAKES", ""),
        [(one.name, _need(one), one.type, one.about) for one in shown.fields],
    )
    found = shown.of_model
    extras = (*shown.extras, *(found.extras if found else ()))
    if extras:
        print_lines("", "params.extra of a request")
        print_table(("NAME", "DEFAULT", "TYPE", "OF"), _extra_rows(extras))
    if found and found.schedulers:
        own = [setting for one in found.schedulers if one.is_own for setting in one.settings]
        print_lines("", f"schedulers that fit {shown.model}: what its own has, and the others have besides")
        print_table(("SCHEDULER", "NAMES", "SETTINGS"), [_scheduler_row(one, own) for one in found.schedulers])
    if shown.variables:
        print_lines("", "environment variables, for generate, repl and the plugin")
        print_table(("VARIABLE", "WHAT IT SETS"), [(one.name, one.description) for one in shown.variables])
    for note in filter(None, (shown.note, found and found.note)):
        print_notes(f"note: {note}")


def _extra_rows(extras: Iterable[Choice]) -> list[tuple[str, str, str, str]]:
    """One row for each, with all that take it."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for one in extras:
        rows.setdefault((one.name, _need(one), one.type), []).append(one.of)
    return [(*row, " ".join(filter(None, of))) for row, of in rows.items()]


def _scheduler_row(one: SchedulerFacts, own: Iterable[Choice]) -> tuple[str, str, str]:
    known = set() if one.is_own else {(setting.name, _written(setting.default)) for setting in own}
    settings = ((setting.name, _written(setting.default)) for setting in one.settings)
    written = ", ".join(f"{name}: {value}" for name, value in settings if (name, value) not in known)
    return f"{one.name}{' (its own)' if one.is_own else ''}", ", ".join(one.known_as), written


def _need(one: Choice | ShownField) -> str:
    return "required" if one.required else _written(one.default)


def _written(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
