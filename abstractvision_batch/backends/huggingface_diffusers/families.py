"""What a Diffusers pipeline class does with a request, by its name and the arguments of its call.

Arguments say most of it: which kinds of request fit, and what each of ours is called. What they do not say (a size that
the pipeline chooses itself, a class that runs one request at a time) is in the tables here, of Diffusers 0.42.

Not covered: anything of a loaded pipeline; this module imports neither torch nor diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from abstractvision_batch.backends.huggingface_diffusers.config import PIPELINE_KINDS
from abstractvision_batch.registry.output_size import OutputSize

#: What pipelines call the number of frames, the image and the frame rate.
FRAME_ARGUMENTS = ("num_frames", "video_length", "frames")
#: Of pipelines that make videos chunk by chunk: how many latent frames a chunk has.
CHUNK_ARGUMENT = "num_latent_frames_per_chunk"
_IMAGE_ARGUMENTS = ("image", "images", "control_image", "input_images")
#: Of these, the ones that take a list of images for each prompt.
IMAGE_LISTS = ("images", "input_images")
#: Where the prompt has to say that there is an image: what stands for it.
IMAGE_WORDS: Mapping[str, str] = MappingProxyType({"OmniGenPipeline": "<img><|image_1|></img>"})
_MASK_ARGUMENTS = ("mask_image", "mask")
_FPS_ARGUMENTS = ("fps", "frame_rate")

_NEEDS_IMAGE = re.compile(
    r"Img2Img|Image2Image|ImageToImage|Inpaint|Edit|Pix2Pix|Upscale|SuperResolution|Fill|Variation|Refiner"
    r"|I2I|(?<!T)I2V|ImageToVideo|Image2Video|VideoToWorld|Video2World|Depth2|Control|Adapter"
)
#: Classes that start from a video or from rows of pictures, or make several pictures of one.
_OTHER = re.compile(
    r"VideoToVideo|Video2Video|LucyEdit|Kandinsky6SR|LatentUpsample|WanAnimate|FunControl|EasyAnimateControl"
    r"|VisualCloze|Layered"
)
#: Classes whose name says that they edit, and that make pictures from text alone too.
_TEXT_TOO = frozenset({"JoyImageEditPipeline", "JoyImageEditPlusPipeline"})

#: Classes of which one call does one request; the first three take no list at all.
ONE_AT_A_TIME = frozenset(
    {
        "WanVACEPipeline", "DreamLitePipeline", "DreamLiteMobilePipeline", "SanaWMPipeline", "Cosmos3OmniPipeline",
        "HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline", "PRXPixelPipeline", "AllegroPipeline",
        "LTXI2VLongMultiPromptPipeline",
    }
)  # fmt: skip

#: Classes whose VAE decodes nothing but tiles.
TILED = frozenset({"AllegroPipeline"})
#: Classes that cannot do without a negative prompt.
NEED_NEGATIVE = frozenset({"EasyAnimatePipeline"})

#: Arguments that make a pipeline keep to the size asked for; `area` stands for width times height.
EXACT_SIZE: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "FluxKontextPipeline": {"max_area": "area"},
        "FluxKontextInpaintPipeline": {"max_area": "area", "_auto_resize": False},
        "HunyuanDiTPAGPipeline": {"use_resolution_binning": False},
        "HunyuanDiTPipeline": {"use_resolution_binning": False},
    }
)

#: Remainder of the numbers of frames that come out as asked for, where it is not 1.
FRAME_REMAINDERS: Mapping[str, int] = MappingProxyType({"AllegroPipeline": 0})
#: Classes that make so many frames whatever is asked for, unless this argument is true.
FIXED_FRAMES: Mapping[str, tuple[int, str]] = MappingProxyType({"ChronoEditPipeline": (5, "enable_temporal_reasoning")})
#: Classes that make whole sections, or drop the first frames: other numbers of frames come out than were asked for.
OTHER_FRAMES = frozenset({"HunyuanVideoFramepackPipeline", "HunyuanVideoImageToVideoPipeline"})

_MEGAPIXEL = 1024 * 1024
_KANDINSKY5 = OutputSize(
    sizes=((1024, 1024), (640, 1408), (1408, 640), (768, 1280), (1280, 768), (896, 1152), (1152, 896))
)
#: Of JoyImage-Edit: the shorter side, and the longer ones that go with it.
_JOY = {512: (1792, 2048), 576: (1600, 1792), 640: (1472, 1600), 704: (1344, 1472), 768: (1216, 1344)} | {
    832: (1152, 1216),
    896: (1088, 1152),
    960: (1024, 1088),
}
_JOY_SIZES = [(short, long) for short, (least, most) in _JOY.items() for long in range(least, most + 1, 64)]
_JOYIMAGE = OutputSize(sizes=((1024, 1024), *_JOY_SIZES, *((long, short) for short, long in _JOY_SIZES)))
_KONTEXT = OutputSize(area=_MEGAPIXEL, multiple_of=16, chosen=True)
OUTPUT_SIZES: Mapping[str, OutputSize] = MappingProxyType(
    {
        "FluxKontextPipeline": _KONTEXT,
        "FluxKontextInpaintPipeline": _KONTEXT,
        "HiDreamImagePipeline": OutputSize(area=_MEGAPIXEL, multiple_of=16),
        "HunyuanVideo15ImageToVideoPipeline": OutputSize(from_image=True),
        "JoyImageEditPipeline": _JOYIMAGE,
        "Kandinsky5I2IPipeline": _KANDINSKY5,
        "Kandinsky5T2IPipeline": _KANDINSKY5,
        "LongCatImageEditPipeline": OutputSize(from_image=True),
        "QwenImageEditInpaintPipeline": OutputSize(area=_MEGAPIXEL, multiple_of=32, nearest=True),
        "StableDiffusionLatentUpscalePipeline": OutputSize(scale=2),
        "StableDiffusionUpscalePipeline": OutputSize(scale=4),
    }
)


def argument_names(accepted: Collection[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Return the pipeline's name of each of our fields; `rename` is what a model's card says of it."""
    return {
        "prompt": "prompt",
        "negative_prompt": "negative_prompt",
        "image": _first(_IMAGE_ARGUMENTS, accepted),
        "mask": _first(_MASK_ARGUMENTS, accepted),
        "width": "width",
        "height": "height",
        "num_frames": _first(FRAME_ARGUMENTS, accepted),
        "fps": _first(_FPS_ARGUMENTS, accepted),
        "steps": "num_inference_steps",
        "strength": "strength",
        **rename,
    }


