"""`submit`: a job sent to a Ray cluster, and what is shown of it until it ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, SpecArgument
from abstractvision_batch.cli.commands.jobs import AddressOption, describe_job, follow, wait
from abstractvision_batch.cli.output import format_size, plural, print_json, print_lines, print_notes
from abstractvision_batch.cli.spec_options import TimedOptions
from abstractvision_batch.text.to_json import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abstractvision_batch.submit.submit import Submission


def submit(
    spec: SpecArgument,
    given: TimedOptions,
    address: AddressOption = None,
    submission_id: Annotated[
        str | None, typer.Option("--submission-id", metavar="ID", help="The job's id.  [the spec's name and digits]")
    ] = None,
    wait_for_end: Annotated[
        bool, typer.Option("--wait", help="Wait for the end and exit with the run's own code.")
    ] = False,
    follow_log: Annotated[bool, typer.Option("--follow", help="Show the job's log while waiting for its end.")] = False,
    extend: Annotated[bool, typer.Option("--extend", help="As of run.")] = False,
    locked: Annotated[bool, typer.Option("--locked", help="As of run; the lock file goes with the job.")] = False,
    ship_package: Annotated[
        bool, typer.Option("--ship-package", help="Send avbatch too, where the cluster has only what it imports.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a job to a Ray cluster, which runs it as avbatch run does.

    Prompt files, input images, model cards and the lock file go with the spec. Secrets go by name: the cluster's own
    environment has them. Submitting the same spec again resumes its run.
    """
    from abstractvision_batch.submit.jobs import find_job, read_status
    from abstractvision_batch.submit.ray_jobs import RayJobs
    from abstractvision_batch.submit.submit import submit as send

    sent = send(
        given.given(spec),
        address=address,
        submission_id=submission_id,
        extend=extend,
        locked=locked,
        ship_package=ship_package,
    )
    if not as_json:
        print_lines(*_describe(sent))
        sys.stdout.flush()
    if not (wait_for_end or follow_log):
        if as_json:
            print_json({"ok": True, **to_json(sent)})
        return
    cluster = RayJobs(sent.address)
    if follow_log:
        follow(cluster, sent.id, to_stderr=as_json)
    job = wait(cluster, sent.id)
    status = read_status(cluster, [find_job(cluster, sent.id)])[0]
    if as_json:
        print_json({"ok": job.exit_code == 0, **to_json(sent), **status.to_json()})
    else:
        print_lines("", *describe_job(status))
    raise typer.Exit(job.exit_code or 0)


def _describe(sent: Submission) -> Iterator[str]:
    files = ", ".join(plural(count, kind) for kind, count in sent.files.items())
    yield f"submitted  {sent.id} to {sent.address}"
    yield f"package    {files}: {format_size(sent.package_bytes)}"
    yield f"run        {sent.output}"
    yield f"look       avbatch jobs status {sent.id} --address {sent.address}"
    print_notes(*(f"note: {note}" for note in sent.notes))
