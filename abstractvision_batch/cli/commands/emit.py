"""`emit`: a job as what a scheduler takes."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import Command, JsonOption, SpecArgument
from abstractvision_batch.cli.output import print_json, print_lines, print_notes
from abstractvision_batch.cli.spec_options import TimedOptions, takes_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from abstractvision_batch.emit.emission import Emission, EmittedFile

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
    str | None,
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
EnvFileOption = Annotated[
    Path | None,
    typer.Option("--env-file", metavar="PATH", help="File of NAME=value lines with the secrets (in the work folder)."),
]

emit_app = typer.Typer(
    help="Print a job as what a scheduler takes: manifests, a batch script, units, a table's line, a workflow.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@emit_app.command("kubernetes", cls=Command)
@takes_options
def emit_kubernetes(
    spec: SpecArgument,
    given: TimedOptions,
    image: Annotated[
        str, typer.Option(metavar="IMAGE", help="Image that has avbatch and what the spec needs.", show_default=False)
    ],
    namespace: Annotated[str | None, typer.Option(metavar="NAME", help="Namespace (kubectl's own).")] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N or MIN-MAX", help="Ray workers, a pod each (what the spec's actors need, or 1)."),
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=0, max=64, help="GPUs of a pod (what one actor wants).")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, max=1024, help="CPUs of a pod (what its actors want).")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of a pod (16Gi with a GPU, else 4Gi).")
    ] = None,
    node_selector: Annotated[
        list[str] | None,
        typer.Option("--node-selector", metavar="KEY=VALUE", help="Label of the nodes to generate on; repeatable."),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(metavar="CLAIM:/PATH", help="Mount a volume, for weights or the output; repeatable."),
    ] = None,
    secret_name: Annotated[
        str | None, typer.Option("--secret-name", metavar="NAME", help="The Secret with the secrets (NAME-secrets).")
    ] = None,
    service_account: Annotated[
        str | None, typer.Option("--service-account", metavar="NAME", help="Whose rights on storage the pods have.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="Further starts of a run that failed; each resumes.")
    ] = 2,
    user_id: Annotated[
        int,
        typer.Option(
            "--user-id", min=0, max=2**31 - 1, metavar="UID", help="Whom the pods run as; 0 is root, if it must be."
        ),
    ] = 1000,
    read_only_root: Annotated[
        bool, typer.Option("--read-only-root", help="Make the image's disk read-only; /tmp is a volume then.")
    ] = False,
    ray_version: Annotated[
        str | None, typer.Option("--ray-version", metavar="VERSION", help="Ray of the image (the one here).")
    ] = None,
    secrets: SecretOption = None,
    name: NameOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a manifest: a RayJob of KubeRay for the executor ray, else a Job; with --cron what makes them."""
    from abstractvision_batch.emit.kuberay import RayOptions
    from abstractvision_batch.emit.kubernetes import emit_kubernetes as make
    from abstractvision_batch.emit.pods import PodOptions

    emission = _emission(given, spec, secrets, name)
    options = PodOptions(
        image=image,
        namespace=namespace,
        gpus=gpus,
        cpus=cpus,
        memory=memory,
        secret_name=secret_name,
        service_account=service_account,
        user_id=user_id,
        read_only_root=read_only_root,
        retries=retries,
        node_selector=dict(_pair("--node-selector", text, "=") for text in node_selector or ()),
        volumes=dict(_pair("--volume", text, ":") for text in volume or ()),
    )
    files, notes = make(emission, options, RayOptions(ray_version, None if workers is None else _range(workers)))
    _deliver(files, output, as_json=as_json, notes=notes)


