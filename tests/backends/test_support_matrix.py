"""Every task of every backend has a spec in specs/, and that spec runs as a batch job.

Where a spec names weights that no test can have, overrides put a tiny random model in their place and lower sizes and
steps; a server is the local test server. The rest of the spec is as it stands in the repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from abstractvision_batch.backends.table import BACKENDS
from abstractvision_batch.errors import DependencyError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.media.probe import probe
from abstractvision_batch.verbs.run import run
from tests.support.openai_server import running_server
from tests.support.sdcpp_models import config_for
from tests.support.wan_models import write_wan_models

SPECS = Path(__file__).parents[2] / "specs"
SMALL = ("params.width=64", "params.height=64")
ONE = ("prompts.limit=1",)
ONE_SHORT_FILM = (*SMALL, *ONE, "params.num_frames=5", "params.steps=1", "params.fps=8")
TINY_OVIS = (
    *SMALL,
    *ONE,
    "params.steps=2",
    "backend.sd_cli_path={sd_cli}",
    "backend.model_path={sdcpp_models}/ovis.safetensors",
    "backend.taesd={sdcpp_models}/taef1.safetensors",
)
#: One process for one film; the autoencoder is the tiny one, and no text encoder means an empty prompt.
TINY_WAN = (
    *ONE_SHORT_FILM,
    "params.guidance_scale=1",
    "backend.mode=cli",
    "backend.sd_cli_path={sd_cli}",
    "backend.vae=null",
    "backend.t5xxl=null",
    "backend.taesd={wan_models}/taehv.safetensors",
)


@dataclass(frozen=True)
class Case:
    """One pair of the matrix; `{names}` in overrides are fixtures."""

    backend: str
    task: str
    spec: str
    overrides: tuple[str, ...]
    marks: tuple[pytest.MarkDecorator, ...] = ()


MODEL, SDCPP = (pytest.mark.model,), (pytest.mark.sdcpp,)
SLOW = (*SDCPP, pytest.mark.slow)
CASES = (
    Case("diffusers", "text_to_image", "demo", (*ONE, "params.steps=2"), MODEL),
    Case("diffusers", "image_to_image", "image-to-image", (*ONE, "params.steps=2"), MODEL),
    Case("diffusers", "text_to_video", "diffusers-video", (*ONE_SHORT_FILM, "backend.model_path={tiny_wan}"), MODEL),
    Case(
        "diffusers",
        "image_to_video",
        "diffusers-image-to-video",
        (*ONE_SHORT_FILM, "backend.model_path={tiny_wan_image_to_video}"),
        MODEL,
    ),
    Case(
        "diffusers",
        "multi_view_image",
        "diffusers-multi-view",
        (*SMALL, *ONE, "params.steps=2", "model=tiny/views", "registry.paths=[{views_card}]"),
        MODEL,
    ),
    Case("openai", "text_to_image", "openai", (*SMALL, *ONE, "backend.base_url={server_url}")),
    Case("openai", "image_to_image", "openai-inpainting", (*SMALL, *ONE, "backend.base_url={server_url}")),
    Case(
        "openai",
        "text_to_video",
        "openai-video",
        (*ONE, "params.num_frames=5", "backend.base_url={server_url}", "backend.poll_interval_s=0.01"),
    ),
    Case(
        "openai",
        "image_to_video",
        "openai-image-to-video",
        (*ONE, "params.num_frames=5", "backend.base_url={server_url}"),
    ),
    Case("procedural", "text_to_image", "procedural", ()),
    Case("procedural", "image_to_image", "procedural-edit", ()),
    Case("procedural", "text_to_video", "text-to-video", ()),
    Case("procedural", "image_to_video", "image-to-video", ()),
    Case("procedural", "multi_view_image", "multi-view", ()),
    Case("sdcpp", "text_to_image", "sdcpp", TINY_OVIS, SDCPP),
    Case("sdcpp", "image_to_image", "sdcpp-edit", TINY_OVIS, SDCPP),
    Case(
        "sdcpp",
        "text_to_video",
        "sdcpp-video",
        (*TINY_WAN, "backend.diffusion_model={wan_models}/text-to-video.safetensors"),
        SLOW,
    ),
    Case(
        "sdcpp",
        "image_to_video",
        "sdcpp-image-to-video",
        (
            *TINY_WAN,
            "backend.diffusion_model={wan_models}/image-to-video.safetensors",
            "backend.clip_vision={wan_models}/vision.safetensors",
        ),
        SLOW,
    ),
)


@pytest.fixture
def server_url() -> Iterator[str]:
    with running_server() as server:
        yield server.base_url


@pytest.fixture
def sd_cli(sdcpp_models: Path) -> str:
    return config_for("server", sdcpp_models).sd_cli_path


@pytest.fixture(scope="session")
def wan_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan_models(tmp_path_factory.mktemp("wan"))


@pytest.fixture
def views_card(tiny_sd: Path, tmp_path: Path) -> Path:
    """A tiny model in the place of Qwen-Image-Edit, whose image processor needs torchvision."""
    pipelines = {"multi_view_image": "StableDiffusionImg2ImgPipeline"}
    card = {
        "id": "tiny/views",
        "license": "mit",
        "tasks": {"multi_view_image": {"params": {"width": {}, "height": {}, "steps": {}, "angles": {}}}},
        "backends": {"diffusers": {"path": str(tiny_sd), "pipelines": pipelines}},
    }
    file = tmp_path / "card.yaml"
    file.write_text(yaml.safe_dump(card))
    return file


def test_every_task_of_every_backend_has_a_spec_that_runs_here() -> None:
    pairs = {(case.backend, case.task) for case in CASES}

    assert pairs == {(name, task) for name, entry in BACKENDS.items() for task in entry.tasks}
    for case in CASES:
        spec = load_job(SPECS / f"{case.spec}.yaml").spec
        assert (spec.backend.kind, spec.task) == (case.backend, case.task), case.spec


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=case.marks, id=f"{case.backend}-{case.task}") for case in CASES]
)
def test_the_spec_of_a_pair_runs(case: Case, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Slow: stable-diffusion.cpp fixes Wan's shape, so a film takes 3 to 5 GB of memory and 10 to 35 CPU seconds.

    Alone: `python -m pytest -m "slow and sdcpp" tests/backends/test_support_matrix.py`.
    """
    folder = tmp_path / "run"
    names = {name for override in case.overrides for name in re.findall(r"{(\w+)}", override)}
    found = {name: request.getfixturevalue(name) for name in names}
    overrides = [override.format(**found) for override in case.overrides]

    result = run(load_job(SPECS / f"{case.spec}.yaml", overrides=[f"output.path={folder}", *overrides]))

    rows: list[dict[str, Any]] = pq.read_table(folder / "manifest.parquet").to_pylist()
    assert result.exit_code == 0, rows[0]["error_message"]
    for row in rows:
        data = (folder / row["file_name"]).read_bytes()
        info = probe(data, row["content_type"])
        assert row["task"] == case.task
        assert (row["media_width"], row["media_height"]) == (info.width, info.height)
        if case.task.endswith("video"):
            assert row["media_frames"] == row["num_frames"] == info.frames
        elif case.task == "multi_view_image":
            assert len(json.loads(row["metadata_json"])["views"]) == 4


@pytest.mark.parametrize("name", ["sdcpp", "sdcpp-edit", "sdcpp-video", "sdcpp-image-to-video"])
def test_a_spec_whose_weights_are_not_there_starts_nothing(name: str, tmp_path: Path) -> None:
    """Of the videos this is what the default run tests: spec, plan, and which file is missing."""
    with pytest.raises(DependencyError, match=r"(model|diffusion_model): .* is not there") as caught:
        run(load_job(SPECS / f"{name}.yaml", overrides=[f"output.path={tmp_path / 'run'}"]))

    assert caught.value.exit_code == 3
