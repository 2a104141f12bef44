"""`jobs`: what became of submitted jobs, their logs, and their end."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import INTERRUPTED, Command, JsonOption, StorageOption
from abstractvision_batch.cli.output import (
    format_cost,
    format_duration,
    one_line,
    print_json,
    print_lines,
    print_notes,
    print_table,
)
from abstractvision_batch.text.redaction import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abstractvision_batch.submit.jobs import Job, JobStatus
    from abstractvision_batch.submit.ray_jobs import RayJobs

#: How Ray colours the lines of workers in a log.
_COLOURS = re.compile("\x1b\\[[0-9;]*m")

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="The cluster's dashboard, as http://head:8265.  [RAY_API_SERVER_ADDRESS, RAY_ADDRESS]",
    ),
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as submit said it.", show_default=False)]

jobs_app = typer.Typer(
    help="Look after jobs that avbatch submit sent to a Ray cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@jobs_app.command("list", cls=Command)
def list_all(
    address: AddressOption = None,
    last: Annotated[int, typer.Option("--last", min=1, help="How many, from the newest on.")] = 20,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the cluster's jobs, the newest first, with what their runs have done."""
    from abstractvision_batch.job.storage_options import parse_storage_options
    from abstractvision_batch.submit.jobs import list_jobs, read_status

    options = parse_storage_options(storage_options or ())
    cluster = _connect(address)
    jobs = list_jobs(cluster)
    statuses = read_status(cluster, jobs[:last], options)
    if as_json:
        print_json({"address": cluster.address, "jobs": [status.to_json() for status in statuses]})
        return
    print_table(["job", "state", "requests", "failed", "cost", "submitted", "run"], [_row(one) for one in statuses])
    if len(jobs) > last:
        print_notes(f"and {len(jobs) - last} before these (--last {len(jobs)})")


