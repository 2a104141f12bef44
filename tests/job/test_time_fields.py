"""Time fields: what they print, where they are replaced, and what is said where they cannot be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.scheduled_time import find_timezone, parse_time, tick_key

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = datetime(2026, 11, 21, 0, 30, tzinfo=BERLIN)
GOOD: dict[str, Any] = {
    "name": "demo",
    "model": "avbatch/procedural",
    "backend": {"kind": "procedural"},
    "prompts": {"source": ["a fox"]},
    "output": {"path": "runs/demo"},
}


def path_for(text: str, time: datetime = NIGHT) -> str:
    loaded = load_job({**GOOD, "output": {"path": text}}, scheduled_at=time)
    return loaded.spec.output.path


def problems_of(time: datetime | None = NIGHT, **sections: Any) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        load_job({**GOOD, **sections}, scheduled_at=time)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("{{ scheduled_at }}", "2026-11-20T2330Z"),  # UTC, the same instant wherever it is printed
        ("{{ date }}", "2026-11-21"),  # the rest is of the timezone
        ("{{ year }}/{{ month }}/{{ day }}/{{ hour }}{{ minute }}", "2026/11/21/0030"),
        ("{{ week }}", "2026-W47"),
        ("{{ epoch_s }}", "1795217400"),
        ("{{ scheduled_at.strftime('%a') }}", "Sat"),
        ("{{ scheduled_at.shift(days=-1).date }}", "2026-11-20"),
        ("{{ date | replace('-', '') }}", "20261121"),
        ("{{ '{{' }} date }}", "{{ date }}"),
    ],
)
def test_a_time_field_prints(text: str, printed: str) -> None:
    assert path_for(f"runs/{text}") == f"runs/{printed}"


def test_a_scheduled_time_with_seconds_prints_them() -> None:
    assert path_for("{{ scheduled_at }}", datetime(2026, 11, 21, 3, 0, 5, tzinfo=UTC)) == "2026-11-21T030005Z"


def test_a_day_earlier_is_the_same_time_of_the_clock_where_the_clocks_changed() -> None:
    monday = datetime(2026, 3, 30, 1, 0, tzinfo=BERLIN)  # 29 March has 23 hours
    assert path_for("{{ scheduled_at.shift(days=-1).strftime('%d-%H') }}", monday) == "29-01"
    assert path_for("{{ scheduled_at.shift(hours=-24).strftime('%d-%H') }}", monday) == "29-00"


def test_an_hour_earlier_is_counted_from_the_right_one_of_two_equal_hours() -> None:
    second = datetime(2026, 10, 25, 2, 0, fold=1, tzinfo=BERLIN)
    assert path_for("{{ scheduled_at }} {{ scheduled_at.shift(hours=-1) }}", second) == (
        "2026-10-25T0100Z 2026-10-25T0000Z"
    )


def test_time_fields_are_replaced_in_the_declared_fields_only() -> None:
    loaded = load_job(
        {
            **GOOD,
            "name": "daily-{{ date }}",
            "description": "of {{ date }}",
            "prompts": {"source": ["{{ date }}"], "template": "{{ prompt }} {{ date }}", "shuffle": "{{ epoch_s }}"},
            "params": {"seed": "{{ epoch_s + 1 }}", "negative_prompt": "{{ date }}"},
        },
        scheduled_at=NIGHT,
    )

    spec = loaded.spec
    assert loaded.scheduled_at == NIGHT
    assert (spec.name, spec.description) == ("daily-2026-11-21", "of 2026-11-21")
    assert (spec.prompts.shuffle, spec.params.seed) == (1795217400, 1795217401)
    assert (spec.prompts.source, spec.prompts.template) == (["{{ date }}"], "{{ prompt }} {{ date }}")
    assert spec.params.negative_prompt == "{{ date }}"


def test_the_prompts_of_a_tick_may_lie_at_a_path_of_their_own() -> None:
    job = {**GOOD, "prompts": {"source": "s3://b/{{ scheduled_at.shift(days=-1).date }}/*.txt"}}

    assert load_job(job, scheduled_at=NIGHT).spec.prompts.source == "s3://b/2026-11-20/*.txt"


def test_overrides_come_before_time_fields_and_variables_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUCKET", "s3://{{ date }}")
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nmodel: avbatch/procedural\nbackend: {kind: procedural}\nprompts: {source: [a]}\n")

    loaded = load_job(path, overrides=["output.path='${BUCKET}/{{ date }}'"], scheduled_at=NIGHT)

    assert loaded.spec.output.path == "s3://{{ date }}/2026-11-21"


def test_time_fields_without_a_scheduled_time_are_one_line_that_says_how_to_give_one(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a-{{ date }}\nmodel: avbatch/procedural\nprompts: {source: [a]}\noutput:\n  path: runs/{{ date }}\n"
    )

    with pytest.raises(SpecError) as caught:
        load_job(path)

    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:1:1: name: {{{{ date }}}} needs a scheduled time (avbatch run SPEC --at ")


def test_every_wrong_time_field_is_named_with_what_was_meant() -> None:
    name, seed, path = problems_of(
        output={"path": "runs/{{ dat }}"}, name="{{ scheduled_at.yaer }}", params={"seed": "{{ date }}"}
    )

    assert "no attribute 'yaer'" in name
    assert seed.endswith('params.seed: "2026-11-21" is no whole number ({{ epoch_s }} is one)')
    assert "output.path: 'dat' is no time field (did you mean date? time fields: year, month," in path


@pytest.mark.parametrize("text", ["{{ date", "{% for %}", "{{ ''.__class__ }}", "{{ date * 1000 }}", "{{ range(9) }}"])
def test_what_the_sandbox_does_not_know_is_one_problem(text: str) -> None:
    (problem,) = problems_of(output={"path": text})

    assert problem.startswith("<spec>: output.path: ")
    assert "\n" not in problem


def test_a_spec_without_time_fields_takes_a_scheduled_time() -> None:
    assert load_job(GOOD, scheduled_at=NIGHT).scheduled_at == NIGHT


def test_a_scheduled_time_without_timezone_is_refused() -> None:
    assert "has no timezone" in problems_of(datetime(2026, 11, 21))[0]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-21T03:00Z", "2026-11-21T0300Z"),
        ("2026-11-21T0300Z", "2026-11-21T0300Z"),  # what {{ scheduled_at }} printed
        ("2026-11-21T03:00", "2026-11-21T0200Z"),  # of the timezone
        ("2026-11-21", "2026-11-20T2300Z"),
        ("2026-10-25 02:30", "2026-10-25T0030Z"),  # the first of both
    ],
)
def test_a_time_of_the_command_line_is_read(text: str, instant: str) -> None:
    assert tick_key(parse_time(text, BERLIN)) == instant


@pytest.mark.parametrize("text", ["tomorrow", "2026-13-01", "2026-03-29T02:30", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"^--at "):
        parse_time(text, BERLIN)


@pytest.mark.parametrize(("name", "said"), [("Europe/Berln", "did you mean Europe/Berlin"), ("../x", "IANA")])
def test_an_unknown_timezone_is_refused(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        find_timezone(name)
