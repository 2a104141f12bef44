"""The card of a model that has none, from its files and the source of the installed Diffusers.

    model_index.json      the class, and with it the tasks and the pipeline of each
    the call's signature  parameters and their defaults
    components' configs   what sizes and numbers of frames are multiples of
    headers of weights    the native type, the memory

What cannot be told is left open, and the pipeline has the last word on it. torch and Diffusers are not imported, unless
the model is one checkpoint without a configuration next to it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig
from abstractvision_batch.backends.huggingface_diffusers.families import (
    FIXED_FRAMES,
    OUTPUT_SIZES,
    argument_names,
    fits,
    frame_step,
    guidance_argument,
    siblings,
)
from abstractvision_batch.backends.huggingface_diffusers.locate import (
    DENOISERS,
    DESCRIPTIONS,
    ModelFiles,
    checkpoint_of,
    fetch_snapshot,
    find_model,
)
from abstractvision_batch.backends.huggingface_diffusers.signatures import PipelineSource, read_pairs, read_pipeline
from abstractvision_batch.backends.huggingface_diffusers.weight_files import list_weights
from abstractvision_batch.errors import DependencyError
from abstractvision_batch.registry.model_card import ModelCard

#: Kinds of request in the order of a card; multi_view_image is for models that a card says were made for it.
_KINDS = ("text_to_image", "image_to_image", "inpaint", "text_to_video", "image_to_video")
_DECODERS = ("vae", "movq", "vqvae", "vqgan")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
#: Denoisers whose weights show by their channels that they were made for an image besides the noise.
_AS_MANY_CHANNELS = ("UNet2DConditionModel", "FluxTransformer2DModel")
_LICENCE = re.compile(r"\A---\n.*?^license:\s*[\"']?([^\s\"']+).*?^---", re.MULTILINE | re.DOTALL)


def derive_card(config: HuggingFaceDiffusersBackendConfig) -> ModelCard:
    """Describe a model by its files.

    Raises:
        DependencyError: it is not here, or nothing here can run it.
    """
    facts: dict[str, Any] = {}
    if (path := checkpoint_of(config)) is not None:
        facts["repo_id"] = configuration_repository(path)
        config = replace(config, repo_id=facts["repo_id"])
    if config.path is None or "repo_id" in facts:
        fetch_snapshot(
            config.repo_id or config.model_id, config, revision=config.revision, patterns=[*DESCRIPTIONS, "README.md"]
        )
    model = find_model(config)
    name = model.pipeline_class
    source = read_pipeline(name)
    if "Modular" in name:
        raise DependencyError(f"{model.name}: {name} is a modular pipeline; those are not run (give an ordinary one)")
    if source is None:
        raise DependencyError(f"{model.name}: the installed Diffusers has no {name} (pip install -U diffusers)")
    parts = _Parts(model)
    pipelines = _find_pipelines(source, parts)
    if not pipelines:
        raise DependencyError(
            f"{model.name}: {name} does none of the tasks: it takes or makes something other than pictures and videos, "
            "or needs arguments that no task gives"
        )
    rules = {kind: _params(kind, pipeline, parts) for kind, pipeline in pipelines.items()}
    tasks: dict[str, Any] = {}
    for kind, params in rules.items():
        if kind != "inpaint":
            tasks[kind] = {"params": params}
    if "inpaint" in rules:
        tasks["image_to_image"] = {"params": _with_mask(rules.get("image_to_image"), rules["inpaint"])}
    facts["pipelines"] = {kind: pipeline.name for kind, pipeline in pipelines.items()}
    sizes = {kind: rule for kind, found in pipelines.items() if (rule := OUTPUT_SIZES.get(found.name)) is not None}
    if sizes:
        facts["output_size"] = {
            kind: rule.model_dump(mode="json", exclude_defaults=True) for kind, rule in sizes.items()
        }
    facts |= _read_weights(model, config)
    return ModelCard.model_validate(
        {
            "id": config.model_id,
            "provider": "local" if config.path is not None else "huggingface",
            "license": _read_licence(model.folder) if config.path is None or model.checkpoint is None else "unknown",
            "tasks": tasks,
            "backends": {"diffusers": facts},
            "notes": f"Derived from its files: {name}, by the source of the installed Diffusers.",
        }
    ).model_copy(update={"origin": f"derived from {config.model_id}"})


def configuration_repository(checkpoint: Path) -> str:
    """Return the hub repository whose configuration a checkpoint goes with, as Diffusers infers it from its weights.

    Raises:
        DependencyError: the file is damaged, or of a kind that Diffusers does not know.
    """
    if checkpoint.suffix != ".safetensors":
        raise DependencyError(
            f"{checkpoint}: only a .safetensors file says what its weights are of (give its folder as config_path)"
        )
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type

    tensors = {name: _Tensor(shape) for name, (shape, _, _) in _read_header(checkpoint).items()}
    try:
        kind = infer_diffusers_model_type(tensors)
    except (KeyError, AttributeError, IndexError) as exc:
        raise DependencyError(f"{checkpoint}: Diffusers does not know its weights ({exc!r}; give config_path)") from exc
    if kind == "v1" and not any(name.startswith("model.diffusion_model.") for name in tensors):
        # what it answers where it recognises nothing
        raise DependencyError(f"{checkpoint}: no checkpoint of a model that Diffusers knows (give config_path)")
    found = DIFFUSERS_DEFAULT_PIPELINE_PATHS.get(kind)
    if found is None:
        raise DependencyError(f"{checkpoint}: a checkpoint of {kind}, for which Diffusers has no pipeline")
    return str(found["pretrained_model_name_or_path"])


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Parts:
    """The configurations of a model's components."""

    model: ModelFiles

    @property
    def spatial_factor(self) -> int | None:
        """How many times smaller latents are on a side; None where the configuration does not tell."""
        vae = self.model.configuration(*_DECODERS)
        for key in ("spatial_compression_ratio", "scale_factor_spatial"):
            if isinstance(vae.get(key), int):
                return int(vae[key])
        if isinstance(scaling := vae.get("spatio_temporal_scaling"), list):
            return int(vae.get("patch_size", 1) * 2 ** sum(map(bool, scaling)))
        if isinstance(expansions := vae.get("spatial_expansions"), list):
            return int(math.prod(expansions))
        if isinstance(steps := vae.get("temperal_downsample"), list):
            return int(2 ** len(steps))
        for key in ("encoder_block_out_channels", "block_out_channels"):
            if isinstance(vae.get(key), list):
                return int(2 ** (len(vae[key]) - 1))
        return None

    @property
    def temporal_factor(self) -> int:
        """How many times fewer latent frames there are."""
        vae = self.model.configuration(*_DECODERS)
        for key in ("temporal_compression_ratio", "scale_factor_temporal"):
            if isinstance(vae.get(key), int | float):
                return int(vae[key])
        if isinstance(scaling := vae.get("spatio_temporal_scaling"), list):
            return int(vae.get("patch_size_t", 1) * 2 ** sum(map(bool, scaling)))
        if isinstance(expansions := vae.get("temporal_expansions"), list):
            return int(math.prod(expansions))
        return 1

    def size_multiple(self, packing: int) -> int:
        """Return what sides are a multiple of: the VAE's factor, times the patch of a transformer."""
        factor = self.spatial_factor or 1
        if packing > 1:
            return factor * packing
        patch = self.model.configuration("transformer").get("patch_size", 1)
        patch = patch[-1] if isinstance(patch, list) and patch else patch
        return factor * (patch if isinstance(patch, int) and factor > 1 else 1)

    @property
    def usual_side(self) -> int | None:
        """Return the side of the pictures that the model was trained on, where a UNet says it."""
        size = self.model.configuration("unet").get("sample_size")
        factor = self.spatial_factor
        return size * factor if isinstance(size, int) and factor is not None else None

    def made_for_images(self) -> bool:
        """Whether the denoiser takes the latents of an image besides the noise."""
        for name in DENOISERS:
            own = self.model.configuration(name)
            if own.get("_class_name") in _AS_MANY_CHANNELS:
                takes, gives = own.get("in_channels"), own.get("out_channels")
                return takes != (gives or takes)
        return False


