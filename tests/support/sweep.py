"""The sweep: models of every family of Diffusers that can be built tiny, without a card, by path, two requests a task.

`python -m tests.support.sweep` (`make families`) runs it all and writes docs/families.md.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from abstractvision_batch.backends.base_backend import BatchItem, VisionBackend
from abstractvision_batch.backends.huggingface_diffusers.torch_state import package_versions
from abstractvision_batch.backends.table import create_backend, derive_card, load_section_class
from abstractvision_batch.errors import AbstractVisionError
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    VideoGenerationRequest,
    VisionRequest,
)
from tests.support.image_families import IMAGES
from tests.support.more_families import MORE, SAME_WEIGHTS, name_class
from tests.support.newer_families import NEWER
from tests.support.older_families import OLDER
from tests.support.tiny_diffusers import gray
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_models import (
    make_flux,
    make_qwen_image,
    make_sd,
    make_sdxl,
    make_svd,
    make_wan,
    make_wan_image_to_video,
    save,
)
from tests.support.video_families import VIDEOS, PassingChecker

BUILT: dict[str, Callable[[], Any]] = {
    **{name: make for name, make in FAMILIES.items() if name not in SAME_WEIGHTS},
    **MORE,
    **IMAGES,
    **VIDEOS,
    **OLDER,
    **NEWER,
    "FluxPipeline": make_flux,
    "QwenImagePipeline": make_qwen_image,
    "StableDiffusionPipeline": make_sd,
    "StableDiffusionXLPipeline": make_sdxl,
    "StableVideoDiffusionPipeline": make_svd,
    "WanImageToVideoPipeline": make_wan_image_to_video,
    "WanPipeline": make_wan,
}
CLASSES = sorted({*BUILT, *SAME_WEIGHTS})
#: How classes begin whose processor of pictures is torchvision's.
NEED_TORCHVISION = (
    "BriaFibo2", "Cosmos", "DreamLite", "Flux2Pipeline", "JoyImage", "Kandinsky5", "LongCat", "NucleusMoE", "OmniGen",
    "QwenImage21", "QwenImageEdit", "QwenImageLayered",
)  # fmt: skip
TABLE = Path(__file__).parents[2] / "docs" / "families.md"


class Reason(NamedTuple):
    """Why a class does not do all that its card says."""

    said: str
    """Part of the message."""
    why: str
    """In the words of the table."""


_NONE = "does none of the tasks"
_VIDEO = Reason(_NONE, "starts from a video, which no task gives")
_GUIDANCE = Reason(
    "'FrozenDict' object has no attribute 'guidance_embeds'",
    "inpainting: Diffusers reads a setting that no Chroma transformer has",
)
_CONTROL = Reason("Input is in incorrect format", "needs a control image next to the image")
_ROWS = Reason(_NONE, "starts from rows of example pictures")
_ORIGINAL = Reason("`original_image` has to be", "needs the large image next to the small one")
FAILS: dict[str, Reason] = {
    "AnimateDiffVideoToVideoPipeline": _VIDEO,
    "ChromaImg2ImgPipeline": _GUIDANCE,
    "ChromaInpaintPipeline": _GUIDANCE,
    "ChromaPipeline": _GUIDANCE,
    "CogVideoXFunControlPipeline": _VIDEO,
    "CogVideoXVideoToVideoPipeline": _VIDEO,
    "CycleDiffusionPipeline": Reason(_NONE, "needs a second prompt, of the image that it starts from"),
    "FluxControlImg2ImgPipeline": _CONTROL,
    "FluxControlInpaintPipeline": _CONTROL,
    "I2VGenXLPipeline": Reason("no attribute 'text_model'", "Diffusers reads its encoder as Transformers 4 had it"),
    "IFImg2ImgSuperResolutionPipeline": _ORIGINAL,
    "IFInpaintingSuperResolutionPipeline": _ORIGINAL,
    "KandinskyV22Pipeline": Reason(_NONE, "starts from embeddings; the combined class makes them itself"),
    "LucyEditPipeline": _VIDEO,
    "QwenImageLayeredPipeline": Reason(_NONE, "makes several layers of one picture"),
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": _VIDEO,
    "StableCascadeCombinedPipeline": Reason(
        "no class `PaellaVQModel`", "Diffusers does not find the class of its VAE when it loads a saved one"
    ),
    "StableDiffusionAttendAndExcitePipeline": Reason(_NONE, "needs the numbers of tokens"),
    "StableDiffusionDiffEditPipeline": Reason(_NONE, "starts from a mask and latents that it made before"),
    "StableDiffusionLDM3DPipeline": Reason("answered with neither pictures nor frames", "makes pictures with depth"),
    "TextToVideoZeroPipeline": Reason(
        "expected ['feature_extractor', 'safety_checker'", "Diffusers does not load it without its safety checker"
    ),
    "VisualClozeGenerationPipeline": _ROWS,
    "VisualClozePipeline": _ROWS,
    "WanVideoToVideoPipeline": _VIDEO,
}
_SIZES = "makes pictures of some sizes only; others are refused"
#: What a user of a class that works should know, in the words of the table.
NOTES: dict[str, str] = {
    "Allegro": "needs at least 320x320 pixels and 24 frames",
    "BriaFiboEdit": "prompts are JSON with an edit instruction",
    "Cosmos": "tried with a stand-in for the safety checker, the package `cosmos_guardrail`",
    "HiDream": _SIZES,
    "HunyuanVideoFramepack": "makes whole sections, so more frames than asked for",
    "HunyuanVideoImageToVideo": "drops the first four frames",
    "JoyImageEditPipeline": _SIZES,
    "Kandinsky5I2V": "needs at least 17 frames",
    "Kandinsky5T2I": _SIZES,
    "StableDiffusionGLIGEN": "phrases and boxes go into `extra`",
    "SanaSprint": "more or less than 2 steps need `extra: {intermediate_timesteps: null}`",
    "ZImageOmni": "edits in bfloat16 only",
}
#: Numbers of frames that are not the smallest that the card allows.
FRAMES = {
    "Allegro": 24, "AnyFlowFAR": 9, "CogVideoX": 9, "Helios": 5, "Kandinsky5I2V": 17, "Latte": 3
}  # fmt: skip
#: Sides of families that make pictures of some sizes alone.
SIDES = {"Allegro": 320, "HiDream": 1024, "JoyImageEditPipeline": 1024, "Kandinsky5T2I": 1024}
#: Fields of the backend's section.
SECTIONS: dict[str, dict[str, Any]] = {"ZImageOmni": {"dtype": "bfloat16"}}
PROMPTS = {"BriaFiboEdit": '{{"edit_instruction": "a fox {seed}"}}'}
#: What the tiny encoders of a family read.
EXTRA: dict[str, dict[str, Any]] = {
    "Flux2": {"text_encoder_out_layers": [0, 1], "max_sequence_length": 32},
    "HeliosPyramid": {"num_latent_frames_per_chunk": 2, "pyramid_num_inference_steps_list": [2]},
    "Helios": {"num_latent_frames_per_chunk": 2, "max_sequence_length": 16},
    "HiDream": {"max_sequence_length": 64},
    "HunyuanVideoImageToVideo": {
        "prompt_template": {
            "template": "{}", "crop_start": 0, "image_emb_len": 4, "image_emb_start": 5, "image_emb_end": 9
        },
        "max_sequence_length": 64,
    },
    "LTX": {"max_sequence_length": 16},
    "PRX": {"use_resolution_binning": False},
    "PixArt": {"max_sequence_length": 16, "use_resolution_binning": False},
    "SanaSprint": {"intermediate_timesteps": None, "use_resolution_binning": False},
    "Sana": {"use_resolution_binning": False},
    "StableDiffusionGLIGEN": {"gligen_phrases": ["a fox"], "gligen_boxes": [[0.1, 0.1, 0.6, 0.6]]},
    "SkyReels": {"max_sequence_length": 16},
    "TextToVideoZero": {"t0": 0, "t1": 1},
    "Wan": {"max_sequence_length": 16},
}  # fmt: skip


def make_folder(name: str, root: Path) -> Path:
    base = SAME_WEIGHTS.get(name, name)
    folder = root / base
    if not folder.is_dir():
        save(BUILT[base], folder)
    return folder if base == name else name_class(folder, root / name, name)


def try_family(folder: Path) -> dict[str, str]:
    """Return how each kind of request ended: `works`, or the message of what failed; under `` what all failed for."""
    fields = {"kind": "diffusers", "device": "cpu", **(_of(SECTIONS, folder.name) or {})}
    section = load_section_class("diffusers").model_validate(fields).at_path(str(folder))
    try:
        card = derive_card(section, model=str(folder))
    except AbstractVisionError as error:
        return {"": str(error)}
    assert card is not None
    checks = _checked_by_nobody(folder.name) if folder.name.startswith("Cosmos") else contextlib.nullcontext()
    with checks, create_backend(section, card=card, model=str(folder)) as backend:
        return {kind: _try(backend, kind, card, folder.name) for kind in card.backends["diffusers"]["pipelines"]}


@contextlib.contextmanager
def _checked_by_nobody(name: str) -> Iterator[None]:
    """Put a stand-in where a pipeline of Cosmos finds its safety checker."""
    import diffusers

    module: Any = import_module(getattr(diffusers, name).__module__)
    real = getattr(module, _CHECKER, None)
    setattr(module, _CHECKER, PassingChecker)
    try:
        yield
    finally:
        setattr(module, _CHECKER, real)


_CHECKER = "CosmosSafetyChecker"


def _of(table: dict[str, Any], name: str) -> Any:
    return next((value for start, value in table.items() if name.startswith(start)), None)


def _try(backend: VisionBackend, kind: str, card: ModelCard, name: str) -> str:
    try:
        items = backend.generate_batch([_request(kind, seed, card, name) for seed in (1, 2)])
    except AbstractVisionError as error:
        return str(error)
    return next((said for item in items if (said := _fault(item, kind)) is not None), "works")


def _fault(item: BatchItem, kind: str) -> str | None:
    if isinstance(item, GeneratedAsset):
        right = item.media_type == ("video" if kind.endswith("video") else "image")
        return None if right else f"made a {item.media_type}"
    return str(item)


def _request(kind: str, seed: int, card: ModelCard, name: str) -> VisionRequest:
    extra = _of(EXTRA, name) or {}
    params = card.tasks["image_to_image" if kind == "inpaint" else kind].params  # type: ignore[index]
    steps = (4 if "strength" in params else 2) if "steps" in params else None
    side = _of(SIDES, name) or 64
    size: dict[str, Any] = {"width": side, "height": side} if "width" in params and kind.startswith("text") else {}
    words = _of(PROMPTS, name) or "a fox {seed}"
    prompt = "" if "prompt" not in params or not params["prompt"].supported else words.format(seed=seed)
    if kind == "text_to_image":
        return ImageGenerationRequest(prompt, **size, steps=steps, seed=seed, extra=extra)
    if kind in ("image_to_image", "inpaint"):
        mask = gray() if kind == "inpaint" else None
        return ImageEditRequest(prompt, gray(), mask=mask, steps=steps, seed=seed, extra=extra)
    rule = params["num_frames"]
    usual = rule.multiple_of + rule.remainder if rule.multiple_of else 5
    frames = _of(FRAMES, name) or usual
    if kind == "text_to_video":
        return VideoGenerationRequest(prompt, **size, num_frames=frames, steps=steps, seed=seed, extra=extra)
    return ImageToVideoRequest(gray(), prompt, num_frames=frames, steps=steps, seed=seed, extra=extra)


def describe(name: str, ended: dict[str, str]) -> str:
    """Return the row of the table."""
    works = ", ".join(kind for kind, said in ended.items() if said == "works")
    reason = FAILS[name].why if name in FAILS else _of(NOTES, name) or ""
    return f"| {name.removesuffix('Pipeline')} | {works or '–'} | {reason} |"


def wrong(name: str, ended: dict[str, str]) -> dict[str, str]:
    """Return what failed for no known reason; also where all works although there is a reason why not."""
    failed = {kind: said for kind, said in ended.items() if said != "works"}
    if name not in FAILS:
        return failed
    return {} if any(FAILS[name].said in said for said in failed.values()) else ended


def write_table() -> dict[str, dict[str, str]]:
    """Run the sweep, write docs/families.md, and return what ended otherwise than is known."""
    ended: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as root:
        for name in CLASSES:
            ended[name] = try_family(make_folder(name, Path(root)))
    TABLE.write_text(make_page(ended), encoding="utf-8")
    return {name: found for name, outcome in ended.items() if (found := wrong(name, outcome))}


def make_page(ended: dict[str, dict[str, str]]) -> str:
    working = sum("works" in outcome.values() for outcome in ended.values())
    rows = [describe(name, outcome) for name, outcome in ended.items()]
    head = _HEAD.format(version=package_versions()["diffusers"], working=working, all=len(rows))
    return "\n".join([head, *rows]) + "\n"


_HEAD = """# Families of Diffusers

Which pipeline classes of Diffusers {version} run without a model card, by the path of their folder.
Written by `make families`; `make test-all` checks each row.

**Works** means: a model of the class with tiny random weights, saved as a folder, was run on a CPU by the `diffusers`
backend with the card that is derived from its files. For each task of that card, two requests in one call of
`generate_batch` gave a picture or video each, of the size and the number of frames that were asked for.
It says nothing about how pictures of real weights look, or what memory they need. Tokenizers are of bytes.
ControlNets and adapters need a second model and are not here, neither are audio and modular pipelines.

{working} of {all} classes work for at least one task.

| class | works for | |
|---|---|---|"""


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if surprises := write_table():
        sys.exit("\n".join(f"{name}: {found}" for name, found in surprises.items()))
