"""The commands in the order of `avbatch --help`.

Command modules import the library inside their functions: `avbatch --help` loads neither pydantic nor pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from abstractvision_batch.cli.command import Command
from abstractvision_batch.cli.commands.audit import audit
from abstractvision_batch.cli.commands.backfill import backfill
from abstractvision_batch.cli.commands.diff import diff
from abstractvision_batch.cli.commands.doctor import doctor
from abstractvision_batch.cli.commands.emit import emit_app
from abstractvision_batch.cli.commands.fetch import fetch
from abstractvision_batch.cli.commands.gallery import gallery
from abstractvision_batch.cli.commands.generate import generate
from abstractvision_batch.cli.commands.init import init
from abstractvision_batch.cli.commands.jobs import jobs_app
from abstractvision_batch.cli.commands.lock import lock
from abstractvision_batch.cli.commands.models import list_tasks, models_app, show_model
from abstractvision_batch.cli.commands.plan import plan
from abstractvision_batch.cli.commands.provider_models import provider_models
from abstractvision_batch.cli.commands.record import record
from abstractvision_batch.cli.commands.repl import repl
from abstractvision_batch.cli.commands.rerun import rerun
from abstractvision_batch.cli.commands.retry import retry
from abstractvision_batch.cli.commands.run import run
from abstractvision_batch.cli.commands.runs import runs
from abstractvision_batch.cli.commands.schedule import schedule
from abstractvision_batch.cli.commands.schema import schema
from abstractvision_batch.cli.commands.show import show
from abstractvision_batch.cli.commands.show_backend import show_backend
from abstractvision_batch.cli.commands.status import status
from abstractvision_batch.cli.commands.submit import submit
from abstractvision_batch.cli.commands.validate import validate
from abstractvision_batch.cli.commands.verify import verify
from abstractvision_batch.cli.spec_options import takes_options
from abstractvision_batch.version import __version__

# \b keeps the lines as they are.
EXIT_CODES = """\b
Exit codes:
  0    every request succeeded
  1    rows failed, a limit stopped the run, or audit, verify or diff found something
  2    the spec or the command line is wrong; nothing was started
  3    a dependency, a model or a server is missing
  4    storage or cluster failure, or the run is not complete; running again resumes
  70   a fault of avbatch: one line, and where the traceback was written; the same command may be repeated
  130  interrupted; running again resumes
"""


class _CommandsInOrder(TyperGroup):
    """Typer lists groups before commands, wherever they were added."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of `_COMMANDS`."""
        return list(_COMMANDS)


# Plain help: rich's takes as long to import as everything else together, and does not paste into a document.
app = typer.Typer(
    cls=_CommandsInOrder,
    help="Batch generation of images and videos from a YAML job spec: checked first, resumable, reproducible.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"avbatch {__version__}")
        raise typer.Exit


@app.callback()
def avbatch(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Batch generation of images and videos from a YAML job spec: checked first, resumable, reproducible."""


_COMMANDS: dict[str, Callable[..., None] | typer.Typer] = {
    "run": run,
    "validate": validate,
    "plan": plan,
    "status": status,
    "submit": submit,
    "jobs": jobs_app,
    "schedule": schedule,
    "backfill": backfill,
    "runs": runs,
    "emit": emit_app,
    "record": record,
    "retry": retry,
    "audit": audit,
    "rerun": rerun,
    "verify": verify,
    "diff": diff,
    "lock": lock,
    "fetch": fetch,
    "gallery": gallery,
    "generate": generate,
    "show": show,
    "repl": repl,
    "init": init,
    "models": models_app,
    "show-model": show_model,
    "show-backend": show_backend,
    "tasks": list_tasks,
    "provider-models": provider_models,
    "schema": schema,
    "doctor": doctor,
}

for _name, _command in _COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name, cls=Command)(takes_options(_command))
