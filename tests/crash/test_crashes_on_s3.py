"""A driver killed at every write of the commit protocol on S3: the same command again leaves the whole run."""

from __future__ import annotations

import pytest

from tests.support.crash.drivers import Zygote
from tests.support.crash.matrix import Matrix
from tests.support.crash.protocol import LAYOUTS, TWICE, Case, cases, points, scenarios
from tests.support.crash.runs import place_on_s3
from tests.support.emulators import StoreServer

#: In the middle of uploads that have parts, as those from 100 MB on have.
UPLOADS = (
    "upload_part run.json: before (2)",
    "complete_multipart_upload artifacts/00001/1: before",
    "upload_part manifest/00001-a0.parquet: before (3)",
    "complete_multipart_upload_if_absent manifest/00001-a0.parquet: before",
    "complete_multipart_upload manifest.parquet: before",
)
#: The others put by the same calls; the matrix on a disk has each of their writes in the default run.
QUICK = [case for case in cases("s3") if case.layout == "files" and case.scenario in ("run", "retry")]
CASES = [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in cases("s3")]


@pytest.fixture(scope="module")
def matrix(s3_server: StoreServer, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(zygote, place_on_s3, tmp_path_factory.mktemp("runs"))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_after_a_crash_the_same_command_leaves_the_undisturbed_run(case: Case, matrix: Matrix) -> None:
    matrix.check(case)


@pytest.mark.slow
@pytest.mark.parametrize(("write", "then"), TWICE[1:3])
def test_a_run_that_crashes_again_while_it_resumes_is_resumed_again(write: str, then: str, matrix: Matrix) -> None:
    matrix.check(Case("run", "files", "s3", f"{write}: before"), then=f"{then}: before")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("layout", "scenario"), [(layout, scenario) for layout in LAYOUTS for scenario in scenarios(layout, "s3")]
)
def test_the_matrix_has_every_point(layout: str, scenario: str, matrix: Matrix) -> None:
    assert matrix.undisturbed(scenario, layout).points == list(points(scenario, layout, "s3"))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("point", UPLOADS)
def test_half_an_upload_is_no_file(point: str, matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    matrix.check(Case("run", "files", "s3", point), faults=["uploads_in_parts"])
