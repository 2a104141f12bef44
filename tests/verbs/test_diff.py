"""Two runs beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.verbs.diff import POINT_COLUMNS, DiffReport, diff, pair_rows
from abstractvision_batch.verbs.rerun import rerun
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob


@pytest.fixture
def compare(make_job: MakeJob, tmp_path: Path) -> Any:
    """Runs the small job and another one, and compares them."""

    def runs(**sections: Any) -> DiffReport:
        run(make_job())
        run(make_job(**{"output": {"path": str(tmp_path / "other")}, **sections}))
        return diff(tmp_path / "run", tmp_path / "other")

    return runs


def _identity(report: DiffReport) -> dict[str, tuple[Any, Any]]:
    return {change.name: (change.left, change.right) for change in report.changes if change.kind == "identity"}


def test_a_rerun_is_the_same(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    rerun(tmp_path / "run", tmp_path / "again")

    report = diff(tmp_path / "run", tmp_path / "again")

    assert (report.exit_code, report.paired, report.identical, report.pairs) == (0, 20, 20, ())
    assert [(change.kind, change.name) for change in report.changes] == [("runtime", "output.path")]


def test_a_changed_parameter_is_named_and_its_pictures_are_paired_and_measured(compare: Any) -> None:
    report = compare(params={"width": 32, "height": 24, "seed": 8})

    assert _identity(report) == {"params.seed": (7, 8)}
    assert (report.paired, report.identical, report.only_left, report.only_right) == (20, 0, (), ())
    assert report.changed_columns == {"seed": 20}
    assert report.by_verdict["different"] > 10
    figures = [pair.comparison.psnr_db for pair in report.pairs if pair.verdict == "different"]
    assert figures == sorted(figures)


def test_a_changed_template_pairs_pictures_of_the_same_prompt_id(compare: Any) -> None:
    source = ["a fox", "a cat", "a dog", "an owl", "a bee"]

    report = compare(prompts={"source": source, "template": "{{ prompt }}, in snow"})

    assert _identity(report) == {"prompts.template": (None, "{{ prompt }}, in snow")}
    assert (report.paired, report.changed_columns["prompt"]) == (20, 20)


def test_prompts_in_another_order_are_paired_by_prompt(compare: Any) -> None:
    report = compare(prompts={"source": ["a cat", "a fox", "a dog", "an owl", "a bee"]})

    assert [change.kind for change in report.changes if change.name == "prompt dataset"] == ["prompts"]
    assert report.paired == 20
    assert all(pair.left["prompt"] == pair.right["prompt"] for pair in report.pairs)


def test_prompts_that_only_one_run_has_are_told_apart(compare: Any) -> None:
    report = compare(prompts={"source": ["a fox", "a cat", "a dog", "an owl", "a bee", "a newt"]})

    assert (report.paired, report.identical) == (20, 20)
    assert {row["prompt"] for row in report.only_right} == {"a newt"}
    assert (len(report.only_right), report.exit_code) == (4, 1)


def test_a_matrix_is_paired_point_by_point(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(matrix={"guidance_scale": [1.0, 2.0]}))
    run(make_job(matrix={"guidance_scale": [2.0, 3.0]}, output={"path": str(tmp_path / "other")}))

    report = diff(tmp_path / "run", tmp_path / "other")

    assert (report.paired, report.identical) == (20, 20)
    assert {row["guidance_scale"] for row in report.only_left} == {1.0}
    assert {row["guidance_scale"] for row in report.only_right} == {3.0}


def test_rows_that_failed_in_one_run_are_a_difference(compare: Any) -> None:
    report = compare(backend={"kind": "procedural", "fail_when": "dog"})

    assert report.by_verdict == {"identical": 16, "failed": 4}


def test_pairs_beyond_the_measured_ones_are_counted(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    run(make_job(params={"width": 32, "height": 24, "seed": 8}, output={"path": str(tmp_path / "other")}))

    report = diff(tmp_path / "run", tmp_path / "other", measured=5)

    assert report.by_verdict["not measured"] == 15


def test_rows_that_nothing_tells_apart_are_paired_in_their_order() -> None:
    row = dict.fromkeys(
        ["prompt_id", "prompt", "sample_index", *POINT_COLUMNS],
    )
    left = [{**row, "request_id": name} for name in "ab"]
    right = [{**row, "request_id": name} for name in "cde"]

    pairs, only_left, only_right = pair_rows(left, right)

    assert [(one["request_id"], other["request_id"]) for one, other in pairs] == [("a", "c"), ("b", "d")]
    assert (only_left, [one["request_id"] for one in only_right]) == ([], ["e"])


def test_the_command_line_names_what_differs_and_writes_a_page(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(prompts={"source": ["a <b>fox</b>", "a cat"]}))
    run(
        make_job(
            prompts={"source": ["a <b>fox</b>", "a cat"]},
            params={"width": 32, "height": 24, "seed": 8},
            output={"path": str(tmp_path / "other")},
        )
    )
    arguments = ["diff", str(tmp_path / "run"), str(tmp_path / "other")]

    text = CliRunner().invoke(app, [*arguments, "--html", str(tmp_path / "pages" / "diff.html"), "--pairs", "8"])
    plain = CliRunner().invoke(app, [*arguments, "--json"])

    assert text.exit_code == plain.exit_code == 1
    assert "identity    params.seed: 7 → 8" in text.stdout
    assert "not the same: 8 pairs differ" in text.stdout
    assert json.loads(plain.stdout)["changed_columns"] == {"seed": 8}
    page = (tmp_path / "pages" / "diff.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 8
    assert page.count("data:image/png;base64,") == 24
    assert "a &lt;b&gt;fox&lt;/b&gt;" in page
    assert "<b>fox" not in page
