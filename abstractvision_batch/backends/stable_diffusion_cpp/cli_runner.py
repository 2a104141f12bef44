"""Mode `cli`: one sd-cli per request, which loads the model each time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.stable_diffusion_cpp.child import Child, start_program
from abstractvision_batch.backends.stable_diffusion_cpp.config import StableDiffusionCppBackendConfig
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.options import (
    CONTEXT,
    choose_flag,
    command_line,
    generation_arguments,
)
from abstractvision_batch.backends.stable_diffusion_cpp.prepare import Generation
from abstractvision_batch.backends.stable_diffusion_cpp.program import find_command_line, probe_program
from abstractvision_batch.backends.stable_diffusion_cpp.runner import (
    Watch,
    context_values,
    raise_failure,
    raise_unloadable,
    require_loras_applied,
    wait_until,
)
from abstractvision_batch.errors import DependencyError, GenerationError, InvalidOutputError
from abstractvision_batch.media.images import Rgb, decode_image, to_rgb_array
from abstractvision_batch.storage.scratch import scratch_folder

_IMAGE_FLAGS = {"init": ("--init-img", "-i"), "mask": ("--mask",), "reference": ("--ref-image", "-r")}
_UNLOADABLE = re.compile(r"new_sd_ctx_t failed|new_sd_ctx failed|failed to load model")
_LONGEST_ARGUMENT = 128 * 1024 - 1  # bytes; Linux takes no longer one


class CommandLineRunner:
    """Runs sd-cli. Keeps nothing between requests."""

    def __init__(self, config: StableDiffusionCppBackendConfig, loras: LoraFolder) -> None:
        self._config = config
        self._loras = loras
        self._program = probe_program(find_command_line(config))
        check_extra_args(config.extra_args, self._program.flags, self._program.path)

    def load(self) -> None:
        """Nothing: this mode loads the model with every request."""

    def generate(self, generation: Generation, watch: Watch) -> list[Rgb]:
        """Run the program once and read what it wrote."""
        with scratch_folder() as folder:
            command = self._command(generation, folder)
            child = start_program(command, cwd=self._config.cwd)
            with watch.over(child):
                wait_until(lambda: False, child, watch)
                ending = child.wait_for_end()
                if ending:
                    self._raise(ending, child)
                watch.finish(child)
                require_loras_applied(generation, child)
            child.kill()
            return read_frames(folder / "out")

    def describe(self) -> dict[str, Any]:
        """The program."""
        return {"mode": "cli", "program": self._program.path, "program_sha256": self._program.sha256}

    def close(self) -> None:
        """Nothing is left running."""

    def _command(self, generation: Generation, folder: Path) -> list[str]:
        flags, name = self._program.flags, self._program.path
        values = dict(generation.values)
        values["prompt"] += "".join(f"<lora:{lora.name}:{lora.scale!r}>" for lora in generation.loras)
        for key in ("prompt", "negative_prompt"):
            if len(values[key].encode()) > _LONGEST_ARGUMENT:
                raise GenerationError(f"{key}: too long for a command line (use mode server)")
        command = [name, *command_line(context_values(self._config, self._loras), CONTEXT, flags, name)]
        command += self._config.extra_args
        command += generation_arguments(values, flags, name)
        if generation.fps is not None:
            command += [choose_flag(("--mode", "-M"), flags, name), "vid_gen"]
        for kind, data in generation.images.items():
            if kind == "mask" and generation.fps is not None:
                continue
            file = folder / f"{kind}.png"
            file.write_bytes(data)
            command += [choose_flag(_IMAGE_FLAGS[kind], flags, f"{name} for an image"), str(file)]
        (folder / "out").mkdir()
        command += [choose_flag(("--output", "-o"), flags, name), str(folder / "out" / "%05d.png")]
        if "--output-begin-idx" in flags:
            command += ["--output-begin-idx", "0"]
        if "--disable-image-metadata" in flags:
            command.append("--disable-image-metadata")
        return command

    def _raise(self, ending: str, child: Child) -> None:
        if "crashed" not in ending and any(_UNLOADABLE.search(line) for line in child.log_lines()):
            raise_unloadable(self._program.path, ending, child)
        raise_failure(self._program.path, ending, child)


def read_frames(folder: Path) -> list[Rgb]:
    """Read the pictures that a program wrote, in the order of their names."""
    files = sorted(folder.iterdir())
    if not files:
        raise InvalidOutputError("sd-cli ended well and wrote no picture")
    return [to_rgb_array(decode_image(file.read_bytes(), name="sd-cli's picture")) for file in files]


#: What this backend decides itself; the server's address and the output's path are among it.
_OWN_FLAGS = frozenset(
    {"-M", "--mode", "-o", "--output", "--output-begin-idx", "-l", "--listen-ip", "--listen-port", "--serve-html-path"}
    | {"-b", "--batch-count", "-i", "--init-img", "--mask", "-r", "--ref-image", "--end-img", "-h", "--help"}
    | {"-p", "--prompt", "-n", "--negative-prompt", "-s", "--seed", "--rng", "--sampler-rng"}
    | {"--preview", "--preview-path", "--image", "--lora-model-dir", "--lora-apply-mode"}
    | {flag for option in CONTEXT.values() for flag in option.flags if option.kind is str}
)


def check_extra_args(extra_args: tuple[str, ...], flags: frozenset[str], name: str) -> None:
    """Check that the program has the configured flags, and that none of them is this backend's own.

    Raises:
        DependencyError: the program lacks one, or the backend sets it.
    """
    for argument in extra_args:
        if not argument.startswith("-") or argument.lstrip("-")[:1].isdigit():
            continue  # a value
        if argument in _OWN_FLAGS:
            raise DependencyError(f"extra_args: {argument} is set by this backend (use its field)")
        if argument not in flags:
            raise DependencyError(f"extra_args: {name} has no {argument}")
