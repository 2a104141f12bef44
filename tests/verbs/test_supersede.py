"""A request that failed is replaced by one with other words: the run is extended by it, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.listing import read_run_state
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.diff import diff
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.verbs.test_extend import files_of

REFUSED = "a rude dog"
ROWS = [{"id": "a", "prompt": "a fox"}, {"id": "b", "prompt": REFUSED}, {"id": "c", "prompt": "an owl"}]
REWORDED = [ROWS[0], {"id": "b", "prompt": "a polite dog"}, ROWS[2]]


def job(make_job: MakeJob, rows: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
    backend = {"kind": "procedural", "fail_when": "rude"}
    return make_job(**{"backend": backend, "prompts": {"source": rows}, "samples_per_prompt": 2, **sections})


@pytest.mark.sampled(6)
@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
@pytest.mark.parametrize("matrix", [{}, {"guidance_scale": [3, 5]}], ids=str)
def test_a_reworded_prompt_takes_the_place_of_the_one_that_failed(
    layout: str, matrix: dict[str, Any], make_job: MakeJob, tmp_path: Path
) -> None:
    output, points = {"path": str(tmp_path / "run"), "layout": layout}, 2 if matrix else 1
    first = run(job(make_job, ROWS, output=output, matrix=matrix))
    before = files_of(tmp_path / "run")

    result = run(job(make_job, REWORDED, output=output, matrix=matrix), extend=True)

    after = files_of(tmp_path / "run")
    assert (first.failed, first.exit_code) == (2 * points, 1)
    assert (result.generated, result.succeeded, result.failed, result.superseded) == (
        2 * points,
        6 * points,
        0,
        2 * points,
    )
    assert result.exit_code == 0
    assert {name: after[name] for name in before} == before
    rows = pq.read_table(tmp_path / "run/manifest.parquet").to_pylist()
    old = {row["request_id"]: row for row in rows if row["status"] == "superseded"}
    new = [row for row in rows if row["supersedes"] is not None]
    assert {row["prompt"] for row in old.values()} == {REFUSED}
    assert sorted(row["supersedes"] for row in new) == sorted(old)
    for row in new:
        replaced = old[row["supersedes"]]
        key = ("prompt_id", "sample_index", "guidance_scale", "seed")
        assert [row[name] for name in key] == [replaced[name] for name in key]
    report = audit(tmp_path / "run")
    assert (report.findings, report.exit_code, report.superseded) == ((), 0, 2 * points)
    assert retry(tmp_path / "run").generated == 0
    fresh = {**job(make_job, REWORDED, matrix=matrix), "output": {"path": str(tmp_path / "fresh"), "layout": layout}}
    assert run(fresh).exit_code == 0
    assert diff(tmp_path / "run", tmp_path / "fresh").exit_code == 0


def test_every_command_knows_what_was_replaced(make_job: MakeJob, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job(make_job, ROWS)))
    runner = CliRunner()
    runner.invoke(app, ["run", str(spec)])
    spec.write_text(yaml.safe_dump(job(make_job, REWORDED)))

    plain = runner.invoke(app, ["run", str(spec)])
    extended = runner.invoke(app, ["run", str(spec), "--extend"])
    again = runner.invoke(app, ["run", str(spec), "--json"])

    folder = tmp_path / "run"
    status = json.loads(runner.invoke(app, ["status", str(folder), "--json"]).stdout)
    state = read_run_state(open_run(folder).store)
    assert plain.exit_code == 2
    assert "or --extend, which keeps all 6 requests and adds 2" in plain.stderr
    assert "6 succeeded, 0 failed, 2 replaced by others" in extended.stdout
    assert (again.exit_code, json.loads(again.stdout)["not_done"]) == (0, 0)
    assert (status["complete"], status["superseded"], status["failed"], status["failures"]) == (True, 2, 0, [])
    assert (state.state, state.superseded) == ("complete", 2)
    assert "6 succeeded, 0 failed, 0 left, 2 replaced by others" in runner.invoke(app, ["status", str(folder)]).stdout
    assert "| failed, and replaced by others | 2 |" in (folder / "README.md").read_text()
    assert "replaced   2 failed requests" in runner.invoke(app, ["audit", str(folder)]).stdout


def test_what_fails_again_is_replaced_again(make_job: MakeJob, tmp_path: Path) -> None:
    run(job(make_job, ROWS))
    ruder = [ROWS[0], {"id": "b", "prompt": "an even more rude dog"}, ROWS[2]]

    second = run(job(make_job, ruder), extend=True)
    third = run(job(make_job, REWORDED), extend=True)

    assert (second.failed, second.superseded, second.exit_code) == (2, 2, 1)
    assert (third.succeeded, third.failed, third.superseded, third.exit_code) == (6, 0, 4, 0)
    assert audit(tmp_path / "run").findings == ()


def test_a_request_that_succeeded_is_never_replaced(make_job: MakeJob, tmp_path: Path) -> None:
    run(job(make_job, ROWS))
    before = files_of(tmp_path / "run")
    other = [{"id": "a", "prompt": "a red fox"}, *REWORDED[1:]]

    with pytest.raises(SpecError, match=r"lacks 2 of the 6 requests there, as sample 0 of prompt 'a', 'a fox'"):
        run(job(make_job, other), extend=True)

    assert files_of(tmp_path / "run") == before


def test_a_request_that_was_not_run_is_replaced_before_it_is_paid_for(make_job: MakeJob, tmp_path: Path) -> None:
    """The brake stops the run after 16; the words of the others are changed meanwhile."""
    rows = [{"id": f"p{number}", "prompt": f"a rude dog {number}"} for number in range(24)]
    cut = {"batch_size": 4, "shard_size": 24}
    run(job(make_job, rows, samples_per_prompt=1, execution=cut))
    polite = [{**row, "prompt": row["prompt"].replace("rude", "polite")} for row in rows]

    result = run(job(make_job, polite, samples_per_prompt=1, execution=cut), extend=True)

    assert (result.succeeded, result.failed, result.superseded, result.exit_code) == (24, 0, 24, 0)
    assert result.attempts == 16 + 24
    assert audit(tmp_path / "run").findings == ()


@pytest.mark.parametrize("lost", ["plan/00001.parquet"])
def test_a_plan_that_a_crash_cut_off_is_written_again(make_job: MakeJob, tmp_path: Path, lost: str) -> None:
    run(job(make_job, ROWS))
    reworded = job(make_job, REWORDED)
    run(reworded, extend=True)
    plan = (tmp_path / "run" / lost).read_bytes()
    (tmp_path / "run" / lost).unlink()

    assert run(reworded).exit_code == 0

    assert (tmp_path / "run" / lost).read_bytes() == plan


def test_an_extension_with_a_column_of_that_name_says_so(make_job: MakeJob, tmp_path: Path) -> None:
    rows = [{**row, "supersedes": "x"} for row in ROWS]
    run(job(make_job, rows))

    with pytest.raises(SpecError, match="column 'supersedes' has the name"):
        run(job(make_job, [{**row, "supersedes": "x"} for row in REWORDED]), extend=True)

    assert open_run(tmp_path / "run").counts.failed == 2
