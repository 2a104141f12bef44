"""Names of schedulers, their meaning, and what `validate` says of them: without importing Diffusers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends.huggingface_diffusers.scheduler_names import NOISE_SCHEDULES, SOLVERS, read_scheduler
from abstractvision_batch.backends.huggingface_diffusers.schedulers import OwnScheduler, find_scheduler_problems
from abstractvision_batch.backends.huggingface_diffusers.signatures import list_schedulers, read_scheduler_source
from abstractvision_batch.job.fingerprint import backend_identity, fingerprint
from abstractvision_batch.job.model import JobSpec

MULTISTEP = "DPMSolverMultistepScheduler"
NOISE = OwnScheduler("DDIMScheduler", {"prediction_type": "epsilon"})
FLOW = OwnScheduler("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})


def job(scheduler: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "demo",
            "model": "avbatch/shapes64",
            "backend": {"kind": "diffusers", "scheduler": scheduler},
            "prompts": {"source": ["a fox"]},
            "output": {"path": "run"},
        }
    )


@pytest.mark.parametrize(
    "written",
    ["DPM++ 2M Karras", "dpmpp_2m_karras", "dpm++2mkarras", {"name": "DPM++ 2M", "use_karras_sigmas": True}],
)
def test_equal_meanings_have_one_fingerprint(written: Any) -> None:
    meant = {"name": MULTISTEP, "use_karras_sigmas": True}

    assert backend_identity(job(written)) == {"kind": "diffusers", "scheduler": meant}
    assert fingerprint(job(written), prompts_digest="") == fingerprint(job(meant), prompts_digest="")


@pytest.mark.parametrize("written", ["Euler a", {"name": "k-euler ancestral".removeprefix("k-")}, {"name": "EULER_A"}])
def test_a_name_without_settings_counts_as_its_class_always_did(written: Any) -> None:
    assert backend_identity(job(written)) == {"kind": "diffusers", "scheduler": "EulerAncestralDiscreteScheduler"}


def test_a_setting_counts_even_where_it_is_the_default_of_the_class() -> None:
    """The model's own configuration may have another value."""
    plain, written = job(MULTISTEP), job({"name": MULTISTEP, "use_karras_sigmas": False})

    assert fingerprint(plain, prompts_digest="") != fingerprint(written, prompts_digest="")


def test_every_name_is_a_class_that_fits_with_settings_that_it_takes() -> None:
    for name, (scheduler, settings) in SOLVERS.items():
        source = read_scheduler_source(scheduler)
        assert source is not None and set(settings) <= set(source.settings), name
        assert list(find_scheduler_problems(name, NOISE)) == []
    for settings in NOISE_SCHEDULES.values():
        assert list(find_scheduler_problems({"name": MULTISTEP, **settings}, NOISE)) == []


def test_the_source_says_of_every_class_what_the_class_says() -> None:
    import inspect

    import diffusers

    for name in list_schedulers():
        found, source = getattr(diffusers, name), read_scheduler_source(name)
        assert source is not None, name
        if "torchsde" not in getattr(found, "_backends", ()):
            parameters = inspect.signature(found.__init__).parameters
            assert list(source.settings) == [name for name in parameters if name not in ("self", "kwargs")], name
            assert list(source.compatibles) == list(getattr(found, "_compatibles", ())), name


@pytest.mark.parametrize(
    ("written", "own", "problems"),
    [
        ("Euler", NOISE, []),
        ("TCD", NOISE, []),
        ("Eular a", None, [((), "Diffusers has no Eular a (did you mean Euler a?)")]),
        ({"name": "Eulr"}, None, [(("name",), "Diffusers has no Eulr (did you mean Euler?)")]),
        (
            "Euler",
            FLOW,
            [
                (
                    (),
                    "Euler is EulerDiscreteScheduler, which does not fit a model made for "
                    "FlowMatchEulerDiscreteScheduler (did you mean FlowMatchEulerDiscreteScheduler?)",
                )
            ],
        ),
        (
            "FlowMatchLCMScheduler",
            NOISE,
            [
                (
                    (),
                    "FlowMatchLCMScheduler does not fit a model made for DDIMScheduler (did you mean LCMScheduler?)",
                )
            ],
        ),
        (
            {"name": "UniPC", "prediction_type": "flow_prediction"},
            FLOW,
            [
                (
                    ("name",),
                    "UniPC is UniPCMultistepScheduler, which fits a model that predicts a flow with "
                    "use_flow_sigmas: true (add that)",
                )
            ],
        ),
        (
            "Euler a Karras",
            NOISE,
            [((), "Euler a Karras is EulerAncestralDiscreteScheduler, which has no use_karras_sigmas")],
        ),
        (
            {"name": "DPM++ 2M Karras", "use_beta_sigmas": True},
            NOISE,
            [
                (
                    ("name",),
                    f"DPM++ 2M Karras is {MULTISTEP}, which takes one of use_karras_sigmas and use_beta_sigmas "
                    "(set the other to false)",
                )
            ],
        ),
        (
            {"name": MULTISTEP, "solver_order": "2", "timestep_spacing": "trail", "use_karras": True, "beta_end": 1},
            NOISE,
            [
                (("solver_order",), '"2" is not an integer (without quotes)'),
                (("timestep_spacing",), '"trail" is not one of linspace, leading, trailing (did you mean trailing?)'),
                (("use_karras",), "unknown field (did you mean use_karras_sigmas?)"),
            ],
        ),
        (
            {"use_karras_sigmas": True},
            NOISE,
            [
                (
                    (),
                    "a mapping without a name is not a scheduler (give a name, or {name: ..., setting: value})",
                )
            ],
        ),
        (
            '{"name": "DDIM", "clip_sampel": true}',
            NOISE,
            [(("clip_sampel",), "unknown field (did you mean clip_sample?)")],
        ),
    ],
)
def test_all_that_is_wrong_with_a_scheduler_is_said_at_once(
    written: Any, own: OwnScheduler | None, problems: list[Any]
) -> None:
    assert list(find_scheduler_problems(written, own)) == problems


def test_a_model_that_predicts_a_flow_takes_what_solves_one() -> None:
    wan = OwnScheduler("UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True})

    assert wan.fitting()[0] == "UniPCMultistepScheduler"
    assert set(wan.fitting()) == set(FLOW.fitting()) >= {"FlowMatchHeunDiscreteScheduler", MULTISTEP}
    assert {"EulerDiscreteScheduler", "HeliosScheduler"}.isdisjoint(FLOW.fitting())
    assert list(find_scheduler_problems("DPM++ 2M", wan)) == [], "its own configuration has the settings"


def test_a_cell_may_hold_the_mapping_as_json() -> None:
    assert read_scheduler('{"name": "DPM++ 2M", "solver_order": 3}').plain == {"name": MULTISTEP, "solver_order": 3}


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from abstractvision_batch.backends.huggingface_diffusers.schedulers import *\n"
        "assert not list(find_scheduler_problems('DPM++ 2M Karras', OwnScheduler('DDIMScheduler')))\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_has_every_name_with_its_meaning() -> None:
    page = (Path(__file__).parents[2] / "docs/schedulers.md").read_text(encoding="utf-8")

    for name, (scheduler, settings) in SOLVERS.items():
        assert f"| {name} | `{scheduler}` | {_said(settings)} |".replace("|  |", "| |") in page
    for name, settings in NOISE_SCHEDULES.items():
        assert f"| {name} | {_said(settings)} |" in page


def _said(settings: Mapping[str, Any]) -> str:
    written = {True: "true"}
    return ", ".join(f"`{name}: {written.get(value, value)}`" for name, value in settings.items())
