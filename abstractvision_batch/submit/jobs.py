"""`avbatch jobs`: what became of submitted jobs, with what their runs have done so far.

Ray knows whether a job's process runs; what the run has done stands on its storage, which is read from here where it
can be, and else in the job's log.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from abstractvision_batch.errors import AbstractVisionError, ClusterError, SpecError
from abstractvision_batch.job.env import resolve_options
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.runs.listing import RunState, read_run_state
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.submit.ray_jobs import RayJob, RayJobs, UnknownJobError
from abstractvision_batch.text.suggestions import hint_for
from abstractvision_batch.text.to_json import to_json

T = TypeVar("T")

#: Keys of a job's metadata; Ray shows all of them.
META_VERSION = "avbatch"
META_NAME = "avbatch_name"
META_OUTPUT = "avbatch_output"
META_OPTIONS = "avbatch_storage_options"
META_SCHEDULED = "avbatch_scheduled_at"

#: How long the storage of a run has to answer.
STORAGE_TIMEOUT_S = 20.0
HELPER_TIMEOUT_S = 60.0
#: Of a log, to tell why a job failed.
SHOWN_LINES = 5
_EXIT_CODES = (0, 1, 2, 3, 4, 70, 130)
_PROGRESS_LINE = re.compile(r"^\w+: [\d,]+/[\d,]+ requests .*$", re.MULTILINE)
_MISSING_MODULE = re.compile(r"No module named '?(\w+)[\w.']*$")
_NO_PYTHON = re.compile(r"python: (command )?not found$")
_RAY_LINE = re.compile(r"^(\d{4}-\d\d-\d\d [\d:,]+\s+INFO|Running entrypoint for job )")


@dataclass(frozen=True, slots=True)
class Job:
    """A job that `submit` sent."""

    ray: RayJob

    @property
    def id(self) -> str:
        """Its submission id."""
        return self.ray.id

    @property
    def name(self) -> str:
        """The spec's."""
        return self.ray.metadata.get(META_NAME, "")

    @property
    def output(self) -> str:
        """URL or path of its run."""
        return self.ray.metadata.get(META_OUTPUT, "")

    @property
    def version(self) -> str:
        """Of the package that sent it."""
        return self.ray.metadata.get(META_VERSION, "")

    @property
    def exit_code(self) -> int | None:
        """The run's own; where it has none, 130 for a stopped job and 4 for one that something else ended."""
        if not self.ray.ended:
            return None
        if self._missing is not None:
            return 3
        if self.ray.exit_code in _EXIT_CODES:
            return self.ray.exit_code
        return {"stopped": 130, "succeeded": 0}.get(self.ray.state, 4)

    @property
    def _missing(self) -> str | None:
        """What the cluster's Python lacks, if that ended the job."""
        last = self.ray.message.rstrip()
        if self.ray.state != "failed":
            return None
        if _NO_PYTHON.search(last):
            return "the cluster's head has no python (its PATH is that of `ray start`: put the environment's bin first)"
        if (found := _MISSING_MODULE.search(last)) is None:
            return None
        mend = "or submit with --ship-package" if found[1] == "abstractvision_batch" else "with avbatch's extras"
        return (
            f"the cluster's python has no {found[1]} (use an image that has it, or execution.runtime_env.pip, {mend})"
        )

    @property
    def reason(self) -> tuple[str, ...]:
        """Why it ended without having done all, in a few lines."""
        if self.ray.state == "stopped":
            return ("stopped (submit the same spec again to resume)",)
        if self.ray.state != "failed":
            return ()
        if self._missing is not None:
            return (self._missing,)
        lines = [line.strip() for line in self.ray.message.splitlines()[1:] if line.strip()]
        lines = [line for line in lines if not (_RAY_LINE.match(line) or _PROGRESS_LINE.match(line))]
        if not lines:  # it never ran
            lines = [line.strip() for line in self.ray.message.splitlines() if line.strip()]
        return tuple(lines[-SHOWN_LINES:])


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job and its run."""

    job: Job
    progress: RunState | None
    """From the run's storage."""
    unread: str | None
    """Why there is no progress."""
    log_line: str | None
    """The last line of progress in the job's log, where the storage says nothing."""

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        ray = self.job.ray
        return {
            "id": ray.id,
            "state": ray.state,
            "name": self.job.name,
            "output": self.job.output,
            "scheduled_at": ray.metadata.get(META_SCHEDULED),
            "version": self.job.version,
            "submitted_at": ray.submitted_at and ray.submitted_at.isoformat(timespec="seconds"),
            "ended_at": ray.ended_at and ray.ended_at.isoformat(timespec="seconds"),
            "exit_code": self.job.exit_code,
            "reason": list(self.job.reason),
            "progress": to_json(self.progress),
            "unread": self.unread,
            "log_line": self.log_line,
        }


def choose_address(given: str | None, of_spec: str | None = None) -> str:
    """The cluster's dashboard: the address given, else the first of Ray's variables and the spec's that is a URL.

    Raises:
        SpecError: there is none.
    """
    if given is not None:
        if not given.startswith(("http://", "https://")):
            raise SpecError(f"--address {given}: is not the URL of a cluster's dashboard (as http://head:8265)")
        return given.rstrip("/")
    for candidate in (os.environ.get("RAY_API_SERVER_ADDRESS"), os.environ.get("RAY_ADDRESS"), of_spec):
        if candidate and candidate.startswith(("http://", "https://")):
            return candidate.rstrip("/")
    raise SpecError("no cluster is named (--address http://head:8265, or set RAY_API_SERVER_ADDRESS)")


