"""Every error raised on purpose.

    AbstractVisionError
      SpecError                         the YAML or the command line is wrong    edit it                     exit 2
      CapabilityNotSupportedError       a model or backend cannot do the task    choose another              exit 2
        UnknownModelError               no card has this model id                add a card, or fix the id   exit 2
      BackendNotConfiguredError         the library was called without backend   pass one                    exit 2
      DependencyError                   a model, server or program is missing    run the command it names    exit 3
        OptionalDependencyMissingError  an extra is not installed                run the pip command         exit 3
        BatchingFaultError              requests of one batch change each other  execution.batch_size=1      exit 3
        SeedsIgnoredError               a server gives one picture for all seeds backend.dialect             exit 3
      GenerationError                   one request failed                       a row in the manifest       exit 1
                                        (error_class)
        BackendBusyError                transient: rate limit, server error      tried again, with backoff
          RequestTimeoutError           transient: request_timeout_s passed      tried again, alone
        ShardTimeoutError               transient: shard_timeout_s passed        avbatch retry
        InputUnavailableError           transient: an input's host fails         tried again, then avbatch retry
        GenerationCancelledError        transient: the caller asked for the end  resume
        OutOfMemoryError                resource: the batch did not fit          split
        PolicyError                     policy: the prompt was refused           never tried again
        InputImageError                 permanent: an input image is no use      never tried again
        InvalidOutputError              permanent: black, NaN or undecodable     never tried again
        WorkerCrashedError              permanent: it ended its worker process   isolated and recorded
        PartialBatchError               permanent: of one library call           has the other outputs
      StorageError                      reading or writing a store failed        run again: resumes          exit 4
        DamagedFileError                a file is not what was written           avbatch audit --repair     exit 4
      ClusterError                      Ray could not be reached or died         run again: resumes          exit 4
      RunStoppedError                   every request fails in the same way      fix the cause, run again    exit 1
      RunInterruptedError               Ctrl-C or SIGTERM                        run again: resumes          exit 130

Each takes one message and, by keyword, the attributes that its class declares: an exception with two positional
arguments does not survive the pickling between Ray processes. A message reads ``where: what happened (what would do)``;
it is redacted here, once for all, because drivers and servers quote URLs and keys.
"""

from __future__ import annotations

import copy
from typing import Literal, Self

from abstractvision_batch.text.redaction import redact

ErrorClass = Literal["transient", "permanent", "resource", "policy"]


class AbstractVisionError(Exception):
    """Root of every error raised on purpose; catching it catches no bug.

    ``transient`` says that time alone may fix it: the same again may succeed later. ``problems`` holds one line per
    fault, where there may be several, and ``count`` how many there are: the last line may only say how many more.
    """

    exit_code = 1
    transient = False
    problems: tuple[str, ...] = ()
    count = 0

    def __init__(self, message: str) -> None:
        super().__init__(redact(str(message)))

    def with_message(self, message: str) -> Self:
        """Return the same error with another message."""
        other = copy.copy(self)
        other.args = (redact(message),)
        return other

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class SpecError(AbstractVisionError):
    """The job spec or the command line is wrong; nothing was started.

    ``problems`` holds one ``file:line:column: field: what (what would do)`` line per violation.
    """

    exit_code = 2

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), count: int = 0) -> None:
        super().__init__(message)
        self.problems = tuple(map(redact, problems)) or (str(self),)
        self.count = count or len(self.problems)


class CapabilityNotSupportedError(AbstractVisionError):
    """The model's card or the backend does not offer the task or the parameter."""

    exit_code = 2


class UnknownModelError(CapabilityNotSupportedError):
    """No card of the registry has this model id."""


class BackendNotConfiguredError(AbstractVisionError):
    """`VisionManager` was called without a backend."""

    exit_code = 2


class DependencyError(AbstractVisionError):
    """A model, a server or a program is missing; the message has the command that fixes it.

    ``status`` is that of the HTTP reply that says so.
    """

    exit_code = 3

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class OptionalDependencyMissingError(DependencyError):
    """An extra is not installed; the message has the pip command."""