def _find_pipelines(base: PipelineSource, parts: _Parts) -> dict[str, PipelineSource]:
    """Return the pipeline of each kind: the saved class, or one over the same weights, as Diffusers pairs them."""
    found: dict[str, PipelineSource] = {}
    pairs = read_pairs()
    families = [family for kind in pairs.values() for family, name in kind.items() if name == base.name]
    for kind in _KINDS:
        names = [base.name]
        if not kind.endswith("video") and not parts.made_for_images():
            names += [pairs.get(kind, {}).get(family, "") for family in families]
            names += siblings(base.name, kind)
        for name in filter(None, names):
            source = read_pipeline(name)
            if source is None or (name != base.name and not parts.model.index.keys() >= set(source.parts)):
                continue
            if fits(kind, name, source.required, {}) and not _unmet(kind, source):
                found[kind] = source
                break
    return found


def _unmet(kind: str, source: PipelineSource) -> list[str]:
    """Return the arguments that a call has to give and that no field of a request does."""
    names = argument_names(source.required, {})
    given = set(names.values()) if kind != "text_to_image" else set(names.values()) - {names["image"]}
    return [name for name, required in source.required.items() if required and name not in given]


def _params(kind: str, source: PipelineSource, parts: _Parts) -> dict[str, Any]:
    names, defaults = argument_names(source.required, {}), source.defaults
    takes = {field for field, argument in names.items() if argument in source.required}
    params: dict[str, Any] = {}
    if "prompt" not in takes and kind != "image_to_video":
        params["prompt"] = {"supported": False}
    elif "prompt" in takes and kind == "image_to_video":
        params["prompt"] = {"required": source.required["prompt"]}
    if "negative_prompt" in takes:
        params["negative_prompt"] = {}
    multiple = parts.size_multiple(source.packing)
    for side in ("width", "height"):
        if side in takes:
            rule: dict[str, Any] = {"min": multiple, "multiple_of": multiple, "description": "pixels"}
            usual = defaults.get(side) or parts.usual_side
            if kind.startswith("text") and isinstance(usual, int) and usual % multiple == 0:
                rule["default"] = usual
            params[side] = rule
    if kind.endswith("video"):
        params |= _video_params(source, names, takes, parts)
    if "steps" in takes:
        params["steps"] = _with_default({"min": 1}, defaults.get(names["steps"]), int)
    guidance = guidance_argument({**source.required, **defaults}, {})
    if guidance in source.required:
        params["guidance_scale"] = _with_default({"min": 0}, defaults.get(guidance), float)
    if "strength" in takes:
        params["strength"] = _with_default({"min": 0, "max": 1}, defaults.get("strength"), float)
    return params


