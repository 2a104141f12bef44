"""The stable-diffusion.cpp backend: requests in, one generation after the other, assets out.

Not covered: what a request becomes (`prepare`), how it is run (`cli_runner`, `server_runner`, `binding_runner`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Self

from abstractvision_batch.backends.base_backend import BatchItem, Cancelled, ProgressCallback, generate_in_turn
from abstractvision_batch.backends.batch_backend import BatchBackend
from abstractvision_batch.backends.choices import Choice
from abstractvision_batch.backends.request_loras import LORA_KEYS, takes_loras
from abstractvision_batch.backends.stable_diffusion_cpp.binding_runner import BindingRunner
from abstractvision_batch.backends.stable_diffusion_cpp.cli_runner import CommandLineRunner
from abstractvision_batch.backends.stable_diffusion_cpp.config import (
    StableDiffusionCppBackendConfig,
    config_from_fields,
)
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.model_files import (
    ModelFile,
    describe_weights,
    inspect_file,
    require_whole_model,
    side_multiple,
    video_tasks,
)
from abstractvision_batch.backends.stable_diffusion_cpp.options import EXTRA, VIDEO_EXTRA, read_extra
from abstractvision_batch.backends.stable_diffusion_cpp.prepare import Generation, SdcppRequest, prepare_generation
from abstractvision_batch.backends.stable_diffusion_cpp.program import choose_mode, find_library, package_version
from abstractvision_batch.backends.stable_diffusion_cpp.runner import Runner, Watch
from abstractvision_batch.backends.stable_diffusion_cpp.server_runner import ServerRunner
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.errors import (
    CapabilityNotSupportedError,
    DependencyError,
    GenerationError,
    InvalidOutputError,
)
from abstractvision_batch.media.images import Rgb, raw_rgb
from abstractvision_batch.media.video import encode_video
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.runs.environment import processor_name
from abstractvision_batch.storage.file_hashes import hash_file
from abstractvision_batch.types import (
    RAW_RGB_MIME_TYPE,
    TASK_OF_REQUEST,
    GeneratedAsset,
    MultiAngleRequest,
    Task,
    VisionBackendCapabilities,
    VisionRequest,
)

_RUNNERS: dict[str, Callable[[StableDiffusionCppBackendConfig, LoraFolder], Runner]] = {
    "cli": CommandLineRunner,
    "server": ServerRunner,
    "python": BindingRunner,
}
_IMAGE_TASKS = ("text_to_image", "image_to_image")
_VIDEO_TASKS = ("text_to_video", "image_to_video")


class StableDiffusionCppVisionBackend(BatchBackend):
    """Generates with one model of stable-diffusion.cpp, in a process of its own."""

    def __init__(self, config: StableDiffusionCppBackendConfig) -> None:
        self.config = config
        self._files: dict[str, ModelFile] | None = None
        self._loras: LoraFolder | None = None
        self._runner: Runner | None = None

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, card_facts: Mapping[str, Any], model: str) -> Self:
        """Make the backend that a job and its model's card describe."""
        return cls(config_from_fields(fields, card_facts=card_facts, model=model))

    def find_problems(self, task: Task, extra: Mapping[str, Any]) -> list[tuple[FieldPath, str]]:
        """By the parameters that the library has."""
        found: list[tuple[FieldPath, str]] = []
        for name, value in extra.items():
            try:
                if not takes_loras(name):
                    read_extra({name: value}, video=task.endswith("video"))
            except GenerationError as error:
                found.append((("params", "extra", name), str(error).partition(": ")[2]))
        return found

    def generate_batch(
        self,
        requests: Sequence[VisionRequest],
        *,
        cancelled: Cancelled | None = None,
        on_step: ProgressCallback | None = None,
    ) -> list[BatchItem]:
        """Generate one request after the other: the library has no forward pass of several.

        Images come as raw pixels, videos as MP4. A crash of the library fails the request that it happened in.

        Raises:
            CapabilityNotSupportedError: the model does not offer a request's task.
            DependencyError: the model or a program is missing or damaged.
        """
        for request in requests:
            self._require_task(TASK_OF_REQUEST[type(request)])

        def generate(request: VisionRequest) -> GeneratedAsset:
            assert not isinstance(request, MultiAngleRequest)  # refused above
            return self._generate_raw(request, cancelled, on_step)

        return generate_in_turn(requests, generate, cancelled=cancelled)

    def get_capabilities(self) -> VisionBackendCapabilities:
        """Name the tasks that the model does: images with masks, or videos."""
        reference = self.config.image_input == "reference"
        return VisionBackendCapabilities(supported_tasks=list(self._tasks()), supports_mask=not reference)

    def derive_card(self) -> ModelCard:
        """By the header of the file: the tasks, and what sides are multiples of; defaults are left open."""
        multiple = side_multiple(self._main_file())
        params: dict[str, Any] = {
            "negative_prompt": {},
            "width": {"min": multiple, "multiple_of": multiple, "description": "pixels"},
            "height": {"min": multiple, "multiple_of": multiple, "description": "pixels"},
            "steps": {"min": 1},
            "guidance_scale": {"min": 0},
        }
        own: dict[str, Any] = {
            "image_to_image": {"strength": {"min": 0, "max": 1}, "mask": {"description": "white pixels change"}},
            "text_to_video": {"num_frames": {"min": 1}, "fps": {"min": 1}},
            "image_to_video": {"prompt": {}, "num_frames": {"min": 1}, "fps": {"min": 1}},
        }
        name = self.config.model_id or ""
        return ModelCard.model_validate(
            {
                "id": name,
                "provider": "local",
                "license": "unknown",
                "tasks": {task: {"params": {**params, **own.get(task, {})}} for task in self._tasks()},
                "backends": {"sdcpp": {}},
                "notes": "Derived from the header of its file.",
            }
        ).model_copy(update={"origin": f"derived from {name}"})

    @classmethod
    def list_extras(cls) -> tuple[Choice, ...]:
        """Options of a generation; some are of videos alone."""
        loras = [Choice(name) for name in LORA_KEYS]
        of_all = [Choice(name, type=option.kind.__name__) for name, option in EXTRA.items()]
        more = {name: option for name, option in VIDEO_EXTRA.items() if name not in EXTRA}
        return (*loras, *of_all, *(Choice(name, "videos", option.kind.__name__) for name, option in more.items()))

    def environment(self) -> dict[str, Any]:
        """Describe the program, its random numbers and this machine."""
        return {
            "device": "stable-diffusion.cpp",  # the build decides, and its log says
            "device_name": processor_name(),
            "dtype": self.config.weight_type or "as in the file",
            "rng": self.config.rng,
            "threads": self.config.n_threads or default_threads(),
            "versions": {"stable-diffusion-cpp-python": package_version()},
            **self._ready_runner().describe(),
            **self._library(),
        }

    def weights(self, task: Task | None = None) -> Weights:
        """Hash the files of the model and of the configuration's LoRAs."""
        return describe_weights(self.config)

    def check_ready(self) -> None:
        """Check the programs, and the headers of the model's files."""
        self._checked_files()
        self._ready_runner()

    def preload(self, task: Task | None = None) -> None:
        """Load the model where the mode keeps it loaded."""
        self._checked_files()
        self._ready_runner().load()

    def unload(self) -> None:
        """End every process; the next request starts what it needs."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._loras is not None:
            self._loras.close()
            self._loras = None

    @cached_property
    def mode(self) -> Literal["cli", "server", "python"]:
        """The mode that `auto` stands for here.

        Raises:
            OptionalDependencyMissingError: nothing is installed that could run it.
        """
        return choose_mode(self.config)

    def _ready_runner(self) -> Runner:
        if self._runner is None:
            config = replace(self.config, n_threads=self.config.n_threads or default_threads())
            self._runner = _RUNNERS[self.mode](config, self._lora_folder())
        return self._runner

    def _library(self) -> dict[str, Any]:
        """The native library's name and digest: the package's version says nothing of how it was built."""
        path = find_library(None if self.mode == "python" else str(self._ready_runner().describe()["program"]))
        return {} if path is None else {"library": path.name, "library_sha256": hash_file(path)}

    def _lora_folder(self) -> LoraFolder:
        if self._loras is None:
            self._loras = LoraFolder(self.config.lora_dir)
        return self._loras

    def _checked_files(self) -> dict[str, ModelFile]:
        if self._files is None:
            base = self.config.cwd or ""
            files = {
                name: inspect_file(os.path.join(base, os.path.expanduser(path)), name)  # noqa: PTH111, PTH118
                for name, path in self.config.weights().items()
            }
            require_whole_model(files)
            self._files = files
        return self._files

    def _main_file(self) -> ModelFile:
        files = self._checked_files()
        return files.get("diffusion_model") or files["model"]

    def _tasks(self) -> tuple[str, ...]:
        try:
            main = self._main_file()
        except DependencyError:
            return (*_IMAGE_TASKS, *_VIDEO_TASKS)  # it depends on the model; what is wrong is said when it is needed
        return video_tasks(main) or _IMAGE_TASKS

    def _require_task(self, task: str) -> None:
        tasks = self._tasks()
        if task not in tasks:
            name = self.config.model_id or self.config.model or self.config.diffusion_model
            raise CapabilityNotSupportedError(f"stable-diffusion.cpp: {name} does {' and '.join(tasks)}, not {task}")
        if task.endswith("video") and self.mode == "server":
            raise CapabilityNotSupportedError(
                "stable-diffusion.cpp: sd-server sends videos in lossy containers alone (use mode cli or python)"
            )

    def _generate_raw(
        self, request: SdcppRequest, cancelled: Cancelled | None, on_step: ProgressCallback | None
    ) -> GeneratedAsset:
        self._checked_files()
        multiple = side_multiple(self._main_file())
        generation = prepare_generation(request, self.config, self._lora_folder(), side_multiple=multiple)
        runner = self._ready_runner()
        watch = Watch(self.config.timeout_s, cancelled, on_step, generation.expected_steps)
        frames = runner.generate(generation, watch)
        _require_sound(frames, generation)
        metadata = self._metadata(generation)
        if generation.fps is not None:
            metadata["fps"] = generation.fps
            return GeneratedAsset("video", encode_video(frames, fps=generation.fps), "video/mp4", metadata)
        return GeneratedAsset("image", raw_rgb(frames[0]), RAW_RGB_MIME_TYPE, metadata)

    def _metadata(self, generation: Generation) -> dict[str, Any]:
        return {
            "source": "stable-diffusion.cpp",
            **self._ready_runner().describe(),
            "model_id": self.config.model_id,
            "files": {name: os.path.basename(path) for name, path in self.config.weights().items()},  # noqa: PTH119
            "rng": self.config.rng,
            **{key: value for key, value in generation.values.items() if key in ("sampler", "scheduler", "eta")},
            **generation.notes,
        }


def default_threads() -> int:
    """Half the processors that this process may use, at least one."""
    return max(1, len(os.sched_getaffinity(0)) // 2 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2) // 2)


def _require_sound(frames: list[Rgb], generation: Generation) -> None:
    """Refuse another size than asked for, and the all-black picture that NaN leaves."""
    height, width, _ = frames[0].shape
    if generation.expected_size is not None and (width, height) != generation.expected_size:
        asked = "x".join(map(str, generation.expected_size))
        raise InvalidOutputError(f"the model made {width}x{height} where {asked} was asked for")
    wanted = generation.values.get("num_frames", 1)
    if len(frames) != wanted:
        raise InvalidOutputError(f"the model made {len(frames)} frames where {wanted} were asked for")
    if not any(frame.any() for frame in frames):
        raise InvalidOutputError("the output is all black: the model's values are not finite (try another weight_type)")
