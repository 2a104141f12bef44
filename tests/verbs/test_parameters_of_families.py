"""Must show: a grid over parameters, a scheduler and a LoRA scale, and rows that set the same, on four families.

Every family is run here and on Ray, and the manifests are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.verbs.model_check import check_parameters
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.support.tiny_models import make_flux, make_qwen_image, make_sd, make_sdxl, save, save_adapter

SIZE = {"width": 64, "height": 64, "steps": 2, "seed": 7}
#: Of a manifest, all that two runs of a job share.
SAME = ("request_id", "loras", "loras[0].scale", "scheduler", "params_json", "batch_id", "status", "pixel_sha256")


@dataclass(frozen=True)
class Family:
    """A pipeline class, what its adapter is of, and two parameters of its own with values that change pixels."""

    make: Callable[[], Any]
    pipeline: str
    part: str
    first: tuple[str, list[Any]]
    second: tuple[str, list[Any]]
    schedulers: list[Any]


FLOW: list[Any] = [
    "FlowMatchEulerDiscreteScheduler",
    {"name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": False, "shift": 3.0},
]
FAMILIES = {
    "sd": Family(
        *(make_sd, "StableDiffusionPipeline", "unet", ("guidance_rescale", [0.0, 0.9]), ("eta", [0.0, 1.0])),
        ["DDIM", {"name": "DDIMScheduler", "timestep_spacing": "trailing"}],
    ),
    "sdxl": Family(
        *(make_sdxl, "StableDiffusionXLPipeline", "unet", ("guidance_rescale", [0.0, 0.9])),
        *(("original_size", [[64, 64], [128, 32]]), ["Euler a", "DPM++ 2M Karras"]),
    ),
    "flux": Family(
        *(make_flux, "FluxPipeline", "transformer", ("sigmas", [[1.0, 0.5], [1.0, 0.2]])),
        *(("max_sequence_length", [8, 16]), FLOW),
    ),
    "qwen-image": Family(
        *(make_qwen_image, "QwenImagePipeline", "transformer", ("sigmas", [[1.0, 0.5], [1.0, 0.2]])),
        *(("max_sequence_length", [8, 16]), FLOW),
    ),
}


def _job(make_job: MakeJob, folder: Path, family: Family, **sections: Any) -> dict[str, Any]:
    import diffusers

    if not (folder / "model").exists():
        model = save(family.make, folder / "model")
        save_adapter(getattr(diffusers, family.pipeline), model, folder / "lora", family.part)
    adapter = {"source": str(folder / "lora")}
    first, second = family.first, family.second
    rows = [
        {"prompt": "a fox", "a": first[1][0], "style": "twice"},
        {"prompt": "a cat", "a": first[1][1], "style": "once"},
    ]
    return make_job(
        **{
            "model": str(folder / "model"),
            "backend": {
                "kind": "diffusers",
                "device": "cpu",
                "lora_sets": {"once": [adapter], "twice": [adapter, {**adapter, "scale": 3.0}]},
            },
            "prompts": {"source": rows, "fields": {f"extra.{first[0]}": "a", "loras": "style"}},
            "params": SIZE,
            "matrix": {f"extra.{second[0]}": second[1], "scheduler": family.schedulers, "loras[0].scale": [0.0, 2.0]},
            "samples_per_prompt": 1,
            **sections,
        }
    )


def _rows(path: str | Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(path) / "manifest.parquet").to_pylist()
    return rows


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES])
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_grid_with_rows_of_their_own_is_the_same_here_and_on_ray(
    make_job: MakeJob, tmp_path: Path, name: str
) -> None:
    job = _job(make_job, tmp_path, FAMILIES[name], output={"path": str(tmp_path / "inline")})
    inline = _rows(run(job).path)
    execution = {**job["execution"], "executor": "ray", "cpus_per_actor": 0.5}
    on_ray = _rows(run({**job, "execution": execution, "output": {"path": str(tmp_path / "ray")}}).path)

    assert [[row[key] for key in SAME] for row in on_ray] == [[row[key] for key in SAME] for row in inline]
    assert len(inline) == 16
    assert {row["status"] for row in inline} == {"ok"}
    _require_that_all_act(inline, FAMILIES[name])


def _require_that_all_act(rows: list[dict[str, Any]], family: Family) -> None:
    """Of requests that differ in one parameter alone, some have other pixels."""
    axes = [f"extra.{family.second[0]}", "scheduler", "loras[0].scale"]
    for axis in axes:
        pixels: dict[tuple[Any, ...], set[str]] = {}
        for row in rows:
            others = (row["prompt"], *(row[name] for name in axes if name != axis))
            pixels.setdefault(others, set()).add(row["pixel_sha256"])
        assert any(len(found) > 1 for found in pixels.values()), axis


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "extra": ({"matrix": {"extra.guidance_rescal": [1.0]}}, "guidance_rescal.*did you mean guidance_"),
    "scheduler": ({"matrix": {"scheduler": ["Eulr a"]}}, r"scheduler\[0\]: Diffusers has no Eulr a \(did you mean"),
    "set": ({"matrix": {"loras": ["onec"]}, "prompts": {"source": ["a"]}}, r'"onec" is no set.*did you mean once\?'),
    "scale": ({"matrix": {"loras[7].scale": [1.0]}}, "there is no adapter 7"),
    "column": (
        {"prompts": {"source": [{"prompt": "a", "b": 1}], "fields": {"extra.sigmass": "b"}}, "matrix": {}},
        r"fields\[\"extra.sigmass\"\]: unknown \(did you mean sigmas\?\)",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_name_of_each_kind_is_a_line_with_a_suggestion(make_job: MakeJob, tiny: Path, kind: str) -> None:
    sections, expected = WRONG[kind]

    with pytest.raises(SpecError, match=expected) as caught:
        check_parameters(load_job(_job(make_job, tiny, FAMILIES["sd"], **sections)))

    assert len(caught.value.problems) == 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models of a family are made once."""
    return tmp_path_factory.mktemp("family")
