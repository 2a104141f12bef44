"""A run's weights: recorded with the run, named by its workers, and never mixed with others."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import abstractvision_batch
from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import DependencyError, SpecError
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.weights import agree_on_weights, read_weights
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.verbs.execution import build_context
from abstractvision_batch.verbs.model_check import check_weights, find_weights
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import choose_output, start_run
from tests.support.jobs import MakeJob

pytestmark = pytest.mark.model

SHAPES = Path(abstractvision_batch.__file__).parent / "models/shapes64"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> dict[str, Any]:
    """Two pictures in two shards, of a copy of the embedded model that a test may change."""
    shutil.copytree(SHAPES, tmp_path / "model")
    return make_job(
        model="avbatch/shapes64",
        backend={"kind": "diffusers", "device": "cpu", "model_path": str(tmp_path / "model")},
        prompts={"source": ["a large red circle", "a small blue square"]},
        params={"steps": 2, "seed": 7},
        samples_per_prompt=1,
        execution={"batch_size": 1, "shard_size": 1},
    )


def _change_byte(path: Path) -> None:
    """The last byte: of a weight's value."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_weights_are_recorded_by_file_and_their_digest_is_in_every_row_s_environment(
    job: dict[str, Any], tmp_path: Path
) -> None:
    run(job)

    recorded = json.loads((tmp_path / "run/weights.json").read_text())
    assert {file["name"] for file in recorded["parts"][0]["files"]} >= {"model_index.json", UNET}
    (environment,) = [json.loads(path.read_text()) for path in (tmp_path / "run/environments").iterdir()]
    assert environment["weights"] == {"digest": recorded["digest"], "revisions": {}}
    assert environment["backend"]["dtype"] == "float32"


def test_a_run_whose_weights_changed_is_not_resumed_and_says_which_file(job: dict[str, Any], tmp_path: Path) -> None:
    run(job)
    (tmp_path / "run/manifest/00001-a0.parquet").unlink()
    before = (tmp_path / "model" / UNET).read_bytes()
    _change_byte(tmp_path / "model" / UNET)
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job))

    refused = CliRunner().invoke(app, ["run", str(spec), "--quiet"])
    with pytest.raises(SpecError, match=f"[0-9a-f]{{12}} there, [0-9a-f]{{12}} here: model/{UNET} "):
        run(job)

    assert refused.exit_code == 2
    assert "job.yaml:" in refused.stderr
    assert refused.stderr.splitlines()[1:] == ["1 problem; nothing was started"]
    assert not (tmp_path / "run/manifest/00001-a0.parquet").exists()
    (tmp_path / "model" / UNET).write_bytes(before)
    assert run(job).generated == 1


def test_weights_of_which_nothing_was_made_may_be_replaced(job: dict[str, Any], tmp_path: Path) -> None:
    """A model that was broken and is mended: the same command goes on."""
    loaded = load_job(job)
    store = loaded.open_output(writable=True)
    context = build_context(loaded, store, start_run(loaded, store).plan)
    _load(context)
    before = read_weights(store)
    _change_byte(tmp_path / "model" / UNET)

    assert run(job).succeeded == 2

    assert before is not None
    after = read_weights(store)
    assert after is not None
    assert before.differing_files(after) == [f"model/{UNET}"]


def test_new_run_goes_beside_a_run_of_other_weights_and_finds_its_own_again(
    job: dict[str, Any], tmp_path: Path
) -> None:
    run(job)
    _change_byte(tmp_path / "model" / UNET)

    beside = choose_output(load_job(job))
    run(beside)

    assert beside.spec.output.path == str(tmp_path / "run-2")
    assert choose_output(load_job(job)).spec.output.path == str(tmp_path / "run-2")


def test_a_worker_with_other_weights_ends_before_it_stores_anything(job: dict[str, Any], tmp_path: Path) -> None:
    """As on another node of a cluster, whose files the driver does not see."""
    loaded = load_job(job)
    store = loaded.open_output(writable=True)
    context = build_context(loaded, store, start_run(loaded, store).plan)
    with closing(ShardRunner(context, context.create_backend())) as first:
        first.run_shard(0)
    _change_byte(tmp_path / "model" / UNET)

    with (
        closing(ShardRunner(context, context.create_backend())) as second,
        pytest.raises(DependencyError, match=rf":\d+: the weights: .* here: model/{UNET} \(bring the run's own"),
    ):
        second.run_shard(1)

    assert len(list((tmp_path / "run/artifacts").rglob("*.png"))) == 1
    assert len(list((tmp_path / "run/environments").iterdir())) == 1


def test_a_worker_commits_nothing_when_the_run_was_begun_with_others_meanwhile(
    job: dict[str, Any], tmp_path: Path
) -> None:
    loaded = load_job(job)
    store = loaded.open_output(writable=True)
    context = build_context(loaded, store, start_run(loaded, store).plan)
    with closing(ShardRunner(context, context.create_backend())) as first:
        rows = first.read_rows(0)
        results = first.generate_rows(rows.table.to_pylist()).results
        _change_byte(tmp_path / "model" / UNET)
        check_weights(loaded, store)  # of another driver, as nothing is committed yet
        _load(context)

        with pytest.raises(DependencyError, match="the weights: "):
            first.commit(rows, results, shard=0)

    assert not (tmp_path / "run/manifest").exists()


def _load(context: RunContext) -> None:
    with closing(ShardRunner(context, context.create_backend())) as worker:
        worker.load()


def test_of_workers_that_race_the_first_decides(job: dict[str, Any], tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "empty"))
    mine = find_weights(load_job(job))
    _change_byte(tmp_path / "model" / UNET)
    other = find_weights(load_job(job))
    assert mine is not None
    assert other is not None

    agree_on_weights(store, mine, who="a:1")
    agree_on_weights(store, mine, who="b:1")
    with pytest.raises(DependencyError, match=r"^c:1: the weights: "):
        agree_on_weights(store, other, who="c:1")

    assert read_weights(store) == mine


def test_a_retry_with_other_weights_is_refused(job: dict[str, Any], tmp_path: Path) -> None:
    loaded = load_job(job)
    start_run(loaded, loaded.open_output(writable=True))
    run({**job, "execution": {**job["execution"], "shard_timeout_s": 1e-6, "max_attempts": 1}})
    _change_byte(tmp_path / "model" / UNET)

    with pytest.raises(SpecError, match=f"model/{UNET}"):
        retry(tmp_path / "run", overrides=["execution.shard_timeout_s=null"])
