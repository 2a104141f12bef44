"""Each failure is transient, permanent, resource or policy, and its class decides what follows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from abstractvision_batch import errors
from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.backends.base_backend import BatchItem
from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import (
    AbstractVisionError,
    BackendBusyError,
    GenerationError,
    InvalidOutputError,
    OutOfMemoryError,
    PolicyError,
)
from abstractvision_batch.execute import shard_runner
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.job.load import load_job
from abstractvision_batch.types import GeneratedAsset, VisionRequest
from abstractvision_batch.verbs.execution import build_context
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import start_run
from tests.support.jobs import MakeJob

FAILURES: dict[str, type[GenerationError]] = {
    "busy": BackendBusyError,
    "broken": InvalidOutputError,
    "huge": OutOfMemoryError,
    "rude": PolicyError,
    "odd": GenerationError,
}


class FailsByPrompt(ProceduralVisionBackend):
    """Fails as the prompt says, a whole batch where one does not fit; counts how often each prompt was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def generate_batch(self, requests: Sequence[VisionRequest], **options: Any) -> list[BatchItem]:
        self.asked.update(request.prompt or "" for request in requests)
        if any(request.prompt == "huge" for request in requests):
            return [OutOfMemoryError("does not fit") for _ in requests]
        items = super().generate_batch(requests, **options)
        for position, request in enumerate(requests):
            if request.prompt in FAILURES:
                items[position] = FAILURES[request.prompt]("as asked")
            if request.prompt == "noise":
                items[position] = GeneratedAsset("image", b"noise", "image/png", {})
        return items


def _run_shard(job: dict[str, Any], backend: ProceduralVisionBackend) -> dict[str, dict[str, Any]]:
    loaded = load_job(job)
    store = loaded.open_output(writable=True)
    runner = ShardRunner(build_context(loaded, store, start_run(loaded, store).plan), backend)
    runner.run_shard(0)
    runner.close()
    with store.open("manifest/00000-a0.parquet") as stream:
        return {row["prompt"]: row for row in pq.read_table(stream).to_pylist()}


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_runner, "BACKOFF_S", 0.0)


def _generation_errors(cls: type[GenerationError] = GenerationError) -> list[type[GenerationError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in _generation_errors(child))]


@pytest.mark.parametrize("cls", [cls for cls in _generation_errors() if cls.__module__ == errors.__name__])
def test_every_failure_of_a_request_has_a_class_and_the_tree_names_it(cls: type[GenerationError]) -> None:
    assert errors.__doc__ is not None
    line = next(line for line in errors.__doc__.splitlines() if line.split()[:1] == [cls.__name__])

    assert cls.error_class in get_args(errors.ErrorClass)
    assert cls is GenerationError or f"{cls.error_class}:" in line
    assert cls("x").transient is (cls.error_class == "transient")


@pytest.mark.usefixtures("no_waits")
def test_the_class_decides_whether_a_request_is_tried_again_or_split(make_job: MakeJob) -> None:
    prompts = ["busy", "broken", "huge", "a fox", "rude", "odd"]
    backend = FailsByPrompt()
    execution = {"batch_size": 2, "shard_size": 6, "max_attempts": 3}

    rows = _run_shard(
        make_job(prompts={"source": prompts}, samples_per_prompt=1, execution=execution, params={"width": 8}), backend
    )

    assert {prompt: (row["error_kind"], row["error_class"]) for prompt, row in rows.items()} == {
        "busy": ("busy", "transient"),
        "broken": ("invalid_output", "permanent"),
        "huge": ("out_of_memory", "resource"),
        "a fox": (None, None),
        "rude": ("policy", "policy"),
        "odd": ("generation", "permanent"),
    }
    assert {prompt: backend.asked[prompt] for prompt in prompts} == {
        "busy": 3,
        "broken": 1,
        "huge": 2,  # in its batch of two, then alone
        "a fox": 2,
        "rude": 1,
        "odd": 1,
    }


def test_bytes_that_are_no_picture_are_the_failure_of_their_row(make_job: MakeJob) -> None:
    rows = _run_shard(make_job(prompts={"source": ["noise", "a fox"]}, samples_per_prompt=1), FailsByPrompt())

    assert (rows["noise"]["status"], rows["noise"]["error_class"]) == ("failed", "permanent")
    assert rows["a fox"]["status"] == "ok"


def test_the_class_is_in_every_summary_and_chooses_what_is_retried(make_job: MakeJob, tmp_path: Path) -> None:
    result = run(make_job(backend={"kind": "procedural", "fail_when": "dog"}))
    path = str(tmp_path / "run")

    as_json = json.loads(CliRunner().invoke(app, ["status", path, "--json"]).stdout)
    for_people = CliRunner().invoke(app, ["status", path]).stdout
    chosen = [
        retry(path, where=f"error_class = '{name}'", overrides=["backend.fail_when=null"]).generated
        for name in ("transient", "permanent")
    ]

    assert result.by_error_class == {"permanent": 4}
    assert as_json["failures"][0]["error_class"] == "permanent"
    assert "4 × generation (permanent)" in for_people
    assert chosen == [0, 4]


def test_a_class_survives_on_errors_that_an_outside_backend_defines() -> None:
    class QuotaError(BackendBusyError):
        """Ours to define in a package of our own."""

    assert (QuotaError("full").error_class, QuotaError("full").transient) == ("transient", True)
    assert not hasattr(AbstractVisionError("x"), "error_class")
