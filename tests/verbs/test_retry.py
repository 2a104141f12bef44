"""Failed rows run again: those alone, as the next attempt, with the same pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.execute.progress import Progress
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

MADE = ["index", "request_id", "status", "file_name", "sha256", "pixel_sha256"]
HEALTHY = "backend.fail_when=null"


@pytest.fixture
def job(make_job: MakeJob) -> dict[str, Any]:
    """A run of 20 requests in 5 shards of which the 4 dogs and the 4 owls failed."""
    failing = make_job(backend={"kind": "procedural", "fail_when": "dog|owl"})
    run(failing)
    return failing


def _rows(path: Path) -> pa.Table:
    return pq.read_table(path / "manifest.parquet")


def _parts(path: Path) -> dict[str, int]:
    return {part.name: part.stat().st_mtime_ns for part in (path / "manifest").iterdir()}


def test_failed_rows_alone_are_run_again_and_become_what_they_would_have_been(
    job: dict[str, Any], make_job: MakeJob, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    healthy = run(make_job(output={"path": str(tmp_path / "healthy")}))
    before, parts, files = _rows(folder), _parts(folder), set(folder.rglob("*.png"))

    result = retry(folder, overrides=[HEALTHY])

    after = _rows(folder)
    assert (result.generated, result.succeeded, result.failed, result.exit_code) == (8, 20, 0, 0)
    assert after.select(MADE) == _rows(Path(healthy.path)).select(MADE)
    good = [position for position, status in enumerate(before["status"].to_pylist()) if status == "ok"]
    assert after.take(good) == before.take(good)
    assert {name: _parts(folder)[name] for name in parts} == parts
    assert len(set(folder.rglob("*.png")) - files) == 8
    assert audit(folder).findings == ()


def test_a_retried_part_has_the_retried_rows_alone_and_attempts_add_up(job: dict[str, Any], tmp_path: Path) -> None:
    retry(tmp_path / "run")
    retry(tmp_path / "run", overrides=[HEALTHY])

    rows = _rows(tmp_path / "run").to_pylist()
    retried = [row for row in rows if row["prompt"] in ("a dog", "an owl")]
    newest = [
        row
        for part in sorted((tmp_path / "run/manifest").glob("*-a2.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    assert newest == retried
    assert {(row["retry_round"], row["attempts"], row["status"]) for row in retried} == {(2, 3, "ok")}
    assert {(row["retry_round"], row["attempts"]) for row in rows if row not in retried} == {(0, 1)}


def test_what_fails_again_stays_a_failed_row(job: dict[str, Any], tmp_path: Path) -> None:
    result = retry(tmp_path / "run")

    assert (result.generated, result.failed, result.exit_code) == (8, 8, 1)
    assert _rows(tmp_path / "run").num_rows == 20
    assert audit(tmp_path / "run").failed == 8


def test_a_condition_chooses_among_the_failed_rows(job: dict[str, Any], tmp_path: Path) -> None:
    result = retry(tmp_path / "run", where="prompt LIKE '%owl%' OR prompt = 'a fox'", overrides=[HEALTHY])

    rows = _rows(tmp_path / "run").to_pylist()
    assert (result.generated, result.failed) == (4, 4)
    assert {row["prompt"] for row in rows if row["status"] == "failed"} == {"a dog"}
    assert {row["prompt"] for row in rows if row["retry_round"] == 1} == {"an owl"}


def test_with_nothing_failed_nothing_happens(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    before = _parts(tmp_path / "run")

    result = retry(tmp_path / "run")

    assert (result.generated, result.exit_code) == (0, 0)
    assert _parts(tmp_path / "run") == before


def test_a_row_that_left_its_pinned_batch_says_so(make_job: MakeJob, tmp_path: Path) -> None:
    """Batches of two with one failure each: the retried row runs alone."""
    prompts = {"source": ["a fox", "a dog", "a cat", "a dog and a cat"]}
    run(make_job(prompts=prompts, samples_per_prompt=1, backend={"kind": "procedural", "fail_when": "dog"}))

    retry(tmp_path / "run", overrides=[HEALTHY])

    rows = _rows(tmp_path / "run").to_pylist()
    assert [row["reproducibility"] for row in rows] == ["bit-exact", "perceptual"] * 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize("override", ["params.seed=8", "prompts.limit=2", "backend={kind: diffusers}"])
def test_fields_that_change_pixels_are_refused(job: dict[str, Any], tmp_path: Path, override: str) -> None:
    with pytest.raises(SpecError, match=override.partition("=")[0].replace(".", r"\.")):
        retry(tmp_path / "run", overrides=[override])
    assert not list((tmp_path / "run/manifest").glob("*-a1.parquet"))


def test_a_wrong_condition_is_refused_before_anything_runs(job: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no column 'colour'"):
        retry(tmp_path / "run", where="colour = 'red'")


def test_relative_paths_start_where_they_did(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card of the model is found beside the spec, whatever folder the retry is called from."""
    card = (
        "id: me/mine\nprovider: me\nlicense: mit\ntasks: {text_to_image: {}}\nbackends: {procedural: {batch_size: 2}}\n"
    )
    (tmp_path / "specs/cards").mkdir(parents=True)
    (tmp_path / "specs/cards/mine.yaml").write_text(card)
    spec = tmp_path / "specs/job.yaml"
    failing = {"kind": "procedural", "fail_when": "dog"}
    spec.write_text(
        yaml.safe_dump(make_job(model="me/mine", registry={"paths": ["cards"]}, backend=failing, params={}))
    )
    monkeypatch.chdir(tmp_path)
    run("specs/job.yaml")
    monkeypatch.chdir("/")

    assert retry(tmp_path / "run", overrides=[HEALTHY]).failed == 0


