"""The options that say how a spec is given: `--set`, `--registry`, `--at`, `--cron` and `--timezone`.

A command has one parameter for them, of a class below, and `takes_options` spreads it into the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abstractvision_batch.cli.command import RegistryOption, SetOption

if TYPE_CHECKING:
    from abstractvision_batch.job.load import GivenSpec, Job


@dataclass(frozen=True)
class SpecOptions:
    """Of a spec whose scheduled time is not asked for, or follows from something else."""

    overrides: SetOption = None
    registry: RegistryOption = None

    def given(self, spec: str) -> GivenSpec:
        """Return how the spec is given."""
        from abstractvision_batch.job.load import GivenSpec

        return GivenSpec(spec, tuple(self.overrides or ()), tuple(self.registry or ()))

    def load(self, spec: str) -> Job:
        """Load and check the spec."""
        from abstractvision_batch.job.load import load_job

        return load_job(self.given(spec))

    def refuse(self) -> None:
        """Refuse what says something of a spec, where there is none: PATH is a run."""
        if self.overrides:
            raise typer.BadParameter("overrides a spec, and PATH is a run", param_hint="--set")


@dataclass(frozen=True)
class TimedOptions(SpecOptions):
    """Of a spec that may have time fields."""

    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="TIME", help="The scheduled time that {{ scheduled_at }} stands for, as 2026-11-21T03:00Z."
        ),
    ] = None
    cron: Annotated[
        str | None,
        typer.Option(
            "--cron",
            metavar="FIELDS",
            help='In place of --at: the latest time that is due of a schedule, as "0 3 * * *".',
        ),
    ] = None
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="NAME", help="Of --cron, --at and time fields, as Europe/Berlin.")
    ] = "UTC"

    def given(self, spec: str) -> GivenSpec:
        """Return how the spec is given, for `--at`, the latest tick of `--cron`, or no time.

        A spec whose `output.path` is the same for two ticks of `--cron` is refused.
        """
        given = SpecOptions.given(self, spec)
        return replace(given, scheduled_at=self._scheduled_at(given))

    def refuse(self) -> None:
        """Refuse what says something of a spec, where there is none: PATH is a run."""
        SpecOptions.refuse(self)
        for option, value in (("--at", self.at), ("--cron", self.cron)):
            if value is not None:
                raise typer.BadParameter("is of a spec with time fields, and PATH is a run", param_hint=option)

    def _scheduled_at(self, given: GivenSpec) -> datetime | None:
        if self.at is not None and self.cron is not None:
            raise typer.BadParameter("says the scheduled time, and so does --cron (leave one out)", param_hint="--at")
        if self.at is not None:
            from abstractvision_batch.job.scheduled_time import find_timezone, parse_time

            return parse_time(self.at, find_timezone(self.timezone))
        if self.cron is None:
            if self.timezone != "UTC":
                raise typer.BadParameter("is of --cron or --at, and neither is given", param_hint="--timezone")
            return None
        from abstractvision_batch.schedule.cron import parse_cron
        from abstractvision_batch.schedule.outputs import read_timed_spec, sample_ticks

        now = datetime.now(UTC)
        parsed = parse_cron(self.cron, self.timezone)
        read_timed_spec(given).require_distinct(sample_ticks(parsed, now))
        due = parsed.latest(now)
        if due is None:
            raise typer.BadParameter(f"{self.cron}: has not come once in 50 years", param_hint="--cron")
        return due


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take, in place of each parameter that is a class of options, the options of that class."""
    signature = inspect.signature(command, eval_str=True)
    kinds: dict[str, Any] = {
        name: found.annotation for name, found in signature.parameters.items() if is_dataclass(found.annotation)
    }
    if not kinds:
        return command
    parameters: list[inspect.Parameter] = []
    for name, found in signature.parameters.items():
        own = inspect.signature(kinds[name], eval_str=True).parameters.values() if name in kinds else [found]
        parameters += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    @wraps(command)
    def spread(**values: Any) -> None:
        for name, kind in kinds.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        command(**values)

    spread.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spread
