"""A driver killed at every write of the commit protocol on a disk: the same command again leaves the whole run."""

from __future__ import annotations

import functools
import zlib

import pytest

from tests.support.crash.drivers import Zygote
from tests.support.crash.matrix import Matrix
from tests.support.crash.protocol import LAYOUTS, TWICE, Case, cases, points, scenarios
from tests.support.crash.runs import place_on_disk

#: By default one case in five, by a number that its name has in every process; the slow suite has them all.
CASES = [
    pytest.param(case, marks=() if zlib.crc32(str(case).encode()) % 5 == 0 else pytest.mark.slow)
    for case in cases("file")
]


@pytest.fixture(scope="module")
def matrix(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    folder = tmp_path_factory.mktemp("runs")
    return Matrix(zygote, functools.partial(place_on_disk, folder), folder)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_after_a_crash_the_same_command_leaves_the_undisturbed_run(case: Case, matrix: Matrix) -> None:
    matrix.check(case)


@pytest.mark.parametrize(
    "layout", [pytest.param(layout, marks=() if layout == "files" else pytest.mark.slow) for layout in LAYOUTS]
)
@pytest.mark.parametrize(("write", "then"), TWICE)
def test_a_run_that_crashes_again_while_it_resumes_is_resumed_again(
    layout: str, write: str, then: str, matrix: Matrix
) -> None:
    matrix.check(Case("run", layout, "file", f"{write}: half written"), then=f"{then}: half written")


@pytest.mark.parametrize(
    ("layout", "scenario"), [(layout, scenario) for layout in LAYOUTS for scenario in scenarios(layout, "file")]
)
def test_the_matrix_has_every_point(layout: str, scenario: str, matrix: Matrix) -> None:
    assert matrix.undisturbed(scenario, layout).points == list(points(scenario, layout, "file"))