class BatchingFaultError(DependencyError):
    """The model, or what runs it, mixes the requests of a batch: one gives another picture alone."""


class SeedsIgnoredError(DependencyError):
    """A server was told seeds, and its pictures do not depend on them."""


class GenerationError(AbstractVisionError, RuntimeError):
    """One request failed. In a batch it becomes a row of the manifest and never reaches its neighbours.

    Also the `RuntimeError` that the older library's backends raised, for code that catches it.

    ``error_kind`` and ``error_class`` are what the manifest's columns of these names say. The class decides what
    follows: transient is tried again with backoff, resource is split, permanent and policy would fail the same way.
    ``status`` is that of the HTTP reply that says so.
    """

    error_kind = "generation"
    error_class: ErrorClass = "permanent"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.transient = self.error_class == "transient"


class BackendBusyError(GenerationError):
    """Rate limit, timeout, connection reset or server error: worth another attempt.

    Args:
        message: One line.
        status: Of the HTTP reply.
        retry_after_s: How long the server asks to wait.
        overloaded: It has too many requests; the limit of concurrent ones learns from it.
        repeatable: False where another attempt now is pointless or forbidden; the next run may try.
        connected: False where the server could not be reached at all.
        answered: False where the connection was lost after the request was sent: the server may have done the work.
    """

    error_kind = "busy"
    error_class = "transient"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        overloaded: bool = False,
        repeatable: bool = True,
        connected: bool = True,
        answered: bool = True,
    ) -> None:
        super().__init__(message, status=status)
        self.retry_after_s = retry_after_s or 0.0
        self.overloaded = overloaded
        self.repeatable = repeatable
        self.connected = connected
        self.answered = answered


class RequestTimeoutError(BackendBusyError):
    """The request took longer than the job allows it."""

    error_kind = "timeout"


class ShardTimeoutError(GenerationError):
    """The request's shard took longer than the job allows it; the request may never have been tried."""

    error_kind = "timeout"
    error_class = "transient"


class InputUnavailableError(GenerationError):
    """The host of an input image failed, however often it was asked; the request was never sent."""

    error_kind = "input"
    error_class = "transient"


class GenerationCancelledError(GenerationError):
    """The caller asked for the end, or what happened to a neighbour ended the batch, before this request had a result.

    ``begun`` is false where the request was not even begun, so that it cost nothing.
    """

    error_kind = "cancelled"
    error_class = "transient"

    def __init__(self, message: str, *, begun: bool = True) -> None:
        super().__init__(message)
        self.begun = begun


class OutOfMemoryError(GenerationError):
    """The forward pass did not fit in memory; a smaller batch may."""

    error_kind = "out_of_memory"
    error_class = "resource"


class PolicyError(GenerationError):
    """The backend refused the prompt or the image."""

    error_kind = "policy"
    error_class = "policy"


class InputImageError(GenerationError):
    """An input image or mask is missing, unreadable or no image."""

    error_kind = "input"


class InvalidOutputError(GenerationError, ValueError):
    """The backend answered with black, NaN or undecodable output; the older library raised `ValueError` for it."""

    error_kind = "invalid_output"


class WorkerCrashedError(GenerationError):
    """The worker process ended while it ran this request, again after the request was run alone."""

    error_kind = "worker_crashed"


class PartialBatchError(GenerationError):
    """Some requests of one library call failed.

    ``outputs`` has what the others gave, in the order of the requests, and None for each that failed.
    """

    def __init__(self, message: str, *, outputs: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.outputs = outputs


class StorageError(AbstractVisionError):
    """Reading or writing a store failed; running the same command again resumes."""

    exit_code = 4

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class DamagedFileError(StorageError):
    """A file of a run is there and is not what was written; `avbatch audit --repair` fixes what can be fixed."""


class ClusterError(AbstractVisionError):
    """Ray could not be reached, or died; running the same command again resumes."""

    exit_code = 4


class RunStoppedError(AbstractVisionError):
    """The run stopped by itself: every request fails in the same way."""


class RunInterruptedError(AbstractVisionError):
    """Ctrl-C or SIGTERM ended the run; running the same command again resumes."""

    exit_code = 130