def list_jobs(cluster: RayJobs) -> list[Job]:
    """Jobs that `submit` sent, the newest first."""
    return [Job(job) for job in cluster.list() if META_VERSION in job.metadata]


def find_job(cluster: RayJobs, job_id: str) -> Job:
    """A job by its id.

    Raises:
        SpecError: there is none, and the message has the nearest; or something else submitted it.
    """
    try:
        job = Job(cluster.find(job_id))
    except UnknownJobError:
        pass
    else:
        if META_VERSION not in job.ray.metadata:
            raise SpecError(f"{cluster.address}: avbatch did not submit the job {job_id} (ray job status {job_id})")
        return job
    known = [job.id for job in list_jobs(cluster)]
    near = [known_id for known_id in known if known_id.startswith(job_id)][:3]
    otherwise = "avbatch jobs list shows those there are"
    hint = f"did you mean {', '.join(near)}?" if near else hint_for(job_id, known, otherwise)
    raise SpecError(f"{cluster.address}: no job {job_id} ({hint})")


def read_status(cluster: RayJobs, jobs: Sequence[Job], options: Mapping[str, Any] | None = None) -> list[JobStatus]:
    """The jobs with what their runs have done; `options` of their stores go over those that were submitted."""

    def reader(job: Job) -> Callable[[], RunState | str]:
        return lambda: _read_progress(job, options or {})

    found = _call_all([reader(job) for job in jobs], timeout_s=STORAGE_TIMEOUT_S)
    statuses = []
    for job, progress in zip(jobs, found, strict=True):
        if isinstance(progress, RunState):
            statuses.append(JobStatus(job, progress, None, None))
        else:
            unread = progress or f"{job.output}: no answer in {STORAGE_TIMEOUT_S:g} s"
            statuses.append(JobStatus(job, None, unread, _last_progress(cluster.log(job.id))))
    return statuses


def wait_for_job(cluster: RayJobs, job_id: str, *, poll_s: float = 1.0) -> Job:
    """The job, once it ended.

    Raises:
        ClusterError: the cluster has not answered for a while.
    """
    while not (job := cluster.look(job_id)).ended:
        time.sleep(poll_s)
    return Job(job)


def stop_job(cluster: RayJobs, job: Job, *, now: bool = False) -> None:
    """Let the run drain: its running shards finish and commit; with `now`, cancel them at their next step.

    Raises:
        ClusterError: the cluster failed, or its process could not be told to cancel.
    """
    cluster.stop(job.id)
    if now and (pid := cluster.find(job.id).driver_pid) is not None:
        _interrupt_again(cluster, job, pid)


def _interrupt_again(cluster: RayJobs, job: Job, pid: int) -> None:
    """Send the run's process a second SIGTERM, which cancels: Ray sends one and no more, so a job beside it does."""
    helper = f"{job.id}-cancel-{secrets.token_hex(2)}"
    # A process of that number may be another by now: the run's own has the job's id in its environment.
    command = f"grep -qzF -- {shlex.quote(job.id)} /proc/{pid}/environ && kill -TERM {pid}"
    cluster.submit(command, submission_id=helper, runtime_env={}, metadata={"avbatch_helper_of": job.id})
    deadline = time.monotonic() + HELPER_TIMEOUT_S
    while not (found := cluster.find(helper)).ended and time.monotonic() < deadline:
        time.sleep(0.2)
    if found.ended:
        cluster.forget(helper)
    if found.state != "succeeded" and not cluster.find(job.id).ended:
        raise ClusterError(
            f"{job.id}: its process {pid} could not be told to cancel; it drains (avbatch jobs wait {job.id})"
        )


def _read_progress(job: Job, given: Mapping[str, Any]) -> RunState | str:
    """How far the run is, or why nobody here can say."""
    try:
        options = resolve_options(_named_options(job), "output.storage_options", given=given)
        state = read_run_state(open_store(job.output, options))
    except AbstractVisionError as exc:
        return " ".join(exc.problems) if isinstance(exc, SpecError) else str(exc)
    if state.state == "missing":
        return f"{job.output}: the run has not begun: there is no run.json yet"
    return state if state.problem is None else state.problem


def _named_options(job: Job) -> dict[str, Any]:
    options = json.loads(job.ray.metadata.get(META_OPTIONS, "{}"))
    return {
        name: FromEnv.model_validate(value) if isinstance(value, dict) and set(value) == {"env"} else value
        for name, value in options.items()
    }


def _last_progress(log: str) -> str | None:
    lines = _PROGRESS_LINE.findall(log)
    return lines[-1] if lines else None


def _call_all(actions: Sequence[Callable[[], T]], *, timeout_s: float) -> list[T | None]:
    """What each action answered; None for one that did not in time, and is left behind."""
    answers: list[T | None] = [None] * len(actions)

    def answer(number: int) -> None:
        answers[number] = actions[number]()

    threads = [threading.Thread(target=answer, args=(number,), daemon=True) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(answers)
