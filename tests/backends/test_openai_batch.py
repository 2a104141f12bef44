"""Whole jobs on a server, judged by what is on disk."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from abstractvision_batch.backends.openai_compatible import retries
from abstractvision_batch.errors import DependencyError, SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.support.openai_server import OpenAIServer, answers, half_a_json, refuses, running_server

SPECS = Path(__file__).parents[2] / "specs"
KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "manifest.parquet").to_pylist()
    return rows


def on(server: OpenAIServer, **more: Any) -> dict[str, Any]:
    return {"kind": "openai", "base_url": server.base_url, "timeout_s": 10, "poll_interval_s": 0.01, **more}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("openai", ["params.width=64", "params.height=128"]),
        ("openai-inpainting", ["params.width=64", "params.height=64"]),
        ("openai-video", ["params.num_frames=5", "backend.poll_interval_s=0.01"]),
        ("openai-image-to-video", ["params.num_frames=5", "backend.image_to_video_path=/i2v"]),
    ],
)
def test_a_spec_of_each_task_runs_on_a_server(
    server: OpenAIServer, tmp_path: Path, name: str, overrides: list[str]
) -> None:
    path = f"output.path={tmp_path / 'run'}"

    result = run(load_job(SPECS / f"{name}.yaml", overrides=[f"backend.base_url={server.base_url}", path, *overrides]))

    rows = rows_of(tmp_path / "run")
    assert result.exit_code == 0, [row["error_message"] for row in rows]
    assert len({row["pixel_sha256"] for row in rows}) == len(rows)
    assert all((tmp_path / "run" / row["file_name"]).stat().st_size == row["size_bytes"] for row in rows)
    metadata = json.loads(rows[0]["metadata_json"])
    assert metadata["reproducibility"] == "seeded-remote"
    assert metadata["seed"] == rows[0]["seed"]
    if name.endswith("video"):
        assert rows[0]["media_frames"] == 5


def test_the_official_spec_passes_the_official_rules_and_leaves_its_key_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running_server(strict=True, api_key=KEY) as server:
        result = run(
            load_job(
                SPECS / "openai-official.yaml",
                overrides=[
                    f"backend.base_url={server.base_url}",
                    f"output.path={tmp_path / 'run'}",
                    "params.width=64",
                    "params.height=96",
                ],
            )
        )

    assert result.exit_code == 0
    assert server.last.fields.keys() == {"prompt", "model", "n", "size", "quality"}
    (first, _) = rows_of(tmp_path / "run")
    metadata = json.loads(first["metadata_json"])
    assert metadata["reproducibility"] == "unseeded"
    assert metadata["usage"]["total_tokens"] == 282
    for file in (tmp_path / "run").rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes(), file


def test_as_many_requests_are_in_flight_as_the_job_allows_whatever_its_batches(
    server: OpenAIServer, make_job: MakeJob
) -> None:
    """The server answers only when five are there: more than a batch, and than the last of a shard."""
    server.gate = threading.Barrier(5)
    # Else one shard runs alone until its first rows say that not everything fails.
    side_by_side = {"batch_size": 2, "shard_size": 2, "stop_when_all_fail": False}

    result = run(make_job(backend=on(server, max_concurrency=5), execution=side_by_side))

    assert (result.succeeded, result.failed) == (20, 0)
    assert server.most_in_flight == 5


def test_refused_and_broken_replies_are_rows_and_the_others_are_images(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF_S", 0.01)
    server.misbehave(
        refuses(400, "not this", "content_policy_violation"),
        half_a_json,
        answers(200, "<html>login</html>"),
        refuses(400, "bad size", "invalid_value"),
        refuses(429, "slow down", Retry_After="0.01"),
        refuses(500, "oops"),
    )

    result = run(make_job(backend=on(server)))

    rows = rows_of(tmp_path / "run")
    failed = [row for row in rows if row["status"] != "ok"]
    assert (result.exit_code, result.succeeded, len(rows)) == (1, 16, 20)
    assert sorted(row["error_kind"] for row in failed) == ["generation", "invalid_output", "invalid_output", "policy"]
    assert all(row["error_message"].startswith("openai: http://127.0.0.1") for row in failed)
    for row in rows:
        if row["status"] == "ok":
            with Image.open(tmp_path / "run" / row["file_name"]) as image:
                assert image.size == (32, 24)


def test_a_request_that_is_refused_for_a_while_is_tried_again_by_the_job(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abstractvision_batch.execute.shard_runner.BACKOFF_S", 0.01)
    server.misbehave(refuses(500, "oops"), refuses(500, "oops"))

    result = run(make_job(backend=on(server, retries=0), prompts={"source": ["a fox"]}, samples_per_prompt=1))

    assert result.exit_code == 0
    assert [row["attempts"] for row in rows_of(tmp_path / "run")] == [3]


def test_a_wrong_key_ends_the_job_with_what_to_do(
    server: OpenAIServer, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-wrong-0123456789")
    server.api_key = KEY

    with pytest.raises(DependencyError, match="401") as caught:
        run(make_job(backend=on(server, api_key={"env": "TEST_KEY"})))

    assert caught.value.exit_code == 3
    assert "sk-wrong" not in str(caught.value)
    assert len(server.posts) <= 2


def test_a_key_that_is_not_set_is_told_before_anything_is_sent(
    server: OpenAIServer, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)

    with pytest.raises(SpecError, match=r"backend\.api_key: environment variable TEST_KEY is not set"):
        run(make_job(backend=on(server, api_key={"env": "TEST_KEY"})))

    assert server.received == []


def test_a_run_goes_on_when_its_server_comes_back_under_another_port(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path
) -> None:
    first = run(make_job(backend=on(server)))
    (tmp_path / "run" / "manifest" / "00002-a0.parquet").unlink()
    (tmp_path / "run" / "manifest.parquet").unlink()
    with running_server() as moved:
        again = run(make_job(backend=on(moved)))

        assert (first.generated, again.generated, again.succeeded) == (20, 4, 20)
        assert len(moved.posts) == 4


def test_the_same_job_on_a_seeded_server_gives_the_same_pixels(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        run(make_job(backend=on(server), output={"path": str(tmp_path / name)}))

    hashes = [[row["pixel_sha256"] for row in rows_of(tmp_path / name)] for name in ("one", "two")]
    assert hashes[0] == hashes[1]
