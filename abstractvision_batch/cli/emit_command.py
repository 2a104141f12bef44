"""`emit`: a job as what a scheduler takes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import Command, JsonOption, RegistryOption, SetOption, SpecArgument
from abstractvision_batch.cli.output import print_json, print_lines, print_notes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from abstractvision_batch.emit.emission import Emission, EmittedFile

CronOption = Annotated[
    str | None,
    typer.Option("--cron", metavar="CRON", help="When to run: minute hour day month weekday, as '0 3 * * *'."),
]
TimezoneOption = Annotated[
    str | None, typer.Option("--timezone", metavar="ZONE", help="Whose clock --cron is of, as Europe/Berlin (UTC).")
]
SecretOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="NAME",
        help="Further variable with a secret, as AWS_SECRET_ACCESS_KEY; those of the spec are known; repeatable.",
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of what is made (avbatch- and the spec's).")
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="PATH", help="Write to this file, or into this folder; else to stdout."),
]
WorkDirOption = Annotated[
    Path,
    typer.Option("--work-dir", metavar="PATH", help="Where the job runs; a relative output.path starts there (here)."),
]
BinDirOption = Annotated[
    Path | None,
    typer.Option("--bin-dir", metavar="PATH", help="Folder of the avbatch that is to run the job (this one's)."),
]

emit_app = typer.Typer(
    help="Print a job as what a scheduler takes: manifests, a batch script, units, a table's line, a workflow.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@emit_app.command("slurm", cls=Command)
def emit_slurm(
    spec: SpecArgument,
    nodes: Annotated[int, typer.Option(min=1, max=10_000, help="Nodes; more than one make a Ray cluster.")] = 1,
    gpus_per_node: Annotated[
        int | None, typer.Option("--gpus-per-node", min=0, max=1024, help="GPUs of a node (what one actor wants).")
    ] = None,
    cpus_per_task: Annotated[
        int | None, typer.Option("--cpus-per-task", min=1, max=4096, help="CPUs of a node (what its actors want).")
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Time limit, as 4:00:00 (the partition's).")
    ] = None,
    mem: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of a node, as 64G.")] = None,
    partition: Annotated[str | None, typer.Option(metavar="NAME", help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Account.")] = None,
    cron: CronOption = None,
    timezone: TimezoneOption = None,
    secrets: SecretOption = None,
    name: NameOption = None,
    work_dir: WorkDirOption = Path(),
    bin_dir: BinDirOption = None,
    output: OutputOption = None,
    overrides: SetOption = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a batch script for sbatch, which drains before its time limit and resumes when it runs again."""
    from abstractvision_batch.emit.slurm import SlurmOptions
    from abstractvision_batch.emit.slurm import emit_slurm as make

    emission = _emission(spec, cron, timezone, secrets, name, overrides, registry)
    options = SlurmOptions(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_task=cpus_per_task,
        time_limit=time,
        memory=mem,
        partition=partition,
        account=account,
        work_dir=work_dir,
        bin_dir=_bin_dir(bin_dir),
    )
    _deliver(make(emission, options), output, as_json=as_json)


def _emission(
    spec: str,
    cron: str | None,
    timezone: str | None,
    secrets: Sequence[str] | None,
    name: str | None,
    overrides: Sequence[str] | None,
    registry: Sequence[str] | None,
) -> Emission:
    """The job, loaded and checked."""
    from abstractvision_batch.emit.emission import Emission, require_variables
    from abstractvision_batch.emit.needs import find_secrets
    from abstractvision_batch.emit.ticks import read_ticks
    from abstractvision_batch.errors import SpecError
    from abstractvision_batch.spec.load import load_spec

    if cron is None and timezone is not None:
        raise SpecError("--timezone: is of --cron, which is not given")
    ticks = None if cron is None else read_ticks(cron, timezone)
    require_variables("--secret", secrets or ())
    loaded = load_spec(spec, overrides=overrides or (), registry_paths=registry or ())
    return Emission(
        loaded,
        overrides=tuple(overrides or ()),
        registry=tuple(registry or ()),
        ticks=ticks,
        secrets=tuple(sorted({*find_secrets(loaded.spec), *(secrets or ())})),
        name=name,
        made_by=shlex.join(["avbatch", *sys.argv[1:]]),
    )


def _bin_dir(given: Path | None) -> Path:
    return Path(sys.executable).parent if given is None else given


def _deliver(files: Sequence[EmittedFile], output: Path | None, *, as_json: bool, notes: Sequence[str] = ()) -> None:
    """Write or print what was made; several files on stdout have a line with their name before them."""
    from abstractvision_batch.emit.written import write_files

    paths = [] if output is None else write_files(files, output)
    if as_json:
        shown = [{"name": file.name, "text": file.text} for file in files]
        print_json({"ok": True, "files": shown, "paths": [str(path) for path in paths], "notes": list(notes)})
        return
    print_notes(*(f"note: {note}" for note in notes))
    if output is not None:
        print_lines(*(f"wrote {path}" for path in paths))
        return
    for number, file in enumerate(files):
        if len(files) > 1:
            print_lines(*([""] if number else []), f"# file: {file.name}")
        print_lines(file.text.rstrip("\n"))
