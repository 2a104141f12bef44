"""Ray's Jobs API, over the HTTP port of a cluster's dashboard: submit, look, read the log, stop.

Ray's own errors end here, as one line each. Every request ends in bounded time.

Not covered: what is submitted (`submit`), and what a job's run has done (`jobs`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

from abstractvision_batch.errors import ClusterError, OptionalDependencyMissingError, SpecError
from abstractvision_batch.execute.ray.auth import explain_refusal, show_token_if_any
from abstractvision_batch.execute.ray.internals import TALKATIVE

T = TypeVar("T")
JobState = Literal["pending", "running", "stopped", "succeeded", "failed"]

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
UPLOAD_TIMEOUT_S = 600
#: What the dashboard takes in one request: 413 beyond (measured with Ray 2.60).
PACKAGE_LIMIT_BYTES = 100 * 1024**2
#: Between two looks at whether a job whose log is silent still runs.
SILENCE_S = 10.0
#: How long a dashboard may fail to answer somebody who waits for a job.
PATIENCE_S = 60.0
#: Ray's variables, either of which would win over the address that is given.
API_SERVER_VARIABLE = "RAY_API_SERVER_ADDRESS"
_MODULES = ("ray", "aiohttp", "requests")


class UnknownJobError(Exception):
    """The cluster has no job of this id."""


@dataclass(frozen=True, slots=True)
class RayJob:
    """A job as Ray sees it."""

    id: str
    state: JobState
    entrypoint: str
    message: str
    """Ray's, of a job that ended; of one that failed, with the end of its log."""
    metadata: Mapping[str, str]
    submitted_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    """Of the command; None while it runs, and where Ray stopped it or never started it."""
    driver_pid: int | None
    """Of the process that joined the cluster; None before it did."""

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ("stopped", "succeeded", "failed")


