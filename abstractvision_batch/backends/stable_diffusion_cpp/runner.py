"""What the three modes share: a model behind a process, and the watch over one generation."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from queue import Empty
from typing import Any, NoReturn, Protocol

from abstractvision_batch.backends.base_backend import Cancelled, ProgressCallback
from abstractvision_batch.backends.stable_diffusion_cpp.child import Child
from abstractvision_batch.backends.stable_diffusion_cpp.config import StableDiffusionCppBackendConfig
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.options import CONTEXT
from abstractvision_batch.backends.stable_diffusion_cpp.prepare import Generation
from abstractvision_batch.errors import (
    DependencyError,
    GenerationCancelledError,
    GenerationError,
    OutOfMemoryError,
    WorkerCrashedError,
)
from abstractvision_batch.media.images import Rgb

POLL_S = 0.02
_LOG_GRACE_S = 0.2
_APPLIED_LORA = re.compile(r"\([1-9]\d* / \d+\) LoRA tensors have been applied, lora_file_path = (.*)")


class Runner(Protocol):
    """One mode. A failed generation leaves it ready for the next."""

    def load(self) -> None:
        """Load the model, if this mode keeps it loaded."""

    def generate(self, generation: Generation, watch: Watch) -> list[Rgb]:
        """Return the frames of one generation, one of them for an image.

        Raises:
            GenerationError: it failed.
            DependencyError: the model cannot be loaded.
        """

    def describe(self) -> dict[str, Any]:
        """What the pixels depend on here: program and version, as plain JSON values."""

    def close(self) -> None:
        """End every process. May be called more than once."""


@dataclass(slots=True)
class Watch:
    """Over one generation: polled while it runs, it reports steps and ends what is late or no longer wanted."""

    timeout_s: float | None
    cancelled: Cancelled | None = None
    on_step: ProgressCallback | None = None
    expected_steps: int | None = None
    _started: float = 0.0
    _reported: int = 0

    @contextmanager
    def over(self, child: Child) -> Iterator[None]:
        """Watch what the body does; the child is killed if that fails."""
        self._started = time.monotonic()
        with ExitStack() as unless_done:
            unless_done.callback(child.kill)
            yield
            unless_done.pop_all()

    def poll(self, child: Child) -> None:
        """Report new steps.

        Raises:
            GenerationCancelledError: the caller no longer wants the result.
            GenerationError: the time is over.
        """
        while not child.steps.empty():
            step, total = child.steps.get_nowait()
            if total == self.expected_steps:  # other bars are of files and tiles
                self._report(step)
        if self.cancelled is not None and self.cancelled():
            raise GenerationCancelledError("cancelled by the caller")
        if self.timeout_s is not None and time.monotonic() - self._started > self.timeout_s:
            raise GenerationError(
                f"stable-diffusion.cpp: not done after timeout_s = {self.timeout_s:g} seconds ({child.explain()})"
            )

    def finish(self, child: Child) -> None:
        """Report the steps that the log has not told of yet: the result says that they were done."""
        until = time.monotonic() + _LOG_GRACE_S
        while self.expected_steps is not None and self._reported < self.expected_steps and time.monotonic() < until:
            try:
                step, total = child.steps.get(timeout=POLL_S)
            except Empty:
                continue
            if total == self.expected_steps:
                self._report(step)
        if self.expected_steps is not None:
            self._report(self.expected_steps)

    def _report(self, step: int) -> None:
        while self._reported < step:
            self._reported += 1
            if self.on_step is not None:
                self.on_step(self._reported, self.expected_steps)


def require_loras_applied(generation: Generation, child: Child) -> None:
    """Check by the log that every LoRA acted: the library passes over what does not fit, and draws without it.

    Raises:
        GenerationError: one has no tensor that fits the model.
    """
    until = time.monotonic() + _LOG_GRACE_S
    while generation.loras:
        applied = {match[1] for line in child.log_lines() if (match := _APPLIED_LORA.search(line))}
        if len(applied) >= len(generation.loras):
            return
        if time.monotonic() > until:
            files = ", ".join(lora.source for lora in generation.loras)
            raise GenerationError(f"LoRA: no tensor of {files} fits the model (applied: {len(applied)})")
        time.sleep(POLL_S)


def wait_until(done: Callable[[], bool], child: Child, watch: Watch) -> None:
    """Poll until `done`, or the child has ended."""
    pause = 0.002
    while not done() and child.alive:
        watch.poll(child)
        time.sleep(pause)
        pause = min(pause * 1.5, POLL_S)


def context_values(config: StableDiffusionCppBackendConfig, loras: LoraFolder) -> dict[str, Any]:
    """What is chosen when the model loads, in the words of `options`."""
    values: dict[str, Any] = dict(config.weights())
    values |= {"n_threads": config.n_threads, "weight_type": config.weight_type}
    values |= {"rng": config.rng, "sampler_rng": config.rng}
    values |= {name: getattr(config, name) or None for name, option in CONTEXT.items() if option.kind is bool}
    # at_runtime: the other way, baking LoRAs into the weights, does not restore these to the bit
    return values | {"lora_dir": loras.path, "lora_apply_mode": "at_runtime"}


def raise_failure(what: str, ending: str, child: Child) -> NoReturn:
    """Raise what a failed generation is, by how its process ended and what it printed last."""
    message = f"{what}: {ending} ({child.explain()})"
    if child.ran_out_of_memory():
        raise OutOfMemoryError(message)
    if "crashed" in ending:
        raise WorkerCrashedError(message)
    raise GenerationError(message)


def raise_unloadable(what: str, ending: str, child: Child) -> NoReturn:
    """Raise that the model cannot be loaded: no request would fare better."""
    raise DependencyError(f"{what}: the model cannot be loaded: {ending} ({child.explain()}; check the model's files)")
