"""What each kind of server that speaks OpenAI's API reads of a request, as data: one `Dialect` a kind, in `DIALECTS`.

Such servers accept any field and drop what they do not know, so a wrong name is a wrong picture and no error. A
parameter that an endpoint has no name for is one that its server ignores. Read in the sources of vLLM-Omni 0.30, SGLang
0.5, LocalAI, Xinference and stable-diffusion.cpp's sd-server (tried too), LiteLLM's proxy tried; all in November 2026.

Not covered: which dialect a server speaks where nobody says (`backends.openai_compatible.identify`), how a request is
written in it (`image_calls`, `video_calls`), what of a job its server would ignore (`dialect_check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from abstractvision_batch.types import Task

DialectName = Literal["openai", "vllm_omni", "sglang", "sd_server", "localai", "xinference", "litellm", "extended"]
DIALECT_NAMES: tuple[DialectName, ...] = get_args(DialectName)

#: Parameters beyond the official API, in the order in which they are sent.
EXTENSIONS = ("negative_prompt", "seed", "steps", "guidance_scale", "strength", "num_frames", "fps")
#: Fields of `extra` that are no field of a call, or of every call.
CALL_EXTRAS = frozenset({"n", "images", "size", "response_format", "output_format"})

_OWN: Mapping[str, str] = {name: name for name in EXTENSIONS}
_BASE64: Mapping[str, Any] = {"response_format": "b64_json"}
_PNG: Mapping[str, Any] = {"response_format": "b64_json", "output_format": "png"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one endpoint reads."""

    path: str = ""
    """Under `base_url`, or under the server's root where it begins with two slashes; the configuration's by default."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The server's field of each parameter; what is not here it ignores."""
    extra: frozenset[str] | None = frozenset()
    """Further fields that it reads; None where it complains of those that it does not know, or passes all on."""
    asks: Mapping[str, Any] = field(default_factory=dict)
    """What is sent besides, so that the reply is base64 and PNG, unless `extra` says otherwise."""
    sizes: tuple[str, ...] = ("size",)
    """How it reads width and height: `size`, `width` and `height`, or all three."""
    form: Literal["always", "with_file", "never"] = "never"
    """Whether the call is a form; else it is JSON, and an image in it is base64."""
    image: str = "image"
    """The field of the input image."""
    mask: str | None = None
    """The field of the mask; None where it is not read."""
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and largest value of parameters that the server would refuse or cut down."""
    wrap: str | None = None
    """The field that holds parameters and further fields as JSON text."""
    negative_in_prompt: str | None = None
    """What separates the negative prompt from the prompt, in the prompt."""
    arguments_in_prompt: bool = False
    """Whether parameters stand in the prompt as JSON, as sd-server wants them (`sd_server`)."""

    def reads(self, parameter: str) -> bool:
        """Whether a request's parameter does anything here."""
        if parameter in ("width", "height"):
            return bool(self.sizes)
        if parameter == "mask":
            return self.mask is not None
        if parameter == "negative_prompt" and self.negative_in_prompt is not None:
            return True
        return parameter in self.names


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server."""

    name: str
    title: str
    generations: Endpoint
    edits: Endpoint
    videos: Endpoint | None = None
    """Its own way to videos; None where there is none, or only where `video_mode` or a path says how."""
    video_job: Endpoint | None = None
    """Its `/videos`: create, poll, download (`video_mode: videos_api`)."""
    lenient: bool = False
    """Whether what it ignores is left out and noted (`not_sent`), in place of refused."""
    size_separator: str = "x"
    true_cfg: tuple[str, ...] = ()
    """Models, by a part of their name, whose guidance is `true_cfg_scale` here, and whose `guidance_scale` is not."""

    def endpoint(self, task: Task, *, job: bool = False) -> Endpoint | None:
        """What serves a task; None where nothing does."""
        if task == "text_to_image":
            return self.generations
        if task == "image_to_image":
            return self.edits
        return self.video_job if job else self.videos


_VLLM_NAMES = {
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
}
_VLLM_LIMITS = {"steps": (1, 200), "guidance_scale": (0, 20)}
_VIDEO_NAMES = {**_VLLM_NAMES, "num_frames": "num_frames", "fps": "fps"}
_VLLM_VIDEOS = Endpoint(
    path="/videos/sync",
    names=_VIDEO_NAMES,
    extra=frozenset({
        "boundary_ratio", "enable_frame_interpolation", "extra_params", "flow_shift", "frame_interpolation_exp",
        "frame_interpolation_model_path", "frame_interpolation_scale", "generate_sound", "guidance_scale_2",
        "image_reference", "lora", "seconds", "sound_duration", "true_cfg_scale", "user", "video_params",
    }),
    form="always",
    image="input_reference",
    limits=_VLLM_LIMITS,
)  # fmt: skip
_VLLM_OMNI = Dialect(
    name="vllm_omni",
    title="vLLM-Omni",
    generations=Endpoint(
        names=_VLLM_NAMES,
        extra=frozenset({
            "bot_task", "extra_params", "flow_shift", "generator_device", "infer_align_image_size", "layers", "lora",
            "output_compression", "system_prompt", "true_cfg_scale", "use_system_prompt", "user", "vae_use_slicing",
            "vae_use_tiling",
        }),
        asks=_PNG,
        limits=_VLLM_LIMITS,
    ),
    edits=Endpoint(
        names={**_VLLM_NAMES, "strength": "strength"},
        extra=frozenset({
            "background", "bot_task", "generator_device", "guidance_scale_2", "layers", "lora", "output_compression",
            "reference_image", "resolution", "return_stage_metrics", "sys_type", "system_prompt", "true_cfg_scale",
            "user",
        }),
        asks=_PNG,
        form="always",
        mask="mask_image",
        limits=_VLLM_LIMITS,
    ),
    videos=_VLLM_VIDEOS,
    video_job=replace(_VLLM_VIDEOS, path=""),
    true_cfg=("qwen-image", "qwen_image"),
)  # fmt: skip

_SGLANG_EXTRA = frozenset({
    "attention_backend_override", "background", "cache_dit_params", "cfg_gate_step", "diffusers_kwargs",
    "dpcache_budget", "enable_cache_dit", "enable_teacache", "enable_upscaling", "enhance_prompt", "flow_shift",
    "generator_device", "max_sequence_length", "output_compression", "output_quality", "progressive_delta",
    "progressive_levels", "progressive_mode", "quality", "rollout", "rollout_sde_type", "skip_softmax_params",
    "task_type", "true_cfg_scale", "upscaling_model_path", "upscaling_scale", "user",
})  # fmt: skip
_SGLANG_VIDEO_JOB = Endpoint(
    names=_VIDEO_NAMES,
    extra=_SGLANG_EXTRA
    | {
        "enable_frame_interpolation", "frame_interpolation_exp", "frame_interpolation_model_path",
        "frame_interpolation_scale", "guidance_scale_2", "output_path", "reference_url", "seconds",
    },
    form="with_file",
    image="input_reference",
)  # fmt: skip
_SGLANG = Dialect(
    name="sglang",
    title="SGLang",
    generations=Endpoint(names=_VLLM_NAMES, extra=_SGLANG_EXTRA, asks=_PNG),
    edits=Endpoint(names=_VLLM_NAMES, extra=_SGLANG_EXTRA | {"url"}, asks=_PNG, form="always"),
    videos=_SGLANG_VIDEO_JOB,
    video_job=_SGLANG_VIDEO_JOB,
)

_SD_SERVER_NAMES = {name: name for name in ("negative_prompt", "seed", "steps", "guidance_scale", "strength")}
_SD_SERVER = Dialect(
    name="sd_server",
    title="sd-server",
    generations=Endpoint(names=_SD_SERVER_NAMES, extra=None, limits={"steps": (1, 100)}, arguments_in_prompt=True),
    edits=Endpoint(
        names=_SD_SERVER_NAMES,
        extra=None,
        form="always",
        mask="mask",
        limits={"steps": (1, 100)},
        arguments_in_prompt=True,
    ),
)

_LOCALAI_SEED = {"seed": (0, 2**31 - 1)}
_LOCALAI = Dialect(
    name="localai",
    title="LocalAI",
    generations=Endpoint(
        names={"seed": "seed", "steps": "step"},
        extra=frozenset({"clip_skip", "mode", "quality", "ref_images"}),
        asks=_BASE64,
        limits=_LOCALAI_SEED,
        negative_in_prompt="|",
    ),
    edits=Endpoint(
        path="/images/generations",  # its /images/inpainting reads neither seed nor size
        names={"seed": "seed", "steps": "step"},
        extra=frozenset({"clip_skip", "mode", "quality", "ref_images"}),
        asks=_BASE64,
        image="file",
        limits=_LOCALAI_SEED,
        negative_in_prompt="|",
    ),
    videos=Endpoint(
        path="//video",
        names={
            "negative_prompt": "negative_prompt",
            "seed": "seed",
            "steps": "step",
            "guidance_scale": "cfg_scale",
            "num_frames": "num_frames",
            "fps": "fps",
        },
        extra=frozenset({"audio", "end_image", "params", "seconds"}),
        asks=_BASE64,
        sizes=("width", "height"),
        image="start_image",
        limits=_LOCALAI_SEED,
    ),
)

_XINFERENCE = Dialect(
    name="xinference",
    title="Xinference",
    generations=Endpoint(
        names=_VLLM_NAMES,
        extra=frozenset({
            "clip_skip", "eta", "guidance_rescale", "max_sequence_length", "negative_prompt_2", "prompt_2",
            "sampler_name", "sigmas", "timesteps", "true_cfg_scale", "user",
        }),
        asks=_BASE64,
        wrap="kwargs",
    ),
    edits=Endpoint(extra=frozenset({"user"}), asks=_BASE64, form="always", mask="mask"),
    size_separator="*",
    true_cfg=("qwen-image", "qwen_image"),
)  # fmt: skip

_ALL_FORM = Endpoint(names=_OWN, extra=None, form="always", mask="mask")
_ALL_VIDEO_JOB = Endpoint(names=_OWN, extra=None, form="always", image="input_reference")
_LITELLM = Dialect(
    name="litellm",
    title="LiteLLM",
    generations=Endpoint(names=_OWN, extra=None),  # it refuses response_format for models that are not OpenAI's
    edits=_ALL_FORM,
    videos=_ALL_VIDEO_JOB,
    video_job=_ALL_VIDEO_JOB,
)
_OPENAI = Dialect(
    name="openai",
    title="OpenAI",
    generations=Endpoint(extra=None),
    edits=Endpoint(extra=None, form="always", mask="mask"),
    video_job=Endpoint(extra=None, form="always", image="input_reference"),
    lenient=True,
)
_ALL_SIZES = ("size", "width", "height")
_EXTENDED = Dialect(
    name="extended",
    title="a server of no known kind",
    generations=Endpoint(names=_OWN, extra=None, asks=_BASE64, sizes=_ALL_SIZES),
    edits=replace(_ALL_FORM, asks=_BASE64),
    video_job=replace(_ALL_VIDEO_JOB, sizes=_ALL_SIZES),
)
#: `extended` as runs of before there were dialects have it, which go on in it.
FIRST_EXTENDED = "extended_1"

DIALECTS: Mapping[str, Dialect] = {
    one.name: one
    for one in (
        _OPENAI, _VLLM_OMNI, _SGLANG, _SD_SERVER, _LOCALAI, _XINFERENCE, _LITELLM, _EXTENDED,
        replace(_EXTENDED, name=FIRST_EXTENDED, edits=_ALL_FORM),
    )
}  # fmt: skip

_OFFICIAL_HOSTS = ("api.openai.com",)
_OFFICIAL_SUFFIXES = (".api.openai.com", ".openai.azure.com")


def is_official_url(url: str) -> bool:
    """Whether a URL's host is OpenAI's own API, or Azure's."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host in _OFFICIAL_HOSTS or host.endswith(_OFFICIAL_SUFFIXES)


def openai_family(model: str | None) -> Literal["gpt-image", "dall-e"] | None:
    """OpenAI's family of a model, whatever host serves it."""
    name = (model or "").rpartition("/")[2].lower()
    if name.startswith(("gpt-image", "chatgpt-image")):
        return "gpt-image"
    return "dall-e" if name.startswith("dall-e") else None


def known_dialect(*, base_url: str, model: str | None, dialect: str, request_shape: str | None) -> Dialect | None:
    """The dialect of a server as far as the configuration says it; None where the server has to be asked."""
    official = is_official_url(base_url) or openai_family(model) is not None
    if request_shape == "auto":
        return DIALECTS["openai" if official else FIRST_EXTENDED]
    if request_shape is not None:
        return DIALECTS[FIRST_EXTENDED if request_shape == "extended" else request_shape]
    if dialect != "auto":
        return DIALECTS[dialect]
    return DIALECTS["openai"] if official else None
