"""Mode `python`: the Python package in a process of its own, which keeps the model loaded.

In this process a bad file, a wrong model or a dangling callback would be the end of it all; there it is one failed
request, and the next one starts another process.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from abstractvision_batch.backends.stable_diffusion_cpp.binding_worker import (
    END_OF_LOG,
    Message,
    read_message,
    write_message,
)
from abstractvision_batch.backends.stable_diffusion_cpp.child import Child, start_script
from abstractvision_batch.backends.stable_diffusion_cpp.config import StableDiffusionCppBackendConfig
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.options import CONTEXT, keyword_arguments
from abstractvision_batch.backends.stable_diffusion_cpp.prepare import Generation
from abstractvision_batch.backends.stable_diffusion_cpp.program import PACKAGE, package_version
from abstractvision_batch.backends.stable_diffusion_cpp.runner import (
    POLL_S,
    Watch,
    context_values,
    raise_failure,
    raise_unloadable,
    require_loras_applied,
)
from abstractvision_batch.errors import DependencyError, GenerationError, InvalidOutputError
from abstractvision_batch.media.images import Rgb

_WORKER = Path(__file__).with_name("binding_worker.py")
_IMAGE_ARGUMENTS = {"init": "init_image", "mask": "mask_image", "reference": "ref_images"}
#: Flags of sd-cli that the seeds' `extra_args` may hold, as arguments of the package.
_EXTRA_ARGS = {
    "--offload-to-cpu": "offload_params_to_cpu",
    "--diffusion-fa": "diffusion_flash_attn",
    "--clip-on-cpu": "keep_clip_on_cpu",
    "--vae-on-cpu": "keep_vae_on_cpu",
    "--mmap": "enable_mmap",
    "--diffusion-conv-direct": "diffusion_conv_direct",
    "--vae-conv-direct": "vae_conv_direct",
    "--qwen-image-zero-cond-t": "qwen_image_zero_cond_t",
}


class BindingRunner:
    """Keeps one worker process."""

    def __init__(self, config: StableDiffusionCppBackendConfig, loras: LoraFolder) -> None:
        self._config = config
        self._loras = loras
        self._arguments = keyword_arguments(context_values(config, loras), CONTEXT) | _extra_arguments(config)
        self._child: Child | None = None
        self._answers: SimpleQueue[Message | None] = SimpleQueue()

    @property
    def pid(self) -> int | None:
        """The worker's process; None while there is none."""
        return self._child.process.pid if self._child is not None else None

    def load(self) -> None:
        """Start the worker and let it load the model."""
        self._running(Watch(self._config.timeout_s))

    def generate(self, generation: Generation, watch: Watch) -> list[Rgb]:
        """Let the worker generate."""
        child = self._running(Watch(self._config.timeout_s, watch.cancelled))
        child.clear_log()
        video = generation.fps is not None
        values = dict(generation.values)
        values["prompt"] += "".join(f"<lora:{lora.name}:{lora.scale!r}>" for lora in generation.loras)
        # its default of 0 would take the noise out of the ancestral samplers; infinity is the program's "as it wants"
        arguments = {"eta": float("inf"), **keyword_arguments(values)}
        if video:
            arguments["high_noise_eta"] = arguments["eta"]
        images = {kind: data for kind, data in generation.images.items() if not (video and kind == "mask")}
        head = {
            "operation": "generate",
            "method": "generate_video" if video else "generate_image",
            "arguments": arguments,
            "images": [_IMAGE_ARGUMENTS[kind] for kind in images],
        }
        with watch.over(child):
            answer, blobs = self._ask(child, head, list(images.values()), watch)
            if "error" not in answer:
                watch.finish(child)
        if "error" in answer:
            raise_failure(PACKAGE, str(answer["error"]), child)
        require_loras_applied(generation, child)
        frames = [_as_array(blob, size) for blob, size in zip(blobs, answer["sizes"], strict=True)]
        if not frames:
            raise InvalidOutputError(f"{PACKAGE} returned no picture ({child.explain()})")
        return frames

    def describe(self) -> dict[str, Any]:
        """The package."""
        return {"mode": "python", "program": PACKAGE, "program_version": package_version()}

    def close(self) -> None:
        """End the worker."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _running(self, watch: Watch) -> Child:
        if self._child is not None and self._child.alive:
            return self._child
        self.close()
        child = start_script(_WORKER, cwd=self._config.cwd, end_of_log=END_OF_LOG)
        self._answers = SimpleQueue()
        threading.Thread(target=_read_answers, args=(child, self._answers), daemon=True, name="sdcpp-answers").start()
        with watch.over(child):
            try:
                answer, _ = self._ask(child, {"operation": "load", "arguments": self._arguments}, [], watch)
            except _EndedError as exc:
                raise_unloadable(PACKAGE, str(exc), child)
            if "error" in answer:
                raise_unloadable(PACKAGE, str(answer["error"]), child)
        self._child = child
        return child

    def _ask(self, child: Child, head: dict[str, Any], blobs: list[bytes], watch: Watch) -> Message:
        assert child.process.stdin is not None
        with suppress(OSError):  # it ended; the answer's absence says how
            write_message(child.process.stdin, head, blobs)
        while True:
            try:
                answer = self._answers.get(timeout=POLL_S)
            except Empty:
                watch.poll(child)
                continue
            if answer is not None:
                if "error" in answer[0]:
                    child.read_log_to_its_end()
                return answer
            ending = child.wait_for_end() or "it ended"
            if head["operation"] == "load":
                raise _EndedError(ending)
            raise_failure(PACKAGE, ending, child)


class _EndedError(Exception):
    """The worker ended while it loaded the model."""


def _read_answers(child: Child, answers: SimpleQueue[Message | None]) -> None:
    assert child.process.stdout is not None
    try:
        while True:
            answers.put(read_message(child.process.stdout))
    except (EOFError, OSError, ValueError):
        answers.put(None)


def _extra_arguments(config: StableDiffusionCppBackendConfig) -> dict[str, Any]:
    unknown = [argument for argument in config.extra_args if argument not in _EXTRA_ARGS]
    if unknown:
        raise DependencyError(
            f"extra_args: mode python has no {unknown[0]} (it has {', '.join(_EXTRA_ARGS)}; or use mode cli or server)"
        )
    return {_EXTRA_ARGS[argument]: True for argument in config.extra_args}


def _as_array(pixels: bytes, size: list[int]) -> Rgb:
    width, height = size
    if len(pixels) != width * height * 3:
        raise GenerationError(f"{PACKAGE}: {len(pixels)} bytes are not {width}x{height} pixels")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