@emit_app.command("slurm", cls=Command)
@takes_options
def emit_slurm(
    spec: SpecArgument,
    given: TimedOptions,
    nodes: Annotated[int, typer.Option(min=1, max=10_000, help="Nodes; more than one make a Ray cluster.")] = 1,
    gpus_per_node: Annotated[
        int | None, typer.Option("--gpus-per-node", min=0, max=1024, help="GPUs of a node (what one actor wants).")
    ] = None,
    cpus_per_task: Annotated[
        int | None, typer.Option("--cpus-per-task", min=1, max=4096, help="CPUs of a node (what its actors want).")
    ] = None,
    time: Annotated[str | None, typer.Option(metavar="LIMIT", help="Time limit, as 4:00:00 (the partition's).")] = None,
    mem: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of a node, as 64G.")] = None,
    partition: Annotated[str | None, typer.Option(metavar="NAME", help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Account.")] = None,
    secrets: SecretOption = None,
    name: NameOption = None,
    work_dir: WorkDirOption = Path(),
    bin_dir: BinDirOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a batch script for sbatch, which drains before its time limit and resumes when it runs again."""
    from abstractvision_batch.emit.slurm import SlurmOptions
    from abstractvision_batch.emit.slurm import emit_slurm as make

    emission = _emission(given, spec, secrets, name)
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


@emit_app.command("systemd", cls=Command)
@takes_options
def emit_systemd(
    spec: SpecArgument,
    given: TimedOptions,
    system: Annotated[bool, typer.Option("--system", help="Units of the machine, not of your user.")] = False,
    user_name: Annotated[
        str | None, typer.Option("--user-name", metavar="USER", help="Whom a --system unit runs as (root).")
    ] = None,
    env_file: EnvFileOption = None,
    secrets: SecretOption = None,
    name: NameOption = None,
    work_dir: WorkDirOption = Path(),
    bin_dir: BinDirOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a systemd service, and with --cron the timer that starts it."""
    from abstractvision_batch.emit.systemd import SystemdOptions
    from abstractvision_batch.emit.systemd import emit_systemd as make

    emission = _emission(given, spec, secrets, name)
    options = SystemdOptions(work_dir, _bin_dir(bin_dir), env_file, system=system, user=user_name)
    _deliver(make(emission, options), output, as_json=as_json, into_folder=True)


@emit_app.command("crontab", cls=Command)
@takes_options
def emit_crontab(
    spec: SpecArgument,
    given: TimedOptions,
    env_file: EnvFileOption = None,
    secrets: SecretOption = None,
    name: NameOption = None,
    work_dir: WorkDirOption = Path(),
    bin_dir: BinDirOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the line of a crontab, with a lock so that runs do not overlap."""
    from abstractvision_batch.emit.crontab import CrontabOptions
    from abstractvision_batch.emit.crontab import emit_crontab as make

    emission = _emission(given, spec, secrets, name)
    _deliver(make(emission, CrontabOptions(work_dir, _bin_dir(bin_dir), env_file)), output, as_json=as_json)


@emit_app.command("github-actions", cls=Command)
@takes_options
def emit_github_actions(
    spec: SpecArgument,
    given: TimedOptions,
    runs_on: Annotated[
        str, typer.Option("--runs-on", metavar="LABEL", help="Runner; GitHub's own have no GPU.")
    ] = "ubuntu-latest",
    timeout_minutes: Annotated[
        int, typer.Option("--timeout-minutes", min=1, max=43_200, help="Time limit; the run drains before it.")
    ] = 350,
    install: Annotated[
        str | None, typer.Option(metavar="WHAT", help="What pip installs (the package with the extras of the spec).")
    ] = None,
    python_version: Annotated[
        str, typer.Option("--python-version", metavar="VERSION", help="Python of the runner.")
    ] = "3.11",
    secrets: SecretOption = None,
    name: NameOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a workflow of GitHub Actions, for a spec in a repository and an output that is a URL."""
    from abstractvision_batch.emit.github_actions import GithubOptions
    from abstractvision_batch.emit.github_actions import emit_github_actions as make

    emission = _emission(given, spec, secrets, name)
    options = GithubOptions(runs_on, timeout_minutes, install, python_version)
    _deliver(make(emission, options), output, as_json=as_json)


def _emission(given: TimedOptions, spec: str, secrets: list[str] | None, name: str | None) -> Emission:
    """The job, loaded and checked, for the scheduled time that is given or the schedule's latest tick."""
    from abstractvision_batch.emit.emission import Emission, require_harmless, require_variables
    from abstractvision_batch.emit.needs import find_secrets
    from abstractvision_batch.emit.ticks import read_ticks
    from abstractvision_batch.job.env import secret_variables
    from abstractvision_batch.job.load import read_values
    from abstractvision_batch.text.redaction import redact

    require_variables("--secret", secrets or ())
    require_harmless(given.overrides or ())
    job = given.load(spec)
    kept_here = secret_variables(read_values(job.given).data)
    return Emission(
        job,
        ticks=None if given.cron is None else read_ticks(given.cron, given.timezone),
        secrets=tuple(sorted({*find_secrets(job), *kept_here, *(secrets or ())})),
        name=name,
        made_by=redact(shlex.join(["avbatch", *sys.argv[1:]])),
    )


def _pair(option: str, text: str, mark: str) -> tuple[str, str]:
    key, found, value = text.partition(mark)
    if not found or not key:
        raise typer.BadParameter(
            f"{text!r} is not of the form {'KEY=VALUE' if mark == '=' else 'CLAIM:/PATH'}", param_hint=option
        )
    return key, value


def _range(text: str) -> tuple[int, int]:
    """`4` or `0-8`."""
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    fewest, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if fewest > most or most < 1:
        raise typer.BadParameter(f"{text!r} is no number of workers (4, or 0-8)", param_hint="--workers")
    return fewest, most


def _bin_dir(given: Path | None) -> Path:
    return Path(sys.executable).parent if given is None else given


def _deliver(
    files: Sequence[EmittedFile],
    output: str | None,
    *,
    as_json: bool,
    notes: Sequence[str] = (),
    into_folder: bool = False,
) -> None:
    """Write or print what was made; several files on stdout have a line with their name before them."""
    from abstractvision_batch.emit.emission import write_files

    paths = [] if output is None else write_files(files, output, into_folder=into_folder)
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