def test_a_run_that_is_not_complete_has_its_done_shards_retried(job: dict[str, Any], tmp_path: Path) -> None:
    """4 rows of a prompt are one shard: the third is of the dogs."""
    (tmp_path / "run/manifest/00002-a0.parquet").unlink()

    result = retry(tmp_path / "run", overrides=[HEALTHY])
    resumed = run({**job, "backend": {"kind": "procedural"}})

    assert (result.generated, result.succeeded, result.failed) == (4, 16, 0)
    assert (resumed.generated, resumed.succeeded) == (4, 20)
    assert audit(tmp_path / "run").findings == ()


def test_a_retry_whose_merge_was_cut_off_is_merged_by_the_next_command(job: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stale = (folder / "manifest.parquet").read_bytes()
    retry(folder, overrides=[HEALTHY])
    merged = _rows(folder)
    (folder / "manifest.parquet").write_bytes(stale)

    assert open_run(folder).counts.failed == 0
    again = run(job)

    assert again.generated == 0
    assert _rows(folder) == merged


def test_progress_counts_the_retried_rows(job: dict[str, Any], tmp_path: Path) -> None:
    seen: list[Progress] = []

    retry(tmp_path / "run", on_progress=seen.append)

    assert (seen[0].requests, seen[0].phase) == (8, "retry")
    assert [progress.phase for progress in seen[-3:]] == ["merge", "gallery", "report"]
    assert (seen[-1].done, seen[-1].shards_done) == (8, seen[0].shards)


def test_the_command_takes_the_run_or_its_spec(job: dict[str, Any], tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job))
    assert load_job(spec).spec.backend == open_run(tmp_path / "run").record.spec.backend

    by_folder = CliRunner().invoke(
        app, ["retry", str(tmp_path / "run"), "--where", "prompt = 'a dog'", "--set", HEALTHY, "--json"]
    )
    by_spec = CliRunner().invoke(app, ["retry", str(spec), "--set", HEALTHY])
    nothing = CliRunner().invoke(app, ["retry", str(spec)])
    refused = CliRunner().invoke(app, ["retry", str(tmp_path / "run"), "--where", "prompt ="])

    answer = json.loads(by_folder.stdout)
    assert (by_folder.exit_code, answer["generated"], answer["failed"]) == (1, 4, 4)
    assert (by_spec.exit_code, refused.exit_code, nothing.exit_code) == (0, 2, 0)
    assert "retried    4 failed rows" in by_spec.stdout
    assert "nothing to retry" in nothing.stdout


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_retries_the_same_rows_and_isolates_one_that_kills_its_worker(job: dict[str, Any], tmp_path: Path) -> None:
    execution = "execution={executor: ray, batch_size: 2, shard_size: 4, cpus_per_actor: 0.5, actors: 1}"
    crashing = "backend={kind: procedural, crash_when: owl}"

    result = retry(tmp_path / "run", where="sample_index = 0", overrides=[crashing, execution])

    rows = {row["prompt"]: row for row in _rows(tmp_path / "run").to_pylist() if row["retry_round"] == 1}
    assert (result.generated, result.failed) == (2, 7)
    assert (rows["a dog"]["status"], rows["a dog"]["attempts"]) == ("ok", 2)
    assert (rows["an owl"]["error_kind"], rows["an owl"]["attempts"]) == ("worker_crashed", 3)
    assert audit(tmp_path / "run").findings == ()
