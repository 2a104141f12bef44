"""Which scheduler is meant: a class of Diffusers, or a name that people use, and settings.

What is equal here counts as equal: "DPM++ 2M Karras" is the class of DPM++ 2M with `use_karras_sigmas`. Names and
their meanings are those of https://huggingface.co/docs/diffusers/api/schedulers/overview, spellings aside (ComfyUI's
`dpmpp_2m` is A1111's `DPM++ 2M`), and of the classes' own pages where it has none.

Not covered: which classes and settings the installed Diffusers has (`schedulers`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from abstractvision_batch.documents.positions import show

_MULTISTEP, _SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
_SDE = {"algorithm_type": "sde-dpmsolver++"}

#: By name, the class and its settings.
SOLVERS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "DDIM": ("DDIMScheduler", {}),
        "DDPM": ("DDPMScheduler", {}),
        "DEIS": ("DEISMultistepScheduler", {}),
        "DPM++ 2M": (_MULTISTEP, {}),
        "DPM++ 2M SDE": (_MULTISTEP, _SDE),
        "DPM++ 3M SDE": (_MULTISTEP, {**_SDE, "solver_order": 3}),
        "DPM++ SDE": (_SINGLESTEP, {}),
        "DPM2": ("KDPM2DiscreteScheduler", {}),
        "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
        "Euler": ("EulerDiscreteScheduler", {}),
        "Euler a": ("EulerAncestralDiscreteScheduler", {}),
        "Heun": ("HeunDiscreteScheduler", {}),
        "LCM": ("LCMScheduler", {}),
        "LMS": ("LMSDiscreteScheduler", {}),
        "PLMS": ("PNDMScheduler", {}),
        "PNDM": ("PNDMScheduler", {}),
        "SA Solver": ("SASolverScheduler", {}),
        "TCD": ("TCDScheduler", {}),
        "UniPC": ("UniPCMultistepScheduler", {}),
    }
)
#: Noise schedules, which may follow any of these names: "DPM++ 2M Karras".
NOISE_SCHEDULES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Karras": {"use_karras_sigmas": True},
        "exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
        "beta": {"timestep_spacing": "linspace", "use_beta_sigmas": True},
        "SGM uniform": {"timestep_spacing": "trailing"},
        "simple": {"timestep_spacing": "trailing"},
    }
)


@dataclass(frozen=True, slots=True)
class SchedulerChoice:
    """A scheduler as it is meant."""

    name: str
    """Of a class, or what was written where no name is known that is like it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its configuration has in place of the model's own values and the class's defaults."""

    @property
    def plain(self) -> str | dict[str, Any]:
        """The same in JSON types: only a name where there are no settings."""
        return {"name": self.name, **self.settings} if self.settings else self.name


def read_scheduler(value: Any) -> SchedulerChoice:
    """Read a name, or a mapping of `name` and settings; either also as JSON text, which is what a cell can hold.

    Raises:
        ValueError: it is neither.
    """
    value = from_cell(value)
    value = {"name": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or not value["name"]:
        lacking = " without a name" if isinstance(value, Mapping) else ""
        raise ValueError(f"{show(value)}{lacking} is not a scheduler (give a name, or {{name: ..., setting: value}})")
    name, settings = _meaning(value["name"])
    return SchedulerChoice(name, {**settings, **{key: own for key, own in value.items() if key != "name"}})


def from_cell(value: Any) -> Any:
    """Return the mapping that a text holds as JSON, and everything else as it is.

    Raises:
        ValueError: the JSON is broken.
    """
    return json.loads(value) if isinstance(value, str) and value.lstrip().startswith("{") else value


def _meaning(name: str) -> tuple[str, Mapping[str, Any]]:
    squeezed = _squeeze(name)
    for schedule, settings in {"": {}, **NOISE_SCHEDULES}.items():
        known = _SQUEEZED.get(squeezed.removesuffix(_squeeze(schedule)))
        if known is not None and squeezed.endswith(_squeeze(schedule)):
            return known[0], {**known[1], **settings}
    return name, {}


def _squeeze(name: str) -> str:
    """Return a name as it is compared: `DPM++ 2M`, `dpmpp_2m` and `dpm++2m` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p").replace("ancestral", "a"))


_SQUEEZED = {_squeeze(name): meaning for name, meaning in SOLVERS.items()}
