"""Whole jobs, judged by what is on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.execute.progress import Progress
from abstractvision_batch.media.images import decode_image, pixel_sha256
from abstractvision_batch.runs.columns import PLAN_SCHEMA
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.support.journal import read_journal, wait_for

#: Columns that say what was made, not when, where and by whom.
IDENTITY = [*PLAN_SCHEMA.names, "status", "error_kind", "file_name", "sha256", "pixel_sha256", "reproducibility"]


def _manifest(path: Path | str) -> pa.Table:
    return pq.read_table(Path(path) / "manifest.parquet")


def _part_times(path: Path) -> dict[str, int]:
    return {part.name: part.stat().st_mtime_ns for part in (path / "manifest").glob("*.parquet")}


def test_a_run_leaves_one_row_and_one_file_per_planned_request(make_job: MakeJob, tmp_path: Path) -> None:
    result = run(make_job())

    manifest = _manifest(result.path)
    assert (result.requests, result.succeeded, result.failed, result.exit_code) == (20, 20, 0, 0)
    assert manifest["index"].to_pylist() == list(range(20))
    assert manifest["request_id"].to_pylist() == pq.read_table(tmp_path / "run/plan.parquet")["request_id"].to_pylist()
    for row in manifest.to_pylist():
        data = (tmp_path / "run" / row["file_name"]).read_bytes()
        assert len(data) == row["size_bytes"]
        image = decode_image(data)
        assert image.size == (row["media_width"], row["media_height"]) == (32, 24)
        assert pixel_sha256(image) == row["pixel_sha256"]


def test_no_column_of_the_manifest_is_null_typed_and_its_parts_share_one_schema(make_job: MakeJob) -> None:
    result = run(make_job())

    schemas = [pq.read_schema(part).remove_metadata() for part in Path(result.path, "manifest").iterdir()]
    assert len(schemas) == 5
    assert all(schema == schemas[0] == _manifest(result.path).schema for schema in schemas)
    assert not any(pa.types.is_null(field.type) for field in schemas[0])


def test_running_again_generates_nothing_and_touches_no_part(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    before = _part_times(tmp_path / "run")

    again = run(make_job())

    assert (again.generated, again.skipped, again.succeeded) == (0, 20, 20)
    assert _part_times(tmp_path / "run") == before


def test_a_shard_without_a_part_is_run_again_alone_and_gives_the_same_pixels(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    whole = _manifest(tmp_path / "run")
    (tmp_path / "run/manifest/00002-a0.parquet").unlink()
    before = _part_times(tmp_path / "run")

    again = run(make_job())

    assert again.generated == 4
    after = _part_times(tmp_path / "run")
    assert {name: after[name] for name in before} == before
    assert _manifest(tmp_path / "run").select(IDENTITY) == whole.select(IDENTITY)


def test_a_killed_run_resumes_without_regenerating_finished_shards(make_job: MakeJob, tmp_path: Path) -> None:
    undisturbed = run(make_job(output={"path": str(tmp_path / "undisturbed")}))
    slow = make_job(backend={"kind": "procedural", "delay_s": 0.1})
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(slow))
    process = subprocess.Popen([sys.executable, "-m", "abstractvision_batch", "run", str(spec), "--quiet"])
    parts = tmp_path / "run/manifest"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*-a0.parquet"))) < 2:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = _part_times(tmp_path / "run")
    assert 2 <= len(before) < 5

    resumed = run(slow)

    after = _part_times(tmp_path / "run")
    assert {name: after[name] for name in before} == before
    assert resumed.generated == 20 - 4 * len(before)
    assert _manifest(tmp_path / "run").select(IDENTITY) == _manifest(undisturbed.path).select(IDENTITY)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_running_shard_and_exits_130(
    make_job: MakeJob, tmp_path: Path, number: signal.Signals
) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(make_job(backend={"kind": "procedural", "delay_s": 0.15})))
    process = subprocess.Popen(
        [sys.executable, "-m", "abstractvision_batch", "run", str(spec)], stderr=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "run").glob("manifest/*-a0.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "the same command resumes the run" in stderr
    assert run(make_job()).succeeded == 20


@pytest.mark.slow
def test_a_drain_that_takes_longer_than_its_limit_cancels_the_running_shard(make_job: MakeJob, tmp_path: Path) -> None:
    """A shard takes 80 s here, four requests of 20."""
    journal, spec = tmp_path / "journal.jsonl", tmp_path / "job.yaml"
    backend = {"kind": "procedural", "delay_s": 20, "journal_path": str(journal)}
    execution = {"batch_size": 2, "shard_size": 4, "drain_timeout_s": 0.5}
    spec.write_text(yaml.safe_dump(make_job(backend=backend, execution=execution)))
    command = [sys.executable, "-m", "abstractvision_batch", "run", str(spec), "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: bool(read_journal(journal)), "generation")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "running shards have 0.5 s to finish and commit" in stderr
    assert list((tmp_path / "run").glob("manifest/*")) == []
    assert run(make_job()).succeeded == 20


def test_a_failing_request_is_a_row_and_its_batch_mate_is_generated(make_job: MakeJob) -> None:
    result = run(make_job(backend={"kind": "procedural", "fail_when": "dog"}))

    rows = _manifest(result.path).to_pylist()
    assert result.exit_code == 1
    assert result.by_error_kind == {"generation": 4}
    assert [row["status"] for row in rows].count("ok") == 16
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["prompt"] for row in failed} == {"a dog"}
    assert all(row["error_message"] and row["file_name"] is None and row["pixel_sha256"] is None for row in failed)


def test_the_same_requests_in_other_shards_give_the_same_pixels(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    other = run(make_job(output={"path": str(tmp_path / "other")}, execution={"batch_size": 2, "shard_size": 10}))
    columns = ["index", "request_id", "seed", "batch_id", "batch_slot", "batch_size", "pixel_sha256"]
    assert _manifest(other.path).select(columns) == _manifest(tmp_path / "run").select(columns)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"params": {"width": 32, "height": 24, "seed": 8}}, "params.seed: 7 there, 8 here"),
        ({"samples_per_prompt": 5}, "samples_per_prompt: 4 there, 5 here"),
        ({"prompts": {"source": ["a fox"]}}, "the prompt dataset's content"),
    ],
)
def test_an_output_that_holds_another_run_is_refused_by_what_differs(
    make_job: MakeJob, change: dict[str, Any], said: str
) -> None:
    run(make_job())
    with pytest.raises(SpecError, match="holds another run") as caught:
        run(make_job(**change))
    assert said in str(caught.value)


def test_a_resumed_run_may_change_what_does_not_change_pixels(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    (tmp_path / "run/manifest/00000-a0.parquet").unlink()

    again = run(make_job(name="renamed", execution={"batch_size": 2, "shard_size": 8, "writer_threads": 1}))

    assert again.generated == 4


def test_a_plan_that_a_crash_cut_off_is_written_by_the_next_run(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    plan = (tmp_path / "run/plan.parquet").read_bytes()
    (tmp_path / "run/plan.parquet").unlink()

    run(make_job())

    assert (tmp_path / "run/plan.parquet").read_bytes() == plan


def test_a_report_that_a_crash_cut_off_is_written_by_the_next_run(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    (tmp_path / "run/README.md").unlink()

    run(make_job())

    assert "| succeeded | 20 |" in (tmp_path / "run/README.md").read_text(encoding="utf-8")


def test_a_damaged_part_is_an_error_that_says_what_to_do(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    (tmp_path / "run/manifest/00001-a0.parquet").write_bytes(b"PAR1 cut off")
    (tmp_path / "run/manifest.parquet").unlink()

    with pytest.raises(StorageError, match=r"00001-a0\.parquet.*avbatch audit --repair forgets its shard"):
        run(make_job())


def test_a_folder_with_a_foreign_run_json_is_left_alone(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text('{"kind": "something else"}')

    with pytest.raises(StorageError, match="not a run of avbatch"):
        run(make_job())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_progress_counts_up_to_the_number_of_requests(make_job: MakeJob) -> None:
    seen: list[Progress] = []

    run(make_job(), on_progress=seen.append)

    counts = [progress.done for progress in seen]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 20)
    assert [progress.phase for progress in seen[-3:]] == ["merge", "gallery", "report"]


def test_a_run_is_opened_for_reading_by_its_path(make_job: MakeJob) -> None:
    result = run(make_job())

    opened = open_run(result.path)

    assert opened.missing_shards() == []
    assert opened.counts.succeeded == 20
    assert opened.table().num_rows == 20
    assert opened.record.spec.name == "small"
    assert opened.read_artifact(opened.table().slice(0, 1).to_pylist()[0]).startswith(b"\x89PNG")


def test_opening_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no run here"):
        open_run(tmp_path)


def test_a_run_in_memory_is_the_run_on_disk(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    in_memory = run(make_job(output={"path": f"memory://{tmp_path.name}/run"}))

    assert open_run(in_memory.path).table().select(IDENTITY) == _manifest(tmp_path / "run").select(IDENTITY)


def test_secrets_reach_no_file_of_the_run(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVBATCH_TEST_SECRET", "hunter2-secret")
    options = {"auto_mkdir": True, "token": {"env": "AVBATCH_TEST_SECRET"}}

    run(make_job(prompts={"source": ["a fox"], "storage_options": options}))

    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert b"hunter2-secret" not in path.read_bytes(), path
    assert json.loads((tmp_path / "run/run.json").read_text())["spec"]["prompts"]["storage_options"]["token"] == {
        "env": "AVBATCH_TEST_SECRET"
    }


def test_duckdb_pandas_and_datasets_read_the_manifest(make_job: MakeJob, tmp_path: Path) -> None:
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
    from datasets import load_dataset

    rows = [{"prompt": "a fox", "kind": "animal", "weight": 3}, {"prompt": "a cup", "kind": "thing", "weight": 1}]
    result = run(make_job(prompts={"source": rows}))
    path = str(Path(result.path, "manifest.parquet"))

    kinds = duckdb.sql(f"SELECT kind, count(*), sum(weight) FROM '{path}' WHERE status = 'ok' GROUP BY 1 ORDER BY 1")
    frame = pd.read_parquet(path)
    dataset = load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))

    assert kinds.fetchall() == [("animal", 4, 12), ("thing", 4, 4)]
    assert frame["seed"].dtype == "int64"
    assert frame["error_kind"].isna().all()
    assert dataset.num_rows == 8
    assert dataset[0]["prompt"] == "a fox"
    assert dataset.unique("kind") == ["animal", "thing"]
