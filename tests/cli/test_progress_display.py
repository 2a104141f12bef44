"""Rates and the time that is left, under a clock that the test holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from abstractvision_batch.cli.output import format_duration, format_rate, format_size, one_line, plural
from abstractvision_batch.cli.progress_display import RATE_WINDOW_S, ProgressLines, RateMeter, describe_progress
from abstractvision_batch.execute.progress import Progress


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_does_not_count_what_an_earlier_run_did() -> None:
    text = describe_progress(Progress(requests=100, skipped=50, generated=10), per_second=2.0)

    assert text == "60/100 requests (60%), 2.0/s, about 20 s left"


def test_the_rate_forgets_how_long_loading_took() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    clock.now += 600  # loading a model
    for second in range(400):
        clock.now += 1
        meter.update(3 * (second + 1))

    assert meter.per_second == pytest.approx(3.0, rel=1 / RATE_WINDOW_S)


def test_a_slow_job_has_a_rate_from_two_reports_far_apart() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    for step in (1, 2, 3):
        clock.now += 900
        meter.update(step)

    assert format_rate(meter.per_second) == "4.0/h"


def test_lines_come_every_few_seconds_and_the_last_one_always(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines(clock)
    progress = Progress(requests=100)
    for generated in range(0, 101, 10):
        lines.update(replace(progress, generated=generated, failed=generated // 50))
        clock.now += 1
    lines.close()

    captured = capsys.readouterr()
    printed = captured.err.splitlines()
    assert captured.out == ""
    assert [line.split(" requests")[0] for line in printed] == [
        "generate: 0/100",
        "generate: 50/100",
        "generate: 100/100",
    ]
    assert "2 failed" in printed[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_duration(0.04), "0.0 s"),
        (format_duration(59.7), "1 min 00 s"),
        (format_duration(200), "3 min 20 s"),
        (format_duration(7500), "2 h 05 min"),
        (format_duration(273_600), "3 d 4 h"),
        (format_rate(12.3), "12/s"),
        (format_rate(0.07), "4.2/min"),
        (format_rate(0.0001), "0.4/h"),
        (format_size(412), "412 B"),
        (format_size(3_400_000), "3.4 MB"),
        (format_size(2.5e15), "2,500.0 TB"),
        (plural(1, "row"), "1 row"),
        (plural(1632, "row"), "1,632 rows"),
        (one_line("a\nb\t c"), "a b c"),
        (one_line("red \x1b[31mtext"), "red \ufffd[31mtext"),
        (one_line("abcdef", width=4), "abc…"),
    ],
)
def test_numbers_and_texts_are_short_to_read(text: str, expected: str) -> None:
    assert text == expected
