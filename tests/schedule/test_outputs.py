"""No two ticks of a schedule may share a folder, and which ticks follow from a path."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import GivenSpec
from abstractvision_batch.schedule.cron import parse_cron
from abstractvision_batch.schedule.outputs import TimedSpec, read_timed_spec, sample_ticks

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def timed(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\noutput:\n  path: runs/a\n")
    return path


def read(file: Path, path: str, *more: str) -> TimedSpec:
    return read_timed_spec(GivenSpec(file, (f"output.path='{path}'", *more)))


@pytest.mark.parametrize(
    ("cron", "timezone", "path", "addition"),
    [
        ("0 3 * * *", "UTC", "runs/a", "{{ date }}"),
        ("0 * * * *", "UTC", "runs/{{ date }}", "{{ hour }}"),
        ("*/5 * * * *", "UTC", "runs/{{ date }}/{{ hour }}", "{{ minute }}"),
        ("0 3 * * *", "UTC", "runs/{{ day }}", "{{ date }}"),  # the same in a month
        ("0 3 * * *", "UTC", "runs/{{ month }}-{{ day }}", "{{ date }}"),  # in a year
        ("0 * * * *", "UTC", "runs/{{ hour }}", "{{ date }}"),  # tomorrow
        ("0 3 29 2 *", "UTC", "runs/{{ month }}", "{{ date }}"),
        ("0 * * * *", "Europe/Berlin", "runs/{{ date }}T{{ hour }}", "{{ scheduled_at }}"),  # in the repeated hour
    ],
)
def test_a_path_that_two_ticks_share_is_refused_with_what_to_add(
    timed: Path, cron: str, timezone: str, path: str, addition: str
) -> None:
    ticks = sample_ticks(parse_cron(cron, timezone), NOW)

    with pytest.raises(SpecError) as caught:
        read(timed, path).require_distinct(ticks)

    assert "would both write to runs/" in str(caught.value)
    assert str(caught.value).endswith(f"(add {addition} to the path)")


@pytest.mark.parametrize(
    ("cron", "timezone", "path"),
    [
        ("0 3 * * *", "UTC", "runs/{{ date }}"),
        ("0 * * * *", "UTC", "runs/{{ date }}T{{ hour }}"),
        ("0 * * * *", "Europe/Berlin", "runs/{{ scheduled_at }}"),
        ("30 2 * * *", "Europe/Berlin", "runs/{{ date }}"),
        ("0 3 * * 1", "UTC", "runs/{{ week }}"),
        ("0 3 1 * *", "UTC", "runs/{{ year }}/{{ month }}"),
        ("0 3 29 2 *", "UTC", "runs/{{ year }}"),
        ("0 3 31 * *", "UTC", "runs/{{ year }}-{{ month }}"),
        ("* * * * * *", "Europe/Berlin", "runs/{{ scheduled_at }}"),
    ],
)
def test_a_path_of_its_own_for_each_tick_is_accepted(timed: Path, cron: str, timezone: str, path: str) -> None:
    read(timed, path).require_distinct(sample_ticks(parse_cron(cron, timezone), NOW))


@pytest.mark.parametrize(
    ("path", "cron"),
    [
        ("{{ date }}", "0 0 * * *"),
        ("{{ year }}/{{ month }}/{{ day }}", "0 0 * * *"),
        ("{{ date }}/{{ hour }}", "0 * * * *"),
        ("{{ week }}", "0 0 * * 1"),
        ("{{ year }}-{{ month }}", "0 0 1 * *"),
        ("{{ year }}", "0 0 1 1 *"),
    ],
)
def test_the_partitions_follow_from_the_finest_time_field_of_the_path(timed: Path, path: str, cron: str) -> None:
    assert read(timed, path).cron_of_partitions() == cron


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("runs/a", "name=a", "names no time field"),
        ("{{ scheduled_at }}", "name=a", "names single ticks"),
        ("{{ date }}", "prompts.source='{{ date }}-{{ hour }}.txt'", "prompts.source names a shorter time"),
    ],
)
def test_where_no_partitions_follow_the_cron_expression_is_asked_for(
    timed: Path, path: str, more: str, said: str
) -> None:
    with pytest.raises(SpecError, match=r"--cron") as caught:
        read(timed, path, more).cron_of_partitions()

    assert said in str(caught.value)
