"""A run's frozen plan executed again, and rows of it generated again and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.rerun import rerun
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.verify import verify
from tests.support.jobs import MakeJob

MADE = ["index", "request_id", "batch_id", "batch_slot", "seed", "status", "file_name", "sha256", "pixel_sha256"]


def _made(path: Path) -> Any:
    return pq.read_table(path / "manifest.parquet").select(MADE)


def _replace_picture(folder: Path) -> str:
    """Let a row's picture be another one than its request gives, hashes and all; the row's id."""
    part = folder / "manifest" / "00001-a0.parquet"
    rows = pq.read_table(part)
    other = rows["pixel_sha256"].to_pylist()
    row = rows.to_pylist()[0]
    with Image.open(folder / row["file_name"]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / row["file_name"])
    position = rows.schema.get_field_index("pixel_sha256")
    changed = pc.replace_with_mask(
        rows["pixel_sha256"].combine_chunks(), pc.equal(rows["index"].combine_chunks(), row["index"]), "0" * 64
    )
    pq.write_table(rows.set_column(position, rows.schema.field(position), changed), part)
    assert other[0] != "0" * 64
    return str(row["request_id"])


def test_a_rerun_gives_the_same_rows_and_pixels_though_the_prompt_file_is_gone(
    make_job: MakeJob, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\nan owl\na bee\n")
    run(make_job(prompts={"source": str(prompts)}))
    prompts.unlink()

    result = rerun(tmp_path / "run", tmp_path / "again")

    assert (result.exit_code, result.generated) == (0, 12)
    assert _made(tmp_path / "again").equals(_made(tmp_path / "run"))
    assert (tmp_path / "again" / "plan.parquet").read_bytes() == (tmp_path / "run" / "plan.parquet").read_bytes()
    assert audit(tmp_path / "again").findings == ()
    record = json.loads((tmp_path / "again" / "run.json").read_text())
    original = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["rerun_of"] == {"path": str(tmp_path / "run"), "run_id": original["run_id"]}
    assert record["fingerprint"] == original["fingerprint"]


def test_the_same_rerun_again_has_nothing_to_do_and_another_runs_output_is_refused(
    make_job: MakeJob, tmp_path: Path
) -> None:
    run(make_job())
    run(make_job(output={"path": str(tmp_path / "other")}, name="other"))

    assert rerun(tmp_path / "run", tmp_path / "again").generated == 20
    assert rerun(tmp_path / "run", tmp_path / "again").generated == 0
    with pytest.raises(SpecError, match=r"holds another run, other of .* \(choose another output\)"):
        rerun(tmp_path / "run", tmp_path / "other")


def test_a_rerun_takes_overrides_that_change_no_pixel_and_no_others(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())

    with pytest.raises(SpecError, match=r"a rerun gives the run's own pixels.*params\.seed"):
        rerun(tmp_path / "run", tmp_path / "again", overrides=["params.seed=8"])
    assert rerun(tmp_path / "run", tmp_path / "again", overrides=["output.image_format=webp"]).exit_code == 0

    pixels = [pq.read_table(tmp_path / name / "manifest.parquet")["pixel_sha256"] for name in ("run", "again")]
    assert pixels[0].equals(pixels[1])


def test_a_run_verifies_whole_and_by_sample_and_leaves_nothing_behind(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(matrix={"guidance_scale": [1.0, 2.0, 3.0]}))
    before = sorted(path for path in tmp_path.rglob("*"))

    whole = verify(tmp_path / "run", sample=None)
    sampled = verify(tmp_path / "run", sample=3)

    assert (whole.exit_code, whole.identical, len(whole.rows)) == (0, 60, 60)
    assert {row.verdict for row in whole.rows} == {"match"}
    assert (sampled.exit_code, len(sampled.rows)) == (0, 6)  # three rows, each with the other one of its batch
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_sample_takes_something_of_everything_that_requests_differ_in(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(matrix={"guidance_scale": [1.0, 2.0, 3.0], "width": [32, 40]}))
    manifest = {row["request_id"]: row for row in pq.read_table(tmp_path / "run" / "manifest.parquet").to_pylist()}

    report = verify(tmp_path / "run", sample=6)

    points = {(manifest[row.request_id]["guidance_scale"], manifest[row.request_id]["width"]) for row in report.rows}
    assert len(points) == 6
    assert verify(tmp_path / "run", sample=6) == report


def test_one_row_is_generated_again_with_its_batch_alone(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    row = pq.read_table(tmp_path / "run" / "manifest.parquet").to_pylist()[13]

    report = verify(tmp_path / "run", ids=[row["request_id"]], output=tmp_path / "kept")

    assert [(row.request_id, row.verdict) for row in report.rows] == [(row["request_id"], "match")]
    kept = pq.read_table(tmp_path / "kept" / "manifest.parquet").to_pylist()
    assert [(one["index"], one["batch_id"], one["batch_slot"]) for one in kept] == [(12, 6, 0), (13, 6, 1)]
    assert kept[1]["pixel_sha256"] == row["pixel_sha256"]
    with pytest.raises(SpecError, match="the plan has none of this id"):
        verify(tmp_path / "run", ids=["nosuch"])


def test_a_picture_that_is_not_what_its_request_gives_is_a_mismatch_with_figures(
    make_job: MakeJob, tmp_path: Path
) -> None:
    run(make_job())
    request_id = _replace_picture(tmp_path / "run")

    report = verify(tmp_path / "run", sample=None)
    printed = CliRunner().invoke(app, ["verify", str(tmp_path / "run"), "--all"])

    (wrong,) = [row for row in report.rows if row.verdict != "match"]
    assert (wrong.request_id, wrong.verdict, report.exit_code) == (request_id, "mismatch", 1)
    assert wrong.comparison is not None
    assert wrong.comparison.verdict == "different"
    assert printed.exit_code == 1
    assert f"{request_id}: mismatch (bit-exact): different, PSNR " in printed.stdout
    assert "19 of 20, 95 %" in printed.stdout
    assert printed.stdout.endswith("not verified: 1 of 20 rows differ\n")


def test_rows_that_failed_are_not_verified_and_rows_of_a_retry_are(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(backend={"kind": "procedural", "fail_when": "dog|owl"}))
    assert len(verify(tmp_path / "run", sample=None, overrides=["backend.fail_when=null"]).rows) == 12

    retry(tmp_path / "run", overrides=["backend.fail_when=null"])

    healed = verify(tmp_path / "run", sample=None, overrides=["backend.fail_when=null"])
    assert (len(healed.rows), healed.identical, healed.exit_code) == (20, 20, 0)


def test_a_run_without_a_row_that_can_be_verified_says_so(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(backend={"kind": "procedural", "fail_when": "."}))

    done = CliRunner().invoke(app, ["verify", str(tmp_path / "run"), "--output", str(tmp_path / "kept")])

    assert done.exit_code == 0
    assert done.stdout.endswith("nothing to verify: no row succeeded with a seed\n")
    assert not (tmp_path / "kept").exists()


def test_the_command_line_reruns_and_verifies_and_says_so_in_json(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    runner = CliRunner()

    again = runner.invoke(app, ["rerun", str(tmp_path / "run"), "--output", str(tmp_path / "again"), "--json"])
    verified = runner.invoke(app, ["verify", str(tmp_path / "again"), "--sample", "2", "--json"])
    both = runner.invoke(app, ["verify", str(tmp_path / "again"), "--sample", "2", "--all"])

    assert json.loads(again.stdout)["generated"] == 20
    found = json.loads(verified.stdout)
    assert (found["ok"], found["identical"], found["by_verdict"]) == (True, 4, {"match": 4})
    assert both.exit_code == 2