def _video_params(source: PipelineSource, names: Mapping[str, str], takes: set[str], parts: _Parts) -> dict[str, Any]:
    fixed = FIXED_FRAMES.get(source.name)
    step, rest = frame_step(source.name, source.defaults, parts.temporal_factor)
    frames: dict[str, Any] = {"min": rest or step}
    if step > 1 and fixed is None:
        frames |= {"multiple_of": step, "remainder": rest}
    usual = fixed[0] if fixed else source.defaults.get(names["num_frames"])
    if isinstance(usual, int) and usual >= frames["min"] and (usual - rest) % step == 0:
        frames["default"] = usual
    rate = _with_default({"min": 1}, source.defaults.get(names["fps"]), float) if "fps" in takes else {"min": 1}
    return {"num_frames": frames, "fps": rate}


def _with_default(rule: dict[str, Any], value: Any, kind: type) -> dict[str, Any]:
    fits_type = isinstance(value, int) if kind is int else isinstance(value, int | float)
    within = fits_type and not isinstance(value, bool) and rule["min"] <= value <= rule.get("max", math.inf)
    return {**rule, "default": value} if within else rule


def _with_mask(edits: dict[str, Any] | None, masked: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of image_to_image where some requests have a mask: a default that both share, or none."""
    mask = {"description": "white pixels change"}
    if edits is None:
        return {**masked, "mask": {**mask, "required": True}}
    params = {**masked, **edits, "mask": mask}
    for name in edits.keys() & masked.keys():
        if edits[name].get("default") != masked[name].get("default"):
            params[name] = {key: value for key, value in edits[name].items() if key != "default"}
    return params


def _read_weights(model: ModelFiles, config: HuggingFaceDiffusersBackendConfig) -> dict[str, Any]:
    """Return the native type and the size of the weights, as far as their headers say."""
    files = list_weights(model, config)
    sizes = Counter[str]()
    for path in files:
        if path.suffix == ".safetensors":
            for _, dtype, size in _read_header(path).values():
                sizes[dtype] += size
    facts: dict[str, Any] = {}
    if files and (total := sum(path.stat().st_size for path in files)):
        facts["memory_bytes"] = total
    if sizes and (native := _DTYPES.get(sizes.most_common(1)[0][0])) is not None:
        facts["dtype"] = native
    return facts


def _read_header(path: Path) -> dict[str, tuple[tuple[int, ...], str, int]]:
    """Return shape, type and size in bytes of each tensor of a safetensors file."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(path.stat().st_size - 8, 100_000_000):
                raise ValueError("its first bytes are not a header")
            header = json.loads(stream.read(length))
        return {
            name: (tuple(one["shape"]), str(one["dtype"]), one["data_offsets"][1] - one["data_offsets"][0])
            for name, one in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise DependencyError(f"{path}: damaged: not a safetensors file ({exc}) (fetch it again)") from exc


def _read_licence(folder: Path) -> str:
    """Return the licence that the model's README names at its head."""
    for place in (folder, folder.parent):
        if (readme := place / "README.md").is_file():
            found = _LICENCE.search(readme.read_text(encoding="utf-8", errors="replace"))
            return found[1] if found else "unknown"
    return "unknown"
