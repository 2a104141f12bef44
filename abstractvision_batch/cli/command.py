"""How every command ends: errors as one line per problem, interrupts, closed pipes, exit codes.

A mistake of the user prints lines and no traceback; a bug prints one line, and its traceback goes to a file.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from abstractvision_batch.cli.output import plural, print_json, print_notes
from abstractvision_batch.errors import AbstractVisionError
from abstractvision_batch.version import __version__

INTERRUPTED = 130
#: What typer raises for a wrong command line; click, of which it is, is a part of it in newer ones.
_USAGE: tuple[Any, ...] = typer.BadParameter.__mro__[1:3]
CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports any other program

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="The job spec, a YAML file.", show_default=False)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the spec, as params.steps=30; repeatable."),
]
RegistryOption = Annotated[
    list[str] | None,
    typer.Option("--registry", metavar="PATH", help="File or folder with more model cards; repeatable."),
]
StorageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="Option of the run's store, as endpoint_url=http://127.0.0.1:9000 or secret=env:NAME; repeatable.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Use servers, secrets, programs and paths that the run recorded, though you did not start it; they are "
        "listed first.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="ID",
        help="Only this request, named by its id or the first 6 characters of it, or more; repeatable, and @FILE has "
        "one in each line.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of text.")]


class _PlainEnd:
    """Errors are printed as the user of a command needs them."""

    def invoke(self, ctx: Any) -> Any:
        """Call the command's function."""
        try:
            result = super().invoke(ctx)  # type: ignore[misc]
            sys.stdout.flush()  # a closed pipe shows here, not when the interpreter ends
        except AbstractVisionError as error:
            _print_error(error, as_json=bool(ctx.params.get("as_json")))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            print_notes("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(CLOSED_PIPE) from error
        except (*_USAGE, typer.Exit, typer.Abort):
            raise  # a wrong command line, or the command's own end
        except Exception as error:
            # Neither the user's mistake nor the world's: a fault of ours.
            said = write_fault(error)
            if ctx.params.get("as_json"):
                print_json({"ok": False, "error": type(error).__name__, "problems": [said], "exit_code": FAULT})
            print_notes(said)
            raise typer.Exit(FAULT) from error
        return result


class Command(_PlainEnd, TyperCommand):
    """A command whose errors are printed as its user needs them."""


class CommandGroup(_PlainEnd, TyperGroup):
    """A command that has others under it, and does something of its own without them."""


def check_choice(option: str, value: str | None, choices: Sequence[str]) -> None:
    """Refuse an option's value that is none of the choices, with the nearest one; None is no value."""
    from abstractvision_batch.text.suggestions import hint_for

    if value is not None and value not in choices:
        hint = hint_for(value, choices, f"one of {', '.join(choices)}")
        raise typer.BadParameter(f"{value!r} is unknown ({hint})", param_hint=option)


def read_names(given: Sequence[str] | None, option: str = "--only") -> list[str]:
    """Return the names that an option was given: itself, or the lines of the files that it names.

    Raises:
        BadParameter: a file cannot be read.
    """
    names: list[str] = []
    for text in given or ():
        if not text.startswith("@"):
            names.append(text)
            continue
        try:
            lines = Path(text[1:]).expanduser().read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{text[1:]} cannot be read: {error}", param_hint=option) from error
        names += lines
    if given and not names:
        raise typer.BadParameter("names no request", param_hint=option)
    return names


def _print_error(error: AbstractVisionError, *, as_json: bool) -> None:
    problems = error.problems or (str(error),)
    if as_json:
        print_json(
            {
                "ok": False,
                "error": type(error).__name__,
                "problems": list(problems),
                "transient": error.transient,
                "exit_code": error.exit_code,
            }
        )
    print_notes(*problems)
    if error.problems:  # of a spec, or of one request
        print_notes(f"{plural(error.count, 'problem')}; nothing was started")


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