def guidance_argument(defaults: Mapping[str, Any], rename: Mapping[str, str]) -> str:
    """Return the pipeline's name of guidance_scale, by the arguments of its call and their defaults.

    Pipelines with both names take distilled guidance as guidance_scale (Flux: true_cfg_scale 1 by default) or
    classifier-free guidance as true_cfg_scale (Qwen-Image: 4 by default).
    """
    true_cfg = "true_cfg_scale" in defaults and defaults["true_cfg_scale"] != 1.0
    return rename.get("guidance_scale", "true_cfg_scale" if true_cfg else "guidance_scale")


def frame_step(class_name: str, arguments: Mapping[str, Any], factor: int) -> tuple[int, int]:
    """Return step and remainder of the numbers of frames that come out as asked for.

    Args:
        class_name: of the pipeline.
        arguments: those of its call, with their defaults or what a request says instead.
        factor: how many times fewer latent frames there are.
    """
    if CHUNK_ARGUMENT in arguments:  # whole chunks of so many latent frames
        length = arguments[CHUNK_ARGUMENT]
        return (max(length, 1) - 1) * factor + 1 if isinstance(length, int) else 1, 0
    if class_name in FRAME_REMAINDERS:
        return factor, FRAME_REMAINDERS[class_name]
    usual = next((arguments[name] for name in FRAME_ARGUMENTS if name in arguments), None)
    if isinstance(usual, int) and (usual - 1) % factor:
        return (factor, 0) if usual % factor == 0 else (1, 0)  # its own default shows that it counts otherwise
    return factor, 1 if factor > 1 else 0


def fits(kind: str, class_name: str, required: Mapping[str, bool], rename: Mapping[str, str]) -> bool:
    """Whether a pipeline class does a kind of request as it is.

    Args:
        kind: one of `PIPELINE_KINDS`.
        class_name: of the pipeline.
        required: the arguments of its call, and whether each has to be given.
        rename: what the model's card says of their names.
    """
    names = argument_names(required, rename)
    if _OTHER.search(class_name) or is_video(required, rename) != kind.endswith("video"):
        return False
    image = names["image"] in required
    if not image and names["mask"] in required and not kind.endswith("video"):
        return False  # the image goes in as something else, such as its inverted latents
    if kind == "inpaint":
        return image and names["mask"] in required
    if kind.startswith(("image", "multi_view")):
        return image and "mask_image" not in required
    if not image:
        return True
    # An image that may be left out by the signature is needed all the same by a class that starts from one.
    starts = _NEEDS_IMAGE.search(class_name) is not None or (kind == "text_to_image" and "strength" in required)
    needed = starts and class_name not in _TEXT_TOO
    return "prompt" in required and not required[names["image"]] and not needed


def kinds_of(class_name: str, required: Mapping[str, bool], rename: Mapping[str, str]) -> tuple[str, ...]:
    """Return the kinds of request that a model saved as this class may do: as it is, or as a class derived from it."""
    kinds = [kind for kind in PIPELINE_KINDS if fits(kind, class_name, required, rename)]
    derives = not is_video(required, rename) and not _OTHER.search(class_name)
    return tuple(kind for kind in PIPELINE_KINDS if kind in kinds or (derives and not kind.endswith("video")))


def is_video(accepted: Collection[str], rename: Mapping[str, str]) -> bool:
    """Whether a pipeline class makes videos."""
    return argument_names(accepted, rename)["num_frames"] in accepted


def siblings(class_name: str, kind: str) -> list[str]:
    """Name the classes that may do another kind of image request with the same weights."""
    stem = re.sub(r"(Img2Img|ImageToImage|Inpaint(ing)?)?Pipeline$", "", class_name)
    endings = {"text_to_image": ("",), "inpaint": ("Inpaint", "Inpainting")}.get(kind, ("Img2Img",))
    return [f"{stem}{ending}Pipeline" for ending in endings]


def _first(names: tuple[str, ...], accepted: Collection[str]) -> str:
    return next((name for name in names if name in accepted), names[0])
