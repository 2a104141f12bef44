"""How much of a prompt a model does not read: tokens beyond the limit of each of its tokenizers.

Pipelines cut a long prompt without an error. CLIP's encoders read as many tokens as their tokenizer says (77), others
as many as the call's `max_sequence_length`. Words that a pipeline puts around the prompt are not counted.

Not covered: tokenizers that read only a part of the prompt, such as the quoted words (ByT5).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig
from abstractvision_batch.backends.huggingface_diffusers.locate import find_model
from abstractvision_batch.backends.huggingface_diffusers.signatures import read_pipeline
from abstractvision_batch.errors import DependencyError

LENGTH_ARGUMENT = "max_sequence_length"
#: A tokenizer without a limit says a number of thirty digits.
_NO_LIMIT = 2**24


@dataclass(frozen=True, slots=True)
class PromptReader:
    """One tokenizer: how many tokens a text has, and how many of them the model reads."""

    name: str
    limit: int
    count: Callable[[str], int]


def count_cut(text: str, readers: list[PromptReader]) -> dict[str, int]:
    """Return by tokenizer how many tokens of a text are cut; empty where all is read."""
    cut: dict[str, int] = {}
    for reader in readers:
        if len(text.encode(errors="replace")) + 2 > reader.limit:  # else there cannot be more tokens
            more = reader.count(text) - reader.limit
            if more > 0:
                cut[reader.name] = more
    return cut


def readers_of(components: Mapping[str, Any], length: int | None) -> list[PromptReader]:
    """Return the tokenizers of a loaded pipeline; `length` is the call's limit."""
    readers = []
    for name, component in components.items():
        tokenizer = getattr(component, "tokenizer", component)  # of a processor
        kind = type(tokenizer).__name__
        if not name.startswith("tokenizer") or not callable(tokenizer) or "ByT5" in kind:
            continue
        limit = _limit(kind, getattr(tokenizer, "model_max_length", None), length)
        if limit is not None:
            readers.append(PromptReader(name, limit, _loaded_counter(tokenizer)))
    return readers


def readers_on_disk(config: HuggingFaceDiffusersBackendConfig, kind: str, length: int | None) -> list[PromptReader]:
    """Return the tokenizers of a model's folder, as far as each is in one file; none where the model is not here."""
    if find_spec("tokenizers") is None:
        return []
    try:
        model = find_model(config.for_kind(kind))
    except DependencyError:
        return []
    source = read_pipeline(config.pipelines.get(kind, model.pipeline_class))
    length = length or (None if source is None else source.defaults.get(LENGTH_ARGUMENT))
    readers = []
    for name, entry in model.index.items():
        file = model.folder / name / "tokenizer.json"
        settings = model.folder / name / "tokenizer_config.json"
        if not name.startswith("tokenizer") or not isinstance(entry, list) or not file.is_file():
            continue
        class_name = str(entry[-1])
        try:
            own = json.loads(settings.read_text(encoding="utf-8")).get("model_max_length")
        except (OSError, ValueError, AttributeError):
            own = None
        limit = None if "ByT5" in class_name else _limit(class_name, own, length)
        if limit is not None:
            readers.append(PromptReader(name, limit, _file_counter(str(file))))
    return readers


def _limit(class_name: str, own: object, length: int | None) -> int | None:
    if length is not None and "CLIP" not in class_name:
        return length
    return int(own) if isinstance(own, int | float) and 0 < own < _NO_LIMIT else None


def _loaded_counter(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def _file_counter(path: str) -> Callable[[str], int]:
    tokenizer = import_module("tokenizers").Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)