class RayJobs:
    """The jobs of one cluster.

    Args:
        address: Of the dashboard, as ``http://head:8265``.

    Raises:
        OptionalDependencyMissingError: Ray's client is not installed.
        ClusterError: nothing answers there, it is no Ray dashboard, or it refuses the token.
    """

    def __init__(self, address: str) -> None:
        missing = [module for module in _MODULES if find_spec(module) is None]
        if missing:
            raise OptionalDependencyMissingError(
                f'not installed: {", ".join(missing)} (pip install "abstractvision_batch[cluster]")'
            )
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry from a library
        show_token_if_any()
        self.address = address.rstrip("/")
        self._client = _translated(self.address, lambda: _connect(self.address))

    def submit(
        self, entrypoint: str, *, submission_id: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Start a job; local folders and zip files of its `runtime_env` are uploaded.

        Raises:
            SpecError: the cluster had a job of this id, or the runtime environment is none.
            ClusterError: it refused the job, or did not answer.
        """
        from requests import RequestException

        def send() -> None:
            try:
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=submission_id,
                    runtime_env=dict(runtime_env),
                    metadata=dict(metadata),
                )
            except RequestException:  # some are a ValueError too
                raise
            except (ValueError, TypeError, FileNotFoundError) as exc:
                raise SpecError(f"execution.runtime_env: {_last_line(exc)}") from exc
            except RuntimeError as exc:
                if "already exists" not in str(exc):
                    raise
                raise SpecError(
                    f"--submission-id {submission_id}: the cluster has a job of this id (choose another)"
                ) from exc

        _translated(self.address, send)

    def find(self, submission_id: str) -> RayJob:
        """A job by its id.

        Raises:
            UnknownJobError: there is none.
        """
        return self._about(submission_id, lambda: _describe(self._client.get_job_info(submission_id)))

    def list(self) -> list[RayJob]:
        """Every submitted job that the cluster remembers, the newest first."""
        found = _translated(self.address, self._client.list_jobs)
        jobs = [_describe(details) for details in found if details.submission_id is not None]
        return sorted(jobs, key=lambda job: job.submitted_at or datetime.max.replace(tzinfo=UTC), reverse=True)

    def stop(self, submission_id: str) -> bool:
        """Send the job SIGTERM, once; whether it was running."""
        return self._about(submission_id, lambda: bool(self._client.stop_job(submission_id)))

    def forget(self, submission_id: str) -> None:
        """Remove a job that ended from what the cluster remembers."""
        self._about(submission_id, lambda: self._client.delete_job(submission_id))

    def log(self, submission_id: str) -> str:
        """All that the job wrote so far."""
        return self._about(submission_id, lambda: str(self._client.get_job_logs(submission_id)))

    def look(self, submission_id: str) -> RayJob:
        """As `find`, for who waits: a dashboard that fails for a moment is asked again, for `PATIENCE_S`.

        Raises:
            ClusterError: it still fails, or it has forgotten the job.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.find(submission_id)
            except UnknownJobError as exc:
                raise ClusterError(
                    f"{self.address}: the cluster knows no job {submission_id} any more; its head may have been "
                    "restarted (submit the same spec again: resumes)"
                ) from exc
            except ClusterError as exc:
                if time.monotonic() > deadline:
                    raise ClusterError(f"{exc} (the job may run on: avbatch jobs wait {submission_id})") from exc
                time.sleep(1)

    def follow_log(self, submission_id: str) -> Iterator[str]:
        """Pieces of the job's log as they are written, from its begin to the job's end.

        A connection that breaks is made again, and goes on where the other ended.
        """
        shown = 0
        while True:
            position = 0
            try:
                for text in self._tail(submission_id):
                    start, position = position, position + len(text)
                    if position > shown:
                        yield text[max(0, shown - start) :]
                        shown = position
            except ClusterError:
                time.sleep(1)
            if self.look(submission_id).ended:
                if rest := self.log(submission_id)[shown:]:
                    yield rest
                return

    def _tail(self, submission_id: str) -> Iterator[str]:
        """The log from its begin, over one connection; ends with the connection, or with the job."""
        pieces = self._client.tail_job_logs(submission_id)
        piece: asyncio.Task[str | None] | None = None

        async def begin() -> asyncio.Task[str | None]:
            return asyncio.create_task(_next(pieces))

        async def wait(piece: asyncio.Task[str | None]) -> bool:
            return bool((await asyncio.wait({piece}, timeout=SILENCE_S))[0])

        async def end() -> None:
            if piece is not None and not piece.done():
                piece.cancel()
                await asyncio.wait({piece})
            await pieces.aclose()

        with asyncio.Runner() as runner:
            try:
                while True:
                    piece = runner.run(begin())
                    while not runner.run(wait(piece)):
                        if self.look(submission_id).ended:  # a connection may die without a word
                            return
                    text = _translated(self.address, piece.result)
                    if text is None:
                        return
                    yield text
            finally:
                runner.run(end())

    def _about(self, submission_id: str, action: Callable[[], T]) -> T:
        def ask() -> T:
            try:
                return action()
            except RuntimeError as exc:
                if "does not exist" not in str(exc):
                    raise
                raise UnknownJobError(submission_id) from exc

        return _translated(self.address, ask)


async def _next(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


def _connect(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    class BoundedClient(JobSubmissionClient):  # type: ignore[misc]
        """Ray's own client waits for an answer as long as it takes."""

        def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
            read_timeout_s = UPLOAD_TIMEOUT_S if method == "PUT" else READ_TIMEOUT_S
            return super()._do_request(method, endpoint, timeout=(CONNECT_TIMEOUT_S, read_timeout_s), **kwargs)

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _only_this_address(address):
        return BoundedClient(address)


@contextmanager
def _only_this_address(address: str) -> Iterator[None]:
    """While a client is made: Ray lets its variables win over the address that it is given."""
    before = os.environ.get(API_SERVER_VARIABLE)
    os.environ[API_SERVER_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[API_SERVER_VARIABLE]
        else:
            os.environ[API_SERVER_VARIABLE] = before


def _translated(address: str, action: Callable[[], T]) -> T:
    """What `action` answers; what Ray's client and the two HTTP libraries below it raise is one of our errors.

    Raises:
        ClusterError: in one line.
    """
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    check = "is its head up, and is this the dashboard's port?"
    try:
        return action()
    except AuthenticationError as exc:
        raise ClusterError(explain_refusal(address)) from exc
    except requests.exceptions.JSONDecodeError as exc:
        raise ClusterError(f"{address}: what answers there is no Ray dashboard ({check})") from exc
    except (ConnectionError, requests.exceptions.ConnectionError) as exc:
        raise ClusterError(f"{address}: cannot connect ({check})") from exc
    except (requests.exceptions.Timeout, TimeoutError) as exc:
        raise ClusterError(f"{address}: no answer in time ({check})") from exc
    except (requests.exceptions.RequestException, aiohttp.ClientError, RuntimeError, KeyError, ValueError) as exc:
        raise ClusterError(f"{address}: {_last_line(exc)}") from exc


def _describe(details: Any) -> RayJob:
    return RayJob(
        id=str(details.submission_id),
        state=details.status.value.lower(),
        entrypoint=details.entrypoint,
        message=details.message or "",
        metadata=details.metadata or {},
        submitted_at=_moment(details.start_time),
        ended_at=_moment(details.end_time),
        exit_code=details.driver_exit_code,
        driver_pid=int(details.driver_info.pid) if details.driver_info else None,
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return None if not milliseconds else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _last_line(error: BaseException) -> str:
    """A server's traceback ends with what it is about."""
    lines = [line.strip(" .") for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1][:300] if lines else type(error).__name__
