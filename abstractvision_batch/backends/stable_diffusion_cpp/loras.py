"""LoRA files of a request: from its prompt, its `extra` or the configuration, as links in one private folder.

The command line and the Python package find LoRAs by tags in the prompt, the server by names in its LoRA folder. Links
named by content-free numbers in a folder of our own serve all three, and no prompt can name a file elsewhere.
"""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from abstractvision_batch.backends.stable_diffusion_cpp.config import Lora
from abstractvision_batch.backends.stable_diffusion_cpp.model_files import EXTENSIONS, inspect_file
from abstractvision_batch.errors import DependencyError, GenerationError
from abstractvision_batch.storage.scratch import scratch_folder

_TAG = re.compile(r"<lora:([^:>]+):([^>]+)>")


@dataclass(frozen=True, slots=True)
class LinkedLora:
    """One LoRA as the library finds it: a file name in the private folder."""

    name: str
    scale: float
    source: str


class LoraFolder:
    """A temporary folder of links to the LoRA files that requests name."""

    def __init__(self, lora_dir: str | None) -> None:
        self._lora_dir = Path(lora_dir) if lora_dir is not None else None
        opened = ExitStack()
        self.path = str(opened.enter_context(scratch_folder()))
        self._remove = weakref.finalize(self, opened.close)

    def close(self) -> None:
        """Remove the links. May be called more than once."""
        self._remove()

    def read_prompt(self, prompt: str) -> tuple[str, list[Lora]]:
        """Take the `<lora:name:scale>` tags out of a prompt.

        Raises:
            GenerationError: a tag's scale is no number, or its file is not in the folder of LoRAs.
        """
        found: list[Lora] = []
        for name, scale in _TAG.findall(prompt):
            try:
                found.append(Lora(str(self._find(name)), float(scale)))
            except ValueError as exc:
                raise GenerationError(f"prompt: <lora:{name}:{scale}>: {scale!r} is not a number") from exc
        return _TAG.sub("", prompt), found

    def link(self, loras: Sequence[Lora]) -> tuple[LinkedLora, ...]:
        """Link files into the folder; those of one file add up, and their order is fixed.

        Raises:
            GenerationError: a file is missing or damaged.
        """
        scales: dict[str, float] = {}
        sources: dict[str, str] = {}
        for lora in loras:
            source = Path(lora.source).expanduser().resolve()
            try:
                inspect_file(str(source), "LoRA")
            except DependencyError as exc:
                raise GenerationError(str(exc)) from exc
            name = hashlib.sha256(str(source).encode()).hexdigest()[:16] + source.suffix
            link = Path(self.path) / name
            if not link.exists():
                link.symlink_to(source)
            scales[name] = scales.get(name, 0.0) + lora.scale
            sources[name] = str(source)
        return tuple(LinkedLora(name, scale, sources[name]) for name, scale in sorted(scales.items()) if scale)

    def _find(self, name: str) -> Path:
        if self._lora_dir is None:
            raise GenerationError(f"prompt: <lora:{name}:…> needs a folder of LoRAs (set lora_dir)")
        root = self._lora_dir.resolve()
        for candidate in (root / name, *(root / f"{name}{extension}" for extension in EXTENSIONS)):
            file = candidate.resolve()
            if file.is_file() and file.is_relative_to(root):
                return file
        raise GenerationError(f"prompt: <lora:{name}:…> is not in {self._lora_dir}")