@jobs_app.command(cls=Command)
def status(
    job_id: IdArgument,
    address: AddressOption = None,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job and how far its run is: shards and rows done, failures, cost.

    That is read from the run's storage, or from the job's log where the storage cannot be read from here.
    """
    from abstractvision_batch.job.storage_options import parse_storage_options
    from abstractvision_batch.submit.jobs import find_job, read_status

    options = parse_storage_options(storage_options or ())
    cluster = _connect(address)
    found = read_status(cluster, [find_job(cluster, job_id)], options)[0]
    if as_json:
        print_json(found.to_json())
    else:
        print_lines(*describe_job(found))


@jobs_app.command(cls=Command)
def logs(
    job_id: IdArgument,
    address: AddressOption = None,
    follow_log: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what a job has written so far."""
    if follow_log and as_json:
        raise typer.BadParameter("prints text as it comes, and --json one object", param_hint="--follow")
    from abstractvision_batch.submit.jobs import find_job

    cluster = _connect(address)
    job = find_job(cluster, job_id)
    if follow_log:
        follow(cluster, job.id)
        return
    log = cluster.log(job.id)
    if as_json:
        print_json({"id": job.id, "log": log})
    else:
        sys.stdout.write(printable(_COLOURS.sub("", log)))


@jobs_app.command(cls=Command)
def stop(
    job_id: IdArgument,
    address: AddressOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Cancel the running shards at their next step; a second time: stop at once.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """End a job: its running shards finish and commit, no new ones start."""
    from abstractvision_batch.submit.jobs import find_job, stop_job

    cluster = _connect(address)
    job = find_job(cluster, job_id)
    if not job.ray.ended:
        stop_job(cluster, job, now=now)
    if as_json:
        print_json({"id": job.id, "stopping": not job.ray.ended, "state": job.ray.state})
    elif job.ray.ended:
        print_lines(f"{job.id} has ended: {job.ray.state}")
    elif now:
        print_lines(f"{job.id}: running shards are cancelled at their next step; submitting the spec again resumes")
    else:
        said = f"running shards finish and commit, then it ends (avbatch jobs wait {job.id}; --now cancels them)"
        print_lines(f"{job.id}: {said}")


@jobs_app.command("wait", cls=Command)
def wait_for(
    job_id: IdArgument,
    address: AddressOption = None,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for a job's end and exit with its run's own code."""
    from abstractvision_batch.job.storage_options import parse_storage_options
    from abstractvision_batch.submit.jobs import find_job, read_status

    options = parse_storage_options(storage_options or ())
    cluster = _connect(address)
    job = wait(cluster, find_job(cluster, job_id).id)
    found = read_status(cluster, [job], options)[0]
    if as_json:
        print_json({"ok": job.exit_code == 0, **found.to_json()})
    else:
        print_lines(*describe_job(found))
    raise typer.Exit(job.exit_code or 0)


def follow(cluster: RayJobs, job_id: str, *, to_stderr: bool = False) -> None:
    """Print a job's log until the job ends."""
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        for text in cluster.follow_log(job_id):
            stream.write(text)
            stream.flush()
    except KeyboardInterrupt as exc:
        _leave(cluster, job_id)
        raise typer.Exit(INTERRUPTED) from exc


def wait(cluster: RayJobs, job_id: str) -> Job:
    """The job, once it ended."""
    from abstractvision_batch.submit.jobs import wait_for_job

    try:
        return wait_for_job(cluster, job_id)
    except KeyboardInterrupt as exc:
        _leave(cluster, job_id)
        raise typer.Exit(INTERRUPTED) from exc


def describe_job(status: JobStatus) -> Iterator[str]:
    """A job and its run, on one screen."""
    job = status.job
    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    yield f"job        {job.id}: {job.ray.state}{code}"
    yield f"run        {job.output}"
    if (since := job.ray.submitted_at) is not None:
        duration = format_duration(((job.ray.ended_at or datetime.now(UTC)) - since).total_seconds())
        yield f"submitted  {since.isoformat(timespec='seconds')}, {'ran' if job.ray.ended else 'for'} {duration}"
    if (progress := status.progress) is not None:
        left = progress.requests - progress.succeeded - progress.failed - progress.superseded
        yield f"shards     {progress.shards_done:,} of {progress.shards:,} done"
        rows = f"{progress.succeeded:,} succeeded, {progress.failed:,} failed, {left:,} left"
        yield f"requests   {progress.requests:,}: {rows}"
        if progress.cost_usd is not None:
            yield f"cost       {format_cost(progress.cost_usd, progress.attempts)}"
    else:
        yield f"log says   {status.log_line or 'nothing of its progress yet'}"
        yield f"unread     {one_line(status.unread, width=200)}"
    yield from (f"ended by   {one_line(line, width=300)}" for line in job.reason)


def _row(status: JobStatus) -> tuple[str, ...]:
    from abstractvision_batch.registry.prices import format_usd

    job, progress = status.job, status.progress
    submitted = job.ray.submitted_at
    moment = "" if submitted is None else f"{submitted:%Y-%m-%d %H:%M:%S}"
    if progress is None:
        counts = (status.log_line or "-", "-", "-")
    else:
        done = progress.succeeded + progress.failed
        cost = "-" if progress.cost_usd is None else format_usd(progress.cost_usd)
        counts = (f"{done:,}/{progress.requests:,}", f"{progress.failed:,}", cost)
    state = job.ray.state if job.exit_code in (None, 0) else f"{job.ray.state} ({job.exit_code})"
    return (job.id, state, *counts, moment, job.output)


def _leave(cluster: RayJobs, job_id: str) -> None:
    where = f"{job_id} --address {cluster.address}"
    print_notes(f"the job runs on (avbatch jobs status {where} shows it, avbatch jobs stop {where} ends it)")


def _connect(address: str | None) -> RayJobs:
    from abstractvision_batch.submit.jobs import choose_address
    from abstractvision_batch.submit.ray_jobs import RayJobs

    return RayJobs(choose_address(address))
