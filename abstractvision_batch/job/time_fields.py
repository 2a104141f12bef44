"""Time fields in a spec: ``{{ scheduled_at }}``, ``{{ date }}`` and so on, for the tick of a schedule.

They are replaced only in fields with the mark `Timed`; a prompt's `template` and `where` have the columns of a row and
are left alone. Jinja is that of `job.sandbox`, so a partition may be written as ``{{ date | replace('-', '') }}``, and
yesterday's as ``{{ scheduled_at.shift(days=-1).date }}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from abstractvision_batch.documents.positions import FieldPath, show
from abstractvision_batch.job.marks import Timed
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.scheduled_time import FINENESS, PERIODS, ScheduledTime
from abstractvision_batch.job.walk import find_parts, put_value
from abstractvision_batch.text.suggestions import did_you_mean

if TYPE_CHECKING:
    from jinja2 import Template

    from abstractvision_batch.job.sandbox import SandboxedTemplates

MAX_CHARACTERS = 10_000

_MARK = re.compile(r"\{\{|\{%")
_NUMBER = re.compile(r"[0-9]{1,19}")


class TimeFieldError(Exception):
    """A time field is wrong; the caller knows where it stands."""


@dataclass(frozen=True, slots=True)
class TimedText:
    """A text of a spec with time fields."""

    text: str
    is_number: bool = False
    """Whether the field takes a whole number."""

    def names(self) -> frozenset[str]:
        """The time fields that it names.

        Raises:
            TimeFieldError: it is not Jinja2, or names what is no time field.
        """
        names, _, _ = _compile(self.text)
        return names

    def render(self, time: datetime | None) -> str:
        """The text for a scheduled time, or for none where it names no time field.

        Raises:
            TimeFieldError: it is wrong for this time, or for all.
        """
        _, template, environment = _compile(self.text)
        from abstractvision_batch.job.sandbox import TEMPLATE_ERRORS

        try:
            environment.begin()
            text = template.render({} if time is None else ScheduledTime(time).fields())
        except TEMPLATE_ERRORS as error:
            raise TimeFieldError(f"{show(self.text)}: {' '.join(str(error)[:300].split())}") from error
        if len(text) > MAX_CHARACTERS:
            raise TimeFieldError(f"{show(self.text)}: prints more than {MAX_CHARACTERS} characters")
        return text


@lru_cache(maxsize=64)
def _compile(text: str) -> tuple[frozenset[str], Template, SandboxedTemplates]:
    # Jinja is loaded only for a spec that has time fields.
    from jinja2 import TemplateSyntaxError, meta

    from abstractvision_batch.job.sandbox import SandboxedTemplates

    environment = SandboxedTemplates()
    try:
        names = frozenset(meta.find_undeclared_variables(environment.parse(text)))
        template = environment.from_string(text)
    except TemplateSyntaxError as error:
        raise TimeFieldError(f"{show(text)}: {error.message}") from error
    except RecursionError as error:
        raise TimeFieldError("is nested too deeply") from error
    for name in sorted(names - set(PERIODS)):
        near = did_you_mean(name, PERIODS)
        known = f"time fields: {', '.join(PERIODS)}"
        raise TimeFieldError(f"{name!r} is no time field ({f'did you mean {near}? {known}' if near else known})")
    return names, template, environment


def find_timed_texts(data: Mapping[str, Any]) -> dict[FieldPath, TimedText]:
    """The texts with time fields of a spec's values."""
    return {
        part.path: TimedText(part.value, is_number=not part.takes(str))
        for part in find_parts(JobSpec, data, Timed)
        if isinstance(part.value, str) and _MARK.search(part.value)
    }


def find_untimed(data: Mapping[str, Any]) -> tuple[FieldPath, str] | None:
    """The first field that needs a scheduled time, and what to say where there is none."""
    for path, timed in find_timed_texts(data).items():
        try:
            names = timed.names()
        except TimeFieldError:
            continue
        if names:
            name = min(names, key=lambda name: FINENESS.index(PERIODS[name]))
            return path, (
                f"{{{{ {name} }}}} needs a scheduled time (avbatch run SPEC --at 2026-11-21T03:00Z, or avbatch "
                "schedule; a run that was started is named by its folder)"
            )
    return None


def render_time_fields(
    data: dict[str, Any], time: datetime | None
) -> tuple[dict[str, Any], list[tuple[FieldPath, str]]]:
    """Copy of a spec's values with its time fields replaced, and what is wrong, as (path, message)."""
    problems: list[tuple[FieldPath, str]] = []
    for path, timed in find_timed_texts(data).items():
        try:
            text = timed.render(time)
            data = put_value(data, path, _as_number(text) if timed.is_number else text)
        except TimeFieldError as error:
            problems.append((path, str(error)))
    return data, problems


def _as_number(text: str) -> int:
    if not _NUMBER.fullmatch(text.strip()):
        raise TimeFieldError(f"{show(text)} is no whole number ({{{{ epoch_s }}}} is one)")
    return int(text)
